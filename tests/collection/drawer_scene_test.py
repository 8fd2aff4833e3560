"""The drawer scene: conditions that are what they say, variety, physics that holds."""

import functools

import numpy as np
import pytest

from collection import drawer_policies, drawer_scene, recorder, registry, scenes, specs, tasks
from collection.drawer_scene import BOTTLE, OTHERS

ENVIRONMENTS = ("drawer_open", "drawer_closed", "drawer_blocked_1", "drawer_blocked_2")
KEYS = (specs.STATE, specs.SIMULATOR_STATE)
THINGS = (scenes.OBJECT, BOTTLE, *OTHERS)
HAND_SPEED = 1.3  # m/s, which the arm does not exceed: a thing that it knocks is at most as fast
# Indices of `simulator_state`: two openings, then the poses of THINGS.
POSE = {name: slice(2 + 7 * i, 9 + 7 * i) for i, name in enumerate(THINGS)}

each_environment = pytest.mark.parametrize("name", ENVIRONMENTS)


@functools.cache
def _environment(name: str):
  """Made once for this file: a reset loads everything anew."""
  return registry.load(name, observation_keys=KEYS)


def _reset(name: str, seed: int):
  environment = _environment(name)
  environment.reset(seed=seed)
  return environment


def _action(*translation: float) -> np.ndarray:
  action = np.zeros(specs.ACTION_SIZE, np.float32)
  action[specs.TRANSLATION] = translation
  return action


def _upward(pose: np.ndarray) -> float:
  """Vertical component of the axis that pointed up in the urdf: 1 upright, 0 lying."""
  x, y = pose[3:5]
  return 1 - 2 * (x**2 + y**2)


def _in_lower_drawer(state: np.ndarray) -> bool:
  """Whether the object's centre is between the walls, from a simulator_state."""
  depth, width, height = drawer_scene.DRAWER_SIZE
  front = drawer_scene.FRONT_X + drawer_scene.TRAVEL * state[drawer_scene.LOWER]
  x, y, z = state[POSE[scenes.OBJECT]][:3]
  return (
    front - depth < x < front
    and abs(y - drawer_scene.CABINET_CENTER_Y) < width / 2
    and drawer_scene.LOWER_FLOOR < z < drawer_scene.LOWER_FLOOR + height
  )


def _slip(state: np.ndarray, start: np.ndarray) -> float:
  """How far the object has moved since `start` beside what its drawer has moved, in metres."""
  moved = (state - start)[POSE[scenes.OBJECT]][:3]
  moved[0] -= drawer_scene.TRAVEL * (state - start)[drawer_scene.LOWER]
  return float(np.linalg.norm(moved))


@pytest.mark.parametrize(
  "name, lower, upper",
  [
    ("drawer_open", (0.95, 1.0), (0.0, 0.05)),
    ("drawer_closed", (0.0, 0.05), (0.0, 0.05)),
    ("drawer_blocked_1", (0.0, 0.05), (0.5, 0.65)),  # the upper one half open
    ("drawer_blocked_2", (0.0, 0.05), (0.0, 0.05)),
  ],
)
def test_the_drawers_start_as_far_open_as_the_condition_says(name, lower, upper):
  for seed in range(20):
    openings = _reset(name, seed).scene.simulator_state()[:2]
    for opening, (low, high) in zip(openings, (lower, upper), strict=True):
      assert low - 0.005 <= opening <= high + 0.005, (seed, openings)


def test_the_half_open_upper_drawer_is_above_the_handle_of_the_lower_one():
  lower, upper = drawer_scene.LOWER, drawer_scene.UPPER
  for seed in range(20):
    scene = _reset("drawer_blocked_1", seed).scene
    bar, front = scene.handle_position(lower), scene.handle_position(upper)
    # A finger is 1 cm thick: it fits neither before nor behind the bar without the front's consent.
    assert abs(bar[0] - front[0]) < 0.015
    assert bar[2] < front[2]


def test_the_bottle_that_blocks_stands_between_the_front_and_the_handle():
  for seed in range(20):
    environment = _reset("drawer_blocked_2", seed)
    scene, pose = environment.scene, np.array(environment.scene.pose(BOTTLE))
    bar = scene.handle_position(drawer_scene.LOWER)
    assert _upward(pose) > 0.999
    assert pose[2] == pytest.approx(-0.38 + 0.035, abs=0.002), "on the table"
    assert 0.53 < pose[0] < bar[0]
    assert abs(pose[1] - bar[1]) < 0.015
    assert pose[2] + 0.035 + 0.05 > bar[2], "taller than the handle"
    assert not scene.bottle_in_tray()
    assert not environment.task.outcome(scene)["bottle_placed"]


@pytest.mark.parametrize("name", ["drawer_open", "drawer_closed", "drawer_blocked_1"])
def test_a_bottle_that_does_not_block_is_in_its_tray_standing_or_fallen_at_rest(name):
  upward = []
  for seed in range(20):
    environment = _reset(name, seed)
    assert environment.task.outcome(environment.scene)["bottle_placed"], seed
    earlier = environment.scene.simulator_state()[POSE[BOTTLE]]
    later = _after_doing_nothing(environment, 12)[POSE[BOTTLE]]  # half a second
    # The handle of an open drawer, which is above the tray, pushes 2 of 100 bottles by up to 4 cm:
    # fallen ones that would lie under it.
    by_handle = name == "drawer_open" and _upward(earlier) < 0.5
    assert np.linalg.norm(later[:3] - earlier[:3]) < (0.05 if by_handle else 0.005), seed
    assert environment.scene.bottle_in_tray(), seed
    upward.append(_upward(later))
  assert any(share > 0.8 for share in upward) and any(share < 0.5 for share in upward)


def _after_doing_nothing(environment, steps: int) -> np.ndarray:
  """The simulator_state after so many zero actions."""
  for _ in range(steps):
    observation, *_ = environment.step(np.zeros(specs.ACTION_SIZE, np.float32))
  return observation[specs.SIMULATOR_STATE]


@each_environment
def test_the_object_starts_in_the_lower_drawer_untouched_and_not_taken_out(name):
  for seed in range(20):
    environment = _reset(name, seed)
    assert _in_lower_drawer(environment.scene.simulator_state()), seed
    outcome = environment.task.outcome(environment.scene)
    assert not outcome["object_touched"]
    assert not environment.task.success(outcome)


@each_environment
def test_the_other_objects_start_on_the_table_apart_from_all_else(name):
  for seed in range(20):
    scene = _reset(name, seed).scene
    places = {thing: scene.position(thing) for thing in THINGS}
    for other in OTHERS:
      assert -0.38 < places[other][2] < -0.38 + 0.025
      neighbours = [places[thing] for thing in THINGS if thing != other]
      assert min(np.linalg.norm(places[other] - place) for place in neighbours) > 0.05


@each_environment
def test_places_and_images_vary_with_the_seed(name):
  states, images = [], []
  for seed in range(8):
    scene = _reset(name, seed).scene
    states.append(scene.simulator_state())
    images.append(scene.image().tobytes())
  assert len(set(images)) == 8
  for thing in THINGS:
    assert len({tuple(state[POSE[thing]]) for state in states}) == 8, thing
  if name in ("drawer_open", "drawer_blocked_1"):
    opening = drawer_scene.LOWER if name == "drawer_open" else drawer_scene.UPPER
    assert len({state[opening] for state in states}) == 8


def test_the_simulator_state_is_the_openings_and_the_poses_in_the_documented_order():
  scene = _reset("drawer_blocked_1", 3).scene
  dimensions, state = scene.simulator_state_dimensions, scene.simulator_state()
  assert dimensions[0].startswith("lower") and dimensions[1].startswith("upper")
  for thing, pose in POSE.items():
    assert all(dimension.startswith(thing) for dimension in dimensions[pose])
    np.testing.assert_allclose(state[pose], scene.pose(thing), atol=1e-6)
    assert np.linalg.norm(state[pose][3:]) == pytest.approx(1, abs=1e-5)
    assert state[pose][6] >= 0


@each_environment
def test_nothing_moves_while_the_arm_does_nothing(name):
  for seed in range(3):
    environment = _reset(name, seed)
    start = environment.scene.simulator_state()
    state = _after_doing_nothing(environment, 80)
    np.testing.assert_allclose(state[:2], start[:2], atol=0.005)
    for thing, pose in POSE.items():
      if thing != BOTTLE or name == "drawer_blocked_2":  # in its tray, it may still be settling
        assert np.linalg.norm((state - start)[pose][:3]) < 0.002, thing


@each_environment
def test_no_drawer_moves_while_the_arm_waves_above(name):
  for seed in range(3):
    environment = _reset(name, seed)
    start = environment.scene.simulator_state()
    generator = np.random.default_rng(seed)
    for _ in range(80):
      action = generator.uniform(-1, 1, specs.ACTION_SIZE).astype(np.float32)
      action[2], action[specs.NEUTRAL] = 1, 0  # upwards; the move to neutral would lead down
      state = environment.step(action)[0][specs.SIMULATOR_STATE]
    np.testing.assert_allclose(state[:2], start[:2], atol=0.005)


def _move_to(environment, place: tuple[float, float, float]) -> None:
  for _ in range(25):
    distance = place - environment.scene.arm.end_effector_pose()[0]
    environment.step(_action(*np.clip(10 * distance, -1, 1)))


# The front spans y 0.127 to 0.273, its handle y 0.15 to 0.25; the upper front z −0.30 to −0.25.
@pytest.mark.parametrize("name", ["drawer_closed", "drawer_blocked_2"])
@pytest.mark.parametrize("y", [0.14, 0.17, 0.20, 0.23])
@pytest.mark.parametrize("z", [-0.34, -0.31, -0.28])
def test_nothing_gets_through_a_closed_front(name, y, z):
  environment = _reset(name, seed=0)
  _move_to(environment, (0.75, y, -0.15))
  _move_to(environment, (0.75, y, z))
  hands = []
  for _ in range(25):
    observation, *_, info = environment.step(_action(-1, 0, 0))
    hands.append(observation[specs.STATE][:3])
    assert not _is_behind_a_front(hands[-1])
    assert max(environment.scene.speed(thing) for thing in THINGS) < 2 * HAND_SPEED
  assert min(hand[0] for hand in hands) < 0.53 + 0.12, "it got as far as the front or the handle"
  state = observation[specs.SIMULATOR_STATE]
  assert not info["outcome"]["object_touched"]
  assert _in_lower_drawer(state)
  assert state[:2].max() < 0.05, "both drawers are still closed"


def _is_behind_a_front(hand: np.ndarray) -> bool:
  """Whether the fingers' middle is inside the cabinet, 1 cm or more from its faces."""
  x, y, z = hand
  return 0.396 + 0.01 < x < 0.53 - 0.01 and abs(y - 0.2) < 0.073 - 0.01 and z < -0.25 - 0.01


@pytest.mark.parametrize(
  "thing, place, direction",
  [
    # In the air, so that the edge of the drawer's floor does not stop it.
    (OTHERS[0], (0.560, 0.2, -0.345), -1),  # between the handle's bar and the lower front
    (OTHERS[0], (0.555, 0.2, -0.275), -1),  # at the upper front
    (scenes.OBJECT, (0.46, 0.2, -0.35), 1),  # from inside
  ],
)
def test_a_thing_that_is_thrown_at_a_closed_front_stays_on_its_side(thing, place, direction):
  environment = _reset("drawer_closed", seed=0)
  scene = environment.scene
  body, client = scene._bodies[thing], scene._client  # a throw is not in the repertoire of scenes
  client.resetBasePositionAndOrientation(body, place, (0, 0, 0, 1))
  client.resetBaseVelocity(body, (direction * HAND_SPEED, 0, 0))
  state = _after_doing_nothing(environment, 12)
  if thing == scenes.OBJECT:
    assert _in_lower_drawer(state)
  else:
    assert state[POSE[thing]][0] > 0.53
  assert scene.speed(thing) < HAND_SPEED
  assert state[:2].max() < 0.05, "the drawers are still closed"


def test_above_the_cabinet_the_same_push_gets_past_the_front():
  # The arm is strong enough; it is the front that stops it.
  environment = _reset("drawer_closed", seed=0)
  _move_to(environment, (0.75, 0.2, -0.15))
  for _ in range(25):
    observation, *_ = environment.step(_action(-1, 0, 0))
  assert observation[specs.STATE][0] < 0.53 - 0.1


@pytest.mark.parametrize(
  "start, push",
  [
    ((0.47, 0.20), (0, 0, -1)),  # into the upper drawer, down to its floor
    ((0.47, 0.20), (0.5, 0, -1)),
    ((0.47, 0.05), (0, 1, -0.2)),  # against the sides
    ((0.47, 0.36), (0, -1, -0.2)),
  ],
)
def test_nothing_gets_into_the_closed_lower_drawer_from_above_or_from_the_side(start, push):
  environment = _reset("drawer_closed", seed=0)
  before = environment.scene.simulator_state()
  _move_to(environment, (*start, -0.15))
  if push[1]:
    _move_to(environment, (*start, -0.33))
  for _ in range(25):
    observation, *_, info = environment.step(_action(*push))
  state = observation[specs.SIMULATOR_STATE]
  assert not info["outcome"]["object_touched"]
  assert _in_lower_drawer(state)
  assert _slip(state, before) < 0.01


def _random_actions(generator: np.random.Generator, held_steps: int) -> np.ndarray:
  """(80, 8); those that are held for several steps and lead down get the arm among the things."""
  actions = generator.uniform(-1, 1, (80 // held_steps, specs.ACTION_SIZE))
  if held_steps > 1:
    actions[:, specs.NEUTRAL] = 0
    actions[:, 2] -= 0.3
  return np.clip(np.repeat(actions, held_steps, axis=0), -1, 1).astype(np.float32)


@each_environment
@pytest.mark.parametrize("held_steps, seeds", [(1, range(4)), (5, range(4, 14))])
def test_no_random_episode_explodes_or_lets_a_thing_through(name, held_steps, seeds):
  low, high = _table_bounds()
  moved = 0
  for seed in seeds:
    environment = _reset(name, seed)
    start = environment.scene.simulator_state()
    for action in _random_actions(np.random.default_rng(seed), held_steps):
      observation, *_, info = environment.step(action)
      state = observation[specs.SIMULATOR_STATE]
      assert np.all(np.isfinite(state)), seed
      assert state[:2].min() > -0.05 and state[:2].max() < 1.05, (seed, state[:2])
      for thing, pose in POSE.items():
        assert np.all(low < state[pose][:3]) and np.all(state[pose][:3] < high), (seed, thing)
        assert environment.scene.speed(thing) < 2 * HAND_SPEED, (seed, thing)
      if not info["outcome"]["object_touched"]:
        assert _in_lower_drawer(state), seed
    moved += np.abs(state - start).max() > 0.02
  if held_steps > 1:
    assert moved >= len(seeds) // 2, "the arm got among the things"


def _table_bounds() -> tuple[np.ndarray, np.ndarray]:
  """Lowest and highest place of a thing's centre: over the table, as high as the arm lifts."""
  half = np.array(scenes.TABLE_SIZE[:2]) / 2
  low, high = scenes.TABLE_CENTER_XY - half, scenes.TABLE_CENTER_XY + half
  return np.array([*low, scenes.TABLE_TOP - 0.01]), np.array([*high, 0.1])


@pytest.mark.parametrize(
  "script, name, ends_open",
  [
    (drawer_policies.OpenDrawer, "drawer_closed", True),
    (drawer_policies.CloseDrawer, "drawer_open", False),
  ],
)
def test_the_object_rides_along_with_its_drawer(script, name, ends_open, monkeypatch):
  monkeypatch.setattr(script, "randomness", 0.0)
  for seed in range(10):
    episode = recorder.record_episode(name, _environment(name), script.behaviour, seed)
    states = episode.observations[specs.SIMULATOR_STATE]
    assert (states[-1, drawer_scene.LOWER] > 0.5) == ends_open, seed
    assert not episode.outcomes["object_touched"].any()
    assert all(_in_lower_drawer(state) for state in states)
    travelled = states[-1, POSE[scenes.OBJECT]][0] - states[0, POSE[scenes.OBJECT]][0]
    assert abs(travelled) > 0.08, "a drawer travels 14 cm"


def test_an_object_in_a_drawer_that_stays_still_stays_still_too():
  # The arm takes the bottle from the tray beside it; the drawers are not its business.
  for seed in range(5):
    episode = recorder.record_episode(
      "drawer_closed", _environment("drawer_closed"), "pick_and_place_bottle", seed
    )
    states = episode.observations[specs.SIMULATOR_STATE]
    assert np.ptp(states[:, drawer_scene.LOWER]) < 0.02
    assert max(_slip(state, states[0]) for state in states) < 0.002
    assert not episode.outcomes["object_touched"].any()


def test_a_grasp_is_noticed_as_a_touch():
  taken_out = 0
  for seed in range(6):
    episode = recorder.record_episode(
      "drawer_open", _environment("drawer_open"), "grasp_from_drawer", seed
    )
    touched, out = episode.outcomes["object_touched"], episode.outcomes["grasped_out"]
    assert all(touched[out]), "what is held out of the drawer has been touched"
    assert np.all(np.diff(touched.astype(int)) >= 0), "once touched, touched until the next reset"
    taken_out += out.any()
  assert taken_out > 0
  environment = _reset("drawer_open", seed=0)
  assert not environment.task.outcome(environment.scene)["object_touched"], "a new episode"


@pytest.mark.parametrize(
  "name, script",
  [
    ("drawer_open", drawer_policies.GraspFromDrawer),
    ("drawer_open", drawer_policies.CloseDrawer),
    ("drawer_closed", drawer_policies.OpenUpperDrawer),
    ("drawer_blocked_1", drawer_policies.CloseThenOpenDrawer),
    ("drawer_blocked_2", drawer_policies.PickAndPlaceBottle),
  ],
)
def test_outcomes_and_rewards_say_what_the_observations_show(name, script, monkeypatch):
  monkeypatch.setattr(script, "randomness", 0.0)
  episode = recorder.record_episode(name, _environment(name), script.behaviour, 0)
  outcomes = episode.outcomes
  succeeded = outcomes[script.success_outcome]
  assert not succeeded[0] and succeeded.any(), "there is something to see"
  states, hands = (episode.observations[key][1:] for key in (specs.SIMULATOR_STATE, specs.STATE))
  # Reference: open above 0.95 of the travel, closed below 0.05.
  for drawer, opening in zip(("lower", "upper"), states[:, :2].T, strict=True):
    np.testing.assert_array_equal(outcomes[f"{drawer}_opening"], opening)
    np.testing.assert_array_equal(outcomes[f"{drawer}_open"], opening > 0.95)
    np.testing.assert_array_equal(outcomes[f"{drawer}_closed"], opening < 0.05)
  places = {thing: states[:, POSE[thing]][:, :3] for thing in THINGS}
  to_hand = {thing: np.linalg.norm(places[thing] - hands[:, :3], axis=1) for thing in THINGS}
  heights = {thing: places[thing][:, 2] for thing in THINGS}
  np.testing.assert_array_equal(outcomes["object_height"], heights[scenes.OBJECT])
  np.testing.assert_allclose(outcomes["object_to_end_effector"], to_hand[scenes.OBJECT], atol=1e-5)
  is_out = (heights[scenes.OBJECT] > tasks.OUT_ABOVE) & (to_hand[scenes.OBJECT] < 0.1)
  np.testing.assert_array_equal(outcomes["grasped_out"], is_out)
  np.testing.assert_array_equal(episode.rewards, is_out.astype(np.float32))
  bottle_grasped = (heights[BOTTLE] > -0.32) & (to_hand[BOTTLE] < 0.1)
  np.testing.assert_array_equal(outcomes["bottle_grasped"], bottle_grasped)
  aside = np.abs(places[BOTTLE][:, :2] - drawer_scene.TRAY.center).max(axis=1)
  np.testing.assert_array_equal(outcomes["bottle_placed"], aside < 0.062)
