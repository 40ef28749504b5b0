"""Children, rebuild and rewrite for expressions; the same object when nothing changed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace

from attnc.ir.expr import (
    Access,
    Cast,
    Const,
    Expr,
    Extent,
    Index,
    Map,
    Param,
    Populate,
    Reduce,
    Tile,
)


def children(expr: Expr) -> tuple[Expr, ...]:
    """The expressions directly inside one."""
    match expr:  # The usual ones first: a compiler looks at millions.
        case Map():
            return expr.args
        case Index() | Const() | Extent() | Param() | Tile():
            return ()
        case Access():
            return expr.subscripts
        case Cast(_, body):
            return (body,)
        case Reduce(_, _, body, where) | Populate(_, _, body, where):
            return (body,) if where is None else (body, where)


def rebuild(expr: Expr, parts: tuple[Expr, ...]) -> Expr:
    """The same node over other children."""
    if all(new is old for new, old in zip(parts, children(expr))):
        return expr
    match expr:
        case Const() | Index() | Extent() | Param() | Tile():
            return expr
        case Access():
            return replace(expr, subscripts=parts)
        case Map():
            return replace(expr, args=parts)
        case Cast():
            return replace(expr, body=parts[0])
        case Reduce() | Populate():
            return replace(expr, body=parts[0], where=parts[1] if len(parts) > 1 else None)


def subterms(expr: Expr | None) -> Iterator[Expr]:
    """Every expression inside one, itself first, without recursion."""
    stack = [] if expr is None else [expr]
    while stack:
        term = stack.pop()
        yield term
        stack.extend(reversed(children(term)))


def depth(expr: Expr | None) -> int:
    """The number of levels of an expression, found without recursion."""
    deepest = 0
    stack = [] if expr is None else [(expr, 1)]
    while stack:
        term, level = stack.pop()
        deepest = max(deepest, level)
        stack.extend((part, level + 1) for part in children(term))
    return deepest


def rewrite(expr: Expr, rule: Callable[[Expr], Expr | None]) -> Expr:
    """Apply a rule once at every node, leaves first; None means unchanged."""
    parts = tuple(rewrite(part, rule) for part in children(expr))
    node = rebuild(expr, parts)
    changed = rule(node)
    return node if changed is None else changed


def substitute(expr: Expr, values: Mapping[str, Expr]) -> Expr:
    """Put expressions for rank variables, except where a reduction binds them anew.

    A reduction over a rank that a value mentions takes a primed one instead, so that nothing is
    captured.
    """
    if not values:
        return expr
    match expr:
        case Index(rank):
            return values.get(rank, expr)
        case Reduce(_, ranks, body, where):
            values = {rank: value for rank, value in values.items() if rank not in ranks}
            fresh = _primed(expr, ranks, values)
            if fresh:
                expr = replace(
                    expr,
                    ranks=tuple(fresh[r].rank if r in fresh else r for r in ranks),
                    body=substitute(body, fresh),
                    where=None if where is None else substitute(where, fresh),
                )
        case Populate(_, rank, body, where, slot):
            values = {name: value for name, value in values.items() if name != rank}
            fresh = _primed(expr, (rank,), values) if slot != rank else {}
            if fresh:
                expr = replace(
                    expr,
                    rank=fresh[rank].rank,
                    body=substitute(body, fresh),
                    where=None if where is None else substitute(where, fresh),
                )
        case _:
            pass
    return rebuild(expr, tuple(substitute(part, values) for part in children(expr)))


def _primed(expr: Expr, bound: tuple[str, ...], values: Mapping[str, Expr]) -> dict[str, Index]:
    """New names for bound ranks that the values put inside would be captured by."""
    inside = free_ranks(expr)
    taken = inside.union(*(free_ranks(v) for rank, v in values.items() if rank in inside))
    found: dict[str, Index] = {}
    for rank in bound:
        name = rank
        while name in taken:
            name += "'"
        if name != rank:
            found[rank] = Index(name)
    return found


def free_ranks(expr: Expr | None) -> frozenset[str]:
    """The rank variables on which the value of an expression depends."""
    match expr:
        case None:
            return frozenset()
        case Index(rank):
            return frozenset((rank,))
        case Tile(_, ranks):
            return frozenset(ranks)
        case Reduce(_, ranks, body, where):
            return (free_ranks(body) | free_ranks(where)) - frozenset(ranks)
        case Populate(_, rank, body, where, slot):
            inner = (free_ranks(body) | free_ranks(where)) - frozenset((rank,))
            return inner | frozenset((slot,)) if slot is not None else inner
        case _:
            return frozenset().union(*(free_ranks(part) for part in children(expr)))


def accesses(expr: Expr | None) -> Iterator[Access]:
    """Every tensor access inside an expression."""
    return (term for term in subterms(expr) if isinstance(term, Access))
