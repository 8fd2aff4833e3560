"""What the folder of a report holds: runs, fine-tunings, stitching analyses; cells of Table 1."""

import dataclasses
import json
import os
import pathlib
import shlex
from collections.abc import Iterable, Sequence
from typing import Any

from cog_agents import config as config_lib
from cog_agents import experiments, grid, run_dirs
from collection import statistics

STITCHING_FILENAME = "stitching.json"

GOAL = 0.9  # success rate that fine-tuning gets above in every condition (section 6.2, Fig. 5)
ABOVE, WITHIN, BELOW = "above", "within", "below"
# Rewards are 0 or 1, so no return exceeds 1 / (1 - gamma): values of so many times this diverge.
_DIVERGED_ABOVE = 10.0
# Table 1 has two decimals: a figure stands for what rounds to it.
_HALF_A_DIGIT = 0.005


class ReportError(ValueError):
  """There is nothing to report; the message says where it was looked for."""


@dataclasses.dataclass(frozen=True)
class Run:
  """A run directory: its configuration, evaluations and logged metrics.

  Attributes:
    path: the folder.
    config: config.json; that of a fine-tuning says which method, observation and seed it started
      from, and where it collects episodes.
    evaluations: every evaluations/ENVIRONMENT.json.
    metrics: rows of metrics.jsonl.
    divergence: diverged.json ("step", "message") of a run whose losses stopped being numbers.
    diverged_value: the last logged Q of recorded actions, if it is far beyond any return.
  """

  path: pathlib.Path
  config: dict[str, Any]
  evaluations: tuple[dict[str, Any], ...]
  metrics: tuple[dict[str, float], ...]
  divergence: dict[str, Any] | None
  diverged_value: float | None = None


@dataclasses.dataclass(frozen=True)
class Contents:
  """Everything below a folder that a report is about.

  Attributes:
    runs: of train_main, evaluated or not, by path.
    fine_tunings: of finetune_main, by path.
    stitchings: contents of stitching.json files, by path.
  """

  runs: tuple[Run, ...]
  fine_tunings: tuple[Run, ...]
  stitchings: tuple[dict[str, Any], ...]

  @property
  def evaluated_runs(self) -> list[Run]:
    return [run for run in self.runs if run.evaluations]


@dataclasses.dataclass(frozen=True)
class Cell:
  """One method in one condition: the evaluations of all seeds, and the runs that diverged."""

  trials: tuple[tuple[Run, dict[str, Any]], ...] = ()  # run, evaluation; by seed
  diverged: tuple[Run, ...] = ()  # by seed

  @property
  def seeds(self) -> set[int]:
    """Of the evaluated runs; one seed may have several, which were trained on different data."""
    return {evaluation["seed"] for _, evaluation in self.trials}

  @property
  def differences(self) -> list[str]:
    """Names of what is not the same in all runs, where a mean misleads: hyperparameters, data."""
    runs = [*(run for run, _ in self.trials), *self.diverged]
    settings = [{**run.config["agent"], "datasets": run.config["datasets"]} for run in runs]
    names = {name for setting in settings for name in setting}
    return sorted(x for x in names if any(y.get(x) != settings[0].get(x) for y in settings))

  @property
  def episodes(self) -> int:
    return sum(evaluation["episodes"] for _, evaluation in self.trials)

  @property
  def rate(self) -> float | None:
    """Success rate over the episodes of all seeds; None if no run was evaluated."""
    return pooled_rate(evaluation for _, evaluation in self.trials)

  @property
  def interval(self) -> tuple[float, float]:
    """Wilson's 95 % interval over the episodes of all seeds, taken as independent."""
    return statistics.wilson_interval(round(self.rate * self.episodes), self.episodes)

  @property
  def greedy_rate(self) -> float | None:
    """The same of the greedy policy, where the headline is that of the stochastic one."""
    return pooled_rate(x["greedy"] for _, x in self.trials if "greedy" in x)


def load(root_dir: str | os.PathLike) -> Contents:
  """Reads what lies in or below a folder, but for ablations, which are in no cell of Table 1, and
  what was set aside in the folder of a grid.

  In a folder without runs it is what the tables of `reproduce_main` there tell of theirs.

  Raises:
    ReportError: if nothing there can be shown: neither a run that was evaluated or that diverged,
      nor a fine-tuning, nor a stitching analysis.
  """
  root = pathlib.Path(root_dir)
  if not root.is_dir():
    raise ReportError(f"{root} is no folder; expected one with runs of train_main below it")
  paths = [path for path in sorted(root.rglob(run_dirs.CONFIG)) if _is_of_a_table(path, root)]
  tables = [] if paths else _tables(root)
  contents = _from_tables(tables) if tables else _from_runs(root, paths)
  shown = [run for run in contents.runs if run.evaluations or run.divergence]
  if shown or contents.fine_tunings or contents.stitchings:
    return contents
  if not contents.runs:
    raise ReportError(
      f"no run (a folder with config.json, of train_main) in or below {root}, and no table of"
      " reproduce_main in it that has one"
    )
  raise ReportError(
    f"none of the {len(contents.runs)} runs below {root} has been evaluated: evaluate_main"
  )


def _from_runs(root: pathlib.Path, paths: Iterable[pathlib.Path]) -> Contents:
  """What lies below a folder; `paths`: config.json of its runs."""
  tuned = f"{run_dirs.FINE_TUNINGS}/*/{run_dirs.METRICS}"
  return Contents(
    tuple(run for run in map(_run, paths) if "finetuned_method" not in run.config),
    tuple(
      _fine_tuning(path.parent)
      for path in sorted(root.rglob(tuned))
      if path.parent.name in experiments.ROWS and _is_of_a_table(path, root)  # nor set aside
    ),
    tuple(
      json.loads(path.read_text())
      for path in sorted(root.rglob(STITCHING_FILENAME))
      if _is_of_a_table(path, root)
    ),
  )


def _tables(root: pathlib.Path) -> list[pathlib.Path]:
  """Files of results of Table 1 and of fine-tuning in a folder."""
  names = [
    grid.table_filename(table, observation)
    for table in (grid.TABLE_1, grid.FINE_TUNING)
    for observation in config_lib.OBSERVATIONS
  ]
  return [root / name for name in names if (root / name).exists()]


def _from_tables(paths: Iterable[pathlib.Path]) -> Contents:
  """The runs that such files tell of: all but their videos and what else was logged."""
  offline: dict[str, list[dict[str, Any]]] = {}  # run_dir → entries, one for each condition
  online: dict[str, list[dict[str, Any]]] = {}
  for path in paths:
    for entry in json.loads(path.read_text()):
      entries = online if "fine_tuning_curve" in entry else offline
      found = entries.setdefault(entry["run_dir"], [])
      if entry["environment"] not in {x["environment"] for x in found}:  # or it is in two tables
        found.append(entry)
  return Contents(
    tuple(_run_of_entries(offline[path], "learning_curve") for path in sorted(offline)),
    tuple(_run_of_entries(online[path], "fine_tuning_curve") for path in sorted(online)),
    stitchings=(),
  )


def _run_of_entries(entries: Sequence[dict[str, Any]], curve: str) -> Run:
  """The run, or the fine-tuning, of these entries of a table."""
  first = entries[0]
  path = pathlib.Path(first["run_dir"])
  folder = path.parents[1] if path.parent.name == run_dirs.FINE_TUNINGS else path
  monitored, method = folder.parts[-3:-1]  # OBSERVATION/MONITORED/METHOD/seed_S
  # A run that was trained by hand has its evaluations alone.
  training = next((x for x in first["command"] if "cog_agents.train_main" in x), "")
  flags = [flag for flag in shlex.split(training) if flag.startswith("--")]
  values = dict(flag[2:].split("=", 1) for flag in flags)  # of several overrides the last
  config = {
    "method": method,
    "observation": first["observation"],
    "seed": first["seed"],
    "environment": monitored,
    "agent": {"flags": [x for x in flags if x.startswith(("--preset=", "--override="))]},
    "datasets": [values[name] for name in ("prior", "task") if name in values],
  }
  evaluated = [entry for entry in entries if "diverged" not in entry]
  divergence = None
  if not evaluated:
    divergence = {"step": first["steps"], "message": first["diverged"]}
  return Run(
    path,
    config,
    tuple(map(_evaluation_of_entry, evaluated)),
    tuple(first[curve]),
    divergence,
    first.get("diverged_value"),
  )


def _evaluation_of_entry(entry: dict[str, Any]) -> dict[str, Any]:
  if "greedy_success_rate" not in entry:
    return entry
  greedy = {"episodes": entry["episodes"], "success_rate": entry["greedy_success_rate"]}
  return {**entry, "greedy": greedy}


def _is_of_a_table(path: pathlib.Path, root: pathlib.Path) -> bool:
  relative = path.relative_to(root)
  return grid.ABLATIONS not in relative.parts and not grid.is_set_aside(relative)


def cells(runs: Sequence[Run]) -> dict[tuple[str, str, str], Cell]:
  """(observation, environment, method) → Cell.

  Runs from images come first, as the paper's are; conditions and methods have the paper's order.
  """
  trials: dict[tuple[str, str, str], list] = {}
  diverged: dict[tuple[str, str, str], list] = {}
  for run in sorted(runs, key=lambda run: run.config.get("seed", 0)):
    for evaluation in () if run.divergence else run.evaluations:
      key = evaluation["observation"], evaluation["environment"], evaluation["method"]
      trials.setdefault(key, []).append((run, evaluation))
    for key in _keys(run) if run.divergence else ():
      diverged.setdefault(key, []).append(run)
  return {
    key: Cell(tuple(trials.get(key, ())), tuple(diverged.get(key, ())))
    for key in in_order({*trials, *diverged})
  }


def in_order(keys: Iterable[tuple[str, str, str]]) -> list[tuple[str, str, str]]:
  """(observation, environment, method) triples in the order of a report."""
  environments, methods = list(experiments.ROWS), list(experiments.PAPER_METHODS)
  return sorted(keys, key=lambda x: (x[0], environments.index(x[1]), methods.index(x[2])))


def standing(figure: float, interval: tuple[float, float]) -> str:
  """Where a figure of the paper lies: ABOVE, WITHIN or BELOW our interval."""
  low, high = interval
  if figure - _HALF_A_DIGIT > high:
    return ABOVE
  return BELOW if figure + _HALF_A_DIGIT < low else WITHIN


def episodes_to_goal(curve: Iterable[dict[str, float]]) -> int | None:
  """New episodes after which a fine-tuning was first above GOAL; None: it never was.

  Args:
    curve: rows of metrics.jsonl of a fine-tuning, in their order.
  """
  return next((int(row["episodes"]) for row in curve if row.get("success_rate", 0.0) > GOAL), None)


def pooled_rate(evaluations: Iterable[dict[str, Any]]) -> float | None:
  """Success rate over the episodes of all evaluations; None if there are none."""
  evaluations = list(evaluations)
  episodes = sum(x["episodes"] for x in evaluations)
  successes = sum(round(x["success_rate"] * x["episodes"]) for x in evaluations)
  return successes / episodes if evaluations else None


def _keys(run: Run) -> list[tuple[str, str, str]]:
  """Of the cells that a run is for: of the conditions that its data serve."""
  method = run.config["method"]
  conditions = experiments.conditions(run.config["environment"], method)
  return [(run.config["observation"], name, method) for name in conditions]


def _run(path: pathlib.Path) -> Run:
  return _with_results(path.parent, run_dirs.read_config(path.parent))


def _fine_tuning(path: pathlib.Path) -> Run:
  started_from = run_dirs.read_config(path.parents[1])
  config = {key: started_from[key] for key in ("method", "observation", "seed")}
  return _with_results(path, {**config, "environment": path.name})


def _with_results(path: pathlib.Path, config: dict[str, Any]) -> Run:
  files = sorted((path / run_dirs.EVALUATIONS).glob("*.json"))
  metrics = tuple(run_dirs.read_metrics(path))
  return Run(
    path,
    config,
    tuple(json.loads(file.read_text()) for file in files),
    metrics,
    run_dirs.read_divergence(path),
    _diverged_value(metrics, config["agent"]["gamma"]) if "agent" in config else None,
  )


def _diverged_value(metrics: Iterable[dict[str, float]], gamma: float) -> float | None:
  values = [row["q_data"] for row in metrics if "q_data" in row]
  if not values or abs(values[-1]) * (1 - gamma) <= _DIVERGED_ABOVE:
    return None
  return values[-1]
