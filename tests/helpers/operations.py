"""Operations of torch with arguments, and what compiled functions make of them beside what torch does."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from distopt.codegen.function import compiled

torch.manual_seed(0)
A, B = torch.randn(3, 4, 10, dtype=torch.float64), torch.randn(3, 4, 10, dtype=torch.float64)
ROW, WIDE = torch.randn(10, dtype=torch.float64), torch.randn(3, 5, 37, dtype=torch.float64)
SINGLE = torch.randn(3, 4, 10, dtype=torch.float32)
WHOLE, J = torch.randint(-9, 9, (3, 4, 10)), torch.randint(1, 9, (3, 4, 10))
U8 = torch.randint(0, 256, (3, 16), dtype=torch.uint8)
M = torch.rand(3, 4, 10) < 0.5
ODD = torch.tensor([0.0, -0.0, 1.5, -2.5, math.inf, -math.inf, math.nan, 3.0], dtype=torch.float64)
PLACES = torch.randint(0, 10, (3, 4, 6))
ROWS = torch.tensor([2, 0, 0, 1])

COUNTED: list[int] = []
SUM = torch.zeros_like(A)

Case = tuple[Callable[..., Any], tuple[Tensor, ...]]

DERIVED: tuple[Callable[[Tensor], Tensor], ...] = (
    torch.tanh,
    torch.sigmoid,
    torch.exp,
    lambda x: x.softmax(-1) ** 2,
    lambda x: x.log_softmax(-1) * x,
    lambda x: x.logsumexp(-1, True),
    lambda x: torch.log1p(torch.exp(-x.abs())) + (-x).clamp(min=0),
    lambda x: x.relu() * x,
    lambda x: x.square().sum(-1, True).sqrt() + x[..., 1::3].sum(-1, True) * x[:, :1, 2:3],
    lambda x: x.select(1, 2).unsqueeze(1) ** 3 * x[:1, :1],
)

EXACT: dict[str, Case] = {
    "arithmetic": (lambda a, b: [a + b, a - b, a * b, a / b, 2 - a, 1 / a, a + 2 * b, -a], (A, B)),
    "rolling": (lambda a: [a.roll(1, -2), a.roll(-3, 2), a.roll((4, -5), (1, 2)), a.roll(0, 0) + 1], (A,)),
    "spread": (lambda a, r: [a + r, r - a, a * r[3]], (A, ROW)),
    "scalars": (lambda a, b: [a * b.sum(), a + b], (A, torch.tensor(2.0))),
    "single": (lambda a, b: [a + b, a * 0.1, (a + b).double(), a.double() * b, a / 3], (SINGLE, SINGLE * 2)),
    "mixed": (lambda a, i: [a + i, i * 0.5, i / 2, a * (i > 0)], (A, WHOLE)),
    "whole": (lambda i, j: [i + j, i * j, i - j, -i, i // j, i % j, i // 3, i % 3, i.abs(), i / j], (WHOLE, J)),
    "division": (
        lambda i, j, a, b: [
            torch.div(i, j, rounding_mode="floor"),
            torch.div(i, j, rounding_mode="trunc"),
            torch.div(a, b, rounding_mode="floor"),
            torch.div(a, b, rounding_mode="trunc"),
            torch.remainder(a, b),
            torch.remainder(a, 0.7),
        ],
        (WHOLE, J, A, B),
    ),
    "bits": (lambda i, j: [i & j, i | j, i ^ j, ~i, i << 3, i >> 2, i & 7, i << (j + 60), i >> (j + 60)], (WHOLE, J)),
    "bytes": (lambda u: [u & 7, u + u, u >> 3, u << 2, u > 100, u.to(torch.int64) << 8, u // 3], (U8,)),
    "packing": (lambda u: [(u.view(3, 2, 8) & 1).to(torch.int32), (u[:, ::2] | u[:, 1::2])], (U8,)),
    "comparing": (lambda a, b: [a > b, a >= b, a < b, a <= b, a == b, a != b, a > 0, a == 1], (A, B)),
    "comparing types": (lambda a, i, f: [a > i, i >= 0.5, f < 0.1, i.eq(True)], (A, WHOLE, SINGLE)),
    "logic": (
        lambda m, i: [~m, m & (i > 0), m | (i > 0), m ^ (i > 0), m.logical_not(), i.logical_and(m), m.double(), m + 0],
        (M, WHOLE),
    ),
    "choosing": (lambda m, a, b: [torch.where(m, a, b), torch.where(m, a, 0.0), a.masked_fill(m, 3)], (M, A, B)),
    "extremes": (lambda a, b: [torch.maximum(a, b), torch.minimum(a, b), a.clamp(-0.5, 0.5)], (A, B)),
    "clamping": (
        lambda a, b: [a.clamp(min=0), a.clamp(max=1), a.clamp(b.abs().neg(), b.abs()), a.clamp_min(0), a.relu()],
        (A, B),
    ),
    "odd numbers": (
        lambda x: [
            x.isnan(),
            x.isinf(),
            x.isfinite(),
            x.nan_to_num(),
            x.nan_to_num(7.0, 8.0, 9.0),
            x.abs(),
            x.floor(),
            x.ceil(),
            x.round(),
            x.trunc(),
            x.clamp(-1, 1),
            torch.maximum(x, x.flip(0)),
            torch.minimum(x, x.flip(0)),
            x.amax(),
            x.sign().nan_to_num(),
        ],
        (ODD,),
    ),
    "powers": (lambda a: [a**2, a**3, a**0, a**-1, a**-2, a.square(), a.reciprocal()], (A,)),
    "roots": (lambda a: [torch.sqrt(a.abs() + 4).floor(), a.sign()], (A,)),
    "parts": (
        lambda a: [a[0], a[:, 1], a[..., -1], a[..., 2:7], a[..., 1::3], a[:, :, None], a[..., -3:], a.narrow(2, 1, 4)],
        (A,),
    ),
    "shapes": (
        lambda a: [
            a.reshape(12, 10),
            a.reshape(3, 40),
            a.reshape(3, 2, 2, 10),
            a.reshape(6, 20),
            a.flatten(),
            a.unsqueeze(0),
            a[:1].squeeze(0),
            a[:1].squeeze(),
            a.mT,
            a.permute(2, 0, 1),
            a.transpose(0, 1).reshape(-1),
            a.flip(-1),
            a.flip(0, 2),
            a[:1].expand(5, 4, 10),
            a.repeat(2, 1, 3),
            a.reshape(8, 15).t(),
        ],
        (A,),
    ),
    "several": (
        lambda a: [*a.unbind(1), *a.split(3, -1), *a.split([4, 6], -1), *a.chunk(2, 1), *torch.unbind(a[0, 0])],
        (A,),
    ),
    "joining": (
        lambda a, b: [torch.cat([a, b], -1), torch.cat([a, b[:1]]), torch.stack([a, b], 1), torch.stack([a, b], -1)],
        (A, B),
    ),
    "padding": (
        lambda a: [
            torch.nn.functional.pad(a, (0, 0, 0, 4), value=-0.0),
            torch.nn.functional.pad(a, (1, 2), value=7),
            torch.nn.functional.pad(a, (1, 0, 0, 1)),
        ],
        (A,),
    ),
    "making": (
        lambda a: [
            torch.zeros_like(a),
            torch.ones(3),
            torch.full((2, 2), 0.5),
            a.new_zeros(2),
            a.new_full((2,), 3.0),
            torch.arange(7),
            torch.arange(2, 9, 3),
            torch.arange(4, dtype=torch.float64),
            torch.full_like(a, 2),
            torch.tensor([1.0, 2.0, 4.0]),
            torch.tensor(3),
        ],
        (A,),
    ),
    "types": (
        lambda a, i, m: [
            a.float(),
            (a * 100).to(torch.int64),
            (a * 100).to(torch.int32),
            i.to(torch.uint8),
            i.double(),
            a.to(torch.bool),
            m.to(torch.uint8),
            i.to(torch.int8),
            i.to(torch.int16) + 1,
        ],
        (A, WHOLE, M),
    ),
    "sixteen bits": (
        lambda a, x: [
            *(b for s in (1, 1e-5, 3e-8, 1e4, 1e9) for b in ((a * s).half().double(), (a * s).bfloat16().float())),
            x.half().double(),
            x.bfloat16().double(),
            a.half(),
            a.float().bfloat16()[:, 1:],
        ],
        (A, ODD),
    ),
    "same bits": (lambda a: [a.view(torch.int64), (a.view(torch.int64) & ~1).view(torch.float64)], (A,)),
    "counting": (
        lambda m, i: [m.any(-1), m.all(-1), m.any(), m.all(), m.sum(-1), i.sum(), i.amax(-1), i.amin(0), i.max()],
        (M, WHOLE),
    ),
    "largest": (
        lambda a: [a.amax(-1), a.amin(1), a.amax((0, 2)), a.max(), a.min(), *a.max(-1), *a.min(1, keepdim=True)],
        (A,),
    ),
    "where largest": (lambda a: [a.argmax(-1), a.argmin(1), a.argmax(-1, keepdim=True)], (A,)),
    "where largest is no number": (lambda x: [x.argmax(-1), x[:6].argmin(-1)], (ODD,)),
    "running sums": (lambda a, i: [a.cumsum(0), a.cumsum(-1), i.cumsum(1)], (A, WHOLE)),
    "gathering": (
        lambda a, p: [a.gather(-1, p), torch.take_along_dim(a, p, -1), a.gather(1, (p[..., :3, :] % 4))],
        (A, PLACES),
    ),
    "rows": (
        lambda a, r: [a[:, r], a[r[:3]], a[:, :, r], a.index_select(1, r), a[r[:3, None], r[None]], a[..., r]],
        (A, ROWS),
    ),
    "computed rows": (lambda a, r: [a[:, r - 1], a[:, (r * 2) % 4], a.index_select(1, r - 0)], (A, ROWS)),
    "scattering": (
        lambda a, p, b: [
            a.scatter(-1, p[..., :1], 5.0),
            a.scatter(-1, p[..., :1], b[..., :1]),
            a.scatter_add(-1, p, b[..., :6]),
            torch.zeros_like(a).scatter(1, p[:, :1, :1] % 4, b[:, :1, :1]),
        ],
        (A, PLACES, B),
    ),
    "copied rows": (
        lambda a, b, r: [a.index_copy(1, r[:2], b[:, :2]), a.index_add(1, r, b), a.index_copy(-2, r[3:], b[:, :1])],
        (A, B, ROWS),
    ),
    "first ones": (
        lambda a, x: [*a.topk(3), *a.topk(4, 1), *a.topk(2, -1, largest=False), *a.topk(10), x[:6].topk(4).values],
        (A, ODD),
    ),
    "sorting": (
        lambda a, i: [*a.sort(), *a.sort(1, descending=True), a.argsort(-1), *i.sort(dim=-1, stable=True)],
        (A, WHOLE),
    ),
    "in place": (lambda a, b: [_in_place(a.clone(), b)], (A, B)),
    "a buffer": (lambda a: [SUM.copy_(a) * 2], (A,)),
    "a choice without axes": (lambda a, t: [torch.where(t > 0, a, -a), torch.where(t == 0, 0.5, a)], (A, ROWS[0])),
    "empty": (lambda a: [a[..., :0].sum(-1), torch.cat([a, a[..., :0]], -1), a[:, :0].sum(1)], (A,)),
}

CLOSE: dict[str, Case] = {
    "factors": (
        lambda a, b: [torch.add(a, b, alpha=0.3), torch.sub(a, b, alpha=0.7), torch.rsub(a, b, alpha=3)],
        (A, B),
    ),
    "sums": (
        lambda a, w: [
            a.sum(-1),
            a.sum(1),
            a.sum((0, 2)),
            a.sum(),
            a.mean(-1),
            a.mean(),
            w.sum(-1, True),
            w.sum(1),
            w.mean((1, 2)),
        ],
        (A, WIDE),
    ),
    "short sums": (lambda a: [a[..., :k].sum(-1) for k in range(1, 10)], (A,)),
    "products": (lambda a: [a[..., :3].prod(-1), a.prod(1)], (A,)),
    "single sums": (lambda f: [f.sum(-1), f.mean(1), f.square().sum()], (SINGLE,)),
    "norms": (
        lambda a: [
            torch.linalg.vector_norm(a, dim=-1),
            torch.linalg.vector_norm(a, 1, dim=-1, keepdim=True),
            torch.linalg.vector_norm(a, math.inf, dim=(1, 2)),
            a.norm(dim=-1),
            a.norm(),
        ],
        (A,),
    ),
    "functions": (
        lambda a: [
            a.exp(),
            a.expm1(),
            a.tanh(),
            a.sigmoid(),
            a.abs().log(),
            a.abs().log1p(),
            a.cos(),
            a.sin(),
            torch.special.ndtri(a.abs() / 8),
        ],
        (A,),
    ),
    "single functions": (lambda f: [f.exp(), f.tanh(), f.sigmoid(), f.abs().log1p(), f.cos()], (SINGLE,)),
    "powers": (
        lambda a, b: [a.abs() ** b, 0.5**b, a.abs() ** 0.5, a.abs() ** 1.7, a.abs() ** -0.5, a.abs().rsqrt()],
        (A, B),
    ),
    "softmax": (
        lambda a: [a.softmax(-1), a.softmax(1), a.log_softmax(-1), a.logsumexp(-1), a.logsumexp(1, keepdim=True)],
        (A,),
    ),
    "matrices": (
        lambda a, b, r: [
            a @ b.mT,
            a[0] @ b[0].mT,
            a[0] @ r,
            r @ r,
            torch.einsum("rnd,rmd->rnm", a, b),
            torch.einsum("rnd,d->rn", a, r),
            torch.addmm(b[0, :, :4], a[0], b[0].mT),
        ],
        (A, B, ROW),
    ),
    "gradients": (lambda a, b: [torch.func.grad(lambda x, f=f: (f(x) * b).sum())(a) for f in DERIVED], (A, B)),
    "products with the Hessian": (
        lambda a, b: [torch.func.jvp(torch.func.grad(lambda x, f=f: f(x).sum()), (a,), (b,))[1] for f in DERIVED],
        (A, B),
    ),
    "mixing": (
        lambda a, b: [torch.lerp(a, b, 0.3), torch.addcmul(a, a, b, value=0.5), torch.addcdiv(a, a, b.abs())],
        (A, B),
    ),
}


def _in_place(a: Tensor, b: Tensor) -> Tensor:
    a.add_(b, alpha=2)
    a *= 3
    a.clamp_(-1, 1)
    a.copy_(torch.where(a > 0, a, b))
    a -= b
    return a.neg_()


def both(do: Callable[..., Any], inputs: Sequence[Tensor]) -> list[tuple[Tensor, Tensor]]:
    """(what is written out gives, what torch gives)."""
    expected = list(do(*[each.clone() for each in inputs]))
    data = [each[None].contiguous() for each in inputs]
    function = compiled(lambda _, given: ([], do(*given)), [], data)
    rows = [torch.empty(1, *shape, dtype=dtype) for shape, dtype in function.rows]
    function.bound([], data, rows)(0, 1)
    return list(zip([row[0] for row in rows], expected, strict=True))
