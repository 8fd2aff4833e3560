"""Wilson's interval against published figures."""

import pytest

from collection import statistics


@pytest.mark.parametrize(
  "successes, trials, low, high",
  # Newcombe (1998), Statistics in Medicine 17, table I, method 3.
  [
    (81, 263, 0.2553, 0.3662),
    (15, 148, 0.0624, 0.1605),
    (0, 20, 0.0, 0.1611),
    (1, 29, 0.0061, 0.1718),
  ],
)
def test_intervals_equal_the_published_ones(successes, trials, low, high):
  assert statistics.wilson_interval(successes, trials) == pytest.approx((low, high), abs=5e-5)


@pytest.mark.parametrize("successes, trials", [(1, 0), (-1, 5), (6, 5)])
def test_impossible_counts_are_refused_and_shown(successes, trials):
  with pytest.raises(ValueError, match=f"{successes} successes of {trials} trials"):
    statistics.wilson_interval(successes, trials)
