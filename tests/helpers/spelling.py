"""Specs of algorithms of the catalogue."""

from __future__ import annotations

from distopt.catalog import registry
from distopt.optional import AlgorithmDefaults, completed


def stepping(name: str, lr: float | str) -> str:
    """An algorithm with a step size; one around another algorithm has the step size of that."""
    inner = registry.wrapped("algorithms", name)
    return f"{name}:lr={lr}" if inner is None else f"{name}:{inner}=gtadam(lr={lr})"


def samples(name: str) -> bool:
    """Whether an algorithm takes gradients of single rows of data, which few scenarios have."""
    return completed(AlgorithmDefaults, registry.make("algorithms", name)).for_rows is not None


def suited(name: str, scenario: str) -> str:
    """The scenario, or one that has rows of data where the algorithm needs them; its points have 3 coordinates."""
    return "drifting_logistic" if samples(name) else scenario
