"""Beam jobs over prepared datasets: relabel, validate."""
