"""Words that each level gives and takes.

Into a buffer comes what the level outside of it holds: tensors of rows once, streamed ones once for
every set of rows that stays. The arrays read an operand once for each tile of theirs that uses it,
from the innermost buffer. A result that the same array uses next is handed on among its elements;
one that crosses to another array, waits for a whole rank, is a state or a sum under way goes
through the buffer, or through registers that the arrays have in common. What leaves for memory goes
there straight.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from attnc.ir.cascade import Einsum
from attnc.ir.expr import Reduce
from attnc.ir.machine import COMMON, Fetched, Level, Machine, Mapping
from attnc.passes.accelerator.amounts import (
    Amount,
    larger,
    numeric,
    product,
    quotient,
    smaller,
    told,
)
from attnc.passes.accelerator.binding import lanes, widths
from attnc.passes.accelerator.compute import Work
from attnc.passes.accelerator.problem import Problem, Read
from attnc.passes.accelerator.residency import Phase, Residency, read_in, residency, visits

READS = {"multiply-add": 3, "exp": 1, "other": 1}
"""Operands of an operation, where they are not two."""

Moves = dict[tuple[str, str], Amount]
"""Words by tensor and by the Einsum that moves them."""


@dataclass(slots=True)
class Flow:
    """Words read from and written to a level, and why."""

    level: Level
    read: Moves = field(default_factory=dict)
    written: Moves = field(default_factory=dict)
    told: str = ""

    def add(self, moves: Moves, name: str, einsum: str, words: Amount) -> None:
        moves[name, einsum] = moves.get((name, einsum), 0) + words

    @property
    def words(self) -> Amount:
        return sum(self.read.values()) + sum(self.written.values())

    def formula(self, word: int) -> str:
        """Words by tensor, and what decided them."""
        by_tensor: dict[str, Amount] = {}
        for moves in (self.read, self.written):
            for (name, _), words in moves.items():
                by_tensor[name] = by_tensor.get(name, 0) + words
        text = " + ".join(f"{name} {told(count)}" for name, count in by_tensor.items()
                          if not numeric(count) or count)  # fmt: skip
        return f"({text}) words x {word}" + (f"; {self.told}" if self.told else "")


def flows(
    problem: Problem, machine: Machine, mapping: Mapping, phase: Phase, work: dict[str, Work]
) -> dict[str, Flow]:
    """The words of a phase at every level, by the level's name."""
    return _Traffic(problem, machine, mapping, phase, work).all()


class _Traffic:
    def __init__(
        self, problem: Problem, machine: Machine, mapping: Mapping, phase: Phase,
        work: dict[str, Work],
    ) -> None:  # fmt: skip
        self.problem, self.machine, self.mapping, self.phase = problem, machine, mapping, phase
        self.work = work
        self.flows = {level.name: Flow(level) for level in machine.levels}
        self.reads = read_in(problem, phase)
        self.later = {
            read.tensor
            for e in problem.steps
            if e.target not in phase
            for read in problem.reads[e.target]
        }
        self.outer = problem.outer(mapping.columns)
        self.columns = lanes(machine, mapping, mapping.columns) if mapping.columns else 1

    def all(self) -> dict[str, Flow]:
        outside = self.machine.memory
        kept: dict[str, Amount] = {}
        for level in self.machine.buffers:
            kept = self.inward(outside, level)
            outside = level
        self.leave()
        if self.machine.buffers:
            self.serve(outside, kept)
        if self.machine.registers is not None:
            self.operate(self.machine.registers)
        return self.flows

    # -- between levels

    def fixed(self, outside: Level) -> Fetched | None:
        sizes = self.problem.sizes
        return next(
            (f for f in self.mapping.fetched
             if outside is self.machine.memory
             and all(sizes.get(rank) == size for rank, size in f.at.items())),
            None,
        )  # fmt: skip

    def inward(self, outside: Level, level: Level) -> dict[str, Amount]:
        """Words between two levels; the shares of tensors that stay outside."""
        fixed = self.fixed(outside)
        if fixed is not None:
            return self.given(fixed, outside, level)
        stays = residency(self.problem, self.machine, self.mapping, self.phase, level)
        self.flows[outside.name].told = str(stays)
        passes = visits(self.problem, self.mapping, self.phase)
        shares = dict(stays.spilled)
        for name in self.reads:
            reader = self.first_reader(name)
            if name in self.phase:
                made = self.problem.level_of(name, self.mapping.columns)
                times = sum(1 for n in passes.get(name, ()) if n > made)
                points = self.problem.share(self.problem.definitions[name])
                words = shares.get(name, 0) * points * self.problem.words(name)
                self.move(outside, level, name, reader, words * times)
                self.out(outside, name, words)
            else:
                times = self.times(name, stays, passes.get(name, (1,)))
                self.move(outside, level, name, reader, times * self.problem.words(name))
        return shares

    def times(self, name: str, stays: Residency, passes: tuple[int, ...]) -> Amount:
        """How often a tensor from outside comes in."""
        if self.by_row(name):
            return 1 + (len(passes) - 1) * stays.spilled.get(name, 0)
        if name in stays.whole or not self.by_column(name):
            return 1
        return stays.again * len(passes) * self.seen(name, stays)

    def seen(self, name: str, stays: Residency) -> Amount:
        """The share of a streamed tensor that some row of a set needs: tiles without a point do not
        come in."""
        if not numeric(stays.held):
            return 1
        width = {self.mapping.rows: stays.rows * stays.held, self.mapping.columns: self.columns}
        readers = [self.problem.steps[place] for place in self.reads[name]]
        shares = []
        for e in readers:
            ranks = self.problem.spaces[e.target]
            wide = {r: width.get(self.problem.own(r), 1) for r in ranks}
            shares.append(self.problem.tiles(e, wide))
        return larger(shares)

    def given(self, fixed: Fetched, outside: Level, level: Level) -> dict[str, Amount]:
        """Words as an entry of the mapping has them."""
        at = ", ".join(f"|{rank}| = {size}" for rank, size in fixed.at.items())
        self.flows[outside.name].told = f"fetched as given for {at}"
        shares: dict[str, Amount] = {}
        for name in self.reads:
            if name not in self.phase:
                words = fixed.times.get(name, 1.0) * self.problem.words(name)
                self.move(outside, level, name, self.first_reader(name), words)
        for name, times in fixed.times.items():
            if name in self.phase and name not in self.problem.outputs and name not in self.later:
                # Out once, and in again the other times.
                shares[name] = min(1.0, times / 2)
                words = self.problem.words(name)
                self.out(outside, name, shares[name] * words)
                inside = (times - shares[name]) * words
                self.move(outside, level, name, self.first_reader(name), inside)
        return shares

    def leave(self) -> None:
        """Outputs, and what a later phase reads, go to memory."""
        for name in self.phase:
            if name in self.problem.outputs or name in self.later:
                self.out(self.machine.memory, name, self.problem.words(name))

    def move(self, outside: Level, level: Level, name: str, reader: str, words: Amount) -> None:
        flow = self.flows[outside.name]
        flow.add(flow.read, name, reader, words)
        flow = self.flows[level.name]
        flow.add(flow.written, name, reader, words)

    def out(self, outside: Level, name: str, words: Amount) -> None:
        flow = self.flows[outside.name]
        flow.add(flow.written, name, name, words)

    def first_reader(self, name: str) -> str:
        return self.problem.steps[min(self.reads[name])].target

    def by_row(self, name: str) -> bool:
        return self.mapping.rows in self.problem.cascade.axes(name)

    def by_column(self, name: str) -> bool:
        axes = {self.problem.own(r) for r in self.problem.cascade.axes(name)}
        return bool(self.mapping.columns and self.problem.streamed(self.mapping.columns) & axes)

    # -- between the innermost buffer and the arrays

    def serve(self, level: Level, outside: dict[str, Amount]) -> None:
        flow = self.flows[level.name]
        for name in self.phase:
            einsum = self.problem.definitions[name]
            loops = self.loops(einsum)
            width = widths(self.problem, self.machine, self.mapping, einsum)
            steps = self.problem.steps_taken(einsum, width)
            share = smaller((self.problem.tiles(einsum, width), steps))
            for read in self.problem.reads[name]:
                if not self.handed_on(read, einsum):
                    again = product(n for r, n in loops.items() if r not in read.ranks)
                    words = product(map(self.problem.extent, read.ranks)) * again * share
                    flow.add(flow.read, read.tensor, name, words)
            parts = self.sums_under_way(einsum, loops)
            words = self.problem.words(name) * share
            if not numeric(parts) or parts > 1:
                flow.add(flow.read, name, name, words * (parts - 1))
                flow.add(flow.written, name, name, words * (parts - 1))
            if self.kept(name):
                flow.add(flow.written, name, name, words * (1 - outside.get(name, 0)))

    def loops(self, einsum: Einsum) -> dict[str, Amount]:
        """The loops around one tile of an Einsum on its array, and their turns."""
        found: dict[str, Amount] = {}
        along = self.mapping.along(einsum.target)
        width = widths(self.problem, self.machine, self.mapping, einsum)
        for rank in self.problem.spaces[einsum.target]:
            own = self.problem.own(rank)
            if own in along or own in self.outer:
                found[rank] = quotient(self.problem.extent(rank), width[rank])
        return found

    def sums_under_way(self, einsum: Einsum, loops: dict[str, Amount]) -> Amount:
        """Over how many tiles a reduction gathers, each time by way of the buffer."""
        if not isinstance(einsum.body, Reduce) or self.common:
            return 1
        return product(loops[r] for r in einsum.body.ranks if r in loops)

    def kept(self, name: str) -> bool:
        """Whether a result goes into the buffer: some reader does not get it handed on."""
        if name in self.problem.outputs or name in self.later:
            return False
        return any(
            read.tensor == name and not self.handed_on(read, self.problem.definitions[reader])
            for reader in self.phase
            for read in self.problem.reads[reader]
        )

    @property
    def common(self) -> bool:
        registers = self.machine.registers
        return registers is not None and registers.registers == COMMON

    def handed_on(self, read: Read, reader: Einsum) -> bool:
        """Whether a result reaches its reader without the buffer."""
        name, bind = read.tensor, self.mapping.bind
        if name not in self.phase:
            return False
        apart = bind[name] != bind[reader.target] or self.mapping.along(name) != self.mapping.along(
            reader.target
        )
        if not self.common and (read.past or read.last or apart):
            return False
        axes = [self.problem.own(r) for r in self.problem.cascade.axes(name)]
        waits = [
            r
            for r in axes
            if self.problem.level_of(reader.target, r) > self.problem.level_of(name, r)
        ]
        return not waits or self.fits(name, axes, waits)

    def fits(self, name: str, axes: list[str], waits: list[str]) -> bool:
        """Whether the elements keep a tile of a result until all of it is there: one word each, or
        as many as their registers have room for."""
        einsum = self.problem.definitions[name]
        along = widths(self.problem, self.machine, self.mapping, einsum)
        width = {self.problem.own(r): along[r] for r in reversed(einsum.ranks)}
        sizes = {r: self.problem.extent(r) for r in waits}
        if all(numeric(size) and size <= width[r] for r, size in sizes.items()):
            return True
        registers = self.machine.registers
        if registers is None or registers.size == float("inf"):
            return False
        tile: Amount = 1
        for rank in axes:
            if rank in self.outer:
                continue
            size = self.problem.extent(rank)
            on = any(rank in ranks for ranks in self.mapping.space.values())
            inside = rank in waits or not on
            tile = tile * (size if inside else lanes(self.machine, self.mapping, rank))
        room = registers.size / registers.copies
        return bool(numeric(tile) and tile * self.machine.word <= room)

    def operate(self, level: Level) -> None:
        """Operands and results of every operation."""
        flow = self.flows[level.name]
        for name in self.phase:
            for kind, count in self.work[name].operations.items():
                flow.add(flow.read, "operands", name, count * READS.get(kind, 2))
                flow.add(flow.written, "results", name, count)
