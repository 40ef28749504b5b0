"""A recurrence taken apart: chunks side by side, and only their states one after the other.

    X_in[t1, d, f]    = K[t1*C + t0, d] * V[t1*C + t0, f]              every chunk by itself, stored
    X[t1+1, d, f]     = X[t1, d, f] + X_in[t1, d, f]                    the sweep
    X_kept[t1, d, f]  = X[t1, d, f]                                     what it leaves, stored
    O[t1, t0, f]      = Q[t1*C + t0, d] * X_kept[t1, d, f] + ...        every chunk by itself

In one kernel a chunk waits for the one before; with few heads and a long sequence most of a machine
would wait too. Three kernels instead: what the sweep needs of each chunk, the sweep, and what reads
the state at the start of each chunk; five where what one sweep needs of each chunk depends on
another sweep, as sums of exponentials do on their maximum. The price is to write and read a state
for each chunk. Legal for every recurrence: what goes through memory is a tensor like any other.

With `earlier`, the last sweep stays as it is and finds the states of those before it in memory, as
does whatever else needs only these (`ahead.py`).
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from attnc.ir.cascade import Cascade, Einsum, Left
from attnc.ir.expr import ONE, Access, Expr, Index, Map, Reduce
from attnc.passes.clean import rewritten
from attnc.passes.cut import reads
from attnc.passes.fiber import Names

if TYPE_CHECKING:
    import networkx as nx


def apart(cascade: Cascade, rank: str, earlier: bool = False) -> tuple[Cascade, tuple[str, ...]]:
    """The cascade with what passes between the sweeps along `rank` and the rest, to be stored.

    A state that needs of each chunk a reduction which needs another state goes in a later sweep.
    """
    states = {name: axis for name, (axis, own) in cascade.iterative().items() if own == rank}
    inside = _sweep(cascade, states)
    level = _levels(cascade, inside)
    last = max(level[name] for name in states)
    names = Names(cascade)
    copies: dict[tuple[str, bool], str] = {}
    given: dict[str, None] = {}
    stages: list[list[Einsum]] = [[] for _ in range(2 * max(level.values()) + 3)]

    def kept(reader: Einsum, access: Expr) -> Expr | None:
        """What a sweep before left in memory, at the start of a chunk or after it."""
        if not isinstance(access, Access) or access.tensor not in inside:
            return None
        if reader.target in inside and level[reader.target] == level[access.tensor]:
            return None
        if earlier and level[access.tensor] == last:
            return None
        own = list(access.subscripts)
        after = access.tensor in states and own[states[access.tensor]] == Map(
            "+", (Index(rank), ONE)
        )
        if after:
            own[states[access.tensor]] = Index(rank)
        elif access.tensor in states and own[states[access.tensor]] != Index(rank):
            return None
        key = (access.tensor, after)
        if key not in copies:
            copies[key] = names.fresh(f"{access.tensor}_{'next' if after else 'kept'}")
        return Access(copies[key], tuple(own), access.span)

    for einsum in cascade.einsums:
        name = einsum.target
        if name in inside and not earlier:
            needed = sorted(reads(einsum) - inside)
            given.update(dict.fromkeys(n for n in needed if _reduces(cascade, n, inside)))
        stage = stages[2 * level[name] + (1 if name in inside else 2)]
        stage.append(rewritten(einsum, partial(kept, einsum)))
    for (tensor, after), name in copies.items():
        stage = stages[2 * level[tensor] + 1]
        source = next(e for e in reversed(stage) if e.target == tensor)
        own = [Index(r) for r in source.ranks]
        place: list[Expr] = [*own]
        if after:
            place[states[tensor]] = Map("+", (Index(rank), ONE))
        value = Access(tensor, tuple(place))
        stage.append(Einsum(name, tuple(map(Left, source.ranks)), value, span=source.span))
    einsums = tuple(einsum for stage in stages for einsum in stage)
    return replace(cascade, einsums=einsums), (*given, *copies.values())


def _levels(cascade: Cascade, inside: set[str]) -> dict[str, int]:
    """The sweep in which each state is, and after which everything else: -1 before all of them."""
    import networkx as nx

    graph = _reads(cascade)
    whole = nx.condensation(graph)
    level: dict[str, int] = {}
    for node in nx.topological_sort(whole):
        group: set[str] = whole.nodes[node]["members"]
        before = {name for own in group for name in graph.predecessors(own)} - group
        if group & inside:
            later = (n for n in before - inside if _reduces(cascade, n, inside))
            found = max((level[n] + 1 for n in later), default=0)
            found = max(found, *(level[n] for n in before), 0)
        else:
            found = max((level[n] for n in before), default=-1)
        level.update(dict.fromkeys(group, found))
    return level


def _sweep(cascade: Cascade, states: dict[str, int]) -> set[str]:
    """The states, and what lies between them and their next steps."""
    import networkx as nx

    graph = _reads(cascade)
    inside = set(states)
    for group in nx.strongly_connected_components(graph):
        if group & set(states):
            inside |= group
    return inside


def _reads(cascade: Cascade) -> nx.DiGraph:
    """Edges from what is read to who reads it."""
    import networkx as nx

    graph = nx.DiGraph()
    for einsum in cascade.einsums:
        graph.add_node(einsum.target)
        graph.add_edges_from((name, einsum.target) for name in reads(einsum))
    return graph


def _reduces(cascade: Cascade, name: str, inside: set[str]) -> bool:
    """Whether a tensor takes a reduction to compute, besides those of states."""
    definitions = {einsum.target: einsum for einsum in cascade.einsums}
    stack, seen = [name], set[str]()
    while stack:
        einsum = definitions.get(stack.pop())
        if einsum is None or einsum.target in seen or einsum.target in inside:
            continue
        if isinstance(einsum.body, Reduce):
            return True
        seen.add(einsum.target)
        stack.extend(reads(einsum))
    return False
