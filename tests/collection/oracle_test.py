"""The drawer conditions are what they claim: skills in the right order solve them, fewer do not."""

import pytest

from tests import oracle

SEEDS = range(100)  # not those of an evaluation
HARD = ("drawer_closed", "drawer_blocked_1", "drawer_blocked_2")


def _solved(name: str, skills: tuple[str, ...]) -> int:
  environment = oracle.load(name)
  count = sum(oracle.solve(environment, skills, seed) for seed in SEEDS)
  environment.close()
  return count


@pytest.mark.parametrize("name", ("drawer_open", *HARD))
def test_the_right_skills_in_order_solve_at_least_ninety_of_a_hundred_episodes(name):
  assert _solved(name, oracle.SOLUTIONS[name]) >= 90


@pytest.mark.parametrize("name", HARD)
def test_without_its_first_skill_the_same_chain_solves_none(name):
  assert _solved(name, oracle.SOLUTIONS[name][1:]) == 0
