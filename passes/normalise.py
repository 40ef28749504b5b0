"""Give every reduction an Einsum of its own.

    A[p, m] = exp(S[p, m]) / sum[m'](exp(S[p, m']))

    A_sum[p] = sum[m'](exp(S[p, m']))
    A[p, m]  = exp(S[p, m]) / A_sum[p]

Legal because the value of a reduction is a function of its free rank variables alone, and because
it is there at every point of them: a reduction with nothing left gives its identity. What waits
for a reduction then reads a tensor, so that dependences between Einsums tell the whole story.
"""

from __future__ import annotations

from dataclasses import replace
from math import isclose

from attnc.ir.cascade import Cascade, Einsum, Left, Reduction, base, rank_of, variables
from attnc.ir.expr import Access, Cast, Expr, Index, Map, Param, Populate, Reduce
from attnc.ir.walk import children, free_ranks, rebuild, rewrite, substitute, subterms
from attnc.passes.fiber import Names
from attnc.passes.probe import GENERIC, probe


def normalise(cascade: Cascade) -> Cascade:
    """The cascade with each `Reduce` and `Populate` the whole body of an Einsum, ranks by name.

    The same object if it is so already. What stands inside a reduction may be any map.
    """
    names = Names(cascade)
    classes = rank_of(cascade)
    # An output keeps the ranks of the header.
    classes.update((rank, rank) for tensor in cascade.outputs for rank in tensor.ranks)
    einsums: list[Einsum] = []
    for einsum in cascade.einsums:
        parts = _hoisted(einsum, cascade.batch, names) if _nested(einsum) else (einsum,)
        einsums.extend(_plain(part, classes) for part in parts)
    reductions = tuple(_total(own) for own in cascade.reductions)
    same = all(new is old for new, old in zip(einsums, cascade.einsums))
    if same and reductions == cascade.reductions:
        return cascade
    return replace(cascade, einsums=tuple(einsums), reductions=reductions)


def _total(own: Reduction) -> Reduction:
    """A reduction that leaves a value as it is wherever the other operand is the identity.

    By law it does, by IEEE 754 it may not: max(x, y) + log1p(exp(-abs(x - y))) of two minus
    infinities is no number. What is empty never meets it in the language; in a kernel padding and
    the start of a running state do.
    """
    x, y, identity = Param(own.x), Param(own.y), probe(own.identity, {})
    if all(
        isclose(probe(own.body, {x: left, y: right}), value, rel_tol=1e-6, abs_tol=1e-9)
        for value in (identity, *GENERIC)
        for left, right in ((identity, value), (value, identity))
    ):
        return own
    guarded = Map("select", (Map("==", (y, own.identity)), x, own.body))
    guarded = Map("select", (Map("==", (x, own.identity)), y, guarded))
    return replace(own, body=guarded)


def _plain(einsum: Einsum, classes: dict[str, str]) -> Einsum:
    """The Einsum with ranks under their own names, where another variable is not there to need.

    `sum[m'](X[m'])` becomes `sum[m](X[m])`; `sum[m'](X[m] * Y[m'])` and what is bound twice stay.
    """
    body = einsum.body
    if isinstance(body, Populate):
        return einsum
    bound = body.ranks if isinstance(body, Reduce) else ()
    used = set(variables(einsum))
    names: dict[str, str] = {}
    for rank in (*(left.rank for left in einsum.left if not left.step), *bound):
        own = classes.get(rank, base(rank))
        if own not in used:
            names[rank] = own
            used.add(own)
    if not names:
        return einsum
    values: dict[str, Expr] = {rank: Index(own) for rank, own in names.items()}
    where = None if einsum.where is None else substitute(einsum.where, values)
    if isinstance(body, Reduce):
        body = replace(
            body,
            ranks=tuple(names.get(rank, rank) for rank in bound),
            body=substitute(body.body, values),
            where=None if body.where is None else substitute(body.where, values),
        )
    else:
        body = substitute(body, values)
    left = tuple(replace(one, rank=names.get(one.rank, one.rank)) for one in einsum.left)
    return replace(einsum, left=left, body=body, where=where)


def _nested(einsum: Einsum) -> bool:
    """Whether a reduction stands anywhere but at the top of the body, or is the start of a state,
    which no turn of a recurrence computes."""
    parts = (*_inside(einsum), *(() if einsum.where is None else (einsum.where,)))
    return any(isinstance(term, Reduce | Populate) for part in parts for term in subterms(part))


def _inside(einsum: Einsum) -> tuple[Expr, ...]:
    """What is left to look through: the body, or its parts if it is a reduction itself."""
    return children(einsum.body) if _whole(einsum) else (einsum.body,)


def _whole(einsum: Einsum) -> bool:
    starts = any(left.step == "start" for left in einsum.left)
    return isinstance(einsum.body, Reduce | Populate) and not starts


def _hoisted(einsum: Einsum, batch: tuple[str, ...], names: Names) -> tuple[Einsum, ...]:
    """An Einsum behind the Einsums of the reductions that stood inside it, innermost first."""
    found: dict[Expr, str] = {}
    einsums: list[Einsum] = []

    def rule(expr: Expr) -> Expr | None:
        if not isinstance(expr, Reduce | Populate):
            return None
        ranks = _left_ranks(expr, einsum, batch)
        if expr not in found:
            found[expr] = names.fresh(f"{einsum.target}_{expr.op}")
            einsums.append(_own(found[expr], ranks, expr))
        return Access(found[expr], tuple(Index(rank) for rank in ranks), expr.span)

    body = einsum.body
    if _whole(einsum):
        body = rebuild(body, tuple(rewrite(part, rule) for part in children(body)))
    else:
        body = rewrite(body, rule)
        if einsum.dtype == "int" and not isinstance(body, Populate):
            body = Cast("int", body)  # What stood inside has no type of its own.
    where = None if einsum.where is None else rewrite(einsum.where, rule)
    return (*einsums, replace(einsum, body=body, where=where))


def _left_ranks(expr: Expr, einsum: Einsum, batch: tuple[str, ...]) -> tuple[str, ...]:
    """Batch ranks first, then what the reduction depends on, in the order of the left side."""
    free = free_ranks(expr) - frozenset(batch)
    own = tuple(rank for rank in dict.fromkeys(einsum.ranks) if rank in free)
    return (*batch, *own, *sorted(free - frozenset(own)))


def _own(name: str, ranks: tuple[str, ...], expr: Reduce | Populate) -> Einsum:
    """The Einsum of one reduction; a primed rank loses its primes where that is free to use."""
    used = {rank for term in subterms(expr) for rank in _variables(term)} | set(ranks)
    body: Expr = expr
    left = list(ranks)
    for axis, rank in enumerate(ranks):
        plain = base(rank)
        if plain not in used and not (isinstance(expr, Populate) and rank == expr.slot):
            body = substitute(body, {rank: Index(plain)})
            left[axis] = plain
            used.add(plain)
    dtype = "int" if isinstance(expr, Populate) else None
    return Einsum(name, tuple(Left(rank) for rank in left), body, None, dtype, expr.span)


def _variables(term: Expr) -> tuple[str, ...]:
    match term:
        case Index(rank):
            return (rank,)
        case Reduce(_, ranks):
            return ranks
        case Populate(_, rank, _, _, slot):
            return (rank,) if slot is None else (rank, slot)
        case _:
            return ()
