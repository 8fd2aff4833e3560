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
from tf_agents.policies import greedy_policy
from tf_agents.trajectories import time_step as ts

from cog_agents import bc, cql, evaluate, finetune, finetune_main, online, report, run_dirs, train
from cog_agents import config as config_lib
from collection import registry, specs
from tests import fakes

ROOT = pathlib.Path(__file__).parents[2]
ENVIRONMENT = "place_in_tray_held"
SMALL = {
  "batch_size": 16,
  "q_hidden_sizes": (16, 16),
  "policy_hidden_sizes": (16,),
  "conv_filters": (4, 4, 4),
}
STEPS = 50  # of a run before it is fine-tuned
ROUND = {"episodes_per_round": 3, "steps_per_round": 40}
QUICK = {**ROUND, "monitoring_episodes": 1, "evaluation_episodes": 2, "num_workers": 1}


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
  """A folder with small runs, METHOD_OBSERVATION.

  METHOD_asymmetric: the policy sees the robot's state, the critics the simulator's.
  """
  root = tmp_path_factory.mktemp("runs")
  fakes.write_dataset(root / "data", "prior", has_images=True)
  fakes.write_dataset(root / "data", "task", rewarded=True, has_images=True)
  asymmetric = {"image_run_keys": (specs.STATE,), "critic_keys": (specs.SIMULATOR_STATE,)}
  for method, observation, sees in (
    ("cog", "state", {}),
    ("bc", "image", {}),
    ("cog", "asymmetric", asymmetric),
    ("bc", "asymmetric", asymmetric),
  ):
    name, observation = f"{method}_{observation}", "image" if sees else observation
    agent = dataclasses.replace(config_lib.load_preset("FAST", observation), **SMALL, **sees)
    config = train.ExperimentConfig(
      task="task",
      prior=("prior",),
      environment=ENVIRONMENT,
      method=method,
      observation=observation,
      seed=3,
      agent=agent,
    )
    schedule = train.Schedule(STEPS, log_every=STEPS, evaluate_every=0, checkpoint_every=STEPS)
    train.train(config, schedule, root / name, str(root / "data"))
  return root


@pytest.fixture
def run(runs, tmp_path):
  """Copies a run, so that each test has one of its own."""
  return lambda name: shutil.copytree(runs / name, tmp_path / name)


def quickly(run_dir, episodes, environment=ENVIRONMENT, **changes):
  schedule = finetune.Schedule(episodes, **{**QUICK, **changes})
  return finetune.finetune(finetune.configure(run_dir, environment), schedule, run_dir)


def variables(checkpoint, part):
  """The variables of a checkpoint whose name has a part, by name."""
  reader = tf.train.load_checkpoint(str(checkpoint))
  names = [name for name in reader.get_variable_to_shape_map() if part in name]
  return {name: reader.get_tensor(name) for name in names if "OBJECT_GRAPH" not in name}


def assert_same_variables(left, right):
  assert left and left.keys() == right.keys()
  for name, value in left.items():
    np.testing.assert_array_equal(value, right[name], err_msg=name)


def test_a_run_of_cql_goes_on_where_it_ended(run):
  run_dir = run("cog_state")
  result = quickly(run_dir, episodes=3)
  folder = run_dir / "finetune" / ENVIRONMENT
  assert result.folder == folder and result.episodes == 3
  before = variables(run_dir / "checkpoints" / f"ckpt-{STEPS}", "agent/")
  # The optimisers' moments, the temperature, the targets and the statistics are among them.
  assert_same_variables(before, variables(folder / "checkpoints" / f"ckpt-{STEPS}", "agent/"))
  config = finetune.configure(run_dir, ENVIRONMENT)
  assert config.agent == dataclasses.replace(config_lib.FAST_STATE, **SMALL)
  first, second = run_dirs.read_metrics(folder)
  assert (first["step"], first["episodes"]) == (STEPS, 0)
  assert (second["step"], second["episodes"]) == (STEPS + 40, 3)
  assert {"success_rate", "collected_success_rate", "td_loss", "cql_loss"} <= second.keys()
  assert list((folder / "tensorboard").glob("events*"))


def test_the_outcome_is_a_run_that_can_be_evaluated_and_reported_beside_the_first(run):
  run_dir = run("cog_state")
  evaluation = quickly(run_dir, episodes=3).evaluation
  folder = run_dir / "finetune" / ENVIRONMENT
  assert evaluation == json.loads((folder / "evaluations" / f"{ENVIRONMENT}.json").read_text())
  assert [trial["seed"] for trial in evaluation["trials"]] == [*registry.EVALUATION_SEEDS[:2]]
  evaluate.evaluate_run(run_dir, num_episodes=2, num_workers=1, num_video_episodes=0)
  contents, _ = report.write(run_dir, run_dir / "report.html")
  assert [x["steps"] for run in contents.runs for x in run.evaluations] == [STEPS]
  assert [x["steps"] for run in contents.fine_tunings for x in run.evaluations] == [STEPS + 40]
  assert "new episodes" in (run_dir / "report.html").read_text()


def test_more_episodes_continue_and_the_same_number_changes_nothing(run):
  run_dir = run("cog_state")
  quickly(run_dir, episodes=3)
  folder = run_dir / "finetune" / ENVIRONMENT
  there = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
  assert quickly(run_dir, episodes=3).episodes == 3
  assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == there
  assert quickly(run_dir, episodes=6).evaluation["steps"] == STEPS + 80
  rows = run_dirs.read_metrics(folder)
  assert [(row["step"], row["episodes"]) for row in rows] == [(50, 0), (90, 3), (130, 6)]
  episodes = online.EpisodeFolder(folder / "episodes")
  assert [episodes[i].seed for i in range(6)] == [*registry.FINETUNING_SEEDS[:6]]
  for i in range(3):
    path = folder / "episodes" / f"{i:06d}.npz"
    assert path.stat().st_mtime_ns == there[path]
  successes = [episodes[i].success for i in range(6)]
  assert rows[1]["collected_success_rate"] == pytest.approx(np.mean(successes[:3]))
  assert rows[2]["collected_success_rate"] == pytest.approx(np.mean(successes[3:]))


@pytest.mark.parametrize("observation", config_lib.OBSERVATIONS)
def test_sac_takes_over_a_cloned_policy_and_what_it_sees_with(observation):
  config = dataclasses.replace(config_lib.load_preset("FAST", observation), **SMALL)
  generator = np.random.default_rng(0)
  batch = {specs.STATE: generator.normal(size=(5, specs.STATE_SIZE)).astype(np.float32)}
  if observation == config_lib.IMAGE:
    shape = (5, *specs.IMAGE_SHAPE)
    batch[specs.IMAGE] = generator.integers(0, 256, size=shape, dtype=np.uint8)
  spec = {key: tf.TensorSpec(x.shape[1:], x.dtype, key) for key, x in batch.items()}
  statistics = {specs.STATE: (np.full(7, 0.5), np.full(7, 2.0))}
  cloned = bc.create(spec, config, statistics, seed=0)
  for variable in cloned.policy_network.trainable_variables:
    variable.assign_add(0.1 * generator.normal(size=variable.shape).astype(np.float32))
  cloned.train_step_counter.assign(50)

  agent = cql.create(spec, config, cloned.policy_network.encoder.statistics, seed=1)
  finetune.take_over(agent, cloned)
  assert agent.train_step_counter == 50
  moments = [net.moments(batch) for net in (agent.policy_network, cloned.policy_network)]
  np.testing.assert_array_equal(moments[0], moments[1])
  greedy = [x.policy.action(ts.restart(batch, 5)).action for x in (agent, cloned)]
  np.testing.assert_array_equal(greedy[0], greedy[1])
  critic, target = agent._critic_network_1, agent._target_critic_network_1
  for net in (critic, target):
    mean, std = net.encoder.statistics[specs.STATE]
    np.testing.assert_allclose(mean, 0.5)
    np.testing.assert_allclose(std, 2.0)
  actions = np.zeros((5, 1, specs.ACTION_SIZE), np.float32)
  values = [net.values(net.encode(batch), actions) for net in (critic, target)]
  np.testing.assert_array_equal(values[0], values[1])
  assert np.abs(values[0]).max() < 0.01  # fresh ones start near zero


def test_a_cloned_policy_goes_on_by_sac(run):
  run_dir = run("bc_image")
  config = finetune.configure(run_dir, ENVIRONMENT)
  assert config.method == "bc_sac"
  assert (config.agent.cql_alpha, config.agent.actor_bc_weight, config.agent.bc_steps) == (0, 0, 0)
  evaluation = quickly(run_dir, episodes=3).evaluation
  assert (evaluation["method"], evaluation["policy"]) == ("bc_sac", evaluate.GREEDY)
  folder = run_dir / "finetune" / ENVIRONMENT
  before, after = (
    variables(x / "checkpoints" / f"ckpt-{STEPS}", "_actor_network/_moments_layer/kernel/.ATTR")
    for x in (run_dir, folder)
  )
  assert_same_variables(before, after)
  row = run_dirs.read_metrics(folder)[-1]
  assert row["cql_loss"] == 0 and row["td_loss"] > 0
  stored = online.EpisodeFolder(folder / "episodes")[1].observations
  assert {key: x.dtype for key, x in stored.items()} == {"image": np.uint8, "state": np.float32}


@pytest.mark.parametrize(
  ("method", "learned_from"),
  [
    ("cog", {specs.STATE, specs.SIMULATOR_STATE}),
    ("bc", {specs.STATE}),  # new critics see what the cloned policy has the statistics of
  ],
)
def test_critics_go_on_with_what_they_see_and_the_policy_asks_for_less(run, method, learned_from):
  run_dir = run(f"{method}_asymmetric")
  result = quickly(run_dir, episodes=3)
  assert set(online.EpisodeFolder(result.folder / "episodes")[0].observations) == learned_from
  assert result.evaluation["episodes"] == 2
  for folder in (run_dir, result.folder):
    assert run_dirs.read_config(folder)["observation_keys"] == [specs.STATE]
    policy = tf.saved_model.load(str(run_dirs.latest_export(folder) / evaluate.GREEDY))
    seen = {specs.STATE: tf.zeros((1, specs.STATE_SIZE))}
    assert policy.action(ts.restart(seen, 1)).action.shape == (1, specs.ACTION_SIZE)
  assert run_dirs.read_metrics(result.folder)[-1]["td_loss"] > 0


@pytest.mark.parametrize(("name", "explores"), [("cog_state", "greedy"), ("bc_image", "sample")])
def test_cql_collects_with_its_greedy_policy_and_noise_and_sac_with_its_own(
  run, name, explores, monkeypatch
):
  collectors = []

  class Collector(online.Collector):
    def __init__(self, environment, policy, seed):
      collectors.append(policy)
      super().__init__(environment, policy, seed)

  monkeypatch.setattr(online, "Collector", Collector)
  quickly(run(name), episodes=3)
  (policy,) = collectors
  assert isinstance(policy, evaluate.EpisodeSeededPolicy)
  if explores == "greedy":
    assert isinstance(policy._policy, greedy_policy.GreedyPolicy)
    assert policy._noise_std == finetune.EXPLORATION_NOISE
  else:
    assert not isinstance(policy._policy, greedy_policy.GreedyPolicy) and not policy._noise_std


def start(run_dir):
  """Starts finetune_main in a process of its own."""
  command = [
    sys.executable, "-m", "cog_agents.finetune_main", f"--run_dir={run_dir}",
    f"--environment={ENVIRONMENT}", "--episodes=9", "--episodes_per_round=3",
    "--steps_per_round=400", "--monitoring_episodes=1", "--evaluation_episodes=2", "--workers=1",
  ]  # fmt: skip
  return subprocess.Popen(
    command, cwd=ROOT, stdout=subprocess.PIPE, text=True, start_new_session=True
  )


def wait_for_episodes(process, folder, count):
  while process.poll() is None:
    if len(online.EpisodeFolder(folder)) >= count:
      return
    time.sleep(0.01)
  raise AssertionError(f"the process ended with {process.returncode} before episode {count}")


def contents(folder):
  return {path.name: path.read_bytes() for path in folder.glob("*.npz")}


def test_no_episode_is_lost_by_an_interrupt_or_a_kill(run):
  run_dir = run("cog_state")
  folder = run_dir / "finetune" / ENVIRONMENT
  process = start(run_dir)
  wait_for_episodes(process, folder / "episodes", 2)
  process.send_signal(signal.SIGINT)
  output, _ = process.communicate(timeout=600)
  assert process.returncode == 130
  stopped = int(re.search(r"Stopped after (\d) of 9 episodes", output)[1])
  interrupted = contents(folder / "episodes")
  assert len(interrupted) == stopped >= 2

  process = start(run_dir)
  wait_for_episodes(process, folder / "episodes", stopped + 2)
  process.kill()
  process.communicate()
  killed = contents(folder / "episodes")
  assert killed.items() > interrupted.items()
  assert len(killed) < 9

  process = start(run_dir)
  assert process.wait(timeout=600) == 0
  assert contents(folder / "episodes").items() > killed.items()
  assert sorted(os.listdir(folder / "episodes")) == [f"{i:06d}.npz" for i in range(9)]
  assert [online.EpisodeFolder(folder / "episodes")[i].seed for i in range(9)] == [
    *registry.FINETUNING_SEEDS[:9]
  ]
  rows = run_dirs.read_metrics(folder)
  expected = [(STEPS + 400 * i, 3 * i) for i in range(4)]
  assert [(row["step"], row["episodes"]) for row in rows] == expected
  assert run_dirs.latest_export(folder).name == f"{STEPS + 1200:09d}"


@pytest.mark.parametrize("episodes", [0, 1, 3])  # evaluating, collecting, learning
def test_a_signal_that_ends_the_simulators_too_loses_nothing(run, episodes):
  run_dir = run("cog_state")
  folder = run_dir / "finetune" / ENVIRONMENT
  process = start(run_dir)
  while not (folder / "config.json").exists():
    assert process.poll() is None
    time.sleep(0.01)
  wait_for_episodes(process, folder / "episodes", episodes)
  os.killpg(process.pid, signal.SIGTERM)  # as `timeout` and schedulers do
  output, _ = process.communicate(timeout=600)
  assert process.returncode == 130, output
  collected = contents(folder / "episodes")
  assert f"Stopped after {len(collected)} of 9 episodes" in output

  process = start(run_dir)
  assert process.wait(timeout=600) == 0
  assert contents(folder / "episodes").items() >= collected.items()
  assert [row["episodes"] for row in run_dirs.read_metrics(folder)] == [0, 3, 6, 9]


@pytest.mark.parametrize("lost", [2, 3])  # after the first round and after the last
def test_an_evaluation_that_is_lost_with_the_simulators_is_made_up_for(run, lose_simulators, lost):
  lose_simulators(lost)
  run_dir = run("cog_state")
  if lost == 3:
    with pytest.raises(KeyboardInterrupt):
      quickly(run_dir, episodes=6)
  else:
    assert quickly(run_dir, episodes=6).evaluation is None
  collected = contents(run_dir / "finetune" / ENVIRONMENT / "episodes")
  assert len(collected) == 3 * (lost - 1)

  assert quickly(run_dir, episodes=6).evaluation
  rows = run_dirs.read_metrics(run_dir / "finetune" / ENVIRONMENT)
  assert [(row["step"], row["episodes"]) for row in rows] == [
    (STEPS, 0), (STEPS + 40, 3), (STEPS + 80, 6),
  ]  # fmt: skip
  assert all("success_rate" in row for row in rows)
  assert contents(run_dir / "finetune" / ENVIRONMENT / "episodes").items() >= collected.items()


@pytest.mark.parametrize(
  ("name", "flags", "message"),
  [
    (
      "cog_state",
      ["--environment=drawer_open"],
      "expected one of: place_in_tray_held, place_in_tray",
    ),
    ("cog_state", ["--override=depth=3"], "unknown field 'depth'"),
    ("cog_state", ["--override=policy_hidden_sizes=[17]"], "does not fit the agent"),
    ("cog_state", ['--override=critic_keys=["x"]'], "no observations ['x']; expected some of"),
    ("bc_image", ['--override=critic_keys=["simulator_state"]'], "cannot see ['simulator_state']"),
    ("cog_state", ["--episodes=0"], "expected at least 1, got 0"),
    ("cog_state", ["--episodes=15"], "episodes=15 is no multiple of episodes_per_round=10"),
  ],
)
def test_a_mistake_is_explained_and_exits_with_2(run, name, flags, message, capsys):
  run_dir = run(name)
  with pytest.raises(SystemExit) as exit_info:
    finetune_main.main(
      [f"--run_dir={run_dir}", f"--environment={ENVIRONMENT}", "--workers=1", *flags]
    )
  assert exit_info.value.code == 2
  assert message in capsys.readouterr().err
  assert not list(run_dir.glob("finetune/*/config.json"))  # so that the right command goes on


def test_a_run_without_a_checkpoint_says_so(run):
  run_dir = run("cog_state")
  shutil.rmtree(run_dir / "checkpoints")
  with pytest.raises(run_dirs.RunError, match="has no checkpoint"):
    quickly(run_dir, episodes=3)


def test_what_no_longer_fits_is_refused(run):
  run_dir = run("cog_state")
  quickly(run_dir, episodes=3)
  folder = run_dir / "finetune" / ENVIRONMENT
  with pytest.raises(run_dirs.RunError, match=r"move that folder.*: episodes_per_round: 3 → 2$"):
    quickly(run_dir, episodes=6, episodes_per_round=2)
  with pytest.raises(run_dirs.RunError, match="is a run of the method 'cog_finetuned'"):
    finetune.configure(folder, ENVIRONMENT)
  shutil.move(folder / "checkpoints", run_dir / "aside")
  with pytest.raises(run_dirs.RunError, match="has 3 episodes and no checkpoint"):
    quickly(run_dir, episodes=6)
  shutil.rmtree(folder / "checkpoints", ignore_errors=True)
  shutil.move(run_dir / "aside", folder / "checkpoints")
  (folder / "episodes" / "000001.npz").unlink()
  with pytest.raises(run_dirs.RunError, match=r"from 3 episodes.* has the first 1; copy"):
    quickly(run_dir, episodes=6)
