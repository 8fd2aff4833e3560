"""Tests of what the statistics job leaves in the folder of a dataset, read by those who read it."""

import json
import pathlib
import shutil

import huggingface_hub
import mlcroissant as mlc
import pytest
from etils import epath

from cog_datasets import prepared, publish
from collection import manifest
from pipelines import relabel_main, statistics_main, validate_main
from tests.pipelines import datasets


@pytest.fixture(name="folder", scope="module")
def _folder(tmp_path_factory) -> pathlib.Path:
  folder = datasets.build("cog_pickplace_task", tmp_path_factory.mktemp("data"))
  assert validate_main.main([str(folder)]) == 0
  assert statistics_main.main([str(folder)]) == 0
  return folder


def test_the_documents_are_in_the_manifest_and_a_validation_stays_one(folder):
  assert set(manifest.DOCUMENTS) <= manifest.read(epath.Path(folder)).keys()
  assert not manifest.violations(epath.Path(folder))
  assert manifest.is_validated(epath.Path(folder))


def test_other_data_need_another_validation(folder, tmp_path):
  other = datasets.break_episode(folder, tmp_path, 0, lambda features: None)
  assert not manifest.is_validated(epath.Path(other))


def test_the_same_data_make_the_same_documents(folder, tmp_path):
  copy = tmp_path / "cog_pickplace_task" / "tiny" / folder.name
  shutil.copytree(folder, copy)
  assert statistics_main.main([str(copy)]) == 0
  for name in (*manifest.DOCUMENTS, manifest.FILENAME):
    assert (copy / name).read_bytes() == (folder / name).read_bytes()


def test_the_card_is_one_for_hubs(folder):
  card = huggingface_hub.DatasetCard.load(folder / "README.md")
  assert card.data.license == "apache-2.0"
  assert card.data.size_categories == ["n<1K"]
  assert card.data.pretty_name == "cog_pickplace_task/tiny/1.1.0"
  statistics = json.loads((folder / "statistics.json").read_text())
  mean = statistics["splits"]["train"]["fields"]["action"]["mean"][0]
  assert f"| `action` | x | {mean:.3g} |" in card.text
  assert "| train | 12 | 360 |" in card.text
  assert "| `observation/image` | uint8 | (48, 48, 3) | Camera image: height, width, RGB. |" in (
    card.text
  )


def test_the_card_of_a_relabelled_dataset_says_where_it_comes_from(folder, tmp_path):
  arguments = ["--label=zero", "--name=relabelled", f"--data_dir={tmp_path}"]
  assert relabel_main.main([f"--source={folder}", *arguments]) == 0
  assert statistics_main.main(["relabelled", f"--data_dir={tmp_path}"]) == 0
  text = (tmp_path / "relabelled" / "1.0.0" / "README.md").read_text()
  assert "'source': 'cog_pickplace_task/tiny/1.1.0'" in text


def test_the_croissant_file_is_valid_and_has_the_checksums(folder):
  dataset = mlc.Dataset(folder / "croissant.json")  # raises if it is not valid
  assert not dataset.metadata.ctx.issues.errors
  described = manifest.read(epath.Path(folder))
  files = [node for node in dataset.metadata.distribution if isinstance(node, mlc.FileObject)]
  assert {file.name for file in files} == described.keys() - set(manifest.DOCUMENTS)
  assert all(file.sha256 == described[file.name]["sha256"] for file in files)
  splits = [record["splits/name"] for record in dataset.records("splits")]
  assert splits == ["train", "validation"]
  steps = {record_set.name: record_set for record_set in dataset.metadata.record_sets}
  names = {field.name for field in steps["train/steps"].fields}
  assert {"train/steps/action", "train/steps/outcome/placed"} <= names


def test_the_documents_are_published(folder, tmp_path):
  source = prepared.find(str(folder))
  target = publish.place(str(tmp_path), source)
  publish.publish(source, target)
  for name in manifest.DOCUMENTS:
    assert (target.path / name).read_bytes() == (folder / name).read_bytes()


def test_a_dataset_without_a_manifest_is_an_error(folder, tmp_path, capfd):
  copy = tmp_path / folder.name
  shutil.copytree(folder, copy)
  (copy / manifest.FILENAME).unlink()
  with pytest.raises(SystemExit):
    statistics_main.main([str(copy)])
  assert "has no manifest.json" in capfd.readouterr().err
