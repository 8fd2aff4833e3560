"""One HTML page, with everything in it, to look at a dataset: statistics, and episodes to browse.

The page is inspect_template.html with the data in its middle, as JSON in script elements that no
browser runs: one for the dataset, one for the list of episodes, and one for each episode, which is
parsed when it is selected. Images are lossless WebP, one picture of all frames for each episode:
half the size of PNG, and smaller than lossy WebP or JPEG as long as images are rendered.
"""

import base64
import contextlib
import io
import json
import math
import os
import pathlib
from collections.abc import Iterator, Mapping
from typing import Any, TextIO

import numpy as np
import rlds
import tensorflow_datasets as tfds
import tqdm
from etils import epath
from PIL import Image

from cog_datasets import dataset_statistics, prepared, schema
from collection import manifest, specs

DEFAULT_EPISODES = 200
_TEMPLATE = pathlib.Path(__file__).with_name("inspect_template.html")
_DATA = "<!-- the data -->\n"  # the line of the template that the data replaces
_OBSERVATIONS = (specs.STATE, specs.SIMULATOR_STATE)  # what is shown as lines


class InspectError(ValueError):
  """There can be no page; the message says why."""


def choose(sizes: Mapping[str, int], num_episodes: int) -> dict[str, list[int]]:
  """Chooses episodes evenly over each split, and for each split in proportion to its size.

  Args:
    sizes: split → number of its episodes, in total at least one.
    num_episodes: how many to choose; all if there are fewer. Each split with episodes gets at least
      one; if there are not enough, the largest splits get them.

  Returns:
    Split → indices in the split, ascending.

  Raises:
    InspectError: if num_episodes is below 1.
  """
  if num_episodes < 1:
    raise InspectError(f"a page has at least 1 episode, got {num_episodes}")
  largest_first = sorted((split for split in sizes if sizes[split]), key=lambda x: -sizes[x])
  chosen: dict[str, list[int]] = {split: [] for split in sizes}
  total = sum(sizes.values())
  rest = min(num_episodes, total)
  # The smallest split first: the largest then takes what rounding has left.
  for split in reversed(largest_first[:num_episodes]):
    size = sizes[split]
    count = max(1, round(rest * size / total))
    chosen[split] = [(2 * i + 1) * size // (2 * count) for i in range(count)]
    rest, total = rest - count, total - size
  return chosen


def write(builder: tfds.core.DatasetBuilder, out: pathlib.Path, num_episodes: int) -> int:
  """Writes the page to `out`, aside first; missing folders are made.

  Args:
    builder: see prepared.find.
    out: the page's file.
    num_episodes: see `choose`.

  Returns:
    The number of episodes on the page.

  Raises:
    InspectError: if num_episodes is below 1, the dataset lacks a field of an episode of this
      project, or `out` cannot be written.
    ValueError: if an episode of the page is damaged.
  """
  chosen = choose(
    {split: info.num_examples for split, info in builder.info.splits.items()}, num_episodes
  )
  _check_fields(builder)
  before, after = _TEMPLATE.read_text().split(_DATA)
  with _aside(out) as page:
    page.write(before)
    page.write(_block("dataset", _dataset(builder)))
    entries, ranges = [], _Ranges()
    for split, index, episode in _read(builder, chosen):
      signals = _signals(episode[rlds.STEPS])
      ranges.add(signals)
      page.write(_block(f"episode-{len(entries)}", _recording(episode[rlds.STEPS], signals)))
      entries.append(_entry(split, index, episode))
    page.write(_block("episodes", {"entries": entries, "ranges": ranges.pairs()}))
    page.write(after)
  return len(entries)


def _check_fields(builder: tfds.core.DatasetBuilder) -> None:
  found = set(_inner_names(builder.info.features))
  wanted = [schema.EPISODE_METADATA, rlds.STEPS, rlds.ACTION, rlds.REWARD, schema.OUTCOME]
  missing = [name for name in (*wanted, *specs.OBSERVATION_KEYS) if name not in found]
  if missing:
    raise InspectError(
      f"{builder.info.full_name} holds no episodes of this project: it has no {', '.join(missing)}"
    )


def _inner_names(feature: tfds.features.FeatureConnector) -> Iterator[str]:
  """Yields the names of all fields, at any depth."""
  if isinstance(feature, tfds.features.Dataset):
    feature = feature.feature
  if isinstance(feature, tfds.features.FeaturesDict):
    for name, inner in feature.items():
      yield name
      yield from _inner_names(inner)


@contextlib.contextmanager
def _aside(out: pathlib.Path) -> Iterator[TextIO]:
  """A file that takes the place of `out` if the block ends well, and else is gone."""
  aside = out.with_name(f".{out.name}.{os.getpid()}")
  try:
    if out.is_dir():
      raise IsADirectoryError(f"{out} is a folder")
    out.parent.mkdir(parents=True, exist_ok=True)
    file = aside.open("w", encoding="utf-8")
  except OSError as error:
    raise InspectError(f"cannot write the page {out}: {error}") from error
  try:
    with file:
      yield file
    aside.replace(out)
  finally:
    aside.unlink(missing_ok=True)


def _block(name: str, value: Any) -> str:
  """A script element with JSON, in which nothing that a dataset contains can end the element."""
  text = json.dumps(_plain(value), separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")
  return f'<script type="application/json" id="{name}">{text}</script>\n'


def _plain(value: Any) -> Any:
  """The value with what JSON does not know as text: "nan" and "inf" (a dataset may be broken)."""
  if isinstance(value, Mapping):
    return {key: _plain(item) for key, item in value.items()}
  if isinstance(value, list | tuple):
    return [_plain(item) for item in value]
  if isinstance(value, float) and not math.isfinite(value):
    return str(value)
  return value


def _dataset(builder: tfds.core.DatasetBuilder) -> dict[str, Any]:
  """What the page tells of the dataset as a whole."""
  info = builder.info
  folder = epath.Path(builder.data_dir)
  has_manifest = (folder / manifest.FILENAME).exists()
  found = dataset_statistics.read_or_compute(builder)
  return {
    "name": info.full_name,
    "summary": info.config_description or "",
    "description": info.description or "",
    "homepage": info.homepage or "",
    "citation": info.citation or "",
    "license": info.redistribution_info.license,
    "release_notes": info.release_notes or {},
    "metadata": dict(info.metadata or {}),
    "manifest_sha256": manifest.sha256(folder / manifest.FILENAME) if has_manifest else "",
    "is_validated": has_manifest and manifest.is_validated(folder),
    "splits": found["splits"],
    "groups": _groups(builder, found),
    "image_size": list(info.features[rlds.STEPS].feature[rlds.OBSERVATION][specs.IMAGE].shape[:2]),
  }


def _groups(builder: tfds.core.DatasetBuilder, found: dict[str, Any]) -> list[dict[str, Any]]:
  """Names the rows of `_signals`; the kind says how they are drawn."""
  fields = next(iter(found["splits"].values()))["fields"]
  outcomes = builder.info.features[rlds.STEPS].feature[schema.OUTCOME]
  flags, numbers = _outcome_names(outcomes)

  def group(title, kind, names, docs=None, is_open=True):
    return {"title": title, "kind": kind, "names": names, "docs": docs or names, "open": is_open}

  return [
    group("Actions", "action", fields[rlds.ACTION]["dimensions"]),
    group("Reward", "reward", [rlds.REWARD]),
    group("Outcomes", "flag", flags, [outcomes[name].doc.desc for name in flags]),
    group("", "number", numbers, [outcomes[name].doc.desc for name in numbers]),
    *(
      group(title, "number", fields[f"{rlds.OBSERVATION}/{key}"]["dimensions"], is_open=False)
      for key, title in zip(_OBSERVATIONS, ("State", "Simulator state"), strict=True)
    ),
  ]


def _outcome_names(outcomes: Mapping[str, Any]) -> tuple[list[str], list[str]]:
  """Names of what is true or false, and of what is a number."""
  flags = [name for name in sorted(outcomes) if outcomes[name].dtype == np.bool_]
  return flags, [name for name in sorted(outcomes) if name not in flags]


def _read(
  builder: tfds.core.DatasetBuilder, chosen: Mapping[str, list[int]]
) -> Iterator[tuple[str, int, dict[str, Any]]]:
  """Yields the split, the index and the episode."""
  total = sum(map(len, chosen.values()))
  with tqdm.tqdm(total=total, desc=f"Drawing {builder.info.full_name}", unit="episode") as bar:
    for split, indices in chosen.items():
      for index, episode in zip(indices, prepared.selected(builder, split, indices), strict=True):
        yield split, index, episode
        bar.update()


def _signals(steps: Mapping[str, Any]) -> np.ndarray:
  """Everything but the images, float32 (rows, T + 1), in the order of `_groups`."""
  outcomes = steps[schema.OUTCOME]
  flags, numbers = _outcome_names(outcomes)
  rows = [
    steps[rlds.ACTION].T,
    steps[rlds.REWARD][None],
    *(outcomes[name][None] for name in (*flags, *numbers)),
    *(steps[rlds.OBSERVATION][key].T for key in _OBSERVATIONS),
  ]
  return np.concatenate(rows).astype("<f4")


class _Ranges:
  """The smallest and the largest finite value of each row of `_signals`, over all episodes."""

  def __init__(self):
    self._low, self._high = np.inf, -np.inf

  def add(self, signals: np.ndarray) -> None:
    is_finite = np.isfinite(signals)
    self._low = np.minimum(self._low, signals.min(1, initial=np.inf, where=is_finite))
    self._high = np.maximum(self._high, signals.max(1, initial=-np.inf, where=is_finite))

  def pairs(self) -> list[list[float]]:
    return np.stack([self._low, self._high], axis=1).tolist()


def _recording(steps: Mapping[str, Any], signals: np.ndarray) -> dict[str, str]:
  """An episode's images and signals, in base64: about 20 kB for 30 actions."""
  picture = io.BytesIO()
  Image.fromarray(_sprite(steps[rlds.OBSERVATION][specs.IMAGE])).save(
    picture, "WEBP", lossless=True
  )
  return {"images": _base64(picture.getvalue()), "signals": _base64(signals.tobytes())}


def _base64(data: bytes) -> str:
  return base64.b64encode(data).decode("ascii")


def _sprite(images: np.ndarray) -> np.ndarray:
  """Lays out (T + 1, height, width, 3) row by row as about a square, which WebP has a limit for."""
  number, height, width, _ = images.shape
  columns = math.ceil(math.sqrt(number))
  rows = math.ceil(number / columns)
  padded = np.zeros((rows * columns, *images.shape[1:]), np.uint8)
  padded[:number] = images
  grid = padded.reshape(rows, columns, height, width, 3).swapaxes(1, 2)  # rows, height, columns, …
  return grid.reshape(rows * height, columns * width, 3)


def _entry(split: str, index: int, episode: Mapping[str, Any]) -> dict[str, Any]:
  """The episode's line in the list, with all of its metadata as text."""
  steps, metadata = episode[rlds.STEPS], episode[schema.EPISODE_METADATA]
  rewards = steps[rlds.REWARD][:-1]  # the last step has no action
  flags, _ = _outcome_names(steps[schema.OUTCOME])
  return {
    "split": split,
    "index": index,
    "id": _text(metadata[schema.EPISODE_ID]),
    "behaviour": _text(metadata[schema.BEHAVIOUR]),
    "actions": len(rewards),
    "return": float(rewards.sum()),
    "success": bool((rewards > 0).any()),
    "outcomes": [name for name in flags if steps[schema.OUTCOME][name].any()],
    "metadata": {key: _text(value) for key, value in metadata.items()},
  }


def _text(value: Any) -> str:
  """Of a feature; a number as text keeps all its digits in the browser."""
  return value.decode(errors="replace") if isinstance(value, bytes) else str(value)
