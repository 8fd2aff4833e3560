"""Tests of the export to Minari: what Minari's own loader and Gymnasium make of it."""

import contextlib
import pathlib
import shutil
from typing import Any

import gymnasium
import minari
import numpy as np
import pytest
import rlds
import tensorflow_datasets as tfds
from etils import epath

from cog_datasets import export_main, minari_export, prepared, schema
from collection import registry, specs
from pipelines import relabel
from tests import fakes, waiting
from tests.pipelines import datasets

NAMES = ("cog_pickplace_task", "cog_drawer_prior")
ENVIRONMENTS = {"cog_pickplace_task": "cog/PlaceInTrayHeld-v0",
                "cog_drawer_prior": "cog/DrawerClosed-v0"}  # fmt: skip
IDS = {"cog_pickplace_task": "cog_pickplace_task/tiny/train-v10100",
       "cog_drawer_prior": "cog_drawer_prior/tiny/train-v10100"}  # fmt: skip


@pytest.fixture(name="data_dir", scope="module")
def _data_dir(tmp_path_factory) -> pathlib.Path:
  folder = tmp_path_factory.mktemp("data")
  for name in NAMES:
    datasets.build(name, folder)
  return folder


@pytest.fixture(name="root", scope="module")
def _root(data_dir, tmp_path_factory) -> pathlib.Path:
  """A Minari root with the split `train` of each dataset."""
  root = tmp_path_factory.mktemp("minari")
  for name in NAMES:
    assert _export(f"{name}/tiny", data_dir, root) == 0
  return root


@pytest.fixture(name="loaded", params=NAMES)
def _loaded(request, root, data_dir, monkeypatch):
  """(Minari dataset, its episodes in RLDS) of each dataset."""
  monkeypatch.setenv("MINARI_DATASETS_PATH", str(root))
  name = request.param
  return minari.load_dataset(IDS[name]), _episodes(data_dir, name)


def _export(source: str, data_dir: pathlib.Path, root: pathlib.Path, *flags: str) -> int:
  return export_main.main(
    [source, f"--data_dir={data_dir}", "--format=minari", f"--out={root}", *flags]
  )


def _episodes(data_dir: pathlib.Path, name: str, split: str = "train") -> list[dict[str, Any]]:
  """The episodes with stacked steps, read by TFDS itself."""
  builder = tfds.builder(f"{name}/tiny", data_dir=data_dir)
  episodes = []
  for episode in builder.as_dataset(split=split):
    (steps,) = episode.pop(rlds.STEPS).batch(1000).as_numpy_iterator()
    metadata = {key: x.numpy() for key, x in episode[schema.EPISODE_METADATA].items()}
    episodes.append({rlds.STEPS: steps, schema.EPISODE_METADATA: metadata})
  return episodes


def _metadata(dataset: minari.MinariDataset, index: int) -> dict[str, Any]:
  (metadata,) = dataset.storage.get_episode_metadata([index])
  return metadata


def test_every_value_of_every_episode_is_there(loaded):
  dataset, episodes = loaded
  assert dataset.total_episodes == len(episodes) == datasets.NUM_EPISODES
  assert dataset.total_steps == sum(len(x[rlds.STEPS][rlds.ACTION]) - 1 for x in episodes)
  for episode, recorded in zip(dataset.iterate_episodes(), episodes, strict=True):
    steps = recorded[rlds.STEPS]
    assert set(episode.observations) == set(specs.OBSERVATION_KEYS)
    for key, values in episode.observations.items():
      assert values.dtype == steps[rlds.OBSERVATION][key].dtype
      np.testing.assert_array_equal(values, steps[rlds.OBSERVATION][key])
    np.testing.assert_array_equal(episode.actions, steps[rlds.ACTION][:-1])
    np.testing.assert_array_equal(episode.rewards, steps[rlds.REWARD][:-1])
    assert episode.actions.dtype == episode.rewards.dtype == np.float32
    length = len(episode.actions)
    np.testing.assert_array_equal(episode.terminations, np.zeros(length, bool))
    np.testing.assert_array_equal(episode.truncations, np.arange(length) == length - 1)
    assert set(episode.infos["outcome"]) == set(steps[schema.OUTCOME])
    for key, values in episode.infos["outcome"].items():
      assert values.dtype == steps[schema.OUTCOME][key].dtype
      assert np.isnan(values[0]) or not values[0]  # of reset: not recorded
      np.testing.assert_array_equal(values[1:], steps[schema.OUTCOME][key][:-1])


def test_how_each_episode_came_about_is_in_its_metadata(loaded):
  dataset, episodes = loaded
  for index, recorded in enumerate(episodes):
    found = _metadata(dataset, index)
    for key, value in recorded[schema.EPISODE_METADATA].items():
      assert found[key] == (value.decode() if isinstance(value, bytes) else value)
    assert found["rewards_sum"] == recorded[rlds.STEPS][rlds.REWARD].sum()


def test_the_recovered_environment_is_the_one_of_the_data(loaded):
  dataset, _ = loaded
  with contextlib.closing(dataset.recover_environment()) as environment:
    assert environment.spec.id == ENVIRONMENTS[dataset.id.split("/")[0]]
    assert environment.observation_space == dataset.observation_space
    assert environment.action_space == dataset.action_space
    for episode in dataset.sample_episodes(5):
      for t in range(len(episode) + 1):
        observation = {key: values[t] for key, values in episode.observations.items()}
        assert environment.observation_space.contains(observation)
      assert all(map(environment.action_space.contains, episode.actions))


def test_the_actions_from_the_seed_give_the_same_episode_again(loaded):
  dataset, _ = loaded
  starts = set()
  for index in range(0, dataset.total_episodes, 3):
    metadata = _metadata(dataset, index)
    starts.add(metadata["environment"])
    row = registry.spec(metadata["environment"])
    with contextlib.closing(gymnasium.make(row.gymnasium_id)) as environment:
      _check_replay(environment, dataset[index], metadata["seed"])
  with contextlib.closing(dataset.recover_environment()) as environment:
    name = environment.spec.kwargs["name"]
    assert name in starts
    index = next(
      i for i in range(dataset.total_episodes) if _metadata(dataset, i)["environment"] == name
    )
    _check_replay(environment, dataset[index], _metadata(dataset, index)["seed"])


def _check_replay(environment: gymnasium.Env, episode: minari.EpisodeData, seed: int) -> None:
  observation, _ = environment.reset(seed=seed)
  for t, action in enumerate(episode.actions):
    _check_observation(observation, episode, t)
    observation, _, terminated, _, info = environment.step(action)
    assert terminated == episode.terminations[t]
    assert info["outcome"] == {key: x[t + 1] for key, x in episode.infos["outcome"].items()}
  _check_observation(observation, episode, len(episode))


def _check_observation(observation, episode: minari.EpisodeData, t: int) -> None:
  for key, values in episode.observations.items():
    np.testing.assert_array_equal(observation[key], values[t])


def test_the_metadata_say_which_data_it_is(root, data_dir, monkeypatch):
  monkeypatch.setenv("MINARI_DATASETS_PATH", str(root))
  metadata = minari.list_local_datasets()[IDS["cog_drawer_prior"]]
  source = metadata["source"]
  assert source["name"] == "cog_drawer_prior/tiny/1.1.0"
  assert (source["version"], source["split"]) == ("1.1.0", "train")
  assert source["license"] == "Apache-2.0"
  assert source["homepage"] == "https://sites.google.com/view/cog-rl"
  assert "singh2020cog" in source["citation"]
  assert source["metadata"]["label"] == "zero"
  assert metadata["description"].startswith("# cog_drawer_prior")
  assert any(requirement.startswith("pybullet==") for requirement in metadata["requirements"])
  assert minari.namespace.list_local_namespaces() == [
    "cog_drawer_prior", "cog_drawer_prior/tiny", "cog_pickplace_task", "cog_pickplace_task/tiny"
  ]  # fmt: skip


def test_a_relabelled_dataset_keeps_its_lineage_and_other_splits_have_other_ids(
  data_dir, tmp_path, monkeypatch
):
  source = prepared.find("cog_pickplace_task/tiny", str(data_dir))
  relabel.relabel(source, "zero", epath.Path(tmp_path / "data" / "zeroed" / "2.10.3"))
  _export("zeroed", tmp_path / "data", tmp_path, "--split=validation")
  monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
  dataset = minari.load_dataset("zeroed/validation-v21003")
  lineage = dataset.storage.metadata["source"]["metadata"]["lineage"]
  assert lineage["source"] == "cog_pickplace_task/tiny/1.1.0"
  (episode,) = dataset.iterate_episodes()
  (recorded,) = _episodes(data_dir, "cog_pickplace_task", "validation")
  np.testing.assert_array_equal(episode.actions, recorded[rlds.STEPS][rlds.ACTION][:-1])
  assert not episode.rewards.any()


@pytest.mark.parametrize("version", ["1.100.0", "1.0.100"])
def test_a_version_that_minari_could_not_tell_apart_is_refused(version, data_dir, tmp_path):
  folder = tmp_path / "zeroed" / version
  relabel.relabel(
    prepared.find("cog_pickplace_task/tiny", str(data_dir)), "zero", epath.Path(folder)
  )
  with pytest.raises(minari_export.ExportError, match=rf"version {version} has no number"):
    minari_export.export(prepared.find(str(folder)), "train", tmp_path / "minari")


def test_an_interrupted_export_leaves_nothing_and_starts_again(
  data_dir, root, tmp_path, monkeypatch
):
  monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
  monkeypatch.setattr(minari_export, "_EPISODES_AT_A_TIME", 5)
  to_buffer, written = minari_export._buffer, []

  def stop_at_the_eighth(episode):
    if len(written) == 7:
      # As it would be if the process were killed here.
      assert not minari.list_local_datasets()
      with pytest.raises(FileNotFoundError, match="not found locally"):
        minari.load_dataset(IDS["cog_pickplace_task"])
      (unfinished,) = tmp_path.glob(".unfinished_*")
      shutil.copytree(unfinished, tmp_path / "killed")
      raise KeyboardInterrupt
    written.append(episode)
    return to_buffer(episode)

  with monkeypatch.context() as patch:
    patch.setattr(minari_export, "_buffer", stop_at_the_eighth)
    with pytest.raises(KeyboardInterrupt):
      _export("cog_pickplace_task/tiny", data_dir, tmp_path)
  (killed,) = tmp_path.iterdir()  # and nothing else
  killed.rename(tmp_path / ".unfinished_cog_pickplace_task.tiny.train-v10100")
  assert _export("cog_pickplace_task/tiny", data_dir, tmp_path) == 0
  assert {path.name for path in tmp_path.iterdir()} == {"cog_pickplace_task"}
  dataset = minari.load_dataset(IDS["cog_pickplace_task"])
  monkeypatch.setenv("MINARI_DATASETS_PATH", str(root))
  expected = minari.load_dataset(IDS["cog_pickplace_task"])
  assert dataset.total_steps == expected.total_steps
  for episode, other in zip(dataset, expected, strict=True):
    np.testing.assert_array_equal(episode.actions, other.actions)


def test_two_exports_to_a_folder_go_one_after_the_other(data_dir, tmp_path, capfd):
  running = tmp_path / ".unfinished_cog_pickplace_task.tiny.validation-v10100"
  running.mkdir()

  def export():
    _export("cog_pickplace_task/tiny", data_dir, tmp_path, "--split=validation")

  with waiting.for_folder(tmp_path, export, capfd):
    assert [path.name for path in tmp_path.glob(".unfinished*")] == [running.name]
  assert {path.name for path in tmp_path.iterdir()} == {"cog_pickplace_task"}


def test_the_folder_may_be_relative(data_dir, tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  flags = ("--split=validation",)
  assert _export("cog_pickplace_task/tiny", data_dir, pathlib.Path("minari"), *flags) == 0
  monkeypatch.setenv("MINARI_DATASETS_PATH", "minari")
  assert len(minari.load_dataset("cog_pickplace_task/tiny/validation-v10100")) == 1


def test_an_existing_target_is_refused_and_left_alone(data_dir, root, capfd):
  before = {path: path.stat().st_mtime for path in root.rglob("*")}
  with pytest.raises(SystemExit) as error:
    _export("cog_pickplace_task/tiny", data_dir, root)
  assert error.value.code == 2
  assert f"{root / IDS['cog_pickplace_task']} is there already" in capfd.readouterr().err
  assert {path: path.stat().st_mtime for path in root.rglob("*")} == before


@pytest.mark.parametrize(
  ("flags", "message"),
  [
    (["--format=hdf5"], "invalid choice: 'hdf5' (choose from 'minari')"),
    (["--split=test"], "has no split 'test'; its splits: ['train', 'validation']"),
    (["--split=train[:5]"], "has no split 'train[:5]'"),
  ],
)
def test_an_unknown_format_or_split_is_named_with_the_known_ones(
  flags, message, data_dir, tmp_path, capfd
):
  with pytest.raises(SystemExit):
    _export("cog_pickplace_task/tiny", data_dir, tmp_path / "minari", *flags)
  assert message in capfd.readouterr().err
  assert not (tmp_path / "minari").exists()


@pytest.mark.parametrize("source", ["cog_kitchen", "cog_pickplace_task/huge", "no name"])
def test_an_unknown_dataset_is_named_with_the_known_ones(source, data_dir, tmp_path, capfd):
  with pytest.raises(SystemExit):
    _export(source, data_dir, tmp_path)
  known = "cog_drawer_prior/tiny:1.1.0, cog_pickplace_task/tiny:1.1.0"
  message = capfd.readouterr().err
  assert repr(source) in message
  assert f"datasets there: {known}" in message


def test_other_data_is_refused(tmp_path, capfd):
  fakes.write_dataset(tmp_path, "other", num_episodes=2, num_steps=3)
  with pytest.raises(SystemExit):
    _export("other", tmp_path, tmp_path / "minari")
  message = capfd.readouterr().err
  assert "other/1.0.0 name the environment None; known: place_in_tray_held" in message


@pytest.mark.parametrize(
  ("damage", "message"),
  [
    (lambda path: path.unlink(), "is missing"),
    (lambda path: path.write_bytes(path.read_bytes()[:-1]), "has "),
    (lambda path: path.with_name("manifest.json").unlink(), "has no manifest.json"),
  ],
)
def test_a_damaged_dataset_is_refused(damage, message, data_dir, tmp_path, capfd):
  folder = tmp_path / "cog_pickplace_task" / "tiny"
  shutil.copytree(data_dir / "cog_pickplace_task" / "tiny", folder)
  shard = next(folder.glob("*/*train.tfrecord-00003*"))
  damage(shard)
  with pytest.raises(SystemExit):
    _export("cog_pickplace_task/tiny", tmp_path, tmp_path / "minari")
  named = shard.parent if "manifest" in message else shard.name
  assert f"{named} {message}" in capfd.readouterr().err
  assert not (tmp_path / "minari").exists()


@pytest.mark.parametrize(
  ("name", "damage"),
  [
    ("dataset_info.json", lambda path: path.write_bytes(path.read_bytes()[:-9])),
    ("features.json", lambda path: path.write_bytes(path.read_bytes()[:-9])),
    ("dataset_info.json", lambda path: path.unlink()),
  ],
)
def test_a_damaged_description_is_refused_by_its_name(name, damage, data_dir, tmp_path, capfd):
  folder = tmp_path / "cog_pickplace_task" / "tiny"
  shutil.copytree(data_dir / "cog_pickplace_task" / "tiny", folder)
  (path,) = folder.glob(f"*/{name}")
  damage(path)
  for source in ("cog_pickplace_task/tiny", str(path.parent)):
    with pytest.raises(SystemExit):
      _export(source, tmp_path, tmp_path / "minari")
    message = capfd.readouterr().err
    assert name in message
    assert f"of {source!r} is damaged" in message


def test_a_disk_that_is_too_small_is_refused(data_dir, root, tmp_path, monkeypatch, capfd):
  usage = shutil.disk_usage(tmp_path)._replace(free=10_000)
  with monkeypatch.context() as patch:
    patch.setattr(shutil, "disk_usage", lambda path: usage)
    with pytest.raises(SystemExit):
      _export("cog_pickplace_task/tiny", data_dir, tmp_path / "minari")
  assert "as a Minari dataset needs about" in capfd.readouterr().err
  assert not (tmp_path / "minari").exists()
