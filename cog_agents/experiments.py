"""The methods and the rows of Table 1, as data."""

import dataclasses
import enum
from collections.abc import Mapping
from typing import Any

from cog_agents import config as config_lib

CQL = "cql"
BC = "bc"


class Data(enum.Enum):
  """Which transitions a method draws from."""

  UNION = "prior and task data"
  TASK = "task data"
  SUCCESSFUL_TASK = "episodes of the task data with a reward"
  PRIOR_THEN_TASK = "prior data during the BC warm start, then task data"
  ONLINE = "episodes of the agent's own"


@dataclasses.dataclass(frozen=True)
class Method:
  """One column of Table 1: which data an agent sees and how its policy is rolled out."""

  title: str
  agent: str  # CQL or BC
  data: Data
  stochastic_evaluation: bool  # actions are drawn from the policy, not its mode
  overrides: Mapping[str, Any] = dataclasses.field(default_factory=dict)  # of a preset's fields

  @property
  def uses_prior(self) -> bool:
    return self.data in (Data.UNION, Data.PRIOR_THEN_TASK)


@dataclasses.dataclass(frozen=True)
class Row:
  """One row of Table 1: an initial condition of a task, under the name of its environment."""

  task: str
  initial_condition: str
  is_training_condition: bool  # the task data starts like this
  prior_data: str  # dataset of prior behaviour that leads from this condition to the task data
  task_data: str


# The entropy-regularised BC policies are rolled out stochastically (section 6.2).
METHODS: Mapping[str, Method] = {
  "cog": Method("COG", CQL, Data.UNION, stochastic_evaluation=False),
  "no_prior": Method("no prior", CQL, Data.TASK, stochastic_evaluation=False),
  # "pre-training a policy via behavioral cloning on the prior data and then fine-tuning with
  # offline RL on the new task": the critics see the task data alone.
  "bc_init": Method(
    "BC-init",
    CQL,
    Data.PRIOR_THEN_TASK,
    stochastic_evaluation=False,
    overrides={"bc_steps": 10_000, "critics_wait_for_warm_start": True},
  ),
  "bc": Method("BC all", BC, Data.UNION, stochastic_evaluation=True),
  # "handpicked successful trajectories on the new task".
  "bc_oracle": Method("BC-oracle", BC, Data.SUCCESSFUL_TASK, stochastic_evaluation=True),
  # Off-policy SAC: without conservatism, and without what else FAST learns from the data. As in all
  # methods here, the backup has no entropy term.
  "sac": Method(
    "SAC",
    CQL,
    Data.UNION,
    stochastic_evaluation=False,
    overrides={
      "cql_alpha": 0.0,
      "bc_steps": 0,
      "actor_bc_weight": 0.0,
      "target_range": None,
    },
  ),
}


def fine_tuned_name(name: str) -> str:
  """Returns the name of what online fine-tuning makes of a method of METHODS."""
  return f"{name}_sac" if METHODS[name].agent == BC else f"{name}_finetuned"


def _fine_tuned(offline: Method) -> Method:
  if offline.agent == CQL:
    title = f"{offline.title}, fine-tuned"
    return dataclasses.replace(offline, title=title, data=Data.ONLINE, overrides={})
  sac = METHODS["sac"]
  # A clone has statistics of what its policy sees alone, which new critics therefore see, too.
  overrides = {**sac.overrides, "critic_keys": None}
  title = f"{offline.title} + SAC"
  return dataclasses.replace(sac, title=title, data=Data.ONLINE, overrides=overrides)


# Online fine-tuning: CQL goes on as it was (section 4), and from a cloned policy on it is SAC with
# fresh critics (appendix B). `overrides` are those of the run's own configuration.
FINE_TUNED: Mapping[str, Method] = {
  fine_tuned_name(name): _fine_tuned(offline) for name, offline in METHODS.items()
}
ALL_METHODS: Mapping[str, Method] = {**METHODS, **FINE_TUNED}

_TRAY = ("cog_pickplace_prior", "cog_pickplace_task")
_DRAWER = {
  condition: (f"cog_drawer_prior/{condition}", "cog_drawer_task")
  for condition in ("closed", "blocked_1", "blocked_2")
}
ROWS: Mapping[str, Row] = {
  "place_in_tray_held": Row("place in tray", "object in gripper", True, *_TRAY),
  "place_in_tray": Row("place in tray", "object in tray area", False, *_TRAY),
  "drawer_open": Row("grasp from drawer", "open drawer", True, *_DRAWER["closed"]),
  "drawer_closed": Row("grasp from drawer", "closed drawer", False, *_DRAWER["closed"]),
  "drawer_blocked_1": Row("grasp from drawer", "blocked drawer 1", False, *_DRAWER["blocked_1"]),
  "drawer_blocked_2": Row("grasp from drawer", "blocked drawer 2", False, *_DRAWER["blocked_2"]),
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


def conditions(environment: str, method_name: str) -> list[str]:
  """Conditions that a run of a method serves that is monitored in this one: those of its data."""
  row, uses_prior = ROWS[environment], method(method_name).uses_prior
  return [
    name
    for name, other in ROWS.items()
    if other.task_data == row.task_data and (not uses_prior or other.prior_data == row.prior_data)
  ]


def method(name: str) -> Method:
  """Returns the method of that name.

  Raises:
    ValueError: for an unknown name; the message lists the known ones.
  """
  config_lib.check_name("method", name, ALL_METHODS)
  return ALL_METHODS[name]
