"""What a chunk computes without the states, ahead of the sweep and of all other chunks.

    X[t1+1, d, f] = X[t1, d, f] + ...                                   the sweep
    A[t1, t0, t0'] = exp(G[t1, t0, d] - G[t1, t0', d]) * Q[t1*C + t0, d] * K[t1*C + t0', d]
    O[t1, t0, f]   = A[t1, t0, t0'] * V[t1*C + t0', f] + ...            after it

    A[t1, t0, t0'] = exp(G[t1, t0, d'] - G[t1, t0, d']) * ...           a kernel of its own, stored

A turn of the sweep waits for the one before, and keeps its state in registers all the while. What
takes many products, needs no state and has no rank but those of a chunk is little to store: its
kernel goes through all chunks side by side, and streams the ranks that it sums over, which the
sweep holds whole since its state has them. The sweep is left with the products of the state. Legal
for whatever depends on no state: what goes through memory is a tensor like any other. Kernels of
the delta rule have such a part (Yang et al., NeurIPS 2024: the UT transform).
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass, replace
from functools import partial

from attnc.ir.cascade import Cascade, Einsum, RankDecl, rank_of, variables
from attnc.ir.expr import Access, Expr, Extent, Index, Populate, Reduce
from attnc.ir.walk import rewrite
from attnc.passes.cut import closure, constant_ranks, reads
from attnc.passes.fiber import Names
from attnc.passes.recurrences.apart import apart

SEVERAL = 2
"""Sums that a turn makes as fast as it would read their result."""


@dataclass(frozen=True, slots=True)
class Ahead:
    """The cascade, what it stores ahead of the sweep, and the ranks that are streamed for that.

    `before` are the states of earlier sweeps that it stores.
    """

    cascade: Cascade
    stored: tuple[str, ...]
    streamed: tuple[str, ...]
    before: tuple[str, ...] = ()


def ahead(cascade: Cascade, outer: str, stored: tuple[str, ...], crowded: bool = False) -> Ahead:
    """Take what needs no state out of the sweep along the chunks that `outer` numbers.

    What is in `stored` is in memory anyhow. What needs the states of an earlier sweep alone finds
    them there too, if products of matrices leave the last one then, or it is `crowded`.
    """
    found = _found(cascade, outer, stored, (), products=False)
    before: tuple[str, ...] = ()
    if not found:
        parted, before = apart(cascade, outer, earlier=True)
        found = _found(parted, outer, stored, before, products=not crowded) if before else {}
        if not found:
            return Ahead(cascade, (), ())
        cascade = parted
    whole = {name: einsum for own in found.values() for name, einsum in own.items()}
    made, streamed = _streamed(cascade, whole, _chunk(cascade, outer))
    return Ahead(made, tuple(found), streamed, before)


def _chunk(cascade: Cascade, outer: str) -> frozenset[str]:
    """The ranks that a chunk has besides those of its state."""
    return frozenset((*cascade.batch, outer)) | constant_ranks(cascade)


def _wide(classes: dict[str, str], chunk: frozenset[str], ranks: Iterable[str]) -> list[str]:
    return [rank for rank in ranks if classes.get(rank, rank) not in chunk]


def _found(
    cascade: Cascade, outer: str, stored: tuple[str, ...], before: tuple[str, ...], products: bool
) -> dict[str, dict[str, Einsum]]:
    """What is worth a kernel of its own, with the Einsums that it takes.

    States of earlier sweeps are in memory under the names `before`. With `products` sums count
    that are products of matrices, else all.
    """
    stored = (*stored, *before)
    wide = partial(_wide, rank_of(cascade), _chunk(cascade, outer))
    later = dependent(cascade, before)
    inside = {
        einsum.target
        for einsum in cascade.einsums
        if outer in einsum.ranks and einsum.target not in later and not wide(einsum.ranks)
    }
    possible: dict[str, dict[str, Einsum]] = {}
    needed = {name for root in later for name in closure(cascade, root, {*stored})}
    for name in _wanted(cascade, inside & {*_read(cascade, needed - inside)}, stored):
        own = closure(cascade, name, {*stored})
        chosen = any(isinstance(einsum.body, Populate) for einsum in own.values())
        # A sum over one streamed rank under another, such as a feature map, would be made again.
        again = any(0 < len(wide(e.ranks)) < len(wide(variables(e))) for e in _sums(own))
        if not chosen and not again:
            possible[name] = own

    def counted(own: dict[str, Einsum]) -> list[Einsum]:
        least = 3 if products else 1
        return [e for e in _sums(own) if len({*variables(e)} - {*cascade.batch, outer}) >= least]

    long = {name for name, own in possible.items() if len(counted(own)) > SEVERAL}
    # What shares a sum over a streamed rank with these would make it again.
    sums = {e.target for name in long for e in _sums(possible[name]) if wide(variables(e))}
    return {
        name: own
        for name, own in possible.items()
        if name in long or any(e.target in sums for e in _sums(own))
    }


def _streamed(
    cascade: Cascade, whole: dict[str, Einsum], chunk: frozenset[str]
) -> tuple[Cascade, tuple[str, ...]]:
    """The cascade with these Einsums under second names of the ranks that a chunk lacks."""
    classes, names = rank_of(cascade), Names(cascade)
    wide = partial(_wide, classes, chunk)
    found = dict.fromkeys(rank for e in whole.values() for rank in wide(variables(e)))
    ranks = {rank: names.fresh(f"{classes[rank]}_") for rank in found}
    declared = tuple(RankDecl(own, Extent(classes[rank])) for rank, own in ranks.items())
    shared: dict[str, str] = {}
    kept = {e.target for e in cascade.einsums} - whole.keys()
    both = {name for name, einsum in whole.items() if wide(einsum.ranks)}
    while more := [name for name in _read(cascade, kept) if name in both - kept]:
        kept.update(more)
        shared |= {name: names.fresh(name) for name in more}
    einsums: list[Einsum] = []
    for einsum in cascade.einsums:
        if einsum.target not in whole or einsum.target in shared:
            einsums.append(einsum)
        if einsum.target in whole:
            einsums.append(_under(einsum, ranks, shared))
    made = replace(cascade, ranks=(*cascade.ranks, *declared), einsums=tuple(einsums))
    return made, tuple(ranks.values())


def dependent(cascade: Cascade, before: Collection[str]) -> set[str]:
    """The states of a cascade and all that is made of them, but for what is there before."""
    found = {*cascade.iterative()}
    grown = True
    while grown:
        more = {e.target for e in cascade.einsums if reads(e) & found} - found - {*before}
        grown = bool(more)
        found |= more
    return found


def _wanted(cascade: Cascade, names: Collection[str], stored: Collection[str]) -> list[str]:
    """Such tensors in the order of the cascade, without what is stored."""
    order = dict.fromkeys(einsum.target for einsum in cascade.einsums)
    return [name for name in order if name in names and name not in stored]


def _sums(own: dict[str, Einsum]) -> list[Einsum]:
    return [einsum for einsum in own.values() if isinstance(einsum.body, Reduce)]


def _read(cascade: Cascade, readers: Collection[str]) -> list[str]:
    """What some Einsums read."""
    read = (reads(einsum) for einsum in cascade.einsums if einsum.target in readers)
    return list(dict.fromkeys(name for own in read for name in sorted(own)))


def _under(einsum: Einsum, ranks: dict[str, str], shared: dict[str, str]) -> Einsum:
    """An Einsum under the ranks that are streamed; what others read of it too has another name."""

    def rule(term: Expr) -> Expr | None:
        match term:
            case Index(rank) if rank in ranks:
                return Index(ranks[rank])
            case Access(tensor, subscripts) if tensor in shared:
                own = tuple(rewrite(subscript, rule) for subscript in subscripts)
                return replace(term, tensor=shared[tensor], subscripts=own)
            case Reduce(_, reduced, body, where) if ranks.keys() & {*reduced}:
                return replace(
                    term,
                    ranks=tuple(ranks.get(rank, rank) for rank in reduced),
                    body=rewrite(body, rule),
                    where=None if where is None else rewrite(where, rule),
                )
            case _:
                return None

    return replace(
        einsum,
        target=shared.get(einsum.target, einsum.target),
        left=tuple(replace(left, rank=ranks.get(left.rank, left.rank)) for left in einsum.left),
        body=rewrite(einsum.body, rule),
        where=None if einsum.where is None else rewrite(einsum.where, rule),
    )
