"""Cut the iterations of a loop where predicates are known to hold from those where they are not."""

from __future__ import annotations

from functools import reduce

from attnc.ir.expr import ZERO, Expr
from attnc.passes.ranges import Range, maximum, minimum


def segments(
    count: Expr, some: list[Range], full: list[Range], asked: bool
) -> list[tuple[Expr, Expr, str]]:
    """Ranges of a loop with a note, in order: "partial", "full", "partial", as far as needed.

    `count` is the number of iterations, `some` the ranges outside which an iteration does nothing,
    `full` those inside which a predicate need not be tested, `asked` says whether any predicate is
    tested at all.
    """
    zero: Expr = ZERO
    lo = reduce(maximum, [r.lo for r in some if r.lo is not None], zero)
    hi = reduce(minimum, [r.hi for r in some if r.hi is not None], count)
    if not full:
        return [(lo, hi, "partial" if asked else "full")]
    begin = [r.lo for r in full if r.lo is not None]
    end = [r.hi for r in full if r.hi is not None]
    start = minimum(reduce(maximum, begin, lo), maximum(lo, hi)) if begin else lo
    stop = maximum(start, reduce(minimum, end, hi)) if end else hi
    parts = [(start, stop, "full")]
    if begin:
        parts.insert(0, (lo, start, "partial"))
    if end:
        parts.append((stop, hi, "partial"))
    return parts
