"""What the mains of this package share."""

import argparse
import contextlib
import dataclasses
import io
import json
import logging
import os
import pathlib
import typing
import warnings
from collections.abc import Sequence
from typing import TypeVar

import beartype
from beartype import door

Config = TypeVar("Config")
_JSON_NUMBERS = beartype.BeartypeConf(is_pep484_tower=True)  # 1 is a float, too

# Exit statuses, besides 0, 1 (a command failed) and argparse's 2.
DIVERGED = 3
INTERRUPTED = 130  # by Ctrl-C


def positive(text: str) -> int:
  """Parses an integer of at least 1, as an argparse type."""
  value = int(text)
  if value < 1:
    raise argparse.ArgumentTypeError(f"expected at least 1, got {value}")
  return value


def output_file(text: str) -> pathlib.Path:
  """Parses the path of a file that will be written, as an argparse type."""
  path = pathlib.Path(text)
  if path.is_dir():
    raise argparse.ArgumentTypeError(f"{path} is a folder; expected a file")
  return path


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


def add_datasets(parser, prior_is_required: bool = False) -> None:
  """Adds the flags of what to learn from; `prior_names` reads the first.

  Args:
    parser: or a group of one.
    prior_is_required: whether there is nothing to do without --prior.
  """
  without = "" if prior_is_required else "; a method without prior data (no_prior) ignores it"
  parser.add_argument(
    "--prior", metavar="NAME[/CONFIG][:VERSION],...", default="", required=prior_is_required,
    help=f"prior experience: one dataset, or several separated by commas{without}",
  )  # fmt: skip
  parser.add_argument(
    "--task", metavar="NAME[/CONFIG][:VERSION]", required=True, help="dataset of the task"
  )
  parser.add_argument("--data_dir", help="TFDS data directory (default: TFDS's own)")
  parser.add_argument(
    "--cache_dir",
    help="where a dataset is decoded to, the first time: 7 kB a step with images, 0.2 kB without "
    "(default: $COG_CACHE_DIR, or cog in the user's cache)",
  )  # fmt: skip


def data_flags(data_dir: str | None, cache_dir: str | None) -> list[str]:
  """Flags of another main that is to read the same datasets."""
  directories = {"data_dir": data_dir, "cache_dir": cache_dir}
  return [f"--{name}={path}" for name, path in directories.items() if path]


def prior_names(args: argparse.Namespace) -> tuple[str, ...]:
  """The datasets of --prior."""
  return tuple(name for name in args.prior.split(",") if name)


def add_workers(parser, per_core: int) -> None:
  """Adds the flag of how many processes simulate; by default `per_core` of them."""
  parser.add_argument(
    "--workers", metavar="K", type=positive, default=per_core * os.cpu_count(),
    help=f"processes that simulate (default: {per_core} a core)",
  )  # fmt: skip


def add_threads(parser) -> None:
  """Adds the flag of TensorFlow's threads; None: TensorFlow's default."""
  parser.add_argument(
    "--threads", metavar="K", type=positive,
    help="threads of one TensorFlow operation; 1 for two runs side by side on two cores "
    "(default: one a core)",
  )  # fmt: skip


def overridden(config: Config, assignments: Sequence[str]) -> Config:
  """Returns a copy of a dataclass with some fields replaced.

  Args:
    config: a frozen dataclass.
    assignments: FIELD=VALUE with the value as JSON.

  Raises:
    ValueError: for an unknown field, with the known ones, or a value that is not JSON or not of
      the field's type.
  """
  types = typing.get_type_hints(type(config))
  values = {}
  for assignment in assignments:
    name, _, text = assignment.partition("=")
    if name not in types:
      raise ValueError(f"unknown field {name!r} in {assignment!r}; known: {', '.join(types)}")
    try:
      value = json.loads(text)
    except json.JSONDecodeError as error:
      raise ValueError(f"{assignment!r}: the value is not JSON: {error}") from error
    value = tuple(value) if isinstance(value, list) else value
    if not door.is_bearable(value, types[name], conf=_JSON_NUMBERS):
      raise ValueError(f"{assignment!r}: expected {_written(types[name])}")
    values[name] = value
  return dataclasses.replace(config, **values)


def _written(hint) -> str:
  return hint.__name__ if isinstance(hint, type) and not typing.get_args(hint) else str(hint)


def quiet_imports() -> None:
  """Imports TensorFlow and TF-Agents without their remarks, which do not concern the user."""
  os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
  logging.getLogger("absl").setLevel(logging.ERROR)
  warnings.filterwarnings("ignore", "Encoding a StructuredValue", UserWarning)
  with contextlib.redirect_stderr(io.StringIO()):  # gym, which TF-Agents needs, prints a notice
    import tf_agents.environments  # noqa: F401
