"""A routine as a module of LLVM: its functions, and the loop over rounds that calls them.

A round is cut into functions (see ``parts``), for one thread or several.
"""

from __future__ import annotations

from distopt.codegen.expressions import BYTES
from distopt.codegen.llvm import Assembly, memory
from distopt.codegen.loops import Statement
from distopt.codegen.memory import ALIGNMENT, Routine
from distopt.codegen.parts import divided, parts
from distopt.codegen.threads import MEETING, entered, met


class Module(Assembly):
    """Prints the module."""

    def __init__(self, routine: Routine, shared: bool) -> None:
        super().__init__(routine)
        self._shared = shared

    def module(self) -> str:
        """The whole text. Its function ``run`` is called as ``distopt.codegen.function`` says."""
        self._variables = {}
        arguments, out = self._arguments(), list[str]()
        taken: list[list[tuple[str, str]]] = []
        bodies = divided(self.routine.body) if self._shared else [(each, None) for each in parts(self.routine.body)]
        for body, loop in bodies:
            self._divided = loop
            text, given = self._part(f"@part{len(taken)}", body, arguments)
            taken.append(given)
            out += text
        out += self._driver(taken)
        out += [MEETING] if self._shared else []
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
        self.lines, self._used, self._label = [], set(), "work" if self._shared else "entry"
        self.statements(body)
        given = [each for each in arguments if each[0] in self._used]
        pointers = ", ".join(f"ptr noalias{' readonly' * each.startswith('%data')} {each}" for each, _ in given)
        own: list[str] = []
        local = [
            f"%{each.name} = alloca [{each.size} x {memory(each.type)}], align {ALIGNMENT}"
            for each in self.routine.locals
            if self._pointers[each.name] in self._used
        ]
        if self._shared:
            pointers, own = ", ".join(filter(None, [pointers, "i64 %thread", "i64 %threads"])), self._own_turns()
        head = f"define internal void {name}({pointers}) noinline nounwind #0 {{"
        return [head, "entry:", *local, *own, *self.lines, "ret void", "}"], given

    def _own_turns(self) -> list[str]:
        """Which turns of the loop that threads share are this thread's. If they share no loop, one thread does all."""
        turns = 1 if self._divided is None else self._divided.stop
        return [
            f"%low = mul i64 %thread, {turns}",
            f"%high = add i64 %low, {turns}",
            "%first = udiv i64 %low, %threads",
            "%last = udiv i64 %high, %threads",
            "%any = icmp ult i64 %first, %last",
            "br i1 %any, label %work, label %nothing",
            "nothing:",
            "ret void",
            "work:",
        ]

    def _driver(self, parts: list[list[tuple[str, str]]]) -> list[str]:
        """The loop over rounds: the addresses of each round's leaves, and its parts in order."""
        routine, self.lines = self.routine, []
        carried, data = len(routine.carried), len(routine.data)

        def pointer(k: int) -> str:
            return self._new(f"load ptr, ptr {self._new(f'getelementptr ptr, ptr %pointers, i64 {k}')}")

        self.lines += ["%any = icmp slt i64 %k0, %k1", "br i1 %any, label %begin, label %done", "begin:"]
        self.lines += entered(data) if self._shared else []
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
            own = ["i64 %thread", "i64 %threads"] if self._shared else []
            self.lines.append(f"call void @part{number}({', '.join([*(handed[name] for name, _ in part), *own])})")
            self.lines += met(number, len(parts)) if self._shared else []
        self.lines += ["%next = add i64 %k, 1", "%more = icmp slt i64 %next, %k1"]
        self.lines += ["br i1 %more, label %rounds, label %done", "done:", "ret void", "}"]
        head = "define void @run(i64 %k0, i64 %k1, ptr noalias %pointers, ptr noalias %strides) nounwind #0 {"
        return [head, "entry:", *self.lines]


def assembly(routine: Routine, shared: bool = False) -> str:
    """The module as text; ``shared``: for several threads (see ``distopt.codegen.threads``)."""
    return Module(routine, shared).module()
