"""Smaller tiles where a program would hold more than its target can.

    S[p, m0, n0]  with tiles of 128, 64 and 64: 524,288 elements     ->     32, 32 and 32

Tiles are chosen rank by rank, for two ranks at a time. Where three or more long ranks meet, the
product of their tiles is halved, the largest first, until it fits. Where all tiles together need
more registers than a thread has, the stream is halved first, which leaves the states as they are,
then the rows. A kernel without rows, such as a recurrence, has the columns of its states:

    S[d, f] in one instance, f 128     ->     two instances with 64 of f each

What does not vary with f both compute.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from math import prod

from attnc.ir.expr import Const
from attnc.ir.targets import WIDTH
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
from attnc.ir.tile_facts import every
from attnc.passes.columns import columns
from attnc.passes.mapping import COLUMNS, FEW, Mapping
from attnc.passes.pressure import pressure

WARP = 512
"""Elements of the largest tile that a warp has: with fewer, several would hold the same ones."""


def fit(program: Program, streamed: frozenset[str], plan: Mapping) -> Mapping:
    """The mapping with tiles halved until all fit, or as it was where all do or none may be cut.

    `streamed` are the ranks along the tiles of a loop, as far as the compiler chose their size:
    kernels share it. Along the grid each has tiles of its own.
    """
    halved: dict[str, int] = {}
    cuts: dict[str, dict[str, int]] = {}
    divided: set[str] = set()
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
            relieved = _lighter(kernel, sizes | smaller, plan)
            if relieved is not plan:
                return relieved
            own |= _divided(kernel, sizes | smaller, rows, plan)
        divided |= own.keys() - rows
        for statement in every(kernel.body) if own else ():
            if isinstance(statement, Store):
                cuts[statement.tensor] = plan.cuts.get(statement.tensor, {}) | own
    if not halved and not cuts:
        return plan
    return replace(
        plan,
        tiles={**plan.tiles, **halved},
        cuts={**plan.cuts, **cuts},
        fixed=plan.fixed | divided,
    )


def warps(kernel: Kernel, plan: Mapping) -> int:
    """The warps of an instance: those of the mapping, or fewer where all tiles are small.

    Tensor cores take 16 rows and 8 columns at once. What a tile has no room for, warps repeat; a
    recurrence has all, since they share its state.
    """
    sizes = {axis.rank: axis.size or plan.sizes.get(axis.rank) for axis in kernel.axes}
    products = any(isinstance(own, Contract) for own in every(kernel.body))
    turns = any(isinstance(s, Loop) and s.rank in plan.recurrent for s in every(kernel.body))
    if plan.asked or not plan.target.registers or not products or turns:
        return plan.warps
    largest = 1
    for ranks in _tiles(kernel.body):
        own = [sizes[rank] for rank in ranks]
        if None in own:
            return plan.warps
        largest = max(largest, prod(size or 1 for size in own))
    return min(plan.warps, 1 << max(0, (largest // WARP).bit_length() - 1))


def launched(kernel: Kernel, plan: Mapping) -> Kernel:
    """The kernel with its warps, where these are not those of the program."""
    own = warps(kernel, plan)
    return kernel if own == plan.warps else replace(kernel, warps=own)


def _shrunk(
    kernel: Kernel, sizes: dict[str, int], cut: frozenset[str], plan: Mapping
) -> dict[str, int]:
    """Tiles halved until each holds no more elements than the target likes."""
    halved: dict[str, int] = {}
    for ranks in _tiles(kernel.body):
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


def _divided(
    kernel: Kernel, sizes: dict[str, int], rows: frozenset[str], plan: Mapping
) -> dict[str, int]:
    """The columns that instances divide: as a schedule says, or where a kernel without rows carries
    more than fits and at most half as much work again comes of it."""
    free = columns(kernel)
    found = {rank: plan.tiles[rank] for rank in free if rank in plan.fixed & plan.tiles.keys()}
    if found or rows or not _crowded(kernel, sizes, plan):
        return found
    work = tuple(_work(kernel, sizes))
    most = sum(count for _, count in work) // 2
    # A state that every turn stores needs the addresses of its elements too.
    narrow = _chunk(kernel, sizes) >= COLUMNS or _stores_states(kernel)
    carried = _carried(kernel)
    for rank in (rank for rank in free if rank in carried):
        again = sum(count for ranks, count in work if rank not in ranks)
        half = narrow and _crowded(kernel, {**sizes, rank: COLUMNS}, plan)
        tile = COLUMNS // 2 if half else COLUMNS
        while tile < sizes[rank]:
            if again * (-(-sizes[rank] // tile) - 1) <= most:
                return {rank: tile}
            tile *= 2
    return {}


def _crowded(kernel: Kernel, sizes: dict[str, int], plan: Mapping) -> bool:
    """Whether a kernel has hardly any registers left beside its tiles.

    Products of few rows stand in every warp whole: a quarter of the registers is theirs. What is
    besides, such as addresses, grows with the rows of a chunk.
    """
    need = pressure(kernel, sizes, 32 * warps(kernel, plan))
    room = plan.target.registers - _chunk(kernel, sizes)
    return bool(plan.target.registers) and 4 * need > 3 * room


def _chunk(kernel: Kernel, sizes: dict[str, int]) -> int:
    return max((sizes[a.rank] for a in kernel.axes if isinstance(a.extent, Const)), default=0)


def _carried(kernel: Kernel) -> set[str]:
    loops = (own for own in every(kernel.body) if isinstance(own, Loop))
    return {rank for loop in loops for state in loop.carried for rank in state.ranks}


def _stores_states(kernel: Kernel) -> bool:
    statements = tuple(every(kernel.body))
    states = {c.ranks for own in statements if isinstance(own, Loop) for c in own.carried}
    return any(isinstance(own, Store) and own.source.ranks in states for own in statements)


def _lighter(kernel: Kernel, sizes: dict[str, int], plan: Mapping) -> Mapping:
    """The mapping for a recurrence without room: what no step needs goes elsewhere, then steps."""
    if not any(isinstance(own, Loop) and own.rank in plan.recurrent for own in every(kernel.body)):
        return plan
    least = COLUMNS // 2 if _chunk(kernel, sizes) >= COLUMNS else COLUMNS
    whole = {axis.rank for axis in kernel.axes if axis.size is None}
    wide = {rank for rank in whole & _carried(kernel) if sizes[rank] > least}
    if not wide or not _crowded(kernel, sizes, plan):
        return plan
    if wide - plan.crowded:
        return replace(plan, crowded=plan.crowded | wide)
    narrow = {**sizes, **dict.fromkeys(wide & {*columns(kernel)}, least)}
    if least < COLUMNS and not plan.brief and _crowded(kernel, narrow, plan):
        return replace(plan, brief=True)
    return plan


def _work(kernel: Kernel, sizes: dict[str, int]) -> Iterator[tuple[tuple[str, ...], int]]:
    """The ranks of each product of tiles, and its multiplications."""
    for own in every(kernel.body):
        if isinstance(own, Contract):
            ranks = (*own.ranks, own.over)
            yield ranks, prod(sizes[rank] for rank in ranks)


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
