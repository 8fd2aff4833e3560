"""Simulate and act: scenes, tasks, environments, scripted policies and the episodes they produce."""

from collection import registry

registry.register_with_gymnasium()
