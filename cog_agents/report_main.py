"""Writes one page about all runs below a folder, and prints its table.

python -m cog_agents.report_main --root_dir=runs --out=runs/report.html
"""

import argparse
import pathlib
import sys


def _parser() -> argparse.ArgumentParser:
  parser = argparse.ArgumentParser(
    prog="python -m cog_agents.report_main",
    description="Collects every run of train_main that evaluate_main has evaluated, prints the "
    "success rates beside the paper's, and writes a page that needs no other file (table, learning "
    "curves, film strip, video), with report.json beside it.",
  )
  parser.add_argument("--root_dir", required=True, help="folder with runs in or below it")
  parser.add_argument(
    "--out", help="the page, NAME.html (default: report.html in the root folder)", type=pathlib.Path
  )
  return parser


def main(argv: list[str] | None = None) -> int:
  parser = _parser()
  args = parser.parse_args(argv)
  out = args.out or pathlib.Path(args.root_dir) / "report.html"

  from cog_agents import report

  try:
    rows = report.write(args.root_dir, out)
  except report.ReportError as error:
    parser.error(str(error))
  print(report.table(rows))
  print(f"\nWrote {out} and {out.with_name('report.json')}.")
  return 0


if __name__ == "__main__":
  sys.exit(main())
