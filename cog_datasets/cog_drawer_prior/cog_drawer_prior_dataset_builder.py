"""Builder of cog_drawer_prior: its row in the catalog says what is in it."""

from cog_datasets import builder


class Builder(builder.CogDatasetBuilder):
  """See README.md beside this file."""
