"""What is read of a tensor under other variables is made under the tensor's own.

    S[p, m] = ...                           S[p, m]   = ...
    R[m]    = sum[m'](S[m, m'])             R_own[p]  = sum[m](S[p, m])
                                            R[m]      = R_own[m]

What is read at other than its own position goes through memory: here the sums, before all of S.
Legal where what is reduced over has the extent of the tensor's own rank, since names are no part of
a sum, and what lies outside of R_own has no points of S. So is the end of a state, whose own
variables a kernel cuts while it goes along the rank of the steps, wherever that end is read at
another position:

    D[t, d] = T[|t|, t, d]                  T_own[n, d] = T[|t|, n, d]
                                            D[t, d]     = T_own[t, d]

So is an end that a `where` asks for, since whoever reads what exists there asks again.
"""

from __future__ import annotations

from dataclasses import replace

from attnc.ir.cascade import Cascade, Einsum, Left, rank_of
from attnc.ir.expr import Access, Expr, Extent, Index, Reduce
from attnc.ir.walk import accesses, rewrite
from attnc.passes.fiber import Names


def under_own_ranks(cascade: Cascade) -> Cascade:
    """The normalised cascade with such reductions and ends of states under names of their own."""
    return _sums(ends(cascade))


def ends(cascade: Cascade) -> Cascade:
    """The cascade with a tensor for each end of a state that is read at other than its own place.

    All who read that end read the tensor, which is in memory: none runs the sweep again.
    """
    stepped = cascade.iterative()
    last: dict[str, Access] = {}
    for einsum in cascade.einsums:
        if einsum.target in stepped:
            axis, rank = stepped[einsum.target]
            place = (Extent(rank) if i == axis else Index(r) for i, r in enumerate(einsum.ranks))
            last[einsum.target] = Access(einsum.target, tuple(place))
    plain = {e.body: e for e in cascade.einsums if e.where is None and e.body in last.values()}
    made = {access.tensor: plain[access] for access in last.values() if access in plain}
    names = Names(cascade)

    def is_end(term: Access) -> bool:
        if term.tensor not in stepped:
            return False
        axis, rank = stepped[term.tensor]
        return term.subscripts[axis] == Extent(rank)

    away = {
        access.tensor
        for einsum in cascade.einsums
        for expr in (einsum.body, einsum.where)
        for access in accesses(expr)
        if is_end(access) and (access != last[access.tensor] or expr is einsum.where)
    }

    def end(term: Expr) -> Expr | None:
        if not isinstance(term, Access) or term.tensor not in away or not is_end(term):
            return None
        axis, rank = stepped[term.tensor]
        if term.tensor not in made:
            left = tuple(Left(r) for r in cascade.axes(term.tensor) if r != rank)
            name = names.fresh(f"{term.tensor}_own")
            made[term.tensor] = Einsum(name, left, last[term.tensor], span=term.span)
        others = term.subscripts[:axis] + term.subscripts[axis + 1 :]
        return Access(made[term.tensor].target, others, term.span)

    einsums: dict[Einsum, None] = {}
    for einsum in cascade.einsums:
        if einsum not in made.values():
            where = None if einsum.where is None else rewrite(einsum.where, end)
            einsum = replace(einsum, body=rewrite(einsum.body, end), where=where)
            read = {a.tensor for a in (*accesses(einsum.body), *accesses(where))}
            einsums.update((e, None) for e in made.values() if e.target in read)
        einsums.setdefault(einsum)
    return replace(cascade, einsums=tuple(einsums)) if away else cascade


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
