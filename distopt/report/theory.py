"""Theory for a run: the rate and the floor of its error, and a bound on its regret. Formulas and assumptions: docs/theory.md."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import theilslopes

from distopt.catalog import registry
from distopt.errors import InputError
from distopt.runs.results import Run

Floats = NDArray[np.float64]

FLOOR = 10.0
"""A curve has left its straight part where it comes this close to its least value, as a factor."""

STRAIGHT, SETTLED = 1.15, 1.2
"""How far, as factors, the slopes of a line's two halves may differ, and the medians of the last two quarters of a curve that has settled."""

FEWEST = 16
"""Values from which anything is concluded."""

POINTS = 400
"""Values that are fitted at most: all pairs of them are looked at."""


def linear_rate(values: ArrayLike, rounds: ArrayLike | None = None) -> float | None:
    """The rate rho of an error that falls like e_t = C rho^t; None if it does not.

    The curve's straight part ends where it first comes within a factor 10 of its least value, and begins half way there, when faster modes
    have died out. There log e_t has the slope log rho, the median of the slopes of all pairs of values (Theil and Sen), which a few wild
    values do not move. There is no rate if fewer than 16 values are left, if they fall by less than a factor 2, or if the slopes of the
    two halves differ by more than 15 %, as for 1/t.

    Args:
        values: the errors [k], above zero.
        rounds: their rounds [k]; 0, 1, 2, ... by default.

    Raises:
        InputError: the two are not of one length.

    >>> t = np.arange(300)
    >>> round(linear_rate(5 * 0.9**t + 1e-9), 3), linear_rate(1 / (t + 1.0))
    (0.9, None)
    """
    e, t = _curve(values, rounds)
    if len(e) < FEWEST or not np.isfinite(e).all() or not (e > 0).all():
        return None
    stop = int(np.argmax(e <= FLOOR * e.min()))
    start = stop // 2
    if stop - start < FEWEST:
        return None
    chosen = np.unique(np.linspace(start, stop - 1, min(stop - start, POINTS)).astype(int))
    t, y = t[chosen], np.log(e[chosen])
    half = len(t) // 2
    slope, first, second = (
        float(theilslopes(y[part], t[part])[0]) for part in (slice(None), slice(half), slice(half, None))
    )
    if slope >= 0 or -slope * (t[-1] - t[0]) < np.log(2) or first >= 0 or second >= 0:
        return None
    return float(np.exp(slope)) if max(first / second, second / first) <= STRAIGHT else None


def floor(values: ArrayLike) -> float | None:
    """The level at which an error has settled, for example behind a moving minimiser; None if it has not settled.

    It is the median of the last quarter. It has settled if the median of the quarter before differs by at most 20 %.

    >>> t = np.arange(400)
    >>> round(floor(0.05 + 3 * 0.9**t), 4), floor(3 * 0.99**t)
    (0.05, None)
    """
    e, _ = _curve(values, None)
    quarter = len(e) // 4
    if len(e) < FEWEST or not np.isfinite(e).all():
        return None
    before, last = float(np.median(e[-2 * quarter : -quarter])), float(np.median(e[-quarter:]))
    settled = before == last or (min(before, last) > 0 and max(before / last, last / before) <= SETTLED)
    return last if settled else None


def speed(run: Run) -> float:
    """How far the minimiser moves in a round, on average: the speed against which a floor is shown."""
    last = run["path_length"][:, -1].mean()
    return float(last) / max(int(run.rounds[-1]), 1)


def contraction(step: float, modulus: float, smoothness: float) -> float:
    """max(|1 - h mu|, |1 - h L|): by this factor at least a gradient step of size h on a cost between mu and L nears the minimiser.

    >>> contraction(0.1, modulus=1.0, smoothness=10.0), contraction(0.25, modulus=1.0, smoothness=10.0)
    (0.9, 1.5)
    """
    return max(abs(1 - step * modulus), abs(1 - step * smoothness))


def gradient_descent_bound(
    start: ArrayLike, moved: ArrayLike, step: float, modulus: float, smoothness: float
) -> Floats | None:
    """A bound on the dynamic regret of online gradient descent x_{t+1} = x_t - h grad F_t(x_t) up to each round; None if h is too large.

        e_0 = |x_0 - x*_0|,    e_t = rho e_{t-1} + |x*_t - x*_{t-1}|,    regret_t <= (L/2) sum_{s <= t} e_s^2

    rho is the ``contraction``, which must be below 1. F_t is mu-strongly convex with an L-Lipschitz gradient in every round. The recursion
    is that of [mokhtari2016]; see docs/theory.md.

    Args:
        start: e_0, [] or [R].
        moved: |x*_t - x*_{t-1}| [k] or [R, k]; that of round 0 is 0.
        step: h.
        modulus: mu.
        smoothness: L.

    >>> gradient_descent_bound(1.0, [0.0, 0.0, 0.1], step=0.5, modulus=1.0, smoothness=1.0).tolist()
    [0.5, 0.625, 0.68625]
    """
    rho = contraction(step, modulus, smoothness)
    if rho >= 1:
        return None
    e, path = np.asarray(start, np.float64), np.asarray(moved, np.float64)
    errors = np.empty(path.shape)
    for t in range(path.shape[-1]):
        e = e if t == 0 else rho * e + path[..., t]
        errors[..., t] = e
    found: Floats = 0.5 * smoothness * np.square(errors).cumsum(-1)
    return found


def bound_for(run: Run) -> tuple[Floats, str] | tuple[None, str]:
    """A bound on the dynamic regret of a run, the mean over the trials, at each recorded round [k], and its label; or None, and why.

    It is ``gradient_descent_bound``, for runs that are gradient descent on F_t: dgd with exact averages, see ``_refused``. A step of each agent
    with its own gradient is then one of size lr / N with that of F_t.
    """
    if why := _refused(run):
        return None, why
    constants, agents = run.info["constants"], int(run.info["agents"])
    modulus, smoothness = float(constants["modulus"]), float(constants["smoothness"])
    step = float(_algorithm(run).lr) / agents
    moved = np.diff(run["path_length"], axis=1, prepend=0.0)
    each = gradient_descent_bound(run["tracking_error"][:, 0], moved, step, modulus, smoothness)
    rho = contraction(step, modulus, smoothness)
    if each is None:
        return None, f"the step is too large: lr must be below {2 * agents / smoothness:.3g} for a bound (here 2 N / L)"
    return each.mean(0), f"bound for gradient descent, ρ = {rho:.6g}"


def _refused(run: Run) -> str:
    """Why no bound is known for a run; "" where one is."""
    told, constants = run.info.get("experiment", {}), run.info.get("constants", {})
    agents, every = run.info.get("agents"), told.get("every", 1)
    algorithm = _algorithm(run)
    averages = told.get("topology") == "complete" and told.get("weights") in ("metropolis", "max_degree")
    reasons = {
        "the bound is known for dgd alone": algorithm is None,
        "dgd must follow the gradient itself, without another direction rule": type(
            getattr(algorithm, "direction", None)
        ).__name__
        != "SGD",
        "the step must be a number that does not change": not isinstance(getattr(algorithm, "lr", None), int | float),
        "the channel must be exact": told.get("channel") != "exact",
        "links must not fail": bool(told.get("drop_links")),
        "messages must arrive in their round, and agents must not sleep": any(
            told.get(name) for name in ("drop_messages", "sleep", "delay")
        ),
        "agents must not leave": bool(told.get("churn")),
        "all agents must average exactly: one agent, or topology complete with metropolis weights": agents != 1
        and not averages,
        "agents must mix after their steps (dgd:form=atc); else their points differ": agents != 1
        and getattr(algorithm, "form", "") != "atc",
        "the precision must be float64": told.get("dtype") != "float64",
        "every round must be recorded (every=1)": every != 1,
        "it is not known how strongly convex and how smooth the costs are, or the scenario projects points": not {
            "modulus",
            "smoothness",
        }
        <= constants.keys(),
        "the run has no comparator": not {"path_length", "tracking_error", "dynamic_regret"} <= run.metrics.keys(),
    }
    if found := next((why for why, holds in reasons.items() if holds), ""):
        return found
    if not len(run.rounds):
        return "no round was recorded"
    apart = run["consensus_error"][:, 0] > 1e-12 * (1 + run["tracking_error"][:, 0])
    return "all agents must start at one point" if bool(apart.any()) else ""


def _algorithm(run: Run) -> Any:
    """The run's algorithm, if it is the catalogue's dgd."""
    spec = run.info.get("experiment", {}).get("algorithm")
    try:
        if isinstance(spec, str) and registry.Spec.parse(spec).name == "dgd":
            return registry.make("algorithms", spec)
    except InputError:  # of another version
        pass
    return None


def _curve(values: ArrayLike, rounds: ArrayLike | None) -> tuple[Floats, Floats]:
    e = np.asarray(values, np.float64)
    t = np.arange(len(e), dtype=np.float64) if rounds is None else np.asarray(rounds, np.float64)
    if e.ndim != 1 or e.shape != t.shape:
        raise InputError(
            f"a curve has one value for each of its rounds; there are {e.shape} values and {t.shape} rounds"
        )
    return e, t
