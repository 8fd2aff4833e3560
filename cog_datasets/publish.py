"""Publishing: copies a validated dataset to where others read it, and never changes it there."""

import contextlib
import dataclasses
from collections.abc import Mapping, Sequence
from typing import Protocol

import tensorflow_datasets as tfds
import tqdm
from etils import epath

from cog_datasets import disk, hub
from collection import manifest

# TFDS finds a dataset by these, so that they come after all data.
_FOUND_BY = ("features.json", "dataset_info.json")
_BLOCK = 1 << 22  # bytes


class PublishError(ValueError):
  """A dataset cannot be published; the message says why and what to do."""


class Destination(Protocol):
  """The place of one version of a dataset; hub.HubFolder is one too."""

  files_at_once: int

  def alone(self) -> contextlib.AbstractContextManager[None]:
    """Holds it against other processes that would write the same files."""

  def create(self) -> None:
    """Prepares it for files."""

  def read_manifest(self) -> dict[str, dict] | None:
    """Returns the manifest of what is published there; None if nothing is."""

  def missing(self, folder: epath.Path, files: Mapping[str, dict]) -> list[str]:
    """Names of those of the files of a folder that are not there as their manifest describes them,
    in order."""

  def check_disk(self, needed: int) -> None:
    """Raises disk.DiskError if so many bytes have no room there."""

  def put(self, paths: Sequence[epath.Path]) -> None:
    """Copies files, at most `files_at_once`."""

  def finish(self, folder: epath.Path) -> None:
    """Copies validation and manifest, by which it is published."""


@dataclasses.dataclass(frozen=True)
class Folder:
  """DATA_DIR/NAME[/CONFIG]/VERSION, on any path that etils reaches."""

  path: epath.Path

  files_at_once = 1

  def __str__(self) -> str:
    return str(self.path)

  def alone(self) -> contextlib.AbstractContextManager[None]:
    return disk.alone(self.path.parent, f"publishing to {self.path}")

  def create(self) -> None:
    self.path.mkdir(parents=True, exist_ok=True)

  def read_manifest(self) -> dict[str, dict] | None:
    return manifest.read(self.path) if (self.path / manifest.FILENAME).exists() else None

  def missing(self, folder: epath.Path, files: Mapping[str, dict]) -> list[str]:
    del folder
    return [name for name, described in files.items() if not self._is_there(name, described)]

  def check_disk(self, needed: int) -> None:
    disk.check(self.path, needed, f"publishing to {self.path}")

  def put(self, paths: Sequence[epath.Path]) -> None:
    with disk.resumable(self.path, "publishing"):
      for path in paths:
        _copy(path, self.path / path.name)

  def finish(self, folder: epath.Path) -> None:
    self.put([folder / manifest.VALIDATION, folder / manifest.FILENAME])

  def _is_there(self, name: str, described: Mapping) -> bool:
    path = self.path / name
    if not path.exists() or path.stat().length != described["bytes"]:
      return False
    return manifest.sha256(path) == described["sha256"]


def place(destination: str, source: tfds.core.DatasetBuilder) -> Destination:
  """Returns where in a destination a dataset goes.

  Args:
    destination: a TFDS data directory on any path that etils reaches, or hf://datasets/OWNER/NAME.
    source: see prepared.find.

  Raises:
    ValueError: if it is no destination.
  """
  if destination.startswith("hf:"):
    return hub.parse(destination, source.info.full_name)
  return Folder(epath.Path(destination) / source.info.full_name)


def check(source: tfds.core.DatasetBuilder) -> dict[str, dict]:
  """Returns the manifest of a dataset that may be published, in the order to copy it in.

  Raises:
    PublishError: if the dataset is damaged, not validated, or has no card.
  """
  folder, name = epath.Path(source.data_dir), source.info.full_name
  try:
    damaged, is_validated = manifest.violations(folder), manifest.is_validated(folder)
  except ValueError as error:  # the manifest is missing, or one of the two files is damaged
    raise PublishError(str(error)) from error
  if damaged:
    raise PublishError(f"{name} is damaged: {'; '.join(damaged)}")
  files = manifest.read(folder)
  if not is_validated:
    raise PublishError(
      f"{name} is not validated: first, python -m pipelines.validate_main {folder} has to find"
      " nothing wrong"
    )
  if not files.keys() >= set(manifest.DOCUMENTS):
    raise PublishError(
      f"{name} has no card: first, python -m pipelines.statistics_main {folder} has to write"
      f" {', '.join(manifest.DOCUMENTS)}"
    )
  return dict(sorted(files.items(), key=lambda item: (item[0] in _FOUND_BY, item[0])))


def publish(source: tfds.core.DatasetBuilder, target: Destination) -> None:
  """Copies a dataset to its place, manifest last.

  A copy that was interrupted, or has lost files since, gets those that are missing or damaged.
  Until its manifest is there, a copy is not published. What is published already is compared and,
  where it is whole, left alone.

  Args:
    source: see prepared.find.
    target: see `place`.

  Raises:
    PublishError: see `check`; or if the version is there with other contents.
    disk.DiskError: if there is not enough room, or the place cannot be written to.
  """
  folder, files = epath.Path(source.data_dir), check(source)
  with target.alone():
    target.create()
    published = target.read_manifest()
    if published not in (None, files):
      raise PublishError(
        f"{target} is published already, with other contents. A published version is never changed:"
        " give the dataset another version"
      )
    missing = target.missing(folder, files)
    target.check_disk(sum(files[name]["bytes"] for name in missing))
    with tqdm.tqdm(
      total=len(missing), desc=f"Publishing {source.info.full_name}", unit="file"
    ) as bar:
      for start in range(0, len(missing), target.files_at_once):
        names = missing[start : start + target.files_at_once]
        target.put([folder / name for name in names])
        bar.update(len(names))
    if published is None:
      target.finish(folder)


def _copy(path: epath.Path, target: epath.Path) -> None:
  aside = target.with_name(f".{target.name}.incomplete")  # which the next try overwrites
  with path.open("rb") as source, aside.open("wb") as copy:
    while block := source.read(_BLOCK):
      copy.write(block)
  aside.replace(target)
