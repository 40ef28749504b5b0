"""Take a sine or cosine of a sum apart: cos(x - y) = cos(x) cos(y) + sin(x) sin(y).

    K[m, e] * cos(theta[e] * (p - m))
    = cos(theta[e] * p) * K[m, e] * cos(theta[e] * m) + sin(theta[e] * p) * K[m, e] * sin(...)

Where x has what belongs to queries and y what belongs to keys, a weight that turns with their
distance is a sum of two products, as a rotary embedding (Su et al., 2021) says in other words. The
angles are then those of positions, not of distances: as exact as such an embedding's.
"""

from __future__ import annotations

from functools import reduce

from attnc.ir.expr import Expr, Map
from attnc.ir.walk import free_ranks

Addend = tuple[bool, Expr]
"""Whether it is subtracted, and what."""


def angle_sum(
    expr: Expr, first: frozenset[str], second: frozenset[str]
) -> tuple[tuple[bool, Expr, Expr], ...] | None:
    """A sine or cosine of a sum as signed products of something without a rank of `second` and of
    something without one of `first`; None if it is none, or an addend has ranks of both."""
    match expr:
        case Map("cos" | "sin" as function, (angle,)):
            pass
        case _:
            return None
    addends = _addends(angle, first, second)
    own = [part for part in addends if not free_ranks(part[1]) & second]
    other = [part for part in addends if part not in own]
    if not own or not other or any(free_ranks(part) & first for _, part in other):
        return None
    minus = all(negative for negative, _ in other)
    x, y = _sum(own), _sum([(negative != minus, part) for negative, part in other])
    sin_x, cos_x, sin_y, cos_y = (Map(of, (angle,)) for angle in (x, y) for of in ("sin", "cos"))
    if function == "cos":
        return (False, cos_x, cos_y), (not minus, sin_x, sin_y)
    return (False, sin_x, cos_y), (minus, cos_x, sin_y)


def _addends(expr: Expr, first: frozenset[str], second: frozenset[str]) -> list[Addend]:
    """What a sum adds, as far as one side or the other has it, products distributed over it."""
    ranks = free_ranks(expr)
    if not (ranks & first and ranks & second):
        return [(False, expr)]
    match expr:
        case Map("+" | "-" as sign, (left, right)):
            own, other = (_addends(side, first, second) for side in (left, right))
            return [*own, *((negative != (sign == "-"), part) for negative, part in other)]
        case Map("neg", (body,)):
            return [(not negative, part) for negative, part in _addends(body, first, second)]
        case Map("*", (left, right)):
            return [
                (one != other, Map("*", (x, y)))
                for one, x in _addends(left, first, second)
                for other, y in _addends(right, first, second)
            ]
        case Map("/", (left, right)):
            return [(minus, Map("/", (x, right))) for minus, x in _addends(left, first, second)]
        case _:
            return [(False, expr)]


def _sum(addends: list[Addend]) -> Expr:
    (negative, expr), *rest = addends
    start = Map("neg", (expr,)) if negative else expr
    return reduce(lambda x, own: Map("-" if own[0] else "+", (x, own[1])), rest, start)
