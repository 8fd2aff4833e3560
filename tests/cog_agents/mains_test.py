import importlib
import json
import pathlib
import subprocess
import sys

import imageio
import pytest

from cog_agents import config as config_lib
from cog_agents import (
  evaluate_main,
  experiments,
  finetune_main,
  mains,
  report_main,
  stitching_main,
  train_main,
)
from collection import registry
from tests import fakes

ROOT = pathlib.Path(__file__).parents[2]
MAINS = {
  "train_main": train_main,
  "evaluate_main": evaluate_main,
  "finetune_main": finetune_main,
  "report_main": report_main,
  "stitching_main": stitching_main,
}
TRAIN = ["--task=task", "--prior=prior", "--environment=place_in_tray"]


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
  data_dir = tmp_path_factory.mktemp("data")
  fakes.write_dataset(data_dir, "prior", num_episodes=4)
  fakes.write_dataset(data_dir, "task", num_episodes=3, rewarded=True)
  return str(data_dir)


def stop(*_):
  raise KeyboardInterrupt


def test_a_run_is_trained_evaluated_and_reported(tmp_path, data_dir, capsys, monkeypatch):
  run_dir = tmp_path / "runs" / "bc"
  train_flags = [
    *TRAIN, "--method=bc", f"--data_dir={data_dir}", f"--run_dir={run_dir}", "--steps=4",
    "--log_every=2", "--checkpoint_every=2", "--evaluate_every=4", "--evaluation_episodes=3",
    "--workers=2", "--override=batch_size=16", "--override=policy_hidden_sizes=[16]",
  ]  # fmt: skip
  assert train_main.main(train_flags) == 0
  last = json.loads((run_dir / "metrics.jsonl").read_text().splitlines()[-1])
  assert last["step"] == 4 and 0 <= last["success_rate"] <= 1

  assert evaluate_main.main([f"--run_dir={run_dir}", "--episodes=3", "--video_episodes=1"]) == 0
  assert "3 episodes" in capsys.readouterr().out
  evaluation = json.loads((run_dir / "evaluations" / "place_in_tray.json").read_text())
  assert [trial["seed"] for trial in evaluation["trials"]] == [*registry.EVALUATION_SEEDS[:3]]
  assert evaluation["policy"] == "stochastic"
  assert len(evaluation["greedy"]["trials"]) == 3
  video = imageio.get_reader(run_dir / "videos" / "place_in_tray.mp4")
  assert video.count_frames() >= registry.spec("place_in_tray").step_limit
  assert imageio.imread(run_dir / "videos" / "place_in_tray.png").ndim == 3

  out = tmp_path / "report.html"
  assert report_main.main([f"--root_dir={tmp_path / 'runs'}", f"--out={out}"]) == 0
  assert "paper" in capsys.readouterr().out
  (entry,) = json.loads(out.with_name("report.json").read_text())
  assert entry["success_rate"] == evaluation["success_rate"]
  assert entry["run_dir"] == str(run_dir)
  assert "data:image/svg" not in out.read_text() and "<svg" in out.read_text()

  # Filming comes last, and what an evaluation before has filmed is gone.
  monkeypatch.setattr(importlib.import_module("cog_agents.evaluate"), "_film", stop)
  assert evaluate_main.main([f"--run_dir={run_dir}", "--episodes=2"]) == mains.INTERRUPTED
  assert "starts anew" in capsys.readouterr().out
  evaluation = json.loads((run_dir / "evaluations" / "place_in_tray.json").read_text())
  assert evaluation["episodes"] == 2
  assert not list((run_dir / "videos").iterdir())


@pytest.mark.parametrize(
  ("main", "flags", "known"),
  [
    ("train_main", [*TRAIN, "--environment=tray"], registry.ENVIRONMENTS),
    ("train_main", [*TRAIN, "--method=gog"], experiments.METHODS),
    ("train_main", [*TRAIN, "--preset=SLOW"], config_lib.PRESETS),
    ("train_main", [*TRAIN, "--observation=sound"], config_lib.OBSERVATIONS),
    ("train_main", [*TRAIN, "--override=depth=3"], ["n_step", "batch_size"]),
    ("evaluate_main", ["--environment=tray"], registry.ENVIRONMENTS),
    ("finetune_main", ["--environment=tray"], registry.ENVIRONMENTS),
  ],
)
def test_a_wrong_name_lists_the_known_ones_before_tensorflow_loads(main, flags, known):
  script = (
    "import sys\n"
    f"from cog_agents import {main} as main\n"
    "try:\n"
    f"  main.main({[*flags, '--run_dir=nowhere']})\n"
    "except SystemExit as exit:\n"
    "  assert exit.code == 2, exit.code\n"
    "assert 'tensorflow' not in sys.modules\n"
  )
  process = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True)
  assert process.returncode == 0, process.stderr
  for name in known:
    assert name in process.stderr


@pytest.mark.parametrize(
  ("main", "flags", "message"),
  [
    ("train_main", ["--task=tusk", "--prior=prior"], "prior:1.0.0, task:1.0.0"),
    ("train_main", ["--task=task"], "--method=cog needs --prior"),
    ("train_main", [*TRAIN, "--steps=0"], "expected at least 1, got 0"),
    ("train_main", [*TRAIN, "--prior_share=2"], "expected a number from 0 to 1, got 2"),
    ("train_main", [*TRAIN, "--devices=64"], "--devices=64: TensorFlow finds "),
    ("train_main", [*TRAIN, "--devices=3"], "--devices=3 does not divide batch_size=128"),
    ("train_main", [*TRAIN, "--evaluate_every=7"], "no multiple of --log_every=500"),
    ("train_main", [*TRAIN, "--override=n_step=0"], "n_step must be at least 1, got 0"),
    ("train_main", [*TRAIN, "--override=n_step=three"], "the value is not JSON"),
    ("train_main", [*TRAIN, "--override=n_step=null"], "'n_step=null': expected int"),
    ("train_main", [*TRAIN, "--override=conv_filters=16"], "expected tuple[int, ...]"),
    ("train_main", [*TRAIN, '--override=gamma="x"'], "expected float"),
    ("evaluate_main", [], "is not a run"),
    ("finetune_main", ["--environment=place_in_tray"], "is not a run"),
    ("report_main", [], "is no folder"),
    ("report_main", ["--out=/"], "--out: / is a folder; expected a file"),
    ("report_main", ["--root_dir=x", "--out=report.json"], "--out=report.json: expected the page"),
    ("train_main", [*TRAIN, "--override=gamma=0"], "gamma must be above 0 and at most 1, got 0"),
    ("stitching_main", [*TRAIN[:2], "--out=/"], "--out: / is a folder; expected a file"),
  ],
)
def test_a_mistake_is_explained_and_exits_with_2(main, flags, message, tmp_path, data_dir, capsys):
  flags = [*flags, f"--{'root_dir' if main == 'report_main' else 'run_dir'}={tmp_path / 'run'}"]
  if main == "train_main":
    flags += [f"--data_dir={data_dir}", "--environment=place_in_tray"]
  with pytest.raises(SystemExit) as exit_info:
    MAINS[main].main(flags)
  assert exit_info.value.code == 2
  assert message in capsys.readouterr().err
  assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("name", MAINS)
def test_help_explains_every_flag(name, capsys):
  main = importlib.import_module(f"cog_agents.{name}")
  with pytest.raises(SystemExit) as exit_info:
    main.main(["--help"])
  assert exit_info.value.code == 0
  assert f"python -m cog_agents.{name}" in capsys.readouterr().out
  assert all(action.help for action in main._parser()._actions)


def test_overrides_replace_fields_and_turn_lists_into_tuples():
  config = mains.overridden(config_lib.PAPER, ["n_step=3", "target_range=[0, 100]", "gamma=0.9"])
  assert (config.n_step, config.target_range, config.gamma) == (3, (0, 100), 0.9)
