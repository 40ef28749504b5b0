"""Put products that share an operand one behind the other.

    A[t, s] = X[t, d] * Y[s, d]                 A[t, s] = X[t, d] * Y[s, d]
    ...                                  ->     B[t, s] = X[t, d] * Z[s, d]
    B[t, s] = X[t, d] * Z[s, d]                 ...

An operand computed in float32 is kept for the tensor cores in two parts, by each warp that needs it
whole. A smaller result takes less while it waits. What the later product needs moves along with it,
if that is loaded or computed element by element.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from math import prod

from attnc.ir.targets import WIDTH
from attnc.ir.tile import Compute, Contract, Load, Loop, Program, Statement, Store
from attnc.ir.tile_facts import defines, reads


def together(program: Program) -> Program:
    """The program with every such product moved up."""
    kernels = []
    for kernel in program.kernels:
        sizes = {axis.rank: axis.size or WIDTH for axis in kernel.axes}
        kernels.append(replace(kernel, body=_body(kernel.body, sizes)))
    return replace(program, kernels=tuple(kernels))


def _body(body: Sequence[Statement], sizes: Mapping[str, int]) -> tuple[Statement, ...]:
    found: list[Statement] = []
    for own in body:
        if isinstance(own, Loop):
            segments = (replace(s, body=_body(s.body, sizes)) for s in own.segments)
            found.append(replace(own, segments=tuple(segments)))
        elif isinstance(own, Contract):
            _insert(found, own, sizes)
        else:
            found.append(own)
    return tuple(found)


def _insert(body: list[Statement], own: Contract, sizes: Mapping[str, int]) -> None:
    """Add a product behind the last one that shares a larger computed operand with it."""
    made = {name: place for place, other in enumerate(body) for name in defines(other)}

    def size(ranks: tuple[str, ...]) -> int:
        return prod(sizes[rank] for rank in ranks)

    shared = {
        side.name
        for side in (own.left, own.right)
        if side.name in made
        and isinstance(body[made[side.name]], Compute)
        and size(side.ranks) > size(own.ranks)
    }
    beside = [
        place
        for place, other in enumerate(body)
        if isinstance(other, Contract) and {other.left.name, other.right.name} & shared
    ]
    first = beside[-1] + 1 if beside else len(body)
    needed: set[int] = set()
    waiting: list[Statement] = [own]
    while waiting:
        places = {made.get(tile.name, -1) for tile in reads(waiting.pop())} - needed
        places = {place for place in places if place >= first}
        needed |= places
        waiting += [body[place] for place in places]
    moved = [body[place] for place in sorted(needed)]
    loads = any(isinstance(other, Load) for other in moved)
    stores = any(isinstance(other, Store | Loop) for other in body[first:])
    if not all(isinstance(other, Load | Compute) for other in moved) or (loads and stores):
        body.append(own)
        return
    rest = [other for place, other in enumerate(body[first:], first) if place not in needed]
    body[first:] = [*moved, own, *rest]
