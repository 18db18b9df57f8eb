"""The recorder: the operations on tensors that one call of a function does.

The function is called on tensors, and every operation that torch carries out is written down, in order. What Python does
between them (branches, loops, fields of objects) leaves no trace, so it must not depend on the numbers in the tensors. Operations
that read a number from a tensor are refused.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from distopt.errors import first_line


class Unsupported(Exception):
    """Rounds cannot be compiled as one function; the message says why. They can still run one by one in Python."""


@dataclass(eq=False)
class Array:
    """A tensor of the recording. ``constant`` holds the numbers of one that the function found rather than made.

    ``scalar`` says whether it has no axes, since in mixed operations torch takes the type of the other tensors.
    """

    shape: tuple[int, ...]
    dtype: torch.dtype
    constant: Tensor | None = None
    users: int = 0

    @property
    def scalar(self) -> bool:
        """Whether it has no axes."""
        return not self.shape


@dataclass
class Operation:
    """One operation of torch. Arguments are arrays, numbers, and sequences of them; ``name`` is such as "add.Tensor"."""

    name: str
    args: tuple[Any, ...]
    options: dict[str, Any]
    results: tuple[Array, ...]


@dataclass
class Recording:
    """``operations`` that make ``results`` from ``inputs``, without those that no result needs."""

    inputs: list[Array]
    operations: list[Operation] = field(default_factory=list)
    results: list[Array] = field(default_factory=list)


LEAVE, ARRIVE = "leave", "arrive"
"""Operations that are none of torch's: see ``leave`` and ``arrive``."""

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

KEPT = "the rounds change a tensor that Python keeps from round to round"
OTHER = "the rounds do something else each time: they count in Python, or look at numbers of tensors"


class _Asked(TorchFunctionMode):
    """Refuses what would let Python look at a tensor's numbers."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = getattr(func, "__name__", "")
        if name in ESCAPES:
            raise Unsupported(f"the rounds look at the numbers of a tensor (Tensor.{name})")
        return func(*args, **(kwargs or {}))


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
        array = array or Array(tuple(tensor.shape), tensor.dtype)
        place = id(tensor)
        self._stale.discard(place)
        self._known[place] = weakref.ref(tensor, lambda _: self._known.pop(place, None)), array
        return array

    def array(self, tensor: Tensor) -> Array:
        """The array of a tensor; a tensor that was not seen before is a constant."""
        known = self._known.get(id(tensor))
        if known is not None and known[0]() is tensor:
            if id(tensor) in self._stale:
                raise Unsupported(
                    "the rounds change a tensor in place and go on using a view of it, or what it is a view of"
                )
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
        name = str(func).removeprefix("aten.")
        if name.startswith("_local_scalar_dense"):
            raise Unsupported("the rounds ask a tensor for a number")
        if torch.Tag.nondeterministic_seeded in func.tags:
            raise Unsupported(f"the rounds draw random numbers with torch ({name})")
        if name.partition(".")[0] in SHAPES:
            return func(*args, **kwargs)
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
    operations, results_of = _merged(recorder.operations, [recorder.array(each) for each in results])
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


def arrays(x: Any) -> list[Array]:
    """The arrays among arguments."""
    if isinstance(x, Array):
        return [x]
    if isinstance(x, dict):
        x = tuple(x.values())
    return [each for item in x for each in arrays(item)] if isinstance(x, tuple) else []


def _merged(operations: list[Operation], results: list[Array]) -> tuple[list[Operation], list[Array]]:
    """Without operations that repeat an earlier one on the same arrays."""
    first: dict[Any, Operation] = {}
    stand_in: dict[int, Array] = {}

    def replaced(x: Any) -> Any:
        if isinstance(x, Array):
            return stand_in.get(id(x), x)
        return tuple(map(replaced, x)) if isinstance(x, tuple) else x

    def named(x: Any) -> Any:
        if isinstance(x, tuple):
            return tuple(map(named, x))
        return id(x) if isinstance(x, Array) else (type(x).__name__, repr(x))  # 1, 1.0 and True are not the same

    kept = []
    for each in operations:
        operation = Operation(
            each.name, replaced(each.args), {key: replaced(x) for key, x in each.options.items()}, each.results
        )
        key = each.name, named(operation.args), named(tuple(sorted(operation.options.items(), key=str)))
        before = first.setdefault(key, operation)
        if before is operation:
            kept.append(operation)
        else:
            stand_in.update({id(old): new for old, new in zip(operation.results, before.results, strict=True)})
    return kept, [replaced(each) for each in results]


def needed(operations: Sequence[Operation], results: Sequence[Array]) -> list[Operation]:
    """The operations that results and what leaves depend on; counts how often each array is used."""
    for operation in operations:
        for each in (*operation.results, *arrays((operation.args, operation.options))):
            each.users = 0
    for each in results:
        each.users = 0
    live = {id(each) for each in results}
    kept: list[Operation] = []
    for operation in reversed(operations):
        if operation.name == LEAVE or any(id(each) in live for each in operation.results):
            kept.append(operation)
            for each in arrays((operation.args, operation.options)):
                live.add(id(each))
                each.users += 1
    for each in results:
        each.users += 1
    return kept[::-1]


def refused(operation: Operation, why: object = "") -> Unsupported:
    """The error for an operation that cannot be written out."""
    reason = first_line(why) if isinstance(why, BaseException) and str(why) else str(why)
    return Unsupported(f"the rounds use {operation.name}{f' ({reason})' if reason else ''}, which is not written out")


def sliced(operation: Operation) -> tuple[int, range] | None:
    """The axis and the places of which ``slice`` takes the numbers; None for other operations."""
    if operation.name != "slice.Tensor":
        return None
    args = dict(zip(("self", "dim", "start", "end", "step"), operation.args, strict=False)) | operation.options
    shape = operation.args[0].shape
    axis = args.get("dim", 0) % len(shape)
    return axis, range(shape[axis])[slice(args.get("start"), args.get("end"), args.get("step", 1))]


def apart(a: range, b: range) -> bool:
    """Whether two rows of places have none in common; False also where it is not obvious."""
    return not a or not b or a[-1] < b[0] or b[-1] < a[0] or (a.step == b.step and (a[0] - b[0]) % a.step != 0)
