"""Writes one page to look at a dataset with: statistics, and episodes to browse and to play.

  python -m cog_datasets.inspect_main cog_pickplace_task --data_dir=DIR --out=page.html

The page needs no network and no other file.
"""

import argparse
import pathlib
import sys

from cog_datasets import inspect_page, prepared


def _parser() -> argparse.ArgumentParser:
  parser = argparse.ArgumentParser(
    prog="python -m cog_datasets.inspect_main",
    description="Writes a dataset's statistics, and episodes of it to browse, as one HTML page that"
    " needs no network and no other file.",
  )
  prepared.add_source_flags(parser)
  parser.add_argument("--out", required=True, type=pathlib.Path, help="the page: a .html file")
  parser.add_argument(
    "--episodes", type=int, default=inspect_page.DEFAULT_EPISODES,
    help="how many episodes the page has, evenly spread over each split, the splits in proportion"
    " to their sizes; all of them if there are fewer (default: %(default)s, about 5 MB)",
  )  # fmt: skip
  return parser


def main(argv: list[str] | None = None) -> int:
  parser = _parser()
  args = parser.parse_args(argv)
  try:
    builder = prepared.find(args.source, args.data_dir)
    written = inspect_page.write(builder, args.out, args.episodes)
  except ValueError as error:
    parser.error(str(error))
  megabytes = args.out.stat().st_size / 1e6
  print(f"wrote {args.out}: {written} episodes of {builder.info.full_name}, {megabytes:.1f} MB")
  return 0


if __name__ == "__main__":
  sys.exit(main())
