"""Trains an agent on named datasets. Started again with the same flags, it goes on where it was.

  python -m cog_agents.train_main --prior=cog_pickplace_prior --task=cog_pickplace_task \\
    --environment=place_in_tray --method=cog --observation=state --run_dir=runs/cog
"""

import argparse
import dataclasses
import pathlib
import sys

from cog_agents import config as config_lib
from cog_agents import experiments, mains, run_dirs
from collection import registry


def _parser() -> argparse.ArgumentParser:
  parser = argparse.ArgumentParser(
    prog="python -m cog_agents.train_main",
    description="Trains an agent offline on datasets that TFDS finds by name, evaluating it in "
    "simulation as it goes. The run directory receives config.json, metrics.jsonl and tensorboard/ "
    "(losses, values, success rates), checkpoints/, and policies/ (SavedModels). Ctrl-C saves a "
    "checkpoint; the same command resumes.",
  )
  data = parser.add_argument_group("data")
  mains.add_datasets(data)
  data.add_argument(
    "--prior_share", type=mains.share,
    help="share of prior transitions in a batch, 0 to 1 (default: that of prior transitions in "
    "the union of the datasets)",
  )  # fmt: skip

  experiment = parser.add_argument_group("experiment")
  experiment.add_argument(
    "--environment", metavar="NAME", required=True, choices=tuple(registry.ENVIRONMENTS),
    help="where to evaluate; one of: %(choices)s",
  )  # fmt: skip
  experiment.add_argument(
    "--method", metavar="NAME", default="cog", choices=tuple(experiments.METHODS),
    help="one of: %(choices)s (default: %(default)s)",
  )  # fmt: skip
  experiment.add_argument(
    "--observation", metavar="NAME", default=config_lib.STATE, choices=config_lib.OBSERVATIONS,
    help="what the agent sees: image, the camera and the robot's own pose, as in the paper's "
    "section 5 (RELEASED_CODE: the camera alone, as in its Figure 8), or state, the robot's pose "
    "with the simulator's object and drawers, which learns in a third of the time "
    "(default: %(default)s)",
  )  # fmt: skip
  experiment.add_argument(
    "--preset", metavar="NAME", default="FAST", choices=tuple(config_lib.PRESETS),
    help="hyperparameters: FAST is made for tens of thousands of steps on two cores, PAPER and "
    "RELEASED_CODE, the authors', for a million (default: %(default)s)",
  )  # fmt: skip
  experiment.add_argument(
    "--override", metavar="FIELD=VALUE", action="append", default=[],
    help="replaces a field of the preset, the value as JSON; may be repeated: --override=n_step=1",
  )  # fmt: skip
  experiment.add_argument(
    "--seed", type=mains.not_negative, default=0,
    help="of weights, batches and samples (default: %(default)s)",
  )  # fmt: skip
  experiment.add_argument(
    "--steps", type=mains.positive, default=20_000,
    help="gradient steps in all; more than before continue a run (default: %(default)s)",
  )  # fmt: skip

  run = parser.add_argument_group("run")
  run.add_argument("--run_dir", required=True, help="folder of the run")
  run.add_argument(
    "--log_every", metavar="STEPS", type=mains.positive, default=500,
    help="gradient steps between two lines of metrics.jsonl (default: %(default)s)",
  )  # fmt: skip
  run.add_argument(
    "--evaluate_every", metavar="STEPS", type=mains.not_negative, default=2_000,
    help="a multiple of --log_every, or 0 for never (default: %(default)s)",
  )  # fmt: skip
  run.add_argument(
    "--evaluation_episodes", metavar="K", type=mains.positive, default=20,
    help="episodes of an evaluation as it goes (default: %(default)s)",
  )  # fmt: skip
  run.add_argument(
    "--checkpoint_every", metavar="STEPS", type=mains.positive, default=2_000,
    help="a multiple of --log_every (default: %(default)s)",
  )  # fmt: skip
  mains.add_workers(run, 1)
  mains.add_threads(run)
  run.add_argument(
    "--devices", metavar="N", type=mains.positive, default=1,
    help="train on the first N GPUs of this machine, in one process, each with an N-th of every "
    "batch: the run of one device but for rounding. batch_size stays that of all together "
    "(default: %(default)s, a GPU or else the CPU)",
  )  # fmt: skip
  return parser


def agent_config_of(flags: list[str]) -> config_lib.CqlConfig:
  """Returns the hyperparameters of a run that is started with these flags; see agent_config."""
  return agent_config(_parser().parse_args(flags))


def agent_config(args: argparse.Namespace) -> config_lib.CqlConfig:
  """Returns the preset with what the method and then the flags override.

  The precision of images, which FAST has from the processor, is that of the run if there is one: it
  goes on as it began on a machine with another processor.

  Raises:
    ValueError: for an unknown field, or a value that does not fit.
  """
  agent = config_lib.load_preset(args.preset, args.observation)
  has_begun = (pathlib.Path(args.run_dir) / run_dirs.CONFIG).exists()
  if has_begun and agent == config_lib.FAST_IMAGE:
    there = run_dirs.read_config(args.run_dir).get("agent", {})
    agent = dataclasses.replace(agent, image_dtype=there.get("image_dtype", agent.image_dtype))
  agent = dataclasses.replace(agent, **experiments.METHODS[args.method].overrides)
  return mains.overridden(agent, args.override)


def main(argv: list[str] | None = None) -> int:
  parser = _parser()
  args = parser.parse_args(argv)
  try:
    agent = agent_config(args)
  except ValueError as error:
    parser.error(str(error))
  prior = mains.prior_names(args)
  data = experiments.METHODS[args.method].data
  if experiments.METHODS[args.method].uses_prior and not prior:
    parser.error(f"--method={args.method} needs --prior")
  if args.prior_share is not None and data is not experiments.Data.UNION:
    parser.error(f"--prior_share: --method={args.method} draws no batch from prior and task data")
  for flag in ("evaluate_every", "checkpoint_every"):
    if getattr(args, flag) % args.log_every:
      parser.error(f"--{flag}={getattr(args, flag)} is no multiple of --log_every={args.log_every}")
  if agent.batch_size % args.devices:
    parser.error(f"--devices={args.devices} does not divide batch_size={agent.batch_size}")

  mains.quiet_imports()
  import tensorflow as tf

  from cog_agents import distribution, experience, tables, train

  if args.threads:
    tf.config.threading.set_intra_op_parallelism_threads(args.threads)
  try:
    strategy = distribution.strategy(args.devices)
  except ValueError as error:
    parser.error(str(error))
  config = train.ExperimentConfig(
    prior=prior,
    task=args.task,
    prior_share=args.prior_share,
    environment=args.environment,
    method=args.method,
    observation=args.observation,
    preset=args.preset,
    seed=args.seed,
    agent=agent,
  )
  schedule = train.Schedule(
    steps=args.steps,
    log_every=args.log_every,
    evaluate_every=args.evaluate_every,
    checkpoint_every=args.checkpoint_every,
    evaluation_episodes=args.evaluation_episodes,
    num_workers=args.workers,
  )
  try:
    step = train.train(config, schedule, args.run_dir, args.data_dir, args.cache_dir, strategy)
  except (experience.DatasetError, tables.TableError, run_dirs.RunError) as error:
    parser.error(str(error))
  except train.DivergenceError as error:
    print(error, file=sys.stderr)
    return mains.DIVERGED
  except KeyboardInterrupt:
    print(f"Stopped; the same command goes on from the last checkpoint in {args.run_dir}.")
    return mains.INTERRUPTED
  if step < args.steps:
    print(f"Stopped after {step} of {args.steps} gradient steps; the same command goes on there.")
    return mains.INTERRUPTED
  print(
    f"Trained {step} gradient steps; the policies are in {run_dirs.latest_export(args.run_dir)}."
  )
  print(f"Evaluate them: python -m cog_agents.evaluate_main --run_dir={args.run_dir}")
  return 0


if __name__ == "__main__":
  sys.exit(main())
