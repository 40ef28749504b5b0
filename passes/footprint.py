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
        if count.rank == rank:
            inner = _inner(rank, counts.partitions, extents)
            found[rank] = _alive(count, _extent(rank, extents), inner)
    for partition in counts.partitions:
        chosen = counts.ranks[partition.rank].rank
        if chosen in partition.parts:
            found[partition.rank] = found[chosen]
    return {rank: found[rank] for rank in counts.ranks}


def _extent(rank: str, extents: Mapping[str, sympy.Expr]) -> sympy.Expr:
    return extents[rank] if rank in extents else extent_symbol(rank)


def _inner(
    rank: str, partitions: tuple[Partition, ...], extents: Mapping[str, sympy.Expr]
) -> sympy.Expr:
    """The tile of an outermost part: the positions that one of its elements stands for."""
    for partition in partitions:
        if partition.parts[0] == rank:
            return prod((_extent(part, extents) for part in partition.parts[1:]), start=sympy.S.One)
    return sympy.S.One


def _alive(count: PassCount, extent: sympy.Expr, inner: sympy.Expr) -> sympy.Expr:
    """The most tensors that are revisited across one boundary, by the length of their fibers."""
    if count.passes == 1:
        return inner
    kept = max(
        sum(first <= boundary < last for first, last in count.revisited.values())
        for boundary in range(1, count.passes)
    )
    return kept * extent * inner
