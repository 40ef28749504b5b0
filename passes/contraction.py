"""Recognise a matrix product: a sum of products that falls into two groups of factors.

    sum[e](Q[p, e] * K[m, e] / sqrt(|e|))     groups Q[p, e] and K[m, e], outside 1 / sqrt(|e|)

The groups share the summed rank alone. Any sum of products is one or it is not; that one factor is
called a query plays no part. A sum of several such products is as many matrix products:

    sum[d](A[p, d] * C[m, d] + B[p, d] * E[m, d])
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import isfinite

from attnc.ir.algebra import MONOIDS, PARTIAL
from attnc.ir.cascade import Einsum
from attnc.ir.expr import ONE, Access, Expr, Index, Map, Reduce
from attnc.ir.walk import children, free_ranks, subterms
from attnc.passes.angles import angle_sum

MOST_PRODUCTS = 4
"""A sum of more is added up element by element."""


@dataclass(frozen=True, slots=True)
class Part:
    """A factor or divisor of a product, with the depth at which it can be computed."""

    value: Expr
    depth: int
    inverse: bool = False


def factors(expr: Expr, inverse: bool = False) -> list[tuple[Expr, bool]]:
    """The factors of a product, and whether each divides."""
    match expr:
        case Map("*", (left, right)):
            return [*factors(left, inverse), *factors(right, inverse)]
        case Map("/", (left, right)):
            return [*factors(left, inverse), *factors(right, not inverse)]
        case _:
            return [(expr, inverse)]


def product(parts: list[Part]) -> Part:
    """Factors multiplied, divisors last."""
    ordered = sorted(parts, key=lambda part: part.inverse)
    value: Expr = ONE if ordered[0].inverse else ordered[0].value
    for part in ordered if ordered[0].inverse else ordered[1:]:
        value = Map("/" if part.inverse else "*", (value, part.value))
    return Part(value, max(part.depth for part in parts))


def two_groups(
    parts: list[Part],
    over: str,
    ranks: Callable[[Expr], tuple[str, ...]],
    batch: frozenset[str] = frozenset(),
) -> list[Part] | None:
    """The factors as two groups that share no rank but the summed one and those of `batch`, or
    None."""
    groups: list[tuple[set[str], list[Part]]] = []
    alone: list[Part] = []
    for part in parts:
        own = set(ranks(part.value)) - {over} - batch
        if not own:
            alone.append(part)
            continue
        joined = [part]
        for other in [group for group in groups if group[0] & own]:
            own |= other[0]
            joined = [*other[1], *joined]
            groups.remove(other)
        groups.append((own, joined))
    if len(groups) < 2:
        return None
    # Of three or more all but the last are multiplied first: one rank fewer than without.
    first = [part for _, group in groups[:-1] for part in group]
    return [product([*first, *alone]), product(groups[-1][1])]


def addends(
    expr: Expr,
    over: str,
    ranks: Callable[[Expr], tuple[str, ...]],
    batch: frozenset[str] = frozenset(),
) -> list[tuple[bool, Expr]] | None:
    """A body as signed products, each of two groups of factors; None if it is no sum of such."""
    parts = [Part(value, 0, inverse) for value, inverse in factors(expr)]
    if two_groups(parts, over, ranks, batch) is not None:
        return [(False, expr)]
    for part in parts:
        others = [other for other in parts if other is not part]
        found: list[tuple[bool, Expr]] = []
        for negative, addend in () if part.inverse else _sum(part.value, over, ranks, batch):
            own = addends(product([Part(addend, 0), *others]).value, over, ranks, batch)
            if own is None:
                break
            found += [(one != negative, term) for one, term in own]
        else:
            if 0 < len(found) <= MOST_PRODUCTS:
                return found
    return None


def _sum(
    expr: Expr, over: str, ranks: Callable[[Expr], tuple[str, ...]], batch: frozenset[str]
) -> list[tuple[bool, Expr]]:
    """A factor as a sum of signed terms, if it is one."""
    match expr:
        case Map("+" | "-" as sign, (left, right)):
            return [(False, left), (sign == "-", right)]
        case Map("neg", (body,)):
            return [(True, body)]
        case Map("cos" | "sin"):
            own = {*ranks(expr)} - {over} - batch
            every = frozenset(free_ranks(expr)) - {over} - batch
            for rank in sorted(own):
                found = angle_sum(expr, frozenset((rank,)), every - {rank})
                if found is not None:
                    return [(negative, Map("*", (one, other))) for negative, one, other in found]
    return []


def finite(expr: Expr, made: Mapping[str, Einsum], seen: frozenset[str] = frozenset()) -> bool:
    """Whether an expression is a number wherever it is computed, outside its domain too.

    `made` are the tensors that are computed on the spot; others come from memory, as zeros or as
    they are.
    """
    match expr:
        case Access(tensor):
            if tensor not in made or tensor in seen:
                return True
            return finite(made[tensor].body, made, seen | {tensor})
        case Map(op) if op in PARTIAL and not _fixed(expr.args[-1]):
            return False
        case Reduce(op) if op not in MONOIDS or not isfinite(MONOIDS[op].identity):
            return False
        case _:
            return all(finite(part, made, seen) for part in children(expr))


def _fixed(expr: Expr) -> bool:
    return not any(isinstance(term, Access | Index) for term in subterms(expr))
