"""The Croissant file: what machines are told of a dataset (mlcommons.org/croissant)."""

import json
from collections.abc import Mapping
from typing import Any

import mlcroissant as mlc
import numpy as np
import rlds
import tensorflow_datasets as tfds

from cog_datasets import card

FILENAME = "croissant.json"

_TFRECORD = "application/x-tfrecord"
# Kind of a numpy type → its name.
_TYPES = {
  "b": mlc.DataType.BOOL,
  "f": mlc.DataType.FLOAT,
  "i": mlc.DataType.INTEGER,
  "u": mlc.DataType.INTEGER,
}
_SPLIT_TYPES = {"train": "cr:TrainingSplit", "validation": "cr:ValidationSplit"}


def text(builder: tfds.core.DatasetBuilder, files: Mapping[str, Mapping[str, Any]]) -> str:
  """Returns croissant.json: files with their checksums, splits, and the fields of a step.

  Args:
    builder: see prepared.find.
    files: file name → {"bytes", "sha256"}, of the manifest.
  """
  info = builder.info
  metadata = mlc.Metadata(
    name=info.full_name.replace("/", "_"),
    description=info.description,
    cite_as=info.citation or None,
    license=[name] if (name := card.license_name(info)) else None,
    url=info.homepage or None,
    version=str(info.version),
    distribution=[
      *(_file(name, described) for name, described in sorted(files.items())),
      *(_file_set(info, split) for split in info.splits),
    ],
    record_sets=[
      _splits(info),
      *(_steps(info, split) for split in info.splits),
    ],
  )
  return json.dumps(metadata.to_json(), indent=1, ensure_ascii=False) + "\n"


def _file(name: str, described: Mapping[str, Any]) -> mlc.FileObject:
  return mlc.FileObject(
    id=name,
    name=name,
    content_url=name,
    content_size=f"{described['bytes']} B",
    encoding_formats=["application/json" if name.endswith(".json") else _TFRECORD],
    sha256=described["sha256"],
  )


def _file_set(info: tfds.core.DatasetInfo, split: str) -> mlc.FileSet:
  return mlc.FileSet(
    id=split,
    name=split,
    includes=[f"{info.name}-{split}.{info.file_format.file_suffix}-*"],
    encoding_formats=[_TFRECORD],
  )


def _splits(info: tfds.core.DatasetInfo) -> mlc.RecordSet:
  name, url = "splits/name", "splits/url"
  return mlc.RecordSet(
    id="splits",
    name="splits",
    key=name,
    data_types=["cr:Split"],
    fields=[
      mlc.Field(id=name, name="name", data_types=[mlc.DataType.TEXT]),
      mlc.Field(id=url, name="url", data_types=[mlc.DataType.URL]),
    ],
    data=[{name: split, url: _SPLIT_TYPES.get(split, "cr:Split")} for split in info.splits],
  )


def _steps(info: tfds.core.DatasetInfo, split: str) -> mlc.RecordSet:
  prefix = f"{split}/{rlds.STEPS}"
  return mlc.RecordSet(
    id=prefix,
    name=prefix,
    description=f"Steps of the episodes of {split!r}, one tf.train.Example an episode",
    fields=[
      _field(f"{prefix}/{name}", f"{rlds.STEPS}/{name}", feature, split)
      for name, feature in card.fields(info.features[rlds.STEPS].feature)
    ],
  )


def _field(
  identifier: str, column: str, feature: tfds.features.FeatureConnector, split: str
) -> mlc.Field:
  is_image = isinstance(feature, tfds.features.Image)
  kind = np.dtype(feature.np_dtype).kind
  data_type = mlc.DataType.IMAGE_OBJECT if is_image else _TYPES[kind]
  is_array = bool(feature.shape) and not is_image
  return mlc.Field(
    id=identifier,
    name=identifier,
    description=feature.doc.desc,
    data_types=[data_type],
    is_array=is_array or None,
    array_shape=",".join(map(str, feature.shape)) if is_array else None,
    source=mlc.Source(file_set=split, extract=mlc.Extract(column=column)),
  )
