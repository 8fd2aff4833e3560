"""What the runs of a grid gave: entries for a file of results, and tables as text."""

import dataclasses
import json
import pathlib
from collections.abc import Iterable, Sequence
from typing import Any

from cog_agents import experiments, grid, report, report_data, reproduce, run_dirs
from collection import statistics

_FINE_TUNE = "cog_agents.finetune_main"  # in a command
# Before the first new episode there are but the first two.
_FINE_TUNING_CURVE = ("episodes", "success_rate", "collected_success_rate", "entropy")


def entries(runs: Sequence[grid.Run], place: reproduce.Place) -> list[dict[str, Any]]:
  """Returns what report.json has of the conditions that are done, and how each came about."""
  found = []
  for run in runs:
    folder = place.root / run.name
    now = reproduce.status(run, place)
    record_path = folder / reproduce.RECORD  # another process may be about to write it
    if not now.is_trained or now.new_episodes or not record_path.exists():
      continue
    record = json.loads(record_path.read_text())
    offline = [entry for entry in record if _FINE_TUNE not in entry["command"]]
    shared = {
      **_origin(offline or record),
      "learning_curve": _curve(folder, ("step", "success_rate")),
    }
    if changes := reproduce.settings_changed_since(run, folder):
      shared["settings_changed_since"] = changes
    if now.diverged:
      found += [
        {**entry, **shared} for entry in _diverged(run, run.method, run.environments, folder)
      ]
      continue
    if now.missing and set(now.missing) == set(run.environments):
      continue
    contents = report_data.load(folder)
    (loaded,) = contents.runs
    if loaded.diverged_value is not None:
      shared["diverged_value"] = loaded.diverged_value
    shared["converged"] = loaded.diverged_value is None and reproduce.converged(loaded.metrics)
    # Another table may have evaluated the run in more conditions than this one.
    done = set(run.environments) - set(now.missing)
    evaluated = [x for x in report.entries(contents) if x["environment"] in done]
    found += [{**entry, **shared} for entry in evaluated]
    for tuned in contents.fine_tunings:
      if not run.new_episodes or tuned.config["environment"] != run.monitored:
        continue
      if tuned.divergence:
        method = experiments.fine_tuned_name(run.method)
        of_tuned = _diverged(run, method, [tuned.config["environment"]], tuned.path)
      else:
        of_tuned = report.entries(dataclasses.replace(contents, runs=(tuned,)))
      shared |= {**_origin(record), "fine_tuning_curve": _curve(tuned.path, _FINE_TUNING_CURVE)}
      found += [{**entry, **shared} for entry in of_tuned]
  return found


def _origin(record: Sequence[dict[str, Any]]) -> dict[str, Any]:
  """How something came about, by the commands that made it."""
  times = [entry["wall_clock_seconds"] for entry in record]
  origin = {
    "command": [entry["command"] for entry in record],
    "commit": sorted({str(entry["commit"]) for entry in record}),
    "wall_clock_seconds": round(sum(seconds for seconds in times if seconds is not None), 1),
    "machine": record[-1]["machine"],
  }
  return origin | ({"commands_without_time": times.count(None)} if None in times else {})


def _diverged(
  run: grid.Run, method: str, environments: Iterable[str], folder: pathlib.Path
) -> list[dict[str, Any]]:
  """The entries of a training, offline or online, whose loss became infinite or NaN."""
  divergence = run_dirs.read_divergence(folder)
  return [
    {
      "environment": name,
      "method": method,
      "observation": run.observation,
      "seed": run.seed,
      "steps": divergence["step"],
      "diverged": divergence["message"],
      "run_dir": str(folder),
    }
    for name in environments
  ]


def _curve(folder: pathlib.Path, keys: Sequence[str]) -> list[dict[str, float]]:
  """What the evaluations on monitoring episodes have of `keys`."""
  rows = run_dirs.read_metrics(folder)
  return [{x: row[x] for x in keys if x in row} for row in rows if "success_rate" in row]


def fine_tuning_table(entries: Sequence[dict[str, Any]]) -> str:
  """Returns the results of fine-tuning as text: before, when above the paper's 0.90, and after."""
  lines = []
  for entry in entries:
    if "fine_tuning_curve" not in entry:
      continue
    curve = entry["fine_tuning_curve"]
    reached = report_data.episodes_to_goal(curve)
    when = "never" if reached is None else f"after {reached} new episodes"
    if "diverged" in entry:
      outcome = "diverged"
    else:
      low, high = entry["interval"]
      outcome = f"{entry['success_rate']:.3f} [{low:.2f}, {high:.2f}]"
    lines.append(
      f"{entry['environment']:<20}{entry['method']:<16}seed {entry['seed']}   "
      f"{curve[0]['success_rate']:.2f} before; above {report_data.GOAL:.2f} {when}; "
      f"{outcome} after {curve[-1]['episodes']}"
    )
  return "\n".join(lines)


def ablation_table(entries: Sequence[dict[str, Any]]) -> str:
  """Returns the results of the ablations as text: success over all seeds, and of each."""
  by_name: dict[str, list[dict[str, Any]]] = {}
  for entry in entries:
    by_name.setdefault(pathlib.Path(entry["run_dir"]).parent.name, []).append(entry)
  lines = []
  for name, found in by_name.items():
    evaluated = [entry for entry in found if "diverged" not in entry]
    episodes = sum(entry["episodes"] for entry in evaluated)
    text = f"{len(found) - len(evaluated)} of {len(found)} seeds diverged"
    if evaluated:
      rate = report_data.pooled_rate(evaluated)
      low, high = statistics.wilson_interval(round(rate * episodes), episodes)
      seeds = ", ".join(f"{entry['success_rate']:.2f}" for entry in evaluated)
      text = f"{rate:.2f} [{low:.2f}, {high:.2f}]   seeds: {seeds}; {text}"
    steps = _range(entry["steps"] for entry in found)
    lines.append(f"{grid.ABLATION_TABLE[name].title:<44}{text}; {steps} steps")
  return "\n".join(lines)


def _range(numbers: Iterable[int]) -> str:
  numbers = sorted(numbers)
  low, high = numbers[0], numbers[-1]
  return f"{low:,}" if low == high else f"{low:,} to {high:,}"
