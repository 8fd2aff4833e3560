"""SCRIPTS: name → scripted policy; see scripted_policy, tray_policies and drawer_policies.

A script reads the simulator, decides what it would like to do, and adds Gaussian noise to every
dimension of the action at every step. It holds its own Generator, seeded once per episode, and
draws its randomised thresholds from it.
"""

import numpy as np

from collection import drawer_policies, tray_policies
from collection.scripted_policy import ScriptedPolicy

# Keeps the script's random numbers apart from the scene's, which has the seed alone.
SCRIPT_STREAM = 1

SCRIPTS: dict[str, type[ScriptedPolicy]] = {
  script.behaviour: script for script in (*tray_policies.SCRIPTS, *drawer_policies.SCRIPTS)
}


def script(name: str) -> type[ScriptedPolicy]:
  """Returns the row of SCRIPTS.

  Raises:
    ValueError: if there is none; the message lists the known names.
  """
  if name not in SCRIPTS:
    raise ValueError(f"unknown script {name!r}; known: {', '.join(SCRIPTS)}")
  return SCRIPTS[name]


def load(name: str, environment, seed: int) -> ScriptedPolicy:
  """Makes the script for one episode of `environment`, which has been reset with `seed`."""
  return script(name)(environment, np.random.default_rng((seed, SCRIPT_STREAM)))
