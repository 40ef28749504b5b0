"""Which tiles of a streamed rank hold points, where that depends on tables: a block list.

    where doc[p] == doc[m] and m <= p        tiles of 128 queries (p1) and of 64 keys (m1)

    state[b, p1, m1] = 2 where the predicate holds at every point of the tile, 1 where at some

The kernel that computes the states holds one tile of the predicate at a time, so nothing of size
|p| * |m| exists. A back-end sifts the states into two lists for every tile of queries, the full
tiles and the partial ones (FlexAttention's BlockMask: Dong et al., MLSys 2025), and keeps them for
as long as the tables stay as they are.
"""

from __future__ import annotations

from dataclasses import dataclass

from attnc.ir.affine import divided, plus, times
from attnc.ir.cascade import Cascade, RankDecl, Tensor
from attnc.ir.expr import ONE, ZERO, Const, Expr, Index, Map, Tile
from attnc.ir.source import InvalidIR
from attnc.ir.tile import Compute, Fold, Grid, Kernel, Listed, Load, Store, lists_of
from attnc.ir.walk import free_ranks, substitute
from attnc.passes.domain import Domains
from attnc.passes.extents import Extents
from attnc.passes.values import Values


@dataclass(frozen=True, slots=True)
class Blocks:
    """A kernel of states, what it stores and the ranks that number the tiles.

    `at` are the subscripts by which an instance of the streaming kernel finds its lists.
    """

    kernel: Kernel
    buffers: tuple[Tensor, ...]
    ranks: tuple[RankDecl, ...]
    at: tuple[Expr, ...]

    def listed(self, full: bool) -> Listed:
        return Listed(lists_of(self.kernel.lists, full)[0], self.at)

    def count(self, full: bool, name: str) -> Load:
        """How many tiles a list of this instance names, as a tile."""
        return Load(name, (), lists_of(self.kernel.lists, full)[1], self.at)


def blocks(
    cascade: Cascade,
    name: str,
    rank: str,
    predicates: tuple[Expr, ...],
    grid: dict[str, int],
    memory: dict[str, tuple[str, ...]],
    extents: Extents,
) -> Blocks:
    """The states of all tiles along the loop over `rank` in a kernel with this grid."""
    used = set().union(*(free_ranks(part) for part in predicates))
    at: list[Expr] = []
    ranks: list[str] = []
    declared: list[RankDecl] = []
    moved: dict[str, Expr] = {}
    inside: list[Expr] = []
    for own, size in grid.items():
        if own not in used:
            continue
        if size == 1:
            at.append(Index(own))
            ranks.append(own)
            continue
        number, within = _fresh(own, 1, cascade, extents), _fresh(own, 0, cascade, extents)
        count = plus(divided(plus(extents.of(own), Const(-1)), size), ONE)
        for decl in (RankDecl(number, count), RankDecl(within, Const(size))):
            declared.append(decl)
            extents.declared[decl.name] = decl.extent
        position = plus(times(Index(number), size), Index(within))
        moved[own] = position
        inside.append(Map("<", (position, extents.of(own))))
        at.append(Map("//", (Map("first", (Index(own),)), Const(size))))
        ranks.append(number)
    parts = (*(substitute(part, moved) for part in predicates), *inside)
    states = Tensor(name, (*ranks, rank), 0, "int")
    kernel = _states(cascade, states, parts, memory, extents)
    buffers = [states]
    for full in (False, True):
        positions, length = lists_of(name, full)
        buffers.append(Tensor(positions, states.ranks, 0, "int"))
        buffers.append(Tensor(length, tuple(ranks), 0, "int"))
    return Blocks(kernel, tuple(buffers), tuple(declared), tuple(at))


def _states(
    cascade: Cascade,
    states: Tensor,
    parts: tuple[Expr, ...],
    memory: dict[str, tuple[str, ...]],
    extents: Extents,
) -> Kernel:
    """One instance for every tile: the predicate at all its points, then whether any and all."""
    tiles = dict.fromkeys(states.ranks, 1)
    writer = Values(cascade, states.name, memory, tiles, extents, Domains(cascade))
    writer.loops = set()
    writer.grid = dict.fromkeys(states.ranks, 1)
    mask, _ = writer.mask(parts)
    if mask is None:
        raise InvalidIR(f"{states.name}: a list of tiles without a predicate")
    own = writer.axes_of(mask)
    holds = Tile("holds", own)
    ends = tuple(Tile(f"holds_{op}", ()) if own else holds for op in ("max", "min"))
    subscripts = tuple(Index(rank) for rank in states.ranks)
    body = (
        *writer.scopes.open[0].statements,
        Compute(holds.name, own, Map("select", (mask, ONE, ZERO))),
        *(Fold(f"holds_{op}", (), op, holds, own) for op in ("max", "min") if own),
        Compute("state", (), Map("+", ends)),
        Store(states.name, subscripts, Tile("state", ())),
    )
    grid = tuple(Grid(rank, 1) for rank in states.ranks)
    axes = tuple(writer.axes.values())
    return Kernel(states.name, grid, axes, body, lists=states.name)


def _fresh(rank: str, part: int, cascade: Cascade, extents: Extents) -> str:
    taken = {r for t in cascade.inputs for r in t.ranks} | extents.declared.keys()
    taken |= {r for einsum in cascade.einsums for r in einsum.ranks}
    name = f"{rank}{part}"
    while name in taken:
        name = f"{name}_{part}"
    return name
