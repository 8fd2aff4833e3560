"""Small RLDS datasets like the published ones, written by TFDS's own writers."""

import dataclasses

import numpy as np
import rlds
import tensorflow_datasets as tfds

from collection import specs

SIMULATOR_STATE_SIZE = 7  # as in place_in_tray: the pose of one object


@dataclasses.dataclass(frozen=True)
class FakeEpisode:
  """T actions between T + 1 observations."""

  episode_id: str
  observations: dict[str, np.ndarray]  # each (T + 1, ...)
  actions: np.ndarray  # (T, 8)
  rewards: np.ndarray  # (T,)


def episode(
  name: str, index: int, num_steps: int, rewarded: bool = False, has_images: bool = False
) -> FakeEpisode:
  """Returns episode `index` of the dataset `name`; its simulator state starts with (index, t)."""
  generator = np.random.default_rng([sum(name.encode()), index])
  num_frames = num_steps + 1
  simulator_state = generator.normal(size=(num_frames, SIMULATOR_STATE_SIZE))
  simulator_state[:, 0], simulator_state[:, 1] = index, np.arange(num_frames)
  observations = {
    specs.STATE: generator.normal(size=(num_frames, specs.STATE_SIZE)).astype(np.float32),
    specs.SIMULATOR_STATE: simulator_state.astype(np.float32),
  }
  if has_images:
    shape = (num_frames, *specs.IMAGE_SHAPE)
    observations[specs.IMAGE] = generator.integers(0, 256, size=shape, dtype=np.uint8)
  actions = generator.uniform(-0.9, 0.9, size=(num_steps, specs.ACTION_SIZE)).astype(np.float32)
  rewards = np.zeros(num_steps, np.float32)
  if rewarded:
    rewards[num_steps // 2 :] = 1.0
  return FakeEpisode(f"{name}-{index}", observations, actions, rewards)


def rlds_steps(fake: FakeEpisode) -> list[dict]:
  """Returns the T + 1 RLDS steps of an episode: of the last only the observation means anything."""
  num_steps = len(fake.actions)
  return [
    {
      rlds.OBSERVATION: {key: values[t] for key, values in fake.observations.items()},
      rlds.ACTION: fake.actions[t] if t < num_steps else np.full_like(fake.actions[0], np.nan),
      rlds.REWARD: fake.rewards[t] if t < num_steps else np.float32(np.nan),
      rlds.DISCOUNT: np.float32(1.0),
      rlds.IS_FIRST: t == 0,
      rlds.IS_LAST: t == num_steps,
      rlds.IS_TERMINAL: False,
    }
    for t in range(num_steps + 1)
  ]


def _features(has_images: bool) -> tfds.features.FeaturesDict:
  observation = {
    specs.STATE: tfds.features.Tensor(shape=(specs.STATE_SIZE,), dtype=np.float32),
    specs.SIMULATOR_STATE: tfds.features.Tensor(shape=(SIMULATOR_STATE_SIZE,), dtype=np.float32),
  }
  if has_images:
    observation[specs.IMAGE] = tfds.features.Image(shape=specs.IMAGE_SHAPE, encoding_format="png")
  return tfds.features.FeaturesDict(
    {
      rlds.STEPS: tfds.features.Dataset(
        {
          rlds.OBSERVATION: observation,
          rlds.ACTION: tfds.features.Tensor(shape=(specs.ACTION_SIZE,), dtype=np.float32),
          rlds.REWARD: np.float32,
          rlds.DISCOUNT: np.float32,
          rlds.IS_FIRST: np.bool_,
          rlds.IS_LAST: np.bool_,
          rlds.IS_TERMINAL: np.bool_,
        }
      ),
      "episode_metadata": {"episode_id": tfds.features.Text()},
    }
  )


def write_dataset(
  data_dir,
  name: str,
  *,
  splits: dict[str, list[FakeEpisode]] | None = None,
  num_episodes: int = 6,
  num_steps: int = 5,
  rewarded: bool = False,
  has_images: bool = False,
  environment: str | None = None,
) -> list[FakeEpisode]:
  """Writes the dataset `name` under `data_dir` and returns the episodes of its train split.

  With an `environment` its metadata say that it was recorded there.
  """
  train = [episode(name, i, num_steps, rewarded, has_images) for i in range(num_episodes)]
  splits = splits or {"train": train, "validation": train[:1]}
  image_keys = {key for fakes in splits.values() for fake in fakes for key in fake.observations}

  class Builder(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    VERSION = tfds.core.Version("1.0.0")

    def _info(self):
      metadata = tfds.core.MetadataDict(environment=environment) if environment else None
      return self.dataset_info_from_configs(
        features=_features(specs.IMAGE in image_keys), metadata=metadata
      )

    def _split_generators(self, dl_manager):
      del dl_manager
      return {split: self._generate_examples(fakes) for split, fakes in splits.items()}

    def _generate_examples(self, fakes):
      for fake in fakes:
        metadata = {"episode_id": fake.episode_id}
        yield fake.episode_id, {rlds.STEPS: rlds_steps(fake), "episode_metadata": metadata}

  Builder.name = name
  Builder.pkg_dir_path = None
  Builder(data_dir=str(data_dir)).download_and_prepare()
  return splits["train"]
