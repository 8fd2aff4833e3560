"""Decoded datasets on disk: columns of equal rows, written once, read by position.

A column is a .npy file. Small ones are read into memory; the rows of large ones are read from the
file when they are asked for, so that memory stays flat whatever the size of a dataset.
"""

import errno
import fcntl
import os
import pathlib
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

import numpy as np

_CACHE_VARIABLE = "COG_CACHE_DIR"


class TableError(ValueError):
  """A table is damaged or has no room; the message says where and what to do."""


class Rows:
  """The rows of several columns, one column after the other.

  They are read with pread: pages of a mapped file would count as memory of this process.

  Attributes:
    paths: of the columns.
    shape, dtype: as of one array.
  """

  def __init__(self, paths: Sequence[pathlib.Path]):
    columns = [np.load(path, mmap_mode="r") for path in paths]
    self.paths = tuple(paths)
    self.dtype = columns[0].dtype
    self.shape = (sum(map(len, columns)), *columns[0].shape[1:])
    for path, column in zip(paths, columns, strict=True):
      if (column.shape[1:], column.dtype) != (self.shape[1:], self.dtype):
        raise TableError(
          f"the datasets disagree: {path} has rows {column.dtype} {column.shape[1:]}, and"
          f" {paths[0]} {self.dtype} {self.shape[1:]}"
        )
    self._files = [path.open("rb", buffering=0) for path in paths]
    self._headers = np.array([column.offset for column in columns])
    self._ends = np.cumsum([len(column) for column in columns])
    self._row_bytes = int(np.prod(self.shape[1:])) * self.dtype.itemsize
    for file in self._files:
      # Rows are read at random: what lies beside them is not wanted.
      os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_RANDOM)

  @property
  def ndim(self) -> int:
    return len(self.shape)

  def __len__(self) -> int:
    return self.shape[0]

  def take(self, rows: np.ndarray) -> np.ndarray:
    """Reads rows; int (N,) → (N, …).

    Raises:
      TableError: if a file has become shorter.
    """
    columns = np.searchsorted(self._ends, rows, side="right")
    starts = np.concatenate([[0], self._ends[:-1]])[columns]
    offsets = self._headers[columns] + (rows - starts) * self._row_bytes
    taken = np.empty((len(rows), *self.shape[1:]), self.dtype)
    memory = memoryview(taken).cast("B")
    files = [file.fileno() for file in self._files]
    for i, (column, offset) in enumerate(zip(columns.tolist(), offsets.tolist(), strict=True)):
      part = memory[i * self._row_bytes : (i + 1) * self._row_bytes]
      if os.preadv(files[column], [part], offset) != self._row_bytes:
        raise TableError(f"{self._files[column].name} has become shorter: remove it")
    return taken


class Column:
  """A .npy file of rows that come one array after the other; `close` makes it complete."""

  def __init__(self, path: pathlib.Path):
    self._file = path.open("wb")
    self._length = 0
    self._row: tuple[tuple[int, ...], np.dtype] | None = None

  def extend(self, rows: np.ndarray) -> None:
    if self._row is None:
      self._row = rows.shape[1:], rows.dtype
      self._write_header()
    if (rows.shape[1:], rows.dtype) != self._row:
      raise TableError(
        f"{self._file.name}: rows {rows.dtype} {rows.shape[1:]} after rows"
        f" {self._row[1]} {self._row[0]}"
      )
    self._file.write(np.ascontiguousarray(rows).data)
    self._length += len(rows)

  def close(self) -> None:
    self._file.seek(0)
    self._write_header()  # of the same size: numpy leaves room for a longer length
    self._file.flush()
    os.fsync(self._file.fileno())
    self._file.close()

  def _write_header(self) -> None:
    shape, dtype = self._row
    header = {
      "descr": np.lib.format.dtype_to_descr(dtype),
      "fortran_order": False,
      "shape": (self._length, *shape),
    }
    np.lib.format.write_array_header_1_0(self._file, header)


def default_cache_dir() -> pathlib.Path:
  """$COG_CACHE_DIR, or `cog` where this system keeps caches."""
  caches = os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache"
  return pathlib.Path(os.environ.get(_CACHE_VARIABLE) or pathlib.Path(caches) / "cog")


def ensure(
  folder: pathlib.Path,
  names: Sequence[str],
  read: Callable[[list[str]], Iterator[Mapping[str, np.ndarray]]],
  num_episodes: int,
) -> dict[str, pathlib.Path]:
  """Writes the columns of a table that are not there yet; another process that wants them waits.

  Neither a process that is killed nor a power cut leaves a column that is not complete.

  Args:
    folder: of the table.
    names: of the columns.
    read: names of columns → for each episode, name → its rows.
    num_episodes: how many `read` yields.

  Returns:
    Name → file.

  Raises:
    TableError: if they cannot be written there, as for want of disk.
  """
  paths = {name: folder / f"{name}.npy" for name in names}
  try:
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as lock:
      fcntl.flock(lock, fcntl.LOCK_EX)  # gone with this process, however it ends
      missing = [name for name, path in paths.items() if not path.exists()]
      if missing:
        _write(folder / ".unfinished", missing, read(missing), num_episodes)
        for name in missing:
          (folder / ".unfinished" / name).replace(paths[name])
  except OSError as error:
    raise TableError(
      f"cannot write the decoded data: {error}. ${_CACHE_VARIABLE} says where they go"
    ) from error
  return paths


def _write(
  folder: pathlib.Path,
  names: Sequence[str],
  episodes: Iterable[Mapping[str, np.ndarray]],
  num_episodes: int,
) -> None:
  shutil.rmtree(folder, ignore_errors=True)  # of a process that was killed
  folder.mkdir()
  columns = {name: Column(folder / name) for name in names}
  try:
    for i, rows in enumerate(episodes):
      if i == 0:
        _check_disk(folder, num_episodes * sum(rows[name].nbytes for name in names))
      for name, column in columns.items():
        column.extend(rows[name])
    for column in columns.values():
      column.close()
  except BaseException:
    shutil.rmtree(folder, ignore_errors=True)
    raise


def _check_disk(folder: pathlib.Path, needed: int) -> None:
  free = shutil.disk_usage(folder).free
  if free < needed:
    raise OSError(
      errno.ENOSPC,
      f"about {needed / 1e9:.1f} GB are needed, and {free / 1e9:.1f} GB are free",
      folder,
    )
