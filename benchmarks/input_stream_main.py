"""How fast transitions come out of built datasets, how soon, and in how much memory.

  python -m benchmarks.input_stream_main --datasets=cog_drawer_prior/closed,cog_drawer_task \
    --data_dir=DIR --observation=image

The stream is that of training, with nothing that takes from it beside. Memory is the process's own,
TensorFlow's included: pages that the system keeps of files do not count.
"""

import time

_STARTED = time.monotonic()  # before the imports, which a first batch waits for too

import argparse  # noqa: E402
import json  # noqa: E402
import pathlib  # noqa: E402
import resource  # noqa: E402
import sys  # noqa: E402

import tensorflow as tf  # noqa: E402

from cog_agents import config as config_lib  # noqa: E402
from cog_agents import experience, mains, provenance, tables  # noqa: E402

_SEED = 0  # of the draws
_SAMPLE_SECONDS = 5.0
_BATCHES_PER_CALL = 10
_MEGABYTE = 1 << 20
_PLOTTED_MEGABYTES = 4_000  # the least that the axis shows


def measure(
  names: list[str],
  data_dir: str | None,
  cache_dir: str | None,
  observation: str,
  batch_size: int,
  seconds: float,
) -> dict:
  """Returns what the JSON object holds."""
  agent = config_lib.load_preset("PAPER", observation)
  data = experience.load(
    names,
    data_dir=data_dir,
    observation_keys=agent.training_keys(observation),
    cache_dir=cache_dir,
  )
  batches = iter(data.dataset(batch_size, seed=_SEED))
  _draw(batches, tf.constant(1))
  started = time.monotonic()
  first_batch_seconds = started - _STARTED
  count, memory = 0, [(0.0, _resident_megabytes())]
  while (passed := time.monotonic() - started) < seconds:
    _draw(batches, tf.constant(_BATCHES_PER_CALL))
    count += _BATCHES_PER_CALL
    if passed - memory[-1][0] >= _SAMPLE_SECONDS:
      memory.append((round(passed, 1), _resident_megabytes()))
  return {
    "datasets": list(data.names),
    "observation": observation,
    "batch_size": batch_size,
    "transitions": data.num_transitions,
    "transitions_per_second": round(count * batch_size / passed, 1),
    "first_batch_seconds": round(first_batch_seconds, 2),
    "peak_rss_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / _MEGABYTE),
    "rss_mb": [{"seconds": at, "mb": megabytes} for at, megabytes in memory],
  }


@tf.function
def _draw(batches, count):
  """Draws as many batches as training does: in a graph.

  A `next` outside of one keeps 16 bytes of each of a batch's tensors for good (TensorFlow 2.15),
  which in ten minutes would look as if the stream did.
  """
  for _ in tf.range(count):
    next(batches)


def _resident_megabytes() -> int:
  with open("/proc/self/statm") as file:
    pages = int(file.read().split()[1])
  return round(pages * resource.getpagesize() / _MEGABYTE)


def plot(result: dict, file: pathlib.Path) -> None:
  """Writes resident memory over time, of what `measure` returned, as a PNG."""
  import matplotlib.figure  # here, since neither the first batch nor the memory is to have it

  figure = matplotlib.figure.Figure(figsize=(6.4, 3.2), layout="constrained")
  axes = figure.add_subplot()
  seconds, megabytes = zip(*((s["seconds"], s["mb"]) for s in result["rss_mb"]), strict=True)
  axes.plot(seconds, megabytes)
  axes.set_ylim(0, max(_PLOTTED_MEGABYTES, *megabytes))
  axes.set_xlabel("seconds after the first batch")
  axes.set_ylabel("resident memory, MB")
  axes.set_title(
    f"{result['transitions']:,} transitions, {result['transitions_per_second']:,.0f} a second"
  )
  file.parent.mkdir(parents=True, exist_ok=True)
  figure.savefig(file, dpi=150)


def main(argv: list[str] | None = None) -> int:
  parser = argparse.ArgumentParser(
    prog="python -m benchmarks.input_stream_main",
    description="Draws batches from datasets as training does, and nothing else. Prints one JSON "
    "object: transitions a second, seconds from the start of the process to the first batch, and "
    "resident memory over time. The first run for a dataset decodes it, and says what that takes; "
    "the second is what a training that is started again has.",
  )
  parser.add_argument("--datasets", metavar="NAME[/CONFIG],...", required=True)
  parser.add_argument("--data_dir", help="TFDS data directory (default: TFDS's own)")
  parser.add_argument("--cache_dir", help="as of train_main")
  parser.add_argument(
    "--observation", choices=config_lib.OBSERVATIONS, default=config_lib.IMAGE,
    help="(default: %(default)s)",
  )  # fmt: skip
  parser.add_argument(
    "--batch_size", type=mains.positive, default=256, help="(default: %(default)s)"
  )
  parser.add_argument("--seconds", type=mains.positive, default=60, help="(default: %(default)s)")
  parser.add_argument(
    "--plot", type=pathlib.Path, metavar="FILE", help="PNG of memory over time to write"
  )
  args = parser.parse_args(argv)
  command = provenance.Command("benchmarks.input_stream_main", argv)
  try:
    result = measure(
      args.datasets.split(","),
      args.data_dir,
      args.cache_dir,
      args.observation,
      args.batch_size,
      args.seconds,
    )
  except (experience.DatasetError, tables.TableError) as error:
    parser.error(str(error))
  if args.plot:
    plot(result, args.plot)
  print(json.dumps({**command.entry(), "seed": _SEED, **result}, indent=1))
  return 0


if __name__ == "__main__":
  sys.exit(main())
