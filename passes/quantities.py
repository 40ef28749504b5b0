"""Counts of a tile program in numbers or in symbols: one walk over a program serves both.

`Arithmetic` is what the walk asks: what an expression is worth, what a sum over positions or tiles
comes to. `Integers` walks every range that varies; `Symbols` lets such sums stand.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any, Protocol

import sympy

from attnc.ir.expr import (
    ONE,
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
from attnc.ir.tile import Program, Segment, shares_of
from attnc.ir.tile_blocks import Size
from attnc.passes.symbolic import extent_symbol

Number = Any
"""An int, or a sympy expression in its place."""

LARGEST = sympy.Function("Largest")
"""The largest value of a quantity: Largest(quantity, k, lo, hi) over lo <= k <= hi, 0 if none."""

Data = Mapping[str, Any]
"""Integer inputs by name, as arrays: subscripted by positions, with an `itemsize`."""


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
            return int(_number(sympy.sympify(quantity), values))

        return Counts(
            number(self.bytes_read),
            number(self.bytes_written),
            number(self.flops),
            number(self.peak_live_bytes),
        )


def _number(expr: Number, values: Mapping[Number, int]) -> Number:
    """An expression in exact numbers, sums term by term: sympy's own way takes minutes."""
    if expr in values:
        return values[expr]
    if expr.is_Rational:
        return Fraction(int(expr.p), int(expr.q))
    if isinstance(expr, sympy.Piecewise):
        return next(_number(value, values) for value, holds in expr.args if _number(holds, values))
    if isinstance(expr, LARGEST):
        return max(_terms(*expr.args, values=values), default=0)
    if isinstance(expr, sympy.Sum):
        *rest, (counter, lo, hi) = expr.limits
        inner = sympy.Sum(expr.function, *rest) if rest else expr.function
        return sum(_terms(inner, counter, lo, hi, values=values))
    if expr in (sympy.true, sympy.false):
        return bool(expr)
    return _ON_NUMBERS[expr.func]([_number(arg, values) for arg in expr.args])


def _terms(
    term: Number, counter: Number, lo: Number, hi: Number, *, values: Mapping[Number, int]
) -> Iterator[Number]:
    for k in range(int(_number(lo, values)), int(_number(hi, values)) + 1):
        yield _number(term, {**values, counter: k})


_ON_NUMBERS: dict[Any, Callable[[list[Number]], Number]] = {
    sympy.Add: sum, sympy.Mul: math.prod, sympy.Max: max, sympy.Min: min,
    sympy.Pow: lambda args: args[0] ** args[1], sympy.Abs: lambda args: abs(args[0]),
    sympy.floor: lambda args: math.floor(args[0]), sympy.ceiling: lambda args: math.ceil(args[0]),
    sympy.StrictLessThan: lambda args: args[0] < args[1],
    sympy.LessThan: lambda args: args[0] <= args[1],
    sympy.StrictGreaterThan: lambda args: args[0] > args[1],
    sympy.GreaterThan: lambda args: args[0] >= args[1],
    sympy.Equality: lambda args: args[0] == args[1],
    sympy.Unequality: lambda args: args[0] != args[1],
    sympy.And: all, sympy.Or: any, sympy.Not: lambda args: not args[0],
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Env:
    """Values where a block stands: counters and points by rank, lengths and edges of axes by
    size, scalars read from data by name."""

    at: Mapping[str, Number]
    edges: Mapping[str, tuple[Number, Number]]
    sizes: Mapping[Size, Number]
    scalars: Mapping[str, Number]

    def point(self, rank: str, value: Number) -> Env:
        return replace(self, at={**self.at, rank: value})

    def axis(self, size: Size, lo: Number, hi: Number) -> Env:
        return replace(
            self,
            edges={**self.edges, size[0]: (lo, hi)},
            sizes={**self.sizes, size: hi - lo},
        )


class Arithmetic(Protocol):
    """Numbers or symbols: what an expression is worth, what sums over positions come to."""

    def value(self, expr: Expr, env: Env) -> Number: ...

    def extent(self, rank: str) -> Number: ...

    def widths(self) -> dict[str, int]:
        """Bytes of an element of the tensors that are at hand."""

    def most(self, *values: Number) -> Number: ...

    def least(self, *values: Number) -> Number: ...

    def peak(self, *values: Number) -> Number:
        """The largest of some bytes alive, 0 of none."""

    def either(self, when: Expr, env: Env, counts: Callable[[], Counts]) -> Counts:
        """Some counts where a condition holds, else none."""

    def named(self, segment: Segment, env: Env) -> Iterable[Number]:
        """The iterations of a segment that a list names."""

    def walks(self, counts: str) -> Iterable[tuple[Number, Number]]:
        """The instances that walkers take, each walker with all of its own."""

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


def joined(first: Counts, second: Counts, arithmetic: Arithmetic) -> Counts:
    return Counts(
        first.bytes_read + second.bytes_read,
        first.bytes_written + second.bytes_written,
        first.flops + second.flops,
        arithmetic.peak(first.peak_live_bytes, second.peak_live_bytes),
    )


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
class Integers:
    """Plain numbers: every range that varies is walked."""

    extents: Mapping[str, int]
    data: Data

    def extent(self, rank: str) -> int:
        return self.extents[rank]

    def widths(self) -> dict[str, int]:
        return {name: int(array.itemsize) for name, array in self.data.items()}

    def most(self, *values: Number) -> Number:
        return max(values)

    def peak(self, *values: Number) -> Number:
        return max(values, default=0)

    def least(self, *values: Number) -> Number:
        return min(values)

    def either(self, when: Expr, env: Env, counts: Callable[[], Counts]) -> Counts:
        return counts() if self.value(when, env) else Counts()

    def named(self, segment: Segment, env: Env) -> Iterable[Number]:
        listed = segment.listed
        if listed is None or listed.positions not in self.data:
            raise _unknown(ONE)
        row = self.data[listed.positions][tuple(self.value(part, env) for part in listed.at)]
        lo, hi = self.value(segment.lo, env), self.value(segment.hi, env)
        return [int(row[place]) for place in range(lo, hi)]

    def walks(self, counts: str) -> Iterable[tuple[Number, Number]]:
        made = shares_of(counts)
        if made.first not in self.data:
            raise _unknown(ONE)
        ranges = zip(self.data[made.first].tolist(), self.data[made.last].tolist())
        return ((w, n) for w, (first, last) in enumerate(ranges) for n in range(first, last))

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
            found = joined(found, one(k), self)
        return found

    def tiles(
        self, extent: Number, tile: int, varies: bool, one: Callable[[Number, Number], Counts]
    ) -> Counts:
        found = Counts()
        whole, rest = divmod(extent, tile)
        if varies:
            for lo in range(0, extent, tile):
                found = joined(found, one(lo, min(lo + tile, extent)), self)
            return found
        if whole:
            found = joined(found, _times(one(0, tile), whole), self)
        return joined(found, one(extent - rest, extent), self) if rest else found

    def value(self, expr: Expr, env: Env) -> Number:
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
    "**": operator.pow, "pow": operator.pow, "exp": math.exp, "exp2": lambda a: 2.0**a,
    "log2": lambda a: math.log2(a) if a > 0 else -math.inf, "sqrt": math.sqrt,
    "log": lambda a: math.log(a) if a > 0 else -math.inf,
}  # fmt: skip


class Symbols:
    """Expressions of extents; sums whose terms vary stand as sums over the tiles."""

    def __init__(self, program: Program) -> None:
        self.declared = {decl.name: decl.extent for decl in program.ranks}
        self.count = 0

    def widths(self) -> dict[str, int]:
        return {}

    def extent(self, rank: str) -> Number:
        if rank in self.declared:
            return self.value(self.declared[rank], Env({}, {}, {}, {}))
        return extent_symbol(rank)

    def most(self, *values: Number) -> Number:
        return sympy.Max(*values)

    def peak(self, *values: Number) -> Number:
        # Comparing every two of many moments takes sympy seconds, and tells a reader nothing.
        moments = [value for value in dict.fromkeys(values) if value != 0]
        return sympy.Max(*moments, evaluate=False) if len(moments) > 1 else sum(moments)

    def least(self, *values: Number) -> Number:
        return sympy.Min(*values)

    def either(self, when: Expr, env: Env, counts: Callable[[], Counts]) -> Counts:
        condition = self.value(when, env)

        def limited(quantity: Number) -> Number:
            return sympy.Piecewise((quantity, condition), (0, True))

        found = counts()
        return Counts(
            limited(found.bytes_read),
            limited(found.bytes_written),
            limited(found.flops),
            limited(found.peak_live_bytes),
        )

    def named(self, segment: Segment, env: Env) -> Iterable[Number]:
        raise _unknown(ONE)

    def walks(self, counts: str) -> Iterable[tuple[Number, Number]]:
        raise _unknown(ONE)

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

    def value(self, expr: Expr, env: Env) -> Number:
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
    "**": operator.pow, "pow": operator.pow, "exp": sympy.exp, "exp2": lambda a: 2**a,
    "log2": lambda a: sympy.log(a, 2), "log": sympy.log, "sqrt": sympy.sqrt,
}  # fmt: skip
