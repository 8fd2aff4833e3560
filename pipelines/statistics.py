"""Statistics of a prepared dataset, as one Beam job."""

from typing import Any

import apache_beam as beam
import tensorflow_datasets as tfds
from apache_beam.options import pipeline_options

from cog_datasets import dataset_statistics, prepared, progress
from cog_datasets import shards as shards_lib
from pipelines import results


def compute(
  source: tfds.core.DatasetBuilder,
  options: pipeline_options.PipelineOptions | None = None,
) -> dict[str, Any]:
  """Returns the content of statistics.json.

  Args:
    source: see prepared.find.
    options: Beam's; None: every core of this machine.

  Raises:
    ValueError: see prepared.check_files.
  """
  prepared.check_files(source)
  parts = prepared.parts(source)
  num_episodes = sum(part.stop - part.start for part in parts)
  environment = dataset_statistics.environment(source)
  with results.file(source, "statistics") as path:
    with (
      progress.shared_counter(num_episodes, f"Statistics of {source.info.full_name}") as counter,
      beam.Pipeline(options=shards_lib.local_options(options, num_episodes)) as pipeline,
    ):
      _ = (
        pipeline
        | "Parts" >> beam.Create(parts, reshuffle=True)
        | beam.ParDo(CountPart(str(source.data_dir), counter))
        | beam.CombinePerKey(dataset_statistics.merge)
        | beam.MapTuple(
          lambda split, merged: [split, dataset_statistics.summary(merged, environment)]
        )
        | results.Write(path)
      )
    return dataset_statistics.document(source, dict(results.read(path)))


class CountPart(beam.DoFn):
  """Part → (its split, the statistics of its episodes)."""

  def __init__(self, folder: str, counter_path: str):
    self._folder = folder
    self._counter_path = counter_path

  def setup(self):
    self._builder = tfds.builder_from_directory(self._folder)

  def process(self, part: prepared.Part):
    progress.check_followed(self._counter_path)
    yield (
      part.split,
      dataset_statistics.of_episodes(prepared.episodes(self._builder, part, with_images=False)),
    )
    progress.increment(self._counter_path, part.stop - part.start)
