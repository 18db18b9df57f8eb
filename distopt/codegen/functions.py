"""Elementary functions, built of additions, multiplications and bits: no library's own decides a bit.

Every function here errs by less than 2 units in the last place (``ndtri``: 3), in float64 and in float32, where it is computed in float64 and
rounded. There are no branches, so vectors and single numbers have the same bits. The schemes are the usual ones: an exact reduction of the
argument to a short interval (in one or two numbers), then a polynomial. The coefficients of log, sin and cos are those of Sun's fdlibm, and
those of ndtri are Wichura's [wichura1988].

``cos`` and ``sin`` keep their bound up to |x| = 10^6; beyond, they err by about 1e-22 |x|.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from fractions import Fraction

from distopt.codegen.expressions import Expr

LN2_HIGH, LN2_LOW = (
    6.93147180369123816490e-01,
    1.90821492927058770002e-10,
)  # the first ends in zeros: k times it is exact
MAGIC = 6755399441055744.0  # 1.5 2^52: adding it moves an integer into the last bits
HALF_PI = (1.57079632673412561417, 6.07710050630396597660e-11, 2.02226624879595063154e-21)  # 33 bits each but the last
TWO_THIRDS = (2 / 3, float(Fraction(2, 3) - Fraction(2 / 3)))
LOG = (
    6.666666666666735130e-01,
    3.999999999940941908e-01,
    2.857142874366239149e-01,
    2.222219843214978396e-01,
    1.818357216161805012e-01,
    1.531383769920937332e-01,
    1.479819860511658591e-01,
)
SIN = (
    -1.66666666666666324348e-01,
    8.33333333332248946124e-03,
    -1.98412698298579493134e-04,
    2.75573137070700676789e-06,
    -2.50507602534068634195e-08,
    1.58969099521155010221e-10,
)
COS = (
    4.16666666666666019037e-02,
    -1.38888888888741095749e-03,
    2.48015872894767294178e-05,
    -2.75573143513906633035e-07,
    2.08757232129817482790e-09,
    -1.13596475577881948265e-11,
)
NORMAL_NEAR = (
    (
        3.3871328727963666080e0,
        1.3314166789178437745e2,
        1.9715909503065514427e3,
        1.3731693765509461125e4,
        4.5921953931549871457e4,
        6.7265770927008700853e4,
        3.3430575583588128105e4,
        2.5090809287301226727e3,
    ),
    (
        1.0,
        4.2313330701600911252e1,
        6.8718700749205790830e2,
        5.3941960214247511077e3,
        2.1213794301586595867e4,
        3.9307895800092710610e4,
        2.8729085735721942674e4,
        5.2264952788528545610e3,
    ),
)
NORMAL_FAR = (
    (
        1.42343711074968357734e0,
        4.63033784615654529590e0,
        5.76949722146069140550e0,
        3.64784832476320460504e0,
        1.27045825245236838258e0,
        2.41780725177450611770e-1,
        2.27238449892691845833e-2,
        7.74545014278341407640e-4,
    ),
    (
        1.0,
        2.05319162663775882187e0,
        1.67638483018380384940e0,
        6.89767334985100004550e-1,
        1.48103976427480074590e-1,
        1.51986665636164571966e-2,
        5.47593808499534494600e-4,
        1.05075007164441684324e-9,
    ),
)
NORMAL_FARTHEST = (
    (
        6.65790464350110377720e0,
        5.46378491116411436990e0,
        1.78482653991729133580e0,
        2.96560571828504891230e-1,
        2.65321895265761230930e-2,
        1.24266094738807843860e-3,
        2.71155556874348757815e-5,
        2.01033439929228813265e-7,
    ),
    (
        1.0,
        5.99832206555887937690e-1,
        1.36929880922735805310e-1,
        1.48753612908506148525e-2,
        7.86869131145613259100e-4,
        1.84631831751005468180e-5,
        1.42151175831644588870e-7,
        2.04426310338993978564e-15,
    ),
)


def polynomial(x: Expr, coefficients: Sequence[float]) -> Expr:
    """c_0 + c_1 x + c_2 x^2 + ..., from the last one on."""
    pool = x.pool
    out = pool.constant(x.type, coefficients[-1])
    for each in reversed(coefficients[:-1]):
        out = pool.fma(out, x, each)
    return out


def _power_of_two(k: Expr) -> Expr:
    """2^k of a whole number k of type float64, -1022 .. 1023."""
    bits = (k + MAGIC).bits("i64")
    pool = k.pool
    return pool.make("shl", "i64", bits + 1023, pool.constant("i64", 52)).bits("f64")


def _reduced(x: Expr) -> tuple[Expr, Expr, Expr]:
    """(k, r, c): x = k ln 2 + r + c, |r| at most about 0.35 and c its rounding error."""
    pool = x.pool
    k = pool.unary("rint", x * 1.4426950408889634)
    high = pool.fma(k, -LN2_HIGH, x)
    low = k * LN2_LOW
    r = high - low
    return k, r, (high - r) - low


def _expm1_small(r: Expr, c: Expr) -> tuple[Expr, Expr]:
    """(q, r): e^(r + c) - 1 = r + q."""
    tail = polynomial(r, [float(Fraction(1, math.factorial(n))) for n in range(2, 14)])
    return r.pool.fma(r * r, tail, c + c * r), r


def exp(x: Expr) -> Expr:
    """e^x."""
    x = (x > 710.0).where(x.pool.constant("f64", 710.0), (x < -746.0).where(x.pool.constant("f64", -746.0), x))
    k, r, c = _reduced(x)
    q, r = _expm1_small(r, c)
    half = x.pool.unary("floor", k * 0.5)  # 2^k may overflow where e^x does not
    return ((1.0 + (r + q)) * _power_of_two(half)) * _power_of_two(k - half)


def expm1(x: Expr) -> Expr:
    """e^x - 1."""
    pool = x.pool
    y = (x > 710.0).where(pool.constant("f64", 710.0), (x < -60.0).where(pool.constant("f64", -60.0), x))
    k, r, c = _reduced(y)
    q, r = _expm1_small(r, c)
    half = pool.unary("floor", k * 0.5)
    one, other = _power_of_two(half), _power_of_two(k - half)
    middling = pool.fma(r, one * other, one * other - 1.0) + q * (one * other)
    large = ((1.0 + (r + q)) * one) * other
    return k.same(0.0).where(r + q, (k > 60.0).where(large, middling))


def tanh(x: Expr) -> Expr:
    """The hyperbolic tangent."""
    pool = x.pool
    size = pool.unary("abs", x)
    y = (size > 22.0).where(pool.constant("f64", 22.0), size)
    small = size < 0.26
    t = expm1(small.where(-2.0 * y, 2.0 * y))
    d = t + 2.0
    q = small.where(-t, t) / d
    left = pool.fma(-q, d, -t) - q * (
        t - (d - 2.0)
    )  # the rounding errors of the quotient and the sum, times about 1 / d
    q = small.where(q + left * (0.5 - t * (0.25 - 0.125 * t)), q)
    out = (size < 0.55).where(q, 1.0 - 2.0 / d)
    return (x < 0.0).where(-out, out)


def sigmoid(x: Expr) -> Expr:
    """1 / (1 + e^-x)."""
    e = exp(-x.pool.unary("abs", x))
    part = e / (1.0 + e)
    below = (e < 0.25).where(x.pool.fma(-e, part, e), part)
    return (x < 0.0).where(below, 1.0 / (1.0 + e))


def mantissa(x: Expr) -> tuple[Expr, Expr]:
    """(k, m): x = 2^k m with m in [sqrt(1/2), sqrt 2), for a normal number x."""
    pool = x.pool
    bits = x.bits("i64")
    shift = pool.constant("i64", 52)
    k = pool.make("shr", "i64", bits - 0x3FE6A09E667F3BCD, shift)
    m = (bits - pool.make("shl", "i64", k, shift)).bits("f64")
    return (k + 0x4338000000000000).bits("f64") - MAGIC, m


def log_near(k: Expr, f: Expr, c: Expr) -> Expr:
    """ln(2^k (1 + f)) + c."""
    s = f / (2.0 + f)
    z = s * s
    rest = z * polynomial(z, LOG)
    half = 0.5 * f * f
    return k * LN2_HIGH - ((half - (s * (half + rest) + (k * LN2_LOW + c))) - f)


def at_limits(x: Expr, zero: float, inside: Expr) -> Expr:
    """A logarithm at ``zero``, below it, at infinity and at NaN."""
    pool = x.pool
    out = x.same(math.inf).where(x, inside)
    out = x.same(zero).where(pool.constant("f64", -math.inf), out)
    return (x >= zero).where(out, pool.constant("f64", math.nan))


def log(x: Expr) -> Expr:
    """The natural logarithm."""
    tiny = x < 2.0**-1022
    k, m = mantissa(tiny.where(x * 2.0**54, x))
    k = tiny.where(k - 54.0, k)
    return at_limits(x, 0.0, log_near(k, m - 1.0, x.pool.constant("f64", 0.0)))


def log1p(x: Expr) -> Expr:
    """ln(1 + x)."""
    u = 1.0 + x
    k, m = mantissa(u)
    lost = (k > 1.0).where(1.0 - (u - x), x - (u - 1.0)) / u
    near = k.same(0.0)  # 1 + x is rounded, and x is not
    inside = log_near(k, near.where(x, m - 1.0), near.where(x.pool.constant("f64", 0.0), lost))
    return at_limits(x, -1.0, inside)


def _quadrant(x: Expr) -> tuple[Expr, Expr, Expr]:
    """(k, y, c): x = k pi / 2 + y + c, |y| at most about pi/4."""
    pool = x.pool
    k = pool.unary("rint", x * 0.6366197723675814)
    first = pool.fma(-k, HALF_PI[0], x)
    second = pool.fma(-k, HALF_PI[1], first)
    lost = pool.fma(-k, HALF_PI[1], first - second)
    y = second - k * HALF_PI[2]
    return k, y, ((second - y) - k * HALF_PI[2]) + lost


def _turned(x: Expr, quarters: int) -> Expr:
    """sin(x + quarters pi / 2)."""
    pool = x.pool
    k, y, c = _quadrant(x)
    z = y * y
    v = z * y
    sine = y - ((z * (0.5 * c - v * polynomial(z, SIN[1:])) - c) - v * SIN[0])
    half = 0.5 * z
    w = 1.0 - half
    cosine = w + (((1.0 - w) - half) + (z * (z * polynomial(z, COS)) - y * c))
    turn = (k + (MAGIC + quarters)).bits("i64")
    one, two = pool.constant("i64", 1), pool.constant("i64", 2)
    out = (turn & one).differs(0).where(cosine, sine)
    return (turn & two).differs(0).where(-out, out)


def sin(x: Expr) -> Expr:
    """The sine."""
    return _turned(x, 0)


def cos(x: Expr) -> Expr:
    """The cosine."""
    return _turned(x, 1)


def _less(coefficients: tuple[Sequence[float], Sequence[float]], constant: Fraction, slope: float) -> list[float]:
    """The numerator of one polynomial over another less constant + slope x, over the same denominator."""
    top, bottom = ([*map(Fraction, each), Fraction(0)] for each in coefficients)
    before = [Fraction(0), *bottom]
    return [float(a - constant * b - Fraction(slope) * c) for a, b, c in zip(top, bottom, before, strict=False)]


def _tail(r: Expr, lost: Expr, centre: float, rows: tuple[Sequence[float], Sequence[float]], line: float) -> Expr:
    """slope r + line + a small quotient of r - centre, for r + lost: the quotient's errors hardly count."""
    slope = 1.5 if centre < 5 else 1.4375
    top = _less(rows, Fraction(slope) * Fraction(centre) + Fraction(line), slope)
    t = r - centre
    small = line + (polynomial(t, top) / polynomial(t, rows[1]) + slope * lost)
    return r.pool.fma(r, slope, small)


def ndtri(p: Expr) -> Expr:
    """The number below which a standard normal lies with probability p [wichura1988]."""
    pool = p.pool
    q = p - 0.5
    s = 0.180625 - q * q
    near = polynomial(s, _less(NORMAL_NEAR, Fraction(5, 2), 0.0)) / polynomial(s, NORMAL_NEAR[1])
    below = q < 0.0
    w = -log(below.where(p, 1.0 - p))
    r = pool.unary("sqrt", w)
    lost = pool.fma(-r, r, w) / (2.0 * r)  # what rounding took from the root
    out = (r > 5.0).where(_tail(r, lost, 5.0, NORMAL_FARTHEST, -0.5625), _tail(r, lost, 1.6, NORMAL_FAR, -0.9375))
    out = w.same(math.inf).where(w, out)
    return (pool.unary("abs", q) <= 0.425).where(pool.fma(q, 2.5, q * near), below.where(-out, out))


def power(x: Expr, y: Expr) -> Expr:
    """x^y. Of a negative x only whole powers are numbers."""
    pool = x.pool
    size = pool.unary("abs", x)
    tiny = size < 2.0**-1022
    k, m = mantissa(tiny.where(size * 2.0**54, size))
    k = tiny.where(k - 54.0, k)
    f = m - 1.0
    d = 2.0 + f
    s = f / d  # ln m = 2 s + 2/3 s^3 + 2/5 s^5 + ..., the first two terms in two numbers each
    s_low = (pool.fma(-s, d, f) - s * (f - (d - 2.0))) / d
    z = s * s
    z_low = pool.fma(s, s, -z) + 2.0 * s * s_low
    cube = s * z
    cube_low = pool.fma(s, z, -cube) + (s * z_low + s_low * z)
    third = cube * TWO_THIRDS[0]
    third_low = pool.fma(cube, TWO_THIRDS[0], -third) + (cube * TWO_THIRDS[1] + cube_low * TWO_THIRDS[0])
    fifth = cube * z * polynomial(z, [2.0 / (2 * n + 5) for n in range(9)])
    first = k * LN2_HIGH + 2.0 * s
    high = first + third
    low = ((k * LN2_HIGH - first) + 2.0 * s) + ((first - high) + third)
    low = low + (third_low + (2.0 * s_low + (fifth + k * LN2_LOW)))
    total = high + low
    rest = (high - total) + low
    product = y * total
    error = pool.fma(y, total, -product) + y * rest
    error = (pool.unary("abs", error) < 1.0).where(error, 0.0)  # else the result is 0 or infinite
    grown = exp(product)
    out = pool.fma(grown, error, grown)
    out = (pool.unary("abs", grown) < math.inf).where(out, grown)
    whole = pool.unary("floor", y).same(y)
    odd = whole & pool.unary("floor", y * 0.5).differs(y * 0.5)
    large = pool.constant("f64", math.inf)
    out = size.same(0.0).where((y < 0.0).where(large, 0.0), out)
    out = size.same(math.inf).where((y < 0.0).where(pool.constant("f64", 0.0), large), out)
    out = (x < 0.0).where(odd.where(-out, whole.where(out, math.nan)), out)
    out = (x.differs(x) | y.differs(y)).where(x + y, out)
    return (y.same(0.0) | x.same(1.0)).where(pool.constant("f64", 1.0), out)


FUNCTIONS: dict[str, Callable[[Expr], Expr]] = {
    **{f.__name__: f for f in (exp, expm1, tanh, sigmoid, log, log1p, sin, cos)},
    "special_ndtri": ndtri,
}
"""By name."""
