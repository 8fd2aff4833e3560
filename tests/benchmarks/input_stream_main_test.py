"""Tests of the benchmark of the input stream, on little datasets."""

import json

import pytest

from benchmarks import input_stream_main
from tests import fakes


def test_it_prints_one_object(tmp_path, capsys):
  for name in ("prior", "task"):
    fakes.write_dataset(tmp_path, name, num_episodes=3, num_steps=4, has_images=True)
  capsys.readouterr()  # TFDS says what it writes
  flags = ["--datasets=prior,task", f"--data_dir={tmp_path}", "--batch_size=8", "--seconds=1"]
  flags += [f"--plot={tmp_path / 'figures' / 'memory.png'}"]
  assert input_stream_main.main(flags) == 0
  result = json.loads(capsys.readouterr().out)
  assert result["transitions"] == 24
  assert result["transitions_per_second"] > 0
  assert 0 < result["first_batch_seconds"]
  assert result["peak_rss_mb"] >= result["rss_mb"][0]["mb"] > 100
  assert (tmp_path / "figures" / "memory.png").read_bytes().startswith(b"\x89PNG")


def test_an_unknown_dataset_is_an_error_in_a_line(tmp_path, capsys):
  with pytest.raises(SystemExit):
    input_stream_main.main(["--datasets=nothing", f"--data_dir={tmp_path}"])
  assert "unknown dataset 'nothing'" in capsys.readouterr().err
