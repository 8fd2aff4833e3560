"""Dataset repositories of the Hugging Face Hub, as a place to publish to."""

import contextlib
import dataclasses
import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence

import huggingface_hub
from etils import epath
from huggingface_hub import errors, hf_api

from cog_datasets import card
from collection import manifest

SCHEME = "hf://datasets/"
# Of a refused request (no such owner, no right to write) and of a connection that is not there:
# what the HTTP client below huggingface_hub raises, whichever that is; when a file was asked for,
# an error of its own.
UNREACHED = (errors.HfHubHTTPError.__mro__[1], errors.LocalEntryNotFoundError)

_REPOSITORY = "dataset"  # of the kinds that the Hub has


@dataclasses.dataclass(frozen=True)
class HubFolder:
  """A folder NAME[/CONFIG]/VERSION in a dataset repository.

  Attributes:
    repository: OWNER/NAME.
    path: of the folder in it.
    api: the client, with its token.
  """

  repository: str
  path: str
  api: huggingface_hub.HfApi = dataclasses.field(default_factory=huggingface_hub.HfApi)

  files_at_once = 50  # go up in one commit

  def __str__(self) -> str:
    return f"{SCHEME}{self.repository}/{self.path}"

  def alone(self) -> contextlib.AbstractContextManager[None]:
    """The Hub keeps all or nothing of a commit, whoever else makes one."""
    return contextlib.nullcontext()

  def create(self) -> None:
    self.api.create_repo(self.repository, repo_type=_REPOSITORY, exist_ok=True)

  def read_manifest(self) -> dict[str, dict] | None:
    """Returns that of a dataset that is published here; None if there is none."""
    name = f"{self.path}/{manifest.FILENAME}"
    try:
      path = self.api.hf_hub_download(self.repository, name, repo_type=_REPOSITORY)
    except errors.RemoteEntryNotFoundError:  # which a Hub that does not answer is not
      return None
    return json.loads(epath.Path(path).read_text())

  def missing(self, folder: epath.Path, files: Mapping[str, dict]) -> list[str]:
    """Names of the files that are not here as their manifest describes them."""
    found = dict(self._listing())
    return [
      name for name, described in files.items() if not _is_same(found, name, described, folder)
    ]

  def check_disk(self, needed: int) -> None:
    """The Hub refuses for itself what it has no room for."""

  def put(self, paths: Sequence[epath.Path]) -> None:
    """Uploads files, all or none."""
    self._commit({f"{self.path}/{path.name}": path for path in paths})

  def finish(self, folder: epath.Path) -> None:
    """Uploads what makes the dataset a published one, and the card of the repository, once."""
    names = (manifest.VALIDATION, manifest.FILENAME)
    paths = {f"{self.path}/{name}": folder / name for name in names}
    card_there = self.api.file_exists(self.repository, card.FILENAME, repo_type=_REPOSITORY)
    if not card_there and (folder / card.FILENAME).exists():
      paths[card.FILENAME] = folder / card.FILENAME
    self._commit(paths)

  def _listing(self) -> Iterator[tuple[str, hf_api.RepoFile]]:
    tree = self.api.list_repo_tree(
      self.repository, self.path, recursive=True, repo_type=_REPOSITORY
    )
    try:
      for entry in tree:
        if isinstance(entry, hf_api.RepoFile):
          yield entry.path.removeprefix(f"{self.path}/"), entry
    except errors.EntryNotFoundError:
      return  # the folder is not there yet

  def _commit(self, paths: Mapping[str, epath.Path]) -> None:
    operations = [
      huggingface_hub.CommitOperationAdd(path_in_repo=name, path_or_fileobj=path.read_bytes())
      for name, path in paths.items()
    ]
    self.api.create_commit(
      self.repository,
      operations,
      commit_message=f"{self.path}: {len(operations)} files",
      repo_type=_REPOSITORY,
    )


def parse(destination: str, name: str) -> HubFolder:
  """Returns the folder of a dataset in a repository.

  Args:
    destination: hf://datasets/OWNER/NAME.
    name: NAME[/CONFIG]/VERSION of the dataset.

  Raises:
    ValueError: if the destination is not of that form.
  """
  repository = destination.removeprefix(SCHEME)
  if not re.fullmatch(r"[\w.-]+/[\w.-]+", repository):
    raise ValueError(f"{destination!r}: expected {SCHEME}OWNER/REPOSITORY")
  return HubFolder(repository, name)


def _is_same(
  found: Mapping[str, hf_api.RepoFile],
  name: str,
  described: Mapping,
  folder: epath.Path,
) -> bool:
  if name not in found or found[name].size != described["bytes"]:
    return False
  if found[name].lfs:
    return found[name].lfs.sha256 == described["sha256"]
  return found[name].blob_id == _git_blob_id((folder / name).read_bytes())


def _git_blob_id(content: bytes) -> str:
  """As git names the contents of a small file, which the Hub has no SHA-256 of."""
  return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
