import dataclasses
import json

from cog_agents import grid_results, reproduce
from tests.cog_agents.grid_runs import RECORD, ROWS, RUN, complete_run, write_run


def test_the_table_of_fine_tuning_says_when_it_was_good():
  entry = {
    "environment": "drawer_closed", "method": "bc_sac", "seed": 2, "success_rate": 0.952,
    "interval": [0.91, 0.97],
    "fine_tuning_curve": [
      {"episodes": 0, "success_rate": 0.3},
      {"episodes": 10, "success_rate": 0.9},
      {"episodes": 20, "success_rate": 0.95},
      {"episodes": 30, "success_rate": 0.85},
    ],
  }  # fmt: skip
  worse = {**entry, "method": "cog_finetuned", "fine_tuning_curve": entry["fine_tuning_curve"][:2]}
  failed = {key: x for key, x in worse.items() if key not in ("success_rate", "interval")}
  failed["diverged"] = "critic is nan"
  entries = [{"environment": "drawer_closed"}, entry, worse, failed]
  lines = grid_results.fine_tuning_table(entries).splitlines()
  assert len(lines) == 3
  assert "0.30 before; above 0.90 after 20 new episodes;" in lines[0]
  assert lines[0].endswith("0.952 [0.91, 0.97] after 30")
  assert "above 0.90 never;" in lines[1] and lines[1].endswith("after 10")
  assert lines[2].endswith("above 0.90 never; diverged after 10")


def test_the_results_have_a_fine_tuning_that_diverged(tmp_path):
  run = dataclasses.replace(RUN, environments=(), new_episodes=20)
  folder = tmp_path / RUN.name
  write_run(folder, [0.0] * 4, exported=1_000)
  config = {"method": "cog", "environment": "place_in_tray", "observation": "state", "seed": 0}
  (folder / "config.json").write_text(json.dumps({**config, "agent": {"gamma": 0.97}, "steps": 1}))
  (folder / "reproduce.json").write_text(RECORD)
  tuned = folder / "finetune" / "place_in_tray"
  tuned.mkdir(parents=True)
  rows = [
    {"step": 1000, "episodes": 0, "success_rate": 0.5},
    {"step": 1100, "episodes": 10, "success_rate": 0.4, "entropy": 5.0, "loss": 1.0},
  ]
  (tuned / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
  (tuned / "diverged.json").write_text('{"step": 1200, "message": "critic is nan"}')
  (entry,) = grid_results.entries([run], reproduce.Place(tmp_path, episodes=2))
  assert (entry["environment"], entry["method"]) == ("place_in_tray", "cog_finetuned")
  assert (entry["steps"], entry["diverged"]) == (1_200, "critic is nan")
  assert entry["fine_tuning_curve"] == [
    {"episodes": 0, "success_rate": 0.5},
    {"episodes": 10, "success_rate": 0.4, "entropy": 5.0},
  ]


def test_what_fine_tuning_took_is_not_counted_for_the_run_that_it_went_on_from(tmp_path):
  run = dataclasses.replace(RUN, environments=("place_in_tray",), new_episodes=10)
  folder = tmp_path / RUN.name
  write_run(folder, [0.0] * 4, exported=1_000, evaluated=("place_in_tray",))
  complete_run(folder, ["place_in_tray"])
  tuned = folder / "finetune" / "place_in_tray"
  tuned.mkdir(parents=True)
  (tuned / "metrics.jsonl").write_text('{"step": 1100, "episodes": 10, "success_rate": 0.4}\n')
  (tuned / "diverged.json").write_text('{"step": 1200, "message": "critic is nan"}')
  record = [
    {"command": f"python -m cog_agents.{main}", "commit": "d", "wall_clock_seconds": seconds,
     "machine": "m"}
    for main, seconds in (("train_main", 60.0), ("evaluate_main", 4.0), ("finetune_main", 500.0))
  ]  # fmt: skip
  (folder / "reproduce.json").write_text(json.dumps(record))
  offline, online = grid_results.entries([run], reproduce.Place(tmp_path, episodes=2))
  assert (offline["method"], offline["wall_clock_seconds"]) == ("cog", 64.0)
  assert len(offline["command"]) == 2
  assert (online["method"], online["wall_clock_seconds"]) == ("cog_finetuned", 564.0)
  assert len(online["command"]) == 3


def test_a_condition_that_another_table_evaluated_is_not_among_the_results(tmp_path):
  write_run(tmp_path / RUN.name, [0.0] * 4, exported=1_000, evaluated=ROWS)
  complete_run(tmp_path / RUN.name, ROWS)
  run = dataclasses.replace(RUN, environments=("place_in_tray",))
  (entry,) = grid_results.entries([run], reproduce.Place(tmp_path, episodes=2))
  assert entry["environment"] == "place_in_tray"


def test_a_run_that_has_no_record_yet_is_not_among_the_results(tmp_path):
  write_run(tmp_path / RUN.name, [0.0] * 4, exported=1_000, evaluated=ROWS)
  place = reproduce.Place(tmp_path, episodes=2)
  assert reproduce.status(RUN, place).is_done
  assert grid_results.entries([RUN], place) == []


def test_a_run_that_has_no_evaluation_yet_is_not_among_the_results(tmp_path):
  folder = tmp_path / RUN.name
  write_run(folder, [0.0] * 4, exported=1_000)
  (folder / "reproduce.json").write_text(RECORD)
  assert grid_results.entries([RUN], reproduce.Place(tmp_path)) == []


def test_the_ablation_table_has_a_line_for_each_change():
  def entry(name, seed, **rest):
    run_dir = f"runs/state/ablations/{name}/seed_{seed}"
    return {"run_dir": run_dir, "episodes": 250, "steps": 1_000 * (seed + 1), **rest}

  text = grid_results.ablation_table(
    [
      entry("no_n_step", 0, success_rate=0.5),
      entry("no_n_step", 1, success_rate=0.7),
      entry("alpha_0.1", 0, diverged="critic_loss is nan"),
    ]
  )
  # Wilson's interval of 300 in 500.
  assert text.splitlines() == [
    f"{'1-step returns':<44}0.60 [0.56, 0.64]   seeds: 0.50, 0.70; 0 of 2 seeds diverged; "
    "1,000 to 2,000 steps",
    f"{'conservatism weight × 0.1':<44}1 of 1 seeds diverged; 1,000 steps",
  ]
