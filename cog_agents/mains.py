"""What the mains of this package share."""

import argparse
import contextlib
import dataclasses
import io
import json
import logging
import os
import warnings
from collections.abc import Sequence
from typing import TypeVar

Config = TypeVar("Config")

# Exit statuses, besides 0, 1 (a command failed) and argparse's 2.
DIVERGED = 3
INTERRUPTED = 130  # by Ctrl-C


def positive(text: str) -> int:
  """Parses an integer of at least 1, as an argparse type."""
  value = int(text)
  if value < 1:
    raise argparse.ArgumentTypeError(f"expected at least 1, got {value}")
  return value


def not_negative(text: str) -> int:
  """Parses an integer of at least 0, as an argparse type."""
  value = int(text)
  if value < 0:
    raise argparse.ArgumentTypeError(f"expected at least 0, got {value}")
  return value


def share(text: str) -> float:
  """Parses a number between 0 and 1, as an argparse type."""
  value = float(text)
  if not 0 <= value <= 1:
    raise argparse.ArgumentTypeError(f"expected a number from 0 to 1, got {value}")
  return value


def overridden(config: Config, assignments: Sequence[str]) -> Config:
  """Returns a copy of a dataclass with some fields replaced.

  Args:
    config: a frozen dataclass.
    assignments: FIELD=VALUE with the value as JSON.

  Raises:
    ValueError: for an unknown field, with the known ones, or a value that is not JSON.
  """
  known = [field.name for field in dataclasses.fields(config)]
  values = {}
  for assignment in assignments:
    name, _, text = assignment.partition("=")
    if name not in known:
      raise ValueError(f"unknown field {name!r} in {assignment!r}; known: {', '.join(known)}")
    try:
      value = json.loads(text)
    except json.JSONDecodeError as error:
      raise ValueError(f"{assignment!r}: the value is not JSON: {error}") from error
    values[name] = tuple(value) if isinstance(value, list) else value
  return dataclasses.replace(config, **values)


def quiet_imports() -> None:
  """Imports TensorFlow and TF-Agents without their remarks, which do not concern the user."""
  os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
  logging.getLogger("absl").setLevel(logging.ERROR)
  warnings.filterwarnings("ignore", "Encoding a StructuredValue", UserWarning)
  with contextlib.redirect_stderr(io.StringIO()):  # gym, which TF-Agents needs, prints a notice
    import tf_agents.environments  # noqa: F401
