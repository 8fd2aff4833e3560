"""Encoders, Q networks and the squashed Gaussian policy, as TF-Agents networks."""

import math
from collections.abc import Mapping, Sequence

import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp
from tf_agents.distributions import utils as distribution_utils
from tf_agents.networks import network
from tf_agents.specs import distribution_spec

from cog_agents import config as config_lib
from cog_agents import distribution
from collection import scenes, specs

# Below this a standard deviation is noise of the simulator (a millimetre, a milliradian).
MIN_STATISTICS_STD = 1e-3
# Values and Gaussian parameters start near zero.
FINAL_LAYER_INIT = 1e-3
# Recorded actions may touch -1 and 1, which a squashed Gaussian reaches only at infinity.
DATA_ACTION_LIMIT = 1.0 - 1e-5

Statistics = Mapping[str, tuple[np.ndarray, np.ndarray]]


def _dense(size: int, rng: np.random.Generator, activation=None, **kwargs):
  initializer = tf.keras.initializers.GlorotUniform(seed=int(rng.integers(2**31)))
  return tf.keras.layers.Dense(size, activation, kernel_initializer=initializer, **kwargs)


def _mixed(dtype: tf.DType) -> tf.keras.mixed_precision.Policy:
  """Computes in `dtype` with float32 weights."""
  is_float32 = dtype == tf.float32
  return tf.keras.mixed_precision.Policy("float32" if is_float32 else f"mixed_{dtype.name}")


def _final_dense(size: int, rng: np.random.Generator):
  initializer = tf.keras.initializers.RandomUniform(
    -FINAL_LAYER_INIT, FINAL_LAYER_INIT, seed=int(rng.integers(2**31))
  )
  return tf.keras.layers.Dense(size, kernel_initializer=initializer)


def random_crop(images: tf.Tensor, padding: int, seed: tf.Tensor) -> tf.Tensor:
  """Shifts each image by up to `padding` pixels, filling with zeros: a crop after zero padding.

  Args:
    images: (B, H, W, C).
    padding: largest shift in pixels, up, down, left and right.
    seed: (2,) integer seed of the shifts, one per image.

  Returns:
    (B, H, W, C) float32, with the same range of values.
  """
  batch, height, width = tf.shape(images)[0], images.shape[1], images.shape[2]
  last = tf.constant([height - 1, width - 1], tf.float32)
  uniform = tf.random.stateless_uniform
  shifts = distribution.draw(uniform, (batch, 2), seed, -padding, padding + 1, tf.int32)
  shifts = tf.cast(shifts, tf.float32)
  # crop_and_resize is the quickest of TensorFlow's ways to do this on a CPU. It takes the nearest
  # pixel; a box drawn in by less than half of one keeps rounding from reaching past the edge.
  inset = 0.2
  boxes = tf.concat([(shifts + inset) / last, (shifts + last - inset) / last], axis=1)
  images = tf.cast(images, tf.float32)  # a GPU has no crop_and_resize of bytes
  return tf.image.crop_and_resize(images, boxes, tf.range(batch), (height, width), "nearest")


def gripper_crop(images: tf.Tensor, state: tf.Tensor, size: int) -> tf.Tensor:
  """A square of each image around the place on the table that lies below the end effector.

  What is to be grasped is then seen where it lies from the gripper, wherever both are. The pose is
  the robot's own measurement and the camera's a constant; nothing else of the scene is used.

  Args:
    images: (B, H, W, C) of scenes.POLICY_CAMERA, H = W.
    state: (B, 7), the observation of that name, which begins with the position in metres.
    size: S, side of the square in pixels.

  Returns:
    (B, S, S, C) float32 with the same range of values: the pixels next to each point, weighed by
    their distance, and 0 outside the image.
  """
  batch, side = tf.shape(images)[0], images.shape[1]
  table = tf.fill((batch, 1), scenes.TABLE_TOP)
  places = tf.concat([state[:, :2], table, tf.ones((batch, 1))], axis=1)
  matrix = tf.constant(scenes.POLICY_CAMERA.world_to_clip(), tf.float32)
  x, y, _, w = tf.unstack(tf.linalg.matmul(places, matrix, transpose_b=True), axis=1)
  # Pixels: 0 is the middle of the first one, which crop_and_resize calls 0, and the last one's 1.
  centers = tf.stack([1.0 - y / w, 1.0 + x / w], axis=1) * (side / 2) - 0.5
  half = (size - 1) / 2
  boxes = tf.concat([centers - half, centers + half], axis=1) / (side - 1)
  images = tf.cast(images, tf.float32)  # a GPU has no crop_and_resize of bytes
  return tf.image.crop_and_resize(images, boxes, tf.range(batch), (size, size), "bilinear")


class Standardize(tf.keras.layers.Layer):
  """(x - mean) / std with fixed statistics, which are saved with the network."""

  def __init__(self, mean: np.ndarray, std: np.ndarray):
    super().__init__()
    self._mean = self._constant("mean", mean)
    self._std = self._constant("std", np.maximum(std, MIN_STATISTICS_STD))

  def _constant(self, name: str, value: np.ndarray):
    initializer = tf.keras.initializers.Constant(np.asarray(value, np.float32))
    return self.add_weight(name, np.shape(value), initializer=initializer, trainable=False)

  @property
  def statistics(self) -> tuple[np.ndarray, np.ndarray]:
    return self._mean.numpy(), self._std.numpy()

  def call(self, inputs: tf.Tensor) -> tf.Tensor:
    return (inputs - self._mean) / self._std


class Convolution(tf.keras.layers.Layer):
  """A 3x3 convolution with bias, computed in the type of its input; its weights are float32."""

  def __init__(self, filters: int, stride: int, rng: np.random.Generator):
    super().__init__(autocast=False)
    self._filters = filters
    self._stride = stride
    self._initializer = tf.keras.initializers.GlorotUniform(seed=int(rng.integers(2**31)))

  def build(self, input_shape):
    shape = (3, 3, input_shape[-1], self._filters)
    self._kernel = self.add_weight("kernel", shape, initializer=self._initializer)
    self._bias = self.add_weight("bias", (self._filters,), initializer="zeros")

  def call(self, x: tf.Tensor, scale: float = 1.0) -> tf.Tensor:
    """The convolution of scale * x, (B, H, W, C) -> (B, H / stride, W / stride, filters)."""
    # The kernel has a few hundred numbers, and the input millions.
    kernel = tf.cast(self._kernel * scale, x.dtype)
    return tf.nn.bias_add(
      tf.nn.conv2d(x, kernel, self._stride, "SAME"), tf.cast(self._bias, x.dtype)
    )


class Encoder(tf.keras.layers.Layer):
  """Observation dict -> features (B, F).

  Images go through the convolutions of the paper (section 5: 3x3 with stride 1, max-pooling by 2
  between them, ReLU; a larger stride replaces the pooling) and are flattened; so is the gripper's
  crop, if the configuration has one, by one convolution less, as its sides are shorter; vectors are
  standardised; all are concatenated.

  Attributes:
    features_dtype: of the features: that of the images, if there are any.
  """

  def __init__(
    self,
    observation_spec: Mapping[str, tf.TensorSpec],
    config: config_lib.CqlConfig,
    statistics: Statistics,
    rng: np.random.Generator,
    name: str = "encoder",
  ):
    super().__init__(name=name)
    self._crop_padding = config.crop_padding
    self._max_pooling = config.conv_stride == 1
    self._gripper_crop_size = config.gripper_crop_size
    self._convolutions = []
    self._crop_convolutions = []
    self.features_dtype = tf.float32
    if specs.IMAGE in observation_spec:
      self.features_dtype = tf.as_dtype(config.image_dtype)
      self._convolutions = self._make_convolutions(config.conv_filters, config, rng)
      if config.gripper_crop_size:
        self._crop_convolutions = self._make_convolutions(config.conv_filters[1:], config, rng)
    self._vector_keys = tuple(key for key in sorted(observation_spec) if key != specs.IMAGE)
    missing = set(self._vector_keys) - set(statistics)
    if missing:
      raise ValueError(f"no statistics for {sorted(missing)}; there are: {sorted(statistics)}")
    self._standardizers = {key: Standardize(*statistics[key]) for key in self._vector_keys}

  @property
  def statistics(self) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Mean and standard deviation that each vector observation is standardised with."""
    return {key: layer.statistics for key, layer in self._standardizers.items()}

  def call(self, observation: Mapping[str, tf.Tensor], seed: tf.Tensor | None = None) -> tf.Tensor:
    """Encodes a batch; with a `seed` of shape (2,) the images are randomly cropped first."""
    parts = [self._standardizers[key](observation[key]) for key in self._vector_keys]
    if self._convolutions:
      image = observation[specs.IMAGE]
      if self._crop_convolutions:
        crop = gripper_crop(image, observation[specs.STATE], self._gripper_crop_size)
        parts.append(self._encode_image(crop, self._crop_convolutions))
      if seed is not None and self._crop_padding:
        image = random_crop(image, self._crop_padding, seed)
      parts.append(self._encode_image(image, self._convolutions))
    return tf.concat([tf.cast(part, self.features_dtype) for part in parts], axis=-1)

  @staticmethod
  def _make_convolutions(all_filters: Sequence[int], config, rng) -> list[Convolution]:
    return [Convolution(filters, config.conv_stride, rng) for filters in all_filters]

  def _encode_image(self, image: tf.Tensor, convolutions: Sequence[Convolution]) -> tf.Tensor:
    x = tf.cast(image, self.features_dtype)  # whole numbers, which bfloat16 has up to 256
    for i, convolution in enumerate(convolutions):
      x = convolution(x, scale=1.0 if i else 1.0 / 255.0)
      if self._max_pooling and convolution is not convolutions[-1]:
        x = tf.nn.max_pool2d(x, ksize=2, strides=2, padding="SAME")
      # The same as ReLU before the pooling, on a quarter of the numbers.
      x = tf.nn.relu(x)
    return tf.reshape(x, (-1, np.prod(x.shape[1:])))


class QNetwork(network.Network):
  """Q(s, a), with the image encoded once for any number of actions.

  The first layer over the concatenation of features and action is split into one matrix for each,
  which is the same function: W [f; a] + b = W_f f + b + W_a a.
  """

  def __init__(
    self,
    input_tensor_spec,
    encoder: Encoder,
    hidden_sizes: Sequence[int],
    rng: np.random.Generator,
    name: str = "q_network",
  ):
    super().__init__(input_tensor_spec, state_spec=(), name=name)
    self.encoder = encoder
    self._feature_layer = _dense(hidden_sizes[0], rng, dtype=_mixed(encoder.features_dtype))
    self._action_layer = _dense(hidden_sizes[0], rng, use_bias=False)
    self._hidden_layers = [_dense(size, rng, "relu") for size in hidden_sizes[1:]]
    self._value_layer = _final_dense(1, rng)

  def encode(self, observation, seed: tf.Tensor | None = None) -> tf.Tensor:
    """Observation -> z (B, H), all that `values` needs of it; a `seed` crops images at random."""
    return tf.cast(self._feature_layer(self.encoder(observation, seed)), tf.float32)

  def values(self, z: tf.Tensor, actions: tf.Tensor) -> tf.Tensor:
    """z (B, H), actions (B, N, A) -> Q values (B, N)."""
    count = actions.shape[1]
    flat_actions = tf.reshape(actions, (-1, actions.shape[2]))  # (B * N, A)
    from_actions = tf.reshape(self._action_layer(flat_actions), (-1, count, z.shape[1]))
    x = tf.nn.relu(z[:, None, :] + from_actions)
    x = tf.reshape(x, (-1, z.shape[1]))  # (B * N, H)
    for layer in self._hidden_layers:
      x = layer(x)
    return tf.reshape(self._value_layer(x), (-1, count))

  def call(self, inputs, step_type=None, network_state=(), training=False):
    """(observation, action (B, A)) -> (values (B,), state), as TF-Agents calls a critic."""
    observation, action = inputs
    return self.values(self.encode(observation), action[:, None, :])[:, 0], network_state


class PolicyNetwork(network.DistributionNetwork):
  """pi(a|s): a Gaussian squashed by tanh into the bounds -1 and 1."""

  def __init__(
    self,
    input_tensor_spec,
    action_spec,
    encoder: Encoder,
    config: config_lib.CqlConfig,
    rng: np.random.Generator,
    name: str = "policy_network",
  ):
    parameter_spec = tf.TensorSpec(action_spec.shape, action_spec.dtype)
    output_spec = distribution_spec.DistributionSpec(
      _squashed_gaussian(action_spec),
      {"loc": parameter_spec, "scale_diag": parameter_spec},
      sample_spec=action_spec,
    )
    super().__init__(input_tensor_spec, state_spec=(), output_spec=output_spec, name=name)
    self.encoder = encoder
    self._log_std_range = tuple(config.log_std_range)
    sizes_and_activations = [(size, "relu") for size in config.policy_hidden_sizes]
    if config.policy_bottleneck_size:
      sizes_and_activations.append((config.policy_bottleneck_size, None))
    sizes_and_activations += [(size, "relu") for size in config.policy_head_sizes]
    dtypes = [encoder.features_dtype] + [tf.float32] * (len(sizes_and_activations) - 1)
    self._hidden_layers = [
      _dense(size, rng, act, dtype=_mixed(dtype))
      for (size, act), dtype in zip(sizes_and_activations, dtypes, strict=True)
    ]
    self._moments_layer = _final_dense(2 * action_spec.shape.num_elements(), rng)

  def moments(self, observation, seed: tf.Tensor | None = None) -> tuple[tf.Tensor, tf.Tensor]:
    """Observation -> mean and log standard deviation before the tanh, (B, A) each.

    A `seed` of shape (2,) crops images at random.
    """
    x = self.encoder(observation, seed)
    for layer in self._hidden_layers:
      x = tf.cast(layer(x), tf.float32)
    mean, log_std = tf.split(self._moments_layer(x), 2, axis=-1)
    return mean, tf.clip_by_value(log_std, *self._log_std_range)

  def call(self, observation, step_type=None, network_state=(), training=False):
    """Observation -> (distribution of actions, state), as TF-Agents calls an actor."""
    mean, log_std = self.moments(observation)
    return self.output_spec.build_distribution(loc=mean, scale_diag=tf.exp(log_std)), network_state


def _squashed_gaussian(action_spec):
  def build(*args, **kwargs):
    normal = tfp.distributions.MultivariateNormalDiag(*args, **kwargs)
    return distribution_utils.scale_distribution_to_spec(normal, action_spec)

  return build


def _log_tanh_slope(x: tf.Tensor) -> tf.Tensor:
  """log(1 - tanh(x)^2), without the cancellation of 1 - tanh^2 for large |x|."""
  return 2.0 * (math.log(2.0) - x - tf.nn.softplus(-2.0 * x))


def _gaussian_log_density(noise: tf.Tensor, log_std: tf.Tensor) -> tf.Tensor:
  return -0.5 * tf.square(noise) - log_std - 0.5 * math.log(2.0 * math.pi)


def sample_actions(
  mean: tf.Tensor, log_std: tf.Tensor, count: int, seed: tf.Tensor
) -> tuple[tf.Tensor, tf.Tensor]:
  """Draws `count` actions from each squashed Gaussian, differentiable in its moments.

  Args:
    mean: (B, A), before the tanh.
    log_std: (B, A).
    count: number N of actions for each of the B observations.
    seed: (2,) integer seed.

  Returns:
    actions (B, N, A) in [-1, 1] and their log densities (B, N) in nats.
  """
  batch, size = tf.shape(mean)[0], mean.shape[1]
  noise = distribution.draw(tf.random.stateless_normal, (batch, count, size), seed)
  log_std = log_std[:, None, :]
  unsquashed = mean[:, None, :] + tf.exp(log_std) * noise
  log_probs = _gaussian_log_density(noise, log_std) - _log_tanh_slope(unsquashed)
  return tf.tanh(unsquashed), tf.reduce_sum(log_probs, axis=-1)


def log_prob(mean: tf.Tensor, log_std: tf.Tensor, actions: tf.Tensor) -> tf.Tensor:
  """Log density (B,) in nats of recorded actions (B, A) under squashed Gaussians.

  Actions at the bounds, where the density has no value, are moved inside by 1e-5.
  """
  unsquashed = tf.atanh(tf.clip_by_value(actions, -DATA_ACTION_LIMIT, DATA_ACTION_LIMIT))
  noise = (unsquashed - mean) * tf.exp(-log_std)
  return tf.reduce_sum(_gaussian_log_density(noise, log_std) - _log_tanh_slope(unsquashed), axis=-1)
