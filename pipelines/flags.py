"""What the mains of this package share."""

import argparse

from apache_beam.options import pipeline_options


def add_beam_flag(parser: argparse.ArgumentParser) -> None:
  """Adds --beam_pipeline_options, which means what it means to `tfds build`."""
  parser.add_argument(
    "--beam_pipeline_options", metavar="OPTION=VALUE,...", default="",
    help="as of `tfds build`: runner=FlinkRunner,... (default: every core of this machine)",
  )  # fmt: skip


def beam_options(args: argparse.Namespace) -> pipeline_options.PipelineOptions | None:
  """Returns what the flag says; None if it is not given."""
  flags = [f"--{option}" for option in args.beam_pipeline_options.split(",") if option]
  return pipeline_options.PipelineOptions(flags=flags) if flags else None
