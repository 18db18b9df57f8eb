"""The recorder: the operations on tensors that one call of a function does.

The function is called on tensors, and every operation that torch carries out is written down, in order. What Python does
between them (branches, loops, fields of objects) leaves no trace, so it must not depend on the numbers in the tensors. Operations
that read a number from a tensor are refused.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from distopt.codegen.composites import composite
from distopt.codegen.recording import (
    ARRIVE,
    LEAVE,
    Array,
    Operation,
    Recording,
    Unsupported,
    ViewChanged,
    merged,
    needed,
)

ESCAPES = (
    "numpy",
    "tolist",
    "item",
    "__array__",
    "__dlpack__",
    "data_ptr",
    "__bool__",
    "__float__",
    "__int__",
    "__index__",
)
"""Functions of tensors that hand out their numbers."""

SHAPES = ("is_same_size", "_has_same_storage_numel")
"""Operations that only read shapes, which are the same in every round."""

FIXED = ("eye", "linspace", "logspace", "tril_indices", "triu_indices")
"""Operations that make the same numbers each time, of numbers alone."""

KEPT = "the rounds change a tensor that Python keeps from round to round"
OTHER = "the rounds do something else each time: they count in Python, or look at numbers of tensors"


class _Asked(TorchFunctionMode):
    """Refuses what would let Python look at a tensor's numbers."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = getattr(func, "__name__", "")
        if name in ESCAPES:
            raise Unsupported(f"the rounds look at the numbers of a tensor (Tensor.{name})")
        return func(*args, **(kwargs or {}))


@cache
def _known(func: Any) -> tuple[str, Callable[..., Any] | None, bool]:
    """The name of an operation, the composite that does it, and whether torch itself does it by others."""
    name = str(func).removeprefix("aten.")
    given_result = func._schema.is_mutable and not name.partition(".")[0].endswith("_")
    implicit = torch._C._dispatch_has_kernel_for_dispatch_key(func.name(), "CompositeImplicitAutograd")
    return name, None if given_result else composite(name), implicit


def _plain(tensor: Tensor) -> Tensor:
    """The tensor itself, without what ``torch.func.functionalize`` wraps around it."""
    if not torch._is_functional_tensor(tensor):
        return tensor
    torch._sync(tensor)  # type: ignore[attr-defined, no-untyped-call]  # torch gives it no type
    plain: Tensor = torch._from_functional_tensor(tensor)
    return plain


class Recorder(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch gives its modes no types
    """Writes down what torch does while it is active."""

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # else torch imports its compiler's front end at the first operation: a second

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # torch gives its modes no types
        self.operations: list[Operation] = []
        self._known: dict[int, tuple[weakref.ref[Tensor], Array]] = {}
        self._constants: list[Tensor] = []
        self._stale: set[int] = set()

    def know(self, tensor: Tensor, array: Array | None = None) -> Array:
        """Set the array that represents a tensor from now on. Tensors are not kept alive, so that recording takes no more memory than a round."""
        tensor = _plain(tensor)
        array = array or Array(tuple(tensor.shape), tensor.dtype)
        place = id(tensor)
        self._stale.discard(place)
        self._known[place] = weakref.ref(tensor, lambda _: self._known.pop(place, None)), array
        return array

    def array(self, tensor: Tensor) -> Array:
        """The array of a tensor; a tensor that was not seen before is a constant."""
        tensor = _plain(tensor)
        known = self._known.get(id(tensor))
        if known is not None and known[0]() is tensor:
            if id(tensor) in self._stale:
                raise ViewChanged
            return known[1]
        if tensor.is_meta:  # a Python object kept it from the first recording
            raise Unsupported(OTHER)
        self._constants.append(tensor)
        return self.know(tensor, Array(tuple(tensor.shape), tensor.dtype, tensor.detach()))

    def _require_own(self, tensor: Tensor, name: str) -> None:
        """Refuse changes of a tensor from outside: in the next round it would have other values. A buffer that is filled first is none."""
        known = self._known.get(id(tensor))
        fills = name.partition(".")[0] in ("copy_", "zero_", "fill_")
        if (known is None and not fills) or (known is not None and known[1].constant is not None):
            raise Unsupported(KEPT)

    def _arrays(self, x: Any) -> Any:
        if isinstance(x, Tensor):
            return self.array(x)
        if isinstance(x, list | tuple):
            return tuple(self._arrays(each) for each in x)
        return x

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name, made_of, implicit = _known(func)
        if name.startswith("_local_scalar_dense"):
            raise Unsupported("the rounds ask a tensor for a number")
        if torch.Tag.nondeterministic_seeded in func.tags:
            raise Unsupported(f"the rounds draw random numbers with torch ({name})")
        if name.partition(".")[0] in SHAPES:
            return func(*args, **kwargs)
        if made_of is not None:
            with self:
                try:
                    found = made_of(*args, **kwargs)
                except (TypeError, AttributeError):  # in a form that is not foreseen
                    raise Unsupported(f"the rounds use {name}, which is not written out with these arguments") from None
                if found is not NotImplemented:
                    return args[0].copy_(found) if func._schema.is_mutable else found
        if implicit:
            with self:  # one that a composite uses, which torch itself does by others
                return func.decompose(*args, **kwargs)
        if name.partition(".")[0] in FIXED:
            fixed: Tensor = func(*args, **kwargs)
            self._constants.append(fixed)
            self.know(fixed, Array(tuple(fixed.shape), fixed.dtype, fixed.detach()))
            return fixed
        into = _changed(func, name, args)
        if into is not None:
            self._require_own(into, name)
        arguments, options = self._arrays(tuple(args)), {key: self._arrays(value) for key, value in kwargs.items()}
        result = func(*args, **kwargs)
        if into is not None:
            array = Array(tuple(into.shape), into.dtype)
            for other, array_of in list(self._known.values()):  # what shares its memory changes, too
                tensor = other()
                if tensor is not None and tensor is not into and _shared(tensor, into):
                    if array_of.constant is not None:
                        raise Unsupported(KEPT)
                    self._stale.add(id(tensor))
            self.know(into, array)
            base, _, overload = name.partition(".")
            self.operations.append(Operation(f"{base.rstrip('_')}.{overload}", arguments, options, (array,)))
            return result
        several = isinstance(result, list | tuple)
        if not all(isinstance(each, Tensor) for each in (result if several else (result,))):
            raise Unsupported(f"the rounds ask a tensor for a number ({name})")
        made = tuple(self.know(each) for each in (result if several else (result,)))
        self.operations.append(Operation(name, arguments, options, made))
        return result


_now = threading.local()
"""``_now.recorder`` is the one at work in this thread."""


def leave(what: str, tensors: Sequence[Tensor]) -> None:
    """Note in the recording that tensors are handed over, under a name of their own, as soon as they are known.

    Only ``distopt.codegen.segments`` can compile recordings with such notes.
    """
    recorder: Recorder = _now.recorder
    arrays = tuple(map(recorder.array, tensors))
    recorder.operations.append(Operation(LEAVE, (arrays,), {"what": what}, ()))


def arrive(what: str, forms: Sequence[tuple[Sequence[int], torch.dtype]]) -> list[Tensor]:
    """Note in the recording that tensors of these shapes and types come from elsewhere. See ``leave``."""
    recorder: Recorder = _now.recorder
    made = [torch.zeros(tuple(shape), dtype=dtype) for shape, dtype in forms]
    arrays = tuple(recorder.know(each, Array(tuple(each.shape), each.dtype)) for each in made)
    recorder.operations.append(Operation(ARRIVE, (), {"what": what}, arrays))
    return made


def _changed(func: Any, name: str, args: Sequence[Any]) -> Tensor | None:
    """The tensor that an operation writes to; None if it makes a new one."""
    if not func._schema.is_mutable:
        return None
    base = name.partition(".")[0]
    if not base.endswith("_") or base.endswith("__") or not isinstance(args[0], Tensor):
        raise Unsupported(f"the rounds use {name}, which writes to a tensor")
    return args[0]


def _shared(a: Tensor, b: Tensor) -> bool:
    if not a.numel() or a._is_zerotensor():  # torch's forward mode has zeros without memory
        return False
    return bool(a.untyped_storage()._cdata == b.untyped_storage()._cdata)  # without memory, all addresses are 0


LARGE = 2**26
"""Bytes of inputs from which on a round is recorded without any numbers, as long as it allows that: copies of all would be too much memory."""


def record(do: Callable[..., Sequence[Tensor]], inputs: Sequence[Tensor]) -> Recording:
    """What ``do(*inputs)`` does. It is called on a copy of the inputs, and on other numbers, to see that it does the same.

    Raises:
        Unsupported: it asks a tensor for a number, draws random numbers, writes to a tensor of which there are views, or does something
            else the second time.

    >>> recording = record(lambda a, b: [a * b + 1], [torch.ones(2), torch.ones(2)])
    >>> [operation.name for operation in recording.operations]
    ['mul.Tensor', 'add.Tensor']
    """
    try:
        return _twice(do, inputs)
    except ViewChanged as changed:
        try:  # torch can do without such changes, at the price of a copy for each
            return _twice(torch.func.functionalize(do), inputs)
        except Unsupported:
            raise
        except Exception:  # errors of many kinds, for example where Python keeps what is changed
            raise changed from None


def _twice(do: Callable[..., Sequence[Tensor]], inputs: Sequence[Tensor]) -> Recording:
    first = second = None
    if sum(each.numel() * each.element_size() for each in inputs) >= LARGE:
        try:
            first, second = (_recorded(do, [_empty(each) for each in inputs]) for _ in range(2))
        except Unsupported:
            raise
        except Exception:  # errors of many kinds, for example from mixing real tensors with tensors without memory
            first = None
    if first is None or second is None:
        first = _recorded(do, [each.detach().clone(memory_format=torch.contiguous_format) for each in inputs])
        second = _recorded(do, [_other(each) for each in inputs])
    if _form(first) != _form(second):
        raise Unsupported(OTHER)
    return first


def _empty(each: Tensor) -> Tensor:
    """One of the same shape that has no memory."""
    return torch.empty(each.shape, dtype=each.dtype, device="meta")


def _other(each: Tensor) -> Tensor:
    """A copy, with other numbers where they are no places."""
    return each * 0.75 + 2.0**-10 if each.is_floating_point() else each.clone()


def _recorded(do: Callable[..., Sequence[Tensor]], inputs: list[Tensor]) -> Recording:
    recorder = Recorder()
    recording = Recording([recorder.know(each) for each in inputs])
    _now.recorder = recorder
    try:
        with torch.no_grad(), _Asked(), recorder:
            results = list(do(*inputs))
    finally:
        del _now.recorder
    for each in results:
        if not isinstance(each, Tensor):
            raise Unsupported(f"the rounds return a {type(each).__name__} where a tensor is expected")
    operations, results_of = merged(recorder.operations, [recorder.array(each) for each in results])
    recording.operations, recording.results = needed(operations, results_of), results_of
    return recording


def _form(recording: Recording) -> list[Any]:
    """The part of a recording that two recordings of the same rounds share: everything except the arrays."""
    places = {id(array): k for k, array in enumerate(recording.inputs)}

    def of(x: Any) -> Any:
        if isinstance(x, tuple):
            return tuple(map(of, x))
        if not isinstance(x, Array):
            return type(x).__name__, repr(x)
        known = places.setdefault(id(x), len(places))
        numbers = x.constant
        return known, x.shape, x.dtype, None if numbers is None else (tuple(numbers.flatten()[:64].tolist()))

    done = [
        (each.name, of(each.args), of(tuple(sorted(each.options.items(), key=str))), of(each.results))
        for each in recording.operations
    ]
    return [repr(done), repr(of(tuple(recording.results)))]  # as text, since NaN is not itself
