"""Operations of torch that are recorded as others: losses, activations, and what is rarer.

A function here takes what torch hands to the operation of its name, and does it by operations that can be written out. The recorder
calls it in the operation's place. Results are those of torch up to rounding.
"""

from __future__ import annotations

from collections.abc import Callable
from inspect import isfunction
from types import ModuleType
from typing import Any

from distopt.codegen.composites import activations, losses, numbers, tensors


def _functions(module: ModuleType) -> dict[str, Callable[..., Any]]:
    """The functions that a module defines, by name, without its private ones."""
    own = {name: f for name, f in vars(module).items() if isfunction(f) and f.__module__ == module.__name__}
    return {name: f for name, f in own.items() if not name.startswith("_")}


COMPOSITES: dict[str, Callable[..., Any]] = {
    **_functions(activations),
    **_functions(losses),
    **_functions(numbers),
    **_functions(tensors),
    "hardshrink_backward": activations.softshrink_backward,
    "nll_loss2d_forward": losses.nll_loss_forward,
    "nll_loss2d_backward": losses.nll_loss_backward,
    "median.dim": tensors.median_dim,
    "_cdist_forward": tensors.cdist_forward,
    "_cdist_backward": tensors.cdist_backward,
    "norm.ScalarOpt_dim": tensors.norm_scalaropt_dim,
}
"""By an operation's name, such as "median.dim", or by the part before the point."""


def composite(name: str) -> Callable[..., Any] | None:
    """How to do the operation of this name by others; None if there is no way here. One that ends in "_" writes the result to its first argument."""
    base, _, overload = name.partition(".")
    base = base.rstrip("_") if not base.startswith("__") else base
    return COMPOSITES.get(f"{base}.{overload}") or COMPOSITES.get(base)
