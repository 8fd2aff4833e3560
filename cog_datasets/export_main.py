"""Exports a dataset to the format of other toolkits.

python -m cog_datasets.export_main cog_pickplace_task --data_dir=DIR --format=minari --out=FOLDER
"""

import argparse
import pathlib
import sys

from cog_datasets import disk, minari_export, prepared


def _parser() -> argparse.ArgumentParser:
  parser = argparse.ArgumentParser(
    prog="python -m cog_datasets.export_main",
    description="Writes a split of a dataset in another format. With minari, FOLDER is a Minari "
    "root in which the split is the dataset NAME[/CONFIG]/SPLIT-vN; version 1.2.3 has the N 10203. "
    "What an interrupted export wrote is removed, and what exists is never overwritten.",
  )
  prepared.add_source_flags(parser)
  parser.add_argument("--format", required=True, choices=["minari"], help="one of: %(choices)s")
  parser.add_argument("--split", default="train", help="which split (default: %(default)s)")
  parser.add_argument("--out", metavar="FOLDER", required=True, help="made if it is missing")
  return parser


def main(argv: list[str] | None = None) -> int:
  parser = _parser()
  args = parser.parse_args(argv)
  try:
    source = prepared.find(args.source, args.data_dir)
    name = minari_export.export(source, args.split, pathlib.Path(args.out))
  except (ValueError, disk.DiskError) as error:
    parser.error(str(error))
  print(
    f"exported {pathlib.Path(args.out) / name}\n"
    f"read it with MINARI_DATASETS_PATH={args.out} set, by minari.load_dataset({name!r})"
  )
  return 0


if __name__ == "__main__":
  sys.exit(main())
