"""Put tensors that are functions of positions alone in place where a predicate reads them.

    back[p, m]: int = p - m
    S[p, m] = ... where back[p, m] < W      ->      S[p, m] = ... where p - m < W

A range is solved for positions, and a tensor tells nothing of them. Legal where every point exists
and is a whole number or a truth value, as written: then it is the same predicate in other words.
"""

from __future__ import annotations

from dataclasses import replace

from attnc.ir.cascade import Cascade, Einsum, base, rank_of
from attnc.ir.expr import Access, Const, Expr, Extent, Index, Map, Param, Reduce
from attnc.ir.walk import rewrite, substitute, subterms
from attnc.passes.clean import remove_dead

WHOLE = frozenset(
    ("+", "-", "*", "//", "%", "neg", "abs", "min", "max", "clip", "floor", "ceil", "sign")
)
TRUTHS = frozenset(("<", "<=", ">", ">=", "==", "!=", "and", "or", "not"))


def inline_positions(cascade: Cascade) -> Cascade:
    """The cascade with such tensors in its predicates, and without those that nobody reads then."""
    classes = rank_of(cascade)
    fractions = frozenset(param.name for param in cascade.params if param.dtype == "float")
    known: dict[str, Einsum] = {}

    def rule(term: Expr) -> Expr | None:
        if not isinstance(term, Access) or term.tensor not in known:
            return None
        made = known[term.tensor]
        values: dict[str, Expr] = {}
        for left, subscript in zip(made.ranks, term.subscripts):
            # Another subscript may lie outside its rank, where there is no point.
            own = subscript.rank if isinstance(subscript, Index) else ""
            if classes.get(own, base(own)) != classes.get(left, base(left)):
                return None
            values[left] = subscript
        return substitute(made.body, values)

    def reduction(term: Expr) -> Expr | None:
        if isinstance(term, Reduce) and term.where is not None:
            return replace(term, where=rewrite(term.where, rule))
        return None

    einsums: list[Einsum] = []
    for einsum in cascade.einsums:
        where = None if einsum.where is None else rewrite(einsum.where, rule)
        made = replace(einsum, body=rewrite(einsum.body, reduction), where=where)
        einsums.append(einsum if made == einsum else made)
        plain = replace(einsum, body=rewrite(einsum.body, rule))
        if _positional(plain, fractions):
            known[einsum.target] = plain
    if all(new is old for new, old in zip(einsums, cascade.einsums)):
        return cascade
    return remove_dead(replace(cascade, einsums=tuple(einsums)))


def _positional(einsum: Einsum, fractions: frozenset[str]) -> bool:
    if einsum.dtype not in ("int", "bool") or einsum.where is not None:
        return False
    if any(left.step for left in einsum.left):
        return False
    return all(_whole(term, fractions) for term in subterms(einsum.body))


def _whole(term: Expr, fractions: frozenset[str]) -> bool:
    match term:
        case Index() | Extent():
            return True
        case Param(name):
            return name not in fractions
        case Const(value):
            return isinstance(value, int)
        case Map(op):
            return op in WHOLE | TRUTHS
        case _:
            return False
