"""The Wilson score interval of a success rate."""

import math

Z_95 = 1.959963984540054  # 97.5 % quantile of the standard normal distribution


def wilson_interval(successes: int, trials: int) -> tuple[float, float]:
  """95 % interval of a proportion (Wilson, 1927).

  Raises:
    ValueError: unless 0 ≤ successes ≤ trials and trials > 0.
  """
  if trials <= 0 or not 0 <= successes <= trials:
    raise ValueError(
      f"{successes} successes of {trials} trials: expected 0 ≤ successes ≤ trials, trials > 0"
    )
  rate = successes / trials
  scale = 1 + Z_95**2 / trials
  center = (rate + Z_95**2 / (2 * trials)) / scale
  spread = Z_95 * math.sqrt(rate * (1 - rate) / trials + Z_95**2 / (4 * trials**2)) / scale
  return max(0.0, center - spread), min(1.0, center + spread)
