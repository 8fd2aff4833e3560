"""A progress bar over work that other processes of this machine do."""

import contextlib
import fcntl
import os
import tempfile
import threading
from collections.abc import Iterator

import tqdm

_POLL_SECONDS = 0.5


@contextlib.contextmanager
def shared_counter(total: int, desc: str) -> Iterator[str]:
  """Shows what any process has added with `increment` to the path that this yields."""
  with tempfile.TemporaryDirectory() as folder, tqdm.tqdm(total=total, desc=desc) as bar:
    path = os.path.join(folder, "counter")
    done = threading.Event()
    thread = threading.Thread(target=_follow, args=(path, bar, done), daemon=True)
    with open(path, "wb") as counter:
      fcntl.flock(counter, fcntl.LOCK_EX)  # gone with this process, however it ends
      thread.start()
      try:
        yield path
      finally:
        done.set()
        thread.join()


def increment(path: str, count: int = 1):
  """Adds to the counter; does nothing on a machine that does not have it."""
  with contextlib.suppress(FileNotFoundError):
    # Appending is atomic, so processes need no lock: the size of the file is the count.
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND)
    os.write(descriptor, bytes(count))
    os.close(descriptor)


def check_followed(path: str):
  """Lets a worker stop when the process that shows the bar was killed.

  Raises:
    InterruptedError: if it was.
  """
  with contextlib.suppress(FileNotFoundError, BlockingIOError), open(path, "rb") as counter:
    fcntl.flock(counter, fcntl.LOCK_SH | fcntl.LOCK_NB)
    raise InterruptedError(f"the process that follows {path} is gone")


def _follow(path: str, bar: tqdm.tqdm, done: threading.Event):
  finished = False
  while not finished:
    finished = done.wait(_POLL_SECONDS)
    # A shard that Beam tries again is counted again.
    bar.n = min(os.path.getsize(path), bar.total)
    bar.refresh()
