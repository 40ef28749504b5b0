"""The product of a gate over the steps between two positions of a chunk.

    a = exp(g)            prod[j where s < j <= t](a[j]) = exp(sum[j where s < j <= t](g[j]))
    a the same in each    prod[j where s < j <= t](a)    = a ** (t - s)
    a = h(y[t+1])/h(y[t]) prod[j where s < j <= t](a[j]) = h(y[t+1]) / h(y[s+1])
    anything else         the product itself, which may pass through 0 or change its sign

Every product runs over the steps between its two positions and no others, so no quotient is taken
and no exponent is a difference of large sums: gates of 0 and of e^-50 are as good as any. For
gates of at most 1 no exponent is positive.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

from attnc.ir.algebra import MONOIDS
from attnc.ir.cascade import Einsum
from attnc.ir.expr import ONE, Access, Const, Expr, Index, Map, Reduce
from attnc.ir.walk import accesses, free_ranks, rewrite, substitute
from attnc.passes.defer import number
from attnc.passes.recurrences.scanned import Scanned
from attnc.passes.separate import chains


@dataclass(frozen=True, slots=True)
class Gate:
    """What is accumulated: its logarithm by sums, or the gate itself by products.

    `steady` says that it is the same in each step, `telescopes` that it leads from a state to the
    next one, so that any product of it is one of its values.
    """

    term: Expr
    logarithm: bool
    steady: bool
    telescopes: bool = False

    @property
    def op(self) -> str:
        return "sum" if self.logarithm else "prod"

    def value(self, accumulated: Expr) -> Expr:
        """The gate's product from what was accumulated."""
        return Map("exp", (accumulated,)) if self.logarithm else accumulated

    def power(self, steps: Expr) -> Expr:
        """The product over a number of like steps."""
        if self.logarithm:
            return Map("exp", (Map("*", (self.term, steps)),))
        return Map("**", (self.term, steps))


def gate_of(
    expr: Expr, rank: str, definitions: dict[str, Einsum], scans: Mapping[str, Scanned]
) -> Gate:
    """How the products of a gate along a rank are formed, `scans` known at every position."""
    opened = _opened(expr, definitions, scans)
    if _telescopes(opened, rank, scans):
        return Gate(opened, False, False, True)
    log = logarithm(expr, definitions)
    term = expr if log is None else log
    return Gate(term, log is not None, rank not in free_ranks(term))


def _opened(expr: Expr, definitions: dict[str, Einsum], scans: Mapping[str, Scanned]) -> Expr:
    """A gate with the maps of scanned states written out."""

    def rule(term: Expr) -> Expr | None:
        einsum = definitions.get(term.tensor) if isinstance(term, Access) else None
        if einsum is None or einsum.where is not None or einsum.dtype is not None:
            return None
        if isinstance(einsum.body, Reduce) or any(left.step for left in einsum.left):
            return None
        if not any(access.tensor in scans for access in accesses(einsum.body)):
            return None
        assert isinstance(term, Access)
        names = {left.rank: s for left, s in zip(einsum.left, term.subscripts)}
        return _opened(substitute(einsum.body, names), definitions, scans)

    return rewrite(expr, rule)


def _telescopes(term: Expr, rank: str, scans: Mapping[str, Scanned]) -> bool:
    """Whether a gate leads from scanned states to their next, and multiplies along a chain."""
    before = tuple(
        dict.fromkeys(
            access
            for access in accesses(term)
            if access.tensor in scans
            and access.subscripts[scans[access.tensor].axis] == Index(rank)
        )
    )
    after = tuple(_next(access, scans[access.tensor]) for access in before)
    rest = rewrite(term, lambda part: ONE if part in (*before, *after) else None)
    if not before or rank in free_ranks(rest):
        return False
    match term:
        case Map("select", (guard, Const(0), gate)) if _at_start(guard, before, scans):
            return chains(gate, before, after)
        case _:
            return chains(term, before, after)


def _next(access: Access, scan: Scanned) -> Access:
    """A state after the step before which it is read."""
    own = list(access.subscripts)
    own[scan.axis] = Map("+", (own[scan.axis], ONE))
    return replace(access, subscripts=tuple(own))


def _at_start(guard: Expr, before: tuple[Access, ...], scans: Mapping[str, Scanned]) -> bool:
    """Whether a guard asks if a state has seen nothing: what it has left it never is again, so
    that of many steps the first alone has to be asked."""
    match guard:
        case Map("or", parts):
            return all(_at_start(part, before, scans) for part in parts)
        case Map("==", (Access() as state, value)) if state in before:
            return value == number(MONOIDS[scans[state.tensor].op].identity)
        case _:
            return False


def logarithm(expr: Expr, definitions: dict[str, Einsum]) -> Expr | None:
    """The logarithm of an expression that is seen to be positive; None where it is not seen."""
    match expr:
        case Const(value) if value > 0:
            return Const(math.log(value))
        case Map("exp", (body,)):
            return body
        case Map("exp2", (body,)):
            return Map("*", (body, Const(math.log(2))))
        case Map("sigmoid", (body,)):
            return Map("neg", (Map("softplus", (Map("neg", (body,)),)),))
        case Map("*" | "/" as op, (left, right)):
            first, second = logarithm(left, definitions), logarithm(right, definitions)
            if first is None or second is None:
                return None
            return Map("+" if op == "*" else "-", (first, second))
        case Map("**" | "pow", (base, power)):
            inner = logarithm(base, definitions)
            return None if inner is None else Map("*", (power, inner))
        case Access(tensor, subscripts):
            einsum = definitions.get(tensor)
            if einsum is None or einsum.where is not None or isinstance(einsum.body, Reduce):
                return None
            if einsum.dtype is not None or any(left.step for left in einsum.left):
                return None
            names = {left.rank: s for left, s in zip(einsum.left, subscripts)}
            return logarithm(substitute(einsum.body, names), definitions)
        case _:
            return None
