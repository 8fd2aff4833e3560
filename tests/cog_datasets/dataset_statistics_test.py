"""Tests of the statistics of a dataset, against numpy over all of its steps at once."""

import itertools

import numpy as np
import pytest
import rlds

from cog_datasets import dataset_statistics, prepared, schema
from pipelines import statistics as statistics_job
from tests.pipelines import datasets


@pytest.fixture(name="builder", scope="module")
def _builder(tmp_path_factory):
  folder = datasets.build("cog_pickplace_task", tmp_path_factory.mktemp("data"))
  return prepared.find(str(folder))


@pytest.fixture(name="episodes", scope="module")
def _episodes(builder) -> list[dict]:
  train = prepared.Part("train", 0, datasets.NUM_EPISODES)
  return list(prepared.episodes(builder, train))


@pytest.fixture(name="train", scope="module")
def _train(builder) -> dict:
  return dataset_statistics.read_or_compute(builder)["splits"]["train"]


def test_counts_and_distributions(train, episodes):
  rewards = np.stack([episode[rlds.STEPS][rlds.REWARD][:-1] for episode in episodes])
  assert (train["episodes"], train["transitions"]) == (len(episodes), rewards.size)
  assert train["success_rate"] == np.mean(rewards.any(axis=1))
  assert train["lengths"] == {"30": len(episodes)}
  values, counts = np.unique(rewards.sum(axis=1), return_counts=True)
  assert train["returns"] == {f"{v:g}": c for v, c in zip(values, counts, strict=True)}


def test_outcomes_by_behaviour(train, episodes):
  assert list(train["behaviours"]) == ["place"]
  found = train["behaviours"]["place"]
  placed = [episode[rlds.STEPS][schema.OUTCOME]["placed"].any() for episode in episodes]
  assert found["outcomes"]["placed"] == found["success_rate"] == np.mean(placed)


@pytest.mark.parametrize(
  ("name", "of_step"),
  [
    ("action", lambda steps: steps[rlds.ACTION][:-1]),
    ("observation/state", lambda steps: steps[rlds.OBSERVATION]["state"]),
    ("observation/simulator_state", lambda steps: steps[rlds.OBSERVATION]["simulator_state"]),
  ],
)
def test_moments_and_quantiles_of(name, of_step, train, episodes):
  values = np.concatenate([of_step(episode[rlds.STEPS]) for episode in episodes])
  found = train["fields"][name]
  assert len(found["dimensions"]) == values.shape[1]
  wide = values.astype(np.float64)
  np.testing.assert_allclose(found["mean"], wide.mean(axis=0), rtol=1e-5, atol=1e-12)
  np.testing.assert_allclose(found["std"], wide.std(axis=0), rtol=1e-4, atol=1e-7)
  np.testing.assert_allclose(found["min"], wide.min(axis=0), rtol=1e-5)
  np.testing.assert_allclose(found["max"], wide.max(axis=0), rtol=1e-5)
  for q in dataset_statistics.QUANTILES:
    exact = np.quantile(wide, q, axis=0, method="inverted_cdf")
    np.testing.assert_allclose(found["quantiles"][str(q)], exact, rtol=2**-9, atol=1e-30)


def test_dimensions_have_the_names_of_the_scene(train):
  assert train["fields"]["action"]["dimensions"][:3] == ["x", "y", "z"]
  assert "object x [m]" in train["fields"]["observation/simulator_state"]["dimensions"]


def test_histograms_of_actions(train, episodes):
  actions = np.concatenate([episode[rlds.STEPS][rlds.ACTION][:-1] for episode in episodes])
  histogram = train["fields"]["action"]["histogram"]
  for column, counts in zip(actions.T, histogram["counts"], strict=True):
    assert counts == np.histogram(column, histogram["edges"])[0].tolist()


def test_the_order_and_the_grouping_of_the_parts_change_nothing(builder):
  parts = [
    dataset_statistics.of_episodes(prepared.episodes(builder, part, with_images=False))
    for part in prepared.parts(builder)
  ]
  expected = dataset_statistics.summary(dataset_statistics.merge(parts), "place_in_tray")
  for order in itertools.islice(itertools.permutations(parts), 0, 5000, 1000):
    grouped = [dataset_statistics.merge(order[:3]), dataset_statistics.merge(order[3:])]
    assert (
      dataset_statistics.summary(dataset_statistics.merge(grouped), "place_in_tray") == expected
    )


def test_the_job_finds_the_same(builder):
  assert statistics_job.compute(builder) == dataset_statistics.read_or_compute(builder)


def test_an_unknown_environment_leaves_dimensions_without_names(episodes):
  found = dataset_statistics.summary(dataset_statistics.of_episodes(episodes), "elsewhere")
  assert found["fields"]["observation/simulator_state"]["dimensions"][:2] == ["0", "1"]


def test_values_that_are_not_finite_are_an_error_that_says_who_finds_them(episodes):
  steps = {**episodes[0][rlds.STEPS], rlds.ACTION: episodes[0][rlds.STEPS][rlds.ACTION].copy()}
  steps[rlds.ACTION][3, 2] = np.nan
  with pytest.raises(ValueError, match="action has values that are not finite: validate_main"):
    dataset_statistics.of_episodes([{**episodes[0], rlds.STEPS: steps}])
