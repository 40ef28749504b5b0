"""What relieves a kernel that has no rows to halve, such as a recurrence with a wide state.

    S[d, f] in one instance, f 128     ->     two instances with 64 of f each

Columns of a state that no sum goes over are divided among instances; what does not vary with them
each computes. Before that, what no step of a sweep needs leaves it for kernels of its own (`ahead`
and `behind` in recurrences), and where nothing else helps, chunks are short.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from math import prod

from attnc.ir.expr import Const
from attnc.ir.tile import Contract, Kernel, Loop, Store
from attnc.ir.tile_facts import every
from attnc.passes.columns import columns
from attnc.passes.mapping import COLUMNS, Mapping
from attnc.passes.pressure import pressure
from attnc.passes.warps import warps


def lighter(kernel: Kernel, sizes: dict[str, int], plan: Mapping) -> Mapping:
    """The mapping for a recurrence without room.

    First what no step needs leaves it, then its chunks are short.
    """
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


def divided(
    kernel: Kernel, sizes: dict[str, int], rows: frozenset[str], plan: Mapping
) -> dict[str, int]:
    """The columns that instances divide.

    A schedule says so; or a kernel without rows carries more than fits, or one without a loop holds
    more, and at most half as much work again comes of it.
    """
    free = columns(kernel)
    found = {rank: plan.tiles[rank] for rank in free if rank in plan.fixed & plan.tiles.keys()}
    loops = any(isinstance(own, Loop) for own in kernel.body)
    need = pressure(kernel, sizes, 32 * warps(kernel, plan))
    full = 0 < plan.target.registers < need if rows else _crowded(kernel, sizes, plan)
    if found or (rows and loops) or not full:
        return found
    work = tuple(_work(kernel, sizes))
    most = sum(count for _, count in work) // 2
    # A state that every turn stores needs the addresses of its elements too.
    narrow = _chunk(kernel, sizes) >= COLUMNS or _stores_states(kernel)
    carried = _carried(kernel)
    for rank in (rank for rank in free if not loops or rank in carried):
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


def _work(kernel: Kernel, sizes: dict[str, int]) -> Iterator[tuple[tuple[str, ...], int]]:
    """The ranks of each product of tiles, and its multiplications."""
    for own in every(kernel.body):
        if isinstance(own, Contract):
            ranks = (*own.ranks, own.over)
            yield ranks, prod(sizes[rank] for rank in ranks)
