"""Imports every builder: `tfds build NAME --imports=cog_datasets.register` from any folder."""

from cog_datasets.cog_drawer_prior import cog_drawer_prior_dataset_builder  # noqa: F401
from cog_datasets.cog_drawer_task import cog_drawer_task_dataset_builder  # noqa: F401
from cog_datasets.cog_pickplace_prior import cog_pickplace_prior_dataset_builder  # noqa: F401
from cog_datasets.cog_pickplace_task import cog_pickplace_task_dataset_builder  # noqa: F401
