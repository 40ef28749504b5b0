"""Expressions of a cascade as expressions of tiles: axes, loads, masks.

What a rank variable is in a kernel is decided here once: a number that the grid or a loop sets,
or an axis of a tile. A load knows where it may read; a predicate that is known to hold where it
is asked for disappears.
"""

from __future__ import annotations

from collections.abc import Iterable

from attnc.ir.cascade import Cascade, Einsum, base
from attnc.ir.expr import (
    ONE,
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
)
from attnc.ir.source import InvalidIR, Span
from attnc.ir.tile import Axis, Load
from attnc.ir.walk import free_ranks, substitute
from attnc.passes.domain import Domains
from attnc.passes.extents import Extents
from attnc.passes.scopes import Scopes, Value


class Values:
    """Tile expressions of one kernel; what an Einsum's value is, its writer says."""

    def __init__(
        self,
        cascade: Cascade,
        name: str,
        memory: dict[str, tuple[str, ...]],
        tiles: dict[str, int],
        extents: Extents,
        domains: Domains,
    ) -> None:
        self.cascade, self.name, self.memory, self.extents = cascade, name, memory, extents
        self.domains, self.classes = domains, domains.classes
        self.stepped = cascade.iterative()
        self.loops = {rank for _, rank in self.stepped.values()} - tiles.keys()
        self.definitions: dict[str, Einsum] = {}
        self.starts: dict[str, Einsum] = {}
        for einsum in cascade.einsums:
            start = any(left.step == "start" for left in einsum.left)
            (self.starts if start else self.definitions)[einsum.target] = einsum
        self.grid = tiles
        self.axes: dict[str, Axis] = {}
        self.scopes = Scopes()

    def _tensor(self, tensor: str, span: Span) -> Value:
        """The value of an Einsum that is not iterative, once."""
        raise InvalidIR(f"{self.name}: nothing says what {tensor} is")

    def _iterative(self, access: Access) -> Value:
        """The value of an iterative tensor at the step at hand."""
        raise InvalidIR(f"{self.name}: nothing says what {access.tensor} is")

    # -- axes

    def _is_axis(self, rank: str) -> bool:
        """Whether a rank variable runs along a tile; notes its axis if so."""
        if rank in self.loops or self.grid.get(rank) == 1 or self._single(rank):
            return False
        if rank not in self.axes:
            self.axes[rank] = self._axis(rank)
        return True

    def _single(self, rank: str) -> bool:
        """Whether a rank has one position, whatever the call: it needs no axis."""
        return self.extents.of(self.classes.get(rank, base(rank))) == ONE

    def _axis(self, rank: str) -> Axis:
        extent = self.extents.of(self.classes.get(rank, base(rank)))
        if rank in self.grid:
            return Axis(rank, extent, self.grid[rank])
        if isinstance(extent, Const):
            return Axis(rank, extent, int(extent.value))
        return Axis(rank, extent, None)

    def _index(self, rank: str) -> Value:
        if rank in self.loops:
            depth = self.scopes.depth_of(rank)
            if depth is not None:
                return Index(rank), depth
            raise InvalidIR(f"{self.name}: {rank} is used outside its loop")
        if self._single(rank):
            return ZERO, 0
        self._is_axis(rank)
        return Index(rank), 0

    def axes_of(self, expr: Expr) -> tuple[str, ...]:
        """The axes of a tile expression, in the order in which they appear."""
        found: dict[str, None] = {}
        stack = [expr]
        while stack:
            term = stack.pop()
            match term:
                case Tile(_, ranks):
                    found.update(dict.fromkeys(ranks))
                case Index(rank):
                    if self._is_axis(rank):
                        found.setdefault(rank)
                case Map("select", (condition, chosen, other)):
                    stack.extend((condition, other, chosen))
                case Map(_, args):
                    stack.extend(reversed(args))
                case Cast(_, body):
                    stack.append(body)
                case _:
                    pass
        return self.batch_first(found)

    def batch_first(self, ranks: Iterable[str]) -> tuple[str, ...]:
        """Axes in order, those that number whole problems in front: their matrices stay whole."""
        return tuple(sorted(ranks, key=lambda rank: rank not in self.cascade.batch))

    # -- expressions

    def _value(self, expr: Expr) -> Value:
        """An expression of the cascade as an expression of tiles."""
        match expr:
            case Const():
                return expr, 0
            case Index(rank):
                return self._index(rank)
            case Extent(rank):
                return self.extents.of(rank), 0
            case Param(name):
                return Const(self.extents.params[name]), 0
            case Map("present", (body,)):
                mask, depth = self.mask(self.domains.of(body))
                if mask is None:
                    return ONE, 0
                return Map("select", (mask, ONE, ZERO)), depth
            case Map(op, args):
                parts = [self._value(arg) for arg in args]
                depth = max((depth for _, depth in parts), default=0)
                return Map(op, tuple(part for part, _ in parts), expr.span), depth
            case Cast(dtype, body):
                value, depth = self._value(body)
                return Cast(dtype, value, expr.span), depth
            case Access():
                return self._access(expr)
            case Reduce() | Populate() | Tile():
                raise InvalidIR(f"{self.name}: a reduction inside an expression")

    def _access(self, access: Access) -> Value:
        tensor = access.tensor
        if tensor in self.memory and tensor not in self.stepped:
            return self._load(access)
        if tensor in self.stepped:
            return self._iterative(access)
        value, depth = self._tensor(tensor, access.span)
        names = zip(self.definitions[tensor].ranks, access.subscripts)
        return self._renamed(value, dict(names)), depth

    def _renamed(self, value: Expr, names: dict[str, Expr]) -> Expr:
        """A tile seen under the rank variables of its reader."""
        other = {r: s.rank for r, s in names.items() if isinstance(s, Index) and s.rank != r}
        if not other:
            return value
        match value:
            case Tile(name, ranks):
                for rank in other.values():
                    self._is_axis(rank)
                return Tile(name, tuple(other.get(r, r) for r in ranks))
            case _:
                return substitute(value, {r: Index(s) for r, s in other.items()})

    def _load(self, access: Access) -> Value:
        parts = [self._value(subscript) for subscript in access.subscripts]
        subscripts = tuple(part for part, _ in parts)
        depth = max((depth for _, depth in parts), default=0)
        # What holds in a loop does not protect a load that goes before it.
        unknown = tuple(p for p in self.domains.position(access) if not self._known(p, depth))
        key = (access, unknown)
        found = self.scopes.find(key)
        if found is not None:
            return found
        where: Expr | None = None
        for predicate in unknown:
            value, inner = self._value(predicate)
            where, depth = both(where, value), max(depth, inner)
        ranks: dict[str, None] = {}
        for part in subscripts:
            ranks.update(dict.fromkeys(self.axes_of(part)))
        name = self.scopes.fresh(f"{access.tensor}_tile", depth)
        self.scopes.emit(
            Load(name, tuple(ranks), access.tensor, subscripts, where, access.span), depth
        )
        return self.scopes.keep(key, Tile(name, tuple(ranks)), depth)

    def _known(self, part: Expr, depth: int) -> bool:
        """Whether a predicate need not be tested at a depth; if it must, its loop takes note."""
        self.scopes.ask(part)
        return self.scopes.knows(part, depth)

    # -- predicates

    def mask(self, predicates: tuple[Expr, ...]) -> tuple[Expr | None, int]:
        """The predicates that are not known to hold, as one tile expression."""
        result: Expr | None = None
        depth = 0
        for part in predicates:
            if self._known(part, self.scopes.depth):
                continue
            value, inner = self._value(part)
            result, depth = both(result, value), max(depth, inner)
        return result, depth

    def _uniform(self, predicate: Expr) -> bool:
        """Whether a predicate is one truth value for a whole instance of the grid."""
        return all(self.grid.get(rank) == 1 for rank in free_ranks(predicate))
