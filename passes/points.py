"""How many points an iteration space has, as a closed form where there is one.

m <= p                         |p| rows of min(p + 1, |m|) points
p - W < m and m <= p           the difference of two such counts
m1 * M0 + m0 < |m|             |m|, where m1 and m0 partition m
doc[p] == doc[m]               no closed form: all points, an upper bound
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from math import prod

import sympy

from attnc.ir.cascade import base
from attnc.ir.expr import Expr, Extent, Map
from attnc.ir.walk import free_ranks
from attnc.passes.partition import linear, mixed_radix, offset
from attnc.passes.symbolic import extent_symbol

Bounds = dict[tuple[str, str], list[list[sympy.Expr]]]


class Points:
    """Counts of points over the rank variables of one cascade."""

    def __init__(self, classes: Mapping[str, str], extents: Mapping[str, sympy.Expr]) -> None:
        self.classes = classes
        self.extents = extents
        self.known: dict[tuple[frozenset[str], frozenset[Expr]], tuple[sympy.Expr, bool]] = {}

    def extent(self, variable: str) -> sympy.Expr:
        rank = self.classes.get(variable, base(variable))
        return self.extents[rank] if rank in self.extents else extent_symbol(rank)

    def count(
        self, variables: Iterable[str], predicates: Iterable[Expr]
    ) -> tuple[sympy.Expr, bool]:
        """The points over some variables at which predicates hold; and whether that is exact.

        A predicate over other variables too says nothing here. An inexact count is an upper bound.
        """
        space = frozenset(variables)
        within = frozenset(part for part in predicates if free_ranks(part) <= space)
        if (space, within) not in self.known:
            self.known[space, within] = self._count(space, within)
        return self.known[space, within]

    def _count(self, space: frozenset[str], predicates: frozenset[Expr]) -> tuple[sympy.Expr, bool]:
        factors: list[sympy.Expr] = []
        left = set(space)
        bounds: Bounds = {}
        exact = True
        for predicate in predicates:
            parts = self._partitioned(predicate)
            if parts and parts <= left:
                left -= parts
                factors.append(self._parts(predicate, parts))
            elif not self._bound(predicate, bounds):
                exact = False
        for pair, sides in bounds.items():
            if set(pair) - {""} <= left and all(len(side) <= 1 for side in sides):
                left -= set(pair)
                factors.append(self._band(pair, sides))
            else:
                exact = False
        factors.extend(self.extent(variable) for variable in sorted(left))
        return prod(factors, start=sympy.S.One), exact

    def _partitioned(self, predicate: Expr) -> frozenset[str]:
        """The variables of a partition that a predicate keeps within its rank."""
        match predicate:
            case Map("<", (subscript, Extent())) if mixed_radix(
                subscript, self.classes, self.extents
            ):
                return free_ranks(subscript)
            case _:
                return frozenset()

    def _parts(self, predicate: Expr, parts: frozenset[str]) -> sympy.Expr:
        match predicate:
            case Map("<", (_, Extent(rank))):
                whole = self.extent(rank)
                tiles = [self.extent(part) for part in parts]
                if any(
                    tile == sympy.ceiling(whole * tile / prod(tiles, start=sympy.S.One))
                    for tile in tiles
                ):
                    return whole
                return sympy.Min(whole, prod(tiles, start=sympy.S.One))
            case _:
                return prod((self.extent(part) for part in parts), start=sympy.S.One)

    def _bound(self, predicate: Expr, bounds: Bounds) -> bool:
        """Read low <= high + c as a bound of a variable, or of one against another."""
        match predicate:
            case Map("<=" | "<", (a, b)):
                difference = Map("-", (b, a))
            case Map(">=" | ">", (a, b)):
                difference = Map("-", (a, b))
            case _:
                return False
        found = linear(difference, self.extents)
        constant = offset(difference, self.extents)
        if found is None or constant is None or not set(found.values()) <= {1, -1}:
            return False
        if predicate.op in ("<", ">"):
            constant = constant - 1
        if len(found) == 1:
            ((variable, sign),) = found.items()
            low, high = (variable, "") if sign == -1 else ("", variable)
        elif len(found) == 2 and sum(found.values()) == 0:
            low, high = sorted(found, key=lambda name: int(found[name]))
        else:
            return False
        # Bounds of one pair are kept as first - second: at most so much, at least so much.
        first, second = sorted((low, high), reverse=True)
        sides = bounds.setdefault((first, second), [[], []])
        if low == first:
            sides[1].append(constant)
        else:
            sides[0].append(-constant)
        return True

    def _band(self, pair: tuple[str, str], sides: list[list[sympy.Expr]]) -> sympy.Expr:
        """Points at which at least <= x - y <= at most, y being 0 where there is no second."""
        x = self.extent(pair[0])
        y = self.extent(pair[1]) if pair[1] else sympy.S.One
        whole = x * y
        below = _staircase(x, y, sides[0][0] - 1) if sides[0] else sympy.S.Zero
        upto = _staircase(x, y, sides[1][0]) if sides[1] else whole
        if not sides[0]:
            return upto
        return sympy.Max(upto - below, 0) if sides[1] else upto - below


def _staircase(x: sympy.Expr, y: sympy.Expr, most: sympy.Expr) -> sympy.Expr:
    """Pairs i < x and j < y with i - j <= most: rows j of clip(j + most + 1, 0, x) points."""
    return _triangle(y + most, x) - _triangle(most, x)


def _triangle(rows: sympy.Expr, width: sympy.Expr) -> sympy.Expr:
    """1 + 2 + ... up to `rows` terms, each at most `width`; 0 for no or negative rows."""
    count = rows if rows.is_nonnegative else sympy.Max(rows, 0)
    short = sympy.Min(count, width)
    return short * (short + 1) / 2 + (count - short) * width
