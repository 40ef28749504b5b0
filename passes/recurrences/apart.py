"""A recurrence taken apart: chunks side by side, and only their states one after the other.

    X_in[t1, d, f]    = K[t1*C + t0, d] * V[t1*C + t0, f]              every chunk by itself, stored
    X[t1+1, d, f]     = X[t1, d, f] + X_in[t1, d, f]                    the sweep
    X_kept[t1, d, f]  = X[t1, d, f]                                     what it leaves, stored
    O[t1, t0, f]      = Q[t1*C + t0, d] * X_kept[t1, d, f] + ...        every chunk by itself

In one kernel a chunk waits for the one before; with few heads and a long sequence most of a machine
would wait too. Three kernels instead: what the sweep needs of each chunk, the sweep, and what reads
the state at the start of each chunk. The price is to write and read a state for each chunk. Legal
for every recurrence: what goes through memory is a tensor like any other.
"""

from __future__ import annotations

from dataclasses import replace

from attnc.ir.cascade import Cascade, Einsum, Left
from attnc.ir.expr import Access, Expr, Index, Reduce
from attnc.ir.walk import accesses, rewrite
from attnc.passes.fiber import Names


def apart(cascade: Cascade, rank: str) -> tuple[Cascade, tuple[str, ...]]:
    """The cascade with what passes between the sweep along `rank` and the rest, to be stored."""
    states = {name: axis for name, (axis, own) in cascade.iterative().items() if own == rank}
    inside = _sweep(cascade, states)
    names = Names(cascade)
    copies: dict[str, str] = {}

    def read(access: Expr) -> Expr | None:
        match access:
            case Access(tensor, subscripts) if tensor in inside:
                if tensor in states and subscripts[states[tensor]] != Index(rank):
                    return None
                if tensor not in copies:
                    copies[tensor] = names.fresh(f"{tensor}_kept")
                return replace(access, tensor=copies[tensor])
            case _:
                return None

    given: dict[str, None] = {}
    sweep: list[Einsum] = []
    before: list[Einsum] = []
    behind: list[Einsum] = []
    later = set(inside)
    for einsum in cascade.einsums:
        if einsum.target in inside:
            sweep.append(einsum)
            needed = _read(einsum) - inside
            given.update(dict.fromkeys(n for n in sorted(needed) if _reduces(cascade, n)))
        elif _read(einsum) & later:
            later.add(einsum.target)
            where = None if einsum.where is None else rewrite(einsum.where, read)
            behind.append(replace(einsum, body=rewrite(einsum.body, read), where=where))
        else:
            before.append(einsum)
    for tensor, name in copies.items():
        source = next(e for e in reversed(sweep) if e.target == tensor)
        own = Access(tensor, tuple(Index(rank) for rank in source.ranks))
        sweep.append(Einsum(name, tuple(map(Left, source.ranks)), own, None, span=source.span))
    return replace(cascade, einsums=(*before, *sweep, *behind)), (*given, *copies.values())


def _sweep(cascade: Cascade, states: dict[str, int]) -> set[str]:
    """The states, and what lies between them and their next steps."""
    import networkx as nx

    graph = nx.DiGraph()
    for einsum in cascade.einsums:
        graph.add_edges_from((name, einsum.target) for name in _read(einsum))
    inside = set(states)
    for group in nx.strongly_connected_components(graph):
        if group & set(states):
            inside |= group
    return inside


def _read(einsum: Einsum) -> set[str]:
    return {a.tensor for expr in (einsum.body, einsum.where) for a in accesses(expr)}


def _reduces(cascade: Cascade, name: str) -> bool:
    """Whether a tensor takes a reduction to compute."""
    definitions = {einsum.target: einsum for einsum in cascade.einsums}
    stack, seen = [name], set[str]()
    while stack:
        einsum = definitions.get(stack.pop())
        if einsum is None or einsum.target in seen:
            continue
        if isinstance(einsum.body, Reduce):
            return True
        seen.add(einsum.target)
        stack.extend(_read(einsum))
    return False
