"""Tests on a line: task data go from 10 to 15 and earn a reward there, prior data start at 0."""

import dataclasses
import json
import shutil

import numpy as np
import pytest

from cog_agents import config as config_lib
from cog_agents import experience, stitching, stitching_main, train
from collection import specs
from tests import fakes

NUM_EPISODES, NUM_STEPS = 40, 10
PRIOR_ENDS = {
  "reaches": 10.0,  # where the task starts
  "stops_short": 4.0,
  "elsewhere": -10.0,
}


def line_episode(name, index, start, end, rewarded):
  """The first number of the state goes from start to end, the second is noise; others rest."""
  rng = np.random.default_rng([sum(name.encode()), index])
  fake = fakes.episode(name, index, NUM_STEPS)
  path = np.linspace(start, end, NUM_STEPS + 1) + rng.normal(scale=0.1, size=NUM_STEPS + 1)
  observations = {key: np.full_like(values, 0.5) for key, values in fake.observations.items()}
  observations[specs.STATE][:, 0] = path
  observations[specs.STATE][:, 1] = rng.normal(size=NUM_STEPS + 1)
  rewards = fake.rewards.copy()
  rewards[-1] = rewarded
  return dataclasses.replace(fake, observations=observations, rewards=rewards)


@pytest.fixture(name="data", scope="module")
def _data(tmp_path_factory):
  data_dir = tmp_path_factory.mktemp("data")

  def write(name, start, end, rewarded):
    episodes = [
      line_episode(name, i, start, end, rewarded and i % 4 > 0) for i in range(NUM_EPISODES)
    ]
    fakes.write_dataset(data_dir, name, splits={"train": episodes})

  for name, end in PRIOR_ENDS.items():
    write(name, 0.0, end, rewarded=False)
  write("task", 10.0, 15.0, rewarded=True)  # 3 of 4 episodes
  write("no_reward", 10.0, 15.0, rewarded=False)
  return {"data_dir": str(data_dir), "cache_dir": str(tmp_path_factory.mktemp("cache"))}


def test_prior_data_that_end_where_the_task_starts_connect(data):
  result = stitching.analyse(["reaches"], "task", **data)
  assert result["verdict"] == stitching.CONNECTED
  assert result["overlap_at_start"] > 0.6
  assert result["connected_episodes"] > 0.6
  assert result["connected_at_step"] >= 8  # the last of 11 states lies at 10
  # The task goes on beyond what prior data reach, up to the action of the reward.
  assert len(result["overlap_by_step"]) == NUM_STEPS
  assert result["overlap_by_step"][-1] == 0


@pytest.mark.parametrize("prior", ["stops_short", "elsewhere"])
def test_prior_data_that_never_come_there_do_not_connect(data, prior):
  result = stitching.analyse([prior], "task", **data)
  assert result["verdict"] == stitching.NOT_CONNECTED
  assert result["overlap_at_start"] == result["connected_episodes"] == 0
  assert result["connected_at_step"] is None
  assert min(result["distances"]["task_start"]) > 1
  assert "0.0% of the task's first states" in result["sentence"]


def test_each_prior_dataset_has_its_own_share(data):
  result = stitching.analyse(["elsewhere", "reaches"], "task", **data)
  elsewhere, reaches, task = result["datasets"]
  assert elsewhere["connected"] == 0 and reaches["connected"] > 0.6 and task["connected"] is None
  assert result["connected_episodes"] == pytest.approx(reaches["connected"] / 2)
  assert [x["transitions"] for x in result["datasets"]] == [NUM_EPISODES * NUM_STEPS] * 3
  assert result["verdict"] == stitching.CONNECTED


def test_an_analysis_is_a_function_of_its_data(data):
  first, second = (stitching.analyse(["reaches"], "task", **data) for _ in range(2))
  assert first == second


def test_episodes_are_found_with_their_first_reward(data):
  keys = config_lib.STATE_RUN_KEYS
  loaded = experience.load(("reaches", "task"), observation_keys=keys, **data)
  prior, task = stitching.episodes_of(loaded)
  assert prior.name == "reaches/1.0.0" and len(prior) == len(task) == NUM_EPISODES
  assert (prior.lengths == NUM_STEPS + 1).all() and (prior.success == -1).all()
  assert task.first.tolist() == [(NUM_EPISODES + i) * (NUM_STEPS + 1) for i in range(NUM_EPISODES)]
  assert np.count_nonzero(task.success == NUM_STEPS - 1) == NUM_EPISODES * 3 // 4
  assert len(task.until_success()) == NUM_EPISODES * 3 // 4
  assert (task.until_success().lengths == NUM_STEPS).all()


def test_distances_are_those_of_the_nearest_state():
  rng = np.random.default_rng(0)
  states = rng.normal(size=(40, 3)).astype(np.float32)
  episodes = stitching.Episodes("", np.arange(0, 40, 10), np.full(4, 10), np.full(4, -1))
  reference = stitching.Reference(states, [episodes], np.random.default_rng(1))
  # The yardstick's 95th percentile is the unit, and a state of the reference has distance 0.
  assert np.quantile(reference.yardstick, stitching.NEAR_QUANTILE) == pytest.approx(1)
  distances = reference.distances(states)
  in_reference = np.flatnonzero(distances < 1e-3)
  assert len(in_reference) == 20  # half of the episodes
  pairs = np.linalg.norm(states[:, None] - states[in_reference], axis=2).min(axis=1)
  np.testing.assert_allclose(distances, pairs / np.quantile(pairs[pairs > 0], 0.95), atol=2e-3)


def test_a_task_without_success_is_refused(data):
  with pytest.raises(
    stitching.StitchingError, match="no_reward/1.0.0 has 0 episodes with a reward"
  ):
    stitching.analyse(["reaches"], "no_reward", **data)


@pytest.fixture(name="run_dirs", scope="module")
def _run_dirs(data, tmp_path_factory):
  """Runs of few steps: of two methods, and with critics that see what the policy does not."""
  root = tmp_path_factory.mktemp("runs")
  sizes = {"batch_size": 16, "q_hidden_sizes": (16, 16), "policy_hidden_sizes": (16,)}
  agent = dataclasses.replace(config_lib.load_preset("FAST", config_lib.STATE), **sizes)
  schedule = train.Schedule(4, log_every=2, evaluate_every=0, checkpoint_every=2)
  asymmetric = dataclasses.replace(
    agent, image_run_keys=(specs.STATE,), critic_keys=(specs.SIMULATOR_STATE,)
  )
  for name, method, observation, sees in (
    ("cog", "cog", config_lib.STATE, agent),
    ("bc", "bc", config_lib.STATE, agent),
    ("asymmetric", "cog", config_lib.IMAGE, asymmetric),
  ):
    config = train.ExperimentConfig(
      "task", "place_in_tray", method, observation, 0, sees, ("reaches",)
    )
    train.train(config, schedule, root / name, data["data_dir"], data["cache_dir"])
  return root


@pytest.mark.parametrize("run", ["cog", "asymmetric"])
def test_main_writes_the_analysis_with_the_values_of_a_run(data, run_dirs, run, tmp_path, capsys):
  out = tmp_path / "stitching.json"
  flags = ["--prior=reaches", "--task=task", f"--out={out}", f"--run_dir={run_dirs / run}"]
  flags += [f"--{name}={value}" for name, value in data.items()]
  assert stitching_main.main(flags) == 0
  assert "connected: " in capsys.readouterr().out
  values = json.loads(out.read_text())["values"]
  assert values["steps"] == 4
  levels = len(json.loads(out.read_text())["levels"])
  for name in ("prior_start", "connection", "task_start"):
    assert len(values[name]) == levels and values[name] == sorted(values[name])
  loaded = experience.load(
    ["reaches", "task"], observation_keys=(specs.STATE, specs.SIMULATOR_STATE), **data
  )
  builder = experience.find("task", data["data_dir"])
  agent = stitching._Run(run_dirs / run, builder).agent(loaded)
  starts = loaded.first[loaded.episode_starts[NUM_EPISODES:]]
  first = {key: array[starts] for key, array in loaded.observations.items()}
  expected = np.quantile(agent.values(first), [0, 1])
  np.testing.assert_allclose(np.array(values["task_start"])[[0, -1]], expected, rtol=1e-4)


def _refused(flags, data, capsys) -> str:
  with pytest.raises(SystemExit) as exit_info:
    stitching_main.main([*flags, *(f"--{name}={value}" for name, value in data.items())])
  assert exit_info.value.code == 2
  return capsys.readouterr().err


def test_main_refuses_a_run_without_values_and_says_why(data, run_dirs, tmp_path, capsys):
  out = tmp_path / "stitching.json"
  flags = ["--prior=reaches", "--task=task", f"--out={out}", f"--run_dir={run_dirs / 'bc'}"]
  assert "is a run of 'bc', which learns no values" in _refused(flags, data, capsys)
  assert not out.exists()


def test_main_refuses_a_run_of_other_sizes_or_of_another_task(data, run_dirs, tmp_path, capsys):
  flags = ["--prior=reaches", "--task=task", f"--out={tmp_path / 'out.json'}"]
  shutil.copytree(run_dirs / "cog", tmp_path / "other")
  config = json.loads((tmp_path / "other" / "config.json").read_text())
  config["agent"]["q_hidden_sizes"] = [16, 8]
  (tmp_path / "other" / "config.json").write_text(json.dumps(config))
  message = _refused([*flags, f"--run_dir={tmp_path / 'other'}"], data, capsys)
  assert "checkpoints/ckpt-4 does not fit the agent" in message
  drawer = {**data, "data_dir": str(tmp_path / "data")}
  for name in ("reaches", "task"):
    fakes.write_dataset(tmp_path / "data", name, environment="drawer_open")
  message = _refused([*flags, f"--run_dir={run_dirs / 'cog'}"], drawer, capsys)
  assert "task/1.0.0 was recorded in 'drawer_open', for another task than that of" in message


@pytest.mark.parametrize("prior", ["", ","])
def test_main_refuses_no_prior_data(prior, data, tmp_path, capsys):
  flags = [f"--prior={prior}", "--task=task", f"--out={tmp_path / 'out.json'}"]
  assert f"--prior={prior}: expected the name of a dataset" in _refused(flags, data, capsys)
