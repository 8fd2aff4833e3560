"""Writes the statistics of a prepared dataset, its card and its Croissant file into its folder.

python -m pipelines.statistics_main cog_pickplace_task --data_dir=DIR
"""

import argparse
import json
import sys

from etils import epath

from cog_datasets import card, croissant, dataset_statistics, prepared
from collection import manifest
from pipelines import flags, statistics


def _parser() -> argparse.ArgumentParser:
  parser = argparse.ArgumentParser(
    prog="python -m pipelines.statistics_main",
    description="Computes, as a Beam job, what is in a dataset: mean, deviation and quantiles of "
    "each dimension, histograms of the actions, lengths, returns, and success and outcomes by "
    "behaviour. Writes statistics.json, a dataset card (README.md) and a Croissant file "
    "(croissant.json) into the folder of the dataset, and adds them to its manifest.",
  )
  prepared.add_source_flags(parser)
  flags.add_beam_flag(parser)
  return parser


def main(argv: list[str] | None = None) -> int:
  parser = _parser()
  args = parser.parse_args(argv)
  try:
    source = prepared.find(args.source, args.data_dir)
    folder = epath.Path(source.data_dir)
    files = manifest.read(folder)
    document = statistics.compute(source, flags.beam_options(args))
  except ValueError as error:
    parser.error(str(error))
  data = {name: files[name] for name in files.keys() - set(manifest.DOCUMENTS)}
  documents = {
    dataset_statistics.FILENAME: json.dumps(document, indent=1) + "\n",
    card.FILENAME: card.text(source, document),
    croissant.FILENAME: croissant.text(source, data),
  }
  manifest.add_documents(folder, documents)
  for name in documents:
    print(folder / name)
  return 0


if __name__ == "__main__":
  sys.exit(main())
