"""Trains one method on named datasets: resumable, evaluated and logged as it goes."""

import contextlib
import dataclasses
import functools
import json
import math
import os
import pathlib
import shutil
import signal
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf
import tensorflow_datasets as tfds
import tqdm
from tf_agents.agents import tf_agent
from tf_agents.policies import policy_saver

from cog_agents import (
  bc,
  cql,
  distribution,
  environments,
  evaluate,
  experience,
  experiments,
  networks,
  run_dirs,
)
from cog_agents import config as config_lib
from collection import registry

# Gradient steps in one call of a tf.function; Ctrl-C is answered between two calls.
STEPS_PER_CALL = 25
CHECKPOINTS_KEPT = 2
_COUNT = "count"  # of the steps that the sums of the metrics cover


@dataclasses.dataclass(frozen=True)
class ExperimentConfig:
  """What decides the weights of a run, but for the number of gradient steps."""

  task: str  # dataset of the task
  environment: str
  method: str
  observation: str
  seed: int
  agent: config_lib.CqlConfig
  prior: tuple[str, ...] = ()  # datasets of prior experience
  preset: str = ""  # where `agent` comes from, for the record
  prior_share: float | None = None  # of prior transitions in a batch; None: uniform over the union

  @classmethod
  def from_record(cls, record: Mapping[str, Any]) -> "ExperimentConfig":
    """Returns the configuration of a run from `run_dirs.read_config`, which has more beside.

    Raises:
      RunError: if the run has a hyperparameter that there is no more, or a value that is refused.
    """
    names = [field.name for field in dataclasses.fields(cls)]
    fields = config_lib.with_tuples({name: record[name] for name in names if name in record})
    agent = config_lib.with_tuples(fields.pop("agent"))
    known = {field.name for field in dataclasses.fields(config_lib.CqlConfig)}
    if unknown := agent.keys() - known:
      raise run_dirs.RunError(
        f"the run has hyperparameters that this version does not know: {sorted(unknown)}; use the "
        "version that trained it"
      )
    try:
      return cls(**fields, agent=config_lib.CqlConfig(**agent))
    except ValueError as error:
      raise run_dirs.RunError(f"the run has a value that this version refuses: {error}") from error

  def create_agent(
    self, observation_spec: Mapping[str, tf.TensorSpec], statistics: networks.Statistics
  ) -> tf_agent.TFAgent:
    """Returns the untrained agent.

    Args:
      observation_spec: key -> spec without batch dimension, of `CqlConfig.training_keys` at least.
      statistics: mean and standard deviation of every vector observation.
    """

    def spec(keys: Iterable[str]) -> dict[str, tf.TensorSpec]:
      return {key: observation_spec[key] for key in keys}

    policy_spec = spec(self.agent.observation_keys(self.observation))
    arguments = (policy_spec, self.agent, statistics, self.seed)
    if experiments.method(self.method).agent == experiments.BC:
      return bc.create(*arguments)
    critic_keys = self.agent.critic_keys
    return cql.create(*arguments, None if critic_keys is None else spec(critic_keys))

  def dataset_names(self) -> tuple[str, ...]:
    """Prior and task, or the task alone for a method that does without prior data."""
    uses_prior = experiments.method(self.method).uses_prior
    if uses_prior and not self.prior:
      raise ValueError(f"the method {self.method!r} needs at least one prior dataset")
    return (*self.prior, self.task) if uses_prior else (self.task,)

  def phases(self, counts: np.ndarray) -> list[tuple[int, list[float] | None]]:
    """What batches are drawn from, and from which step on.

    Args:
      counts: transitions of each of `dataset_names`.

    Returns:
      (first step, weight of each dataset; None: uniform over their union), ascending.
    """
    if experiments.method(self.method).data is experiments.Data.PRIOR_THEN_TASK:
      return [(0, self._weights(counts, 1.0)), (self.agent.bc_steps, self._weights(counts, 0.0))]
    if self.prior_share is None or len(counts) == 1:
      return [(0, None)]
    return [(0, self._weights(counts, self.prior_share))]

  def _weights(self, counts: np.ndarray, prior_share: float) -> list[float]:
    prior = counts[:-1] / sum(counts[:-1]) * prior_share
    return [*prior, 1.0 - prior_share]


@dataclasses.dataclass(frozen=True)
class Schedule:
  """What happens when; changes nothing about the weights. Counted in gradient steps."""

  steps: int
  log_every: int = 500
  evaluate_every: int = 2_000  # 0: never
  checkpoint_every: int = 2_000
  evaluation_episodes: int = 20
  num_workers: int = 2

  def __post_init__(self):
    for name in ("evaluate_every", "checkpoint_every"):
      if getattr(self, name) % self.log_every:
        raise ValueError(f"{name} must be a multiple of log_every={self.log_every}: {self}")

  def evaluates_at(self, step: int) -> bool:
    return bool(self.evaluate_every) and (step % self.evaluate_every == 0 or step == self.steps)


class DivergenceError(RuntimeError):
  """A loss is no longer a number: no further step changes that, and it is a result."""


class Learner:
  """An agent, its stream of batches and the sums of its metrics; one checkpoint holds them all."""

  def __init__(
    self,
    config: ExperimentConfig,
    data: experience.Experience,
    strategy: tf.distribute.Strategy | None = None,
  ):
    """Initializes the learner.

    Args:
      config: what to learn.
      data: what from.
      strategy: of `distribution.strategy`; None: one device.
    """
    self._strategy = strategy or tf.distribute.get_strategy()
    with self._strategy.scope():
      self.agent = config.create_agent(data.observation_spec, data.statistics)
    self._config = config
    self._data = data
    self._iterator = self._batches(start_step=0)
    step_function = tf.function(self._step, autograph=False)
    # Tracing creates every variable, those of the optimisers too, so that restoring finds them.
    metrics = step_function.get_concrete_function(self._iterator.element_spec).structured_outputs
    self._sums = {name: tf.Variable(0.0, dtype=tf.float64) for name in metrics}
    self.checkpoint = tf.train.Checkpoint(agent=self.agent, sums=self._sums)

    @tf.function
    def run(iterator, count):
      for _ in tf.range(count):
        for name, value in step_function(next(iterator)).items():
          self._sums[name].assign_add(tf.cast(value, tf.float64))

    self._run = run

  @property
  def step(self) -> int:
    """Gradient steps taken."""
    return int(self.agent.train_step_counter.numpy())

  def restore(self, path: str) -> None:
    """Continues from a checkpoint, with the batch that comes next."""
    self.checkpoint.restore(path).assert_consumed()
    self.restart_stream()

  def restart_stream(self) -> None:
    """Draws the batches that come next from the data as they are now."""
    self._iterator = self._batches(start_step=self.step)

  def run(self, count: int) -> None:
    """Takes `count` gradient steps."""
    self._run(self._iterator, tf.constant(count))

  @property
  def is_logged(self) -> bool:
    """Whether no step was taken since `pop_metrics`, in this process or an earlier one."""
    return not self._sums[_COUNT].numpy()

  def pop_metrics(self) -> dict[str, float]:
    """Returns the means of the metrics since the last call, in this process or an earlier one."""
    sums = {name: float(total) for name, total in self._sums.items()}
    for total in self._sums.values():
      total.assign(0.0)
    return {name: total / sums[_COUNT] for name, total in sums.items() if name != _COUNT}

  def policies(self) -> dict[str, Any]:
    """The policies to evaluate and export, by name."""
    return {
      evaluate.GREEDY: self.agent.policy,
      evaluate.STOCHASTIC: evaluate.EpisodeSeededPolicy(self.agent.collect_policy),
    }

  def _batches(self, start_step: int) -> Iterator:
    """The batches from a step on: those of each phase after those of the one before."""
    config, data = self._config, self._data
    phases = config.phases(data.counts)
    ends = [first for first, _ in phases[1:]] + [None]
    streams = []
    for (first, weights), end in zip(phases, ends, strict=True):
      first = max(first, start_step)
      if end is None or first < end:
        stream = data.dataset(config.agent.batch_size, config.seed, first, weights)
        streams.append(stream if end is None else stream.take(end - first))
    return iter(functools.reduce(tf.data.Dataset.concatenate, streams))

  def _step(self, transition) -> dict[str, tf.Tensor]:
    return distribution.step(self._strategy, self._step_of_device, transition, ["target_max"])

  def _step_of_device(self, transition) -> dict[str, tf.Tensor]:
    info = self.agent.train(transition)
    sources = transition.action_step.info
    mixture = {
      f"mixture/{name}": tf.reduce_mean(tf.cast(sources == i, tf.float32))
      for i, name in enumerate(self._data.names)
    }
    return {_COUNT: tf.constant(1.0), "loss": info.loss, **info.extra, **mixture}


def train(
  config: ExperimentConfig,
  schedule: Schedule,
  run_dir: str | os.PathLike,
  data_dir: str | None = None,
  cache_dir: str | None = None,
  strategy: tf.distribute.Strategy | None = None,
) -> int:
  """Trains up to `schedule.steps` gradient steps in all, from the run's last checkpoint if any.

  An interrupted run that is started again ends in the weights, metrics and evaluations of one that
  was not, on the same machine and number of threads. Ctrl-C (or SIGTERM) saves a checkpoint.

  Args:
    config: of the experiment; config.json of the run must agree with it.
    schedule: of logging, evaluation and checkpoints.
    run_dir: a folder for config.json, metrics.jsonl, tensorboard/, checkpoints/ and policies/.
    data_dir: TFDS data directory.
    cache_dir: see experience.load.
    strategy: see Learner; changes nothing about the run, a batch being that of all devices.

  Returns:
    The gradient steps taken: less than `schedule.steps` if interrupted.

  Raises:
    ValueError: if a name is unknown, a dataset is unfit, or the run has another configuration.
    DivergenceError: if the run diverges, or did; diverged.json has the step and the message.
    KeyboardInterrupt: if interrupted in the last evaluation, which is all that is left to do, or
      twice.
  """
  run_dir = pathlib.Path(run_dir)
  names = config.dataset_names()
  keys = config.agent.observation_keys(config.observation)
  found = [experience.find(name, data_dir) for name in names]
  check_task(found[-1], config.environment)
  record = {
    **dataclasses.asdict(config),
    "observation_keys": keys,
    "datasets": [builder.info.full_name for builder in found],
  }
  refuse_other_run(run_dir, record)
  if divergence := run_dirs.read_divergence(run_dir):
    raise DivergenceError(divergence["message"])
  if run_dirs.exported_steps(run_dir) >= schedule.steps:
    return run_dirs.exported_steps(run_dir)
  data = experience.load(
    names,
    data_dir=data_dir,
    observation_keys=config.agent.training_keys(config.observation),
    n_step=config.agent.n_step,
    discount=config.agent.gamma,
    only_successful=experiments.method(config.method).data is experiments.Data.SUCCESSFUL_TASK,
    cache_dir=cache_dir,
  )
  run_dirs.write_json(run_dir / run_dirs.CONFIG, {**record, "steps": schedule.steps})
  learner = Learner(config, data, strategy)
  manager = tf.train.CheckpointManager(
    learner.checkpoint, str(run_dir / run_dirs.CHECKPOINTS), CHECKPOINTS_KEPT
  )
  if manager.latest_checkpoint:
    learner.restore(manager.latest_checkpoint)
  with interruptible() as interrupted:
    metrics = Metrics(run_dir, learner.step)
    with _Monitor(config, schedule, keys, learner) as monitor:
      _train_loop(learner, schedule, manager, metrics, monitor, interrupted)
  metrics.close()
  if learner.step == schedule.steps and not learner.is_logged:
    raise KeyboardInterrupt  # in the last evaluation
  export(learner, run_dir)
  return learner.step


def restore(agent: tf.Module, checkpoint: str) -> None:
  """Takes every variable of an agent from the checkpoint of a run.

  Raises:
    RunError: if the checkpoint is of an agent of other sizes.
  """
  try:
    status = tf.train.Checkpoint(agent=agent).restore(checkpoint).expect_partial()
    status.assert_existing_objects_matched()
  except (AssertionError, ValueError) as error:
    raise run_dirs.RunError(f"{checkpoint} does not fit the agent: {error}") from error


def check_task(task_data: tfds.core.DatasetBuilder, environment_name: str) -> None:
  """Checks that task data were recorded for the task of an environment, if they say for which.

  Raises:
    DatasetError: if it was another.
  """
  recorded = (task_data.info.metadata or {}).get("environment")
  if recorded not in registry.ENVIRONMENTS:
    return
  if registry.spec(recorded).task is not registry.spec(environment_name).task:
    raise experience.DatasetError(
      f"{task_data.info.full_name} was recorded in {recorded!r}, for another task than that of"
      f" {environment_name!r}"
    )


def _train_loop(learner, schedule, manager, metrics, monitor, interrupted) -> None:
  progress = tqdm.tqdm(
    total=schedule.steps, initial=learner.step, desc="train", unit="steps", smoothing=0.05
  )
  timed_from, seconds = learner.step, 0.0
  with progress:
    while next_step(learner) <= schedule.steps and not interrupted():
      step = learner.step
      every = schedule.log_every
      boundary = min(schedule.steps, math.ceil(next_step(learner) / every) * every)
      count = min(STEPS_PER_CALL, boundary - step)
      started = time.monotonic()
      run_steps(learner, count, metrics.run_dir)
      seconds += time.monotonic() - started
      step += count
      progress.update(count)
      if step < boundary:
        continue
      success = {}
      if schedule.evaluates_at(step):
        success = monitor.evaluate(interrupted)
        if not success:
          break  # of this step all but the row is saved; where the run goes on, it comes first
        progress.set_postfix(success=success["success_rate"])
      row = {"step": step, **learner.pop_metrics(), **success}
      if step > timed_from:
        row["steps_per_second"] = round((step - timed_from) / seconds, 2)
      metrics.write(row)
      if step % schedule.checkpoint_every == 0:
        manager.save(step)
      timed_from, seconds = step, 0.0
  if manager.latest_checkpoint != f"{manager.directory}/ckpt-{learner.step}":
    manager.save(learner.step)


def next_step(learner: Learner) -> int:
  """The gradient step that comes next: the last one again, if it has no row of metrics yet."""
  return learner.step + int(learner.is_logged)


def run_steps(learner: Learner, count: int, run_dir: pathlib.Path) -> None:
  """Takes gradient steps.

  Raises:
    DivergenceError: if a loss is no longer a number, which is recorded in the run's folder.
  """
  step = learner.step
  try:
    learner.run(count)
  except tf.errors.InvalidArgumentError as error:
    # TensorFlow's message goes on for pages, with a trace of the graph.
    causes = [line for line in error.message.splitlines() if cql.NO_NUMBER in line]
    if not causes:
      raise
    message = f"training diverged between the gradient steps {step} and {step + count}: {causes[0]}"
    run_dirs.write_divergence(run_dir, step + count, message)
    raise DivergenceError(message) from error


class Metrics:
  """metrics.jsonl, one line for each logged step and none twice, and the same for TensorBoard."""

  def __init__(self, run_dir: pathlib.Path, step: int):
    """Keeps the lines up to `step`, which the checkpoint has, and drops those after it."""
    self.run_dir = run_dir
    self._path = run_dir / run_dirs.METRICS
    kept = [row for row in run_dirs.read_metrics(run_dir) if row["step"] <= step]
    aside = self._path.with_suffix(".aside")
    aside.write_text("".join(json.dumps(row) + "\n" for row in kept))
    aside.replace(self._path)
    self._file = self._path.open("a")
    # TensorBoard would show steps that are taken again twice: its files are written anew.
    shutil.rmtree(run_dir / "tensorboard", ignore_errors=True)
    self._writer = tf.summary.create_file_writer(str(run_dir / "tensorboard"))
    for row in kept:
      self._summarize(row)

  def write(self, row: Mapping[str, float]) -> None:
    """Appends a row; it is on the disk when this returns."""
    self._file.write(json.dumps(row) + "\n")
    self._file.flush()
    os.fsync(self._file.fileno())
    self._summarize(row)

  def close(self) -> None:
    self._file.close()
    self._writer.close()

  def _summarize(self, row: Mapping[str, float]) -> None:
    with self._writer.as_default(step=row["step"]):
      for name, value in row.items():
        if name != "step":
          tf.summary.scalar(name, value)
    self._writer.flush()


class _Monitor(contextlib.AbstractContextManager):
  """Rolls out the policy as it is, always on the same episodes, in processes that stay."""

  def __init__(self, config, schedule: Schedule, keys: tuple[str, ...], learner: Learner):
    self._environment = None
    self._seeds = registry.MONITORING_SEEDS[: schedule.evaluation_episodes]
    stochastic = experiments.method(config.method).stochastic_evaluation
    policy = learner.policies()[evaluate.STOCHASTIC if stochastic else evaluate.GREEDY]
    self._caller = evaluate.PolicyCaller(policy)
    if schedule.evaluate_every and next_step(learner) <= schedule.steps:
      num_copies = min(schedule.num_workers, schedule.evaluation_episodes)
      self._environment = environments.ParallelEnvironment(config.environment, keys, num_copies)

  def evaluate(self, interrupted: Callable[[], bool]) -> dict[str, float]:
    return monitored_success(self._environment, self._caller, self._seeds, interrupted)

  def __exit__(self, *unused_exception):
    if self._environment is not None:
      self._environment.close()


def refuse_other_run(
  run_dir: pathlib.Path, record: Mapping[str, Any], remedy: str = "choose another run_dir"
) -> None:
  """Raises RunError, with the differences, if the run's config.json is not `record`."""
  if not (run_dir / run_dirs.CONFIG).exists():
    return
  there = run_dirs.read_config(run_dir)
  there.pop("steps")  # more of them continue the same run
  found = differences(there, json.loads(json.dumps(record)))
  if found:
    raise run_dirs.RunError(
      f"{run_dir} holds a run with another configuration; {remedy}. "
      f"Differences (there → asked for): {'; '.join(found)}"
    )


def differences(there: Mapping, asked: Mapping, prefix: str = "") -> list[str]:
  """Returns "KEY: THERE → ASKED" for every key of two configurations that differs."""
  lines = []
  for key in sorted({*there, *asked}):
    left, right = there.get(key), asked.get(key)
    if isinstance(left, dict) and isinstance(right, dict):
      lines += differences(left, right, f"{prefix}{key}.")
    elif left != right:
      lines.append(f"{prefix}{key}: {left!r} → {right!r}")
  return lines


def export(learner: Learner, run_dir: pathlib.Path) -> None:
  """Writes policies/STEP with a SavedModel of each policy, then removes older ones."""
  folder = run_dir / run_dirs.POLICIES / f"{learner.step:09d}"
  if folder.exists():
    return
  aside = run_dir / run_dirs.POLICIES / f"aside.{os.getpid()}"
  for name, policy in learner.policies().items():
    saver = policy_saver.PolicySaver(policy, train_step=learner.agent.train_step_counter)
    saver.save(str(aside / name))
  aside.replace(folder)
  for other in folder.parent.iterdir():
    if other != folder:
      shutil.rmtree(other)


def monitored_success(
  environment: environments.ParallelEnvironment,
  caller: evaluate.PolicyCaller,
  seeds: Sequence[int],
  interrupted: Callable[[], bool],
) -> dict[str, float]:
  """Rolls out a policy, of which nothing is learned.

  Args:
    environment, caller, seeds: as for `evaluate.rollout`.
    interrupted: of `interruptible`.

  Returns:
    What metrics.jsonl has of it; nothing if the simulators were ended with this process.
  """
  with simulators_may_go(interrupted):
    summary = evaluate.summarize(evaluate.rollout(environment, caller, seeds))
    return {key: summary[key] for key in ("success_rate", "success_at_end_rate")}
  return {}


@contextlib.contextmanager
def simulators_may_go(interrupted: Callable[[], bool]):
  """Gives up what needs them if SIGTERM went to them, too, as from a scheduler that ends a job."""
  try:
    yield
  except (ConnectionError, EOFError):
    if not interrupted():
      raise


@contextlib.contextmanager
def interruptible():
  """Yields a function that tells whether Ctrl-C or SIGTERM came; a second one is not held back."""
  came = []

  def note(number, frame):
    del frame
    came.append(number)
    restore()

  previous = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}

  def restore():
    for number, handler in previous.items():
      signal.signal(number, handler)

  try:
    yield lambda: bool(came)
  finally:
    restore()
