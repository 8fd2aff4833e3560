"""Does the physics hold? Random episodes of the drawer scene, and what no contact may ever do.

  python -m benchmarks.physics_main --episodes=10000

An episode takes uniformly random actions, each held for a few steps so that the arm gets
somewhere. Counted are, over all steps: a pose that is not finite or leaves the room, a thing faster
than MAX_SPEED, a drawer that opened since the arm or a moving thing was last near the cabinet, and
the object outside the lower drawer while that has been closed all along.
"""

import argparse
import collections
import json
import sys

import numpy as np
import tqdm

from cog_agents import mains, provenance
from collection import drawer_scene, registry, scenes, specs

ENVIRONMENTS = tuple(
  name
  for name, spec in registry.ENVIRONMENTS.items()
  if spec.task.scene_class is drawer_scene.DrawerScene
)
STEPS = 40  # per episode
HELD_STEPS = 5  # that an action is repeated
ROOM = 5.0  # metres from the origin that nothing leaves, but for what falls off the table
MAX_SPEED = 10.0  # m/s; a fall from the table to the edge of the room ends in less
OPENED = 0.02  # share of the travel
NEAR = 0.05  # metres from the cabinet
_STREAM = 1  # of an episode's seed: actions are drawn from another one than the scene
THINGS = (scenes.OBJECT, drawer_scene.BOTTLE, *drawer_scene.OTHERS)


def run(num_episodes: int, first_seed: int) -> dict:
  """Runs the episodes, the environments in turn, and returns what the JSON object holds."""
  environments = {
    name: registry.load(name, (specs.STATE, specs.SIMULATOR_STATE)) for name in ENVIRONMENTS
  }
  violations: collections.Counter[str] = collections.Counter()
  examples: dict[str, list] = {}
  fastest = 0.0
  for index in tqdm.tqdm(range(num_episodes), unit="episode"):
    name, seed = ENVIRONMENTS[index % len(ENVIRONMENTS)], first_seed + index
    found, speed = _episode(environments[name], seed)
    fastest = max(fastest, speed)
    violations.update(found)
    for kind in found:
      examples.setdefault(kind, [name, seed])
  for environment in environments.values():
    environment.close()
  return {
    "environments": list(ENVIRONMENTS),
    "episodes": num_episodes,
    "steps_per_episode": STEPS,
    "first_seed": first_seed,
    "episodes_with_violations": dict(violations),
    "first_examples": examples,
    "fastest_thing_metres_per_second": round(fastest, 2),
  }


def _episode(environment, seed: int) -> tuple[set[str], float]:
  """Kinds of violation in one episode, and the greatest speed of a thing."""
  generator = np.random.default_rng((seed, _STREAM))
  environment.reset(seed=seed)
  scene = environment.scene
  openings = _openings(scene)
  starts_closed = openings[drawer_scene.LOWER] < drawer_scene.CLOSED_BELOW
  was_near, openings_when_near = True, openings
  most_open, fastest, found = openings[drawer_scene.LOWER], 0.0, set()
  for step in range(STEPS):
    if step % HELD_STEPS == 0:
      action = generator.uniform(-1, 1, specs.ACTION_SIZE)
    observation, *_ = environment.step(action)
    state = observation[specs.SIMULATOR_STATE]
    if not np.all(np.isfinite(state)) or np.abs(state).max() > ROOM:
      found.add("left the room")
    speed = max(scene.speed(name) for name in THINGS)
    fastest = max(fastest, speed)
    if speed > MAX_SPEED:
      found.add("exploded")
    openings, is_near = _openings(scene), scene.is_disturbed(NEAR)
    if was_near or is_near:
      openings_when_near = openings
    elif np.any(openings - openings_when_near > OPENED):
      found.add("drawer opened by itself")
    was_near = is_near
    most_open = max(most_open, openings[drawer_scene.LOWER])
    if starts_closed and most_open < drawer_scene.CLOSED_BELOW and not _in_closed_drawer(scene):
      found.add("object left a closed drawer")
  return found, fastest


def _in_closed_drawer(scene) -> bool:
  depth, width, height = drawer_scene.DRAWER_SIZE
  x, y, z = scene.position() - (
    drawer_scene.FRONT_X, drawer_scene.CABINET_CENTER_Y, drawer_scene.LOWER_FLOOR
  )  # fmt: skip
  return -depth < x < 0 and abs(y) < width / 2 and 0 < z < height


def _openings(scene) -> np.ndarray:
  return np.array([scene.opening(drawer) for drawer in (drawer_scene.LOWER, drawer_scene.UPPER)])


def main(argv: list[str] | None = None) -> int:
  parser = argparse.ArgumentParser(
    prog="python -m benchmarks.physics_main",
    description="Runs random episodes of the drawer scene and counts what physics forbids. "
    "Prints one JSON object; exits with 1 if anything was found.",
  )
  for flag, kind, default in (
    ("--episodes", mains.positive, 10_000),
    ("--first_seed", mains.not_negative, 0),
  ):
    parser.add_argument(flag, type=kind, default=default, help="default: %(default)s")
  arguments = parser.parse_args(argv)
  command = provenance.Command("benchmarks.physics_main", argv)
  result = run(arguments.episodes, arguments.first_seed)
  print(json.dumps({**command.entry(), **result}))
  return int(bool(result["episodes_with_violations"]))


if __name__ == "__main__":
  sys.exit(main())
