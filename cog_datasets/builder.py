"""The TFDS builder of every dataset in the catalog."""

import contextlib
import dataclasses
import errno
import functools
import hashlib
import importlib.metadata
import importlib.resources
import json
import os
import re
from collections.abc import Mapping
from typing import Any

import apache_beam as beam
import tensorflow_datasets as tfds
from etils import epath
from tensorflow_datasets.core import constants

from cog_datasets import catalog, disk, progress, schema, shards
from collection import manifest, registry

# Measured: 1,500 to 1,600 in the drawer scene, 900 in the tray scene; nearly all of it are images.
_BYTES_PER_STEP = 1_600

# Packages whose version the recorded bytes depend on.
_RECORDING_PACKAGES = ("pybullet", "numpy", "tensorflow")

_FILE_FORMAT = tfds.core.FileFormat.TFRECORD
_CONFIG_NAME = r"[A-Za-z0-9_][A-Za-z0-9_+.-]*"  # what TFDS reads, and no hidden folder


@dataclasses.dataclass(eq=False)
class CogConfig(tfds.core.BuilderConfig):
  """Configuration of a dataset; the `tfds` command makes one from `--config='{...}'`.

  Attributes:
    num_episodes: episodes of the split `train`; the catalog's number if None.
    base: the configuration of the catalog that a new name is a smaller or larger version of; the
      dataset's default one if None.
    scripts: script -> its probability, in place of the catalog's.

  Raises:
    ValueError: if the name is none of a folder, or `num_episodes` not a possible number of
      episodes.
  """

  num_episodes: int | None = None
  base: str | None = None
  scripts: Mapping[str, float] | None = None

  def __post_init__(self):
    if not re.fullmatch(_CONFIG_NAME, self.name):
      raise ValueError(
        "a configuration is named with letters, digits and _, after the first also with + - and .,"
        f" not {self.name!r}"
      )
    if self.num_episodes is not None:
      catalog.split_seeds(self.num_episodes)


class CogDatasetBuilder(tfds.core.GeneratorBasedBuilder, skip_registration=True):
  """Records, labels and writes the episodes of one dataset; a subclass is named in the catalog."""

  def __init_subclass__(cls, **kwargs):
    super().__init_subclass__(**kwargs)
    entries = catalog.entries(cls.name)
    cls.VERSION = tfds.core.Version(entries[0].version)
    cls.RELEASE_NOTES = dict(entries[0].release_notes)
    cls.BUILDER_CONFIGS = [
      CogConfig(name=entry.config, description=entry.description) for entry in entries
    ]
    # TFDS imports a builder under one of two names, and writes that name into dataset_info.json.
    cls.__module__ = f"cog_datasets.{cls.name}.{cls.name}_dataset_builder"

  @property
  def entry(self) -> catalog.Entry:
    """The catalog's entry: of this name, or the one that this configuration is based on.

    Raises:
      ValueError: if the catalog has no configuration of that name, or no script of a name; the
        message lists those it has.
    """
    entries = {entry.config: entry for entry in catalog.entries(self.name)}
    config = self.builder_config
    if config.base and config.base not in entries:
      raise ValueError(f"{self.name} has no configuration {config.base!r}; it has: {list(entries)}")
    default = next(iter(entries))
    entry = entries[config.base or (config.name if config.name in entries else default)]
    if config.scripts:
      # Other episodes, so their ids are others; and the same ones in whatever order scripts come.
      scripts = tuple(sorted(config.scripts.items()))
      entry = dataclasses.replace(entry, config=config.name, scripts=scripts)
    return entry

  @property
  def split_seeds(self) -> dict[str, range]:
    """Seeds of the episodes of each split."""
    num_episodes = self.builder_config.num_episodes or self.entry.num_episodes
    return catalog.split_seeds(num_episodes, self.entry.seed_block)

  def _create_builder_config(self, builder_config, version):
    """TFDS's own, which of an unknown name would not list the known ones."""
    if isinstance(builder_config, str):
      name, known = builder_config.partition(":")[0], list(self.builder_configs)
      if name not in known:
        raise ValueError(f"{self.name} has no configuration {name!r}; it has: {known}")
    return super()._create_builder_config(builder_config, version)

  def download_and_prepare(self, *, download_config=None, file_format=None, **kwargs):
    """Builds the dataset with its manifest, unless it is there already.

    Raises:
      ValueError: if something else is there under the name: other scripts or other seeds; or if
        the files are to have a format that `pipelines` does not read.
      disk.DiskError: if there is not enough room, or the place cannot be written to.
    """
    overwrite = download_config is not None and download_config.download_mode.overwrite_dataset
    was_prepared = self.is_prepared() and not overwrite
    lock = disk.alone(self.data_path.parent, f"the build of {self.info.full_name}")
    # What is there is read alone, also where nothing can be written.
    with contextlib.nullcontext() if was_prepared else lock:
      if self.is_prepared() and not overwrite:
        if not was_prepared:  # by another process, while this one waited
          self.info.read_from_directory(self.data_path)
        self._check_contents(download_config)
      else:
        self._check_format(file_format or self.info.file_format)
        self._remove_incomplete()
      purpose, unfinished = f"the build of {self.info.full_name}", self._unfinished_folder()
      with disk.resumable(unfinished, purpose):
        super().download_and_prepare(
          download_config=download_config, file_format=file_format, **kwargs
        )
      if not (self.data_path / manifest.FILENAME).exists():
        unfinished.rmtree(missing_ok=True)
        with disk.resumable(self.data_path, purpose):
          manifest.write(self.data_path)

  def _check_format(self, file_format):
    file_format = tfds.core.FileFormat.from_value(file_format)
    if file_format != _FILE_FORMAT:
      raise ValueError(
        f"expected the file format {_FILE_FORMAT.value!r}, which every job on datasets reads, got"
        f" {file_format.value!r}"
      )

  def _remove_incomplete(self):
    """Removes what TFDS leaves, under another name each time, of builds killed at their end."""
    for folder in self.data_path.parent.glob(f"{constants.INCOMPLETE_PREFIX}*_{self.version}"):
      folder.rmtree()

  def _check_contents(self, download_config):
    wanted = self._metadata()
    limit = _limit(download_config)
    wanted["episodes"] = {split: len(seeds[:limit]) for split, seeds in self.split_seeds.items()}
    found = dict(self.info.metadata)  # as it was read from the folder
    found["episodes"] = {split: info.num_examples for split, info in self.info.splits.items()}
    differing = [key for key in wanted if key != "packages" and found.get(key) != wanted[key]]
    if differing:
      raise ValueError(
        f"{self.data_path} holds a dataset with { {key: found.get(key) for key in differing} }, but"
        f" { {key: wanted[key] for key in differing} } was asked for: choose another config name,"
        " or build with --overwrite"
      )

  def _info(self) -> tfds.core.DatasetInfo:
    return self.dataset_info_from_configs(
      features=schema.features(self.entry.environment),
      metadata=tfds.core.MetadataDict(self._metadata()),
      homepage="https://sites.google.com/view/cog-rl",
      license="Apache-2.0",
    )

  def _metadata(self) -> dict[str, Any]:
    metadata = {
      "environment": self.entry.environment,
      "environment_config": json.loads(registry.spec(self.entry.environment).config()),
      "scripts": dict(self.entry.scripts),
      "label": self.entry.label,
      "seeds": {split: [seeds.start, seeds.stop] for split, seeds in self.split_seeds.items()},
      "packages": {name: importlib.metadata.version(name) for name in _RECORDING_PACKAGES},
    }
    if self.entry.starts:
      metadata["starts"] = dict(self.entry.starts)
    if self.entry.excluded_outcome:
      metadata["excluded_outcome"] = self.entry.excluded_outcome
    return metadata

  def _split_generators(self, dl_manager):
    raise NotImplementedError("_generate_splits writes the shards itself")

  def _generate_examples(self):
    raise NotImplementedError("_generate_splits writes the shards itself")

  def _generate_splits(self, dl_manager, download_config) -> list[tfds.core.SplitInfo]:
    """Records all shards, then places them where TFDS reads them."""
    del dl_manager  # nothing to download
    limit = _limit(download_config)
    by_split = {
      split: shards.split_into_shards(split, seeds[:limit])
      for split, seeds in self.split_seeds.items()
    }
    folder = self._unfinished_folder()
    members = sum(by_split.values(), [])
    self._check_disk(members, folder)
    folder.mkdir(parents=True, exist_ok=True)
    shards.remove_unfinished(folder)
    self._record(members, folder, download_config)
    shards.check_written(folder, [shard.filename for shard in members])
    return [self._place(folder, split, members) for split, members in by_split.items()]

  def _unfinished_folder(self) -> epath.Path:
    """Where shards wait for the rest; a build that was killed goes on there, if nothing changed."""
    contents = json.dumps([self._metadata(), _source_digest()])
    digest = hashlib.sha256(contents.encode()).hexdigest()[:16]
    return self.data_path.parent / f".unfinished_{self.version}_{digest}"

  def _check_disk(self, members: list[shards.Shard], folder: epath.Path):
    missing = [shard for shard in members if not (folder / shard.filename).exists()]
    episodes = sum(len(shard.seeds) for shard in missing)
    needed = int(episodes * self.entry.steps_per_episode * _BYTES_PER_STEP)
    disk.check(folder.parent, needed, f"the build of {self.info.full_name}")

  def _record(self, members: list[shards.Shard], folder: epath.Path, download_config):
    num_episodes = sum(len(shard.seeds) for shard in members)
    runner = download_config.beam_runner
    options = download_config.beam_options
    if runner is None:
      options = shards.local_options(options, num_episodes)
    with (
      progress.shared_counter(num_episodes, f"Recording {self.info.full_name}") as counter_path,
      beam.Pipeline(runner=runner, options=options) as pipeline,
    ):
      write = shards.WriteShard(
        self.entry, self.info.features, self._example_writer(), str(folder), counter_path
      )
      # Create ends in a reshuffle, which spreads the shards over all workers.
      _ = pipeline | "Shards" >> beam.Create(members, reshuffle=True) | beam.ParDo(write)

  def _place(
    self, folder: epath.Path, split: str, members: list[shards.Shard]
  ) -> tfds.core.SplitInfo:
    template = self._get_filename_template(split)
    paths = template.sharded_filepaths(len(members))
    for shard, path in zip(members, paths, strict=True):
      _link_or_move(folder / shard.filename, path)
    return tfds.core.SplitInfo(
      name=split,
      shard_lengths=[len(shard.seeds) for shard in members],
      num_bytes=sum(path.stat().length for path in paths),
      filename_template=template,
    )


def _limit(download_config: tfds.download.DownloadConfig | None) -> int | None:
  """Episodes of a split at most: a debugging flag of `tfds build`."""
  return download_config.max_examples_per_split if download_config else None


def _link_or_move(path: epath.Path, target: epath.Path) -> None:
  """Keeps the file under its first name, too, which outlives a build that fails after this."""
  try:
    os.link(path, target)
  except OSError as error:
    if error.errno == errno.ENOSPC:
      raise
    path.replace(target)  # in an object store, or a file system without hard links


@functools.cache
def _source_digest() -> str:
  """Changes with the code that records and writes."""
  digest = hashlib.sha256()
  for package in ("collection", "cog_datasets"):
    folder = epath.Path(importlib.resources.files(package))
    for path in sorted(folder.glob("*.py")):
      digest.update(path.read_bytes())
  return digest.hexdigest()
