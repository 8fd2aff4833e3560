"""One page and one JSON file about all runs below a folder: success rates, curves, a video."""

import base64
import dataclasses
import html
import io
import json
import os
import pathlib
import string
from collections.abc import Sequence
from typing import Any

import matplotlib.figure
import numpy as np

from cog_agents import experiments
from collection import statistics

_TEMPLATE = pathlib.Path(__file__).with_name("report_template.html")
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
_COLOURS = {
  "cog": "#0b6e4f",
  "no_prior": "#c8553d",
  "bc_init": "#b8860b",
  "bc": "#3d6cb9",
  "bc_oracle": "#7b4fa3",
  "sac": "#5d6878",
}
# Key of metrics.jsonl → title of its curve.
_CURVES = {
  "success_rate": "success rate (evaluation as it goes)",
  "q_data": "Q of recorded actions",
  "cql_gap": "CQL gap",
  "entropy": "entropy of the policy (nats)",
}


class ReportError(ValueError):
  """There is nothing to report; the message says where it was looked for."""


@dataclasses.dataclass(frozen=True)
class Run:
  """A run directory: its configuration, evaluations and logged metrics."""

  path: pathlib.Path
  config: dict[str, Any]
  evaluations: tuple[dict[str, Any], ...]
  metrics: tuple[dict[str, float], ...]


def load_runs(root_dir: str | os.PathLike) -> list[Run]:
  """Returns every run below `root_dir` that has been evaluated, by path.

  Raises:
    ReportError: if there is none.
  """
  root = pathlib.Path(root_dir)
  if not root.is_dir():
    raise ReportError(f"{root} is no folder; expected one with runs of train_main below it")
  runs = [_load_run(path.parent) for path in sorted(root.rglob("config.json"))]
  if not runs:
    raise ReportError(f"no run (a folder with config.json, of train_main) in or below {root}")
  evaluated = [run for run in runs if run.evaluations]
  if not evaluated:
    raise ReportError(
      f"none of the {len(runs)} runs below {root} has been evaluated: evaluate_main"
    )
  return evaluated


def entries(runs: Sequence[Run]) -> list[dict[str, Any]]:
  """Returns the content of report.json: one entry for each evaluation of each run."""
  return [
    {**{field: evaluation[field] for field in _FIELDS}, "run_dir": str(run.path)}
    for run in runs
    for evaluation in run.evaluations
  ]


def table(rows: Sequence[dict[str, Any]]) -> str:
  """Returns the entries as text: our success rates above the paper's, for each environment."""
  methods = _in_order(experiments.ALL_METHODS, {row["method"] for row in rows})
  lines = [
    "".join([" " * 44, *(f"{experiments.ALL_METHODS[m].title:<22}" for m in methods)]).rstrip()
  ]
  for observation, environment in _groups(rows):
    cells = {m: _pooled(rows, observation, environment, m) for m in methods}
    ours = "".join(f"{_text(cell):<22}" for cell in cells.values())
    paper = "".join(f"{_figure(_paper(environment, m)):<22}" for m in methods)
    lines.append(f"{environment + ', ' + observation:<36}{'ours':<8}{ours}".rstrip())
    lines.append(f"{'':<36}{'paper':<8}{paper}".rstrip())
  return "\n".join(lines)


def write(root_dir: str | os.PathLike, out: str | os.PathLike) -> list[dict[str, Any]]:
  """Writes the page to `out` and the entries to report.json beside it; returns the entries.

  Raises:
    ReportError: if there is nothing to report.
  """
  runs = load_runs(root_dir)
  rows = entries(runs)
  out = pathlib.Path(out)
  out.parent.mkdir(parents=True, exist_ok=True)
  _write_aside(out.with_name("report.json"), json.dumps(rows, indent=2) + "\n")
  _write_aside(out, _page(runs, rows))
  return rows


def _load_run(path: pathlib.Path) -> Run:
  evaluations = sorted((path / "evaluations").glob("*.json"))
  metrics = path / "metrics.jsonl"
  lines = metrics.read_text().splitlines() if metrics.exists() else []
  return Run(
    path,
    json.loads((path / "config.json").read_text()),
    tuple(json.loads(file.read_text()) for file in evaluations),
    tuple(json.loads(line) for line in lines),
  )


def _page(runs: Sequence[Run], rows: Sequence[dict[str, Any]]) -> str:
  observations = _in_order(("state", "image"), {row["observation"] for row in rows})
  trials = sum(row["episodes"] for row in rows)
  return string.Template(_TEMPLATE.read_text()).substitute(
    title="report of " + ("1 run" if len(runs) == 1 else f"{len(runs)} runs"),
    summary=f"{len(runs)} trained policies, {trials} evaluated episodes.",
    tables="".join(_html_table(rows, observation) for observation in observations),
    gallery=_gallery(runs),
    curves="".join(_curves(runs, observation) for observation in observations),
    runs=_html_runs(rows),
  )


def _html_table(rows: Sequence[dict[str, Any]], observation: str) -> str:
  rows = [row for row in rows if row["observation"] == observation]
  methods = _in_order(experiments.ALL_METHODS, {row["method"] for row in rows})
  head = "".join(f"<th>{html.escape(experiments.ALL_METHODS[m].title)}</th>" for m in methods)
  body = ""
  for _, environment in _groups(rows):
    cells = "".join(_html_cell(rows, observation, environment, m) for m in methods)
    row = experiments.ROWS[environment]
    note = ", the training condition" if row.is_training_condition else ""
    title = f"{row.task}: {row.initial_condition}<small>{environment}{note}</small>"
    body += f"<tr><th>{title}</th>{cells}</tr>"
  return (
    f'<p>From {observation} observations</p><div class="card"><table>'
    f"<tr><th></th>{head}</tr>{body}</table></div>"
  )


def _html_cell(rows, observation: str, environment: str, method: str) -> str:
  pooled = _pooled(rows, observation, environment, method)
  paper = f"<small>paper {_figure(_paper(environment, method))}</small>"
  if pooled is None:
    return f"<td>–{paper}</td>"
  rate, (low, high), trials, seeds = pooled
  return (
    f'<td><span class="rate">{rate:.2f}</span> [{low:.2f}, {high:.2f}]'
    f'<div class="bar"><i style="width:{100 * rate:.0f}%"></i></div>{paper}'
    f"<small>{trials} trials, {seeds} {'seed' if seeds == 1 else 'seeds'}</small></td>"
  )


def _html_runs(rows: Sequence[dict[str, Any]]) -> str:
  names = (*_FIELDS, "run_dir")
  head = "".join(f"<th>{name.replace('_', ' ')}</th>" for name in names)
  body = "".join(
    "<tr>" + "".join(f"<td>{html.escape(_plain(row[name]))}</td>" for name in names) + "</tr>"
    for row in rows
  )
  return f"<table><tr>{head}</tr>{body}</table>"


def _gallery(runs: Sequence[Run]) -> str:
  """The film strip and video of COG, for each environment that it was evaluated on."""
  figures = ""
  filmed = [
    (evaluation, run)
    for run in runs
    for evaluation in run.evaluations
    if evaluation["method"] == "cog" and _media(run, evaluation, ".mp4").exists()
  ]
  environments = _in_order(
    experiments.ROWS, {evaluation["environment"] for evaluation, _ in filmed}
  )
  for environment in sorted(
    environments, key=lambda name: experiments.ROWS[name].is_training_condition
  ):
    evaluation, run = max(
      (pair for pair in filmed if pair[0]["environment"] == environment),
      key=lambda pair: pair[0]["success_rate"],
    )
    figures += _html_film(evaluation, run)
  return f"<h2>COG at work</h2>{figures}" if figures else ""


def _html_film(evaluation: dict[str, Any], run: Run) -> str:
  row = experiments.ROWS[evaluation["environment"]]
  strip = base64.b64encode(_media(run, evaluation, ".png").read_bytes()).decode()
  video = base64.b64encode(_media(run, evaluation, ".mp4").read_bytes()).decode()
  shown = "first successful" if evaluation["success_rate"] else "first"
  caption = (
    f"{row.task}: {row.initial_condition} ({evaluation['environment']}), COG from "
    f"{evaluation['observation']} observations, seed {evaluation['seed']}. The strip shows the "
    f"{shown} trial, the video the first trials; the border is green while the reward is 1."
  )
  return (
    f'<figure class="card"><img alt="film strip" src="data:image/png;base64,{strip}">'
    f'<video controls loop muted playsinline src="data:video/mp4;base64,{video}"></video>'
    f"<figcaption>{html.escape(caption)}</figcaption></figure>"
  )


def _media(run: Run, evaluation: dict[str, Any], suffix: str) -> pathlib.Path:
  return run.path / "videos" / f"{evaluation['environment']}{suffix}"


def _curves(runs: Sequence[Run], observation: str) -> str:
  runs = [run for run in runs if run.config["observation"] == observation and run.metrics]
  if not runs:
    return ""
  environments = ", ".join(sorted({run.config["environment"] for run in runs}))
  caption = f"From {observation} observations, evaluated on {environments}; one line a run."
  svg = _curves_svg(runs)
  return f'<figure class="card">{svg}<figcaption>{caption}</figcaption></figure>'


def _curves_svg(runs: Sequence[Run]) -> str:
  figure = matplotlib.figure.Figure(figsize=(9.6, 6.0), layout="constrained")
  for axes, (key, title) in zip(figure.subplots(2, 2).flat, _CURVES.items(), strict=True):
    labelled = set()
    for run in runs:
      points = np.array([(row["step"], row[key]) for row in run.metrics if key in row])
      if len(points):
        name = run.config["method"]
        label = None if name in labelled else experiments.ALL_METHODS[name].title
        labelled.add(name)
        marker = "o" if len(points) < 30 else None
        axes.plot(*points.T, color=_COLOURS.get(name), label=label, alpha=0.8, marker=marker, ms=3)
    axes.set_title(title, fontsize=10)
    axes.set_xlabel("gradient steps", fontsize=9)
    axes.tick_params(labelsize=8)
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    if key == "success_rate":
      axes.set_ylim(-0.03, 1.03)
      axes.legend(frameon=False, fontsize=9)
  buffer = io.StringIO()
  with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "cog"}):
    figure.savefig(buffer, format="svg", metadata={"Date": None})
  svg = buffer.getvalue()
  return svg[svg.index("<svg") :]


def _groups(rows: Sequence[dict[str, Any]]) -> list[tuple[str, str]]:
  """(observation, environment) of the entries, the environments in the paper's order."""
  pairs = {(row["observation"], row["environment"]) for row in rows}
  order = list(experiments.ROWS)
  return sorted(pairs, key=lambda pair: (pair[0] != "state", order.index(pair[1])))


def _pooled(rows, observation: str, environment: str, method: str):
  """Rate, interval, trials and number of seeds over all seeds of a cell; None if there are none."""
  key = (observation, environment, method)
  cell = [row for row in rows if (row["observation"], row["environment"], row["method"]) == key]
  if not cell:
    return None
  trials = sum(row["episodes"] for row in cell)
  successes = round(sum(row["success_rate"] * row["episodes"] for row in cell))
  return successes / trials, statistics.wilson_interval(successes, trials), trials, len(cell)


def _paper(environment: str, method: str) -> float | None:
  return experiments.PAPER_TABLE.get((environment, method))


def _text(pooled) -> str:
  if pooled is None:
    return "-"
  rate, (low, high), *_ = pooled
  return f"{rate:.2f} [{low:.2f}, {high:.2f}]"


def _figure(rate: float | None) -> str:
  return "-" if rate is None else f"{rate:.2f}"


def _plain(value: Any) -> str:
  if isinstance(value, list):
    return "–".join(f"{x:.3f}" for x in value)
  return f"{value:.3f}" if isinstance(value, float) else str(value)


def _in_order(order, names: set[str]) -> list[str]:
  return [name for name in order if name in names]


def _write_aside(path: pathlib.Path, text: str) -> None:
  aside = path.with_name(f".{path.name}.{os.getpid()}")
  aside.write_text(text)
  aside.replace(path)
