"""How many registers of a thread a kernel needs for its tiles, at the worst moment: an estimate.

    loop m1, carrying O_sum[p, f]:      O_sum and S: (128 * 128 + 128 * 64) / 256 = 96 registers
        S[p, m0] = Q[p, e] * K[m0, e]
        O_sum    = O_sum + exp(S) * V

What is computed element by element takes the place of what it was computed from, and a product
that is only added to something arises there. What is only loaded to be multiplied waits in shared
memory; what is loaded otherwise takes half a register, or two where each element has an address of
its own. Where neither side of a product is loaded, each goes into the matrix units in parts.

The factors are fitted to what the assembler made of the zoo (benchmarks/zoo_spills.md): a kernel
needs about a hundred registers besides, for addresses, predicates and rows.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from math import prod

from attnc.ir.affine import affine
from attnc.ir.expr import Expr, Map, Tile
from attnc.ir.tile import Compute, Contract, Kernel, Load, Loop, Statement
from attnc.ir.tile_facts import defines, every, names_read, reads, tiles_made

Names = frozenset[str]


def pressure(kernel: Kernel, sizes: Mapping[str, int], threads: int) -> int:
    """Registers of one of `threads` threads for the tiles of a kernel with axes of these sizes."""
    statements = tuple(every(kernel.body))
    ranks = {name: own for statement in statements for name, own in tiles_made(statement)}
    weights = dict.fromkeys(ranks, 0.0)
    factors = _factors(statements)
    for statement in statements:
        for name, own in tiles_made(statement):
            weight = factors.get(name, 1) * prod(sizes[rank] for rank in own)
            weights[name] = max(weight, weights[name])
    sources = _sources(statements, ranks)
    most = 0.0
    for alive, at in _moments(kernel.body, frozenset()):
        places = {own for name in alive for own in sources[name]}
        most = max(most, sum(weights[n] for n in places) + _parts(at, sizes, factors))
    return int(most) // threads


def _parts(
    statement: Statement | None, sizes: Mapping[str, int], factors: Mapping[str, float]
) -> int:
    """What a product holds beside its operands: parts of them, or all terms if one is a vector."""
    if not isinstance(statement, Contract):
        return 0
    left, right = statement.left, statement.right
    if min(len(left.ranks), len(right.ranks)) < 2:
        return prod(sizes[rank] for rank in {*left.ranks, *right.ranks})
    if left.name in factors or right.name in factors:
        return 0
    return 2 * sum(prod(sizes[rank] for rank in side.ranks) for side in (left, right))


def _sources(
    statements: tuple[Statement, ...], ranks_of: Mapping[str, tuple[str, ...]]
) -> dict[str, Names]:
    """For each tile those of the same axes whose place it can take; itself if there are none."""
    found: dict[str, Names] = {name: frozenset((name,)) for name in ranks_of}
    for statement in statements:
        if isinstance(statement, Compute):
            read = {t.name for t in reads(statement) if {*t.ranks} == {*statement.ranks}}
            places = frozenset(name for tile in read for name in found[tile])
            found[statement.name] = places or found[statement.name]
    return found


def _moments(body: tuple[Statement, ...], after: Names) -> Iterator[tuple[Names, Statement | None]]:
    """What is alive at the end of a body and before each of its statements, the last first."""
    yield after, None
    alive = after
    for statement in reversed(body):
        alive -= {*defines(statement)}
        needed = frozenset(names_read(statement)) - _inside(statement)
        if isinstance(statement, Loop):
            for segment in statement.segments:
                yield from _moments(segment.body, alive | needed | {*segment.after})
        alive |= needed
        yield alive, statement


def _inside(statement: Statement) -> Names:
    """The tiles that a loop makes for itself alone."""
    if not isinstance(statement, Loop):
        return frozenset()
    bodies = (every(segment.body) for segment in statement.segments)
    made = (name for body in bodies for own in body for name in defines(own))
    return frozenset((*made, *(state.name for state in statement.carried)))


def _factors(statements: tuple[Statement, ...]) -> dict[str, float]:
    """Registers an element of what is loaded, and 0 of products that additions alone read."""
    found: dict[str, float] = {}
    read: Counter[str] = Counter()
    operands: Counter[str] = Counter()
    addends: Counter[str] = Counter()
    products: Counter[str] = Counter()
    for own in statements:
        if not isinstance(own, Loop):
            read.update(tile.name for tile in reads(own))
        match own:
            case Load(name, ranks, _, subscripts):
                plain = all(_plain(part, ranks) for part in subscripts)
                found[name] = max(0.5 if plain else 2, found.get(name, 0))
            case Contract(name, _, left, right):
                products[name] += 1
                operands.update((left.name, right.name))
            case Compute(_, _, Map("+", args)):
                addends.update(arg.name for arg in args if isinstance(arg, Tile))
            case _:
                pass
    waiting = {name for name in found if read[name] == operands[name]}
    added = {name for name, count in products.items() if addends[name] == count}
    return found | dict.fromkeys(waiting | added, 0)


def _plain(subscript: Expr, ranks: tuple[str, ...]) -> bool:
    """Whether it steps along one axis of a tile, or stands still."""
    form = affine(subscript, ranks)
    return form is not None and len(form.factors) < 2
