"""What a job hands back to who started it: JSON lines in a file that all machines can write."""

import contextlib
import json
from collections.abc import Iterator
from typing import Any

import apache_beam as beam
import tensorflow_datasets as tfds
from etils import epath


class Write(beam.PTransform):
  """Writes each element, anything that JSON has, as a line of one file."""

  def __init__(self, path: epath.Path):
    super().__init__()
    self._path = str(path)

  def expand(self, elements):
    lines = elements | beam.Map(json.dumps)
    return lines | beam.io.WriteToText(self._path, shard_name_template="")


def read(path: epath.Path) -> list[Any]:
  return [json.loads(line) for line in path.read_text().splitlines()]


@contextlib.contextmanager
def file(source: tfds.core.DatasetBuilder, job: str) -> Iterator[epath.Path]:
  """Yields a path beside the dataset's folder; removes what a killed job left there."""
  dataset = epath.Path(source.data_dir)
  folder = dataset.parent / f".{job}_{dataset.name}"
  folder.rmtree(missing_ok=True)
  folder.mkdir()
  try:
    yield folder / "results.jsonl"
  finally:
    folder.rmtree()
