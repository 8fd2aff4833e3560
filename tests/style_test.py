"""Tests that the source follows the style that pyproject.toml sets, as `make lint` does."""

import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[1]


@pytest.mark.parametrize("arguments", [("check", "--output-format=concise"), ("format", "--check")])
def test_ruff_finds_nothing(arguments):
  command = [sys.executable, "-m", "ruff", *arguments, "."]
  result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
  assert result.returncode == 0, result.stdout + result.stderr
