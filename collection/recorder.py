"""record_episode: (environment, script, seed) → episode, bit for bit."""

import dataclasses
from collections.abc import Callable

import numpy as np

from collection import environment as environment_lib
from collection import registry, scripted_policies


@dataclasses.dataclass(frozen=True)
class Episode:
  """T actions and T + 1 observations.

  Attributes:
    observations: key → array (T + 1, …).
    actions: float32 (T, 8).
    rewards: float32 (T,), the reward of the action of the same step.
    outcomes: name → array (T,), the simulator's facts after the action of the same step.
    seed: of the scene and the script.
    environment: name in registry.ENVIRONMENTS.
    environment_config: what that name means, as JSON.
    agent_id: the script and its drawn parameters, as JSON.
    behaviour: the script's name.
  """

  observations: dict[str, np.ndarray]
  actions: np.ndarray
  rewards: np.ndarray
  outcomes: dict[str, np.ndarray]
  seed: int
  environment: str
  environment_config: str
  agent_id: str
  behaviour: str


def record_episode(
  name: str,
  environment: environment_lib.ManipulationEnv,
  script: str,
  seed: int,
  on_step: Callable[[], None] = lambda: None,
) -> Episode:
  """Rolls out a script for its `num_timesteps`.

  Args:
    name: the environment's name in registry.ENVIRONMENTS.
    environment: made by registry.load(name); it is reset here.
    script: a key of scripted_policies.SCRIPTS.
    seed: decides the scene and the script's random numbers.
    on_step: called after every step, to render a video, say.
  """
  observation, _ = environment.reset(seed=seed)
  policy = scripted_policies.load(script, environment, seed)
  observations, actions, rewards, outcomes = [observation], [], [], []
  for _ in range(policy.num_timesteps):
    action = policy.action()
    observation, reward, _, _, info = environment.step(action)
    observations.append(observation)
    actions.append(action)
    rewards.append(reward)
    outcomes.append(info["outcome"])
    on_step()
  return Episode(
    observations=_stack(observations),
    actions=np.array(actions, np.float32),
    rewards=np.array(rewards, np.float32),
    outcomes=_stack(outcomes),
    seed=seed,
    environment=name,
    environment_config=registry.spec(name).config(),
    agent_id=policy.agent_id,
    behaviour=policy.behaviour,
  )


def _stack(rows: list[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
  return {key: np.stack([row[key] for row in rows]) for key in rows[0]}
