import pytest

from cog_agents import experiments


def test_every_method_of_table_1_is_there():
  assert set(experiments.METHODS) == set(experiments.PAPER_METHODS)


def test_which_methods_do_without_prior_data():
  without = {name for name, method in experiments.METHODS.items() if not method.uses_prior}
  assert without == {"no_prior", "bc_oracle"}


def test_cql_is_evaluated_greedily_and_bc_stochastically():
  for method in experiments.METHODS.values():
    assert method.stochastic_evaluation == (method.agent == experiments.BC)


def test_fine_tuning_goes_on_by_cql_and_from_a_cloned_policy_by_sac():
  assert set(experiments.FINE_TUNED) == {
    "cog_finetuned", "no_prior_finetuned", "bc_init_finetuned", "sac_finetuned", "bc_sac",
    "bc_oracle_sac",
  }  # fmt: skip
  assert not set(experiments.FINE_TUNED) & set(experiments.METHODS)
  for name, method in experiments.FINE_TUNED.items():
    assert experiments.method(name) is method
    assert method.agent == experiments.CQL and not method.uses_prior
    assert ("cql_alpha" in method.overrides) == name.startswith(("bc_sac", "bc_oracle"))


def test_table_1_has_a_cell_for_each_row_and_column():
  cells = {(row, column) for row in experiments.ROWS for column in experiments.PAPER_METHODS}
  assert set(experiments.PAPER_TABLE) == cells
  assert len(cells) == 36


@pytest.mark.parametrize(
  "environment, method, figure",
  [
    ("place_in_tray_held", "cog", 1.00),
    ("place_in_tray", "cog", 0.96),
    ("place_in_tray", "no_prior", 0.00),
    ("place_in_tray", "bc", 0.02),
    ("place_in_tray", "sac", None),
    ("drawer_open", "bc_init", 0.99),
    ("drawer_closed", "bc_oracle", 0.27),
    ("drawer_blocked_1", "cog", 0.78),
    ("drawer_blocked_2", "cog", 0.76),
  ],
)
def test_figures_are_those_of_the_paper(environment, method, figure):
  assert experiments.PAPER_TABLE[environment, method] == figure


def test_an_unknown_method_lists_the_known_ones():
  with pytest.raises(ValueError, match="'cgo'; known: cog, no_prior, bc_init, bc, bc_oracle, sac"):
    experiments.method("cgo")
