"""Disks: asked for room before long work starts, named when it runs out, and written by one."""

import contextlib
import errno
import fcntl
import os
import shutil
import sys
from collections.abc import Iterator
from typing import IO

from etils import epath

_NO_SPACE = os.strerror(errno.ENOSPC)


class DiskError(Exception):
  """A folder has no room or cannot be written to; the message says where, and what is kept."""


def check(folder: epath.Path, needed: int, purpose: str) -> None:
  """Checks that a folder, there or not yet, has room for `needed` bytes.

  An object store has no limit and passes.

  Raises:
    DiskError: if it has not; the message starts with the purpose.
  """
  free = _free(folder)
  if free is not None and free < needed:
    raise DiskError(
      f"{purpose} needs about {_readable(needed)} in {folder}, which has {_readable(free)} free"
    )


@contextlib.contextmanager
def resumable(folder: epath.Path, purpose: str) -> Iterator[None]:
  """Turns the error of a full disk, in whatever process it was met, into one that says what to do.

  Raises:
    DiskError: if an error inside comes from a full disk.
  """
  try:
    yield
  except Exception as error:
    if _NO_SPACE not in str(error):  # Beam and TensorFlow wrap it, and keep its text
      raise
    raise DiskError(
      f"the disk of {folder} is full. What {purpose} has finished is kept there: make room and run"
      " the same command again, or remove the folder"
    ) from error


@contextlib.contextmanager
def alone(folder: epath.Path, purpose: str) -> Iterator[None]:
  """Holds a folder, which is made, against other processes that call this; waits for them.

  A folder that was made, and that nothing was written to, is removed again. A process that ends,
  however it does, holds nothing. An object store has no such lock.

  Raises:
    DiskError: if the folder cannot be made or written to.
  """
  if "://" in os.fspath(folder):
    yield
    return
  is_new = not folder.exists()
  path = folder / ".lock"
  with _lock(path, purpose):
    try:
      yield
    finally:
      path.unlink()
      if is_new:
        with contextlib.suppress(OSError):  # it is not empty
          os.rmdir(folder)


def _lock(path: epath.Path, purpose: str) -> IO[str]:
  """Returns a file, open, on which no other process has a lock.

  Raises:
    DiskError: if there can be no such file.
  """
  while True:
    try:
      path.parent.mkdir(parents=True, exist_ok=True)
      try:
        lock = open(path, "w")
      except FileNotFoundError:  # the other process has just removed the folder
        continue
    except OSError as error:
      raise DiskError(f"{purpose} cannot write to {path.parent}: {error.strerror}") from error
    try:
      fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
      print(f"{purpose} waits for another process that writes to {path.parent}", file=sys.stderr)
      fcntl.flock(lock, fcntl.LOCK_EX)
    with contextlib.suppress(FileNotFoundError):
      if os.path.samestat(os.fstat(lock.fileno()), os.stat(path)):
        return lock
    lock.close()  # of a file that the other process has removed


def _free(folder: epath.Path) -> int | None:
  if "://" in os.fspath(folder):
    return None
  while not folder.exists():
    folder = folder.parent
  return shutil.disk_usage(folder).free


def _readable(size: float) -> str:
  return f"{size / 1e9:.1f} GB" if size >= 1e8 else f"{size / 1e6:.1f} MB"
