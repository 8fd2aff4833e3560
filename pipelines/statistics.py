"""Statistics of a prepared dataset, as one Beam job."""

import json
from typing import Any

import apache_beam as beam
import tensorflow_datasets as tfds
from apache_beam.options import pipeline_options
from etils import epath

from cog_datasets import prepared, progress, statistics
from cog_datasets import shards as shards_lib


def compute(
  source: tfds.core.DatasetBuilder,
  options: pipeline_options.PipelineOptions | None = None,
) -> dict[str, Any]:
  """Returns the content of statistics.json.

  Args:
    source: see prepared.find.
    options: Beam's; None: every core of this machine.

  Raises:
    ValueError: if a file is missing; the message names it.
  """
  prepared.shards(source)
  parts = prepared.parts(source)
  num_episodes = sum(part.stop - part.start for part in parts)
  folder = epath.Path(source.data_dir)
  report = folder.parent / f".statistics_{folder.name}.jsonl"
  environment = statistics.environment(source)
  with (
    progress.shared_counter(num_episodes, f"Statistics of {source.info.full_name}") as counter_path,
    beam.Pipeline(options=shards_lib.local_options(options, num_episodes)) as pipeline,
  ):
    _ = (
      pipeline
      | "Parts" >> beam.Create(parts, reshuffle=True)
      | beam.ParDo(CountPart(str(folder), counter_path))
      | beam.CombinePerKey(statistics.merge)
      | beam.MapTuple(
        lambda split, merged: json.dumps({split: statistics.summary(merged, environment)})
      )
      | beam.io.WriteToText(str(report), shard_name_template="")
    )
  lines = report.read_text().splitlines()
  report.unlink()
  summaries = {split: summary for line in lines for split, summary in json.loads(line).items()}
  return statistics.document(source, summaries)


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
      statistics.of_episodes(prepared.episodes(self._builder, part, with_images=False)),
    )
    progress.increment(self._counter_path, part.stop - part.start)
