"""What a tile program will read, write, compute and hold, before it runs.

`predict` puts numbers in: it walks the instances and ranges of every kernel, but no data.
`predict_symbolic` gives the same as expressions of extents. Both follow `ir.tile_blocks`, as the
executor does; that its counters come out the same is what the tests check.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Any

import sympy

from attnc.ir.affine import plus
from attnc.ir.algebra import BYTES
from attnc.ir.cascade import FLOATS, Tensor
from attnc.ir.expr import (
    ONE,
    ZERO,
    Access,
    Cast,
    Const,
    Expr,
    Extent,
    Index,
    Map,
    Param,
    Populate,
    Reduce,
    Tile,
)
from attnc.ir.source import CompileError, InvalidIR
from attnc.ir.tile import Grid, Kernel, Load, Loop, Program, Store
from attnc.ir.tile_blocks import Alive, Amount, Block, Size, blocks, tensors_of
from attnc.ir.touch import Point, touch
from attnc.ir.walk import free_ranks, subterms

Number = Any
"""An int, or a sympy expression in its place."""

Data = Mapping[str, Any]
"""Integer inputs by name, as anything that a tuple of positions subscripts."""


@dataclass(frozen=True, slots=True)
class Counts:
    """Bytes read and written, operations, and the most bytes of tiles alive at a time."""

    bytes_read: Number = 0
    bytes_written: Number = 0
    flops: Number = 0
    peak_live_bytes: Number = 0


def predict(
    program: Program, extents: Mapping[str, int], dtype: str = "f32", data: Data | None = None
) -> Counts:
    """The counters of one call with these extents and inputs of type `dtype`.

    `data` holds the integer inputs on which ranges depend, lengths for example. Raises
    CompileError for a range that depends on data which is not given.
    """
    extents = dict(extents)
    arithmetic = _Integers(extents, data or {})
    for decl in program.ranks:
        if decl.name not in extents:
            extents[decl.name] = arithmetic.value(decl.extent, {})
    return _predicted(program, dtype, arithmetic)


def predict_symbolic(program: Program, dtype: str = "f32") -> Counts:
    """The counters of one call as expressions of the extents, whose symbols bear ranks' names.

    Where the ranges of a loop vary with the tile at hand the sum over its tiles stands as a sum.
    """
    return _predicted(program, dtype, _Symbols(program))


def _predicted(program: Program, dtype: str, arithmetic: _Arithmetic) -> Counts:
    total = Counts()
    for kernel in program.kernels:
        walk = _Walk(program, kernel, dtype, arithmetic)
        total = _joined(total, walk.instances(kernel.grid, {}), arithmetic)
    return total


def _joined(first: Counts, second: Counts, arithmetic: _Arithmetic) -> Counts:
    return Counts(
        first.bytes_read + second.bytes_read,
        first.bytes_written + second.bytes_written,
        first.flops + second.flops,
        arithmetic.most(first.peak_live_bytes, second.peak_live_bytes),
    )


Env = Mapping[str, Number]
"""Values by name: `i` of a counter or point `i`, `lo p` and `hi p` of axes, `t len` of scalars."""


class _Arithmetic:
    """Numbers or symbols: what an expression is worth, what a sum over positions comes to."""

    def most(self, *values: Number) -> Number:
        raise NotImplementedError

    def least(self, *values: Number) -> Number:
        raise NotImplementedError

    def value(self, expr: Expr, env: Env) -> Number:
        raise NotImplementedError

    def element(self, tensor: Tensor, places: tuple[Number, ...]) -> Number | None:
        raise NotImplementedError

    def total(
        self, count: Number, varies: bool, one: Callable[[Number], Counts], name: str
    ) -> Counts:
        """The sum of `one(k)` for k in 0..count-1; all alike unless it varies."""
        raise NotImplementedError
