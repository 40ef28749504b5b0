"""A kernel as nested blocks with what each costs: sizes of tiles, operations, bytes alive.

A block is the body of a kernel or of one segment of a loop, its axes cut where they may be. Costs
are polynomials in sizes of axes. The executor puts in the sizes that it meets, the prediction
those that it derives; that the two agree is what the tests check.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from attnc.ir.algebra import MONOIDS
from attnc.ir.cascade import Tensor
from attnc.ir.clip import Clip, clipped, edges_of
from attnc.ir.expr import Expr, Index, Map, Tile
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
from attnc.ir.tile_facts import Made, made_by, names_read, operations
from attnc.ir.walk import children, subterms

Size = tuple[str, int]
"""The length of an axis: its rank, and the number of the block that cut it, 0 if none did."""

Amount = Counter[tuple[Size, ...]]
"""A polynomial in sizes: how often each product of sizes counts."""


@dataclass(frozen=True, slots=True)
class Alive:
    """Elements of tiles alive at one moment, by what they hold."""

    reals: Amount
    integers: Amount
    truths: Amount

    def covers(self, other: Alive) -> bool:
        """Whether it is the larger of the two, whatever the sizes."""
        return all(
            count <= mine[product]
            for mine, theirs in (
                (self.reals, other.reals),
                (self.integers, other.integers),
                (self.truths, other.truths),
            )
            for product, count in theirs.items()
        )


@dataclass(frozen=True, slots=True)
class Block:
    """Statements run in order, once for each instance or iteration.

    `loops` holds the blocks of each loop among the statements, by its place. `sizes` is the
    length of every axis in here, `made` what every tile is that a statement reads. `last` is the
    place of the last statement that reads a tile made here, the count of statements for one that
    is carried on. `flops` leaves out what the loops inside do, `peaks` are the moments at which
    most can be alive.
    """

    number: int
    clips: tuple[Clip, ...]
    statements: tuple[Statement, ...]
    loops: Mapping[int, tuple[Block, ...]]
    sizes: Mapping[str, Size]
    made: Mapping[str, Made]
    last: Mapping[str, int]
    flops: Amount
    peaks: tuple[Alive, ...]


def blocks(program: Program, kernel: Kernel) -> Block:
    """The outermost block of a kernel."""
    sizes = {axis.rank: (axis.rank, 0) for axis in kernel.axes}
    return _Planner(program, kernel).block((), kernel.body, (), {}, {}, sizes, [])


class _Planner:
    def __init__(self, program: Program, kernel: Kernel) -> None:
        self.tensors = tensors_of(program)
        self.reductions = {own.name: own for own in program.reductions}
        self.edges = edges_of(kernel)
        self.count = 0

    def block(
        self,
        clips: tuple[Clip, ...],
        statements: tuple[Statement, ...],
        after: tuple[str, ...],
        outer: Mapping[str, Made],
        states: Mapping[str, Made],
        sizes: Mapping[str, Size],
        around: list[tuple[str, tuple[Size, ...]]],
    ) -> Block:
        """`around` lists the kinds and sizes of tiles that live through the whole block."""
        number, self.count = self.count, self.count + 1
        sizes = {**sizes, **{clip.rank: (clip.rank, number) for clip in clips}}
        made = {**outer, **states}
        for statement in statements:
            made.update(made_by(statement, made, self.tensors))
        last = last_uses(statements, after, tuple(states))
        born = dict.fromkeys(states, -1)
        for place, statement in enumerate(statements):
            born.update(dict.fromkeys(made_by(statement, made, self.tensors), place))

        def alive(names: Iterable[str]) -> list[tuple[str, tuple[Size, ...]]]:
            tiles = [(made[name].kind, tuple(sizes[r] for r in made[name].ranks)) for name in names]
            return around + tiles

        def at(place: int) -> Iterator[str]:
            return (name for name, start in born.items() if start <= place <= last[name])

        flops: Amount = Counter()
        loops: dict[int, tuple[Block, ...]] = {}
        peaks: list[Alive] = []
        for place, statement in enumerate(statements):
            flops.update(self.flops(statement, made, sizes))
            _note(peaks, _alive(alive(at(place))))
            if isinstance(statement, Loop):
                own = {state.name: made[state.name] for state in statement.carried}
                visible = {n: m for n, m in made.items() if born.get(n, -1) < place}
                ranks = {name: fact.ranks for name, fact in visible.items()}
                # What only the starts of its states read is gone when the loop begins.
                inside = set(_read_in_segments(statement))
                through = alive(
                    name
                    for name, start in born.items()
                    if start < place and (last[name] > place or name in inside)
                )
                cut = frozenset(rank for rank, size in sizes.items() if size[1])
                bodies = []
                for segment in statement.segments:
                    cuts, body = clipped(statement, segment, self.edges, ranks, cut)
                    bodies.append(
                        self.block(cuts, body, segment.after, visible, own, sizes, through)
                    )
                loops[place] = tuple(bodies)
        _note(peaks, _alive(alive(at(len(statements)))))
        return Block(number, clips, statements, loops, sizes, made, last, flops, tuple(peaks))

    def flops(
        self, statement: Statement, made: Mapping[str, Made], sizes: Mapping[str, Size]
    ) -> Amount:
        """Operations of one statement; positions, comparisons and choices cost nothing."""

        def product(ranks: Iterator[str] | tuple[str, ...]) -> tuple[Size, ...]:
            return tuple(sorted(sizes[rank] for rank in dict.fromkeys(ranks)))

        found: Amount = Counter()
        match statement:
            case Compute(_, _, body):
                _arithmetic(body, sizes, found)
            case Contract(_, _, left, right):
                found[product((*left.ranks, *right.ranks))] += 2
            case Fold(_, _, op, source):
                each = (
                    int(bool(MONOIDS[op].counts))
                    if op in MONOIDS
                    else sum(
                        operations(term.op, len(term.args))
                        for term in subterms(self.reductions[op].body)
                        if isinstance(term, Map)
                    )
                )
                found[product(source.ranks)] += each
            case Scan(_, _, op, source):
                found[product(source.ranks)] += int(bool(MONOIDS[op].counts))
            case Loop(_, carried):
                for state in carried:
                    _arithmetic(state.init, sizes, found)
            case Load() | Store():
                pass
        return found


def tensors_of(program: Program) -> dict[str, Tensor]:
    """Every tensor of a program in memory, by name."""
    return {t.name: t for t in (*program.inputs, *program.outputs, *program.buffers)}


def last_uses(
    statements: tuple[Statement, ...], after: tuple[str, ...], states: tuple[str, ...]
) -> dict[str, int]:
    """For each state and tile of a block the place of the last statement that reads it.

    One that is carried on is read at the end; one that nothing reads dies where it is made.
    """
    last = dict.fromkeys(states, -1)
    for place, statement in enumerate(statements):
        last.update((name, place) for name in names_read(statement) if name in last)
        match statement:
            case Load(name) | Compute(name) | Contract(name) | Fold(name) | Scan(name):
                last[name] = place
            case Loop(_, carried):
                last.update((state.name, place) for state in carried)
            case Store():
                pass
    last.update((name, len(statements)) for name in after if name in last)
    return last


def axes_of(expr: Expr, sizes: Mapping[str, Size]) -> tuple[str, ...]:
    """The axes of an expression's value, in the order in which they are met."""
    found: dict[str, None] = {}
    for term in subterms(expr):
        match term:
            case Tile(_, ranks):
                found.update(dict.fromkeys(ranks))
            case Index(rank) if rank in sizes:
                found.setdefault(rank)
            case _:
                pass
    return tuple(found)


def _arithmetic(expr: Expr, sizes: Mapping[str, Size], found: Amount) -> None:
    """Add the operations of an expression, each at the points along which it varies."""
    if not any(isinstance(term, Tile) for term in subterms(expr)):
        return
    if isinstance(expr, Map):
        axes = axes_of(expr, sizes)
        found[tuple(sorted(sizes[rank] for rank in axes))] += operations(expr.op, len(expr.args))
    for part in children(expr):
        _arithmetic(part, sizes, found)


def _read_in_segments(loop: Loop) -> Iterator[str]:
    for segment in loop.segments:
        yield from segment.after
        for statement in segment.body:
            yield from names_read(statement)


def _alive(tiles: list[tuple[str, tuple[Size, ...]]]) -> Alive:
    amounts = {kind: Counter[tuple[Size, ...]]() for kind in ("real", "int", "bool")}
    for kind, sizes in tiles:
        amounts[kind][tuple(sorted(sizes))] += 1
    return Alive(amounts["real"], amounts["int"], amounts["bool"])


def _note(peaks: list[Alive], moment: Alive) -> None:
    """Keep the moments that no other covers."""
    if any(peak.covers(moment) for peak in peaks):
        return
    peaks[:] = [peak for peak in peaks if not moment.covers(peak)]
    peaks.append(moment)
