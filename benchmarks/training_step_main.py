"""Gradient steps a second: the stock TF-Agents agent, and ours in float32 and in bfloat16.

  python -m benchmarks.training_step_main --observation=image --batch_size=256

All have networks of the same layers (the preset RELEASED_CODE), draw from the same stream, take
many steps in one tf.function, and are timed in turn, so that what else the machine does is shared.
Stock is TF-Agents' CqlSacAgent, with networks of Keras layers as TF-Agents' examples make them. It
does less in a step than the preset asks for: it has no actions from π(·|s′), and its images are
cropped in the stream, once an observation, where the preset has a crop of its own for each network.
So ours is timed twice: as it trains, and with the work of the stock agent ("same_work").
"""

import argparse
import dataclasses
import json
import pathlib
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp
from tf_agents.agents import tf_agent
from tf_agents.agents.cql import cql_sac_agent
from tf_agents.distributions import utils as distribution_utils
from tf_agents.keras_layers import inner_reshape
from tf_agents.networks import nest_map, sequential
from tf_agents.trajectories import time_step as ts

from cog_agents import config as config_lib
from cog_agents import cql, experience, mains, networks, provenance, tables
from collection import specs

STOCK = "stock"
SAME_WORK = "_same_work"  # after the precision: ours with the work of the stock agent
_SEED = 0  # of weights and draws
_TRANSITIONS = 20_000  # to draw from
_MATMUL_SIZE = 4096
_MATMULS = 5


def flops_per_step(config: config_lib.CqlConfig, num_features: int, has_image: bool) -> int:
  """Floating-point operations of a gradient step that no way of computing it can leave out.

  A multiplication and an addition are two. With B transitions and, for each,

    C    convolutions of an image: 2 · 9 · in · out · height · width of each layer
    C'   C without the first layer, whose input needs no gradient
    E    features → first hidden layer of a critic: 2 · features · H1
    A    action → first hidden layer: 2 · 8 · H1
    H    the rest of a critic: 2 (H1 H2 + H2 H3 + H3)
    P    the policy from its features: 2 Σ in · out
    N    actions of the logsumexp, and the recorded one

  a step at s' costs 2 (C + E + A + H) for the target critics and C + P for the policy, forward.
  At s it is forward and backward, for inputs and for weights:

    2 critics   (C + C + C') + 3 E + N (2 A + 3 H)
    policy      (C + C + C') + 3 P
    its values  2 (A + H) forward, 2 (A + H) for the gradient in the action

  Without images, C is 0, and first layers need no gradient in their input: 2 E, and one fewer of
  the first layer of P.
  """
  side, channels, convolutions = specs.IMAGE_SHAPE[0], specs.IMAGE_SHAPE[2], []
  for filters in config.conv_filters if has_image else ():
    side = -(-side // config.conv_stride)
    convolutions.append(2 * 9 * channels * filters * side * side)
    side, channels = (-(-side // 2) if config.conv_stride == 1 else side), filters
  first, *rest = config.q_hidden_sizes
  heads = _dense_flops([first, *rest, 1])
  embedding = _dense_flops([num_features, first])
  action = _dense_flops([specs.ACTION_SIZE, first])
  sizes = [num_features, *config.policy_hidden_sizes]
  sizes += [config.policy_bottleneck_size] if config.policy_bottleneck_size else []
  policy = _dense_flops([*sizes, *config.policy_head_sizes, 2 * specs.ACTION_SIZE])
  policy_first = _dense_flops(sizes[:2])
  count = config.uniform_samples + config.policy_samples + config.next_policy_samples + 1

  image = sum(convolutions)
  image_and_gradients = 3 * image - (convolutions[0] if has_image else 0)
  passes = 3 if has_image else 2  # of a first layer: its input's gradient is one
  at_next = 2 * (image + embedding + action + heads) + image + policy
  critics = 2 * (image_and_gradients + passes * embedding + count * (2 * action + 3 * heads))
  actor = image_and_gradients + 3 * (policy - policy_first) + passes * policy_first
  values = 4 * (action + heads)
  return config.batch_size * (at_next + critics + actor + values)


def _dense_flops(sizes: list[int]) -> int:
  return sum(2 * a * b for a, b in zip(sizes[:-1], sizes[1:], strict=True))


def peak_flops(dtype: str) -> float:
  """The most operations a second that a large product of matrices reaches on this machine."""
  matrix = tf.cast(tf.random.normal((_MATMUL_SIZE, _MATMUL_SIZE)), dtype)
  # The sum waits for the product.
  multiply = tf.function(lambda x: tf.reduce_sum(tf.cast(tf.matmul(x, x)[0], tf.float32)))
  multiply(matrix)
  seconds = min(_seconds(lambda: multiply(matrix).numpy()) for _ in range(_MATMULS))
  return 2 * _MATMUL_SIZE**3 / seconds


def synthetic_experience(observation: str, folder: pathlib.Path) -> experience.Experience:
  """Random transitions of the right shapes, as `experience.load` returns them."""
  rng = np.random.default_rng(0)
  frames = _TRANSITIONS + 1
  observations: dict[str, Any] = {}
  if observation == config_lib.IMAGE:
    column = tables.Column(folder / "image.npy")
    column.extend(rng.integers(0, 256, (frames, *specs.IMAGE_SHAPE), np.uint8))
    column.close()
    observations[specs.IMAGE] = tables.Rows([folder / "image.npy"])
  else:
    for key, size in ((specs.STATE, specs.STATE_SIZE), (specs.SIMULATOR_STATE, 7)):
      observations[key] = rng.normal(size=(frames, size)).astype(np.float32)
  first = np.arange(_TRANSITIONS)
  return experience.Experience(
    names=("synthetic",),
    observations=observations,
    first=first,
    last=first + 1,
    actions=rng.uniform(-0.9, 0.9, (_TRANSITIONS, specs.ACTION_SIZE)).astype(np.float32),
    rewards=rng.integers(0, 2, _TRANSITIONS).astype(np.float32),
    discounts=np.ones(_TRANSITIONS, np.float32),
    sources=np.zeros(_TRANSITIONS, np.int32),
  )


def stock_agent(data: experience.Experience, config: config_lib.CqlConfig) -> tf_agent.TFAgent:
  """TF-Agents' CqlSacAgent with the layers and the hyperparameters of ours."""
  layers = tf.keras.layers

  def features() -> list:
    encoders = {
      key: _stock_encoder(config, data.statistics.get(key)) for key in data.observation_spec
    }
    return [nest_map.NestMap(encoders), nest_map.NestFlatten(), layers.Concatenate()]

  def critic(name: str) -> sequential.Sequential:
    observation_and_action = nest_map.NestMap(
      (sequential.Sequential(features()), layers.Activation("linear"))
    )
    joint = [layers.Dense(size, "relu") for size in config.q_hidden_sizes]
    flat = [nest_map.NestFlatten(), layers.Concatenate()]
    value = [layers.Dense(1), inner_reshape.InnerReshape([1], [])]
    return sequential.Sequential([observation_and_action, *flat, *joint, *value], name=name)

  def squashed_gaussian(moments: tf.Tensor):
    mean, log_std = tf.split(moments, 2, axis=-1)
    std = tf.exp(tf.clip_by_value(log_std, *config.log_std_range))
    normal = tfp.distributions.MultivariateNormalDiag(mean, std)
    return distribution_utils.scale_distribution_to_spec(normal, cql.ACTION_SPEC)

  policy = [layers.Dense(size, "relu") for size in config.policy_hidden_sizes]
  if config.policy_bottleneck_size:
    policy.append(layers.Dense(config.policy_bottleneck_size))
  policy += [layers.Dense(size, "relu") for size in config.policy_head_sizes]
  policy += [layers.Dense(2 * specs.ACTION_SIZE), layers.Lambda(squashed_gaussian)]
  adam = tf.keras.optimizers.legacy.Adam
  agent = cql_sac_agent.CqlSacAgent(
    ts.time_step_spec(dict(data.observation_spec)),
    cql.ACTION_SPEC,
    critic_network=critic("critic_1"),
    critic_network_2=critic("critic_2"),
    actor_network=sequential.Sequential([*features(), *policy]),
    actor_optimizer=adam(config.actor_learning_rate),
    critic_optimizer=adam(config.critic_learning_rate),
    alpha_optimizer=adam(config.alpha_learning_rate),
    cql_alpha=config.cql_alpha,
    num_cql_samples=config.policy_samples,
    include_critic_entropy_term=config.entropy_in_backup,
    use_lagrange_cql_alpha=False,
    num_bc_steps=0,
    target_update_tau=config.target_update_tau,
    gamma=config.gamma,
    train_step_counter=tf.Variable(0, dtype=tf.int64),
  )
  agent.initialize()
  return agent


def _stock_encoder(config: config_lib.CqlConfig, statistics) -> sequential.Sequential:
  """Of images, which have no statistics, by convolutions; of a vector by standardising it."""
  layers = tf.keras.layers
  if statistics is not None:
    mean, std = (np.float32(x) for x in statistics)
    return sequential.Sequential([layers.Lambda(lambda x: (x - mean) / std)])
  parts = [layers.Lambda(lambda x: tf.cast(x, tf.float32) / 255.0)]
  for i, filters in enumerate(config.conv_filters):
    parts += [layers.MaxPool2D(padding="same")] if i else []
    parts.append(layers.Conv2D(filters, 3, padding="same", activation="relu"))
  return sequential.Sequential([*parts, layers.Flatten()])


def measure(observation: str, batch_size: int, steps: int, rounds: int) -> dict[str, Any]:
  """Returns what the JSON object holds.

  Args:
    observation: image or state.
    batch_size: B.
    steps: of an agent in a round.
    rounds: in each, all agents take their steps in turn; the median round counts.
  """
  config = dataclasses.replace(
    config_lib.load_preset("RELEASED_CODE", observation), batch_size=batch_size
  )
  same_work = dataclasses.replace(config, next_policy_samples=0, crop_padding=0)
  has_image = observation == config_lib.IMAGE
  # Without images there is nothing that bfloat16 would be for.
  dtypes = config_lib.IMAGE_DTYPES if has_image else config_lib.IMAGE_DTYPES[:1]
  with tempfile.TemporaryDirectory() as folder:
    data = synthetic_experience(observation, pathlib.Path(folder))
    runs = {STOCK: _runner(stock_agent(data, config), _cropped_stream(data, config))}
    for dtype in dtypes:
      runs[dtype] = _runner(_agent(data, config, dtype), _stream(data, config))
      agent = _agent(data, same_work, dtype)
      runs[dtype + SAME_WORK] = _runner(agent, _cropped_stream(data, config))
    seconds = {name: [] for name in runs}
    for run in runs.values():
      run(2)
    for _ in range(rounds):
      for name, run in runs.items():
        seconds[name].append(_seconds(lambda run=run: run(steps)))
  speeds = {name: steps / statistics.median(times) for name, times in seconds.items()}
  peaks = {dtype: peak_flops(dtype) for dtype in config_lib.IMAGE_DTYPES}
  num_features = _num_features(config, data)
  flops, flops_of_same_work = (
    flops_per_step(x, num_features, has_image) for x in (config, same_work)
  )
  achieved = {
    name: speed * (flops_of_same_work if name.endswith(SAME_WORK) else flops)
    for name, speed in speeds.items()
    if name != STOCK
  }
  return {
    "observation": observation,
    "batch_size": batch_size,
    "steps_per_second": {name: round(speed, 3) for name, speed in speeds.items()},
    "times_stock": {name: round(speeds[name] / speeds[STOCK], 2) for name in achieved},
    "flops_per_step": flops,
    "flops_per_step" + SAME_WORK: flops_of_same_work,
    "peak_flops": {dtype: round(peak) for dtype, peak in peaks.items()},
    "achieved_flops": {name: round(count) for name, count in achieved.items()},
    "share_of_peak": {
      name: round(count / peaks[name.removesuffix(SAME_WORK)], 3)
      for name, count in achieved.items()
    },
  }


def _num_features(config: config_lib.CqlConfig, data: experience.Experience) -> int:
  encoder = networks.Encoder(
    data.observation_spec, config, data.statistics, np.random.default_rng(0)
  )
  example = {key: tf.zeros((1, *s.shape), s.dtype) for key, s in data.observation_spec.items()}
  return encoder(example).shape[1]


def _agent(
  data: experience.Experience, config: config_lib.CqlConfig, image_dtype: str
) -> cql.CqlAgent:
  config = dataclasses.replace(config, image_dtype=image_dtype)
  return cql.create(data.observation_spec, config, data.statistics, seed=_SEED)


def _stream(data: experience.Experience, config: config_lib.CqlConfig) -> tf.data.Dataset:
  return data.dataset(config.batch_size, seed=_SEED)


def _cropped_stream(data: experience.Experience, config: config_lib.CqlConfig) -> tf.data.Dataset:
  """The stream with each image cropped at random, for an agent that does not do it itself."""

  def crop(time_step: ts.TimeStep, seed: int) -> ts.TimeStep:
    observation = dict(time_step.observation)
    if specs.IMAGE in observation:
      cropped = networks.random_crop(observation[specs.IMAGE], config.crop_padding, (seed, seed))
      observation[specs.IMAGE] = tf.cast(cropped, tf.uint8)
    return time_step._replace(observation=observation)

  def prepare(transition):
    return transition._replace(
      time_step=crop(transition.time_step, 0),
      action_step=transition.action_step._replace(info=()),
      next_time_step=crop(transition.next_time_step, 1),
    )

  return _stream(data, config).map(prepare).prefetch(2)


def _runner(agent: tf_agent.TFAgent, stream: tf.data.Dataset) -> Callable[[int], None]:
  """Returns a function that takes a number of steps."""
  iterator = iter(stream)
  step = tf.function(lambda transition: agent.train(transition).loss, autograph=False)

  @tf.function
  def run(iterator, count):
    for _ in tf.range(count):
      step(next(iterator))

  return lambda count: run(iterator, tf.constant(count))


def _seconds(call: Callable[[], Any]) -> float:
  started = time.perf_counter()
  call()
  return time.perf_counter() - started


def main(argv: list[str] | None = None) -> int:
  parser = argparse.ArgumentParser(
    prog="python -m benchmarks.training_step_main",
    description="Times gradient steps of the stock TF-Agents agent and of ours, with the same "
    "networks, in one process and in turn; ours as it trains and, NAME_same_work, without what the "
    "stock agent leaves out. Prints one JSON object: steps a second, how many times the stock "
    "agent's, and the share of this machine's measured peak.",
  )
  parser.add_argument(
    "--observation", choices=config_lib.OBSERVATIONS, default=config_lib.IMAGE,
    help="(default: %(default)s)",
  )  # fmt: skip
  for flag, default, what in (
    ("--batch_size", 256, "transitions of a step"),
    ("--steps", 10, "of an agent in a round"),
    ("--rounds", 5, "the median counts"),
  ):
    parser.add_argument(
      flag, type=mains.positive, default=default, help=f"{what} (default: %(default)s)"
    )
  args = parser.parse_args(argv)
  command = provenance.Command("benchmarks.training_step_main", argv)
  result = measure(args.observation, args.batch_size, args.steps, args.rounds)
  print(json.dumps({**command.entry(), "seed": _SEED, **result}, indent=1))
  return 0


if __name__ == "__main__":
  sys.exit(main())
