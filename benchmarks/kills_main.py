"""Kills builds and jobs at random moments, runs them again, and compares every byte of the result.

  python -m benchmarks.kills_main --kills=50

Each command runs once undisturbed, for the bytes to compare with and for its duration. Then, kill
by kill, one of them starts in a process group of its own and in a fresh folder, gets SIGKILL after
a time drawn uniformly from its duration, and runs again to its end.
"""

import argparse
import collections
import contextlib
import dataclasses
import itertools
import json
import os
import pathlib
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from typing import Any

import tqdm

from cog_agents import provenance

_NAME = "cog_pickplace_task"
_DATASET = pathlib.Path(_NAME, "kills", "1.0.0")
_PYTHON = (sys.executable, "-m")


@dataclasses.dataclass(frozen=True)
class Job:
  """A command to kill.

  Attributes:
    command: (folder to work in, dataset of the reference) → arguments.
    result: the folder that it writes or completes, in the folder to work in.
    in_place: whether it completes a dataset that is there.
  """

  command: Callable[[pathlib.Path, pathlib.Path], list[Any]]
  result: pathlib.Path
  in_place: bool = False


def jobs(episodes: int) -> dict[str, Job]:
  """Name → job, each to run after those before it."""
  config = json.dumps({"name": _DATASET.parts[1], "num_episodes": episodes})
  build = (*_PYTHON, "tensorflow_datasets.scripts.cli.main", "build", _NAME)
  build = (*build, "--imports=cog_datasets.register", f"--config={config}")
  return {
    "build": Job(lambda folder, _: [*build, f"--data_dir={folder}"], _DATASET),
    "relabel": Job(
      lambda folder, dataset: [
        *(*_PYTHON, "pipelines.relabel_main", f"--source={dataset}", "--label=zero"),
        *("--name=relabelled", f"--data_dir={folder}"),
      ],
      pathlib.Path("relabelled", "1.0.0"),
    ),
    "validate": Job(
      lambda folder, _: [
        *(*_PYTHON, "pipelines.validate_main", folder / _DATASET, "--simulate_every=20"),
      ],
      _DATASET,
      in_place=True,
    ),
    "statistics": Job(
      lambda folder, _: [*_PYTHON, "pipelines.statistics_main", folder / _DATASET],
      _DATASET,
      in_place=True,
    ),
    "publish": Job(
      lambda folder, dataset: [
        *(*_PYTHON, "cog_datasets.publish_main", dataset, f"--destination={folder / 'public'}"),
      ],
      "public" / _DATASET,
    ),
  }


@dataclasses.dataclass(frozen=True)
class Reference:
  """An undisturbed run of a job.

  Attributes:
    before, after: name → contents, of the files of its result.
    seconds: its duration.
  """

  before: dict[str, bytes]
  after: dict[str, bytes]
  seconds: float


def run_undisturbed(job: Job, folder: pathlib.Path) -> Reference:
  before = contents(folder / job.result)
  begin = time.monotonic()
  _run(job.command(folder, folder / _DATASET), folder / "log")
  return Reference(before, contents(folder / job.result), time.monotonic() - begin)


def kill_and_run_again(
  job: Job, reference: Reference, folder: pathlib.Path, dataset: pathlib.Path, seconds: float
) -> dict[str, int] | None:
  """Kills a job after so many seconds and runs it again.

  Returns:
    How many files it had finished when it was killed, and how many bytes differ at the end; None if
    it ended before it was killed.
  """
  if job.in_place:
    for name, data in reference.before.items():
      path = folder / job.result / name
      path.parent.mkdir(parents=True, exist_ok=True)
      path.write_bytes(data)
  command, log = job.command(folder, dataset), folder / "log"
  with _started(command, log) as process, contextlib.suppress(subprocess.TimeoutExpired):
    process.wait(seconds)
    return None
  expected = set(reference.after.values()) - set(reference.before.values())
  finished = sum(data in expected for data in contents(folder).values())
  _run(command, log)
  found = contents(folder / job.result)
  return {"files_at_kill": finished, "different": different_bytes(found, reference.after)}


def contents(folder: pathlib.Path) -> dict[str, bytes]:
  """All files below a folder, hidden ones too."""
  paths = [path for path in folder.rglob("*") if path.is_file()]
  return {str(path.relative_to(folder)): path.read_bytes() for path in paths}


def different_bytes(found: dict[str, bytes], expected: dict[str, bytes]) -> int:
  """Positions at which the files of two folders differ, or at which one of them has no byte."""
  names = found.keys() | expected.keys()
  pairs = [(found.get(name, b""), expected.get(name, b"")) for name in names]
  return sum(
    sum(a != b for a, b in itertools.zip_longest(*pair)) for pair in pairs if pair[0] != pair[1]
  )


def measure(folder: pathlib.Path, kills: int, episodes: int, seed: int) -> dict[str, Any]:
  """Returns what `main` prints."""
  rng = random.Random(seed)
  table = jobs(episodes)
  reference_folder = folder / "reference"
  reference_folder.mkdir()
  references = {name: run_undisturbed(job, reference_folder) for name, job in table.items()}
  outcomes = collections.defaultdict(list)
  names = itertools.cycle(table)
  with tqdm.tqdm(total=kills, desc="Kills", unit="kill") as bar:
    while bar.n < kills:
      name = next(names)
      outcome = None
      while outcome is None:
        with tempfile.TemporaryDirectory(dir=folder) as work:
          seconds = rng.uniform(0, references[name].seconds)
          outcome = kill_and_run_again(
            table[name],
            references[name],
            pathlib.Path(work),
            reference_folder / _DATASET,
            seconds,
          )
      outcomes[name].append({"seconds": round(seconds, 2), **outcome})
      bar.update()
  everything = list(itertools.chain(*outcomes.values()))
  return {
    "kills": len(everything),
    "resumed": len(everything),  # or `_run` would have raised
    "different_bytes": sum(outcome["different"] for outcome in everything),
    "bytes": {name: sum(map(len, x.after.values())) for name, x in references.items()},
    "seconds": {name: round(reference.seconds, 2) for name, reference in references.items()},
    "jobs": outcomes,
  }


def main(argv: list[str] | None = None) -> int:
  parser = argparse.ArgumentParser(
    prog="python -m benchmarks.kills_main",
    description="Kills builds and jobs at random moments, runs each again, and compares every byte "
    "of the result with that of an undisturbed run. Prints one JSON object; exit 1 if a byte "
    "differs.",
  )
  parser.add_argument("--kills", type=int, default=50, help="(default: %(default)s)")
  parser.add_argument(
    "--episodes", type=int, default=200, help="of the dataset (default: %(default)s)"
  )
  parser.add_argument("--seed", type=int, default=0, help="of the moments (default: %(default)s)")
  args = parser.parse_args(argv)
  for name in ("kills", "episodes"):
    if getattr(args, name) < 1:
      parser.error(f"--{name}={getattr(args, name)}: expected at least 1")
  command = provenance.Command("benchmarks.kills_main", argv)
  with tempfile.TemporaryDirectory() as folder:
    result = measure(pathlib.Path(folder), args.kills, args.episodes, args.seed)
  print(json.dumps({**command.entry(), "seed": args.seed, **result}, indent=1))
  return 1 if result["different_bytes"] else 0


@contextlib.contextmanager
def _started(arguments: list[Any], log: pathlib.Path) -> Iterator[subprocess.Popen]:
  """A command in a process group of its own; the end of the context kills what is left of it."""
  with log.open("ab") as file:
    process = subprocess.Popen(
      list(map(str, arguments)), stdout=file, stderr=subprocess.STDOUT, start_new_session=True
    )
  try:
    yield process
  finally:
    if process.poll() is None:
      os.killpg(process.pid, signal.SIGKILL)
      process.wait()


def _run(arguments: list[Any], log: pathlib.Path) -> None:
  """Runs a command to its end.

  Raises:
    RuntimeError: if it fails; the message has the end of its output.
  """
  with _started(arguments, log) as process:
    status = process.wait()
  if status:
    raise RuntimeError(f"{' '.join(map(str, arguments))} failed:\n{log.read_text()[-3000:]}")


if __name__ == "__main__":
  sys.exit(main())
