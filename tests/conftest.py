"""What tests share: the CPU, a folder of decoded datasets that is not a user's cache, a signal."""

import importlib
import os
import signal

import pytest

# Many tests compare bit for bit, and sums on a GPU are not the same each time.
os.environ["CUDA_VISIBLE_DEVICES"] = os.environ.get("COG_TEST_GPUS", "-1")


@pytest.fixture(scope="session", autouse=True)
def _cache_dir(tmp_path_factory):
  with pytest.MonkeyPatch.context() as patch:
    patch.setenv("COG_CACHE_DIR", str(tmp_path_factory.mktemp("cache")))
    yield


@pytest.fixture
def lose_simulators(monkeypatch):
  """Has SIGTERM come and end the simulators, too, in the evaluation of that number, from 1."""

  def lose(number):
    evaluate = importlib.import_module("cog_agents.evaluate")
    rollout, calls = evaluate.rollout, []

    def rollout_or_lose(*arguments):
      calls.append(arguments)
      if len(calls) == number:
        os.kill(os.getpid(), signal.SIGTERM)
        raise EOFError  # as from the pipe of a process that has ended
      return rollout(*arguments)

    monkeypatch.setattr(evaluate, "rollout", rollout_or_lose)

  return lose
