"""The warps of an instance, where its tiles are too small for those of the program.

    A[t0, t0'] = Q[t0, d_0] * K[t0', d_0], 16 by 16: 256 elements, one warp

Tensor cores take 16 rows and 8 columns at once. What a tile has no room for, warps would repeat.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from math import prod

from attnc.ir.tile import Contract, Kernel, Loop
from attnc.ir.tile_facts import every, tiles_made
from attnc.passes.mapping import Mapping

WARP = 512
"""Elements of the largest tile that a warp has: with fewer, several would hold the same ones."""


def warps(kernel: Kernel, plan: Mapping) -> int:
    """The warps of an instance: those of the mapping, or fewer where all tiles are small.

    A recurrence has all: they share its state.
    """
    sizes = {axis.rank: axis.size or plan.sizes.get(axis.rank) for axis in kernel.axes}
    products = any(isinstance(own, Contract) for own in every(kernel.body))
    turns = any(isinstance(s, Loop) and s.rank in plan.recurrent for s in every(kernel.body))
    if plan.asked or not plan.target.registers or not products or turns:
        return plan.warps
    largest = 1
    for ranks in tiles(kernel):
        own = [sizes[rank] for rank in ranks]
        if None in own:
            return plan.warps
        largest = max(largest, prod(size or 1 for size in own))
    return min(plan.warps, 1 << max(0, (largest // WARP).bit_length() - 1))


def launched(kernel: Kernel, plan: Mapping) -> Kernel:
    """The kernel with its warps, where these are not those of the program."""
    own = warps(kernel, plan)
    return kernel if own == plan.warps else replace(kernel, warps=own)


def tiles(kernel: Kernel) -> Iterator[tuple[str, ...]]:
    """The ranks of every tile of a kernel."""
    for statement in every(kernel.body):
        yield from (ranks for _, ranks in tiles_made(statement))
