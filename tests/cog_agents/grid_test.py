import dataclasses

import pytest

from cog_agents import config as config_lib
from cog_agents import experiments, grid, train_main
from cog_datasets import catalog
from collection import registry

ALL_ROWS = tuple(experiments.ROWS)
ALL_RUNS = [
  run
  for observation in config_lib.OBSERVATIONS
  for run in (
    *grid.table_1(observation, ALL_ROWS, experiments.METHODS, range(2)),
    *grid.ablations(observation, grid.ABLATION_TABLE, range(2)),
  )
]


def test_every_cell_of_table_1_is_filled_once_for_each_seed():
  runs = grid.table_1("state", ALL_ROWS, experiments.METHODS, range(3))
  cells = [(name, run.method, run.seed) for run in runs for name in run.environments]
  assert len(cells) == len(set(cells)) == 3 * len(experiments.PAPER_TABLE)


@pytest.mark.parametrize("run", ALL_RUNS, ids=lambda run: run.name)
def test_train_main_takes_the_flags_of_every_run(run):
  parser = train_main._parser()
  args = parser.parse_args([*run.train_flags(run.recipe.steps), "--run_dir=x"])
  agent = train_main.agent_config(args)
  for name, value in experiments.METHODS[run.method].overrides.items():
    assert getattr(agent, name) == value
  assert bool(args.prior) == experiments.METHODS[run.method].uses_prior
  assert run.recipe.steps % run.recipe.evaluate_every == 0
  assert run.recipe.evaluate_every % args.log_every == 0


def test_the_names_of_runs_are_folders_of_their_own():
  names = [run.name for run in grid.table_1("state", ALL_ROWS, experiments.METHODS, range(3))]
  assert len(names) == len(set(names))
  assert "state/drawer_blocked_2/cog/seed_2" in names


def test_a_run_with_prior_data_is_monitored_where_that_leads_and_others_where_the_task_starts():
  runs = grid.table_1("state", ALL_ROWS, experiments.METHODS, [0])
  monitored = {(run.method, run.monitored): run.environments for run in runs}
  assert monitored["cog", "drawer_closed"] == ("drawer_open", "drawer_closed")
  assert monitored["cog", "drawer_blocked_1"] == ("drawer_blocked_1",)
  assert monitored["no_prior", "drawer_open"] == ALL_ROWS[2:]
  assert monitored["bc_oracle", "place_in_tray_held"] == ALL_ROWS[:2]


def test_only_the_rows_asked_for_are_evaluated():
  runs = grid.table_1("state", ["drawer_closed"], ["cog", "no_prior"], [0])
  assert {run.method: run.environments for run in runs} == {
    "cog": ("drawer_closed",),
    "no_prior": ("drawer_closed",),
  }


def test_fine_tuning_goes_on_from_runs_of_table_1():
  runs = grid.fine_tuning("state", grid.FINE_TUNED_ROWS, grid.FINE_TUNED_METHODS, [1])
  table = grid.table_1("state", ALL_ROWS, experiments.METHODS, [1])
  assert {run.name for run in runs} < {run.name for run in table}
  assert {(run.method, run.monitored) for run in runs} == {
    (method, name)
    for method in ("cog", "bc")
    for name in ("place_in_tray", "drawer_closed", "drawer_blocked_1", "drawer_blocked_2")
  }
  assert all(run.new_episodes and not old.new_episodes for run in runs for old in table)


def test_the_datasets_are_in_the_catalog_or_built_from_it():
  known = {f"{entry.name}/{entry.config}" for entry in catalog.CATALOG}
  known |= {entry.name for entry in catalog.CATALOG}
  for run in ALL_RUNS:
    for name in run.datasets:
      assert name in known or name.partition("/")[0] in known and name in grid.CUSTOM_CONFIGS
      assert name in grid.BUILD_CORE_MINUTES


def test_prior_data_start_in_the_condition_of_their_row():
  for name, row in experiments.ROWS.items():
    dataset, _, config = row.prior_data.partition("/")
    entry = next(x for x in catalog.entries(dataset) if config in ("", x.config))
    if not row.is_training_condition:
      assert entry.environment == name
    assert catalog.entries(row.task_data)[0].environment == next(
      other
      for other, x in experiments.ROWS.items()
      if x.task_data == row.task_data and x.is_training_condition
    )
  assert set(experiments.ROWS) == set(registry.ENVIRONMENTS)


def test_an_ablation_changes_the_reference_in_what_it_says():
  runs = {run.name.split("/")[2]: run for run in grid.ablations("state", grid.ABLATION_TABLE, [0])}
  assert "augmentation" not in runs  # states are not cropped
  configs = {
    name: train_main.agent_config_of([*run.train_flags(1), "--run_dir=x"])
    for name, run in runs.items()
  }
  reference = configs["cog"]
  assert reference == config_lib.FAST_STATE
  assert configs["alpha_10"].cql_alpha == 10 * reference.cql_alpha
  assert configs["no_warm_start"].bc_steps == 0
  assert configs["paper"] == config_lib.PAPER
  assert configs["paper_rates"] == dataclasses.replace(
    reference, actor_learning_rate=3e-5, alpha_learning_rate=3e-5, critic_learning_rate=3e-4
  )
  assert configs["batch_256"] == dataclasses.replace(reference, batch_size=256)
  assert configs["prior_10"] == reference
  assert runs["prior_10"].prior_data == "cog_pickplace_prior/percent_10"


def test_an_image_ablation_has_the_crops():
  names = [run.name for run in grid.ablations("image", grid.ABLATION_TABLE, [0])]
  assert "image/ablations/augmentation/seed_0" in names


def test_titles_fit_their_column():
  assert max(len(ablation.title) for ablation in grid.ABLATION_TABLE.values()) < 44


@pytest.mark.parametrize(
  "name, changed",
  [
    ("state_critics", {"critic_keys": ("state", "simulator_state")}),
    ("no_proprioception", {"image_run_keys": ("image",)}),
  ],
)
def test_what_an_agent_sees_changes_in_rows_from_images_alone(name, changed):
  (run,) = grid.ablations("image", [name], [0])
  agent = train_main.agent_config_of([*run.train_flags(1), "--run_dir=x"])
  assert agent == dataclasses.replace(config_lib.FAST_IMAGE, **changed)
  assert not grid.ablations("state", [name], [0])
