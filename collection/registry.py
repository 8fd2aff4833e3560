"""ENVIRONMENTS: name → task, initial condition and limits; and the ranges of seeds."""

import dataclasses
import json

import gymnasium

from collection import environment, specs, tasks

# Disjoint ranges of episode seeds: the i-th episode of a use has the seed RANGE[i].
TRAIN_SEEDS = range(0, 10_000_000)
VALIDATION_SEEDS = range(10_000_000, 20_000_000)
EVALUATION_SEEDS = range(20_000_000, 30_000_000)
MONITORING_SEEDS = range(30_000_000, 35_000_000)  # evaluation while training goes on
FINETUNING_SEEDS = range(35_000_000, 40_000_000)  # episodes that are learned from online
# An episode that is recorded again takes its seed plus a multiple of this: outside all the ranges.
RETRY_STRIDE = 40_000_000


@dataclasses.dataclass(frozen=True)
class EnvironmentSpec:
  """A named environment."""

  name: str
  gymnasium_id: str
  task: type[tasks.Task]
  initial_condition: str
  step_limit: int  # of an evaluation (appendix A.3)

  def config(self) -> str:
    """What the environment is, as JSON, to be recorded beside an episode."""
    return json.dumps(
      {
        "task": self.task.name,
        "initial_condition": self.initial_condition,
        "step_limit": self.step_limit,
      },
      sort_keys=True,
    )


ENVIRONMENTS = {
  spec.name: spec
  for spec in (
    EnvironmentSpec(
      "place_in_tray_held", "cog/PlaceInTrayHeld-v0", tasks.PlaceInTray, "object_in_gripper", 40
    ),
    EnvironmentSpec(
      "place_in_tray", "cog/PlaceInTray-v0", tasks.PlaceInTray, "object_on_table", 40
    ),
    EnvironmentSpec("drawer_open", "cog/DrawerOpen-v0", tasks.GraspFromDrawer, "drawer_open", 80),
    EnvironmentSpec(
      "drawer_closed", "cog/DrawerClosed-v0", tasks.GraspFromDrawer, "drawer_closed", 80
    ),
    EnvironmentSpec(
      "drawer_blocked_1", "cog/DrawerBlocked1-v0", tasks.GraspFromDrawer, "upper_drawer_open", 80
    ),
    EnvironmentSpec(
      "drawer_blocked_2", "cog/DrawerBlocked2-v0", tasks.GraspFromDrawer, "bottle_in_front", 80
    ),
  )
}


def spec(name: str) -> EnvironmentSpec:
  """Returns the row of ENVIRONMENTS.

  Raises:
    ValueError: if there is none; the message lists the known names.
  """
  if name not in ENVIRONMENTS:
    raise ValueError(f"unknown environment {name!r}; known: {', '.join(ENVIRONMENTS)}")
  return ENVIRONMENTS[name]


def load(
  name: str,
  observation_keys: tuple[str, ...] = specs.OBSERVATION_KEYS,
  render_mode: str | None = None,
  has_step_limit: bool = True,
) -> environment.ManipulationEnv:
  """Makes an environment by name, without Gymnasium's wrappers.

  Args:
    name: a key of ENVIRONMENTS.
    observation_keys: what to observe; without "image" nothing is rendered.
    render_mode: None, or "rgb_array" for frames from `render()`.
    has_step_limit: whether it truncates episodes after its number of steps.

  Raises:
    ValueError: if a name is unknown; the message lists the known ones.
  """
  row = spec(name)
  step_limit = row.step_limit if has_step_limit else None
  return environment.ManipulationEnv(
    row.task(row.initial_condition), step_limit, observation_keys, render_mode
  )


def register_with_gymnasium() -> None:
  """Makes every environment known to `gymnasium.make` by its id.

  Gymnasium's own wrapper truncates these, after another number of steps if `make` is given one.
  """
  for row in ENVIRONMENTS.values():
    gymnasium.register(
      row.gymnasium_id,
      entry_point="collection.registry:load",
      kwargs={"name": row.name, "has_step_limit": False},
      max_episode_steps=row.step_limit,
    )
