"""manifest.json of a prepared dataset: size and SHA-256 of each file, to check a copy by."""

import hashlib
import json

from etils import epath

FILENAME = "manifest.json"
VALIDATION = "validation.json"  # what the validator leaves of a dataset without violations
_BLOCK = 1 << 20  # bytes


def write(folder: epath.Path) -> None:
  """Writes the manifest of all files that are in the folder now."""
  files = {path.name: _describe(path) for path in _files(folder)}
  aside = folder / f".{FILENAME}.incomplete"
  aside.write_text(json.dumps(files, indent=1, sort_keys=True))
  aside.replace(folder / FILENAME)


def read(folder: epath.Path) -> dict[str, dict]:
  """Returns file name → {"bytes", "sha256"}.

  Raises:
    ValueError: if there is no manifest.
  """
  path = folder / FILENAME
  if not path.exists():
    raise ValueError(f"{folder} has no {FILENAME}")
  return json.loads(path.read_text())


def violations(folder: epath.Path) -> list[str]:
  """What is wrong with the files of a dataset, by their manifest; each names its file."""
  found = []
  for name, described in read(folder).items():
    path = folder / name
    if not path.exists():
      found.append(f"{name} is missing")
    elif (length := path.stat().length) != described["bytes"]:
      found.append(f"{name} has {length} bytes, not {described['bytes']}")
    elif (digest := sha256(path)) != described["sha256"]:
      found.append(f"{name} has the SHA-256 {digest}, not {described['sha256']}")
  return found


def write_validation(folder: epath.Path, facts: dict) -> None:
  """Notes that the dataset, as its manifest describes it, was validated without a violation."""
  validation = {"manifest_sha256": sha256(folder / FILENAME), **facts}
  (folder / VALIDATION).write_text(json.dumps(validation, indent=1))


def is_validated(folder: epath.Path) -> bool:
  """Whether the dataset was validated as its manifest describes it now."""
  path = folder / VALIDATION
  if not path.exists():
    return False
  return json.loads(path.read_text())["manifest_sha256"] == sha256(folder / FILENAME)


def sha256(path: epath.Path) -> str:
  """Of a file, as hexadecimal digits."""
  digest = hashlib.sha256()
  with path.open("rb") as file:
    while block := file.read(_BLOCK):
      digest.update(block)
  return digest.hexdigest()


def _files(folder: epath.Path) -> list[epath.Path]:
  """Hidden files are not part of a dataset."""
  names = {path.name: path for path in folder.iterdir()}
  described = [name for name in names if name not in (FILENAME, VALIDATION)]
  return [names[name] for name in sorted(described) if not name.startswith(".")]


def _describe(path: epath.Path) -> dict:
  return {"bytes": path.stat().length, "sha256": sha256(path)}
