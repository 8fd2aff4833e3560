import shlex
import sys
import time

from cog_agents import provenance


def test_the_command_can_be_given_to_a_shell_again(monkeypatch):
  flags = ['--override=image_dtype="float32"', "--out=a b"]
  before = time.monotonic()
  command = provenance.Command("cog_agents.train_main", flags)
  time.sleep(0.2)
  entry = command.entry()
  assert shlex.split(entry["command"]) == ["python", "-m", "cog_agents.train_main", *flags]
  assert 0.2 <= entry["wall_clock_seconds"] <= time.monotonic() - before + 0.1
  assert "cores of" in entry["machine"]
  monkeypatch.setattr(sys, "argv", ["main.py", "--seed=1"])
  assert provenance.Command("m", None).entry()["command"] == "python -m m --seed=1"


def test_the_commit_is_that_of_the_start(monkeypatch):
  monkeypatch.setattr(provenance, "commit", lambda: "a")
  command = provenance.Command("m", [])
  monkeypatch.setattr(provenance, "commit", lambda: "b")
  assert command.entry()["commit"] == "a"


def test_the_machine_has_its_gpus(monkeypatch, tmp_path):
  program = tmp_path / "nvidia-smi"
  program.write_text("#!/bin/sh\necho 'NVIDIA X'\necho 'NVIDIA Y'\n")
  program.chmod(0o755)
  monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
  assert ", NVIDIA X, NVIDIA Y, " in provenance.machine()


def test_the_commit_is_that_of_the_code_wherever_one_works(monkeypatch, tmp_path):
  monkeypatch.chdir(tmp_path)
  there = provenance.commit()
  assert there is None or len(there.removesuffix("-dirty")) == 40
  monkeypatch.setenv("PATH", str(tmp_path))  # no Git
  assert provenance.commit() is None
