"""Which outputs and stored tensors a kernel computes, and along which ranks it is cut.

Roots of one kernel ask for the same grid and read none of each other, but for those that need each
other turn by turn of a recurrence: they are one kernel, whatever the order.
"""

from __future__ import annotations

from attnc.ir.cascade import Cascade
from attnc.ir.expr import Reduce
from attnc.ir.source import NOWHERE, CompileError, Span
from attnc.ir.walk import accesses, subterms
from attnc.passes.cut import closure
from attnc.passes.mapping import Mapping
from attnc.passes.placed import Place


def groups(
    cascade: Cascade, stored: tuple[str, ...], plan: Mapping, places: dict[str, Place]
) -> list[tuple[tuple[str, ...], dict[str, int]]]:
    """Outputs and stored tensors by kernel, in an order in which each reads only earlier ones.

    What needs each other turn by turn of a recurrence is one kernel.
    """
    order = [einsum.target for einsum in cascade.einsums]
    parts = {place.tensor: root for root, place in places.items()}
    wanted = {*(t.name for t in cascade.outputs), *stored}
    roots = sorted({parts.get(name, name) for name in wanted}, key=order.index)
    reads = {
        root: {parts.get(name, name) for name in _stored_reads(cascade, root, set(stored))}
        for root in roots
    }
    streamed = plan.streamed(cascade)

    def grid(root: str, turn: list[str]) -> dict[str, int]:
        there = {*stored} - {*turn}
        cuts = plan.cuts.get(places[root].tensor if root in places else root, {})
        if plan.target.processors and _merges(cascade, root, there, plan):
            return plan.rows_alone(cascade, root) | cuts
        return plan.grid(cascade, root, there, streamed) | cuts

    def sums(names: list[str]) -> set[str]:
        inside = {n: e for root in names for n, e in closure(cascade, root, {*stored}).items()}
        return {name for name, einsum in inside.items() if isinstance(einsum.body, Reduce)}

    def alone(names: list[str], turn: list[str]) -> bool:
        """Whether roots that had better be apart would compute little twice."""
        if plan.alone.isdisjoint((*names, *turn)):
            return False
        own, other = sums(turn), sums(names)
        return 2 * len(own & other) <= min(len(own), len(other))

    found: list[tuple[list[str], dict[str, int]]] = []
    place: dict[str, int] = {}
    for turn in _turns(reads):
        tiles = grid(turn[0], turn)
        for other in turn[1:]:
            if grid(other, turn) != tiles:
                raise CompileError(
                    f"{turn[0]} and {other} need each other in every step, and no tiles fit both",
                    _place(cascade, turn),
                    code="E302",
                )
        needs = {place[name] for root in turn for name in reads[root] if name in place}
        number = max(needs, default=-1) + 1
        while number < len(found) and (found[number][1] != tiles or alone(found[number][0], turn)):
            number += 1
        if number == len(found):
            found.append(([], tiles))
        found[number][0].extend(turn)
        place.update(dict.fromkeys(turn, number))
    return [(tuple(names), tiles) for names, tiles in found]


def _place(cascade: Cascade, turn: list[str]) -> Span:
    """Where the text says what a turn computes: what is derived stands nowhere."""
    inside = {name for root in turn for name in closure(cascade, root, set())}
    spans = (einsum.span for einsum in cascade.einsums if einsum.target in inside)
    return next((span for span in spans if span is not NOWHERE), NOWHERE)


def _turns(reads: dict[str, set[str]]) -> list[list[str]]:
    """Roots in an order in which each reads earlier ones, those together that read each other."""
    import networkx as nx

    graph = nx.DiGraph([(name, root) for root, names in reads.items() for name in names])
    graph.add_nodes_from(reads)
    order = {root: place for place, root in enumerate(reads)}
    whole = nx.condensation(graph)
    members = {node: sorted(whole.nodes[node]["members"], key=order.__getitem__) for node in whole}
    first = {node: order[names[0]] for node, names in members.items()}
    return [members[n] for n in nx.lexicographical_topological_sort(whole, first.__getitem__)]


def _merges(cascade: Cascade, root: str, stored: set[str], plan: Mapping) -> bool:
    """Whether all that a root reduces are the parts of split reductions."""
    inside = closure(cascade, root, stored)
    reduced = {
        rank
        for einsum in inside.values()
        for term in subterms(einsum.body)
        if isinstance(term, Reduce)
        for rank in term.ranks
    }
    return bool(reduced) and reduced <= plan.merged and not inside.keys() & cascade.iterative()


def _stored_reads(cascade: Cascade, root: str, stored: set[str]) -> set[str]:
    """The stored tensors that a root reads, directly or through what is computed with it."""
    inside = closure(cascade, root, stored)
    return {
        access.tensor
        for einsum in cascade.einsums
        if einsum.target in inside
        for expr in (einsum.body, einsum.where)
        for access in accesses(expr)
        if access.tensor in stored and access.tensor != root
    }
