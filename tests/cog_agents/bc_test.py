import dataclasses

import numpy as np
import pytest
import tensorflow as tf
from tf_agents.policies import policy_saver
from tf_agents.trajectories import policy_step, trajectory
from tf_agents.trajectories import time_step as ts

from cog_agents import bc, config, networks

BATCH = 32
SPEC = {"image": tf.TensorSpec((12, 12, 3), tf.uint8), "state": tf.TensorSpec((7,), tf.float32)}
STATISTICS = {"state": (np.zeros(7), np.ones(7))}
SMALL = dataclasses.replace(
  config.PAPER,
  conv_filters=(4, 4),
  crop_padding=2,
  policy_hidden_sizes=(16,),
  actor_learning_rate=3e-3,
  alpha_learning_rate=3e-3,
  initial_temperature=0.2,
)


def _agent(seed=0, cfg=SMALL) -> bc.BcAgent:
  return bc.create(SPEC, cfg, STATISTICS, seed)


def _transition(actions=None):
  rng = np.random.default_rng(0)
  if actions is None:
    actions = rng.uniform(-1, 1, (BATCH, 8))
  time_step = ts.TimeStep(
    tf.fill((BATCH,), ts.StepType.MID),
    tf.zeros(BATCH),
    tf.ones(BATCH),
    {
      "image": tf.constant(rng.integers(0, 256, (BATCH, 12, 12, 3), np.uint8)),
      "state": tf.constant(rng.normal(size=(BATCH, 7)), tf.float32),
    },
  )
  step = policy_step.PolicyStep(tf.constant(actions, tf.float32))
  return trajectory.Transition(time_step, step, time_step)


def _weights(agent) -> list[np.ndarray]:
  return [v.numpy() for v in agent.variables]


def _all_equal(first, second) -> bool:
  return all(np.array_equal(a, b) for a, b in zip(first, second, strict=True))


def test_loss_is_entropy_term_less_data_likelihood():
  agent = _agent(cfg=dataclasses.replace(SMALL, crop_padding=0))
  batch = _transition()
  extra = agent.loss(batch).extra
  distribution = agent.collect_policy.distribution(batch.time_step).action
  likelihood = np.mean(distribution.log_prob(batch.action_step.action))
  assert float(extra["bc_log_likelihood"]) == pytest.approx(likelihood, rel=1e-4)
  expected = 0.2 * -float(extra["entropy"]) - likelihood
  assert float(extra["actor_loss"]) == pytest.approx(expected, rel=1e-4)


def test_learns_mean_and_spread_of_the_data():
  agent = _agent()
  mean = np.linspace(-0.7, 0.7, 8)
  batch = _transition(mean + np.random.default_rng(1).normal(scale=0.1, size=(BATCH, 8)))

  @tf.function
  def train(steps):
    for _ in tf.range(steps):
      agent.train(batch)

  train(tf.constant(400))
  actions = agent.policy.action(batch.time_step).action
  np.testing.assert_allclose(np.mean(actions, axis=0), mean, atol=0.1)
  distribution = agent.collect_policy.distribution(batch.time_step).action
  spread = np.std(distribution.sample(100, seed=0) - actions)
  assert 0.05 < spread < 0.2


def test_reward_and_next_observation_make_no_difference():
  batch = _transition()
  other = batch._replace(
    next_time_step=batch.next_time_step._replace(
      reward=tf.ones(BATCH),
      observation=tf.nest.map_structure(tf.zeros_like, batch.next_time_step.observation),
    )
  )
  first, second = _agent(), _agent()
  first.train(batch)
  second.train(other)
  assert _all_equal(_weights(first), _weights(second))


def test_a_seed_fixes_weights_and_training():
  same, again, other = _agent(1), _agent(1), _agent(2)
  assert not _all_equal(_weights(same), _weights(other))
  for agent in (same, again):
    agent.train(_transition())
  assert _all_equal(_weights(same), _weights(again))


def test_a_resumed_agent_equals_an_uninterrupted_one_bit_for_bit(tmp_path):
  agent, resumed = _agent(1), _agent(2)
  agent.train(_transition())
  path = tf.train.Checkpoint(agent=agent).write(str(tmp_path / "checkpoint"))
  tf.train.Checkpoint(agent=resumed).read(path)
  for a in (agent, resumed):
    a.train(_transition())
  assert int(resumed.train_step_counter) == 2
  assert _all_equal(_weights(agent), _weights(resumed))


def test_collect_policy_is_stochastic_and_policy_its_mode():
  agent = _agent()
  time_step = _transition().time_step
  mean, _ = agent._actor_network.moments(time_step.observation)
  np.testing.assert_allclose(agent.policy.action(time_step).action, np.tanh(mean), rtol=1e-5)
  first, second = (agent.collect_policy.action(time_step).action for _ in range(2))
  assert not np.allclose(first, second)


def test_a_saved_policy_gives_the_same_actions(tmp_path):
  agent = _agent()
  policy_saver.PolicySaver(agent.policy, batch_size=None).save(str(tmp_path))
  loaded = tf.saved_model.load(str(tmp_path))
  time_step = _transition().time_step
  np.testing.assert_allclose(
    loaded.action(time_step).action, agent.policy.action(time_step).action, rtol=1e-5, atol=1e-7
  )


def test_weights_in_the_loss_are_refused():
  with pytest.raises(ValueError, match="sampling"):
    _agent().train(_transition(), weights=tf.ones(BATCH))


def test_policy_network_is_that_of_cql():
  assert isinstance(_agent()._actor_network, networks.PolicyNetwork)
