"""A run of a grid, and what it leaves in its folder."""

import json

from cog_agents import grid

ROWS = ("place_in_tray_held", "place_in_tray")
# What replaces every recipe here, also in processes.
RECIPE = """grid.Recipe(
  1_000, 500, 100.0,
  overrides={"batch_size": 16, "q_hidden_sizes": [16], "policy_hidden_sizes": [16]},
)"""
RUN = grid.Run(
  name="state/place_in_tray/cog/seed_0",
  method="cog",
  observation="state",
  seed=0,
  environments=ROWS,
  monitored="place_in_tray",
  prior_data="cog_pickplace_prior",
  task_data="cog_pickplace_task",
  recipe=eval(RECIPE),
)

RECORD = '[{"command": "c", "commit": "d", "wall_clock_seconds": 1.0, "machine": "m"}]'


def write_run(folder, rates, every=250, exported=None, evaluated=()):
  """Writes what a training leaves: rates on monitoring episodes, exported policy, evaluations."""
  folder.mkdir(parents=True)
  rows = [
    {"step": every * (i + 1), "success_rate": rate, "steps_per_second": 50.0}
    for i, rate in enumerate(rates)
  ]
  (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
  if exported:
    (folder / "policies" / f"{exported:09d}").mkdir(parents=True)
  (folder / "evaluations").mkdir()
  for name in evaluated:
    there = {"steps": exported, "episodes": 2, "wall_clock_seconds": 10.0}
    (folder / "evaluations" / f"{name}.json").write_text(json.dumps(there))


def complete_run(folder, names, **config):
  """Adds what the results of a grid are made from: configuration, record, whole evaluations.

  Args:
    folder: of `write_run`.
    names: of its evaluations.
    config: what config.json has besides, or in place of, what is here.
  """
  run = {"method": "cog", "environment": "place_in_tray", "observation": "state", "seed": 0}
  (folder / "config.json").write_text(json.dumps({**run, "agent": {"gamma": 0.97}, **config}))
  (folder / "reproduce.json").write_text(RECORD)
  rates = {"success_rate": 0.5, "interval": [0.1, 0.9], "success_at_end_rate": 0.5}
  for name in names:
    path = folder / "evaluations" / f"{name}.json"
    there = {**json.loads(path.read_text()), **run, **rates, "environment": name, "trials": []}
    path.write_text(json.dumps(there))
