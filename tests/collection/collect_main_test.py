"""collect_main: what it prints and writes, what it refuses."""

import imageio.v2 as imageio
import numpy as np
import pytest

from collection import collect_main, scenes

FLAGS = ["--environment=place_in_tray_held", "--policy=place", "--episodes=3"]


def test_it_prints_the_rate_with_its_interval_and_writes_the_episodes(tmp_path, capsys):
  out = tmp_path / "episodes.npz"
  assert collect_main.main([*FLAGS, f"--out={out}"]) == 0
  assert "placed in 3 of 3 episodes, success rate 1.000 (95 % interval 0.439 to 1.000)" in (
    capsys.readouterr().out
  )
  arrays = np.load(out)
  assert arrays["action"].shape == (3, 30, 8)
  assert arrays["observation_image"].shape == (3, 31, 48, 48, 3)
  assert arrays["outcome_placed"].dtype == bool
  assert [path.name for path in tmp_path.iterdir()] == ["episodes.npz"]


def test_a_rate_alone_takes_no_images(monkeypatch, capsys):
  monkeypatch.setattr(scenes.Scene, "image", None)
  assert collect_main.main(FLAGS) == 0
  assert "placed in 3 of 3 episodes" in capsys.readouterr().out


def test_it_writes_a_video(tmp_path):
  out = tmp_path / "place.mp4"
  collect_main.main([*FLAGS[:2], "--episodes=1", f"--out={out}"])
  frames = imageio.mimread(out, memtest=False)
  assert len(frames) == 30
  assert frames[0].shape == (480, 480, 3)


def test_the_last_seed_of_all_is_one(capsys):
  assert collect_main.main([*FLAGS[:2], "--first_seed=39999999", "--episodes=1"]) == 0
  assert "of 1 episodes" in capsys.readouterr().out


@pytest.mark.parametrize(
  "flags, message",
  [
    (["--environment=moon", "--policy=place"], "'place_in_tray_held', 'place_in_tray'"),
    (["--environment=place_in_tray", "--policy=dance"], "'grasp', 'grasp_and_hold', 'pick_and_"),
    (
      ["--environment=drawer_open", "--policy=place"],
      "script 'place' acts in a TrayScene, not in a DrawerScene",
    ),
    ([*FLAGS[:2], "--episodes=0"], "--episodes=0: expected at least 1"),
    (
      [*FLAGS[:2], "--first_seed=39999999", "--episodes=2"],
      "--first_seed=39999999 --episodes=2: expected a first seed from 0 to 39999998",
    ),
    ([*FLAGS[:2], "--first_seed=-1"], "--first_seed=-1 --episodes=100: expected a first seed"),
    ([*FLAGS[:2], "--out=film.avi"], "film.avi: expected a name that ends in .mp4 or .npz"),
  ],
)
def test_wrong_values_exit_with_two_and_say_what_is_known(flags, message, capsys):
  with pytest.raises(SystemExit) as error:
    collect_main.main(flags)
  assert error.value.code == 2
  assert message in capsys.readouterr().err
