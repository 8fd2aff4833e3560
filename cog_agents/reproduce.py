"""Runs a grid: builds what is missing, trains until converged, evaluates; goes on where it was."""

import concurrent.futures
import contextlib
import dataclasses
import fcntl
import json
import os
import pathlib
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf
import tqdm

from cog_agents import (
  experience,
  grid,
  mains,
  provenance,
  report_data,
  run_dirs,
  train,
  train_main,
)

# A run has converged when the mean success on monitoring episodes in its last quarter is at most
# this much above that of the quarter before; else it trains half as long again, and so on.
CONVERGED_WITHIN = 0.1
_QUARTERS = 4
MAX_EXTENSIONS = 2
# What a trial takes in the simulator, until the first evaluation of a grid has told, in seconds.
_SECONDS_PER_TRIAL = 0.3
# Of finetune_main, by default: new episodes between two evaluations, and episodes of these.
_EPISODES_PER_ROUND, _MONITORING_EPISODES = 10, 20

_WAIT = 0.5  # seconds between two looks at a process or a lock
_LOG = "log.txt"
RECORD = "reproduce.json"  # of a run: the commands that made it
_LOG_LINES = 15


class ReproduceError(RuntimeError):
  """A command of a run failed; the message has the command and the end of its output."""


@dataclasses.dataclass(frozen=True)
class Place:
  """Where a grid is, and how many runs share this machine.

  Attributes:
    root: folder of the runs.
    data_dir, cache_dir: see train_main; None: their defaults.
    jobs: runs side by side, each with its share of the cores, and with a GPU of its own where there
      are as many.
    episodes: trials of an evaluation.
  """

  root: pathlib.Path
  data_dir: str | None = None
  cache_dir: str | None = None
  jobs: int = 1
  episodes: int = 250

  @property
  def data_flags(self) -> list[str]:
    return mains.data_flags(self.data_dir, self.cache_dir)


@dataclasses.dataclass(frozen=True)
class Status:
  """How far a run is.

  Attributes:
    step: gradient steps taken, as far as they were logged.
    steps: gradient steps that it needs, as far as can be told now.
    is_trained: it has converged, or diverged, or has been extended as often as is allowed.
    diverged: the message of a training whose loss became infinite or NaN.
    missing: conditions that still have to be evaluated.
    new_episodes: that still have to be collected online.
  """

  step: int
  steps: int
  is_trained: bool
  diverged: str | None
  missing: tuple[str, ...]
  new_episodes: int = 0

  @property
  def is_done(self) -> bool:
    return self.is_trained and not self.missing and not self.new_episodes


def converged(metrics: Sequence[dict[str, float]]) -> bool:
  """Whether success on the monitoring episodes has stopped growing; see CONVERGED_WITHIN."""
  success = [row["success_rate"] for row in metrics if "success_rate" in row]
  count = len(success) // _QUARTERS
  if not count:
    return False
  growth = np.mean(success[-count:]) - np.mean(success[-2 * count : -count])
  return bool(growth <= CONVERGED_WITHIN)


def status(run: grid.Run, place: Place) -> Status:
  """Reads how far a run is from its folder."""
  folder = place.root / run.name
  metrics = run_dirs.read_metrics(folder)
  step = int(metrics[-1]["step"]) if metrics else 0
  diverged = run_dirs.read_divergence(folder)
  if diverged:
    return Status(step, step, True, diverged["message"], ())
  lengths = [run.recipe.steps * (2 + extension) // 2 for extension in range(MAX_EXTENSIONS + 1)]
  exported = run_dirs.exported_steps(folder)
  until_export = [row for row in metrics if row["step"] <= exported]
  is_last = exported >= lengths[-1]  # beyond it: trained further by hand, or by an older recipe
  is_trained = is_last or exported in lengths and converged(until_export)
  steps = exported if is_trained else next(x for x in lengths if x > exported)
  missing = [
    name
    for name in run.environments
    if not is_trained or not run_dirs.read_evaluation(folder, name, exported, place.episodes)
  ]
  return Status(step, steps, is_trained, None, tuple(missing), _new_episodes(run, place))


def settings_changed_since(run: grid.Run, folder: pathlib.Path) -> list[str]:
  """How the hyperparameters of a run that is there differ from those it would have today."""
  if not (folder / run_dirs.CONFIG).exists():
    return []
  flags = [*run.train_flags(run.recipe.steps), f"--run_dir={folder}"]
  today = dataclasses.asdict(train_main.agent_config_of(flags))
  return train.differences(run_dirs.read_config(folder)["agent"], json.loads(json.dumps(today)))


def _new_episodes(run: grid.Run, place: Place) -> int:
  """New episodes that are still to be collected; one if only the evaluation is missing."""
  folder = place.root / run.name / run_dirs.FINE_TUNINGS / run.monitored
  if run_dirs.read_divergence(folder):
    return 0
  metrics = run_dirs.read_metrics(folder)
  there = metrics[-1]["episodes"] if metrics else 0
  if there < run.new_episodes:
    return run.new_episodes - there
  steps = run_dirs.exported_steps(folder)
  if not run.new_episodes or run_dirs.read_evaluation(folder, run.monitored, steps, place.episodes):
    return 0
  return 1


def plan(runs: Sequence[grid.Run], place: Place) -> str:
  """Returns what is done, what is left, and how long that takes, as text."""
  lines, seconds = [], 0.0  # of the runs, one after another
  for run in runs:
    now = status(run, place)
    if now.is_done:
      text = f"diverged: {now.diverged}" if now.diverged else f"done, {now.step} steps"
      if changes := settings_changed_since(run, place.root / run.name):
        text += f"; settings have changed since: {', '.join(changes)}"
    else:
      left = seconds_left(run, now, place)
      seconds += left
      online = f", {now.new_episodes} new episodes" if now.new_episodes else ""
      text = f"{now.step} of {now.steps} steps, {len(now.missing)} to evaluate{online}"
      text = f"{text}, {_minutes(left)}"
    lines.append(f"{run.name:<48} {text}")
  total = seconds / place.jobs
  for name in missing_datasets(runs, place):
    left = 60 * grid.BUILD_CORE_MINUTES[name] / os.cpu_count()
    total += left
    lines.append(f"{name:<48} to be built, {_minutes(left)}")
  return "\n".join([*lines, f"{_minutes(total)} left with {place.jobs} runs side by side"])


def seconds_left(run: grid.Run, now: Status, place: Place) -> float:
  """Estimates the time to finish a run from the speeds of those that have begun."""
  speeds, trials = [run.recipe.steps_per_second], [_SECONDS_PER_TRIAL]
  alike = pathlib.Path(run.name).parts[2]  # method or ablation
  for path in place.root.glob(f"{run.observation}/*/{alike}/*/metrics.jsonl"):
    found = [row.get("steps_per_second") for row in run_dirs.read_metrics(path.parent)]
    speeds += [speed for speed in found if speed][-1:]  # a row whose evaluation was lost has none
  for name in now.missing:
    for path in place.root.glob(f"*/*/{alike}/*/evaluations/{name}.json"):
      there = json.loads(path.read_text())
      trials.append(there["wall_clock_seconds"] / there["episodes"])
  rounds = now.new_episodes / _EPISODES_PER_ROUND
  steps = now.steps - now.step + grid.FINE_TUNING_STEPS_PER_ROUND * rounds
  trials_left = place.episodes * len(now.missing) + now.new_episodes + _MONITORING_EPISODES * rounds
  return steps / np.mean(speeds[1:] or speeds) + trials_left * np.mean(trials[1:] or trials)


def _minutes(seconds: float) -> str:
  minutes = round(seconds / 60)
  return f"{minutes // 60} h {minutes % 60} min" if minutes >= 60 else f"{minutes} min"


def missing_datasets(runs: Sequence[grid.Run], place: Place) -> list[str]:
  """Returns the datasets that runs which are not trained need and that are not built."""
  names = {name: None for run in runs if not status(run, place).is_trained for name in run.datasets}
  return [name for name in names if not _is_built(name, place.data_dir)]


def _is_built(name: str, data_dir: str | None) -> bool:
  try:
    experience.find(name, data_dir)
  except experience.DatasetError:
    return False
  return True


def build(name: str, place: Place) -> None:
  """Builds a dataset by its command; another process that wants the same one waits.

  Raises:
    ReproduceError: if the build fails.
  """
  folder = place.root / "builds" / name.replace("/", "-")
  never = threading.Event()
  with _locked(folder, never) as lock:
    if _is_built(name, place.data_dir):
      return
    dataset, _, config = name.partition("/")
    custom = grid.CUSTOM_CONFIGS.get(name)
    command = [
      *("tfds", "build", dataset if custom else name, "--imports=cog_datasets.register"),
      *([f"--config={json.dumps(custom)}"] if custom else []),
      *([f"--data_dir={place.data_dir}"] if place.data_dir else []),
    ]
    command[0] = str(pathlib.Path(sys.executable).with_name("tfds"))
    _call(command, folder, lock, never)


def analyse(prior: str, task: str, place: Place, run: grid.Run | None = None) -> None:
  """Says whether two datasets connect, for the report, too; stitching_main finds out, once.

  Args:
    prior, task: their names.
    place: of the grid.
    run: one of `cog` on these datasets that is trained, whose values are then added, once.

  Raises:
    ReproduceError: if that fails.
  """
  # With versions: data that were built anew are analysed anew.
  found = [experience.find(name, place.data_dir).info.full_name for name in (prior, task)]
  group = grid.ABLATIONS if prior in grid.CUSTOM_CONFIGS else ""  # not of Table 1's report
  folder = place.root / group / "stitching" / "-".join(found).replace("/", "-")
  never = threading.Event()
  with _locked(folder, never) as lock:
    path = folder / report_data.STITCHING_FILENAME
    known = json.loads(path.read_text()) if path.exists() else {}
    command = [
      *(sys.executable, "-m", "cog_agents.stitching_main", f"--prior={prior}", f"--task={task}"),
      *([f"--run_dir={place.root / run.name}"] if run else []),
      f"--out={path}",
      *place.data_flags,
    ]
    if not known or run and "values" not in known:
      _call(command, folder, lock, never)
  if not run:
    result = json.loads(path.read_text())
    tqdm.tqdm.write(f"{prior} and {task}: {result['verdict']}: {result['sentence']}")


def _analyse_all(runs: Sequence[grid.Run], place: Place, with_values: bool) -> None:
  """Analyses the data of those runs that have prior data; tells of what cannot be analysed.

  With values: those of the first of the runs on the same data.
  """
  first_on_data: dict[tuple[str, str], grid.Run] = {}
  for run in runs:
    if run.prior_data:
      first_on_data.setdefault((run.prior_data, run.task_data), run)
  for (prior, task), run in first_on_data.items():
    try:
      analyse(prior, task, place, run if with_values else None)
    except (ReproduceError, experience.DatasetError) as error:
      tqdm.tqdm.write(f"{prior} and {task} are not analysed: {error}")


def gpus() -> list[str]:
  """Returns the GPUs that this process may use, as CUDA_VISIBLE_DEVICES has them."""
  count = len(tf.config.list_physical_devices("GPU"))
  allowed = os.environ.get("CUDA_VISIBLE_DEVICES")
  return allowed.split(",")[:count] if allowed else [str(i) for i in range(count)]


def execute(runs: Sequence[grid.Run], place: Place) -> None:
  """Finishes all runs, `place.jobs` at a time; first builds and analyses the data that they need.

  In the end the values that `cog` has learned are added to the analysis. Whatever ends this
  process, the same call goes on: a run that is still going is waited for. Ctrl-C lets every run
  save a checkpoint. Data that cannot be analysed are trained on all the same.

  Raises:
    ReproduceError: if a command failed; the other runs are finished first.
    KeyboardInterrupt: on Ctrl-C.
  """
  failures, unbuilt = [], set()
  for name in missing_datasets(runs, place):
    tqdm.tqdm.write(f"building {name}")
    try:
      build(name, place)
    except ReproduceError as error:
      failures.append(f"{name}, and with it the runs that need it: {error}")
      tqdm.tqdm.write(failures[-1])
      unbuilt.add(name)
  runs = [run for run in runs if status(run, place).is_trained or not unbuilt & {*run.datasets}]
  left = [run for run in runs if not status(run, place).is_done]
  _analyse_all(left, place, with_values=False)
  stopped = threading.Event()
  slots = _slots(place.jobs)

  def finish(run: grid.Run) -> None:
    environment = slots.get()
    try:
      _finish(run, place, stopped, environment)
    finally:
      slots.put(environment)

  progress = tqdm.tqdm(total=len(runs), desc="runs", unit="runs", smoothing=0)
  with progress, concurrent.futures.ThreadPoolExecutor(place.jobs) as pool:
    futures = {pool.submit(finish, run): run for run in runs}
    try:
      for future in concurrent.futures.as_completed(futures):
        progress.update()
        if future.exception():
          failures.append(str(future.exception()))
          tqdm.tqdm.write(failures[-1])
        else:
          tqdm.tqdm.write(_line(futures[future], place))
    except KeyboardInterrupt:
      stopped.set()
      pool.shutdown(cancel_futures=True)
      raise
  _analyse_all([run for run in runs if _has_values(run, place)], place, with_values=True)
  if failures:
    raise ReproduceError("failed:\n" + "\n".join(failures))


def _has_values(run: grid.Run, place: Place) -> bool:
  """Whether it is a trained run of `cog` as its data are analysed for: no ablation on Table 1's."""
  is_ablation = pathlib.Path(run.name).parts[1] == grid.ABLATIONS
  if run.method != "cog" or is_ablation and run.prior_data not in grid.CUSTOM_CONFIGS:
    return False
  now = status(run, place)
  return now.is_trained and not now.diverged


def _slots(jobs: int) -> queue.SimpleQueue[dict[str, str]]:
  """What each of so many jobs adds to its environment; jobs that share a GPU share its memory."""
  slots, names = queue.SimpleQueue(), gpus()
  for i in range(jobs):
    gpu = {"CUDA_VISIBLE_DEVICES": names[i % len(names)]} if names else {}
    shared = {"TF_FORCE_GPU_ALLOW_GROWTH": "true"} if jobs > len(names) > 0 else {}
    slots.put({**gpu, **shared})
  return slots


def _line(run: grid.Run, place: Place) -> str:
  now = status(run, place)
  rates = (
    [f"{name} {_evaluation(run, name, place)['success_rate']:.3f}" for name in run.environments]
    if not now.diverged
    else [f"diverged: {now.diverged}"]
  )
  return f"{run.name}: {now.step} steps, {', '.join(rates)}"


def _evaluation(run: grid.Run, name: str, place: Place) -> dict[str, Any]:
  return json.loads((place.root / run.name / run_dirs.EVALUATIONS / f"{name}.json").read_text())


def _finish(
  run: grid.Run, place: Place, stopped: threading.Event, environment: Mapping[str, str]
) -> None:
  """Trains and evaluates a run by the commands that a user would give."""
  folder = place.root / run.name
  with _locked(folder, stopped) as lock:
    while not (now := status(run, place)).is_done and not stopped.is_set():
      if not now.is_trained:
        command = _train_command(run, now.steps, place)
        codes = (0, mains.DIVERGED)
      elif now.missing:
        command = _evaluate_command(run, now.missing[0], place)
        codes = (0,)
      else:
        command = _finetune_command(run, place)
        codes = (0, mains.DIVERGED)
      _, _, module, *flags = command
      with _recorded(folder, provenance.Command(module, flags)):
        _call(command, folder, lock, stopped, codes, environment)


def _train_command(run: grid.Run, steps: int, place: Place) -> list[str]:
  cores = max(1, os.cpu_count() // place.jobs)
  return [
    *(sys.executable, "-m", "cog_agents.train_main", *run.train_flags(steps)),
    *(f"--threads={cores}", f"--workers={cores}", f"--run_dir={place.root / run.name}"),
    *place.data_flags,
  ]


def _finetune_command(run: grid.Run, place: Place) -> list[str]:
  cores = max(1, os.cpu_count() // place.jobs)
  return [
    *(sys.executable, "-m", "cog_agents.finetune_main", f"--run_dir={place.root / run.name}"),
    *(f"--environment={run.monitored}", f"--episodes={run.new_episodes}"),
    f"--steps_per_round={grid.FINE_TUNING_STEPS_PER_ROUND}",
    *(f"--evaluation_episodes={place.episodes}", f"--threads={cores}", f"--workers={2 * cores}"),
  ]


def _evaluate_command(run: grid.Run, environment: str, place: Place) -> list[str]:
  return [
    *(sys.executable, "-m", "cog_agents.evaluate_main", f"--run_dir={place.root / run.name}"),
    *(f"--environment={environment}", f"--episodes={place.episodes}"),
    f"--workers={max(2, 2 * os.cpu_count() // place.jobs)}",
  ]


@contextlib.contextmanager
def _recorded(folder: pathlib.Path, command: provenance.Command) -> Iterator[None]:
  """Adds a command to the record of the run in that folder; its time is null if no one sees it end.

  A training that outlives this process is such a command; one that fails is not.
  """
  path = folder / RECORD
  there = json.loads(path.read_text()) if path.exists() else []
  run_dirs.write_json(path, [*there, {**command.entry(), "wall_clock_seconds": None}])
  try:
    yield
  finally:
    run_dirs.write_json(path, [*there, command.entry()])


@contextlib.contextmanager
def _locked(folder: pathlib.Path, stopped: threading.Event) -> Iterator[int]:
  """Holds the folder's lock; commands inherit it, so that it outlives this process with them.

  Waits for another process that has it, until `stopped` is set.
  """
  folder.mkdir(parents=True, exist_ok=True)
  with (folder / ".lock").open("w") as lock:
    while not stopped.is_set():
      try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        break
      except BlockingIOError:
        stopped.wait(_WAIT)
    yield lock.fileno()


def _call(
  command: list[str],
  folder: pathlib.Path,
  lock: int,
  stopped: threading.Event,
  codes: Sequence[int] = (0,),
  environment: Mapping[str, str] | None = None,
) -> None:
  """Runs a command with its output in the folder's log.

  A training or evaluation, which a thread waits for, gets one Ctrl-C when `stopped` is set, and may
  save a checkpoint. A build or analysis, which the main thread waits for and where Ctrl-C arrives
  itself, is killed with its workers: Beam can miss a Ctrl-C while they start, and a build that was
  killed goes on.

  Raises:
    ReproduceError: if the exit status is none of `codes`.
    KeyboardInterrupt: on Ctrl-C.
  """
  with (folder / _LOG).open("a") as log:
    log.write(" ".join(command) + "\n")
    log.flush()
    process = subprocess.Popen(
      command,
      stdout=log,
      stderr=log,
      pass_fds=[lock],
      start_new_session=True,
      env={**os.environ, **(environment or {})},
    )
    try:
      while process.poll() is None and not stopped.wait(_WAIT):
        pass
      if stopped.is_set() and process.poll() is None:
        process.send_signal(signal.SIGINT)
      code = process.wait()
    except KeyboardInterrupt:
      with contextlib.suppress(ProcessLookupError):  # it has just ended
        os.killpg(process.pid, signal.SIGKILL)
      process.wait()
      raise
  if code not in codes and not stopped.is_set():
    end = "\n".join((folder / _LOG).read_text().splitlines()[-_LOG_LINES:])
    raise ReproduceError(f"{' '.join(command)} exited with {code}; {folder / _LOG} ends:\n{end}")
