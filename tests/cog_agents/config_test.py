import dataclasses
import math

import pytest

from cog_agents import config


def _changed_fields(a: config.CqlConfig, b: config.CqlConfig) -> dict:
  a, b = dataclasses.asdict(a), dataclasses.asdict(b)
  return {name: b[name] for name in a if a[name] != b[name]}


def test_paper_has_the_hyperparameters_of_appendix_a3():
  paper = config.PAPER
  assert (paper.critic_learning_rate, paper.actor_learning_rate) == (3e-4, 3e-5)
  assert (paper.target_update_tau, paper.gamma, paper.batch_size) == (0.005, 0.99, 256)
  assert (paper.bellman_weight, paper.cql_alpha) == (0.5, 1.0)
  assert not paper.entropy_in_backup
  assert paper.bc_steps == 10_000
  assert paper.target_entropy == pytest.approx(-math.log(2**8))
  assert paper.image_run_keys == ("image", "state")


def test_paper_draws_one_action_from_each_of_three_distributions():
  paper = config.PAPER
  assert (paper.uniform_samples, paper.policy_samples, paper.next_policy_samples) == (1, 1, 1)


def test_paper_leaves_the_departures_of_fast_off():
  paper = config.PAPER
  assert paper.n_step == 1
  assert paper.target_range is None
  assert paper.initial_temperature == 1.0
  assert paper.actor_bc_weight == 0.0


def test_released_code_differs_from_the_paper_in_the_documented_rows_only():
  assert _changed_fields(config.PAPER, config.RELEASED_CODE) == {
    "actor_learning_rate": 1e-4,
    "alpha_learning_rate": 1e-4,
    "bellman_weight": 1.0,
    "copy_target_critics": False,
    "target_entropy": -8.0,
    "image_run_keys": ("image",),
    "crop_padding": 4,
    "policy_hidden_sizes": (1024, 512),
    "policy_bottleneck_size": 256,
    "policy_head_sizes": (256, 256, 256),
  }


@pytest.mark.parametrize("observation", config.OBSERVATIONS)
def test_fast_clips_targets_at_the_bound_of_the_discounted_return(observation):
  fast = config.load_preset("FAST", observation)
  assert fast.target_range == pytest.approx((0.0, 1.0 / (1.0 - fast.gamma)))


@pytest.mark.parametrize("preset", config.PRESETS)
def test_state_runs_see_both_vectors_and_image_runs_an_image(preset):
  state_run = config.load_preset(preset, "state")
  assert state_run.observation_keys("state") == ("state", "simulator_state")
  image_run = config.load_preset(preset, "image")
  assert "image" in image_run.observation_keys("image")
  assert "simulator_state" not in image_run.observation_keys("image")


def test_a_run_finds_in_its_data_what_its_policy_and_its_critics_see():
  fast = config.load_preset("FAST", "image")
  assert fast.training_keys("image") == fast.observation_keys("image")
  critics = dataclasses.replace(fast, critic_keys=config.STATE_RUN_KEYS)
  assert critics.observation_keys("image") == ("image", "state")
  assert critics.training_keys("image") == ("image", "state", "simulator_state")


@pytest.mark.parametrize(
  "call, known",
  [
    (lambda: config.load_preset("SLOW", "state"), "PAPER, RELEASED_CODE, FAST"),
    (lambda: config.load_preset("PAPER", "sound"), "image, state"),
    (lambda: config.PAPER.observation_keys("sound"), "image, state"),
  ],
)
def test_an_unknown_name_lists_the_known_ones(call, known):
  with pytest.raises(ValueError, match=known):
    call()


@pytest.mark.parametrize(
  "values",
  [
    {"uniform_samples": 0, "policy_samples": 0, "next_policy_samples": 0},
    {"n_step": 0},
    {"critic_keys": ()},
    {"batch_size": 0},
    {"gripper_crop_size": -1},
  ],
)
def test_impossible_values_are_refused(values):
  with pytest.raises(ValueError, match="at least"):
    config.CqlConfig(**values)


@pytest.mark.parametrize(
  "values", [{"gamma": 0.99}, {"target_range": (0.0, 33.0)}, {"target_range": (1.0, 34.0)}]
)
def test_targets_are_not_clipped_to_less_than_there_is(values):
  with pytest.raises(ValueError, match=r"from 0 to 1 / \(1 - gamma\)"):
    dataclasses.replace(config.FAST_STATE, **values)
  dataclasses.replace(config.FAST_STATE, gamma=0.99, target_range=(0.0, 100.0))
  dataclasses.replace(config.FAST_STATE, gamma=0.99, target_range=None)


@pytest.mark.parametrize("keys", ["image_run_keys", "critic_keys"])
def test_the_grippers_crop_needs_the_robots_state(keys):
  with pytest.raises(ValueError, match=r"needs 'state' beside 'image', got \['image'\]"):
    config.CqlConfig(gripper_crop_size=24, **{keys: ("image",)})
  config.CqlConfig(gripper_crop_size=24, critic_keys=config.STATE_RUN_KEYS)


@pytest.mark.parametrize(
  "flags, dtype",
  [
    ("fpu avx512f avx512_bf16", "bfloat16"),
    ("fpu amx_bf16", "bfloat16"),
    ("fpu avx512f", "float32"),
  ],
)
def test_images_are_computed_in_bfloat16_where_the_processor_has_it(flags, dtype, tmp_path):
  cpuinfo = tmp_path / "cpuinfo"
  cpuinfo.write_text(f"processor : 0\nflags\t\t: {flags}\n")
  assert config.fastest_image_dtype(cpuinfo) == dtype
  assert config.fastest_image_dtype(tmp_path / "none") == "float32"
  assert config.load_preset("FAST", "image").image_dtype == config.fastest_image_dtype()


def test_an_unknown_image_dtype_lists_the_known_ones():
  with pytest.raises(ValueError, match="unknown image_dtype 'float16'; known: float32, bfloat16"):
    config.CqlConfig(image_dtype="float16")
