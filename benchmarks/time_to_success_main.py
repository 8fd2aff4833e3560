"""Wall-clock time from nothing to a policy that succeeds: datasets built, decoded, trained from.

  python -m benchmarks.time_to_success_main --environment=place_in_tray --observation=image

COG is trained with the hyperparameters of Table 1, but for what --override changes, by the commands
that a user would give, in an empty folder. Success is that of the greedy policy on monitoring
episodes, whose seeds no evaluation of the table has. The first of several noisy evaluations that is
high enough counts, so the policy may be a little worse than it says: the curve tells.
"""

import argparse
import json
import pathlib
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from typing import Any

import tqdm

from cog_agents import config as config_lib
from cog_agents import experiments, grid, mains, provenance, reproduce, run_dirs

_METHOD = "cog"
_POLL = 0.5  # seconds


def measure(
  folder: pathlib.Path,
  run: grid.Run,
  overrides: Sequence[str],
  success: float,
  episodes: int,
  evaluate_every: int,
) -> dict[str, Any]:
  """Builds and trains until an evaluation as it goes has the success that is asked for.

  Args:
    folder: empty.
    run: from Table 1.
    overrides: FIELD=VALUE of its hyperparameters, as train_main takes them.
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
    tqdm.tqdm.write(f"{name} built in {build_seconds[name]} s", file=sys.stderr)
  command = [
    *(sys.executable, "-m", "cog_agents.train_main", *run.train_flags(run.recipe.steps)),
    *(f"--override={override}" for override in overrides),
    *(f"--log_every={evaluate_every}", f"--evaluate_every={evaluate_every}"),
    *(f"--checkpoint_every={evaluate_every}", f"--evaluation_episodes={episodes}"),
    *(f"--run_dir={folder / run.name}", *place.data_flags),
  ]
  log_path = folder / "log.txt"
  progress = tqdm.tqdm(total=run.recipe.steps, desc="training", unit="steps", smoothing=0)
  with progress, log_path.open("w") as log:
    training = subprocess.Popen(command, stdout=log, stderr=log)
    try:
      curve = _watch(training, folder / run.name, success, started, progress)
    finally:
      training.send_signal(signal.SIGINT)
      training.wait()
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


def _watch(
  training: subprocess.Popen,
  run_dir: pathlib.Path,
  success: float,
  started: float,
  progress: tqdm.tqdm,
) -> list[dict[str, float]]:
  """Returns the evaluations of a training up to the first with that success, or to its end."""
  curve, is_running = [], True
  while is_running:
    time.sleep(_POLL)
    is_running = training.poll() is None  # before the last look at what it wrote
    rows = [row for row in run_dirs.read_metrics(run_dir) if "success_rate" in row]
    for row in rows[len(curve) :]:
      step, rate = int(row["step"]), row["success_rate"]
      seconds = round(time.monotonic() - started, 1)
      curve.append({"step": step, "success_rate": rate, "seconds": seconds})
      progress.update(step - progress.n)
      progress.set_postfix(success=rate)
      if rate >= success:
        return curve
  return curve


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
  parser.add_argument(
    "--override", metavar="FIELD=VALUE", action="append", default=[],
    help="of the hyperparameters, as of train_main: --override=n_step=1",
  )  # fmt: skip
  parser.add_argument(
    "--seed", type=mains.not_negative, default=0,
    help="of weights, batches and samples (default: %(default)s)",
  )  # fmt: skip
  parser.add_argument("--success", type=mains.share, default=0.9, help="(default: %(default)s)")
  for flag, default, what in (
    ("--episodes", 50, "of an evaluation"),
    ("--evaluate_every", 2_000, "gradient steps"),
  ):
    parser.add_argument(
      flag, type=mains.positive, default=default, help=f"{what} (default: %(default)s)"
    )
  parser.add_argument(
    "--dir", type=pathlib.Path, metavar="DIR",
    help="where to make the folder, which needs 4 GB with the tray, 8 GB with the drawer, and is "
    "removed in the end (default: that of temporary files)",
  )  # fmt: skip
  args = parser.parse_args(argv)
  command = provenance.Command("benchmarks.time_to_success_main", argv)
  (run,) = grid.table_1(args.observation, [args.environment], [_METHOD], [args.seed])
  try:
    mains.overridden(config_lib.load_preset(run.recipe.preset, run.observation), args.override)
  except ValueError as error:  # which the training would say, after the builds
    parser.error(str(error))
  try:
    with tempfile.TemporaryDirectory(dir=args.dir) as folder:
      path = pathlib.Path(folder)
      result = measure(path, run, args.override, args.success, args.episodes, args.evaluate_every)
  except KeyboardInterrupt:
    return mains.INTERRUPTED
  settings = {name: value for name, value in vars(args).items() if name != "dir"}
  print(json.dumps({**command.entry(), **settings, **result}, indent=1))
  return 0 if result["seconds"] is not None else 1


if __name__ == "__main__":
  sys.exit(main())
