"""Tests that the source follows the style that pyproject.toml sets."""

import pathlib
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parents[1]


def test_ruff_finds_nothing():
  command = [sys.executable, "-m", "ruff", "check", "--output-format=concise", "."]
  result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
  assert result.returncode == 0, result.stdout + result.stderr
