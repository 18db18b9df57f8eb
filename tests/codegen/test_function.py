"""Compiled functions: what is carried, what is kept, memory, threads; and one set of bits whatever compiles them."""

from __future__ import annotations

import copy
import ctypes
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.oracle_c import COMPILER, by_c
from torch import Tensor

from distopt.codegen import objects
from distopt.codegen.function import Function, compiled
from distopt.codegen.objects import Run
from distopt.codegen.recording import Unsupported

K, N, D = 7, 5, 3
TURNED = torch.tensor([1, 2, 3, 4, 0])


def swap(carry: list[Tensor], data: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
    """a and b change places; c is shifted along the agents, d is written in place, e stays."""
    (a, b, c, d, e), (f, g) = carry, data
    return [b, a, c[TURNED] + f, d * g + d.sum(-1, True), e], [
        c,
        (a * e).sum(),
        f,
    ]


def inputs() -> tuple[list[Tensor], list[Tensor]]:
    generator = torch.Generator().manual_seed(3)
    carry = [torch.randn(N, D, generator=generator, dtype=torch.float64) for _ in range(5)]
    return carry, [torch.randn(K, N, D, generator=generator, dtype=torch.float64), torch.full((1, 1), 0.5).double()]


def eagerly(do: Any, carry: list[Tensor], data: list[Tensor], rounds: range) -> tuple[list[Tensor], list[Tensor]]:
    rows: list[list[Tensor]] = []
    for k in rounds:
        carry, row = do([each.clone() for each in carry], [each[k if len(each) > 1 else 0] for each in data])
        rows.append([each.clone() for each in row])
    return list(carry), [torch.stack(each) for each in zip(*rows, strict=True)]


def empty(function: Function, rounds: int) -> list[Tensor]:
    return [torch.empty(rounds, *shape, dtype=dtype) for shape, dtype in function.rows]


def equal(a: list[Tensor], b: list[Tensor]) -> bool:
    return len(a) == len(b) and all(torch.allclose(x, y, rtol=1e-14, atol=0) for x, y in zip(a, b, strict=True))


@pytest.mark.parametrize("rounds", [range(0, K), range(2, 6), range(3, 4), range(4, 4)])
def test_rounds_carry_keep_and_swap_as_they_should(rounds: range) -> None:
    carry, data = inputs()
    function = compiled(swap, carry, data)
    expected, kept = eagerly(swap, carry, data, rounds) if rounds else (carry, [])
    rows = empty(function, len(rounds))
    bound = function.bound([each.clone() for each in carry], data, rows)
    bound(rounds.start, rounds.stop)
    assert equal(bound.carry, expected) and (equal(rows, kept) or not rounds)


def test_many_short_calls_are_one_long_one() -> None:
    carry, data = inputs()
    function = compiled(swap, carry, data)
    whole, parts = ([each.clone() for each in carry] for _ in range(2))
    rows = empty(function, K)
    long = function.bound(whole, data, rows)
    long(0, K)
    short_rows = empty(function, 1)
    short = function.bound(parts, data, short_rows)
    for k in range(K):
        short(k, k + 1)
        assert all(torch.equal(one[0], each[k]) for one, each in zip(short_rows, rows, strict=True))
    assert all(torch.equal(a, b) for a, b in zip(long.carry, short.carry, strict=True))


def test_what_is_read_by_nobody_else_is_written_in_place() -> None:
    routine = compiled(swap, *inputs()).routine
    assert [each.in_place for each in routine.carried] == [True, True, False, True, True]
    assert routine.carried[4].after is None


def test_temporaries_share_memory_when_they_are_no_longer_read() -> None:
    def do(carry: list[Tensor], data: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        (x,) = carry
        for _ in range(12):
            x = torch.cat([x[1:], x[:1]]) * 0.5
        return [x], []

    routine = compiled(do, [torch.ones(100, 4)], []).routine
    assert 2 * 1600 <= routine.scratch < 4 * 1600


def test_constants_of_several_numbers_are_handed_over_as_data() -> None:
    factor = torch.arange(3.0)

    def do(carry: list[Tensor], data: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        return [carry[0] + factor * torch.tensor([1.0, 2.0, 3.0])], []

    function = compiled(do, [torch.zeros(2, 3)], [])
    bound = function.bound([torch.zeros(2, 3)], [], [])
    bound(0, 5)
    assert torch.equal(bound.carry[0], (5 * factor * torch.tensor([1.0, 2.0, 3.0])).expand(2, 3))
    assert "1.0" not in function.text


def test_a_function_runs_in_several_threads_at_once() -> None:
    carry, data = inputs()
    function = compiled(swap, carry, data)
    expected, _ = eagerly(swap, carry, data, range(K))

    def run(_: int) -> bool:
        bound = function.bound([each.clone() for each in carry], data, empty(function, K))
        bound(0, K)
        return equal(bound.carry, expected)

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(run, range(64)))


def test_a_function_makes_of_nothing_what_nothing_makes() -> None:
    function = compiled(lambda carry, data: (carry, []), [torch.ones(3)], [])
    bound = function.bound([torch.ones(3)], [], [])
    bound(0, 10)
    assert bound.carry[0].tolist() == [1, 1, 1]


def test_memory_that_does_not_fit_is_refused() -> None:
    carry, data = inputs()
    function = compiled(swap, carry, data)
    rows = empty(function, 3)
    for wrong in (
        ([each.float() for each in carry], data, rows),
        ([each.mT.contiguous() for each in carry], data, rows),
        (carry[:-1], data, rows),
        (carry, [data[0][..., :2], data[1]], rows),
        (carry, data, rows[:-1]),
        ([each.mT.contiguous().mT for each in carry], data, rows),
    ):
        with pytest.raises(ValueError, match="does not fit|contiguous"):
            function.bound(*wrong)
    for wrong in (([carry[0], *carry[:-1]], data, rows), ([data[0][0], *carry[1:]], data, rows)):
        with pytest.raises(ValueError, match="shares memory"):
            function.bound(*wrong)
    bound = function.bound(carry, data, rows)
    for first, last in ((0, 4), (6, 8), (-1, 1)):
        with pytest.raises(ValueError, match="there are data of 7 and room for 3"):
            bound(first, last)


def test_a_round_that_changes_what_is_carried_is_refused() -> None:
    for do in (lambda carry, data: ([carry[0].float()], []), lambda carry, data: ([carry[0].sum(0)], [])):
        with pytest.raises(Unsupported, match="changes the shape or precision"):
            compiled(do, [torch.ones(2, 3, dtype=torch.float64)], [])


def test_recording_leaves_inputs_as_they_are() -> None:
    def do(carry: list[Tensor], data: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        return [carry[0].add_(data[0])], []

    x, data = torch.zeros(3), torch.ones(2, 3)
    bound = compiled(do, [x], [data]).bound([x], [data], [])
    assert x.tolist() == [0, 0, 0]
    bound(0, 2)
    assert x.tolist() == [2, 2, 2]


# One set of bits


def everything(carry: list[Tensor], data: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
    """Sums of all kinds, functions, gathers and bits, so shaped that vectors have rests."""
    (x,), (f,) = carry, data
    scores = torch.cat([x, f], -1).softmax(-1)
    step = (x.tanh() * f.exp()).sum(-1, True) / (1 + x.square().sum(-2, True)).sqrt() + x.logsumexp(-1, True)
    mixed = x[torch.arange(N).flip(0)] * 0.3 + x * 0.7 - 0.1 * step * f.cos()
    packed = (x > 0).to(torch.uint8)
    return [mixed.clamp(-3, 3)], [scores.sum(0), x.topk(2).values, packed, (x.abs() + 1).log1p(), x.abs() ** 0.7]


def wide() -> tuple[list[Tensor], list[Tensor]]:
    generator = torch.Generator().manual_seed(4)
    return [torch.randn(N, 29, generator=generator, dtype=torch.float64)], [
        torch.randn(K, N, 29, generator=generator, dtype=torch.float64)
    ]


def by(run: Run, function: Function, carry: list[Tensor], data: list[Tensor]) -> list[Tensor]:
    """What another compilation of a function gives."""
    twin = copy.copy(function)
    twin.run = run
    rows = empty(function, K)
    bound = twin.bound([each.clone() for each in carry], data, rows)
    bound(0, K)
    return [*bound.carry, *rows]


def plain(text: str) -> bytes:
    """A module for a processor without AVX and FMA, its oldest kind."""
    import llvmlite.binding as llvm

    objects.machine()
    target = llvm.Target.from_default_triple()
    return objects.compiled(text, target.create_target_machine("x86-64", "", opt=2, reloc="pic", jit=True))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_bits_do_not_depend_on_vectors_or_on_the_compiler(
    dtype: torch.dtype, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    carry, data = ([each.to(dtype) for each in leaves] for leaves in wide())
    function = compiled(everything, carry, data)
    expected = by(function.run, function, carry, data)
    scalar = function.text.replace("i1 true}", "i1 false}").replace("i32 8}", "i32 1}")
    monkeypatch.setattr(objects, "OPTIMISED", not objects.OPTIMISED)
    others = {"otherwise optimised": objects.loaded(objects.compiled(function.text))}
    monkeypatch.undo()
    others["no vectors"] = objects.loaded(objects.compiled(scalar))
    if "x86_64" in objects.machine().triple:
        others["old processor"] = objects.loaded(plain(function.text))
    if COMPILER is not None:
        others |= {f"C {flag}": by_c(function, tmp_path, flag) for flag in ("-O0", "-O2", "-O3")}
    for name, run in others.items():
        got = by(run, function, carry, data)
        assert all(torch.equal(a, b) for a, b in zip(got, expected, strict=True)), name


def rowwise(carry: list[Tensor], data: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
    """What an agent makes of its own numbers."""
    (x,), (f,) = carry, data
    step = (x.tanh() * f.exp()).sum(-1, True) / (1 + x.square().sum(-1, True)).sqrt() + x.logsumexp(-1, True)
    return [(x - 0.1 * step * f.cos()).clamp(-3, 3)], [x.softmax(-1), (x[..., :3] * f[..., :3]).sum(-1)]


@pytest.mark.parametrize("width", [2, 3, 7, 29])
def test_bits_of_an_agent_do_not_depend_on_the_others(width: int) -> None:
    (x,), (f,) = wide()
    x, f = x[..., :width].contiguous(), f[..., :width].contiguous()
    function = compiled(rowwise, [x], [f])
    whole = by(function.run, function, [x], [f])
    for block in (slice(0, 1), slice(1, 4), slice(3, 5)):
        part = [x[block].contiguous()], [f[:, block].contiguous()]
        own = compiled(rowwise, *part)
        got = by(own.run, own, *part)
        assert torch.equal(got[0], whole[0][block])
        assert all(torch.equal(a, b[:, block]) for a, b in zip(got[1:], whole[1:], strict=True))


def test_other_bits_would_be_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(objects, "OPTIMISED", True)
    carry, data = wide()
    function = compiled(everything, carry, data)
    contracted = objects.loaded(
        objects.compiled(
            function.text.replace("= fmul double", "= fmul fast double").replace("= fadd double", "= fadd fast double")
        )
    )
    one, other = by(function.run, function, carry, data), by(contracted, function, carry, data)
    assert not all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def test_the_call_does_not_hold_pythons_lock() -> None:
    kind: Any = type(compiled(swap, *inputs()).run)
    assert kind._flags_ & ctypes._FUNCFLAG_PYTHONAPI == 0


def turned(carry: list[Tensor], data: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
    """What reads other places than it writes, so that two buffers take turns."""
    (x,), (f,) = carry, data
    return [x.flip(-1) + f], []


@pytest.mark.parametrize("count", [2, 3])
def test_memory_is_used_again_but_never_what_is_carried(count: int) -> None:
    x, f = torch.randn(5), torch.randn(2 * count, 5)
    function = compiled(turned, [x], [f])
    whole = function.bound([x.clone()], [f], [])
    whole(0, 2 * count)
    first = function.bound([x.clone()], [f], [])
    first(0, count)
    places = {each.data_ptr() for each in first.memory}
    second = function.bound(first.carry, [f], [], first.memory)
    second(count, 2 * count)
    assert torch.equal(second.carry[0], whole.carry[0])
    assert {second.carry[0].data_ptr(), *(each.data_ptr() for each in second.memory)} >= places
    own = first.memory[0]
    other = function.bound([own], [f], [], first.memory)
    assert own.data_ptr() not in {each.data_ptr() for each in other.memory}, "it would be read and written at once"
