"""What emitted NumPy programs call: operations of the language that NumPy lacks, and slow paths."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]
Out = Array | None


def rsqrt(x: Any, out: Out = None) -> Any:
    """1 / sqrt(x)."""
    return np.divide(1, np.sqrt(x, out=out), out=out)


def sigmoid(x: Any, out: Out = None) -> Any:
    """1 / (1 + exp(-x)); exp may overflow to infinity, whose reciprocal is the limit 0."""
    bottom = np.exp(np.negative(x, out=out), out=out)
    return np.divide(1, np.add(bottom, 1, out=out), out=out)


def silu(x: Any, out: Out = None) -> Any:
    """x * sigmoid(x); the lower bound, where it is 0 in float64 too, keeps -inf from 0 * inf."""
    x = np.maximum(x, -1e3)
    bottom = np.add(np.exp(np.negative(x, out=out), out=out), 1, out=out)
    return np.divide(x, bottom, out=out)


def softplus(x: Any, out: Out = None) -> Any:
    """log(1 + exp(x)), its exponent never positive."""
    above = np.maximum(x, 0)
    small = np.exp(np.negative(np.abs(x, out=out), out=out), out=out)
    return np.add(np.log1p(small, out=out), above, out=out)


def elu(x: Any, out: Out = None) -> Any:
    """x above 0, exp(x) - 1 below."""
    below = np.expm1(np.minimum(x, 0))
    return np.add(np.maximum(x, 0, out=out), below, out=out)


def gelu(x: Any, out: Out = None) -> Any:
    """x times the normal distribution function, by erfc so that the lower tail keeps its digits."""
    x = np.maximum(x, -40.0)
    return np.multiply(x, 0.5 * _erfc(x * -math.sqrt(0.5)), out=out)


def erf(x: Any, out: Out = None) -> Any:
    """The error function."""
    result = 1 - _erfc(np.asarray(x, np.float64))
    near = np.abs(x) <= _NEAR
    result = np.where(near, _erf_near(np.where(near, x, 0)), result)
    if out is None:
        return result
    np.copyto(out, result, casting="same_kind")
    return out


# W. J. Cody, Rational Chebyshev approximations for the error function, Math. Comp. 23 (1969), in
# the coefficients of his CALERF: relative error below 1e-15 on each of three intervals.
_NEAR = 0.46875
_NEAR_TOP = (1.85777706184603153e-1, 3.16112374387056560, 1.13864154151050156e2,
             3.77485237685302021e2, 3.20937758913846947e3)  # fmt: skip
_NEAR_BOTTOM = (1.0, 2.36012909523441209e1, 2.44024637934444173e2, 1.28261652607737228e3,
                2.84423683343917062e3)  # fmt: skip
_MIDDLE_TOP = (2.15311535474403846e-8, 5.64188496988670089e-1, 8.88314979438837594,
               6.61191906371416295e1, 2.98635138197400131e2, 8.81952221241769090e2,
               1.71204761263407058e3, 2.05107837782607147e3, 1.23033935479799725e3)  # fmt: skip
_MIDDLE_BOTTOM = (1.0, 1.57449261107098347e1, 1.17693950891312499e2, 5.37181101862009858e2,
                  1.62138957456669019e3, 3.29079923573345963e3, 4.36261909014324716e3,
                  3.43936767414372164e3, 1.23033935480374942e3)  # fmt: skip
_FAR_TOP = (1.63153871373020978e-2, 3.05326634961232344e-1, 3.60344899949804439e-1,
            1.25781726111229246e-1, 1.60837851487422766e-2, 6.58749161529837803e-4)  # fmt: skip
_FAR_BOTTOM = (1.0, 2.56852019228982242, 1.87295284992346725, 5.27905102951428412e-1,
               6.05183413124413191e-2, 2.33520497626869185e-3)  # fmt: skip


def _rational(top: tuple[float, ...], bottom: tuple[float, ...], x: Array) -> Array:
    above, below = np.full_like(x, top[0]), np.full_like(x, bottom[0])
    for a, b in zip(top[1:], bottom[1:]):
        above, below = above * x + a, below * x + b
    return above / below


def _erf_near(x: Any) -> Array:
    x = np.asarray(x, np.float64)
    result: Array = x * _rational(_NEAR_TOP, _NEAR_BOTTOM, x * x)
    return result


def _erfc(x: Any) -> Array:
    """1 - erf(x), to full relative precision also where it is small."""
    x = np.asarray(x, np.float64)
    # Beyond 27 the result is below the smallest float64; the bound keeps inf - inf away.
    y = np.minimum(np.abs(x), 27.0)
    near, far = y <= _NEAR, y > 4.0
    middle = _rational(_MIDDLE_TOP, _MIDDLE_BOTTOM, y)
    z = 1.0 / np.square(np.where(far, y, 5.0))
    tail = (1.0 / math.sqrt(math.pi) - z * _rational(_FAR_TOP, _FAR_BOTTOM, z)) * np.sqrt(z)
    # exp(-y * y) in two factors, so that the rounding of y * y is not magnified.
    coarse = np.trunc(y * 16.0) / 16.0
    scale = np.exp(-coarse * coarse) * np.exp(-(y - coarse) * (y + coarse))
    result = scale * np.where(far, tail, middle)
    result = np.where(x < 0, 2.0 - result, result)
    return np.where(near, 1.0 - _erf_near(np.where(near, x, 0.0)), result)


def divide(over: float, by: float) -> float:
    """A quotient of numbers as arrays have it: infinite or NaN where Python would raise."""
    return float(np.divide(over, by))


def laid(whole: Array, shape: tuple[int, ...], by_columns: bool) -> Array:
    """A tile at the start of a piece of scratch memory, its rows or its columns without gaps."""
    memory = whole.ravel("K")[: math.prod(shape)]
    if not by_columns:
        return memory.reshape(shape)
    return memory.reshape(*shape[:-2], shape[-1], shape[-2]).swapaxes(-1, -2)


def measured(ufunc: np.ufunc, x: Any, y: Any, out: Array) -> Any:
    """A sum or difference of integers as numbers of the type of `out`, rounded once.

    In that type where all of it is exact there, and so without a tile of integers in between.
    """
    largest = sum(int(np.abs(part).max(initial=0)) for part in (x, y))
    for kind in (out.dtype, np.dtype(np.float64)):
        if largest < 2 ** np.finfo(kind).nmant:
            parts = (np.asarray(part).astype(kind) for part in (x, y))
            return ufunc(*parts, out=out, casting="same_kind")
    np.copyto(out, ufunc(x, y), casting="unsafe")
    return out


PARTS = 16
"""Into how many parts `reduced` divides an axis: it takes a part's share more of memory."""


def reduced(ufunc: np.ufunc, x: Array, initial: Any, out: Array) -> Any:
    """A reduction along the last axis, in few long steps where the columns are without gaps.

    NumPy takes a step for every position of the axis then, each only as long as a column.
    """
    parts = PARTS if x.strides[-1] > x.strides[-2] else 1
    length = x.shape[-1] // parts
    if parts == 1 or not length:
        return ufunc.reduce(x, axis=-1, initial=initial, out=out)
    columns = x.swapaxes(-1, -2)
    whole = columns[..., : parts * length, :]
    shape = (*whole.shape[:-2], parts, length, whole.shape[-1])
    ufunc.reduce(ufunc.reduce(whole.reshape(shape), axis=-3), axis=-2, initial=initial, out=out)
    rest = columns[..., parts * length :, :]
    return ufunc(out, ufunc.reduce(rest, axis=-2, initial=initial), out=out) if rest.size else out


def logsumexp(x: Array, axes: tuple[int, ...], out: Out = None) -> Any:
    """log(sum(exp(x))) along axes; -inf where there is nothing or nothing but -inf."""
    top = np.maximum.reduce(x, axis=axes, keepdims=True, initial=-np.inf)
    safe = np.where(np.isinf(top), 0, top)
    total = np.add.reduce(np.exp(x - safe), axis=axes)
    return np.add(np.log(total), np.squeeze(safe, axis=axes), out=out)


def folded(
    combine: Callable[[Any, Any], Any], x: Array, axes: tuple[int, ...], identity: float
) -> Array:
    """A reduction of the user's own, by halves, so that few combinations stand in a row."""
    kept = [axis for axis in range(x.ndim) if axis not in axes]
    shape = [x.shape[axis] for axis in kept]
    x = x.transpose((*axes, *kept)).reshape((-1, *shape))
    if not len(x):
        return np.full(shape, identity, x.dtype)
    while len(x) > 1:
        half = len(x) // 2
        joined = combine(x[:half], x[half : 2 * half])
        x = joined if len(x) == 2 * half else np.concatenate((joined, x[2 * half :]))
    result: Array = x[0]
    return result


def gathered(view: Array, places: tuple[Any, ...], guarded: bool) -> Array:
    """The elements at some positions of the first axes; where guarded, positions may lie outside
    and give elements that nobody reads."""
    if guarded:
        if not view.size:
            shape = np.broadcast_shapes(*(np.shape(place) for place in places))
            return np.zeros((*shape, *view.shape[len(places) :]), view.dtype)
        places = tuple(np.clip(place, 0, end - 1) for place, end in zip(places, view.shape))
    result: Array = view[places]
    return result


def scattered(view: Array, places: tuple[Any, ...], values: Array, where: Any) -> None:
    """Write values at some positions of the first axes, where a condition holds."""
    free = view.ndim - len(places)
    shape = values.shape[: values.ndim - free]
    chosen = np.broadcast_to(where, shape)
    view[tuple(np.broadcast_to(place, shape)[chosen] for place in places)] = values[chosen]


FORMATS = {"bf16": (8, -126, 3.3895313892515355e38), "f8e5m2": (3, -14, 57344.0),
           "f8e4m3": (4, -6, 448.0)}  # fmt: skip
"""Digits of the significand, smallest exponent of a normal number, largest finite value."""


def rounded(x: Any, dtype: str, out: Out = None) -> Any:
    """A value rounded to a type, ties to even, and widened again.

    f8e4m3 has no infinity: what exceeds its range becomes its largest value, as on a GPU.
    """
    if dtype in ("f16", "f32", "f64"):
        result = np.asarray(x).astype({"f16": np.float16, "f32": np.float32}.get(dtype, np.float64))
    else:
        digits, least, largest = FORMATS[dtype]
        wide = np.asarray(x, np.float64)
        exponent = np.maximum(np.frexp(wide)[1] - 1, least)
        unit = np.ldexp(1.0, exponent - (digits - 1))
        result = np.where(np.isfinite(wide), np.rint(wide / unit) * unit, wide)
        beyond = np.copysign(largest if dtype == "f8e4m3" else np.inf, wide)
        result = np.where(np.abs(result) > largest, beyond, result)
    if out is None:
        return result
    np.copyto(out, result, casting="same_kind")
    return out
