"""Publishing: copies a validated dataset to where others read it, and never changes it there."""

import contextlib
import uuid

import tensorflow_datasets as tfds
import tqdm
from etils import epath

from cog_datasets import manifest

# TFDS finds a dataset by these, so that they come after all data.
_FOUND_BY = ("features.json", "dataset_info.json")
_BLOCK = 1 << 22  # bytes


class PublishError(ValueError):
  """A dataset cannot be published; the message says why and what to do."""


def publish(source: tfds.core.DatasetBuilder, destination: epath.Path) -> epath.Path:
  """Copies a dataset to destination/NAME[/CONFIG]/VERSION, manifest last.

  A copy that was interrupted goes on with the files that are missing or damaged. Until its manifest
  is there, a copy is not published. What is published already is compared and left alone.

  Args:
    source: see prepared.find.
    destination: a TFDS data directory, on any path that etils reaches.

  Raises:
    PublishError: if the dataset is damaged or not validated, or the version is there with other
      contents.
  """
  folder = epath.Path(source.data_dir)
  _check_ready(folder, source.info.full_name)
  files = manifest.read(folder)
  target = destination / source.info.full_name
  if (target / manifest.FILENAME).exists():
    if manifest.read(target) != files:
      raise PublishError(
        f"{target} is published already, with other contents. A published version is never changed:"
        " give the dataset another version"
      )
    return target
  target.mkdir(parents=True, exist_ok=True)
  for name in tqdm.tqdm(_in_order(files), f"Publishing {source.info.full_name}", unit="file"):
    if not _is_there(target / name, files[name]):
      _copy(folder / name, target / name)
  for name in (manifest.VALIDATION, manifest.FILENAME):
    _copy(folder / name, target / name)
  return target


def _check_ready(folder: epath.Path, name: str) -> None:
  try:
    damaged = manifest.violations(folder)
  except ValueError as error:
    damaged = [str(error)]
  if damaged:
    raise PublishError(f"{name} is damaged: {'; '.join(damaged)}")
  if not manifest.is_validated(folder):
    raise PublishError(
      f"{name} is not validated: first, python -m pipelines.validate_main {folder} has to find"
      " nothing wrong"
    )


def _in_order(names) -> list[str]:
  return sorted(names, key=lambda name: (name in _FOUND_BY, name))


def _is_there(path: epath.Path, described: dict) -> bool:
  if not path.exists() or path.stat().length != described["bytes"]:
    return False
  return manifest.sha256(path) == described["sha256"]


def _copy(path: epath.Path, target: epath.Path) -> None:
  aside = target.with_name(f".{target.name}.{uuid.uuid4().hex}")
  try:
    with path.open("rb") as source, aside.open("wb") as copy:
      while block := source.read(_BLOCK):
        copy.write(block)
    aside.replace(target)
  finally:
    with contextlib.suppress(FileNotFoundError):
      aside.unlink()
