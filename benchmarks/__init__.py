"""Measurements, each a main that prints one JSON object on standard output."""
