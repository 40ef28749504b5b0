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

So is an end that a `where` asks for, since whoever reads what exists there asks again.
"""

from __future__ import annotations

from dataclasses import replace

from attnc.ir.cascade import Cascade, Einsum, Left, rank_of
from attnc.ir.expr import Access, Expr, Extent, Index, Reduce
from attnc.ir.walk import rewrite
from attnc.passes.fiber import Names


def under_own_ranks(cascade: Cascade) -> Cascade:
    """The normalised cascade with such reductions and ends of states under names of their own."""
    return _sums(_ends(cascade))


def _ends(cascade: Cascade) -> Cascade:
    stepped = cascade.iterative()
    lefts = {einsum.target: einsum.ranks for einsum in cascade.einsums}
    loops = {Index(rank) for _, rank in stepped.values()}
    names = Names(cascade)
    einsums: list[Einsum] = []
    made: dict[str, str] = {}

    def end(term: Expr) -> Expr | None:
        if not isinstance(term, Access) or term.tensor not in stepped:
            return None
        axis, rank = stepped[term.tensor]
        if term.subscripts[axis] != Extent(rank):
            return None
        if term.tensor not in made:
            own = [Index(r) for r in lefts[term.tensor]]
            last = Access(term.tensor, (*own[:axis], Extent(rank), *own[axis + 1 :]), term.span)
            left = tuple(Left(r.rank) for r in (*own[:axis], *own[axis + 1 :]))
            made[term.tensor] = names.fresh(f"{term.tensor}_own")
            einsums.append(Einsum(made[term.tensor], left, last, span=term.span))
        others = term.subscripts[:axis] + term.subscripts[axis + 1 :]
        return Access(made[term.tensor], others, term.span)

    def crossing(term: Expr) -> Expr | None:
        return end(term) if isinstance(term, Access) and loops & {*term.subscripts} else None

    for einsum in cascade.einsums:
        where = None if einsum.where is None else rewrite(einsum.where, end)
        einsums.append(replace(einsum, body=rewrite(einsum.body, crossing), where=where))
    return replace(cascade, einsums=tuple(einsums)) if made else cascade


def _sums(cascade: Cascade) -> Cascade:
    stepped = cascade.iterative()
    classes = rank_of(cascade)
    alike = {d.name: d.extent.rank for d in cascade.ranks if isinstance(d.extent, Extent)}
    made = {e.target: e for e in cascade.einsums if e.target not in stepped}
    names = Names(cascade)
    einsums: list[Einsum] = []

    def run(variable: str) -> str:
        """The rank that a variable runs over, that of its length if it is another's."""
        rank = classes.get(variable, variable)
        return alike.get(rank, rank)

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
        moved = any(run(variable) != run(rank) for variable, rank in kept)
        if not moved or any(run(variable) != run(rank) for variable, rank in over):
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
