"""Evaluates the exported policy of a run on fixed episodes.

python -m cog_agents.evaluate_main --run_dir=runs/cog --environment=place_in_tray --episodes=250
"""

import argparse
import sys

from cog_agents import mains
from collection import registry


def _parser() -> argparse.ArgumentParser:
  parser = argparse.ArgumentParser(
    prog="python -m cog_agents.evaluate_main",
    description="Rolls out the policy that train_main exported and prints its success rate with a "
    "95 % interval. An episode succeeds if its reward is 1 at any step within the limit. Writes "
    "evaluations/ENVIRONMENT.json with every trial, and a video and a film strip of the first few "
    "to videos/, in the run directory. The episodes are the same for every run and every number of "
    "processes.",
  )
  parser.add_argument("--run_dir", required=True, help="folder of a run of train_main")
  parser.add_argument(
    "--environment", metavar="NAME", choices=tuple(registry.ENVIRONMENTS),
    help="one of: %(choices)s (default: the environment of the run)",
  )  # fmt: skip
  parser.add_argument(
    "--episodes", metavar="K", type=mains.positive, default=250,
    help="trials (default: %(default)s, as in the paper)",
  )  # fmt: skip
  parser.add_argument(
    "--video_episodes", metavar="K", type=mains.not_negative, default=3,
    help="trials in the video; 0: no video (default: %(default)s)",
  )  # fmt: skip
  mains.add_workers(parser, 2)
  return parser


def main(argv: list[str] | None = None) -> int:
  parser = _parser()
  args = parser.parse_args(argv)

  mains.quiet_imports()
  from cog_agents import evaluate, run_dirs

  try:
    result = evaluate.evaluate_run(
      args.run_dir,
      args.environment,
      num_episodes=args.episodes,
      num_workers=args.workers,
      num_video_episodes=args.video_episodes,
    )
  except run_dirs.RunError as error:
    parser.error(str(error))
  except KeyboardInterrupt:
    print("Stopped; the same command starts anew.")
    return mains.INTERRUPTED
  low, high = result["interval"]
  print(
    f"{result['method']} on {result['environment']}, {result['policy']} policy after "
    f"{result['steps']} steps: success rate {result['success_rate']:.3f} (95 % interval {low:.3f} "
    f"to {high:.3f}), {result['success_at_end_rate']:.3f} at the last step, "
    f"{result['episodes']} episodes in {result['wall_clock_seconds']} s"
  )
  return 0


if __name__ == "__main__":
  sys.exit(main())
