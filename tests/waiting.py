"""A call that waits for another process, in tests of what is written by one at a time."""

import contextlib
import pathlib
import threading
import time
from collections.abc import Callable, Iterator

import pytest
from etils import epath

from cog_datasets import disk


@contextlib.contextmanager
def for_folder(
  folder: pathlib.Path, call: Callable[[], object], capfd: pytest.CaptureFixture
) -> Iterator[None]:
  """Holds the folder, makes the call, lets it wait for as long as the block takes, and end."""
  thread = threading.Thread(target=call)
  with disk.alone(epath.Path(folder), "this test"):
    thread.start()
    said = ""
    while f"waits for another process that writes to {folder}" not in said:
      assert thread.is_alive(), said
      time.sleep(0.1)
      said += capfd.readouterr().err
    yield
  thread.join()
