"""Where a tensor computed in parts of a rank lies in memory.

    O[t, f] = O_tile[t // 64, t % 64, f]        O_tile[t1, t0, f] is stored at O[t1 * 64 + t0, f]

Such an Einsum computes nothing: the kernel that makes the parts stores them where they belong.
"""

from __future__ import annotations

from dataclasses import dataclass

from attnc.ir.cascade import Cascade, Einsum
from attnc.ir.expr import Access, Expr, Index, Map


@dataclass(frozen=True, slots=True)
class Place:
    """A tensor in memory, its ranks there, and for each of them the position by other ranks."""

    tensor: str
    ranks: tuple[str, ...]
    subscripts: tuple[Expr, ...]


def placed(cascade: Cascade, names: tuple[str, ...]) -> dict[str, Place]:
    """For the tensors of which `names` are another layout the place of each."""
    sizes = {decl.name: decl.extent for decl in cascade.ranks}
    found: dict[str, Place] = {}
    for einsum in cascade.einsums:
        body = einsum.body
        if einsum.target in names and isinstance(body, Access) and einsum.where is None:
            source = [e for e in cascade.einsums if e.target == body.tensor]
            if len(source) == 1 and body.tensor not in found:
                place = _place(einsum, body, source[0], sizes)
                if place is not None:
                    found[body.tensor] = place
    return found


def _place(einsum: Einsum, body: Access, source: Einsum, sizes: dict[str, Expr]) -> Place | None:
    """The place of a source, if each of its parts is read at its own position."""
    at: dict[str, Expr] = {}
    outer: dict[tuple[str, Expr], str] = {}
    inner: dict[tuple[str, Expr], str] = {}
    for left, subscript in zip(source.left, body.subscripts):
        match subscript:
            case Index(rank):
                at[rank] = Index(left.rank)
            case Map("//", (Index(rank), size)):
                outer[rank, size] = left.rank
            case Map("%", (Index(rank), size)) if sizes.get(left.rank) == size:
                inner[rank, size] = left.rank
            case _:
                return None
    if outer.keys() != inner.keys() or not outer:
        return None
    for (rank, size), own in outer.items():
        at[rank] = Map("+", (Map("*", (Index(own), size)), Index(inner[rank, size])))
    if set(at) != set(einsum.ranks) or einsum.dtype not in (None, source.dtype):
        return None
    return Place(einsum.target, einsum.ranks, tuple(at[rank] for rank in einsum.ranks))
