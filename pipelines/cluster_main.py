"""Runs a command on a cluster that it starts on this machine: Apache Flink, or Beam's Prism.

  python -m pipelines.cluster_main --runner=flink --machines=2 -- \\
    tfds build cog_pickplace_task --imports=cog_datasets.register --data_dir=DIR

The command is given --beam_pipeline_options=…; without a command, the cluster stays until Ctrl-C
and the flag is printed, for any number of commands. pipelines/README.md says what was run.
"""

import argparse
import pathlib
import signal
import subprocess
import sys
import tempfile

from pipelines import cluster

_FLAG = "--beam_pipeline_options"


def _parser() -> argparse.ArgumentParser:
  parser = argparse.ArgumentParser(
    prog="python -m pipelines.cluster_main",
    description="Starts worker pools, and Flink or Prism, on this machine; runs a command on them "
    "(tfds build, or a main of pipelines/) and stops them. Exits as the command does.",
  )
  parser.add_argument(
    "--runner", choices=["flink", "prism"], default="flink",
    help="flink: Apache Flink, with a task manager on each machine; prism: Beam's own, which has "
    "one worker for a job (default: %(default)s)",
  )  # fmt: skip
  parser.add_argument(
    "--machines", metavar="N", type=int, default=2,
    help="groups of processes that stand for a machine (default: %(default)s)",
  )  # fmt: skip
  parser.add_argument(
    "--workers", metavar="N", type=int, default=1,
    help="worker processes of each machine, for a job (default: %(default)s)",
  )  # fmt: skip
  parser.add_argument(
    "--job_server_jar", metavar="PATH",
    help="Beam's job server for Flink (default: where `mvn dependency:get` puts it)",
  )  # fmt: skip
  parser.add_argument(
    "--log_dir", metavar="DIR", type=pathlib.Path,
    help="for logs and temporary files of the cluster (default: a new folder)",
  )  # fmt: skip
  parser.add_argument(
    "command", nargs="*", metavar="COMMAND", help="what to run, after --; none: until Ctrl-C"
  )
  return parser


def _run(command: list[str], options: str) -> int:
  if not command:
    print(f"{_FLAG}={options}\nuntil Ctrl-C", flush=True)
    signal.pause()
  return subprocess.run([*command, f"{_FLAG}={options}"]).returncode


def main(argv: list[str] | None = None) -> int:
  parser = _parser()
  args = parser.parse_args(argv)
  for name in ("machines", "workers"):
    if getattr(args, name) < 1:
      parser.error(f"--{name}={getattr(args, name)}: expected at least 1")
  if any(argument.startswith(_FLAG) for argument in args.command):
    parser.error(f"the command has {_FLAG} already, which is for this one to say")
  try:
    is_flink = args.runner == "flink"
    runner = cluster.find_flink(args.job_server_jar) if is_flink else cluster.find_prism()
  except FileNotFoundError as error:
    parser.error(str(error))
  folder = args.log_dir or pathlib.Path(tempfile.mkdtemp(prefix="cog_cluster_"))
  print(f"the cluster's logs: {folder / 'logs'}", file=sys.stderr)
  signal.signal(signal.SIGTERM, signal.default_int_handler)  # stop as on Ctrl-C
  try:
    size = cluster.Size(args.machines, args.workers)
    with cluster.start(runner, size, folder) as (_, options):
      return _run(args.command, options)
  except KeyboardInterrupt:
    return 128 + signal.SIGINT


if __name__ == "__main__":
  sys.exit(main())
