"""The scalar operations of the language on NumPy arrays, and rounding to its types."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from attnc.backends.binding import Array
from attnc.backends.numpy_math import rounded

Function = Callable[[list[Array]], Array]


def _sigmoid(x: Array) -> Array:
    """Without overflow on either side."""
    small = np.exp(-np.abs(x))
    one = np.ones((), x.dtype)
    return np.asarray(np.where(x >= 0, one / (one + small), small / (one + small)))


def _softplus(x: Array) -> Array:
    return np.asarray(np.maximum(x, 0) + np.log1p(np.exp(-np.abs(x))))


_erf = np.frompyfunc(math.erf, 1, 1)


def erf(x: Array) -> Array:
    """The error function, to the last digit of float64: one point at a time."""
    return np.asarray(_erf(np.asarray(x, np.float64))).astype(x.dtype)


def _chain(function: Callable[[Array, Array], Array]) -> Function:
    def apply(args: list[Array]) -> Array:
        result = args[0]
        for arg in args[1:]:
            result = function(result, arg)
        return result

    return apply


def _power(args: list[Array]) -> Array:
    """An integer to a negative integer is a fraction."""
    base, exponent = args
    if base.dtype.kind == "i" and exponent.dtype.kind == "i" and np.any(exponent < 0):
        base = base.astype(np.float64)
    return np.power(base, exponent)


def _one(function: Callable[[Array], Any]) -> Function:
    return lambda args: np.asarray(function(args[0]))


def _two(function: Callable[[Array, Array], Any]) -> Function:
    return lambda args: np.asarray(function(args[0], args[1]))


FUNCTIONS: dict[str, Function] = {
    "+": _two(np.add),
    "-": _two(np.subtract),
    "*": _two(np.multiply),
    "/": _two(np.divide),
    "//": _two(np.floor_divide),
    "%": _two(np.mod),
    "**": _power,
    "pow": _power,
    "neg": _one(np.negative),
    "==": _two(np.equal),
    "!=": _two(np.not_equal),
    "<": _two(np.less),
    "<=": _two(np.less_equal),
    ">": _two(np.greater),
    ">=": _two(np.greater_equal),
    "and": _two(np.logical_and),
    "or": _two(np.logical_or),
    "not": _one(np.logical_not),
    "exp": _one(np.exp),
    "exp2": _one(np.exp2),
    "log": _one(np.log),
    "log2": _one(np.log2),
    "log1p": _one(np.log1p),
    "expm1": _one(np.expm1),
    "sqrt": _one(np.sqrt),
    "rsqrt": _one(lambda x: np.ones((), x.dtype) / np.sqrt(x)),
    "sin": _one(np.sin),
    "cos": _one(np.cos),
    "tanh": _one(np.tanh),
    "sigmoid": _one(_sigmoid),
    "softplus": _one(_softplus),
    "relu": _one(lambda x: np.maximum(x, 0)),
    "gelu": _one(lambda x: x * (1 + erf(x / np.asarray(math.sqrt(2), x.dtype))) / 2),
    "silu": _one(lambda x: x * _sigmoid(x)),
    "elu": _one(lambda x: np.where(x > 0, x, np.expm1(np.minimum(x, 0)))),
    "erf": _one(erf),
    "abs": _one(np.abs),
    "sign": _one(np.sign),
    "floor": _one(np.floor),
    "ceil": _one(np.ceil),
    "round": _one(np.rint),
    "max": _chain(np.maximum),
    "min": _chain(np.minimum),
    "clip": lambda args: np.asarray(np.minimum(np.maximum(args[0], args[1]), args[2])),
}


def cast(data: Array, dtype: str) -> Array:
    """Data rounded to a type of the language, held in a NumPy type that can hold it."""
    match dtype:
        case "int":
            return data.astype(np.int64)
        case "bool":
            return data.astype(np.bool_)
        case "f16":
            return data.astype(np.float16)
        case "f32":
            return data.astype(np.float32)
        case "float" | "f64":
            return data.astype(np.float64) if dtype == "f64" else data
        case _:
            narrow: Array = rounded(data, dtype).astype(np.float32)
            return narrow
