"""Recognise a state that an associative choice carries along: the extremum of all steps so far.

    M[t+1, ...] = max(M[t, ...], u[t, ...])

It is not linear, but its steps are associative: inside a chunk it is a scan of the updates, between
chunks the same choice of the state and of all updates of the chunk. What it is at every position
is then known before anything that reads it, so it may be read in any way.
"""

from __future__ import annotations

from dataclasses import dataclass

from attnc.ir.algebra import MONOIDS
from attnc.ir.cascade import Einsum
from attnc.ir.expr import Access, Expr, Index, Map
from attnc.ir.walk import accesses, free_ranks
from attnc.passes.domain import Domains


@dataclass(frozen=True, slots=True)
class Scanned:
    """A state along a rank that each step joins with an update by the reduction `op`."""

    state: str
    rank: str
    axis: int
    step: Einsum
    op: str
    update: Expr

    def joined(self, first: Expr, second: Expr) -> Expr:
        """Two partial results as one."""
        return Map(MONOIDS[self.op].combine, (first, second))


def scanned(step: Einsum, axis: int, cycle: frozenset[str], domains: Domains) -> Scanned | None:
    """The scan that a step of a state is, if it is one; `cycle` is what its next step depends on
    that depends on it."""
    rank = step.ranks[axis]
    own = Access(step.target, tuple(map(Index, step.ranks)))
    exists = not any(rank in free_ranks(part) for part in domains.of_einsum(step))
    op = next(
        (
            m.name
            for m in MONOIDS.values()
            if m.selective and isinstance(step.body, Map) and step.body.op == m.combine
        ),
        None,
    )
    if cycle != {step.target} or step.dtype is not None or not exists or op is None:
        return None
    assert isinstance(step.body, Map)
    rest = [term for term in step.body.args if term != own]
    if len(rest) + 1 != len(step.body.args) or not rest:
        return None
    if any(a.tensor == step.target for term in rest for a in accesses(term)):
        return None
    update = rest[0] if len(rest) == 1 else Map(step.body.op, tuple(rest))
    return Scanned(step.target, rank, axis, step, op, update)
