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


def entry(module: str, flags: Sequence[str] | None, started: float) -> dict[str, Any]:
  """Returns the command, the commit, the time and the machine of a command that ends now.

  Args:
    module: that was run.
    flags: its own; None: those of this process.
    started: time.monotonic() when it began.
  """
  flags = sys.argv[1:] if flags is None else flags
  return {
    "command": shlex.join(["python", "-m", module, *flags]),
    "commit": commit(),
    "wall_clock_seconds": round(time.monotonic() - started, 1),
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
  """Cores, their model, memory and Python, in words."""
  memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30
  models = [
    line.partition(":")[2].strip()
    for line in pathlib.Path("/proc/cpuinfo").read_text().splitlines()
    if line.startswith("model name")
  ]
  model = models[0] if models else platform.machine()
  return f"{os.cpu_count()} cores of {model}, {memory:.0f} GB, Python {platform.python_version()}"
