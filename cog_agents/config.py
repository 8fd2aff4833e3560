"""Configurations of the agents and of one experiment; the presets PAPER, RELEASED_CODE and FAST."""

import dataclasses
import math
import pathlib
from collections.abc import Mapping
from typing import Any

from collection import specs

# What an agent sees: the name of --observation. The keys of an image run are a row of CqlConfig.
IMAGE = "image"
STATE = "state"
OBSERVATIONS = (IMAGE, STATE)
IMAGE_DTYPES = ("float32", "bfloat16")
STATE_RUN_KEYS = (specs.STATE, specs.SIMULATOR_STATE)

DISCOUNT = 0.99
_ROUNDING = 1e-6  # of 1 / (1 - gamma), relative
# log |A| of A = [-1, 1]^8: the continuous action space has the volume 2^8.
LOG_ACTION_VOLUME = specs.ACTION_SIZE * math.log(2.0)


def fastest_image_dtype(cpuinfo: pathlib.Path = pathlib.Path("/proc/cpuinfo")) -> str:
  """Returns bfloat16 where the processor has arithmetic for it, else float32."""
  flags = cpuinfo.read_text().split() if cpuinfo.exists() else []
  return "bfloat16" if {"avx512_bf16", "amx_bf16"} & set(flags) else "float32"


def check_name(kind: str, name: str, known) -> None:
  """Raises ValueError, listing the known names, unless `name` is one of them."""
  if name not in known:
    raise ValueError(f"unknown {kind} {name!r}; known: {', '.join(known)}")


@dataclasses.dataclass(frozen=True)
class CqlConfig:
  """Hyperparameters of CQL(H)-SAC, and of BC, which shares the policy's.

  The defaults are PAPER: section 5 and appendix A.3, and where the paper is silent the SAC and CQL
  that it cites.
  """

  # Optimisation.
  actor_learning_rate: float = 3e-5
  alpha_learning_rate: float = 3e-5  # of the entropy temperature; not stated: the policy's
  critic_learning_rate: float = 3e-4
  target_update_tau: float = 0.005
  gamma: float = DISCOUNT
  batch_size: int = 256  # of all devices together

  # Critic loss, Eq. 1: bellman_weight * MSE + cql_alpha * (logsumexp - data value).
  bellman_weight: float = 0.5
  cql_alpha: float = 1.0
  entropy_in_backup: bool = False  # as in CQL(H), appendix A.3
  copy_target_critics: bool = True  # False: the targets start from random weights of their own

  # Actions in the logsumexp, per transition; all are evaluated at s. Appendix A.3 draws 1 where CQL
  # draws 10; that it is 1 of each kind is the released code's.
  uniform_samples: int = 1
  policy_samples: int = 1  # from pi(.|s)
  next_policy_samples: int = 1  # from pi(.|s')
  importance_weighted: bool = True

  # Policy loss.
  target_entropy: float = -LOG_ACTION_VOLUME  # nats, "-log |A|", A being the set of actions
  bc_steps: int = 10_000  # gradient steps of the behaviour-cloning warm start
  critics_wait_for_warm_start: bool = False  # True: they learn after these steps only

  # Observation and networks. Section 5 has the robot's state beside the image; the caption of
  # Figure 8 leaves it out.
  image_run_keys: tuple[str, ...] = (specs.IMAGE, specs.STATE)
  # What the critics see, whom training alone needs: an asymmetric actor-critic (Pinto et al.,
  # 2018). None: what the policy sees.
  critic_keys: tuple[str, ...] | None = None
  # Side in pixels of a square of the image that is encoded beside the whole of it: see
  # networks.gripper_crop. 0: none.
  gripper_crop_size: int = 0
  crop_padding: int = 0  # zero pixels on each side before the random crop; 0: no augmentation
  conv_filters: tuple[int, ...] = (16, 16, 16)  # of the 3x3 convolutions
  conv_stride: int = 1  # 1: 2x2 max-pooling between two convolutions; more: none
  q_hidden_sizes: tuple[int, ...] = (1024, 512, 256)
  policy_hidden_sizes: tuple[int, ...] = (1024, 512, 256)
  policy_bottleneck_size: int | None = None  # a linear layer after policy_hidden_sizes
  policy_head_sizes: tuple[int, ...] = ()  # ReLU layers after the bottleneck
  # Of convolutions and of the layer that reads them; weights, heads, values and losses are float32.
  image_dtype: str = "float32"
  log_std_range: tuple[float, float] = (-5.0, 2.0)  # the released code's; the paper gives none

  # Departures that PAPER and RELEASED_CODE leave off. FAST gives the reason of each.
  n_step: int = 1  # rewards summed before the bootstrap; the experience computes them
  # Bellman targets are clipped to it: [0, 1 / (1 - gamma)], or wider.
  target_range: tuple[float, float] | None = None
  initial_temperature: float = 1.0
  actor_bc_weight: float = 0.0  # of -log pi(a_data|s), kept after the warm start
  # Rate at which the weights of CQL's greedy policy follow those that are trained; None: they are
  # these.
  policy_average_tau: float | None = None

  def __post_init__(self):
    if self.uniform_samples + self.policy_samples + self.next_policy_samples < 1:
      raise ValueError(f"the logsumexp of Eq. 1 needs at least one sampled action: {self}")
    check_name("image_dtype", self.image_dtype, IMAGE_DTYPES)
    if self.critic_keys == ():
      raise ValueError("critic_keys must name at least one observation, or be None")
    for name, least in (("batch_size", 1), ("n_step", 1), ("gripper_crop_size", 0)):
      if getattr(self, name) < least:
        raise ValueError(f"{name} must be at least {least}, got {getattr(self, name)}")
    for keys in (self.image_run_keys, self.critic_keys or ()):
      if self.gripper_crop_size and specs.IMAGE in keys and specs.STATE not in keys:
        raise ValueError(
          f"gripper_crop_size needs {specs.STATE!r} beside {specs.IMAGE!r}, got {list(keys)}"
        )
    if not 0.0 < self.gamma <= 1.0:
      raise ValueError(f"gamma must be above 0 and at most 1, got {self.gamma}")
    if self.target_range:
      low, high = self.target_range
      if low > 0.0 or high * (1.0 - self.gamma) < 1.0 - _ROUNDING:
        raise ValueError(
          f"target_range must hold every value from 0 to 1 / (1 - gamma), of rewards from 0 to 1, "
          f"got {list(self.target_range)} with gamma={self.gamma}"
        )

  def observation_keys(self, observation: str) -> tuple[str, ...]:
    """Keys of the environment's observation dict that the policy of an --observation run sees."""
    check_name("observation", observation, OBSERVATIONS)
    return self.image_run_keys if observation == IMAGE else STATE_RUN_KEYS

  def training_keys(self, observation: str) -> tuple[str, ...]:
    """Keys that the run needs in its data: of what its policy and what its critics see."""
    return tuple(dict.fromkeys((*self.observation_keys(observation), *(self.critic_keys or ()))))


PAPER = CqlConfig()

# The authors' released training code, where it differs from the paper.
RELEASED_CODE = dataclasses.replace(
  PAPER,
  actor_learning_rate=1e-4,
  alpha_learning_rate=1e-4,
  bellman_weight=1.0,
  copy_target_critics=False,
  target_entropy=-float(specs.ACTION_SIZE),
  image_run_keys=(specs.IMAGE,),
  crop_padding=4,
  policy_hidden_sizes=(1024, 512),
  policy_bottleneck_size=256,
  policy_head_sizes=(256, 256, 256),
)

# What succeeds within tens of thousands of steps, on two cores. Rewards are 0 or 1, so with the
# discount 0.97 every value lies between 0 and 1 / (1 - 0.97).
FAST_DISCOUNT = 0.97
FAST_STATE = dataclasses.replace(
  RELEASED_CODE,
  # Values settle after a few horizons of 1 / (1 - gamma) steps: 33 cover an episode of 40.
  gamma=FAST_DISCOUNT,
  # About twice the steps a second.
  batch_size=128,
  # The paper's rates and tau are made for a million steps.
  actor_learning_rate=3e-4,
  alpha_learning_rate=3e-4,
  critic_learning_rate=1e-3,
  target_update_tau=0.02,
  # The warm start only has to bring the policy near the data, where actor_bc_weight holds it.
  bc_steps=1_000,
  # Against the whole Bellman error (see RELEASED_CODE): a quarter of Eq. 1's weight. With
  # actor_bc_weight both 0.5 and 1 learned.
  cql_alpha=0.5,
  # Without it the policy drifts to actions that no data supports, and success comes and goes.
  actor_bc_weight=0.5,
  # Targets of their own would first have to come near the critics.
  copy_target_critics=True,
  # Fourteen numbers need no 1024-unit layer.
  q_hidden_sizes=(256, 256, 256),
  policy_hidden_sizes=(256, 256, 256),
  policy_bottleneck_size=None,
  policy_head_sizes=(),
  # The one reward at the end of a 30-step episode travels back three times as fast. From images a
  # single step learns in half the gradient steps, but ends lower (README, Results).
  n_step=3,
  # No value lies outside: stops the first targets from sinking and the later ones from growing.
  target_range=(0.0, 1.0 / (1.0 - FAST_DISCOUNT)),
  # At temperature 1 the entropy outweighs the small first values.
  initial_temperature=math.exp(-1.5),
  # The policy wavers: of the last weights success comes and goes, of the mean over a thousand steps
  # it stays.
  policy_average_tau=1e-3,
)

FAST_IMAGE = dataclasses.replace(
  FAST_STATE,
  # The gripper's pose and opening are known on a real robot too, and hard to see at 48x48.
  image_run_keys=(specs.IMAGE, specs.STATE),
  # A shift of 4 of 48 pixels moves the object by 28 mm against the gripper's known pose: with it,
  # grasps miss.
  crop_padding=0,
  # A stride computes a quarter of the positions, where pooling computes all and drops the rest.
  conv_stride=2,
  conv_filters=(32, 32, 32),
  image_dtype=fastest_image_dtype(),
  q_hidden_sizes=(256, 256),
  policy_hidden_sizes=(256, 256),
)

# preset -> observation -> configuration.
PRESETS: Mapping[str, Mapping[str, CqlConfig]] = {
  "PAPER": {IMAGE: PAPER, STATE: PAPER},
  "RELEASED_CODE": {IMAGE: RELEASED_CODE, STATE: RELEASED_CODE},
  "FAST": {IMAGE: FAST_IMAGE, STATE: FAST_STATE},
}


def with_tuples(fields: Mapping[str, Any]) -> dict[str, Any]:
  """Fields of a configuration as they were before they were written as JSON, which has lists."""
  return {key: tuple(x) if isinstance(x, list) else x for key, x in fields.items()}


def load_preset(preset: str, observation: str) -> CqlConfig:
  """Returns the configuration of a preset ("FAST") for a kind of observation ("state").

  Raises:
    ValueError: for an unknown name; the message lists the known ones.
  """
  check_name("preset", preset, PRESETS)
  check_name("observation", observation, OBSERVATIONS)
  return PRESETS[preset][observation]
