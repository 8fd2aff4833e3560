"""Writes one page about all runs below a folder, and prints its table.

python -m cog_agents.report_main --root_dir=runs --out=runs/report.html
"""

import argparse
import pathlib
import sys

from cog_agents import mains


def _parser() -> argparse.ArgumentParser:
  parser = argparse.ArgumentParser(
    prog="python -m cog_agents.report_main",
    description="Collects what train_main, evaluate_main, finetune_main and stitching_main left in "
    "or below a folder, prints the success rates beside the paper's, and writes a page that needs "
    "no other file: Table 1 with intervals, learning curves, fine-tuning, videos, the data and "
    "whether they connect. Beside it: report.json, and the figures as NAME_learning_curves.png, "
    "NAME_finetuning.png and NAME_stitching.png. In a folder without runs it shows what the tables "
    "of reproduce_main there tell of theirs.",
  )
  parser.add_argument(
    "--root_dir", required=True, help="folder with runs in or below it, or with tables"
  )
  parser.add_argument(
    "--out", type=mains.output_file,
    help="the page, NAME.html (default: report.html in the root folder)",
  )  # fmt: skip
  return parser


def main(argv: list[str] | None = None) -> int:
  parser = _parser()
  args = parser.parse_args(argv)
  out = args.out or pathlib.Path(args.root_dir) / "report.html"
  if out.suffix == ".json":
    parser.error(f"--out={out}: expected the page, NAME.html; report.json goes beside it")

  from cog_agents import report, report_data

  try:
    contents, written = report.write(args.root_dir, out)
  except report_data.ReportError as error:
    parser.error(str(error))
  print(report.table(contents))
  print(f"\nWrote {', '.join(map(str, written))}.")
  return 0


if __name__ == "__main__":
  sys.exit(main())
