"""Ranks whose positions a kernel computes apart from one another.

    loop t1, carrying S[d, f]:
        O[t0, f] = Q[t0, d] * S[d, f]                          d: no, a product sums over it
        S        = exp(A[d]) * S[d, f] + K[t0, d] * V[t0, f]   f: yes

Blocks of such a rank can be instances of the grid; what lacks the rank each computes again.
"""

from __future__ import annotations

from collections.abc import Mapping

from attnc.ir.tile import Contract, Fold, Kernel, Loop, Scan, Segment, Statement, Store
from attnc.ir.tile_facts import every, reads, tiles

Ranks = tuple[str, ...]


def columns(kernel: Kernel) -> Ranks:
    """The ranks, whole within a tile, that all stored tiles have and no statement sums or turns."""
    statements = tuple(every(kernel.body))
    stored = [own.source.ranks for own in statements if isinstance(own, Store)]
    summed = {rank for own in statements for rank in _summed(own)}
    whole = (axis.rank for axis in kernel.axes if axis.size is None)
    return tuple(
        rank
        for rank in whole
        if rank not in summed
        and all(rank in ranks for ranks in stored)
        and _stands(rank, kernel.body, {}) is not None
    )


def _summed(statement: Statement) -> Ranks:
    match statement:
        case Contract(over=over):
            return (over,)
        case Fold(over=ranks):
            return ranks
        case Scan(over=over, along=along):
            return (over, along)
        case _:
            return ()


def _place(rank: str, ranks: Ranks) -> int | None:
    return ranks.index(rank) if rank in ranks else None


Places = Mapping[str, int | None]
"""Which axis of each tile a rank is."""


def _stands(rank: str, body: tuple[Statement, ...], outside: Places) -> Places | None:
    """The axis that a rank is of each tile; None where a reader calls the axis something else."""
    known = dict(outside)
    for statement in body:
        match statement:
            case Loop(_, carried, segments):
                own = tiles(*(state.init for state in carried))
                if any(known[tile.name] != _place(rank, tile.ranks) for tile in own):
                    return None
                known |= {state.name: _place(rank, state.ranks) for state in carried}
                for segment in segments:
                    inside = _stands(rank, segment.body, known)
                    if inside is None or not _carried_on(statement, segment, inside):
                        return None
            case _:
                for tile in reads(statement):
                    if known[tile.name] != _place(rank, tile.ranks):
                        return None
                if not isinstance(statement, Store):
                    known[statement.name] = _place(rank, statement.ranks)
    return known


def _carried_on(loop: Loop, segment: Segment, known: Places) -> bool:
    return all(known[new] == known[old.name] for old, new in zip(loop.carried, segment.after))
