import dataclasses
import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import tensorflow as tf

from cog_agents import config as config_lib
from cog_agents import evaluate, experience, experiments, run_dirs, train, train_main
from tests import fakes

ROOT = pathlib.Path(__file__).parents[2]
SMALL = {"batch_size": 16, "q_hidden_sizes": (16, 16), "policy_hidden_sizes": (16,)}
STEPS = 400


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
  data_dir = tmp_path_factory.mktemp("data")
  fakes.write_dataset(data_dir, "prior", num_episodes=6, num_steps=5, has_images=True)
  fakes.write_dataset(data_dir, "task", num_episodes=4, num_steps=5, rewarded=True, has_images=True)
  return str(data_dir)


def experiment(method="cog", observation=config_lib.STATE, **changes):
  agent = dataclasses.replace(config_lib.load_preset("FAST", observation), **SMALL)
  fields = {
    "task": "task",
    "environment": "place_in_tray",
    "method": method,
    "observation": observation,
    "seed": 0,
    "agent": agent,
    "prior": ("prior",),
  }
  return train.ExperimentConfig(**{**fields, **changes})


def schedule(steps):
  return train.Schedule(steps, log_every=200, evaluate_every=0, checkpoint_every=200)


def weights(run_dir):
  reader = tf.train.load_checkpoint(str(run_dir / "checkpoints"))
  names = [name for name in reader.get_variable_to_shape_map() if "OBJECT_GRAPH" not in name]
  return {name: reader.get_tensor(name) for name in names if "save_counter" not in name}


def assert_same_run(left, right):
  expected, actual = weights(left), weights(right)
  assert expected.keys() == actual.keys()
  for name, value in expected.items():
    np.testing.assert_array_equal(value, actual[name], err_msg=name)
  assert logged(left) == logged(right)


def logged(run_dir):
  rows = run_dirs.read_metrics(run_dir)
  return [{key: row[key] for key in row if key != "steps_per_second"} for row in rows]


def start(data_dir, run_dir):
  """Starts train_main in a process of its own."""
  command = [
    sys.executable, "-m", "cog_agents.train_main", "--prior=prior", "--task=task",
    f"--data_dir={data_dir}", "--environment=place_in_tray", f"--run_dir={run_dir}",
    f"--steps={STEPS}", "--log_every=5", "--checkpoint_every=50", "--evaluate_every=0",
    *(f"--override={name}={json.dumps(value)}" for name, value in SMALL.items()),
  ]  # fmt: skip
  return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)


def wait_for_step(process, run_dir, step):
  while process.poll() is None:
    rows = run_dirs.read_metrics(run_dir)
    if rows and rows[-1]["step"] > step:
      return
    time.sleep(0.01)
  raise AssertionError(f"the process ended with {process.returncode} before step {step}")


def test_a_run_that_was_interrupted_and_killed_ends_like_one_that_was_not(tmp_path, data_dir):
  broken, whole = tmp_path / "broken", tmp_path / "whole"
  process = start(data_dir, broken)
  wait_for_step(process, broken, 60)
  process.send_signal(signal.SIGINT)
  output, _ = process.communicate(timeout=300)
  assert process.returncode == 130
  stopped = int(re.search(r"Stopped after (\d+) of 400 gradient steps", output)[1])
  assert f"ckpt-{stopped}.index" in os.listdir(broken / "checkpoints")

  process = start(data_dir, broken)
  wait_for_step(process, broken, stopped + 60)
  process.kill()
  process.communicate()
  assert len(run_dirs.read_metrics(broken)) < STEPS / 5

  process = start(data_dir, broken)
  assert process.wait(timeout=300) == 0
  train.train(
    experiment(preset="FAST"),
    train.Schedule(STEPS, log_every=5, checkpoint_every=50, evaluate_every=0),
    whole,
    data_dir,
  )
  assert [row["step"] for row in run_dirs.read_metrics(broken)] == list(range(5, STEPS + 1, 5))
  assert_same_run(whole, broken)


@pytest.fixture(scope="module")
def finished(tmp_path_factory, data_dir):
  """A run of 200 steps that logged once."""
  run_dir = tmp_path_factory.mktemp("finished")
  train.train(experiment(prior_share=0.9), schedule(200), run_dir, data_dir)
  return run_dir


def test_the_realised_mixture_is_logged(finished):
  (row,) = run_dirs.read_metrics(finished)
  assert row["mixture/prior/1.0.0"] == pytest.approx(0.9, abs=0.03)
  assert row["mixture/prior/1.0.0"] + row["mixture/task/1.0.0"] == pytest.approx(1.0)


def test_a_finished_run_is_left_alone(finished, data_dir):
  before = {path: path.stat().st_mtime_ns for path in finished.rglob("*")}
  assert train.train(experiment(prior_share=0.9), schedule(200), finished, data_dir) == 200
  assert {path: path.stat().st_mtime_ns for path in finished.rglob("*")} == before


def test_another_configuration_in_the_same_folder_is_refused_with_the_differences(
  finished, data_dir
):
  agent = dataclasses.replace(experiment().agent, n_step=7)
  other = experiment(seed=1, agent=agent, prior_share=0.9)
  with pytest.raises(run_dirs.RunError) as error:
    train.train(other, schedule(200), finished, data_dir)
  assert re.search(r"Differences .*: agent\.n_step: \d → 7; seed: 0 → 1$", str(error.value))


def test_a_run_from_before_a_hyperparameter_goes_on_without_it(finished, data_dir, tmp_path):
  run_dir = tmp_path / "copy"
  shutil.copytree(finished, run_dir)
  record = json.loads((run_dir / "config.json").read_text())
  del record["agent"]["log_std_range"]
  (run_dir / "config.json").write_text(json.dumps(record))
  assert run_dirs.read_config(run_dir)["agent"]["log_std_range"] == [-5.0, 2.0]
  assert train.train(experiment(prior_share=0.9), schedule(400), run_dir, data_dir) == 400


@pytest.mark.parametrize("critic_keys", [None, ("state", "simulator_state")])
def test_a_configuration_is_read_back_from_its_record(critic_keys):
  agent = dataclasses.replace(config_lib.FAST_IMAGE, critic_keys=critic_keys)
  config = experiment(observation=config_lib.IMAGE, agent=agent, prior=("a", "b"))
  record = {**dataclasses.asdict(config), "steps": 7, "datasets": ["a/1.0.0"]}
  assert train.ExperimentConfig.from_record(json.loads(json.dumps(record))) == config


def test_more_steps_continue_a_finished_run(finished, data_dir, tmp_path):
  run_dir = tmp_path / "copy"
  shutil.copytree(finished, run_dir)
  assert train.train(experiment(prior_share=0.9), schedule(400), run_dir, data_dir) == 400
  assert [row["step"] for row in run_dirs.read_metrics(run_dir)] == [200, 400]
  assert [folder.name for folder in (run_dir / "policies").iterdir()] == ["000000400"]


# State runs are quick to trace; one image run stands for the others, which share its networks.
@pytest.mark.parametrize(
  ("method", "observation"),
  [*((method, config_lib.STATE) for method in experiments.METHODS), ("bc", config_lib.IMAGE)],
)
def test_every_method_trains_and_exports_its_policies(tmp_path, data_dir, method, observation):
  assert train.train(experiment(method, observation), schedule(200), tmp_path, data_dir) == 200
  assert (tmp_path / "config.json").exists()
  assert list((tmp_path / "tensorboard").glob("events*"))
  export = run_dirs.latest_export(tmp_path)
  assert export.name == "000000200"
  for name in (evaluate.GREEDY, evaluate.STOCHASTIC):
    assert int(tf.saved_model.load(str(export / name)).get_train_step()) == 200
  (row,) = run_dirs.read_metrics(tmp_path)
  assert {"loss", "actor_loss", "entropy", "steps_per_second"} <= row.keys()
  assert all(np.isfinite(value) for value in row.values())


@pytest.mark.parametrize(
  ("method", "names"),
  [
    ("cog", ("prior", "task")),
    ("no_prior", ("task",)),
    ("bc_init", ("prior", "task")),
    ("bc", ("prior", "task")),
    ("bc_oracle", ("task",)),
    ("sac", ("prior", "task")),
  ],
)
def test_a_method_reads_the_datasets_that_it_uses(method, names):
  assert experiment(method).dataset_names() == names


def with_overrides(method, **changes):
  overrides = {**experiments.method(method).overrides, **changes}
  return experiment(method, agent=dataclasses.replace(experiment().agent, **overrides))


def test_bc_init_clones_prior_data_and_then_learns_from_task_data_alone(tmp_path, data_dir):
  config = with_overrides("bc_init", bc_steps=200)
  train.train(config, schedule(200), tmp_path / "resumed", data_dir)
  for name in ("resumed", "whole"):  # the one goes on where the data change
    train.train(config, schedule(400), tmp_path / name, data_dir)
  first, second = run_dirs.read_metrics(tmp_path / "whole")
  assert first["mixture/prior/1.0.0"] == 1.0 and second["mixture/task/1.0.0"] == 1.0
  assert_same_run(tmp_path / "whole", tmp_path / "resumed")


def test_the_critics_of_bc_init_wait_for_the_warm_start(data_dir):
  config = with_overrides("bc_init", bc_steps=20)
  data = experience.load(
    config.dataset_names(), data_dir=data_dir, observation_keys=config_lib.STATE_RUN_KEYS
  )
  learner = train.Learner(config, data)
  before = [variable.numpy() for variable in learner.agent.critic_variables()]
  learner.run(20)
  for variable, value in zip(learner.agent.critic_variables(), before, strict=True):
    np.testing.assert_array_equal(variable.numpy(), value)
  learner.run(1)
  moved = [
    np.any(variable.numpy() != value)
    for variable, value in zip(learner.agent.critic_variables(), before, strict=True)
  ]
  assert all(moved)


def test_a_run_that_diverges_says_when(tmp_path, data_dir):
  config = with_overrides("sac", critic_learning_rate=1e30)
  for _ in range(2):  # the second time it is known
    with pytest.raises(train.DivergenceError, match="between the gradient steps 0 and 25: critic"):
      train.train(config, schedule(200), tmp_path, data_dir)
  assert "critic_loss is inf or nan" in run_dirs.read_divergence(tmp_path)["message"]


def test_another_error_of_a_step_is_no_divergence(tmp_path):
  class Learner:
    step = 0

    def run(self, count):
      raise tf.errors.InvalidArgumentError(None, None, "image.npy has become shorter")

  with pytest.raises(tf.errors.InvalidArgumentError, match="has become shorter"):
    train.run_steps(Learner(), 25, tmp_path)
  assert run_dirs.read_divergence(tmp_path) is None


def test_two_prior_datasets_share_their_share():
  config = experiment("cog", prior=("prior", "more"))
  assert config.dataset_names() == ("prior", "more", "task")
  counts = np.array([300, 100, 50])
  assert config.phases(counts) == [(0, None)]
  ((_, weights),) = dataclasses.replace(config, prior_share=0.8).phases(counts)
  np.testing.assert_allclose(weights, [0.6, 0.2, 0.2])


def test_a_run_keeps_its_precision_of_images_on_another_processor(tmp_path, monkeypatch):
  flags = ["--task=t", "--prior=p", "--observation=image", "--environment=place_in_tray"]
  flags.append(f"--run_dir={tmp_path}")
  for dtype in config_lib.IMAGE_DTYPES:
    (tmp_path / "config.json").write_text(json.dumps({"agent": {"image_dtype": dtype}}))
    assert train_main.agent_config_of(flags).image_dtype == dtype
    paper = train_main.agent_config_of([*flags, "--preset=PAPER"])
    assert paper.image_dtype == config_lib.PAPER.image_dtype  # whatever the run has
  asked = [*flags, '--override=image_dtype="float32"']
  assert train_main.agent_config_of(asked).image_dtype == "float32"


def test_a_method_with_prior_data_wants_a_prior_dataset():
  with pytest.raises(ValueError, match="'cog' needs at least one prior dataset"):
    experiment("cog", prior=()).dataset_names()


def test_a_run_with_a_hyperparameter_that_is_no_more_is_refused():
  record = json.loads(json.dumps(dataclasses.asdict(experiment())))
  assert train.ExperimentConfig.from_record(record) == experiment()
  record["agent"]["trunk_size"] = 50
  with pytest.raises(run_dirs.RunError, match=r"does not know: \['trunk_size'\]; use the version"):
    train.ExperimentConfig.from_record(record)
  del record["agent"]["trunk_size"]
  record["agent"]["gamma"] = 0.99
  with pytest.raises(run_dirs.RunError, match="this version refuses: target_range must hold"):
    train.ExperimentConfig.from_record(record)


def test_an_unknown_dataset_leaves_no_run_behind(tmp_path, data_dir):
  with pytest.raises(experience.DatasetError, match=r"prior:1\.0\.0"):
    train.train(experiment(task="tusk"), schedule(200), tmp_path / "run", data_dir)
  assert not (tmp_path / "run").exists()


def test_a_signal_that_ends_the_simulators_too_leaves_a_checkpoint(tmp_path, data_dir):
  command = [
    *(sys.executable, "-m", "cog_agents.train_main", "--prior=prior", "--task=task"),
    *(f"--data_dir={data_dir}", "--environment=place_in_tray", f"--run_dir={tmp_path}"),
    *("--steps=100000", "--log_every=5", "--checkpoint_every=100000", "--evaluate_every=5"),
    *(f"--override={name}={json.dumps(value)}" for name, value in SMALL.items()),
  ]
  process = subprocess.Popen(command, cwd=ROOT, start_new_session=True, stderr=subprocess.PIPE)
  while process.poll() is None and not run_dirs.read_metrics(tmp_path):
    time.sleep(0.05)
  os.killpg(process.pid, signal.SIGTERM)  # as `timeout` and schedulers do
  _, errors = process.communicate(timeout=120)
  assert process.returncode == 130, errors.decode()
  assert list((tmp_path / "checkpoints").glob("*.index"))
  assert all("success_rate" in row for row in run_dirs.read_metrics(tmp_path))


@pytest.mark.parametrize("lost", [1, 2])  # of two evaluations
def test_an_evaluation_that_is_lost_with_the_simulators_is_made_up_for(
  tmp_path, data_dir, lose_simulators, lost
):
  lose_simulators(lost)
  evaluated = dataclasses.replace(schedule(400), evaluate_every=200, evaluation_episodes=1)
  broken, whole = tmp_path / "broken", tmp_path / "whole"
  if lost == 2:
    with pytest.raises(KeyboardInterrupt):
      train.train(experiment(), evaluated, broken, data_dir)
    assert not run_dirs.exported_steps(broken)  # which would say that nothing is left to do
  else:
    assert train.train(experiment(), evaluated, broken, data_dir) == 200
  for run_dir in (broken, whole):
    assert train.train(experiment(), evaluated, run_dir, data_dir) == 400
  assert [row["step"] for row in run_dirs.read_metrics(broken) if "success_rate" in row] == [
    200,
    400,
  ]
  assert_same_run(whole, broken)


def test_task_data_of_another_task_are_refused(tmp_path):
  fakes.write_dataset(tmp_path, "prior", environment="place_in_tray")
  fakes.write_dataset(tmp_path, "task", environment="drawer_open")
  with pytest.raises(experience.DatasetError, match="'drawer_open', for another task than that of"):
    train.train(experiment(), schedule(200), tmp_path / "run", tmp_path)
  assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
  ("flags", "message"),
  [
    (["--seed=-1"], "expected at least 0, got -1"),
    (["--override=batch_size=0"], "batch_size must be at least 1, got 0"),
    (["--method=bc_init", "--prior_share=0.5"], "--method=bc_init draws no batch from prior and"),
  ],
)
def test_flags_that_cannot_be_followed_are_refused(tmp_path, capsys, flags, message):
  with pytest.raises(SystemExit):
    train_main.main(
      [
        *("--prior=prior", "--task=task", "--environment=place_in_tray"),
        *(f"--run_dir={tmp_path / 'run'}", *flags),
      ]
    )
  assert message in capsys.readouterr().err


def test_metrics_keep_what_the_checkpoint_knows_and_drop_the_rest(tmp_path):
  lines = [json.dumps({"step": step, "loss": 0.5}) for step in (2, 4, 6)]
  (tmp_path / "metrics.jsonl").write_text("\n".join(lines) + '\n{"step": 8, "lo')
  metrics = train.Metrics(tmp_path, step=4)
  metrics.write({"step": 6, "loss": 0.25})
  metrics.close()
  assert run_dirs.read_metrics(tmp_path) == [
    {"step": 2, "loss": 0.5},
    {"step": 4, "loss": 0.5},
    {"step": 6, "loss": 0.25},
  ]


def test_intervals_that_do_not_fit_are_refused():
  with pytest.raises(ValueError, match="evaluate_every must be a multiple of log_every=100"):
    train.Schedule(1_000, log_every=100, evaluate_every=250)
