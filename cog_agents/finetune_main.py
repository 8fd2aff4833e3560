"""Fine-tunes a trained run online. Started again with the same flags, it goes on where it was.

python -m cog_agents.finetune_main --run_dir=runs/cog --environment=place_in_tray --episodes=500
"""

import argparse
import dataclasses
import sys

from cog_agents import mains
from collection import registry


def _parser() -> argparse.ArgumentParser:
  parser = argparse.ArgumentParser(
    prog="python -m cog_agents.finetune_main",
    description="Goes on from the last checkpoint of a run of train_main with episodes of its own "
    "policy: rounds of new episodes, and of gradient steps on all new episodes so far and on "
    "nothing else. A run of CQL (cog, no_prior, ...) goes on by CQL; one that cloned (bc, "
    "bc_oracle) by SAC, from its policy and with fresh critics. RUN_DIR/finetune/ENVIRONMENT "
    "receives config.json, metrics.jsonl and tensorboard/ (success against new episodes, losses), "
    "checkpoints/, episodes/, policies/ and the evaluation of the last policy. Ctrl-C saves a "
    "checkpoint; the same command resumes, and no episode that has ended is lost.",
  )
  parser.add_argument("--run_dir", required=True, help="folder of a run of train_main")
  parser.add_argument(
    "--environment", metavar="NAME", required=True, choices=tuple(registry.ENVIRONMENTS),
    help="where to collect and evaluate; one of: %(choices)s",
  )  # fmt: skip
  parser.add_argument(
    "--episodes", metavar="K", type=mains.positive, default=500,
    help="new episodes in all, a multiple of --episodes_per_round; more than before go on "
    "(default: %(default)s)",
  )  # fmt: skip
  parser.add_argument(
    "--episodes_per_round", metavar="K", type=mains.positive, default=10,
    help="new episodes of a round (default: %(default)s)",
  )  # fmt: skip
  parser.add_argument(
    "--steps_per_round", metavar="K", type=mains.positive, default=1_000,
    help="gradient steps after them (default: %(default)s)",
  )  # fmt: skip
  parser.add_argument(
    "--override", metavar="FIELD=VALUE", action="append", default=[],
    help="replaces a hyperparameter of the run, the value as JSON; may be repeated: "
    "--override=cql_alpha=1.0",
  )  # fmt: skip
  parser.add_argument(
    "--monitoring_episodes", metavar="K", type=mains.positive, default=20,
    help="episodes of the evaluation after each round (default: %(default)s)",
  )  # fmt: skip
  parser.add_argument(
    "--evaluation_episodes", metavar="K", type=mains.positive, default=250,
    help="trials of the evaluation at the end (default: %(default)s, as in the paper)",
  )  # fmt: skip
  mains.add_workers(parser, 2)
  mains.add_threads(parser)
  return parser


def main(argv: list[str] | None = None) -> int:
  parser = _parser()
  args = parser.parse_args(argv)

  mains.quiet_imports()
  import tensorflow as tf

  from cog_agents import finetune, run_dirs, train

  if args.threads:
    tf.config.threading.set_intra_op_parallelism_threads(args.threads)
  try:
    config = finetune.configure(args.run_dir, args.environment)
    agent = mains.overridden(config.agent, args.override)
    schedule = finetune.Schedule(
      episodes=args.episodes,
      episodes_per_round=args.episodes_per_round,
      steps_per_round=args.steps_per_round,
      monitoring_episodes=args.monitoring_episodes,
      evaluation_episodes=args.evaluation_episodes,
      num_workers=args.workers,
    )
  except ValueError as error:
    parser.error(str(error))
  try:
    result = finetune.finetune(dataclasses.replace(config, agent=agent), schedule, args.run_dir)
  except run_dirs.RunError as error:
    parser.error(str(error))
  except train.DivergenceError as error:
    print(error, file=sys.stderr)
    return mains.DIVERGED
  except KeyboardInterrupt:
    print(f"Stopped; the same command goes on from the last checkpoint in {args.run_dir}.")
    return mains.INTERRUPTED
  evaluation = result.evaluation
  if evaluation is None:
    print(f"Stopped after {result.episodes} of {args.episodes} episodes; the same command goes on.")
    return mains.INTERRUPTED
  low, high = evaluation["interval"]
  print(
    f"{evaluation['method']} on {evaluation['environment']} after {result.episodes} new episodes: "
    f"success rate {evaluation['success_rate']:.3f} (95 % interval {low:.3f} to {high:.3f}), "
    f"{evaluation['episodes']} trials"
  )
  print(f"The curve is in {result.folder}/metrics.jsonl, the policies are beside it.")
  return 0


if __name__ == "__main__":
  sys.exit(main())
