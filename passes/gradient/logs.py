"""Take a divisor of exponentials into their exponent, where it needs no name of its own.

    N[p, m] = exp(S[p, m] - G[p])       L[p]    = G[p] + log(D[p])
    D[p]    = sum[m](N[p, m])           A[p, m] = exp(S[p, m] - L[p])
    A[p, m] = N[p, m] / D[p]

Legal because exp(x) / d = exp(x - log(d)) for a positive d, which a sum of exponentials is
wherever it has a term. Worth it in a gradient, which then saves one number a row, the log-sum-exp
of FlashAttention (Dao et al., 2022), and computes A again from it.
"""

from __future__ import annotations

from collections.abc import Iterable

from attnc.ir.cascade import Cascade, Einsum, Left
from attnc.ir.expr import ZERO, Access, Expr, Index, Map, Reduce
from attnc.ir.walk import children, free_ranks, rebuild, substitute
from attnc.passes.fiber import Names, plain
from attnc.passes.gradient.derivatives import total
from attnc.passes.gradient.monomial import Monomial, monomial
from attnc.passes.signs import non_negative_tensors

LOGARITHM = {"exp": "log", "exp2": "log2"}


class Logs:
    """Folds divisors into exponents; `made` are the logarithms that it gave a name."""

    def __init__(self, cascade: Cascade, names: Names) -> None:
        self.names = names
        self.made: list[Einsum] = []
        self.definitions = {
            einsum.target: einsum
            for einsum in cascade.einsums
            if not any(left.step for left in einsum.left) and einsum.dtype is None
        }
        self.sums = non_negative_tensors(cascade) & {
            name for name, einsum in self.definitions.items() if self._exponentials(einsum.body)
        }
        self.known: dict[tuple[str, str, frozenset[tuple[bool, Expr]]], str] = {}
        for einsum in cascade.einsums:
            self._learn(einsum)

    def _exponentials(self, body: Expr) -> str:
        """The function whose values a positive expression adds up; empty if it is no such sum."""
        match body:
            case Reduce("sum", _, inner):
                return self._exponentials(inner)
            case Map("exp" | "exp2" as op, _):
                return op
            case Map("+", (left, right)):
                one, other = self._exponentials(left), self._exponentials(right)
                return one if one == other else ""
            case Map("*", (left, right)):
                one, other = self._exponentials(left), self._exponentials(right)
                return one if one == other else ""
            case Access(tensor) if tensor in self.definitions:
                return self._exponentials(self.definitions[tensor].body)
            case _:
                return ""

    def _learn(self, einsum: Einsum) -> None:
        """A logarithm that has a name already: L[p] = G[p] + log(D[p])."""
        if isinstance(einsum.body, Reduce) or einsum.where is not None:
            return
        terms = list(addends(einsum.body))
        for term in terms:
            match term:
                case (False, Map("log" | "log2" as op, (Access(tensor) as divisor,))) if (
                    tensor in self.sums and divisor.subscripts == tuple(map(Index, einsum.ranks))
                ):
                    rest = frozenset(other for other in terms if other is not term)
                    own = self.definitions[tensor].ranks
                    back = dict(zip(einsum.ranks, map(Index, own)))
                    moved = frozenset((sign, substitute(x, dict(back))) for sign, x in rest)
                    self.known.setdefault((op, tensor, moved), einsum.target)
                case _:
                    pass

    def fold(self, expr: Expr) -> Expr:
        """An expression with every quotient of an exponential by such a sum as one exponential."""
        match expr:
            case Map("*" | "/" | "neg"):
                found = monomial(expr)
                folded = self._folded(found)
                parts = Monomial(
                    folded.negative,
                    tuple(self.fold(factor) for factor in folded.above),
                    tuple(self.fold(factor) for factor in folded.below),
                )
                return expr if parts == found else parts.expr()
            case Access():
                return expr
            case _:
                return rebuild(expr, tuple(self.fold(part) for part in children(expr)))

    def _folded(self, product: Monomial) -> Monomial:
        for divisor in product.below:
            if isinstance(divisor, Access) and divisor.tensor in self.sums and plain(divisor):
                op = self._exponentials(self.definitions[divisor.tensor].body)
                powers = [f for f in product.above if self._exponent(f, op) is not None]
                if powers:
                    return self._folded(self._divided(product, divisor, powers, op))
        return product

    def _exponent(self, factor: Expr, op: str) -> Expr | None:
        """The exponent of a factor that is an exponential, by itself or by its definition."""
        match factor:
            case Map(own, (exponent,)) if own == op:
                return exponent
            case Access(tensor) if tensor in self.definitions:
                einsum = self.definitions[tensor]
                if isinstance(einsum.body, Map) and einsum.where is None:
                    values = dict(zip(einsum.ranks, factor.subscripts))
                    inner = self._exponent(einsum.body, op)
                    return None if inner is None else substitute(inner, values)
                return None
            case _:
                return None

    def _divided(self, product: Monomial, divisor: Access, powers: list[Expr], op: str) -> Monomial:
        """The product with its exponentials and one divisor as one exponential."""
        exponents = [self._exponent(power, op) for power in powers]
        terms = cancelled([t for e in exponents if e is not None for t in addends(e)])
        ranks = frozenset(s.rank for s in divisor.subscripts if isinstance(s, Index))
        # What is subtracted and varies no more than the divisor does goes with its logarithm.
        own = [term for sign, term in terms if sign and free_ranks(term) <= ranks]
        steady: list[tuple[bool, Expr]] = [(True, term) for term in own]
        moving = [term for term in terms if term not in steady]
        name = self._logarithm(divisor, steady, op)
        exponent = joined([*moving, (True, Access(name, divisor.subscripts))])
        above = list(product.above)
        for power in powers:
            above.remove(power)
        below = list(product.below)
        below.remove(divisor)
        return Monomial(product.negative, (Map(op, (exponent,)), *above), tuple(below))

    def _logarithm(self, divisor: Access, steady: list[tuple[bool, Expr]], op: str) -> str:
        """The tensor log(d) minus what was subtracted beside it, over the divisor's ranks."""
        einsum = self.definitions[divisor.tensor]
        back: dict[str, Expr] = {
            subscript.rank: Index(rank)
            for subscript, rank in zip(divisor.subscripts, einsum.ranks)
            if isinstance(subscript, Index)
        }
        terms = [(not sign, substitute(term, back)) for sign, term in steady]
        key = (LOGARITHM[op], divisor.tensor, frozenset(terms))
        if key not in self.known:
            log = Map(LOGARITHM[op], (Access(divisor.tensor, tuple(map(Index, einsum.ranks))),))
            name = self.names.fresh(f"{divisor.tensor}_log" if not terms else "L")
            self.made.append(
                Einsum(name, tuple(map(Left, einsum.ranks)), joined([*terms, (False, log)]))
            )
            self.known[key] = name
        return self.known[key]


def addends(expr: Expr, negated: bool = False) -> Iterable[tuple[bool, Expr]]:
    """The terms of a sum, each with whether it is subtracted."""
    match expr:
        case Map("+", (left, right)):
            yield from addends(left, negated)
            yield from addends(right, negated)
        case Map("-", (left, right)):
            yield from addends(left, negated)
            yield from addends(right, not negated)
        case Map("neg", (body,)):
            yield from addends(body, not negated)
        case _:
            yield negated, expr


def cancelled(terms: list[tuple[bool, Expr]]) -> list[tuple[bool, Expr]]:
    """A sum without the pairs of which one is the other's opposite."""
    left: list[tuple[bool, Expr]] = []
    for sign, term in terms:
        if (not sign, term) in left:
            left.remove((not sign, term))
        else:
            left.append((sign, term))
    return left


def joined(terms: list[tuple[bool, Expr]]) -> Expr:
    """Terms as a sum, those that are added first."""
    result: Expr = ZERO
    for sign, term in sorted(terms, key=lambda item: item[0]):
        result = total(result, Map("neg", (term,)) if sign else term)
    return result
