"""A factor over two positions as the product of gates between them.

    a ** (p - m)                              gate a
    exp(c[h] * (p - m))                       gate exp(c[h])
    exp(G[p] - G[m]), G[p] the sum of g up to p        gate exp(g[p])
    prod[j where m < j and j <= p](a[j])      gate a[p]

A factor D(p, m) is such a product exactly if D(p, m) = a(p) * D(p - 1, m) and D(m, m) = 1.
"""

from __future__ import annotations

from collections.abc import Mapping

from attnc.ir.cascade import Einsum
from attnc.ir.expr import ONE, Access, Const, Expr, Index, Map, Reduce, conjuncts
from attnc.ir.walk import free_ranks, substitute
from attnc.passes.products import Factor

Definitions = Mapping[str, Einsum]


def decay_of(factor: Factor, query: str, key: str, definitions: Definitions) -> Expr | None:
    """The gate at a query, if a factor is the product of gates from the key on; else None."""
    if factor.inverse:
        return None
    match _opened(factor.expr, definitions):
        case Map("**" | "pow", (base, power)) if not free_ranks(base) & {query, key}:
            return base if power == Map("-", (Index(query), Index(key))) else None
        case Map("exp" | "exp2" as op, (body,)):
            grown = growth(body, query, key, definitions)
            return None if grown is None else Map(op, (grown,))
        case Reduce("prod") as reduce:
            return _between(reduce, query, key)
        case _:
            return None


def growth(expr: Expr, query: str, key: str, definitions: Definitions) -> Expr | None:
    """By how much an expression grows with the query, if it is 0 at the key and that is all."""
    match _opened(expr, definitions):
        case Reduce("sum") as reduce:
            return _between(reduce, query, key)
        case Map("neg", (body,)):
            grown = growth(body, query, key, definitions)
            return None if grown is None else Map("neg", (grown,))
        case Map("*", (left, right)):
            for free, other in ((left, right), (right, left)):
                if not free_ranks(free) & {query, key}:
                    grown = growth(other, query, key, definitions)
                    if grown is not None:
                        return free if grown == ONE else Map("*", (free, grown))
            return None
        case Map("/", (left, right)) if not free_ranks(right) & {query, key}:
            grown = growth(left, query, key, definitions)
            return None if grown is None else Map("/", (grown, right))
        case Map("-", (Index(first), Index(second))) if (first, second) == (query, key):
            return ONE
        case Map("-", (Index(first), Index(second))) if (first, second) == (key, query):
            return Const(-1)
        case Map("-", (first, second)):
            return _difference(first, second, query, key, definitions)
        case _:
            return None


def _difference(
    first: Expr, second: Expr, query: str, key: str, definitions: Definitions
) -> Expr | None:
    """The growth of f(query) - f(key), f a sum over positions up to its own."""
    sign = ONE
    if query in free_ranks(second):
        first, second, sign = second, first, Const(-1)
    if substitute(first, {query: Index(key)}) != second or key in free_ranks(first):
        return None
    body = _opened(first, definitions)
    if not isinstance(body, Reduce) or body.op != "sum" or len(body.ranks) != 1:
        return None
    (over,) = body.ranks
    if conjuncts(body.where) != (Map("<=", (Index(over), Index(query))),):
        return None
    if query in free_ranks(body.body):
        return None
    grown = substitute(body.body, {over: Index(query)})
    return grown if sign == ONE else Map("neg", (grown,))


def _between(reduce: Reduce, query: str, key: str) -> Expr | None:
    """What a reduction over the positions after the key and up to the query gains with a query."""
    if len(reduce.ranks) != 1 or free_ranks(reduce.body) & {query, key}:
        return None
    (over,) = reduce.ranks
    after = {Map("<", (Index(key), Index(over))), Map(">", (Index(over), Index(key)))}
    until = {Map("<=", (Index(over), Index(query))), Map(">=", (Index(query), Index(over)))}
    parts = set(conjuncts(reduce.where))
    if len(parts) != 2 or not parts & after or not parts & until:
        return None
    return substitute(reduce.body, {over: Index(query)})


def _opened(expr: Expr, definitions: Definitions) -> Expr:
    """An expression, or the definition of the tensor that it is."""
    while isinstance(expr, Access):
        einsum = definitions.get(expr.tensor)
        if einsum is None or einsum.where is not None or einsum.dtype is not None:
            return expr
        if any(left.step for left in einsum.left):
            return expr
        expr = substitute(
            einsum.body, {left.rank: s for left, s in zip(einsum.left, expr.subscripts)}
        )
    return expr
