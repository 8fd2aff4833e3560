"""The files of a run directory that need no TensorFlow to be read."""

import dataclasses
import json
import os
import pathlib
from typing import Any

from cog_agents import config as config_lib

CONFIG = "config.json"
METRICS = "metrics.jsonl"
EVALUATIONS = "evaluations"  # folder of ENVIRONMENT.json
CHECKPOINTS = "checkpoints"
POLICIES = "policies"  # folder of exports, named by their gradient steps
VIDEOS = "videos"
FINE_TUNINGS = "finetune"  # RUN_DIR/finetune/ENVIRONMENT is a fine-tuning of the run RUN_DIR
_DIVERGED = "diverged.json"


class RunError(ValueError):
  """A folder is not the run that is needed; the message says what is missing or different."""


def read_evaluation(
  run_dir: pathlib.Path, environment_name: str, steps: int, episodes: int
) -> dict[str, Any] | None:
  """Returns the evaluation of the policy of `steps` on `episodes` or more; None: there is none."""
  path = run_dir / EVALUATIONS / f"{environment_name}.json"
  if not path.exists():
    return None
  there = json.loads(path.read_text())
  return there if there["steps"] == steps and there["episodes"] >= episodes else None


def read_config(run_dir: str | os.PathLike) -> dict[str, Any]:
  """Returns config.json of a run.

  A hyperparameter that is younger than the run has its default, which is to do without.

  Raises:
    RunError: if the folder is not a run's.
  """
  path = pathlib.Path(run_dir) / CONFIG
  if not path.is_file():
    raise RunError(f"{run_dir} is not a run: it has no config.json")
  config = json.loads(path.read_text())
  if "agent" in config:
    defaults = json.loads(json.dumps(dataclasses.asdict(config_lib.CqlConfig())))
    config["agent"] = {**defaults, **config["agent"]}
  return config


def read_metrics(run_dir: str | os.PathLike) -> list[dict[str, float]]:
  """Returns the rows of metrics.jsonl; a last line that a killed run left unfinished is skipped."""
  path = pathlib.Path(run_dir) / METRICS
  lines = path.read_text().splitlines(keepends=True) if path.exists() else []
  return [json.loads(line) for line in lines if line.endswith("\n")]


def latest_export(run_dir: str | os.PathLike) -> pathlib.Path:
  """Returns the folder of the run's newest exported policies, which is named by its gradient steps.

  Raises:
    RunError: if there is none.
  """
  folders = [x for x in (pathlib.Path(run_dir) / POLICIES).glob("*") if x.name.isdigit()]
  if not folders:
    raise RunError(f"{run_dir} has no exported policy; train_main writes one when it ends")
  return max(folders, key=lambda folder: int(folder.name))


def exported_steps(run_dir: pathlib.Path) -> int:
  """Returns the gradient steps of the newest exported policies; 0 if there are none."""
  try:
    return int(latest_export(run_dir).name)
  except RunError:
    return 0


def write_divergence(run_dir: str | os.PathLike, step: int, message: str) -> None:
  """Records that a run's losses were no longer numbers at a gradient step."""
  write_json(pathlib.Path(run_dir) / _DIVERGED, {"step": step, "message": message})


def read_divergence(run_dir: str | os.PathLike) -> dict[str, Any] | None:
  """Returns "step" and "message" of a run that diverged; None if it has not."""
  path = pathlib.Path(run_dir) / _DIVERGED
  return json.loads(path.read_text()) if path.exists() else None


def write_json(path: pathlib.Path, value: Any) -> None:
  """Writes a value as `write_text` does."""
  write_text(path, json.dumps(value, indent=2) + "\n")


def write_text(path: pathlib.Path, text: str) -> None:
  """Writes a file aside and renames it."""
  path.parent.mkdir(parents=True, exist_ok=True)
  aside = path.with_name(f".{path.name}.{os.getpid()}")
  aside.write_text(text)
  aside.replace(path)
