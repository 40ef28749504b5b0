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
from attnc.ir.walk import rewrite, subterms
from attnc.passes.probe import probe

TOLERANCE = 1e-9
MOST_CHOICES = 4


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
        choices = _choices(opened(einsum.body, 0))
        if choices is None:
            return False
        for body in choices:
            if not math.isclose(old, probe(body, values), rel_tol=TOLERANCE):
                return False
    return True


def _choices(body: Expr) -> tuple[Expr, ...] | None:
    """What a body may come down to, by the choices that it makes by position: a generic position
    would make only one of them. None where they are too many."""
    conditions = {
        term.args[0]
        for term in subterms(body)
        if isinstance(term, Map) and term.op == "select" and _positional(term.args[0])
    }
    if len(conditions) > MOST_CHOICES:
        return None
    found: tuple[Expr, ...] = (body,)
    for condition in conditions:
        found = tuple(_settled(one, condition, value) for one in found for value in (True, False))
    return found


def _positional(expr: Expr) -> bool:
    """Whether a position stands in an expression as a number, not as a subscript."""
    match expr:
        case Index():
            return True
        case Map(_, args):
            return any(_positional(arg) for arg in args)
        case _:
            return False


def _settled(body: Expr, condition: Expr, value: bool) -> Expr:
    def rule(term: Expr) -> Expr | None:
        return Const(value) if term == condition else None

    return rewrite(body, rule)
