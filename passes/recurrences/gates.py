"""The product of a gate over the steps between two positions of a chunk.

    a = exp(g)            prod[j where s < j <= t](a[j]) = exp(sum[j where s < j <= t](g[j]))
    a the same in each    prod[j where s < j <= t](a)    = a ** (t - s)
    anything else         the product itself, which may pass through 0 or change its sign

Every product runs over the steps between its two positions and no others, so no quotient is taken
and no exponent is a difference of large sums: gates of 0 and of e^-50 are as good as any. For
gates of at most 1 no exponent is positive.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from attnc.ir.cascade import Einsum
from attnc.ir.expr import Access, Const, Expr, Map, Reduce
from attnc.ir.walk import free_ranks, substitute


@dataclass(frozen=True, slots=True)
class Gate:
    """What is accumulated: its logarithm by sums, or the gate itself by products.

    `steady` says that it is the same in each step.
    """

    term: Expr
    logarithm: bool
    steady: bool

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


def gate_of(expr: Expr, rank: str, definitions: dict[str, Einsum]) -> Gate:
    """How the products of a gate along a rank are formed."""
    log = logarithm(expr, definitions)
    term = expr if log is None else log
    return Gate(term, log is not None, rank not in free_ranks(term))


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
