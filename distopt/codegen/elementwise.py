"""Operations of torch that act number by number: from their names to expressions."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch

from distopt.codegen import functions, special
from distopt.codegen.expressions import BYTES, FLOATS, Expr, Type
from distopt.codegen.recording import Unsupported


def _nan(a: Expr) -> Expr:
    return a.differs(a)


def maximum(a: Expr, b: Expr) -> Expr:
    """The larger number; NaN if one is."""
    return ((a > b) | _nan(a) if a.type in FLOATS else a > b).where(a, b)


def minimum(a: Expr, b: Expr) -> Expr:
    """The smaller number; NaN if one is."""
    return ((a < b) | _nan(a) if a.type in FLOATS else a < b).where(a, b)


def clamp(a: Expr, low: Expr | None, high: Expr | None) -> Expr:
    """The number, or the nearest in low .. high; NaN stays."""
    if low is not None:
        a = (a < low).where(low, a)
    return a if high is None else (a > high).where(high, a)


def sign(a: Expr) -> Expr:
    """-1, 0 or 1; NaN is 0 as in torch."""
    one = a.pool.constant(a.type, 1)
    return (a > 0).where(one, (a < 0).where(-one if a.type in FLOATS else a.pool.constant(a.type, -1), 0))


def remainder(a: Expr, b: Expr) -> Expr:
    """a - b floor(a / b) as torch.remainder: it has the sign of b."""
    pool = a.pool
    if a.type in FLOATS:
        rest = pool.make("rem", a.type, a, b)
        return (rest.differs(0) & (rest < 0).differs(b < 0)).where(rest + b, rest)
    rest = a - truncated(a, b) * b
    return (rest.differs(0) & (rest < 0).differs(b < 0)).where(rest + b, rest)


def truncated(a: Expr, b: Expr) -> Expr:
    """a / b rounded towards zero. A whole number divided by 0 stays unchanged: the processor would end the program."""
    if a.type in FLOATS:
        return rounded(a / b)
    pool, one = a.pool, a.pool.constant(a.type, 1)
    if b.op == "const" and b.value not in (0, -1):
        return pool.make("div", a.type, a, b)
    if a.type in ("u8", "b1"):
        return pool.make("div", a.type, a, b.same(0).where(one, b))
    return b.same(-1).where(-a, pool.make("div", a.type, a, (b.same(0) | b.same(-1)).where(one, b)))


def floor_divide(a: Expr, b: Expr) -> Expr:
    """a / b rounded down, as torch rounds it: from the exact remainder."""
    if a.type in FLOATS:
        rest = a.pool.make("rem", a.type, a, b)
        whole = (a - rest) / b
        whole = (rest.differs(0) & (rest < 0).differs(b < 0)).where(whole - 1.0, whole)
        down = a.pool.unary("floor", whole)
        return b.same(0).where(a / b, (whole - down > 0.5).where(down + 1.0, down))
    whole = truncated(a, b)
    rest = a - whole * b
    return (rest.differs(0) & (rest < 0).differs(b < 0)).where(whole - 1, whole)


def power(a: Expr, exponent: float) -> Expr | None:
    """a to a power that needs no logarithm; None for others."""
    pool = a.pool
    if a.type in FLOATS:
        if exponent == 0.5:
            return pool.unary("sqrt", a)
        if exponent == -0.5:
            return 1.0 / pool.unary("sqrt", a)
        if exponent in (-1, -2):
            return 1.0 / (a if exponent == -1 else a * a)
    if exponent == int(exponent) and 0 <= exponent <= 3:
        return {0: pool.constant(a.type, 1), 1: a, 2: a * a, 3: a * a * a}[int(exponent)]
    return None


def rounded(a: Expr) -> Expr:
    """Towards zero."""
    down = a.pool.unary("floor", a.pool.unary("abs", a))
    return (a < 0).where(-down, down)


def _bitwise(op: str) -> Callable[[Expr, Expr], Expr]:
    return lambda a, b: a.pool.make(op, a.type, a, b)


BINARY: dict[str, Callable[[Expr, Expr], Expr]] = {
    "add": lambda a, b: a | b if a.type == "b1" else a + b,
    "sub": lambda a, b: a - b,
    "mul": lambda a, b: a & b if a.type == "b1" else a * b,
    "div": lambda a, b: a / b,
    "rsub": lambda a, b: b - a,
    "maximum": maximum,
    "minimum": minimum,
    "remainder": remainder,
    "fmod": lambda a, b: a.pool.make("rem", a.type, a, b) if a.type in FLOATS else a - truncated(a, b) * b,
    "floor_divide": floor_divide,
    "bitwise_and": _bitwise("and"),
    "bitwise_or": _bitwise("or"),
    "bitwise_xor": _bitwise("xor"),
    "__and__": _bitwise("and"),
    "__or__": _bitwise("or"),
    "__xor__": _bitwise("xor"),
    "__lshift__": _bitwise("shl"),
    "__rshift__": _bitwise("shr"),
    "bitwise_left_shift": _bitwise("shl"),
    "bitwise_right_shift": _bitwise("shr"),
    "lt": lambda a, b: a < b,
    "le": lambda a, b: a <= b,
    "gt": lambda a, b: a > b,
    "ge": lambda a, b: a >= b,
    "eq": lambda a, b: a.same(b),
    "ne": lambda a, b: a.differs(b),
    "tanh_backward": lambda g, y: g * (1.0 - y * y),
    "sigmoid_backward": lambda g, y: g * ((1.0 - y) * y),
    "logical_and": lambda a, b: a.to("b1") & b.to("b1"),
    "logical_or": lambda a, b: a.to("b1") | b.to("b1"),
    "logical_xor": lambda a, b: a.to("b1").differs(b.to("b1")),
}
"""Of two numbers of the same type."""

COMPARISONS = ("lt", "le", "gt", "ge", "eq", "ne", "logical_and", "logical_or", "logical_xor")
"""Operations whose result type does not show the type in which they are computed."""

UNARY: dict[str, Callable[[Expr], Expr]] = {
    "neg": lambda a: -a,
    "abs": lambda a: a.pool.unary("abs", a) if a.type in FLOATS else (a < 0).where(-a, a),
    "sqrt": lambda a: a.pool.unary("sqrt", a),
    "rsqrt": lambda a: 1.0 / a.pool.unary("sqrt", a),
    "reciprocal": lambda a: 1.0 / a,
    "floor": lambda a: a.pool.unary("floor", a) if a.type in FLOATS else a,
    "ceil": lambda a: -a.pool.unary("floor", -a) if a.type in FLOATS else a,
    "round": lambda a: a.pool.unary("rint", a) if a.type in FLOATS else a,
    "trunc": lambda a: rounded(a) if a.type in FLOATS else a,
    "sign": sign,
    "sgn": sign,
    "relu": lambda a: clamp(a, a.pool.constant(a.type, 0), None),
    "square": lambda a: a * a,
    "bitwise_not": lambda a: ~a,
    "isnan": lambda a: _nan(a) if a.type in FLOATS else a.pool.constant("b1", False),
    "isinf": lambda a: a.pool.unary("abs", a).same(math.inf) if a.type in FLOATS else a.pool.constant("b1", False),
    "logical_not": lambda a: ~a.to("b1"),
    "isfinite": lambda a: a.pool.unary("abs", a) < math.inf,
}
"""Of one number, exact or rounded once or twice."""

FUNCTIONS: dict[str, Callable[[Expr], Expr]] = {**functions.FUNCTIONS, **special.FUNCTIONS}
"""Of one number, computed in float64."""

SAME = ("clone", "alias", "detach", "lift_fresh", "contiguous", "positive")
"""Operations that change no number."""


def common(operands: list[tuple[Type, bool]], numbers: list[float], types: dict[Type, torch.dtype]) -> torch.dtype:
    """The type in which torch compares or combines operands, (type, whether without axes) each, and Python numbers."""
    samples = [torch.empty(() if scalar else (1,), dtype=types[type]) for type, scalar in operands]
    others: list[torch.Tensor | float] = [*samples[1:], *numbers]
    return torch.result_type(samples[0], others[0]) if others else samples[0].dtype


def reinterpreted(a: Expr, type: Type) -> Expr:
    """The bits of a number as another type of the same size."""
    if BYTES[a.type] != BYTES[type]:
        raise Unsupported("a view of another size of number")
    return a.bits(type)


def computed(name: str, x: Expr) -> Expr:
    """A function of a number of either precision."""
    return FUNCTIONS[name](x.to("f64")).to(x.type)


def called(name: str) -> Callable[[Expr], Expr] | None:
    """An operation of one number by its name; None if there is none."""
    if name in UNARY:
        return UNARY[name]
    return (lambda a: computed(name, a)) if name in FUNCTIONS else None
