"""Smaller tiles where a program would hold more than its target can.

    S[p, m0, n0]  with tiles of 128, 64 and 64: 524,288 elements     ->     32, 32 and 32

Tiles are chosen rank by rank, for two ranks at a time. Where three or more long ranks meet, the
product of their tiles is halved, the largest first, until it fits. Where all tiles together need
more registers than a thread has, the stream is halved first, which leaves the states as they are,
then the rows. What has no rows, such as a recurrence, is relieved in other ways (`crowded.py`).
"""

from __future__ import annotations

from dataclasses import replace
from math import prod

from attnc.ir.targets import WIDTH
from attnc.ir.tile import Kernel, Program, Store
from attnc.ir.tile_facts import every
from attnc.passes.crowded import divided, lighter
from attnc.passes.mapping import FEW, Mapping
from attnc.passes.pressure import pressure
from attnc.passes.warps import tiles, warps


def fit(program: Program, streamed: frozenset[str], plan: Mapping) -> Mapping:
    """The mapping with tiles halved until all fit, or as it was where all do or none may be cut.

    `streamed` are the ranks along the tiles of a loop, as far as the compiler chose their size:
    kernels share it. Along the grid each has tiles of its own.
    """
    halved: dict[str, int] = {}
    cuts: dict[str, dict[str, int]] = {}
    columns: set[str] = set()
    for kernel in program.kernels:
        sizes = _sizes(kernel, plan)
        sizes |= {rank: min(size, halved[rank]) for rank, size in sizes.items() if rank in halved}
        rows = frozenset(entry.rank for entry in kernel.grid if entry.tile > 1)
        smaller = _shrunk(kernel, sizes, (streamed | rows) - plan.fixed, plan)
        if plan.target.registers and not kernel.aside:
            loop = streamed - rows - plan.fixed
            smaller |= _relieved(kernel, sizes | smaller, loop, rows - plan.fixed, plan)
        halved |= {rank: size for rank, size in smaller.items() if rank not in rows}
        own = {rank: size for rank, size in smaller.items() if rank in rows}
        if not kernel.aside:
            relieved = lighter(kernel, sizes | smaller, plan)
            if relieved is not plan:
                return relieved
            own |= divided(kernel, sizes | smaller, rows, plan)
        columns |= own.keys() - rows
        for statement in every(kernel.body) if own else ():
            if isinstance(statement, Store):
                cuts[statement.tensor] = plan.cuts.get(statement.tensor, {}) | own
    if not halved and not cuts:
        return plan
    return replace(
        plan,
        tiles={**plan.tiles, **halved},
        cuts={**plan.cuts, **cuts},
        fixed=plan.fixed | columns,
    )


def _shrunk(
    kernel: Kernel, sizes: dict[str, int], cut: frozenset[str], plan: Mapping
) -> dict[str, int]:
    """Tiles halved until each holds no more elements than the target likes."""
    halved: dict[str, int] = {}
    for ranks in tiles(kernel):
        # A tile of three ranks is no matrix: it lives in registers as it is, beside others.
        most = plan.target.elements // (2 if len(ranks) > 2 else 1)
        least = FEW if len(ranks) < 3 else 1
        while prod((sizes | halved)[rank] for rank in ranks) > most:
            own = sizes | halved
            free = [r for r in ranks if r in cut and own[r] > least]
            if not free:
                break
            largest = max(free, key=own.__getitem__)
            halved[largest] = own[largest] // 2
    return halved


def _relieved(
    kernel: Kernel,
    sizes: dict[str, int],
    streamed: frozenset[str],
    rows: frozenset[str],
    plan: Mapping,
) -> dict[str, int]:
    """Tiles halved until the registers of a thread suffice, as far as halving relieves it."""
    threads = 32 * warps(kernel, plan)
    halved: dict[str, int] = {}
    need = pressure(kernel, sizes, threads)
    while need > plan.target.registers:
        steps = ((streamed, 2 * FEW), (rows, 4 * FEW), (streamed, FEW))
        tried = [(r, {**sizes, r: sizes[r] // 2}) for rs, least in steps for r in sorted(rs)
                 if sizes.get(r, 0) > least]  # fmt: skip
        better = ((r, own, pressure(kernel, own, threads)) for r, own in tried)
        found = next((made for made in better if made[2] < need), None)
        if found is None:
            break
        rank, sizes, need = found
        halved[rank] = sizes[rank]
    return halved


def _sizes(kernel: Kernel, plan: Mapping) -> dict[str, int]:
    return {
        axis.rank: axis.size if axis.size is not None else plan.sizes.get(axis.rank, WIDTH)
        for axis in kernel.axes
    }
