"""Tests of the benchmark of stream designs, on a little dataset."""

import json

import numpy as np
import pytest

from benchmarks import stream_designs_main
from cog_agents import experience
from collection import specs
from tests import fakes


@pytest.fixture(scope="module")
def written(tmp_path_factory):
  data_dir = tmp_path_factory.mktemp("data")
  episodes = [fakes.episode("prior", i, 3 + i % 3, False, True) for i in range(40)]
  return data_dir, fakes.write_dataset(data_dir, "prior", splits={"train": episodes})


@pytest.mark.parametrize("design", stream_designs_main.DESIGNS)
def test_every_design_yields_transitions_of_the_dataset(design, written, tmp_path):
  data_dir, episodes = written
  name = {"data_dir": str(data_dir)}
  data = experience.load(["prior"], observation_keys=(specs.IMAGE,), **name)
  builder = experience.find("prior", **name)
  stream = stream_designs_main.DESIGNS[design](data, builder, str(tmp_path))
  batch = next(stream.as_numpy_iterator())
  if design == "table_read":  # in the form of training
    batch = (
      batch.time_step.observation[specs.IMAGE],
      batch.next_time_step.observation[specs.IMAGE],
      batch.action_step.action,
    )
  known = {
    (image.tobytes(), following.tobytes(), action.tobytes())
    for episode in episodes
    for image, following, action in zip(
      episode.observations[specs.IMAGE],
      episode.observations[specs.IMAGE][1:],
      episode.actions,
      strict=False,
    )
  }
  drawn = {tuple(x.tobytes() for x in row) for row in zip(*map(np.asarray, batch), strict=True)}
  assert drawn <= known and len(drawn) > 50


def test_it_prints_one_object(written, capsys):
  data_dir, _ = written
  assert stream_designs_main.main(["--dataset=prior", f"--data_dir={data_dir}", "--seconds=1"]) == 0
  result = json.loads(capsys.readouterr().out)
  assert set(result["designs"]) == set(stream_designs_main.DESIGNS)
  for design in result["designs"].values():
    assert design["transitions_per_second"] > 0 and design["peak_rss_mb"] > 100
