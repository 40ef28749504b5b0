"""What is read of a tensor under other variables is made under the tensor's own.

    S[p, m] = ...                           S[p, m]   = ...
    R[m]    = sum[m'](S[m, m'])             R_own[p]  = sum[m](S[p, m])
                                            R[m]      = R_own[m]

What is read at other than its own position goes through memory: here the sums, before all of S.
Legal where what is reduced over has the extent of the tensor's own rank, since names are no part of
a sum, and what lies outside of R_own has no points of S. So is the end of a state, whose own
variables a kernel cuts while it goes along the rank of the steps:

    D[t, d] = T[|t|, t, d]                  T_own[n, d] = T[|t|, n, d]
                                            D[t, d]     = T_own[t, d]
"""

from __future__ import annotations

from dataclasses import replace

from attnc.ir.cascade import Cascade, Einsum, Left, rank_of
from attnc.ir.expr import Access, Expr, Extent, Index, Reduce
from attnc.passes.clean import rewritten
from attnc.passes.fiber import Names


def under_own_ranks(cascade: Cascade) -> Cascade:
    """The normalised cascade with such reductions and ends of states under names of their own."""
    return _sums(_ends(cascade))


def _ends(cascade: Cascade) -> Cascade:
    stepped = cascade.iterative()
    lefts = {einsum.target: einsum.ranks for einsum in cascade.einsums}
    loops = {rank for _, rank in stepped.values()}
    names = Names(cascade)
    einsums: list[Einsum] = []
    made: dict[str, str] = {}

    def rule(term: Expr) -> Expr | None:
        if not isinstance(term, Access) or term.tensor not in stepped:
            return None
        axis, rank = stepped[term.tensor]
        others = term.subscripts[:axis] + term.subscripts[axis + 1 :]
        crossed = any(isinstance(s, Index) and s.rank in loops for s in others)
        if term.subscripts[axis] != Extent(rank) or not crossed:
            return None
        own = lefts[term.tensor][:axis] + lefts[term.tensor][axis + 1 :]
        if term.tensor not in made:
            made[term.tensor] = names.fresh(f"{term.tensor}_own")
            place = [Index(r) for r in lefts[term.tensor]]
            end = Access(term.tensor, (*place[:axis], Extent(rank), *place[axis + 1 :]), term.span)
            left = tuple(Left(r) for r in own)
            einsums.append(Einsum(made[term.tensor], left, end, span=term.span))
        return Access(made[term.tensor], others, term.span)

    for einsum in cascade.einsums:
        einsums.append(rewritten(einsum, rule))
    return replace(cascade, einsums=tuple(einsums)) if made else cascade


def _sums(cascade: Cascade) -> Cascade:
    stepped = cascade.iterative()
    classes = rank_of(cascade)
    made = {e.target: e for e in cascade.einsums if e.target not in stepped}
    names = Names(cascade)
    einsums: list[Einsum] = []
    for einsum in cascade.einsums:
        source = _source(einsum, made)
        body = einsum.body
        if source is None or not isinstance(body, Reduce) or not isinstance(body.body, Access):
            einsums.append(einsum)
            continue
        variables = [s.rank for s in body.body.subscripts if isinstance(s, Index)]
        pairs = list(zip(variables, source.ranks))
        kept = [pair for pair in pairs if pair[0] not in body.ranks]
        over = [pair for pair in pairs if pair[0] in body.ranks]
        own = [classes.get(rank, rank) for _, rank in over]
        same = [classes.get(variable, variable) for variable, _ in over]
        if own != same or all(classes.get(v, v) == classes.get(r, r) for v, r in kept):
            einsums.append(einsum)
            continue
        name = names.fresh(f"{einsum.target}_own")
        inside = Access(source.target, tuple(map(Index, source.ranks)))
        total = replace(body, ranks=tuple(rank for _, rank in over), body=inside)
        einsums.append(Einsum(name, tuple(Left(rank) for _, rank in kept), total, span=einsum.span))
        einsums.append(
            replace(einsum, body=Access(name, tuple(Index(variable) for variable, _ in kept)))
        )
    return replace(cascade, einsums=tuple(einsums))


def _source(einsum: Einsum, made: dict[str, Einsum]) -> Einsum | None:
    """The Einsum whose tensor alone a reduction reads, each rank of it under another variable."""
    body = einsum.body
    if not isinstance(body, Reduce) or not isinstance(body.body, Access):
        return None
    if body.where is not None or einsum.where is not None or body.body.tensor not in made:
        return None
    variables = [s.rank for s in body.body.subscripts if isinstance(s, Index)]
    whole = len({*variables}) == len(body.body.subscripts)
    return (
        made[body.body.tensor] if whole and {*variables} == {*einsum.ranks, *body.ranks} else None
    )
