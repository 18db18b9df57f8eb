"""Limits of estimators of generalised linear models for very many rows and coordinates: a fixed point of a few numbers.

A teacher x0 in R^N has independent coordinates. Its labels are y = z0 + noise, or y = sign(z0 + noise), where z0 = F x0 and F is M x N. The
estimate is

    x1 = argmin_x sum_k g((F x)_k, y_k) + sum_j f(x_j),

with g the squared loss (z - y)^2 / 2 or the logistic loss log(1 + exp(-y z)), and f = l2 x^2 / 2 or l1 |x|. F = U D V' is rotationally invariant:
U and V are uniform on the orthogonal matrices, and only the eigenvalues lam of F'F are given, N in number. Where M < N at least N - M of them are 0.
For N -> infinity at alpha = M / N the means m = x0 . x1 / N and q = |x1|^2 / N tend to numbers that follow from the eigenvalues alone
[gerbelot2020]. ``solve`` finds them.

Each of x and z = F x has three numbers (Q, m, X). The rest of the problem acts on it like h = (m x0 + sqrt(X) xi) / Q with a penalty Q
(x - h)^2 / 2, xi standard normal. The minimiser of penalty and own cost is x1 = prox(h), with the means m = E x0 x1, chi = E prox' / Q and q = E
x1^2. They become numbers of the other side by

    Q' = 1 / chi - Q,     m' = m / (rho chi) - m_before,     X' = q / chi^2 - m^2 / (rho chi^2) - X,

where rho = E x0^2 for x, and rho_z = rho E[lam] / alpha for z. On that side all is Gaussian: with D = Q'_x + lam Q'_z, K = m'_x + lam m'_z and
S = X'_x + lam X'_z

    x:  m = rho E[K / D],               chi = E[1 / D],             q = E[S / D^2] + rho E[K^2 / D^2],
    z:  m = rho E[lam K / D] / alpha,   chi = E[lam / D] / alpha,   q = (E[lam S / D^2] + rho E[lam K^2 / D^2]) / alpha,

and the same three formulas lead back. Each number is replaced by the mean of its new and its old value, until nothing
changes.

All numbers are without units: coordinates of the teacher have the variance rho, and F'F the eigenvalues lam.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit, ndtr

from distopt.errors import InputError, RunError

Floats = NDArray[np.float64]
Loss = Literal["squared", "logistic"]
LOSSES: tuple[Loss, ...] = ("squared", "logistic")

DAMPING = 0.5
ITERATIONS, ENOUGH = 5000, 1e-12
NODES = 64
"""Of the spectrum's quadrature."""
WIDTH, POINTS = 10.0, 801
"""Standard deviations, to both sides, and points of the integrals over a normal variable. The rule of trapezoids is exact there to rounding."""


class Spectrum(NamedTuple):
    """Eigenvalues of F'F: their values, and the part of all N of them that lies at each. The parts sum to 1."""

    values: Floats
    parts: Floats

    def mean(self, of: Floats) -> float:
        """The mean over the eigenvalues, of numbers at each value."""
        return float(self.parts @ of)


def uniform(alpha: float, low: float, high: float) -> Spectrum:
    """min(M, N) eigenvalues that are uniform between ``low`` and ``high``, and N - M zeros if M < N.

    >>> spectrum = uniform(0.6, 0.2, 2.0)
    >>> round(spectrum.mean(spectrum.values), 6), round(float(spectrum.parts[0]), 6)
    (0.66, 0.4)
    """
    x, w = np.polynomial.legendre.leggauss(NODES)
    values, parts = low + (high - low) * (x + 1) / 2, w / 2
    zeros = max(0.0, 1 - alpha)
    return Spectrum(np.concatenate([[0.0], values]), np.concatenate([[zeros], (1 - zeros) * parts]))


def marchenko_pastur(alpha: float) -> Spectrum:
    """The eigenvalues of F'F for F of independent normal entries of variance 1 / M: the model without a rotation of its own.

    >>> spectrum = marchenko_pastur(2.0)
    >>> round(spectrum.mean(spectrum.values), 6), round(spectrum.mean(spectrum.values**2), 6)
    (1.0, 1.5)
    """
    count = 400
    angle = (
        np.pi * (np.arange(count) + 0.5) / count
    )  # lam = middle + half cos(angle): the density is smooth and periodic in the angle
    middle, half = 1 + 1 / alpha, 2 / math.sqrt(alpha)
    values = middle + half * np.cos(angle)
    parts = alpha * half**2 / (2 * count) * np.sin(angle) ** 2 / values
    zeros = max(0.0, 1 - alpha)
    return Spectrum(np.concatenate([[0.0], values]), np.concatenate([[zeros], parts]))


@dataclass(frozen=True)
class Problem:
    """A generalised linear model in the limit of many rows and coordinates.

    Attributes:
        alpha: M / N, rows for each coordinate, above 0.
        spectrum: the eigenvalues of F'F.
        loss: of a row, "squared" or "logistic".
        l2, l1: the ridge parameter, and that of the LASSO. One of them is 0, the other is above 0.
        rho: the part of the teacher's coordinates that are not 0. Those are standard normal, so E x0^2 = rho.
        noise: standard deviation of what is added to z0, before the sign is taken for the logistic loss.

    Raises:
        InputError: for a number out of range, or two penalties.
    """

    alpha: float
    spectrum: Spectrum
    loss: Loss = "squared"
    l2: float = 0.0
    l1: float = 0.0
    rho: float = 1.0
    noise: float = 0.0

    def __post_init__(self) -> None:
        if self.loss not in LOSSES:
            raise InputError(f"glm: loss={self.loss!r} must be one of {', '.join(LOSSES)}")
        if not (self.alpha > 0 and 0 < self.rho <= 1 and self.noise >= 0 and math.isfinite(self.alpha + self.noise)):
            raise InputError("glm: alpha must be above 0, rho in (0, 1], and noise at least 0")
        if min(self.l1, self.l2) != 0 or not 0 < max(self.l1, self.l2) < math.inf:
            raise InputError("glm: one of l1 and l2 must be above 0, and the other one 0")

    @property
    def rho_z(self) -> float:
        """E z0^2."""
        return self.rho * self.spectrum.mean(self.spectrum.values) / self.alpha


class Overlaps(NamedTuple):
    """m = E x0 x1, chi = E prox' / Q, and q = E x1^2; or those of z."""

    m: float
    chi: float
    q: float


class State(NamedTuple):
    """Q, m and X of what one side looks like to the other."""

    Q: float
    m: float
    X: float


@dataclass(frozen=True)
class Limit:
    """What an estimate comes to.

    Attributes:
        x: of the estimate. ``mse`` = E (x1 - x0)^2 = rho - 2 m + q.
        z: of its scores on the rows that it was fitted to.
        rho, rho_z, noise: of the problem.
        iterations: how many were made.
    """

    x: Overlaps
    z: Overlaps
    rho: float
    rho_z: float
    noise: float
    iterations: int

    @property
    def mse(self) -> float:
        """E (x1 - x0)^2."""
        return self.rho - 2 * self.x.m + self.x.q

    @property
    def fresh_error(self) -> float:
        """The part of the signs of NEW rows that the estimate gets wrong.
        They do not depend on the length of x1: only the angle between x0 and x1 counts."""
        return float(angle_error(self.x.m, self.x.q, self.rho, self.rho_z, self.noise))

    @property
    def fitted_error(self) -> float:
        """The angle between z0 and z1, by pi: on the rows that the estimate was fitted to. It is smaller than the error on new rows."""
        return math.acos(self.z.m / math.sqrt(self.rho_z * self.z.q)) / math.pi


def angle_error(
    m: float | Floats, q: float | Floats, rho: float, rho_z: float = 1.0, noise: float = 0.0
) -> float | Floats:
    """acos(m / sqrt(rho q)) / pi, the part of the new rows on whose sign x0 and x1 do not agree; with noise of that standard deviation in the labels.

    >>> angle_error(0.0, 1.0, 1.0), round(angle_error(1.8524, 4.6046, 1.0), 3)
    (0.5, 0.168)
    """
    cosine = m / np.sqrt(rho * q) * math.sqrt(rho_z / (rho_z + noise**2))
    found: Floats = np.arccos(np.clip(cosine, -1, 1)) / math.pi
    return float(found) if found.ndim == 0 else found


def solve(problem: Problem) -> Limit:
    """The fixed point, to eight digits.

    Raises:
        RunError: it was not reached, as where there is no minimiser.

    >>> ridge = solve(Problem(alpha=0.6, spectrum=uniform(0.6, 0.2, 2.0), l2=0.1, noise=0.1))
    >>> round(ridge.x.m, 3), round(ridge.x.q, 3), round(ridge.mse, 4)
    (0.535, 0.485, 0.4151)
    """
    rho, rho_z = problem.rho, problem.rho_z
    x, z = State(1.0, 0.1, 1.0), State(1.0, 0.1, 1.0)
    inside = {"squared": _squared, "logistic": _logistic}[problem.loss]
    for iteration in range(1, ITERATIONS + 1):
        try:
            with np.errstate(all="ignore"):
                of_x, of_z = _penalised(x, problem), inside(z, problem)
                seen_x, seen_z = _across(of_x, x, rho), _across(of_z, z, rho_z)
                back_x, back_z = _linear(seen_x, seen_z, problem)
                new_x, new_z = _across(back_x, seen_x, rho), _across(back_z, seen_z, rho_z)
        except (
            ArithmeticError,
            ValueError,
        ):  # a root of a negative number, or a division by 0: the iteration has left its domain
            break
        change = max(abs(a - b) / (1 + abs(b)) for a, b in zip((*new_x, *new_z), (*x, *z), strict=True))
        if change < ENOUGH:
            return Limit(of_x, of_z, rho, rho_z, problem.noise, iteration)
        x, z = _between(x, new_x), _between(z, new_z)
        if not all(map(math.isfinite, (*x, *z))):
            break
    raise RunError(
        f"glm: no fixed point in {iteration} iterations; give a larger penalty, or a smaller one where it makes all coordinates 0"
    )


def _between(old: State, new: State) -> State:
    return State(*(DAMPING * b + (1 - DAMPING) * a for a, b in zip(old, new, strict=True)))


def _across(of: Overlaps, own: State, rho: float) -> State:
    """The parameters (Q, m, X) that a side with these means gives to the other side."""
    return State(
        1 / of.chi - own.Q,
        of.m / (rho * of.chi) - own.m,
        of.q / of.chi**2 - of.m**2 / (rho * of.chi**2) - own.X,
    )


def _linear(x: State, z: State, problem: Problem) -> tuple[Overlaps, Overlaps]:
    """The means of x and of z = F x where both look Gaussian."""
    lam, mean, rho = problem.spectrum.values, problem.spectrum.mean, problem.rho
    D, K, S = x.Q + lam * z.Q, x.m + lam * z.m, x.X + lam * z.X

    def means(by: Floats | float) -> Overlaps:
        square = mean(by * S / D**2) + rho * mean(by * K**2 / D**2)
        return Overlaps(rho * mean(by * K / D), mean(by / D), square)

    return means(1.0), Overlaps(*(each / problem.alpha for each in means(lam)))


def _penalised(own: State, problem: Problem) -> Overlaps:
    """The means of x1 = prox(h) for the penalty, h = (m x0 + sqrt(X) xi) / Q, in closed form."""
    Q, m, X = own
    rho, l1, l2 = problem.rho, problem.l1, problem.l2
    if l2:  # x1 = Q h / (Q + l2)
        return Overlaps(m * rho / (Q + l2), 1 / (Q + l2), (m * m * rho + X) / (Q + l2) ** 2)
    # x1 = sign(h) max(|h| - l1 / Q, 0); h is normal, with a variance for each of the two kinds of coordinates
    inside = [(rho, math.sqrt(m * m + X) / Q), (1 - rho, math.sqrt(X) / Q)]
    shares, squares = [], []
    for part, deviation in inside:
        a = l1 / Q / deviation
        tail, density = float(ndtr(-a)), math.exp(-a * a / 2) / math.sqrt(2 * math.pi)
        shares.append(2 * part * tail)  # E prox'
        squares.append(2 * part * deviation**2 * ((1 + a * a) * tail - a * density))
    return Overlaps(m / Q * shares[0], sum(shares) / Q, sum(squares))  # Stein: E x0 prox(h) = cov(x0, h) E prox'


def _squared(own: State, problem: Problem) -> Overlaps:
    """The means of z1 = (Q h + y) / (Q + 1), y = z0 + noise."""
    Q, m, X = own
    rho_z = problem.rho_z
    square = (m + 1) ** 2 * rho_z + X + problem.noise**2
    return Overlaps((m + 1) * rho_z / (Q + 1), 1 / (Q + 1), square / (Q + 1) ** 2)


def _logistic(own: State, problem: Problem) -> Overlaps:
    """The means of z1 = argmin log(1 + exp(-y z)) + Q (z - h)^2 / 2, y = sign(z0 + noise).

    Both labels are symmetric, so y = 1 counts twice. Given h, z0 is normal: what remains is one integral over h.
    """
    Q, m, X = own
    rho_z = problem.rho_z
    deviation = math.sqrt(m * m * rho_z + X) / Q
    h, weight = _normal(deviation)
    about = m * rho_z / (Q * deviation**2) * h  # E[z0 | h]
    left = rho_z - (m * rho_z / Q / deviation) ** 2  # var(z0 | h)
    spread = math.sqrt(left + problem.noise**2)
    chance = ndtr(about / spread)  # of y = 1
    density = np.exp(-((about / spread) ** 2) / 2) / math.sqrt(2 * math.pi)
    with_z0 = about * chance + left / spread * density  # E[z0, y = 1 | h]
    z1 = _near(h, Q)
    bend = expit(z1) * expit(-z1)

    def mean(of: Floats) -> float:
        return 2 * float(weight @ of)

    return Overlaps(mean(with_z0 * z1), mean(chance / (Q + bend)), mean(chance * z1**2))


def _normal(deviation: float) -> tuple[Floats, Floats]:
    """Places and weights of the integral over a normal variable."""
    xi = np.linspace(-WIDTH, WIDTH, POINTS)
    weight = np.exp(-(xi**2) / 2)
    return deviation * xi, weight / weight.sum()


def _near(h: Floats, Q: float) -> Floats:
    """argmin_z log(1 + exp(-z)) + Q (z - h)^2 / 2: the root of Q (z - h) = 1 / (1 + exp(z)), between h and h + 1 / Q.

    Newton's steps, with bisection if a step would leave the bracket of the root.
    """
    low, high = h.copy(), h + 1 / Q
    z = (low + high) / 2
    for _ in range(200):
        slope = Q * (z - h) - expit(-z)  # rises with z
        low, high = np.where(slope < 0, z, low), np.where(slope < 0, high, z)
        step = z - slope / (Q + expit(z) * expit(-z))
        new = np.where((step > low) & (step < high), step, (low + high) / 2)
        done = bool((np.abs(new - z) <= 1e-14 * (1 + np.abs(z))).all())
        z = new
        if done:
            break
    return z
