"""How often the elements of a rank must be visited, whatever the mapping.

A *pass* over a fiber is a traversal of all its elements. Another one is needed whenever an
element must be visited again after every other element was. FuseMax (Nayak et al., MICRO 2024)
counts passes by hand; the rule here is theirs made executable, for one rank r:

    Einsums e1 and e2 read a tensor t along r, and e2 depends on e1 by a path on which r is
    dropped: reduced, chosen from, or read at the last turn of an iteration       barrier e1 -> e2
    passes(r) = 1 + the longest chain of barriers, linked by dependences

A cumulative sum, `sum[j where j <= t](x[j])`, drops nothing: x[t] waits for what stands before
it, not for everything. It does so only for one who goes along with it: x[j] beside the sum at t
waits, and so does a reader of a prefix sum's suffix sum.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

from attnc.ir.cascade import Cascade, Einsum
from attnc.ir.expr import Access
from attnc.passes.depend import Dependences, depend
from attnc.passes.partition import Partition, partitions
from attnc.passes.reading import ALONG, POINT, WHOLE, Reading, Readings, through
from attnc.passes.symbolic import extents


@dataclass(frozen=True, slots=True)
class Barrier:
    """Why a rank is visited again: `reader` needs of `tensor` what `first` read long before.

    `path` leads from `first` to `reader` by dependences, both included; at `dropped`, one of
    them, the rank is reduced, chosen from, or left for good.
    """

    rank: str
    first: Einsum
    reader: Einsum
    tensor: str
    path: tuple[Einsum, ...]
    dropped: Einsum


@dataclass(frozen=True, slots=True)
class PassCount:
    """The passes over one rank.

    `chain` is a longest chain of barriers, `levels` the earliest pass in which each Einsum of the
    normalised cascade can run, `revisited` the first and last pass between which the elements of
    a tensor must be kept, read again or computed again.
    """

    rank: str
    passes: int
    chain: tuple[Barrier, ...]
    levels: tuple[int, ...]
    revisited: dict[str, tuple[int, int]]


@dataclass(frozen=True, slots=True)
class Counts:
    """The passes over every rank of a cascade; for a partitioned rank, its outermost part."""

    graph: Dependences
    ranks: dict[str, PassCount]
    partitions: tuple[Partition, ...]
    outermost: dict[str, str]


def count_passes(cascade: Cascade) -> Counts:
    """Count the passes over every rank of a cascade, each part of a partitioned rank included.

    A partitioned rank itself has the passes over the part that needs fewest: with that part
    outermost, the others are visited again within a live tile. A rank through which another one
    goes, as h does through g in K[h // 4], is visited as often as that one visits its tensors.
    """
    graph = depend(cascade)
    readings = Readings(graph)
    found = partitions(graph, extents(cascade))
    names = dict.fromkeys(rank for tensor in cascade.inputs for rank in tensor.ranks)
    names.update(dict.fromkeys(decl.name for decl in cascade.ranks))
    names.update(dict.fromkeys(graph.classes.values()))
    ranks: dict[str, PassCount] = {}
    outermost: dict[str, str] = {}
    for rank in names:
        groups = dict.fromkeys(frozenset(p.parts) for p in found if rank in p.parts)
        tried = [_count(readings, rank, frozenset((rank,)), group) for group in groups]
        for walker in readings.walkers(rank):
            tried.append(_count(readings, rank, frozenset((walker,))))
        for partition in found:
            if partition.rank == rank:
                group = frozenset(partition.parts)
                with_parts = {
                    part: _count(readings, rank, frozenset((rank, part)), group)
                    for part in partition.parts
                }
                outermost[rank] = min(with_parts, key=lambda part: with_parts[part].passes)
                tried.append(with_parts[outermost[rank]])
        if not groups:
            tried.append(_count(readings, rank, frozenset((rank,))))
        ranks[rank] = max(tried, key=lambda count: count.passes)
    return Counts(graph, ranks, found, outermost)


@dataclass(frozen=True, slots=True)
class _Trail:
    """A path back to the Einsum where it began."""

    number: int
    before: _Trail | None
    start: int


@dataclass(frozen=True, slots=True)
class _Visit:
    """Someone read a tensor in pass `level` (the earliest such one in `first`); we depend on it."""

    level: int
    first: int
    trail: _Trail
    dropped: int | None


@dataclass(frozen=True, slots=True)
class _Link:
    """The last barrier of a chain."""

    visit: _Visit
    reader: int
    tensor: str
    before: _Link | None


@dataclass(slots=True)
class _State:
    """What is known at an Einsum: the chain that ends there, and the visits it depends on."""

    level: int = 0
    chain: _Link | None = None
    visits: dict[tuple[str, int], _Visit] = field(default_factory=dict)


def _count(
    readings: Readings, rank: str, walkers: frozenset[str], group: frozenset[str] = frozenset()
) -> PassCount:
    """Passes over a rank by the variables of `walkers`: itself, its part, or who goes through it.

    Barriers stand only on tensors that have the rank and are read by every rank of the group.
    """
    graph = readings.graph
    einsums = graph.cascade.einsums
    own_rank = rank in walkers
    tables = [
        [(access, readings.of(number, access, walkers)) for access in graph.accesses(number)]
        for number in range(len(einsums))
    ]
    if not any(reading.wait > ALONG for table in tables for _, reading in table):
        return PassCount(rank, 1, (), (1,) * len(einsums), {})
    roots: dict[str, frozenset[str]] = {}
    reads: list[dict[str, list[_Read]]] = [{} for _ in einsums]
    for number in graph.order:
        made: set[str] = set()
        for access, reading in tables[number]:
            if reading.wait == POINT or not (
                group <= reading.ranks or rank in reading.ranks - group
            ):
                continue
            has = own_rank or readings.walks(access, rank, walkers)
            own = frozenset((access.tensor,)) if has else frozenset[str]()
            carries = not walkers.isdisjoint(graph.axes[access.tensor])
            behind = roots.get(access.tensor, own) if carries else own
            if reading.wait == ALONG:
                made |= behind
            for tensor in own | behind:
                reads[number].setdefault(tensor, []).append(_Read(reading, access.tensor))
        target = einsums[number].target
        if not made and own_rank:
            made = {target}
        roots[target] = roots.get(target, frozenset()) | made
    return _Search(graph, rank, walkers, tables, reads).run()


@dataclass(frozen=True, slots=True)
class _Read:
    """A tensor is read itself, or through one made from it element by element."""

    reading: Reading
    via: str


class _Search:
    """One walk over the Einsums in the order of their dependences."""

    def __init__(
        self,
        graph: Dependences,
        rank: str,
        walkers: frozenset[str],
        tables: list[list[tuple[Access, Reading]]],
        reads: list[dict[str, list[_Read]]],
    ) -> None:
        self.graph = graph
        self.rank = rank
        self.walkers = walkers
        self.tables = tables
        self.reads = reads
        self.left = Counter(tensor for own in reads for tensor in own)
        self.states = [_State() for _ in reads]
        self.revisited: dict[str, tuple[int, int]] = {}

    def run(self) -> PassCount:
        for number in self.graph.order:
            self._visit(number)
        last = max(self.states, key=lambda state: state.level)
        levels = tuple(state.level + 1 for state in self.states)
        chain = self._barriers(last.chain)
        return PassCount(self.rank, last.level + 1, chain, levels, self.revisited)

    def _visit(self, number: int) -> None:
        state = self.states[number]
        own = self.reads[number]
        modes = {id(access): reading for access, reading in self.tables[number]}
        arrived: list[tuple[bool, str, _Visit]] = []
        for edge in self.graph.edges[number]:
            # What an earlier turn read belongs to another fiber of every rank but its own.
            if edge.lag and edge.lag not in self.walkers:
                continue
            before = self.states[edge.source]
            reading = modes[id(edge.access)]
            if before.level > state.level:
                state.level, state.chain = before.level, before.chain
            for (tensor, wait), visit in before.visits.items():
                if not self.left[tensor]:
                    continue
                if tensor in own and self._waits(wait, reading, own[tensor]):
                    dropped = edge.source if visit.dropped is None else visit.dropped
                    met = _Visit(visit.level, visit.first, visit.trail, dropped)
                    via = own[tensor][0].via
                    arrived.append((all(read.via != tensor for read in own[tensor]), via, met))
                self._keep(state, tensor, through(wait, reading.wait), visit, wait, number)
        self._meet(state, number, arrived)
        for tensor, found in own.items():
            self.left[tensor] -= 1
            for wait in {read.reading.wait for read in found}:
                at = number if wait > ALONG else None
                fresh = _Visit(state.level, state.level, _Trail(number, None, number), at)
                self._add(state, (tensor, wait), fresh)

    def _waits(self, wait: int, reading: Reading, own: list[_Read]) -> bool:
        """Whether what arrives holds up a reader of the tensor."""
        if wait in (POINT, ALONG):
            return False
        if wait == WHOLE or reading.wait == POINT:
            return True
        return any(not read.reading.variables <= reading.variables for read in own)

    def _keep(
        self, state: _State, tensor: str, wait: int, visit: _Visit, before: int, number: int
    ) -> None:
        if wait == POINT:
            return
        dropped = visit.dropped if wait == before else number
        trail = _Trail(number, visit.trail, visit.trail.start)
        self._add(state, (tensor, wait), _Visit(visit.level, visit.first, trail, dropped))

    def _add(self, state: _State, key: tuple[str, int], visit: _Visit) -> None:
        known = state.visits.get(key)
        if known is None:
            state.visits[key] = visit
            return
        first = min(known.first, visit.first)
        best = visit if visit.level > known.level else known
        state.visits[key] = _Visit(best.level, first, best.trail, best.dropped)

    def _meet(self, state: _State, number: int, arrived: list[tuple[bool, str, _Visit]]) -> None:
        """Raise the level; tensors that are read themselves tell the story, if they suffice."""
        arrived.sort(key=lambda item: (-item[2].level, item[0]))
        for _, tensor, visit in arrived:
            if visit.level + 1 > state.level:
                before = self.states[visit.trail.start].chain
                state.level = visit.level + 1
                state.chain = _Link(visit, number, tensor, before)
        for indirect, tensor, visit in arrived:
            first = self._made(number, tensor) if indirect else visit.first
            if first < state.level:
                known, last = self.revisited.get(tensor, (first + 1, 0))
                self.revisited[tensor] = (min(known, first + 1), max(last, state.level + 1))

    def _made(self, number: int, tensor: str) -> int:
        """The level at which a tensor that an Einsum reads was made."""
        edges = self.graph.edges[number]
        made = (self.states[e.source].level for e in edges if e.access.tensor == tensor)
        return max(made, default=0)

    def _barriers(self, link: _Link | None) -> tuple[Barrier, ...]:
        einsums = self.graph.cascade.einsums
        found: list[Barrier] = []
        while link is not None:
            path = [*reversed(list(_numbers(link.visit.trail))), link.reader]
            dropped = link.visit.dropped
            found.append(
                Barrier(
                    self.rank,
                    einsums[path[0]],
                    einsums[link.reader],
                    link.tensor,
                    tuple(einsums[number] for number in path),
                    einsums[path[0] if dropped is None else dropped],
                )
            )
            link = link.before
        return tuple(reversed(found))


def _numbers(trail: _Trail | None) -> Iterator[int]:
    while trail is not None:
        yield trail.number
        trail = trail.before
