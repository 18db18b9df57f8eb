"""From recorded operations of torch to loops: what each operation is, number by number."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import torch

from distopt.codegen import elementwise
from distopt.codegen.expressions import HALVES, TYPES, Buffer, Expr, Index, Type, loads, operations
from distopt.codegen.functions import power
from distopt.codegen.loops import LIMIT, Lazy, Nests
from distopt.codegen.recording import Array, Operation, Recording, Unsupported, arrays, refused
from distopt.codegen.slices import apart, sliced

DTYPES: dict[Type, torch.dtype] = {type: dtype for dtype, type in TYPES.items()}
CHEAP, QUICK = 4, {"load", "const", "var", "add", "sub", "mul", "neg"}
"""Up to how many numbers are read again, with these operations alone, instead of storing a result for its second use."""

INLINED = 1  # numbers of a constant that are written into the code; larger ones are handed over as data


class Translation:
    """A recording as loops.

    The first ``changing`` inputs are made by rounds, all others are data. ``handlers`` say what operations do, by their full name, such as
    "view.default", or the part before the point. All others are those of ``elementwise``.

    Attributes:
        nests: the loops.
        inputs: the buffers of the recording's inputs, then those of ``constants``, which the function found.
        results: the recording's results.
        places: of inputs that are places as they stand, in how many places they must be.
    """

    def __init__(self, recording: Recording, handlers: Mapping[str, Handler], changing: int) -> None:
        self._handlers = handlers
        self.nests, self.constants = Nests(), list[torch.Tensor]()
        self.pool = self.nests.pool
        self.places: dict[str, int] = {}
        self._lazies: dict[int, Lazy] = {}
        self._users: dict[int, list[Operation]] = {}
        for operation in recording.operations:
            for array in arrays((operation.args, operation.options)):
                self._users.setdefault(id(array), []).append(operation)
        self._kept = {id(array) for array in recording.results}
        self.inputs: list[Buffer] = []
        for array in recording.inputs:
            self._lazies[id(array)] = self._input(array)
        self._changing = self.inputs[:changing]
        self._sliced: set[int] = set()  # what is read slice by slice
        for operation in recording.operations:
            self._add(operation)
        self.results = [self.lazy(array) for array in recording.results]

    def _input(self, array: Array) -> Lazy:
        buffer = self.nests.buffer(array.shape, type_of(array.dtype), "input")
        self.inputs.append(buffer)
        return self.nests.held(buffer)

    def lazy(self, array: Array) -> Lazy:
        """The tensor that an array of the recording stands for."""
        found = self._lazies.get(id(array))
        if found is None:
            if array.constant is None:
                raise Unsupported("the rounds use a tensor of unknown origin")
            found = self._lazies[id(array)] = self._constant(array, array.constant)
        return found

    def _constant(self, array: Array, numbers: torch.Tensor) -> Lazy:
        if numbers.numel() > INLINED or not numbers.numel():
            self.constants.append(numbers.contiguous())
            return self._input(array)
        return self.filled(array.shape, type_of(array.dtype), numbers.item())

    def filled(self, shape: Sequence[int], type: Type, value: float) -> Lazy:
        """The same number everywhere."""
        number = self.pool.constant(type, value)
        return Lazy(shape, type, lambda ix: number, 0)

    def _add(self, operation: Operation) -> None:
        handler = self._handlers.get(operation.name) or self._handlers.get(operation.name.partition(".")[0])
        try:
            made = handler(self, operation) if handler else self._elementwise(operation)
        except Unsupported as error:
            raise refused(operation, error) from None
        except (TypeError, IndexError, KeyError, AttributeError) as error:  # arguments that no handler foresaw
            raise refused(operation, error) from error
        moves = handler is not None and handler in VIEWS
        for array, lazy in zip(operation.results, made, strict=True):
            if lazy.shape != array.shape or lazy.type != type_of(array.dtype):
                raise refused(
                    operation, f"{list(array.shape)} {array.dtype} expected, not {list(lazy.shape)} {lazy.type}"
                )
            dear = operation.name.partition(".")[0] in elementwise.FUNCTIONS or lazy.cost > LIMIT
            again = array.users > 1 and lazy.cost > 1 and not moves and not self._parted(array, lazy)
            if dear or (again and not self._cheap(lazy)):
                lazy = self.nests.realised(lazy)
            self._lazies[id(array)] = lazy
        if sliced(operation) is not None and (held := self.lazy(operation.args[0]).held) is not None:
            self._sliced.add(id(held))

    def given(self, number: Expr) -> bool:
        """Whether a number is data as they stand, which no round changes."""
        return number.op == "load" and number.value.kind == "input" and number.value not in self._changing

    def users(self, array: Array) -> list[Operation]:
        """The operations that use an array, if no others do."""
        return [] if id(array) in self._kept else self._users.get(id(array), [])

    def _cheap(self, lazy: Lazy) -> bool:
        """Whether it takes longer to store the numbers of a tensor and to read them again than to compute them twice."""
        return self.quick(lazy) and self._lasts(lazy)

    def quick(self, lazy: Lazy) -> bool:
        """Whether the numbers of a tensor are made of a few others, by quick operations alone."""
        return lazy.cost <= CHEAP and operations([self._number(lazy)]) <= QUICK

    def _lasts(self, lazy: Lazy, kept: Collection[int] = ()) -> bool:
        """Whether its numbers can be made at any time. What goes from round to round is written over once nobody reads it any more.

        Memory in ``kept`` lasts: other loops than the one that writes it over read it, too.
        """
        reads = loads([self._number(lazy)])
        return not any(read.value in self._changing and id(read.value) not in kept for read in reads)

    def _number(self, lazy: Lazy) -> Expr:
        return lazy.at(self.nests.index(lazy.shape))

    def _parted(self, array: Array, lazy: Lazy) -> bool:
        """Whether those who use an array read each number once, since each takes another slice, and it is cheap enough for a sum over slices."""
        parts = [places for each in self.users(array) if (places := sliced(each)) is not None]
        if len(parts) != array.users or 4 * lazy.cost > LIMIT or not self._lasts(lazy, self._sliced):
            return False
        pairs = itertools.combinations(parts, 2)
        return all(a[0] == b[0] and apart(a[1], b[1]) for a, b in pairs)

    def operand(self, operation: Operation, k: int) -> Lazy:
        """The k-th argument, a tensor. One that is dear, and of which this operation makes a view with several users, is realised first."""
        lazy, made = self.lazy(operation.args[k]), operation.results
        if (
            lazy.cost > 1
            and sum(each.users for each in made) > 1
            and not (len(made) == 1 and self._parted(made[0], lazy))
        ):
            lazy = self._lazies[id(operation.args[k])] = self.nests.realised(lazy)
        return lazy

    def _elementwise(self, operation: Operation) -> list[Lazy]:
        name, result = operation.name.partition(".")[0], operation.results[0]
        unknown = operation.options.keys() - {"alpha", "rounding_mode", "memory_format"}
        if len(operation.results) > 1 or unknown:
            raise Unsupported(", ".join(sorted(unknown)))
        type, shape = type_of(result.dtype), result.shape
        if name in elementwise.SAME:
            source = self.lazy(operation.args[0])
            return [source]
        make, within = self._formula(operation, name, type)
        if within in HALVES:
            raise Unsupported("in 16 bits")
        operands = [
            self.spread(each, shape, within) for each in operation.args if isinstance(each, Array | int | float)
        ]
        cost = sum(self.lazy(each).cost for each in operation.args if isinstance(each, Array))
        return [Lazy(shape, type, lambda ix: make([each(ix) for each in operands]).to(type), cost)]

    def _formula(self, operation: Operation, name: str, type: Type) -> tuple[Callable[[list[Expr]], Expr], Type]:
        """How to make a number of those of the operands, and the type that the operands have."""
        args, options = operation.args, operation.options
        if name in elementwise.BINARY:
            binary, alpha = elementwise.BINARY[name], options.get("alpha", args[2] if len(args) > 2 else 1)
            if options.get("rounding_mode"):
                binary = {"floor": elementwise.floor_divide, "trunc": elementwise.truncated}[options["rounding_mode"]]
            within = self.common(args[:2]) if name in elementwise.COMPARISONS else type
            if alpha != 1:
                return lambda x: binary(*((x[0], x[1] * alpha) if name != "rsub" else (x[0] * alpha, x[1]))), within
            return lambda x: binary(x[0], x[1]), within
        if name == "pow":
            return self._power(operation, type)
        unary = elementwise.called(name)
        if unary is None:
            raise Unsupported("")
        first = type_of(args[0].dtype)
        return lambda x: unary(x[0]), (first if type == "b1" and name != "bitwise_not" else type)

    def _power(self, operation: Operation, type: Type) -> tuple[Callable[[list[Expr]], Expr], Type]:
        exponent = operation.args[1]
        if not isinstance(exponent, Array):
            return lambda x: elementwise.power(x[0], exponent) or power(x[0].to("f64"), x[1].to("f64")), type
        return lambda x: power(x[0].to("f64"), x[1].to("f64")), type

    def common(self, operands: Sequence[Any]) -> Type:
        """The type in which torch compares these tensors and Python numbers."""
        tensors = [(type_of(each.dtype), each.scalar) for each in operands if isinstance(each, Array)]
        numbers = [each for each in operands if not isinstance(each, Array)]
        return type_of(elementwise.common(tensors, numbers, DTYPES))

    def spread(self, x: Any, shape: Sequence[int], type: Type) -> Callable[[Index], Expr]:
        """A tensor or a number at the indices of a larger shape, in a type."""
        if not isinstance(x, Array):
            number = self.pool.constant(type, x)
            return lambda ix: number
        return self.broadcast(self.lazy(x), shape, type)

    def broadcast(self, lazy: Lazy, shape: Sequence[int], type: Type | None = None) -> Callable[[Index], Expr]:
        """A tensor at the indices of a larger shape."""
        first, zero, own = len(shape) - len(lazy.shape), self.nests.constant(0), lazy.shape
        if first == 0 and own == tuple(shape):
            return lambda ix: lazy.at(ix).to(type or lazy.type)

        def at(ix: Index) -> Expr:
            return lazy.at(tuple(zero if n == 1 else i for n, i in zip(own, ix[first:], strict=True))).to(
                type or lazy.type
            )

        return at


Handler = Callable[[Translation, Operation], list[Lazy]]
"""What an operation makes of its arguments."""

VIEWS: set[Handler] = set()
"""Handlers that only move numbers."""


def view(handler: Handler) -> Handler:
    """Marks a handler that only moves numbers."""
    VIEWS.add(handler)
    return handler


def type_of(dtype: torch.dtype) -> Type:
    """The type of a tensor's numbers.

    Raises:
        Unsupported: torch has it, and there is no code for it.
    """
    if dtype not in TYPES:
        raise Unsupported(f"the rounds use {dtype}, for which there is no code")
    return TYPES[dtype]


def _filled(value: float | None) -> Handler:
    def handler(self: Translation, operation: Operation) -> list[Lazy]:
        (result,) = operation.results
        number = value
        if number is None:
            given = operation.args[0 if operation.name.startswith("scalar_tensor") else -1]
            if isinstance(given, Array):
                return [_copied(self, given, result)]
            number = given
        return [self.filled(result.shape, type_of(result.dtype), number)]

    return handler


def _copied(self: Translation, source: Array, result: Array) -> Lazy:
    """A tensor spread over a shape, in its type."""
    type = type_of(result.dtype)
    return Lazy(result.shape, type, self.spread(source, result.shape, type), self.lazy(source).cost)


def _converted(self: Translation, operation: Operation) -> list[Lazy]:
    (result,) = operation.results
    source = self.lazy(operation.args[0])
    return [source if source.type == type_of(result.dtype) else _copied(self, operation.args[0], result)]


def _copy(self: Translation, operation: Operation) -> list[Lazy]:
    return [_copied(self, operation.args[1], operation.results[0])]


def _arange(self: Translation, operation: Operation) -> list[Lazy]:
    (result,) = operation.results
    start = operation.args[0] if operation.name != "arange.default" else 0
    step = operation.args[2] if len(operation.args) > 2 else 1
    type = type_of(result.dtype)
    if type in ("f64", "f32"):
        return [Lazy(result.shape, type, lambda ix: (ix[0].to("f64") * step + start).to(type), 0)]
    return [Lazy(result.shape, type, lambda ix: (ix[0] * step + start).to(type), 0)]


def _where(self: Translation, operation: Operation) -> list[Lazy]:
    (result,), (condition, yes, no) = operation.results, operation.args
    type = type_of(result.dtype)
    c = self.spread(condition, result.shape, "b1")
    a, b = (self.spread(each, result.shape, type) for each in (yes, no))
    cost = sum(self.lazy(each).cost for each in operation.args if isinstance(each, Array))
    return [Lazy(result.shape, type, lambda ix: c(ix).where(a(ix), b(ix)), cost)]


def _masked(self: Translation, operation: Operation) -> list[Lazy]:
    a, mask, value = operation.args
    return _where(self, Operation(operation.name, (mask, value, a), {}, operation.results))


def _clamp(self: Translation, operation: Operation) -> list[Lazy]:
    (result,), name = operation.results, operation.name.partition(".")[0]
    type = type_of(result.dtype)
    low, high = (
        (operation.args[k] if len(operation.args) > k else operation.options.get(key))
        for k, key in ((1, "min"), (2 if name == "clamp" else 1, "max"))
    )
    low, high = (None if name == "clamp_max" else low), (None if name == "clamp_min" else high)
    a, *bounds = (
        each if each is None else self.spread(each, result.shape, type) for each in (operation.args[0], low, high)
    )
    assert a is not None
    first, (at_low, at_high) = a, bounds
    cost = sum(self.lazy(each).cost for each in (operation.args[0], low, high) if isinstance(each, Array))

    def make(ix: Index) -> Expr:
        return elementwise.clamp(first(ix), at_low and at_low(ix), at_high and at_high(ix))

    return [Lazy(result.shape, type, make, cost)]


def _threshold_backward(self: Translation, operation: Operation) -> list[Lazy]:
    (result,), (g, x, least) = operation.results, operation.args
    type = type_of(result.dtype)
    first, second = (self.spread(each, result.shape, type) for each in (g, x))
    zero = self.pool.constant(type, 0)
    cost = self.lazy(g).cost + self.lazy(x).cost
    return [Lazy(result.shape, type, lambda ix: (second(ix) <= least).where(zero, first(ix)), cost)]


def _nan_to_num(self: Translation, operation: Operation) -> list[Lazy]:
    (result,) = operation.results
    source, given = self.lazy(operation.args[0]), [*operation.args[1:], None, None, None][:3]
    if source.type not in ("f64", "f32"):
        return [source]
    largest = torch.finfo(result.dtype).max
    nan, top, bottom = (n if n is not None else other for n, other in zip(given, (0.0, largest, -largest), strict=True))

    def make(ix: Index) -> Expr:
        a = source.at(ix)
        inside = a.same(math.inf).where(
            self.pool.constant(a.type, top), a.same(-math.inf).where(self.pool.constant(a.type, bottom), a)
        )
        return a.differs(a).where(self.pool.constant(a.type, nan), inside)

    return [Lazy(result.shape, source.type, make, source.cost)]


def _lerp(self: Translation, operation: Operation) -> list[Lazy]:
    (result,) = operation.results
    type = type_of(result.dtype)
    a, b, w = (self.spread(each, result.shape, type) for each in operation.args)
    cost = sum(self.lazy(each).cost for each in operation.args if isinstance(each, Array))
    return [Lazy(result.shape, type, lambda ix: a(ix) + w(ix) * (b(ix) - a(ix)), cost)]


def _addcmul(self: Translation, operation: Operation) -> list[Lazy]:
    (result,), value = operation.results, operation.options.get("value", 1)
    type, divides = type_of(result.dtype), operation.name.startswith("addcdiv")
    a, b, c = (self.spread(each, result.shape, type) for each in operation.args[:3])
    cost = sum(self.lazy(each).cost for each in operation.args[:3])

    def make(ix: Index) -> Expr:
        scaled = b(ix) if value == 1 else b(ix) * value
        return a(ix) + (scaled / c(ix) if divides else scaled * c(ix))

    return [Lazy(result.shape, type, make, cost)]


HANDLERS: dict[str, Handler] = {
    "zeros": _filled(0),
    "zeros_like": _filled(0),
    "new_zeros": _filled(0),
    "zero": _filled(0),
    "_efficientzerotensor": _filled(0),
    "_new_zeros_with_same_feature_meta": _filled(0),
    "ones": _filled(1),
    "ones_like": _filled(1),
    "new_ones": _filled(1),
    "full": _filled(None),
    "full_like": _filled(None),
    "new_full": _filled(None),
    "scalar_tensor": _filled(None),
    "fill": _filled(None),
    "arange": _arange,
    "_to_copy": _converted,
    "copy": _copy,
    "where": _where,
    "masked_fill": _masked,
    "clamp": _clamp,
    "clamp_min": _clamp,
    "clamp_max": _clamp,
    "threshold_backward": _threshold_backward,
    "nan_to_num": _nan_to_num,
    "lerp": _lerp,
    "addcmul": _addcmul,
    "addcdiv": _addcmul,
}
"""Tensors of nothing, choices, and conversions."""
