"""Folders as train_main, evaluate_main, finetune_main and stitching_main leave them."""

import json

import imageio
import numpy as np

from cog_agents import report_data, run_dirs

PRIOR, TASK = "prior/1.0.0", "task/1.0.0"
LEVELS = [0.0, 0.5, 1.0]


def write_run(
  path,
  method,
  environment,
  successes=None,
  *,
  seed=0,
  observation="state",
  greedy_successes=None,
  monitored=(0.1, 0.2),
  diverged_at=None,
  filmed=False,
  q_data=1.0,
  gamma=0.97,
  datasets=(PRIOR, TASK),
):
  """Writes the files of a run; `successes` of 100 evaluated episodes, None: not evaluated."""
  path.mkdir(parents=True)
  config = {"method": method, "environment": environment, "observation": observation, "seed": seed}
  _write_json(
    path / "config.json",
    {**config, "agent": {"gamma": gamma}, "steps": 20, "datasets": [*datasets]},
  )
  mixture = {f"mixture/{PRIOR}": 0.75, f"mixture/{TASK}": 0.25}
  _write_lines(
    path / "metrics.jsonl",
    [
      {"step": 10 * (i + 1), "success_rate": rate, "q_data": q_data, **mixture}
      for i, rate in enumerate(monitored)
    ],
  )
  if diverged_at is not None:
    _write_json(path / "diverged.json", {"step": diverged_at, "message": "critic_loss: <NaN>"})
  if successes is not None:
    evaluation = {**config, "steps": 20, "trials": [], **_summary(successes)}
    if greedy_successes is not None:
      evaluation["greedy"] = _summary(greedy_successes)
    _write_json(path / "evaluations" / f"{environment}.json", evaluation)
  if filmed:
    _write_film(path / "videos", environment)


def write_fine_tuning(run_dir, environment, rates, successes=None):
  """Writes a fine-tuning of a run, with a success rate after each 100 new episodes."""
  path = run_dir / run_dirs.FINE_TUNINGS / environment
  path.mkdir(parents=True)
  method = json.loads((run_dir / "config.json").read_text())["method"]
  _write_json(path / "config.json", {"environment": environment, "finetuned_method": method})
  _write_lines(
    path / "metrics.jsonl",
    [
      {"episodes": 100 * (i + 1), "step": 10 * i, "success_rate": rate}
      for i, rate in enumerate(rates)
    ],
  )
  if successes is not None:
    evaluation = {"environment": environment, **_summary(successes)}
    _write_json(path / "evaluations" / f"{environment}.json", evaluation)


def write_stitching(path, verdict="connected", prior=PRIOR, values=None):
  path.mkdir(parents=True)
  analysis = {
    "prior": [prior],
    "task": TASK,
    "levels": LEVELS,
    "distances": {"prior": [0.1, 0.5, 1.2], "task_start": [0.2, 0.4, 0.9]},
    "overlap_at_start": 1.0,
    "overlap_by_step": [1.0, 0.5],
    "datasets": [
      {"name": prior, "episodes": 10, "transitions": 12345, "connected": 0.4},
      {"name": TASK, "episodes": 5, "transitions": 150, "connected": None},
    ],
    "connected_episodes": 0.4,
    "connected_at_step": 3.0,
    "verdict": verdict,
    "sentence": "40.0% of the prior episodes come near.",
  }
  _write_json(
    path / report_data.STITCHING_FILENAME, analysis | ({"values": values} if values else {})
  )


def _summary(successes):
  return {
    "episodes": 100,
    "success_rate": successes / 100,
    "interval": [0.1, 0.9],
    "success_at_end_rate": 0.0,
  }


def _write_film(folder, environment):
  folder.mkdir()
  frames = np.zeros((8, 48, 64, 3), np.uint8)
  frames[..., 1] = np.arange(8)[:, None, None] * 30
  with imageio.get_writer(folder / f"{environment}.mp4", fps=10, codec="libx264") as writer:
    for frame in frames:
      writer.append_data(frame)
  imageio.imwrite(folder / f"{environment}.png", np.concatenate(frames, axis=1))


def _write_json(path, value):
  path.parent.mkdir(exist_ok=True)
  path.write_text(json.dumps(value))


def _write_lines(path, rows):
  path.write_text("".join(json.dumps(row) + "\n" for row in rows))
