"""Wall-clock time from nothing to a policy that succeeds: datasets built, decoded, trained from.

  python -m benchmarks.time_to_success_main --environment=place_in_tray --observation=image

COG is trained as Table 1 has it, by the commands that a user would give, in an empty folder.
Success is that of the greedy policy on monitoring episodes, whose seeds no evaluation of the table
has.
"""

import argparse
import json
import pathlib
import signal
import subprocess
import sys
import tempfile
import time
from typing import Any

from cog_agents import config as config_lib
from cog_agents import experiments, grid, mains, provenance, reproduce, run_dirs

_SEED = 0  # of weights, batches and samples
_METHOD = "cog"
_POLL = 0.5  # seconds


def measure(
  folder: pathlib.Path, run: grid.Run, success: float, episodes: int, evaluate_every: int
) -> dict[str, Any]:
  """Builds and trains until an evaluation as it goes has the success that is asked for.

  Args:
    folder: empty.
    run: from Table 1.
    success: rate, 0 to 1.
    episodes: of each evaluation.
    evaluate_every: gradient steps.

  Returns:
    What the JSON object holds; `seconds` is None if the run's steps end before.

  Raises:
    ReproduceError: if a build fails.
    RuntimeError: if the training does; the message has the end of its output.
  """
  started = time.monotonic()
  place = reproduce.Place(folder, str(folder / "data"), str(folder / "cache"))
  build_seconds = {}
  for name in run.datasets:
    begin = time.monotonic()
    reproduce.build(name, place)
    build_seconds[name] = round(time.monotonic() - begin, 1)
  command = [
    *(sys.executable, "-m", "cog_agents.train_main", *run.train_flags(run.recipe.steps)),
    *(f"--evaluate_every={evaluate_every}", f"--evaluation_episodes={episodes}"),
    *(f"--run_dir={folder / run.name}", *place.data_flags),
  ]
  curve, is_running = [], True
  log_path = folder / "log.txt"
  with log_path.open("w") as log, subprocess.Popen(command, stdout=log, stderr=log) as training:
    while is_running and not (curve and curve[-1]["success_rate"] >= success):
      time.sleep(_POLL)
      is_running = training.poll() is None  # before the last look at what it wrote
      rows = [x for x in run_dirs.read_metrics(folder / run.name) if "success_rate" in x]
      curve += [
        {
          "step": int(row["step"]),
          "success_rate": row["success_rate"],
          "seconds": round(time.monotonic() - started, 1),
        }
        for row in rows[len(curve) :]
      ]
    if is_running:
      training.send_signal(signal.SIGINT)
  if training.returncode not in (0, mains.INTERRUPTED, mains.DIVERGED):
    raise RuntimeError(
      f"{' '.join(command)} exited with {training.returncode}:\n{log_path.read_text()[-3000:]}"
    )
  reached = next((row for row in curve if row["success_rate"] >= success), None)
  return {
    "seconds": reached and reached["seconds"],
    "steps": reached and reached["step"],
    "build_seconds": build_seconds,
    "curve": curve,
  }


def main(argv: list[str] | None = None) -> int:
  parser = argparse.ArgumentParser(
    prog="python -m benchmarks.time_to_success_main",
    description="Builds the datasets of a condition of Table 1 in an empty folder and trains COG "
    "from them until an evaluation succeeds often enough. Prints one JSON object: the seconds of "
    "all of it and of each build, and the curve; exit 1 if training ends before.",
  )
  rows = [name for name, row in experiments.ROWS.items() if not row.is_training_condition]
  parser.add_argument(
    "--environment", choices=rows, default="place_in_tray", help="(default: %(default)s)"
  )
  parser.add_argument(
    "--observation", choices=config_lib.OBSERVATIONS, default=config_lib.IMAGE,
    help="(default: %(default)s)",
  )  # fmt: skip
  parser.add_argument("--success", type=mains.share, default=0.9, help="(default: %(default)s)")
  for flag, default, what in (
    ("--episodes", 50, "of an evaluation"),
    ("--evaluate_every", 2_000, "gradient steps"),
  ):
    parser.add_argument(
      flag, type=mains.positive, default=default, help=f"{what} (default: %(default)s)"
    )
  args = parser.parse_args(argv)
  command = provenance.Command("benchmarks.time_to_success_main", argv)
  (run,) = grid.table_1(args.observation, [args.environment], [_METHOD], [_SEED])
  with tempfile.TemporaryDirectory() as folder:
    result = measure(pathlib.Path(folder), run, args.success, args.episodes, args.evaluate_every)
  print(json.dumps({**command.entry(), "seed": _SEED, **vars(args), **result}, indent=1))
  return 0 if result["seconds"] is not None else 1


if __name__ == "__main__":
  sys.exit(main())
