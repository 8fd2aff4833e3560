"""Tells whether prior and task data connect, before a long training.

  python -m cog_agents.stitching_main --prior=cog_pickplace_prior --task=cog_pickplace_task \\
    --out=runs/stitching.json
"""

import argparse
import sys

from cog_agents import mains


def _parser() -> argparse.ArgumentParser:
  parser = argparse.ArgumentParser(
    prog="python -m cog_agents.stitching_main",
    description="Compares the simulator's states in prior data with those from which task data go "
    "on to success, prints in one sentence whether they connect, and writes the figures for "
    "report_main. A sample with a fixed seed is compared: once the data are decoded it takes less "
    "than a minute, whatever their size. With --run_dir it also looks up the values that a trained "
    "agent gives to first states and to the states where the data connect.",
  )
  mains.add_datasets(parser, prior_is_required=True)
  parser.add_argument("--run_dir", help="folder of a run of train_main whose values are looked up")
  parser.add_argument(
    "--out", required=True, type=mains.output_file,
    help="the JSON file; report_main finds those with the name stitching.json",
  )  # fmt: skip
  return parser


def main(argv: list[str] | None = None) -> int:
  parser = _parser()
  args = parser.parse_args(argv)
  if not mains.prior_names(args):
    parser.error(f"--prior={args.prior}: expected the name of a dataset")

  mains.quiet_imports()
  from cog_agents import experience, run_dirs, stitching, tables

  try:
    result = stitching.analyse(
      mains.prior_names(args),
      args.task,
      data_dir=args.data_dir,
      cache_dir=args.cache_dir,
      run_dir=args.run_dir,
    )
  except (
    experience.DatasetError, tables.TableError, run_dirs.RunError, stitching.StitchingError
  ) as error:  # fmt: skip
    parser.error(str(error))
  except KeyboardInterrupt:
    print("Stopped; the same command starts anew.")
    return mains.INTERRUPTED
  run_dirs.write_json(args.out, result)
  print(f"{result['verdict']}: {result['sentence']}")
  print(f"Wrote {args.out}.")
  return 0


if __name__ == "__main__":
  sys.exit(main())
