"""Trees of tensors: a state, a round's data, a channel's memory."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from distopt.errors import InputError

_within: list[list[torch.dtype]] = []
"""For each that is within ``default_dtype``, in order of entry: the precision to go back to."""

_one_at_a_time = threading.RLock()
os.register_at_fork(
    before=_one_at_a_time.acquire, after_in_parent=_one_at_a_time.release, after_in_child=_one_at_a_time.release
)


@contextmanager
def default_dtype(dtype: torch.dtype) -> Iterator[None]:
    """Numbers that user code makes without naming a precision (``t / 10`` of whole rounds) get this one.

    The precision belongs to the whole process. Threads that are within at the same time share it, so they must ask for the same one.
    When the last of them leaves, it is again what it was before the first one entered, in whichever order they leave.
    """
    mine: list[torch.dtype] = []
    try:  # from here on, so that a signal in between leaves nothing changed
        with _one_at_a_time:
            mine.append(torch.get_default_dtype())
            _within.append(mine)
            torch.set_default_dtype(dtype)
        yield
    finally:
        with _one_at_a_time:
            _leave(mine)


def _leave(mine: list[torch.dtype]) -> None:
    place = next((k for k, each in enumerate(_within) if each is mine), None)
    if place is None:  # a signal came before the entry
        return
    del _within[place]
    if place == len(_within):
        torch.set_default_dtype(mine[0])
    else:  # who came later goes back to what was before
        _within[place][:] = mine


def tensors(tree: Any) -> list[Tensor]:
    """The tensor leaves of a tree."""
    return [leaf for leaf in pytree.tree_leaves(tree) if isinstance(leaf, Tensor)]


def tree_map(f: Callable[[Tensor], Tensor], tree: Any) -> Any:
    """Apply f to every tensor leaf."""
    return pytree.tree_map(lambda leaf: f(leaf) if isinstance(leaf, Tensor) else leaf, tree)


def moved(tree: Any, device: torch.device) -> Any:
    """The tree with its tensors on a device."""
    return tree_map(lambda leaf: leaf.to(device), tree)


def cast(tree: Any, dtype: torch.dtype) -> Any:
    """The floating leaves in another precision."""
    return tree_map(lambda leaf: leaf.to(dtype) if leaf.is_floating_point() else leaf, tree)


def finite(x: Tensor) -> Tensor:
    """Of which trials all numbers of x [R, n, d] are finite, [R]. The largest and the smallest decide; a NaN is both.

    >>> finite(torch.tensor([[[1.0, -2.0]], [[0.0, torch.nan]], [[-torch.inf, 0.0]]])).tolist()
    [True, False, False]
    """
    flat = x.flatten(1)
    return flat.amin(1).isfinite() & flat.amax(1).isfinite()


def at(tree: Any, k: int) -> Any:
    """One round's slice of a block: leaves [K|1, ...] -> [...]."""
    return tree_map(lambda leaf: leaf[k if leaf.shape[0] > 1 else 0], tree)


def rounds_of(tree: Any) -> Callable[[int], Any]:
    """``at`` for many rounds of one block. Leaves that no round changes are sliced once.

    >>> each = rounds_of((torch.tensor([[1], [2]]), torch.tensor([[7]])))
    >>> each(1)
    (tensor([2]), tensor([7]))
    """
    leaves, form = pytree.tree_flatten(tree)
    if all(not isinstance(leaf, Tensor) or leaf.shape[0] == 1 for leaf in leaves):
        once = at(tree, 0)
        return lambda k: once
    if isinstance(tree, Tensor):
        return lambda k: tree[k]
    return lambda k: pytree.tree_unflatten(
        [leaf[k if leaf.shape[0] > 1 else 0] if isinstance(leaf, Tensor) else leaf for leaf in leaves], form
    )


def part(tree: Any, start: int, stop: int) -> Any:
    """Rounds start .. stop-1 of a block; leaves that no round changes stay [1, ...]."""
    return tree_map(lambda leaf: leaf[start:stop] if leaf.shape[0] > 1 else leaf, tree)


def leaf(state: Any, name: str) -> Tensor:
    """The leaf of a state by name, such as "s" or "direction.m". An InputError lists the known names.

    A state may hold that of another algorithm in a field called ``inner``. Its leaves can be named directly, if the outer state has no
    leaf of that name.
    """
    try:
        found = _sought(state, name)
    except AttributeError:
        raise InputError(
            f"record={name}: the algorithm's state has no such leaf (x is always there; the state has: {_known(state)}; a channel's memory is "
            "called memory.NAME)"
        ) from None
    return _whole(found, name)


def reweighted(batch: Any, name: str, factor: Tensor) -> Any:
    """A batch, a NamedTuple, whose leaf ``name``, the weights of rows of data [..., m], is multiplied by a factor. All else in it stays.

    >>> from collections import namedtuple
    >>> reweighted(namedtuple("Rows", "y, w")(torch.ones(2), torch.ones(2)), "w", torch.tensor([0.0, 2.0])).w.tolist()
    [0.0, 2.0]
    """
    return batch._replace(**{name: leaf(batch, name) * factor})


def memory_leaf(memory: Mapping[str, Any], name: str) -> Tensor:
    """The leaf of the channels' memories by name: "memory.x.e" is e in the memory of the channel "x". An InputError lists the known names.

    >>> memory_leaf({"x": torch.tensor([7.0])}, "memory.x")
    tensor([7.])
    """
    path = name.removeprefix("memory.")
    fitting = [each for each in memory if f"{path}.".startswith(f"{each}.")]
    channel = max(fitting, key=len, default=None)
    if channel is None:
        raise InputError(f"record={name}: the algorithm has no such channel; it sends: {', '.join(memory)}")
    found = memory[channel]
    if isinstance(found, tuple) and not found:
        raise InputError(f"record={name}: the channel of {channel!r} remembers nothing")
    try:
        found = found if path == channel else _field(found, path[len(channel) + 1 :])
    except AttributeError:
        raise InputError(
            f"record={name}: the memory of channel {channel!r} has no such leaf (it has: {_known(found)})"
        ) from None
    return _whole(found, name)


def _whole(found: Any, name: str) -> Tensor:
    """The tensor that a name stands for."""
    if not isinstance(found, Tensor):
        inner = ", ".join(f"{name}.{field}" for field in getattr(found, "_fields", ()))
        raise InputError(f"record={name}: not a tensor{'; choose one of ' + inner if inner else ''}")
    return found


def _known(tree: Any) -> str:
    names = [*getattr(tree, "_fields", ())]
    if "inner" in names:
        names += [f"inner.{each}" for each in getattr(tree.inner, "_fields", ())]
    return ", ".join(names) or "none with a name"


def _sought(state: Any, name: str) -> Any:
    """The leaf of a name in a state, or in the inner state."""
    if isinstance(state, Tensor) and name == "state":
        return state
    try:
        return _field(state, name)
    except AttributeError:
        if "inner" not in getattr(state, "_fields", ()):
            raise
        return _sought(state.inner, name)


def _field(state: Any, name: str) -> Any:
    """The field of a state that a dotted name names; methods and properties are none, such as ``T`` of a tensor."""
    for each in name.split("."):
        known: Any = getattr(state, "_fields", None) or getattr(state, "__dict__", ())
        if isinstance(state, Tensor) or each not in known:
            raise AttributeError(each)
        state = getattr(state, each)
    return state
