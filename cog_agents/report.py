"""One page, figures and a JSON file about all runs below a folder."""

import os
import pathlib
from typing import Any

from cog_agents import experiments, report_data, report_figures, report_page, run_dirs

# What report.json tells of every evaluation, besides the run's folder.
_FIELDS = (
  "environment",
  "method",
  "observation",
  "seed",
  "steps",
  "episodes",
  "success_rate",
  "interval",
  "success_at_end_rate",
)
# Suffix of a PNG file beside the page → what is on it.
_FIGURES = {
  "learning_curves": report_page.learning_panels,
  "finetuning": report_page.fine_tuning_panels,
  "stitching": report_page.stitching_panels,
}


def entries(contents: report_data.Contents) -> list[dict[str, Any]]:
  """Returns the content of report.json: one entry for each evaluation of each run."""
  return [
    _entry(run, evaluation) for run in contents.evaluated_runs for evaluation in run.evaluations
  ]


def _entry(run: report_data.Run, evaluation: dict[str, Any]) -> dict[str, Any]:
  entry = {field: evaluation[field] for field in _FIELDS}
  if "greedy" in evaluation:
    entry["greedy_success_rate"] = evaluation["greedy"]["success_rate"]
  return {**entry, "run_dir": str(run.path)}


def table(contents: report_data.Contents) -> str:
  """Returns Table 1 as text: our success rates above the paper's, for each condition."""
  cells = report_data.cells(contents.runs)
  methods = [x for x in experiments.PAPER_METHODS if any(key[2] == x for key in cells)]
  width = 22 + len(", 1 diverged") * any(cell.trials and cell.diverged for cell in cells.values())
  titles = "".join(f"{experiments.METHODS[m].title:<{width}}" for m in methods)
  lines = [f"{'':<44}{titles}".rstrip()]
  for observation, environment in dict.fromkeys(key[:2] for key in cells):
    row = [cells.get((observation, environment, m)) for m in methods]
    paper = [experiments.PAPER_TABLE[environment, m] for m in methods]
    ours = "".join(f"{_text(cell):<{width}}" for cell in row)
    papers = "".join(f"{'-' if x is None else f'{x:.2f}':<{width}}" for x in paper)
    lines.append(f"{environment + ', ' + observation:<36}{'ours':<8}{ours}".rstrip())
    lines.append(f"{'':<36}{'paper':<8}{papers}".rstrip())
  return "\n".join(lines) if cells else "No run has been evaluated."


def write(
  root_dir: str | os.PathLike, out: str | os.PathLike
) -> tuple[report_data.Contents, list[pathlib.Path]]:
  """Writes the page, report.json and a PNG file of each figure that there is something on.

  Args:
    root_dir: with runs in or below it; see report_data.load.
    out: the page; the others go beside it, figures as NAME_learning_curves.png and so on.

  Returns:
    What was reported, and the files, the page first.

  Raises:
    ReportError: if there is nothing to report.
  """
  contents = report_data.load(root_dir)
  rows = entries(contents)
  out = pathlib.Path(out)
  run_dirs.write_json(out.with_name("report.json"), rows)
  run_dirs.write_text(out, report_page.page(contents, rows))
  written = [out, out.with_name("report.json")]
  for name, panels_of in _FIGURES.items():
    if panels := panels_of(contents):
      written.append(out.with_name(f"{out.stem}_{name}.png"))
      report_figures.write_png(written[-1], panels)
  return contents, written


def _text(cell: report_data.Cell | None) -> str:
  if cell is None:
    return "-"
  if cell.rate is None:
    return "diverged"
  low, high = cell.interval
  partly = f", {len(cell.diverged)} diverged" if cell.diverged else ""
  return f"{cell.rate:.2f} [{low:.2f}, {high:.2f}]{partly}"
