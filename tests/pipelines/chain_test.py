"""From recording to training: what a reader has without the code that made the data."""

import json
import pathlib
import shutil
import subprocess
import sys

import pytest

from cog_agents import train_main
from cog_datasets import inspect_main, publish_main
from pipelines import relabel_main, statistics_main, validate_main
from tests.pipelines import datasets

_FILE = ": {file} has the SHA-256"  # in the error that names a damaged file
# A module that is None in sys.modules cannot be imported.
_WITHOUT = """
import sys
sys.modules.update(dict.fromkeys({modules!r}))
"""
_READ = """
import tensorflow_datasets as tfds
builder = tfds.builder_from_directory({folder!r})
rewards = [step["reward"] for episode in builder.as_dataset(split="train")
           for step in tfds.as_numpy(episode["steps"])]
print(len(rewards), sum(rewards), builder.info.metadata["lineage"]["source"])
"""
_TRAIN = """
from cog_agents import train_main
sys.exit(train_main.main({arguments!r}))
"""


def _run(*arguments: str) -> str:
  result = subprocess.run([sys.executable, *arguments], capture_output=True, text=True, check=False)
  assert not result.returncode, result.stderr[-3000:]
  return result.stdout


@pytest.fixture(name="public", scope="module")
def _public(tmp_path_factory) -> pathlib.Path:
  """Task data, relabelled to zero and back, and prior data: validated, described, published."""
  data = tmp_path_factory.mktemp("data")
  public = tmp_path_factory.mktemp("public")
  prior, task = (datasets.build(f"cog_pickplace_{kind}", data) for kind in ("prior", "task"))
  label = [f"--data_dir={data}", "--label=zero", f"--source={task}", "--name=unlabelled"]
  label_again = [f"--data_dir={data}", "--label=sparse:place_in_tray", "--source=unlabelled"]
  assert relabel_main.main(label) == 0
  assert relabel_main.main([*label_again, "--name=labelled_again"]) == 0
  for source in ([str(prior)], ["labelled_again:1.0.0", f"--data_dir={data}"]):
    assert validate_main.main([*source, "--simulate_every=5"]) == 0
    assert statistics_main.main(source) == 0
    assert publish_main.main([*source, f"--destination={public}"]) == 0
  return public


def test_a_process_without_this_project_reads_what_was_published(public):
  modules = ["collection", "cog_datasets", "pipelines", "cog_agents", "benchmarks"]
  program = _WITHOUT.format(modules=modules)
  program += _READ.format(folder=str(public / "labelled_again" / "1.0.0"))
  steps, rewards, source = _run("-c", program).split()
  assert int(steps) == datasets.NUM_EPISODES * 31
  assert float(rewards) > 0
  assert source == "unlabelled/1.0.0"


def test_an_agent_trains_on_it_without_the_code_that_made_it(public, tmp_path):
  arguments = [
    *("--prior=cog_pickplace_prior/tiny", "--task=labelled_again", f"--data_dir={public}"),
    *("--environment=place_in_tray", "--method=cog", "--observation=state", "--seed=0"),
    *("--steps=2", f"--run_dir={tmp_path}", "--override=batch_size=8"),
    *("--override=bc_steps=1", "--evaluate_every=0"),
  ]
  program = _WITHOUT.format(modules=["cog_datasets", "pipelines"])
  _run("-c", program + _TRAIN.format(arguments=arguments))
  lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
  assert json.loads(lines[-1])["step"] == 2


@pytest.mark.parametrize(
  ("main", "flags", "message"),
  [
    (inspect_main.main, ["--out={tmp}/page.html"], ": validate_main says which file"),
    (relabel_main.main, ["--label=zero", "--name=zeroed", "--data_dir={tmp}/data"], _FILE),
    (statistics_main.main, [], _FILE),
  ],
)
def test_a_flipped_bit_is_found_and_told_in_a_line(main, flags, message, public, tmp_path, capfd):
  copy = tmp_path / "labelled_again" / "1.0.0"
  shutil.copytree(public / "labelled_again" / "1.0.0", copy)
  (*_, shard) = sorted(copy.glob("*train*"))
  data = bytearray(shard.read_bytes())
  data[len(data) // 2] ^= 1
  shard.write_bytes(data)
  source = f"--source={copy}" if main is relabel_main.main else str(copy)
  with pytest.raises(SystemExit) as error:
    main([source, *(flag.format(tmp=tmp_path) for flag in flags)])
  assert error.value.code == 2
  wanted = f"labelled_again/1.0.0 in {copy} is damaged{message.format(file=shard.name)}"
  assert wanted in capfd.readouterr().err
  assert [path.name for path in tmp_path.iterdir()] == ["labelled_again"]


def test_a_damaged_copy_is_refused_in_a_line(public, tmp_path, capfd):
  shutil.copytree(public, tmp_path / "copy")
  (*_, shard) = sorted((tmp_path / "copy" / "labelled_again" / "1.0.0").glob("*train*"))
  shard.write_bytes(shard.read_bytes()[:-100])
  with pytest.raises(SystemExit):
    train_main.main(
      [
        *("--task=labelled_again", f"--data_dir={tmp_path / 'copy'}", "--method=no_prior"),
        *("--environment=place_in_tray", "--observation=state", f"--run_dir={tmp_path / 'run'}"),
      ]
    )
  assert f"is damaged: {shard.name} has" in capfd.readouterr().err
