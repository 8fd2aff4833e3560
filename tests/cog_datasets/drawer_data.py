"""What the data of the drawer scene is held to: checks of an episode's simulator states.

Each takes float (T + 1, 30): openings of the lower and the upper drawer as shares of the travel,
then the object's position in metres, and what is of no concern here.
"""

import numpy as np

LOWER, UPPER = 0, 1
OBJECT = slice(2, 5)
BOTTLE = slice(9, 12)
TRAVEL = 0.14  # metres
ABOVE_THE_DRAWERS = -0.25  # metres: the top of the upper drawer, which is over the object

# Environment → ranges of the openings that an episode starts with, and whether the bottle is in
# front of the drawer.
STARTS = {
  "drawer_open": ((0.95, 1.01), (-0.01, 0.05), False),
  "drawer_closed": ((-0.01, 0.05), (-0.01, 0.05), False),
  "drawer_blocked_1": ((-0.01, 0.05), (0.5, 0.65), False),
  "drawer_blocked_2": ((-0.01, 0.05), (-0.01, 0.05), True),
}


def starts_in(environment: str, states: np.ndarray) -> bool:
  """Whether the first state is one that the named environment starts from."""
  lower, upper, in_front = STARTS[environment]
  bottle = states[0, BOTTLE]
  return (
    lower[0] <= states[0, LOWER] <= lower[1]
    and upper[0] <= states[0, UPPER] <= upper[1]
    and (0.53 < bottle[0] < 0.61 and abs(bottle[1] - 0.2) < 0.02) == in_front
  )


def opens_lower_drawer(states: np.ndarray) -> bool:
  """Whether it is closed (below 0.05) at some step and open (above 0.95) at a later one."""
  closed, opened = states[:, LOWER] < 0.05, states[:, LOWER] > 0.95
  return bool(np.any(np.logical_or.accumulate(closed) & opened))


def lifts_object(states: np.ndarray) -> bool:
  """Whether the object is ever above both drawers."""
  return bool(states[:, OBJECT][:, 2].max() > ABOVE_THE_DRAWERS)


def object_moves_by_itself(states: np.ndarray) -> bool:
  """Whether the object does anything but ride in its drawer.

  It may slide about in a drawer that is pulled and pushed: by less than 6 cm, which is about what
  the walls allow. In a drawer that stays still (0.7 mm), it stays still too (5 mm).
  """
  in_drawer = states[:, OBJECT] - TRAVEL * states[:, [LOWER]] * [1, 0, 0]
  slip = np.linalg.norm(in_drawer - in_drawer[0], axis=1).max()
  is_still = np.ptp(states[:, LOWER]) < 0.005
  return bool(slip > (0.005 if is_still else 0.06))
