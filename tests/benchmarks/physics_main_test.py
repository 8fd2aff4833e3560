"""physics_main: what it prints, what it finds, what it refuses."""

import json

import numpy as np
import pytest

from benchmarks import physics_main
from collection import drawer_scene


def test_random_episodes_do_what_physics_allows(capsys):
  assert physics_main.main(["--episodes=4", "--first_seed=8"]) == 0
  printed = json.loads(capsys.readouterr().out)
  assert printed["episodes_with_violations"] == {}
  assert printed["episodes"] == 4
  assert printed["environments"] == [
    "drawer_open", "drawer_closed", "drawer_blocked_1", "drawer_blocked_2",
  ]  # fmt: skip


def test_a_drawer_that_creeps_open_is_found(monkeypatch, capsys):
  monkeypatch.setattr(drawer_scene.DrawerScene, "is_disturbed", lambda *_: False)
  shares = iter(np.linspace(0.5, 0.9, 1 + physics_main.STEPS))  # by less than OPENED in a step
  monkeypatch.setattr(physics_main, "_openings", lambda _: np.array([next(shares), 0.0]))
  assert physics_main.main(["--episodes=1"]) == 1
  printed = json.loads(capsys.readouterr().out)
  assert printed["first_examples"] == {"drawer opened by itself": ["drawer_open", 0]}


@pytest.mark.parametrize(
  ("flag", "message"),
  [
    ("--episodes=0", "--episodes: expected at least 1, got 0"),
    ("--first_seed=-1", "--first_seed: expected at least 0, got -1"),
  ],
)
def test_wrong_values_exit_with_two(flag, message, capsys):
  with pytest.raises(SystemExit) as error:
    physics_main.main([flag])
  assert error.value.code == 2
  assert message in capsys.readouterr().err
