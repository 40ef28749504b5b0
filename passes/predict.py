"""What a tile program will read, write, compute and hold, before it runs.

`predict` puts numbers in: it walks the instances and ranges of every kernel, but no data.
`predict_symbolic` gives the same as expressions of extents. Both follow `ir.tile_blocks`, as the
executor does; that its counters come out the same is what the tests check.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import partial
from itertools import product
from math import prod

from attnc.ir.algebra import BYTES
from attnc.ir.cascade import FLOATS
from attnc.ir.expr import ONE, ZERO, Const, Expr, Index, Map, Tile
from attnc.ir.tile import (
    Compute,
    Contract,
    Fold,
    Grid,
    Kernel,
    Load,
    Loop,
    Program,
    Scan,
    Statement,
    Store,
)
from attnc.ir.tile_blocks import Alive, Amount, Block, blocks, tensors_of
from attnc.ir.touch import touch
from attnc.ir.walk import free_ranks, subterms
from attnc.passes.quantities import (
    Arithmetic,
    Counts,
    Data,
    Env,
    Integers,
    Number,
    Symbols,
    joined,
)


def predict(
    program: Program, extents: Mapping[str, int], dtype: str = "f32", data: Data | None = None
) -> Counts:
    """The counters of one call with these extents and inputs of type `dtype`.

    `data` holds the integer inputs on which ranges depend, lengths for example; an integer is as
    wide as it is there, else of 4 bytes. Raises CompileError for a range that depends on data
    which is not given.
    """
    extents = dict(extents)
    arithmetic = Integers(extents, data or {})
    for decl in program.ranks:
        if decl.name not in extents:
            extents[decl.name] = arithmetic.value(decl.extent, Env({}, {}, {}, {}))
    given = {tensor.name for tensor in program.inputs}
    widths = {name: array.itemsize for name, array in (data or {}).items() if name in given}
    return _predicted(program, dtype, arithmetic, widths)


def predict_symbolic(program: Program, dtype: str = "f32") -> Counts:
    """The counters of one call as expressions of the extents, whose symbols bear ranks' names.

    Where the ranges of a loop vary with the tile at hand the sum over its tiles stands as a sum.
    """
    return _predicted(program, dtype, Symbols(program), {})


def _predicted(
    program: Program, dtype: str, arithmetic: Arithmetic, widths: Mapping[str, int]
) -> Counts:
    total = Counts()
    for kernel in program.kernels:
        if kernel.aside:
            continue
        walk = _Walk(program, kernel, dtype, arithmetic, widths)
        total = joined(total, walk.counts(), arithmetic)
    return total


class _Walk:
    """The counts of one kernel."""

    def __init__(
        self,
        program: Program,
        kernel: Kernel,
        dtype: str,
        arithmetic: Arithmetic,
        widths: Mapping[str, int],
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
        self.bytes |= arithmetic.widths()
        self.bytes |= {t.name: first for t in program.outputs if t.dtype == "float"}
        self.bytes |= {t.name: self.width for t in program.buffers if t.dtype == "float"}
        self.bytes |= widths
        ranges = tuple(self._ranges(self.block))
        self.made = {
            s.name: s for s in _statements(self.block) if isinstance(s, Load | Compute | Fold)
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
                    match self.made.get(term.name):
                        case Load(_, _, _, subscripts, where):
                            waiting.extend(subscripts if where is None else (*subscripts, where))
                        case Compute(_, _, body):
                            waiting.append(body)
                        case Fold(_, (), _, source):
                            waiting.append(source)
                        case _:
                            pass

    def counts(self) -> Counts:
        env = Env({}, {}, {}, {})
        tiled = {entry.rank for entry in self.kernel.grid if entry.tile > 1}
        for axis in self.kernel.axes:
            if axis.rank not in tiled:
                size = axis.extent if axis.size is None else Const(axis.size)
                env = env.axis((axis.rank, 0), 0, self.arithmetic.value(size, env))
        if self.kernel.walks:
            return self._walked(env)
        return self._instances(self.kernel.grid, env)

    def _walked(self, env: Env) -> Counts:
        """The counts of all instances of all walks."""
        (part, *grid), worth = self.kernel.grid, self.arithmetic
        counts = Counts()
        for walker, number in worth.walks(self.kernel.walks):
            here = env.point(part.rank, walker).point(self.kernel.at, number)
            rest = number
            for entry in reversed(grid):
                extent = worth.extent(entry.rank)
                rest, place = divmod(rest, -(-extent // entry.tile))
                lo = place * entry.tile
                here = (
                    here.point(entry.rank, lo)
                    if entry.tile == 1
                    else here.axis((entry.rank, 0), lo, min(lo + entry.tile, extent))
                )
            counts = joined(counts, self._block(self.block, here), worth)
        return counts

    def _instances(self, grid: tuple[Grid, ...], env: Env) -> Counts:
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

    def _block(self, block: Block, env: Env) -> Counts:
        worth = self.arithmetic
        for clip in block.clips:
            lo = worth.value(clip.lo, env)
            hi = worth.most(lo, worth.value(clip.hi, env))
            env = env.axis((clip.rank, block.number), lo, hi)
        counts = Counts(
            flops=self._amount(block.flops, env),
            peak_live_bytes=worth.peak(*(self._alive(peak, env) for peak in block.peaks)),
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
                case Fold(name, (), "min" | "max" as op, source) if name in self.needed:
                    env = self._scalar(name, self._extreme(op, source, env), env)
                case Store(tensor, _, source):
                    moved = self._moved(statement, tensor, source.ranks, block, env)
                    counts = replace(counts, bytes_written=counts.bytes_written + moved)
                case Loop(rank, _, segments):
                    for segment, part in zip(segments, block.loops[place]):
                        one = partial(self._iteration, segment.when, part, rank, env)
                        if segment.listed is not None:
                            for place in worth.named(segment, env):
                                counts = joined(counts, one(place), worth)
                            continue
                        lo, hi = worth.value(segment.lo, env), worth.value(segment.hi, env)
                        inside = worth.total(lo, hi, rank in self.relevant, one)
                        counts = joined(counts, inside, worth)
                case Compute() | Contract() | Fold() | Scan():
                    pass
        return counts

    def _iteration(
        self, when: Expr | None, part: Block, rank: str, env: Env, counter: Number
    ) -> Counts:
        env = env.point(rank, counter)
        if when is None:
            return self._block(part, env)
        return self.arithmetic.either(when, env, lambda: self._block(part, env))

    def _extreme(self, op: str, tile: Tile, env: Env) -> Number | None:
        """The smallest or the largest element of a tile of integers from memory."""
        found: list[Number] = []
        edges = [env.edges[rank] for rank in tile.ranks]
        if not all(isinstance(edge, int) for pair in edges for edge in pair):
            return None
        for places in product(*(range(lo, hi) for lo, hi in edges)):
            here = env
            for rank, place in zip(tile.ranks, places):
                here = here.point(rank, place)
            element = self._element(tile.name, here)
            if element is None:
                return None
            found.append(element)
        return (min if op == "min" else max)(found)

    def _element(self, name: str, env: Env) -> Number | None:
        """One element of a tile, at the positions that `env` gives its ranks."""
        worth, made = self.arithmetic, self.made[name]
        match made:
            case Load(_, _, tensor, subscripts, where):
                if where is not None:
                    env = self._elements(where, env)
                    if not worth.value(where, env):
                        return 0
                for part in subscripts:
                    env = self._elements(part, env)
                return worth.element(tensor, tuple(worth.value(part, env) for part in subscripts))
            case Compute(_, _, body):
                return worth.value(body, self._elements(body, env))
            case Fold():
                return env.scalars.get(name)

    def _elements(self, expr: Expr, env: Env) -> Env:
        """`env` with the element of every tile that an expression reads."""
        for term in subterms(expr):
            if isinstance(term, Tile) and term.name not in env.scalars:
                env = self._scalar(term.name, self._element(term.name, env), env)
        return env

    def _scalar(self, name: str, value: Number | None, env: Env) -> Env:
        return env if value is None else replace(env, scalars={**env.scalars, name: value})

    def _amount(self, amount: Amount, env: Env) -> Number:
        terms = amount.items()
        return sum(count * prod(env.sizes[size] for size in sizes) for sizes, count in terms)

    def _alive(self, alive: Alive, env: Env) -> Number:
        parts = ((self.width, alive.reals), (8, alive.integers), (1, alive.truths))
        return sum(unit * self._amount(part, env) for unit, part in parts)

    def _moved(
        self,
        statement: Load | Store,
        tensor: str,
        ranks: tuple[str, ...],
        block: Block,
        env: Env,
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
                        yield from segment.scalars
                        yield from self._ranges(part)
                case Compute() | Contract() | Fold() | Scan():
                    pass


def _statements(block: Block) -> Iterator[Statement]:
    yield from block.statements
    for parts in block.loops.values():
        for part in parts:
            yield from _statements(part)
