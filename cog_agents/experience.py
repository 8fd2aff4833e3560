"""Dataset names in, one stream of transitions out: uniform over their union, or by weights."""

import dataclasses
import json
import os
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import rlds
import tensorflow as tf
import tensorflow_datasets as tfds
import tqdm
from etils import epath
from google.protobuf import json_format
from tf_agents.trajectories import policy_step, trajectory
from tf_agents.trajectories import time_step as ts

from collection import manifest

_PREFETCHED_BATCHES = 8
_ACTION_TOLERANCE = 1e-6
_ALIGNMENT = 64  # bytes; TensorFlow shares aligned memory with numpy and copies any other


class DatasetError(ValueError):
  """A dataset is missing or cannot be learned from; the message says what is there instead."""


@dataclasses.dataclass(frozen=True)
class Experience:
  """All transitions of some datasets in memory; every frame is stored once.

  Transition i goes from frame `first[i]` to frame `last[i]` of the same episode, which lies n steps
  later, or fewer at the end of the episode. Its reward and discount are those of `n_step_returns`.

  Attributes:
    names: the datasets, as NAME[/CONFIG]/VERSION.
    observations: key → (frames, ...).
    first, last: int64 (transitions,), rows of `observations`.
    actions: float32 (transitions, action size).
    rewards, discounts: float32 (transitions,).
    sources: int32 (transitions,), position in `names` of a transition's dataset; ascending.
  """

  names: tuple[str, ...]
  observations: Mapping[str, np.ndarray]
  first: np.ndarray
  last: np.ndarray
  actions: np.ndarray
  rewards: np.ndarray
  discounts: np.ndarray
  sources: np.ndarray

  @property
  def num_transitions(self) -> int:
    return len(self.first)

  @property
  def counts(self) -> np.ndarray:
    """Transitions of each dataset, in the order of `names`."""
    return np.bincount(self.sources, minlength=len(self.names))

  @property
  def mixture(self) -> dict[str, float]:
    """Share of each dataset in all transitions."""
    return dict(zip(self.names, (self.counts / self.num_transitions).tolist(), strict=True))

  @property
  def observation_spec(self) -> dict[str, tf.TensorSpec]:
    return {key: tf.TensorSpec(x.shape[1:], x.dtype, key) for key, x in self.observations.items()}

  @property
  def statistics(self) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Mean and standard deviation over all frames of each observation that is a vector."""
    vectors = {key: x for key, x in self.observations.items() if x.ndim == 2}
    return {key: _mean_and_std(x) for key, x in vectors.items()}

  def dataset(
    self, batch_size: int, seed: int, start_step: int = 0, weights: Sequence[float] | None = None
  ) -> tf.data.Dataset:
    """Returns the endless stream of batches `start_step`, `start_step` + 1, …

    Batch k depends on (seed, k) only, so a resumed run goes on with the batches that it would have
    seen. Transitions are drawn with replacement, uniformly over the union of the datasets, as the
    authors' code does.

    Args:
      batch_size: B, transitions per batch.
      seed: of the draws.
      start_step: k of the first batch.
      weights: relative frequency of each dataset, in the order of `names`; within one, uniform.

    Returns:
      A dataset of `trajectory.Transition` without a time dimension. `next_time_step` lies n steps
      after `time_step` and carries the n-step reward and discount; `action_step.info` is the
      position in `names` of each row's dataset, int32 (B,).
    """
    tables = {name: _shared_tensor(getattr(self, name)) for name in _COLUMNS}
    frames = {key: _shared_tensor(x) for key, x in self.observations.items()}
    draw = _uniform_draw(self.num_transitions) if weights is None else self._weighted_draw(weights)

    def batch(k):
      rows = draw(batch_size, tf.stack([tf.constant(seed, tf.int64), k]))
      return _gather(frames, tables, rows)

    stream = tf.data.Dataset.range(start_step, np.iinfo(np.int64).max)
    stream = stream.map(batch, num_parallel_calls=os.cpu_count(), deterministic=True)
    return stream.prefetch(_PREFETCHED_BATCHES).with_options(_stream_options())

  def _weighted_draw(self, weights: Sequence[float]):
    weights = np.asarray(weights, np.float64)
    if weights.shape != (len(self.names),) or weights.min() < 0 or not 0 < weights.sum() < np.inf:
      raise ValueError(
        f"expected one weight ≥ 0 for each of {self.names}, not all zero; got {weights.tolist()}"
      )
    # Where, in a draw from [0, 1), one dataset ends and the next begins.
    thresholds = np.cumsum(weights / weights.sum())[:-1]
    counts = self.counts
    offsets = np.cumsum(counts) - counts

    def draw(batch_size, seed):
      which, where = tf.unstack(tf.random.split(seed, num=2, alg="philox"))
      uniform = tf.random.stateless_uniform([batch_size], which, dtype=tf.float64, alg="philox")
      source = tf.searchsorted(tf.constant(thresholds, tf.float64), uniform, side="right")
      # 62 bits modulo a count: no dataset is large enough for the bias to matter.
      integers = tf.random.stateless_uniform([batch_size], where, 0, 2**62, tf.int64, "philox")
      return tf.gather(offsets, source) + integers % tf.gather(counts, source)

    return draw


_COLUMNS = ("first", "last", "actions", "rewards", "discounts", "sources")


def load(
  names: Sequence[str],
  *,
  data_dir: str | None = None,
  split: str = "train",
  observation_keys: Sequence[str],
  n_step: int = 1,
  discount: float = 0.99,
) -> Experience:
  """Reads every episode of the named RLDS datasets once, and decodes what is asked for.

  Args:
    names: NAME[/CONFIG][:VERSION], at least one.
    data_dir: the TFDS data directory; None: TFDS's own default.
    split: a TFDS split, the same of every dataset.
    observation_keys: which observations to keep.
    n_step: n of the n-step returns; 1 is the paper's Bellman backup.
    discount: γ.

  Raises:
    DatasetError: if a dataset, split or observation is missing (the message lists what is there),
      a split is empty, a file is missing or not what the manifest says, or an episode is malformed.
  """
  builders = [find(name, data_dir) for name in names]
  counts = [_num_episodes(builder, split) for builder in builders]
  for builder in builders:
    _check_files(builder, split)
  table = _Table(sum(counts))
  for source, (builder, count) in enumerate(zip(builders, counts, strict=True)):
    for episode in _read(builder, split, count, tuple(observation_keys)):
      table.append(source, episode, n_step, discount)
  return table.experience(tuple(builder.info.full_name for builder in builders))


def find(name: str, data_dir: str | None = None) -> tfds.core.DatasetBuilder:
  """Returns a reader of the dataset NAME[/CONFIG][:VERSION], which needs no code but TFDS's.

  Raises:
    DatasetError: if there is none (the message lists the datasets found in `data_dir`), or its
      description is damaged.
  """
  place = data_dir or "TFDS's default data directories"
  try:
    return tfds.core.read_only_builder.builder_from_files(name, data_dir=data_dir)
  except (json.JSONDecodeError, json_format.ParseError) as error:
    raise DatasetError(
      f"dataset_info.json, features.json or metadata.json of {name!r} in {place} is damaged:"
      f" {error}. Copy these files again"
    ) from error
  except (tfds.core.DatasetNotFoundError, ValueError) as error:  # the latter: not even a name
    found = ", ".join(list_datasets(data_dir)) or "none"
    raise DatasetError(f"unknown dataset {name!r}; datasets in {place}: {found}") from error


def list_datasets(data_dir: str | None = None) -> list[str]:
  """Returns NAME[/CONFIG]:VERSION of every dataset in `data_dir`."""
  found = set()
  for root in tfds.core.utils.file_utils.list_data_dirs(given_data_dir=data_dir):
    for pattern in ("*/*/features.json", "*/*/*/features.json"):
      folders = [path.parent for path in epath.Path(root).glob(pattern)]
      versions = [folder for folder in folders if tfds.core.Version.is_valid(folder.name)]
      found.update(f"{folder.parent.relative_to(root)}:{folder.name}" for folder in versions)
  return sorted(found)


def n_step_returns(
  rewards: np.ndarray, discounts: np.ndarray, n_step: int, discount: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """Sums the rewards of up to n steps from every step of one episode, never beyond its end.

  Args:
    rewards: r_t, (T,).
    discounts: d_t of the environment, (T,); 0 where step t ends in a terminal state.
    n_step: n.
    discount: γ.

  Returns:
    returns: Σ_{k<m} γ^k r_{t+k}, (T,), with m = min(n, T − t) and each γ multiplied by its d.
    discounts: γ^(m−1) Π_{k<m} d_{t+k}, (T,): γ times this multiplies Q(o_{t+m}, ·).
    lengths: m, (T,).
  """
  num_steps = len(rewards)
  returns = np.zeros(num_steps)
  factors = np.ones(num_steps)  # γ^k Π_{j<k} d_{t+j}
  for k in range(min(n_step, num_steps)):
    inside = num_steps - k  # windows that reach step t + k
    returns[:inside] += factors[:inside] * rewards[k:]
    factors[:inside] *= discount * discounts[k:]
  lengths = np.minimum(n_step, num_steps - np.arange(num_steps))
  return returns.astype(np.float32), (factors / discount).astype(np.float32), lengths


def _num_episodes(builder: tfds.core.DatasetBuilder, split: str) -> int:
  name = builder.info.full_name
  try:
    count = builder.info.splits[split].num_examples
  except (KeyError, ValueError) as error:
    known = sorted(builder.info.splits)
    raise DatasetError(f"{name} has no split {split!r}; its splits: {known}") from error
  if not count:
    raise DatasetError(f"the split {split!r} of {name} is empty")
  return count


def _check_files(builder: tfds.core.DatasetBuilder, split: str) -> None:
  """Raises DatasetError, naming the files, if a copy is incomplete or damaged.

  By its manifest, if it has one: datasets of others do not.
  """
  folder = epath.Path(builder.data_dir)
  instructions = builder.info.splits[split].file_instructions
  paths = [epath.Path(instruction.filename) for instruction in instructions]
  found = [f"{path.name} is missing" for path in paths if not path.exists()]
  if not found and (folder / manifest.FILENAME).exists():
    found = manifest.violations(folder, ignored=manifest.DOCUMENTS)
  if found:
    raise DatasetError(
      f"the copy of {builder.info.full_name} in {folder} is damaged:"
      f" {'; '.join(found)}. Copy these files again"
    )


def _read(
  builder: tfds.core.DatasetBuilder, split: str, count: int, observation_keys: tuple[str, ...]
) -> Iterator[dict]:
  """Yields the checked steps of each episode as arrays, in the order of the files."""
  name = builder.info.full_name
  known = builder.info.features[rlds.STEPS].feature[rlds.OBSERVATION]
  missing = [key for key in observation_keys if key not in known]
  if missing:
    raise DatasetError(f"{name} has no observations {missing}; it has {sorted(known)}")

  episodes = _episode_dataset(builder, split, observation_keys).as_numpy_iterator()
  progress = tqdm.tqdm(
    episodes, f"read {name}", count, unit="episodes", leave=False, smoothing=0.05
  )
  try:
    for i, episode in enumerate(progress):
      _check(episode, f"episode {i} of {name}, split {split!r},")
      yield episode
  except tf.errors.OpError as error:  # TFDS counts the episodes
    raise DatasetError(f"{name}, split {split!r}, cannot be read: {error.message}") from error


def _episode_dataset(builder, split: str, observation_keys: tuple[str, ...]) -> tf.data.Dataset:
  features = builder.info.features[rlds.STEPS].feature

  def decode(example):
    steps = example[rlds.STEPS]  # not decoded yet: an image is its PNG bytes
    observations = steps[rlds.OBSERVATION]
    fields = (rlds.ACTION, rlds.REWARD, rlds.DISCOUNT, rlds.IS_LAST, rlds.IS_TERMINAL)
    decoded = {key: features[key].decode_batch_example(steps[key]) for key in fields}
    decoded[rlds.OBSERVATION] = {
      key: features[rlds.OBSERVATION][key].decode_batch_example(observations[key])
      for key in observation_keys
    }
    return decoded

  # TFDS's nested dataset of steps costs a millisecond an episode to open; whole arrays do not.
  encoded = builder.as_dataset(
    split=split,
    decoders={rlds.STEPS: tfds.decode.SkipDecoding()},
    read_config=tfds.ReadConfig(try_autocache=False),
  )
  return encoded.map(decode, num_parallel_calls=tf.data.AUTOTUNE).prefetch(tf.data.AUTOTUNE)


def _check(episode: dict, where: str) -> None:
  """Raises DatasetError, saying where, if an episode cannot be learned from."""
  if np.any(episode[rlds.IS_LAST][:-1]):
    raise DatasetError(
      f"{where} goes on after its last step: is_last = {episode[rlds.IS_LAST].tolist()}"
    )
  numbers = {key: episode[key] for key in (rlds.ACTION, rlds.REWARD, rlds.DISCOUNT)}
  for key, values in {**numbers, **episode[rlds.OBSERVATION]}.items():
    finite = np.isfinite(values) if values.dtype.kind == "f" else np.True_
    if not np.all(finite):
      step = int(np.argwhere(~finite)[0][0])
      raise DatasetError(
        f"{where} has {key} = {values[step].tolist()} at step {step}; every value must be finite"
      )
  largest = np.abs(episode[rlds.ACTION]).max()
  if largest > 1 + _ACTION_TOLERANCE:
    raise DatasetError(f"{where} has an action of magnitude {largest}; actions lie in [-1, 1]")


class _Rows:
  """Rows in one piece of aligned memory: gigabytes are never there twice.

  Memory beyond the last row is reserved but not touched, so the system does not provide it.
  """

  def __init__(self, name: str, capacity: int):
    self._name = name
    self._capacity = capacity
    self._length = 0
    self._memory: np.ndarray | None = None

  def extend(self, rows: np.ndarray) -> None:
    end = self._length + len(rows)
    if self._memory is None:
      self._memory = _aligned_empty((self._capacity, *rows.shape[1:]), rows.dtype)
    if rows.shape[1:] != self._memory.shape[1:]:
      raise DatasetError(
        f"the datasets disagree about the shape of {self._name}: "
        f"{self._memory.shape[1:]} and {rows.shape[1:]}"
      )
    if end > len(self._memory):  # longer episodes than the first one
      larger = _aligned_empty((2 * end, *rows.shape[1:]), rows.dtype)
      larger[: self._length] = self.array()
      self._memory = larger
    self._memory[self._length : end] = rows
    self._length = end

  def array(self) -> np.ndarray:
    return self._memory[: self._length]


class _Table:
  """Collects the columns of an Experience, one episode at a time."""

  def __init__(self, num_episodes: int):
    self._num_episodes = num_episodes
    self._num_frames = 0
    self._columns: dict[str, _Rows] = {}
    self._observations: dict[str, _Rows] = {}

  def append(self, source: int, episode: dict, n_step: int, discount: float) -> None:
    num_steps = len(episode[rlds.ACTION]) - 1  # the last step only carries the final observation
    terminal = episode[rlds.IS_TERMINAL][1:]
    environment_discounts = np.where(terminal, 0.0, episode[rlds.DISCOUNT][:-1])
    rewards, discounts, lengths = n_step_returns(
      episode[rlds.REWARD][:-1], environment_discounts, n_step, discount
    )
    first = self._num_frames + np.arange(num_steps)
    columns = {
      "first": first,
      "last": first + lengths,
      "actions": episode[rlds.ACTION][:-1],
      "rewards": rewards,
      "discounts": discounts,
      "sources": np.full(num_steps, source, np.int32),
    }
    self._num_frames += num_steps + 1
    self._extend(self._columns, columns)
    self._extend(self._observations, episode[rlds.OBSERVATION])

  def experience(self, names: tuple[str, ...]) -> Experience:
    columns = {name: rows.array() for name, rows in self._columns.items()}
    observations = {key: rows.array() for key, rows in self._observations.items()}
    if not len(columns["first"]):
      raise DatasetError(f"{names} hold {self._num_episodes} episodes and no transition")
    return Experience(names, observations, **columns)

  def _extend(self, parts: dict[str, _Rows], arrays: dict[str, np.ndarray]) -> None:
    for name, array in arrays.items():
      if name not in parts:
        parts[name] = _Rows(name, self._num_episodes * len(array))
      parts[name].extend(array)


def _aligned_empty(shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
  size = int(np.prod(shape)) * dtype.itemsize
  buffer = np.empty(size + _ALIGNMENT, np.uint8)
  offset = -buffer.ctypes.data % _ALIGNMENT
  return buffer[offset : offset + size].view(dtype).reshape(shape)


def _shared_tensor(array: np.ndarray) -> tf.Tensor:
  """Returns a tensor on the CPU that shares the array's memory, which may be gigabytes."""
  return tf.experimental.dlpack.from_dlpack(array.__dlpack__())


def _stream_options() -> tf.data.Options:
  """Returns options without graph rewrites, which would copy the captured tables."""
  options = tf.data.Options()
  options.experimental_optimization.apply_default_optimizations = False
  options.autotune.enabled = False
  return options


def _uniform_draw(num_transitions: int):
  def draw(batch_size, seed):
    return tf.random.stateless_uniform(
      [batch_size], seed, 0, num_transitions, tf.int64, alg="philox"
    )

  return draw


def _gather(frames: dict, tables: dict, rows: tf.Tensor) -> trajectory.Transition:
  columns = {name: tf.gather(table, rows) for name, table in tables.items()}
  before = {key: tf.gather(x, columns["first"]) for key, x in frames.items()}
  after = {key: tf.gather(x, columns["last"]) for key, x in frames.items()}
  middle = tf.fill(tf.shape(rows), ts.StepType.MID)
  ones, zeros = tf.ones_like(columns["rewards"]), tf.zeros_like(columns["rewards"])
  return trajectory.Transition(
    time_step=ts.TimeStep(middle, zeros, ones, before),
    action_step=policy_step.PolicyStep(columns["actions"], state=(), info=columns["sources"]),
    next_time_step=ts.TimeStep(middle, columns["rewards"], columns["discounts"], after),
  )


def _mean_and_std(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  mean, std = values.mean(axis=0, dtype=np.float64), values.std(axis=0, dtype=np.float64)
  return mean.astype(np.float32), std.astype(np.float32)
