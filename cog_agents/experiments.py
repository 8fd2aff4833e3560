"""The methods and the rows of Table 1, as data."""

import dataclasses
from collections.abc import Mapping

CQL = "cql"
BC = "bc"


@dataclasses.dataclass(frozen=True)
class Method:
  """One column of Table 1: which data an agent sees and how its policy is rolled out."""

  title: str
  agent: str  # CQL or BC
  uses_prior: bool
  stochastic_evaluation: bool  # actions are drawn from the policy, not its mode


@dataclasses.dataclass(frozen=True)
class Row:
  """One row of Table 1: an initial condition of a task, under the name of its environment."""

  task: str
  initial_condition: str
  is_training_condition: bool  # the task data starts like this


METHODS: Mapping[str, Method] = {
  "cog": Method("COG", CQL, uses_prior=True, stochastic_evaluation=False),
  "no_prior": Method("no prior", CQL, uses_prior=False, stochastic_evaluation=False),
  # The entropy-regularised BC policies are rolled out stochastically (section 6.2).
  "bc": Method("BC all", BC, uses_prior=True, stochastic_evaluation=True),
}

ROWS: Mapping[str, Row] = {
  "place_in_tray_held": Row("place in tray", "object in gripper", True),
  "place_in_tray": Row("place in tray", "object in tray area", False),
  "drawer_open": Row("grasp from drawer", "open drawer", True),
  "drawer_closed": Row("grasp from drawer", "closed drawer", False),
  "drawer_blocked_1": Row("grasp from drawer", "blocked drawer 1", False),
  "drawer_blocked_2": Row("grasp from drawer", "blocked drawer 2", False),
}

# Success rates of Table 1, means over 3 seeds of 250 trials. None: SAC diverged.
PAPER_METHODS = ("no_prior", "bc_init", "bc", "bc_oracle", "sac", "cog")
_PAPER_FIGURES = {
  "place_in_tray_held": (1.00, 1.00, 0.94, 0.95, 0.00, 1.00),
  "place_in_tray": (0.00, 0.00, 0.02, 0.02, None, 0.96),
  "drawer_open": (0.98, 0.99, 0.63, 0.82, 0.00, 0.98),
  "drawer_closed": (0.00, 0.00, 0.23, 0.27, None, 0.68),
  "drawer_blocked_1": (0.00, 0.00, 0.34, 0.35, None, 0.78),
  "drawer_blocked_2": (0.00, 0.00, 0.22, 0.25, None, 0.76),
}
PAPER_TABLE: Mapping[tuple[str, str], float | None] = {
  (environment, method): figure
  for environment, figures in _PAPER_FIGURES.items()
  for method, figure in zip(PAPER_METHODS, figures, strict=True)
}


def method(name: str) -> Method:
  """Returns the method of that name.

  Raises:
    ValueError: for an unknown name; the message lists the known ones.
  """
  if name not in METHODS:
    raise ValueError(f"unknown method {name!r}; known: {', '.join(METHODS)}")
  return METHODS[name]


def paper_success_rate(environment: str, method_name: str) -> float | None:
  """Returns Table 1's figure, or None where the paper gives none.

  Raises:
    ValueError: if the paper has no such row or column; the message lists those it has.
  """
  if environment not in ROWS:
    raise ValueError(f"Table 1 has no row {environment!r}; it has: {', '.join(ROWS)}")
  if method_name not in PAPER_METHODS:
    raise ValueError(f"Table 1 has no column {method_name!r}; it has: {', '.join(PAPER_METHODS)}")
  return PAPER_TABLE[environment, method_name]
