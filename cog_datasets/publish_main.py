"""Publishes a validated dataset: copies it to a folder, bucket or hub from which others read it.

python -m cog_datasets.publish_main cog_pickplace_task --data_dir=DIR --destination=gs://BUCKET/cog
"""

import argparse
import sys

import huggingface_hub

from cog_datasets import disk, hub, prepared, publish


def _parser() -> argparse.ArgumentParser:
  parser = argparse.ArgumentParser(
    prog="python -m cog_datasets.publish_main",
    description="Copies a validated dataset, with its card, statistics and manifest, to "
    "DESTINATION/NAME[/CONFIG]/VERSION. The same command continues an interrupted copy; a "
    "published version is never overwritten. Without a token of the Hugging Face Hub (HF_TOKEN, or "
    "`hf auth login`), it lists what would go up there.",
  )
  prepared.add_source_flags(parser)
  parser.add_argument(
    "--destination", required=True,
    help="a TFDS data directory: a folder, or whatever else etils reaches (gs://, s3://); or a "
    f"dataset repository, {hub.SCHEME}OWNER/REPOSITORY",
  )  # fmt: skip
  return parser


def main(argv: list[str] | None = None) -> int:
  parser = _parser()
  args = parser.parse_args(argv)
  try:
    source = prepared.find(args.source, args.data_dir)
    target = publish.place(args.destination, source)
    if isinstance(target, hub.HubFolder) and huggingface_hub.get_token() is None:
      _print_what_would_go_up(publish.check(source), target)
      return 0
    publish.publish(source, target)
  except (ValueError, disk.DiskError) as error:
    parser.error(str(error))
  except hub.UNREACHED as error:
    parser.error(f"{target}: {error}. The same command goes on where this one stopped")
  print(f"published {target}\n{_how_to_read(target, args.destination)}")
  return 0


def _print_what_would_go_up(files: dict[str, dict], target: hub.HubFolder) -> None:
  for name, described in files.items():
    print(f"{described['bytes']:>12,}  {target}/{name}")
  total = sum(described["bytes"] for described in files.values())
  print(
    f"{total:>12,}  bytes in {len(files)} files, and then the manifest, would go up. Nothing did:"
    " there is no token (HF_TOKEN, or `hf auth login`)"
  )


def _how_to_read(target: publish.Destination, destination: str) -> str:
  if isinstance(target, hub.HubFolder):
    download = f"hf download --repo-type=dataset {target.repository} --local-dir=DIR"
    return f"read it after `{download}`: DIR is a TFDS data directory then"
  return (
    f'read it with tfds.builder_from_directory("{target}"), or train from it with'
    f" --data_dir={destination}"
  )


if __name__ == "__main__":
  sys.exit(main())
