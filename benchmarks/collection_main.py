"""How fast one core collects episodes, and what the time is spent on; one JSON object on stdout.

  python -m benchmarks.collection_main --environment=drawer_closed

The process, with all of its threads, is pinned to one core. After an episode that warms it up:

  steps_per_second          of `recorder.record_episode`: image, script and record, resets included
  steps_per_second_encoded  the same, and each episode becomes the bytes that a dataset holds
  steps_per_second_build    the same in a build by Beam, from its first episode to its last
  resets_per_second         of `environment.reset`, with the first observation
  build_fixed_seconds       what that build took before and after: once, whatever the dataset's size
  shares                    of the time of that build, by the innermost of these; they sum to 1
    physics                   stepSimulation in actions
    inverse_kinematics        calculateInverseKinematics
    image                     getCameraImage, and the array made of it
    reset                     of the scene as a whole: loading, settling, a grasp if it starts held
    script                    the scripted policy's decisions
    outcome                   what the simulator says after an action, and the search for contacts
    other                     the rest of an episode: motors, states, checks, stacking
    encoding                  the RLDS layout, PNG, the serialised example
    beam_and_writing          everything else: Beam, the label, the files

Only the build runs with a stopwatch around these functions, which slows it by less than a
hundredth. It records the same episodes under the catalog's label, and keeps those that a dataset
would exclude and record again: their time would count, and their steps would not.
"""

import argparse
import contextlib
import dataclasses
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

import pybullet
import tensorflow_datasets as tfds
import tqdm

from cog_agents import provenance
from cog_datasets import builder as builder_lib
from cog_datasets import (
  catalog,
  register,  # noqa: F401  makes the builders known to TFDS
  reward_labels,
  schema,
  shards,
)
from collection import recorder, registry, scenes, scripted_policies, scripted_policy

WARM_UP_SEED = registry.TRAIN_SEEDS[-1]

PHYSICS, INVERSE_KINEMATICS, IMAGE = "physics", "inverse_kinematics", "image"
RESET, SCRIPT, OUTCOME, OTHER = "reset", "script", "outcome", "other"
ENCODING, BEAM_AND_WRITING = "encoding", "beam_and_writing"
SHARES = (
  PHYSICS, INVERSE_KINEMATICS, IMAGE, RESET, SCRIPT, OUTCOME, OTHER, ENCODING, BEAM_AND_WRITING,
)  # fmt: skip


class Stopwatch:
  """Divides the time from the first timed call to the end of the last one among sections.

  A moment counts for the innermost section that it is in, and for `outermost` between the calls;
  but all of a call that is timed as one of `wholes` counts for it, whatever is called inside.
  It is for functions that one thread at a time calls.

  Attributes:
    seconds: section → seconds.
  """

  def __init__(self, outermost: str, wholes: tuple[str, ...] = ()):
    self.seconds: dict[str, float] = {}
    self._wholes = wholes
    self._sections = [outermost]  # the innermost one last
    self._since: float | None = None  # None before the first timed call

  def timed(self, section: str, function: Callable) -> Callable:
    """Returns the function, each call of which is in `section`."""

    def timed_function(*args, **kwargs):
      self._charge()
      current = self._sections[-1]
      self._sections.append(current if current in self._wholes else section)
      try:
        return function(*args, **kwargs)
      finally:
        self._charge()
        self._sections.pop()

    return timed_function

  def _charge(self) -> None:
    """Adds the time since the last change to the section that it was spent in."""
    now = time.perf_counter()
    if self._since is not None:
      current = self._sections[-1]
      self.seconds[current] = self.seconds.get(current, 0.0) + now - self._since
    self._since = now


def known_policies(environment: str) -> tuple[str, ...]:
  """Scripts that the catalog's datasets record in the scene of an environment."""
  task = registry.spec(environment).task
  entries = [x for x in catalog.CATALOG if registry.spec(x.environment).task is task]
  return tuple(dict.fromkeys(script for entry in entries for script, _ in entry.scripts))


def default_policy(environment: str) -> str:
  """The script with which the catalog starts most episodes in an environment."""
  entry = _first_entry(environment)
  starting_there = [pair for pair in entry.scripts if entry.start(pair[0]) == environment]
  return max(starting_there, key=lambda pair: pair[1])[0]


def measure(environment: str, policy: str, episodes: int) -> dict[str, Any]:
  """Returns what the module's docstring lists.

  Args:
    environment: a key of registry.ENVIRONMENTS.
    policy: one of known_policies(environment).
    episodes: of each measurement; the build records the split `validation` beside them.
  """
  entry = dataclasses.replace(
    _first_entry(environment),
    scripts=((policy, 1.0),),
    starts=(),
    seed_block=0,
    excluded_outcome=None,
  )
  with one_core():
    return {
      "environment": environment,
      "policy": policy,
      "episodes": episodes,
      "first_seed": registry.TRAIN_SEEDS.start,
      **_measure_recording(entry, policy, registry.TRAIN_SEEDS[:episodes]),
      **_measure_build(entry, policy, episodes),
    }


def _first_entry(environment: str) -> catalog.Entry:
  return next(entry for entry in catalog.CATALOG if entry.environment == environment)


def _measure_recording(entry: catalog.Entry, policy: str, seeds: range) -> dict[str, float]:
  """Rates of one process without Beam, and without a stopwatch."""
  environment = registry.load(entry.environment)
  features = schema.features(entry.environment)
  label = reward_labels.parse(entry.label)

  def record(seed: int) -> recorder.Episode:
    return recorder.record_episode(entry.environment, environment, policy, seed)

  def record_and_encode(seed: int) -> bytes:
    episode = label(schema.from_recording(record(seed), entry.episode_id(seed)))
    return features.serialize_example(schema.with_encoded_images(episode))

  record_and_encode(WARM_UP_SEED)
  steps = scripted_policies.script(policy).num_timesteps
  rates = {
    "steps_per_second": steps * _calls_per_second(record, seeds, "Recording"),
    "steps_per_second_encoded": steps
    * _calls_per_second(record_and_encode, seeds, "Recording and encoding"),
    "resets_per_second": _calls_per_second(
      lambda seed: environment.reset(seed=seed), seeds, "Resetting"
    ),
  }
  environment.close()
  return {key: round(rate, 1) for key, rate in rates.items()}


def _calls_per_second(function: Callable[[int], Any], seeds: range, desc: str) -> float:
  start = time.perf_counter()
  for seed in tqdm.tqdm(seeds, desc=desc, unit="episode"):
    function(seed)
  return len(seeds) / (time.perf_counter() - start)


def _measure_build(entry: catalog.Entry, policy: str, episodes: int) -> dict[str, Any]:
  """Builds a dataset of the entry's name into a temporary folder, and times its parts."""
  stopwatch = Stopwatch(outermost=BEAM_AND_WRITING, wholes=(RESET,))
  start = time.perf_counter()
  with _timed_parts(stopwatch, entry), contextlib.redirect_stdout(sys.stderr):
    _build(entry, episodes)
  build_seconds = time.perf_counter() - start
  seconds = sum(stopwatch.seconds.values())
  num_episodes = sum(len(seeds) for seeds in catalog.split_seeds(episodes).values())
  steps = scripted_policies.script(policy).num_timesteps * num_episodes
  return {
    "steps_per_second_build": round(steps / seconds, 1),
    "build_fixed_seconds": round(build_seconds - seconds, 2),
    "shares": {key: round(stopwatch.seconds.get(key, 0.0) / seconds, 4) for key in SHARES},
  }


@contextlib.contextmanager
def _timed_parts(stopwatch: Stopwatch, entry: catalog.Entry) -> Iterator[None]:
  """Within it, every part of an episode is timed; TFDS and Beam run it in this process."""
  task = registry.spec(entry.environment).task
  parts = (
    (pybullet, "stepSimulation", PHYSICS),
    (pybullet, "calculateInverseKinematics", INVERSE_KINEMATICS),
    (pybullet, "getContactPoints", OUTCOME),
    (scenes.Scene, "image", IMAGE),
    (task, "reset", RESET),
    (task, "outcome", OUTCOME),
    (scripted_policies, "load", SCRIPT),
    (scripted_policy.ScriptedPolicy, "action", SCRIPT),
    (shards, "record", OTHER),
    (schema, "from_recording", ENCODING),
    (schema, "with_encoded_images", ENCODING),
    (tfds.features.FeaturesDict, "serialize_example", ENCODING),
  )
  with contextlib.ExitStack() as stack:
    for owner, name, section in parts:
      function = stopwatch.timed(section, getattr(owner, name))
      stack.enter_context(mock.patch.object(owner, name, function))
    yield


def _build(entry: catalog.Entry, episodes: int) -> None:
  # One core means one worker, which Beam runs in this process.
  download_config = tfds.download.DownloadConfig(try_download_gcs=False)
  with (
    tempfile.TemporaryDirectory(prefix="cog_benchmark_") as folder,
    mock.patch.object(builder_lib.CogDatasetBuilder, "entry", entry),
  ):
    config = builder_lib.CogConfig(name="benchmark", num_episodes=episodes)
    builder = tfds.builder_cls(entry.name)(data_dir=folder, config=config)
    builder.download_and_prepare(download_config=download_config)


@contextlib.contextmanager
def one_core() -> Iterator[None]:
  """Pins this process to the first core that it may use."""
  allowed = os.sched_getaffinity(0)
  core = min(allowed)
  _pin_threads({core})
  print(f"pinned to core {core} of {sorted(allowed)}", file=sys.stderr)
  try:
    yield
  finally:
    _pin_threads(allowed)


def _pin_threads(cores: set[int]) -> None:
  """Those that there are; a thread that is made later inherits it."""
  for thread in os.listdir("/proc/self/task"):
    with contextlib.suppress(ProcessLookupError):  # it has ended
      os.sched_setaffinity(int(thread), cores)


def _parser() -> argparse.ArgumentParser:
  parser = argparse.ArgumentParser(
    prog="python -m benchmarks.collection_main",
    description="Measures how fast one core collects episodes and what the time is spent on, and "
    "prints one JSON object.",
  )
  parser.add_argument(
    "--environment", required=True, choices=tuple(registry.ENVIRONMENTS), metavar="NAME",
    help=f"one of: {', '.join(registry.ENVIRONMENTS)}",
  )  # fmt: skip
  parser.add_argument(
    "--policy", metavar="NAME",
    help="a script that the catalog's datasets record in that scene "
    "(default: the one that starts most of the episodes in that environment)",
  )  # fmt: skip
  parser.add_argument(
    "--episodes", type=int, default=100, help="of each measurement (default: %(default)s)"
  )
  return parser


def main(argv: list[str] | None = None) -> int:
  parser = _parser()
  arguments = parser.parse_args(argv)
  policy = arguments.policy or default_policy(arguments.environment)
  known = known_policies(arguments.environment)
  if policy not in known:
    parser.error(
      f"--policy={policy}: expected one of {', '.join(known)} in {arguments.environment}"
    )
  if not 1 <= arguments.episodes <= catalog.SEEDS_PER_BLOCK:
    parser.error(f"--episodes={arguments.episodes}: expected 1 to {catalog.SEEDS_PER_BLOCK}")
  command = provenance.Command("benchmarks.collection_main", argv)
  result = measure(arguments.environment, policy, arguments.episodes)
  print(json.dumps({**command.entry(), "cores": 1, **result}))
  return 0


if __name__ == "__main__":
  sys.exit(main())
