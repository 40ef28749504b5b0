"""A rank in tiles: expressions at a position of a tile, tensors as tiles of their own.

    S[p, m] = Q[p, e] * K[m, e]          S[m1, p, m0] = Q[p, e] * K[m1 * M0 + m0, e]

Intermediate tensors that vary along the rank are made again, one tile at a time; inputs and
tensors in memory are read at the position. Whoever knows what a sweep has so far says what stands
for a value that is not known yet.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import replace

from attnc.ir.cascade import Cascade, Einsum, Left, ParamDecl, RankDecl
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
    both,
)
from attnc.ir.walk import children, rebuild, substitute
from attnc.passes.clean import rewritten
from attnc.passes.domain import Domains
from attnc.passes.fiber import Fiber, Names, fiber


class CannotTile(Exception):
    """An Einsum that cannot be cut along the rank, and why."""

    def __init__(self, einsum: Einsum, term: Expr, reason: str) -> None:
        super().__init__(reason)
        self.einsum, self.term, self.reason = einsum, term, reason


class Tiling(ABC):
    """A cascade while one of its ranks is cut: names given out, and Einsums emitted so far.

    `sweep` numbers the sweep in which each reduction over the rank is made.
    """

    def __init__(self, cascade: Cascade, rank: str, tile: int, stored: tuple[str, ...]) -> None:
        self.cascade, self.rank, self.tile = cascade, rank, tile
        self.stored = frozenset(stored)
        self.facts: Fiber = fiber(cascade, rank)
        self.domains = Domains(cascade)
        self.names = Names(cascade)
        self.size = self.names.fresh(f"{rank.upper()}0")
        self.length: Expr = Param(self.size)
        self.inner, self.outer = self.names.fresh(f"{rank}0"), self.names.fresh(f"{rank}1")
        self.sweep: dict[str, int] = {}
        self.out: list[Einsum] = []
        self.tiles: dict[tuple[str, int], str] = {}
        self.bound = len(cascade.batch)

    @abstractmethod
    def _known(self, y: Access) -> Expr:
        """What stands for a value that waits for the sweep at hand, in a tile of it."""

    @property
    def position(self) -> Expr:
        """The position along the rank, from the tile and the place within it."""
        return Map("+", (Map("*", (Index(self.outer), self.length)), Index(self.inner)))

    def _cut(self) -> Cascade:
        """The cascade of the Einsums emitted, with the two parts of the rank declared."""
        return replace(
            self.cascade,
            params=(*self.cascade.params, ParamDecl(self.size, "int", self.tile)),
            tiles=(*self.cascade.tiles, self.size),
            ranks=(*self.cascade.ranks, *self._declared),
            einsums=tuple(self.out),
        )

    @property
    def _declared(self) -> tuple[RankDecl, RankDecl]:
        """The two parts of the rank."""
        count = Map("ceil", (Map("/", (Extent(self.rank), self.length)),))
        return RankDecl(self.inner, self.length), RankDecl(self.outer, count)

    def _shared(self, cascade: Cascade) -> Cascade:
        """Read a tensor that is wanted whole as well at its position, instead of twice made."""
        alive = {einsum.target for einsum in cascade.einsums}
        whole = {
            name: tensor
            for (tensor, stage), name in self.tiles.items()
            if stage < 0 and tensor in alive
        }
        if not whole:
            return cascade

        def rule(term: Expr) -> Expr | None:
            if not isinstance(term, Access) or term.tensor not in whole:
                return None
            own = list(term.subscripts)
            counter = own.pop(self.bound)
            axis = self.facts.definitions[whole[term.tensor]].ranks.index(self.rank)
            names = {self.outer: counter, self.inner: own[axis]}
            own[axis] = substitute(self.position, names)
            return Access(whole[term.tensor], tuple(own), term.span)

        einsums = tuple(rewritten(e, rule) for e in cascade.einsums if e.target not in whole)
        return replace(cascade, einsums=einsums)

    def _pending(self, access: Access, sweep: int) -> bool:
        return not self.facts.varies(access) and self._waits(access.tensor, sweep)

    def _waits(self, tensor: str, sweep: int) -> bool:
        """Whether a tensor depends on a reduction of a sweep."""
        waits = self.facts.waits.get(tensor, frozenset())
        return any(self.sweep.get(name) == sweep for name in waits)

    def _left(self, ranks: tuple[str, ...], step: str) -> tuple[Left, ...]:
        """Left ranks with the tile counter behind the batch ranks."""
        batch = [Left(r) for r in ranks[: self.bound]]
        return (*batch, Left(self.outer, step), *(Left(r) for r in ranks[self.bound :]))

    def _at(self, name: str, subscripts: tuple[Expr, ...], counter: Expr) -> Access:
        return Access(name, (*subscripts[: self.bound], counter, *subscripts[self.bound :]))

    @property
    def _in_range(self) -> Expr:
        return Map("<", (self.position, Extent(self.rank)))

    # -- expressions and tensors

    def _tiled(self, expr: Expr, sweep: int, einsum: Einsum) -> Expr:
        """An expression at a position of a tile, with the values that a sweep has so far."""
        match expr:
            case Index(rank) if rank == self.rank:
                return self.position
            case Access(tensor, subscripts):
                if self._pending(expr, sweep):
                    return self._known(expr)
                inner = tensor in self.facts.definitions and tensor not in self.stored
                if not inner or not self.facts.varies(expr) or self._looked_up(expr, sweep):
                    return replace(
                        expr, subscripts=tuple(self._tiled(s, sweep, einsum) for s in subscripts)
                    )
                return self._tile_of(expr, sweep, einsum)
            case Reduce(_, ranks) | Populate(_, _, _, _, ranks) if self.rank in (ranks or ()):
                raise CannotTile(einsum, expr, f"reduces over {self.rank} inside an expression")
            case Const() | Index() | Extent() | Param() | Map() | Cast() | Reduce() | Populate():
                parts = tuple(self._tiled(part, sweep, einsum) for part in children(expr))
                return rebuild(expr, parts)
            case _:
                raise CannotTile(einsum, expr, "is no expression of a cascade")

    def _looked_up(self, access: Access, sweep: int) -> bool:
        """Whether a tensor without the rank, and known before the sweep, is read by position."""
        source = self.facts.definitions[access.tensor]
        return self.rank not in source.ranks and not self._waits(access.tensor, sweep)

    def _tile_of(self, access: Access, sweep: int, reader: Einsum) -> Access:
        """The tile of an intermediate tensor that varies along the rank."""
        source = self.facts.definitions[access.tensor]
        if any(left.step for left in source.left):
            reason = f"reads {access.tensor}, which steps along a rank of its own"
            raise CannotTile(reader, access, reason)
        axis = source.ranks.index(self.rank) if self.rank in source.ranks else None
        if axis is None or access.subscripts[axis] != Index(self.rank):
            raise CannotTile(reader, access, f"reads {access.tensor} at another position")
        waits = self.facts.waits[access.tensor]
        stage = sweep if any(self.sweep.get(w) == sweep for w in waits) else -1
        key = (access.tensor, stage)
        if key not in self.tiles:
            body = self._tiled(source.body, sweep, source)
            where = None if source.where is None else self._tiled(source.where, sweep, source)
            if not self._anchored(source.body, source):
                where = both(where, self._in_range)
            name = self.names.fresh(f"{access.tensor}_tile")
            self.tiles[key] = name
            left = self._left(tuple(self.inner if r == self.rank else r for r in source.ranks), "")
            self.out.append(Einsum(name, left, body, where, source.dtype, source.span))
        place = tuple(Index(self.inner) if i == axis else self._tiled(s, sweep, reader)
                      for i, s in enumerate(access.subscripts))  # fmt: skip
        return self._at(self.tiles[key], place, Index(self.outer))

    def _anchored(self, expr: Expr, einsum: Einsum, inputs_only: bool = False) -> bool:
        """Whether an expression is sure to be empty at positions past the end of the rank."""
        match expr:
            case Access(tensor, subscripts):
                axes = self.domains.axes[tensor]
                if inputs_only and tensor in self.facts.definitions and tensor not in self.stored:
                    return False
                return any(
                    subscript == Index(self.rank) and axis == self.rank
                    for subscript, axis in zip(subscripts, axes)
                )
            case Map("present"):
                return False
            case Map("select", (condition, _, _)):
                return self._anchored(condition, einsum, inputs_only)
            case Map(_, args):
                return any(self._anchored(arg, einsum, inputs_only) for arg in args)
            case Cast(_, body):
                return self._anchored(body, einsum, inputs_only)
            case Reduce(_, _, body):
                return self._anchored(body, einsum, True)
            case _:
                return False
