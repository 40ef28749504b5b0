"""Where a value exists: the predicates under which an expression is not empty.

    S[p, m] = Q[p, e] * K[m + 1, e] where m <= p      exists where m <= p and m + 1 < |m|

A point that a `where` excludes or that lies outside its rank does not exist, an elementwise
operation exists where its operands do, and a reduction exists everywhere but where a subscript
that it does not run over leaves its rank.
"""

from __future__ import annotations

from attnc.ir.cascade import Cascade, Einsum, base, rank_of
from attnc.ir.expr import (
    ZERO,
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
    both,
    conjuncts,
)
from attnc.ir.walk import free_ranks, rewrite, substitute

Predicates = tuple[Expr, ...]
"""Predicates that must all hold, each once, in the order in which they were met."""


def union(*groups: Predicates) -> Predicates:
    """Predicates that hold together, choices by one condition as one.

    `c and A or not c` and `c or not c and A` are A.
    """
    parts = dict.fromkeys(part for group in groups for part in group)
    choices: dict[Expr, list[Predicates]] = {}
    plain: dict[Expr, None] = {}
    for part in parts:
        found = _chosen(part)
        if found is None:
            plain[part] = None
        else:
            condition, sides = found[0], choices.setdefault(found[0], [(), ()])
            choices[condition] = [(*old, *new) for old, new in zip(sides, found[1:])]
    for condition, (first, second) in choices.items():
        left, right = (
            dict.fromkeys(part for part in side if part not in plain) for side in (first, second)
        )
        if left.keys() == right.keys():
            plain.update(left)
        else:
            plain.update(dict.fromkeys(_either(condition, tuple(left), tuple(right))))
    return tuple(plain)


def _chosen(part: Expr) -> tuple[Expr, Predicates, Predicates] | None:
    """The condition of a predicate that `_either` made, and what it says on both sides."""
    match part:
        case Map("or", (first, second)):
            left, right = conjuncts(first), conjuncts(second)
            match right[0]:
                case Map("not", (condition,)) if left[: len(conjuncts(condition))] == conjuncts(
                    condition
                ):
                    return condition, left[len(conjuncts(condition)) :], right[1:]
    return None


class Domains:
    """The domain of every tensor of a cascade, in terms of its left ranks.

    `bounds` are the predicates that no `where` states: that a subscript lies within its rank.
    """

    def __init__(self, cascade: Cascade) -> None:
        self.cascade = cascade
        self.classes = rank_of(cascade)
        self.iterative = cascade.iterative()
        self.alike = {
            decl.name: decl.extent.rank for decl in cascade.ranks if isinstance(decl.extent, Extent)
        }
        self.params = {decl.name: decl.default for decl in cascade.params}
        self.extents = {decl.name: decl.extent for decl in cascade.ranks}
        self.axes: dict[str, tuple[str, ...]] = {t.name: t.ranks for t in cascade.inputs}
        self.left: dict[str, tuple[str, ...]] = dict(self.axes)
        self.tensors: dict[str, Predicates] = {t.name: () for t in cascade.inputs}
        self.bounds: set[Expr] = set()
        for einsum in cascade.einsums:
            self.axes[einsum.target] = tuple(self.classes.get(r, base(r)) for r in einsum.ranks)
            self.left[einsum.target] = einsum.ranks
            self.tensors.setdefault(einsum.target, ())
        for einsum in cascade.einsums:
            found = self.of_einsum(einsum)
            if einsum.target in self.iterative:
                # A step that never exists anywhere along its rank leaves no value behind.
                rank = self.iterative[einsum.target][1]
                found = tuple(part for part in found if rank not in free_ranks(part))
            self.tensors[einsum.target] = union(self.tensors[einsum.target], found)

    def of_einsum(self, einsum: Einsum) -> Predicates:
        return union(self.holding(einsum.where), self.of(einsum.body))

    def holding(self, where: Expr | None) -> Predicates:
        """What must be for a predicate to hold: that it exists, and each of its parts."""
        return () if where is None else union(self.of(where), conjuncts(where))

    def of(self, expr: Expr) -> Predicates:
        """Where an expression exists."""
        match expr:
            case Const() | Index() | Extent() | Param() | Tile():
                return ()
            case Access(tensor, subscripts):
                values = dict(zip(self.left[tensor], subscripts))
                own = tuple(substitute(part, values) for part in self.tensors[tensor])
                self.bounds.update(
                    seen for part, seen in zip(self.tensors[tensor], own) if part in self.bounds
                )
                return union(self.position(expr), own)
            case Map("present"):
                return ()
            case Map("select", (condition, chosen, other)):
                first, second = self.of(chosen), self.of(other)
                return union(self.of(condition), _either(condition, first, second))
            case Map(_, args):
                return union(*(self.of(arg) for arg in args))
            case Cast(_, body):
                return self.of(body)
            case Reduce(_, ranks, body):
                inside = self._positions(body)
                return tuple(part for part in inside if not free_ranks(part) & set(ranks))
            case Populate(op, _, body):
                if op == "rankof":
                    return self.of(body)
                return (Map("present", (expr,)),)

    def _positions(self, expr: Expr) -> Predicates:
        """The bounds of the subscripts that every evaluation of an expression reads."""
        match expr:
            case Access():
                return self.position(expr)
            case Map("present"):
                return ()
            case Map("select", (condition, _, _)):
                return self._positions(condition)
            case Map(_, args):
                return union(*(self._positions(arg) for arg in args))
            case Cast(_, body):
                return self._positions(body)
            case _:
                return ()

    def position(self, access: Access) -> Predicates:
        """The bounds of an access's own subscripts."""
        stepped = self.iterative.get(access.tensor)
        found: list[Predicates] = []
        for axis, (subscript, rank) in enumerate(zip(access.subscripts, self.axes[access.tensor])):
            if stepped is None or stepped[0] != axis:
                found.append(self.of(subscript))
                inside = self._inside(subscript, rank)
                self.bounds.update(inside)
                found.append(inside)
        return union(*found)

    def _natural(self, expr: Expr, occupied: str = "") -> bool:
        """Whether an integer expression can be seen to be at least 0; `occupied` has a position."""
        match expr:
            case Index() | Extent():
                return True
            case Const(value):
                return value >= 0
            case Param(name):
                default = self.params.get(name)
                return default is not None and default >= 0
            case Map("+" | "*" | "//" | "min", args):
                return all(self._natural(arg, occupied) for arg in args)
            case Map("max", args):
                return any(self._natural(arg, occupied) for arg in args)
            case Map("%", (_, divisor)):
                return self._natural(divisor, occupied)
            case Map("-", (Extent(rank), Const(1))):
                return rank == occupied
            case Map("-", (Map("-", (Extent(rank), Const(1))), Index() as inner)):
                return not self._inside(inner, rank)
            case _:
                return False

    def _along(self, variable: str, rank: str) -> bool:
        """Whether a variable runs over a rank."""
        return rank in (self.classes.get(variable, base(variable)), self.alike.get(variable))

    def _before_end(self, expr: Expr, rank: str, occupied: str) -> bool:
        """Whether an integer expression can be seen to be less than the extent of a rank."""
        match expr:
            case Index(variable):
                return self._along(variable, rank)
            case Const(value):
                return value < 0 or (value == 0 and occupied == rank)
            case Map("-", (Extent(other), Const(value))) if other == rank:
                return value > 0
            case Map("-", (less, by)):
                return self._natural(by, occupied) and self._before_end(less, rank, occupied)
            case Map("min", args):
                return any(self._before_end(arg, rank, occupied) for arg in args)
            case Map("max", args):
                return all(self._before_end(arg, rank, occupied) for arg in args)
            case _:
                return False

    def _parted(self, rank: str, size: Expr) -> str | None:
        """The rank of which a rank numbers the tiles of a size."""
        match self.extents.get(rank):
            case Map("ceil", (Map("/", (Extent(whole), length)),)) if length == size:
                return whole
            case _:
                return None

    def _inside(self, subscript: Expr, rank: str) -> Predicates:
        """What must be checked for a subscript to lie within its rank."""
        match subscript:
            case Index(variable) if self._along(variable, rank):
                return ()
            case Map("%", (_, size)) if size in (Extent(rank), self.extents.get(rank)):
                return ()
            case Map("//", (inner, size)) if (whole := self._parted(rank, size)) is not None:
                return self._inside(inner, whole)
            case Map("-", (Map("-", (Extent(other), Const(1))), inner)) if other == rank:
                # Counted from the end.
                return self._inside(inner, rank)
            case _:
                here = any(self._along(variable, rank) for variable in free_ranks(subscript))
                occupied = rank if here else ""
                low = () if self._natural(subscript, occupied) else (Map(">=", (subscript, ZERO)),)
                if self._before_end(subscript, rank, occupied):
                    return low
                return (*low, Map("<", (subscript, Extent(rank))))


def _either(condition: Expr, first: Predicates, second: Predicates) -> Predicates:
    """Where a choice exists: what is chosen does, and what the condition says is known there."""
    given = conjuncts(condition)
    first = tuple(part for part in first if part not in given)
    if first == second:
        return first
    left, right = conjunction(first), conjunction(second)
    chosen = condition if left is None else both(condition, left)
    denied = Map("not", (condition,))
    other = denied if right is None else both(denied, right)
    return (Map("or", (chosen, other)),) if chosen is not None and other is not None else ()


def conjunction(predicates: Predicates) -> Expr | None:
    """Predicates as one; None where there is none."""
    result: Expr | None = None
    for part in predicates:
        result = both(result, part)
    return result


def counting(expr: Expr) -> Expr:
    """A term as it is where it counts: what chooses between something and 0 chose something."""

    def rule(term: Expr) -> Expr | None:
        match term:
            case Map("select", (_, Const(0), other)) | Map("select", (_, other, Const(0))):
                return other
            case _:
                return None

    return rewrite(expr, rule)
