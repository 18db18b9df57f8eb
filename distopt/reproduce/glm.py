"""Ridge, logistic regression and the LASSO on rotationally invariant rows [gerbelot2020]: agents on a graph against the limit of many coordinates."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from distopt.algorithms.gt import GT
from distopt.api import simulate
from distopt.costs.glm import Limit, Problem, angle_error, solve, uniform
from distopt.numerics.random import Key
from distopt.reproduce import Results, Say
from distopt.reproduce.claimed import Number, above, below, near, part
from distopt.reproduce.smooth import Floats, curve
from distopt.reproduce.store import Store
from distopt.scenarios.teacher_student import TeacherStudent

REFERENCE = (
    "Gerbelot, Abbara, Krzakala: Asymptotic Errors for Teacher-Student Convex Generalized Linear Models (or: How to Prove Kabashima's Replica "
    "Formula), arXiv 2006.06581, 2020"
)
NOTE = (
    "The equations are the paper's; spectrum, penalties, noise and all other constants are ours. Five agents on a ring hold a block of rows each "
    "and solve the problem of all rows by gradient tracking. The LASSO is solved by the same method with a proximal step, and by coordinate descent."
)

DIM, TRIALS, AGENTS = 300, 16, 5
LOW, HIGH = 0.2, 2.0
"""The ends of the spectrum of F'F, where it is not 0."""
DEVIATIONS = 2
SWEEP = np.unique(np.concatenate([np.geomspace(0.2, 1.0, 40), np.geomspace(1.0, 4.0, 15)]))
"""Rows for each coordinate, of the lines."""
SOLVED = 1e-3
"""The largest distance of the agents from the minimiser, relative to its length, at which their error counts as that of the estimate."""


class Case(NamedTuple):
    """A problem, and how the agents solve it: the step size of gradient tracking, Nesterov's b, and the rounds."""

    alpha: float
    penalty: float
    lr: float
    b: float
    rounds: int


RIDGE = (
    Case(0.3, 0.1, 0.1, 0.0, 400),
    Case(0.6, 0.1, 0.1, 0.0, 400),
    Case(1.0, 0.1, 0.1, 0.0, 400),
    Case(2.0, 0.1, 0.1, 0.0, 400),
)
LOGISTIC = (
    Case(0.5, 0.1, 0.3, 0.0, 400),
    Case(1.0, 0.1, 0.3, 0.0, 400),
    Case(2.0, 0.1, 0.3, 0.0, 400),
    Case(2.0, 0.01, 0.1, 0.8, 800),
)
LASSO = (Case(0.6, 0.05, 0.3, 0.0, 1600), Case(0.8, 0.05, 0.3, 0.0, 800), Case(1.0, 0.05, 0.3, 0.0, 300))
RHO, NOISE = 0.2, 0.1
"""Of the LASSO's teacher, and of ridge and the LASSO."""


def scenario(kind: str, case: Case) -> TeacherStudent:
    """What the agents are given."""
    if kind == "logistic":
        return TeacherStudent(DIM, case.alpha, "logistic", case.penalty, LOW, HIGH, noise=0.0)
    if kind == "lasso":
        return TeacherStudent(DIM, case.alpha, "linear", 0.0, LOW, HIGH, RHO, NOISE, case.penalty)
    return TeacherStudent(DIM, case.alpha, "linear", case.penalty, LOW, HIGH, noise=NOISE)


def limit(kind: str, alpha: float, penalty: float) -> Limit:
    """The same for infinitely many coordinates.

    >>> round(limit("lasso", 0.6, 0.05).mse, 5)
    0.01721
    """
    spectrum = uniform(alpha, LOW, HIGH)
    if kind == "logistic":
        return solve(Problem(alpha, spectrum, "logistic", l2=penalty))
    if kind == "lasso":
        return solve(Problem(alpha, spectrum, l1=penalty, rho=RHO, noise=NOISE))
    return solve(Problem(alpha, spectrum, l2=penalty, noise=NOISE))


def _error(kind: str, m: Floats, q: Floats, rho: float) -> Floats:
    """What is drawn: E (x1 - x0)^2, or the part of fresh signs that are wrong."""
    if kind == "logistic":
        found: Floats = np.asarray(angle_error(m, np.maximum(q, 1e-300), rho))
        return found
    return rho - 2 * m + q


def _expected(kind: str, it: Limit) -> float:
    return it.fresh_error if kind == "logistic" else it.mse


# -------------------------------------------------------------------------------------------------------------- simulation


def simulated(kind: str, case: Case, say: Say) -> dict[str, Any]:
    """The agents' estimates: m, q and the error at the end, with standard errors over the trials, and the course of the error."""
    from distopt.directions.nesterov import Nesterov
    from distopt.directions.proximal import Proximal
    from distopt.directions.sgd import SGD

    asked = scenario(kind, case)
    direction: Any = Proximal() if kind == "lasso" else Nesterov(case.b) if case.b else SGD()
    found: Any = simulate(
        "ring",
        agents=AGENTS,
        scenario=asked,
        algorithm=GT(case.lr, form="atc", direction=direction),
        rounds=case.rounds,
        trials=TRIALS,
        record=("x",),
        agentwise=False,
    )
    key = Key(0, range(AGENTS), range(TRIALS), AGENTS)
    x0 = asked.teacher(key)[0, :, 0].numpy()
    x = np.asarray(found["x"])  # [R, T + 1, N, d]
    m, q = np.einsum("rtnd,rd->rtn", x, x0) / DIM, np.einsum("rtnd,rtnd->rtn", x, x) / DIM
    errors = _error(kind, m[:, 1:], q[:, 1:], asked.rho)  # agents start at 0, where signs have no error
    best = _minimisers(kind, case, asked, key)
    apart = float((np.linalg.norm(x[:, -1] - best[:, None], axis=-1) / np.linalg.norm(best, axis=-1)[:, None]).max())
    it = limit(kind, case.alpha, case.penalty)
    out: dict[str, Any] = {"alpha": case.alpha, "penalty": case.penalty, "apart": apart}
    for name, values, expected in (
        ("m", m[:, -1], it.x.m),
        ("q", q[:, -1], it.x.q),
        ("error", errors[:, -1], _expected(kind, it)),
    ):
        each = values.mean(-1)
        out[name] = {
            "mean": float(each.mean()),
            "error": float(each.std(ddof=1) / math.sqrt(len(each))),
            "expected": expected,
        }
    out["fitted"] = it.fitted_error
    out["course"] = curve(errors.mean((0, 2)))
    own = out["error"]
    say(
        f"{kind} alpha = {case.alpha:g}: error {own['mean']:.4f} +- {own['error']:.4f}, limit {own['expected']:.4f}; {apart:.1e} from the minimiser"
    )
    return out


def _minimisers(kind: str, case: Case, asked: TeacherStudent, key: Key) -> Floats:
    """Of all rows of a trial [R, d]: by the normal equations, by Newton's method, by coordinate descent. None of it is what the agents do."""
    b = asked.batch(torch.zeros(1, 1, 1, 1, dtype=torch.int64), key.shared)  # one agent has all rows
    X, y = b.X[0, :, 0].numpy(), b.y[0, :, 0].numpy()
    find = {"ridge": _ridge, "logistic": _logistic, "lasso": _lasso}[kind]
    return np.stack([find(F, labels, case.penalty) for F, labels in zip(X, y, strict=True)])


def _ridge(F: Floats, y: Floats, l2: float) -> Floats:
    return np.asarray(np.linalg.solve(F.T @ F + l2 * np.eye(F.shape[1]), F.T @ y), dtype=np.float64)


def _logistic(F: Floats, y: Floats, l2: float) -> Floats:
    x: Floats = np.zeros(F.shape[1])
    for _ in range(30):
        s = 1 / (1 + np.exp(y * (F @ x)))  # the chance of the other label
        bend = (F.T * (s * (1 - s))) @ F + l2 * np.eye(len(x))
        step = np.asarray(np.linalg.solve(bend, l2 * x - F.T @ (y * s)), dtype=np.float64)
        x = x - step
        if np.linalg.norm(step) < 1e-12 * (1 + np.linalg.norm(x)):
            break
    return x


def _lasso(F: Floats, y: Floats, l1: float) -> Floats:
    """Coordinate descent, until no coordinate moves."""
    gram, right = F.T @ F, F.T @ y
    x, slope = np.zeros(F.shape[1]), -right  # F' (F x - y)
    for _ in range(5000):
        largest = 0.0
        for j in range(len(x)):
            u = gram[j, j] * x[j] - slope[j]
            new = math.copysign(max(abs(u) - l1, 0.0), u) / gram[j, j]
            move = new - x[j]
            if move:
                slope += move * gram[j]
                x[j] = new
                largest = max(largest, abs(move))
        if largest < 1e-9:
            break
    return x


# ------------------------------------------------------------------------------------------------------------------- parts


def _measured(kind: str, cases: Sequence[Case], store: Store, say: Say) -> Results:
    asked = {
        "dim": DIM,
        "trials": TRIALS,
        "agents": AGENTS,
        "cases": cases,
        "spectrum": [LOW, HIGH],
        "teacher": [RHO, NOISE],
    }

    def line() -> list[float]:
        return [_expected(kind, limit(kind, float(alpha), cases[0].penalty)) for alpha in SWEEP]

    runs = store.get(f"glm-{kind}", asked, lambda: [simulated(kind, case, say) for case in cases])
    drawn = {"alpha": SWEEP.tolist(), "penalty": cases[0].penalty, "teacher": [RHO, NOISE], "spectrum": [LOW, HIGH]}
    return {"runs": runs, "line": {"alpha": SWEEP.tolist(), "error": store.get(f"glm-{kind}-line", drawn, line)}}


def ridge(store: Store, data: Path | None, say: Say) -> Results:
    """Ridge regression by the agents, for several numbers of rows."""
    return _measured("ridge", RIDGE, store, say)


def logistic(store: Store, data: Path | None, say: Say) -> Results:
    """Logistic regression on the signs of a teacher."""
    return _measured("logistic", LOGISTIC, store, say)


def lasso(store: Store, data: Path | None, say: Say) -> Results:
    """The LASSO, by proximal steps."""
    return _measured("lasso", LASSO, store, say)


WORDS = {"m": "x0 . x1 / d", "q": "|x1|² / d", "error": "|x1 - x0|² / d"}


def numbers(kind: str, results: Results) -> list[Number]:
    """m, q and the error beside the limit, and how near the agents are to the minimiser."""
    setup = f"d = {DIM}, {TRIALS} trials, {AGENTS} agents on a ring, eigenvalues from {LOW:g} to {HIGH:g}"
    words = WORDS | ({"error": "errors on fresh rows"} if kind == "logistic" else {})
    found = []
    for each in results["runs"]:
        case = f"alpha = {each['alpha']:g}, {'l1' if kind == 'lasso' else 'l2'} = {each['penalty']:g}"
        for name, text in words.items():
            own = each[name]
            found.append(
                near(
                    "the estimate has the overlaps and the error that the fixed point gives for d -> infinity",
                    setup,
                    f"{text}, {case}",
                    expected=own["expected"],
                    measured=own["mean"],
                    within=DEVIATIONS * own["error"],
                    source=f"fixed point, give or take {DEVIATIONS} standard errors",
                )
            )
        found.append(
            below(
                "agents on a graph come to the estimate of all rows, though each sees its own rows alone",
                setup,
                f"largest relative distance of an agent from the minimiser, {case}",
                bound=SOLVED,
                measured=each["apart"],
            )
        )
    return found


def ridge_numbers(results: Results) -> list[Number]:
    """See ``numbers``."""
    return numbers("ridge", results)


def lasso_numbers(results: Results) -> list[Number]:
    """See ``numbers``."""
    return numbers("lasso", results)


def logistic_numbers(results: Results) -> list[Number]:
    """See ``numbers``; and that the angle on the rows that were fitted is no error on fresh ones."""
    found = numbers("logistic", results)
    for each in results["runs"]:
        own = each["error"]
        found.append(
            above(
                "the angle between the scores of the rows that were fitted is no error on fresh rows: it is smaller",
                f"d = {DIM}, {TRIALS} trials, {AGENTS} agents on a ring",
                f"errors on fresh rows, alpha = {each['alpha']:g}, l2 = {each['penalty']:g}",
                bound=each["fitted"],
                measured=own["mean"] - DEVIATIONS * own["error"],
                source=f"the angle of the fitted rows; {DEVIATIONS} standard errors are taken off",
            )
        )
    return found


PARTS = {
    "ridge": part(
        ridge,
        ridge_numbers,
        "figures_of_glm:glm_ridge",
        "the error of ridge regression follows from the spectrum alone",
    ),
    "logistic": part(
        logistic, logistic_numbers, "figures_of_glm:glm_logistic", "so does that of logistic regression, on fresh rows"
    ),
    "lasso": part(lasso, lasso_numbers, "figures_of_glm:glm_lasso", "and that of the LASSO"),
}
