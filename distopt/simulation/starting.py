"""The starting point: from the experiment, from a file, or from the scenario."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from distopt.catalog.places import missing, place
from distopt.catalog.spec import Spec, shown
from distopt.errors import InputError
from distopt.experiment import DTYPES, Experiment
from distopt.numerics.random import Key
from distopt.numerics.trees import default_dtype

LARGEST = 2**34  # bytes of a file of starting points


def points(experiment: Experiment, scenario: Any, key: Key, name: str) -> Tensor:
    """x_0 [R, N, d] in the experiment's precision; ``name`` is the scenario's, for messages.

    Raises:
        InputError: numbers of another shape, which are none or not finite, or a file that cannot be read.
    """
    dim = int(scenario.dim)
    if dim < 1:
        raise InputError(f"scenario {name}: dim={dim}, must be at least 1")
    shape = (experiment.trials, key.total, dim)
    given, what = experiment.x0, "x0"
    if given is None and scenario.start is not None:
        with default_dtype(torch.float64):
            given, what = scenario.start(key), f"scenario {name}: start"
    elif isinstance(given, str):
        given = _read(Spec.parse(given).kwargs[0][1])
    start = _numbers(0.0 if given is None else given, what, shape)
    start = start.to(DTYPES[experiment.dtype])
    if not bool(torch.isfinite(start).all()):
        raise InputError(f"{what} is not finite in {experiment.dtype}")
    return start.clone().expand(shape)


def _numbers(x0: Any, what: str, shape: tuple[int, int, int]) -> Tensor:
    _, agents, dim = shape
    if isinstance(x0, bool | np.ma.MaskedArray) or (
        isinstance(x0, Tensor) and (x0.is_complex() or x0.layout != torch.strided)
    ):
        raise InputError(f"{what}={shown(x0)}: must be real numbers, without a mask")
    try:
        start = torch.as_tensor(x0, dtype=torch.float64).detach()
    except (TypeError, ValueError, RuntimeError, OverflowError):
        raise InputError(f"{what}={shown(x0)}: must be a number or an array of shape [{agents}, {dim}]") from None
    one = what != "x0" and start.ndim == 3 and start.shape in {(1, *shape[1:]), (shape[0], 1, dim), (1, 1, dim)}
    if start.ndim > 3 or (start.ndim > 0 and not one and start.shape not in {(dim,), (agents, dim), shape}):
        raise InputError(
            f"{what} has shape {list(start.shape)}; give a number, [{dim}], [{agents}, {dim}] or {list(shape)}"
        )
    return start


def _read(text: str) -> Any:
    """The numbers of a file as ``numpy.save`` writes it."""
    path = place(text)
    if path is None:
        if "." not in text and "/" not in text:
            raise InputError(f"x0={shown(text)}: must be a number, or the path of a .npy file")
        raise InputError(f"x0: {missing(text)}; give a number, or a .npy file")
    try:
        if path.stat().st_size > LARGEST:
            raise ValueError(f"{path.stat().st_size:,} bytes are too many")
        found = np.load(path, allow_pickle=False)
        if not isinstance(found, np.ndarray) or found.dtype.kind not in "iuf":
            raise ValueError("it holds no array of real numbers")
    except (OSError, ValueError, EOFError) as error:
        raise InputError(f"x0: {path} cannot be read ({error}); give a number, or a .npy file") from None
    return found
