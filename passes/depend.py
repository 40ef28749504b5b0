"""Which Einsum reads which.

The nodes are the Einsums of a normalised cascade; start and step of an iterative tensor are two.
An access of an iterative tensor T along its rank i reads

    T[0]      the start alone
    T[i+1]    the step, made in the same turn
    T[i]      the start, and the step of an earlier turn: a *lagging* edge
    T[|i|]    the start and the step, after the last turn: a *final* edge

A lagging edge between Einsums that depend on each other is the back-edge of the iteration. It is
left out, so that the graph has no cycles.
"""

from __future__ import annotations

import heapq
from dataclasses import dataclass

from attnc.ir.cascade import Cascade, Einsum, rank_of
from attnc.ir.expr import ONE, Access, Const, Expr, Index, Map, Populate, Reduce
from attnc.ir.source import InvalidIR
from attnc.ir.walk import accesses, free_ranks
from attnc.passes.normalise import normalise


@dataclass(frozen=True, slots=True)
class Edge:
    """`source` makes what `access` reads; `lag` names the iterative rank if it reads the past."""

    source: int
    access: Access
    lag: str = ""


@dataclass(frozen=True, slots=True)
class Dependences:
    """The graph of a normalised cascade: for each Einsum, by number, its edges from others.

    `order` lists the Einsums so that each stands behind all it reads, else as written. `classes`
    is `rank_of` the cascade, `axes` the rank of each axis of each tensor.
    """

    cascade: Cascade
    edges: tuple[tuple[Edge, ...], ...]
    order: tuple[int, ...]
    classes: dict[str, str]
    axes: dict[str, tuple[str, ...]]
    iterative: dict[str, tuple[int, str]]

    def accesses(self, number: int) -> tuple[Access, ...]:
        einsum = self.cascade.einsums[number]
        return (*accesses(einsum.body), *accesses(einsum.where))


def depend(cascade: Cascade) -> Dependences:
    """The dependences of a cascade, which is normalised first.

    Raises InvalidIR if an Einsum depends on itself within one turn.
    """
    cascade = normalise(cascade)
    classes = rank_of(cascade)
    axes: dict[str, tuple[str, ...]] = {t.name: t.ranks for t in cascade.inputs}
    axes.update({e.target: tuple(classes[rank] for rank in e.ranks) for e in cascade.einsums})
    iterative = {
        tensor: (axis, classes[rank]) for tensor, (axis, rank) in cascade.iterative().items()
    }
    makers: dict[tuple[str, str], int] = {}
    for number, einsum in enumerate(cascade.einsums):
        steps = [left.step for left in einsum.left if left.step]
        makers[einsum.target, steps[0] if steps else ""] = number
    inputs = {tensor.name for tensor in cascade.inputs}
    edges: list[tuple[Edge, ...]] = []
    for einsum in cascade.einsums:
        found: list[Edge] = []
        for access in (*accesses(einsum.body), *accesses(einsum.where)):
            if access.tensor not in inputs:
                found.extend(_edges(access, makers, iterative, classes))
        edges.append(tuple(found))
    kept = _without_back_edges(edges)
    return Dependences(cascade, kept, _order(cascade, kept), classes, axes, iterative)


def _edges(
    access: Access,
    makers: dict[tuple[str, str], int],
    iterative: dict[str, tuple[int, str]],
    classes: dict[str, str],
) -> list[Edge]:
    """From whom an access reads."""
    tensor = access.tensor
    if tensor not in iterative:
        if (tensor, "") not in makers:
            raise InvalidIR(f"no Einsum makes {tensor}")
        return [Edge(makers[tensor, ""], access)]
    axis, rank = iterative[tensor]
    start = [Edge(makers[key], access) for key in ((tensor, "start"),) if key in makers]
    step = makers[tensor, "next"]
    match turn(access.subscripts[axis], rank, classes):
        case "start":
            return start
        case "next" | "final":
            return [*start, Edge(step, access)]
        case _:
            return [*start, Edge(step, access, rank)]


def turn(subscript: Expr, rank: str, classes: dict[str, str]) -> str:
    """Which slice along its iterative rank a subscript reads: start, next, final or earlier."""
    match subscript:
        case Const(0):
            return "start"
        case Map("+", (Index(), one) | (one, Index())) if one == ONE:
            return "next"
        case _ if any(classes[name] == rank for name in free_ranks(subscript)):
            return "earlier"
        case _:
            return "final"


def _without_back_edges(edges: list[tuple[Edge, ...]]) -> tuple[tuple[Edge, ...], ...]:
    """Leave out what lags from an Einsum that itself depends on the reader."""

    def depends(number: int, on: int) -> bool:
        seen, stack = {number}, [number]
        while stack:
            found = stack.pop()
            if found == on:
                return True
            fresh = {edge.source for edge in edges[found]} - seen
            seen |= fresh
            stack.extend(fresh)
        return False

    return tuple(
        tuple(edge for edge in found if not (edge.lag and depends(edge.source, reader)))
        for reader, found in enumerate(edges)
    )


def _order(cascade: Cascade, edges: tuple[tuple[Edge, ...], ...]) -> tuple[int, ...]:
    waiting = [len({edge.source for edge in found}) for found in edges]
    readers: list[list[int]] = [[] for _ in edges]
    for reader, found in enumerate(edges):
        for source in {edge.source for edge in found}:
            readers[source].append(reader)
    ready = [number for number, count in enumerate(waiting) if not count]
    order: list[int] = []
    while ready:
        number = heapq.heappop(ready)
        order.append(number)
        for reader in readers[number]:
            waiting[reader] -= 1
            if not waiting[reader]:
                heapq.heappush(ready, reader)
    if len(order) < len(edges):
        stuck = next(number for number, count in enumerate(waiting) if count)
        raise InvalidIR(f"{cascade.einsums[stuck].target} depends on itself within one turn")
    return tuple(order)


def reduced(einsum: Einsum) -> tuple[str, ...]:
    """The rank variables over which the body of a normalised Einsum reduces or chooses."""
    match einsum.body:
        case Reduce(_, ranks):
            return ranks
        case Populate(_, rank):
            return (rank,)
        case _:
            return ()
