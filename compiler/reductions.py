"""Own reductions tried on random values: a tree of partial results must not depend on its shape."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from random import Random

from attnc.ir.cascade import Reduction
from attnc.ir.expr import Cast, Const, Expr, Map, Param

Value = float | bool

TRIALS = 60
TOLERANCE = 1e-6
"""Relative: rounding of a sum of exponentials stays far below, a wrong law far above."""


def _power(a: float, b: float) -> float:
    return math.pow(a, b)


def _sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x)) if x >= 0 else math.exp(x) / (1 + math.exp(x))


def _softplus(x: float) -> float:
    return max(x, 0.0) + math.log1p(math.exp(-abs(x)))


def _log(x: float, function: Callable[[float], float]) -> float:
    return -math.inf if x == 0 else function(x)


_SCALAR: Mapping[str, Callable[..., Value]] = {
    "+": lambda a, b: a + b,
    "-": lambda a, b: a - b,
    "*": lambda a, b: a * b,
    "/": lambda a, b: a / b,
    "//": lambda a, b: a // b,
    "%": lambda a, b: a % b,
    "**": _power,
    "pow": _power,
    "neg": lambda a: -a,
    "==": lambda a, b: a == b,
    "!=": lambda a, b: a != b,
    "<": lambda a, b: a < b,
    "<=": lambda a, b: a <= b,
    ">": lambda a, b: a > b,
    ">=": lambda a, b: a >= b,
    "and": lambda a, b: a and b,
    "or": lambda a, b: a or b,
    "not": lambda a: not a,
    "exp": math.exp,
    "exp2": math.exp2,
    "log": lambda a: _log(a, math.log),
    "log2": lambda a: _log(a, math.log2),
    "log1p": lambda a: -math.inf if a == -1 else math.log1p(a),
    "expm1": math.expm1,
    "sqrt": math.sqrt,
    "rsqrt": lambda a: 1 / math.sqrt(a),
    "sin": math.sin,
    "cos": math.cos,
    "tanh": math.tanh,
    "sigmoid": _sigmoid,
    "softplus": _softplus,
    "relu": lambda a: max(a, 0.0),
    "gelu": lambda a: a * 0.5 * (1 + math.erf(a / math.sqrt(2))),
    "silu": lambda a: a * _sigmoid(a),
    "elu": lambda a: a if a > 0 else math.expm1(a),
    "erf": math.erf,
    "abs": abs,
    "sign": lambda a: (a > 0) - (a < 0),
    "floor": math.floor,
    "ceil": math.ceil,
    "round": round,
    "max": max,
    "min": min,
    "clip": lambda a, low, high: min(max(a, low), high),
    "present": lambda a: 1,
}


def fault(own: Reduction) -> str:
    """How a reduction breaks its laws on some values; "" if none of the trials shows it.

    The laws are x∘y = y∘x, (x∘y)∘z = x∘(y∘z) and e∘x = x, e being the identity.
    """
    try:
        identity = float(_value(own.identity, {}))
    except (ValueError, OverflowError, ZeroDivisionError):
        return f"the identity of {own.name} has no value"

    def joined(x: float, y: float) -> float:
        return float(_value(own.body, {own.x: x, own.y: y}))

    for x, y, z in _samples():
        try:
            sides = {
                f"{own.name} is not commutative": (joined(x, y), joined(y, x)),
                f"{own.name} is not associative": (
                    joined(joined(x, y), z),
                    joined(x, joined(y, z)),
                ),
                f"{_short(identity)} is no identity of {own.name}": (
                    joined(identity, x),
                    x,
                ),
            }
        except (ValueError, OverflowError, ZeroDivisionError):
            # Outside the domain of one of its functions: these values show nothing.
            continue
        for message, (left, right) in sides.items():
            if not _close(left, right):
                values = ", ".join(map(_short, (x, y, z)))
                return f"{message}: for {values} it gives {_short(left)} and {_short(right)}"
    return ""


def _samples() -> Iterator[tuple[float, float, float]]:
    """Triples of either sign, then positive ones below 1, where logarithms and roots exist."""
    rng = Random(0)
    for trial in range(TRIALS):
        low, high = ((-4.0, 4.0), (0.0, 4.0), (0.0, 1.0))[trial % 3]
        # Short decimals, so that a report of them can be read.
        x, y, z = (round(rng.uniform(low, high), 2) for _ in range(3))
        yield x, y, z


def _close(left: float, right: float) -> bool:
    if math.isnan(left) or math.isnan(right):
        return True
    return left == right or abs(left - right) <= TOLERANCE * max(1.0, abs(left), abs(right))


def _short(value: float) -> str:
    return f"{value:.6g}"


def _value(expr: Expr, values: Mapping[str, float]) -> Value:
    """The value of a scalar expression. Raises ValueError outside the domain of a function."""
    match expr:
        case Const(value):
            return value
        case Param(name):
            return values[name]
        case Cast(_, body):
            return _value(body, values)
        case Map("select", (condition, first, second)):
            return _value(first if _value(condition, values) else second, values)
        case Map(op, args) if op in _SCALAR:
            return _SCALAR[op](*(_value(arg, values) for arg in args))
        case _:
            raise ValueError
