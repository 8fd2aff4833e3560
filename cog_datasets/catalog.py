"""The one table of datasets: what is recorded under which name, and how it is labelled."""

import dataclasses
from collections.abc import Mapping

import numpy as np

from collection import registry, scripted_policies

TRAIN = "train"
VALIDATION = "validation"
# The i-th block of these seeds, in either split, is for the i-th configuration of a name, so that
# the configurations of a name share no episode.
SEEDS_PER_BLOCK = 1_000_000
VALIDATION_SHARE = 0.05  # episodes of `validation` per episode of `train`

# The script of an episode is drawn from a stream of its seed that the recorder does not use.
_SCRIPT_STREAM = 0x5C817


@dataclasses.dataclass(frozen=True)
class Entry:
  """One configuration of one dataset.

  Attributes:
    name: the dataset's name in TFDS.
    config: the configuration's name; the first entry of a name is its default.
    environment: name in `registry.ENVIRONMENTS`, where episodes start unless `starts` has another.
    scripts: (name in `scripted_policies.SCRIPTS`, probability) pairs.
    num_episodes: episodes of the split `train`.
    label: see `reward_labels.parse`.
    version: changes with any byte of the data.
    release_notes: version -> what changed.
    description: one sentence for people.
    starts: (script, environment) pairs of the scripts that start in another condition of the task.
    seed_block: which block of SEEDS_PER_BLOCK seeds it takes; its own in `name`.
    excluded_outcome: no episode has this outcome; one that would is recorded again from a new seed.
  """

  name: str
  config: str
  environment: str
  scripts: tuple[tuple[str, float], ...]
  num_episodes: int
  label: str
  version: str
  release_notes: Mapping[str, str]
  description: str
  starts: tuple[tuple[str, str], ...] = ()
  seed_block: int = 0
  excluded_outcome: str | None = None

  def __post_init__(self):
    for script, probability in self.scripts:
      if script not in scripted_policies.SCRIPTS:
        raise ValueError(f"unknown script {script!r}; known: {sorted(scripted_policies.SCRIPTS)}")
      scene_class = registry.spec(self.start(script)).task.scene_class
      scripted_policies.script(script).check_scene(scene_class)
      if probability < 0:
        raise ValueError(f"the probability of {script!r} is {probability}, less than 0")
    total = sum(probability for _, probability in self.scripts)
    if not np.isclose(total, 1.0):
      raise ValueError(f"the probabilities of {self.scripts} sum to {total}, not to 1")

  def episode_id(self, seed: int) -> str:
    """Stable and unique: the same in a dataset of any size that contains this episode."""
    return f"{self.name}/{self.config}/{seed:08d}"

  @property
  def steps_per_episode(self) -> float:
    """Expected number of steps of an episode, one more than it has actions."""
    return sum(
      probability * (scripted_policies.script(script).num_timesteps + 1)
      for script, probability in self.scripts
    )

  def start(self, script: str) -> str:
    """Name of the environment in which the episodes of a script start."""
    return dict(self.starts).get(script, self.environment)

  def script(self, seed: int) -> str:
    """Draws the script of an episode from the episode's own seed."""
    sequence = np.random.SeedSequence(seed, spawn_key=(_SCRIPT_STREAM,))
    draw = np.random.default_rng(sequence).random()
    cumulative = np.cumsum([probability for _, probability in self.scripts])
    index = np.searchsorted(cumulative, draw, side="right")
    return self.scripts[min(index, len(self.scripts) - 1)][0]


def split_seeds(num_episodes: int, seed_block: int = 0) -> dict[str, range]:
  """Seeds of each split of a dataset with `num_episodes` in `train`.

  Args:
    num_episodes: of the split `train`.
    seed_block: which block of SEEDS_PER_BLOCK seeds they are the first of.

  Raises:
    ValueError: if `num_episodes` is not an int from 1 to SEEDS_PER_BLOCK.
  """
  is_int = isinstance(num_episodes, int) and not isinstance(num_episodes, bool)
  if not is_int or not 1 <= num_episodes <= SEEDS_PER_BLOCK:
    raise ValueError(
      f"num_episodes is a whole number from 1 to {SEEDS_PER_BLOCK} (the seeds that are set aside"
      f" for a configuration), got {num_episodes!r}"
    )
  num_validation = max(1, round(VALIDATION_SHARE * num_episodes))
  first = seed_block * SEEDS_PER_BLOCK
  return {
    TRAIN: registry.TRAIN_SEEDS[first : first + num_episodes],
    VALIDATION: registry.VALIDATION_SEEDS[first : first + num_validation],
  }


def entries(name: str) -> list[Entry]:
  """Entries of a dataset, its default configuration first.

  Raises:
    ValueError: if no dataset has that name; the message lists the known ones.
  """
  found = [entry for entry in CATALOG if entry.name == name]
  if not found:
    known = sorted({entry.name for entry in CATALOG})
    raise ValueError(f"unknown dataset {name!r}; known: {known}")
  return found


_DRAWER_RELEASE_NOTES = {
  "1.0.0": "Initial release.",
  "1.1.0": "The bottle starts at rest, in a wider tray; scripts move in straight lines; the"
  " configurations of cog_drawer_prior share no episode.",
}

CATALOG = (
  # Paper, section 6.1: 10K grasp attempts, unlabelled, and behaviours that may be irrelevant, which
  # are two in ten of the 10K episodes here.
  Entry(
    name="cog_pickplace_prior",
    config="full",
    environment="place_in_tray",
    scripts=(("grasp", 0.8), ("pick_and_place_outside", 0.1), ("random", 0.1)),
    num_episodes=10_000,
    label="zero",
    version="1.1.0",
    release_notes={
      "1.0.0": "Initial release.",
      "1.1.0": "Ten kinds of objects, each of which fits between the open fingers, however it"
      " lies.",
    },
    description="Grasp attempts and irrelevant behaviour beside a tray, without rewards.",
  ),
  # Paper, section 6.1: 5K placing attempts that start with the object in the gripper, labelled.
  Entry(
    name="cog_pickplace_task",
    config="full",
    environment="place_in_tray_held",
    scripts=(("place", 1.0),),
    num_episodes=5_000,
    label="sparse:place_in_tray",
    version="1.1.0",
    release_notes={
      "1.0.0": "Initial release.",
      "1.1.0": "Ten kinds of objects, each of which fits between the open fingers, however it lies;"
      " the gripper's hold on it is shaken before an episode starts.",
    },
    description="Placing a held object in the tray, with the task's sparse reward.",
  ),
  # Paper, section 6.1: 1.5M transitions of opening, closing, grasping and placing, unlabelled, that
  # never touch the object in the drawer; a third of them for each of the test conditions, and a
  # policy of its own for each.
  Entry(
    name="cog_drawer_prior",
    config="closed",
    environment="drawer_closed",
    scripts=(
      ("open_drawer", 0.50),
      ("close_drawer", 0.12),
      ("open_upper_drawer", 0.08),
      ("block_drawer", 0.14),
      ("pick_and_place_other", 0.16),
    ),
    starts=(("close_drawer", "drawer_open"),),
    excluded_outcome="object_touched",
    num_episodes=13_500,
    label="zero",
    version="1.1.0",
    release_notes=_DRAWER_RELEASE_NOTES,
    description="Opening the closed drawer, and what is of no use for taking an object out of it.",
  ),
  Entry(
    name="cog_drawer_prior",
    config="blocked_1",
    environment="drawer_blocked_1",
    scripts=(
      ("close_then_open_drawer", 0.40),
      ("close_upper_drawer", 0.20),
      ("open_drawer", 0.20),
      ("open_upper_drawer", 0.05),
      ("close_drawer", 0.05),
      ("pick_and_place_other", 0.10),
    ),
    starts=(
      ("open_drawer", "drawer_closed"),
      ("open_upper_drawer", "drawer_closed"),
      ("close_drawer", "drawer_open"),
    ),
    seed_block=1,
    excluded_outcome="object_touched",
    num_episodes=11_200,
    label="zero",
    version="1.1.0",
    release_notes=_DRAWER_RELEASE_NOTES,
    description="Closing the upper drawer that covers the handle, opening the lower one, and more.",
  ),
  Entry(
    name="cog_drawer_prior",
    config="blocked_2",
    environment="drawer_blocked_2",
    scripts=(
      ("pick_and_place_bottle", 0.45),
      ("open_drawer", 0.35),
      ("block_drawer", 0.05),
      ("close_drawer", 0.05),
      ("pick_and_place_other", 0.10),
    ),
    starts=(
      ("open_drawer", "drawer_closed"),
      ("block_drawer", "drawer_closed"),
      ("close_drawer", "drawer_open"),
    ),
    seed_block=2,
    excluded_outcome="object_touched",
    num_episodes=11_800,
    label="zero",
    version="1.1.0",
    release_notes=_DRAWER_RELEASE_NOTES,
    description="Moving the bottle away from the handle, opening the drawer, and more.",
  ),
  # Paper, section 6.1: 300K transitions of grasping from the open drawer, labelled.
  Entry(
    name="cog_drawer_task",
    config="full",
    environment="drawer_open",
    scripts=(("grasp_from_drawer", 1.0),),
    num_episodes=10_000,
    label="sparse:grasp_from_drawer",
    version="1.1.0",
    release_notes=_DRAWER_RELEASE_NOTES,
    description="Grasping an object from an open drawer, with the task's sparse reward.",
  ),
)
