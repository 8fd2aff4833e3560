"""The RLDS schema of a recorded episode: its features, and the episode in their layout."""

from typing import Any

import numpy as np
import rlds
import tensorflow as tf
import tensorflow_datasets as tfds
from rlds.metadata import metadata_types

from collection import recorder, registry, specs, tasks

# Fields beside those of RLDS.
OUTCOME = "outcome"  # in a step
EPISODE_METADATA = "episode_metadata"  # in an episode; the rest are inside it
EPISODE_ID = metadata_types.EPISODE_ID
AGENT_ID = metadata_types.AGENT_ID
ENVIRONMENT_CONFIG = metadata_types.ENVIRONMENT_CONFIG
SEED = "seed"
ENVIRONMENT = "environment"
BEHAVIOUR = "behaviour"


def features(environment: str) -> tfds.features.FeaturesDict:
  """Features of an episode of a named environment, each with its documentation."""
  return tfds.features.FeaturesDict(
    {
      rlds.STEPS: tfds.features.Dataset(
        _step_features(registry.spec(environment).task),
        doc="T + 1 steps of T actions; the last step only carries the final observation.",
      ),
      EPISODE_METADATA: tfds.features.FeaturesDict(
        _metadata_features(), doc="How this episode came about."
      ),
    }
  )


def dimensions(environment: str | None) -> dict[str, tuple[str, ...]]:
  """Names of the dimensions of each vector of a step; of all but the simulator's state if the
  environment is not in the registry."""
  names = {
    rlds.ACTION: specs.ACTION_DIMENSIONS,
    f"{rlds.OBSERVATION}/{specs.STATE}": specs.STATE_DIMENSIONS,
  }
  if environment in registry.ENVIRONMENTS:
    scene = registry.spec(environment).task.scene_class
    names[f"{rlds.OBSERVATION}/{specs.SIMULATOR_STATE}"] = scene.simulator_state_dimensions
  return names


def from_recording(episode: recorder.Episode, episode_id: str) -> dict[str, Any]:
  """Returns an RLDS episode with stacked steps, each array (T + 1, ...).

  Step t holds the observation o_t, the action a_t, and the reward and the outcome of a_t. Step T
  has o_T, no action and no reward (zeros), and repeats the outcome of step T - 1. No step is
  terminal: an episode ends because its time is up.
  """
  length = len(episode.actions) + 1
  is_step = np.arange(length)
  return {
    rlds.STEPS: {
      rlds.OBSERVATION: dict(episode.observations),
      rlds.ACTION: _append_zero(episode.actions),
      rlds.REWARD: _append_zero(episode.rewards),
      rlds.DISCOUNT: np.ones(length, np.float32),
      rlds.IS_FIRST: is_step == 0,
      rlds.IS_LAST: is_step == length - 1,
      rlds.IS_TERMINAL: np.zeros(length, bool),
      OUTCOME: {key: _repeat_last(values) for key, values in episode.outcomes.items()},
    },
    EPISODE_METADATA: {
      EPISODE_ID: episode_id,
      SEED: episode.seed,
      ENVIRONMENT: episode.environment,
      ENVIRONMENT_CONFIG: episode.environment_config,
      AGENT_ID: episode.agent_id,
      BEHAVIOUR: episode.behaviour,
    },
  }


def with_encoded_images(episode: dict[str, Any]) -> dict[str, Any]:
  """Returns the episode with its images as PNG, encoded in one call: TFDS would make one each."""
  steps = episode[rlds.STEPS]
  observation = steps[rlds.OBSERVATION]
  images = list(tf.io.encode_png(observation[specs.IMAGE]).numpy())
  observation = {**observation, specs.IMAGE: images}
  return {**episode, rlds.STEPS: {**steps, rlds.OBSERVATION: observation}}


def _append_zero(values: np.ndarray) -> np.ndarray:
  return np.concatenate([values, np.zeros_like(values[:1])])


def _repeat_last(values: np.ndarray) -> np.ndarray:
  return np.concatenate([values, values[-1:]])


def _vector(dimensions: tuple[str, ...], doc: str) -> tfds.features.Tensor:
  return tfds.features.Tensor(
    shape=(len(dimensions),), dtype=np.float32, doc=f"{doc}: {', '.join(dimensions)}."
  )


def _step_features(task: type[tasks.Task]) -> dict[str, Any]:
  return {
    rlds.OBSERVATION: tfds.features.FeaturesDict(
      {
        specs.IMAGE: tfds.features.Image(
          shape=specs.IMAGE_SHAPE,
          dtype=np.uint8,
          encoding_format="png",
          doc="Camera image: height, width, RGB.",
        ),
        specs.STATE: _vector(specs.STATE_DIMENSIONS, "State of the robot"),
        specs.SIMULATOR_STATE: _vector(
          task.scene_class.simulator_state_dimensions, "What a camera would have to infer"
        ),
      },
      doc="Observation before the action of this step.",
    ),
    rlds.ACTION: _vector(specs.ACTION_DIMENSIONS, "Action, each dimension in [-1, 1]"),
    rlds.REWARD: tfds.features.Scalar(
      np.float32, doc="Reward, 0 or 1, of the action of this same step."
    ),
    rlds.DISCOUNT: tfds.features.Scalar(np.float32, doc="Always 1: the task has no end."),
    rlds.IS_FIRST: tfds.features.Scalar(np.bool_, doc="Whether this is the first step."),
    rlds.IS_LAST: tfds.features.Scalar(
      np.bool_, doc="Whether this is the last step: its observation is valid, its action is not."
    ),
    rlds.IS_TERMINAL: tfds.features.Scalar(
      np.bool_, doc="Always false: episodes end because their time is up."
    ),
    OUTCOME: tfds.features.FeaturesDict(
      {
        key: tfds.features.Scalar(dtype, doc=doc)
        for key, (dtype, doc) in task.outcome_specs.items()
      },
      doc="What the simulator knows after the action of this step; the last step repeats it.",
    ),
  }


def _metadata_features() -> dict[str, Any]:
  return {
    EPISODE_ID: tfds.features.Text(doc="Unique and stable: dataset/configuration/seed."),
    SEED: tfds.features.Scalar(np.int64, doc="The seed that the episode is a function of."),
    ENVIRONMENT: tfds.features.Text(doc="Name of the environment in the registry of collection."),
    ENVIRONMENT_CONFIG: tfds.features.Text(doc="Configuration of the environment, JSON."),
    AGENT_ID: tfds.features.Text(doc="Script and its sampled parameters, JSON."),
    BEHAVIOUR: tfds.features.Text(doc="What the script tried to do."),
  }
