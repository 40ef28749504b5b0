"""Whether an iteration whose reductions are all empty leaves every state as it was.

The step of each state is evaluated with these reductions at their identity and everything else
generic: FuseMax's running maximum stays, its correction is exp(0) = 1, its sums gain 0. Only then
may a loop leave such iterations out.
"""

from __future__ import annotations

import math

from attnc.ir.algebra import MONOIDS
from attnc.ir.cascade import Cascade, Einsum
from attnc.ir.expr import ONE, Access, Const, Expr, Index, Map, Reduce
from attnc.ir.walk import rewrite
from attnc.passes.probe import probe

TOLERANCE = 1e-9


def skippable(
    cascade: Cascade,
    states: tuple[str, ...],
    empty: frozenset[str],
    stepped: dict[str, tuple[int, str]],
    rank: str,
) -> bool:
    """Whether every state is a fixed point of its step when `empty` are at their identities."""
    steps: dict[str, Einsum] = {e.target: e for e in cascade.einsums}

    def opened(expr: Expr, depth: int) -> Expr:
        def rule(term: Expr) -> Expr | None:
            if not isinstance(term, Access) or term.tensor not in steps or depth > 64:
                return None
            einsum = steps[term.tensor]
            if term.tensor in stepped:
                axis, own = stepped[term.tensor]
                if own == rank and term.subscripts[axis] == Map("+", (Index(rank), ONE)):
                    return opened(einsum.body, depth + 1)
                return None
            if isinstance(einsum.body, Reduce):
                if term.tensor in empty and einsum.body.op in MONOIDS:
                    return Const(float(MONOIDS[einsum.body.op].identity))
                return None
            return opened(einsum.body, depth + 1) if rank in einsum.ranks else None

        return rewrite(expr, rule)

    for name in states:
        einsum = steps[name]
        before = Access(name, tuple(Index(left.rank) for left in einsum.left))
        values: dict[Expr, float] = {}
        old = probe(before, values)
        new = probe(opened(einsum.body, 0), values)
        if not math.isclose(old, new, rel_tol=TOLERANCE):
            return False
    return True
