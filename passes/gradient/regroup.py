"""Regroup a sum of products around a contraction that already has a name.

    dA[p, m] = sum[f](dO[p, f] * V[m, f])       O[p, f] = sum[m](A[p, m] * V[m, f])
    R[p]     = sum[m](dA[p, m] * A[p, m])

    R[p]     = sum[f](dO[p, f] * O[p, f])

Legal because products distribute over sums: R adds dO * V * A over m and f, in either order, and
the part that runs over m is O. It is how FlashAttention-2 (Dao, 2023) finds the row term of the
softmax without a sweep over the keys; here any contraction will do. Where the named one is a sum of
several contractions, O = sum[m](A1 * V) - lam * sum[m](A2 * V), each gets a name by itself.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from attnc.ir.cascade import Cascade, Einsum, Left
from attnc.ir.expr import ONE, ZERO, Access, Const, Expr, Index, Map, Populate, Reduce
from attnc.ir.print_expr import print_expr
from attnc.ir.walk import free_ranks, substitute
from attnc.passes.clean import remove_dead
from attnc.passes.domain import Domains, conjunction
from attnc.passes.fiber import Names
from attnc.passes.gradient.derivatives import negative, total
from attnc.passes.gradient.monomial import Monomial, monomial

MOST_TERMS = 8
"""A sum that opens into more products than this is left alone."""


@dataclass(frozen=True, slots=True)
class Contraction:
    """A sum over some ranks of a product, and the tensor at whose points it is known.

    `outside` multiplies the sum where the tensor holds a multiple of it. A contraction that is
    part of a tensor only has no name yet: `whole` is the tensor then, `name` empty.
    """

    name: str
    whole: Einsum
    ranks: tuple[str, ...]
    product: Monomial
    outside: Monomial
    domain: frozenset[Expr]


class Regrouping:
    """Contractions of the early Einsums, found again in the late ones."""

    def __init__(self, cascade: Cascade, late: frozenset[str], names: Names) -> None:
        self.cascade = cascade
        self.late = late
        self.names = names
        self.domains = Domains(cascade)
        self.definitions = {
            e.target: e for e in cascade.einsums if not any(left.step for left in e.left)
        }
        self.made: list[Einsum] = []
        self.contractions: list[Contraction] = []
        for einsum in cascade.einsums:
            if einsum.target not in late and isinstance(einsum.body, Reduce):
                self.contractions.extend(self._contractions(einsum, einsum.body))

    def run(self) -> Cascade:
        """The cascade with late sums regrouped; the same object if none could be."""
        einsums = [self._regrouped(e) if e.target in self.late else e for e in self.cascade.einsums]
        if all(new is old for new, old in zip(einsums, self.cascade.einsums)):
            return self.cascade
        return remove_dead(replace(self.cascade, einsums=(*einsums, *self.made)))

    # -- contractions that have a name

    def _contractions(self, einsum: Einsum, body: Reduce) -> Iterator[Contraction]:
        if body.op != "sum" or einsum.target not in self.definitions:
            return
        terms = self._opened(body.body)
        domain = self._region(body)
        for term in terms:
            inside, outside = _divided(term, frozenset(body.ranks))
            if not inside.above:
                continue
            name = einsum.target if len(terms) == 1 else ""
            yield Contraction(name, einsum, body.ranks, inside, outside, domain)

    def _region(self, body: Reduce) -> frozenset[Expr]:
        """The conditions on what is summed."""
        return frozenset((*self.domains.holding(body.where), *self.domains.of(body.body)))

    def _opened(self, expr: Expr) -> tuple[Monomial, ...]:
        """A map as a sum of products of tensors that are no products themselves."""
        match expr:
            case Map("+" | "-" as sign, (left, right)):
                terms = (*self._opened(left), *(_signed(t, sign) for t in self._opened(right)))
                return terms if len(terms) <= MOST_TERMS else (monomial(expr),)
            case Map("neg", (body,)):
                return tuple(_signed(term, "-") for term in self._opened(body))
            case Map("*", (left, right)):
                one, other = self._opened(left), self._opened(right)
                if len(one) * len(other) > MOST_TERMS:
                    return (monomial(expr),)
                return tuple(a.times(b) for a in one for b in other)
            case Map("/", (left, right)):
                below = self._opened(right)
                if len(below) > 1:
                    return tuple(a.times(Monomial(False, (), (right,))) for a in self._opened(left))
                return tuple(a.times(below[0].inverse()) for a in self._opened(left))
            case Map("select", (condition, Const(0), other)) if other != ONE:
                chosen = Monomial(False, (Map("select", (condition, ZERO, ONE)),), ())
                return tuple(chosen.times(term) for term in self._opened(other))
            case Map("select", (condition, other, Const(0))) if other != ONE:
                chosen = Monomial(False, (Map("select", (condition, ONE, ZERO)),), ())
                return tuple(chosen.times(term) for term in self._opened(other))
            case Access(tensor):
                einsum = self.definitions.get(tensor)
                if einsum is None or einsum.dtype is not None or not _multiplies(einsum.body):
                    return (monomial(expr),)
                values = dict(zip(einsum.ranks, expr.subscripts))
                return self._opened(substitute(einsum.body, values))
            case _:
                return (monomial(expr),)

    # -- sums that contain one

    def _regrouped(self, einsum: Einsum) -> Einsum:
        body = einsum.body
        if not isinstance(body, Reduce) or body.op != "sum" or einsum.dtype is not None:
            return einsum
        region = self._region(body)
        result: Expr = ZERO
        terms = self._opened(body.body)
        for term in terms:
            found = self._known(einsum, body, term, region)
            if found is None:
                return einsum
            result = total(result, found)
        return replace(einsum, body=result)

    def _known(
        self, einsum: Einsum, body: Reduce, term: Monomial, region: frozenset[Expr]
    ) -> Expr | None:
        """One term of a sum by a contraction that has a name; None where none fits."""
        taken = (*einsum.ranks, *body.ranks)
        opened: list[tuple[tuple[str, ...], Monomial, frozenset[Expr]]] = [((), term, frozenset())]
        for factor in term.above:
            inner = self._contracted(factor, taken)
            rest = term.without(Monomial(False, (factor,), ()))
            if inner is not None and rest is not None:
                ranks, product, limits = inner
                opened.append((ranks, rest.times(product), limits))
        for ranks, whole, limits in opened:
            for known in self.contractions:
                left = self._around(known, whole, body.ranks, region | limits)
                if left is None:
                    continue
                over = tuple(r for r in (*body.ranks, *ranks) if r not in known.ranks)
                if not free_ranks(left.expr()) >= set(over):
                    continue
                positive = Monomial(False, left.above, left.below)
                summed: Expr = Reduce("sum", over, positive.expr()) if over else positive.expr()
                return negative(summed) if left.negative else summed
        return None

    def _contracted(
        self, factor: Expr, taken: tuple[str, ...]
    ) -> tuple[tuple[str, ...], Monomial, frozenset[Expr]] | None:
        """A factor that is a late sum of one product: its ranks, none of them taken, that, and
        the conditions on it."""
        if not isinstance(factor, Access) or factor.tensor not in self.late:
            return None
        einsum = self.definitions.get(factor.tensor)
        if einsum is None or not isinstance(einsum.body, Reduce) or einsum.body.op != "sum":
            return None
        region = self._region(einsum.body)
        if einsum.where is not None or any(
            free_ranks(part) & set(einsum.body.ranks) for part in region
        ):
            return None
        if set(einsum.body.ranks) & set(taken):
            return None
        values = dict(zip(einsum.ranks, factor.subscripts))
        terms = self._opened(substitute(einsum.body.body, values))
        if len(terms) != 1:
            return None
        return einsum.body.ranks, terms[0], frozenset(substitute(p, values) for p in region)

    def _around(
        self, known: Contraction, whole: Monomial, ranks: tuple[str, ...], region: frozenset[Expr]
    ) -> Monomial | None:
        """What a product is beside a known contraction, with that in place of its factors."""
        if not set(known.ranks) <= set(ranks) or known.domain != region:
            return None
        rest = whole.without(known.product)
        if rest is None or free_ranks(rest.expr()) & set(known.ranks):
            return None
        name = known.name or self._named(known)
        access = Access(name, tuple(Index(rank) for rank in known.whole.ranks))
        own = Monomial(False, (access,), ())
        # A tensor that holds a multiple of the sum is divided by the rest.
        if not known.name:
            return rest.times(own).reduced()
        return rest.times(own).times(known.outside.inverse()).reduced()

    def _named(self, known: Contraction) -> str:
        """A tensor of its own for one of the contractions that another is made of."""
        body: Expr = known.product.expr()
        own = set(self.domains.of(body))
        limits = sorted((p for p in known.domain if p not in own), key=print_expr)
        body = Reduce("sum", known.ranks, body, conjunction(tuple(limits)))
        left = tuple(Left(rank) for rank in known.whole.ranks)
        for einsum in self.made:
            if einsum.body == body and einsum.left == left:
                return einsum.target
        name = self.names.fresh(f"{known.whole.target}_part")
        self.made.append(Einsum(name, left, body))
        return name


def _signed(term: Monomial, sign: str) -> Monomial:
    return replace(term, negative=term.negative != (sign == "-"))


def _multiplies(body: Expr) -> bool:
    """Whether a definition is opened: products, sums and choices of 0, no function of them."""
    match body:
        case Reduce() | Populate():
            return False
        case Map("*" | "/" | "+" | "-" | "neg"):
            return True
        case Map("select", (_, chosen, other)):
            return ZERO in (chosen, other)
        case Access():
            return True
        case _:
            return False


def _divided(term: Monomial, ranks: frozenset[str]) -> tuple[Monomial, Monomial]:
    """The factors that vary along some ranks, and those that do not."""
    above = tuple(f for f in term.above if free_ranks(f) & ranks)
    below = tuple(f for f in term.below if free_ranks(f) & ranks)
    inside = Monomial(False, above, below)
    outside = term.without(inside)
    if outside is None:
        return term, Monomial(False, (), ())
    return inside, outside


def regrouped(
    cascade: Cascade, late: frozenset[str], names: Names
) -> tuple[Cascade, tuple[Einsum, ...]]:
    """The cascade with its late sums regrouped, and the early contractions that got a name."""
    work = Regrouping(cascade, late, names)
    return work.run(), tuple(work.made)
