"""What stays in a buffer while the columns go by, and how often the rest is therefore moved.

A buffer keeps as many tiles of rows as fit beside two tiles of what is streamed; the streamed
tensors are read once for every such set. What a later pass reads again is kept too, as far as there
is room, and goes out and in for the rest.
"""

from __future__ import annotations

from dataclasses import dataclass

from attnc.ir.expr import Index, Reduce
from attnc.ir.machine import COMMON, Level, Machine, Mapping
from attnc.ir.source import CompileError, Span
from attnc.ir.walk import accesses
from attnc.passes.accelerator.amounts import Amount, larger, numeric, product, quotient
from attnc.passes.accelerator.binding import lanes, widths
from attnc.passes.accelerator.problem import Problem

Phase = tuple[str, ...]


class TooLarge(CompileError):
    """Not even one tile of rows fits a level."""


@dataclass(frozen=True, slots=True)
class Residency:
    """Tiles of rows, how many are held at once, and which share of a tensor finds no room.

    `rows`, `row`, `room`: rows of a tile, words for each, words there are in one copy of the level.
    `whole` are tensors that stay from one set of rows to the next.
    """

    tiles: Amount
    held: Amount
    rows: int
    row: Amount
    room: Amount
    whole: frozenset[str]
    spilled: dict[str, Amount]

    @property
    def again(self) -> Amount:
        """How often what is streamed is read."""
        return self.tiles / self.held

    def __str__(self) -> str:
        text = (
            f"{self.tiles} tiles of {self.rows} rows, {self.held} of them held at once: "
            f"{self.rows * self.row} words each in {self.room}"
        )
        out = [f"{share:.4g} of {name}" for name, share in self.spilled.items()
               if numeric(share) and share > 0]  # fmt: skip
        return text + (f"; {' and '.join(out)} finds no room between passes" if out else "")


def read_in(problem: Problem, phase: Phase) -> dict[str, frozenset[int]]:
    """The tensors that a phase reads, each with the Einsums (by place) that do."""
    found: dict[str, set[int]] = {}
    for place, e in enumerate(problem.steps):
        if e.target in phase:
            for read in problem.reads[e.target]:
                found.setdefault(read.tensor, set()).add(place)
    return {name: frozenset(places) for name, places in found.items()}


def visits(problem: Problem, mapping: Mapping, phase: Phase) -> dict[str, tuple[int, ...]]:
    """For each tensor that a phase reads along the columns the passes in which it does so.

    Where the columns are a part of a rank, all passes see the same tile: that is one visit.
    """
    columns = mapping.columns
    parted = any(columns in p.parts for p in problem.passes.partitions)
    streamed = problem.streamed(columns) if columns else frozenset()
    found = {}
    for name, places in read_in(problem, phase).items():
        if streamed & {problem.own(r) for r in problem.cascade.axes(name)}:
            levels = {problem.level_of(problem.steps[p].target, columns) for p in places}
            found[name] = (1,) if parted else tuple(sorted(levels))
    return found


def residency(
    problem: Problem, machine: Machine, mapping: Mapping, phase: Phase, level: Level
) -> Residency:
    """What a level keeps in a phase. Raises CompileError where not even one tile fits."""
    space = _Space(problem, machine, mapping, phase, level)
    tiles = quotient(problem.extent(mapping.rows), space.lanes) if mapping.rows else 1
    capacity = int(level.size / level.copies) // machine.word
    room = capacity - space.streams()
    row = space.row()
    if not all(map(numeric, (tiles, row, room))):
        import sympy

        held = sympy.Symbol("held", positive=True)
        return Residency(tiles, held, space.lanes, row, room, space.whole, {})
    fitting = int(room // (space.lanes * row)) if row else (tiles if room >= 0 else 0)
    if fitting < 1:
        needed = space.lanes * row + space.streams()
        raise TooLarge(
            f"one tile of {space.lanes} rows takes {needed} words, and "
            f"{level.name} of {machine.name} holds {capacity}",
            space.at_fault(),
            help="a larger level, narrower tiles, or fewer tensors held in it",
        )
    held = mapping.held if level is machine.buffers[-1] else 0
    if held and tiles % held:
        raise CompileError(
            f"held is {held}, and does not divide the {tiles} tiles of {mapping.rows}",
            mapping.spans.get("held", machine.span),
            help=f"it may be {', '.join(map(str, divisors(tiles)[:12]))}",
        )
    if held > fitting:
        raise CompileError(
            f"held is {held}, and {level.name} of {machine.name} has room for {fitting} tiles",
            mapping.spans.get("held", machine.span),
        )
    held = held or max(d for d in divisors(tiles) if d <= fitting)
    left = room - space.lanes * row
    return Residency(tiles, held, space.lanes, row, room, space.whole, space.spilled(left))


def divisors(number: int) -> list[int]:
    low = [d for d in range(1, int(number**0.5) + 1) if number % d == 0]
    return sorted({*low, *(number // d for d in low)})


class _Space:
    """Words that the tensors of a phase take in a level."""

    def __init__(
        self, problem: Problem, machine: Machine, mapping: Mapping, phase: Phase, level: Level
    ) -> None:
        self.problem, self.machine, self.mapping = problem, machine, mapping
        self.phase, self.level = phase, level
        self.reads = read_in(problem, phase)
        self.columns = problem.streamed(mapping.columns) if mapping.columns else frozenset()
        used = {mapping.bind[name] for name in phase}
        self.lanes = max(lanes(machine, mapping, mapping.rows, array) for array in used)
        self.width = lanes(machine, mapping, mapping.columns) if mapping.columns else 1
        output = problem.cascade.outputs[0].ranks
        self.batch = {*problem.cascade.batch, *output[:-1]} - {mapping.rows}
        # An axis read at a computed place is not in a tile from end to end.
        self.plain = {
            subscript.rank
            for e in problem.steps
            for access in accesses(e.body)
            for subscript in access.subscripts
            if isinstance(subscript, Index)
        }
        registers = machine.registers
        self.common = registers is not None and registers.registers == COMMON
        self.here = [name for name, place in mapping.hold.items() if place == level.name]
        self.whole = frozenset(n for n in self.here if n in self.reads and not self.by_row(n))

    def by_row(self, tensor: str) -> bool:
        return self.mapping.rows in self.problem.cascade.axes(tensor)

    def by_column(self, tensor: str) -> bool:
        axes = {self.problem.own(r) for r in self.problem.cascade.axes(tensor)}
        return bool(self.columns & axes)

    def each(self, tensor: str, *but: str) -> Amount:
        """Words of a tensor at one position of the batch and of some other ranks."""
        ranks = [r for r in self.problem.cascade.axes(tensor) if r not in self.batch | set(but)]
        return product(self.problem.extent(r) for r in ranks if r in self.plain)

    def made(self, tensor: str) -> bool:
        return tensor in self.phase

    def row(self) -> Amount:
        """Words for one row: what is read along it, states, sums under way, what changes arrays,
        and what is held."""
        rows, problem = self.mapping.rows, self.problem
        if not rows:
            return 0
        total: Amount = 0
        for name in self.reads:
            if not self.made(name) and self.by_row(name) and not self.by_column(name):
                total = total + self.each(name, rows)
        for name, (_, rank) in problem.stepped.items():
            if self.made(name) and self.by_row(name) and not self.common:
                total = total + self.each(name, rows, rank)
        outer = problem.outer(self.mapping.columns)
        for e in problem.steps:
            if self.made(e.target) and e.target not in problem.stepped and self.under_way(e.target):
                total = total + self.each(e.target, rows, *outer)
        total = total + self.tile() * sum(
            self.by_row(n) for n in self.crossing() if n not in self.here
        )
        for name in self.here:
            if self.by_row(name) and self.by_column(name):
                total = total + product(
                    problem.extent(r)
                    for r in problem.cascade.axes(name)
                    if r not in self.batch and r != rows
                )
        return total

    def tile(self) -> Amount:
        """Columns of a tile: a whole part, or as many as an array takes at once."""
        columns = self.mapping.columns
        if not columns:
            return 0
        size = self.problem.extent(columns)
        parted = any(columns in p.parts for p in self.problem.passes.partitions)
        return size if parted or not numeric(size) else min(size, self.width)

    def under_way(self, name: str) -> bool:
        """Whether a reduction gathers over more than one tile of columns."""
        body = self.problem.definitions[name].body
        if (
            self.common
            or not isinstance(body, Reduce)
            or not self.by_row(name)
            or self.by_column(name)
        ):
            return False
        tiles = [quotient(self.problem.extent(r), self.width)
                 for r in body.ranks if self.problem.own(r) in self.columns]  # fmt: skip
        return any(not numeric(count) or count > 1 for count in tiles)

    def crossing(self) -> set[str]:
        """Tensors along the columns made on one array and read on another, or again when a longer
        tile is done, where that goes through this level."""
        if self.common:
            return set()
        columns, problem, bind = self.mapping.columns, self.problem, self.mapping.bind
        found = set()
        for reader in self.phase:
            for name in (read.tensor for read in problem.reads[reader]):
                if not self.made(name) or columns not in problem.cascade.axes(name):
                    continue
                along = widths(problem, self.machine, self.mapping, problem.definitions[name])
                width = max(along.get(r, 1) for r in along if problem.own(r) == columns)
                long = not numeric(n := problem.extent(columns)) or n > width
                waits = problem.level_of(reader, columns) > problem.level_of(name, columns)
                if bind[name] != bind[reader] or (waits and long):
                    found.add(name)
        return found

    def streams(self) -> Amount:
        """Words of two tiles of what is streamed, and of tensors held from end to end."""
        total: Amount = 0
        for name in self.reads:
            if name in self.whole:
                axes = self.problem.cascade.axes(name)
                total = total + product(self.problem.extent(r) for r in axes if r not in self.batch)
            elif self.by_column(name) and not self.made(name):
                axes = self.problem.cascade.axes(name)
                but = [r for r in axes if self.problem.own(r) in self.columns]
                # What a row of its own has is used once, and passes by.
                each = self.lanes if self.by_row(name) else self.each(name, *but)
                total = total + 2 * self.width * each
        return total

    def at_fault(self) -> Span:
        spans = self.mapping.spans
        held = [spans[f"hold.{name}"] for name in self.here if f"hold.{name}" in spans]
        return held[0] if held else self.level.span

    def spilled(self, left: Amount) -> dict[str, Amount]:
        """The share of each tensor with no room between the passes that read it."""
        passes = visits(self.problem, self.mapping, self.phase)
        length = self.problem.extent(self.mapping.columns) if self.mapping.columns else 0
        found: dict[str, Amount] = {}
        alive: dict[str, tuple[int, int]] = {}
        for name, levels in passes.items():
            first = levels[0]
            if self.made(name):
                first = min(first, self.problem.level_of(name, self.mapping.columns))
            if not self.by_row(name) or levels[-1] == first:
                continue
            if self.mapping.hold.get(name) == self.machine.memory.name:
                found[name] = 1.0
            elif name not in self.here:
                alive[name] = first, levels[-1]
        last = max((span[1] for span in alive.values()), default=1)
        most = larger(sum(a <= b < z for a, z in alive.values()) for b in range(1, last))
        if most:
            share = max(0.0, 1 - left / (self.lanes * most * length))
            found |= dict.fromkeys(alive, share)
        return found
