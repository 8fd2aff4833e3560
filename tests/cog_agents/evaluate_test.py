import json

import numpy as np
import pytest
import tensorflow as tf
from tf_agents.trajectories import time_step as ts

from cog_agents import bc, cql, environments, evaluate, run_dirs
from cog_agents import config as config_lib
from collection import registry, specs
from tests import fakes

KEYS = config_lib.STATE_RUN_KEYS


class ScriptedEnvironment:
  """Rewards by seed; the observation is the seed."""

  REWARDS = {1: [0, 1, 0], 2: [0, 0, 0], 3: [0, 1, 1], 4: [1, 1, 1], 5: [0, 0, 1]}

  def __init__(self, batch_size):
    self.batch_size = batch_size

  def seed(self, seeds):
    self._seeds = seeds

  def reset(self):
    self._t = 0
    return ts.restart(np.array(self._seeds, np.float32)[:, None], self.batch_size)

  def step(self, action):
    np.testing.assert_array_equal(action[:, 0], self._seeds)
    rewards = np.array([self.REWARDS[seed][self._t] for seed in self._seeds], np.float32)
    self._t += 1
    step_type = np.full(len(rewards), ts.StepType.LAST if self._t == 3 else ts.StepType.MID)
    observation = np.array(self._seeds, np.float32)[:, None]
    return ts.TimeStep(step_type, rewards, np.ones_like(rewards), observation)


class EchoPolicy:
  """Returns the observation as the action."""

  def get_initial_state(self, batch_size):
    return ()

  def action(self, time_step, state):
    assert time_step.observation.shape[0] == evaluate.INFERENCE_BATCH
    return evaluate.policy_step.PolicyStep(time_step.observation, state)


@pytest.mark.parametrize("batch_size", [1, 2, 3, 9])
def test_trials_tell_success_ever_from_success_at_the_end(batch_size):
  caller = evaluate.PolicyCaller(EchoPolicy())
  trials = evaluate.rollout(ScriptedEnvironment(batch_size), caller, [1, 2, 3, 4, 5])
  assert trials == [
    evaluate.Trial(1, 1.0, True, False, 2),
    evaluate.Trial(2, 0.0, False, False, None),
    evaluate.Trial(3, 2.0, True, True, 2),
    evaluate.Trial(4, 3.0, True, True, 1),
    evaluate.Trial(5, 1.0, True, True, 3),
  ]


def test_the_summary_has_the_wilson_interval_of_the_headline_rate():
  trials = [evaluate.Trial(i, 0.0, i < 50, i < 25, None) for i in range(100)]
  summary = evaluate.summarize(trials)
  assert summary["success_rate"] == 0.5
  assert summary["success_at_end_rate"] == 0.25
  # 0.5 ± 1.96 √(0.25 + 1.96² / 400) / √100, over 1 + 1.96² / 100
  assert summary["interval"] == pytest.approx([0.40383, 0.59617], abs=1e-5)


@pytest.fixture(scope="module")
def policies():
  agent = _agent(bc)
  return {"greedy": agent.policy, "stochastic": evaluate.EpisodeSeededPolicy(agent.collect_policy)}


@pytest.mark.parametrize("name", ["greedy", "stochastic", "noisy"])
@pytest.mark.parametrize("observation", config_lib.OBSERVATIONS)
def test_an_action_does_not_depend_on_the_rows_beside_it(observation, name):
  agent = _agent(cql, observation)
  policy = {
    "greedy": agent.policy,
    "stochastic": evaluate.EpisodeSeededPolicy(agent.collect_policy),
    "noisy": evaluate.EpisodeSeededPolicy(agent.policy, noise_std=0.1),
  }[name]
  caller = evaluate.PolicyCaller(policy)
  time_step = _time_step(agent.time_step_spec.observation, num_rows=11)
  seeds = np.arange(100, 111)
  together, _ = caller.action(time_step, caller.initial_state(seeds))
  for rows in ([3], [4, 3], [10, 0, 7, 3, 9], [*range(11)][::-1]):
    part = tf.nest.map_structure(lambda x, rows=rows: x[rows], time_step)
    actions, _ = caller.action(part, caller.initial_state(seeds[rows]))
    np.testing.assert_array_equal(actions, together[rows])


def test_episodes_are_the_same_for_any_number_of_processes(policies):
  seeds = registry.EVALUATION_SEEDS[:3]
  histories = {}
  for num_environments in (1, 2):
    with environments.ParallelEnvironment("place_in_tray", KEYS, num_environments) as environment:
      for name, policy in policies.items():
        histories[num_environments, name] = _history(environment, policy, seeds)
  for name in policies:
    np.testing.assert_array_equal(histories[1, name], histories[2, name])
  assert np.any(histories[1, "greedy"] != histories[1, "stochastic"])


def test_noise_is_added_to_the_greedy_actions_and_kept_inside_the_bounds(policies):
  time_step = _time_step(policies["greedy"].time_step_spec.observation, num_rows=1)
  many = tf.nest.map_structure(lambda x: np.repeat(0 * x, 1000, axis=0), time_step)
  greedy = policies["greedy"].action(many).action
  for std in (0.1, 3.0):
    caller = evaluate.PolicyCaller(evaluate.EpisodeSeededPolicy(policies["greedy"], std))
    actions, _ = caller.action(many, caller.initial_state(np.arange(1000)))
    if std == 0.1:
      np.testing.assert_allclose(np.std(actions - greedy), 0.1, rtol=0.03)
    assert np.max(np.abs(actions)) <= 1.0


def test_noise_changes_with_the_step_and_has_the_spread_of_the_policy(policies):
  policy = policies["stochastic"]
  time_step = _time_step(policy.time_step_spec.observation, num_rows=1)
  many = tf.nest.map_structure(lambda x: np.repeat(0 * x, 1000, axis=0), time_step)
  state = np.stack([np.arange(1000), np.zeros(1000)], axis=1).astype(np.int64)
  action = tf.function(policy.action)
  first = action(many, state)
  second = action(many, first.state)
  assert np.all(np.any(first.action != second.action, axis=1))
  normal = policy.distribution(many, state).action.input_distribution
  unsquashed, spread = np.arctanh(first.action), normal.stddev()[0].numpy()
  np.testing.assert_allclose(unsquashed.mean(axis=0), normal.mean()[0], atol=0.15 * spread.max())
  np.testing.assert_allclose(unsquashed.std(axis=0), spread, rtol=0.1)


def test_a_folder_that_is_no_run_is_named(tmp_path):
  with pytest.raises(run_dirs.RunError, match=f"{tmp_path} is not a run"):
    evaluate.evaluate_run(tmp_path, num_episodes=1, num_workers=1, num_video_episodes=0)


def test_a_run_is_not_evaluated_in_another_task(tmp_path):
  config = {"method": "cog", "environment": "place_in_tray", "observation_keys": KEYS}
  (tmp_path / "config.json").write_text(json.dumps(config))
  with pytest.raises(run_dirs.RunError, match="one of: place_in_tray_held, place_in_tray$"):
    evaluate.evaluate_run(
      tmp_path, "drawer_closed", num_episodes=1, num_workers=1, num_video_episodes=0
    )


def test_a_run_without_a_policy_says_so(tmp_path):
  config = {"method": "cog", "environment": "place_in_tray", "observation_keys": KEYS}
  (tmp_path / "config.json").write_text(json.dumps(config))
  with pytest.raises(run_dirs.RunError, match="no exported policy"):
    evaluate.evaluate_run(tmp_path, num_episodes=1, num_workers=1, num_video_episodes=0)


def _agent(module, observation=config_lib.STATE):
  config = config_lib.load_preset("FAST", observation)
  shapes = {
    specs.STATE: (specs.STATE_SIZE,),
    specs.SIMULATOR_STATE: (fakes.SIMULATOR_STATE_SIZE,),
    specs.IMAGE: specs.IMAGE_SHAPE,
  }
  keys = config.observation_keys(observation)
  dtypes = {key: tf.uint8 if key == specs.IMAGE else tf.float32 for key in keys}
  spec = {key: tf.TensorSpec(shapes[key], dtypes[key], key) for key in keys}
  statistics = {key: (np.zeros(shapes[key]), np.ones(shapes[key])) for key in keys}
  agent = module.create(spec, config, statistics, seed=0)
  generator = np.random.default_rng(0)
  for variable in agent.collect_policy.variables():  # away from the small initial weights
    if variable.dtype == tf.float32:
      variable.assign_add(0.02 * generator.normal(size=variable.shape).astype(np.float32))
  return agent


def _time_step(observation_spec, num_rows):
  generator = np.random.default_rng(1)
  observation = {
    key: generator.integers(0, 255, (num_rows, *spec.shape)).astype(spec.dtype.as_numpy_dtype)
    for key, spec in observation_spec.items()
  }
  return tf.nest.map_structure(np.asarray, ts.restart(observation, num_rows))


def _history(environment, policy, seeds):
  """State observations (T + 1, episodes, 7) of a roll-out."""
  waves = []

  def on_step(time_step):
    if np.all(time_step.is_first()):
      waves.append([])
    waves[-1].append(time_step.observation[specs.STATE])

  evaluate.rollout(environment, evaluate.PolicyCaller(policy), seeds, on_step)
  return np.concatenate([np.stack(wave) for wave in waves], axis=1)[:, : len(seeds)]
