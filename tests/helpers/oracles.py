"""The papers' recursions as loops over agents, neighbours and coordinates, in plain Python floats.

Written from the papers, sharing no line with distopt. Each function returns the points of rounds 0 .. T, ``[T + 1][N][d]``.
Everything sent in round t is weighted with the matrix of round t.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import sqrt
from typing import Protocol

Row = list[float]
Rows = list[Row]
Matrix = Sequence[Sequence[float]]
Gradient = Callable[[int, int, Row], Row]


@dataclass(frozen=True)
class Problem:
    """A network is a list of weight matrices, one per round; ``gradient(t, i, x)`` is agent i's of round t at the point x."""

    weights: Sequence[Matrix]
    gradient: Gradient
    x0: Rows


class Rule(Protocol):
    def step(self, s: Row) -> Row: ...


class PlainRule:
    def step(self, s: Row) -> Row:
        return list(s)


class HeavyBall:
    def __init__(self, b: float) -> None:
        self.b = b
        self.m: Row = []

    def step(self, s: Row) -> Row:
        self.m = self.m or [0.0] * len(s)
        for k in range(len(s)):
            self.m[k] = self.b * self.m[k] + s[k]
        return list(self.m)


class NesterovRule:
    """In Nesterov's own variables: x is the extrapolated point y, and the step leads from one y to the next.

    z+ = y - lr s,  y+ = z+ + b (z+ - z). The returned direction is (y - y+) / lr, for lr = 1 and no mixing.
    """

    def __init__(self, b: float) -> None:
        self.b = b
        self.y: Row = []
        self.z: Row = []

    def step(self, s: Row) -> Row:
        self.y = self.y or [0.0] * len(s)
        self.z = self.z or [0.0] * len(s)
        out = []
        for k in range(len(s)):
            z = self.y[k] - s[k]
            y = z + self.b * (z - self.z[k])
            out.append(self.y[k] - y)
            self.y[k], self.z[k] = y, z
        return out


class AdamRule:
    """``b3`` None: Adam. A number: the filtered maximum of DADAM; 0 is AMSGrad."""

    def __init__(
        self,
        b1: float,
        b2: float,
        *,
        eps: float,
        inside: bool,
        cap: float | None,
        correct: bool,
        b3: float | None = None,
    ):
        self.b1, self.b2, self.eps, self.inside, self.cap, self.correct, self.b3 = b1, b2, eps, inside, cap, correct, b3
        self.t = 0
        self.m: Row = []
        self.v: Row = []
        self.top: Row = []

    def step(self, s: Row) -> Row:
        if self.t == 0:
            self.m, self.v, self.top = [0.0] * len(s), [0.0] * len(s), [0.0] * len(s)
        self.t += 1
        out = []
        for k in range(len(s)):
            self.m[k] = self.b1 * self.m[k] + (1 - self.b1) * s[k]
            self.v[k] = self.b2 * self.v[k] + (1 - self.b2) * s[k] ** 2
            if self.cap is not None and self.v[k] > self.cap:
                self.v[k] = self.cap
            second = self.v[k]
            if self.b3 is not None:
                larger = self.v[k] if self.v[k] > self.top[k] else self.top[k]
                self.top[k] = self.b3 * self.top[k] + (1 - self.b3) * larger
                second = self.top[k]
            first = self.m[k]
            if self.correct:
                first = first / (1 - self.b1**self.t)
                second = second / (1 - self.b2**self.t)
            out.append(first / sqrt(second + self.eps) if self.inside else first / (sqrt(second) + self.eps))
        return out


def hear(w: Matrix, i: int, sent: Rows) -> Row:
    """What agent i makes of its neighbours' messages: the sum of w_ij z_j over j with w_ij != 0."""
    total = [0.0] * len(sent[i])
    for j in range(len(sent)):
        if w[i][j] != 0:
            for k in range(len(total)):
                total[k] += w[i][j] * sent[j][k]
    return total


def dgd(p: Problem, form: str, lr: float, rules: Sequence[Rule]) -> list[Rows]:
    agents = len(p.x0)
    path = [[list(row) for row in p.x0]]
    for t, w in enumerate(p.weights):
        x = path[-1]
        d = [rules[i].step(p.gradient(t, i, x[i])) for i in range(agents)]
        moved = [[x[i][k] - lr * d[i][k] for k in range(len(x[i]))] for i in range(agents)]
        new = []
        for i in range(agents):
            if form == "atc":
                new.append(hear(w, i, moved))
            else:
                heard = hear(w, i, x)
                new.append([heard[k] - lr * d[i][k] for k in range(len(heard))])
        path.append(new)
    return path


def gt(p: Problem, form: str, lr: float, rules: Sequence[Rule]) -> list[Rows]:
    """The papers' order: s_0 = g_0 before the loop, the tracker updated at the end of an iteration with the next gradient."""
    agents = len(p.x0)
    path = [[list(row) for row in p.x0]]
    g = [p.gradient(0, i, p.x0[i]) for i in range(agents)]
    s = [list(row) for row in g]
    for t, w in enumerate(p.weights):
        x = path[-1]
        d = [rules[i].step(s[i]) for i in range(agents)]
        moved = [[x[i][k] - lr * d[i][k] for k in range(len(x[i]))] for i in range(agents)]
        new = []
        for i in range(agents):
            if form == "cta":
                heard = hear(w, i, x)
                new.append([heard[k] - lr * d[i][k] for k in range(len(heard))])
            else:
                new.append(hear(w, i, moved))
        path.append(new)
        if t + 1 == len(p.weights):
            break
        w_next = p.weights[t + 1]  # s_t is sent in round t + 1
        fresh = [p.gradient(t + 1, i, new[i]) for i in range(agents)]
        if form == "aug_dgm":
            summed = [[s[i][k] + fresh[i][k] - g[i][k] for k in range(len(s[i]))] for i in range(agents)]
            s = [hear(w_next, i, summed) for i in range(agents)]
        else:
            heard_s = [hear(w_next, i, s) for i in range(agents)]
            s = [[heard_s[i][k] + fresh[i][k] - g[i][k] for k in range(len(s[i]))] for i in range(agents)]
        g = fresh
    return path


def gtadam(p: Problem, lr: float, b1: float, b2: float, *, eps: float, cap: float) -> list[Rows]:
    """The paper's algorithm in one piece: moments, point, tracker."""
    agents, dim = len(p.x0), len(p.x0[0])
    path = [[list(row) for row in p.x0]]
    g = [p.gradient(0, i, p.x0[i]) for i in range(agents)]
    s = [list(row) for row in g]
    m = [[0.0] * dim for _ in range(agents)]
    v = [[0.0] * dim for _ in range(agents)]
    for t, w in enumerate(p.weights):
        x = path[-1]
        new = []
        for i in range(agents):
            heard = hear(w, i, x)
            for k in range(dim):
                m[i][k] = b1 * m[i][k] + (1 - b1) * s[i][k]
                v[i][k] = min(b2 * v[i][k] + (1 - b2) * s[i][k] * s[i][k], cap)
                heard[k] -= lr * m[i][k] / sqrt(v[i][k] + eps)
            new.append(heard)
        path.append(new)
        if t + 1 == len(p.weights):
            break
        fresh = [p.gradient(t + 1, i, new[i]) for i in range(agents)]
        heard_s = [hear(p.weights[t + 1], i, s) for i in range(agents)]
        s = [[heard_s[i][k] + fresh[i][k] - g[i][k] for k in range(dim)] for i in range(agents)]
        g = fresh
    return path


def dadam(p: Problem, lr: float, b1: float, b2: float, *, eps: float, cap: float, b3: float | None) -> list[Rows]:
    """Moments of the local gradient; with b3 the paper's filtered maximum under the root."""
    agents, dim = len(p.x0), len(p.x0[0])
    path = [[list(row) for row in p.x0]]
    m = [[0.0] * dim for _ in range(agents)]
    v = [[0.0] * dim for _ in range(agents)]
    hat = [[0.0] * dim for _ in range(agents)]
    for t, w in enumerate(p.weights):
        x = path[-1]
        new = []
        for i in range(agents):
            g = p.gradient(t, i, x[i])
            heard = hear(w, i, x)
            for k in range(dim):
                m[i][k] = b1 * m[i][k] + (1 - b1) * g[k]
                v[i][k] = min(b2 * v[i][k] + (1 - b2) * g[k] * g[k], cap)
                if b3 is None:
                    hat[i][k] = v[i][k]
                else:
                    hat[i][k] = b3 * hat[i][k] + (1 - b3) * max(hat[i][k], v[i][k])
                heard[k] -= lr * m[i][k] / sqrt(hat[i][k] + eps)
            new.append(heard)
        path.append(new)
    return path


Rate = float | Sequence[float]
"""A step size, or that of each round."""


def rate(lr: Rate, t: int) -> float:
    """That of round t."""
    return lr if isinstance(lr, float) else lr[t]


def extra(p: Problem, lr: Rate) -> list[Rows]:
    """x^1 = W x^0 - lr g^0;  x^{k+2} = (I + W) x^{k+1} - W~ x^k - (lr g^{k+1} - lr' g^k),  W~ = (I + W) / 2, lr' the rate of g^k."""
    agents, dim = len(p.x0), len(p.x0[0])
    g = [p.gradient(0, i, p.x0[i]) for i in range(agents)]
    first = []
    for i in range(agents):
        heard = hear(p.weights[0], i, p.x0)
        first.append([heard[k] - rate(lr, 0) * g[i][k] for k in range(dim)])
    path = [[list(row) for row in p.x0], first]
    for t in range(1, len(p.weights)):
        old, x = path[-2], path[-1]
        fresh = [p.gradient(t, i, x[i]) for i in range(agents)]
        new = []
        for i in range(agents):
            heard, before = hear(p.weights[t], i, x), hear(p.weights[t - 1], i, old)
            row = []
            for k in range(dim):
                moved = rate(lr, t) * fresh[i][k] - rate(lr, t - 1) * g[i][k]
                row.append(x[i][k] + heard[k] - 0.5 * (old[i][k] + before[k]) - moved)
            new.append(row)
        path.append(new)
        g = fresh
    return path


def nids(p: Problem, lr: Rate) -> list[Rows]:
    """x^1 = x^0 - lr g^0 (no mixing);  x^{k+2} = W~ (2 x^{k+1} - x^k - (lr g^{k+1} - lr' g^k)),  W~ = (I + W) / 2, lr' the rate of g^k."""
    agents, dim = len(p.x0), len(p.x0[0])
    g = [p.gradient(0, i, p.x0[i]) for i in range(agents)]
    path = [
        [list(row) for row in p.x0],
        [[p.x0[i][k] - rate(lr, 0) * g[i][k] for k in range(dim)] for i in range(agents)],
    ]
    for t in range(1, len(p.weights)):
        old, x = path[-2], path[-1]
        fresh = [p.gradient(t, i, x[i]) for i in range(agents)]
        y = [
            [2 * x[i][k] - old[i][k] - rate(lr, t) * fresh[i][k] + rate(lr, t - 1) * g[i][k] for k in range(dim)]
            for i in range(agents)
        ]
        new = []
        for i in range(agents):
            heard = hear(p.weights[t], i, y)
            new.append([0.5 * y[i][k] + 0.5 * heard[k] for k in range(dim)])
        path.append(new)
        g = fresh
    return path


def exact_diffusion(p: Problem, lr: Rate) -> list[Rows]:
    """psi^{k+1} = x^k - lr g^k;  phi = psi^{k+1} + x^k - psi^k;  x^{k+1} = W~ phi;  psi^0 = x^0."""
    agents, dim = len(p.x0), len(p.x0[0])
    path = [[list(row) for row in p.x0]]
    psi = [list(row) for row in p.x0]
    for t, w in enumerate(p.weights):
        x = path[-1]
        adapted = []
        for i in range(agents):
            g = p.gradient(t, i, x[i])
            adapted.append([x[i][k] - rate(lr, t) * g[k] for k in range(dim)])
        phi = [[adapted[i][k] + x[i][k] - psi[i][k] for k in range(dim)] for i in range(agents)]
        new = []
        for i in range(agents):
            heard = hear(w, i, phi)
            new.append([0.5 * phi[i][k] + 0.5 * heard[k] for k in range(dim)])
        path.append(new)
        psi = adapted
    return path


class Comm:
    """The COMM procedure of LEAD and CEDAS: what all take the agents' values for, copy by copy."""

    def __init__(self, compress: Callable[[list[float]], list[float]], alpha: float, agents: int, dim: int) -> None:
        self.compress, self.alpha = compress, alpha
        self.h = [[0.0] * dim for _ in range(agents)]

    def __call__(self, y: Rows) -> Rows:
        hat = []
        for i, row in enumerate(y):
            q = self.compress([a - b for a, b in zip(row, self.h[i], strict=True)])
            hat.append([a + b for a, b in zip(self.h[i], q, strict=True)])
            self.h[i] = [(1 - self.alpha) * a + self.alpha * b for a, b in zip(self.h[i], hat[i], strict=True)]
        return hat


def lead(
    p: Problem, lr: Rate, compress: Callable[[list[float]], list[float]], gamma: float, alpha: float
) -> list[Rows]:
    """Algorithm 1 of its paper: y = x - lr g - lr D;  D += gamma / (2 lr) (yhat - W yhat);  x = x - lr g - lr D.  First x^1 = x^0 - lr g^0, D = 0."""
    agents, dim = len(p.x0), len(p.x0[0])
    g = [p.gradient(0, i, p.x0[i]) for i in range(agents)]
    path = [
        [list(row) for row in p.x0],
        [[p.x0[i][k] - rate(lr, 0) * g[i][k] for k in range(dim)] for i in range(agents)],
    ]
    dual, comm = [[0.0] * dim for _ in range(agents)], Comm(compress, alpha, agents, dim)
    for t in range(1, len(p.weights)):
        x, step = path[-1], rate(lr, t)
        g = [p.gradient(t, i, x[i]) for i in range(agents)]
        hat = comm([[x[i][k] - step * g[i][k] - step * dual[i][k] for k in range(dim)] for i in range(agents)])
        heard = [hear(p.weights[t], i, hat) for i in range(agents)]
        dual = [
            [dual[i][k] + gamma / (2 * step) * (hat[i][k] - heard[i][k]) for k in range(dim)] for i in range(agents)
        ]
        path.append([[x[i][k] - step * g[i][k] - step * dual[i][k] for k in range(dim)] for i in range(agents)])
    return path


def cedas(
    p: Problem, lr: Rate, compress: Callable[[list[float]], list[float]], gamma: float, alpha: float
) -> list[Rows]:
    """Compressed exact diffusion, without the dual variable: with psi^k = x^k - lr_k g^k,

    y = psi^k + x^k - psi^{k-1},    x^{k+1} = y - (gamma / 2) (yhat - W yhat).    First x^1 = psi^0.

    The paper carries D^k = psi^{k-1} - x^k, which is what exact diffusion (EDAS, where the step size falls) corrects by: a step size that
    changes is inside psi alone. LEAD's dual is D / lr.
    """
    agents, dim = len(p.x0), len(p.x0[0])

    def adapted(t: int, x: Rows) -> Rows:
        g = [p.gradient(t, i, x[i]) for i in range(agents)]
        return [[x[i][k] - rate(lr, t) * g[i][k] for k in range(dim)] for i in range(agents)]

    before = adapted(0, p.x0)
    path, comm = [[list(row) for row in p.x0], before], Comm(compress, alpha, agents, dim)
    for t in range(1, len(p.weights)):
        x = path[-1]
        psi = adapted(t, x)
        y = [[psi[i][k] + x[i][k] - before[i][k] for k in range(dim)] for i in range(agents)]
        hat = comm(y)
        heard = [hear(p.weights[t], i, hat) for i in range(agents)]
        path.append([[y[i][k] - gamma / 2 * (hat[i][k] - heard[i][k]) for k in range(dim)] for i in range(agents)])
        before = psi
    return path
