"""Checks a prepared dataset, as a Beam job, and lists every violation; exit 1 if there is one.

  python -m pipelines.validate_main cog_pickplace_task --data_dir=DIR

A dataset without any may be published.
"""

import argparse
import sys

from etils import epath

from cog_datasets import prepared
from collection import manifest
from pipelines import flags, validate

SIMULATE_EVERY = 100


def _parser() -> argparse.ArgumentParser:
  parser = argparse.ArgumentParser(
    prog="python -m pipelines.validate_main",
    description="Checks files against their manifest, the layout of every episode, actions, "
    "observations, rewards against the label, ids and splits; records a sample of the episodes "
    "again from their seeds and compares them bit for bit. Lists every violation; exit 1 if there "
    "is one. A dataset without any gets a validation.json, and may be published.",
  )
  prepared.add_source_flags(parser)
  parser.add_argument(
    "--simulate_every", metavar="N", type=int, default=SIMULATE_EVERY,
    help="record one episode in N again (default: %(default)s)",
  )  # fmt: skip
  flags.add_beam_flag(parser)
  return parser


def main(argv: list[str] | None = None) -> int:
  parser = _parser()
  args = parser.parse_args(argv)
  if args.simulate_every < 1:
    parser.error(f"--simulate_every={args.simulate_every}: expected at least 1")
  try:
    source = prepared.find(args.source, args.data_dir)
  except ValueError as error:
    parser.error(str(error))
  violations = validate.validate(source, args.simulate_every, flags.beam_options(args))
  for violation in violations:
    print(violation)
  episodes = sum(split.num_examples for split in source.info.splits.values())
  folder = epath.Path(source.data_dir)
  if violations:
    (folder / manifest.VALIDATION).unlink(missing_ok=True)  # of a time when fewer were simulated
  else:
    facts = {"episodes": episodes, "simulate_every": args.simulate_every}
    manifest.write_validation(folder, facts)
  print(f"{source.info.full_name}: {len(violations)} violations in {episodes} episodes")
  return 1 if violations else 0


if __name__ == "__main__":
  sys.exit(main())
