"""A body as a sum of products of factors, opened only as far as a law needs.

    A * V  with  A = N / D          ->  [N, V, 1/D]
    (A - lam * B) * V               ->  [N_A, V, 1/D_A] - [lam, N_B, V, 1/D_B]

A tensor is opened into its definition, and a product distributed over a sum, only where this
brings out a factor that does not vary along the rank and waits for a reduction over it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from attnc.ir.expr import ONE, ZERO, Access, Const, Expr, Index, Map, conjuncts
from attnc.ir.walk import free_ranks, substitute
from attnc.passes.fiber import Fiber, plain

MOST_TERMS = 16
MOST_FACTORS = 12
"""A body that falls into more is left as it is: it would cost more than the pass it saves."""


@dataclass(frozen=True, slots=True)
class Factor:
    """One factor of a product, or one divisor."""

    expr: Expr
    inverse: bool = False


@dataclass(frozen=True, slots=True)
class Term:
    """A signed product; it exists only where `where` holds too."""

    negative: bool
    factors: tuple[Factor, ...]
    where: tuple[Expr, ...] = ()


class Products:
    """Expands the body of a reduction over `ranks`, one of which is the fiber's."""

    def __init__(self, fiber: Fiber, ranks: tuple[str, ...]) -> None:
        self.fiber = fiber
        self.ranks = frozenset(ranks)

    def terms(self, expr: Expr) -> tuple[Term, ...]:
        """The terms whose sum an expression is."""
        match expr:
            case Map("*", (left, right)):
                return self._cross(self.terms(left), self.terms(right), expr)
            case Map("/", (left, right)):
                below = tuple(Factor(f, True) for f in self._divisors(right))
                return tuple(
                    Term(t.negative, (*t.factors, *below), t.where) for t in self.terms(left)
                )
            case Map("neg", (body,)):
                return tuple(Term(not t.negative, t.factors, t.where) for t in self.terms(body))
            case Map("+" | "-" as sign, (left, right)):
                flipped = tuple(
                    Term(t.negative != (sign == "-"), t.factors, t.where) for t in self.terms(right)
                )
                return self._split(expr, (*self.terms(left), *flipped))
            case Map("select", (condition, Const(0), other)):
                return self._chosen(expr, other, lambda x: Map("select", (condition, ZERO, x)))
            case Map("select", (condition, other, Const(0))):
                return self._chosen(expr, other, lambda x: Map("select", (condition, x, ZERO)))
            case Access():
                return self._open(expr, self.terms)
            case _:
                return (Term(False, (Factor(expr),)),)

    def _chosen(self, whole: Expr, other: Expr, wrap: Callable[[Expr], Expr]) -> tuple[Term, ...]:
        """Where the other choice is 0, a factor of the one may stand outside the choice."""
        atom = (Term(False, (Factor(whole),)),)
        terms = self.terms(other)
        if len(terms) != 1 or not any(self.outside(f) for f in terms[0].factors):
            return atom
        inner = tuple(f for f in terms[0].factors if not self.outside(f))
        outer = tuple(f for f in terms[0].factors if self.outside(f))
        if terms[0].where:
            return atom
        return (Term(terms[0].negative, (Factor(wrap(product(inner))), *outer)),)

    def _divisors(self, expr: Expr) -> tuple[Expr, ...]:
        match expr:
            case Map("*", (left, right)):
                return (*self._divisors(left), *self._divisors(right))
            case _:
                return (expr,)

    def _cross(
        self, left: tuple[Term, ...], right: tuple[Term, ...], whole: Expr
    ) -> tuple[Term, ...]:
        if len(left) * len(right) > MOST_TERMS:
            return (Term(False, (Factor(whole),)),)
        return tuple(
            Term(a.negative != b.negative, (*a.factors, *b.factors), (*a.where, *b.where))
            for a in left
            for b in right
        )

    def outside(self, factor: Factor) -> bool:
        """Whether a factor can leave the reduction and waits for one over the same rank."""
        return not self.varies(factor.expr) and bool(self.fiber.waiting(factor.expr))

    def varies(self, expr: Expr) -> bool:
        """Whether an expression changes along the reduced ranks."""
        return bool(free_ranks(expr) & self.ranks)

    def addends(self, expr: Expr) -> tuple[Term, ...]:
        """The terms of a sum, tensors that wait opened where this frees one."""
        match expr:
            case Map("+" | "-" as sign, (left, right)):
                flipped = tuple(
                    Term(t.negative != (sign == "-"), t.factors, t.where)
                    for t in self.addends(right)
                )
                return (*self.addends(left), *flipped)
            case Access():
                return self._open(expr, self.addends)
            case _:
                return (Term(False, (Factor(expr),)),)

    def _split(self, whole: Expr, terms: tuple[Term, ...]) -> tuple[Term, ...]:
        """A sum becomes several terms if that frees a factor and none would cancel."""
        atom = (Term(False, (Factor(whole),)),)
        if not any(self.outside(f) for t in terms for f in t.factors):
            return atom
        for term in terms:
            if not any(self.varies(f.expr) for f in term.factors):
                return atom
        return terms

    def _open(
        self, access: Access, terms_of: Callable[[Expr], tuple[Term, ...]]
    ) -> tuple[Term, ...]:
        """Look through a tensor that varies along the rank and waits for a reduction over it."""
        atom = (Term(False, (Factor(access),)),)
        fiber = self.fiber
        einsum = fiber.definitions.get(access.tensor)
        if (
            einsum is None
            or access.tensor in fiber.reductions
            or not fiber.varies(access)
            or not fiber.waiting(access)
            or not plain(access)
            or einsum.dtype is not None
            or any(left.step for left in einsum.left)
        ):
            return atom
        values: dict[str, Expr] = {
            left.rank: subscript
            for left, subscript in zip(einsum.left, access.subscripts)
            if subscript != Index(left.rank)
        }
        terms = terms_of(substitute(einsum.body, values))
        if not any(self.outside(f) for t in terms for f in t.factors):
            return atom
        if any(len(t.factors) > MOST_FACTORS for t in terms):
            return atom
        where = tuple(substitute(part, values) for part in conjuncts(einsum.where))
        return tuple(Term(t.negative, t.factors, (*where, *t.where)) for t in terms)


def product(factors: tuple[Factor, ...]) -> Expr:
    """The factors multiplied, divisors last."""
    above = [f.expr for f in factors if not f.inverse]
    below = [f.expr for f in factors if f.inverse]
    result: Expr = above[0] if above else ONE
    for expr in above[1:]:
        result = Map("*", (result, expr))
    for expr in below:
        result = Map("/", (result, expr))
    return result
