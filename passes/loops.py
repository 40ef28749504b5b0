"""The loops of a kernel: which iterations there are, which need a test, in what order.

A body is written on trial first, to see what it tests. What is affine gives ranges (`ranges.py`),
in which the tests that must hold are left out of a second body, unless they are little beside its
products; what reads tables gives a list of tiles (`blocks.py`); an iteration that would leave every
state as it was is not there at all.
"""

from __future__ import annotations

from collections.abc import Set
from dataclasses import dataclass
from math import prod

from attnc.ir.cascade import Cascade
from attnc.ir.expr import ONE, ZERO, Const, Expr, Map, Param, Tile, both, conjuncts
from attnc.ir.source import InvalidIR
from attnc.ir.targets import WIDTH
from attnc.ir.tile import Carried, Compute, Contract, Fold, Load, Loop, Segment
from attnc.ir.tile_facts import every
from attnc.ir.walk import accesses, free_ranks, subterms
from attnc.passes.blocks import Blocks, blocks
from attnc.passes.domain import Domains
from attnc.passes.extents import Extents
from attnc.passes.fiber import Names
from attnc.passes.ranges import WHOLE, Live, Piece, Range, all_of, live, possible
from attnc.passes.reach import Edges, Space, varies
from attnc.passes.scopes import OUTSIDE, Known, Scope, Value
from attnc.passes.segments import Part, segments, shared, stretch
from attnc.passes.skip import skippable
from attnc.passes.stages import Stages
from attnc.passes.values import Values


@dataclass(frozen=True, slots=True)
class _Body:
    """A body of a loop and the tiles that its states become."""

    scope: Scope
    after: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Share:
    """A loop that is divided among `parts` instances, this one's number being that of a rank.

    `belongs` says which iterations are its own; any other division would do as well. A loop that
    is `dealt` has the iterations that a walker's share leaves it (`level.py`).
    """

    belongs: Expr
    rank: str
    parts: Expr
    dealt: bool = False


@dataclass(frozen=True, slots=True)
class Dealt:
    """A loop as far as it counts its iterations, and the tiles that tell a walker's share of them.

    The share begins at the place that `begin` holds, which may be negative, and has as many
    iterations as `each` holds.
    """

    count: Loop
    begin: str
    each: str


class Loops(Values):
    """Writes loops; what a state is at its start and after an iteration, a subclass says."""

    def __init__(
        self,
        cascade: Cascade,
        name: str,
        memory: dict[str, tuple[str, ...]],
        tiles: dict[str, int],
        extents: Extents,
        domains: Domains,
        stages: Stages,
        shares: dict[str, Share],
        tests: int,
    ) -> None:
        super().__init__(cascade, name, memory, tiles, extents, domains)
        self.stages, self.shares, self.tests = stages, shares, tests
        self.blocks: dict[tuple[str, tuple[Expr, ...]], Blocks] = {}
        self.dealt: list[Dealt] = []

    def _start(self, tensor: str) -> Value:
        """The value of a state before the first iteration."""
        raise InvalidIR(f"{self.name}: nothing says where {tensor} starts")

    def _after(self, tensor: str) -> Value:
        """The value of a state after an iteration."""
        raise InvalidIR(f"{self.name}: nothing says what {tensor} becomes")

    def _store(self, root: str) -> None:
        """Store what an iteration makes."""
        raise InvalidIR(f"{self.name}: nothing says where {root} is stored")

    def _state_ranks(self, tensor: str) -> tuple[str, ...]:
        axis, _ = self.stepped[tensor]
        ranks = self.definitions[tensor].ranks
        return tuple(r for i, r in enumerate(ranks) if i != axis and self._is_axis(r))

    def _loop(self, rank: str, wanted: frozenset[str]) -> None:
        """The loop over a rank in which some states or stored tensors are computed."""
        for name in self.stages.before(rank, wanted):
            if self.scopes.find((name, "final")) is None:
                self._loop(rank, frozenset({name}))
        states, stores = self.stages.sweep(rank, wanted)
        depth = self.scopes.depth
        carried: dict[str, Carried] = {}
        for name in states:
            start = self._start(name)[0]
            carried[name] = Carried(self.scopes.fresh(name, depth), self._state_ranks(name), start)
        own = frozenset({self.shares[rank].belongs} if rank in self.shares else ())
        trial = self._body(rank, carried, stores, own)
        skipped = self._skippable(trial.scope, carried, stores, rank)
        idle = frozenset(part for part in skipped if self._uniform(part))
        if idle:
            trial = self._body(rank, carried, stores, own | idle)
        limits = (*trial.scope.asked, *sorted(skipped - trial.scope.asked.keys(), key=repr))
        asked = self._asked(tuple(part for part in limits if part not in own), rank)
        tabled = self._tabled(rank, [p for p in limits if p in skipped - own], asked.keys())
        if tabled:
            parts = self._by_list(rank, carried, stores, trial, tabled, idle)
        else:
            parts = self._by_range(rank, carried, stores, trial, asked, skipped, idle)
        self.scopes.emit(Loop(rank, tuple(carried.values()), parts), depth)
        for name, state in carried.items():
            self.scopes.keep((name, "final"), Tile(state.name, state.ranks), depth)

    def _by_range(
        self,
        rank: str,
        carried: dict[str, Carried],
        stores: list[str],
        trial: _Body,
        asked: dict[Expr, Expr],
        skipped: frozenset[Expr],
        idle: Known,
    ) -> tuple[Segment, ...]:
        """A loop over the ranges in which predicates can hold, apart from where they must."""
        space = self._space(rank, idle)
        share = self.shares.get(rank)
        facts = {part: live(value, space) for part, value in asked.items()}
        known = frozenset(part for part, fact in facts.items() if fact.full)
        if self._brief([asked[part] for part in known], trial):
            known = frozenset()
        if share is not None and known:
            known |= {share.belongs}
        clear = self._body(rank, carried, stores, known | idle) if known else trial
        pieces = self._pieces(facts, skipped, known)
        tested = [
            value
            for part, value in asked.items()
            if part in skipped & facts.keys() and not (pieces.exact and facts[part].exact)
        ]
        when = self._when(tested, space)
        bodies = {"full": clear, "partial": trial}
        parts = segments(space.count, pieces.pieces, bool(trial.scope.asked))
        parts = self._divided(rank, parts, when)
        return tuple(
            Segment(lo, hi, note, tuple(bodies[note].scope.statements), bodies[note].after, when)
            for lo, hi, note in parts
        )

    def _divided(self, rank: str, parts: list[Part], when: Expr | None) -> list[Part]:
        """The ranges of a loop that are this instance's: all, or its share of them."""
        share = self.shares.get(rank)
        if share is None:
            return parts
        if share.dealt:
            return self._dealt(rank, parts, when)
        return shared(parts, self._index(share.rank)[0], share.parts)

    def _dealt(self, rank: str, parts: list[Part], when: Expr | None) -> list[Part]:
        """The iterations that a walker's share leaves a loop; what counts them all is noted."""
        begin, each, count, more = (
            self.scopes.fresh(name, OUTSIDE) for name in ("begin", "each", "count", "count_next")
        )
        step = Compute(more, (), Map("+", (Tile(count, ()), ONE)))
        counted = tuple(Segment(lo, hi, note, (step,), (more,), when) for lo, hi, note in parts)
        self.dealt.append(Dealt(Loop(rank, (Carried(count, (), ZERO),), counted), begin, each))
        return stretch(parts, Tile(begin, ()), Tile(each, ()))

    def _by_list(
        self,
        rank: str,
        carried: dict[str, Carried],
        stores: list[str],
        trial: _Body,
        wanted: tuple[Expr, ...],
        idle: Known,
    ) -> tuple[Segment, ...]:
        """A loop over the tiles that hold points, first those that are full."""
        key = (rank, wanted)
        if key not in self.blocks:
            name = Names(self.cascade).fresh(f"{self.name}_tiles{len(self.blocks) or ''}")
            self.blocks[key] = blocks(
                self.cascade, name, rank, wanted, self.grid, self.memory, self.extents
            )
        made = self.blocks[key]
        own = frozenset({self.shares[rank].belongs} if rank in self.shares else ())
        clear = self._body(rank, carried, stores, frozenset(wanted) | idle | own)
        bodies = {"full": clear, "partial": trial}
        needed = self._needed(idle)
        parts: list[Part] = []
        for note in bodies:
            count = made.count(note == "full", self.scopes.fresh(f"{note}_tiles", OUTSIDE))
            self.scopes.emit(count, self.scopes.depth)
            parts.append((ZERO, Tile(count.name, ()), note))
        return tuple(
            Segment(
                lo,
                hi,
                note,
                tuple(bodies[note].scope.statements),
                bodies[note].after,
                needed,
                made.listed(note == "full"),
            )
            for lo, hi, note in self._divided(rank, parts, needed)
        )

    def _tabled(self, rank: str, skipped: list[Expr], ranged: Set[Expr]) -> tuple[Expr, ...]:
        """The predicates of a block list: those without which a tile does nothing.

        None where each has a range of its own, or where the order of the iterations counts. That
        a position from a table lies within its rank is no reason for a list.
        """
        if rank not in derived(self.cascade):
            return ()
        inputs = {tensor.name for tensor in self.cascade.inputs}
        wanted = tuple(
            part
            for part in skipped
            if not self._uniform(part) and all(access.tensor in inputs for access in accesses(part))
        )
        rangeless = set(wanted) - ranged - self.domains.bounds
        return wanted if rangeless else ()

    def _count(self, rank: str, idle: Known) -> Expr:
        """The iterations of a loop: none in an instance where what all of them need is not."""
        count = self.extents.of(rank)
        needed = self._needed(idle)
        return count if needed is None else Map("select", (needed, count, ZERO))

    def _needed(self, idle: Known) -> Expr | None:
        """Predicates without which a loop is idle, as one truth value for an instance."""
        needed: Expr | None = None
        for part in sorted(idle, key=repr):
            needed = both(needed, self._value(part)[0])
        return needed

    def _body(
        self, rank: str, carried: dict[str, Carried], stores: list[str], known: Known
    ) -> _Body:
        """One body of a loop, given what is known to hold in it."""
        states = {name: Tile(state.name, state.ranks) for name, state in carried.items()}
        names = self.scopes.enter(Scope(rank, known, states))
        after: list[str] = []
        for name in carried:
            tile, _ = self._after(name)
            if not isinstance(tile, Tile):
                raise InvalidIR(f"{self.name}: the next {name} is no tile")
            after.append(tile.name)
        for root in stores:
            self._store(root)
        return _Body(self.scopes.leave(names), tuple(after))

    def _brief(self, tests: list[Expr], body: _Body) -> bool:
        """Whether each test takes little time beside the products of a body."""
        products = sum(isinstance(own, Contract) for own in every(tuple(body.scope.statements)))
        sizes = {rank: axis.size or WIDTH for rank, axis in self.axes.items()}
        own = (prod(sizes.get(rank, 1) for rank in free_ranks(test)) for test in tests)
        return max(own, default=0) <= self.tests * products

    def _pieces(self, facts: dict[Expr, Live], skipped: Set[Expr], known: Known) -> Live:
        """Where a loop has something to do, and where no predicate that is known fails."""
        found = WHOLE
        for part, fact in facts.items():
            pieces = tuple(
                Piece(
                    piece.some if part in skipped else Range(),
                    piece.full if fact.full else Range(),
                )
                for piece in (fact.pieces if part in skipped else fact.pieces[:1])
            )
            found = all_of(found, Live(pieces, fact.exact))
        if known:
            return found
        return Live(tuple(Piece(piece.some, None) for piece in found.pieces), found.exact)

    def _when(self, predicates: list[Expr], space: Space) -> Expr | None:
        """Whether a tile can hold a point at all, where ranges do not tell; None if they do."""
        result: Expr | None = None
        for predicate in predicates:
            for part in conjuncts(possible(predicate, space)):
                if varies(part, space):
                    result = both(result, part)
        return result

    def _space(self, rank: str, idle: Known) -> Space:
        sizes = {
            axis.rank: Const(axis.size) if axis.size is not None else axis.extent
            for axis in self.axes.values()
            if axis.rank not in self.grid
        }
        tiled = frozenset(rank for rank, size in self.grid.items() if size > 1)
        return Space(rank, self._count(rank, idle), sizes, tiled, self._edges)

    def _asked(self, limits: tuple[Expr, ...], rank: str) -> dict[Expr, Expr]:
        """What limits a loop, as far as it is an expression of tiles made outside."""
        found: dict[Expr, Expr] = {}
        here = {rank, *(scope.loop for scope in self.scopes.open)}
        for part in limits:
            if self._uniform(part) or free_ranks(part) & self.loops - here:
                continue
            if any(access.tensor not in self.memory for access in accesses(part)):
                continue  # What is computed in the loop cannot bound it.
            names = self.scopes.enter(Scope(rank, frozenset()))
            value, _ = self._value(part)
            inside = self.scopes.leave(names)
            if not inside.statements:
                found[part] = value
        return found

    def _edges(self, tile: Tile) -> Edges | None:
        """The smallest and the largest element of a tile of integers from memory."""
        loads = {
            statement.name: statement.tensor
            for scope in self.scopes.open
            for statement in scope.statements
            if isinstance(statement, Load)
        }
        tensor = self.cascade.input(loads.get(tile.name, ""))
        if tensor is None or tensor.dtype != "int":
            return None
        return self._edge(tile, "min"), self._edge(tile, "max")

    def _edge(self, tile: Tile, op: str) -> Expr:
        found = self.scopes.find((op, tile))
        if found is not None:
            return found[0]
        depth = self.scopes.depth
        # A body begun earlier may have this name: it is taken for good.
        name = self.scopes.fresh(f"{tile.name}_{op}", OUTSIDE)
        self.scopes.emit(Fold(name, (), op, tile, tile.ranks), depth)
        return self.scopes.keep((op, tile), Tile(name, ()), depth)[0]

    def _skippable(
        self, scope: Scope, carried: dict[str, Carried], stores: list[str], rank: str
    ) -> frozenset[Expr]:
        """Predicates without which an iteration leaves every state as it is."""
        limited = [(name, parts) for name, parts in scope.reduced if parts]
        if stores or not limited:
            return frozenset()
        common = frozenset.intersection(*(parts for _, parts in limited))
        empty = frozenset(name for name, _ in limited)
        if not common or not skippable(self.cascade, tuple(carried), empty, self.stepped, rank):
            return frozenset()
        return common


def derived(cascade: Cascade) -> frozenset[str]:
    """Ranks that number the tiles which a law made: their order does not count."""
    return frozenset(
        decl.name
        for decl in cascade.ranks
        if any(isinstance(t, Param) and t.name in cascade.tiles for t in subterms(decl.extent))
    )
