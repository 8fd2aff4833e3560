"""CQL(H)-SAC with a BC warm start (paper, section 4 and appendix A.3) as a TF-Agents agent."""

import math
from collections.abc import Iterator, Mapping

import numpy as np
import tensorflow as tf
from tf_agents.agents import data_converter, tf_agent
from tf_agents.agents.cql import cql_sac_agent
from tf_agents.policies import actor_policy, greedy_policy
from tf_agents.specs import tensor_spec
from tf_agents.trajectories import time_step as ts
from tf_agents.trajectories import trajectory
from tf_agents.utils import common

from cog_agents import config as config_lib
from cog_agents import distribution, networks
from collection import specs

# Scalar bounds: CqlSacAgent counts per-dimension ones once per dimension too often.
ACTION_SPEC = tensor_spec.BoundedTensorSpec((specs.ACTION_SIZE,), tf.float32, -1.0, 1.0, "action")
UNIFORM_LOG_PROB = -config_lib.LOG_ACTION_VOLUME  # log density over all actions
# Crops of two critics and the policy at s and at s', and the three draws of actions.
_SEEDS_PER_STEP = 9
NO_NUMBER = "is inf or nan"  # of a loss, in the error that ends a training


def bellman_targets(
  rewards: tf.Tensor,
  discounts: tf.Tensor,
  next_values: tf.Tensor,
  gamma: float,
  target_range: tuple[float, float] | None = None,
) -> tf.Tensor:
  """The backup of Eq. 1: y = r + gamma * d * Q'(s', a'), a' ~ pi(.|s'), as constants.

  Args:
    rewards: (B,) reward, or for n steps their sum discounted to the first.
    discounts: (B,) d = gamma^(n - 1) of an n-step transition; 1 for one step.
    next_values: (B,) smaller target value of s' and a sampled a'.
    gamma: discount factor.
    target_range: bounds [low, high] that the targets are clipped to, or None.
  """
  targets = rewards + gamma * discounts * next_values
  if target_range is not None:
    targets = tf.clip_by_value(targets, *target_range)
  return tf.stop_gradient(targets)


def bellman_loss(data_values: tf.Tensor, targets: tf.Tensor) -> tf.Tensor:
  """E[(Q(s, a) - y)^2], the Bellman term of Eq. 1 without its factor 1/2; both (B,)."""
  return tf.reduce_mean(tf.math.squared_difference(data_values, targets))


def cql_gap(
  sampled_values: tf.Tensor, sampled_log_probs: tf.Tensor, data_values: tf.Tensor
) -> tf.Tensor:
  """E[log sum_a exp Q(s, a) - Q(s, a_data)], the conservative term of Eq. 1 without its alpha.

  The sum over a continuous action space is estimated from N actions drawn with densities p_i, as
  log sum_i exp(Q(s, a_i) - log p_i); the constant -log N is left out. Log densities of zero give
  the estimate without importance weights.

  Args:
    sampled_values: (B, N) Q(s, a_i).
    sampled_log_probs: (B, N) log p_i in nats.
    data_values: (B,) Q(s, a_data).
  """
  log_sum = tf.reduce_logsumexp(sampled_values - sampled_log_probs, axis=1)
  return tf.reduce_mean(log_sum - data_values)


def warm_start_loss(alpha: tf.Tensor, log_probs: tf.Tensor, data_log_probs: tf.Tensor) -> tf.Tensor:
  """E[alpha * log pi(a|s) - log pi(a_data|s)], a ~ pi: BC with entropy regularisation; both (B,).

  The policy loss in the first steps, of which appendix A.3 has the number and the released code the
  formula, and that of the BC baseline (section 6.2).
  """
  return tf.reduce_mean(alpha * log_probs - data_log_probs)


def policy_loss(
  alpha: tf.Tensor,
  log_probs: tf.Tensor,
  values: tf.Tensor,
  data_log_probs: tf.Tensor,
  bc_weight: float = 0.0,
) -> tf.Tensor:
  """Policy improvement of SAC: E[alpha * log pi(a|s) - Q(s, a)], a ~ pi(.|s).

  With a `bc_weight` w > 0 the policy is also held near the data:
  E[alpha * log pi(a|s) - Q(s, a) - w * log pi(a_data|s)].

  Args:
    alpha: entropy temperature, scalar.
    log_probs: (B,) log pi(a|s).
    values: (B,) smaller value of (s, a) of the two critics.
    data_log_probs: (B,) log pi(a_data|s).
    bc_weight: w.
  """
  return tf.reduce_mean(alpha * log_probs - values - bc_weight * data_log_probs)


def temperature_loss(
  log_alpha: tf.Tensor, log_probs: tf.Tensor, target_entropy: float
) -> tf.Tensor:
  """log alpha * (entropy - target entropy): the temperature rises while the entropy is too low.

  Args:
    log_alpha: logarithm of the temperature, scalar.
    log_probs: (B,) log pi(a|s), a ~ pi.
    target_entropy: nats.
  """
  entropy = -tf.reduce_mean(log_probs)
  return log_alpha * tf.stop_gradient(entropy - target_entropy)


def step_seeds(seed: tf.Variable, step: tf.Variable, count: int) -> tf.Tensor:
  """Seeds (count, 2) of what is drawn in a gradient step: a function of these numbers alone."""
  return tf.random.split(tf.stack([seed, step]), count, alg="philox")


def step_counter() -> tf.Variable:
  """The number of gradient steps, which is the same on every device."""
  aggregation = tf.VariableAggregation.ONLY_FIRST_REPLICA
  return tf.Variable(0, dtype=tf.int64, name="train_step", aggregation=aggregation)


def create(
  observation_spec: Mapping[str, tf.TensorSpec],
  config: config_lib.CqlConfig,
  statistics: networks.Statistics,
  seed: int,
  critic_observation_spec: Mapping[str, tf.TensorSpec] | None = None,
) -> "CqlAgent":
  """Returns a CQL agent whose weights and whole course of training are a function of `seed`.

  Args:
    observation_spec: key of an observation that the policy sees -> spec without batch dimension.
    config: hyperparameters; what to observe is in the two specs, and its keys are not read.
    statistics: mean and standard deviation of every vector observation.
    seed: of the weights, the sampled actions and the crops.
    critic_observation_spec: the same of what the critics see; None: what the policy sees.

  Raises:
    ValueError: if a vector observation has no statistics.
  """
  return CqlAgent(
    ts.time_step_spec(dict(observation_spec)), config, statistics, seed, critic_observation_spec
  )


class CqlAgent(cql_sac_agent.CqlSacAgent):
  """CQL(H)-SAC that encodes each image once per network and step.

  What differs from CqlSacAgent: pi(.|s') samples in the conservative term, all losses computed
  from the weights before the step, BC warm start without control flow, and the rows of CqlConfig.
  `policy` is greedy (tanh of the mean), with averaged weights if the configuration asks for them;
  `collect_policy` is stochastic. Both ask for what the policy sees alone, and `train` for what the
  critics see, too.
  """

  def __init__(
    self,
    time_step_spec: ts.TimeStep,
    config: config_lib.CqlConfig,
    statistics: networks.Statistics,
    seed: int,
    critic_observation_spec: Mapping[str, tf.TensorSpec] | None = None,
    name: str | None = None,
  ):
    rng = np.random.default_rng(seed)
    make_networks = NetworkFactory(config, statistics, rng)
    if critic_observation_spec is None:
      critic_observation_spec = time_step_spec.observation
    critics = make_networks.critics("critic", critic_observation_spec)
    target_critics = make_networks.critics("target_critic", critic_observation_spec)
    super().__init__(
      time_step_spec,
      ACTION_SPEC,
      critic_network=critics[0],
      critic_network_2=critics[1],
      target_critic_network=target_critics[0],
      target_critic_network_2=target_critics[1],
      actor_network=make_networks.policy(time_step_spec.observation),
      actor_optimizer=tf.keras.optimizers.legacy.Adam(config.actor_learning_rate),
      critic_optimizer=tf.keras.optimizers.legacy.Adam(config.critic_learning_rate),
      alpha_optimizer=tf.keras.optimizers.legacy.Adam(config.alpha_learning_rate),
      cql_alpha=config.cql_alpha,
      num_cql_samples=config.policy_samples,
      include_critic_entropy_term=config.entropy_in_backup,
      use_lagrange_cql_alpha=False,
      random_seed=seed,
      num_bc_steps=config.bc_steps,
      critic_loss_weight=config.bellman_weight,
      target_update_tau=config.target_update_tau,
      gamma=config.gamma,
      initial_log_alpha=math.log(config.initial_temperature),
      target_entropy=config.target_entropy,
      train_step_counter=step_counter(),
      name=name,
    )
    # SacAgent's own would drop from a batch what the critics alone see.
    data_spec = ts.time_step_spec({**time_step_spec.observation, **critic_observation_spec})
    self._data_context = data_converter.DataContext(data_spec, ACTION_SPEC, info_spec=())
    self._training_data_spec = self._data_context.trajectory_spec
    self._as_transition = data_converter.AsTransition(self._data_context, squeeze_time_dim=True)
    self._config = config
    self._seed = tf.Variable(seed, dtype=tf.int64, trainable=False, name="seed")
    policy = self._collect_policy
    self._average_network = None
    if config.policy_average_tau:
      self._average_network = make_networks.policy(time_step_spec.observation)
      policy = actor_policy.ActorPolicy(time_step_spec, ACTION_SPEC, self._average_network)
    self._greedy_policy = greedy_policy.GreedyPolicy(policy)
    self._update_average = common.Periodically(
      lambda: self._move_average(config.policy_average_tau), 1, "update_average"
    )
    self.initialize()

  @property
  def policy(self) -> greedy_policy.GreedyPolicy:
    """The policy to deploy: the mode of the squashed Gaussian."""
    return self._greedy_policy

  def values(self, observation: Mapping[str, np.ndarray]) -> np.ndarray:
    """Q(s, pi(s)) of the smaller critic, pi being `policy`.

    Args:
      observation: key -> (B, ...), of what the policy and what the critics see.

    Returns:
      (B,).
    """
    time_step = ts.restart(
      tf.nest.map_structure(tf.constant, observation), len(next(iter(observation.values())))
    )
    action = self.policy.action(time_step).action
    values = [critic((time_step.observation, action))[0] for critic in self._critics]
    return tf.minimum(*values).numpy()

  @property
  def policy_network(self) -> networks.PolicyNetwork:
    return self._actor_network

  @property
  def _critics(self) -> tuple[networks.QNetwork, networks.QNetwork]:
    return self._critic_network_1, self._critic_network_2

  @property
  def _target_critics(self) -> tuple[networks.QNetwork, networks.QNetwork]:
    return self._target_critic_network_1, self._target_critic_network_2

  def critic_variables(self) -> list[tf.Variable]:
    """What the critic loss trains."""
    return [v for critic in self._critics for v in critic.trainable_variables]

  def actor_variables(self) -> list[tf.Variable]:
    """What the policy loss trains."""
    return list(self._actor_network.trainable_variables)

  def _initialize(self):
    if self._config.copy_target_critics:
      super()._initialize()
    self._move_average(1.0)

  def _move_average(self, tau: float | None):
    """Moves the weights of the greedy policy towards those that are trained."""
    if self._average_network is None:
      return tf.no_op()
    return common.soft_variables_update(
      self._actor_network.variables, self._average_network.variables, tau, tau_non_trainable=1.0
    )

  def _train(self, experience, weights=None) -> tf_agent.LossInfo:
    """One step of every network on a Transition of batch B, without time dimension.

    All gradients come from one pass over the weights before the step. An optimiser each, since the
    paper gives the critics another learning rate than the policy.
    """
    transition = self._checked_transition(experience, weights)
    seeds = self._next_seeds()
    backup = self._backup(transition.next_time_step, seeds)
    updates = (
      ("critic_loss", self.critic_variables(), self._critic_optimizer),
      ("actor_loss", self.actor_variables(), self._actor_optimizer),
      ("alpha_loss", [self._log_alpha], self._alpha_optimizer),
    )
    with tf.GradientTape(persistent=True, watch_accessed_variables=False) as tape:
      for _, variables, _ in updates:
        tape.watch(variables)
      losses, metrics = self._losses(transition, backup, seeds)
    for loss_name, variables, optimizer in updates:
      gradients = tape.gradient(losses[loss_name], variables, output_gradients=distribution.share())
      self._apply_gradients(gradients, variables, optimizer)
    self.train_step_counter.assign_add(1)
    if self._config.critics_wait_for_warm_start:
      # To Adam the steps of waiting are none: its moments begin at zero, which it makes up for in
      # its first steps only.
      learned = tf.maximum(self.train_step_counter - self._config.bc_steps, 0)
      self._critic_optimizer.iterations.assign(learned)
    self._update_target()
    self._update_average()
    return loss_info(losses, metrics)

  def _loss(self, experience, weights=None, training=False) -> tf_agent.LossInfo:
    """The losses of a batch, without a step, with the draws of the next one."""
    transition = self._checked_transition(experience, weights)
    seeds = self._next_seeds()
    return loss_info(
      *self._losses(transition, self._backup(transition.next_time_step, seeds), seeds)
    )

  def _checked_transition(self, experience, weights) -> trajectory.Transition:
    if weights is not None:
      raise ValueError("CqlAgent weighs transitions by sampling them, not in the loss")
    return self._as_transition(experience)

  def _next_seeds(self) -> Iterator[tf.Tensor]:
    return iter(tf.unstack(step_seeds(self._seed, self.train_step_counter, _SEEDS_PER_STEP)))

  def _backup(
    self, next_time_step: ts.TimeStep, seeds: Iterator[tf.Tensor]
  ) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Targets (B,), and the pi(.|s') samples (B, N, A) with log densities (B, N): constants."""
    config = self._config
    observation = next_time_step.observation
    embeddings = [critic.encode(observation, next(seeds)) for critic in self._target_critics]
    moments = self._actor_network.moments(observation, next(seeds))
    actions, log_probs = networks.sample_actions(
      *moments, 1 + config.next_policy_samples, next(seeds)
    )
    values = [
      q.values(z, actions[:, :1])[:, 0]
      for q, z in zip(self._target_critics, embeddings, strict=True)
    ]
    next_values = tf.minimum(*values)
    if config.entropy_in_backup:
      next_values -= tf.exp(self._log_alpha) * log_probs[:, 0]
    targets = bellman_targets(
      next_time_step.reward, next_time_step.discount, next_values, config.gamma, config.target_range
    )
    return targets, tf.stop_gradient(actions[:, 1:]), tf.stop_gradient(log_probs[:, 1:])

  def _losses(
    self,
    transition: trajectory.Transition,
    backup: tuple[tf.Tensor, tf.Tensor, tf.Tensor],
    seeds: Iterator[tf.Tensor],
  ) -> tuple[dict[str, tf.Tensor], dict[str, tf.Tensor]]:
    """Scalar losses to minimise, and scalar metrics to log."""
    config = self._config
    targets, next_actions, next_log_probs = backup
    data_actions = transition.action_step.action
    observation = transition.time_step.observation
    embeddings = [critic.encode(observation, next(seeds)) for critic in self._critics]
    moments = self._actor_network.moments(observation, next(seeds))
    actions, log_probs = networks.sample_actions(*moments, 1 + config.policy_samples, next(seeds))
    data_log_probs = networks.log_prob(*moments, data_actions)

    # Critics: the data action and all sampled ones in one call of each.
    uniform_actions, uniform_log_probs = self._uniform_samples(data_actions, next(seeds))
    sampled_log_probs = tf.stop_gradient(
      tf.concat([uniform_log_probs, log_probs[:, 1:], next_log_probs], axis=1)
    )
    if not config.importance_weighted:
      sampled_log_probs = tf.zeros_like(sampled_log_probs)
    all_actions = tf.stop_gradient(
      tf.concat([data_actions[:, None], uniform_actions, actions[:, 1:], next_actions], axis=1)
    )
    values = [q.values(z, all_actions) for q, z in zip(self._critics, embeddings, strict=True)]
    td_losses = [bellman_loss(v[:, 0], targets) for v in values]
    gaps = [cql_gap(v[:, 1:], sampled_log_probs, v[:, 0]) for v in values]
    td_loss = config.bellman_weight * tf.add_n(td_losses)
    cql_loss = config.cql_alpha * tf.add_n(gaps)
    is_warm_start = self.train_step_counter < config.bc_steps
    critic_loss = td_loss + cql_loss
    if config.critics_wait_for_warm_start:
      critic_loss = tf.where(is_warm_start, 0.0, critic_loss)

    # Policy: values of its own action, differentiated in the action alone.
    policy_values = tf.minimum(
      *(
        q.values(tf.stop_gradient(z), actions[:, :1])[:, 0]
        for q, z in zip(self._critics, embeddings, strict=True)
      )
    )
    alpha = tf.stop_gradient(tf.exp(self._log_alpha))
    log_probs = log_probs[:, 0]
    actor_loss = tf.where(
      is_warm_start,
      warm_start_loss(alpha, log_probs, data_log_probs),
      policy_loss(alpha, log_probs, policy_values, data_log_probs, config.actor_bc_weight),
    )
    losses = {
      "critic_loss": critic_loss,
      "actor_loss": actor_loss,
      "alpha_loss": temperature_loss(self._log_alpha, log_probs, config.target_entropy),
    }
    metrics = {
      "td_loss": td_loss,
      "cql_loss": cql_loss,
      "cql_gap": tf.add_n(gaps) / len(gaps),
      "q_data": tf.reduce_mean([v[:, 0] for v in values]),
      "q_policy": tf.reduce_mean(policy_values),
      "target_max": tf.reduce_max(targets),
      "alpha": alpha,
      "entropy": -tf.reduce_mean(log_probs),
      "bc_log_likelihood": tf.reduce_mean(data_log_probs),
    }
    return losses, metrics

  def _uniform_samples(self, like: tf.Tensor, seed: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    shape = (tf.shape(like)[0], self._config.uniform_samples, specs.ACTION_SIZE)
    actions = distribution.draw(tf.random.stateless_uniform, shape, seed, -1.0, 1.0)
    return actions, tf.fill(shape[:2], UNIFORM_LOG_PROB)


class NetworkFactory:
  """Makes the networks of one agent in a fixed order, so that a seed fixes their weights."""

  def __init__(self, config, statistics, rng):
    self._config = config
    self._statistics = statistics
    self._rng = rng

  def encoder(self, observation_spec: Mapping[str, tf.TensorSpec]) -> networks.Encoder:
    return networks.Encoder(observation_spec, self._config, self._statistics, self._rng)

  def critics(
    self, name: str, observation_spec: Mapping[str, tf.TensorSpec]
  ) -> list[networks.QNetwork]:
    """Two of them, of these observations."""
    return [
      networks.QNetwork(
        (observation_spec, ACTION_SPEC),
        self.encoder(observation_spec),
        self._config.q_hidden_sizes,
        self._rng,
        name=f"{name}_{i}",
      )
      for i in (1, 2)
    ]

  def policy(self, observation_spec: Mapping[str, tf.TensorSpec]) -> networks.PolicyNetwork:
    encoder = self.encoder(observation_spec)
    return networks.PolicyNetwork(observation_spec, ACTION_SPEC, encoder, self._config, self._rng)


def loss_info(losses, metrics) -> tf_agent.LossInfo:
  """A LossInfo with all of these in `extra`; an InvalidArgumentError if a loss is no number."""
  for name, loss in losses.items():
    tf.debugging.check_numerics(loss, f"{name} {NO_NUMBER}")
  # Not tf.add_n, nor +, of which TensorFlow makes it: its order, and so the last bit, depends on
  # which loss is in use elsewhere at the moment.
  total = tf.reduce_sum(tf.stack([*losses.values()]))
  return tf_agent.LossInfo(total, {**losses, **metrics})
