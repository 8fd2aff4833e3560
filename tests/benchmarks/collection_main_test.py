"""collection_main: what it prints, how it divides the time, what it refuses."""

import json
import os
import pathlib
import subprocess
import sys

import pytest

from benchmarks import collection_main
from collection import registry

REPOSITORY = pathlib.Path(__file__).resolve().parents[2]
RATES = {
  "steps_per_second", "steps_per_second_encoded", "steps_per_second_build", "resets_per_second",
}  # fmt: skip
SHARES = {
  "physics", "inverse_kinematics", "image", "reset", "script", "outcome", "other", "encoding",
  "beam_and_writing",
}  # fmt: skip


@pytest.mark.parametrize(
  ("environment", "policy"), [("place_in_tray_held", "place"), ("drawer_open", "grasp_from_drawer")]
)
def test_it_prints_one_json_object_with_rates_and_shares(environment, policy):
  # A process of its own: TensorFlow keeps the number of cores that it was started with.
  result = subprocess.run(
    [
      *(sys.executable, "-m", "benchmarks.collection_main"),
      *(f"--environment={environment}", "--episodes=2"),
    ],
    cwd=REPOSITORY, capture_output=True, text=True, check=True,
  )  # fmt: skip
  printed = json.loads(result.stdout)
  assert set(printed) == {
    "environment", "policy", "episodes", "first_seed", "shares", "build_fixed_seconds", *RATES,
    "cores", "command", "commit", "wall_clock_seconds", "machine",
  }  # fmt: skip
  command = f"python -m benchmarks.collection_main --environment={environment} --episodes=2"
  assert printed["command"] == command and printed["wall_clock_seconds"] > 0
  assert printed["environment"] == environment
  assert printed["policy"] == policy
  assert printed["episodes"] == 2
  assert all(printed[rate] > 0 for rate in RATES)
  assert printed["build_fixed_seconds"] > 0
  assert set(printed["shares"]) == SHARES
  assert all(0 < share < 1 for share in printed["shares"].values())
  assert sum(printed["shares"].values()) == pytest.approx(1, abs=0.001)
  assert "pinned to core" in result.stderr


@pytest.fixture
def clock(monkeypatch):
  """Seconds that a test moves on by hand."""
  seconds = [100.0]
  monkeypatch.setattr(collection_main.time, "perf_counter", lambda: seconds[0])
  return seconds


def test_a_moment_counts_for_the_innermost_section(clock):
  stopwatch = collection_main.Stopwatch(outermost="between")

  def pass_time(seconds):
    clock[0] += seconds

  image = stopwatch.timed("image", lambda: pass_time(4))

  def run_episode():
    pass_time(1)
    image()
    pass_time(2)

  episode = stopwatch.timed("episode", run_episode)
  pass_time(50)  # before the first call: counts for nothing
  episode()
  pass_time(8)
  episode()
  pass_time(50)  # after the last
  assert stopwatch.seconds == {"between": 8, "episode": 2 * (1 + 2), "image": 2 * 4}


def test_all_of_a_whole_counts_for_it_even_when_it_fails(clock):
  stopwatch = collection_main.Stopwatch(outermost="between", wholes=("reset",))

  def simulate():
    clock[0] += 3

  physics = stopwatch.timed("physics", simulate)

  def fail():
    physics()
    raise RuntimeError

  with pytest.raises(RuntimeError):
    stopwatch.timed("reset", fail)()
  physics()
  assert stopwatch.seconds == {"reset": 3, "between": 0, "physics": 3}


@pytest.mark.parametrize(
  ("environment", "policy"),
  [
    ("place_in_tray_held", "place"),
    ("place_in_tray", "grasp"),
    ("drawer_open", "grasp_from_drawer"),
    ("drawer_closed", "open_drawer"),
    ("drawer_blocked_1", "close_then_open_drawer"),
    ("drawer_blocked_2", "pick_and_place_bottle"),
  ],
)
def test_the_default_policy_is_the_one_that_its_datasets_use_most(environment, policy):
  assert collection_main.default_policy(environment) == policy


@pytest.mark.parametrize("environment", registry.ENVIRONMENTS)
def test_every_environment_has_a_default_among_the_known_policies(environment):
  known = collection_main.known_policies(environment)
  assert collection_main.default_policy(environment) in known


def test_the_process_has_one_core_while_it_measures_and_all_afterwards():
  allowed = os.sched_getaffinity(0)
  with collection_main.one_core():
    assert os.sched_getaffinity(0) == {min(allowed)}
  assert os.sched_getaffinity(0) == allowed


@pytest.mark.parametrize(
  ("flags", "message"),
  [
    (["--environment=moon"], "'moon' (choose from 'place_in_tray_held', 'place_in_tray'"),
    (
      ["--environment=place_in_tray", "--policy=open_drawer"],
      "--policy=open_drawer: expected one of grasp, pick_and_place_outside, random, place in",
    ),
    (["--environment=place_in_tray", "--episodes=0"], "--episodes=0: expected 1 to 1000000"),
  ],
)
def test_wrong_values_exit_with_two_and_say_what_is_known(flags, message, capsys):
  with pytest.raises(SystemExit) as error:
    collection_main.main(flags)
  assert error.value.code == 2
  assert message in capsys.readouterr().err
