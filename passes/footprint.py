"""How many elements along a rank are alive at once.

Between two passes the elements of a fiber that will be visited again must be kept (or read or
computed once more): all |r| of them, for every tensor so revisited. Within one pass only the
element at hand lives; with a partitioned rank, the tile at hand.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import prod

import sympy

from attnc.passes.count_passes import Counts, PassCount
from attnc.passes.partition import Partition
from attnc.passes.symbolic import extent_symbol


def footprint(counts: Counts, extents: Mapping[str, sympy.Expr]) -> dict[str, sympy.Expr]:
    """Live elements for each rank, per fiber set: the most over all boundaries between passes.

    A part with one pass, and the rank that it is a part of, count the product of the other parts
    that are visited within it. Sources: FuseMax (MICRO 2024), section on live footprints.
    """
    found: dict[str, sympy.Expr] = {}
    for rank, count in counts.ranks.items():
        if count.passes == 1:
            outermost = counts.outermost.get(rank, rank)
            found[rank] = _tile(outermost, counts.partitions, extents)
        else:
            found[rank] = _kept(count) * _length(rank, counts.partitions, extents)
    return found


def _extent(rank: str, extents: Mapping[str, sympy.Expr]) -> sympy.Expr:
    return extents[rank] if rank in extents else extent_symbol(rank)


def _tile(
    rank: str, partitions: tuple[Partition, ...], extents: Mapping[str, sympy.Expr]
) -> sympy.Expr:
    """The positions that one element of an outermost part stands for."""
    tiles = [
        prod((_extent(part, extents) for part in parts if part != rank), start=sympy.S.One)
        for parts in (partition.parts for partition in partitions)
        if rank in parts
    ]
    return sympy.Max(*tiles) if tiles else sympy.S.One


def _length(
    rank: str, partitions: tuple[Partition, ...], extents: Mapping[str, sympy.Expr]
) -> sympy.Expr:
    """The length of a fiber: all of the partitioned rank for its outermost part."""
    for partition in partitions:
        if partition.parts[0] == rank:
            return _extent(partition.rank, extents)
    return _extent(rank, extents)


def _kept(count: PassCount) -> int:
    """The most tensors that are revisited across one boundary between passes."""
    return max(
        sum(first <= boundary < last for first, last in count.revisited.values())
        for boundary in range(1, count.passes)
    )
