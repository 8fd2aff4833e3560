"""Tests of the benchmark of the training step: its count of operations, and what it prints."""

import dataclasses
import json

import numpy as np
import pytest

from benchmarks import training_step_main
from cog_agents import config, cql


def test_operations_of_a_small_step_by_hand():
  small = dataclasses.replace(
    config.PAPER, batch_size=2, q_hidden_sizes=(4, 3), policy_hidden_sizes=(5,)
  )
  embedding, action, heads = 2 * 10 * 4, 2 * 8 * 4, 2 * (4 * 3 + 3 * 1)
  policy, policy_first = 2 * (10 * 5 + 5 * 16), 2 * 10 * 5
  at_next = 2 * (embedding + action + heads) + policy
  critics = 2 * (2 * embedding + 4 * (2 * action + 3 * heads))
  actor = 3 * policy - policy_first
  values = 2 * 2 * (action + heads)
  expected = 2 * (at_next + critics + actor + values)
  assert training_step_main.flops_per_step(small, 10, has_image=False) == expected


def test_convolutions_count_by_hand():
  one = dataclasses.replace(config.PAPER, batch_size=1, conv_filters=(16,))
  two = dataclasses.replace(one, conv_filters=(16, 16))
  first, second = 2 * 9 * 3 * 16 * 48**2, 2 * 9 * 16 * 16 * 24**2
  counts = [training_step_main.flops_per_step(c, 10, has_image=True) for c in (one, two)]
  # Six passes forward, and for three networks one backward for inputs and one for weights.
  assert counts[1] - counts[0] == 6 * second + 3 * 2 * second
  none = training_step_main.flops_per_step(one, 10, has_image=False)
  embedding, policy_first = 2 * 10 * 1024, 2 * 10 * 1024
  assert counts[0] - none == 6 * first + 3 * first + 2 * embedding + policy_first


def test_a_step_of_the_paper_has_the_operations_that_were_expected():
  flops = training_step_main.flops_per_step(config.RELEASED_CODE, 12 * 12 * 16, has_image=True)
  assert flops == pytest.approx(42e9, rel=0.05)  # of batch 256, estimated before this was written


@pytest.mark.parametrize("observation", config.OBSERVATIONS)
def test_the_stock_agent_has_the_layers_of_ours(observation, tmp_path, monkeypatch):
  monkeypatch.setattr(training_step_main, "_TRANSITIONS", 50)
  data = training_step_main.synthetic_experience(observation, tmp_path)
  small = dataclasses.replace(config.load_preset("RELEASED_CODE", observation), batch_size=2)
  stock = training_step_main.stock_agent(data, small)
  ours = cql.create(data.observation_spec, small, data.statistics, seed=0)

  def sizes(agent):
    networks = (agent._critic_network_1, agent._critic_network_2, agent._actor_network)
    return [sum(np.prod(v.shape) for v in net.trainable_variables) for net in networks]

  assert sizes(stock) == sizes(ours)


def test_images_are_cropped_in_the_stream_or_in_the_step(tmp_path, monkeypatch):
  monkeypatch.setattr(training_step_main, "_TRANSITIONS", 50)
  data = training_step_main.synthetic_experience("image", tmp_path)
  small = dataclasses.replace(config.RELEASED_CODE, batch_size=4)
  plain, cropped = (
    next(iter(stream(data, small))).time_step.observation["image"].numpy()
    for stream in (training_step_main._stream, training_step_main._cropped_stream)
  )
  assert plain.shape == cropped.shape
  assert plain.dtype == cropped.dtype
  # Shifted images have rows or columns of zeros, where random ones have none.
  assert (plain.mean(axis=(2, 3)) > 0).all() and (plain.mean(axis=(1, 3)) > 0).all()
  assert not ((cropped.mean(axis=(2, 3)) > 0).all() and (cropped.mean(axis=(1, 3)) > 0).all())


def test_it_prints_one_object(capsys, monkeypatch):
  monkeypatch.setattr(training_step_main, "_MATMUL_SIZE", 64)
  monkeypatch.setattr(training_step_main, "_TRANSITIONS", 50)
  flags = ["--observation=image", "--batch_size=4", "--steps=1", "--rounds=1"]
  assert training_step_main.main(flags) == 0
  result = json.loads(capsys.readouterr().out)
  ours = {"float32", "bfloat16", "float32_same_work", "bfloat16_same_work"}
  assert result["steps_per_second"].keys() == {"stock"} | ours
  assert result["peak_flops"].keys() == {"float32", "bfloat16"}
  for name in ours:
    speed = result["steps_per_second"][name]
    of_same_work = "_same_work" if name.endswith("_same_work") else ""
    flops = speed * result["flops_per_step" + of_same_work]
    assert result["achieved_flops"][name] == pytest.approx(flops, rel=0.1)
    assert result["times_stock"][name] == pytest.approx(
      speed / result["steps_per_second"]["stock"], rel=0.1
    )
  # An action fewer in the log-sum-exp.
  assert result["flops_per_step_same_work"] < result["flops_per_step"]
