"""Online experience: episodes of a policy, kept on disk, and their transitions in Reverb."""

import contextlib
import dataclasses
import os
import pathlib
import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import reverb
import rlds
import tensorflow as tf
from reverb.platform.default import checkpointers
from tf_agents.drivers import py_driver
from tf_agents.policies import py_policy
from tf_agents.specs import array_spec
from tf_agents.trajectories import policy_step, trajectory
from tf_agents.trajectories import time_step as ts

from cog_agents import environments, evaluate, experience, networks, run_dirs
from collection import specs

_TABLE = "online"
_CAPACITY = 1_000_000  # transitions; the first ones leave first
_SEED = "seed"
_OBSERVATION = "observation."  # and a key: the name of an array in an episode's file


@dataclasses.dataclass(frozen=True)
class Episode:
  """T actions between T + 1 observations; row t of `rewards` is that of action t."""

  seed: int
  observations: Mapping[str, np.ndarray]  # each (T + 1, ...)
  actions: np.ndarray  # float32 (T, action size)
  rewards: np.ndarray  # float32 (T,)
  discounts: np.ndarray  # float32 (T,); 0 where a step ends in a terminal state

  @property
  def success(self) -> bool:
    """Whether the reward was 1 at any step."""
    return bool(np.any(self.rewards >= 1.0))


class Collector:
  """Rolls out a stochastic policy with a TF-Agents driver, one episode in each environment.

  An episode is a function of the policy's weights, the episode's seed and the collector's: neither
  of the number of environments nor of the episodes beside it.
  """

  def __init__(
    self,
    environment: environments.ParallelEnvironment,
    policy: evaluate.EpisodeSeededPolicy,
    seed: int,
  ):
    self._environment = environment
    self._caller = evaluate.PolicyCaller(policy)
    self._seed = seed
    self._transitions: list[tuple] = []
    self._driver = py_driver.PyDriver(
      environment,
      _BatchedPolicy(environment, self._caller),
      observers=[],
      transition_observers=[self._transitions.append],
      max_episodes=environment.batch_size,  # all end together, by the step limit
      end_episode_on_boundary=False,
    )

  def collect(self, seeds: Sequence[int]) -> list[Episode]:
    """Returns an episode for each seed, of which there are at most as many as environments."""
    idle = self._environment.batch_size - len(seeds)
    all_seeds = [*seeds, *[seeds[-1]] * idle]
    self._environment.seed(all_seeds)
    noise_seeds = [(self._seed << 32) + seed for seed in all_seeds]
    self._transitions.clear()
    self._driver.run(self._environment.reset(), self._caller.initial_state(noise_seeds))
    return [_episode(seed, self._transitions, row) for row, seed in enumerate(seeds)]


class _BatchedPolicy(py_policy.PyPolicy):
  """An EpisodeSeededPolicy as a driver of Python environments calls it."""

  def __init__(self, environment: environments.ParallelEnvironment, caller: evaluate.PolicyCaller):
    super().__init__(
      environment.time_step_spec(),
      environment.action_spec(),
      policy_state_spec=array_spec.ArraySpec((2,), np.int64, "seed_and_step"),
    )
    self._caller = caller

  def _action(self, time_step, policy_state):
    return policy_step.PolicyStep(*self._caller.action(time_step, policy_state))


def _episode(seed: int, transitions: Sequence[tuple], row: int) -> Episode:
  """The episode of one row of batched (time step, action step, next time step)."""
  before, actions, after = zip(*transitions, strict=True)
  frames = [*before, after[-1]]
  return Episode(
    seed=seed,
    observations={
      key: np.stack([frame.observation[key][row] for frame in frames])
      for key in frames[0].observation
    },
    actions=np.stack([step.action[row] for step in actions]),
    rewards=np.stack([step.reward[row] for step in after]),
    discounts=np.stack([step.discount[row] for step in after]),
  )


class EpisodeFolder:
  """Episodes 0, 1, … as NumPy files, each whole on the disk or not there."""

  def __init__(self, folder: pathlib.Path):
    self._folder = folder
    folder.mkdir(parents=True, exist_ok=True)
    self._count = 0
    while self._path(self._count).exists():
      self._count += 1

  def __len__(self) -> int:
    return self._count

  def append(self, episode: Episode) -> None:
    """Adds an episode, which is on the disk when this returns."""
    observations = {_OBSERVATION + key: x for key, x in episode.observations.items()}
    aside = self._folder / ".aside"
    with aside.open("wb") as file:
      np.savez_compressed(
        file,
        **{_SEED: np.int64(episode.seed)},
        **{rlds.ACTION: episode.actions, rlds.REWARD: episode.rewards},
        **{rlds.DISCOUNT: episode.discounts},
        **observations,
      )
      file.flush()
      os.fsync(file.fileno())
    aside.replace(self._path(self._count))
    self._count += 1

  def __getitem__(self, index: int) -> Episode:
    """Reads an episode.

    Raises:
      RunError: if its file is damaged; the message names it.
    """
    path = self._path(index)
    try:
      with np.load(path, allow_pickle=False) as file:
        arrays = dict(file)
      return Episode(
        seed=int(arrays.pop(_SEED)),
        actions=arrays.pop(rlds.ACTION),
        rewards=arrays.pop(rlds.REWARD),
        discounts=arrays.pop(rlds.DISCOUNT),
        observations={key.removeprefix(_OBSERVATION): x for key, x in arrays.items()},
      )
    except (OSError, EOFError, KeyError, ValueError, zipfile.BadZipFile, zlib.error) as error:
      raise run_dirs.RunError(
        f"{path} is no episode ({error}); copy it back, or move {self._folder.parent} away to "
        "start anew"
      ) from error

  def _path(self, index: int) -> pathlib.Path:
    return self._folder / f"{index:06d}.npz"


class ReplayBuffer(contextlib.AbstractContextManager):
  """Transitions of online episodes in a Reverb table, uniformly drawn: an Experience that grows.

  Each frame is stored once, in memory. Reverb has no seed for its draws: two processes that add the
  same episodes train on different batches.

  Attributes:
    names: none; there is no mixture of datasets.
    counts: of the transitions of each of `names`: none.
  """

  names: tuple[str, ...] = ()
  counts = np.zeros(0, np.int64)

  def __init__(
    self,
    observation_spec: Mapping[str, tf.TensorSpec],
    statistics: networks.Statistics,
    n_step: int,
    discount: float,
  ):
    """Starts a Reverb server in this process.

    Args:
      observation_spec: key → spec without batch dimension.
      statistics: mean and standard deviation of every vector observation, for the networks.
      n_step: n of the n-step returns.
      discount: γ.
    """
    self.observation_spec = dict(observation_spec)
    self.statistics = statistics
    self._n_step = n_step
    self._discount = discount
    table = reverb.Table(
      _TABLE,
      sampler=reverb.selectors.Uniform(),
      remover=reverb.selectors.Fifo(),
      max_size=_CAPACITY,
      rate_limiter=reverb.rate_limiters.MinSize(1),
    )
    # Reverb would leave a folder in /tmp for checkpoints, which are not taken: episodes are files.
    no_checkpoints = checkpointers.DefaultCheckpointer(os.devnull)
    with _quiet_stderr():
      self._server = reverb.Server([table], checkpointer=no_checkpoints)
    self._address = f"localhost:{self._server.port}"
    self._client = reverb.Client(self._address)

  @property
  def num_transitions(self) -> int:
    return self._client.server_info()[_TABLE].current_size

  def add(self, episode: Episode) -> None:
    """Adds a transition from every step to that n steps later, or to the last one."""
    returns, discounts, lengths = experience.n_step_returns(
      episode.rewards, episode.discounts, self._n_step, self._discount
    )
    num_steps, lengths = len(lengths), lengths.tolist()
    with self._client.trajectory_writer(num_keep_alive_refs=num_steps + 1) as writer:
      for t in range(num_steps + 1):
        frame = {key: x[t] for key, x in episode.observations.items()}
        now = min(t, num_steps - 1)  # the last frame has no action: no transition starts there
        writer.append((frame, episode.actions[now], returns[now], discounts[now]))
      frames, *columns = writer.history
      for t in range(num_steps):
        before, after = ({key: x[i] for key, x in frames.items()} for i in (t, t + lengths[t]))
        writer.create_item(_TABLE, 1.0, (before, *(x[t] for x in columns), after))

  def dataset(
    self, batch_size: int, seed: int, start_step: int = 0, weights: Sequence[float] | None = None
  ) -> tf.data.Dataset:
    """Returns an endless stream of batches; a few are drawn ahead, so start a new one after `add`.

    Args:
      batch_size: B, transitions per batch.
      seed, start_step, weights: as for `Experience.dataset`; without effect.

    Returns:
      A dataset of `trajectory.Transition` as `Experience.dataset` has them, without `info`.
    """
    del seed, start_step, weights
    scalar = tf.TensorSpec((), tf.float32)
    action = tf.TensorSpec((specs.ACTION_SIZE,), tf.float32)
    spec = (self.observation_spec, action, scalar, scalar, self.observation_spec)
    stream = reverb.TrajectoryDataset(
      self._address,
      _TABLE,
      dtypes=tf.nest.map_structure(lambda x: x.dtype, spec),
      shapes=tf.nest.map_structure(lambda x: x.shape, spec),
      max_in_flight_samples_per_worker=2 * batch_size,
      num_workers_per_iterator=1,  # the quickest on two cores
    )
    stream = stream.map(lambda sample: sample.data).batch(batch_size, drop_remainder=True)
    return stream.map(_transition).prefetch(1)

  def __exit__(self, *unused_exception):
    with _quiet_stderr():
      self._server.stop()


def _transition(before, actions, returns, discounts, after) -> trajectory.Transition:
  middle = tf.fill(tf.shape(returns), ts.StepType.MID)
  ones, zeros = tf.ones_like(returns), tf.zeros_like(returns)
  return trajectory.Transition(
    time_step=ts.TimeStep(middle, zeros, ones, before),
    action_step=policy_step.PolicyStep(actions, state=(), info=()),
    next_time_step=ts.TimeStep(middle, returns, discounts, after),
  )


@contextlib.contextmanager
def _quiet_stderr() -> Iterator[None]:
  """Hides what a library written in C++ prints, which no logging level does."""
  kept = os.dup(2)
  try:
    with open(os.devnull, "wb") as sink:
      os.dup2(sink.fileno(), 2)
    yield
  finally:
    os.dup2(kept, 2)
    os.close(kept)
