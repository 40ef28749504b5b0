"""From a predicate to the iterations at which it can hold, and those at which it must.

    m1 * 64 + m0 <= p   with m0 in 0..63, p in first(p)..last(p)
        can hold for m1 < last(p) // 64 + 1       must hold for m1 < (first(p) - 63) // 64 + 1

A comparison that is affine in the loop counter, the axes of the tile and the positions of the
grid gives closed forms in the tile at hand. Of any other predicate nothing is claimed: it can hold
everywhere and must hold nowhere.
"""

from __future__ import annotations

from dataclasses import dataclass

from attnc.ir.expr import ONE, ZERO, Const, Expr, Extent, Index, Map, Tile


@dataclass(frozen=True, slots=True)
class Range:
    """Iterations lo <= i < hi; None where there is no bound."""

    lo: Expr | None = None
    hi: Expr | None = None


@dataclass(frozen=True, slots=True)
class Live:
    """Where a predicate can hold at some point of the tile, and where it holds at all of them.

    `full` is None where nothing is known; `known` says whether the predicate was understood.
    """

    some: Range
    full: Range | None


EVERYWHERE = Live(Range(), None)


@dataclass(frozen=True, slots=True)
class Space:
    """What the positions of a tile are: the loop, sizes of axes, ranks of the grid."""

    loop: str
    axes: dict[str, Expr]
    grid: frozenset[str]


def live(predicate: Expr, space: Space) -> Live:
    """The iterations of a loop at which a predicate can and must hold."""
    match predicate:
        case Map("and", (left, right)):
            return _all(live(left, space), live(right, space))
        case Map("or", (left, right)):
            return _any(live(left, space), live(right, space))
        case Map("<=", (left, right)):
            return _below(left, right, ZERO, space)
        case Map("<", (left, right)):
            return _below(left, right, ONE, space)
        case Map(">=", (left, right)):
            return _below(right, left, ZERO, space)
        case Map(">", (left, right)):
            return _below(right, left, ONE, space)
        case Map("==", (left, right)):
            both = _all(_below(left, right, ZERO, space), _below(right, left, ZERO, space))
            return Live(both.some, None)
        case _:
            return EVERYWHERE


def _all(a: Live, b: Live) -> Live:
    some = Range(_most(a.some.lo, b.some.lo), _least(a.some.hi, b.some.hi))
    if a.full is None or b.full is None:
        return Live(some, None)
    return Live(some, Range(_most(a.full.lo, b.full.lo), _least(a.full.hi, b.full.hi)))


def _any(a: Live, b: Live) -> Live:
    """The hull of both for what can hold; what must hold is the first that is understood."""
    lo = None if a.some.lo is None or b.some.lo is None else minimum(a.some.lo, b.some.lo)
    hi = None if a.some.hi is None or b.some.hi is None else maximum(a.some.hi, b.some.hi)
    return Live(Range(lo, hi), b.full if b.full is not None else a.full)


def _most(a: Expr | None, b: Expr | None) -> Expr | None:
    return b if a is None else a if b is None else maximum(a, b)


def _least(a: Expr | None, b: Expr | None) -> Expr | None:
    return b if a is None else a if b is None else minimum(a, b)


def _below(left: Expr, right: Expr, slack: Const, space: Space) -> Live:
    """left + slack <= right, solved for the loop counter."""
    form = affine(Map("-", (left, right)), space)
    if form is None:
        return EVERYWHERE
    step = form.coefficients.get(space.loop, 0)
    low, high = _bounds(form, space, slack)
    if low is None or high is None:
        return EVERYWHERE
    if step == 0:
        return Live(Range(), None)
    if step > 0:
        can = plus(divided(negated(low), step), ONE)
        must = plus(divided(negated(high), step), ONE)
        return Live(Range(None, can), Range(None, must))
    can = negated(divided(negated(low), -step))
    must = negated(divided(negated(high), -step))
    return Live(Range(can, None), Range(must, None))


def _bounds(form: Affine, space: Space, slack: Const) -> tuple[Expr | None, Expr | None]:
    """Smallest and largest value over the tile of all but the counter's term."""
    low: Expr = plus(form.rest, slack)
    high: Expr = low
    for rank, factor in form.coefficients.items():
        if rank == space.loop:
            continue
        first: Expr
        last: Expr
        if rank in space.axes:
            size = space.axes[rank]
            first, last = ZERO, plus(size, Const(-1))
        elif rank in space.grid:
            first, last = Map("first", (Index(rank),)), Map("last", (Index(rank),))
        else:
            first = last = Index(rank)
        if factor < 0:
            first, last = last, first
        low, high = plus(low, times(first, factor)), plus(high, times(last, factor))
    return low, high


@dataclass(frozen=True, slots=True)
class Affine:
    """A sum of integer multiples of rank variables, and the rest, which has none of them."""

    coefficients: dict[str, int]
    rest: Expr


def affine(expr: Expr, space: Space) -> Affine | None:
    """An expression as an affine form; None where it is none."""
    match expr:
        case Index(rank):
            return Affine({rank: 1}, ZERO)
        case Const(value) if isinstance(value, int):
            return Affine({}, Const(int(value)))
        case Extent():
            return Affine({}, expr)
        case Tile(_, ()):
            return Affine({}, expr)
        case Map("+" | "-" as op, (left, right)):
            first, second = affine(left, space), affine(right, space)
            if first is None or second is None:
                return None
            return _added(first, second, 1 if op == "+" else -1)
        case Map("neg", (body,)):
            form = affine(body, space)
            return None if form is None else _added(Affine({}, ZERO), form, -1)
        case Map("*", (left, right)):
            first, second = affine(left, space), affine(right, space)
            if first is None or second is None:
                return None
            if isinstance(first.rest, Const) and not first.coefficients:
                first, second = second, first
            if second.coefficients or not isinstance(second.rest, Const):
                return _constant(expr, first, second)
            factor = int(second.rest.value)
            scaled = {rank: c * factor for rank, c in first.coefficients.items()}
            return Affine({r: c for r, c in scaled.items() if c}, times(first.rest, factor))
        case Map("//" | "%" | "min" | "max", args):
            forms = [affine(arg, space) for arg in args]
            if any(form is None or form.coefficients for form in forms):
                return None
            return Affine({}, expr)
        case _:
            return None


def _constant(expr: Expr, first: Affine, second: Affine) -> Affine | None:
    return None if first.coefficients or second.coefficients else Affine({}, expr)


def _added(first: Affine, second: Affine, sign: int) -> Affine:
    total = dict(first.coefficients)
    for rank, factor in second.coefficients.items():
        total[rank] = total.get(rank, 0) + sign * factor
    rest = plus(first.rest, times(second.rest, sign))
    return Affine({rank: c for rank, c in total.items() if c}, rest)


# -- integer expressions, folded as they are made


def plus(a: Expr, b: Expr) -> Expr:
    match a, b:
        case Const(x), Const(y):
            return Const(int(x) + int(y))
        case Const(0), _:
            return b
        case _, Const(0):
            return a
        case Map("+", (inner, Const(x))), Const(y):
            return plus(inner, Const(int(x) + int(y)))
        case Const(), _:
            return plus(b, a)
        case _, Const(y) if y < 0:
            return Map("-", (a, Const(-int(y))))
        case _, Map("neg", (body,)):
            return Map("-", (a, body))
        case _:
            return Map("+", (a, b))


def times(a: Expr, factor: int) -> Expr:
    if factor == 0:
        return ZERO
    if factor == 1:
        return a
    if factor == -1:
        return negated(a)
    if isinstance(a, Const):
        return Const(int(a.value) * factor)
    return Map("*", (a, Const(factor)))


def negated(a: Expr) -> Expr:
    match a:
        case Const(value):
            return Const(-int(value))
        case Map("neg", (body,)):
            return body
        case Map("-", (left, right)):
            return plus(right, negated(left))
        case Map("+", (left, right)):
            return plus(negated(left), negated(right))
        case _:
            return Map("neg", (a,))


def divided(a: Expr, divisor: int) -> Expr:
    """Rounded towards minus infinity."""
    if divisor == 1:
        return a
    if isinstance(a, Const):
        return Const(int(a.value) // divisor)
    return Map("//", (a, Const(divisor)))


def minimum(a: Expr, b: Expr) -> Expr:
    if isinstance(a, Const) and isinstance(b, Const):
        return Const(min(int(a.value), int(b.value)))
    return a if a == b else Map("min", (a, b))


def maximum(a: Expr, b: Expr) -> Expr:
    if isinstance(a, Const) and isinstance(b, Const):
        return Const(max(int(a.value), int(b.value)))
    return a if a == b else Map("max", (a, b))
