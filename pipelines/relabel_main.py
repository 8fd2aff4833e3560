"""Rewrites the rewards of a prepared dataset, as a Beam job, into a new dataset.

  python -m pipelines.relabel_main --source=cog_pickplace_task --label=zero \\
    --name=cog_pickplace_task_zero --data_dir=DIR
"""

import argparse
import json
import sys

from etils import epath

from cog_datasets import disk, prepared
from pipelines import flags, relabel


def _parser() -> argparse.ArgumentParser:
  parser = argparse.ArgumentParser(
    prog="python -m pipelines.relabel_main",
    description="Writes a new dataset: the episodes of a prepared one, byte for byte, with new "
    "rewards. Its metadata say where it comes from and how many rewards changed.",
  )
  parser.add_argument(
    "--source", metavar="NAME[/CONFIG][:VERSION]", required=True,
    help="a dataset in --data_dir, or the folder DIR/NAME[/CONFIG]/VERSION of one anywhere",
  )  # fmt: skip
  parser.add_argument(
    "--label", metavar="LABEL", required=True,
    help="zero: no reward; sparse:TASK: 1 on every step whose outcome means that TASK is solved",
  )  # fmt: skip
  parser.add_argument("--name", required=True, help="of the new dataset")
  parser.add_argument(
    "--version", default="1.0.0", help="of the new dataset (default: %(default)s)"
  )
  parser.add_argument("--data_dir", required=True, help="TFDS data directory of the new dataset")
  flags.add_beam_flag(parser)
  return parser


def main(argv: list[str] | None = None) -> int:
  parser = _parser()
  args = parser.parse_args(argv)
  folder = epath.Path(args.data_dir) / args.name / args.version
  try:
    relabel.check_name(args.name, args.version)  # and not only what `folder` ends in
    source = prepared.find(args.source, args.data_dir)
    changes = relabel.relabel(source, args.label, folder, flags.beam_options(args))
  except (ValueError, disk.DiskError) as error:
    parser.error(str(error))
  print(json.dumps({"dataset": str(folder), **vars(changes)}))
  return 0


if __name__ == "__main__":
  sys.exit(main())
