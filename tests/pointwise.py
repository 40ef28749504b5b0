"""The language a second time: what one point of one tensor is, with scalars alone.

A point that does not exist is None. Nothing is ordered and nothing is an array: a value asks for
those it needs, so a recurrence is recursion. Slow, and small enough to be read against the
language's reference.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from functools import cache, reduce
from itertools import product
from typing import Any

import numpy as np

from attnc.backends.binding import bind
from attnc.ir.cascade import Cascade, Einsum, rank_of
from attnc.ir.expr import (
    Access,
    Cast,
    Const,
    Expr,
    Extent,
    Index,
    Map,
    Param,
    Populate,
    Reduce,
    Tile,
)
from attnc.ir.walk import free_ranks

Number = int | float | bool
Point = Number | None
At = dict[str, int]

FOLDS: dict[str, tuple[Number, Callable[[Any, Any], Any]]] = {
    "sum": (0, lambda x, y: x + y),
    "prod": (1, lambda x, y: x * y),
    "max": (-math.inf, np.maximum),
    "min": (math.inf, np.minimum),
    "any": (False, lambda x, y: x or y),
    "all": (True, lambda x, y: x and y),
    "logsumexp": (-math.inf, np.logaddexp),
}

MAPS: dict[str, Callable[..., Any]] = {
    "+": lambda x, y: x + y, "-": lambda x, y: x - y, "*": lambda x, y: x * y,
    "/": lambda x, y: x / y, "//": lambda x, y: x // y, "%": lambda x, y: x % y,
    "neg": lambda x: -x, "abs": abs, "max": np.maximum, "min": np.minimum,
    "<": lambda x, y: x < y, "<=": lambda x, y: x <= y, ">": lambda x, y: x > y,
    ">=": lambda x, y: x >= y, "==": lambda x, y: x == y, "!=": lambda x, y: x != y,
    "and": lambda x, y: x and y, "or": lambda x, y: x or y, "not": lambda x: not x,
    "tanh": np.tanh, "sin": np.sin, "relu": lambda x: np.maximum(x, 0),
}  # fmt: skip


class Pointwise:
    """A cascade with its arguments; `tensor` answers for one position."""

    def __init__(self, cascade: Cascade, arrays: dict[str, Any]) -> None:
        call = bind(cascade, (), arrays)
        self.cascade, self.arrays = cascade, call.arrays
        self.extents, self.params = call.extents, call.params
        self.classes, self.iterative = rank_of(cascade), cascade.iterative()
        self.tensor = cache(self._tensor)

    def extent(self, rank: str) -> int:
        return self.extents[self.classes[rank]]

    def output(self, name: str) -> list[Number]:
        """Every point of an output in the order of its axes, empty ones 0."""
        spaces = [range(self.extent(rank)) for rank in self.cascade.axes(name)]
        return [self.tensor(name, position) or 0 for position in product(*spaces)]

    def _tensor(self, name: str, position: tuple[int, ...]) -> Point:
        if name in self.arrays:
            array = self.arrays[name]
            inside = all(0 <= k < n for k, n in zip(position, array.shape))
            return array[position].item() if inside else None  # type: ignore[no-any-return]
        einsum, at = self._definition(name, position)
        if not all(0 <= k < self.extent(rank) for rank, k in at.items()):
            return None
        if einsum.where is not None and not self.value(einsum.where, at):
            return None
        return self.value(einsum.body, at)

    def _definition(self, name: str, position: tuple[int, ...]) -> tuple[Einsum, At]:
        """The Einsum that assigns a position, and where its rank variables stand then."""
        axis = self.iterative[name][0] if name in self.iterative else None
        step = "" if axis is None else "start" if position[axis] == 0 else "next"
        (einsum,) = (
            e for e in self.cascade.definitions(name) if axis is None or e.left[axis].step == step
        )
        places = {left.rank: k - (left.step == "next") for left, k in zip(einsum.left, position)}
        if step == "start":
            del places[einsum.left[axis or 0].rank]
        return einsum, places

    def value(self, expr: Expr, at: At) -> Point:
        match expr:
            case Const(value):
                return value
            case Index(rank):
                return at[rank]
            case Extent(rank):
                return self.extent(rank)
            case Param(name):
                return self.params[name]
            case Cast(_, body):
                return self.value(body, at)
            case Access(tensor, subscripts):
                position = tuple(self.value(subscript, at) for subscript in subscripts)
                return None if None in position else self.tensor(tensor, position)
            case Map("present", (body,)):
                return int(self.value(body, at) is not None)
            case Map("select", (condition, chosen, other)):
                picked = self.value(condition, at)
                return None if picked is None else self.value(chosen if picked else other, at)
            case Map(op, args):
                values = [self.value(arg, at) for arg in args]
                return None if None in values else MAPS[op](*values)  # type: ignore[no-any-return]
            case Reduce(op, ranks, body, where):
                if not self.inside(body, frozenset(ranks), at):
                    return None
                identity, join = FOLDS[op]
                there = [value for _, value in self.points(ranks, body, where, at)]
                return reduce(join, there) if there else identity
            case Populate(op, rank, body, where, slot):
                there = [(k, value) for (k,), value in self.points((rank,), body, where, at)]
                down = op in ("argtop", "argmax", "rankof")
                there.sort(key=lambda at: (math.isnan(at[1]), -at[1] if down else at[1], at[0]))
                order = [k for k, _ in there]
                if op == "rankof":
                    return order.index(at[rank]) if at[rank] in order else None
                wanted = 0 if slot is None else at[slot]
                return order[wanted] if wanted < len(order) else None
            case Tile():
                raise TypeError("a tile in a cascade")

    def points(
        self, ranks: tuple[str, ...], body: Expr, where: Expr | None, at: At
    ) -> Iterator[tuple[tuple[int, ...], Number]]:
        """Where the operand of a reduction exists, and its values there."""
        for position in product(*(range(self.extent(rank)) for rank in ranks)):
            inner = {**at, **dict(zip(ranks, position))}
            value = self.value(body, inner) if where is None or self.value(where, inner) else None
            if value is not None:
                yield position, value

    def inside(self, expr: Expr, reduced: frozenset[str], at: At) -> bool:
        """Whether subscripts that a reduction does not run over lie inside their ranks."""
        match expr:
            case Access(tensor, subscripts):
                sizes = [self.extent(rank) for rank in self.cascade.axes(tensor)]
                if tensor in self.iterative:
                    sizes[self.iterative[tensor][0]] += 1
                return all(
                    (place := self.value(subscript, at)) is not None and 0 <= place < size
                    for subscript, size in zip(subscripts, sizes)
                    if not free_ranks(subscript) & reduced
                )
            case Map("present"):
                return True
            case Map("select", (condition, _, _)):
                return self.inside(condition, reduced, at)
            case Map(_, args):
                return all(self.inside(arg, reduced, at) for arg in args)
            case Cast(_, body):
                return self.inside(body, reduced, at)
            case _:
                return True
