"""Exports a split of a prepared dataset as a Minari dataset, for Gymnasium users."""

import contextlib
import itertools
import json
import pathlib
import shutil
from collections.abc import Iterator
from typing import Any

import gymnasium
import minari
import numpy as np
import rlds
import tensorflow as tf
import tensorflow_datasets as tfds
import tqdm
from etils import epath
from minari import namespace as minari_namespace
from minari.data_collector import EpisodeBuffer
from minari.dataset import minari_dataset
from minari.dataset.minari_storage import MinariStorage

from cog_datasets import disk, prepared, schema
from collection import manifest, registry, specs

SOURCE = "source"  # key of Minari's metadata under which the RLDS dataset is described
# Packages that the environment needs, as Minari's `requirements`, if the dataset says which.
_REQUIRED = ("pybullet", "numpy")

_EPISODES_AT_A_TIME = 100  # in memory
# A Minari file takes the bytes of the images and arrays, which it does not compress, and the index
# of each of the about twenty arrays of an episode.
_SIZE_RATIO = 1.2
_INDEX_BYTES = 64_000  # per episode


class ExportError(ValueError):
  """A dataset cannot be exported; the message says why and what to do."""


def export(source: tfds.core.DatasetBuilder, split: str, out: pathlib.Path) -> str:
  """Writes a split as a Minari dataset below `out`, which serves as MINARI_DATASETS_PATH.

  The episodes keep every value and their order. Of an episode with T actions, Minari has

    observations: T + 1 of each key; actions, rewards, terminations, truncations: T, without RLDS's
      last step, which has no action.
    infos["outcome"]: T + 1 of each outcome, as Minari's own collector lays them out: row t + 1 is
      that of action t. Row 0 would be that of `reset`, which is not recorded: it is False or NaN.
    episode metadata: RLDS's, the seed for `reset` among them, and Minari's own.

  The dataset's environment is the one that its metadata name. A script may start in another one;
  each episode's metadata say in which.

  Args:
    source: see prepared.find.
    split: name of one of its splits.
    out: a folder on this machine, made if it is missing.

  Returns:
    The id for minari.load_dataset, see `dataset_id`.

  Raises:
    ExportError: if the split is unknown, the dataset is no recording of a known environment, or
      damaged, or the target exists.
    disk.DiskError: if there is not enough room, or the place cannot be written to.
  """
  out = out.absolute()  # Minari takes a relative one for a path in its own folder
  num_episodes = _num_episodes(source, split)
  environment = _environment(source)
  _check_files(source)
  name = dataset_id(source, split)
  target = out / name
  with disk.alone(epath.Path(out), f"the export of {source.info.full_name}"):
    if target.exists():
      raise ExportError(f"{target} is there already: remove it, or choose another folder")
    with contextlib.suppress(FileNotFoundError):
      shutil.rmtree(_aside(out, name))  # of an export that was killed
    _check_disk(source, split, out)
    try:
      storage = _storage(_aside(out, name), environment)
      _write_episodes(storage, _episodes(source, split, num_episodes))
      storage.update_metadata(_metadata(source, split, name))
      _add_namespaces(out, name)
      _aside(out, name).rename(target)
    finally:
      shutil.rmtree(_aside(out, name), ignore_errors=True)
  return name


def dataset_id(source: tfds.core.DatasetBuilder, split: str) -> str:
  """Returns NAME[/CONFIG]/SPLIT-vN.

  Minari numbers the versions of a dataset, and our version changes with any byte, so that N counts
  all three parts of MAJOR.MINOR.PATCH: 1.2.3 becomes v10203.

  Raises:
    ExportError: if MINOR or PATCH has more than two digits, or Minari allows no such name.
  """
  version = source.info.version
  if max(version.minor, version.patch) > 99:
    raise ExportError(f"version {version} has no number in Minari: MINOR and PATCH end at 99")
  number = 10_000 * version.major + 100 * version.minor + version.patch
  folder = source.info.full_name.removesuffix(f"/{version}")
  name = f"{folder}/{split}-v{number}"
  try:
    minari_dataset.parse_dataset_id(name)
  except ValueError as error:
    raise ExportError(str(error)) from error
  return name


def _num_episodes(source: tfds.core.DatasetBuilder, split: str) -> int:
  splits = source.info.splits
  if split not in list(splits):  # not `splits`, which knows slices such as train[:10] too
    raise ExportError(
      f"{source.info.full_name} has no split {split!r}; its splits: {sorted(splits)}"
    )
  return splits[split].num_examples


def _check_files(source: tfds.core.DatasetBuilder) -> None:
  try:
    manifest.read(epath.Path(source.data_dir))  # there is none while a dataset is being copied
    prepared.check_files(source)
  except ValueError as error:
    raise ExportError(str(error)) from error


def _environment(source: tfds.core.DatasetBuilder) -> registry.EnvironmentSpec:
  name = (source.info.metadata or {}).get(schema.ENVIRONMENT)
  if name not in registry.ENVIRONMENTS:
    raise ExportError(
      f"the metadata of {source.info.full_name} name the environment {name!r}; known:"
      f" {', '.join(registry.ENVIRONMENTS)}"
    )
  expected, found = schema.features(name), source.info.features
  if (found.shape, found.tf_dtype) != (expected.shape, expected.tf_dtype):
    raise ExportError(
      f"{source.info.full_name} does not have the features of a recording of {name!r}: {found}"
    )
  return registry.spec(name)


def _aside(out: pathlib.Path, name: str) -> pathlib.Path:
  """Where the dataset waits until it is complete: Minari skips hidden folders."""
  return out / f".unfinished_{name.replace('/', '.')}"


def _check_disk(source: tfds.core.DatasetBuilder, split: str, out: pathlib.Path) -> None:
  info = source.info.splits[split]
  needed = int(_SIZE_RATIO * info.num_bytes + _INDEX_BYTES * info.num_examples)
  disk.check(epath.Path(out), needed, f"{source.info.full_name} as a Minari dataset")


def _storage(folder: pathlib.Path, environment: registry.EnvironmentSpec) -> MinariStorage:
  folder.mkdir()
  with contextlib.closing(registry.load(environment.name)) as instance:
    return MinariStorage.new(
      folder / "data",
      observation_space=instance.observation_space,
      action_space=instance.action_space,
      env_spec=gymnasium.spec(environment.gymnasium_id),
    )


def _episodes(
  source: tfds.core.DatasetBuilder, split: str, num_episodes: int
) -> Iterator[dict[str, Any]]:
  """Yields the episodes with images as they are stored.

  Raises:
    ExportError: if a file is damaged.
  """
  name = source.info.full_name
  episodes = prepared.episodes(source, prepared.Part(split, 0, num_episodes), decode_images=False)
  try:
    yield from tqdm.tqdm(episodes, f"Exporting {name}", num_episodes, unit="episode")
  except tf.errors.OpError as error:
    raise ExportError(f"{name}, split {split!r}, cannot be read: {error.message}") from error


def _write_episodes(storage: MinariStorage, episodes: Iterator[dict[str, Any]]) -> None:
  first = 0
  while chunk := list(itertools.islice(episodes, _EPISODES_AT_A_TIME)):
    indices = range(first, first + len(chunk))
    storage.update_episodes(map(_buffer, chunk))
    storage.update_episode_metadata(map(_episode_metadata, chunk), indices)
    first = indices.stop


def _buffer(episode: dict[str, Any]) -> EpisodeBuffer:
  steps = episode[rlds.STEPS]
  is_terminal = steps[rlds.IS_TERMINAL][1:]
  observation = steps[rlds.OBSERVATION]
  return EpisodeBuffer(
    seed=int(episode[schema.EPISODE_METADATA][schema.SEED]),
    observations={**observation, specs.IMAGE: _rows(observation[specs.IMAGE])},
    actions=steps[rlds.ACTION][:-1],
    rewards=steps[rlds.REWARD][:-1],
    terminations=is_terminal,
    truncations=steps[rlds.IS_LAST][1:] & ~is_terminal,
    infos={
      schema.OUTCOME: {
        key: _after_reset(values[:-1]) for key, values in steps[schema.OUTCOME].items()
      }
    },
  )


def _rows(files: np.ndarray) -> list[np.ndarray]:
  """Returns image files, object (T + 1,), as T + 1 rows of bytes, uint8 (longest,).

  Minari would make JPEGs of images, which changes them; rows of bytes it stores as they are. It
  reads with Pillow, which knows a PNG by its first bytes and leaves alone what follows its end.
  """
  longest = max(map(len, files))
  return [np.frombuffer(file.ljust(longest, b"\0"), np.uint8) for file in files]


def _after_reset(values: np.ndarray) -> np.ndarray:
  """Returns (T + 1,): the values (T,) after one that stands for the unknown."""
  unknown = np.nan if values.dtype.kind == "f" else False
  return np.concatenate([np.array([unknown], values.dtype), values])


def _episode_metadata(episode: dict[str, Any]) -> dict[str, Any]:
  texts = {
    key: value.decode()
    for key, value in episode[schema.EPISODE_METADATA].items()
    if key != schema.SEED  # which Minari has a place of its own for
  }
  rewards = episode[rlds.STEPS][rlds.REWARD][:-1]
  return {**texts, **minari.EpisodeMetadataCallback()({"rewards": rewards})}


def _metadata(source: tfds.core.DatasetBuilder, split: str, name: str) -> dict[str, Any]:
  info = source.info
  packages = info.metadata.get("packages", {})
  return {
    "dataset_id": name,
    "minari_version": minari.__version__,
    "description": info.description,
    "requirements": [f"{key}=={packages[key]}" for key in _REQUIRED if key in packages],
    SOURCE: {
      "name": info.full_name,
      "version": str(info.version),
      "split": split,
      "license": info.redistribution_info.license,
      "homepage": info.homepage,
      "citation": info.citation,
      "metadata": dict(info.metadata),  # label, scripts, seeds, and lineage if it was relabelled
    },
  }


def _add_namespaces(out: pathlib.Path, name: str) -> None:
  """Makes the folders above the dataset what Minari calls namespaces, which it lists by."""
  namespace, _, _ = minari_dataset.parse_dataset_id(name)
  for parent in minari_namespace.namespace_hierarchy(namespace):
    path = out / parent / minari_namespace.NAMESPACE_METADATA_FILENAME
    path.parent.mkdir(exist_ok=True)
    if not path.exists():
      path.write_text(json.dumps({}))
