"""Tests of the time to a success rate: real trainings, of little networks on little datasets."""

import json

import pytest

from benchmarks import time_to_success_main
from cog_agents import grid, reproduce
from tests import fakes
from tests.cog_agents import grid_runs


@pytest.mark.parametrize(("success", "reached"), [(0.0, True), (1.0, False)])
def test_it_stops_at_the_success_that_is_asked_for(monkeypatch, capsys, success, reached):
  def build(name, place):
    rewarded = name.endswith("task")
    fakes.write_dataset(place.data_dir, name, num_episodes=4, rewarded=rewarded)

  monkeypatch.setattr(grid, "RECIPES", dict.fromkeys(grid.RECIPES, grid_runs.RUN.recipe))
  monkeypatch.setattr(reproduce, "build", build)
  flags = ["--observation=state", "--seed=1", f"--success={success}"]
  flags += ["--episodes=2", "--evaluate_every=500"]
  assert time_to_success_main.main(flags) == (0 if reached else 1)
  out = capsys.readouterr().out
  result = json.loads(out[out.index("{\n") :])  # TFDS says before what it writes
  assert (result["seed"], result["environment"]) == (1, "place_in_tray")
  assert result["build_seconds"].keys() == {"cog_pickplace_prior", "cog_pickplace_task"}
  if reached:
    assert [row["step"] for row in result["curve"]] == [500]
    assert result["steps"] == 500
    assert sum(result["build_seconds"].values()) < result["seconds"] < result["wall_clock_seconds"]
  else:
    assert [row["step"] for row in result["curve"]] == [500, 1_000]
    assert result["seconds"] is None


def test_a_training_that_fails_is_an_error_with_its_output(tmp_path, monkeypatch):
  monkeypatch.setattr(reproduce, "build", lambda name, place: None)  # so that there is no dataset
  with pytest.raises(RuntimeError, match="unknown dataset 'cog_pickplace_prior'"):
    time_to_success_main.measure(tmp_path, grid_runs.RUN, [], 0.9, 2, 500)


def test_a_wrong_override_is_an_error_before_anything_is_built(monkeypatch, capsys):
  monkeypatch.setattr(reproduce, "build", lambda name, place: pytest.fail("built"))
  with pytest.raises(SystemExit):
    time_to_success_main.main(["--override=n_step=0"])
  assert "n_step must be at least 1, got 0" in capsys.readouterr().err


def test_seed_and_overrides_reach_the_training(monkeypatch):
  monkeypatch.setattr(reproduce, "build", lambda name, place: None)
  with pytest.raises(RuntimeError, match="--seed=3 .*--override=n_step=1 .* exited with 2"):
    time_to_success_main.main(["--seed=3", "--override=n_step=1"])
