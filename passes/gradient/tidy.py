"""Put the Einsums of a sweep into the form that a person would have written.

dD[p]    = dL[p] / D[p]
dS[p, m] = dA[p, m] * A[p, m] + dD[p] * N[p, m]

dS[p, m] = (dA[p, m] + dL[p]) * A[p, m]           since A = N / D has a name
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from attnc.ir.cascade import Cascade, Einsum
from attnc.ir.expr import Access, Const, Expr, Extent, Index, Map, Param, Populate, Reduce
from attnc.ir.walk import accesses, children, free_ranks, rebuild, rewrite, substitute, subterms
from attnc.passes.domain import Domains
from attnc.passes.fiber import Names
from attnc.passes.gradient.derivatives import fixed, negative
from attnc.passes.gradient.monomial import Monomial, added, monomial, ordered


def tidied(cascade: Cascade, late: frozenset[str], fold: Callable[[Expr], Expr]) -> Cascade:
    """The cascade with the Einsums of `late` in short; `fold` is a law to apply to every map."""
    return factored(shared(mapped(inlined(cascade, late), fold)), late)


def mapped(cascade: Cascade, law: Callable[[Expr], Expr]) -> Cascade:
    """A law of maps applied to what every Einsum computes, inside a reduction and outside."""
    return replace(cascade, einsums=tuple(_mapped(einsum, law) for einsum in cascade.einsums))


def scaled(cascade: Cascade, late: frozenset[str], names: Names) -> Cascade:
    """Sums of products without the numbers among the factors: one multiplication a sum."""
    einsums: list[Einsum] = []
    for einsum in cascade.einsums:
        body = einsum.body
        if einsum.target not in late or not isinstance(body, Reduce) or body.op != "sum":
            einsums.append(einsum)
            continue
        terms = monomial(body.body)
        number = Monomial(
            terms.negative,
            tuple(factor for factor in terms.above if fixed(factor)),
            tuple(factor for factor in terms.below if fixed(factor)),
        )
        rest = terms.without(number)
        if rest is None or not rest.above or not (number.above or number.below):
            einsums.append(einsum)
            continue
        name = names.fresh(f"{einsum.target}_sum")
        own = Access(name, tuple(map(Index, einsum.ranks)))
        einsums.append(replace(einsum, target=name, body=replace(body, body=rest.expr())))
        einsums.append(replace(einsum, body=monomial(own).times(number).expr()))
    return replace(cascade, einsums=tuple(einsums))


def _mapped(einsum: Einsum, law: Callable[[Expr], Expr]) -> Einsum:
    match einsum.body:
        case Reduce(_, _, body):
            return replace(einsum, body=replace(einsum.body, body=law(body)))
        case Populate():
            return einsum
        case _:
            return replace(einsum, body=law(einsum.body))


def inlined(cascade: Cascade, late: frozenset[str]) -> Cascade:
    """Products of tensors put where they are read: they cost no more there, and may cancel."""
    outputs = {tensor.name for tensor in cascade.outputs}
    products: dict[str, Einsum] = {}
    signs: set[str] = set()
    stepped = cascade.iterative()
    domains = Domains(cascade)
    einsums: list[Einsum] = []

    def rule(expr: Expr) -> Expr | None:
        if not isinstance(expr, Access):
            return None
        if expr.tensor in signs:
            return negative(expr)
        if expr.tensor not in products:
            return None
        source = products[expr.tensor]
        return substitute(source.body, dict(zip(source.ranks, expr.subscripts)))

    for einsum in cascade.einsums:
        if einsum.target not in late:
            einsums.append(einsum)
            continue
        changed = _rewritten(einsum, rule)
        if einsum.target not in outputs | set(stepped) and _sum_of_negatives(changed.body):
            # The sign goes to whoever reads the sum.
            changed = _rewritten(changed, lambda term: None, flip=True)
            signs.add(einsum.target)
        if (
            einsum.target not in outputs
            and not any(left.step for left in einsum.left)
            and all(access.tensor not in stepped for access in accesses(changed.body))
            and _product(changed.body)
            and set(domains.of(changed.body)) == set(domains.tensors[einsum.target])
        ):
            products[einsum.target] = changed
        else:
            einsums.append(changed)
    return replace(cascade, einsums=tuple(einsums))


def _rewritten(einsum: Einsum, rule: Callable[[Expr], Expr | None], flip: bool = False) -> Einsum:
    """The Einsum with a rule applied, what is reduced with the opposite sign if asked."""
    body = einsum.body
    if isinstance(body, Reduce):
        inner = ordered(rewrite(body.body, rule))
        return replace(einsum, body=replace(body, body=negative(inner) if flip else inner))
    changed = rewrite(body, rule)
    return einsum if changed == body else replace(einsum, body=ordered(changed))


def _sum_of_negatives(body: Expr) -> bool:
    match body:
        case Reduce("sum", _, Map("neg")):
            return True
        case _:
            return False


def _product(body: Expr) -> bool:
    """Whether a map only multiplies and divides tensors and numbers."""
    return not isinstance(body, Reduce | Populate) and all(
        isinstance(term, Access | Index | Const | Extent | Param)
        or (isinstance(term, Map) and (term.op in ("*", "/", "neg") or _scalar(term)))
        for term in subterms(body)
    )


def _scalar(term: Expr) -> bool:
    return all(isinstance(part, Const | Extent | Param | Map) for part in subterms(term))


def shared(cascade: Cascade) -> Cascade:
    """Maps that compute what another map has a name for read it instead.

    The one that gives the name must exist wherever its body does.
    """
    known: dict[Expr, Access] = {}
    einsums: list[Einsum] = []

    def rule(expr: Expr) -> Expr | None:
        return known.get(expr) if isinstance(expr, Map) else None

    for einsum in cascade.einsums:
        if isinstance(einsum.body, Populate) or any(left.step for left in einsum.left):
            einsums.append(einsum)
            continue
        body = rewrite(einsum.body, rule)
        einsums.append(replace(einsum, body=body))
        plain = einsum.where is None and einsum.dtype is None
        if plain and isinstance(body, Map) and free_ranks(body) == frozenset(einsum.ranks):
            known.setdefault(body, Access(einsum.target, tuple(map(Index, einsum.ranks))))
    return replace(cascade, einsums=tuple(einsums))


def factored(cascade: Cascade, late: frozenset[str]) -> Cascade:
    """Sums with the tensors that both sides have as factors taken out."""

    def law(expr: Expr) -> Expr:
        match expr:
            case Access():
                return expr
            case Map("+" | "-" as sign, (left, right)):
                one, other = law(left), law(right)
                result = added(one, other if sign == "+" else negative(other))
                return expr if (one, other) == (left, right) and result == expr else result
            case _:
                return rebuild(expr, tuple(law(part) for part in children(expr)))

    return replace(
        cascade,
        einsums=tuple(_mapped(e, law) if e.target in late else e for e in cascade.einsums),
    )
