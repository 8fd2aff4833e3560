"""The dataset card: README.md with the front matter that dataset hubs read."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import huggingface_hub
import numpy as np
import rlds
import tensorflow_datasets as tfds

from collection import statistics as intervals

FILENAME = "README.md"

_TAGS = ("robotics", "reinforcement-learning", "offline-rl", "rlds", "tfds", "simulation")
# Upper bound of the number of episodes → the name that hubs have for the size.
_SIZES = {1_000: "n<1K", 10_000: "1K<n<10K", 100_000: "10K<n<100K", 1_000_000: "100K<n<1M"}
_SHOWN_QUANTILES = ("0.05", "0.5", "0.95")
_LOADING = """## How to load it

With TensorFlow Datasets and nothing else, from the folder that holds this file:

```python
import tensorflow_datasets as tfds

builder = tfds.builder_from_directory(FOLDER)
for episode in builder.as_dataset(split="train"):
  for step in episode["steps"]:
    step["observation"], step["action"], step["reward"]
```

`manifest.json` has the size and the SHA-256 of every file. `statistics.json` has all that the
tables below show and more."""


def text(builder: tfds.core.DatasetBuilder, statistics: Mapping[str, Any]) -> str:
  """Returns README.md.

  Args:
    builder: see prepared.find.
    statistics: the content of statistics.json.
  """
  info = builder.info
  splits = statistics["splits"]
  sections = [
    f"---\n{_front_matter(info, splits).to_yaml()}\n---",
    info.description.strip(),
    _LOADING,
    "## Splits\n\n" + _splits_table(splits),
    "## Behaviours\n\n" + _behaviours_table(splits),
    "## Fields of a step\n\n" + _fields_table(info.features[rlds.STEPS].feature),
    "## Values in `train`\n\n" + _values_table(next(iter(splits.values()))),
    "## Where it comes from\n\n" + _metadata_list(info.metadata or {}),
    f"## Citation\n\n```bibtex\n{info.citation.strip()}\n```" if info.citation else "",
  ]
  return "\n\n".join(filter(None, sections)) + "\n"


def license_name(info: tfds.core.DatasetInfo) -> str | None:
  return info.redistribution_info.license or None


def _front_matter(
  info: tfds.core.DatasetInfo, splits: Mapping[str, Any]
) -> huggingface_hub.DatasetCardData:
  episodes = sum(split["episodes"] for split in splits.values())
  sizes = [name for bound, name in _SIZES.items() if episodes < bound]
  return huggingface_hub.DatasetCardData(
    license=(license_name(info) or "unknown").lower(),
    pretty_name=info.full_name,
    task_categories=["robotics", "reinforcement-learning"],
    size_categories=[sizes[0] if sizes else "n>1M"],
    tags=list(_TAGS),
    viewer=False,  # which does not read TFRecord files
  )


def _splits_table(splits: Mapping[str, Any]) -> str:
  header = (
    "split",
    "episodes",
    "transitions",
    "MB",
    "episodes with a reward",
    "actions an episode",
  )
  return _table(
    header,
    (
      (
        name,
        split["episodes"],
        split["transitions"],
        f"{split['bytes'] / 1e6:.1f}",
        _rate(split["success_rate"], split["episodes"]),
        ", ".join(split["lengths"]),
      )
      for name, split in splits.items()
    ),
  )


def _behaviours_table(splits: Mapping[str, Any]) -> str:
  header = (
    "split",
    "behaviour",
    "episodes",
    "transitions",
    "with a reward",
    "outcome at some step",
  )
  return _table(
    header,
    (
      (
        name,
        f"`{behaviour}`",
        counts["episodes"],
        counts["transitions"],
        _rate(counts["success_rate"], counts["episodes"]),
        ", ".join(f"`{key}` {rate:.2f}" for key, rate in counts["outcomes"].items() if rate),
      )
      for name, split in splits.items()
      for behaviour, counts in split["behaviours"].items()
    ),
  )


def fields(
  feature: tfds.features.FeaturesDict, prefix: str = ""
) -> Iterable[tuple[str, tfds.features.FeatureConnector]]:
  """Yields (name, feature) of the fields of a step; that of a nested one is PARENT/NAME."""
  for name, nested in sorted(feature.items()):
    if isinstance(nested, tfds.features.FeaturesDict):
      yield from fields(nested, f"{prefix}{name}/")
    else:
      yield prefix + name, nested


def _fields_table(feature: tfds.features.FeaturesDict) -> str:
  rows = (
    (f"`{name}`", np.dtype(nested.np_dtype).name, nested.shape, nested.doc.desc)
    for name, nested in fields(feature)
  )
  return _table(("field", "type", "shape", "what it is"), rows)


def _values_table(split: Mapping[str, Any]) -> str:
  header = ("field", "dimension", "mean", "deviation", "least", *_SHOWN_QUANTILES, "greatest")
  return _table(
    header,
    (
      (f"`{name}`", dimension, *(f"{value:.3g}" for value in values))
      for name, field in split["fields"].items()
      for dimension, *values in zip(
        field["dimensions"],
        field["mean"],
        field["std"],
        field["min"],
        *(field["quantiles"][q] for q in _SHOWN_QUANTILES),
        field["max"],
        strict=True,
      )
    ),
  )


def _metadata_list(metadata: Mapping[str, Any]) -> str:
  """The metadata of the builder: environment, scripts, seeds, label, lineage, packages."""
  return "\n".join(f"- `{key}`: `{value}`" for key, value in sorted(metadata.items()))


def _rate(rate: float, episodes: int) -> str:
  low, high = intervals.wilson_interval(round(rate * episodes), episodes)
  return f"{rate:.3f} [{low:.3f}, {high:.3f}]"


def _table(header: Sequence[str], rows: Iterable[Iterable[Any]]) -> str:
  lines = [header, ["---"] * len(header), *rows]
  return "\n".join("| " + " | ".join(map(_cell, line)) + " |" for line in lines)


def _cell(value: Any) -> str:
  return str(value).replace("|", "\\|").replace("\n", " ")
