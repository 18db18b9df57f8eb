"""The strong convexity and smoothness of F_t = sum_i f_{i,t}, if known, and bounds on rounding errors of F_t."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

from distopt.costs.linear import DENSE, Rows
from distopt.costs.products import Floats, one_thread, scatter
from distopt.costs.summed import Sum
from distopt.errors import InputError
from distopt.numerics.trees import tensors
from distopt.optional import entry

UNIT = 2.0**-53
"""The largest relative error of one operation in float64."""

SLACK = 1e-12
"""By this part a modulus is taken smaller and a Lipschitz constant larger than given, as they are rounded sums."""


def modulus(problem: Sum) -> Tensor | None:
    """mu_t [K, R] of F_t, 0 in rounds where it is unknown; None if it is always unknown.

    It comes from the scenario's ``modulus`` or, for costs with ``linear_rows``, from their ridge terms, N l2.

    Raises:
        InputError: the scenario gives another shape, or numbers that are negative or not finite.
    """
    scenario, shape = problem.scenario, (problem.rounds, problem.trials)
    if scenario.modulus is not None:
        found = _said(problem, "modulus")
        return None if found is None else found * (1 - SLACK)
    if problem.pieces is None or problem.pieces[0][1].l2 <= 0:
        return None
    ridge = problem.agents * problem.pieces[0][1].l2
    return torch.full(shape, ridge * (1 - SLACK), dtype=torch.float64)


def smoothness(problem: Sum) -> Tensor | None:
    """L_t [K, R], a Lipschitz constant of grad F_t; None where it is unknown.

    It comes from the scenario's ``smoothness``. For costs with ``linear_rows`` it is c lambda_max(sum_ik w_ik X_ik X_ik') + N l2, where c
    bounds the second derivative of the loss by the scores: 1/4 for two classes, else 1/2. Beyond 100 features the trace replaces the
    largest eigenvalue.

    Raises:
        InputError: as ``modulus``.
    """
    scenario, shape = problem.scenario, (problem.rounds, problem.trials)
    if scenario.smoothness is not None:
        found = _said(problem, "smoothness")
        return None if found is None else found * (1 + SLACK)
    if problem.pieces is None:
        return None
    with one_thread:
        each = [_of_rows(rows) for _, rows in problem.pieces]
    return torch.from_numpy(np.concatenate(each) * (1 + SLACK)).reshape(shape)


def _of_rows(rows: Rows) -> Floats:
    """See ``smoothness``: [P]."""
    if rows.pooled.shape[-1] > DENSE:
        top: Floats = (rows.weight[..., None] * rows.pooled * rows.pooled).sum((-2, -1))
    else:
        values: Floats = np.asarray(np.linalg.eigvalsh(scatter(rows.weight, rows.pooled)), dtype=np.float64)
        top = values[:, -1]
    found: Floats = (0.25 if rows.binary else 0.5) * np.maximum(top, 0.0) + rows.agents * rows.l2
    return found


def _said(problem: Sum, name: str) -> Tensor | None:
    """The result of a scenario's method of this name, as float64 [K, R]."""
    shape, who = (problem.rounds, problem.trials), f"scenario {entry(problem.scenario)}: {name}"
    asked = getattr(problem.scenario, name)
    if not callable(asked):
        raise InputError(f"{who} must be a method, {name}(b), of the data of all agents")
    given = asked(problem.batch)
    if given is None:
        return None
    if not isinstance(given, Tensor | int | float):
        raise InputError(f"{who} gives a {type(given).__name__}; return a tensor [rounds or 1, trials or 1], or None")
    found = torch.as_tensor(given, dtype=torch.float64).detach()
    if found.ndim not in (0, 2) or any(size not in (1, want) for size, want in zip(found.shape, shape, strict=False)):
        raise InputError(f"{who} has shape {list(found.shape)}, not [{shape[0]} or 1, {shape[1]} or 1]")
    if not bool((found.isfinite() & (found >= 0)).all()):
        raise InputError(f"{who} must be finite and not negative; return 0, or None, if it is unknown")
    return found.expand(shape)


def rounding(batch: Any, agents: int, dim: int) -> float:
    """The relative error of a cost or a gradient that is computed in float64 and summed over the agents, at most.

    4 n u, where u = 2^-53 and n counts the operations behind one number: the d coordinates of a point, the numbers in an agent's data of a
    round, the log2 N levels of the sum over agents, and 32 for functions such as exp. Sums in another order, such as pairwise, have
    shorter chains. docs/theory.md says relative to what.

    >>> rounding((torch.zeros(5, 1, 8, 20, 3), torch.zeros(1, 1, 1, 20)), agents=8, dim=3) / 2.0**-53
    472.0
    """
    numbers = sum(math.prod(leaf.shape[3:]) for leaf in tensors(batch))
    return 4 * (32 + dim + numbers + math.ceil(math.log2(agents))) * UNIT
