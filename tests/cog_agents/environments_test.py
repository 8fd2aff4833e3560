import gc
import os
import pathlib
import signal

import numpy as np
import pytest
from tf_agents.trajectories import time_step as ts

from cog_agents import environments
from collection import registry, specs

NAME = "place_in_tray_held"
KEYS = (specs.STATE, specs.SIMULATOR_STATE)
SEEDS = [3, 5]
LIMIT = registry.spec(NAME).step_limit


@pytest.fixture(scope="module")
def parallel():
  with environments.ParallelEnvironment(NAME, KEYS, len(SEEDS)) as environment:
    yield environment


@pytest.fixture(scope="module")
def actions():
  shape = (LIMIT, len(SEEDS), specs.ACTION_SIZE)
  return np.random.default_rng(0).uniform(-1, 1, shape).astype(np.float32)


def test_each_copy_is_the_environment_with_its_seed(parallel, actions):
  parallel.seed(SEEDS)
  steps = [parallel.reset(), *(parallel.step(action) for action in actions)]
  for row, seed in enumerate(SEEDS):
    single = registry.load(NAME, KEYS)
    observation, _ = single.reset(seed=seed)
    rewards = [0.0]
    observations = [observation]
    for action in actions[:, row]:
      observation, reward, *_ = single.step(action)
      observations.append(observation)
      rewards.append(reward)
    single.close()
    np.testing.assert_array_equal([step.reward[row] for step in steps], rewards)
    for key in KEYS:
      expected = [observation[key] for observation in observations]
      np.testing.assert_array_equal([step.observation[key][row] for step in steps], expected)


def test_an_episode_ends_at_the_limit_with_discount_one_and_the_next_follows(parallel, actions):
  parallel.seed(SEEDS)
  steps = [parallel.reset(), *(parallel.step(action) for action in actions)]
  following = parallel.step(actions[0])
  types = [step.step_type.tolist() for step in [*steps, following]]
  middle = [[ts.StepType.MID] * 2] * (LIMIT - 1)
  first, last = [ts.StepType.FIRST] * 2, [ts.StepType.LAST] * 2
  assert types == [first, *middle, last, first]
  assert all(np.all(step.discount == 1.0) for step in steps)


def test_time_steps_match_their_specs(parallel, actions):
  parallel.seed(SEEDS)
  for step in (parallel.reset(), parallel.step(actions[0])):
    for key, spec in parallel.observation_spec().items():
      assert step.observation[key].shape == (2, *spec.shape)
      assert step.observation[key].dtype == spec.dtype
    assert step.reward.dtype == np.float32
  assert parallel.action_spec().shape == (specs.ACTION_SIZE,)
  assert list(parallel.observation_spec()) == sorted(KEYS)


def test_no_process_loads_tensorflow(parallel):
  for process in parallel._vector.processes:
    libraries = pathlib.Path(f"/proc/{process.pid}/maps").read_text()
    assert "pybullet" in libraries
    assert "tensorflow" not in libraries


def test_ctrl_c_while_the_copies_start_is_not_lost_and_spares_them(monkeypatch):
  class Interrupted(environments.async_vector_env.AsyncVectorEnv):
    def __init__(self, *args, **kwargs):
      os.kill(os.getpid(), signal.SIGINT)
      super().__init__(*args, **kwargs)

  came = []
  monkeypatch.setattr(environments.async_vector_env, "AsyncVectorEnv", Interrupted)
  previous = signal.signal(signal.SIGINT, lambda *_: came.append(True))
  try:
    environment = environments.ParallelEnvironment(NAME, KEYS, 2)
  finally:
    signal.signal(signal.SIGINT, previous)
  assert came
  with environment:
    for process in environment._vector.processes:
      os.kill(process.pid, signal.SIGINT)
    environment.seed(SEEDS)
    assert environment.reset().step_type.tolist() == [ts.StepType.FIRST] * 2


def test_copies_that_a_signal_ended_can_be_closed():
  environment = environments.ParallelEnvironment(NAME, KEYS, 2)
  for process in environment._vector.processes:
    process.terminate()
    process.join()
  environment.close()


@pytest.mark.filterwarnings("error::pytest.PytestUnraisableExceptionWarning")
def test_copies_that_a_signal_ended_while_asked_can_be_closed():
  environment = environments.ParallelEnvironment(NAME, KEYS, 2)
  processes = environment._vector.processes
  for process in processes:
    os.kill(process.pid, signal.SIGSTOP)  # so that it does not answer before it ends
  environment._vector.reset_async()
  for process in processes:
    process.kill()
    process.join()
  with pytest.warns(UserWarning, match="pending"):
    environment.close()
  del environment
  gc.collect()  # where Gymnasium would try to close it once more


def test_frames_of_all_copies_are_rendered(parallel):
  parallel.seed(SEEDS)
  parallel.reset()
  frames = parallel.render()
  assert frames.shape[0] == 2 and frames.shape[3] == 3 and frames.dtype == np.uint8
  assert np.any(frames[0] != frames[1])


def test_a_wrong_number_of_seeds_is_refused(parallel):
  with pytest.raises(ValueError, match=r"expected 2 seeds.*\[1\]"):
    parallel.seed([1])


def test_an_unknown_environment_lists_the_known_ones():
  with pytest.raises(ValueError, match="place_in_tray_held"):
    environments.ParallelEnvironment("nowhere", KEYS, 1)
