"""Prepared datasets: found by name or folder, read shard by shard, with no code but TFDS's."""

import argparse
import dataclasses
import functools
import itertools
import json
import operator
from collections.abc import Iterator, Sequence
from typing import Any

import rlds
import tensorflow as tf
import tensorflow_datasets as tfds
from etils import epath
from google.protobuf import json_format
from tensorflow_datasets.core import dataset_info

from collection import manifest, specs

_FEATURES = "features.json"  # by which TFDS knows a prepared dataset
_SELECTED_AT_ONCE = 100  # episodes; TFDS nests as many instructions, and fails at about 500


@dataclasses.dataclass(frozen=True)
class Part:
  """Consecutive episodes of a split: those of one file."""

  split: str
  start: int
  stop: int


@dataclasses.dataclass(frozen=True)
class Shard:
  """One file of a dataset."""

  split: str
  path: str
  num_episodes: int
  file_format: str  # of tfds.core.FileFormat

  @property
  def filename(self) -> str:
    return epath.Path(self.path).name

  def records(self) -> Iterator[bytes]:
    """Yields the serialised episodes, each a tf.train.Example, in the order of the file."""
    adapter = tfds.core.file_adapters.ADAPTER_FOR_FORMAT[tfds.core.FileFormat(self.file_format)]
    for record in adapter.make_tf_data(self.path):
      yield record.numpy()


def find(source: str, data_dir: str | None = None) -> tfds.core.DatasetBuilder:
  """Returns a reader of a prepared dataset, which needs no code but TFDS's.

  Args:
    source: NAME[/CONFIG][:VERSION], or the folder DIR/NAME[/CONFIG]/VERSION.
    data_dir: the TFDS data directory in which a name is looked up; None: TFDS's own default.

  Raises:
    ValueError: if there is no such dataset (the message lists those in `data_dir`), or its
      description is damaged.
  """
  try:
    if (epath.Path(source) / _FEATURES).exists():
      return tfds.builder_from_directory(source)
    return tfds.core.read_only_builder.builder_from_files(source, data_dir=data_dir)
  except (json.JSONDecodeError, json_format.ParseError, dataset_info.DatasetInfoFileError) as error:
    raise ValueError(
      f"dataset_info.json, features.json or metadata.json of {source!r} is damaged or missing:"
      f" {error}"
    ) from error
  except (tfds.core.DatasetNotFoundError, ValueError) as error:  # the latter: not even a name
    place = data_dir or "TFDS's default data directory"
    raise ValueError(
      f"{source!r} is neither the name of a dataset in {place} nor a folder that holds one"
      f" (with its {_FEATURES}); datasets there: {', '.join(_names(data_dir)) or 'none'}"
    ) from error


def _names(data_dir: str | None) -> list[str]:
  file_utils = tfds.core.utils.file_utils
  folders = file_utils.list_data_dirs(given_data_dir=data_dir)
  found = [
    reference.tfds_name()
    for folder in folders
    if epath.Path(folder).exists()
    for reference in file_utils.list_datasets_in_data_dir(folder)
  ]
  return sorted(found)


def shards(builder: tfds.core.DatasetBuilder) -> list[Shard]:
  """The files of a dataset, split by split, in order.

  Raises:
    ValueError: if one is missing; the message names it.
  """
  info = builder.info
  found = [
    Shard(name, str(path), num_episodes, info.file_format.value)
    for name, split in info.splits.items()
    for path, num_episodes in zip(split.filepaths, split.shard_lengths, strict=True)
  ]
  for shard in found:
    if not epath.Path(shard.path).exists():
      raise ValueError(f"{info.full_name} is incomplete: {shard.path} is missing")
  return found


def check_files(builder: tfds.core.DatasetBuilder) -> None:
  """Compares all files but the documents with the manifest; without one, only that they exist.

  Raises:
    ValueError: if some are missing or damaged; the message names them.
  """
  folder = epath.Path(builder.data_dir)
  if not (folder / manifest.FILENAME).exists():
    shards(builder)
  elif damaged := manifest.violations(folder, ignored=manifest.DOCUMENTS):
    raise ValueError(f"{builder.info.full_name} in {folder} is damaged: {'; '.join(damaged)}")


def parts(builder: tfds.core.DatasetBuilder) -> list[Part]:
  """Cuts a dataset into the episodes of each of its files, split by split, in order."""
  return [
    Part(split, start, stop)
    for split, info in builder.info.splits.items()
    for start, stop in itertools.pairwise(itertools.accumulate(info.shard_lengths, initial=0))
  ]


def episodes(
  builder: tfds.core.DatasetBuilder,
  part: Part,
  with_images: bool = True,
  decode_images: bool = True,
) -> Iterator[dict[str, Any]]:
  """Yields the episodes of a part as numpy arrays, in order, with stacked steps: each (T + 1, …).

  Args:
    builder: see `find`.
    part: which episodes.
    with_images: whether to yield the images at all.
    decode_images: whether to decode them, which takes most of the time; else each is the bytes of
      its file, as the dataset stores it.

  Raises:
    ValueError: if a file is damaged there.
  """
  instruction = tfds.core.ReadInstruction(part.split, part.start, part.stop, unit="abs")
  yield from _read(builder, instruction, with_images, decode_images)


def selected(
  builder: tfds.core.DatasetBuilder, split: str, indices: Sequence[int]
) -> Iterator[dict[str, Any]]:
  """Yields single episodes of a split, each as `episodes` does, and skips what is between them.

  Args:
    builder: see `find`.
    split: whose episodes.
    indices: places in the split, from 0, in the order to read them in.

  Raises:
    ValueError: if a file is damaged there.
  """
  # Opening a pipeline takes as long as reading fifty episodes, so that one reads many of these.
  for first in range(0, len(indices), _SELECTED_AT_ONCE):
    instructions = [
      tfds.core.ReadInstruction(split, index, index + 1, unit="abs")
      for index in indices[first : first + _SELECTED_AT_ONCE]
    ]
    yield from _read(builder, functools.reduce(operator.add, instructions))


def _read(
  builder: tfds.core.DatasetBuilder,
  instruction: tfds.core.ReadInstruction,
  with_images: bool = True,
  decode_images: bool = True,
) -> Iterator[dict[str, Any]]:
  feature = builder.info.features[rlds.STEPS].feature

  def decode(example):
    steps = dict(example[rlds.STEPS])
    steps[rlds.OBSERVATION] = dict(steps[rlds.OBSERVATION])
    images = steps[rlds.OBSERVATION].pop(specs.IMAGE, None)
    steps = _decode_batch(feature, steps)
    if with_images and images is not None:
      image_feature = feature[rlds.OBSERVATION][specs.IMAGE]
      decoded = _decode_batch(image_feature, images) if decode_images else images
      steps[rlds.OBSERVATION][specs.IMAGE] = decoded
    return {**example, rlds.STEPS: steps}

  # TFDS's nested dataset of steps costs a millisecond an episode to open; whole arrays do not.
  encoded = builder.as_dataset(
    split=instruction,
    decoders={rlds.STEPS: tfds.decode.SkipDecoding()},
    # One file after the other: TFDS's default takes 16 episodes of each of 16 files in turn.
    read_config=tfds.ReadConfig(try_autocache=False, interleave_cycle_length=1),
  )
  try:
    yield from encoded.map(decode).as_numpy_iterator()
  except tf.errors.DataLossError as error:
    raise ValueError(
      f"{builder.info.full_name} in {builder.data_dir} is damaged: validate_main says which file"
    ) from error


def _decode_batch(feature: tfds.features.FeatureConnector, encoded: Any) -> Any:
  if isinstance(encoded, dict):
    return {key: _decode_batch(feature[key], value) for key, value in encoded.items()}
  return feature.decode_batch_example(encoded)


def add_source_flags(parser: argparse.ArgumentParser) -> None:
  """Adds the arguments of `find`."""
  parser.add_argument(
    "source", metavar="NAME[/CONFIG][:VERSION]",
    help="a dataset in --data_dir, or the folder DIR/NAME[/CONFIG]/VERSION of one anywhere",
  )  # fmt: skip
  parser.add_argument("--data_dir", help="TFDS data directory (default: TFDS's own)")
