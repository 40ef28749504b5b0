"""Remove the Einsums that no output needs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from attnc.ir.cascade import Cascade, Einsum
from attnc.ir.expr import Access, Expr
from attnc.ir.walk import accesses, rewrite


def remove_dead(cascade: Cascade) -> Cascade:
    """The cascade without what nothing reads; the same object if all is read."""
    needed = {tensor.name for tensor in cascade.outputs}
    reads = {e.target: set[str]() for e in cascade.einsums}
    for einsum in cascade.einsums:
        for expr in (einsum.body, einsum.where):
            reads[einsum.target].update(access.tensor for access in accesses(expr))
    stack = list(needed)
    while stack:
        for tensor in reads.get(stack.pop(), ()):
            if tensor not in needed:
                needed.add(tensor)
                stack.append(tensor)
    kept = tuple(einsum for einsum in cascade.einsums if einsum.target in needed)
    return cascade if len(kept) == len(cascade.einsums) else replace(cascade, einsums=kept)


def rename(cascade: Cascade, names: dict[str, str]) -> Cascade:
    """Give tensors other names."""

    def rule(expr: Expr) -> Expr | None:
        if isinstance(expr, Access) and expr.tensor in names:
            return replace(expr, tensor=names[expr.tensor])
        return None

    return replace(
        cascade,
        einsums=tuple(
            replace(rewritten(einsum, rule), target=names.get(einsum.target, einsum.target))
            for einsum in cascade.einsums
        ),
    )


def rewritten(einsum: Einsum, rule: Callable[[Expr], Expr | None]) -> Einsum:
    """An Einsum with a rule applied at every node of its body and its predicate."""
    where = None if einsum.where is None else rewrite(einsum.where, rule)
    return replace(einsum, body=rewrite(einsum.body, rule), where=where)
