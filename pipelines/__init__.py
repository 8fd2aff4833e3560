"""Beam jobs over prepared datasets: relabel, validate, statistics (design: to come)."""
