"""Put the heads of a group into one tile, where few queries would leave a tile empty.

    S[h, m] = Q[h, e] * K[h // G, m, e]        G = |h| // |g| heads read the same keys

    S[h1, h0, m] = Q[h1 * G + h0, e] * K[h1, m, e]      h0 an axis of the tile, 0..G-1

A decode step has one query a head: by itself a vector times a matrix, and each head of a group
would load the keys again. With the group as an axis it is a matrix product, and the keys are
loaded once (the packed layout of FlashAttention's and FlashInfer's decode kernels).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from attnc.ir.affine import divided, plus
from attnc.ir.cascade import FLOATS, Cascade, Left, RankDecl
from attnc.ir.expr import ONE, Access, Const, Expr, Extent, Index, Map, Populate, Reduce
from attnc.ir.walk import accesses, free_ranks, rewrite, subterms
from attnc.passes.mapping import FEW, Mapping
from attnc.passes.placed import Place


@dataclass(frozen=True, slots=True)
class Packed:
    """A cascade whose outputs carry a rank in two parts, and where they are stored."""

    cascade: Cascade
    plan: Mapping
    placed: dict[str, Place]


def pack(cascade: Cascade, plan: Mapping, stored: tuple[str, ...]) -> Packed:
    """The cascade with a group of heads as an axis, or as it was."""
    unchanged = Packed(cascade, plan, {})
    if stored:
        return unchanged
    outputs = {tensor.name for tensor in cascade.outputs}
    read = {a.tensor for e in cascade.einsums for x in (e.body, e.where) for a in accesses(x)}
    if outputs & read:
        return unchanged
    for rank in cascade.outputs[0].ranks:
        group = _group(cascade, rank)
        if group is None or any(rank not in tensor.ranks for tensor in cascade.outputs):
            continue
        if not _few(cascade, plan, rank) or _shares(cascade, plan, rank):
            continue
        return _packed(cascade, plan, rank, group)
    return unchanged


def _shares(cascade: Cascade, plan: Mapping, rank: str) -> bool:
    """Whether something streamed is the same along a rank: it fills the rows of a tile itself."""
    streamed = plan.streamed(cascade)
    every = {name for names in streamed.values() for name in names}
    alone = every - streamed.get(rank, set())
    return any(t.dtype in FLOATS for t in cascade.inputs if t.name in alone)


def _few(cascade: Cascade, plan: Mapping, rank: str) -> bool:
    """Whether no other rank fills the rows of a tile."""
    for tensor in cascade.outputs:
        for other, tile in plan.grid(cascade, tensor.name).items():
            if other != rank and tile >= FEW:
                return False
    return True


def _group(cascade: Cascade, rank: str) -> Expr | None:
    """The size of the groups in which inputs are read along a rank; None if not in groups.

    The rank must be free of everything that a rank in two parts could not be: reduced, stepped
    along, chosen from, or read at another position of a computed tensor.
    """
    inputs = {tensor.name for tensor in cascade.inputs}
    found: dict[Expr, None] = {}
    for einsum in cascade.einsums:
        if any(left.rank == rank and left.step for left in einsum.left):
            return None
        for expr in (einsum.body, einsum.where):
            for term in subterms(expr):
                match term:
                    case Reduce(_, ranks) if rank in ranks:
                        return None
                    case Populate(_, own, slot=slot) if rank in (own, slot):
                        return None
                    case Access(tensor, subscripts) if tensor in inputs:
                        for subscript in subscripts:
                            match subscript:
                                case Map("//", (Index(r), size)) if r == rank:
                                    if not free_ranks(size):
                                        found.setdefault(size)
                                case _:
                                    pass
                    case Access(_, subscripts):
                        mixed = [s for s in subscripts if s != Index(rank)]
                        if any(rank in free_ranks(s) for s in mixed):
                            return None
                    case _:
                        pass
    return next(iter(found)) if len(found) == 1 else None


def _packed(cascade: Cascade, plan: Mapping, rank: str, group: Expr) -> Packed:
    taken = {r for t in cascade.inputs for r in t.ranks} | {d.name for d in cascade.ranks}
    taken |= {r for einsum in cascade.einsums for r in einsum.ranks}
    outer, inner = (next(n for n in _names(rank, part) if n not in taken) for part in (1, 0))
    position = plus(Map("*", (Index(outer), group)), Index(inner))
    inputs = {tensor.name for tensor in cascade.inputs}

    def apart(term: Expr) -> Expr | None:
        match term:
            case Index(r) if r == rank:
                return position
            case Map("//", (first, size)) if (first, size) == (position, group):
                return Index(outer)
            case Map("%", (first, size)) if (first, size) == (position, group):
                return Index(inner)
            case Access(tensor, subscripts) if tensor not in inputs:
                pairs = ((Index(outer), Index(inner)) if s == position else (s,)
                         for s in subscripts)  # fmt: skip
                return replace(term, subscripts=tuple(part for pair in pairs for part in pair))
            case _:
                return None

    def moved(expr: Expr) -> Expr:
        return rewrite(expr, apart)

    def parted(part: Left) -> tuple[Left, ...]:
        return (Left(outer), Left(inner)) if part.rank == rank else (part,)

    einsums = tuple(
        replace(
            einsum,
            left=tuple(own for part in einsum.left for own in parted(part)),
            body=moved(einsum.body),
            where=None if einsum.where is None else moved(einsum.where),
        )
        for einsum in cascade.einsums
    )
    extent = Extent(rank)
    count: Expr = Map("//", (plus(plus(extent, group), Const(-1)), group))
    if isinstance(group, Const):
        count = plus(divided(plus(extent, Const(-1)), int(group.value)), ONE)
    ranks = (*cascade.ranks, RankDecl(outer, count), RankDecl(inner, group))
    placed = {
        tensor.name: Place(
            tensor.name,
            tensor.ranks,
            tuple(position if r == rank else Index(r) for r in tensor.ranks),
        )
        for tensor in cascade.outputs
    }
    plan = replace(plan, long=plan.long | {outer}, tiles={**plan.tiles, outer: 1})
    batch = tuple(own for own in cascade.batch if own != rank)
    return Packed(replace(cascade, einsums=einsums, ranks=ranks, batch=batch), plan, placed)


def _names(rank: str, part: int) -> list[str]:
    return [f"{rank}{part}", *(f"{rank}{part}_{n}" for n in range(2, 99))]
