"""What else a stream of uniformly drawn transitions could be made of, and how fast that is.

  python -m benchmarks.stream_designs_main --dataset=cog_drawer_prior/closed --data_dir=DIR

Every design yields batches of 256 (image, next image, action) of single steps, in a process of its
own. Only the shuffle buffer's draws are not exactly uniform, and cannot be repeated.
"""

import argparse
import concurrent.futures
import json
import multiprocessing
import os
import resource
import sys
import tempfile
import time
from collections.abc import Callable

import numpy as np
import rlds
import tensorflow as tf
import tensorflow_datasets as tfds
from array_record.python import array_record_module

from cog_agents import experience, mains, provenance
from collection import specs

_BATCH_SIZE = 256
_SEED = 0  # of the draws
_SHUFFLE_BUFFER = 20_000  # transitions
_OPEN_EPISODES = 16
_REWARDS = f"{rlds.STEPS}/{rlds.REWARD}"  # in a serialised episode
_MEGABYTE = 1 << 20


def table_read(data: experience.Experience, builder, folder: str) -> tf.data.Dataset:
  """Frames decoded once into a table, of which each row is read by its offset: as in training."""
  del builder, folder
  return data.dataset(_BATCH_SIZE, seed=_SEED)


def table_mapped(data: experience.Experience, builder, folder: str) -> tf.data.Dataset:
  """The same table, mapped into memory."""
  del builder, folder
  (path,) = data.observations[specs.IMAGE].paths
  frames = np.load(path, mmap_mode="r")

  def batch(k):
    rows = np.random.default_rng(k).integers(data.num_transitions, size=_BATCH_SIZE)
    return frames[data.first[rows]], frames[data.last[rows]], data.actions[rows]

  types = (tf.uint8, tf.uint8, tf.float32)
  numbers = tf.data.Dataset.range(np.iinfo(np.int64).max)
  return numbers.map(lambda k: tf.numpy_function(batch, [k], types), os.cpu_count())


def shuffle_buffer(data: experience.Experience, builder, folder: str) -> tf.data.Dataset:
  """RLDS's own: episodes are cut into pairs of steps, and these are mixed in a buffer."""
  del data, folder

  def transitions(episode):
    pairs = rlds.transformations.batch(episode[rlds.STEPS], size=2, shift=1, drop_remainder=True)
    return pairs.map(
      lambda pair: (*tf.unstack(pair[rlds.OBSERVATION][specs.IMAGE], 2), pair[rlds.ACTION][0])
    )

  episodes = builder.as_dataset(split="train", shuffle_files=True).repeat()
  mixed = episodes.interleave(transitions, _OPEN_EPISODES, num_parallel_calls=tf.data.AUTOTUNE)
  return mixed.shuffle(_SHUFFLE_BUFFER).batch(_BATCH_SIZE)


def array_record(data: experience.Experience, builder, folder: str) -> tf.data.Dataset:
  """Episodes in ArrayRecord, read by their number; the two frames of a transition are decoded."""
  path = os.path.join(folder, "episodes.array_record")
  writer = array_record_module.ArrayRecordWriter(path, "group_size:1")
  files = [os.fspath(file) for file in builder.info.splits["train"].filepaths]
  lengths = []  # transitions of each episode: not in the order of the table, which mixes the files
  for example in tf.data.TFRecordDataset(files).as_numpy_iterator():
    writer.write(example)
    rewards = tf.train.Example.FromString(example).features.feature[_REWARDS]
    lengths.append(len(rewards.float_list.value) - 1)
  writer.close()
  reader = array_record_module.ArrayRecordReader(path, "readahead_buffer_size:0")
  ends = np.cumsum(lengths)
  features = builder.info.features
  decode = features[rlds.STEPS].feature[rlds.OBSERVATION][specs.IMAGE].decode_example

  def read(k):
    row = np.random.default_rng(k).integers(ends[-1])
    episode = np.searchsorted(ends, row, side="right")
    return reader.read([int(episode)])[0], row - ends[episode] + lengths[episode]

  def transition(example, t):
    episode = features.deserialize_example(
      tf.ensure_shape(example, ()), decoders={rlds.STEPS: tfds.decode.SkipDecoding()}
    )
    steps = episode[rlds.STEPS]
    images = steps[rlds.OBSERVATION][specs.IMAGE]
    return decode(images[t]), decode(images[t + 1]), steps[rlds.ACTION][t]

  numbers = tf.data.Dataset.range(np.iinfo(np.int64).max)
  examples = numbers.map(lambda k: tf.numpy_function(read, [k], (tf.string, tf.int64)))
  return examples.map(transition, tf.data.AUTOTUNE).batch(_BATCH_SIZE)


DESIGNS: dict[str, Callable[..., tf.data.Dataset]] = {
  design.__name__: design for design in (table_read, table_mapped, shuffle_buffer, array_record)
}


def measure(design: str, name: str, data_dir: str | None, cache_dir: str | None, seconds: float):
  """Returns the entry of a design in the JSON object."""
  data = experience.load(
    [name], data_dir=data_dir, observation_keys=(specs.IMAGE,), cache_dir=cache_dir
  )
  builder = experience.find(name, data_dir)
  with tempfile.TemporaryDirectory() as folder:
    started = time.monotonic()
    batches = iter(DESIGNS[design](data, builder, folder).prefetch(2))
    next(batches)
    first = time.monotonic()
    count = 0
    while (passed := time.monotonic() - first) < seconds:
      next(batches)
      count += 1
  peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
  return {
    "transitions_per_second": round(count * _BATCH_SIZE / passed, 1),
    "first_batch_seconds": round(first - started, 2),
    "peak_rss_mb": round(peak / _MEGABYTE),
  }


def main(argv: list[str] | None = None) -> int:
  parser = argparse.ArgumentParser(
    prog="python -m benchmarks.stream_designs_main",
    description="Draws transitions with images from one dataset in several ways. Prints one JSON "
    "object: for each design transitions a second, seconds to the first batch once the design can "
    "begin, and peak memory, mapped pages included.",
  )
  parser.add_argument("--dataset", metavar="NAME[/CONFIG]", required=True)
  parser.add_argument("--data_dir", help="TFDS data directory (default: TFDS's own)")
  parser.add_argument("--cache_dir", help="as of train_main")
  parser.add_argument(
    "--seconds", type=mains.positive, default=30, help="of each design (default: %(default)s)"
  )
  command = provenance.Command("benchmarks.stream_designs_main", argv)
  args = parser.parse_args(argv)
  try:
    experience.find(args.dataset, args.data_dir)
  except experience.DatasetError as error:
    parser.error(str(error))
  result = {}
  for design in DESIGNS:
    with concurrent.futures.ProcessPoolExecutor(
      1, mp_context=multiprocessing.get_context("spawn")
    ) as process:
      arguments = (design, args.dataset, args.data_dir, args.cache_dir, args.seconds)
      result[design] = process.submit(measure, *arguments).result()
  shared = {"seed": _SEED, "dataset": args.dataset, "batch_size": _BATCH_SIZE}
  print(json.dumps({**command.entry(), **shared, "designs": result}, indent=1))
  return 0


if __name__ == "__main__":
  sys.exit(main())
