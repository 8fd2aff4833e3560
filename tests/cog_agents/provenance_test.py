import shlex
import sys
import time

from cog_agents import provenance


def test_the_command_can_be_given_to_a_shell_again(monkeypatch):
  flags = ['--override=image_dtype="float32"', "--out=a b"]
  started = time.monotonic() - 3.0
  entry = provenance.entry("cog_agents.train_main", flags, started)
  assert shlex.split(entry["command"]) == ["python", "-m", "cog_agents.train_main", *flags]
  assert 3.0 <= entry["wall_clock_seconds"] < 4.0
  assert "cores of" in entry["machine"]
  monkeypatch.setattr(sys, "argv", ["main.py", "--seed=1"])
  assert provenance.entry("m", None, started)["command"] == "python -m m --seed=1"


def test_the_commit_is_that_of_the_code_wherever_one_works(monkeypatch, tmp_path):
  monkeypatch.chdir(tmp_path)
  there = provenance.commit()
  assert there is None or len(there.removesuffix("-dirty")) == 40
  monkeypatch.setenv("PATH", str(tmp_path))  # no Git
  assert provenance.commit() is None
