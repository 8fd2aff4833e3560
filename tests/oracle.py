"""An oracle that chains skills without noise: the initial conditions are what they claim to be.

What the whole chain solves is solvable; what it does not solve without its first skill asks for
that skill. The skills are scripts of `collection`, none of which both opens a drawer and grasps.
No dataset may contain an episode of the oracle: to stitch them together is what agents learn.
"""

from collections.abc import Sequence

import numpy as np

from collection import drawer_policies, environment, registry, specs

# Environment → the scripts that solve it, in order; the first is what its condition asks for.
SOLUTIONS = {
  "drawer_open": ("grasp_from_drawer",),
  "drawer_closed": ("open_drawer", "grasp_from_drawer"),
  "drawer_blocked_1": ("close_upper_drawer", "open_drawer", "grasp_from_drawer"),
  "drawer_blocked_2": ("pick_and_place_bottle", "open_drawer", "grasp_from_drawer"),
}


def _noiseless(script: type) -> type:
  """The script without noise, its thresholds at their means; the bottle goes into its tray."""
  return type(script.__name__, (script,), {"randomness": 0.0, "tray_probability": 1.0})


_SKILLS = {script.behaviour: _noiseless(script) for script in drawer_policies.SCRIPTS}


def load(name: str) -> environment.ManipulationEnv:
  """Makes the named environment without images, which no skill looks at."""
  return registry.load(name, observation_keys=(specs.STATE, specs.SIMULATOR_STATE))


def solve(env: environment.ManipulationEnv, skills: Sequence[str], seed: int) -> bool:
  """Whether the skills, one after the other, earn a reward within the environment's step limit.

  Args:
    env: made by `load`; it is reset here.
    skills: names of scripts; each starts when the one before asks for nothing more, at neutral.
    seed: of the scene, and of what the scripts draw (drop points).
  """
  env.reset(seed=seed)
  skills, policy, truncated = list(skills), None, False
  while not truncated:
    action = policy.action() if policy else np.zeros(specs.ACTION_SIZE)
    if skills and not np.any(action):  # the skill before has ended at neutral
      policy = _SKILLS[skills.pop(0)](env, np.random.default_rng(seed))
      continue
    _, reward, _, truncated, _ = env.step(action)
    if reward:
      return True
  return False
