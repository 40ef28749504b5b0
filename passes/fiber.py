"""What the rewrites ask of a cascade about one rank: who reduces it, who carries it, who waits.

A tensor *waits* for the reductions over the rank that it depends on; a tensor that carries the
rank and waits cannot be computed in the sweep that feeds those reductions, unless a law says so.
"""

from __future__ import annotations

from dataclasses import dataclass

from attnc.ir.algebra import MONOIDS
from attnc.ir.cascade import Cascade, Einsum
from attnc.ir.expr import Access, Expr, Index, Reduce
from attnc.ir.walk import accesses, free_ranks
from attnc.passes.probe import probe
from attnc.passes.signs import non_negative_tensors


@dataclass(frozen=True, slots=True)
class Fiber:
    """Facts about one rank of a normalised cascade, by tensor."""

    cascade: Cascade
    rank: str
    definitions: dict[str, Einsum]
    reductions: dict[str, Reduce]
    carriers: frozenset[str]
    waits: dict[str, frozenset[str]]
    non_negative: frozenset[str]

    def waiting(self, expr: Expr) -> frozenset[str]:
        """The reductions over the rank for which an expression waits."""
        found: frozenset[str] = frozenset()
        for access in accesses(expr):
            found |= self.waits.get(access.tensor, frozenset())
        return found

    def varies(self, expr: Expr) -> bool:
        """Whether an expression varies along the rank."""
        return self.rank in free_ranks(expr)

    def readers(self, tensor: str) -> tuple[Einsum, ...]:
        return tuple(
            einsum
            for einsum in self.cascade.einsums
            if any(a.tensor == tensor for e in (einsum.body, einsum.where) for a in accesses(e))
        )


def fiber(cascade: Cascade, rank: str) -> Fiber:
    """Collect the facts; Einsums are in an order in which each reads only earlier ones."""
    definitions: dict[str, Einsum] = {}
    reductions: dict[str, Reduce] = {}
    carriers = {tensor.name for tensor in cascade.inputs if rank in tensor.ranks}
    waits: dict[str, frozenset[str]] = {tensor.name: frozenset() for tensor in cascade.inputs}
    stepped = cascade.iterative()
    for einsum in cascade.einsums:
        definitions[einsum.target] = einsum
        found: set[str] = set(waits.get(einsum.target, ()))
        for expr in (einsum.body, einsum.where):
            for access in accesses(expr):
                found |= waits.get(access.tensor, frozenset())
        if (
            isinstance(einsum.body, Reduce)
            and rank in einsum.body.ranks
            and einsum.target not in stepped
        ):
            reductions[einsum.target] = einsum.body
            found.add(einsum.target)
        if rank in einsum.ranks:
            carriers.add(einsum.target)
        waits[einsum.target] = frozenset(found)
    return Fiber(
        cascade,
        rank,
        definitions,
        reductions,
        frozenset(carriers),
        waits,
        non_negative_tensors(cascade),
    )


def empty_values(facts: Fiber) -> dict[str, float]:
    """The value of everything that waits and does not vary, where nothing has been seen yet."""
    found: dict[str, float] = {}
    for name, einsum in facts.definitions.items():
        if any(left.step for left in einsum.left) or facts.rank in einsum.ranks:
            continue
        body = facts.reductions.get(name)
        if body is not None:
            if body.op in MONOIDS:
                found[name] = float(MONOIDS[body.op].identity)
        elif facts.waits[name] and not isinstance(einsum.body, Reduce):
            found[name] = probe(einsum.body, {}, found)
    return found


def plain(access: Access) -> bool:
    """Whether a tensor is read at rank variables alone, each once."""
    names = [s.rank for s in access.subscripts if isinstance(s, Index)]
    return len(names) == len(access.subscripts) == len(set(names))


class Names:
    """Fresh names that read like the ones they stand beside."""

    def __init__(self, cascade: Cascade) -> None:
        self.taken = {t.name for t in (*cascade.inputs, *cascade.outputs)}
        self.taken |= {einsum.target for einsum in cascade.einsums}
        self.taken |= {param.name for param in cascade.params}
        self.taken |= {decl.name for decl in cascade.ranks}
        self.taken |= {reduction.name for reduction in cascade.reductions}
        self.taken |= {rank for tensor in cascade.inputs for rank in tensor.ranks}
        self.taken |= {rank for einsum in cascade.einsums for rank in einsum.ranks}
        self.taken |= {
            rank
            for einsum in cascade.einsums
            if isinstance(einsum.body, Reduce)
            for rank in einsum.body.ranks
        }

    def fresh(self, wish: str) -> str:
        name, number = wish, 1
        while name in self.taken:
            number += 1
            name = f"{wish}{number}" if not wish[-1].isdigit() else f"{wish}_{number}"
        self.taken.add(name)
        return name
