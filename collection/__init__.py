"""Simulate and act: scenes, tasks, environments, scripted policies and their episodes."""

from collection import registry

registry.register_with_gymnasium()
