"""Reductions and choices along the last axis of an array, skipping what does not exist."""

from __future__ import annotations

from typing import Any

import numpy as np

from attnc.backends.binding import Array
from attnc.ir.algebra import MONOIDS
from attnc.ir.source import InvalidIR


def folded(op: str, data: Array, mask: Array | None) -> Array:
    """A reduction of the language; its identity where nothing exists."""
    monoid = MONOIDS[op]
    if op in ("any", "all"):
        data = data.astype(np.bool_)
    elif data.dtype.kind == "b":
        data = data.astype(np.int64)
    if data.dtype.kind == "i" and op in ("max", "min", "logsumexp"):
        # An infinity may come out; float64 holds every position beside it.
        data = data.astype(np.float64)
    if mask is not None:
        data = np.where(mask, data, np.asarray(monoid.identity).astype(data.dtype))
    return np.asarray(_reduced(op, data))


def _reduced(op: str, data: Array) -> Any:
    match op:
        case "sum":
            return np.add.reduce(np.ascontiguousarray(data), axis=-1)
        case "prod":
            return np.multiply.reduce(data, axis=-1)
        case "max":
            return np.max(data, axis=-1, initial=-np.inf)
        case "min":
            return np.min(data, axis=-1, initial=np.inf)
        case "any":
            return np.any(data, axis=-1)
        case "all":
            return np.all(data, axis=-1)
        case "logsumexp":
            top = np.max(data, axis=-1, initial=-np.inf)
            safe = np.where(np.isfinite(top), top, np.zeros((), data.dtype))
            total = np.add.reduce(np.exp(data - safe[..., None]), axis=-1)
            return safe + np.log(total)
        case _:
            raise InvalidIR(f"no rule to fold {op}")


def ordered(op: str, data: Array, mask: Array) -> tuple[Array, Array]:
    """Positions by value, in the order of a populate action, and which of them exist.

    Ties go to the smaller position; NaN follows the numbers, and what is empty comes last.
    """
    keys = data.astype(np.float64)
    descending = op in ("argtop", "argmax", "rankof")
    order = np.lexsort((-keys if descending else keys, ~mask), axis=-1)
    return order, np.take_along_axis(mask, order, axis=-1)


def taken(array: Array, places: Array) -> Array:
    """The places along the last axis, 0 or False where they lie beyond its end."""
    beyond = max(0, int(places.max(initial=-1)) + 1 - array.shape[-1])
    return np.pad(array, [(0, 0)] * (array.ndim - 1) + [(0, beyond)])[..., places]
