"""manifest.json of a prepared dataset: size and SHA-256 of each file, to check a copy by.

The documents of a dataset (statistics, card, Croissant file) come after its data. They are in the
manifest too, but a validation of the data stays one when they change.
"""

import concurrent.futures
import hashlib
import json
from collections.abc import Collection, Mapping, Sequence

from etils import epath

FILENAME = "manifest.json"
VALIDATION = "validation.json"  # what the validator leaves of a dataset without violations
DOCUMENTS = ("README.md", "croissant.json", "statistics.json")
_BLOCK = 1 << 20  # bytes


def write(folder: epath.Path) -> None:
  """Writes the manifest of all files that are in the folder now."""
  paths = _files(folder)
  with concurrent.futures.ThreadPoolExecutor() as pool:  # hashing leaves Python to the others
    described = pool.map(_describe, paths)
    _write(folder, {path.name: x for path, x in zip(paths, described, strict=True)})


def add_documents(folder: epath.Path, documents: Mapping[str, str]) -> None:
  """Writes some of DOCUMENTS, name → text, and adds them to the manifest."""
  for name, text in documents.items():
    _write_aside(folder / name, text)
  _write(folder, read(folder) | {name: _describe(folder / name) for name in documents})


def read(folder: epath.Path) -> dict[str, dict]:
  """Returns file name → {"bytes", "sha256"}.

  Raises:
    ValueError: if there is no manifest, or it is damaged.
  """
  path = folder / FILENAME
  if not path.exists():
    raise ValueError(f"{folder} has no {FILENAME}")
  files = _parsed(path)
  for name, described in files.items():
    if not isinstance(described, dict) or not described.keys() >= {"bytes", "sha256"}:
      raise ValueError(f"{path} is damaged: of {name!r} it has {described!r}")
  return files


def violations(folder: epath.Path, ignored: Collection[str] = ()) -> list[str]:
  """What is wrong with the files of a dataset, by their manifest; each names its file.

  Args:
    folder: of the dataset.
    ignored: names of files that do not matter.

  Raises:
    ValueError: if there is no manifest, or it is damaged.
  """
  described = {name: x for name, x in read(folder).items() if name not in ignored}
  with concurrent.futures.ThreadPoolExecutor() as pool:
    found = pool.map(lambda item: _violation(folder / item[0], item[1]), described.items())
    return [message for message in found if message]


def write_validation(folder: epath.Path, facts: dict) -> None:
  """Notes that the data, as the manifest describes them, were validated without a violation."""
  validation = {"data_sha256": _data_digest(folder), **facts}
  _write_aside(folder / VALIDATION, json.dumps(validation, indent=1))


def is_validated(folder: epath.Path) -> bool:
  """Whether the data were validated as the manifest describes them now.

  Raises:
    ValueError: if the manifest or the validation is damaged.
  """
  path = folder / VALIDATION
  if not path.exists():
    return False
  return _parsed(path).get("data_sha256") == _data_digest(folder)


def _parsed(path: epath.Path) -> dict:
  try:
    parsed = json.loads(path.read_text())
  except ValueError as error:  # no JSON, or no text
    raise ValueError(f"{path} is damaged: {error}") from error
  if not isinstance(parsed, dict):
    raise ValueError(f"{path} is damaged: it holds {type(parsed).__name__}, not an object")
  return parsed


def _violation(path: epath.Path, described: Mapping) -> str | None:
  if not path.exists():
    return f"{path.name} is missing"
  if (length := path.stat().length) != described["bytes"]:
    return f"{path.name} has {length} bytes, not {described['bytes']}"
  if (digest := sha256(path)) != described["sha256"]:
    return f"{path.name} has the SHA-256 {digest}, not {described['sha256']}"
  return None


def digests(folder: epath.Path, paths: Sequence[epath.Path]) -> list[str]:
  """SHA-256 of files in a folder: as its manifest has them, or computed if there is none.

  Raises:
    ValueError: if the manifest is damaged.
  """
  if (folder / FILENAME).exists():
    described = read(folder)
    return [described[path.name]["sha256"] for path in paths]
  with concurrent.futures.ThreadPoolExecutor() as pool:  # hashing leaves Python to the others
    return list(pool.map(sha256, paths))


def sha256(path: epath.Path) -> str:
  """Of a file, as hexadecimal digits."""
  digest = hashlib.sha256()
  with path.open("rb") as file:
    while block := file.read(_BLOCK):
      digest.update(block)
  return digest.hexdigest()


def _write(folder: epath.Path, files: Mapping[str, dict]) -> None:
  _write_aside(folder / FILENAME, json.dumps(files, indent=1, sort_keys=True))


def _write_aside(path: epath.Path, text: str) -> None:
  aside = path.with_name(f".{path.name}.incomplete")
  aside.write_text(text)
  aside.replace(path)


def _data_digest(folder: epath.Path) -> str:
  """SHA-256 of what the manifest says of all files but the documents."""
  data = {name: described for name, described in read(folder).items() if name not in DOCUMENTS}
  return hashlib.sha256(json.dumps(data, sort_keys=True).encode()).hexdigest()


def _files(folder: epath.Path) -> list[epath.Path]:
  """Hidden files are not part of a dataset."""
  names = {path.name: path for path in folder.iterdir()}
  described = [name for name in names if name not in (FILENAME, VALIDATION)]
  return [names[name] for name in sorted(described) if not name.startswith(".")]


def _describe(path: epath.Path) -> dict:
  return {"bytes": path.stat().length, "sha256": sha256(path)}
