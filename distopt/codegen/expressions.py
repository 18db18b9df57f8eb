"""Typed expressions of one number: what the body of a loop computes.

An expression is made once: two that are equal are the same object, so what a body computes twice is found by identity. Integers that are
known when the code is made are folded, which keeps places in memory short. Numbers are never folded or reordered: what is written here
is what is computed, operation by operation, each rounded once.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import torch

Type = Literal["f64", "f32", "f16", "bf16", "i64", "i32", "i16", "i8", "u8", "b1"]
"""``b1`` is a truth value; it is stored in one byte. Numbers of 16 bits, ``f16`` and ``bf16``, are only stored and converted."""

TYPES: dict[torch.dtype, Type] = {
    torch.float64: "f64",
    torch.float32: "f32",
    torch.float16: "f16",
    torch.bfloat16: "bf16",
    torch.int64: "i64",
    torch.int32: "i32",
    torch.int16: "i16",
    torch.int8: "i8",
    torch.uint8: "u8",
    torch.bool: "b1",
}
BYTES: dict[Type, int] = {
    "f64": 8,
    "f32": 4,
    "f16": 2,
    "bf16": 2,
    "i64": 8,
    "i32": 4,
    "i16": 2,
    "i8": 1,
    "u8": 1,
    "b1": 1,
}
FLOATS: tuple[Type, ...] = ("f64", "f32")
HALVES: tuple[Type, ...] = ("f16", "bf16")

Index = tuple["Expr", ...]
"""A place in a tensor: one expression of type ``i64`` for each axis."""


@dataclass(eq=False)
class Buffer:
    """Memory for the numbers of one tensor, one after the other, the last axis fastest.

    ``kind`` is its owner: the caller ("input", "output"), the function during a round ("temporary"), or a loop body, for a few numbers
    ("local").
    """

    name: str
    shape: tuple[int, ...]
    type: Type
    kind: Literal["input", "output", "temporary", "local"]

    @property
    def size(self) -> int:
        """How many numbers."""
        return math.prod(self.shape)


class Expr:
    """A number. ``op`` is the operation on ``args``; ``value`` is a constant's number, a variable's name or a load's buffer.

    Arithmetic with ``+ - * /`` and unary ``-`` is that of the type; a Python number beside an expression is a constant of its type.
    """

    __slots__ = ("args", "op", "pool", "type", "value")

    def __init__(self, pool: Pool, op: str, type: Type, args: tuple[Expr, ...], value: Any) -> None:
        self.pool, self.op, self.type, self.args, self.value = pool, op, type, args, value

    def __add__(self, other: Expr | float) -> Expr:
        return self.pool.arithmetic("add", self, other)

    def __radd__(self, other: float) -> Expr:
        return self.pool.arithmetic("add", self, other)

    def __sub__(self, other: Expr | float) -> Expr:
        return self.pool.arithmetic("sub", self, other)

    def __rsub__(self, other: float) -> Expr:
        return self.pool.constant(self.type, other) - self

    def __mul__(self, other: Expr | float) -> Expr:
        return self.pool.arithmetic("mul", self, other)

    def __rmul__(self, other: float) -> Expr:
        return self.pool.arithmetic("mul", self, other)

    def __truediv__(self, other: Expr | float) -> Expr:
        return self.pool.arithmetic("div", self, other)

    def __rtruediv__(self, other: float) -> Expr:
        return self.pool.constant(self.type, other) / self

    def __floordiv__(self, other: int) -> Expr:
        return self.pool.quotient(self, other)

    def __mod__(self, other: int) -> Expr:
        return self.pool.remainder(self, other)

    def __neg__(self) -> Expr:
        return self.pool.make("neg", self.type, self)

    def __lt__(self, other: Expr | float) -> Expr:
        return self.pool.compare("lt", self, other)

    def __le__(self, other: Expr | float) -> Expr:
        return self.pool.compare("le", self, other)

    def __gt__(self, other: Expr | float) -> Expr:
        return self.pool.compare("gt", self, other)

    def __ge__(self, other: Expr | float) -> Expr:
        return self.pool.compare("ge", self, other)

    def same(self, other: Expr | float) -> Expr:
        """Whether the two numbers are equal (``==`` is whether they are the same expression)."""
        return self.pool.compare("eq", self, other)

    def differs(self, other: Expr | float) -> Expr:
        """Whether the two numbers differ; a NaN differs from everything."""
        return self.pool.compare("ne", self, other)

    def __and__(self, other: Expr) -> Expr:
        return self.pool.make("and", self.type, self, other)

    def __or__(self, other: Expr) -> Expr:
        return self.pool.make("or", self.type, self, other)

    def __invert__(self) -> Expr:
        return self.pool.make("not", self.type, self)

    def where(self, yes: Expr, no: Expr | float) -> Expr:
        """``yes`` where this truth value holds, else ``no``; both are computed."""
        return self.pool.make("select", yes.type, self, yes, self.pool.lifted(no, yes.type))

    def to(self, type: Type) -> Expr:
        """The number in another type, as torch converts it: towards zero from floats to integers."""
        if type == self.type:
            return self
        if self.op == "const" and type in ("i64", "f64") and self.type in ("i64", "b1"):
            return self.pool.constant(type, self.value)
        if self.type in HALVES:
            return _from_half(self).to(type)
        if type in HALVES:
            return _to_half(self.to("f32"), type)
        if type == "b1":
            return self.differs(0)
        return self.pool.make("to", type, self)

    def bits(self, type: Type) -> Expr:
        """The same bits as another type of the same size."""
        return self.pool.make("bits", type, self)

    def __repr__(self) -> str:
        if self.op in ("const", "var"):
            return f"{self.value}"
        inner = ", ".join(map(repr, self.args))
        return f"{self.value.name}[{inner}]" if self.op == "load" else f"{self.op}({inner})"


class Pool:
    """The expressions of one function, each kept once.

    >>> pool = Pool()
    >>> i = pool.variable("i")
    >>> i + 1 is i + 1, i * 1 + 0 is i, (i + 1) * 8
    (True, True, mul(add(i, 1), 8))
    """

    def __init__(self) -> None:
        self._made: dict[tuple[Any, ...], Expr] = {}

    def make(self, op: str, type: Type, *args: Expr, value: Any = None, key: Any = None) -> Expr:
        """The expression, made if it is new. ``key`` replaces ``value`` in comparisons, where equal values are not the same number."""
        at = (op, type, value if key is None else key, *map(id, args))
        found = self._made.get(at)
        if found is None:
            found = self._made[at] = Expr(self, op, type, args, value)
        return found

    def constant(self, type: Type, value: float) -> Expr:
        """A number that is known."""
        if type in FLOATS:
            value = float(value)
            return self.make("const", type, value=value, key=struct.pack("<d", value))
        return self.make("const", type, value=bool(value) if type == "b1" else int(value))

    def variable(self, name: str) -> Expr:
        """A loop's counter."""
        return self.make("var", "i64", value=name)

    def load(self, buffer: Buffer, ix: Index) -> Expr:
        """An expression that loads from memory."""
        return self.make("load", buffer.type, *ix, value=buffer, key=id(buffer))

    def pick(self, condition: Expr, a: Expr, b: Expr) -> Expr:
        """``a`` where the condition holds, else ``b``: loads, or picks, of the same last index. Only the one that is taken is read."""
        return self.make("pick", a.type, condition, a, b)

    def lifted(self, x: Expr | float, type: Type) -> Expr:
        """An expression of this type: a Python number becomes a constant."""
        return x.to(type) if isinstance(x, Expr) else self.constant(type, x)

    def arithmetic(self, op: str, a: Expr, b: Expr | float) -> Expr:
        """Sums, differences, products and quotients."""
        b = self.lifted(b, a.type)
        if a.type == "i64" and op != "div":
            if a.op == "const" and op != "sub":
                a, b = b, a
            if b.op == "const":
                n = b.value
                if a.op == "const":
                    return self.constant("i64", {"add": a.value + n, "sub": a.value - n, "mul": a.value * n}[op])
                if n == 0:
                    return b if op == "mul" else a
                if n == 1 and op == "mul":
                    return a
                if op == "sub":
                    return self.arithmetic("add", a, -n)
                if op == a.op == "add" and a.args[1].op == "const":
                    return self.arithmetic("add", a.args[0], a.args[1].value + n)
        return self.make(op, a.type, a, b)

    def quotient(self, a: Expr, n: int) -> Expr:
        """A place (never negative) divided by n, rounded down."""
        if a.op == "const":
            return self.constant("i64", a.value // n)
        return a if n == 1 else self.make("div", "i64", a, self.constant("i64", n))

    def remainder(self, a: Expr, n: int) -> Expr:
        """The remainder of a place (never negative) after the division by n."""
        if a.op == "const":
            return self.constant("i64", a.value % n)
        return self.constant("i64", 0) if n == 1 else self.make("rem", "i64", a, self.constant("i64", n))

    def compare(self, op: str, a: Expr, b: Expr | float) -> Expr:
        """A truth value."""
        return self.make(op, "b1", a, self.lifted(b, a.type))

    def unary(self, op: Literal["sqrt", "abs", "floor", "rint"], a: Expr) -> Expr:
        """Exact operations of one number; a root is rounded once."""
        return self.make(op, a.type, a)

    def shifted(self, a: Expr, bits: int) -> Expr:
        """A whole number without its last bits."""
        return self.make("shr", a.type, a, self.constant(a.type, bits))

    def fma(self, a: Expr, b: Expr | float, c: Expr | float) -> Expr:
        """a b + c, rounded once."""
        return self.make("fma", a.type, a, self.lifted(b, a.type), self.lifted(c, a.type))


def _from_half(x: Expr) -> Expr:
    """A number of 16 bits in float32, exactly."""
    pool = x.pool
    word = x.bits("i16").to("i64") & pool.constant("i64", 0xFFFF)
    if x.type == "bf16":
        return (word * 2**16).to("i32").bits("f32")
    twice = (word * 2**17) & pool.constant("i64", 0xFFFFFFFF)
    normal = (pool.shifted(twice, 4) + (0xE0 << 23)).to("i32").bits("f32") * 2.0**-112
    tiny = (pool.shifted(twice, 17) | pool.constant("i64", 0x3F000000)).to("i32").bits("f32") - 0.5
    size = (twice < 2**27).where(tiny, normal)
    return (word >= 2**15).where(-size, size)


def _to_half(x: Expr, type: Type) -> Expr:
    """A number of float32 rounded to 16 bits, ties to even."""
    pool = x.pool
    word = x.bits("i32").to("i64") & pool.constant("i64", 0xFFFFFFFF)
    if type == "bf16":
        odd = pool.shifted(word, 16) & pool.constant("i64", 1)
        near = pool.shifted(word + 0x7FFF + odd, 16)
        return x.differs(x).where(pool.constant("i64", 0x7FC0), near).to("i16").bits(type)
    twice = (word * 2) & pool.constant("i64", 0xFFFFFFFF)
    lift = twice & pool.constant("i64", 0xFF000000)
    lift = (lift < 0x71000000).where(pool.constant("i64", 0x71000000), lift)
    base = (pool.shifted(lift, 1) + 0x07800000).to("i32").bits("f32")
    base = base + (pool.unary("abs", x) * 2.0**112) * 2.0**-110  # its last bits are rounded as they should be
    bits = base.bits("i32").to("i64")
    size = (pool.shifted(bits, 13) & pool.constant("i64", 0x7C00)) + (bits & pool.constant("i64", 0x0FFF))
    size = (twice > 0xFF000000).where(pool.constant("i64", 0x7E00), size)
    return (size + (word >= 2**31).to("i64") * 2**15).to("i16").bits(type)


def linear(shape: tuple[int, ...], ix: Index, pool: Pool) -> Expr:
    """The place in memory of an index into a tensor of this shape."""
    place, stride = pool.constant("i64", 0), 1
    for n, i in zip(reversed(shape), reversed(ix), strict=True):
        if n != 1:
            place = i * stride + place
        stride *= n
    return place


def loads(expressions: list[Expr]) -> list[Expr]:
    """All loads that these expressions need, including those of places."""
    return [each for each in _all(expressions) if each.op == "load"]


def operations(expressions: list[Expr]) -> set[str]:
    """The names of all operations that these expressions need, including those of places."""
    return {each.op for each in _all(expressions)}


def _all(expressions: list[Expr]) -> Iterator[Expr]:
    """These expressions and all that they need, each once."""
    seen: set[int] = set()
    waiting = list(expressions)
    while waiting:
        each = waiting.pop()
        if id(each) in seen:
            continue
        seen.add(id(each))
        yield each
        waiting.extend(each.args)
