"""Processes that belong together: started one by one, each with its log, and all stopped."""

import os
import pathlib
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence

_START_SECONDS = 90.0  # a Java program on a busy core
_STOP_SECONDS = 10.0
_POLL_SECONDS = 0.1
_TAIL_LINES = 20

# Of util-linux: the kernel ends the process when the one that started it is gone, however it went.
_UNTIL_PARENT_ENDS = ("setpriv", "--pdeathsig", "KILL")


class Processes:
  """A context manager; leaving it stops everything that was started, the newest first.

  Each process leads a group of its own, with whatever it starts, as a machine of a cluster would.

  Args:
    log_dir: gets NAME.log of each process, in the place of an older one; is made.
  """

  def __init__(self, log_dir: pathlib.Path):
    self._log_dir = log_dir
    self._running: dict[str, subprocess.Popen] = {}

  def __enter__(self) -> "Processes":
    self._log_dir.mkdir(parents=True, exist_ok=True)
    return self

  def __exit__(self, *unused):
    for name in reversed(list(self._running)):
      self._end(name, signal.SIGTERM)

  def start(
    self,
    name: str,
    command: Sequence[str | os.PathLike],
    is_ready: Callable[[], bool],
    env: Mapping[str, str] | None = None,
  ) -> None:
    """Starts a process and waits until it is ready.

    Args:
      name: of its log, and for `kill`.
      command: program and arguments.
      is_ready: asked again and again.
      env: what its environment has besides that of this process.

    Raises:
      RuntimeError: if it ends instead, or is not ready in time; the message shows the end of its
        log.
    """
    with open(self.log_path(name), "wb") as log:
      process = subprocess.Popen(
        [*_UNTIL_PARENT_ENDS, *command],
        stdin=subprocess.DEVNULL, stdout=log, stderr=log,
        env={**os.environ, **(env or {})}, start_new_session=True,
      )  # fmt: skip
    self._running[name] = process
    deadline = time.monotonic() + _START_SECONDS
    while True:
      ready = is_ready()
      if process.poll() is not None:
        raise RuntimeError(f"{name} ended with {process.returncode}:\n{self._tail(name)}")
      if ready:
        return
      if time.monotonic() > deadline:
        raise RuntimeError(f"{name} is not ready after {_START_SECONDS} s:\n{self._tail(name)}")
      time.sleep(_POLL_SECONDS)

  def kill(self, name: str) -> None:
    """Ends a process and what it started at once, as when its machine is switched off."""
    self._end(name, signal.SIGKILL)

  def names(self) -> list[str]:
    """Of what was started and not killed."""
    return list(self._running)

  def group(self, name: str) -> int:
    """The process group of a running process."""
    return self._running[name].pid

  def log_path(self, name: str) -> pathlib.Path:
    return self._log_dir / f"{name}.log"

  def _end(self, name: str, first_signal: signal.Signals) -> None:
    process = self._running.pop(name)
    _signal_group(process.pid, first_signal)
    try:
      process.wait(_STOP_SECONDS)
    except subprocess.TimeoutExpired:
      pass
    _signal_group(process.pid, signal.SIGKILL)  # what it started may outlive it
    process.wait()

  def _tail(self, name: str) -> str:
    lines = self.log_path(name).read_text(errors="replace").splitlines()
    return "\n".join([*lines[-_TAIL_LINES:], f"(the end of {self.log_path(name)})"])


def free_port() -> int:
  """A TCP port that nothing on this machine listens on."""
  with socket.socket(socket.AF_INET6) as probe:
    probe.bind(("::", 0))
    return probe.getsockname()[1]


def listens(port: int) -> bool:
  """Whether a program on this machine accepts connections to a TCP port."""
  try:
    with socket.create_connection(("localhost", port), timeout=1.0):
      return True
  except OSError:
    return False


def _signal_group(group: int, number: signal.Signals) -> None:
  try:
    os.killpg(group, number)
  except ProcessLookupError:
    pass  # all of it is gone
