"""What sums over the columns of a state's reads, behind the sweep.

    X[t1, t0, f] = Q[t1*C + t0, d] * S[t1, d, f] + ...        the sweep, stored
    O[t1, t0, f] = X[t1, t0, f] * rsqrt(mean[f](X ** 2))      all chunks side by side

A state too wide for the registers of one instance is divided along its columns (`columns.py`). A
sum over these, such as a normaliser of what is read, would need all instances of a turn at once. It
has a kernel of its own instead, if no step needs it and what it reads is no larger than an output.
Legal for whatever no state depends on: what goes through memory is a tensor like any other.
"""

from __future__ import annotations

from attnc.ir.cascade import Cascade, rank_of
from attnc.ir.expr import Reduce
from attnc.passes.cut import closure, constant_ranks, reads
from attnc.passes.recurrences.ahead import dependent


def behind(cascade: Cascade, outer: str, column: str) -> tuple[str, ...]:
    """What a sweep along `outer` has to store, so that it does not sum over `column` itself.

    Empty where it does not sum over it, or has to.
    """
    after = dependent(cascade, ())
    own = [einsum for einsum in cascade.einsums if einsum.target in after]
    classes = rank_of(cascade)
    sums = {
        einsum.target
        for einsum in own
        if isinstance(einsum.body, Reduce)
        and column in (classes.get(rank, rank) for rank in einsum.body.ranks)
    }
    grown = bool(sums)
    while grown:
        more = {einsum.target for einsum in own if reads(einsum) & sums} - sums
        grown = bool(more)
        sums |= more
    read = {name for e in own if e.target in sums for name in reads(e) & after} - sums
    needed = {name for state in cascade.iterative() for name in closure(cascade, state, set())}
    allowed = {*cascade.batch, outer, column} | constant_ranks(cascade)
    found = [einsum for einsum in own if einsum.target in read]
    if (sums | read) & needed or not all({*einsum.ranks} <= allowed for einsum in found):
        return ()
    return tuple(einsum.target for einsum in found)
