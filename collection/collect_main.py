"""Preview a scripted policy: roll it out, print its success rate, write a video or raw episodes.

  python -m collection.collect_main --environment=place_in_tray --policy=grasp --episodes=100 \\
    --out=grasp.mp4
"""

import argparse
import os
import pathlib
import sys

import imageio.v2 as imageio
import numpy as np
import tqdm

from collection import recorder, registry, scripted_policies, specs, statistics

VIDEO_FRAMES_PER_SECOND = 10
VIDEO_EPISODES = 10  # the success rate is of all episodes, the video shows the first few
SUFFIXES = (".mp4", ".npz")


def _parser() -> argparse.ArgumentParser:
  parser = argparse.ArgumentParser(
    prog="python -m collection.collect_main",
    description="Rolls out a scripted policy, prints its success rate with a 95 % interval, and "
    "writes a video or the raw episodes.",
  )
  parser.add_argument(
    "--environment", required=True, choices=tuple(registry.ENVIRONMENTS), metavar="NAME",
    help=f"one of: {', '.join(registry.ENVIRONMENTS)}",
  )  # fmt: skip
  parser.add_argument(
    "--policy", required=True, choices=tuple(scripted_policies.SCRIPTS), metavar="NAME",
    help=f"one of: {', '.join(scripted_policies.SCRIPTS)}",
  )  # fmt: skip
  parser.add_argument("--episodes", type=int, default=100, help="how many (default: %(default)s)")
  parser.add_argument(
    "--first_seed", type=int, default=registry.TRAIN_SEEDS[0],
    help="seed of the first episode; the next ones count up (default: %(default)s)",
  )  # fmt: skip
  parser.add_argument(
    "--out", type=pathlib.Path,
    help=f"FILE.mp4: a video of the first {VIDEO_EPISODES} episodes; "
    "FILE.npz: images, states, actions, rewards and outcomes of all",
  )  # fmt: skip
  return parser


def collect(name: str, script: str, seeds: range, out: pathlib.Path | None) -> None:
  """Rolls out `script`, writes `out` if there is one, and prints the measured success rate."""
  film, keep = (bool(out) and out.suffix == suffix for suffix in SUFFIXES)
  # Images take a third of the time, and memory; episodes do not depend on whether they are there.
  keys = specs.OBSERVATION_KEYS if keep else (specs.STATE,)
  environment = registry.load(name, keys, render_mode="rgb_array")
  outcome = scripted_policies.script(script).success_outcome
  successes, episodes, frames = 0, [], []
  for index, seed in enumerate(tqdm.tqdm(seeds, desc=f"{script} in {name}", unit="episode")):
    film_this = film and index < VIDEO_EPISODES
    on_step = (lambda: frames.append(environment.render())) if film_this else (lambda: None)
    episode = recorder.record_episode(name, environment, script, seed, on_step=on_step)
    successes += bool(episode.outcomes[outcome].any())
    if keep:
      episodes.append(episode)
  environment.close()
  if out:
    _write(out, episodes, frames)
  low, high = statistics.wilson_interval(successes, len(seeds))
  print(
    f"{script} in {name}: {outcome} in {successes} of {len(seeds)} episodes, success rate "
    f"{successes / len(seeds):.3f} (95 % interval {low:.3f} to {high:.3f})"
  )


def _write(out: pathlib.Path, episodes: list[recorder.Episode], frames: list[np.ndarray]) -> None:
  """Writes aside and renames, so that `out` is whole or not there."""
  aside = out.with_name(f".{out.name}.incomplete{out.suffix}")
  if out.suffix == ".mp4":
    imageio.mimsave(aside, frames, fps=VIDEO_FRAMES_PER_SECOND, macro_block_size=None)
  else:
    np.savez_compressed(aside, **_arrays(episodes))
  os.replace(aside, out)
  print(f"wrote {out}")


def _arrays(episodes: list[recorder.Episode]) -> dict[str, np.ndarray]:
  """observation_KEY (N, T + 1, …), action (N, T, 8), reward (N, T), outcome_NAME (N, T)."""
  arrays = {
    "seed": np.array([episode.seed for episode in episodes]),
    "agent_id": np.array([episode.agent_id for episode in episodes]),
    "action": np.stack([episode.actions for episode in episodes]),
    "reward": np.stack([episode.rewards for episode in episodes]),
  }
  for key in episodes[0].observations:
    arrays[f"observation_{key}"] = np.stack([episode.observations[key] for episode in episodes])
  for key in episodes[0].outcomes:
    arrays[f"outcome_{key}"] = np.stack([episode.outcomes[key] for episode in episodes])
  return arrays


def main(argv: list[str] | None = None) -> int:
  parser = _parser()
  arguments = parser.parse_args(argv)
  last_first_seed = registry.FINETUNING_SEEDS.stop - arguments.episodes
  if not 1 <= arguments.episodes:
    parser.error(f"--episodes={arguments.episodes}: expected at least 1")
  if not 0 <= arguments.first_seed <= last_first_seed:
    parser.error(
      f"--first_seed={arguments.first_seed} --episodes={arguments.episodes}: expected a first seed"
      f" from 0 to {last_first_seed}"
    )
  try:
    task = registry.spec(arguments.environment).task
    scripted_policies.script(arguments.policy).check_scene(task.scene_class)
  except ValueError as error:
    parser.error(f"--policy={arguments.policy} --environment={arguments.environment}: {error}")
  out = arguments.out
  if out and out.suffix not in SUFFIXES:
    parser.error(f"--out={out}: expected a name that ends in {' or '.join(SUFFIXES)}")
  if out and not out.absolute().parent.is_dir():
    parser.error(f"--out={out}: there is no folder {out.absolute().parent}")
  seeds = range(arguments.first_seed, arguments.first_seed + arguments.episodes)
  collect(arguments.environment, arguments.policy, seeds, out)
  return 0


if __name__ == "__main__":
  sys.exit(main())
