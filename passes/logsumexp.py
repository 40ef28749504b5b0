"""Take a log-sum-exp apart into a maximum and a sum, which can run in one sweep.

    L[p] = logsumexp[m](S[p, m])        L_max[p] = max[m](S[p, m])
                                        L_sum[p] = sum[m](exp(S[p, m] - L_max[p]))
                                        L[p]     = L_max[p] + log(L_sum[p])

An identity for any finite maximum; where nothing exists both sides are minus infinity.
"""

from __future__ import annotations

from dataclasses import replace

from attnc.ir.cascade import Cascade, Einsum
from attnc.ir.expr import Access, Index, Map, Reduce
from attnc.passes.fiber import Names


def expand_logsumexp(cascade: Cascade) -> Cascade:
    """Every reduction by log-sum-exp as a maximum, a sum of exponentials and a map."""
    names = Names(cascade)
    einsums: list[Einsum] = []
    for einsum in cascade.einsums:
        body = einsum.body
        if not isinstance(body, Reduce) or body.op != "logsumexp":
            einsums.append(einsum)
            continue
        own = tuple(Index(rank) for rank in einsum.ranks)
        top, total = (names.fresh(f"{einsum.target}_{part}") for part in ("max", "sum"))
        shifted = Map("exp", (Map("-", (body.body, Access(top, own))),))
        value = Map("+", (Access(top, own), Map("log", (Access(total, own),))))
        einsums += [
            replace(einsum, target=top, body=replace(body, op="max"), where=None, dtype=None),
            replace(
                einsum,
                target=total,
                body=replace(body, op="sum", body=shifted),
                where=None,
                dtype=None,
            ),
            replace(einsum, body=value),
        ]
    if len(einsums) == len(cascade.einsums):
        return cascade
    return replace(cascade, einsums=tuple(einsums))
