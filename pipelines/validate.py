"""Checks of a prepared dataset, as one Beam job: everything that its users rely on."""

import dataclasses
import zlib
from collections.abc import Iterable, Iterator
from typing import Any

import apache_beam as beam
import numpy as np
import rlds
import tensorflow_datasets as tfds
from apache_beam.options import pipeline_options
from etils import epath

from cog_datasets import prepared, progress, reward_labels, schema
from cog_datasets import shards as shards_lib
from collection import manifest, recorder, registry, scripted_policies
from pipelines import results


@dataclasses.dataclass(frozen=True)
class Violation:
  """One thing that is wrong, and where.

  Attributes:
    where: "SPLIT episode ID", or "files".
    step: in the episode; None where it concerns the whole.
    message: what was found and what was expected.
  """

  where: str
  step: int | None
  message: str

  def __str__(self) -> str:
    step = "" if self.step is None else f" step {self.step}"
    return f"{self.where}{step}: {self.message}"


Findings = Iterator[tuple[int | None, str]]


def check_steps(steps: dict[str, Any]) -> Findings:
  """Yields (step, message) for what is wrong with the layout and the values of an episode.

  Args:
    steps: stacked, each array (T + 1, …); see schema.from_recording.
  """
  length = len(steps[rlds.ACTION])
  index = np.arange(length)
  if length < 2:
    yield None, f"{length} steps; an action and its result make two"
  for key, expected in (
    (rlds.IS_FIRST, index == 0),
    (rlds.IS_LAST, index == length - 1),
    (rlds.IS_TERMINAL, np.zeros(length, bool)),
    (rlds.DISCOUNT, np.ones(length, np.float32)),
  ):
    for step in np.flatnonzero(steps[key] != expected):
      yield int(step), f"{key} is {steps[key][step]}, not {expected[step]}"
  for step in np.flatnonzero(~np.all(np.isfinite(steps[rlds.ACTION]), axis=-1)):
    yield int(step), f"the action is not finite: {steps[rlds.ACTION][step].tolist()}"
  for step in np.flatnonzero(np.any(np.abs(steps[rlds.ACTION]) > 1, axis=-1)):
    yield int(step), f"the action is outside [-1, 1]: {steps[rlds.ACTION][step].tolist()}"
  for step in np.flatnonzero(~np.isin(steps[rlds.REWARD], (0.0, 1.0))):
    yield int(step), f"the reward is {steps[rlds.REWARD][step]}, neither 0 nor 1"
  for key, values in steps[rlds.OBSERVATION].items():
    yield from _check_image(key, values) if values.ndim == 4 else _check_vector(key, values)


def check_rewards(episode: dict[str, Any], label: str) -> Findings:
  """Yields the rewards that are not the label's: zero, or those of the outcome of the same step."""
  found = episode[rlds.STEPS][rlds.REWARD]
  expected = reward_labels.parse(label)(episode)[rlds.STEPS][rlds.REWARD]
  for step in np.flatnonzero(found != expected):
    yield int(step), f"the reward is {found[step]}; the label {label!r} gives {expected[step]}"


def check_excluded(episode: dict[str, Any], outcome: str) -> Findings:
  """Yields the first step with an outcome that the dataset says that it excludes."""
  for step in np.flatnonzero(episode[rlds.STEPS][schema.OUTCOME][outcome])[:1]:
    yield int(step), f"the outcome {outcome!r}, which this dataset excludes"


class Simulator:
  """Records episodes again and compares them, bit for bit."""

  def __init__(self):
    self._environments = {}

  def check(self, episode: dict[str, Any]) -> Findings:
    """Yields where an episode differs from what its environment, behaviour and seed give."""
    metadata = episode[schema.EPISODE_METADATA]
    name, script = metadata[schema.ENVIRONMENT].decode(), metadata[schema.BEHAVIOUR].decode()
    if name not in registry.ENVIRONMENTS or script not in scripted_policies.SCRIPTS:
      yield None, f"cannot be recorded again: {script!r} in {name!r} is not known here"
      return
    if name not in self._environments:
      self._environments[name] = registry.load(name)
    seed = int(metadata[schema.SEED])
    recording = recorder.record_episode(name, self._environments[name], script, seed)
    again = schema.from_recording(recording, metadata[schema.EPISODE_ID].decode())
    steps, expected = _flat(episode[rlds.STEPS]), _flat(again[rlds.STEPS])
    for key in sorted(expected.keys() - {rlds.REWARD}):  # rewards are the label's
      if key not in steps or steps[key].shape != expected[key].shape:
        yield None, f"{key}: recorded again from seed {seed}, its shape is {expected[key].shape}"
        continue
      differs = np.any((steps[key] != expected[key]).reshape(len(steps[key]), -1), axis=1)
      for step in np.flatnonzero(differs)[:1]:
        yield int(step), f"{key} is not what seed {seed} gives, from this step on"

  def close(self) -> None:
    for environment in self._environments.values():
      environment.close()


def validate(
  source: tfds.core.DatasetBuilder,
  simulate_every: int,
  options: pipeline_options.PipelineOptions | None = None,
) -> list[Violation]:
  """Returns all violations of a dataset, sorted.

  Args:
    source: see prepared.find.
    simulate_every: one episode in so many is recorded again and compared.
    options: Beam's; None: every core of this machine.
  """
  folder = epath.Path(source.data_dir)
  try:
    damaged = manifest.violations(folder)
  except ValueError as error:
    damaged = [str(error)]
  if damaged:
    return [Violation("files", None, message) for message in damaged]  # and cannot be read
  parts = prepared.parts(source)
  num_episodes = sum(part.stop - part.start for part in parts)
  metadata = source.info.metadata or {}
  label, excluded = metadata.get("label"), metadata.get("excluded_outcome")
  with results.file(source, "validate") as path:
    with (
      progress.shared_counter(num_episodes, f"Validating {source.info.full_name}") as counter,
      beam.Pipeline(options=shards_lib.local_options(options, num_episodes)) as pipeline,
    ):
      check = CheckPart(str(folder), label, excluded, simulate_every, counter)
      checked = (
        pipeline
        | "Parts" >> beam.Create(parts, reshuffle=True)
        | beam.ParDo(check).with_outputs("ids", "seeds", main="violations")
      )
      repeated_ids = checked.ids | beam.GroupByKey() | beam.FlatMap(_repeated_id)
      shared_seeds = checked.seeds | "BySeed" >> beam.GroupByKey() | beam.FlatMap(_shared_seed)
      _ = (
        (checked.violations, repeated_ids, shared_seeds)
        | beam.Flatten()
        | beam.Map(dataclasses.asdict)
        | results.Write(path)
      )
    found = [Violation(**fields) for fields in results.read(path)]
  return sorted(found, key=lambda violation: (violation.where, violation.step or 0))


class CheckPart(beam.DoFn):
  """Part → its violations; ids and seeds, each with where they are."""

  def __init__(
    self,
    folder: str,
    label: str | None,
    excluded_outcome: str | None,
    simulate_every: int,
    counter_path: str,
  ):
    self._folder = folder
    self._label = label
    self._excluded_outcome = excluded_outcome
    self._simulate_every = simulate_every
    self._counter_path = counter_path

  def setup(self):
    self._builder = tfds.builder_from_directory(self._folder)
    self._simulator = Simulator()

  def teardown(self):
    self._simulator.close()

  def process(self, part: prepared.Part):
    for episode in prepared.episodes(self._builder, part):
      progress.check_followed(self._counter_path)
      metadata = episode[schema.EPISODE_METADATA]
      episode_id = metadata[schema.EPISODE_ID].decode()
      where = f"{part.split} episode {episode_id}"
      for step, message in self._findings(episode, episode_id):
        yield Violation(where, step, message)
      yield beam.pvalue.TaggedOutput("ids", (episode_id, where))
      yield beam.pvalue.TaggedOutput("seeds", (int(metadata[schema.SEED]), where))
      progress.increment(self._counter_path)

  def _findings(self, episode: dict[str, Any], episode_id: str) -> Findings:
    yield from check_steps(episode[rlds.STEPS])
    if self._label is not None:
      yield from check_rewards(episode, self._label)
    if self._excluded_outcome is not None:
      yield from check_excluded(episode, self._excluded_outcome)
    if zlib.crc32(episode_id.encode()) % self._simulate_every == 0:
      yield from self._simulator.check(episode)


def _check_image(key: str, images: np.ndarray) -> Findings:
  flat = images.reshape(len(images), -1)
  for step in np.flatnonzero(flat.min(axis=1) == flat.max(axis=1)):
    yield int(step), f"{key} is blank: every value is {flat[step, 0]}"


def _check_vector(key: str, values: np.ndarray) -> Findings:
  for step in np.flatnonzero(~np.all(np.isfinite(values), axis=-1)):
    yield int(step), f"{key} is not finite: {values[step].tolist()}"


def _flat(steps: dict[str, Any], prefix: str = "") -> dict[str, np.ndarray]:
  flat = {}
  for key, value in steps.items():
    is_nested = isinstance(value, dict)
    flat.update(_flat(value, f"{prefix}{key}/") if is_nested else {prefix + key: value})
  return flat


def _repeated_id(element: tuple[str, Iterable[str]]) -> Iterator[Violation]:
  _, places = element
  places = sorted(places)
  for place in places[1:]:
    yield Violation(place, None, f"the id is that of another episode too ({places[0]})")


def _shared_seed(element: tuple[int, Iterable[str]]) -> Iterator[Violation]:
  seed, places = element
  places = sorted(places)
  if len({place.split()[0] for place in places}) > 1:
    yield Violation(places[-1], None, f"the seed {seed} is in another split too ({places[0]})")
