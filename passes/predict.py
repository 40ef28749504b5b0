"""What a tile program will read, write, compute and hold, before it runs.

`predict` puts numbers in: it walks the instances and ranges of every kernel, but no data.
`predict_symbolic` gives the same as expressions of extents. Both follow `ir.tile_blocks`, as the
executor does; that its counters come out the same is what the tests check.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import partial
from math import prod
from typing import Any, Protocol

import sympy

from attnc.ir.algebra import BYTES
from attnc.ir.cascade import FLOATS
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
from attnc.ir.tile import (
    Compute,
    Contract,
    Fold,
    Grid,
    Kernel,
    Load,
    Loop,
    Program,
    Statement,
    Store,
)
from attnc.ir.tile_blocks import Alive, Amount, Block, Size, blocks, tensors_of
from attnc.ir.touch import touch
from attnc.ir.walk import free_ranks, subterms
from attnc.passes.symbolic import extent_symbol

Number = Any
"""An int, or a sympy expression in its place."""

LARGEST = sympy.Function("Largest")
"""The largest value of a quantity: Largest(quantity, k, lo, hi) over lo <= k <= hi, 0 if none."""

Data = Mapping[str, Any]
"""Integer inputs by name, as anything that a tuple of positions subscripts."""


@dataclass(frozen=True, slots=True)
class Counts:
    """Bytes read and written, operations, and the most bytes of tiles alive at a time."""

    bytes_read: Number = 0
    bytes_written: Number = 0
    flops: Number = 0
    peak_live_bytes: Number = 0

    def at(self, extents: Mapping[str, int]) -> Counts:
        """Symbolic counts in numbers, sums added up."""
        values = {extent_symbol(rank): extent for rank, extent in extents.items()}

        def number(quantity: Number) -> int:
            return int(_added_up(sympy.sympify(quantity).subs(values)))

        return Counts(
            number(self.bytes_read),
            number(self.bytes_written),
            number(self.flops),
            number(self.peak_live_bytes),
        )


def _added_up(expr: Number) -> Number:
    """An expression with its sums as their terms, outer sums first: inner ranges depend on them."""
    if isinstance(expr, sympy.Sum):
        counter, lo, hi = expr.limits[-1]
        rest = expr.limits[:-1]
        inner = sympy.Sum(expr.function, *rest) if rest else expr.function
        return sum(_terms(inner, counter, lo, hi))
    if isinstance(expr, LARGEST):
        return max(_terms(*expr.args), default=0)
    return expr.func(*map(_added_up, expr.args)) if expr.args else expr


def _terms(term: Number, counter: Number, lo: Number, hi: Number) -> Iterator[Number]:
    for k in range(int(_added_up(lo)), int(_added_up(hi)) + 1):
        yield _added_up(term.subs(counter, k))


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
            extents[decl.name] = arithmetic.value(decl.extent, _Env({}, {}, {}, {}))
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
        total = _joined(total, walk.counts(), arithmetic)
    return total


def _joined(first: Counts, second: Counts, arithmetic: _Arithmetic) -> Counts:
    return Counts(
        first.bytes_read + second.bytes_read,
        first.bytes_written + second.bytes_written,
        first.flops + second.flops,
        arithmetic.most(first.peak_live_bytes, second.peak_live_bytes),
    )


@dataclass(frozen=True, slots=True)
class _Env:
    """Values where a block stands: counters and points by rank, lengths and edges of axes by
    size, scalars read from data by name."""

    at: Mapping[str, Number]
    edges: Mapping[str, tuple[Number, Number]]
    sizes: Mapping[Size, Number]
    scalars: Mapping[str, Number]

    def point(self, rank: str, value: Number) -> _Env:
        return replace(self, at={**self.at, rank: value})

    def axis(self, size: Size, lo: Number, hi: Number) -> _Env:
        return replace(
            self,
            edges={**self.edges, size[0]: (lo, hi)},
            sizes={**self.sizes, size: hi - lo},
        )


class _Arithmetic(Protocol):
    """Numbers or symbols: what an expression is worth, what sums over positions come to."""

    def value(self, expr: Expr, env: _Env) -> Number: ...

    def extent(self, rank: str) -> Number: ...

    def most(self, *values: Number) -> Number: ...

    def least(self, *values: Number) -> Number: ...

    def element(self, tensor: str, places: tuple[Number, ...]) -> Number | None:
        """An element of an integer input, None if it is not known."""

    def total(
        self, lo: Number, hi: Number, varies: bool, one: Callable[[Number], Counts]
    ) -> Counts:
        """The counts of lo <= k < hi together, `one(k)` each; all alike unless it varies."""

    def tiles(
        self, extent: Number, tile: int, varies: bool, one: Callable[[Number, Number], Counts]
    ) -> Counts:
        """The counts of all tiles of a rank, `one(lo, hi)` each."""


class _Walk:
    """The counts of one kernel."""

    def __init__(
        self, program: Program, kernel: Kernel, dtype: str, arithmetic: _Arithmetic
    ) -> None:
        self.kernel, self.arithmetic = kernel, arithmetic
        self.tensors = tensors_of(program)
        self.axes = {axis.rank: axis for axis in kernel.axes}
        self.block = blocks(program, kernel)
        self.width = BYTES["f64" if dtype == "f64" else "f32"]
        inputs = [t.dtype for t in program.inputs if t.dtype in FLOATS]
        first = BYTES[dtype if inputs[:1] == ["float"] else (inputs or [dtype])[0]]
        self.bytes = {
            tensor.name: BYTES[tensor.dtype] if tensor.dtype != "float" else BYTES[dtype]
            for tensor in self.tensors.values()
        }
        self.bytes |= {t.name: first for t in program.outputs if t.dtype == "float"}
        self.bytes |= {t.name: self.width for t in program.buffers if t.dtype == "float"}
        ranges = tuple(self._ranges(self.block))
        scalars = {
            s.name: s
            for s in _statements(self.block)
            if isinstance(s, Load | Compute) and not s.ranks
        }
        self.needed: set[str] = set()
        waiting = list(ranges)
        self.relevant: frozenset[str] = frozenset()
        while waiting:
            expr = waiting.pop()
            self.relevant |= free_ranks(expr)
            for term in subterms(expr):
                if isinstance(term, Tile) and term.name not in self.needed:
                    self.needed.add(term.name)
                    match scalars.get(term.name):
                        case Load(_, _, _, subscripts):
                            waiting.extend(subscripts)
                        case Compute(_, _, body):
                            waiting.append(body)
                        case _:
                            pass

    def counts(self) -> Counts:
        env = _Env({}, {}, {}, {})
        tiled = {entry.rank for entry in self.kernel.grid if entry.tile > 1}
        for axis in self.kernel.axes:
            if axis.rank not in tiled:
                size = axis.extent if axis.size is None else Const(axis.size)
                env = env.axis((axis.rank, 0), 0, self.arithmetic.value(size, env))
        return self._instances(self.kernel.grid, env)

    def _instances(self, grid: tuple[Grid, ...], env: _Env) -> Counts:
        if not grid:
            return self._block(self.block, env)
        (rank, tile), rest = (grid[0].rank, grid[0].tile), grid[1:]
        extent, varies = self.arithmetic.extent(rank), rank in self.relevant
        if tile == 1:
            return self.arithmetic.total(
                0, extent, varies, lambda k: self._instances(rest, env.point(rank, k))
            )
        return self.arithmetic.tiles(
            extent,
            tile,
            varies,
            lambda lo, hi: self._instances(rest, env.axis((rank, 0), lo, hi)),
        )

    def _block(self, block: Block, env: _Env) -> Counts:
        worth = self.arithmetic
        for clip in block.clips:
            lo = worth.value(clip.lo, env)
            hi = worth.most(lo, worth.value(clip.hi, env))
            env = env.axis((clip.rank, block.number), lo, hi)
        counts = Counts(
            flops=self._amount(block.flops, env),
            peak_live_bytes=worth.most(*(self._alive(peak, env) for peak in block.peaks)),
        )
        for place, statement in enumerate(block.statements):
            match statement:
                case Load(name, ranks, tensor):
                    moved = self._moved(statement, tensor, ranks, block, env)
                    counts = replace(counts, bytes_read=counts.bytes_read + moved)
                    if name in self.needed and not ranks:
                        places = tuple(worth.value(part, env) for part in statement.subscripts)
                        env = self._scalar(name, worth.element(tensor, places), env)
                case Compute(name, (), body) if name in self.needed:
                    env = self._scalar(name, worth.value(body, env), env)
                case Store(tensor, _, source):
                    moved = self._moved(statement, tensor, source.ranks, block, env)
                    counts = replace(counts, bytes_written=counts.bytes_written + moved)
                case Loop(rank, _, segments):
                    for segment, part in zip(segments, block.loops[place]):
                        inside = self.arithmetic.total(
                            worth.value(segment.lo, env),
                            worth.value(segment.hi, env),
                            rank in self.relevant,
                            partial(self._iteration, part, rank, env),
                        )
                        counts = _joined(counts, inside, worth)
                case Compute() | Contract() | Fold():
                    pass
        return counts

    def _iteration(self, part: Block, rank: str, env: _Env, counter: Number) -> Counts:
        return self._block(part, env.point(rank, counter))

    def _scalar(self, name: str, value: Number | None, env: _Env) -> _Env:
        return env if value is None else replace(env, scalars={**env.scalars, name: value})

    def _amount(self, amount: Amount, env: _Env) -> Number:
        terms = amount.items()
        return sum(count * prod(env.sizes[size] for size in sizes) for sizes, count in terms)

    def _alive(self, alive: Alive, env: _Env) -> Number:
        parts = ((self.width, alive.reals), (8, alive.integers), (1, alive.truths))
        return sum(unit * self._amount(part, env) for unit, part in parts)

    def _moved(
        self,
        statement: Load | Store,
        tensor: str,
        ranks: tuple[str, ...],
        block: Block,
        env: _Env,
    ) -> Number:
        """The bytes that a load or store moves."""
        worth = self.arithmetic
        touched = touch(statement, self.tensors[tensor], self.axes)
        lengths = {rank: env.sizes[block.sizes[rank]] for rank in ranks}
        for axis, run in touched.cut:
            lo, hi = env.edges[run.rank]
            start = worth.value(run.start, env)
            end = worth.extent(self.tensors[tensor].ranks[axis])
            first = worth.most(start + lo, 0)
            lengths[run.rank] = worth.most(first, worth.least(start + hi, end)) - first
        moved = self.bytes[tensor] * prod(lengths.values())
        for test in touched.once:
            moved = moved * worth.value(Map("select", (test, ONE, ZERO)), env)
        return moved

    def _ranges(self, block: Block) -> Iterator[Expr]:
        """Every expression on which the number of iterations or positions depends."""
        for clip in block.clips:
            yield from (clip.lo, clip.hi)
        for place, statement in enumerate(block.statements):
            match statement:
                case Load() | Store():
                    touched = touch(statement, self.tensors[statement.tensor], self.axes)
                    yield from touched.once
                    for _, run in touched.cut:
                        yield from (run.start, Index(run.rank))
                case Loop(_, _, segments):
                    for segment, part in zip(segments, block.loops[place]):
                        yield from (segment.lo, segment.hi)
                        yield from self._ranges(part)
                case Compute() | Contract() | Fold():
                    pass


def _statements(block: Block) -> Iterator[Statement]:
    yield from block.statements
    for parts in block.loops.values():
        for part in parts:
            yield from _statements(part)


def _times(counts: Counts, count: Number) -> Counts:
    return replace(
        counts,
        bytes_read=count * counts.bytes_read,
        bytes_written=count * counts.bytes_written,
        flops=count * counts.flops,
    )


def _unknown(expr: Expr) -> CompileError:
    return CompileError(
        "a range depends on values that are not known before the call",
        expr.span,
        help="give the integer inputs: data={...}",
    )


@dataclass(frozen=True, slots=True)
class _Integers:
    """Plain numbers: every range that varies is walked."""

    extents: Mapping[str, int]
    data: Data

    def extent(self, rank: str) -> int:
        return self.extents[rank]

    def most(self, *values: Number) -> Number:
        return max(values, default=0)

    def least(self, *values: Number) -> Number:
        return min(values)

    def element(self, tensor: str, places: tuple[Number, ...]) -> Number | None:
        return None if tensor not in self.data else int(self.data[tensor][places])

    def total(
        self, lo: Number, hi: Number, varies: bool, one: Callable[[Number], Counts]
    ) -> Counts:
        if hi <= lo:
            return Counts()
        if not varies:
            return _times(one(lo), hi - lo)
        found = Counts()
        for k in range(lo, hi):
            found = _joined(found, one(k), self)
        return found

    def tiles(
        self, extent: Number, tile: int, varies: bool, one: Callable[[Number, Number], Counts]
    ) -> Counts:
        found = Counts()
        whole, rest = divmod(extent, tile)
        if varies:
            for lo in range(0, extent, tile):
                found = _joined(found, one(lo, min(lo + tile, extent)), self)
            return found
        if whole:
            found = _joined(found, _times(one(0, tile), whole), self)
        return _joined(found, one(extent - rest, extent), self) if rest else found

    def value(self, expr: Expr, env: _Env) -> Number:
        match expr:
            case Const(value):
                return value
            case Index(rank):
                return env.at[rank]
            case Extent(rank):
                return self.extents[rank]
            case Tile(name):
                if name not in env.scalars:
                    raise _unknown(expr)
                return env.scalars[name]
            case Map("first" | "last" as op, (Index(rank),)):
                if rank in env.at:
                    return env.at[rank]
                return env.edges[rank][0] if op == "first" else env.edges[rank][1] - 1
            case Map("select", (condition, chosen, other)):
                return self.value(chosen if self.value(condition, env) else other, env)
            case Map(op, args) if op in _ON_INTEGERS:
                return _ON_INTEGERS[op](*(self.value(arg, env) for arg in args))
            case Map() | Cast():
                raise _unknown(expr)
            case Access() | Reduce() | Populate() | Param():
                raise InvalidIR(f"{type(expr).__name__} has no place in a tile program")


_ON_INTEGERS: dict[str, Callable[..., Number]] = {
    "+": operator.add, "-": operator.sub, "*": operator.mul, "//": operator.floordiv,
    "%": operator.mod, "/": Fraction, "neg": operator.neg, "abs": abs, "max": max, "min": min,
    "ceil": math.ceil, "floor": math.floor, "round": round,
    "<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge,
    "==": operator.eq, "!=": operator.ne, "not": operator.not_,
    "and": lambda a, b: a and b, "or": lambda a, b: a or b,
}  # fmt: skip


class _Symbols:
    """Expressions of extents; sums whose terms vary stand as sums over the tiles."""

    def __init__(self, program: Program) -> None:
        self.declared = {decl.name: decl.extent for decl in program.ranks}
        self.count = 0

    def extent(self, rank: str) -> Number:
        if rank in self.declared:
            return self.value(self.declared[rank], _Env({}, {}, {}, {}))
        return extent_symbol(rank)

    def most(self, *values: Number) -> Number:
        return sympy.Max(*values) if values else sympy.Integer(0)

    def least(self, *values: Number) -> Number:
        return sympy.Min(*values)

    def element(self, tensor: str, places: tuple[Number, ...]) -> Number | None:
        return None

    def _counter(self) -> Number:
        self.count += 1
        return sympy.Symbol(f"k{self.count}", integer=True, nonnegative=True)

    def total(
        self, lo: Number, hi: Number, varies: bool, one: Callable[[Number], Counts]
    ) -> Counts:
        lo, hi = sympy.sympify(lo), sympy.sympify(hi)
        counter = self._counter()
        each = one(counter if varies else lo)

        def added(quantity: Number) -> Number:
            """What does not vary stands outside its sum."""
            found = sympy.Integer(0)
            for term in sympy.Add.make_args(sympy.expand(quantity)):
                fixed, own = term.as_independent(counter, as_Add=False)
                count = hi - lo if own == 1 else sympy.Sum(own, (counter, lo, hi - 1))
                found += fixed * count
            return found

        most = sympy.sympify(each.peak_live_bytes)
        if most.has(counter):
            most = LARGEST(most, counter, lo, hi - 1)
        else:
            most = sympy.Piecewise((most, hi > lo), (0, True))
        return Counts(added(each.bytes_read), added(each.bytes_written), added(each.flops), most)

    def tiles(
        self, extent: Number, tile: int, varies: bool, one: Callable[[Number, Number], Counts]
    ) -> Counts:
        number = sympy.ceiling(extent / tile)
        if varies:
            return self.total(
                0, number, True, lambda k: one(k * tile, sympy.Min(k * tile + tile, extent))
            )
        length = sympy.Symbol("n", integer=True, nonnegative=True)
        each = one(sympy.Integer(0), length)
        whole = sympy.floor(extent / tile)

        def added(quantity: Number) -> Number:
            """Constant terms once a tile, linear ones add up to the extent."""
            terms = sympy.Poly(sympy.expand(quantity), length).all_coeffs()[::-1]
            rest = extent - whole * tile
            powers = [number, extent, *(whole * tile**n + rest**n for n in range(2, len(terms)))]
            return sum(term * power for term, power in zip(terms, powers))

        peak = sympy.sympify(each.peak_live_bytes).subs(length, sympy.Min(tile, extent))
        return Counts(added(each.bytes_read), added(each.bytes_written), added(each.flops), peak)

    def value(self, expr: Expr, env: _Env) -> Number:
        match expr:
            case Const(value):
                return sympy.sympify(value)
            case Index(rank):
                return env.at[rank]
            case Extent(rank):
                return self.extent(rank)
            case Map("first" | "last" as op, (Index(rank),)):
                if rank in env.at:
                    return env.at[rank]
                return env.edges[rank][0] if op == "first" else env.edges[rank][1] - 1
            case Map("select", (condition, chosen, other)):
                return sympy.Piecewise(
                    (self.value(chosen, env), self.value(condition, env)),
                    (self.value(other, env), True),
                )
            case Map(op, args) if op in _ON_SYMBOLS:
                return _ON_SYMBOLS[op](*(self.value(arg, env) for arg in args))
            case Tile() | Map() | Cast():
                raise _unknown(expr)
            case Access() | Reduce() | Populate() | Param():
                raise InvalidIR(f"{type(expr).__name__} has no place in a tile program")


_ON_SYMBOLS: dict[str, Callable[..., Number]] = {
    "+": operator.add, "-": operator.sub, "*": operator.mul, "/": operator.truediv,
    "//": lambda a, b: sympy.floor(a / b), "%": lambda a, b: a - b * sympy.floor(a / b),
    "neg": operator.neg, "abs": sympy.Abs, "max": sympy.Max, "min": sympy.Min,
    "ceil": sympy.ceiling, "floor": sympy.floor,
    "<": sympy.Lt, "<=": sympy.Le, ">": sympy.Gt, ">=": sympy.Ge,
    "==": sympy.Eq, "!=": sympy.Ne, "not": sympy.Not, "and": sympy.And, "or": sympy.Or,
}  # fmt: skip
