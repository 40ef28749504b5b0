"""Integer expressions as sums of multiples of positions along tiles, and what bounds follow."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from attnc.ir.expr import ONE, ZERO, Const, Expr, Index, Map
from attnc.ir.walk import free_ranks


@dataclass(frozen=True, slots=True)
class Affine:
    """A sum of integer multiples of some ranks' positions, and a rest that has none of them."""

    factors: dict[str, int]
    rest: Expr


def affine(expr: Expr, ranks: Collection[str]) -> Affine | None:
    """An expression as an affine form in the positions of `ranks`; None where it is none."""
    if not free_ranks(expr) & set(ranks):
        return Affine({}, expr)
    match expr:
        case Map("+" | "-" as op, (left, right)):
            first, second = affine(left, ranks), affine(right, ranks)
            if first is None or second is None:
                return None
            sign = 1 if op == "+" else -1
            return Affine(
                _sum(first.factors, second.factors, sign),
                plus(first.rest, times(second.rest, sign)),
            )
        case Map("neg", (body,)):
            form = affine(body, ranks)
            return None if form is None else _scaled(form, -1)
        case Map("*", (Const(int(factor)), body)) | Map("*", (body, Const(int(factor)))):
            form = affine(body, ranks)
            return None if form is None else _scaled(form, factor)
        case Index(rank):
            return Affine({rank: 1}, ZERO)
        case _:
            return None


def cancelled(term: Expr) -> Expr | None:
    """A sum in which positions cancel without them: l + m - m is l. None for any other term."""
    if not isinstance(term, Map) or term.op not in ("+", "-"):
        return None
    ranks = free_ranks(term)
    form = affine(term, ranks)
    if form is None or form.factors.keys() == ranks:
        return None
    result: Expr = ZERO
    for rank, factor in form.factors.items():
        result = plus(result, times(Index(rank), factor))
    return plus(result, form.rest)


def _sum(left: Mapping[str, int], right: Mapping[str, int], sign: int) -> dict[str, int]:
    total = dict(left)
    for rank, factor in right.items():
        total[rank] = total.get(rank, 0) + sign * factor
    return {rank: factor for rank, factor in total.items() if factor}


def _scaled(form: Affine, factor: int) -> Affine:
    factors = {rank: own * factor for rank, own in form.factors.items() if own * factor}
    return Affine(factors, times(form.rest, factor))


def plus(left: Expr, right: Expr) -> Expr:
    """A sum, folded where both sides or one of them is a number."""
    match left, right:
        case Const(int(a)), Const(int(b)):
            return Const(a + b)
        case Const(0), _:
            return right
        case _, Const(0):
            return left
        case Map("+", (inner, Const(int(a)))), Const(int(b)):
            return plus(inner, Const(a + b))
        case Map("-", (inner, Const(int(a)))), Const(int(b)):
            return plus(inner, Const(b - a))
        case Const(), _:
            return plus(right, left)
        case _, Const(int(b)) if b < 0:
            return Map("-", (left, Const(-b)))
        case _, Map("neg", (body,)):
            return Map("-", (left, body))
        case Map("neg", (body,)), _:
            return Map("-", (right, body))
        case _:
            return Map("+", (left, right))


def times(expr: Expr, factor: int) -> Expr:
    """A product with a number, folded where it is one itself."""
    match expr:
        case Const(int(value)):
            return Const(value * factor)
        case _ if factor == 0:
            return ZERO
        case _ if factor == 1:
            return expr
        case Map("neg", (body,)) if factor == -1:
            return body
        case Map("-", (left, right)) if factor == -1:
            return plus(right, times(left, -1))
        case Map("+", (left, right)) if factor == -1:
            return plus(times(left, -1), times(right, -1))
        case _ if factor == -1:
            return Map("neg", (expr,))
        case _:
            return Map("*", (expr, Const(factor)))


def divided(expr: Expr, divisor: int) -> Expr:
    """A quotient rounded towards minus infinity."""
    match expr:
        case _ if divisor == 1:
            return expr
        case Const(int(value)):
            return Const(value // divisor)
        case _:
            return Map("//", (expr, Const(divisor)))


def least(left: Expr, right: Expr) -> Expr:
    """The smaller of two."""
    return _extreme("min", left, right)


def most(left: Expr, right: Expr) -> Expr:
    """The larger of two."""
    return _extreme("max", left, right)


def _extreme(op: str, left: Expr, right: Expr) -> Expr:
    """All operands of both side by side, each once, the numbers among them as one."""
    numbers: list[int | float] = []
    others: dict[Expr, None] = {}
    for side in (left, right):
        for part in side.args if isinstance(side, Map) and side.op == op else (side,):
            if isinstance(part, Const):
                numbers.append(part.value)
            else:
                others.setdefault(part)
    number = [Const(min(numbers) if op == "min" else max(numbers))] if numbers else []
    parts: tuple[Expr, ...] = (*number, *others)
    return parts[0] if len(parts) == 1 else Map(op, parts)


@dataclass(frozen=True, slots=True)
class Interval:
    """Positions lo <= i < hi; None where there is no bound."""

    lo: Expr | None = None
    hi: Expr | None = None


def solved(
    predicate: Expr, rank: str, edges: Mapping[str, tuple[Expr, Expr]]
) -> tuple[Interval, bool] | None:
    """The positions of `rank` at which a comparison can hold, and whether it then must.

    `edges` gives the smallest and the largest position of every rank along a tile, `rank` itself
    included. None where the predicate is no affine comparison that involves `rank`.
    """
    match predicate:
        case Map("<=" | "<" | ">=" | ">" | "==" as op, (left, right)):
            pass
        case _:
            return None
    if op in (">=", ">"):
        left, right, op = right, left, "<=" if op == ">=" else "<"
    form = affine(Map("-", (right, left)), edges)
    if form is None or rank not in form.factors:
        return None
    exact = len(form.factors) == 1
    interval = _positive(form, rank, edges, ONE if op == "<" else ZERO)
    if op == "==":
        other = _positive(_scaled(form, -1), rank, edges, ZERO)
        interval = Interval(
            interval.lo if other.lo is None else other.lo,
            interval.hi if other.hi is None else other.hi,
        )
        exact = exact and abs(form.factors[rank]) == 1
    return interval, exact


def _positive(
    form: Affine, rank: str, edges: Mapping[str, tuple[Expr, Expr]], slack: Expr
) -> Interval:
    """Where form - slack >= 0 for some position of every other rank."""
    highest = plus(form.rest, times(slack, -1))
    for other, factor in form.factors.items():
        if other != rank:
            highest = plus(highest, times(edges[other][factor > 0], factor))
    step = form.factors[rank]
    if step > 0:
        return Interval(lo=times(divided(highest, step), -1))
    return Interval(hi=plus(divided(highest, -step), ONE))
