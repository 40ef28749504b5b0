"""Smaller tiles where a program would hold one that is too large for its target.

    S[p, m0, n0]  with tiles of 128, 64 and 64: 524,288 elements     ->     32, 32 and 32

Tiles are chosen rank by rank, for two ranks at a time. Where three or more long ranks meet, the
product of their tiles is halved, the largest first, until it fits.
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
        cut = streamed | {entry.rank for entry in kernel.grid if entry.tile > 1}
        for ranks in _tiles(kernel.body):
            # A tile of three ranks is no matrix: it lives in registers as it is, beside others.
            most = plan.target.elements // (2 if len(ranks) > 2 else 1)
            least = FEW if len(ranks) < 3 else 1
            while prod(sizes[rank] for rank in ranks) > most:
                free = [r for r in ranks if r in cut - plan.fixed and sizes[r] > least]
                if not free:
                    break
                largest = max(free, key=lambda rank: sizes[rank])
                sizes[largest] //= 2
                halved[largest] = sizes[largest]
    return replace(plan, tiles={**plan.tiles, **halved}) if halved else plan


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
