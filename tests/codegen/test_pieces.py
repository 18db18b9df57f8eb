"""Rounds in pieces: each operation is done in the right piece, and the numbers are those of one function."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from distopt.codegen.function import compiled
from distopt.codegen.record import arrive, leave
from distopt.codegen.recording import Unsupported
from distopt.codegen.segments import Segments, segments

Tensors = list[Tensor]
ROUNDS = 5


def names(made: Segments) -> list[set[str]]:
    """The operations of each piece, views left out."""
    views = {"select", "slice", "unsqueeze", "expand"}
    return [{each.name.partition(".")[0] for each in piece.recording.operations} - views for piece in made.cut.pieces]


def test_what_leaves_waits_for_nothing_and_what_can_be_done_meanwhile_is() -> None:
    def do(carry: Tensors, data: Tensors) -> tuple[Tensors, Tensors]:
        (x,), (g,) = carry, data
        loss = torch.exp(g * x).sum(-1, keepdim=True)  # stands before the first point, and nobody who leaves needs it
        leave("x", [torch.sqrt(x.abs())])
        (heard,) = arrive("x", [(x.shape, x.dtype)])
        mixed = torch.tanh(heard) + x
        leave("y", [mixed])
        late = torch.log(loss)
        (again,) = arrive("y", [(x.shape, x.dtype)])
        return [again - late * mixed], [loss]

    made = segments(do, [torch.ones(2, 3)], [torch.ones(ROUNDS, 2, 3)])
    sent, meanwhile, heard, while_again, end = names(made)
    assert "sqrt" in sent and not sent & {"exp", "sum", "log", "tanh"}
    assert {"exp", "sum", "log"} <= meanwhile
    assert heard == {"tanh", "add"} and while_again == {"mul"} and end == {"sub"}


def exchanging(carry: Tensors, data: Tensors) -> tuple[Tensors, Tensors]:
    """Two points of exchange; leaves that stay, move and turn round; rows; a leaf that a later piece reads after it has changed."""
    (x, y, last, kept), (g, index) = carry, data
    leave("x", [x[index], x])
    step = torch.exp(-(x * g)) + y
    heard, whole = arrive("x", [((2, 3), x.dtype), (x.shape, x.dtype)])
    both = torch.cat([x, heard, whole])
    moved = both[index + 2] * 0.5
    after = y + step * 0.25
    leave("y", [after + moved.sum(0)])
    (more,) = arrive("y", [(x.shape, x.dtype)])
    return [x + 0.1 * more - 0.01 * last, after, x, kept], [x, step, after * more]


def alone(carry: Tensors, data: Tensors) -> tuple[Tensors, Tensors]:
    """The same where what leaves arrives as it is."""
    (x, y, last, kept), (g, index) = carry, data
    step = torch.exp(-(x * g)) + y
    both = torch.cat([x, x[index], x])
    moved = both[index + 2] * 0.5
    after = y + step * 0.25
    more = after + moved.sum(0)
    return [x + 0.1 * more - 0.01 * last, after, x, kept], [x, step, after * more]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_pieces_give_the_bits_of_one_function(dtype: torch.dtype) -> None:
    draw = torch.Generator().manual_seed(0)
    carry = [torch.randn(4, 3, generator=draw, dtype=dtype) for _ in range(4)]
    data = [torch.randn(ROUNDS, 4, 3, generator=draw, dtype=dtype), torch.tensor([[1, 3]])]
    whole = compiled(alone, carry, data)
    rows = [torch.empty(ROUNDS, *shape, dtype=dtype) for shape, dtype in whole.rows]
    bound = whole.bound([each.clone() for each in carry], data, rows)
    bound(0, ROUNDS)

    made = segments(exchanging, carry, data)
    memory = [[[torch.empty(form, dtype=kind) for form, kind in forms] for _, _, forms in made.points] for _ in (0, 1)]
    for turn in memory:
        turn[1], turn[3] = turn[0], turn[2]
    found = [torch.empty_like(each) for each in rows]
    pieces = made.bound([each.clone() for each in carry], data, found, 0, memory)
    for k in range(ROUNDS):
        for piece in pieces.pieces[k % 2]:
            if piece is not None:
                piece(k)
    assert all(torch.equal(a, b) for a, b in zip(pieces.after(ROUNDS), bound.carry, strict=True))
    assert all(torch.equal(a, b) for a, b in zip(found, rows, strict=True))


def test_places_that_arrive_stay_inside() -> None:
    def do(carry: Tensors, data: Tensors) -> tuple[Tensors, Tensors]:
        (x,) = carry
        (places,) = arrive("places", [((2,), torch.int64)])
        return [x + x[places].sum()], []

    made = segments(do, [torch.ones(3)], [])
    pieces = made.bound([torch.tensor([1.0, 2.0, 4.0])], [], [], 0, [[[torch.tensor([2**40, -(2**40)])]]] * 2)
    for piece in pieces.pieces[0]:
        if piece is not None:
            piece(0)
    assert pieces.after(1)[0].tolist() == [6.0, 7.0, 9.0]


def test_memory_of_another_form_is_refused() -> None:
    made = segments(exchanging, [torch.ones(4, 3)] * 4, [torch.ones(1, 4, 3), torch.tensor([[1, 3]])])
    rows = [torch.empty(1, 4, 3)] * 3
    with pytest.raises(ValueError, match="x: "):
        made.bound(
            [torch.ones(4, 3) for _ in range(4)], [torch.ones(1, 4, 3), torch.tensor([[1, 3]])], rows, 0, [[[]] * 4] * 2
        )


def test_what_looks_at_numbers_is_refused() -> None:
    def do(carry: Tensors, data: Tensors) -> tuple[Tensors, Tensors]:
        (heard,) = arrive("x", [((1,), torch.float32)])
        return [carry[0] * float(heard)], []

    with pytest.raises(Unsupported, match="look at the numbers"):
        segments(do, [torch.ones(2)], [])
