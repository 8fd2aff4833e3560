"""Real little datasets for tests of the jobs, and copies of them that are broken in one way."""

import importlib
import pathlib
import shutil
from collections.abc import Callable

import tensorflow as tf
import tensorflow_datasets as tfds
from etils import epath

from cog_datasets import builder
from collection import manifest
from pipelines import statistics_main, validate_main

NUM_EPISODES = 12  # of `train`, in 8 files; `validation` has one


def build(name: str, data_dir: pathlib.Path) -> pathlib.Path:
  """Builds a dataset of the catalog as NAME/tiny; returns its folder."""
  module = importlib.import_module(f"cog_datasets.{name}.{name}_dataset_builder")
  config = builder.CogConfig(name="tiny", num_episodes=NUM_EPISODES)
  dataset_builder = module.Builder(data_dir=data_dir, config=config)
  dataset_builder.download_and_prepare()
  return pathlib.Path(dataset_builder.data_dir)


def build_publishable(name: str, data_dir: pathlib.Path) -> pathlib.Path:
  """Builds a dataset, validates it and writes its card; returns its folder."""
  folder = build(name, data_dir)
  assert validate_main.main([str(folder)]) == 0
  assert statistics_main.main([str(folder)]) == 0
  return folder


def records(folder: pathlib.Path, split: str = "train") -> list[bytes]:
  """The serialised episodes of a split, in order."""
  paths = tfds.builder_from_directory(folder).info.splits[split].filepaths
  return [record.numpy() for path in paths for record in tf.data.TFRecordDataset(str(path))]


def break_episode(
  folder: pathlib.Path,
  copy: pathlib.Path,
  index: int,
  change: Callable[[dict[str, tf.train.Feature]], None],
) -> pathlib.Path:
  """Copies a dataset, changes the features of one episode of `train`, and writes the manifest.

  Returns:
    The folder of the copy.
  """
  target = copy / folder.parent.name / folder.name
  shutil.copytree(folder, target)
  for path in tfds.builder_from_directory(target).info.splits["train"].filepaths:
    found = [record.numpy() for record in tf.data.TFRecordDataset(str(path))]
    if index < len(found):
      example = tf.train.Example.FromString(found[index])
      change(example.features.feature)
      found[index] = example.SerializeToString()
      with tf.io.TFRecordWriter(str(path)) as writer:
        for record in found:
          writer.write(record)
      break
    index -= len(found)
  manifest.write(epath.Path(target))
  return target
