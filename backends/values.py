"""Arrays whose axes are named by ranks, with the points that exist."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from attnc.backends.binding import Array


@dataclass(frozen=True, slots=True)
class Val:
    """Data with one axis a rank (of size 1 where it does not vary), and where it exists.

    None for a mask says that all of it does.
    """

    ranks: tuple[str, ...]
    data: Array
    mask: Array | None = None


def union(values: Sequence[Val]) -> tuple[str, ...]:
    """The ranks of several values, in the order in which they appear."""
    return tuple(dict.fromkeys(rank for value in values for rank in value.ranks))


def aligned(value: Val, ranks: tuple[str, ...]) -> tuple[Array, Array | None]:
    """Data and mask with one axis for each of the ranks, of size 1 where it does not vary."""
    if value.ranks == ranks:
        return value.data, value.mask
    order = [value.ranks.index(rank) for rank in ranks if rank in value.ranks]
    where = tuple(slice(None) if rank in value.ranks else None for rank in ranks)
    mask = value.mask
    if mask is not None:
        mask = np.broadcast_to(mask, value.data.shape).transpose(order)[where]
    return np.asarray(value.data).transpose(order)[where], mask


def joint(masks: Iterable[Array | None]) -> Array | None:
    """The conjunction of masks, None being the one that holds everywhere."""
    result: Array | None = None
    for mask in masks:
        if mask is not None:
            result = mask if result is None else result & mask
    return result


def truth(value: Val) -> Val:
    """A predicate as an array of truth values; where it is empty it fails."""
    data = value.data.astype(np.bool_)
    return Val(value.ranks, data if value.mask is None else data & value.mask)


def conjunction(left: Val, right: Val) -> Val:
    """Where two arrays of truth values both hold."""
    ranks = union([left, right])
    return Val(ranks, aligned(left, ranks)[0] & aligned(right, ranks)[0])


def restricted(value: Val, predicate: Val) -> Val:
    """A value at the points where a predicate holds."""
    test = truth(predicate)
    if test.data.all():
        return value
    ranks = union([value, test])
    data, mask = aligned(value, ranks)
    allowed = aligned(test, ranks)[0]
    shape = np.broadcast_shapes(data.shape, allowed.shape)
    return Val(
        ranks,
        np.broadcast_to(data, shape),
        np.broadcast_to(allowed if mask is None else allowed & mask, shape),
    )
