"""Smaller tiles where a program would hold more than its target can.

    S[p, m0, n0]  with tiles of 128, 64 and 64: 524,288 elements     ->     32, 32 and 32

Tiles are chosen rank by rank, for two ranks at a time. Where three or more long ranks meet, the
product of their tiles is halved, the largest first, until it fits. Where all tiles together need
more registers than a thread has, the stream is halved first, which leaves the states as they are,
then the rows.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from math import prod

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
from attnc.passes.mapping import FEW, Mapping
from attnc.passes.pressure import pressure

WIDTH = 64
"""Extent assumed of a rank that lies whole within a tile and is not known."""


def fit(program: Program, streamed: frozenset[str], plan: Mapping) -> Mapping:
    """The mapping with tiles halved until all fit, or as it was where all do or none may be cut.

    `streamed` are the ranks along the tiles of a loop, as far as the compiler chose their size.
    """
    halved: dict[str, int] = {}
    for kernel in program.kernels:
        sizes = _sizes(kernel, plan)
        sizes |= {rank: min(size, halved[rank]) for rank, size in sizes.items() if rank in halved}
        rows = frozenset(entry.rank for entry in kernel.grid if entry.tile > 1)
        cut = (streamed | rows) - plan.fixed
        for ranks in _tiles(kernel.body):
            # A tile of three ranks is no matrix: it lives in registers as it is, beside others.
            most = plan.target.elements // (2 if len(ranks) > 2 else 1)
            least = FEW if len(ranks) < 3 else 1
            while prod(sizes[rank] for rank in ranks) > most:
                free = [r for r in ranks if r in cut and sizes[r] > least]
                if not free:
                    break
                largest = max(free, key=lambda rank: sizes[rank])
                sizes[largest] //= 2
                halved[largest] = sizes[largest]
        if plan.target.registers and not kernel.lists:
            halved |= _relieved(kernel, sizes, cut - rows, cut & rows, plan)
    return replace(plan, tiles={**plan.tiles, **halved}) if halved else plan


def _relieved(
    kernel: Kernel,
    sizes: dict[str, int],
    streamed: frozenset[str],
    rows: frozenset[str],
    plan: Mapping,
) -> dict[str, int]:
    """Tiles halved until the registers of a thread suffice, as far as halving relieves it."""
    threads = 32 * plan.warps
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


def _tiles(body: tuple[Statement, ...]) -> Iterator[tuple[str, ...]]:
    for statement in body:
        match statement:
            case (
                Load(_, ranks)
                | Compute(_, ranks)
                | Contract(_, ranks)
                | Fold(_, ranks)
                | Scan(_, ranks)
            ):
                yield ranks
            case Loop(_, carried, segments):
                yield from (state.ranks for state in carried)
                for segment in segments:
                    yield from _tiles(segment.body)
            case Store():
                pass
