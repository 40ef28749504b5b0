"""A body as a sum of products, each of factors of the keys, of the queries, or of both.

    S[p, m] / (X[p] * Y[m]) * V[m, f]    with    S[p, m] = sum[d](A[p, d] * C[m, d] + B[p, d])
    ->  A[p, d] * C[m, d] * V[m, f] / X[p] / Y[m]  +  B[p, d] * V[m, f] / X[p] / Y[m]

Tensors over ranks of both are written out, as far as their definitions are sums of products.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace

from attnc.ir.cascade import Einsum
from attnc.ir.expr import ZERO, Access, Const, Expr, Index, Map, Reduce, conjuncts
from attnc.ir.walk import free_ranks, substitute
from attnc.passes.angles import angle_sum
from attnc.passes.contraction import factors
from attnc.passes.fiber import plain
from attnc.passes.products import MOST_FACTORS, MOST_TERMS, Factor


class Stays(Exception):
    """A sum that is left as it is; the reason, where it could have been another."""

    def __init__(self, reason: str = "", term: Expr | None = None) -> None:
        super().__init__(reason)
        self.reason, self.term = reason, term


@dataclass(frozen=True, slots=True)
class Term:
    """A signed product summed over `ranks`, at the points where `where` holds.

    It is 0, whatever its factors are, where one of `zero` holds.
    """

    negative: bool = False
    factors: tuple[Factor, ...] = ()
    ranks: tuple[str, ...] = ()
    where: tuple[Expr, ...] = ()
    zero: tuple[Expr, ...] = ()


class Terms:
    """Writes a sum out over `inner` ranks, the keys', of what carries `outer` ones, the queries'.

    Tensors of `closed` stay as they are, and those that sum over a rank of `lengths`. `opened` are
    those written out so far, `used` the variables of the sum.
    """

    def __init__(
        self,
        inner: frozenset[str],
        outer: frozenset[str],
        definitions: Mapping[str, Einsum],
        closed: Collection[str],
        lengths: frozenset[str],
        used: Collection[str],
    ) -> None:
        self.inner, self.outer = inner, outer
        self.definitions, self.closed, self.lengths = definitions, closed, lengths
        self.used = {*used}
        self.opened: set[str] = set()

    def of(self, expr: Expr) -> tuple[Term, ...]:
        """An expression as a sum of products, tensors over both kinds of rank written out."""
        match expr:
            case Map("*", (left, right)):
                return self._cross(self.of(left), self.of(right))
            case Map("**" | "pow", (base, Const(int(power)))) if 1 < power <= 4 and self.mixed(
                base
            ):
                result = self.of(base)
                for _ in range(power - 1):
                    result = self._cross(result, self.of(base))
                return result
            case Map("/", (left, right)):
                below = tuple(Factor(own, not under) for own, under in factors(right))
                return tuple(replace(t, factors=(*t.factors, *below)) for t in self.of(left))
            case Map("neg", (body,)):
                return tuple(replace(t, negative=not t.negative) for t in self.of(body))
            case Map("+" | "-" as sign, (left, right)) if self.mixed(expr):
                second = self.of(right)
                if sign == "-":
                    second = tuple(replace(t, negative=not t.negative) for t in second)
                return (*self.of(left), *second)
            case Map("cos" | "sin") if products := angle_sum(expr, self.outer, self.inner):
                return tuple(
                    Term(negative, (Factor(one), Factor(other)))
                    for negative, one, other in products
                )
            case Map("select", (Map("or", (first, second)), Const(0), other)) if self.mixed(expr):
                return self.of(or_zero((first,), or_zero((second,), other)))
            case Map("select", (condition, Const(0), other)) if not self.mixed(condition):
                return tuple(
                    replace(t, zero=tuple(dict.fromkeys((condition, *t.zero))))
                    for t in self.of(other)
                )
            case Map("select", (condition, other, Const(0))) if self.mixed(expr) and not self.mixed(
                condition
            ):
                return self.of(or_zero((Map("not", (condition,)),), other))
            case Access() if self.mixed(expr):
                return self._open(expr)
            case Const(1):
                return (Term(),)
            case _:
                return (Term(factors=(Factor(expr),)),)

    def mixed(self, expr: Expr) -> bool:
        own = free_ranks(expr)
        return bool(own & self.inner) and bool(own & self.outer)

    def _cross(self, left: tuple[Term, ...], right: tuple[Term, ...]) -> tuple[Term, ...]:
        if len(left) * len(right) > MOST_TERMS:
            raise Stays(f"is a sum of more than {MOST_TERMS} products")
        found: list[Term] = []
        for a in left:
            for b in right:
                factors = (*a.factors, *b.factors)
                if len(factors) > MOST_FACTORS:
                    raise Stays(f"has a product of more than {MOST_FACTORS} factors")
                found.append(Term(a.negative != b.negative, factors, (*a.ranks, *b.ranks),
                                   tuple(dict.fromkeys((*a.where, *b.where))),
                                   tuple(dict.fromkeys((*a.zero, *b.zero)))))  # fmt: skip
        return tuple(found)

    def _unused(self, rank: str) -> str:
        """A variable over a rank that nothing else in the sum is called: none is captured."""
        while rank in self.used:
            rank += "'"
        self.used.add(rank)
        return rank

    def _open(self, access: Access) -> tuple[Term, ...]:
        """A tensor by its definition, if that is a product or a sum of products."""
        einsum = self.definitions.get(access.tensor)
        atom = (Term(factors=(Factor(access),)),)
        if einsum is None or access.tensor in self.closed or not plain(access):
            return atom
        if einsum.dtype is not None:
            return atom
        body, where = einsum.body, einsum.where
        ranks: tuple[str, ...] = ()
        if isinstance(body, Reduce):
            if body.op != "sum" or body.where is not None or frozenset(body.ranks) & self.lengths:
                return atom
            ranks, body = body.ranks, body.body
        names = {left.rank: s for left, s in zip(einsum.left, access.subscripts)}
        bound = tuple(self._unused(rank) for rank in ranks)
        fresh = {rank: Index(own) for rank, own in zip(ranks, bound)}
        body = substitute(body, {**names, **fresh})
        self.opened.add(access.tensor)
        own = tuple(substitute(part, names) for part in conjuncts(where))
        return tuple(
            replace(t, ranks=(*bound, *t.ranks), where=(*own, *t.where)) for t in self.of(body)
        )


def or_zero(conditions: tuple[Expr, ...], expr: Expr) -> Expr:
    """An expression, or 0 where one of the conditions holds."""
    for condition in conditions:
        expr = Map("select", (condition, ZERO, expr))
    return expr
