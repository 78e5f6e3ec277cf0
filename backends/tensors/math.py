"""Elementary functions as arithmetic that vectorises, and the C library's where none is provided.

TVM's own intrinsics become one libm call a lane (2.4 to 11 ns an element; the forms here take 0.3 to 0.5 ns with AVX-512), and it
can't vectorise the others at all. The float32 exp and log follow Cephes (S. Moshier, single precision); tanh and erf are minimax
polynomials near 0 and go through exp elsewhere. Largest errors measured against float64, in units in the last place: exp 1, log 1,
expm1 2, tanh 2, nimble_tanh 2.5, erf 2, sigmoid 2, softplus 3, mish 4 (where it is no tiny number), gelu 4 or 2**-23;
tests/backends/tensors/test_math.py holds these lines. Infinities, NaN, overflow and denormal results are as in C. float16 goes
through float32; float64 uses libm.

Where a processor has other instructions or penalties (`graphopt.backends.base.dialect.Dialect`), functions take another form,
within the same bounds. What they are made of comes from `graphopt.backends.tensors.scalar`, and has a name here too.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from graphopt.backends.base import dialect
from graphopt.backends.base.tvm_api import tirx
from graphopt.backends.tensors.opaque import opaque
from graphopt.backends.tensors.scalar import at_least as at_least
from graphopt.backends.tensors.scalar import at_most as at_most
from graphopt.backends.tensors.scalar import dtype_of as dtype_of
from graphopt.backends.tensors.scalar import fma as fma
from graphopt.backends.tensors.scalar import is_float as is_float
from graphopt.backends.tensors.scalar import is_nan as is_nan
from graphopt.backends.tensors.scalar import libm as libm
from graphopt.backends.tensors.scalar import like as like
from graphopt.backends.tensors.scalar import maximum as maximum
from graphopt.backends.tensors.scalar import minimum as minimum
from graphopt.backends.tensors.scalar import polynomial as polynomial
from graphopt.backends.tensors.scalar import reinterpret as reinterpret
from graphopt.backends.tensors.scalar import rounded_product as rounded_product
from graphopt.backends.tensors.scalar import with_sign as with_sign
from graphopt.backends.tensors.tensor import Expr, let

LOG2_E = 1.44269504088896341
LN2_HIGH, LN2_LOW = 0.693359375, -2.12194440e-4
ROUNDER = 12582912.0  # 1.5 * 2**23: adding it leaves the rounded integer in the low bits of a float32
ROUNDER_BITS = 0x4B400000


def _by_precision(name: str, x: Expr, single: Callable[[Expr], Expr], double: Callable[[Expr], Expr]) -> Expr:
    """The function ``name`` of ``x``: the device's own where it has some, else ``single`` or ``double`` of it."""
    dtype = dtype_of(x)
    if dialect.has_functions():
        single = double = lambda v: dialect.call(dtype_of(v), f"gopt_{name}", v)
    if dtype == "float64":
        return double(let(x))
    return single(let(x)) if dtype == "float32" else single(let(x.astype("float32"))).astype(dtype)


def exp(x: Expr) -> Expr:
    """e**x."""
    return _by_precision("exp", x, _exp, lambda v: libm("exp", v))


def exp_up_to_60(x: Expr) -> Expr:
    """e**x of what is known to be at most 60, or NaN: differences from a maximum, say."""
    if not dialect.current().fast_subnormals or dtype_of(x) == "float64":
        return exp(x)
    return _by_precision("exp", x, _exp_up_to_60, exp)


def expm1(x: Expr) -> Expr:
    """e**x - 1, exact near 0."""
    return _by_precision("expm1", x, _expm1, lambda v: libm("expm1", v))


def expm1_below_0(x: Expr) -> Expr:
    """e**x - 1 where x is not above 0, or NaN; anything else where it is."""
    if not dialect.current().fast_subnormals or dtype_of(x) == "float64":
        return expm1(x)
    return _by_precision("expm1", x, _expm1_below_0, expm1)


def _split_exponent(x: Expr) -> tuple[Expr, Expr, Expr]:
    """m, i, j of e**x = (1 + m) * 2**i * 2**j: two powers, because denormal results leave one exponent's range."""
    m, k = _reduced(let(at_most(at_least(x, like(-105.0, x)), like(90.0, x))))
    half = let(tirx.shift_right(k, tirx.const(1, "int32")))
    return m, half, k - half


def _reduced(x: Expr) -> tuple[Expr, Expr]:
    """m and k of e**x = (1 + m) * 2**k, for -105 <= x <= 90 or NaN."""
    m, bits = _reduced_bits(x, 0)
    return m, let(bits - tirx.const(ROUNDER_BITS, "int32"))


def _reduced_bits(x: Expr, bias: int) -> tuple[Expr, Expr]:
    """m of `_reduced`, and an integer whose low 9 bits are those of k + bias."""
    # Not tirx.round: without SSE 4.1 that is a call of the C library. Not a conversion either: it is undefined for NaN.
    rounded = let(opaque(x * like(LOG2_E, x) + like(ROUNDER + bias, x)))
    n = let(rounded - like(ROUNDER + bias, x))
    r = let(x - n * like(LN2_HIGH, x) - n * like(LN2_LOW, x))
    p = polynomial(
        r, (1.9875691500e-4, 1.3981999507e-3, 8.3334519073e-3, 4.1665795894e-2, 1.6666665459e-1, 5.0000001201e-1)
    )
    return let(p * (r * r) + r), tirx.reinterpret("int32", rounded)


def _exp_in_range(x: Expr) -> Expr:
    """e**x for -80 <= x <= 80 or NaN."""
    if dialect.current().fast_subnormals:
        return _scaled(x, 0)
    m, k = _reduced(x)
    power = let(_power_of_two(k))
    return m * power + power


def _power_of_two(k: Expr) -> Expr:
    return tirx.reinterpret("float32", tirx.shift_left(k + tirx.const(127, "int32"), tirx.const(23, "int32")))


def _low_bits_power(bits: Expr) -> Expr:
    """2**(k - 127) for the k in the low 9 bits of an integer."""
    return tirx.reinterpret("float32", tirx.shift_left(bits, tirx.const(23, "int32")))


def _scaled(x: Expr, shift: int) -> Expr:
    """e**x * 2**shift, where k of `_reduced` and k + shift are exponents of normal numbers."""
    m, bits = _reduced_bits(x, 127 + shift)
    power = let(_low_bits_power(bits))
    return m * power + power


def _exp_up_to_60(x: Expr) -> Expr:
    # subnormal results are of one rounding, by the last factor
    return _scaled(let(at_least(x, like(-105.0, x))), 32) * like(2.0**-32, x)


def _expm1_below_0(x: Expr) -> Expr:
    m, bits = _reduced_bits(let(at_least(x, like(-18.0, x))), 127)
    power = let(_low_bits_power(bits))
    return m * power + (power - like(1.0, x))


def _exp_by_halves(x: Expr) -> Expr:
    m, found = _reduced_bits(let(at_most(at_least(x, like(-105.0, x)), like(90.0, x))), 254)
    bits = let(found)
    half = let(tirx.shift_right(bits, tirx.const(1, "int32")))
    power = let(_low_bits_power(half))
    return (m * power + power) * _low_bits_power(bits - half)


def _exp(x: Expr) -> Expr:
    if dialect.current().fast_subnormals:
        return _exp_by_halves(x)
    m, i, j = _split_exponent(x)
    # 0 by a factor of 0: a product that underflows costs x86 processors 150 cycles, and masks are full of -inf
    last = tirx.Select(x < like(-104.0, x), like(0.0, x), _power_of_two(j))
    return (m + like(1.0, x)) * _power_of_two(i) * last


def _expm1(x: Expr) -> Expr:
    m, i, j = _split_exponent(x)
    a = let(_power_of_two(i))
    # ((1 + m) a - 1/b) b, which overflows no sooner than the result
    return (m * a + (a - _power_of_two(tirx.const(0, "int32") - j))) * _power_of_two(j)


def log(x: Expr) -> Expr:
    """Natural logarithm."""
    return _by_precision("log", x, _log, lambda v: libm("log", v))


def _log(x: Expr) -> Expr:

    def i32(v: int) -> Expr:
        return tirx.const(v, "int32")

    tiny = x < like(1.17549435e-38, x)
    scaled = tirx.Select(tiny, x * like(8388608.0, x), x)
    bits = tirx.reinterpret("int32", scaled)
    # mantissa in [sqrt(1/2), sqrt(2)): subtract the bits of sqrt(1/2), so that the exponent field rounds
    moved = let(bits - i32(0x3F3504F3))
    e = tirx.shift_right(moved, i32(23))
    mantissa = tirx.reinterpret("float32", (moved & i32(0x7FFFFF)) + i32(0x3F3504F3))
    n = let((e - tirx.Select(tiny, i32(23), i32(0))).astype("float32"))
    r = let(mantissa - like(1.0, x))
    z = let(r * r)
    p = polynomial(r, (7.0376836292e-2, -1.1514610310e-1, 1.1676998740e-1, -1.2420140846e-1, 1.4249322787e-1,
                       -1.6668057665e-1, 2.0000714765e-1, -2.4999993993e-1, 3.3333331174e-1))  # fmt: skip
    y = p * r * z + n * like(LN2_LOW, x) - z * like(0.5, x)
    result = r + y + n * like(LN2_HIGH, x)
    # infinity passes through; 0 and negative numbers are decided last
    result = tirx.Select(x < like(math.inf, x), result, x)
    result = tirx.Select(tirx.EQ(x, like(0.0, x)), like(-math.inf, x), result)
    return tirx.Select(x < like(0.0, x), like(math.nan, x), result)


def log1p(x: Expr) -> Expr:
    """log(1 + x) for x >= 0, exact near 0."""

    def single(v: Expr) -> Expr:
        # Kahan: log(w) * v / (w - 1) cancels the rounding of w
        w = let(v + like(1.0, v))
        d = let(opaque(w) - like(1.0, v))
        plain = tirx.Or(tirx.EQ(d, like(0.0, v)), tirx.EQ(d, like(math.inf, v)))
        return tirx.Select(plain, v, log(w) * (v / tirx.Select(plain, like(1.0, v), d)))

    return _by_precision("log1p", x, single, lambda v: libm("log1p", v))


def tanh(x: Expr) -> Expr:
    """Hyperbolic tangent."""
    return _by_precision("tanh", x, _tanh, lambda v: libm("tanh", v))


def _tanh(x: Expr) -> Expr:
    t = let(at_most(tirx.abs(x), like(10.0, x)))
    z = let(t * t)
    p = polynomial(z, (-0.005717043299227953, 0.020650586113333702, -0.05374349653720856, 0.13331490755081177,
                       -0.3333328366279602))  # fmt: skip
    near = let(p * z * x + x)
    far = let(like(1.0, x) - like(2.0, x) / (_exp_in_range(let(t + t)) + like(1.0, x)))
    return tirx.Select(t < like(0.625, x), near, with_sign(far, x))


def nimble_tanh(x: Expr) -> Expr:
    """Hyperbolic tangent with an error of up to 2.5 units in the last place in place of 2, by two thirds of the operations."""
    return _by_precision("tanh", x, _nimble_tanh, lambda v: libm("tanh", v))


def _nimble_tanh(x: Expr) -> Expr:
    # e / (e + 1), where 2 e is e**(2 |x|) - 1
    t = let(at_most(tirx.abs(x), like(9.02, x)))
    lean = dialect.current().fast_subnormals
    rounder = ROUNDER + (127 if lean else 0)
    rounded = let(opaque(t * like(2 * LOG2_E, x) + like(rounder, x)))
    n = let(rounded - like(rounder, x))
    r = let(t - n * like(LN2_HIGH / 2, x) - n * like(LN2_LOW / 2, x))
    p = polynomial(
        r,
        (4.420671612024307e-2, 1.3389946520328522e-1, 3.333471119403839e-1, 6.666608452796936e-1, 9.999998807907104e-1),
    )
    m = let(p * (r * r) + r)
    bits = tirx.reinterpret("int32", rounded)
    a = let(_low_bits_power(bits) if lean else _power_of_two(bits - tirx.const(ROUNDER_BITS, "int32")))
    e = let(m * a + (a * like(0.5, x) - like(0.5, x)))
    return with_sign(e / (e + like(1.0, x)), x)


def erf(x: Expr) -> Expr:
    """Gauss error function."""
    return _by_precision("erf", x, _erf, lambda v: libm("erf", v))


def _erf(x: Expr) -> Expr:
    t = let(at_most(tirx.abs(x), like(4.0, x)))
    z = let(t * t)
    p = polynomial(z, (-0.0006013370002619922, 0.004997995216399431, -0.026770226657390594, 0.11281926929950714,
                       -0.3761250674724579, 0.12837915122509003))  # fmt: skip
    near = let(p * x + x)
    # q(t) t is -log(1 - erf(t))
    q = polynomial(t, (-0.00021454179659485817, 0.0032195388339459896, -0.022904638200998306, 0.10528469830751419,
                       0.6357010006904602, 1.1285194158554077))  # fmt: skip
    far = let(like(1.0, x) - _exp_in_range(let(like(0.0, x) - q * t)))
    return tirx.Select(t < like(0.921875, x), near, with_sign(far, x))


_NEGATED = (1.381459878757596e-3, -8.368716575205326e-3, 4.166838899254799e-2, -1.666652113199234e-1,
            4.999999403953552e-1)  # fmt: skip
"""Of e**-r = 1 - r + p(r) r**2."""


def sigmoid(x: Expr) -> Expr:
    """1 / (1 + e**-x), exact for very negative x too; of float16 with 2 units in the last place, and 0 below -12."""
    target = dialect.current()
    if dtype_of(x) == "float16" and target.fp16 and target.fast_subnormals:
        return _half_sigmoid(let(x))
    return _by_precision("sigmoid", x, _sigmoid, _sigmoid64)


def _sigmoid(x: Expr) -> Expr:
    # 1 / (1 + e**-x) with both sides of the fraction times 2**-24, so that nothing overflows
    t = let(at_most(at_least(x, like(-104.0, x)), like(40.0, x)))
    lean = dialect.current().fast_subnormals
    rounder = ROUNDER + (127 - 24 if lean else 0)
    rounded = let(opaque(t * like(-LOG2_E, x) + like(rounder, x)))
    n = let(rounded - like(rounder, x))
    r = let(t + n * like(LN2_HIGH, x) + n * like(LN2_LOW, x))
    p = polynomial(r, _NEGATED)
    unit = like(2.0**-24, x)
    if lean:
        # e**-x is (1 - m) a / unit; where that is too large, the quotient rounds to 0
        m = let(r - p * (r * r))
        a = let(_low_bits_power(tirx.reinterpret("int32", rounded)))
        return unit / ((unit - m * a) + a)
    m = let(p * (r * r) - r)
    # e**-x is (1 + m) a / unit; the larger summand comes last
    a = let(_power_of_two(tirx.reinterpret("int32", rounded) - tirx.const(ROUNDER_BITS + 24, "int32")))
    total = (m * a + tirx.min(a, unit)) + tirx.max(a, unit)
    # 0 by a factor of 0: a quotient that underflows costs x86 processors 150 cycles
    return tirx.Select(x < like(-104.0, x), like(0.0, x), unit) / total


def _half_sigmoid(x: Expr) -> Expr:
    # as `_sigmoid`, both sides of the fraction over 4
    t = let(at_most(at_least(x, like(-12.0, x)), like(8.4, x)))
    rounder = 1.5 * 2**10 + 15 - 2
    rounded = let(opaque(t * like(-LOG2_E, x) + like(rounder, x)))
    n = let(rounded - like(rounder, x))
    r = let(t + n * like(LN2_HIGH, x) + n * like(LN2_LOW, x))
    m = let(r - (r * like(-0.16662, x) + like(0.50409, x)) * (r * r))
    a = let(tirx.reinterpret("float16", tirx.shift_left(tirx.reinterpret("int16", rounded), tirx.const(10, "int16"))))
    quotient = like(0.25, x) / ((a - m * a) + like(0.25, x))
    return tirx.Select(x < like(-12.0, x), like(0.0, x), quotient)


def _sigmoid64(x: Expr) -> Expr:
    e = let(exp(like(0.0, x) - tirx.abs(x)))
    return tirx.Select(x < like(0.0, x), e, like(1.0, x)) / (like(1.0, x) + e)


def softplus(x: Expr) -> Expr:
    """log(1 + e**x) without overflow."""

    def single(v: Expr) -> Expr:
        return at_least(v, like(0.0, v)) + log1p(exp_up_to_60(like(0.0, v) - tirx.abs(v)))

    return _by_precision("softplus", x, single, single)


def mish(x: Expr) -> Expr:
    """x * tanh(log(1 + e**x)) by one exponential: that tangent is n / (n + 2) with n = e**x * (e**x + 2)."""
    dtype = dtype_of(x)
    if dtype not in ("float32", "float64"):
        return mish(let(x.astype("float32"))).astype(dtype)
    e = let(exp_up_to_60(at_most(x, like(40.0, x))))  # from where on the quotient is 1
    n = let(e * (e + like(2.0, x)))
    return x * (n / (n + like(2.0, x)))


def gelu(x: Expr) -> Expr:
    """x times the share of the normal distribution below x."""
    if dialect.current().fast_subnormals and dtype_of(x) in ("float32", "float16"):
        return _gelu(let(x.astype("float32"))).astype(dtype_of(x))
    return like(0.5, x) * x * (like(1.0, x) + erf(let(x * like(math.sqrt(0.5), x))))


def _gelu(x: Expr) -> Expr:
    # max(x, 0) - t s with the share s = e**-(q(t) t) / 2 beyond t = |x|: no choice between two forms, and nothing cancels in the
    # tail. q is fitted for t up to 6; from 5.96 on the power, by 29 smaller than it should be, has the bits of 0.
    t = let(at_most(tirx.abs(x), like(6.0, x)))
    q = polynomial(t, (1.4702253636755813e-8, -4.583608301800268e-7, 6.11556561125326e-6, -4.422167330631055e-5,
                       1.6323482850566506e-4, 6.428067717934027e-5, -4.894523415714502e-3, 3.6403220146894455e-2,
                       3.182903230190277e-1, 7.978864908218384e-1))  # fmt: skip
    u = let(t * q)
    rounded = let(opaque(u * like(-LOG2_E, x) + like(ROUNDER + 29, x)))
    n = let(rounded - like(ROUNDER + 29, x))
    r = let(u + n * like(math.log(2), x))
    m = let(r - polynomial(r, _NEGATED) * (r * r))
    power = let(_low_bits_power(tirx.reinterpret("int32", rounded)))
    return at_least(x, like(0.0, x)) - (t * like(2.0 ** (127 - 29 - 1), x)) * let(power - m * power)


def power(x: Expr, y: Expr) -> Expr:
    """x**y of one float dtype."""
    return libm("pow", x, y)
