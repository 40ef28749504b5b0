"""Functions that Triton lacks, as Triton text; a module holds those that it calls.

They are written for accuracy on the whole real line, not only where the formula of a textbook is
accurate: `expm1` is a series near 0; in `log1p` what the rounded argument loses is put back by a
quotient of two values that carry the same error (Kahan); `tanh` and `softplus` follow from them.
"""

from __future__ import annotations

HELPERS = {
    "integer": '''
def integer(x):
    """What a narrow or unsigned type holds, in a signed one of at least 32 bits to compute in."""
    if x.dtype.primitive_bitwidth < 32:
        return x.to(tl.int32)
    if x.dtype.is_int_unsigned():
        return x.to(tl.int64)
    return x
''',
    "floor_quotient": '''
def floor_quotient(x, y):
    """x // y rounded down, as Python has it; the operator of Triton rounds towards zero."""
    quotient = x // y
    return tl.where((quotient * y != x) & ((x < 0) != (y < 0)), quotient - 1, quotient)
''',
    "floor_remainder": '''
def floor_remainder(x, y):
    """x % y with the sign of y, as Python has it; the operator of Triton takes that of x."""
    remainder = x - x // y * y
    return tl.where((remainder != 0) & ((x < 0) != (y < 0)), remainder + y, remainder)
''',
    "floor_quotient_real": '''
def floor_quotient_real(x, y):
    """x // y of real numbers."""
    return tl.floor(x / y)
''',
    "floor_remainder_real": '''
def floor_remainder_real(x, y):
    """x % y of real numbers, with the sign of y."""
    return x - tl.floor(x / y) * y
''',
    "times": """
def times(x, y):
    return x * y
""",
    "larger": """
def larger(x, y):
    return tl.maximum(x, y)
""",
    "smaller": """
def smaller(x, y):
    return tl.minimum(x, y)
""",
    "either": """
def either(x, y):
    return x | y
""",
    "each": """
def each(x, y):
    return x & y
""",
    "logaddexp": '''
def logaddexp(x, y):
    """log(exp(x) + exp(y)); the larger one is taken out, unless both are minus infinity."""
    top = tl.maximum(x, y)
    base = tl.where(top == float("-inf"), 0.0, top)
    return tl.where(
        tl.abs(top) == float("inf"), top, base + tl.log(tl.exp(x - base) + tl.exp(y - base))
    )
''',
    "expm1": '''
def expm1(x):
    """exp(x) - 1; near 0 by the series of exp, x (1 + x/2 (1 + x/3 (...))), which loses nothing."""
    TERMS: tl.constexpr = 18 if x.dtype == tl.float64 else 11
    rest = 1 + x * (1.0 / TERMS)
    for k in tl.static_range(TERMS - 1, 1, -1):
        rest = 1 + rest * (x * (1.0 / k))
    return tl.where(tl.abs(x) < 1, x * rest, tl.exp(x) - 1)
''',
    "log1p": '''
def log1p(x):
    """log(1 + x) without the loss near 0 (Kahan)."""
    u = 1 + x
    return tl.where(u == 1, x, tl.where(tl.abs(x) < 1, tl.log(u) * x / (u - 1), tl.log(u)))
''',
    "tanh": '''
def tanh(x):
    """From expm1(-2|x|), which cannot overflow and keeps the digits of small x."""
    t = expm1(-2 * tl.abs(x))
    return tl.where(x < 0, t / (t + 2), -t / (t + 2))
''',
    "softplus": '''
def softplus(x):
    """log(1 + exp(x)); the exponential is taken of what is negative only."""
    return tl.maximum(x, 0.0) + log1p(tl.exp(-tl.abs(x)))
''',
    "relu": """
def relu(x):
    return tl.maximum(x, 0)
""",
    "gelu": '''
def gelu(x):
    """x times the normal distribution function of x."""
    return 0.5 * x * (1 + tl.erf(x * 0.7071067811865476))
''',
    "silu": """
def silu(x):
    return x * tl.sigmoid(x)
""",
    "elu": """
def elu(x):
    return tl.where(x > 0, x, expm1(tl.minimum(x, 0.0)))
""",
    "sign": """
def sign(x):
    return (x > 0).to(x.dtype) - (x < 0).to(x.dtype)
""",
    "round_half_even": '''
def round_half_even(x):
    """The nearest integer; of two equally near ones the even one."""
    down = tl.floor(x)
    odd = down - 2 * tl.floor(down / 2)
    rest = x - down
    return down + tl.where(rest == 0.5, odd, tl.where(rest > 0.5, 1.0, 0.0))
''',
    "clip": """
def clip(x, low, high):
    return tl.minimum(tl.maximum(x, low), high)
""",
    "repeated_product": '''
def repeated_product(x, n: tl.constexpr):
    """x to the n."""
    result = x
    for _ in tl.static_range(n - 1):
        result = result * x
    return result
''',
    "power": '''
def power(x, y):
    """x to the y: by logarithm, with the sign of a negative x under an odd y."""
    size = tl.exp2(y * tl.log2(tl.abs(x)))
    whole = tl.floor(y) == y
    odd = whole & (tl.floor(y / 2) * 2 != y)
    signed = tl.where((x < 0) & odd, -size, tl.where((x < 0) & ~whole, float("nan"), size))
    return tl.where(y == 0, 1.0, signed)
''',
    "uniform": '''
def uniform(seed, i, j, k, l):
    """A number in [0, 1) from Philox 4x32-10: the upper 24 bits of its first word."""
    i, j, k, l = _words(i, j, k, l)
    word, _, _, _ = tl.philox(seed, i, j, k, l)
    return (word >> 8).to(tl.float32) * (1 / 16777216)
''',
    "uniform_of_eight": '''
def uniform_of_eight(seed, i, j, k, l, m, n, o, p):
    """The same for more positions: the further ones are mixed into the words of the first."""
    i, j, k, l = _words(i, j, k, l)
    m, n, o, p = _words(m, n, o, p)
    i, j, k, l = tl.philox(seed, i, j, k, l)
    word, _, _, _ = tl.philox(seed, i ^ m, j ^ n, k ^ o, l ^ p)
    return (word >> 8).to(tl.float32) * (1 / 16777216)
''',
    "_words": '''
def _words(i, j, k, l):
    """The low 32 bits of four positions."""
    return (
        tl.cast(i, tl.uint32), tl.cast(j, tl.uint32), tl.cast(k, tl.uint32), tl.cast(l, tl.uint32)
    )
''',
}

NEEDS = {
    "uniform": ("_words",),
    "uniform_of_eight": ("_words",),
    "tanh": ("expm1",),
    "softplus": ("log1p",),
    "elu": ("expm1",),
}
"""The functions that a function calls."""


def helper_text(used: list[str]) -> list[str]:
    """The functions used and those that they call, each once, before their callers."""
    ordered: dict[str, None] = {}
    for name in used:
        ordered.update(dict.fromkeys((*NEEDS.get(name, ()), name)))
    return [f"@triton.jit{HELPERS[name]}".rstrip() for name in ordered]
