"""Online fine-tuning of a trained run (sections 4 and 6.2): collect, learn, evaluate, resume."""

import dataclasses
import math
import os
import pathlib
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf
import tqdm

from cog_agents import bc, cql, environments, evaluate, experiments, online, run_dirs, train
from collection import registry, specs

# Standard deviation of what is added to every dimension of the actions that CQL collects with: half
# of the scripts' noise. Its stochastic policy is as broad as the recorded actions, and fails where
# the greedy one does not.
EXPLORATION_NOISE = 0.1


@dataclasses.dataclass(frozen=True)
class Schedule:
  """How much is collected, learned and evaluated: rounds of new episodes, then gradient steps.

  The defaults of a round are the released code's; the paper collects "periodically" (section 4).
  """

  episodes: int  # new ones in all, a multiple of episodes_per_round
  episodes_per_round: int = 10
  steps_per_round: int = 1_000  # gradient steps
  monitoring_episodes: int = 20  # of the evaluation after each round
  evaluation_episodes: int = 250  # of the one at the end
  num_workers: int = 2

  def __post_init__(self):
    if self.episodes % self.episodes_per_round:
      raise ValueError(
        f"episodes={self.episodes} is no multiple of episodes_per_round={self.episodes_per_round}"
      )

  @property
  def steps(self) -> int:
    """Gradient steps in all."""
    return self.episodes // self.episodes_per_round * self.steps_per_round


@dataclasses.dataclass(frozen=True)
class Result:
  """What there is when `finetune` returns; `evaluation` is None if it was interrupted."""

  folder: pathlib.Path
  episodes: int
  evaluation: dict[str, Any] | None


def configure(run_dir: str | os.PathLike, environment_name: str) -> train.ExperimentConfig:
  """Returns the configuration that fine-tunes a run in an environment.

  A run of CQL goes on with the hyperparameters that it had. A cloned policy becomes that of SAC,
  without what keeps a policy near recorded actions.

  Raises:
    ValueError: if there is no such environment.
    RunError: if `run_dir` is no run of train_main, or its task is another.
  """
  run = run_dirs.read_config(run_dir)
  if run["method"] not in experiments.METHODS:
    known = ", ".join(experiments.METHODS)
    raise run_dirs.RunError(
      f"{run_dir} is a run of the method {run['method']!r}; expected one of train_main: {known}"
    )
  evaluate.check_task(run_dir, run, environment_name)
  method = experiments.fine_tuned_name(run["method"])
  config = train.ExperimentConfig.from_record(run)
  return dataclasses.replace(
    config,
    environment=environment_name,
    method=method,
    agent=dataclasses.replace(config.agent, **experiments.FINE_TUNED[method].overrides),
    prior_share=None,
  )


def finetune(
  config: train.ExperimentConfig, schedule: Schedule, run_dir: str | os.PathLike
) -> Result:
  """Fine-tunes a run with `schedule.episodes` new episodes in all, and evaluates the outcome.

  A round collects episodes and then learns from all of them so far, and from nothing else. CQL
  collects with its greedy policy and EXPLORATION_NOISE, SAC with its stochastic policy. Episode i
  has the seed FINETUNING_SEEDS[i]. Each is a file as soon as it has ended, so a process that is
  stopped in any way loses none that was finished. Ctrl-C (or SIGTERM) saves a checkpoint. The
  batches have no seed (see online.ReplayBuffer): a run that is started again keeps the episodes and
  weights that it had, and goes its own way from there.

  Args:
    config: of `configure`.
    schedule: more episodes than before go on.
    run_dir: of `train`; RUN_DIR/finetune/ENVIRONMENT receives config.json, metrics.jsonl,
      tensorboard/, checkpoints/, episodes/, policies/ and evaluations/, and is a run itself.

  Raises:
    RunError: if the run has no checkpoint or does not fit `config`, which may ask for observations
      that there are not or that a clone has no statistics of, the folder holds a fine-tuning
      with another configuration or lacks episodes.
    DivergenceError: if it diverges, or did.
  """
  run_dir = pathlib.Path(run_dir)
  run = run_dirs.read_config(run_dir)
  checkpoint = _latest_checkpoint(run_dir)
  first_step = _step_of(checkpoint)
  last_step = first_step + schedule.steps
  folder = run_dir / run_dirs.FINE_TUNINGS / config.environment
  record = {
    **dataclasses.asdict(config),
    "observation_keys": config.agent.observation_keys(config.observation),
    "datasets": run["datasets"],
    "finetuned_method": run["method"],
    "first_step": first_step,
    "episodes_per_round": schedule.episodes_per_round,
    "steps_per_round": schedule.steps_per_round,
  }
  unknown = set(config.agent.training_keys(config.observation)) - set(specs.OBSERVATION_KEYS)
  if unknown:
    known = ", ".join(specs.OBSERVATION_KEYS)
    raise run_dirs.RunError(f"no observations {sorted(unknown)}; expected some of: {known}")
  train.refuse_other_run(folder, record, remedy="move that folder away to start anew")
  if divergence := run_dirs.read_divergence(folder):
    raise train.DivergenceError(divergence["message"])
  if run_dirs.exported_steps(folder) < last_step:
    record["steps"] = last_step
    _train(config, schedule, folder, checkpoint, record)
  num_episodes = len(online.EpisodeFolder(folder / "episodes"))
  if run_dirs.exported_steps(folder) < last_step:
    return Result(folder, num_episodes, None)
  return Result(folder, num_episodes, _evaluate(folder, config.environment, schedule))


def _train(
  config, schedule: Schedule, folder: pathlib.Path, checkpoint: str, record: dict[str, Any]
) -> None:
  """Takes rounds until the last one or an interrupt, and exports the policies.

  Args:
    config, schedule: as for `finetune`.
    folder: of the fine-tuning.
    checkpoint: of the run that it starts from.
    record: config.json, which is written once the run is known to fit.
  """
  keys = config.agent.training_keys(config.observation)
  num_copies = min(schedule.num_workers, schedule.episodes_per_round)
  with environments.ParallelEnvironment(config.environment, keys, num_copies) as environment:
    spec = {
      key: tf.TensorSpec(x.shape, x.dtype, key) for key, x in environment.observation_spec().items()
    }
    # A checkpoint has the statistics: these are for what it does not have, the critics of a clone.
    statistics = {
      key: (np.zeros(x.shape), np.ones(x.shape)) for key, x in spec.items() if len(x.shape) == 1
    }
    cloned = None
    method = record["finetuned_method"]
    if experiments.method(method).agent == experiments.BC:
      cloned = dataclasses.replace(config, method=method).create_agent(spec, statistics)
      train.restore(cloned, checkpoint)
      known = cloned.policy_network.encoder.statistics
      if unseen := set(statistics) - set(known):
        raise run_dirs.RunError(
          f"new critics cannot see {sorted(unseen)}, of which the cloned policy has no statistics; "
          f"it has those of {sorted(known)}"
        )
      statistics = known
    with online.ReplayBuffer(spec, statistics, config.agent.n_step, config.agent.gamma) as buffer:
      rounds = _Rounds(config, schedule, folder, _step_of(checkpoint), environment, buffer)
      if not rounds.resume():
        rounds.take(checkpoint, cloned)
      run_dirs.write_json(folder / run_dirs.CONFIG, record)
      with train.interruptible() as interrupted:
        rounds.run(interrupted)
      if rounds.learner.step == record["steps"] and not rounds.is_done:
        raise KeyboardInterrupt  # in the last evaluation
      train.export(rounds.learner, folder)


class _Rounds:
  """What a fine-tuning collects and learns with, and the files that it writes."""

  def __init__(
    self,
    config: train.ExperimentConfig,
    schedule: Schedule,
    folder: pathlib.Path,
    first_step: int,
    environment: environments.ParallelEnvironment,
    buffer: online.ReplayBuffer,
  ):
    self._schedule = schedule
    self._folder = folder
    self._first_step = first_step
    self._environment = environment
    self._buffer = buffer
    self.learner = train.Learner(config, buffer)
    policies = self.learner.policies()
    explores = policies[evaluate.STOCHASTIC]
    if config.agent.cql_alpha:
      explores = evaluate.EpisodeSeededPolicy(self.learner.agent.policy, EXPLORATION_NOISE)
    self._collector = online.Collector(environment, explores, config.seed)
    self._greedy = evaluate.PolicyCaller(policies[evaluate.GREEDY])
    self._episodes = online.EpisodeFolder(folder / "episodes")
    self._successes: list[bool] = []  # of each episode
    self._manager = tf.train.CheckpointManager(
      self.learner.checkpoint, str(folder / run_dirs.CHECKPOINTS), train.CHECKPOINTS_KEPT
    )

  def take(self, checkpoint: str, cloned: bc.BcAgent | None) -> None:
    """Takes the agent of a run, or the policy that it cloned."""
    if len(self._episodes):
      raise run_dirs.RunError(
        f"{self._folder} has {len(self._episodes)} episodes and no checkpoint of what learned from "
        "them; copy its checkpoints/ back, or move the folder away to start anew"
      )
    if cloned is None:
      train.restore(self.learner.agent, checkpoint)
    else:
      take_over(self.learner.agent, cloned)
    self._metrics = train.Metrics(self._folder, step=-1)  # none is kept

  def resume(self) -> bool:
    """Goes on from the last checkpoint with all episodes of the folder; False if there is none."""
    if not self._manager.latest_checkpoint:
      return False
    self.learner.restore(self._manager.latest_checkpoint)
    self._metrics = train.Metrics(self._folder, self.learner.step)
    learned_from = run_dirs.read_metrics(self._folder)[-1]["episodes"]
    if len(self._episodes) < learned_from:
      raise run_dirs.RunError(
        f"{self._folder} has learned from {learned_from} episodes, of which its episodes/ has the "
        f"first {len(self._episodes)}; copy the others back, or move the folder away to start anew"
      )
    for index in range(len(self._episodes)):
      self._learn_from(self._episodes[index])
    return True

  @property
  def is_done(self) -> bool:
    return train.next_step(self.learner) > self._first_step + self._schedule.steps

  def run(self, interrupted: Callable[[], bool]) -> None:
    """Takes rounds until the last one or an interrupt, and saves a checkpoint."""
    schedule, learner, first_step = self._schedule, self.learner, self._first_step
    if not self._manager.latest_checkpoint and not self._begin(interrupted):
      return
    with tqdm.tqdm(
      total=schedule.steps, initial=learner.step - first_step, desc="finetune", unit="steps",
      smoothing=0.05,
    ) as progress:  # fmt: skip
      while not self.is_done and not interrupted():
        rounds = math.ceil((train.next_step(learner) - first_step) / schedule.steps_per_round)
        end = first_step + rounds * schedule.steps_per_round
        self._collect(rounds * schedule.episodes_per_round, interrupted)
        steps_per_second = self._learn(end, progress, interrupted)
        if learner.step == end:
          self._finish_round(steps_per_second, progress, interrupted)
    self._metrics.close()
    if _step_of(self._manager.latest_checkpoint) != learner.step:
      self._manager.save(learner.step)

  def _begin(self, interrupted: Callable[[], bool]) -> bool:
    """Evaluates the policy as it is before any round, and saves it; False if interrupted."""
    success = self._monitor(interrupted)
    if success:
      self._metrics.write({"step": self._first_step, "episodes": 0, **success})
      self._manager.save(self._first_step)
    return bool(success)

  def _collect(self, num_episodes: int, interrupted: Callable[[], bool]) -> None:
    """Collects until there are as many episodes in all."""
    while len(self._episodes) < num_episodes and not interrupted():
      end = min(num_episodes, len(self._episodes) + self._environment.batch_size)
      seeds = registry.FINETUNING_SEEDS[len(self._episodes) : end]
      with train.simulators_may_go(interrupted):
        for episode in self._collector.collect(seeds):
          self._episodes.append(episode)
          self._learn_from(episode)

  def _learn_from(self, episode: online.Episode) -> None:
    self._buffer.add(episode)
    self._successes.append(episode.success)

  def _learn(
    self, end: int, progress: tqdm.tqdm, interrupted: Callable[[], bool]
  ) -> dict[str, float]:
    """Takes gradient steps until there are `end` in all; returns how many a second, if any."""
    first, started = self.learner.step, time.monotonic()
    self.learner.restart_stream()
    while self.learner.step < end and not interrupted():
      count = min(train.STEPS_PER_CALL, end - self.learner.step)
      train.run_steps(self.learner, count, self._folder)
      progress.update(count)
    if self.learner.step == first:
      return {}
    speed = (self.learner.step - first) / (time.monotonic() - started)
    return {"steps_per_second": round(speed, 2)}

  def _finish_round(
    self,
    steps_per_second: dict[str, float],
    progress: tqdm.tqdm,
    interrupted: Callable[[], bool],
  ) -> None:
    """Evaluates, logs and saves; an evaluation that is lost is where the next start begins."""
    success = self._monitor(interrupted)
    if not success:
      return
    step, before = self.learner.step, run_dirs.read_metrics(self._folder)[-1]["episodes"]
    row = {
      "step": step,
      "episodes": len(self._episodes),
      **self.learner.pop_metrics(),
      **steps_per_second,
      "collected_success_rate": float(np.mean(self._successes[before:])),
      **success,
    }
    self._metrics.write(row)
    self._manager.save(step)
    progress.set_postfix(episodes=row["episodes"], success=row["success_rate"])

  def _monitor(self, interrupted: Callable[[], bool]) -> dict[str, float]:
    """Success of the greedy policy, always on the same episodes, which it does not learn from."""
    seeds = registry.MONITORING_SEEDS[: self._schedule.monitoring_episodes]
    return train.monitored_success(self._environment, self._greedy, seeds, interrupted)


def take_over(agent: cql.CqlAgent, cloned: bc.BcAgent) -> None:
  """Gives a new agent a cloned policy, with its steps; the critics and the temperature stay new."""
  ours, theirs = (x.policy_network.variables for x in (agent, cloned))
  for variable, value in zip(ours, theirs, strict=True):
    variable.assign(value)
  agent.initialize()  # the average of the policy's weights starts there, too
  agent.train_step_counter.assign(cloned.train_step_counter)


def _latest_checkpoint(run_dir: pathlib.Path) -> str:
  checkpoint = tf.train.latest_checkpoint(str(run_dir / run_dirs.CHECKPOINTS))
  if checkpoint is None:
    raise run_dirs.RunError(f"{run_dir} has no checkpoint; train_main saves one when it ends")
  return checkpoint


def _step_of(checkpoint: str) -> int:
  return int(checkpoint.rpartition("-")[2])


def _evaluate(folder: pathlib.Path, environment_name: str, schedule: Schedule) -> dict[str, Any]:
  """Evaluates the exported policy, unless that has been done."""
  steps, episodes = run_dirs.exported_steps(folder), schedule.evaluation_episodes
  if there := run_dirs.read_evaluation(folder, environment_name, steps, episodes):
    return there
  return evaluate.evaluate_run(
    folder,
    environment_name,
    num_episodes=schedule.evaluation_episodes,
    num_workers=schedule.num_workers,
    num_video_episodes=0,
  )
