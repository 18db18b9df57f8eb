"""Loops and numbers in the intermediate language of LLVM.

No flag allows the compiler to change the order of operations or to contract them, so vectors, single numbers and every version of LLVM
give the same bits. Four rules decide about speed alone; each was found by a slow case:

1. Loops around others are not vectorised: where the compiler unrolls the inner ones, it would shuffle numbers about, or gather each by itself.
2. A short loop whose turns do not fill vectors is written twice, whole vectors and the rest; else the rest, number by number, takes longest.
3. Sums have eight lanes, and the loop over these is vectorised. Where a row fills them more than once it is not unrolled before, or only pairs
   of lanes would become vectors.
4. Loops are not unrolled, but for innermost ones of up to 20 turns and the lanes of sums: where many are, unrolling takes the compiler minutes.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from contextlib import contextmanager

from distopt.codegen.expressions import BYTES, FLOATS, Buffer, Expr, Type
from distopt.codegen.loops import If, Loop, Statement
from distopt.codegen.memory import Routine
from distopt.codegen.printer import Printer

TYPES: dict[Type, str] = {
    "f64": "double",
    "f32": "float",
    "f16": "i16",
    "bf16": "i16",
    "i64": "i64",
    "i32": "i32",
    "i16": "i16",
    "i8": "i8",
    "u8": "i8",
    "b1": "i1",
}
FLOAT_OPS = {"add": "fadd", "sub": "fsub", "mul": "fmul", "div": "fdiv", "rem": "frem"}
WHOLE_OPS = {"add": "add", "sub": "sub", "mul": "mul", "and": "and", "or": "or", "xor": "xor"}
SIGNED = {"div": "sdiv", "rem": "srem", "shr": "ashr"}
UNSIGNED = {"div": "udiv", "rem": "urem", "shr": "lshr"}
COMPARED = {"lt": "olt", "le": "ole", "gt": "ogt", "ge": "oge", "eq": "oeq", "ne": "une"}
WHOLE_COMPARED = {"lt": "lt", "le": "le", "gt": "gt", "ge": "ge"}
INTRINSICS = {"sqrt": "sqrt", "abs": "fabs", "floor": "floor", "rint": "rint", "fma": "fma"}
VECTOR, MIDDLING = 4, 40  # turns of a vector, and up to how many rule 2 is applied
UNROLLED = 20  # turns of rule 4


def memory(type: Type) -> str:
    """The type of a number in memory."""
    return "i8" if type == "b1" else TYPES[type]


class Assembly(Printer):
    """Prints statements of a routine."""

    def __init__(self, routine: Routine) -> None:
        super().__init__(routine)
        self._pointers: dict[str, str] = {}
        self._metadata: list[str] = []
        self._groups: list[str] = []
        self._lanes = False
        self._label, self._labels = "entry", 0
        self._used: set[str] = set()  # pointers of the part that is printed
        self._intrinsics: set[str] = set()

    # --- numbers

    def constant(self, expr: Expr) -> str:
        if expr.type in FLOATS:
            value = expr.value
            if expr.type == "f32":
                value = struct.unpack("<f", struct.pack("<f", value))[0]
            return f"0x{struct.unpack('<Q', struct.pack('<d', value))[0]:016X}"
        return str(expr.value).lower() if expr.type == "b1" else str(expr.value)

    def variable(self, name: str) -> str:
        return self._variables[name]

    def _new(self, text: str) -> str:
        name = f"%{self.new()}"
        self.lines.append(f"{name} = {text}")
        return name

    def _address(self, buffer: Buffer, place: str) -> str:
        return self._new(f"getelementptr inbounds {memory(buffer.type)}, ptr {self._pointer(buffer)}, i64 {place}")

    def _pointer(self, buffer: Buffer) -> str:
        pointer = self._pointers[buffer.name]
        self._used.add(pointer)
        return pointer

    def _access(self, buffer: Buffer) -> str:
        own = buffer.kind == "local" and not self._lanes
        return f", align {BYTES[buffer.type]}" + (
            f", !llvm.access.group {self._groups[-1]}" if self._groups and not own else ""
        )

    def load(self, buffer: Buffer, place: str) -> str:
        address = self._address(buffer, place)
        name = self._new(f"load {memory(buffer.type)}, ptr {address}{self._access(buffer)}")
        return self._new(f"icmp ne i8 {name}, 0") if buffer.type == "b1" else name

    def pick(self, expr: Expr, names: list[str]) -> str:
        """The beginning of the row is chosen first, outside of the loop along it; so that loop is over one row in memory."""
        given, type, buffers = iter(names), memory(expr.type), list[Buffer]()

        def row(each: Expr) -> str:
            if each.op == "load":
                buffers.append(each.value)
                place = next(given)  # outside of the buffer, where the row is not in it
                return self._new(f"getelementptr {type}, ptr {self._pointer(each.value)}, i64 {place}")
            condition, yes, no = next(given), row(each.args[1]), row(each.args[2])
            return self._new(f"select i1 {condition}, ptr {yes}, ptr {no}")

        address = self._new(f"getelementptr {type}, ptr {row(expr)}, i64 {names[-1]}")
        name = self._new(f"load {type}, ptr {address}{self._access(buffers[0])}")
        return self._new(f"icmp ne i8 {name}, 0") if expr.type == "b1" else name

    def store(self, buffer: Buffer, place: str, name: str) -> None:
        if buffer.type == "b1":
            name = self._new(f"zext i1 {name} to i8")
        self.lines.append(
            f"store {memory(buffer.type)} {name}, ptr {self._address(buffer, place)}{self._access(buffer)}"
        )

    def operation(self, expr: Expr, names: list[str]) -> str:
        op, own = expr.op, expr.type
        type, first = TYPES[own], expr.args[0].type
        if op == "select":
            return self._new(f"select i1 {names[0]}, {type} {names[1]}, {type} {names[2]}")
        if op == "to":
            return self._converted(names[0], first, own)
        if op == "bits":
            return self._new(f"bitcast {TYPES[first]} {names[0]} to {type}")
        if op in INTRINSICS:
            kind = f"{INTRINSICS[op]}.{own}"
            self._intrinsics.add(f"declare {type} @llvm.{kind}({', '.join([type] * len(names))})")
            return self._new(f"call {type} @llvm.{kind}({', '.join(f'{type} {each}' for each in names)})")
        if op == "neg":
            return self._new(f"fneg {type} {names[0]}" if own in FLOATS else f"sub {type} 0, {names[0]}")
        if op == "not":
            return self._new(f"xor {type} {names[0]}, {'true' if own == 'b1' else '-1'}")
        return self._binary(expr, names[0], names[1])

    def _binary(self, expr: Expr, a: str, b: str) -> str:
        op, first = expr.op, expr.args[0].type
        type, unsigned = TYPES[first], first in ("u8", "b1")
        if op in COMPARED:
            if first in FLOATS:
                return self._new(f"fcmp {COMPARED[op]} {type} {a}, {b}")
            how = op if op in ("eq", "ne") else ("u" if unsigned else "s") + WHOLE_COMPARED[op]
            return self._new(f"icmp {how} {type} {a}, {b}")
        if first in FLOATS:
            return self._new(f"{FLOAT_OPS[op]} {type} {a}, {b}")
        if op in WHOLE_OPS:
            return self._new(f"{WHOLE_OPS[op]} {type} {a}, {b}")
        if op == "shl" or (op == "shr" and expr.args[1].op != "const"):
            return self._shifted(expr, a, b)
        return self._new(f"{(UNSIGNED if unsigned else SIGNED)[op]} {type} {a}, {b}")

    def _shifted(self, expr: Expr, a: str, b: str) -> str:
        """A shift by as many bits as there are, or more, gives 0, or -1 where a negative number goes right."""
        type, bits = TYPES[expr.type], 8 * BYTES[expr.type]
        if expr.args[1].op == "const":
            return self._new(f"shl {type} {a}, {b}")
        few = self._new(f"icmp ult {type} {b}, {bits}")
        if expr.op == "shr":
            shift = self._new(f"select i1 {few}, {type} {b}, {type} {bits - 1}")
            return self._new(f"{'lshr' if expr.type == 'u8' else 'ashr'} {type} {a}, {shift}")
        shift = self._new(f"select i1 {few}, {type} {b}, {type} 0")
        moved = self._new(f"shl {type} {a}, {shift}")
        return self._new(f"select i1 {few}, {type} {moved}, {type} 0")

    def _converted(self, name: str, old: Type, new: Type) -> str:
        a, b = TYPES[old], TYPES[new]
        if old in FLOATS and new in FLOATS:
            return self._new(f"{'fpext' if new == 'f64' else 'fptrunc'} {a} {name} to {b}")
        if new in FLOATS:
            return self._new(f"{'uitofp' if old in ('b1', 'u8') else 'sitofp'} {a} {name} to {b}")
        if old in FLOATS:  # numbers out of an integer's range become its smallest, as on the processor
            wide = self._new(f"fpext float {name} to double") if old == "f32" else name
            low = self._new(f"fcmp oge double {wide}, 0xC3E0000000000000")
            high = self._new(f"fcmp olt double {wide}, 0x43E0000000000000")
            fits = self._new(f"and i1 {low}, {high}")
            whole = self._new(f"fptosi double {wide} to i64")
            out = self._new(f"select i1 {fits}, i64 {whole}, i64 -9223372036854775808")
            return out if new == "i64" else self._new(f"trunc i64 {out} to {b}")
        if a == b:
            return name
        if BYTES[old] > BYTES[new] or (BYTES[old] == BYTES[new] and old != "b1"):
            return self._new(f"trunc {a} {name} to {b}")
        return self._new(f"{'zext' if old in ('b1', 'u8') else 'sext'} {a} {name} to {b}")

    # --- loops

    _variables: dict[str, str]
    _divided: Loop | None = None  # of which each thread does the turns %first .. %last - 1
    _again = False  # whether the loop around is one of several turns that follow each other

    def loop(self, loop: Loop) -> None:
        """Rule 2 of the module."""
        turns = (loop.stop - loop.start) // loop.step
        inner = any(isinstance(each, Loop) for each in loop.body)
        rest = turns % VECTOR
        with self._group(loop):
            if loop.kind == "each" and not inner and VECTOR < turns <= MIDDLING and rest and loop is not self._divided:
                self._turns(loop, loop.start, loop.stop - rest)
                self._turns(loop, loop.stop - rest, loop.stop)
            else:
                self._turns(loop, loop.start, loop.stop)

    @contextmanager
    def _group(self, loop: Loop) -> Iterator[None]:
        """Accesses in a nest of independent turns, or in the lanes of a sum, belong to one group."""
        if loop.kind == "lanes" or (loop.kind == "each" and not self._groups):
            before, self._lanes = self._lanes, loop.kind == "lanes"
            self._groups.append(self._noted("distinct !{}"))
            yield
            self._groups.pop()
            self._lanes = before
        else:
            yield

    def _noted(self, text: str) -> str:
        self._metadata.append(text)
        return f"!{len(self._metadata) - 1}"

    def _turns(self, loop: Loop, start: int, stop: int) -> None:
        if start >= stop:
            return
        first, end = ("%first", "%last") if loop is self._divided else (start, stop)
        self._labels += 1
        name, label, before = f"%{loop.variable.value}_{self._labels}", f"L{self._labels}", self._label
        outer = self._variables.get(loop.variable.value)
        self._variables[loop.variable.value] = name
        self.lines.append(f"br label %{label}")
        self.lines.append(f"{label}:")
        self._label = label
        at = len(self.lines)
        self.lines.append("")
        again, self._again = self._again, loop.kind == "order" and stop - start > loop.step
        self.statements(loop.body)
        self._again = again
        following = self._new(f"add nuw nsw i64 {name}, {loop.step}")
        more = self._new(f"icmp ult i64 {following}, {end}")
        self.lines[at] = f"{name} = phi i64 [ {first}, %{before} ], [ {following}, %{self._label} ]"
        after = f"E{label}"
        self.lines.append(f"br i1 {more}, label %{label}, label %{after}{self._advice(loop)}")
        self.lines.append(f"{after}:")
        self._label = after
        if outer is not None:
            self._variables[loop.variable.value] = outer

    def _advice(self, loop: Loop) -> str:
        """The hints for the compiler about a loop: rules 1, 3 and 4 of the module."""
        notes = []
        if loop.kind in ("each", "lanes"):
            groups = ", ".join(self._groups)
            notes.append(f'!{{!"llvm.loop.parallel_accesses", {groups}}}')
        if loop.kind == "lanes":
            notes += ['!{!"llvm.loop.unroll.disable"}'] if self._again else []
            notes += ['!{!"llvm.loop.vectorize.enable", i1 true}', '!{!"llvm.loop.vectorize.width", i32 8}']
            notes.append('!{!"llvm.loop.interleave.count", i32 1}')
        elif _innermost(loop.body):
            notes.append('!{!"llvm.loop.vectorize.enable", i1 false}')
        if loop.kind != "lanes" and ((loop.stop - loop.start) // loop.step > UNROLLED or _innermost(loop.body)):
            notes.append('!{!"llvm.loop.unroll.disable"}')
        if not notes:
            return ""
        noted = [self._noted(each) for each in notes]
        own = len(self._metadata)
        whole = ", ".join([f"!{own}", *noted])
        return f", !llvm.loop {self._noted(f'distinct !{{{whole}}}')}"

    def branch(self, branch: If, condition: str) -> None:
        self._labels += 1
        yes, no = f"Y{self._labels}", f"N{self._labels}"
        self.lines += [f"br i1 {condition}, label %{yes}, label %{no}", f"{yes}:"]
        self._label = yes
        self.statements(branch.body)
        self.lines += [f"br label %{no}", f"{no}:"]
        self._label = no


def _innermost(body: tuple[Statement, ...]) -> int:
    """Turns of the innermost loop; 0 if there is none."""
    for each in body:
        if isinstance(each, Loop):
            return _innermost(each.body) or (each.stop - each.start) // each.step
    return 0
