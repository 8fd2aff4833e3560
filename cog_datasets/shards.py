"""Beam's part of a build: each element is one shard, the seeds of a few episodes in one file.

Why a shard and not an episode: TFDS's own Beam writer passes every serialised episode through two
shuffles, and Beam's local runner holds all of them in memory, several times over. Here episodes
go straight to their file, memory stays flat, and a build that was killed finds its files again.
"""

import dataclasses
import itertools
import os
import uuid
from collections.abc import Iterable, Iterator

import apache_beam as beam
import tensorflow_datasets as tfds
from apache_beam.options import pipeline_options
from etils import epath

from cog_datasets import catalog, progress, reward_labels, schema
from collection import environment as environment_lib
from collection import recorder, registry

# Many small shards let any number of workers share the load evenly.
MAX_EPISODES_PER_SHARD = 50  # about 2 MB
MIN_SHARDS = 8  # of a split that has as many episodes

# One episode in ten is excluded at the most; so many in a row are a mistake in the catalog.
_MAX_ATTEMPTS = 100

_UNFINISHED = ".unfinished."  # in the name of a file that is being written

# A process needs seconds to import TensorFlow, which fewer episodes would not earn back.
_EPISODES_PER_PROCESS = 100


@dataclasses.dataclass(frozen=True)
class Shard:
  """Seeds of the episodes that share a file, and a file name that depends on them alone."""

  split: str
  seeds: range

  @property
  def filename(self) -> str:
    return f"{self.split}-{self.seeds.start:08d}-{self.seeds.stop:08d}"


def split_into_shards(split: str, seeds: range) -> list[Shard]:
  """Cuts the seeds of a split into shards: a function of the seeds, not of the workers."""
  num_shards = max(-(-len(seeds) // MAX_EPISODES_PER_SHARD), min(len(seeds), MIN_SHARDS))
  bounds = [index * len(seeds) // num_shards for index in range(num_shards + 1)]
  return [Shard(split, seeds[start:stop]) for start, stop in itertools.pairwise(bounds)]


class WriteShard(beam.DoFn):
  """Shard -> its file, whose bytes are a pure function of the catalog's entry and the seeds.

  The simulator does not pickle, so each instance makes its own, once.
  """

  def __init__(
    self,
    entry: catalog.Entry,
    features: tfds.features.FeaturesDict,
    writer: tfds.core.ExampleWriter,
    folder: str,
    counter_path: str,
  ):
    self._entry = entry
    self._features = features
    self._writer = writer
    self._folder = folder
    self._counter_path = counter_path
    self._environments = {}  # name → environment; one for each start, made when it is needed

  def setup(self):
    self._label = reward_labels.parse(self._entry.label)

  def process(self, shard: Shard):
    path = epath.Path(self._folder) / shard.filename
    if path.exists():
      progress.increment(self._counter_path, len(shard.seeds))
      return
    unfinished = unfinished_path(path)
    self._writer.write(unfinished, self._serialized_episodes(shard.seeds))
    unfinished.replace(path)

  def teardown(self):
    for environment in self._environments.values():
      environment.close()

  def _serialized_episodes(self, seeds: range) -> Iterator[tuple[str, bytes]]:
    for seed in seeds:
      progress.check_followed(self._counter_path)
      episode_id = self._entry.episode_id(seed)
      recording = record(self._entry, self._environments, seed)
      episode = self._label(schema.from_recording(recording, episode_id))
      yield episode_id, self._features.serialize_example(schema.with_encoded_images(episode))
      progress.increment(self._counter_path)


def unfinished_path(path: epath.Path) -> epath.Path:
  """Where a worker writes a file before it has its name; another worker's is another."""
  return path.with_name(f"{path.name}{_UNFINISHED}{uuid.uuid4().hex}")


def check_written(folder: epath.Path, names: Iterable[str]) -> None:
  """Checks that the files of a job that ended are there.

  Raises:
    FileNotFoundError: if one is not; the message names it.
  """
  for name in names:
    if not (folder / name).exists():
      raise FileNotFoundError(
        f"the job ended, and {folder / name} is not there: workers on other machines have to write"
        " to the same data_dir, a shared folder or a bucket"
      )


def remove_unfinished(folder: epath.Path) -> None:
  """Frees the disk that workers which were killed have left behind."""
  for path in folder.glob(f"*{_UNFINISHED}*"):
    path.unlink(missing_ok=True)


def record(
  entry: catalog.Entry, environments: dict[str, environment_lib.ManipulationEnv], seed: int
) -> recorder.Episode:
  """Records the episode of a seed; again from a later seed while it has the excluded outcome.

  Args:
    entry: of the catalog.
    environments: name → environment, to be used again; missing ones are added.
    seed: of the episode in its split.

  Raises:
    RuntimeError: if all attempts have the excluded outcome.
  """
  script = entry.script(seed)
  name = entry.start(script)
  if name not in environments:
    environments[name] = registry.load(name)
  for attempt in range(_MAX_ATTEMPTS):
    retry_seed = seed + attempt * registry.RETRY_STRIDE
    recording = recorder.record_episode(name, environments[name], script, retry_seed)
    if entry.excluded_outcome is None or not recording.outcomes[entry.excluded_outcome].any():
      return recording
  raise RuntimeError(
    f"all of {_MAX_ATTEMPTS} episodes of script {script!r} in {name!r} from seed {seed} on have the"
    f" outcome {entry.excluded_outcome!r}, which {entry.name}/{entry.config} excludes"
  )


def local_options(
  options: pipeline_options.PipelineOptions | None, num_episodes: int
) -> pipeline_options.PipelineOptions:
  """Completes Beam's options for a build on this machine; leaves those for a named runner alone.

  Beam's default runner would download a program from GitHub, and ignore the number of workers, so
  the runner is the one written in Python. Without options, it uses every core that this process
  may use; with options, `direct_num_workers` of them (Beam's default is 1, and 0 means all).
  """
  if options is None:
    # Without flags, Beam would parse those of the `tfds` command.
    options = pipeline_options.PipelineOptions(flags=[])
    cores = len(os.sched_getaffinity(0))
    workers = max(1, min(cores, num_episodes // _EPISODES_PER_PROCESS))
    options.view_as(pipeline_options.DirectOptions).direct_num_workers = workers
  standard = options.view_as(pipeline_options.StandardOptions)
  if standard.runner is None:
    standard.runner = "FnApiRunner"
    direct = options.view_as(pipeline_options.DirectOptions)
    if direct.direct_num_workers != 1:
      direct.direct_running_mode = "multi_processing"
  return options
