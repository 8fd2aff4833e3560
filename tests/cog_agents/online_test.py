import numpy as np
import pytest
import tensorflow as tf

from cog_agents import config as config_lib
from cog_agents import cql, environments, evaluate, online, run_dirs
from collection import registry, specs

ENVIRONMENT = "place_in_tray_held"
KEYS = config_lib.STATE_RUN_KEYS
SEEDS = registry.FINETUNING_SEEDS[:3]


def counted_episode(image=False, num_steps=5):
  """Every number of frame t is t; so is each of action t, over 10."""
  times = np.arange(num_steps + 1)
  observations = {specs.STATE: np.repeat(times[:, None], 7, axis=1).astype(np.float32)}
  if image:
    frames = np.broadcast_to(times[:, None, None, None], (num_steps + 1, *specs.IMAGE_SHAPE))
    observations[specs.IMAGE] = frames.astype(np.uint8)
  actions = np.repeat(times[:-1, None] / 10, specs.ACTION_SIZE, axis=1).astype(np.float32)
  rewards = np.array([0, 0, 1, 0, 1], np.float32)
  return online.Episode(7, observations, actions, rewards, np.ones(num_steps, np.float32))


def sampled(episode, n_step, count=2_000):
  """Draws (first frame, action, return, discount, last frame) `count` times."""
  spec = {key: tf.TensorSpec(x.shape[1:], x.dtype, key) for key, x in episode.observations.items()}
  with online.ReplayBuffer(spec, {}, n_step, discount=0.5) as buffer:
    buffer.add(episode)
    assert buffer.num_transitions == len(episode.actions)
    batch = next(iter(buffer.dataset(count, seed=0)))
  before, after = batch.time_step.observation, batch.next_time_step.observation
  for key, x in episode.observations.items():
    assert before[key].dtype == after[key].dtype == x.dtype
    assert before[key].shape == after[key].shape == (count, *x.shape[1:])
    for frames in (before[key].numpy(), after[key].numpy()):
      flat = frames.reshape(count, -1)
      np.testing.assert_array_equal(flat, np.repeat(flat[:, :1], flat.shape[1], axis=1))
  columns = [
    before[key].numpy().reshape(count, -1)[:, 0],
    batch.action_step.action[:, 0].numpy() * 10,
    batch.next_time_step.reward.numpy(),
    batch.next_time_step.discount.numpy(),
    after[key].numpy().reshape(count, -1)[:, 0],
  ]
  return np.stack(columns, axis=1)


@pytest.mark.parametrize("image", [False, True])
def test_transitions_have_the_n_step_returns_of_their_own_actions(image):
  rows, counts = np.unique(sampled(counted_episode(image), n_step=2), axis=0, return_counts=True)
  # Rewards 0, 0, 1, 0, 1 of five actions, by hand: r + r' / 2, and half of what comes after both.
  np.testing.assert_allclose(
    rows,
    [
      (0, 0, 0.0, 0.5, 2),
      (1, 1, 0.5, 0.5, 3),
      (2, 2, 1.0, 0.5, 4),
      (3, 3, 0.5, 0.5, 5),
      (4, 4, 1.0, 1.0, 5),  # the time limit: the value of the last observation counts
    ],
    rtol=1e-6,
  )
  # 400 of each are expected, with a standard deviation of 18.
  np.testing.assert_allclose(counts, 400, atol=90)


@pytest.fixture(scope="module")
def policy():
  with environments.ParallelEnvironment(ENVIRONMENT, KEYS, 1) as environment:
    shapes = {key: spec.shape for key, spec in environment.observation_spec().items()}
  spec = {key: tf.TensorSpec(shape, tf.float32, key) for key, shape in shapes.items()}
  statistics = {key: (np.zeros(shape), np.ones(shape)) for key, shape in shapes.items()}
  agent = cql.create(spec, config_lib.FAST_STATE, statistics, seed=0)
  return evaluate.EpisodeSeededPolicy(agent.collect_policy)


def collected(environment, policy, seed=0):
  collector = online.Collector(environment, policy, seed)
  size = environment.batch_size
  waves = [collector.collect(SEEDS[i : i + size]) for i in range(0, len(SEEDS), size)]
  return [episode for wave in waves for episode in wave]


@pytest.fixture(scope="module")
def episodes(policy):
  with environments.ParallelEnvironment(ENVIRONMENT, KEYS, 2) as environment:
    return collected(environment, policy)


def assert_same(left, right):
  assert left.seed == right.seed
  for name in ("actions", "rewards", "discounts"):
    np.testing.assert_array_equal(getattr(left, name), getattr(right, name))
  assert left.observations.keys() == right.observations.keys()
  for key, x in left.observations.items():
    np.testing.assert_array_equal(x, right.observations[key])


def test_an_episode_is_what_its_actions_do_in_the_environment(episodes):
  environment = registry.load(ENVIRONMENT, KEYS)
  for episode in episodes:
    observation, _ = environment.reset(seed=episode.seed)
    for t, action in enumerate(episode.actions):
      for key in KEYS:
        np.testing.assert_array_equal(observation[key], episode.observations[key][t])
      observation, reward, terminated, truncated, _ = environment.step(action)
      assert reward == episode.rewards[t]
    assert truncated and not terminated
    for key in KEYS:
      np.testing.assert_array_equal(observation[key], episode.observations[key][-1])
    np.testing.assert_array_equal(episode.discounts, np.ones(40))
  environment.close()


def test_exploration_depends_on_the_seed_of_the_run_and_not_on_the_number_of_environments(
  policy, episodes
):
  with environments.ParallelEnvironment(ENVIRONMENT, KEYS, 3) as environment:
    same, other = (collected(environment, policy, seed) for seed in (0, 1))
  for left, right in zip(same, episodes, strict=True):
    assert_same(left, right)
  for left, right in zip(other, episodes, strict=True):
    for key in KEYS:
      np.testing.assert_array_equal(left.observations[key][0], right.observations[key][0])
    assert np.all(np.any(left.actions != right.actions, axis=1))


def test_episodes_are_read_as_they_were_written(tmp_path, episodes):
  folder = online.EpisodeFolder(tmp_path)
  for episode in episodes:
    folder.append(episode)
  again = online.EpisodeFolder(tmp_path)
  assert len(again) == len(episodes)
  for index, episode in enumerate(episodes):
    assert_same(again[index], episode)


def flipped_bits(content):
  """Makes the first deflated block one of a type that there is not."""
  name, extra = (int.from_bytes(content[i : i + 2], "little") for i in (26, 28))
  at = 30 + name + extra  # behind the local header of the archive's first file
  return content[:at] + bytes([content[at] | 0b110]) + content[at + 1 :]


@pytest.mark.parametrize(
  "damage", [lambda content: b"", lambda content: b"PK\x03\x04 cut off", flipped_bits]
)
def test_a_damaged_episode_is_named(tmp_path, damage):
  online.EpisodeFolder(tmp_path).append(counted_episode())
  path = tmp_path / "000000.npz"
  path.write_bytes(damage(path.read_bytes()))
  with pytest.raises(run_dirs.RunError, match="000000.npz is no episode"):
    online.EpisodeFolder(tmp_path)[0]
