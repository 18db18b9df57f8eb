"""Specs of algorithms of the catalogue."""

from __future__ import annotations

from distopt.catalog import registry


def stepping(name: str, lr: float | str) -> str:
    """An algorithm with a step size; one around another algorithm has the step size of that."""
    inner = registry.wrapped("algorithms", name)
    return f"{name}:lr={lr}" if inner is None else f"{name}:{inner}=gtadam(lr={lr})"
