"""Operations of torch that are recorded as others: losses, activations, and what is rarer.

A function here takes what torch hands to the operation of its name, and does it by operations that can be written out. The recorder
calls it in the operation's place. Results are those of torch up to rounding.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from distopt.codegen.composites import activations, losses, numbers, tensors

COMPOSITES: dict[str, Callable[..., Any]] = {
    **activations.COMPOSITES,
    **losses.COMPOSITES,
    **numbers.COMPOSITES,
    **tensors.COMPOSITES,
}
"""By an operation's name, such as "var.correction", or by the part before the point."""


def composite(name: str) -> Callable[..., Any] | None:
    """How to do the operation of this name by others; None if there is no way here. One that ends in "_" writes the result to its first argument."""
    base, _, overload = name.partition(".")
    base = base.rstrip("_") if not base.startswith("__") else base
    return COMPOSITES.get(f"{base}.{overload}") or COMPOSITES.get(base)
