"""The page of a report: a function for each section, which returns "" with nothing to show."""

import base64
import html
import itertools
import pathlib
import string
from collections.abc import Sequence
from typing import Any

import numpy as np

from cog_agents import experiments, report_data, report_figures, run_dirs
from cog_agents.report_data import Cell, Contents, Run
from cog_agents.report_figures import Line, Panel

_TEMPLATE = pathlib.Path(__file__).with_name("report_template.html")
_OBSERVATIONS = {"image": "from images", "state": "from the simulator’s state"}
# Where a figure of the paper lies → sign, words.
_STANDINGS = {
  report_data.ABOVE: ("▲", "above"),
  report_data.WITHIN: ("●", "within"),
  report_data.BELOW: ("▼", "below"),
}
# What fine-tuning a policy of this method is called (section 6.2 and Fig. 9); others: their title.
_FINE_TUNED_TITLES = {"bc": "BC + SAC"}
# Key of metrics.jsonl → title of its curve.
_DIAGNOSTICS = {
  "q_data": "Q of recorded actions",
  "cql_gap": "conservative gap of Eq. 1",
  "entropy": "entropy of the policy [nats]",
}
# Where an agent's values were looked up → label and style of the line.
_VALUES = (
  ("prior_start", "prior, first step", "bc"),
  ("connection", "prior, where it connects", "bc-oracle"),
  ("task_start", "task, first step", "cog"),
)
_SHARE_OF_MIXTURE = "mixture/"  # prefix of the keys of metrics.jsonl with a dataset's share


def page(contents: Contents, rows: Sequence[dict[str, Any]]) -> str:
  """Returns the page.

  Args:
    contents: what it shows.
    rows: of report.json.
  """
  sections = {
    "table": ("Table 1", table(contents)),
    "curves": ("Learning curves", learning_curves(contents)),
    "finetuning": ("Fine-tuning", fine_tuning(contents)),
    "videos": ("Videos", videos(contents)),
    "data": ("Data", data_composition(contents)),
    "stitching": ("Stitching", stitching(contents)),
    "runs": ("Runs", runs_list(rows)),
  }
  shown = {name: section for name, section in sections.items() if section[1]}
  episodes = sum(row["episodes"] for row in rows)
  return string.Template(_TEMPLATE.read_text()).substitute(
    summary=f"{_count(len(contents.evaluated_runs), 'evaluated run')}, {episodes:,} episodes.",
    links="".join(f'<a href="#{name}">{title}</a>' for name, (title, _) in shown.items()),
    sections="".join(f'<section id="{name}">{body}</section>' for name, (_, body) in shown.items()),
  )


# ---- Table 1 ----


def table(contents: Contents) -> str:
  cells = report_data.cells(contents.runs)
  if not cells:
    return ""
  body = ""
  for observation in dict.fromkeys(observation for observation, *_ in cells):
    part = {key: cell for key, cell in cells.items() if key[0] == observation}
    body += f"<h3>Ours {_OBSERVATIONS[observation]}</h3>{_html_table(observation, part)}"
  return (
    f"<h2>Table 1: success rates, ours beside the paper's</h2><p>{_comparison(cells)}</p>{body}"
    '<p class="note">An episode succeeds if its reward is 1 at any step. Ours: all episodes of all'
    " seeds, with Wilson’s 95&nbsp;% interval in brackets and as the bar, which takes episodes as"
    " independent. Those of all seeds start in the same states, and what the choice of a seed adds"
    " shows in the figures of each seed. The paper’s"
    " (tick on the bar) is the mean over 3 seeds with 250 episodes each, from images, without its"
    " spread of up to 0.09 between them; the mark says"
    " whether it lies above, within or below our interval.</p>"
  )


def _comparison(cells: dict[tuple[str, str, str], Cell]) -> str:
  """One sentence on where the paper's figures lie."""
  places = [
    report_data.standing(paper, cell.interval)
    for (_, environment, method), cell in cells.items()
    if cell.trials and (paper := experiments.PAPER_TABLE[environment, method]) is not None
  ]
  if not places:
    return "No cell has both our figure and the paper's."
  above, within, below = (places.count(place) for place in _STANDINGS)
  return (
    f"Of the {_count(len(places), 'cell')} with a figure in the paper, the paper’s lies within our"
    f" interval in {within}, above it in {above} and below it in {below}."
  )


def _html_table(observation: str, cells: dict[tuple[str, str, str], Cell]) -> str:
  methods = [x for x in experiments.PAPER_METHODS if any(key[2] == x for key in cells)]
  head = "".join(f'<th scope="col">{_title(method)}</th>' for method in methods)
  body = ""
  for environment in dict.fromkeys(environment for _, environment, _ in cells):
    row = experiments.ROWS[environment]
    note = "<small>the training condition</small>" if row.is_training_condition else ""
    columns = "".join(
      f"<td>{_html_cell(environment, x, cells.get((observation, environment, x)))}</td>"
      for x in methods
    )
    body += (
      f'<tr><th scope="row">{row.task.capitalize()}:<br>{row.initial_condition}{note}'
      f"<small><code>{environment}</code></small></th>{columns}</tr>"
    )
  return (
    '<div class="card"><table class="results"><thead><tr><td></td>'
    f"{head}</tr></thead><tbody>{body}</tbody></table></div>"
  )


def _html_cell(environment: str, method: str, cell: Cell | None) -> str:
  paper = experiments.PAPER_TABLE[environment, method]
  if cell is None:
    return f'<span class="none">not run</span>{_html_paper(paper, None)}'
  steps = sorted({run.divergence["step"] for run in cell.diverged})
  note = f"at step {', '.join(f'{step:,}' for step in steps)}"
  if cell.rate is None:
    return (
      f'<span class="rate diverged">diverged</span><small>{note}</small>'
      f"{_html_paper(paper, None)}{_html_seeds(cell)}"
    )
  low, high = cell.interval
  greedy = "" if cell.greedy_rate is None else f"<small>greedy {cell.greedy_rate:.2f}</small>"
  partly = f"<small>{_count(len(cell.diverged), 'run')} diverged {note}</small>"
  values = [run.diverged_value for run, _ in cell.trials if run.diverged_value is not None]
  beyond = f"<small>values diverged: Q {max(values, key=abs):.1e}</small>" if values else ""
  return (
    f'<span class="rate">{cell.rate:.2f}</span> <span class="interval">[{low:.2f}, {high:.2f}]'
    f"</span>{_html_bar(cell, paper)}{_html_paper(paper, cell.interval)}{greedy}"
    f"{partly if cell.diverged else ''}{beyond}{_html_seeds(cell)}"
  )


def _html_bar(cell: Cell, paper: float | None) -> str:
  low, high = cell.interval
  tick = "" if paper is None else f'<b style="left:{100 * paper:.1f}%"></b>'
  return (
    f'<div class="bar" aria-hidden="true"><i style="left:{100 * low:.1f}%;'
    f'width:{100 * (high - low):.1f}%"></i><u style="left:{100 * cell.rate:.1f}%"></u>{tick}</div>'
  )


def _html_paper(paper: float | None, interval: tuple[float, float] | None) -> str:
  if paper is None:
    return "<small>paper: diverged</small>"
  if interval is None:
    return f"<small>paper {paper:.2f}</small>"
  place = report_data.standing(paper, interval)
  sign, word = _STANDINGS[place]
  return f'<small>paper {paper:.2f} <span class="mark {place}">{sign} {word}</span></small>'


def _html_seeds(cell: Cell) -> str:
  """The figure of each run, to unfold."""
  items = [
    f"seed {evaluation['seed']}: {evaluation['success_rate']:.2f} of {evaluation['episodes']:,}"
    f"<small>{html.escape(run.path.name)}, {evaluation['steps']:,} steps</small>"
    for run, evaluation in cell.trials
  ]
  items += [
    f"seed {run.config['seed']}: diverged at step {run.divergence['step']:,}"
    f"<small>{html.escape(str(run.divergence['message']))}</small>"
    for run in cell.diverged
  ]
  number = len(cell.seeds | {run.config["seed"] for run in cell.diverged})
  names = ", ".join(cell.differences)
  differ = f"<small>runs differ in {names}</small>" if names else ""
  return (
    f"{differ}<details><summary>{_count(number, 'seed')}</summary>"
    f"<ul>{''.join(f'<li>{item}</li>' for item in items)}</ul></details>"
  )


# ---- curves ----


def learning_curves(contents: Contents) -> str:
  panels = learning_panels(contents)
  if not panels:
    return ""
  diagnostics = diagnostic_panels(contents)
  unfolded = (
    f"<details><summary>Diagnostics of the training</summary>{_grid(diagnostics)}</details>"
  )
  return (
    "<h2>Learning curves (the paper’s Fig. 10)</h2>"
    "<p>Success on the episodes that monitor a training, against gradient steps: each line is the"
    " mean over the seeds that trained so long, its band spans their lowest and highest, and a"
    " cross marks where a run diverged. A run is monitored in the one condition that its"
    " --environment names: in a grid that to which its prior data belong, or without prior data"
    " that in which the task data start. So BC-oracle, which the paper’s figure has, is in none of"
    " the harder conditions."
    f"</p>{_grid(panels)}{unfolded if diagnostics else ''}"
  )


def learning_panels(contents: Contents) -> list[Panel]:
  """Success against gradient steps, one panel for each condition."""
  return [
    Panel(_condition(observation, environment), "gradient steps", "success rate", lines)
    for (observation, environment), runs in _by_condition(contents.runs).items()
    if (lines := _lines(runs, "step", "success_rate"))
  ]


def diagnostic_panels(contents: Contents) -> list[Panel]:
  """What else metrics.jsonl tells of a training, for each condition."""
  return [
    Panel(f"{title}\n{_condition(observation, environment)}", "gradient steps", title, lines, False)
    for (observation, environment), runs in _by_condition(contents.runs).items()
    for key, title in _DIAGNOSTICS.items()
    if (lines := _lines(runs, "step", key))
  ]


def fine_tuning(contents: Contents) -> str:
  panels = fine_tuning_panels(contents)
  if not panels:
    return ""
  items = "".join(f"<li>{_html_fine_tuning(run)}</li>" for run in contents.fine_tunings)
  return (
    "<h2>Fine-tuning (the paper’s Figs. 5 and 9)</h2>"
    "<p>Success on monitoring episodes against the number of new episodes that a policy trained"
    " offline collects: mean over the seeds and their range; the dashed line is at"
    f" {report_data.GOAL:.2f}, which the paper reaches with COG in every condition of the"
    " drawer task after 500 to 4,000 episodes.</p>"
    f"{_grid(panels)}<details><summary>Each seed</summary><ul>{items}</ul></details>"
  )


def fine_tuning_panels(contents: Contents) -> list[Panel]:
  """Success against new episodes, one panel for each condition."""
  return [
    Panel(
      _condition(observation, environment),
      "new episodes",
      "success rate",
      lines,
      level=report_data.GOAL,
    )
    for (observation, environment), runs in _by_condition(contents.fine_tunings).items()
    if (lines := _lines(runs, "episodes", "success_rate", _FINE_TUNED_TITLES))
  ]


def _html_fine_tuning(run: Run) -> str:
  """When a fine-tuning first reached the goal, and how its policy was evaluated in the end."""
  reached = report_data.episodes_to_goal(run.metrics)
  when = "never" if reached is None else f"first after {reached:,} new episodes"
  method = run.config["method"]
  text = (
    f"{_condition(run.config['observation'], run.config['environment'])}, "
    f"{_FINE_TUNED_TITLES.get(method, experiments.METHODS[method].title)}, "
    f"seed {run.config['seed']}: above {report_data.GOAL:.2f} {when}"
  )
  if run.divergence:
    text += f"; diverged: {run.divergence['message']}"
  for evaluation in run.evaluations:
    low, high = evaluation["interval"]
    text += (
      f"; afterwards {evaluation['success_rate']:.2f} [{low:.2f}, {high:.2f}] of"
      f" {evaluation['episodes']:,} on {evaluation['environment']}"
    )
  return html.escape(text)


def _by_condition(runs: Sequence[Run]) -> dict[tuple[str, str], list[Run]]:
  """(observation, environment) → the runs that have metrics, in the order of a report."""
  groups: dict[tuple[str, str], list[Run]] = {}
  logged = [run for run in runs if run.metrics]
  keys = [(x.config["observation"], x.config["environment"], x.config["method"]) for x in logged]
  for key in dict.fromkeys(report_data.in_order(keys)):
    members = [run for run, own in zip(logged, keys, strict=True) if own == key]
    groups.setdefault(key[:2], []).extend(members)
  return groups


def _lines(
  runs: Sequence[Run], x_key: str, y_key: str, titles: dict[str, str] | None = None
) -> tuple[Line, ...]:
  """One line for each method: the mean over its runs, and the band of their range."""
  lines = []
  for method in dict.fromkeys(run.config["method"] for run in runs):
    members = [run for run in runs if run.config["method"] == method]
    curves = [curve for run in members if (curve := _curve(run, x_key, y_key))]
    if not curves:
      continue
    x, mean, band = report_figures.spread(curves)
    seeds = {run.config["seed"] for run in members}
    title = (titles or {}).get(method, experiments.METHODS[method].title)
    lines.append(
      Line(
        f"{title} ({_count(len(seeds), 'seed')})",
        method.replace("_", "-"),
        x,
        mean,
        tuple(band) if len(curves) > 1 else None,
        tuple(_end(run, x_key, y_key) for run in members if run.divergence),
      )
    )
  return tuple(lines)


def _curve(run: Run, x_key: str, y_key: str) -> dict[float, float]:
  return {
    row[x_key]: row[y_key]
    for row in run.metrics
    if x_key in row and y_key in row and np.isfinite(row[y_key])
  }


def _end(run: Run, x_key: str, y_key: str) -> tuple[float, float]:
  """Where a run diverged, at the height of its last point."""
  x, y = [(0.0, 0.0), *_curve(run, x_key, y_key).items()][-1]
  return (run.divergence["step"] if x_key == "step" else x), y


# ---- videos ----


def videos(contents: Contents) -> str:
  """The film strip and video of the best COG run in each condition."""
  filmed = [
    (evaluation, run)
    for run in contents.runs
    for evaluation in run.evaluations
    if evaluation["method"] == "cog" and _media(run, evaluation, ".mp4").exists()
  ]
  if not filmed:
    return ""
  best: dict[str, tuple] = {}
  for evaluation, run in filmed:
    name = evaluation["environment"]
    rate = evaluation["success_rate"]
    if name not in best or rate > best[name][0]["success_rate"]:
      best[name] = (evaluation, run)
  figures = "".join(_html_film(*best[name]) for name in experiments.ROWS if name in best)
  return (
    "<h2>COG at work</h2><p>The first evaluated episodes of the best COG policy in each condition;"
    " the border is green while the reward is 1. The strip shows the first episode that succeeds."
    f'</p><div class="films">{figures}</div>'
  )


def _html_film(evaluation: dict[str, Any], run: Run) -> str:
  observation, environment = evaluation["observation"], evaluation["environment"]
  strip, video = (
    base64.b64encode(_media(run, evaluation, suffix).read_bytes()).decode()
    for suffix in (".png", ".mp4")
  )
  name = _condition(observation, environment)
  caption = (
    f"{name}; seed {evaluation['seed']}, which succeeds in {evaluation['success_rate']:.2f} of"
    f" {evaluation['episodes']:,} episodes ({environment})."
  )
  return (
    f'<figure class="card"><video controls loop muted playsinline preload="auto"'
    f' aria-label="{html.escape(name)}" src="data:video/mp4;base64,{video}"></video>'
    f'<img alt="film strip: {html.escape(name)}" src="data:image/png;base64,{strip}">'
    f"<figcaption>{html.escape(caption)}</figcaption></figure>"
  )


def _media(run: Run, evaluation: dict[str, Any], suffix: str) -> pathlib.Path:
  return run.path / run_dirs.VIDEOS / f"{evaluation['environment']}{suffix}"


# ---- data ----


def data_composition(contents: Contents) -> str:
  """Which datasets the runs drew from, and how much of each."""
  known = {x["name"]: x["transitions"] for y in contents.stitchings for x in y["datasets"]}
  groups: dict[tuple, list[str]] = {}
  for run in contents.runs:
    if shares := _mixture(run):
      # To whole per cent: what runs of one mixture draw differs by chance.
      key = tuple((name, round(share, 2)) for name, share in shares.items())
      groups.setdefault(key, []).append(run.config["method"])
  if not groups:
    return ""
  body = "".join(_html_mixture(key, set(methods), known) for key, methods in groups.items())
  return (
    "<h2>What the agents were trained from</h2><p>The share of each dataset in all transitions that"
    " a training drew, and the number of transitions that the dataset holds where a stitching"
    ' analysis has counted them.</p><div class="card"><table class="data"><thead><tr>'
    '<th scope="col">method</th><th scope="col">dataset</th><th scope="col">share</th><td></td>'
    f'<th scope="col">transitions</th></tr></thead><tbody>{body}</tbody></table></div>'
  )


def _mixture(run: Run) -> dict[str, float]:
  """Dataset → mean share in the batches of a run."""
  rows = [row for row in run.metrics if any(key.startswith(_SHARE_OF_MIXTURE) for key in row)]
  if not rows:
    return {}
  keys = [key for key in rows[0] if key.startswith(_SHARE_OF_MIXTURE)]
  return {
    key.removeprefix(_SHARE_OF_MIXTURE): float(np.mean([row[key] for row in rows])) for key in keys
  }


def _html_mixture(mixture: tuple, methods: set[str], known: dict[str, int]) -> str:
  who = ", ".join(_title(method) for method in experiments.PAPER_METHODS if method in methods)
  rows = ""
  for i, (name, share) in enumerate(mixture):
    first = f'<th scope="row" rowspan="{len(mixture)}">{who}</th>' if i == 0 else ""
    count = f"{known[name]:,}" if name in known else "–"
    rows += (
      f'<tr>{first}<td>{html.escape(name)}</td><td class="number">{100 * share:.0f} %</td>'
      f'<td><div class="share"><i style="width:{100 * share:.0f}%"></i></div></td>'
      f'<td class="number">{count}</td></tr>'
    )
  return rows


# ---- stitching ----


def stitching(contents: Contents) -> str:
  """Whether prior and task data connect."""
  if not contents.stitchings:
    return ""
  body = "".join(_html_stitching(analysis) for analysis in contents.stitchings)
  return (
    "<h2>Stitching: do prior and task data connect?</h2><p>Whether prior data reach the states from"
    " which task data go on to success, which is what values travel through: near is what lies no"
    " farther than held-out episodes of the same data lie from one another (95th percentile)."
    f"</p>{body}"
  )


def _html_stitching(analysis: dict[str, Any]) -> str:
  name = f"{', '.join(analysis['prior'])} → {analysis['task']}"
  verdict = analysis["verdict"]
  rows = "".join(
    f'<tr><th scope="row">{html.escape(x["name"])}</th><td class="number">{x["episodes"]:,}</td>'
    f'<td class="number">{x["transitions"]:,}</td><td class="number">{_percent(x["connected"])}'
    "</td></tr>"
    for x in analysis["datasets"]
  )
  return (
    f"<h3>{html.escape(name)}</h3>"
    f'<p><span class="verdict {verdict.split()[0]}">{html.escape(verdict)}</span> '
    f"{html.escape(analysis['sentence'])}</p>"
    f"{_grid(_stitching_panels(analysis))}"
    '<div class="card"><table class="data"><thead><tr><th scope="col">dataset</th>'
    '<th scope="col">episodes</th><th scope="col">transitions</th><th scope="col">episodes that'
    f" reach the task’s way to success</th></tr></thead><tbody>{rows}</tbody></table></div>"
  )


def stitching_panels(contents: Contents) -> list[Panel]:
  return [panel for x in contents.stitchings for panel in _stitching_panels(x)]


def _stitching_panels(analysis: dict[str, Any]) -> list[Panel]:
  levels = np.array(analysis["levels"])
  by_step = np.array(analysis["overlap_by_step"])
  distances, values = analysis["distances"], analysis.get("values")
  panels = [
    Panel(
      "Distance to the nearest prior state",
      "distance [95th percentile of prior to prior]",
      "share of states",
      (
        Line("prior, held out", "bc", np.array(distances["prior"]), levels),
        Line("task, first step", "cog", np.array(distances["task_start"]), levels),
      ),
      mark=1.0,
    ),
    Panel(
      "Along the task's episodes",
      "step of the task episode",
      "share near prior data",
      (Line("states before success", "cog", np.arange(len(by_step)), by_step),),
    ),
  ]
  if values:
    lines = (
      Line(label, style, np.array(values[key]), levels)
      for key, label, style in _VALUES
      if values[key]
    )
    title = f"Value that the agent gives after {values['steps']:,} steps"
    panels.append(Panel(title, "Q(s, π(s))", "share of states", tuple(lines)))
  return panels


# ---- runs ----


def runs_list(rows: Sequence[dict[str, Any]]) -> str:
  """Every row of report.json."""
  if not rows:
    return ""
  names = list(dict.fromkeys(itertools.chain(*rows)))  # cloning has one more
  head = "".join(f'<th scope="col">{name.replace("_", " ")}</th>' for name in names)
  body = "".join(
    "<tr>"
    + "".join(f"<td>{html.escape(_plain(row.get(name, '')))}</td>" for name in names)
    + "</tr>"
    for row in rows
  )
  return (
    "<h2>Runs</h2><p>Every evaluation, as in report.json beside this page; every trial is in the"
    " <code>evaluations/</code> of its run.</p><details><summary>"
    f"{_count(len(rows), 'evaluation')}</summary>"
    f'<div class="card"><table class="data"><thead><tr>{head}</tr></thead><tbody>{body}</tbody>'
    "</table></div></details>"
  )


def _grid(panels: Sequence[Panel]) -> str:
  figures = "".join(
    f'<figure class="card">{report_figures.svg(panel)}</figure>' for panel in panels
  )
  return f'<div class="grid">{figures}</div>'


def _condition(observation: str, environment: str) -> str:
  row = experiments.ROWS[environment]
  return f"{row.task.capitalize()}: {row.initial_condition} ({observation})"


def _title(method: str) -> str:
  return html.escape(experiments.METHODS[method].title)


def _count(number: int, noun: str) -> str:
  return f"{number:,} {noun}" + ("" if number == 1 else "s")


def _percent(share: float | None) -> str:
  return "–" if share is None else f"{100 * share:.1f} %"


def _plain(value: Any) -> str:
  if isinstance(value, list):
    return "–".join(f"{x:.3f}" for x in value)
  return f"{value:.3f}" if isinstance(value, float) else str(value)
