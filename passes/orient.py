"""Turn tiles round that are multiplied along their first axis, so that none is transposed.

    A[p, m] = exp(S[p, m] - L[p])                    A[m, p] = exp(S[m, p] - L[p])
    dV[m, f] = sum[p](A[p, m] * dO[p, f])     ->     dV[m, f] = sum[p](A[m, p] * dO[p, f])

The left operand of a product is read from registers by rows: with the axis that stays first it is
where it was made, else it goes through shared memory and needs registers twice. The axes of a tile
have names, so it is only its layout that changes, and that of all tiles of these two axes from
which it is computed: S[m, p] is the product K Q instead of Q K (FlashAttention-2 computes the
gradients of keys and values so).
"""

from __future__ import annotations

from dataclasses import replace

from attnc.ir.expr import Expr, Tile
from attnc.ir.tile import (
    Compute,
    Contract,
    Fold,
    Kernel,
    Load,
    Loop,
    Program,
    Scan,
    Statement,
    Store,
)
from attnc.ir.tile_facts import every, reads, tiles
from attnc.ir.walk import rewrite

Names = frozenset[str]


def orient(program: Program) -> Program:
    """The program with every such family of tiles turned round, where all its products agree."""
    return replace(program, kernels=tuple(_oriented(kernel) for kernel in program.kernels))


def _oriented(kernel: Kernel) -> Kernel:
    statements = tuple(every(kernel.body))
    families = _families(statements)
    votes: dict[str, set[bool]] = {}
    for own in statements:
        if isinstance(own, Contract) and len(own.ranks) == 2:
            for side in (own.left, own.right):
                if own.ranks[0] in side.ranks and side.name in families:
                    across = side.ranks[0] == own.over
                    votes.setdefault(families[side.name], set()).add(across)
    turned = frozenset(name for name, family in families.items() if votes.get(family) == {True})
    return replace(kernel, body=_body(kernel.body, turned)) if turned else kernel


def _families(statements: tuple[Statement, ...]) -> dict[str, str]:
    """For each computed matrix one that stands for all it is computed with, element by element.

    Without those that are carried or stored, or say where in memory something lies: their axes
    keep their order.
    """
    sizes: dict[str, set[int]] = {}
    for own in statements:
        if isinstance(own, Compute | Contract):
            sizes.setdefault(own.name, set()).add(len(own.ranks))
    parent = {name: name for name, found in sizes.items() if found == {2}}

    def root(name: str) -> str:
        while parent[name] != name:
            name = parent[name]
        return name

    kept: set[str] = set()
    for own in statements:
        match own:
            case Compute(name, ranks, body) if name in parent:
                for tile in tiles(body):
                    if tile.name in parent and tile.ranks == ranks:
                        parent[root(tile.name)] = root(name)
                    elif {*tile.ranks} == {*ranks}:
                        kept |= {name, tile.name}
            case Compute(_, _, body):
                kept.update(tile.name for tile in tiles(body) if tile.name in parent)
            case Load() | Store() | Scan():
                kept.update(tile.name for tile in reads(own))
            case Loop(_, carried, segments):
                kept.update(tile.name for tile in tiles(*(state.init for state in carried)))
                kept.update(name for segment in segments for name in segment.after)
            case Contract() | Fold():
                pass
    fixed = {root(name) for name in kept if name in parent}
    return {name: root(name) for name in parent if root(name) not in fixed}


def _body(body: tuple[Statement, ...], turned: Names) -> tuple[Statement, ...]:
    def order(name: str, ranks: tuple[str, ...]) -> tuple[str, ...]:
        return ranks[::-1] if name in turned else ranks

    def tile(own: Tile) -> Tile:
        return Tile(own.name, order(own.name, own.ranks))

    def rule(expr: Expr) -> Expr | None:
        return tile(expr) if isinstance(expr, Tile) else None

    out: list[Statement] = []
    for own in body:
        match own:
            case Compute(name, ranks, value):
                own = replace(own, ranks=order(name, ranks), body=rewrite(value, rule))
            case Contract(name, ranks, left, right):
                own = replace(own, ranks=order(name, ranks), left=tile(left), right=tile(right))
            case Fold(_, _, _, source):
                own = replace(own, source=tile(source))
            case Loop(_, _, segments):
                parts = tuple(replace(s, body=_body(s.body, turned)) for s in segments)
                own = replace(own, segments=parts)
            case Load() | Scan() | Store():
                pass
        out.append(own)
    return tuple(out)
