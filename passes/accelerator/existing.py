"""Which share of a space exists: of its points, or of its tiles, where one point is enough.

    where m1 * M0 + m0 <= p, by tiles of 256 of p and of M0 = 256 of m0      where m1 <= p / 256

The parts of a partition count as the rank that they cover, and a comparison of positions becomes
one of tiles: whether it can hold somewhere in them. What has no closed form is counted row by row
where two ranks are compared, and is all of the space otherwise, an upper bound.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from math import floor, gcd

import sympy

from attnc.ir.cascade import base
from attnc.ir.expr import Const, Expr, Extent, Index, Map
from attnc.ir.walk import free_ranks, rewrite, subterms
from attnc.passes.accelerator.amounts import Amount, product, quotient
from attnc.passes.partition import linear, mixed_radix, offset
from attnc.passes.points import Points

MOST_ROWS = 1 << 16


class Existing:
    """Shares over the ranks of one cascade; `known` are the values of its symbols."""

    def __init__(
        self, classes: Mapping[str, str], extents: Mapping[str, sympy.Expr],
        sizes: Mapping[str, Amount], known: Mapping[sympy.Symbol, Amount],
    ) -> None:  # fmt: skip
        self.classes, self.extents, self.sizes, self.known = classes, extents, sizes, known
        self.shares: dict[tuple[object, ...], Amount] = {}

    def extent(self, rank: str) -> Amount:
        return self.sizes[self.classes.get(rank, base(rank))]

    def share(
        self, predicates: Iterable[Expr], space: Iterable[str], lanes: Mapping[str, int]
    ) -> Amount:
        """The share of a space of tiles in which predicates can hold; `lanes` positions of each
        rank make a tile, one where nothing is said."""
        within = tuple(p for p in predicates if free_ranks(p) <= frozenset(space))
        if not within:
            return 1.0
        ranks = frozenset(r for p in within for r in free_ranks(p))
        sizes = {r: self.extent(r) for r in ranks}
        width = {r: min(lanes.get(r, 1), n) if isinstance(n, int) else 1 for r, n in sizes.items()}
        key = within, tuple(sorted(width.items()))
        if key not in self.shares:
            count = self._count(within, ranks, width)
            ratio = count / product(quotient(sizes[r], width[r]) for r in ranks)
            self.shares[key] = min(1.0, float(ratio)) if ratio.is_number else ratio
        return self.shares[key]

    def _count(
        self, predicates: tuple[Expr, ...], ranks: frozenset[str], width: dict[str, int]
    ) -> sympy.Expr:
        """Tiles in which the predicates can hold."""
        classes, sizes = dict(self.classes), {n: sympy.sympify(s) for n, s in self.sizes.items()}
        width, names = dict(width), set(ranks)
        found = {t: None for p in predicates for t in subterms(p) if isinstance(t, Map)}
        for subscript in sorted(found, key=lambda term: -len(free_ranks(term))):
            parts = free_ranks(subscript)
            if not parts <= names or not mixed_radix(subscript, self.classes, self.extents):
                continue
            axes = [p.args[1].rank for p in predicates
                    if isinstance(p, Map) and p.op == "<" and p.args[0] == subscript
                    and isinstance(p.args[1], Extent)]  # fmt: skip
            one = "+".join(sorted(parts))
            whole = product(sympy.sympify(self.extent(part)) for part in parts)
            sizes[one] = self._within(sizes[axes[0]], parts, whole) if axes else whole
            classes[one] = one
            width[one] = product(width[r] for r in parts)
            names = (names - parts) | {one}
            predicates = tuple(
                rewrite(p, _renamed(subscript, one))
                for p in predicates
                if not (axes and p == Map("<", (subscript, Extent(axes[0]))))
            )
        tiled = tuple(self._tiled(p, width, sizes) for p in predicates)
        for name in names:
            own = classes.get(name, base(name))
            if width[name] > 1:
                sizes[f"{name}/"] = sympy.ceiling(sizes[own] / width[name])
                classes[name] = f"{name}/"
        points = Points(classes, sizes)
        count, exact = points.count(names, tiled)
        rows = None if exact else self._by_rows(tiled, names, points)
        return count.subs(self.known) if rows is None else sympy.Integer(rows)

    def _within(self, size: Amount, parts: frozenset[str], whole: Amount) -> Amount:
        """The extent of a rank as far as its parts reach: all of it, if one is cut to cover it."""
        tiles = [sympy.sympify(self.extent(part)) for part in parts]
        covered = any(tile == sympy.ceiling(size * tile / whole) for tile in tiles)
        return size if covered else sympy.Min(size, whole)

    def _tiled(self, predicate: Expr, width: Mapping[str, int], sizes: dict[str, Amount]) -> Expr:
        """A comparison of positions as one of tiles, 0 <= a sum of multiples of their numbers."""
        if all(width[r] == 1 for r in free_ranks(predicate)):
            return predicate
        form = self._affine(predicate, sizes)
        if form is None:
            return predicate
        factors, constant = form
        slack = sum(factor * (width[r] - 1) for r, factor in factors.items() if factor > 0)
        scaled = {r: factor * width[r] for r, factor in factors.items()}
        step = gcd(*scaled.values()) or 1
        total: Expr = Const((constant + slack) // step)
        for rank, factor in scaled.items():
            total = Map("+", (total, Map("*", (Const(factor // step), Index(rank)))))
        return Map("<=", (Const(0), total))

    def _affine(
        self, predicate: Expr, sizes: Mapping[str, Amount]
    ) -> tuple[dict[str, int], int] | None:
        """A predicate as 0 <= constant + sum of factors times positions, all whole numbers."""
        match predicate:
            case Map("<=" | "<" as op, (a, b)) | Map(">=" | ">" as op, (b, a)):
                high = Map("-", (b, a))
            case _:
                return None
        found, rest = linear(high, sizes), offset(high, sizes)
        if found is None or rest is None:
            return None
        factors = {r: c.subs(self.known) for r, c in found.items()}
        constant = rest.subs(self.known) - (1 if op in ("<", ">") else 0)
        if not constant.is_number or not all(c.is_Integer for c in factors.values()):
            return None
        return {r: int(c) for r, c in factors.items()}, floor(constant)

    def _by_rows(self, predicates: tuple[Expr, ...], names: set[str], points: Points) -> int | None:
        """The points at which affine predicates over two ranks hold, row by row."""
        if len(names) != 2:
            return None
        forms = [self._affine(p, points.extents) for p in predicates]
        extents = {name: points.extent(name).subs(self.known) for name in names}
        if None in forms or not all(size.is_Integer for size in extents.values()):
            return None
        rows, columns = sorted(names, key=lambda name: int(extents[name]))
        if extents[rows] > MOST_ROWS:
            return None
        count = 0
        for row in range(int(extents[rows])):
            low, high = 0, int(extents[columns]) - 1
            for factors, constant in (form for form in forms if form is not None):
                rest, step = constant + factors.get(rows, 0) * row, factors.get(columns, 0)
                if step > 0:
                    low = max(low, -(rest // step))
                elif step < 0:
                    high = min(high, rest // -step)
                elif rest < 0:
                    high = -1
            count += max(0, high - low + 1)
        return count


def _renamed(subscript: Expr, name: str) -> Callable[[Expr], Expr | None]:
    """A rule that puts one rank for a subscript of several."""
    return lambda term: Index(name) if term == subscript else None
