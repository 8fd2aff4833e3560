"""The runs behind Table 1 and the ablations, as data."""

import dataclasses
import itertools
import json
import pathlib
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from cog_agents import config as config_lib
from cog_agents import experiments
from collection import specs

# Of a table: its name on the command line.
TABLE_1 = "1"
FINE_TUNING = "finetuning"  # Figures 5 and 9
ABLATIONS = "ablations"  # also the folder of these runs, which are in no cell of Table 1
_SEED = re.compile(r"seed_(\d+)")  # folder of a run, OBSERVATION/MONITORED/METHOD/seed_S


def table_filename(table: str, observation: str) -> str:
  """Name of the file of a table's results."""
  return f"table_{table}_{observation}.json"


def seeds_below(root: pathlib.Path, observation: str) -> list[int]:
  """Seeds that a folder has runs of."""
  names = {folder.name for folder in root.glob(f"{observation}/*/*/*")}
  return sorted(int(match[1]) for match in map(_SEED.fullmatch, names) if match)


def is_set_aside(path: pathlib.PurePath) -> bool:
  """Whether a path in the root of a grid lies where a run would but for its name: seed_0_old."""
  parts = path.parts
  return len(parts) > 3 and parts[0] in config_lib.OBSERVATIONS and not _SEED.fullmatch(parts[3])


@dataclasses.dataclass(frozen=True)
class Recipe:
  """How a task is trained from one kind of observation: the same for every method of Table 1.

  Chosen by the curves of `cog` on monitoring episodes. Evaluations were in view, too, when FAST's
  random crops of images were dropped.

  Attributes:
    steps: gradient steps after which a run is first asked whether it has converged.
    evaluate_every: gradient steps between two evaluations on monitoring episodes.
    preset, overrides: hyperparameters; those that `METHODS` overrides are the method's.
    steps_per_second: of two runs side by side on two cores, for estimates.
  """

  steps: int
  evaluate_every: int
  steps_per_second: float
  preset: str = "FAST"
  overrides: Mapping[str, Any] = dataclasses.field(default_factory=dict)


# FAST's pull towards the data wins over the small advantages of a task as long as the drawer's:
# after 10,000 steps the policy comes to idle where scripts idled. A weaker one, and slower critics,
# do not drift.
_SLOW_CRITICS = {
  "actor_bc_weight": 0.2,
  "critic_learning_rate": 3e-4,
  "target_update_tau": 0.01,
}
RECIPES: Mapping[tuple[str, str], Recipe] = {
  ("place in tray", config_lib.STATE): Recipe(20_000, 2_000, 110.0),
  ("place in tray", config_lib.IMAGE): Recipe(32_000, 4_000, 15.0),
  ("grasp from drawer", config_lib.STATE): Recipe(32_000, 4_000, 100.0, overrides=_SLOW_CRITICS),
  ("grasp from drawer", config_lib.IMAGE): Recipe(32_000, 4_000, 14.0, overrides=_SLOW_CRITICS),
}


@dataclasses.dataclass(frozen=True)
class Run:
  """One training and the evaluations of its policy.

  Attributes:
    name: unique, and the folder of the run: OBSERVATION/MONITORED/METHOD/seed_SEED in Table 1,
      OBSERVATION/ablations/NAME/seed_SEED of an ablation.
    environments: conditions to evaluate in.
    monitored: condition in which the policy is evaluated as it is trained, on other episodes.
    prior_data: dataset of prior data; None for a method that uses none.
    task_data: dataset of the task.
    new_episodes: of online fine-tuning in the monitored condition afterwards; 0: none.
  """

  name: str
  method: str
  observation: str
  seed: int
  environments: tuple[str, ...]
  monitored: str
  prior_data: str | None
  task_data: str
  recipe: Recipe
  new_episodes: int = 0

  @property
  def datasets(self) -> tuple[str, ...]:
    return (self.prior_data, self.task_data) if self.prior_data else (self.task_data,)

  def train_flags(self, steps: int) -> list[str]:
    """Flags of train_main for `steps` gradient steps, but for those that say where and how."""
    return [
      *([f"--prior={self.prior_data}"] if self.prior_data else []),
      f"--task={self.task_data}",
      f"--environment={self.monitored}",
      f"--method={self.method}",
      f"--observation={self.observation}",
      f"--preset={self.recipe.preset}",
      *(f"--override={name}={json.dumps(x)}" for name, x in self._overrides().items()),
      f"--seed={self.seed}",
      f"--steps={steps}",
      f"--evaluate_every={self.recipe.evaluate_every}",
    ]

  def _overrides(self) -> dict[str, Any]:
    """Those of the recipe, but for what makes the method: flags would override that, too."""
    own = experiments.METHODS[self.method].overrides
    return {name: x for name, x in self.recipe.overrides.items() if name not in own}


def table_1(
  observation: str, rows: Iterable[str], methods: Iterable[str], seeds: Sequence[int]
) -> list[Run]:
  """Returns the runs that fill some cells of Table 1, those of one seed after those of another.

  A run serves every row that has its datasets. It is monitored in the condition that it is there
  for: that in which prior data leads to the task, or without prior data the training condition.
  """
  rows = [name for name in experiments.ROWS if name in set(rows)]
  groups: dict[tuple[str, str], list[str]] = {}  # (monitored condition, method) → conditions
  for method in methods:
    for name in rows:
      groups.setdefault((_monitored(name, method), method), []).append(name)
  return [
    _run(f"{observation}/{monitored}/{method}", observation, method, monitored, conditions, seed)
    for seed in seeds
    for (monitored, method), conditions in groups.items()
  ]


def _monitored(name: str, method: str) -> str:
  uses_prior = experiments.method(method).uses_prior
  (monitored,) = (
    other
    for other in experiments.conditions(name, method)
    if experiments.ROWS[other].is_training_condition != uses_prior
  )
  return monitored


def _run(name, observation, method, monitored, conditions, seed, **changes) -> Run:
  row = experiments.ROWS[monitored]
  fields = {
    "prior_data": row.prior_data if experiments.method(method).uses_prior else None,
    "recipe": RECIPES[row.task, observation],
    **changes,
  }
  return Run(
    name=f"{name}/seed_{seed}",
    method=method,
    observation=observation,
    seed=seed,
    environments=tuple(conditions),
    monitored=monitored,
    task_data=row.task_data,
    **fields,
  )


# The paper's curves reach 0.90 after 500 to 4,000 new episodes.
NEW_EPISODES = 500
# The released code's ten new episodes and then a thousand steps follow a training of a million.
# After those of FAST a thousand steps learn the first episodes by heart, and success falls.
FINE_TUNING_STEPS_PER_ROUND = 100
# Figure 5: COG by CQL, with the drawer; Figure 9: the cloned policy by SAC, with the closed drawer.
FINE_TUNED_METHODS = ("cog", "bc")
# Both where there is something to gain: in all conditions that the task data do not start in.
FINE_TUNED_ROWS = tuple(
  name for name, row in experiments.ROWS.items() if not row.is_training_condition
)


def fine_tuning(
  observation: str, rows: Iterable[str], methods: Iterable[str], seeds: Sequence[int]
) -> list[Run]:
  """Returns the runs of Table 1 that Figures 5 and 9 go on from, to be fine-tuned online."""
  runs = table_1(observation, rows, methods, seeds)
  return [dataclasses.replace(run, new_episodes=NEW_EPISODES) for run in runs]


@dataclasses.dataclass(frozen=True)
class Ablation:
  """One row of the ablation table: what is changed about `cog` on `place_in_tray`."""

  title: str
  overrides: Mapping[str, Any] = dataclasses.field(default_factory=dict)
  preset: str = "FAST"
  prior_data: str = experiments.ROWS["place_in_tray"].prior_data
  observations: tuple[str, ...] = config_lib.OBSERVATIONS  # where it changes anything


_ALPHA = config_lib.FAST_STATE.cql_alpha
_REFERENCE = "cog"
# These presets are made for a million steps: here they have those of FAST, at a tenth of the speed.
_SPEED_OF_OTHER_PRESETS = 0.1
ABLATION_TABLE: Mapping[str, Ablation] = {
  _REFERENCE: Ablation("as in Table 1"),  # the very run
  "paper": Ablation("preset PAPER, as many steps", preset="PAPER"),
  "released_code": Ablation("preset RELEASED_CODE, as many steps", preset="RELEASED_CODE"),
  "augmentation": Ablation(  # the reference has none
    "with random crops by 4 pixels",
    {"crop_padding": config_lib.RELEASED_CODE.crop_padding},
    observations=(config_lib.IMAGE,),
  ),
  "float32": Ablation(  # the reference has bfloat16 where the processor has it
    "images in float32", {"image_dtype": "float32"}, observations=(config_lib.IMAGE,)
  ),
  "no_proprioception": Ablation(
    "images without the robot's state",
    {"image_run_keys": (specs.IMAGE,)},
    observations=(config_lib.IMAGE,),
  ),
  "gripper_crop": Ablation(
    "a crop around the gripper beside the image",
    {"gripper_crop_size": 24},
    observations=(config_lib.IMAGE,),
  ),
  "state_critics": Ablation(
    "critics see the simulator's state",
    {"critic_keys": config_lib.STATE_RUN_KEYS},
    observations=(config_lib.IMAGE,),
  ),
  "no_warm_start": Ablation("without BC warm start", {"bc_steps": 0}),
  "no_bc_term": Ablation(
    "without BC warm start and BC term", {"bc_steps": 0, "actor_bc_weight": 0.0}
  ),
  "paper_rates": Ablation(
    "the paper's learning rates",
    {
      name: getattr(config_lib.PAPER, name)
      for name in ("actor_learning_rate", "alpha_learning_rate", "critic_learning_rate")
    },
  ),
  "batch_256": Ablation("the paper's batches", {"batch_size": config_lib.PAPER.batch_size}),
  "no_n_step": Ablation("1-step returns", {"n_step": 1}),
  "no_target_range": Ablation("targets not clipped", {"target_range": None}),
  "no_neutral": Ablation(
    "prior grasps without the return to neutral", prior_data="cog_pickplace_prior/no_neutral"
  ),
  "prior_200": Ablation("200 % of the prior data", prior_data="cog_pickplace_prior/large"),
  "prior_30": Ablation("30 % of the prior data", prior_data="cog_pickplace_prior/percent_30"),
  "prior_10": Ablation("10 % of the prior data", prior_data="cog_pickplace_prior/percent_10"),
  **{
    f"alpha_{factor:g}": Ablation(
      f"conservatism weight × {factor:g}", {"cql_alpha": factor * _ALPHA}
    )
    for factor in (0.1, 0.3, 3.0, 10.0)
  },
}
# Configurations of datasets that `tfds build` takes as JSON, since the catalog does not have them.
CUSTOM_CONFIGS: Mapping[str, Mapping[str, Any]] = {
  "cog_pickplace_prior/no_neutral": {
    "name": "no_neutral",
    "scripts": {"grasp_and_hold": 0.8, "pick_and_place_outside": 0.1, "random": 0.1},
  },
  "cog_pickplace_prior/large": {"name": "large", "num_episodes": 20_000},
  "cog_pickplace_prior/percent_30": {"name": "percent_30", "num_episodes": 3_000},
  "cog_pickplace_prior/percent_10": {"name": "percent_10", "num_episodes": 1_000},
}


# Core-minutes of the build of each dataset that a run may need, for estimates.
BUILD_CORE_MINUTES: Mapping[str, float] = {
  "cog_pickplace_prior": 10.4,
  "cog_pickplace_task": 8.2,
  "cog_drawer_prior/closed": 33.2,
  "cog_drawer_prior/blocked_1": 25.0,
  "cog_drawer_prior/blocked_2": 29.2,
  "cog_drawer_task": 19.2,
  "cog_pickplace_prior/no_neutral": 10.2,
  "cog_pickplace_prior/large": 31.8,
  "cog_pickplace_prior/percent_30": 3.4,
  "cog_pickplace_prior/percent_10": 1.2,
}


ABLATED_METHOD = "cog"


def ablations(observation: str, names: Iterable[str], seeds: Sequence[int]) -> list[Run]:
  """Returns the runs of some rows of the ablation table, those of one seed after another's."""
  monitored = "place_in_tray"
  recipe = RECIPES[experiments.ROWS[monitored].task, observation]
  runs = []
  for seed, name in itertools.product(seeds, names):
    ablation = ABLATION_TABLE[name]
    if observation not in ablation.observations:
      continue
    speed = 1.0 if ablation.preset == recipe.preset else _SPEED_OF_OTHER_PRESETS
    changed = dataclasses.replace(
      recipe,
      preset=ablation.preset,
      overrides={**recipe.overrides, **ablation.overrides},
      steps_per_second=speed * recipe.steps_per_second,
    )
    group = monitored if name == _REFERENCE else ABLATIONS
    runs.append(
      _run(
        f"{observation}/{group}/{name}",
        observation,
        ABLATED_METHOD,
        monitored,
        [monitored],
        seed,
        prior_data=ablation.prior_data,
        recipe=changed,
      )
    )
  return runs
