"""Divide after a sum instead of inside it: a factor that does not vary leaves the reduction.

    A[p, m] = N[p, m] / D[p]          O_sum[p, f] = N[p, m] * V[m, f]
    O[p, f] = A[p, m] * V[m, f]       O[p, f]     = O_sum[p, f] / D[p]

Legal because the product distributes over the reduction (`algebra.LAWS`) and D does not vary over
m. Worth a pass over m wherever D is itself a reduction over m: O no longer waits for it. Where
the reduced domain can be empty, D may be what nothing leaves (0), so the quotient is guarded.
FuseMax (MICRO 2024) calls it the deferral of division; the same law takes additive terms out of
maxima.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from attnc.ir.algebra import MONOIDS
from attnc.ir.cascade import Cascade, Einsum
from attnc.ir.expr import ZERO, Access, Const, Expr, Index, Map, Reduce
from attnc.ir.source import InvalidIR
from attnc.ir.walk import accesses
from attnc.passes.clean import remove_dead
from attnc.passes.domain import Domains, conjunction, counting, union
from attnc.passes.fiber import Fiber, Names, empty_values, fiber
from attnc.passes.probe import probe
from attnc.passes.products import Factor, Products, Term, product
from attnc.passes.signs import non_negative, positive


@dataclass(frozen=True, slots=True)
class Deferral:
    """One reduction that was rewritten: its name, what left it, and the law."""

    einsum: str
    factors: str
    law: str


def defer(cascade: Cascade, rank: str, apart: bool = True) -> tuple[Cascade, tuple[Deferral, ...]]:
    """Take every factor that waits for a reduction over `rank` out of the others over it.

    A sum of several products becomes as many reductions, unless not `apart`.
    """
    facts = fiber(cascade, rank)
    domains = Domains(cascade)
    names = Names(cascade)
    einsums: list[Einsum] = []
    done: list[Deferral] = []
    for einsum in cascade.einsums:
        body = facts.reductions.get(einsum.target)
        found = None if body is None else _rewritten(einsum, body, facts, domains, names, apart)
        if found is None:
            einsums.append(einsum)
        else:
            einsums.extend(found[0])
            done.append(found[1])
    if not done:
        return cascade, ()
    return remove_dead(replace(cascade, einsums=tuple(einsums))), tuple(done)


def _rewritten(
    einsum: Einsum, body: Reduce, facts: Fiber, domains: Domains, names: Names, apart: bool
) -> tuple[list[Einsum], Deferral] | None:
    opened = Products(facts, body.ranks)
    match body.op:
        case "sum":
            terms = opened.terms(body.body)
            joint = "*"
        case "max" | "min":
            terms = opened.addends(body.body)
            joint = "+"
            if not any(opened.outside(f) for t in terms for f in t.factors):
                terms = opened.terms(body.body)
                joint = "*"
                outside = [f for t in terms for f in t.factors if opened.outside(f)]
                if (
                    len(terms) != 1
                    or terms[0].negative
                    or any(counting(f.expr) != f.expr for f in terms[0].factors)
                    or not all(positive(f.expr) for f in outside)
                ):
                    return None
        case _:
            return None
    if not any(opened.outside(f) for t in terms for f in t.factors):
        return None
    if joint == "+":
        return _out_of_extremum(einsum, body, terms, opened, facts, domains, names)
    if len(terms) > 1 and not apart:
        return None
    whole = union(domains.holding(body.where), domains.of(body.body))
    parts: list[Einsum] = []
    result: Expr | None = None
    moved: list[Expr] = []
    for term in terms:
        waiting = [f for f in term.factors if opened.outside(f)]
        if any(domains.of(f.expr) for f in waiting):
            return None
        # With it goes whatever else need not be multiplied at every point.
        outer = tuple(f for f in term.factors if f in waiting or _idle(f, body, opened, domains))
        inner = tuple(f for f in term.factors if f not in outer)
        name = names.fresh(f"{einsum.target}_{body.op}")
        part = _part(name, einsum, body, product(inner), whole, domains)
        parts.append(part)
        moved.extend(f.expr for f in waiting)
        value, extra = _outside(einsum, part, outer, facts, domains, names)
        parts.extend(extra)
        result = _joined(result, value, term.negative)
    assert result is not None
    parts.append(replace(einsum, body=result))
    law = f"({body.op}, *)"
    return parts, Deferral(einsum.target, ", ".join(dict.fromkeys(_names(moved))), law)


def _idle(factor: Factor, body: Reduce, opened: Products, domains: Domains) -> bool:
    """Whether a factor of a sum is the same at every point and exists at all of them."""
    return body.op == "sum" and not opened.varies(factor.expr) and not domains.of(factor.expr)


def _out_of_extremum(
    einsum: Einsum,
    body: Reduce,
    terms: tuple[Term, ...],
    opened: Products,
    facts: Fiber,
    domains: Domains,
    names: Names,
) -> tuple[list[Einsum], Deferral] | None:
    """max[m](x + y) = max[m](x) + y where y does not vary over m."""
    inside = [t for t in terms if not any(opened.outside(f) for f in t.factors)]
    outside = [t for t in terms if any(opened.outside(f) for f in t.factors)]
    exprs = [product(t.factors) for t in outside]
    if not inside or any(domains.of(e) for e in exprs):
        return None
    inner: Expr | None = None
    for term in inside:
        inner = _joined(inner, product(term.factors), term.negative)
    assert inner is not None
    whole = union(domains.holding(body.where), domains.of(body.body))
    name = names.fresh(f"{einsum.target}_{body.op}")
    part = _part(name, einsum, body, inner, whole, domains)
    value: Expr = _access(name, einsum)
    for term, expr in zip(outside, exprs):
        value = Map("-" if term.negative else "+", (value, expr))
    value, extra = guarded(value, exprs, part, facts, domains, names)
    deferral = Deferral(einsum.target, ", ".join(dict.fromkeys(_names(exprs))), f"({body.op}, +)")
    return [part, *extra, replace(einsum, body=value)], deferral


def _part(
    name: str,
    einsum: Einsum,
    body: Reduce,
    inner: Expr,
    whole: tuple[Expr, ...],
    domains: Domains,
) -> Einsum:
    """The reduction of what stays inside, over the same points as before."""
    own = set(domains.of(inner))
    missing = conjunction(tuple(part for part in whole if part not in own))
    return Einsum(
        name,
        einsum.left,
        replace(body, body=inner, where=missing),
        einsum.where,
        span=einsum.span,
    )


def _access(name: str, einsum: Einsum) -> Access:
    return Access(name, tuple(Index(left.rank) for left in einsum.left), einsum.span)


def _outside(
    einsum: Einsum,
    part: Einsum,
    outer: tuple[Factor, ...],
    facts: Fiber,
    domains: Domains,
    names: Names,
) -> tuple[Expr, list[Einsum]]:
    value: Expr = _access(part.target, einsum)
    for factor in outer:
        value = Map("/" if factor.inverse else "*", (value, factor.expr))
    unit = [product(outer)] if outer else []
    return guarded(value, unit, part, facts, domains, names)


def guarded(
    value: Expr,
    outer: list[Expr],
    part: Einsum,
    facts: Fiber,
    domains: Domains,
    names: Names,
) -> tuple[Expr, list[Einsum]]:
    """`value`, but the identity of `part` where what left it is undefined on an empty domain.

    A reduction that is at its own identity only where the part is empty, or where the quotient is
    no number anyway, is asked itself; otherwise a further Einsum says whether anything was reduced.
    """
    body = _reduce(part)
    identity = MONOIDS[body.op].identity
    empty = empty_values(facts)
    conditions: list[Expr] = []
    extra: list[Einsum] = []
    own = Access(part.target, tuple(Index(rank) for rank in part.ranks))
    for expr in outer:
        for access in dict.fromkeys(accesses(expr)):
            if access.tensor not in empty:
                continue
            start = empty[access.tensor]
            if probe(value, {access: start, own: identity}) == identity:
                continue
            if _tells(access, body, facts, domains):
                conditions.append(Map("==", (access, number(start))))
            elif not extra:
                extra.append(_presence(part, names))
                conditions.append(Map("not", (Access(extra[0].target, own.subscripts),)))
    if not conditions:
        return value, []
    condition = conditions[0]
    for other in conditions[1:]:
        condition = Map("or", (condition, other))
    return Map("select", (condition, number(identity), value)), extra


def _tells(access: Access, part: Reduce, facts: Fiber, domains: Domains) -> bool:
    """Whether a reduction at its identity says that a part has nothing to reduce that counts.

    It must have seen every point of the part, and be such that no point undoes another.
    """
    body = facts.reductions.get(access.tensor)
    if body is None or not set(body.ranks) <= set(part.ranks):
        return False
    if access.subscripts != tuple(Index(r) for r in facts.definitions[access.tensor].ranks):
        return False
    seen = union(domains.holding(body.where), domains.of(body.body))
    own = union(domains.holding(part.where), domains.of(counting(part.body)))
    steady = MONOIDS[body.op].selective or non_negative(body.body, facts.non_negative)
    return steady and set(seen) <= set(own)


def _reduce(einsum: Einsum) -> Reduce:
    if not isinstance(einsum.body, Reduce):
        raise InvalidIR(f"{einsum.target} is no reduction")
    return einsum.body


def _presence(part: Einsum, names: Names) -> Einsum:
    """Whether a reduction has anything to reduce that counts."""
    body = _reduce(part)
    seen = Map(">", (Map("present", (counting(body.body),)), ZERO))
    return replace(
        part, target=names.fresh(f"{part.target}_any"), body=replace(body, op="any", body=seen)
    )


def number(value: float) -> Const:
    """A constant, written as an integer where it is 0 or 1."""
    return Const(int(value)) if value in (0, 1) else Const(float(value))


def _joined(result: Expr | None, value: Expr, negative: bool) -> Expr:
    if result is None:
        return Map("neg", (value,)) if negative else value
    return Map("-" if negative else "+", (result, value))


def _names(exprs: list[Expr]) -> list[str]:
    return [access.tensor for expr in exprs for access in accesses(expr)]
