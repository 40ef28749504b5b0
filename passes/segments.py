"""Cut the iterations of a loop where predicates are known to hold from those where they are not."""

from __future__ import annotations

from attnc.ir.affine import divided, least, most, plus, times
from attnc.ir.expr import ZERO, Const, Expr, Extent, Map
from attnc.passes.ranges import Piece, Range

Part = tuple[Expr, Expr, str]
"""A range of a loop and its note."""


def segments(count: Expr, pieces: tuple[Piece, ...], asked: bool) -> list[Part]:
    """Ranges of a loop with a note, in order: "partial", "full", "partial", as far as needed.

    `count` is the number of iterations. Outside the pieces an iteration does nothing, and where a
    piece is full no predicate that is known need be tested; `asked` says whether any is tested at
    all. Pieces may overlap: the later begins where the earlier ends.
    """
    if len(pieces) == 2:
        pieces = _ordered(*pieces, count)
    found: list[Part] = []
    begin: Expr = ZERO
    for place, piece in enumerate(pieces):
        lo = begin if piece.some.lo is None else most(begin, piece.some.lo)
        hi = count if piece.some.hi is None else least(count, piece.some.hi)
        found += _around(lo, hi, piece.full, asked)
        if place < len(pieces) - 1:
            begin = most(lo, hi)
    return found


def shared(parts: list[Part], number: Expr, among: Expr) -> list[Part]:
    """The share of one of several instances: as many iterations as each of the others, or fewer.

    What is shared is what there is to do, piece after piece, not all there could be: a short entry
    keeps all its instances busy, and so does a window far from its sink.
    """
    *_, total = _before(_runs(parts))
    if isinstance(among, Const):
        count = int(among.value)
        each: Expr = divided(plus(total, Const(count - 1)), count)
    else:
        each = Map("//", (plus(total, plus(among, Const(-1))), among))
    return stretch(parts, Map("*", (number, each)), each)


def stretch(parts: list[Part], begin: Expr, each: Expr) -> list[Part]:
    """As many iterations as `each` says from the one at place `begin`, of what there is to do."""
    runs = _runs(parts)
    found: list[Part] = []
    for run, done in zip(runs, _before(runs)):
        start = plus(plus(run[0][0], times(done, -1)), begin)
        stop = plus(start, each)
        found += [(most(lo, start), least(hi, stop), note) for lo, hi, note in run]
    return found


def _runs(parts: list[Part]) -> list[list[Part]]:
    """Ranges that follow one another without a gap, together."""
    runs: list[list[Part]] = []
    for part in parts:
        if runs and runs[-1][-1][1] == part[0]:
            runs[-1].append(part)
        else:
            runs.append([part])
    return runs


def _before(runs: list[list[Part]]) -> list[Expr]:
    """The iterations before each run, and in the end all of them."""
    before: list[Expr] = [ZERO]
    for run in runs:
        first, last = run[0][0], run[-1][1]
        before.append(plus(before[-1], plus(most(first, last), times(first, -1))))
    return before


def _around(lo: Expr, hi: Expr, full: Range | None, asked: bool) -> list[Part]:
    """One piece, its full iterations apart from those before and after them."""
    if full is None:
        return [(lo, hi, "partial" if asked else "full")]
    if full.hi is not None:
        begin = lo if full.lo is None else most(lo, full.lo)
        above, below = at_most(least(hi, full.hi)), at_least(begin)
        if above is not None and below is not None and above <= below:
            return [(lo, hi, "partial")]
    start = lo if full.lo is None else least(most(lo, full.lo), most(lo, hi))
    stop = hi if full.hi is None else most(start, least(hi, full.hi))
    parts = [(start, stop, "full")]
    if full.lo is not None:
        parts.insert(0, (lo, start, "partial"))
    if full.hi is not None:
        parts.append((stop, hi, "partial"))
    return parts


def at_most(expr: Expr) -> float | None:
    """A number that an expression of extents and positions never exceeds, if one is plain."""
    match expr:
        case Const(value):
            return value
        case Map("min", args):
            return min((n for n in map(at_most, args) if n is not None), default=None)
        case Map("max", args):
            found = [at_most(arg) for arg in args]
            known = [n for n in found if n is not None]
            return max(known) if len(known) == len(found) else None
        case _:
            return None


def at_least(expr: Expr) -> float | None:
    """A number that an expression of extents and positions never falls below, if one is plain."""
    match expr:
        case Const(value):
            return value
        case Extent() | Map("first" | "last"):
            return 0
        case Map("max", args):
            return max((n for n in map(at_least, args) if n is not None), default=None)
        case Map("min", args):
            found = [at_least(arg) for arg in args]
            known = [n for n in found if n is not None]
            return min(known) if len(known) == len(found) else None
        case _:
            return None


def _ordered(first: Piece, second: Piece, count: Expr) -> tuple[Piece, Piece]:
    """Two pieces with the one that begins earlier in front, whichever that is at the time."""
    if first.some.lo in (None, ZERO):
        return first, second
    if second.some.lo in (None, ZERO):
        return second, first
    ahead = Map("<=", (first.some.lo, second.some.lo))

    def chosen(a: Expr, b: Expr) -> Expr:
        return a if a == b else Map("select", (ahead, a, b))

    def either(a: Range, b: Range) -> Range:
        (low, high), (other, top) = (
            (ZERO if part.lo is None else part.lo, count if part.hi is None else part.hi)
            for part in (a, b)
        )
        return Range(chosen(low, other), chosen(high, top))

    def piece(a: Piece, b: Piece) -> Piece:
        full = None if a.full is None or b.full is None else either(a.full, b.full)
        return Piece(either(a.some, b.some), full)

    return piece(first, second), piece(second, first)
