import dataclasses
import math

import numpy as np
import pytest
import tensorflow as tf
from scipy import special
from tensorflow.python.framework import kernels
from tf_agents.agents.cql import cql_sac_agent
from tf_agents.policies import policy_saver
from tf_agents.trajectories import policy_step, trajectory
from tf_agents.trajectories import time_step as ts
from tf_agents.utils import common

from cog_agents import config, cql, networks

BATCH = 6
SPECS = {
  "image": {
    "image": tf.TensorSpec((12, 12, 3), tf.uint8),
    "state": tf.TensorSpec((7,), tf.float32),
  },
  "state": {
    "state": tf.TensorSpec((7,), tf.float32),
    "simulator_state": tf.TensorSpec((5,), tf.float32),
  },
}
# What the policy and the critics see in a test, by its name.
SEEN = {"image": ("image", "image"), "state": ("state", "state"), "asymmetric": ("image", "state")}
SPECS["asymmetric"] = {**SPECS["image"], **SPECS["state"]}
STATISTICS = {"state": (np.zeros(7), np.ones(7)), "simulator_state": (np.ones(5), np.ones(5))}
SMALL = {
  "conv_filters": (4, 4),
  "q_hidden_sizes": (16, 12),
  "policy_hidden_sizes": (16,),
  "policy_bottleneck_size": None,
  "policy_head_sizes": (),
}
PAPER = dataclasses.replace(config.PAPER, **SMALL)
CROPPED = dataclasses.replace(PAPER, crop_padding=2)
AVERAGED = dataclasses.replace(CROPPED, policy_average_tau=0.25)
FROZEN = {"actor_learning_rate": 0.0, "critic_learning_rate": 0.0, "alpha_learning_rate": 0.0}


def _agent(cfg=PAPER, observation="state", seed=0) -> cql.CqlAgent:
  policy_sees, critics_see = SEEN[observation]
  return cql.create(SPECS[policy_sees], cfg, STATISTICS, seed, SPECS[critics_see])


def _observation(observation, rng):
  return {
    key: tf.constant(
      rng.integers(0, 256, (BATCH, *spec.shape), np.uint8)
      if spec.dtype == tf.uint8
      else rng.normal(size=(BATCH, *spec.shape)).astype(np.float32)
    )
    for key, spec in SPECS[observation].items()
  }


def _transition(observation="state", reward=0.3, discount=1.0, seed=0):
  rng = np.random.default_rng(seed)
  actions = tf.constant(rng.uniform(-1, 1, (BATCH, 8)), tf.float32)

  def time_step():
    return ts.TimeStep(
      tf.fill((BATCH,), ts.StepType.MID),
      tf.fill((BATCH,), reward),
      tf.fill((BATCH,), discount),
      _observation(observation, rng),
    )

  return trajectory.Transition(time_step(), policy_step.PolicyStep(actions), time_step())


def _randomise(agent, scale=0.3, seed=0):
  """Gives every network large weights: at its start an agent's values and means are near zero."""
  rng = np.random.default_rng(seed)
  for net in (*agent._critics, *agent._target_critics, agent._actor_network):
    for variable in net.trainable_variables:
      variable.assign(rng.normal(scale=scale, size=variable.shape))


def _weights(agent) -> list[np.ndarray]:
  return [v.numpy() for v in agent.variables]


def _all_equal(first, second) -> bool:
  return all(np.array_equal(a, b) for a, b in zip(first, second, strict=True))


def _changed(agent, variables, steps=1) -> bool:
  before = [v.numpy() for v in variables]
  for _ in range(steps):
    agent.train(_transition(next(iter({"image"} & set(agent.time_step_spec.observation)), "state")))
  return not _all_equal(before, [v.numpy() for v in variables])


# Losses by hand.


def test_target_is_reward_plus_discounted_next_value():
  targets = cql.bellman_targets(
    tf.constant([0.0, 1.0, 2.5]),
    tf.constant([1.0, 1.0, 0.81]),
    tf.constant([10.0, -4.0, 100.0]),
    gamma=0.9,
  )
  np.testing.assert_allclose(targets, [9.0, -2.6, 75.4], rtol=1e-6)  # last: 2.5 + 0.9^3 * 100


def test_targets_are_clipped_at_both_ends():
  targets = cql.bellman_targets(
    tf.zeros(3), tf.ones(3), tf.constant([-2.0, 50.0, 300.0]), 0.5, target_range=(0.0, 100.0)
  )
  np.testing.assert_allclose(targets, [0.0, 25.0, 100.0])


def test_bellman_loss_is_the_mean_squared_error():
  loss = cql.bellman_loss(tf.constant([1.0, 2.0]), tf.constant([4.0, 1.0]))
  assert float(loss) == pytest.approx((9 + 1) / 2)


def test_cql_gap_is_the_weighted_log_sum_less_the_data_value():
  values = np.array([[1.0, 2.0, -3.0], [0.5, 0.0, 4.0]])
  log_probs = np.array([[-5.5, -1.0, 3.0], [-5.5, 2.0, -7.0]])
  data_values = np.array([1.5, -2.0])
  gap = cql.cql_gap(*(tf.constant(x, tf.float32) for x in (values, log_probs, data_values)))
  expected = np.mean(np.log(np.exp(values) / np.exp(log_probs) @ np.ones(3)) - data_values)
  assert float(gap) == pytest.approx(expected, rel=1e-6)


def test_uniform_samples_estimate_the_integral_over_eight_dimensions():
  # Q(a) = w . a has the integral prod_i 2 sinh(w_i) / w_i over [-1, 1]^8.
  slopes = np.linspace(0.1, 0.8, 8)
  actions = np.random.default_rng(0).uniform(-1, 1, (1, 200_000, 8))
  values = tf.constant(actions @ slopes, tf.float32)
  gap = cql.cql_gap(values, tf.fill(values.shape, cql.UNIFORM_LOG_PROB), tf.zeros(1))
  exact = np.log(2 * np.sinh(slopes) / slopes).sum()
  assert float(gap) - math.log(200_000) == pytest.approx(exact, abs=0.01)


def test_uniform_log_density_counts_each_dimension_once():
  assert cql.UNIFORM_LOG_PROB == pytest.approx(-5.545, abs=1e-3)


def test_warm_start_loss_trades_entropy_for_data_likelihood():
  loss = cql.warm_start_loss(tf.constant(0.5), tf.constant([2.0, 4.0]), tf.constant([-1.0, 3.0]))
  assert float(loss) == pytest.approx(((1 + 1) + (2 - 3)) / 2)


def test_policy_loss_is_that_of_sac():
  loss = cql.policy_loss(
    tf.constant(0.5), tf.constant([2.0, 4.0]), tf.constant([3.0, -7.0]), tf.constant([9.0, 9.0])
  )
  assert float(loss) == pytest.approx(((1 - 3) + (2 + 7)) / 2)


def test_policy_loss_with_a_bc_weight_adds_the_likelihood_of_the_data():
  loss = cql.policy_loss(
    tf.constant(0.5),
    tf.constant([2.0, 4.0]),
    tf.constant([3.0, -7.0]),
    tf.constant([1.0, 2.0]),
    0.1,
  )
  assert float(loss) == pytest.approx(((1 - 3 - 0.1) + (2 + 7 - 0.2)) / 2, rel=1e-5)


@pytest.mark.parametrize("log_prob, slope", [(3.0, 5.0), (13.0, -5.0)])
def test_temperature_falls_above_the_target_entropy_and_rises_below(log_prob, slope):
  # Entropies -3 and -13 against a target of -8.
  log_alpha = tf.Variable(0.7)
  with tf.GradientTape() as tape:
    loss = cql.temperature_loss(log_alpha, tf.constant([log_prob] * 2), -8.0)
  assert float(loss) == pytest.approx(0.7 * slope)
  assert float(tape.gradient(loss, log_alpha)) == pytest.approx(slope)


# Against the stock agent.


NOISE = tf.constant(np.random.default_rng(3).normal(size=(BATCH, 1, 8)), tf.float32)
UNIFORM_ACTIONS = tf.constant(np.random.default_rng(4).uniform(-1, 1, (BATCH, 8)), tf.float32)


def _fix_draws(monkeypatch):
  """Lets our agent and the stock one act with the same noise and the same uniform actions.

  Densities stay each agent's own: ours closed-form, the stock's from TensorFlow Probability.
  """

  def sample_actions(mean, log_std, count, seed):
    actions = tf.tanh(mean[:, None] + tf.exp(log_std)[:, None] * NOISE)
    log_probs = networks.log_prob(mean, log_std, actions[:, 0])[:, None]
    return tf.repeat(actions, count, axis=1), tf.repeat(log_probs, count, axis=1)

  monkeypatch.setattr(networks, "sample_actions", sample_actions)
  monkeypatch.setattr(
    tf.random, "stateless_uniform", lambda shape, seed, low, high: UNIFORM_ACTIONS[:, None]
  )
  monkeypatch.setattr(tf.random, "uniform", lambda shape, **kwargs: UNIFORM_ACTIONS)


def _stock_agent(agent, cfg):
  """The stock agent on the very same networks."""

  class Stock(cql_sac_agent.CqlSacAgent):
    def _actions_and_log_probs(self, time_steps, training=False):
      distribution = self._train_policy.distribution(time_steps).action
      normal = distribution.input_distribution
      actions = tf.tanh(normal.mean() + normal.stddev() * NOISE[:, 0])
      return actions, common.log_probability(distribution, actions, self.action_spec)

    def _sample_and_transpose_actions_and_log_probs(self, time_steps, count, training=False):
      actions, log_probs = self._actions_and_log_probs(time_steps)
      return actions[:, None], log_probs[:, None]

  return Stock(
    agent.time_step_spec,
    agent.action_spec,
    critic_network=agent._critic_network_1,
    critic_network_2=agent._critic_network_2,
    target_critic_network=agent._target_critic_network_1,
    target_critic_network_2=agent._target_critic_network_2,
    actor_network=agent._actor_network,
    actor_optimizer=None,
    critic_optimizer=None,
    alpha_optimizer=None,
    cql_alpha=1.0,
    num_cql_samples=1,
    include_critic_entropy_term=cfg.entropy_in_backup,
    use_lagrange_cql_alpha=False,
    num_bc_steps=cfg.bc_steps,
    gamma=cfg.gamma,
    initial_log_alpha=math.log(cfg.initial_temperature),
    target_entropy=cfg.target_entropy,
    train_step_counter=agent.train_step_counter,
  )


@pytest.mark.parametrize(
  "observation, bc_steps, entropy_in_backup",
  [("image", 0, False), ("state", 0, False), ("state", 10, True)],
)
def test_losses_agree_with_the_stock_agent(monkeypatch, observation, bc_steps, entropy_in_backup):
  cfg = dataclasses.replace(
    PAPER,
    bellman_weight=1.0,
    next_policy_samples=0,
    bc_steps=bc_steps,
    entropy_in_backup=entropy_in_backup,
    initial_temperature=0.3,
  )
  agent = _agent(cfg, observation)
  _randomise(agent, scale=0.1)
  batch = _transition(observation, discount=0.9)
  data = (batch.time_step, batch.action_step.action)
  stock = _stock_agent(agent, cfg)
  _fix_draws(monkeypatch)
  ours = agent.loss(batch).extra

  bellman = stock._critic_loss_with_optional_entropy_term(
    *data, batch.next_time_step, tf.math.squared_difference, cfg.gamma
  )
  assert float(ours["td_loss"]) == pytest.approx(float(bellman), rel=1e-4)
  # The stock agent halves the sum over the two critics; Eq. 1 holds for each.
  assert float(ours["cql_loss"]) == pytest.approx(2 * float(stock._cql_loss(*data)), rel=1e-4)
  assert float(ours["cql_gap"]) == pytest.approx(float(stock._cql_loss(*data)), rel=1e-4)
  assert float(ours["actor_loss"]) == pytest.approx(float(stock.actor_loss(*data)), rel=1e-4)
  assert float(ours["alpha_loss"]) == pytest.approx(float(stock.alpha_loss(data[0])), rel=1e-4)


# Against Eq. 1 written out: every action has a pass of its own through whole networks.


def _whole_q(critic, observation, actions, seed):
  """Q(s, a), actions (B, A) -> (B,), with the first layer as one matrix over [features; action]."""
  first, of_actions = critic._feature_layer, critic._action_layer
  x = tf.concat([critic.encoder(observation, seed), actions], axis=1)
  x = tf.nn.relu(x @ tf.concat([first.kernel, of_actions.kernel], axis=0) + first.bias)
  for layer in critic._hidden_layers:
    x = layer(x)
  return critic._value_layer(x)[:, 0]


def _squashed(moments, noise):
  """Actions (B, A) of a squashed Gaussian for a given noise, and their log densities (B,)."""
  mean, log_std = moments
  action = tf.tanh(mean + tf.exp(log_std) * noise)
  density = -0.5 * noise**2 - log_std - 0.5 * np.log(2 * np.pi) - tf.math.log(1 - action**2)
  return action, tf.reduce_sum(density, axis=1)


def _plain_losses(agent, batch, cfg):
  seeds = agent._next_seeds()
  o, next_o = batch.time_step.observation, batch.next_time_step.observation
  data = batch.action_step.action
  target_seeds, next_policy_seed = [next(seeds), next(seeds)], next(seeds)
  next_noise = tf.random.stateless_normal((BATCH, 2, 8), next(seeds))
  critic_seeds, policy_seed = [next(seeds), next(seeds)], next(seeds)
  noise = tf.random.stateless_normal((BATCH, 2, 8), next(seeds))
  uniform = tf.random.stateless_uniform((BATCH, 1, 8), next(seeds), -1.0, 1.0)[:, 0]

  next_moments = agent.policy_network.moments(next_o, next_policy_seed)
  bootstrap, _ = _squashed(next_moments, next_noise[:, 0])
  values = [
    _whole_q(q, next_o, bootstrap, seed)
    for q, seed in zip(agent._target_critics, target_seeds, strict=True)
  ]
  y = batch.next_time_step.reward + cfg.gamma * batch.next_time_step.discount * tf.minimum(*values)

  moments = agent.policy_network.moments(o, policy_seed)
  sampled = [
    (uniform, tf.fill((BATCH,), -8 * math.log(2))),
    _squashed(moments, noise[:, 1]),
    _squashed(next_moments, next_noise[:, 1]),
  ]
  critic_loss = 0.0
  for q, seed in zip(agent._critics, critic_seeds, strict=True):
    data_values = _whole_q(q, o, data, seed)
    log_ratios = [_whole_q(q, o, action, seed) - log_p for action, log_p in sampled]
    log_sum = tf.math.log(tf.add_n([tf.exp(x) for x in log_ratios]))
    critic_loss += cfg.bellman_weight * tf.reduce_mean((data_values - y) ** 2)
    critic_loss += cfg.cql_alpha * tf.reduce_mean(log_sum - data_values)

  action, log_p = _squashed(moments, noise[:, 0])
  value = tf.minimum(
    *(_whole_q(q, o, action, seed) for q, seed in zip(agent._critics, critic_seeds, strict=True))
  )
  data_log_p = networks.log_prob(*moments, data)
  temperature = tf.exp(agent._log_alpha)
  actor_loss = tf.reduce_mean(temperature * log_p - value - cfg.actor_bc_weight * data_log_p)
  return {"critic_loss": critic_loss, "actor_loss": actor_loss}


@pytest.mark.parametrize("observation", SEEN)
def test_losses_and_gradients_equal_those_written_out(observation):
  cfg = dataclasses.replace(CROPPED, bc_steps=0, actor_bc_weight=0.5, initial_temperature=0.3)
  agent = _agent(cfg, observation)
  _randomise(agent, scale=0.1)
  batch = _transition(observation, discount=0.9)
  variables = {"critic_loss": agent.critic_variables(), "actor_loss": agent.actor_variables()}
  with tf.GradientTape(persistent=True) as tape:
    ours, plain = agent.loss(batch).extra, _plain_losses(agent, batch, cfg)
  for name, trained in variables.items():
    assert float(ours[name]) == pytest.approx(float(plain[name]), rel=1e-5)
    gradients = [tape.gradient(losses[name], trained) for losses in (ours, plain)]
    for own, expected in zip(*gradients, strict=True):
      assert np.max(np.abs(expected)) > 0
      np.testing.assert_allclose(own, expected, rtol=0, atol=1e-5 * np.max(np.abs(expected)))


def test_a_policy_asks_for_what_it_sees_whatever_the_critics_see():
  agent = _agent(PAPER, "asymmetric")
  seen = _observation("image", np.random.default_rng(0))
  for policy in (agent.policy, agent.collect_policy):
    assert policy.time_step_spec.observation.keys() == seen.keys()
    assert policy.action(ts.restart(seen, BATCH)).action.shape == (BATCH, 8)


def test_critics_value_what_they_see_alone():
  agent = _agent(PAPER, "asymmetric")
  _randomise(agent)
  observation = _observation("asymmetric", np.random.default_rng(0))
  action = tf.zeros((BATCH, 8))
  moved = {**observation, "simulator_state": observation["simulator_state"] + 1.0}
  repainted = {**observation, "image": 255 - observation["image"]}
  values, other, same = (
    np.stack([critic((x, action))[0] for critic in agent._critics])
    for x in (observation, moved, repainted)
  )
  assert np.all(values != other)
  np.testing.assert_array_equal(values, same)
  assert np.all(agent.values(observation) != agent.values(moved))


def test_data_without_what_the_critics_see_are_refused():
  agent = _agent(PAPER, "asymmetric")
  assert set(agent.training_data_spec.observation) == {"image", "state", "simulator_state"}
  with pytest.raises(ValueError, match="simulator_state"):
    agent.train(_transition("image"))


def _operations(cfg, observation):
  """Every operation of a gradient step, as NodeDefs."""
  train = tf.function(_agent(cfg, observation).train)
  graph = train.get_concrete_function(_transition(observation)).graph.as_graph_def()
  return [*graph.node, *(node for function in graph.library.function for node in function.node_def)]


# Two target critics and the policy at s', two critics and the policy at s; or the policy alone.
@pytest.mark.parametrize(("observation", "encodings"), [("image", 6), ("asymmetric", 2)])
def test_a_step_encodes_each_image_once_for_each_network(observation, encodings):
  names = [node.op for node in _operations(CROPPED, observation)]
  assert names.count("Conv2D") == encodings * len(CROPPED.conv_filters)


@pytest.mark.parametrize("image_dtype", config.IMAGE_DTYPES)
@pytest.mark.parametrize("observation", ["image", "state"])
def test_every_operation_of_a_step_has_a_kernel_for_gpus(observation, image_dtype):
  def has_kernel(node):
    known = kernels.get_registered_kernels_for_op(node.op).kernel
    return not known or any(
      kernel.device_type in ("GPU", "DEFAULT")
      and all(
        node.attr[limit.name].type in limit.allowed_values.list.type for limit in kernel.constraint
      )
      for kernel in known
    )

  cfg = dataclasses.replace(AVERAGED, image_dtype=image_dtype, gripper_crop_size=6)
  missing = {node.op for node in _operations(cfg, observation) if not has_kernel(node)}
  assert not missing


# The agent's losses are what the config says.


def test_critic_loss_weighs_its_two_terms():
  cfg = dataclasses.replace(PAPER, bellman_weight=0.25, cql_alpha=3.0)
  extra = _agent(cfg).loss(_transition()).extra
  reference = _agent(dataclasses.replace(cfg, bellman_weight=1.0, cql_alpha=1.0))
  plain = reference.loss(_transition()).extra
  expected = 0.25 * plain["td_loss"] + 3.0 * plain["cql_loss"]
  assert float(extra["critic_loss"]) == pytest.approx(float(expected), rel=1e-6)


@pytest.mark.parametrize("importance_weighted", [True, False])
def test_log_sum_covers_uniform_and_both_policy_samples(monkeypatch, importance_weighted):
  cfg = dataclasses.replace(PAPER, importance_weighted=importance_weighted)
  agent = _agent(cfg)
  _randomise(agent)
  batch = _transition()
  o, next_o = batch.time_step.observation, batch.next_time_step.observation
  _fix_draws(monkeypatch)
  (a, log_p), (next_a, next_log_p) = (
    (x[:, 0] for x in networks.sample_actions(*agent.policy_network.moments(obs), 1, None))
    for obs in (o, next_o)
  )
  gaps = []
  for critic in agent._critics:
    # All three are evaluated at s.
    q = np.stack([critic((o, x))[0] for x in (UNIFORM_ACTIONS, a, next_a)], axis=1)
    weights = np.stack([np.full(BATCH, -8 * np.log(2)), log_p, next_log_p], axis=1)
    log_sum = special.logsumexp(q - weights * importance_weighted, axis=1)
    gaps.append(np.mean(log_sum - critic((o, batch.action_step.action))[0]))
  assert float(agent.loss(batch).extra["cql_gap"]) == pytest.approx(np.mean(gaps), rel=1e-4)


def test_more_samples_of_each_kind_can_be_drawn():
  cfg = dataclasses.replace(PAPER, uniform_samples=3, policy_samples=2, next_policy_samples=0)
  # With zero values and uniform densities alone the gap would be log(5 * 2^8).
  gap = float(_agent(cfg).loss(_transition()).extra["cql_gap"])
  assert np.isfinite(gap)
  assert gap > float(_agent().loss(_transition()).extra["cql_gap"])


def test_targets_of_a_batch_are_clipped():
  batch = _transition(reward=1000.0)
  assert float(_agent().loss(batch).extra["target_max"]) > 990.0
  clipped = dataclasses.replace(PAPER, target_range=(0.0, 100.0))
  assert float(_agent(clipped).loss(batch).extra["target_max"]) == 100.0


def test_warm_start_ends_at_its_step():
  agent = _agent(dataclasses.replace(PAPER, bc_steps=2, **FROZEN))
  _randomise(agent)
  for warm in (True, True, False, False):
    extra = agent.train(_transition()).extra
    entropy_term = -extra["alpha"] * extra["entropy"]
    data_term = extra["bc_log_likelihood"] if warm else extra["q_policy"]
    assert float(extra["actor_loss"]) == pytest.approx(float(entropy_term - data_term), rel=1e-5)


def test_critics_that_waited_begin_with_steps_of_their_rate():
  waited = _agent(dataclasses.replace(PAPER, bc_steps=5, critics_wait_for_warm_start=True))
  for _ in range(5):
    waited.train(_transition())
  before = [variable.numpy() for variable in waited.critic_variables()]
  waited.train(_transition())
  # The first step of Adam is the rate, whatever the gradient. Had it counted the five before, this
  # one would be half as large, and after ten thousand three times.
  largest = max(
    np.abs(variable.numpy() - old).max()
    for variable, old in zip(waited.critic_variables(), before, strict=True)
  )
  assert largest == pytest.approx(PAPER.critic_learning_rate, rel=1e-3)


def test_bc_weight_stays_after_the_warm_start():
  cfg = dataclasses.replace(PAPER, bc_steps=0, **FROZEN)
  agent, held = _agent(cfg), _agent(dataclasses.replace(cfg, actor_bc_weight=0.5))
  for a in (agent, held):
    _randomise(a)
  assert float(held.train(_transition()).extra["actor_loss"]) != pytest.approx(
    float(agent.train(_transition()).extra["actor_loss"])
  )


def test_reward_of_the_next_time_step_is_used():
  batch = _transition(reward=0.0)
  rewarded = batch._replace(
    next_time_step=batch.next_time_step._replace(reward=tf.fill((BATCH,), 7.0))
  )
  targets = [float(_agent().loss(b).extra["target_max"]) for b in (batch, rewarded)]
  assert targets[1] - targets[0] == pytest.approx(7.0, abs=1e-4)


def test_weights_in_the_loss_are_refused():
  with pytest.raises(ValueError, match="sampling"):
    _agent().train(_transition(), weights=tf.ones(BATCH))


# What each loss trains.


@pytest.mark.parametrize("observation", ["image", "state"])
def test_each_loss_trains_its_own_variables(observation):
  rates = {"actor": "actor_learning_rate", "critic": "critic_learning_rate"}
  for trained, rate in rates.items():
    frozen = {**FROZEN, "bc_steps": 0}
    frozen.pop(rate)
    agent = _agent(dataclasses.replace(PAPER, **frozen), observation)
    _randomise(agent, scale=0.1)
    # Twice: the first step only moves what lies behind a layer that is not zero.
    assert _changed(agent, agent.actor_variables(), 2) == (trained == "actor")
    assert _changed(agent, agent.critic_variables(), 2) == (trained == "critic")


def test_encoders_of_their_own_are_trained_by_their_own_loss():
  agent = _agent(PAPER, "image")
  kernels = [v for v in agent.actor_variables() if len(v.shape) == 4]
  assert len(kernels) == len(PAPER.conv_filters)
  assert len([v for v in agent.critic_variables() if len(v.shape) == 4]) == 2 * len(kernels)


def test_targets_follow_slowly():
  cfg = dataclasses.replace(PAPER, target_update_tau=0.25)
  agent = _agent(cfg, "image")
  before = [v.numpy() for net in agent._target_critics for v in net.trainable_variables]
  agent.train(_transition("image"))
  online = [v.numpy() for net in agent._critics for v in net.trainable_variables]
  after = [v.numpy() for net in agent._target_critics for v in net.trainable_variables]
  for b, o, a in zip(before, online, after, strict=True):
    np.testing.assert_allclose(a, 0.75 * b + 0.25 * o, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("observation", ["image", "state"])
def test_a_policy_of_averaged_weights_follows_slowly(observation):
  agent = _agent(AVERAGED, observation)
  time_step = _transition(observation).time_step

  def actions(net):
    return np.tanh(net.moments(time_step.observation)[0])

  np.testing.assert_array_equal(actions(agent._average_network), actions(agent.policy_network))
  before = [v.numpy() for v in agent._average_network.trainable_variables]
  agent.train(_transition(observation))
  trained = [v.numpy() for v in agent.policy_network.trainable_variables]
  assert not _all_equal(before, trained)
  after = [v.numpy() for v in agent._average_network.trainable_variables]
  for b, t, a in zip(before, trained, after, strict=True):
    np.testing.assert_allclose(a, 0.75 * b + 0.25 * t, rtol=1e-5, atol=1e-7)

  _randomise(agent)  # but for the average
  greedy = agent.policy.action(time_step).action
  np.testing.assert_allclose(greedy, actions(agent._average_network), rtol=1e-5, atol=1e-7)
  mode = agent.collect_policy.distribution(time_step).action.mode()
  np.testing.assert_allclose(mode, actions(agent.policy_network), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("copied", [True, False])
def test_targets_start_as_copies_or_with_weights_of_their_own(copied):
  agent = _agent(dataclasses.replace(PAPER, copy_target_critics=copied))
  agent.initialize()
  for critic, target in zip(agent._critics, agent._target_critics, strict=True):
    assert _all_equal(critic.get_weights(), target.get_weights()) == copied


def test_the_two_critics_differ():
  first, second = _agent()._critics
  assert not _all_equal(first.get_weights(), second.get_weights())


# Reproducibility.


def test_a_seed_fixes_weights_and_training():
  same, again, other = _agent(seed=1), _agent(seed=1), _agent(seed=2)
  assert _all_equal(_weights(same), _weights(again))
  assert not _all_equal(_weights(same), _weights(other))
  for agent in (same, again):
    agent.train(_transition())
  assert _all_equal(_weights(same), _weights(again))


def test_a_loop_of_steps_equals_single_steps():
  batch, looped, single = _transition(), _agent(CROPPED), _agent(CROPPED)

  @tf.function
  def loop(steps):
    for _ in tf.range(steps):
      looped.train(batch)

  loop(tf.constant(3))
  for _ in range(3):
    single.train(batch)
  for a, b in zip(_weights(looped), _weights(single), strict=True):
    np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("observation", ["image", "state"])
def test_a_resumed_agent_equals_an_uninterrupted_one_bit_for_bit(observation, tmp_path):
  def trained(agent, seeds):
    for seed in seeds:
      agent.train(_transition(observation, seed=seed))
    return agent

  agent = trained(_agent(AVERAGED, observation), seeds=(1, 2))
  path = tf.train.Checkpoint(agent=agent).write(str(tmp_path / "checkpoint"))
  uninterrupted = trained(agent, seeds=(3, 4))

  resumed = _agent(AVERAGED, observation, seed=99)
  status = tf.train.Checkpoint(agent=resumed).read(path)
  trained(resumed, seeds=(3, 4))
  status.assert_existing_objects_matched()
  assert int(resumed.train_step_counter) == 4
  assert _all_equal(_weights(resumed), _weights(uninterrupted))


# Policies.


def test_policy_is_the_mode_and_collect_policy_stochastic():
  agent = _agent()
  _randomise(agent)
  time_step = _transition().time_step
  mean, _ = agent.policy_network.moments(time_step.observation)
  np.testing.assert_allclose(agent.policy.action(time_step).action, np.tanh(mean), rtol=1e-5)
  first, second = (agent.collect_policy.action(time_step).action for _ in range(2))
  assert not np.allclose(first, second)


@pytest.mark.parametrize(
  "observation, policy_name",
  [("image", "policy"), ("image", "collect_policy"), ("state", "policy")],
)
def test_a_saved_policy_gives_the_same_actions(observation, policy_name, tmp_path):
  agent = _agent(AVERAGED, observation)
  _randomise(agent, scale=0.1)
  policy = getattr(agent, policy_name)
  policy_saver.PolicySaver(policy, batch_size=None, seed=5).save(str(tmp_path))
  loaded = tf.saved_model.load(str(tmp_path))
  time_step = _transition(observation).time_step

  # One graph each, so that the same seed gives both the same noise.
  tf.random.set_seed(1)
  expected = tf.function(policy.action)(time_step, seed=5).action
  tf.random.set_seed(1)
  np.testing.assert_allclose(loaded.action(time_step).action, expected, rtol=1e-5, atol=1e-6)
  single = tf.nest.map_structure(lambda x: x[:1], time_step)
  assert loaded.action(single).action.shape == (1, 8)


def test_learns_which_actions_are_rewarded():
  # A bandit: the reward is 1 where the first action is above zero, and nothing follows.
  cfg = dataclasses.replace(
    PAPER,
    bc_steps=20,
    actor_learning_rate=3e-3,
    critic_learning_rate=3e-3,
    alpha_learning_rate=3e-3,
    cql_alpha=0.1,
    q_hidden_sizes=(64, 64),
    initial_temperature=0.1,
  )
  agent = _agent(cfg)
  generator = tf.random.Generator.from_seed(0)
  batch = _transition(discount=0.0)

  @tf.function
  def train(steps):
    for _ in tf.range(steps):
      actions = generator.uniform((BATCH, 8), -1.0, 1.0)
      rewards = tf.cast(actions[:, 0] > 0.0, tf.float32)
      agent.train(
        batch._replace(
          action_step=policy_step.PolicyStep(actions),
          next_time_step=batch.next_time_step._replace(reward=rewards),
        )
      )

  train(tf.constant(400))
  actions = agent.policy.action(batch.time_step).action
  assert np.mean(actions[:, 0]) > 0.3
