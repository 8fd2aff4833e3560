"""Behaviour cloning with an entropy-regularised policy (the paper's BC baseline, section 6.2)."""

import math
from collections.abc import Mapping

import numpy as np
import tensorflow as tf
from tf_agents.agents import data_converter, tf_agent
from tf_agents.policies import actor_policy, greedy_policy
from tf_agents.trajectories import time_step as ts

from cog_agents import config as config_lib
from cog_agents import cql, distribution, networks


def create(
  observation_spec: Mapping[str, tf.TensorSpec],
  config: config_lib.CqlConfig,
  statistics: networks.Statistics,
  seed: int,
) -> "BcAgent":
  """Returns a BC agent with the policy network of `config`; arguments as for `cql.create`."""
  return BcAgent(ts.time_step_spec(dict(observation_spec)), config, statistics, seed)


class BcAgent(tf_agent.TFAgent):
  """Minimises alpha * log pi(a|s) - log pi(a_data|s), the warm start of CQL, for the whole run.

  `collect_policy` is stochastic, which is how the paper evaluates BC; `policy` is greedy.
  """

  def __init__(
    self,
    time_step_spec: ts.TimeStep,
    config: config_lib.CqlConfig,
    statistics: networks.Statistics,
    seed: int,
    name: str | None = None,
  ):
    tf.Module.__init__(self, name=name)
    rng = np.random.default_rng(seed)
    make_networks = cql.NetworkFactory(config, statistics, rng)
    self._actor_network = make_networks.policy(time_step_spec.observation)
    collect_policy = actor_policy.ActorPolicy(
      time_step_spec, cql.ACTION_SPEC, actor_network=self._actor_network
    )
    super().__init__(
      time_step_spec,
      cql.ACTION_SPEC,
      policy=greedy_policy.GreedyPolicy(collect_policy),
      collect_policy=collect_policy,
      train_sequence_length=2,
      train_step_counter=cql.step_counter(),
    )
    self._as_transition = data_converter.AsTransition(self.data_context, squeeze_time_dim=True)
    self._target_entropy = config.target_entropy
    self._log_alpha = tf.Variable(math.log(config.initial_temperature), name="log_alpha")
    self._actor_optimizer = tf.keras.optimizers.legacy.Adam(config.actor_learning_rate)
    self._alpha_optimizer = tf.keras.optimizers.legacy.Adam(config.alpha_learning_rate)
    self._seed = tf.Variable(seed, dtype=tf.int64, trainable=False, name="seed")

  @property
  def policy_network(self) -> networks.PolicyNetwork:
    return self._actor_network

  def _initialize(self):
    """Nothing to do: there are no target networks."""

  def _train(self, experience, weights=None) -> tf_agent.LossInfo:
    """One step of the policy and the temperature on a Transition of batch B."""
    updates = (
      ("actor_loss", self._actor_network.trainable_variables, self._actor_optimizer),
      ("alpha_loss", [self._log_alpha], self._alpha_optimizer),
    )
    with tf.GradientTape(persistent=True) as tape:
      info = self._loss(experience, weights)
    for loss_name, variables, optimizer in updates:
      loss = info.extra[loss_name]
      gradients = tape.gradient(loss, variables, output_gradients=distribution.share())
      optimizer.apply_gradients(zip(gradients, variables, strict=True))
    self.train_step_counter.assign_add(1)
    return info

  def _loss(self, experience, weights=None, training=False) -> tf_agent.LossInfo:
    """The losses of a batch, without a step; with the draws of the next one."""
    if weights is not None:
      raise ValueError("BcAgent weighs transitions by sampling them, not in the loss")
    transition = self._as_transition(experience)
    crop_seed, action_seed = tf.unstack(cql.step_seeds(self._seed, self.train_step_counter, 2))
    moments = self._actor_network.moments(transition.time_step.observation, crop_seed)
    _, log_probs = networks.sample_actions(*moments, 1, action_seed)
    data_log_probs = networks.log_prob(*moments, transition.action_step.action)
    alpha = tf.stop_gradient(tf.exp(self._log_alpha))
    losses = {
      "actor_loss": cql.warm_start_loss(alpha, log_probs[:, 0], data_log_probs),
      "alpha_loss": cql.temperature_loss(self._log_alpha, log_probs[:, 0], self._target_entropy),
    }
    metrics = {
      "alpha": alpha,
      "entropy": -tf.reduce_mean(log_probs),
      "bc_log_likelihood": tf.reduce_mean(data_log_probs),
    }
    return cql.loss_info(losses, metrics)
