"""Choose what the forward cascade saves for the adjoint, and what that computes again.

Saved is what had to be reduced over a long rank and is not large: row statistics and outputs.
Computed again is what varies over more, A[p, m] = exp(S[p, m] - L[p]) from Q, K and L, and what
costs no sweep. So nothing is saved that carries two long ranks, unless an input or an output is as
large, and the adjoint sweeps over no rank to find what the forward cascade had found.
"""

from __future__ import annotations

from attnc.ir.cascade import Cascade, Einsum, base
from attnc.ir.expr import Populate, Reduce
from attnc.ir.walk import accesses
from attnc.passes.cut import long_ranks


def saved_tensors(cascade: Cascade, needed: tuple[Einsum, ...]) -> tuple[str, ...]:
    """The tensors of a normalised forward cascade to save for the Einsums that read them."""
    definitions = {einsum.target: einsum for einsum in cascade.einsums}
    dear = _dear(cascade)
    saved: dict[str, None] = {}
    seen: set[str] = set()
    stack = [a.tensor for e in needed for part in (e.body, e.where) for a in accesses(part)]
    while stack:
        name = stack.pop()
        if name in seen or name not in definitions:
            continue
        seen.add(name)
        if name in dear and _small(cascade, definitions, dear, name):
            saved[name] = None
            continue
        for einsum in cascade.definitions(name):
            for part in (einsum.body, einsum.where):
                stack.extend(access.tensor for access in accesses(part))
    order = list(definitions)
    return tuple(sorted(saved, key=order.index))


def _dear(cascade: Cascade) -> frozenset[str]:
    """The tensors that no point of a tile has without a sweep over a long rank."""
    long = long_ranks(cascade)
    dear: set[str] = set()
    for einsum in cascade.einsums:
        reads = {a.tensor for part in (einsum.body, einsum.where) for a in accesses(part)}
        if reads & dear or _swept(einsum) & long or any(left.step for left in einsum.left):
            dear.add(einsum.target)
    return frozenset(dear)


def _swept(einsum: Einsum) -> frozenset[str]:
    match einsum.body:
        case Reduce(_, ranks):
            return frozenset(ranks)
        case Populate(_, rank):
            return frozenset((rank,))
        case _:
            return frozenset()


def _small(
    cascade: Cascade, definitions: dict[str, Einsum], dear: frozenset[str], name: str
) -> bool:
    """Whether a tensor is no larger than the statistics it is made of, or than what is given.

    What a map makes is small if one of the dear tensors it reads has all its ranks; what a
    reduction makes, if an input or output has them, or if it carries one long rank at most.
    """
    einsum = definitions[name]
    if any(left.step for left in einsum.left):
        return False
    ranks = frozenset(einsum.ranks)
    if any(rank != base(rank) for rank in ranks):
        return False
    if not isinstance(einsum.body, Reduce | Populate):
        reads = {a.tensor for a in accesses(einsum.body)} & dear
        return any(
            ranks <= frozenset(definitions[read].ranks) and _small(cascade, definitions, dear, read)
            for read in reads
        )
    given = [frozenset(tensor.ranks) for tensor in (*cascade.inputs, *cascade.outputs)]
    own = (ranks - frozenset(cascade.batch)) & long_ranks(cascade)
    return len(own) <= 1 or any(ranks <= other for other in given)
