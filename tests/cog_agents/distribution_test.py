"""Two logical CPU devices stand for two GPUs; TensorFlow wants them in a process of their own."""

import json
import pathlib
import subprocess
import sys
import types

import numpy as np
import pytest
import tensorflow as tf

from cog_agents import distribution, evaluate, run_dirs, train_main
from tests import fakes

ROOT = pathlib.Path(__file__).parents[2]
ON_TWO_DEVICES = """
import functools, json, sys
import tensorflow as tf
(cpu,) = tf.config.list_physical_devices("CPU")
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
from cog_agents import distribution, train_main
# A second strategy in a process would give its collective operations the keys of the first one's.
distribution.strategy = functools.cache(distribution.strategy)
for flags in json.loads(sys.argv[1]):
  assert train_main.main(["--devices=2", *flags]) == 0
"""
# With the warm start's end, and before rounding has moved a ReLU across its kink: of the few that
# these networks have.
STEPS, HALF = 4, 2
SMALL = [
  "--override=batch_size=16",
  "--override=q_hidden_sizes=[16, 16]",
  "--override=policy_hidden_sizes=[16]",
  "--override=conv_filters=[4, 4]",
  '--override=image_dtype="float32"',
]
# Of the largest entry of a variable, in float32. Two devices add up the rows in another order:
# 2.4e-6 was the most after 9 steps. A gradient of half the size would differ by 0.5 in Adam's
# moments.
TOLERANCE = 1e-4
RUNS = {
  "cog_state": ["--method=cog", "--observation=state"],
  "cog_image": ["--method=cog", "--observation=image"],
  "cog_state_critics": [
    *("--method=cog", "--observation=image"),
    '--override=critic_keys=["state", "simulator_state"]',
  ],
  "bc_init_state": ["--method=bc_init", "--observation=state"],
  "bc_image": ["--method=bc", "--observation=image"],
}
HANDED_OVER = ("to_two", "to_one")


@pytest.fixture(scope="module")
def root(tmp_path_factory):
  """Folders of runs of STEPS steps: one/NAME and two/NAME, and those that changed devices."""
  root = tmp_path_factory.mktemp("distribution")
  fakes.write_dataset(root, "prior", num_episodes=6, num_steps=5, has_images=True)
  fakes.write_dataset(root, "task", num_episodes=4, num_steps=5, rewarded=True, has_images=True)

  def flags(run, name="cog_state", steps=STEPS):
    return [
      "--prior=prior", "--task=task", f"--data_dir={root}", "--environment=place_in_tray",
      f"--run_dir={root / run}", f"--steps={steps}", f"--log_every={HALF}",
      f"--checkpoint_every={HALF}", "--evaluate_every=0", f"--override=bc_steps={HALF}",
      *SMALL, *RUNS[name],
    ]  # fmt: skip

  for name in RUNS:
    assert train_main.main(flags(f"one/{name}", name)) == 0
  assert train_main.main(flags("to_two", steps=HALF)) == 0
  on_two = [flags(f"two/{name}", name) for name in RUNS]
  on_two += [flags("to_two"), flags("to_one", steps=HALF)]
  command = [sys.executable, "-c", ON_TWO_DEVICES, json.dumps(on_two)]
  process = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
  assert process.returncode == 0, process.stderr
  assert train_main.main(flags("to_one")) == 0
  return root


def variables(run_dir):
  reader = tf.train.load_checkpoint(str(run_dir / "checkpoints"))
  names = [name for name in reader.get_variable_to_shape_map() if "OBJECT_GRAPH" not in name]
  return {name: reader.get_tensor(name) for name in names if "save_counter" not in name}


def assert_close(expected, actual, name):
  error = np.max(np.abs(expected.astype(np.float64) - actual))
  assert error <= TOLERANCE * np.max(np.abs(expected)), name


def assert_same_run(expected_dir, actual_dir):
  expected, actual = variables(expected_dir), variables(actual_dir)
  assert expected.keys() == actual.keys()
  assert any(name.endswith("_actor_optimizer/m/.ATTRIBUTES/VARIABLE_VALUE") for name in expected)
  for name, value in expected.items():
    assert_close(value, actual[name], name)
  rows = [run_dirs.read_metrics(folder) for folder in (expected_dir, actual_dir)]
  assert [row["step"] for row in rows[1]] == [HALF, STEPS]
  for one, two in zip(*rows, strict=True):
    assert one.pop("steps_per_second") and two.pop("steps_per_second")
    assert two == pytest.approx(one, rel=1e-5)


@pytest.mark.parametrize("name", RUNS)
def test_two_devices_take_the_steps_of_one(root, name):
  assert_same_run(root / "one" / name, root / "two" / name)


@pytest.mark.parametrize("name", HANDED_OVER)
def test_a_run_goes_on_with_another_number_of_devices(root, name):
  assert_same_run(root / "one" / "cog_state", root / name)


@pytest.mark.parametrize("kind", [evaluate.GREEDY, evaluate.STOCHASTIC])
def test_the_exported_policy_is_that_of_one_device(root, kind):
  one, two = (
    tf.saved_model.load(str(run_dirs.latest_export(root / devices / "cog_image") / kind))
    for devices in ("one", "two")
  )
  assert int(two.get_train_step()) == STEPS
  assert len(one.model_variables) == len(two.model_variables)
  for expected, actual in zip(one.model_variables, two.model_variables, strict=True):
    assert_close(expected.numpy(), actual.numpy(), expected.name)


def _fake_gpus(monkeypatch, count):
  """Makes TensorFlow find GPUs; returns the list of those that a strategy asks to see."""
  gpus = [types.SimpleNamespace(name=f"GPU:{i}") for i in range(count)]
  visible = []
  monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind: gpus)
  monkeypatch.setattr(tf.config, "set_visible_devices", lambda seen, kind: visible.extend(seen))
  monkeypatch.setattr(tf.config, "list_logical_devices", lambda kind: visible)
  monkeypatch.setattr(tf.distribute, "MirroredStrategy", lambda names: names)
  return visible


def test_the_first_gpus_are_used_and_the_others_hidden(monkeypatch):
  visible = _fake_gpus(monkeypatch, count=3)
  assert distribution.strategy(2) == ["GPU:0", "GPU:1"]
  assert [gpu.name for gpu in visible] == ["GPU:0", "GPU:1"]


def test_too_few_gpus_are_counted(monkeypatch):
  _fake_gpus(monkeypatch, count=3)
  with pytest.raises(ValueError, match="--devices=4: TensorFlow finds 3 GPUs"):
    distribution.strategy(4)


def test_one_device_needs_no_gpu(monkeypatch):
  visible = _fake_gpus(monkeypatch, count=0)
  assert distribution.strategy(1) is tf.distribute.get_strategy()
  assert not visible
