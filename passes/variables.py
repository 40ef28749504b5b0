"""Give a second variable over a rank, if something reduces over it, a rank of its own.

    S[p, p'] = X[p, d] * X[p', d]          rank p_ = |p|
    G[p]     = max[p'](S[p, p'])           S[p, p_] = X[p, d] * X[p_, d];  G[p] = max[p_](S[p, p_])

A primed variable has the extent of its rank and a position of its own, so this is the same cascade
in other words. But now a law that cuts the rank of the keys leaves that of the queries alone.
"""

from __future__ import annotations

from dataclasses import replace

from attnc.ir.cascade import (
    STREAMING,
    Cascade,
    Directive,
    Einsum,
    Left,
    RankDecl,
    base,
    rank_of,
)
from attnc.ir.expr import Expr, Extent, Index, Populate, Reduce
from attnc.ir.walk import rewrite, subterms
from attnc.passes.fiber import Names


def separate_variables(cascade: Cascade) -> Cascade:
    """The cascade with every reduced variable of a primed name as a declared rank."""
    every = {
        rank
        for einsum in cascade.einsums
        for term in subterms(einsum.body)
        if isinstance(term, Reduce)
        for rank in term.ranks
    }
    reduced = {rank for rank in every if base(rank) != rank}
    kept = {rank for tensor in (*cascade.inputs, *cascade.outputs) for rank in tensor.ranks}
    classes, names = rank_of(cascade), Names(cascade)
    own: dict[str, str] = {}
    declared: list[RankDecl] = []
    for rank in sorted(reduced - kept):
        over = classes.get(rank, base(rank))
        own[rank] = names.fresh(f"{over}_")
        declared.append(RankDecl(own[rank], Extent(over)))
    if not own:
        return cascade
    einsums = tuple(_renamed(einsum, own) for einsum in cascade.einsums)
    made = [(decl.extent, decl.name) for decl in declared]
    schedule = tuple(own for line in cascade.schedule for own in _directed(line, made, every))
    ranks = (*cascade.ranks, *declared)
    return replace(cascade, einsums=einsums, ranks=ranks, schedule=schedule)


def _directed(
    line: Directive, made: list[tuple[Expr, str]], reduced: set[str]
) -> tuple[Directive, ...]:
    """A line of a schedule, which speaks of a rank and of its second variables alike."""
    if line.verb not in ("tile", *STREAMING):
        return (line,)
    ranks: list[str] = []
    for rank in line.ranks:
        own = [name for over, name in made if over == Extent(rank)]
        if line.verb == "tile" or rank in reduced or not own:
            ranks.append(rank)
        ranks += own
    return tuple(replace(line, ranks=(rank,)) for rank in ranks)


def _renamed(einsum: Einsum, own: dict[str, str]) -> Einsum:
    def rule(term: Expr) -> Expr | None:
        match term:
            case Index(rank) if rank in own:
                return Index(own[rank], term.span)
            case Reduce(_, ranks) if set(ranks) & own.keys():
                return replace(term, ranks=tuple(own.get(rank, rank) for rank in ranks))
            case Populate(_, rank, slot=slot) if rank in own or slot in own:
                there = None if slot is None else own.get(slot, slot)
                return replace(term, rank=own.get(rank, rank), slot=there)
            case _:
                return None

    left = tuple(Left(own.get(part.rank, part.rank), part.step) for part in einsum.left)
    where = None if einsum.where is None else rewrite(einsum.where, rule)
    return replace(einsum, left=left, body=rewrite(einsum.body, rule), where=where)
