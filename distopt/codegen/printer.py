"""Shared by the two printers: expressions in the order in which they are needed, each once in a loop body."""

from __future__ import annotations

from abc import ABC, abstractmethod

from distopt.codegen.expressions import Buffer, Expr, Index, linear
from distopt.codegen.loops import Block, If, Loop, Statement
from distopt.codegen.memory import Routine


class Printer(ABC):
    """Walks through a routine. What a language calls a number is a text, its name."""

    def __init__(self, routine: Routine) -> None:
        self.routine = routine
        self.lines: list[str] = []
        self._names: dict[int, str] = {}
        self._last = 0

    def new(self) -> str:
        """A name that nothing has yet."""
        self._last += 1
        return f"t{self._last}"

    def statements(self, body: tuple[Statement, ...]) -> None:
        """Print statements in order."""
        for each in body:
            if isinstance(each, Block):
                self._block(each)
            elif isinstance(each, Loop):
                self.loop(each)
            else:
                self._names.clear()
                self.branch(each, self.number(each.condition))
                self._names.clear()

    def _block(self, block: Block) -> None:
        self._names.clear()
        done = []
        for store in block.stores:
            name = self.number(store.value)
            if block.chained:
                self._names[id(store.value.pool.load(store.buffer, store.ix))] = name
            if store.kept:
                done.append((store.buffer, self.place(store.buffer, store.ix), name))
        for buffer, place, name in done:
            self.store(buffer, place, name)
        self._names.clear()

    def place(self, buffer: Buffer, ix: Index) -> str:
        """The place of a number in its buffer."""
        pool = ix[0].pool if ix else None
        return self.number(linear(buffer.shape, ix, pool)) if pool else self.zero

    def number(self, expr: Expr) -> str:
        """The name of a number. The number and its operands are computed first, if they are not yet."""
        waiting = [expr]
        while waiting:
            each = waiting[-1]
            if id(each) in self._names:
                waiting.pop()
                continue
            needs = self._needs(each)
            missing = [need for need in needs if id(need) not in self._names]
            if missing:
                waiting.extend(reversed(missing))
                continue
            waiting.pop()
            self._names[id(each)] = self._named(each)
        return self._names[id(expr)]

    def _needs(self, expr: Expr) -> tuple[Expr, ...]:
        if expr.op == "pick":
            return (*self._rows(expr), _last(expr))
        if expr.op != "load" or not expr.args:
            return expr.args
        return (linear(expr.value.shape, expr.args, expr.pool),)

    def _named(self, expr: Expr) -> str:
        if expr.op == "const":
            return self.constant(expr)
        if expr.op == "var":
            return self.variable(expr.value)
        if expr.op == "load":
            place = self._names[id(self._needs(expr)[0])] if expr.args else self.zero
            return self.load(expr.value, place)
        if expr.op == "pick":
            return self.pick(expr, [self._names[id(each)] for each in self._needs(expr)])
        return self.operation(expr, [self._names[id(each)] for each in expr.args])

    def _rows(self, expr: Expr) -> tuple[Expr, ...]:
        """What the beginnings of the rows that an expression picks from are made of."""
        if expr.op == "pick":
            condition, a, b = expr.args
            return (condition, *self._rows(a), *self._rows(b))
        return (linear(expr.value.shape, (*expr.args[:-1], expr.pool.constant("i64", 0)), expr.pool),)

    zero = "0"

    @abstractmethod
    def constant(self, expr: Expr) -> str:
        """A known number."""

    @abstractmethod
    def variable(self, name: str) -> str:
        """A counter."""

    @abstractmethod
    def load(self, buffer: Buffer, place: str) -> str:
        """Read from memory."""

    @abstractmethod
    def pick(self, expr: Expr, names: list[str]) -> str:
        """A read from one of several places: the expression's conditions and beginnings of rows, and the last index."""

    @abstractmethod
    def store(self, buffer: Buffer, place: str, name: str) -> None:
        """Write to memory."""

    @abstractmethod
    def operation(self, expr: Expr, names: list[str]) -> str:
        """Compute."""

    @abstractmethod
    def loop(self, loop: Loop) -> None:
        """A loop."""

    @abstractmethod
    def branch(self, branch: If, condition: str) -> None:
        """A branch."""


def _last(expr: Expr) -> Expr:
    """The last index of what an expression picks from."""
    return _last(expr.args[1]) if expr.op == "pick" else expr.args[-1]
