"""Rarer elementary functions: the arc tangent, the error function, and logarithms to the bases 2 and 10.

As those of ``distopt.codegen.functions`` they are free of branches and err by less than 2 units in the last place (``erfc``: 3). The
coefficients are those of Sun's fdlibm.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from distopt.codegen.expressions import Expr
from distopt.codegen.functions import at_limits, exp, log_near, mantissa, polynomial

ATAN = (
    3.33333333333329318027e-01,
    -1.99999999998764832476e-01,
    1.42857142725034663711e-01,
    -1.11111104054623557880e-01,
    9.09088713343650656196e-02,
    -7.69187620504482999495e-02,
    6.66107313738753120669e-02,
    -5.83357013379057348645e-02,
    4.97687799461593236017e-02,
    -3.65315727442169155270e-02,
    1.62858201153657823623e-02,
)
TURNS = (  # from which |x| on, and the angle c in two numbers: atan x = c + atan((x - tan c) / (1 + x tan c))
    (7 / 16, 0.5, 4.63647609000806093515e-01, 2.26987774529616870924e-17),
    (11 / 16, 1.0, 7.85398163397448278999e-01, 3.06161699786838301793e-17),
    (19 / 16, 1.5, 9.82793723247329054082e-01, 1.39033110312309984516e-17),
)
QUARTER = 39 / 16, 1.57079632679489655800e00, 6.12323399573676603587e-17
NEAR = (
    (
        1.28379167095512558561e-01,
        -3.25042107247001499370e-01,
        -2.84817495755985104766e-02,
        -5.77027029648944159157e-03,
        -2.37630166566501626084e-05,
    ),
    (
        1.0,
        3.97917223959155352819e-01,
        6.50222499887672944485e-02,
        5.08130628187576562776e-03,
        1.32494738004321644526e-04,
        -3.96022827877536812320e-06,
    ),
)
ABOUT_ONE = 8.45062911510467529297e-01
MIDDLE = (
    (
        -2.36211856075265944077e-03,
        4.14856118683748331666e-01,
        -3.72207876035701323847e-01,
        3.18346619901161753674e-01,
        -1.10894694282396677476e-01,
        3.54783043256182359371e-02,
        -2.16637559486879084300e-03,
    ),
    (
        1.0,
        1.06420880400844228286e-01,
        5.40397917702171048937e-01,
        7.18286544141962662868e-02,
        1.26171219808761642112e-01,
        1.36370839120290507362e-02,
        1.19844998467991074170e-02,
    ),
)
FAR = (
    (
        -9.86494403484714822705e-03,
        -6.93858572707181764372e-01,
        -1.05586262253232909814e01,
        -6.23753324503260060396e01,
        -1.62396669462573470355e02,
        -1.84605092906711035994e02,
        -8.12874355063065934246e01,
        -9.81432934416914548592e00,
    ),
    (
        1.0,
        1.96512716674392571292e01,
        1.37657754143519042600e02,
        4.34565877475229228821e02,
        6.45387271733267880336e02,
        4.29008140027567833386e02,
        1.08635005541779435134e02,
        6.57024977031928170135e00,
        -6.04244152148580987438e-02,
    ),
)
FARTHEST = (
    (
        -9.86494292470009928597e-03,
        -7.99283237680523006574e-01,
        -1.77579549177547519889e01,
        -1.60636384855821916062e02,
        -6.37566443368389627722e02,
        -1.02509513161107724954e03,
        -4.83519191608651397019e02,
    ),
    (
        1.0,
        3.03380607434824582924e01,
        3.25792512996573918826e02,
        1.53672958608443695994e03,
        3.19985821950859553908e03,
        2.55305040643316442583e03,
        4.74528541206955367215e02,
        -2.24409524465858183362e01,
    ),
)
LOG2_E = 1.4426950408889634, 2.0355273740931033e-17
LOG10_E = 4.34294481903251816668e-01
LOG10_2 = 3.01029995663611771306e-01, 3.69423907715893078616e-13


def atan(x: Expr) -> Expr:
    """The arc tangent."""
    pool = x.pool
    size = pool.unary("abs", x)
    top, bottom = size, pool.constant("f64", 1.0)
    high = low = pool.constant("f64", 0.0)
    for least, tangent, angle, rest in TURNS:
        far = size >= least
        top, bottom = far.where(size - tangent, top), far.where(1.0 + size * tangent, bottom)
        high, low = (far.where(pool.constant("f64", each), old) for each, old in ((angle, high), (rest, low)))
    least, angle, rest = QUARTER
    far = size >= least
    top, bottom = far.where(pool.constant("f64", -1.0), top), far.where(size, bottom)
    high, low = (far.where(pool.constant("f64", each), old) for each, old in ((angle, high), (rest, low)))
    t = top / bottom
    z = t * t
    found = high - ((t * (z * polynomial(z, ATAN)) - low) - t)
    return (x < 0.0).where(-found, x.same(0.0).where(x, found))


def _quotient(z: Expr, rows: tuple[Sequence[float], Sequence[float]]) -> Expr:
    return polynomial(z, rows[0]) / polynomial(z, rows[1])


def _beyond(size: Expr) -> Expr:
    """1 - erf(|x|) from 1.25 on."""
    pool = size.pool
    s = 1.0 / (size * size)
    rest = (size < 1 / 0.35).where(_quotient(s, FAR), _quotient(s, FARTHEST))
    short = (size.bits("i64") & pool.constant("i64", -(2**32))).bits("f64")  # its square is exact
    return exp(-short * short - 0.5625) * exp((short - size) * (short + size) + rest) / size


def erf(x: Expr) -> Expr:
    """The error function."""
    size = x.pool.unary("abs", x)
    near = x + x * _quotient(x * x, NEAR)
    out = (size < 1.25).where(ABOUT_ONE + _quotient(size - 1.0, MIDDLE), 1.0 - _beyond(size))
    out = (size >= 6.0).where(x.pool.constant("f64", 1.0), out)
    return (size < 0.84375).where(near, (x < 0.0).where(-out, out))


def erfc(x: Expr) -> Expr:
    """1 less the error function."""
    size = x.pool.unary("abs", x)
    y = x * _quotient(x * x, NEAR)
    near = (x < 0.25).where(1.0 - (x + y), 0.5 - ((x - 0.5) + y))
    part = _quotient(size - 1.0, MIDDLE)
    middle = (x < 0.0).where(1.0 + (ABOUT_ONE + part), (1.0 - ABOUT_ONE) - part)
    beyond = (size < 28.0).where(_beyond(size), 0.0)
    out = (size < 1.25).where(middle, (x < 0.0).where(2.0 - beyond, beyond))
    return (size < 0.84375).where(near, x.differs(x).where(x, out))


def _normal(x: Expr) -> tuple[Expr, Expr]:
    """(k, ln m): x = 2^k m."""
    tiny = x < 2.0**-1022
    k, m = mantissa(tiny.where(x * 2.0**54, x))
    zero = x.pool.constant("f64", 0.0)
    return tiny.where(k - 54.0, k), log_near(zero, m - 1.0, zero)


def log2(x: Expr) -> Expr:
    """The logarithm to the base 2; exact for its powers."""
    k, part = _normal(x)
    return at_limits(x, 0.0, k + x.pool.fma(part, LOG2_E[0], part * LOG2_E[1]))


def log10(x: Expr) -> Expr:
    """The logarithm to the base 10."""
    k, part = _normal(x)
    return at_limits(x, 0.0, (k * LOG10_2[1] + part * LOG10_E) + k * LOG10_2[0])


FUNCTIONS: dict[str, Callable[[Expr], Expr]] = {f.__name__: f for f in (atan, erf, erfc, log2, log10)}
"""By name."""
