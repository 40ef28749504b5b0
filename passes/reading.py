"""What an Einsum waits for when it reads a tensor along a rank."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from attnc.ir.cascade import Einsum, base
from attnc.ir.expr import Access, Expr, Extent, Map, Populate, Reduce, conjuncts
from attnc.ir.walk import accesses, free_ranks, subterms
from attnc.passes.depend import Dependences, reduced
from attnc.passes.partition import linear

POINT, ALONG, FORWARD, BACKWARD, WHOLE = range(5)
"""What one reading of a fiber waits for: one fixed element, the element at hand, those up to it,
those from it on, or all of them."""


@dataclass(frozen=True, slots=True)
class Reading:
    """How an access goes through a rank: what it waits for, along which unbound variables."""

    wait: int
    variables: frozenset[str]
    ranks: frozenset[str]


class Readings:
    """How every access of a normalised cascade goes through a rank."""

    def __init__(self, graph: Dependences) -> None:
        self.graph = graph
        einsums = graph.cascade.einsums
        self.bound = [frozenset(reduced(einsum)) for einsum in einsums]
        self.scans = [dict(_scans(einsum, graph.classes)) for einsum in einsums]
        self.inside = [frozenset(map(id, accesses(einsum.body))) for einsum in einsums]
        self.steps = [
            frozenset(graph.classes[left.rank] for left in einsum.left if left.step == "next")
            for einsum in einsums
        ]
        self.subscripts: dict[int, tuple[tuple[str, frozenset[str], bool], ...]] = {}

    def of(self, number: int, access: Access, walkers: frozenset[str]) -> Reading:
        """What an Einsum waits for in reading a tensor by the variables of some ranks."""
        classes = self.graph.classes
        axes = self._axes(access)
        every = frozenset(variable for _, names, _ in axes for variable in names)
        own = {name for name in every if classes.get(name, base(name)) in walkers}
        chosen = any(axis in walkers and names and not own & names for axis, names, _ in axes)
        bound = self.bound[number] if id(access) in self.inside[number] else frozenset()
        waits = [self._bound_wait(number, name, every) for name in own & bound]
        if (own or chosen) and not waits:
            waits = [ALONG if walkers.isdisjoint(self.steps[number]) else FORWARD]
        wait = _joint(waits)
        ranks = frozenset(classes.get(name, base(name)) for name in every)
        return Reading(wait, frozenset(own - bound) or frozenset(own), ranks)

    def walkers(self, rank: str) -> tuple[str, ...]:
        """The other ranks that go through a rank by themselves: h in K[h // 4], m in T[m % |s|]."""
        found: dict[str, None] = {}
        for number in range(len(self.bound)):
            for access in self.graph.accesses(number):
                found.update(dict.fromkeys(self._walkers(access, rank)))
        return tuple(found)

    def walks(self, access: Access, rank: str, walkers: frozenset[str]) -> bool:
        """Whether an access goes through a rank by the variables of another alone."""
        return not walkers.isdisjoint(self._walkers(access, rank))

    def _walkers(self, access: Access, rank: str) -> Iterator[str]:
        for axis, names, gathered in self._axes(access):
            if axis == rank and len(names) == 1 and not gathered:
                (name,) = names
                walker = self.graph.classes.get(name, base(name))
                if walker != rank:
                    yield walker

    def _bound_wait(self, number: int, variable: str, every: frozenset[str]) -> int:
        """A scan's limit must not stand in the access too: X[t, j] up to t is all of a fiber."""
        direction, limit = self.scans[number].get(variable, (WHOLE, ""))
        return WHOLE if limit in every else direction

    def _axes(self, access: Access) -> tuple[tuple[str, frozenset[str], bool], ...]:
        """For each axis its rank, the variables of its subscript, and whether that reads data."""
        found = self.subscripts.get(id(access))
        if found is None:
            found = tuple(
                (
                    axis,
                    free_ranks(subscript),
                    any(True for _ in accesses(subscript)),
                )
                for axis, subscript in zip(self.graph.axes[access.tensor], access.subscripts)
            )
            self.subscripts[id(access)] = found
        return found


def _scans(einsum: Einsum, classes: dict[str, str]) -> Iterator[tuple[str, tuple[int, str]]]:
    """For each variable bound up to or from a free one of its rank: the direction, the free one."""
    match einsum.body:
        case Reduce(_, _, _, where) | Populate(_, _, _, where):
            bound = reduced(einsum)
            for part in conjuncts(where):
                found = _limit(part)
                if found is None:
                    continue
                low, high = found
                if classes.get(low, base(low)) != classes.get(high, base(high)):
                    continue
                if low in bound and high not in bound:
                    yield low, (FORWARD, high)
                elif high in bound and low not in bound:
                    yield high, (BACKWARD, low)
        case _:
            return


def _limit(predicate: Expr) -> tuple[str, str] | None:
    """The variables of low <= high + constant."""
    match predicate:
        case Map("<=" | "<", (a, b)):
            low, high = a, b
        case Map(">=" | ">", (a, b)):
            low, high = b, a
        case _:
            return None
    # An extent in the limit may put it behind the end.
    if any(isinstance(term, Extent) for term in subterms(predicate)):
        return None
    found = linear(Map("-", (high, low)), {})
    if found is None or len(found) != 2 or set(found.values()) != {-1, 1}:
        return None
    first, second = sorted(found, key=lambda name: int(found[name]))
    return first, second


def _joint(waits: list[int]) -> int:
    """What two readings wait for together."""
    if not waits:
        return POINT
    if {FORWARD, BACKWARD} <= set(waits):
        return WHOLE
    return max(waits)


def through(wait: int, reading: int) -> int:
    """What is waited for behind an Einsum that reads what itself waits; POINT ends the matter."""
    if wait == WHOLE or reading == WHOLE:
        return WHOLE
    if reading == POINT:
        return POINT if wait == ALONG else WHOLE
    return _joint([wait, reading])
