"""Statistics of a dataset: what is in it, by dimension and by behaviour.

What is counted here adds up to the same whatever the order and the grouping, so that a job on one
core and on a cluster write the same file.
"""

import collections
import dataclasses
import fractions
import json
from collections.abc import Iterable
from typing import Any

import numpy as np
import rlds
import tensorflow_datasets as tfds
import tqdm
from etils import epath

from cog_datasets import prepared, schema

FILENAME = "statistics.json"
QUANTILES = (0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99)
_ACTION_EDGES = np.linspace(-1, 1, 41)

# A value is counted under its sign, its exponent and the first 9 bits of its mantissa: quantiles
# are right to a relative 2⁻¹⁰.
_DROPPED_BITS = 14
_KEY_BITS = 32 - _DROPPED_BITS

# Keys of a Counter.
_EPISODES = "episodes"
_TRANSITIONS = "transitions"
_SUCCESSES = "successes"
_LENGTH = "length"
_RETURN = "return"
_OUTCOME = "outcome"


@dataclasses.dataclass(frozen=True)
class Moments:
  """Of a vector, by dimension.

  Attributes:
    count: N, the number of vectors.
    sums, squares: of the values and of their squares, D exact numbers.
    low, high: float32 (D,).
    keys, counts: int64 (K,); how many values of which dimension and bucket; see `_keys`.
    histogram: int64 (D, 40), over the range of an action.
  """

  count: int
  sums: tuple[fractions.Fraction, ...]
  squares: tuple[fractions.Fraction, ...]
  low: np.ndarray
  high: np.ndarray
  keys: np.ndarray
  counts: np.ndarray
  histogram: np.ndarray

  @classmethod
  def of(cls, values: np.ndarray) -> "Moments":
    """Of the rows of a float32 array (N, D)."""
    wide = values.astype(np.float64)
    keys, counts = np.unique(_keys(values), return_counts=True)
    return cls(
      count=len(values),
      sums=tuple(map(fractions.Fraction, wide.sum(axis=0))),
      squares=tuple(map(fractions.Fraction, np.square(wide).sum(axis=0))),
      low=values.min(axis=0),
      high=values.max(axis=0),
      keys=keys,
      counts=counts,
      histogram=np.stack([np.histogram(column, _ACTION_EDGES)[0] for column in values.T]),
    )

  @classmethod
  def merged(cls, moments: Iterable["Moments"]) -> "Moments":
    moments = list(moments)
    keys, positions = np.unique(np.concatenate([m.keys for m in moments]), return_inverse=True)
    counts = np.zeros(len(keys), np.int64)
    np.add.at(counts, positions, np.concatenate([m.counts for m in moments]))
    return cls(
      count=sum(m.count for m in moments),
      sums=tuple(map(sum, zip(*(m.sums for m in moments), strict=True))),
      squares=tuple(map(sum, zip(*(m.squares for m in moments), strict=True))),
      low=np.min([m.low for m in moments], axis=0),
      high=np.max([m.high for m in moments], axis=0),
      keys=keys,
      counts=counts,
      histogram=np.sum([m.histogram for m in moments], axis=0),
    )

  def summary(self) -> dict[str, Any]:
    means = [total / self.count for total in self.sums]
    variances = [
      square / self.count - mean * mean for square, mean in zip(self.squares, means, strict=True)
    ]
    columns = [self._quantiles(dimension) for dimension in range(len(means))]
    return {
      "mean": _rounded(means),
      "std": _rounded(float(max(variance, 0)) ** 0.5 for variance in variances),
      "min": _rounded(self.low),
      "max": _rounded(self.high),
      "quantiles": {
        str(q): _rounded(row) for q, row in zip(QUANTILES, zip(*columns, strict=True), strict=True)
      },
    }

  def _quantiles(self, dimension: int) -> np.ndarray:
    start, stop = np.searchsorted(self.keys, [dimension << _KEY_BITS, (dimension + 1) << _KEY_BITS])
    values = _middles(self.keys[start:stop])
    order = np.argsort(values)
    reached = np.cumsum(self.counts[start:stop][order])
    found = values[order][np.searchsorted(reached, np.multiply(QUANTILES, self.count))]
    return np.clip(found, self.low[dimension], self.high[dimension])


@dataclasses.dataclass(frozen=True)
class Statistics:
  """Of some episodes.

  Attributes:
    behaviours: behaviour → numbers of episodes, transitions and successes, and of the episodes of
      each length (actions), of each return, and with each outcome at some step.
    fields: name of a vector → its moments, over all steps that have it.
  """

  behaviours: dict[str, collections.Counter]
  fields: dict[str, Moments]


def of_episodes(episodes: Iterable[dict[str, Any]]) -> Statistics:
  """Counts episodes with stacked steps, at least one; see prepared.episodes.

  Raises:
    ValueError: if a value is not finite.
  """
  behaviours = collections.defaultdict(collections.Counter)
  vectors = collections.defaultdict(list)
  for episode in episodes:
    steps = episode[rlds.STEPS]
    behaviour = episode[schema.EPISODE_METADATA][schema.BEHAVIOUR].decode()
    behaviours[behaviour].update(_count(steps))
    vectors[rlds.ACTION].append(steps[rlds.ACTION][:-1])  # the last step has none
    for key, values in steps[rlds.OBSERVATION].items():
      if values.ndim == 2:
        vectors[f"{rlds.OBSERVATION}/{key}"].append(values)
  fields = {}
  for name, arrays in vectors.items():
    values = np.concatenate(arrays)
    if not np.all(np.isfinite(values)):
      raise ValueError(f"{name} has values that are not finite: validate_main says where")
    fields[name] = Moments.of(values)
  return Statistics(dict(behaviours), fields)


def merge(parts: Iterable[Statistics]) -> Statistics:
  """Of all episodes of the parts, at least one."""
  parts = list(parts)
  behaviours = collections.defaultdict(collections.Counter)
  for part in parts:
    for behaviour, counter in part.behaviours.items():
      behaviours[behaviour].update(counter)
  fields = {name: Moments.merged(part.fields[name] for part in parts) for name in parts[0].fields}
  return Statistics(dict(behaviours), fields)


def summary(statistics: Statistics, environment: str | None) -> dict[str, Any]:
  """Returns what statistics.json says of a split.

  Args:
    statistics: of its episodes.
    environment: that the dataset is for; if it is in the registry, dimensions have names.
  """
  dimensions = schema.dimensions(environment)
  total = collections.Counter()
  for counter in statistics.behaviours.values():
    total.update(counter)
  fields = {}
  for name, moments in sorted(statistics.fields.items()):
    names = dimensions.get(name, map(str, range(len(moments.sums))))
    fields[name] = {"dimensions": list(names), **moments.summary()}
  fields[rlds.ACTION]["histogram"] = {
    "edges": _ACTION_EDGES.tolist(),
    "counts": statistics.fields[rlds.ACTION].histogram.tolist(),
  }
  return {
    **_rates(total),
    "lengths": _distribution(total, _LENGTH),
    "returns": _distribution(total, _RETURN),
    "behaviours": {
      behaviour: {**_rates(counter), "outcomes": _outcomes(counter)}
      for behaviour, counter in sorted(statistics.behaviours.items())
    },
    "fields": fields,
  }


def document(
  builder: tfds.core.DatasetBuilder, summaries: dict[str, dict[str, Any]]
) -> dict[str, Any]:
  """Returns the content of statistics.json.

  Args:
    builder: see prepared.find.
    summaries: split → its `summary`.
  """
  splits = {
    split: {"bytes": int(info.num_bytes), **summaries[split]}
    for split, info in builder.info.splits.items()
  }
  return {"dataset": builder.info.full_name, "splits": splits}


def read_or_compute(builder: tfds.core.DatasetBuilder) -> dict[str, Any]:
  """Returns statistics.json of a dataset; computes it, in this process, if it is not there."""
  path = epath.Path(builder.data_dir) / FILENAME
  if path.exists():
    return json.loads(path.read_text())
  by_split = collections.defaultdict(list)
  for part in tqdm.tqdm(prepared.parts(builder), f"Statistics of {builder.info.full_name}"):
    episodes = prepared.episodes(builder, part, with_images=False)
    by_split[part.split].append(of_episodes(episodes))
  name = environment(builder)
  return document(builder, {split: summary(merge(x), name) for split, x in by_split.items()})


def environment(builder: tfds.core.DatasetBuilder) -> str | None:
  """The environment that a dataset says it is for."""
  return (builder.info.metadata or {}).get(schema.ENVIRONMENT)


def _count(steps: dict[str, Any]) -> dict[Any, int]:
  rewards = steps[rlds.REWARD][:-1]
  outcomes = {
    (_OUTCOME, name): int(values.any())
    for name, values in steps[schema.OUTCOME].items()
    if values.dtype == bool
  }
  return {
    _EPISODES: 1,
    _TRANSITIONS: len(rewards),
    _SUCCESSES: int((rewards > 0).any()),
    (_LENGTH, len(rewards)): 1,
    (_RETURN, float(rewards.sum())): 1,
    **outcomes,
  }


def _keys(values: np.ndarray) -> np.ndarray:
  """Buckets of float32 values (N, D): int64 (N·D,), the dimension above the leading bits."""
  bits = np.ascontiguousarray(values, np.float32).view(np.uint32).astype(np.int64)
  return ((np.arange(values.shape[1]) << _KEY_BITS) + (bits >> _DROPPED_BITS)).ravel()


def _middles(keys: np.ndarray) -> np.ndarray:
  """The middle of each bucket, float32; that of zero is zero."""
  leading = keys & ((1 << _KEY_BITS) - 1)
  bits = (leading << _DROPPED_BITS) + (1 << (_DROPPED_BITS - 1))
  middles = bits.astype(np.uint32).view(np.float32)
  return np.where(np.abs(middles) < np.finfo(np.float32).tiny, np.float32(0), middles)


def _rounded(values: Iterable[Any]) -> list[float]:
  """To the six digits that a reader wants."""
  return [float(f"{float(value):.6g}") for value in values]


def _rates(counter: collections.Counter) -> dict[str, Any]:
  return {
    "episodes": counter[_EPISODES],
    "transitions": counter[_TRANSITIONS],
    "success_rate": counter[_SUCCESSES] / counter[_EPISODES],
  }


def _distribution(counter: collections.Counter, kind: str) -> dict[str, int]:
  """Value → episodes, in the order of the values."""
  values = sorted(key[1] for key in counter if isinstance(key, tuple) and key[0] == kind)
  return {f"{value:g}": counter[kind, value] for value in values}


def _outcomes(counter: collections.Counter) -> dict[str, float]:
  """Outcome → share of the episodes that have it at some step."""
  names = sorted(key[1] for key in counter if isinstance(key, tuple) and key[0] == _OUTCOME)
  return {name: counter[_OUTCOME, name] / counter[_EPISODES] for name in names}
