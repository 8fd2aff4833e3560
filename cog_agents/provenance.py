"""How a figure came about, as the files in results/ have it."""

import os
import pathlib
import platform
import shlex
import subprocess
import sys
import time
from collections.abc import Sequence
from typing import Any


class Command:
  """A command that starts now, of the code that is there now."""

  def __init__(self, module: str, flags: Sequence[str] | None):
    """Starts the clock.

    Args:
      module: that is run.
      flags: its own; None: those of this process.
    """
    self._started = time.monotonic()
    self._line = shlex.join(["python", "-m", module, *(sys.argv[1:] if flags is None else flags)])
    self._commit = commit()

  def entry(self) -> dict[str, Any]:
    """Returns the command, the commit, the time that it took until now, and the machine."""
    seconds = time.monotonic() - self._started
    return {
      "command": self._line,
      "commit": self._commit,
      "wall_clock_seconds": round(seconds, 1),
      "machine": machine(),
    }


def commit() -> str | None:
  """Of the code in this checkout; with a mark if it was changed. None outside a checkout."""
  command = [
    *("git", "-C", str(pathlib.Path(__file__).parents[1])),
    *("describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"),
  ]
  try:
    done = subprocess.run(command, capture_output=True, text=True, check=True)
  except (OSError, subprocess.CalledProcessError):
    return None
  return done.stdout.strip()


def machine() -> str:
  """Cores, their model, GPUs, memory and Python, in words."""
  memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30
  models = [
    line.partition(":")[2].strip()
    for line in pathlib.Path("/proc/cpuinfo").read_text().splitlines()
    if line.startswith("model name")
  ]
  model = models[0] if models else platform.machine()
  parts = [
    f"{os.cpu_count()} cores of {model}",
    *_gpus(),
    f"{memory:.0f} GB",
    f"Python {platform.python_version()}",
  ]
  return ", ".join(parts)


def _gpus() -> list[str]:
  """Names of all GPUs of this machine, whichever the command uses."""
  try:
    done = subprocess.run(
      ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"],
      capture_output=True,
      text=True,
      check=True,
    )
  except (OSError, subprocess.CalledProcessError):
    return []
  return done.stdout.splitlines()
