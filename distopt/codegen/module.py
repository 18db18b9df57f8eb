"""A routine as a module of LLVM: its functions, and the loop over rounds that calls them.

A round is cut into functions of about ``PART`` loops, since the compiler takes longer than in proportion over long ones.
"""

from __future__ import annotations

from distopt.codegen.expressions import BYTES, loads
from distopt.codegen.llvm import Assembly, memory
from distopt.codegen.loops import Block, If, Loop, Statement
from distopt.codegen.memory import ALIGNMENT, Routine

PART = 32  # loops


class Module(Assembly):
    """Prints the module."""

    def module(self) -> str:
        """The whole text. Its function ``run`` is called as ``distopt.codegen.function`` says."""
        self._variables = {}
        arguments, out = self._arguments(), list[str]()
        parts: list[list[tuple[str, str]]] = []
        for body in _parts(self.routine.body):
            text, given = self._part(f"@part{len(parts)}", body, arguments)
            parts.append(given)
            out += text
        out += self._driver(parts)
        out += sorted(self._intrinsics)
        out.append('attributes #0 = { "no-trapping-math"="true" }')
        out += [f"!{k} = {each}" for k, each in enumerate(self._metadata)]
        return "\n".join(out) + "\n"

    def _arguments(self) -> list[tuple[str, str]]:
        """Names of all memory of a round but the small pieces of loop bodies."""
        routine = self.routine
        arguments: list[tuple[str, str]] = []  # (name in the round, how the loop over rounds finds it)
        for k, each in enumerate(routine.carried):
            self._pointers[each.before.name] = f"%before{k}"
            arguments.append((f"%before{k}", f"before {k}" if not each.in_place else f"own {k}"))
            if each.after is not None:
                self._pointers[each.after.name] = f"%before{k}" if each.in_place else f"%after{k}"
                if not each.in_place:
                    arguments.append((f"%after{k}", f"after {k}"))
        for k, buffer in enumerate(routine.data):
            self._pointers[buffer.name] = f"%data{k}"
            arguments.append((f"%data{k}", f"data {k}"))
        for k, buffer in enumerate(routine.rows):
            self._pointers[buffer.name] = f"%row{k}"
            arguments.append((f"%row{k}", f"row {k}"))
        for k in range(len(routine.slots)):
            arguments.append((f"%slot{k}", f"slot {k}"))
        for buffer, slot in routine.placed:
            self._pointers[buffer.name] = f"%slot{slot}"
        for buffer in routine.locals:
            self._pointers[buffer.name] = f"%{buffer.name}"
        return arguments

    def _part(
        self, name: str, body: tuple[Statement, ...], arguments: list[tuple[str, str]]
    ) -> tuple[list[str], list[tuple[str, str]]]:
        """A function of some loops of a round, and which of the arguments it takes."""
        self.lines, self._used, self._label = [], set(), "entry"
        self.statements(body)
        given = [each for each in arguments if each[0] in self._used]
        pointers = ", ".join(f"ptr noalias{' readonly' * each.startswith('%data')} {each}" for each, _ in given)
        local = [
            f"%{each.name} = alloca [{each.size} x {memory(each.type)}], align {ALIGNMENT}"
            for each in self.routine.locals
            if self._pointers[each.name] in self._used
        ]
        head = f"define internal void {name}({pointers}) noinline nounwind #0 {{"
        return [head, "entry:", *local, *self.lines, "ret void", "}"], given

    def _driver(self, parts: list[list[tuple[str, str]]]) -> list[str]:
        """The loop over rounds: for each, where its leaves lie, and the parts in order."""
        routine, self.lines = self.routine, []
        carried, data = len(routine.carried), len(routine.data)

        def pointer(k: int) -> str:
            return self._new(f"load ptr, ptr {self._new(f'getelementptr ptr, ptr %pointers, i64 {k}')}")

        self.lines += ["%any = icmp slt i64 %k0, %k1", "br i1 %any, label %begin, label %done", "begin:"]
        fixed: dict[str, tuple[str, ...]] = {}
        scratch = pointer(2 * carried + data + len(routine.rows))
        arguments = {each: None for part in parts for each in part}
        for name, what in arguments:
            kind, k = what.split()
            place = int(k)
            if kind in ("own", "before", "after"):
                fixed[name] = (pointer(2 * place), pointer(2 * place + 1)) if kind != "own" else (pointer(2 * place),)
            elif kind == "data":
                stride = self._new(f"load i64, ptr {self._new(f'getelementptr i64, ptr %strides, i64 {place}')}")
                fixed[name] = (pointer(2 * carried + place), stride)
            elif kind == "row":
                fixed[name] = (pointer(2 * carried + data + place),)
            else:
                fixed[name] = (self._new(f"getelementptr i8, ptr {scratch}, i64 {sum(routine.slots[:place])}"),)
        self.lines += ["br label %rounds", "rounds:", "%k = phi i64 [ %k0, %begin ], [ %next, %rounds ]"]
        self.lines += ["%kept = sub i64 %k, %k0", "%odd = trunc i64 %kept to i1"]
        handed: dict[str, str] = {}
        for name, what in arguments:
            kind, k = what.split()
            first = fixed[name][0]
            if kind in ("before", "after"):
                here, there = fixed[name] if kind == "before" else reversed(fixed[name])
                first = self._new(f"select i1 %odd, ptr {there}, ptr {here}")
            elif kind == "data":
                first = self._new(f"getelementptr i8, ptr {first}, i64 {self._new(f'mul i64 %k, {fixed[name][1]}')}")
            elif kind == "row":
                buffer = routine.rows[int(k)]
                size = buffer.size * BYTES[buffer.type]
                first = self._new(f"getelementptr i8, ptr {first}, i64 {self._new(f'mul i64 %kept, {size}')}")
            handed[name] = f"ptr {first}"
        for number, part in enumerate(parts):
            self.lines.append(f"call void @part{number}({', '.join(handed[name] for name, _ in part)})")
        self.lines += ["%next = add i64 %k, 1", "%more = icmp slt i64 %next, %k1"]
        self.lines += ["br i1 %more, label %rounds, label %done", "done:", "ret void", "}"]
        head = "define void @run(i64 %k0, i64 %k1, ptr noalias %pointers, ptr noalias %strides) nounwind #0 {"
        return [head, "entry:", *self.lines]


def _loops(statement: Statement) -> int:
    """How many loops a statement has."""
    if isinstance(statement, Block):
        return 0
    return isinstance(statement, Loop) + sum(_loops(each) for each in statement.body)


def _locals(statement: Statement) -> set[str]:
    """The small pieces of memory that a statement uses: each function has its own."""
    if isinstance(statement, Block):
        buffers = [
            each.value for each in loads([each for store in statement.stores for each in (store.value, *store.ix)])
        ]
        buffers += [store.buffer for store in statement.stores]
    else:
        buffers = [each.value for each in loads([statement.condition])] if isinstance(statement, If) else []
    own = {each.name for each in buffers if each.kind == "local"}
    return own if isinstance(statement, Block) else own.union(*map(_locals, statement.body))


def _parts(body: tuple[Statement, ...]) -> list[tuple[Statement, ...]]:
    """Statements in order, as many in a part as have ``PART`` loops. A part ends only where no later statement uses its small memory."""
    own = [_locals(each) for each in body]
    last = {name: at for at, names in enumerate(own) for name in names}
    parts, count, until = list[list[Statement]](), PART, -1
    for at, each in enumerate(body):
        if count >= PART and until < at:
            parts.append([])
            count = 0
        parts[-1].append(each)
        count += _loops(each)
        until = max([until, *(last[name] for name in own[at])])
    return [tuple(each) for each in parts]


def assembly(routine: Routine) -> str:
    """The module as text."""
    return Module(routine).module()
