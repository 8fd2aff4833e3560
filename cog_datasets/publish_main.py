"""Publishes a validated dataset: copies it to a folder or bucket from which others read it.

python -m cog_datasets.publish_main cog_pickplace_task --data_dir=DIR --destination=gs://BUCKET/cog
"""

import argparse
import sys

from etils import epath

from cog_datasets import prepared, publish


def _parser() -> argparse.ArgumentParser:
  parser = argparse.ArgumentParser(
    prog="python -m cog_datasets.publish_main",
    description="Copies a validated dataset to DESTINATION/NAME[/CONFIG]/VERSION. The same command "
    "continues an interrupted copy; a published version is never overwritten.",
  )
  prepared.add_source_flags(parser)
  parser.add_argument(
    "--destination", required=True,
    help="a TFDS data directory: a folder, or whatever else etils reaches (gs://, s3://)",
  )  # fmt: skip
  return parser


def main(argv: list[str] | None = None) -> int:
  parser = _parser()
  args = parser.parse_args(argv)
  try:
    source = prepared.find(args.source, args.data_dir)
    target = publish.publish(source, epath.Path(args.destination))
  except ValueError as error:
    parser.error(str(error))
  print(
    f"published {target}\n"
    f'read it with tfds.builder_from_directory("{target}"), or train from it with'
    f" --data_dir={args.destination}"
  )
  return 0


if __name__ == "__main__":
  sys.exit(main())
