"""Which part of a tensor a load or a store touches.

K[b, h, m1 * 64 + m0, e]      at a point in b and h, along a run of m, along all of e
V[I[p, j], f]                 by a table in the first axis, along all of f
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from attnc.ir.affine import affine
from attnc.ir.cascade import Tensor
from attnc.ir.expr import ZERO, Expr, Extent, Map, conjuncts
from attnc.ir.tile import Axis, Load, Store
from attnc.ir.walk import free_ranks


@dataclass(frozen=True, slots=True)
class Point:
    """One position, known for the whole tile."""

    position: Expr


@dataclass(frozen=True, slots=True)
class Run:
    """Positions start + step * rank, along the axis of a tile.

    `whole` says that they are the positions of that rank itself, so that all lie inside; `inside`
    that they lie inside for this or another reason.
    """

    rank: str
    start: Expr
    step: int
    whole: bool
    inside: bool


@dataclass(frozen=True, slots=True)
class Table:
    """Positions computed or read for each point."""

    position: Expr


Part = Point | Run | Table


@dataclass(frozen=True, slots=True)
class Touch:
    """The parts of each axis of the tensor.

    Nothing is touched unless all `once` hold. Runs that may leave their axis are cut to it; of
    what is then touched, the points count at which `tests` hold.
    """

    parts: tuple[Part, ...]
    once: tuple[Expr, ...]
    tests: tuple[Expr, ...]

    @property
    def runs(self) -> tuple[tuple[int, Run], ...]:
        return tuple((n, part) for n, part in enumerate(self.parts) if isinstance(part, Run))

    @property
    def cut(self) -> tuple[tuple[int, Run], ...]:
        """The runs that may leave their axis, with the numbers of the axes."""
        return tuple((n, run) for n, run in self.runs if not run.inside)

    @property
    def direct(self) -> bool:
        """Whether the whole tile is there and needs no test."""
        return not (self.once or self.tests or self.cut)

    @property
    def scattered(self) -> bool:
        return any(isinstance(part, Table) for part in self.parts)


def touch(statement: Load | Store, tensor: Tensor, axes: Mapping[str, Axis]) -> Touch:
    """Sort the subscripts of a load or store."""
    guards = conjuncts(statement.where)
    if isinstance(statement, Load) and not statement.ranks:  # One element, by edges of a tile too.
        return Touch(tuple(map(Point, statement.subscripts)), tuple(guards), ())
    parts = [
        _part(subscript, rank, axes, bool(guards))
        for subscript, rank in zip(statement.subscripts, tensor.ranks, strict=True)
    ]
    parts = _apart(parts, statement.subscripts)
    if any(isinstance(part, Table) for part in parts):
        # A table is looked up point by point, and so is what may leave its axis beside it.
        parts = [
            Table(subscript) if isinstance(part, Run) and not part.inside else part
            for part, subscript in zip(parts, statement.subscripts)
        ]
        parts = _apart(parts, statement.subscripts)
    answered = {
        test
        for part, subscript, rank in zip(parts, statement.subscripts, tensor.ranks)
        if isinstance(part, Run) and not part.inside
        for test in (
            Map("<", (subscript, Extent(rank))),
            Map(">=", (subscript, ZERO)),
        )
    }
    left = tuple(guard for guard in guards if guard not in answered)
    varying = tuple(guard for guard in left if free_ranks(guard) & axes.keys())
    return Touch(tuple(parts), tuple(g for g in left if g not in varying), varying)


def _part(subscript: Expr, rank: str, axes: Mapping[str, Axis], guarded: bool) -> Part:
    form = affine(subscript, axes)
    if form is None or len(form.factors) > 1:
        return Table(subscript)
    if not form.factors:
        return Point(subscript)
    ((own, step),) = form.factors.items()
    whole = step == 1 and form.rest == ZERO and (own == rank or axes[own].extent == Extent(rank))
    inside = whole or not guarded
    if step < 1 or (step > 1 and not inside):
        return Table(subscript)
    return Run(own, form.rest, step, whole, inside)


def _apart(parts: list[Part], subscripts: tuple[Expr, ...]) -> list[Part]:
    """Runs that share their rank with another subscript are tables."""
    uses: dict[str, int] = {}
    for part, subscript in zip(parts, subscripts):
        for rank in free_ranks(subscript) if not isinstance(part, Point) else ():
            uses[rank] = uses.get(rank, 0) + 1
    return [
        Table(subscript) if isinstance(part, Run) and uses[part.rank] > 1 else part
        for part, subscript in zip(parts, subscripts)
    ]
