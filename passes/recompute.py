"""Compute a part of a tensor where only that part is read.

    G_tile[m1, p] = max[m0](S[p, m1 * M0 + m0])

    S_part[m1, p, m0] = sum[e](Q[p, e] * K[m1 * M0 + m0, e])
    G_tile[m1, p]     = max[m0](S_part[m1, p, m0])

Legal because an Einsum says what each point is, whoever asks. Worth it in a kernel, which then has
no need of the whole tensor in memory; in an analysis it would hide that the tensor is read twice.
"""

from __future__ import annotations

from dataclasses import replace

from attnc.ir.affine import cancelled
from attnc.ir.cascade import Cascade, Einsum, Left
from attnc.ir.expr import Access, Const, Expr, Extent, Index, Map, Param, Reduce, both
from attnc.ir.walk import free_ranks, rewrite, substitute, subterms
from attnc.passes.clean import remove_dead, rewritten
from attnc.passes.domain import Domains, conjunction
from attnc.passes.fiber import Names


def recompute_parts(
    cascade: Cascade, whole: frozenset[str], again: frozenset[str] = frozenset()
) -> Cascade:
    """Give each affine reading of an intermediate tensor, but those in `whole`, its own Einsum.

    So does each of a tensor of `again` under other variables than its own.
    """
    names = Names(cascade)
    done: dict[tuple[str, tuple[Expr, ...]], Access] = {}
    einsums: list[Einsum] = []
    domains = Domains(cascade)
    definitions = {
        einsum.target: einsum
        for einsum in cascade.einsums
        if einsum.target not in whole and not any(left.step for left in einsum.left)
    }

    def rule(term: Expr) -> Expr | None:
        if not isinstance(term, Access) or term.tensor not in definitions:
            return None
        turned = term.tensor in again and _turned(term, definitions[term.tensor])
        if not turned and not _affine(term):
            return None
        key = (term.tensor, term.subscripts)
        if key not in done:
            done[key] = part(definitions[term.tensor], term)
        return done[key]

    def placed(expr: Expr, values: dict[str, Expr]) -> Expr:
        return rewrite(rewrite(substitute(expr, values), cancelled), rule)

    def part(source: Einsum, term: Access) -> Access:
        values = dict(zip(source.ranks, term.subscripts))
        free = dict.fromkeys(cascade.batch)
        for subscript in term.subscripts:
            free.update(dict.fromkeys(sorted(free_ranks(subscript), reverse=True)))
        ranks = tuple(free)
        where = [] if source.where is None else [placed(source.where, values)]
        bounds = domains.position(term)
        name = names.fresh(f"{source.target}_part")
        body = placed(source.body, values)
        einsums.append(
            Einsum(
                name,
                tuple(Left(rank) for rank in ranks),
                body,
                conjunction((*where, *bounds)),
                source.dtype,
                source.span,
            )
        )
        return Access(name, tuple(Index(rank) for rank in ranks), term.span)

    for einsum in cascade.einsums:
        changed = rewritten(einsum, rule)
        if isinstance(changed.body, Reduce) and changed.body is not einsum.body:
            # A reduction is empty where a position that it does not run over lies outside.
            outside = conjunction(domains.of(einsum.body))
            changed = replace(changed, where=both(changed.where, outside))
        einsums.append(changed)
    if not done:
        return cascade
    return remove_dead(replace(cascade, einsums=tuple(einsums)))


def _turned(access: Access, source: Einsum) -> bool:
    """Whether a tensor is read under variables that are not its own."""
    variables = [s.rank for s in access.subscripts if isinstance(s, Index)]
    return len({*variables}) == len(access.subscripts) and tuple(variables) != source.ranks


def _affine(access: Access) -> bool:
    """Whether some subscript is an expression, and all are made of rank variables and constants."""
    names = [subscript.rank for subscript in access.subscripts if isinstance(subscript, Index)]
    if len(set(names)) == len(access.subscripts):
        return False
    return all(
        isinstance(term, Index | Const | Param | Extent)
        or (isinstance(term, Map) and term.op in ("+", "-", "*"))
        for subscript in access.subscripts
        for term in subterms(subscript)
    )
