"""Scripts: success rates of the paper, noise, neutral endings, recorded episodes."""

import functools
import json

import numpy as np
import pytest

from collection import drawer_scene, recorder, registry, scripted_policies, scripted_policy, specs

RUNS = {  # script → environment it is made for
  "grasp": "place_in_tray",
  "grasp_and_hold": "place_in_tray",
  "pick_and_place": "place_in_tray",
  "pick_and_place_outside": "place_in_tray",
  "place": "place_in_tray_held",
  "random": "place_in_tray",
  "grasp_from_drawer": "drawer_open",
  "open_drawer": "drawer_closed",
  "close_drawer": "drawer_open",
  "open_upper_drawer": "drawer_closed",
  "close_upper_drawer": "drawer_blocked_1",
  "close_then_open_drawer": "drawer_blocked_1",
  "pick_and_place_bottle": "drawer_blocked_2",
  "block_drawer": "drawer_closed",
  "pick_and_place_other": "drawer_closed",
}
LENGTHS = {  # steps of the scripts that take more than the paper's 30
  "close_drawer": 40,
  "close_then_open_drawer": 60,
  "pick_and_place_bottle": 50,
  "block_drawer": 50,
  "pick_and_place_other": 50,
}
# Success rates in 600 episodes of other seeds than those below, in the environments of RUNS:
# collect_main with --first_seed=1000 prints them. The paper has 0.4 to 0.5 for both drawers and
# about 0.7 for grasping in their scene.
MEASURED_EPISODES = 600
NUM_EPISODES = 45  # of each measurement here
MEASURED = {
  "grasp_from_drawer": 0.688,
  "open_drawer": 0.497,
  "close_drawer": 0.498,
  "open_upper_drawer": 0.400,
  "close_upper_drawer": 0.478,
  "close_then_open_drawer": 0.458,
  "pick_and_place_bottle": 0.693,
  "pick_and_place_other": 0.632,
}
KEYS = (specs.STATE, specs.SIMULATOR_STATE)
DROPS_IN_TRAY = (0.740, 0.063)  # metres, their middle

each_script = pytest.mark.parametrize("script", RUNS)


def _record(
  script: str, count: int, first_seed: int = 0, name: str | None = None
) -> list[recorder.Episode]:
  name = name or RUNS[script]
  environment = registry.load(name, observation_keys=KEYS)
  episodes = [
    recorder.record_episode(name, environment, script, first_seed + i) for i in range(count)
  ]
  environment.close()
  return episodes


_episodes = functools.cache(_record)  # what several tests look at is recorded once


def _rate(episodes, outcome: str) -> float:
  return float(np.mean([episode.outcomes[outcome].any() for episode in episodes]))


def _drop_points(episodes) -> np.ndarray:
  """(N, 3), in metres."""
  return np.array([json.loads(episode.agent_id)["drop_position"] for episode in episodes])


def test_every_script_is_tested():
  assert set(RUNS) == set(scripted_policies.SCRIPTS)


@each_script
def test_an_episode_is_a_function_of_its_seed(script):
  (first,) = _record(script, 1, first_seed=5)
  again, other = _record(script, 2, first_seed=5)
  for key in KEYS:
    assert np.array_equal(first.observations[key], again.observations[key])
  assert np.array_equal(first.actions, again.actions)
  assert not np.array_equal(first.actions, other.actions)
  assert first.agent_id == again.agent_id


@each_script
def test_an_episode_has_the_documented_layout(script):
  (episode,) = _episodes(script, 1)
  steps = LENGTHS.get(script, 30)
  assert scripted_policies.script(script).num_timesteps == steps
  assert episode.actions.shape == (steps, 8)
  assert episode.observations[specs.STATE].shape == (steps + 1, 7)
  assert np.abs(episode.actions).max() <= scripted_policy.ACTION_LIMIT == 0.9
  task = registry.spec(RUNS[script]).task
  assert set(episode.outcomes) == set(task.outcome_specs)
  for name, (dtype, _) in task.outcome_specs.items():
    assert episode.outcomes[name].dtype == dtype
  rows = [{key: value[t] for key, value in episode.outcomes.items()} for t in range(steps)]
  assert [bool(reward) for reward in episode.rewards] == [task.success(row) for row in rows]
  assert json.loads(episode.agent_id)["script"] == episode.behaviour == script
  config = json.loads(episode.environment_config)
  in_drawers = RUNS[script].startswith("drawer")
  assert config["task"] == ("grasp_from_drawer" if in_drawers else "place_in_tray")


def test_grasp_attempts_succeed_half_of_the_time():
  # The rate of appendix A.1 (section 6.1: about 40 %). 200 episodes have a standard error of 3.5 %;
  # collect_main measures it closely.
  assert 0.42 <= _rate(_episodes("grasp", 200), "grasped") <= 0.58


def test_placing_succeeds_nine_times_in_ten():
  assert _rate(_episodes("place", 100), "placed") >= 0.86


@pytest.mark.parametrize("script", MEASURED)
def test_a_script_succeeds_as_often_as_it_was_measured_to(script):
  count, rate = NUM_EPISODES, MEASURED[script]
  # Of the difference between two measurements of a rate.
  standard_error = np.sqrt(rate * (1 - rate) * (1 / count + 1 / MEASURED_EPISODES))
  outcome = scripted_policies.script(script).success_outcome
  assert _rate(_episodes(script, count), outcome) == pytest.approx(rate, abs=3 * standard_error)


def test_nobody_opens_the_drawer_whose_handle_is_under_the_upper_one():
  # It opened in none of 600 episodes.
  episodes = _episodes("open_drawer", 40, name="drawer_blocked_1")
  assert _rate(episodes, "lower_open") == 0
  assert max(episode.outcomes["lower_opening"].max() for episode in episodes) < 0.5


@pytest.mark.parametrize("script", MEASURED)
def test_without_noise_a_script_succeeds_and_ends_at_neutral(script, monkeypatch):
  monkeypatch.setattr(scripted_policy.ScriptedPolicy, "randomness", 0.0)
  episodes = _record(script, 10)
  assert _rate(episodes, scripted_policies.script(script).success_outcome) >= 0.9
  ends = [episode.observations[specs.STATE][[0, -1], :3] for episode in episodes]
  at_neutral = [np.linalg.norm(end - start) < 0.1 for start, end in ends]
  assert np.mean(at_neutral) >= 0.8


@pytest.mark.parametrize(
  "script, count",
  [("place", 100), ("open_drawer", NUM_EPISODES), ("grasp_from_drawer", NUM_EPISODES)],
)
def test_the_noise_has_the_papers_deviation_in_every_dimension(script, count):
  actions = np.concatenate([episode.actions for episode in _episodes(script, count)])
  quiet = actions[:, specs.ROTATION]  # never intended, so all noise
  assert np.all((0.18 < quiet.std(axis=0)) & (quiet.std(axis=0) < 0.22))
  assert np.abs(quiet.mean(axis=0)).max() < 0.03


@pytest.mark.parametrize(
  "script, names",
  [
    ("grasp", ["threshold"]),
    ("place", ["drop_threshold"]),
    ("pick_and_place", ["threshold", "drop_threshold"]),
    ("grasp_from_drawer", ["threshold"]),
    ("open_drawer", ["threshold"]),
    ("pick_and_place_bottle", ["threshold", "drop_threshold"]),
  ],
)
def test_thresholds_are_drawn_anew_for_every_episode(script, names):
  # Appendix A.1: N(0.04, 0.01). The mean of 30 errs by 0.0018, the deviation by 0.0013.
  environment = registry.load(RUNS[script], observation_keys=KEYS)
  environment.reset(seed=0)
  parameters = [scripted_policies.load(script, environment, seed).parameters for seed in range(30)]
  environment.close()
  for name in names:
    thresholds = [row[name] for row in parameters]
    assert np.mean(thresholds) == pytest.approx(0.04, abs=0.006)
    assert np.std(thresholds) == pytest.approx(0.01, abs=0.004)


def test_no_drop_point_outside_lies_near_the_tray():
  x, y, _ = _drop_points(_episodes("pick_and_place_outside", 20)).T
  assert np.hypot(x - 0.5, y - 0.25).min() > 0.11


def _drop_points_of_the_bottle(script: str, count: int) -> np.ndarray:
  """(N, 2) in metres: drawn when the script is made, so nothing needs to be simulated."""
  environment = registry.load(RUNS[script], observation_keys=KEYS)
  environment.reset(seed=0)
  policies = [scripted_policies.load(script, environment, seed) for seed in range(count)]
  environment.close()
  return np.array([policy.parameters["drop_position"] for policy in policies])[:, :2]


def test_most_of_the_bottles_drop_points_are_above_its_tray_and_the_others_beside_it():
  points = _drop_points_of_the_bottle("pick_and_place_bottle", 200)
  distances = np.linalg.norm(points - DROPS_IN_TRAY, axis=1)
  above, beside = distances < 0.03, distances > 0.07
  assert np.all(above | beside)
  assert above.mean() == pytest.approx(0.8, abs=0.1)  # three standard errors
  assert np.ptp(points[beside], axis=0).min() > 0.1, "all over the table"


def test_blocking_puts_the_bottle_in_front_of_the_drawer(monkeypatch):
  x, y = _drop_points_of_the_bottle("block_drawer", 200).T
  assert x.min() > 0.53, "before the closed front"
  assert np.abs(y - 0.2).max() < 0.073, "beside the front it would block nothing"
  monkeypatch.setattr(scripted_policy.ScriptedPolicy, "randomness", 0.0)
  ends = [
    episode.observations[specs.SIMULATOR_STATE][-1] for episode in _record("block_drawer", 10)
  ]
  # A bottle that has fallen is not to be grasped by its neck.
  in_front = [state[9] < 0.7 and abs(state[10] - 0.2) < 0.073 for state in ends]
  assert np.mean(in_front) >= 0.2


def test_the_other_object_that_is_picked_is_recorded_and_varies():
  episodes = _episodes("pick_and_place_other", 8)
  targets = [json.loads(episode.agent_id)["target"] for episode in episodes]
  assert set(targets) == set(drawer_scene.OTHERS)


def test_placing_ends_at_neutral():
  for episode in _episodes("place", 100)[:10]:
    start, end = episode.observations[specs.STATE][[0, -1], :3]
    assert np.linalg.norm(end - start) < 0.1


def test_a_script_refuses_a_scene_that_is_not_its_own():
  environment = registry.load("place_in_tray", observation_keys=KEYS)
  environment.reset(seed=0)
  message = "script 'open_drawer' acts in a DrawerScene, not in a TrayScene"
  with pytest.raises(ValueError, match=message):
    scripted_policies.load("open_drawer", environment, seed=0)
  environment.close()


def test_wrong_names_list_the_known_ones():
  with pytest.raises(ValueError, match=f"'juggle'; known: {', '.join(RUNS)}$"):
    scripted_policies.script("juggle")
