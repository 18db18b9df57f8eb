"""A routine as C, for people to read: the same loops and the same operations, so the same bits where a C compiler keeps its hands off.

Compile it with ``-O2 -ffp-contract=off -fwrapv -lm``.
"""

from __future__ import annotations

import math

from distopt.codegen.expressions import FLOATS, Buffer, Expr, Type
from distopt.codegen.loops import If, Loop
from distopt.codegen.memory import Routine
from distopt.codegen.printer import Printer

TYPES: dict[Type, str] = {
    "f64": "double",
    "f32": "float",
    "f16": "int16_t",
    "bf16": "int16_t",
    "i64": "int64_t",
    "i32": "int32_t",
    "i16": "int16_t",
    "i8": "int8_t",
    "u8": "uint8_t",
    "b1": "uint8_t",
}
SIGNS = {
    "add": "+",
    "sub": "-",
    "mul": "*",
    "div": "/",
    "rem": "%",
    "and": "&",
    "or": "|",
    "xor": "^",
    "lt": "<",
    "le": "<=",
    "gt": ">",
    "ge": ">=",
    "eq": "==",
    "ne": "!=",
}
CALLS = {"sqrt": "sqrt", "abs": "fabs", "floor": "floor", "rint": "rint", "fma": "fma"}
HEAD = """\
#include <math.h>
#include <stdint.h>
#include <string.h>

static inline int64_t bits(double x) { int64_t i; memcpy(&i, &x, 8); return i; }
static inline double number(int64_t i) { double x; memcpy(&x, &i, 8); return x; }
static inline int32_t bits_of_float(float x) { int32_t i; memcpy(&i, &x, 4); return i; }
static inline float float_of(int32_t i) { float x; memcpy(&x, &i, 4); return x; }
static inline int64_t whole(double x) { return x >= -0x1p63 && x < 0x1p63 ? (int64_t)x : INT64_MIN; }
static inline int64_t left(int64_t x, int64_t n) { return (uint64_t)n < 64 ? (int64_t)((uint64_t)x << n) : 0; }
static inline int64_t right(int64_t x, int64_t n) { return x >> ((uint64_t)n < 63 ? n : 63); }
"""


class Source(Printer):
    """Prints the C text."""

    def __init__(self, routine: Routine) -> None:
        super().__init__(routine)
        self._depth = 2

    def _line(self, text: str) -> None:
        self.lines.append("  " * self._depth + text)

    def _defined(self, type: Type, text: str) -> str:
        name = self.new()
        self._line(f"const {TYPES[type]} {name} = {text};")
        return name

    def constant(self, expr: Expr) -> str:
        value = expr.value
        if expr.type not in FLOATS:
            return f"({int(value)})" if int(value) < 0 else str(int(value))
        if math.isnan(value):
            return "NAN"
        if math.isinf(value):
            return "INFINITY" if value > 0 else "(-INFINITY)"
        text = value.hex() if value != int(value) else repr(value)
        text = f"{text}f" if expr.type == "f32" else text
        return f"({text})" if text.startswith("-") else text

    def variable(self, name: str) -> str:
        return name

    def load(self, buffer: Buffer, place: str) -> str:
        text = f"{buffer.name}[{place}]"
        return self._defined(buffer.type, f"{text} != 0" if buffer.type == "b1" else text)

    def pick(self, expr: Expr, names: list[str]) -> str:
        given = iter(names)

        def row(each: Expr) -> str:
            if each.op == "load":
                return f"{each.value.name} + {next(given)}"
            return f"({next(given)} ? {row(each.args[1])} : {row(each.args[2])})"

        text = f"{row(expr)}[{names[-1]}]"
        return self._defined(expr.type, f"{text} != 0" if expr.type == "b1" else text)

    def store(self, buffer: Buffer, place: str, name: str) -> None:
        self._line(f"{buffer.name}[{place}] = {name};")

    def operation(self, expr: Expr, names: list[str]) -> str:
        op, own = expr.op, expr.type
        text = self._text(op, own, expr.args[0].type, names)
        if own == "i64" and op in ("add", "mul") and not any(each.startswith("t") for each in names):
            return f"({text})"  # places are read where they are used
        return self._defined(own, text)

    def _text(self, op: str, own: Type, first: Type, names: list[str]) -> str:
        if op == "select":
            return f"{names[0]} ? {names[1]} : {names[2]}"
        if op == "to":
            whole = first in FLOATS and own not in FLOATS
            return f"({TYPES[own]}){'whole' if whole else ''}({names[0]})"
        if op == "bits":
            if TYPES[first] == TYPES[own]:
                return names[0]
            name = {"f64": "bits", "i64": "number", "f32": "bits_of_float", "i32": "float_of"}[first]
            return f"{name}({names[0]})"
        if op in CALLS:
            return f"{CALLS[op]}{'f' if own == 'f32' else ''}({', '.join(names)})"
        if op == "rem" and own in FLOATS:
            return f"fmod{'f' if own == 'f32' else ''}({', '.join(names)})"
        if op in ("neg", "not"):
            return f"{'-' if op == 'neg' else '!' if own == 'b1' else '~'}{names[0]}"
        if op in ("shl", "shr"):
            return f"{'left' if op == 'shl' else 'right'}({', '.join(names)})"
        return f"{names[0]} {SIGNS[op]} {names[1]}"

    def loop(self, loop: Loop) -> None:
        i = loop.variable.value
        step = f"{i}++" if loop.step == 1 else f"{i} += {loop.step}"
        if loop.kind != "order" and not any(isinstance(each, Loop) for each in loop.body):
            self.lines.append("#pragma GCC ivdep")
        self._line(f"for (int64_t {i} = {loop.start}; {i} < {loop.stop}; {step}) {{")
        self._depth += 1
        self.statements(loop.body)
        self._depth -= 1
        self._line("}")

    def branch(self, branch: If, condition: str) -> None:
        self._line(f"if ({condition}) {{")
        self._depth += 1
        self.statements(branch.body)
        self._depth -= 1
        self._line("}")

    def text(self) -> str:
        """The whole file; its function ``run`` is called like that of ``distopt.codegen.module``."""
        routine = self.routine
        carried, data = len(routine.carried), len(routine.data)
        self._line(f"char *scratch = pointers[{2 * carried + data + len(routine.rows)}];")
        for k, each in enumerate(routine.carried):
            own, old = TYPES[each.before.type], each.before.name
            if each.in_place:
                self._line(f"{own} *{old} = pointers[{2 * k}];")
                if each.after is not None:
                    self._line(f"{own} *{each.after.name} = {old};")
            else:
                self._line(f"{own} *{old} = pointers[{2 * k} + (k - k0) % 2];")
                assert each.after is not None
                self._line(f"{own} *{each.after.name} = pointers[{2 * k + 1} - (k - k0) % 2];")
        for k, buffer in enumerate(routine.data):
            type = TYPES[buffer.type]
            self._line(
                f"const {type} *{buffer.name} = (const {type} *)((char *)pointers[{2 * carried + k}] + k * strides[{k}]);"
            )
        for k, buffer in enumerate(routine.rows):
            type = TYPES[buffer.type]
            self._line(
                f"{type} *{buffer.name} = ({type} *)pointers[{2 * carried + data + k}] + (k - k0) * {buffer.size};"
            )
        for buffer, slot in routine.placed:
            type = TYPES[buffer.type]
            self._line(f"{type} *{buffer.name} = ({type} *)(scratch + {sum(routine.slots[:slot])});")
        for buffer in routine.locals:
            self._line(f"{TYPES[buffer.type]} {buffer.name}[{buffer.size}];")
        self.statements(routine.body)
        head = [
            "void run(int64_t k0, int64_t k1, void **pointers, const int64_t *strides) {",
            "  for (int64_t k = k0; k < k1; k++) {",
        ]
        return HEAD + "\n" + "\n".join([*head, *self.lines, "  }", "}"]) + "\n"


def source(routine: Routine) -> str:
    """The C text of a routine."""
    return Source(routine).text()
