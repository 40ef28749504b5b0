"""Reductions along the rank of a recurrence read what its turns leave behind.

    P[f] = sum[t, d](S[t+1, d, f] * Q[t, d])

    P_turn[t, f] = sum[d](S[t+1, d, f] * Q[t, d])
    P[f]         = sum[t](P_turn[t, f])

A kernel goes along a recurrence turn by turn and keeps no state, so a reduction over all turns is
no part of that sweep. What a turn gives to it goes through memory (passes/cut.py), as small as it
can be made: reduced over all other ranks. Where there are few turns, a reduction over them has a
rank of its own: a kernel may go along the turns and have all of them in a tile.
"""

from __future__ import annotations

from dataclasses import replace

from attnc.ir.cascade import Cascade, Einsum, Left, RankDecl
from attnc.ir.expr import Access, Extent, Index, Reduce
from attnc.ir.walk import accesses, free_ranks, substitute
from attnc.passes.cut import long_ranks
from attnc.passes.fiber import Names


def keep_turns(cascade: Cascade) -> Cascade:
    """The normalised cascade with a tensor for what each turn gives to a reduction over turns."""
    if not cascade.iterative():
        return cascade
    names = Names(cascade)
    loops = dict.fromkeys(rank for _, rank in cascade.iterative().values())
    few = {rank: names.fresh(f"{rank}_") for rank in loops if rank not in long_ranks(cascade)}
    einsums: list[Einsum] = []
    for einsum in cascade.einsums:
        body = einsum.body
        turns = _turns(cascade, body) if isinstance(body, Reduce) else ()
        if not isinstance(body, Reduce) or not turns:
            einsums.append(_apart(einsum, few))
            continue
        others = tuple(rank for rank in body.ranks if rank not in turns)
        free = (*einsum.ranks, *turns)
        inner = free_ranks(body.where) & {*others}
        term = replace(body, ranks=others, where=body.where if inner else None)
        turn = names.fresh(f"{einsum.target}_turn")
        left = tuple(Left(rank) for rank in free)
        kept = Access(turn, tuple(Index(rank) for rank in free))
        outer = replace(body, ranks=turns, body=kept, where=None if inner else body.where)
        einsums.append(Einsum(turn, left, term if others else body.body, span=einsum.span))
        einsums.append(_apart(replace(einsum, body=outer), few))
    reduced = {rank for e in einsums if isinstance(e.body, Reduce) for rank in e.body.ranks}
    made = (RankDecl(own, Extent(rank)) for rank, own in few.items() if own in reduced)
    return replace(cascade, einsums=tuple(einsums), ranks=(*cascade.ranks, *made))


def _apart(einsum: Einsum, few: dict[str, str]) -> Einsum:
    """An Einsum that reduces over few turns by a rank that is not theirs."""
    body = einsum.body
    if not isinstance(body, Reduce) or not few.keys() & {*body.ranks}:
        return einsum
    values = {rank: Index(few[rank]) for rank in body.ranks if rank in few}
    where = None if body.where is None else substitute(body.where, values)
    ranks = tuple(few.get(rank, rank) for rank in body.ranks)
    inner = substitute(body.body, values)
    return replace(einsum, body=replace(body, ranks=ranks, body=inner, where=where))


def _turns(cascade: Cascade, body: Reduce) -> tuple[str, ...]:
    """The ranks of a reduction along which it reads states at their turns."""
    stepped = cascade.iterative()
    own: set[str] = set()
    for access in accesses(body):
        if access.tensor in stepped:
            axis, rank = stepped[access.tensor]
            own |= {rank} & free_ranks(access.subscripts[axis])
    return tuple(rank for rank in body.ranks if rank in own)
