"""Dataset names in, one stream of transitions out: uniform over their union, or by weights."""

import atexit
import dataclasses
import hashlib
import json
import math
import os
import pathlib
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np
import rlds
import tensorflow as tf
import tensorflow_datasets as tfds
import tqdm
from etils import epath
from google.protobuf import json_format
from tensorflow_datasets.core import dataset_builder, dataset_info
from tf_agents.trajectories import policy_step, trajectory
from tf_agents.trajectories import time_step as ts

from cog_agents import config as config_lib
from cog_agents import tables
from collection import manifest

_PREFETCHED_BATCHES = 8
_ACTION_TOLERANCE = 1e-6
# Names of columns; those of RLDS for the others.
_LENGTH = "length"
_OBSERVATION = "observation."
_ALIGNMENT = 64  # bytes; TensorFlow shares aligned memory with numpy and copies any other


class DatasetError(ValueError):
  """A dataset is missing or cannot be learned from; the message says what is there instead."""


@dataclasses.dataclass(frozen=True)
class Experience:
  """All transitions of some datasets; every frame is stored once, images on disk.

  Transition i goes from frame `first[i]` to frame `last[i]` of the same episode, which lies n steps
  later, or fewer at the end of the episode. Its reward and discount are those of `n_step_returns`.

  Attributes:
    names: the datasets, as NAME[/CONFIG]/VERSION.
    observations: key → (frames, ...): in memory if it is a vector, else on disk.
    first, last: int64 (transitions,), rows of `observations`.
    actions: float32 (transitions, action size).
    rewards, discounts: float32 (transitions,).
    sources: int32 (transitions,), position in `names` of a transition's dataset; ascending.
  """

  names: tuple[str, ...]
  observations: Mapping[str, np.ndarray | tables.Rows]
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
  def episode_starts(self) -> np.ndarray:
    """The first transition of each episode: a frame lies between it and the one before."""
    return np.flatnonzero(np.diff(self.first, prepend=-2) > 1)

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
    columns = {name: _shared_tensor(getattr(self, name)) for name in _COLUMNS}
    frames = {key: _frames(x) for key, x in self.observations.items()}
    draw = _uniform_draw(self.num_transitions) if weights is None else self._weighted_draw(weights)

    def batch(k):
      rows = draw(batch_size, tf.stack([tf.constant(seed, tf.int64), k]))
      return _gather(frames, columns, rows)

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
  discount: float = config_lib.DISCOUNT,
  only_successful: bool = False,
  cache_dir: str | os.PathLike | None = None,
) -> Experience:
  """Opens the named RLDS datasets; decodes what is asked for the first time that it is.

  Args:
    names: NAME[/CONFIG][:VERSION], at least one.
    data_dir: the TFDS data directory; None: TFDS's own default.
    split: a TFDS split, the same of every dataset.
    observation_keys: which observations to keep.
    n_step: n of the n-step returns; 1 is the paper's Bellman backup.
    discount: γ.
    only_successful: keep the transitions of episodes with a reward alone.
    cache_dir: for decoded datasets; None: see tables.default_cache_dir.

  Raises:
    DatasetError: if a dataset, split or observation is missing (the message lists what is there),
      a split is empty, a file is missing or not what the manifest says, or an episode is malformed.
    tables.TableError: if there is no room for the decoded data.
  """
  builders = [find(name, data_dir) for name in names]
  folder = pathlib.Path(cache_dir or tables.default_cache_dir())
  paths = [_columns(builder, split, tuple(observation_keys), folder) for builder in builders]

  def in_memory(name: str) -> np.ndarray:
    return _concatenated([np.load(path[name]) for path in paths])

  lengths = [np.load(path[_LENGTH]) for path in paths]
  observations = {}
  for key in observation_keys:
    files = [path[_OBSERVATION + key] for path in paths]
    is_vector = np.load(files[0], mmap_mode="r").ndim == 2
    observations[key] = in_memory(_OBSERVATION + key) if is_vector else tables.Rows(files)
  actions, rewards = in_memory(rlds.ACTION), in_memory(rlds.REWARD)
  columns = _transitions(lengths, rewards, in_memory(rlds.DISCOUNT), n_step, discount)
  columns["actions"] = actions
  if only_successful:
    kept = _in_successful_episodes(np.concatenate(lengths), rewards)
    columns = {name: _concatenated([column[kept]]) for name, column in columns.items()}
  if not len(columns["first"]):
    kind = "successful transition" if only_successful else "transition"
    raise DatasetError(f"{list(names)} hold {sum(map(len, lengths))} episodes and no {kind}")
  full_names = tuple(builder.info.full_name for builder in builders)
  return Experience(full_names, observations, **columns)


def find(name: str, data_dir: str | None = None) -> tfds.core.DatasetBuilder:
  """Returns a reader of the dataset NAME[/CONFIG][:VERSION], which needs no code but TFDS's.

  Without CONFIG it is the default one, and in a folder that does not say which that is, as where a
  dataset was published, the only one.

  Raises:
    DatasetError: if there is none (the message lists the datasets found in `data_dir`), or its
      description is damaged.
  """
  place = data_dir or "TFDS's default data directories"
  try:
    return tfds.core.read_only_builder.builder_from_files(name, data_dir=data_dir)
  except (json.JSONDecodeError, json_format.ParseError, dataset_info.DatasetInfoFileError) as error:
    raise DatasetError(
      f"dataset_info.json, features.json or metadata.json of {name!r} in {place} is damaged or"
      f" missing: {error}. Copy these files again"
    ) from error
  except (tfds.core.DatasetNotFoundError, ValueError) as error:  # the latter: not even a name
    found = list_datasets(data_dir)
    plain, _, version = name.partition(":")
    configs = {x.partition(":")[0] for x in found if x.startswith(f"{plain}/")}
    if len(configs) == 1 and not _says_its_default(plain, data_dir):
      return find(":".join([*configs, *([version] if version else [])]), data_dir)
    raise DatasetError(
      f"unknown dataset {name!r}; datasets in {place}: {', '.join(found) or 'none'}"
    ) from error


def _says_its_default(name: str, data_dir: str | None) -> bool:
  """Whether a data directory names the configuration that a dataset has by default."""
  roots = tfds.core.utils.file_utils.list_data_dirs(given_data_dir=data_dir)
  return any(dataset_builder.load_default_config_name(epath.Path(root) / name) for root in roots)


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


def _columns(
  builder: tfds.core.DatasetBuilder,
  split: str,
  observation_keys: tuple[str, ...],
  cache_dir: pathlib.Path,
) -> dict[str, pathlib.Path]:
  """Returns the files of the columns of a split: steps of one episode after those of another.

  T of each episode; T actions, rewards and discounts (0 where a step ends in a terminal state); and
  T + 1 of each observation.
  """
  count = _num_episodes(builder, split)
  _check_keys(builder, observation_keys)
  name = builder.info.full_name.replace("/", "-")
  folder = cache_dir / f"{name}-{_digest(builder, split)}"
  names = (_LENGTH, rlds.ACTION, rlds.REWARD, rlds.DISCOUNT)

  def read(missing: list[str]) -> Iterator[dict[str, np.ndarray]]:
    keys = [column.removeprefix(_OBSERVATION) for column in missing if column not in names]
    for episode in _read(builder, split, count, tuple(keys)):
      yield _rows(episode)

  observations = [_OBSERVATION + key for key in observation_keys]
  return tables.ensure(folder, [*names, *observations], read, count)


def _rows(episode: dict) -> dict[str, np.ndarray]:
  """The rows of an episode in each column."""
  terminal = episode[rlds.IS_TERMINAL][1:]
  rows = {
    _LENGTH: np.array([len(terminal)], np.int64),
    rlds.ACTION: episode[rlds.ACTION][:-1],
    rlds.REWARD: episode[rlds.REWARD][:-1],
    rlds.DISCOUNT: np.where(terminal, np.float32(0), episode[rlds.DISCOUNT][:-1]),
  }
  return rows | {_OBSERVATION + key: x for key, x in episode[rlds.OBSERVATION].items()}


def _transitions(
  lengths: Sequence[np.ndarray],
  rewards: np.ndarray,
  discounts: np.ndarray,
  n_step: int,
  discount: float,
) -> dict[str, np.ndarray]:
  """The columns of an Experience that depend on n.

  Args:
    lengths: for each dataset, T of each episode.
    rewards, discounts: of the steps of all episodes, one after the other.
    n_step: n.
    discount: γ.
  """
  all_lengths = np.concatenate(lengths)
  returns, factors, last = (
    _aligned_empty(rewards.shape, np.dtype(dtype)) for dtype in (np.float32, np.float32, np.int64)
  )
  end = 0
  for length in all_lengths:
    steps = slice(end, end := end + length)
    returns[steps], factors[steps], last[steps] = n_step_returns(
      rewards[steps], discounts[steps], n_step, discount
    )
  # Each episode has one frame more than it has transitions.
  first = np.arange(len(rewards)) + np.repeat(np.arange(len(all_lengths)), all_lengths)
  last += first
  sources = np.repeat(np.arange(len(lengths), dtype=np.int32), [x.sum() for x in lengths])
  return {
    "first": _concatenated([first]),
    "last": last,
    "rewards": returns,
    "discounts": factors,
    "sources": _concatenated([sources]),
  }


def _in_successful_episodes(lengths: np.ndarray, rewards: np.ndarray) -> np.ndarray:
  """Whether the episode of each transition has a reward.

  Args:
    lengths: (episodes,), transitions of each.
    rewards: (transitions,).
  """
  totals = np.concatenate([[0], np.cumsum(rewards > 0)])
  ends = np.cumsum(lengths)
  return np.repeat(totals[ends] > totals[ends - lengths], lengths)


def _digest(builder: tfds.core.DatasetBuilder, split: str) -> str:
  """Of the split's files, which are checked by the manifest, if there is one.

  Raises:
    DatasetError: if files are missing or damaged; the message names them.
  """
  folder = epath.Path(builder.data_dir)
  instructions = builder.info.splits[split].file_instructions
  paths = [epath.Path(instruction.filename) for instruction in instructions]
  found = [f"{path.name} is missing" for path in paths if not path.exists()]
  if not found and (folder / manifest.FILENAME).exists():
    try:
      found = manifest.violations(folder, ignored=manifest.DOCUMENTS)
    except ValueError as error:
      raise DatasetError(f"{error}. Copy this file again") from error
  if found:
    raise DatasetError(
      f"the copy of {builder.info.full_name} in {folder} is damaged:"
      f" {'; '.join(found)}. Copy these files again"
    )
  contents = [split, manifest.digests(folder, paths)]
  return hashlib.sha256(json.dumps(contents).encode()).hexdigest()[:16]


def _check_keys(builder: tfds.core.DatasetBuilder, observation_keys: Sequence[str]) -> None:
  known = builder.info.features[rlds.STEPS].feature[rlds.OBSERVATION]
  missing = [key for key in observation_keys if key not in known]
  if missing:
    raise DatasetError(
      f"{builder.info.full_name} has no observations {missing}; it has {sorted(known)}"
    )


def _read(
  builder: tfds.core.DatasetBuilder, split: str, count: int, observation_keys: tuple[str, ...]
) -> Iterator[dict]:
  """Yields the checked steps of each episode as arrays, in the order of the files."""
  name = builder.info.full_name
  episodes = _episode_dataset(builder, split, observation_keys).as_numpy_iterator()
  progress = tqdm.tqdm(
    episodes, f"decode {name}", count, unit="episodes", leave=False, smoothing=0.05
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
  # The last step only carries the final observation.
  numbers = {key: episode[key][:-1] for key in (rlds.ACTION, rlds.REWARD, rlds.DISCOUNT)}
  for key, values in {**numbers, **episode[rlds.OBSERVATION]}.items():
    finite = np.isfinite(values) if values.dtype.kind == "f" else np.True_
    if not np.all(finite):
      step = int(np.argwhere(~finite)[0][0])
      raise DatasetError(
        f"{where} has {key} = {values[step].tolist()} at step {step}; every value must be finite"
      )
  largest = np.abs(numbers[rlds.ACTION]).max(initial=0.0)
  if largest > 1 + _ACTION_TOLERANCE:
    raise DatasetError(f"{where} has an action of magnitude {largest}; actions lie in [-1, 1]")


def _concatenated(arrays: Sequence[np.ndarray]) -> np.ndarray:
  """One array in memory that TensorFlow shares."""
  shapes = {array.shape[1:] for array in arrays}
  if len(shapes) > 1:
    raise DatasetError(f"the datasets disagree about the shape of a column: {sorted(shapes)}")
  length = sum(map(len, arrays))
  return np.concatenate(arrays, out=_aligned_empty((length, *shapes.pop()), arrays[0].dtype))


def _aligned_empty(shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
  size = int(np.prod(shape)) * dtype.itemsize
  buffer = np.empty(size + _ALIGNMENT, np.uint8)
  offset = -buffer.ctypes.data % _ALIGNMENT
  return buffer[offset : offset + size].view(dtype).reshape(shape)


class _Reads:
  """Reads from disk in TensorFlow's threads, which end before the interpreter does.

  A thread that asks for an interpreter that is gone never comes back, and whoever lets go of the
  stream's iterator waits for it: a script that ends while batches are prefetched would hang.
  """

  _QUIET_SECONDS = 0.1  # from one read of a stream to the next there is less
  _PATIENCE_SECONDS = 5.0  # with a thread that reads for ever

  def __init__(self):
    self._lock = threading.Lock()
    self._running = 0
    self._last_end = -math.inf
    atexit.register(self._wait_for_the_last)

  def of(self, frames: tables.Rows) -> Callable[[np.ndarray], np.ndarray]:
    def take(rows):
      with self._lock:
        self._running += 1
      try:
        return frames.take(rows)
      finally:
        with self._lock:
          self._running -= 1
          self._last_end = time.monotonic()

    return take

  def _wait_for_the_last(self):
    deadline = time.monotonic() + self._PATIENCE_SECONDS
    while time.monotonic() < deadline:
      if not self._running and time.monotonic() - self._last_end > self._QUIET_SECONDS:
        return
      time.sleep(self._QUIET_SECONDS / 10)


_reads = _Reads()


def _frames(frames: np.ndarray | tables.Rows) -> Callable[[tf.Tensor], tf.Tensor]:
  """Returns a function rows, (N,) → those of `frames`, (N, …)."""
  if isinstance(frames, np.ndarray):
    in_memory = _shared_tensor(frames)
    return lambda rows: tf.gather(in_memory, rows)

  def take(rows):
    taken = tf.numpy_function(_reads.of(frames), [rows], frames.dtype, stateful=False)
    return tf.ensure_shape(taken, (None, *frames.shape[1:]))

  return take


def _shared_tensor(array: np.ndarray) -> tf.Tensor:
  """Returns a tensor on the CPU that shares the array's memory, if that is aligned."""
  if array.ctypes.data % _ALIGNMENT:
    array = _concatenated([array])
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


def _gather(frames: dict, columns: dict, rows: tf.Tensor) -> trajectory.Transition:
  columns = {name: tf.gather(column, rows) for name, column in columns.items()}
  before = {key: take(columns["first"]) for key, take in frames.items()}
  after = {key: take(columns["last"]) for key, take in frames.items()}
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
