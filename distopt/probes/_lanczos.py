"""The Lanczos process: a few eigenvalues of a symmetric matrix, known only by its products with vectors."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from distopt.errors import InputError
from distopt.optional import entry

OFTEN = 5
"""Products between two checks of whether the eigenvalues are accurate enough."""

_NOTHING = 1e-13  # a remainder of this part of the largest eigenvalue is rounding: the vectors span an invariant space


def require_costs(probe: str, scenario: Any) -> None:
    """Refuse a game: the process needs a symmetric matrix, and the derivative of the players' directions is not symmetric.

    >>> from distopt.scenarios.dirac_gan import DiracGAN
    >>> require_costs("sharpness", DiracGAN())
    Traceback (most recent call last):
    distopt.errors.InputError: probe sharpness: dirac_gan is a game, whose players do not follow the gradient of one cost, so there is no Hessian
    """
    if scenario.equilibrium is not None:
        raise InputError(
            f"probe {probe}: {entry(scenario)} is a game, whose players do not follow the gradient of one cost, so there is no Hessian"
        )


def ritz(
    product: Callable[[Tensor], Tensor],
    start: Tensor,
    steps: int,
    tolerance: float = 0.0,
    wanted: tuple[int, ...] = (0, -1),
) -> tuple[Tensor, Tensor]:
    """Ritz values of a symmetric matrix H, ascending [k], and their weights [k], by the Lanczos process [lanczos1950].

    With q_1 = start / |start| and beta_0 = 0,

        alpha_j = q_j' H q_j,    r_j = H q_j - alpha_j q_j - beta_{j-1} q_{j-1},    beta_j = |r_j|,    q_{j+1} = r_j / beta_j.

    The eigenvalues of the tridiagonal matrix of alpha and beta are the Ritz values. The largest and the smallest come near those of H first.
    The weight of a Ritz value is the square of the first entry of its eigenvector. Then sum_j weight_j f(value_j) = q_1' f(H) q_1 for every
    polynomial f of degree below 2 k. In floating point the vectors would lose their orthogonality, and values would occur twice. So
    every r_j is made orthogonal to all earlier vectors, two times.

    Args:
        product: H v [d] of v [d].
        start: the first vector [d].
        steps: k, at most.
        tolerance: the process ends before, when the wanted values are this near to eigenvalues of H, as a part of the largest of all.
        wanted: their places among the values; by default the smallest and the largest.

    Returns:
        Values and weights; both hold one nan where a product is not finite.

    >>> diagonal = torch.tensor([1.0, 2.0, 7.0], dtype=torch.float64)
    >>> values, weights = ritz(lambda v: diagonal * v, torch.ones(3, dtype=torch.float64), steps=10)
    >>> [round(value, 6) for value in values.tolist()], [round(weight, 6) for weight in weights.tolist()]
    ([1.0, 2.0, 7.0], [0.333333, 0.333333, 0.333333])
    """
    steps = min(steps, len(start))
    basis = start.new_empty(steps, len(start))
    diagonal, beside = start.new_empty(steps), start.new_empty(steps)
    basis[0] = start / start.norm()
    values = vectors = start.new_empty(0)
    for k in range(steps):
        rest, before = product(basis[k]), basis[: k + 1]
        diagonal[k] = basis[k] @ rest
        for _ in range(2):
            rest = rest - before.T @ (before @ rest)
        beside[k] = rest.norm()
        if not bool(diagonal[k].isfinite() & beside[k].isfinite()):
            nothing = start.new_full((1,), torch.nan)
            return nothing, nothing
        bound = diagonal[: k + 1].abs().max() + beside[: k + 1].max()
        last = k + 1 == steps or bool(beside[k] <= _NOTHING * bound)
        if last or (tolerance and (k + 1) % OFTEN == 0):
            inner = beside[:k]
            values, vectors = torch.linalg.eigh(
                torch.diag(diagonal[: k + 1]) + torch.diag(inner, 1) + torch.diag(inner, -1)
            )
            error = beside[k] * vectors[-1, list(wanted)].abs().max()  # some eigenvalue of H is this near to each
            if last or bool(error <= tolerance * values.abs().max()):
                break
        basis[k + 1] = rest / beside[k]
    return values, vectors[0].square()
