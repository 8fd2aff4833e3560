import dataclasses

import numpy as np
import pytest
import tensorflow as tf
from scipy import stats
from tf_agents.specs import tensor_spec

from cog_agents import config, networks
from collection import scenes

ACTION_SPEC = tensor_spec.BoundedTensorSpec((8,), tf.float32, -1.0, 1.0)
IMAGE_SPEC = {"image": tf.TensorSpec((12, 12, 3), tf.uint8)}
STATE_SPEC = {"state": tf.TensorSpec((7,), tf.float32)}
STATISTICS = {"state": (np.arange(7.0), np.full(7, 2.0))}
SMALL = dataclasses.replace(
  config.RELEASED_CODE,
  conv_filters=(4, 4),
  crop_padding=2,
  q_hidden_sizes=(16, 12, 10),
  policy_hidden_sizes=(16,),
  policy_bottleneck_size=6,
  policy_head_sizes=(12,),
)


@pytest.fixture
def rng():
  return np.random.default_rng(0)


def _images(rng, batch=5):
  return tf.constant(rng.integers(0, 256, (batch, 12, 12, 3), np.uint8))


def _q_network(spec, rng, cfg=SMALL):
  encoder = networks.Encoder(spec, cfg, STATISTICS, rng)
  net = networks.QNetwork((spec, ACTION_SPEC), encoder, cfg.q_hidden_sizes, rng)
  net.create_variables()
  return net


def _policy(spec, rng, cfg=SMALL):
  encoder = networks.Encoder(spec, cfg, STATISTICS, rng)
  net = networks.PolicyNetwork(spec, ACTION_SPEC, encoder, cfg, rng)
  net.create_variables()
  return net


def _squashed_log_density(mean, log_std, actions):
  """Change of variables in float64, by scipy."""
  mean, log_std, actions = (np.asarray(x, np.float64) for x in (mean, log_std, actions))
  normal = stats.norm.logpdf(np.arctanh(actions), mean, np.exp(log_std))
  return (normal - np.log1p(-(actions**2))).sum(-1)


def test_a_crop_is_the_zero_padded_image_shifted(rng):
  images = _images(rng, batch=40)
  crops = networks.random_crop(images, 2, tf.constant([1, 2])).numpy()
  padded = np.pad(images.numpy(), [(0, 0), (2, 2), (2, 2), (0, 0)])
  shifts = set()
  for image, crop in zip(padded, crops, strict=True):
    windows = {(y, x): image[y : y + 12, x : x + 12] for y in range(5) for x in range(5)}
    matches = [shift for shift, window in windows.items() if np.array_equal(window, crop)]
    assert len(matches) == 1
    shifts.add(matches[0])
  assert len(shifts) > 10  # each image has its own
  assert {y for y, _ in shifts} == {x for _, x in shifts} == set(range(5))


def test_crops_are_a_function_of_the_seed(rng):
  images = _images(rng)
  first, again, other = (
    networks.random_crop(images, 2, tf.constant(seed)).numpy() for seed in ([1, 2], [1, 2], [1, 3])
  )
  np.testing.assert_array_equal(first, again)
  assert not np.array_equal(first, other)


def _pixel_below(state):
  """Row and column in a 12 by 12 image of the place on the table below the end effector."""
  x, y, _, w = scenes.POLICY_CAMERA.world_to_clip() @ (*state[:2], scenes.TABLE_TOP, 1.0)
  return np.array([1.0 - y / w, 1.0 + x / w]) * 6.0 - 0.5


def test_the_grippers_crop_is_centred_on_the_table_below_it():
  rows, columns = np.mgrid[:12, :12]
  ramps = np.stack([10 * rows, 10 * columns, np.full((12, 12), 7)], axis=-1).astype(np.uint8)
  states = np.array([[0.6, 0.2, -0.2, 0, 0, 0, 1], [0.63, 0.22, -0.3, 0, 0, 0, 0]], np.float32)
  crops = networks.gripper_crop(tf.constant([ramps, ramps]), tf.constant(states), 5).numpy()
  assert crops.shape == (2, 5, 5, 3)
  for state, crop in zip(states, crops, strict=True):
    row, column = _pixel_below(state)
    np.testing.assert_allclose(crop[:, 2, 0], 10 * (row + np.arange(-2, 3)), atol=0.01)
    np.testing.assert_allclose(crop[2, :, 1], 10 * (column + np.arange(-2, 3)), atol=0.01)
    np.testing.assert_allclose(crop[..., 2], 7, atol=0.01)
  assert np.abs(_pixel_below(states[0]) - _pixel_below(states[1])).max() > 0.2


def test_the_grippers_crop_is_zero_outside_the_image():
  image = tf.fill((1, 12, 12, 3), np.uint8(200))
  state = tf.constant([[0.8, 0.2, -0.2, 0, 0, 0, 1]])  # at the left edge
  _, column = _pixel_below(state[0].numpy())
  crop = networks.gripper_crop(image, state, 8).numpy()[0, 4, :, 0]
  np.testing.assert_array_equal(crop > 0, column + np.arange(-3.5, 4) >= 0)
  assert set(np.round(crop)) == {0, 200}


def test_an_encoder_with_the_grippers_crop_sees_it_beside_the_image(rng):
  seen = {"image_run_keys": ("image", "state"), "gripper_crop_size": 6}
  cfg = dataclasses.replace(SMALL, conv_stride=2, **seen)
  encoder = networks.Encoder({**IMAGE_SPEC, **STATE_SPEC}, cfg, STATISTICS, rng)
  state = np.array([[0.6, 0.2, -0.2, 0, 0, 0, 1]], np.float32)
  image = _images(rng, batch=1)
  features = encoder({"image": image, "state": tf.constant(state)}).numpy()
  # The state; 6 -> 3 pixels a side by one convolution; 12 -> 6 -> 3 by two; four filters.
  assert features.shape == (1, 7 + 3 * 3 * 4 + 3 * 3 * 4)
  state[0, 0] += 0.05
  moved = encoder({"image": image, "state": tf.constant(state)}).numpy()
  assert not np.array_equal(features[:, 7:43], moved[:, 7:43])
  np.testing.assert_array_equal(features[:, 43:], moved[:, 43:])


def test_vectors_are_standardised_by_the_given_statistics(rng):
  encoder = networks.Encoder(STATE_SPEC, SMALL, STATISTICS, rng)
  features = encoder({"state": tf.constant([[0.0, 1, 2, 3, 4, 5, 10]])})
  np.testing.assert_allclose(features, [[0, 0, 0, 0, 0, 0, 2]])
  assert not encoder.trainable_variables


def test_a_constant_dimension_is_not_blown_up(rng):
  encoder = networks.Encoder(STATE_SPEC, SMALL, {"state": (np.zeros(7), np.zeros(7))}, rng)
  assert np.abs(encoder({"state": tf.fill((1, 7), 1e-4)})).max() <= 0.1 + 1e-6


def test_missing_statistics_are_named(rng):
  with pytest.raises(ValueError, match="state"):
    networks.Encoder(STATE_SPEC, SMALL, {}, rng)


def test_the_convolutions_have_the_papers_sizes(rng):
  spec = {"image": tf.TensorSpec((48, 48, 3), tf.uint8)}
  encoder = networks.Encoder(spec, config.PAPER, {}, rng)
  features = encoder({"image": tf.zeros((2, 48, 48, 3), tf.uint8)})
  assert features.shape == (2, 12 * 12 * 16)  # pooled twice
  shapes = [tuple(v.shape) for v in encoder.trainable_variables if len(v.shape) == 4]
  assert shapes == [(3, 3, 3, 16), (3, 3, 16, 16), (3, 3, 16, 16)]


def test_strided_convolutions_do_without_max_pooling(rng):
  cfg = dataclasses.replace(SMALL, conv_stride=2)
  features = networks.Encoder(IMAGE_SPEC, cfg, {}, rng)({"image": _images(rng)})
  assert features.shape == (5, 3 * 3 * 4)  # 12 -> 6 -> 3 pixels a side, four filters


def test_the_split_first_layer_equals_a_dense_layer_over_the_concatenation(rng):
  net = _q_network(STATE_SPEC, rng)
  state = rng.normal(size=(5, 7)).astype(np.float32)
  actions = rng.uniform(-1, 1, (5, 3, 8)).astype(np.float32)
  values = net.values(net.encode({"state": state}), tf.constant(actions))

  by_shape = {tuple(v.shape): v.numpy() for v in net.trainable_variables}
  kernel = np.concatenate([by_shape[7, 16], by_shape[8, 16]])  # (7 + 8, 16)
  standard = (state - np.arange(7.0)) / 2.0
  x = np.concatenate([np.repeat(standard[:, None], 3, axis=1), actions], axis=-1)
  for weights in (kernel, by_shape[16, 12], by_shape[12, 10]):
    x = np.maximum(x @ weights, 0.0)  # biases start at zero
  np.testing.assert_allclose(values, (x @ by_shape[10, 1])[..., 0], rtol=1e-4, atol=1e-7)


def test_a_critic_call_is_the_value_of_its_one_action(rng):
  net = _q_network({**IMAGE_SPEC, **STATE_SPEC}, rng)
  observation = {"image": _images(rng), "state": tf.ones((5, 7))}
  actions = tf.constant(rng.uniform(-1, 1, (5, 2, 8)), tf.float32)
  called, _ = net((observation, actions[:, 1]))
  np.testing.assert_allclose(
    called, net.values(net.encode(observation), actions)[:, 1], rtol=1e-5, atol=1e-8
  )


def test_policy_layers_are_those_of_the_released_code(rng):
  net = _policy(STATE_SPEC, rng, config.RELEASED_CODE)
  shapes = [tuple(v.shape) for v in net.trainable_variables if len(v.shape) == 2]
  sizes = [7, 1024, 512, 256, 256, 256, 256, 16]
  assert shapes == list(zip(sizes[:-1], sizes[1:], strict=True))


def test_the_bottleneck_is_linear(rng):
  net = _policy(STATE_SPEC, rng)
  x = tf.random.stateless_normal((64, 16), (1, 2))
  (bottleneck,) = (layer for layer in net.layers if getattr(layer, "units", None) == 6)
  assert np.min(bottleneck(x)) < 0.0


def test_log_std_stays_in_its_range(rng):
  net = _policy(STATE_SPEC, rng)
  net.set_weights([w * 1e4 for w in net.get_weights()])
  _, log_std = net.moments({"state": tf.random.stateless_normal((64, 7), (1, 2))})
  assert np.min(log_std) == -5.0
  assert np.max(log_std) == 2.0


def test_log_prob_matches_the_change_of_variables_in_eight_dimensions(rng):
  mean, log_std = rng.normal(size=(2, 6, 8)).astype(np.float32)
  actions = rng.uniform(-0.99, 0.99, (6, 8)).astype(np.float32)
  np.testing.assert_allclose(
    networks.log_prob(mean, log_std, actions),
    _squashed_log_density(mean, log_std, actions),
    rtol=1e-4,
  )


def test_log_prob_matches_the_distribution_of_the_policy(rng):
  net = _policy(STATE_SPEC, rng)
  observation = {"state": tf.constant(rng.normal(size=(6, 7)), tf.float32)}
  actions = tf.constant(rng.uniform(-0.99, 0.99, (6, 8)), tf.float32)
  distribution, _ = net(observation)
  moments = net.moments(observation)
  np.testing.assert_allclose(
    networks.log_prob(*moments, actions), distribution.log_prob(actions), rtol=1e-4
  )


def test_log_prob_and_its_gradient_are_finite_at_the_bounds():
  mean = tf.Variable(tf.zeros((2, 8)))
  log_std = tf.Variable(tf.fill((2, 8), -5.0))
  with tf.GradientTape() as tape:
    log_probs = networks.log_prob(mean, log_std, tf.constant([[1.0] * 8, [-1.0] * 8]))
  assert np.all(np.isfinite(log_probs))
  assert all(np.all(np.isfinite(g)) for g in tape.gradient(log_probs, [mean, log_std]))


def test_sampled_log_probs_match_the_change_of_variables(rng):
  mean, log_std = rng.normal(scale=0.5, size=(2, 6, 8)).astype(np.float32)
  actions, log_probs = networks.sample_actions(mean, log_std, 4, tf.constant([1, 2]))
  assert actions.shape == (6, 4, 8)
  assert np.abs(actions).max() <= 1.0
  expected = _squashed_log_density(mean[:, None], log_std[:, None], actions)
  np.testing.assert_allclose(log_probs, expected, rtol=1e-3, atol=1e-3)


def test_sampled_log_probs_stay_finite_where_tanh_saturates():
  mean = tf.fill((1, 8), 30.0)
  _, log_probs = networks.sample_actions(mean, tf.zeros((1, 8)), 3, tf.constant([1, 2]))
  # log(1 - tanh(x)^2) tends to log 4 - 2x.
  assert np.all(np.isfinite(log_probs))
  assert np.all(np.abs(log_probs / (8 * 2 * 30.0) - 1.0) < 0.2)


def test_samples_have_the_moments_of_the_gaussian():
  mean, log_std = tf.fill((1, 8), 0.3), tf.fill((1, 8), -1.0)
  actions, _ = networks.sample_actions(mean, log_std, 20_000, tf.constant([1, 2]))
  unsquashed = np.arctanh(np.clip(actions, -1 + 1e-7, 1 - 1e-7))
  assert unsquashed.mean() == pytest.approx(0.3, abs=0.01)
  assert unsquashed.std() == pytest.approx(np.exp(-1.0), abs=0.01)


def test_each_encoder_of_its_own_gets_a_crop_of_its_own(rng):
  first = _q_network(IMAGE_SPEC, rng)
  second = _q_network(IMAGE_SPEC, rng)
  second.set_weights(first.get_weights())
  observation, seeds = {"image": _images(rng)}, [tf.constant([7, i]) for i in range(2)]
  one = first.encode(observation, seeds[0])
  assert not np.allclose(one, second.encode(observation, seeds[1]))
  np.testing.assert_array_equal(one, second.encode(observation, seeds[0]))


@pytest.mark.parametrize("stride, side", [(1, 3), (2, 2)])
def test_convolutions_halve_the_image_by_pooling_between_them_or_by_their_stride(stride, side):
  cfg = dataclasses.replace(config.PAPER, conv_filters=(4, 4, 4), conv_stride=stride)
  spec = {"image": tf.TensorSpec((12, 12, 3), tf.uint8)}
  encoder = networks.Encoder(spec, cfg, {}, np.random.default_rng(0))
  # 12 → 6 → 3 by two poolings; 12 → 6 → 3 → 2 by three strides.
  assert encoder({"image": tf.zeros((1, 12, 12, 3), tf.uint8)}).shape == (1, side * side * 4)


def test_convolutions_are_those_of_keras_with_relu_before_the_pooling(rng):
  encoder = networks.Encoder(IMAGE_SPEC, SMALL, {}, rng)
  images = _images(rng)
  features = encoder({"image": images})
  x = tf.cast(images, tf.float32) / 255.0
  for i in range(2):
    kernel, bias = encoder.trainable_variables[2 * i : 2 * i + 2]
    layer = tf.keras.layers.Conv2D(4, 3, padding="same", activation="relu")
    layer.build(x.shape)
    layer.set_weights([kernel.numpy(), bias.numpy()])
    x = layer(x)
    if i == 0:
      x = tf.keras.layers.MaxPool2D(2, padding="same")(x)
  np.testing.assert_allclose(features, tf.reshape(x, (5, -1)), rtol=1e-5, atol=1e-6)


def test_bfloat16_is_for_images_alone():
  half = dataclasses.replace(SMALL, image_dtype="bfloat16")
  spec = {**IMAGE_SPEC, **STATE_SPEC}
  observation = {"image": _images(np.random.default_rng(1)), "state": tf.ones((5, 7))}
  actions = tf.zeros((5, 2, 8))
  embeddings, outputs = {}, {}
  for name, config_ in (("float32", SMALL), ("bfloat16", half)):
    critic = _q_network(spec, np.random.default_rng(0), config_)
    policy = _policy(spec, np.random.default_rng(0), config_)
    for variable in (*critic.variables, *policy.variables):
      assert variable.dtype == tf.float32
    embeddings[name] = critic.encode(observation)
    values = critic.values(embeddings[name], actions)
    outputs[name] = (values, *policy.moments(observation))
  assert all(tensor.dtype == tf.float32 for tensor in outputs["bfloat16"])
  # It has 8 bits, so that a sum of many products is right to less than a hundredth.
  error = np.linalg.norm(embeddings["bfloat16"] - embeddings["float32"])
  assert 0 < error < 0.01 * np.linalg.norm(embeddings["float32"])


def test_states_are_computed_in_float32_whatever_images_are():
  half = dataclasses.replace(SMALL, image_dtype="bfloat16")
  nets = [_q_network(STATE_SPEC, np.random.default_rng(0), cfg) for cfg in (SMALL, half)]
  full, same = (net.encode({"state": tf.ones((5, 7))}) for net in nets)
  np.testing.assert_array_equal(full, same)
