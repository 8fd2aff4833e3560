"""Reproduces Table 1, fine-tuning or the ablations, as a grid of runs that goes on where it was.

python -m cog_agents.reproduce_main --table=1 --observation=state --seeds=3 --root_dir=runs/table
"""

import argparse
import dataclasses
import os
import pathlib
import shlex
import sys
from collections.abc import Iterable, Sequence

from cog_agents import config as config_lib
from cog_agents import experiments, grid, mains


def _parser() -> argparse.ArgumentParser:
  parser = argparse.ArgumentParser(
    prog="python -m cog_agents.reproduce_main",
    description="Plans the runs of a table, says what is done and how long the rest takes, builds "
    "missing datasets, says whether prior and task data connect, trains each run until success on "
    "monitoring episodes has stopped growing, and evaluates it on episodes that neither training "
    "nor monitoring sees. Writes table_NAME_OBSERVATION.json, with every finished run of the table "
    "in the root folder, and report.html, except for ablations. Ctrl-C, or worse: the same command "
    "goes on.",
  )
  parser.add_argument(
    "--table", metavar="NAME", default=grid.TABLE_1,
    choices=(grid.TABLE_1, grid.FINE_TUNING, grid.ABLATIONS),
    help="one of: %(choices)s; finetuning goes on from runs of Table 1 in the same root folder "
    "(default: %(default)s)",
  )  # fmt: skip
  parser.add_argument(
    "--observation", metavar="NAME", default=config_lib.STATE, choices=config_lib.OBSERVATIONS,
    help="one of: %(choices)s (default: %(default)s)",
  )  # fmt: skip
  parser.add_argument(
    "--rows", metavar="NAME,...", type=_names,
    help="of the table: environments, or changes in the ablations (default: all)",
  )  # fmt: skip
  parser.add_argument(
    "--methods", metavar="NAME,...", type=_names,
    help="columns of Table 1 (default: all); fine-tuning is of cog and bc, the ablations of cog",
  )  # fmt: skip
  parser.add_argument(
    "--seeds", metavar="K", type=mains.positive, default=1,
    help="seeds 0 to K - 1 (default: %(default)s)",
  )  # fmt: skip
  parser.add_argument(
    "--episodes", metavar="K", type=mains.positive, default=250,
    help="trials of a condition and seed (default: %(default)s, as in the paper)",
  )  # fmt: skip
  parser.add_argument("--root_dir", required=True, help="folder of the runs")
  parser.add_argument("--data_dir", help="TFDS data directory (default: TFDS's own)")
  parser.add_argument("--cache_dir", help="see train_main")
  parser.add_argument(
    "--jobs", metavar="K", type=mains.positive,
    help="runs side by side, each with its share of the cores (default: one a GPU, or one a core "
    "where there is none)",
  )  # fmt: skip
  parser.add_argument("--run", metavar="NAME", help="this run of the table alone")
  only = parser.add_mutually_exclusive_group()
  only.add_argument("--plan", action="store_true", help="print the plan and stop")
  only.add_argument(
    "--list", action="store_true",
    help="print one shell command for each run, for a cluster's job array with a root_dir that all "
    "see, and stop; afterwards the same command without --list writes the table",
  )  # fmt: skip
  return parser


def _names(text: str) -> list[str]:
  return [name for name in text.split(",") if name]


# Of each table.
_ROWS = {
  grid.TABLE_1: tuple(experiments.ROWS),
  grid.FINE_TUNING: grid.FINE_TUNED_ROWS,
  grid.ABLATIONS: tuple(grid.ABLATION_TABLE),
}
_METHODS = {
  grid.TABLE_1: tuple(experiments.METHODS),
  grid.FINE_TUNING: grid.FINE_TUNED_METHODS,
  grid.ABLATIONS: (grid.ABLATED_METHOD,),
}


def _table(
  name: str, observation: str, rows: Iterable[str], methods: Iterable[str], seeds: Sequence[int]
) -> list[grid.Run]:
  if name == grid.ABLATIONS:
    return grid.ablations(observation, rows, seeds)
  make = grid.table_1 if name == grid.TABLE_1 else grid.fine_tuning
  return make(observation, rows, methods, seeds)


def _whole_table(name: str, observation: str, root: pathlib.Path) -> list[grid.Run]:
  """Every run of a table, with the seeds that the folder has runs of."""
  seeds = grid.seeds_below(root, observation)
  return _table(name, observation, _ROWS[name], _METHODS[name], seeds)


def _runs(parser: argparse.ArgumentParser, args: argparse.Namespace) -> list[grid.Run]:
  rows, methods = args.rows or _ROWS[args.table], args.methods or _METHODS[args.table]
  try:
    for name in rows:
      config_lib.check_name("row", name, _ROWS[args.table])
    for name in methods:
      config_lib.check_name("method", name, _METHODS[args.table])
    runs = _table(args.table, args.observation, rows, methods, range(args.seeds))
    if args.run:
      config_lib.check_name("run", args.run, [run.name for run in runs])
      runs = [run for run in runs if run.name == args.run]
  except ValueError as error:
    parser.error(str(error))
  return runs


def _command(run: grid.Run, args: argparse.Namespace) -> str:
  """The shell command that does one run of a table."""
  flags = [
    f"--table={args.table}",
    f"--observation={args.observation}",
    *([f"--rows={','.join(args.rows)}"] if args.rows else []),
    f"--seeds={args.seeds}",
    f"--episodes={args.episodes}",
    f"--root_dir={args.root_dir}",
    *mains.data_flags(args.data_dir, args.cache_dir),
    "--jobs=1",
    f"--run={run.name}",
  ]
  return shlex.join(["python", "-m", "cog_agents.reproduce_main", *flags])


def main(argv: list[str] | None = None) -> int:
  parser = _parser()
  args = parser.parse_args(argv)
  runs = _runs(parser, args)
  if args.list:
    print("\n".join(_command(run, args) for run in runs))
    return 0

  mains.quiet_imports()
  from cog_agents import grid_results, report, reproduce, run_dirs

  jobs = args.jobs or len(reproduce.gpus()) or os.cpu_count()
  place = reproduce.Place(
    pathlib.Path(args.root_dir), args.data_dir, args.cache_dir, jobs, args.episodes
  )
  print(reproduce.plan(runs, place))
  if args.plan:
    return 0
  failed = False
  try:
    reproduce.execute(runs, place)
  except KeyboardInterrupt:
    print("Stopped; the same command goes on.")
    return mains.INTERRUPTED
  except reproduce.ReproduceError as error:
    print(error, file=sys.stderr)
    failed = True
  if args.run:
    return int(failed)
  whole = _whole_table(args.table, args.observation, place.root)
  # Of whatever number of trials: they are not of this call alone.
  results = grid_results.entries(whole, dataclasses.replace(place, episodes=1))
  run_dirs.write_json(place.root / grid.table_filename(args.table, args.observation), results)
  if not results:
    return int(failed)
  if args.table == grid.ABLATIONS:
    print(grid_results.ablation_table(results))
    return int(failed)
  contents, _ = report.write(place.root, place.root / "report.html")
  is_table_1 = args.table == grid.TABLE_1
  print(report.table(contents) if is_table_1 else grid_results.fine_tuning_table(results))
  return int(failed)


if __name__ == "__main__":
  sys.exit(main())
