"""Tests of publishing to a dataset repository.

The Hub is not reached from a test, so a repository in memory stands behind the client's interface;
calls that the real client does not take are errors here too.
"""

import hashlib
import pathlib
import types
from unittest import mock

import huggingface_hub
import pytest
from etils import epath
from huggingface_hub import errors, hf_api

from cog_agents import experience
from cog_datasets import hub, prepared, publish, publish_main
from collection import manifest
from tests.pipelines import datasets

_LFS_BYTES = 10_000  # larger files are stored by their SHA-256


class _Repository:
  """A dataset repository: files by path; `fail_at` breaks the commit of that number."""

  def __init__(self, folder: pathlib.Path, fail_at: int | None = None):
    self.files: dict[str, bytes] = {}
    self.commits: list[list[str]] = []
    self.fail_at = fail_at
    self._folder = folder
    self.api = mock.create_autospec(huggingface_hub.HfApi, instance=True)
    self.api.list_repo_tree.side_effect = self._tree
    self.api.create_commit.side_effect = self._commit
    self.api.hf_hub_download.side_effect = self._download
    self.api.file_exists.side_effect = lambda repo_id, name, **_: name in self.files

  def _tree(self, repo_id, path, **_):
    assert self.api.create_repo.called
    inside = {name: data for name, data in self.files.items() if name.startswith(f"{path}/")}
    if not inside:
      raise errors.EntryNotFoundError(path)
    for name, data in inside.items():
      sha256 = hashlib.sha256(data).hexdigest()
      lfs = {"size": len(data), "oid": sha256, "pointerSize": 1} if len(data) > _LFS_BYTES else None
      oid = hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()
      yield hf_api.RepoFile(path=name, size=len(data), oid=oid, lfs=lfs)

  def _commit(self, repo_id, operations, **_):
    if len(self.commits) == self.fail_at:
      raise errors.HfHubHTTPError(
        "503 no", response=types.SimpleNamespace(headers={}, request=None)
      )
    self.commits.append([operation.path_in_repo for operation in operations])
    for operation in operations:
      self.files[operation.path_in_repo] = operation.path_or_fileobj

  def _download(self, repo_id, name, **_):
    if name not in self.files:
      response = types.SimpleNamespace(headers={}, request=None)
      raise errors.RemoteEntryNotFoundError(name, response=response)
    path = self._folder / name.replace("/", "_")
    path.write_bytes(self.files[name])
    return str(path)


@pytest.fixture(name="task", scope="module")
def _task(tmp_path_factory) -> pathlib.Path:
  return datasets.build_publishable("cog_pickplace_task", tmp_path_factory.mktemp("data"))


@pytest.fixture(name="few_at_once", autouse=True)
def _few_at_once(monkeypatch):
  monkeypatch.setattr(hub.HubFolder, "files_at_once", 5)


def _publish(folder: pathlib.Path, repository: _Repository) -> None:
  source = prepared.find(str(folder))
  publish.publish(source, hub.HubFolder("me/cog", source.info.full_name, repository.api))


def test_what_goes_up_is_a_data_directory_with_a_card_at_its_root(task, tmp_path):
  repository = _Repository(tmp_path)
  _publish(task, repository)
  prefix = "cog_pickplace_task/tiny/1.1.0"
  expected = {f"{prefix}/{path.name}": path.read_bytes() for path in task.iterdir()}
  assert repository.files == {**expected, "README.md": (task / "README.md").read_bytes()}
  assert f"{prefix}/{manifest.FILENAME}" in repository.commits[-1]
  for name, data in repository.files.items():
    path = tmp_path / "downloaded" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
  read = experience.load(
    ["cog_pickplace_task"], data_dir=str(tmp_path / "downloaded"), observation_keys=("state",)
  )
  assert read.names == ("cog_pickplace_task/tiny/1.1.0",)  # the only one there
  assert read.num_transitions == datasets.NUM_EPISODES * 30


def test_an_interrupted_upload_goes_on(task, tmp_path):
  repository = _Repository(tmp_path, fail_at=2)
  with pytest.raises(hub.UNREACHED):
    _publish(task, repository)
  done = [name for commit in repository.commits for name in commit]
  assert len(done) == 10 and not any(manifest.FILENAME in name for name in done)
  repository.fail_at = None
  _publish(task, repository)
  names = [name for commit in repository.commits for name in commit]
  assert len(names) == len(set(names)) == len(repository.files)


def test_a_published_version_is_left_alone_and_other_contents_are_refused(task, tmp_path):
  repository = _Repository(tmp_path)
  _publish(task, repository)
  files, commits = dict(repository.files), len(repository.commits)
  _publish(task, repository)
  other = datasets.break_episode(task, tmp_path / "other", 0, lambda features: None)
  manifest.write_validation(epath.Path(other), {})
  with pytest.raises(publish.PublishError, match="published already, with other contents"):
    _publish(other, repository)
  assert (repository.files, len(repository.commits)) == (files, commits)


def test_the_card_of_the_repository_is_not_overwritten(task, tmp_path):
  repository = _Repository(tmp_path)
  repository.files["README.md"] = b"# Mine"
  _publish(task, repository)
  assert repository.files["README.md"] == b"# Mine"


def test_without_a_token_it_says_what_would_go_up(task, monkeypatch, capfd):
  monkeypatch.setattr(huggingface_hub, "get_token", lambda: None)
  assert publish_main.main([str(task), "--destination=hf://datasets/me/cog"]) == 0
  out = capfd.readouterr().out
  for name, described in manifest.read(epath.Path(task)).items():
    assert (
      f"{described['bytes']:,}  hf://datasets/me/cog/cog_pickplace_task/tiny/1.1.0/{name}" in out
    )
  assert "Nothing did: there is no token" in out


def test_a_hub_that_does_not_say_what_is_there_changes_nothing(task, tmp_path, monkeypatch, capfd):
  repository = _Repository(tmp_path)
  _publish(task, repository)
  commits = len(repository.commits)
  repository.api.hf_hub_download.side_effect = errors.LocalEntryNotFoundError("no answer")
  monkeypatch.setattr(huggingface_hub, "get_token", lambda: "hf_token")
  monkeypatch.setattr(
    hub, "parse", lambda destination, name: hub.HubFolder("me/cog", name, repository.api)
  )
  with pytest.raises(SystemExit):
    publish_main.main([str(task), "--destination=hf://datasets/me/cog"])
  assert "no answer. The same command goes on" in capfd.readouterr().err
  assert len(repository.commits) == commits


@pytest.mark.parametrize("destination", ["hf://me/cog", "hf://datasets/cog", "hf://datasets/a/b/c"])
def test_what_is_no_repository_is_an_error(destination, task, capfd):
  with pytest.raises(SystemExit):
    publish_main.main([str(task), f"--destination={destination}"])
  assert f"{destination!r}: expected hf://datasets/OWNER/REPOSITORY" in capfd.readouterr().err


def test_a_hub_that_is_not_reached_is_an_error_without_a_traceback(task, monkeypatch, capfd):
  monkeypatch.setattr(huggingface_hub, "get_token", lambda: "hf_token")
  nowhere = huggingface_hub.HfApi(endpoint="http://127.0.0.1:9", token="hf_token")
  monkeypatch.setattr(
    hub, "parse", lambda destination, name: hub.HubFolder("me/cog", name, nowhere)
  )
  with pytest.raises(SystemExit):
    publish_main.main([str(task), "--destination=hf://datasets/me/cog"])
  assert "Connection refused. The same command goes on" in capfd.readouterr().err
