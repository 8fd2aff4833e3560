"""Relabels a prepared dataset: the same episodes byte for byte, but for their rewards."""

import dataclasses
import hashlib
import itertools
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import apache_beam as beam
import numpy as np
import rlds
import tensorflow as tf
import tensorflow_datasets as tfds
from apache_beam.options import pipeline_options
from etils import epath

from cog_datasets import disk, prepared, progress, reward_labels, schema
from cog_datasets import shards as shards_lib
from collection import manifest

LINEAGE = "lineage"  # key of the metadata

_REWARD = f"{rlds.STEPS}/{rlds.REWARD}"
_IS_LAST = f"{rlds.STEPS}/{rlds.IS_LAST}"
_OUTCOME = f"{rlds.STEPS}/{schema.OUTCOME}/"


@dataclasses.dataclass
class Changes:
  """What a label has changed."""

  episodes: int = 0
  rewards: int = 0
  changed_episodes: int = 0
  changed_rewards: int = 0

  def __add__(self, other: "Changes") -> "Changes":
    mine, theirs = dataclasses.astuple(self), dataclasses.astuple(other)
    return Changes(*(a + b for a, b in zip(mine, theirs, strict=True)))


def relabelled(record: bytes, label: reward_labels.Label) -> tuple[bytes, Changes]:
  """Returns a serialised episode with new rewards; every other byte of it stays.

  Args:
    record: a tf.train.Example, as TFDS writes an episode of this project.
    label: see cog_datasets.reward_labels.

  Raises:
    ValueError: if the episode has no rewards, or lacks an outcome that the label needs.
  """
  features = tf.train.Example.FromString(record).features.feature
  if _REWARD not in features:
    raise ValueError(f"an episode has no {_REWARD!r}; it has {sorted(features)}")
  old = np.array(features[_REWARD].float_list.value, np.float32)
  outcomes = {
    name.removeprefix(_OUTCOME): _values(feature)
    for name, feature in features.items()
    if name.startswith(_OUTCOME)
  }
  steps = {
    rlds.REWARD: old,
    rlds.IS_LAST: _values(features[_IS_LAST]).astype(bool),
    schema.OUTCOME: outcomes,
  }
  new = label({rlds.STEPS: steps})[rlds.STEPS][rlds.REWARD]
  old_bytes, new_bytes = _serialised(old), _serialised(new)
  if record.count(old_bytes) != 1:
    raise ValueError(f"{_REWARD!r} is not stored as TFDS stores it: its bytes are not there once")
  changed = int(np.sum(old != new))
  return record.replace(old_bytes, new_bytes), Changes(1, len(new), int(changed > 0), changed)


def relabel(
  source: tfds.core.DatasetBuilder,
  label: str,
  folder: epath.Path,
  options: pipeline_options.PipelineOptions | None = None,
) -> Changes:
  """Writes a new dataset with the episodes of `source` and the rewards of `label`.

  A run that was stopped goes on where it was; one that had ended changes nothing.

  Args:
    source: see prepared.find.
    label: see reward_labels.parse.
    folder: DIR/NAME/VERSION of the new dataset.
    options: Beam's; None: every core of this machine.

  Raises:
    ValueError: if the label is unknown, an outcome that it needs is missing, files of the source
      are missing or damaged, the name or the version is none, or `folder` is there already and
      something else.
    disk.DiskError: if there is not enough room, or the place cannot be written to.
  """
  check_name(folder.parent.name, folder.name)
  reward_labels.parse(label)
  prepared.check_files(source)
  members = prepared.shards(source)
  for record in itertools.islice(members[0].records(), 1):
    relabelled(record, reward_labels.parse(label))  # an outcome that is missing is missing in all
  digest = _source_digest(epath.Path(source.data_dir), members)
  with disk.alone(folder.parent, f"relabelling {source.info.full_name}"):
    if folder.exists():
      return _changes_there(folder, digest, label)
    return _write(source, members, label, digest, folder, options)


def _write(
  source: tfds.core.DatasetBuilder,
  members: list[prepared.Shard],
  label: str,
  digest: str,
  folder: epath.Path,
  options: pipeline_options.PipelineOptions | None,
) -> Changes:
  """Writes the new dataset, or what is missing of it, and gives it its name."""
  unfinished = folder.parent / f".unfinished_{folder.name}_{_run_digest(digest, label)}"
  unfinished.mkdir(parents=True, exist_ok=True)
  shards_lib.remove_unfinished(unfinished)
  split_infos = _split_infos(source, folder.parent.name, unfinished)
  targets = [path.name for info in split_infos for path in info.filepaths]
  num_episodes = sum(shard.num_episodes for shard in members)
  pairs = list(zip(members, targets, strict=True))
  _check_disk(pairs, unfinished)
  with (
    disk.resumable(unfinished, "relabelling"),
    progress.shared_counter(num_episodes, f"Relabelling {source.info.full_name}") as counter_path,
    beam.Pipeline(options=shards_lib.local_options(options, num_episodes)) as pipeline,
  ):
    relabel_shard = RelabelShard(label, str(unfinished), counter_path)
    _ = pipeline | "Shards" >> beam.Create(pairs, reshuffle=True) | beam.ParDo(relabel_shard)
  shards_lib.check_written(unfinished, targets)
  changes = sum((_read_changes(unfinished / target) for target in targets), Changes())
  lineage = {
    "source": source.info.full_name,
    "source_digest": digest,
    "label": label,
    **dataclasses.asdict(changes),
  }
  _write_metadata(source, label, lineage, split_infos, unfinished, folder.name)
  for target in targets:
    _changes_path(unfinished / target).unlink()
  shards_lib.remove_unfinished(unfinished)
  manifest.write(unfinished)
  unfinished.replace(folder)
  return changes


class RelabelShard(beam.DoFn):
  """(Shard, file name) → that file, and beside it what was changed."""

  def __init__(self, label: str, folder: str, counter_path: str):
    self._label_name = label
    self._folder = folder
    self._counter_path = counter_path

  def setup(self):
    self._label = reward_labels.parse(self._label_name)

  def process(self, element: tuple[prepared.Shard, str]):
    shard, target = element
    path = epath.Path(self._folder) / target
    if path.exists() and _changes_path(path).exists():
      progress.increment(self._counter_path, shard.num_episodes)
      return
    changes: list[Changes] = []
    file_format = tfds.core.FileFormat(shard.file_format)
    aside = shards_lib.unfinished_path(path)
    writer = tfds.core.ExampleWriter(file_format=file_format)
    writer.write(aside, self._relabelled(shard, changes))
    total = sum(changes, Changes())
    if total.episodes != shard.num_episodes:
      raise ValueError(
        f"{shard.path} holds {total.episodes} episodes, its dataset_info.json says"
        f" {shard.num_episodes}"
      )
    _changes_path(path).write_text(json.dumps(dataclasses.asdict(total)))
    aside.replace(path)

  def _relabelled(
    self, shard: prepared.Shard, changes: list[Changes]
  ) -> Iterator[tuple[str, bytes]]:
    for index, record in enumerate(shard.records()):
      progress.check_followed(self._counter_path)
      try:
        new_record, change = relabelled(record, self._label)
      except ValueError as error:
        raise ValueError(f"episode {index} of {shard.path}: {error}") from error
      changes.append(change)
      yield str(index), new_record
      progress.increment(self._counter_path)


def _check_disk(pairs: Sequence[tuple[prepared.Shard, str]], folder: epath.Path) -> None:
  """Labels do not change the size of a file."""
  missing = [shard for shard, target in pairs if not (folder / target).exists()]
  needed = sum(epath.Path(shard.path).stat().length for shard in missing)
  disk.check(folder, needed, "relabelling")


def check_name(name: str, version: str) -> None:
  """Checks what a new dataset is to be called.

  Raises:
    ValueError: if the name or the version is none.
  """
  if not re.fullmatch(r"[a-z][a-z0-9_]*", name):
    raise ValueError(f"a dataset is named with a-z, 0-9 and _, not {name!r}")
  if not tfds.core.Version.is_valid(version):
    raise ValueError(f"a version is MAJOR.MINOR.PATCH, not {version!r}")


def _values(feature: tf.train.Feature) -> np.ndarray:
  """Of a scalar of each step, (T + 1,)."""
  if feature.HasField("float_list"):
    return np.array(feature.float_list.value, np.float32)
  return np.array(feature.int64_list.value)


def _serialised(rewards: np.ndarray) -> bytes:
  """The bytes that the rewards take up in a serialised episode: one entry of a map.

  A tf.train.Features with one entry is that entry and nothing else. As many rewards make as many
  bytes, so that the lengths around them stay right.
  """
  feature = tf.train.Feature(float_list=tf.train.FloatList(value=rewards))
  return tf.train.Features(feature={_REWARD: feature}).SerializeToString()


def _source_digest(folder: epath.Path, members: Sequence[prepared.Shard]) -> str:
  """SHA-256 of the names and the SHA-256 of all files, which were compared with the manifest."""
  digests = manifest.digests(folder, [epath.Path(shard.path) for shard in members])
  listing = "".join(
    f"{digest}  {shard.filename}\n" for digest, shard in zip(digests, members, strict=True)
  )
  return hashlib.sha256(listing.encode()).hexdigest()


def _run_digest(source_digest: str, label: str) -> str:
  return hashlib.sha256(f"{source_digest} {label}".encode()).hexdigest()[:16]


def _changes_there(folder: epath.Path, source_digest: str, label: str) -> Changes:
  """Returns what a dataset that is there says of itself, if it is the one that is asked for."""
  metadata = prepared.find(str(folder)).info.metadata or {}
  lineage = metadata.get(LINEAGE, {})
  if (lineage.get("source_digest"), lineage.get("label")) != (source_digest, label):
    raise ValueError(
      f"{folder} is there already, and not this source with the label {label!r}: choose another"
      " name or version"
    )
  return Changes(**{field.name: lineage[field.name] for field in dataclasses.fields(Changes)})


def _split_infos(
  source: tfds.core.DatasetBuilder, name: str, folder: epath.Path
) -> list[tfds.core.SplitInfo]:
  """The splits of the source, in files of the new name; labels do not change their sizes."""
  return [
    tfds.core.SplitInfo(
      name=split,
      shard_lengths=info.shard_lengths,
      num_bytes=info.num_bytes,
      filename_template=tfds.core.ShardedFileTemplate(
        data_dir=folder,
        dataset_name=name,
        split=split,
        filetype_suffix=source.info.file_format.file_suffix,
      ),
    )
    for split, info in source.info.splits.items()
  ]


def _changes_path(path: epath.Path) -> epath.Path:
  return path.with_name(f".{path.name}.changes.json")


def _read_changes(path: epath.Path) -> Changes:
  return Changes(**json.loads(_changes_path(path).read_text()))


def _write_metadata(
  source: tfds.core.DatasetBuilder,
  label: str,
  lineage: Mapping[str, Any],
  split_infos: list[tfds.core.SplitInfo],
  folder: epath.Path,
  version: str,
) -> None:
  info = source.info
  metadata = {**(info.metadata or {}), "label": label, LINEAGE: dict(lineage)}
  tfds.folder_dataset.write_metadata(
    data_dir=folder,
    features=info.features,
    split_infos=split_infos,
    version=version,
    description=f"{info.full_name} with the rewards of the label {label!r}.\n\n{info.description}",
    homepage=info.homepage,
    citation=info.citation,
    license=info.redistribution_info.license or None,
    metadata=tfds.core.MetadataDict(metadata),
  )
