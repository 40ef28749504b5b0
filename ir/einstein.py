"""Einstein's rule: which ranks a statement sums without saying so, and which points it skips.

    Z[m, n] = A[k, m] * B[k, n]      is      Z[m, n] = sum[k](A[k, m] * B[k, n])

A rank that stands on the right and not on the left is summed over the whole right-hand side. Of
a statement's `where`, the conjuncts that mention a summed rank choose the points that are summed;
the others choose the points of the result, which are empty where they fail.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from functools import reduce

from attnc.ir.cascade import Einsum
from attnc.ir.expr import Expr, Index, Map, Populate, Reduce, both, conjuncts
from attnc.ir.walk import children, free_ranks


def free_in_order(expr: Expr) -> tuple[str, ...]:
    """The rank variables on which an expression depends, in the order in which they stand in it."""
    return tuple(dict.fromkeys(_free(expr, frozenset())))


def _free(expr: Expr, bound: frozenset[str]) -> Iterator[str]:
    match expr:
        case Index(rank):
            if rank not in bound:
                yield rank
            return
        case Reduce(_, ranks):
            bound |= frozenset(ranks)
        case Populate(_, rank, _, _, slot):
            if slot is not None and slot not in bound:
                yield slot
            bound |= {rank}
        case _:
            pass
    for part in children(expr):
        yield from _free(part, bound)


def split_where(predicate: Expr | None, summed: Collection[str]) -> tuple[Expr | None, Expr | None]:
    """A statement's predicate as the part over its result and the part over what it sums."""
    if not summed:
        return predicate, None
    inner = [part for part in conjuncts(predicate) if not free_ranks(part).isdisjoint(summed)]
    if not inner:
        return predicate, None
    outer = [part for part in conjuncts(predicate) if free_ranks(part).isdisjoint(summed)]
    return _all(outer), _all(inner)


def _all(parts: list[Expr]) -> Expr | None:
    none: Expr | None = None
    return reduce(both, parts, none)


def implicit(einsum: Einsum) -> tuple[Expr, Expr | None] | None:
    """Right-hand side and predicate without the sum that the rule supplies, or None.

    None where the rule would not give the same Einsum again, and where nothing is multiplied: a
    lone sum reads better written out.
    """
    match einsum.body:
        case Reduce("sum", ranks, body, inner) if _is_product(body):
            pass
        case _:
            return None
    left = {part.rank for part in einsum.left if part.step != "start"}
    if tuple(rank for rank in free_in_order(body) if rank not in left) != ranks:
        return None
    whole = both(einsum.where, inner)
    if split_where(whole, ranks) != (einsum.where, inner):
        return None
    return body, whole


def _is_product(expr: Expr) -> bool:
    match expr:
        case Map("*"):
            return True
        case Map("/", (first, _)):
            return _is_product(first)
        case _:
            return False
