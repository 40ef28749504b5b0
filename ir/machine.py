"""An accelerator as plain data: levels of memory, arrays of processing elements, and a mapping.

    machine = Machine(name, clock, word, levels, arrays, mapping)
    level   = Level(name, size, bandwidth, read, write, area, copies, registers)   outermost first
    array   = Array(name, shape, cycles, latency, energy, area)      lanes by axis; by operation
    mapping = Mapping(space, bind, overlap, phases, hold, ...)       what runs where and stays where

The kinds of operations are those that `algebra.OPS` counts. A fused pair is written "add>exp": the
array does both in so many cycles.
"""

from __future__ import annotations

from collections.abc import Mapping as Table
from dataclasses import dataclass, field
from math import inf

from attnc.ir.source import NOWHERE, Span

PRIVATE, COMMON = "private", "common"
"""Registers of one element alone, or registers through which arrays hand words to one another."""


@dataclass(frozen=True, slots=True)
class Level:
    """One level of memory: bytes, bytes a second, picojoules and square micrometres for a byte.

    A level of several `copies` has one beside each copy of the arrays; `size` and `bandwidth` are
    those of all together. `registers` says of the innermost level whether it is that of the
    elements, and whose words they see.
    """

    name: str
    size: float = inf
    bandwidth: float = inf
    read: float = 0.0
    write: float = 0.0
    area: float = 0.0
    copies: int = 1
    registers: str = ""
    span: Span = field(default=NOWHERE, compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class Array:
    """Processing elements side by side along one or two axes, all of it in several `copies`, which
    work on tiles of rows and of the batch that do not depend on one another.

    For each kind of operation `cycles` are those between one and the next (the inverse of the
    throughput), `latency` those until a result can be used, `energy` picojoules for one, and `area`
    square micrometres in every element, "element" for what is of no one kind.
    """

    name: str
    shape: tuple[int, ...]
    cycles: Table[str, float]
    latency: Table[str, float]
    energy: Table[str, float]
    area: Table[str, float]
    copies: int = 1


@dataclass(frozen=True, slots=True)
class Overlap:
    """Einsums that run at the same time, each on its own array.

    With `drain` an array must be emptied once for each of its tiles before the next Einsums start.
    """

    einsums: tuple[str, ...]
    drain: bool = False
    span: Span = field(default=NOWHERE, compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class Fetched:
    """How often tensors move at exactly these extents, as a mapper outside of ours chose."""

    at: Table[str, int]
    times: Table[str, float]
    span: Span = field(default=NOWHERE, compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class Artifact:
    """What published energies leave out: words on their way from or into the innermost buffer, by
    tensor, and the operations of whole Einsums."""

    unread: tuple[str, ...] = ()
    unwritten: tuple[str, ...] = ()
    uncomputed: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Mapping:
    """A cascade on a machine.

    `space` gives for each array the ranks along its axes; `bind` the array of each Einsum, `lay`
    for some the ranks that lie along the axes instead of those of the array.
    `overlap` are groups that follow one another; without it all of a phase overlap. `phases` are
    Einsums between which everything goes through memory; without it there is one. `hold` says of
    tensors in which level they stay. `held` is how many tiles of rows stay in the buffer at once; 0
    for as many as fit. `spans` are the lines of these entries.
    """

    cascade: str
    rows: str
    columns: str
    space: Table[str, tuple[str, ...]]
    bind: Table[str, str]
    overlap: tuple[Overlap, ...] = ()
    phases: tuple[tuple[str, ...], ...] = ()
    fetched: tuple[Fetched, ...] = ()
    lay: Table[str, tuple[str, ...]] = field(default_factory=dict)
    hold: Table[str, str] = field(default_factory=dict)
    held: int = 0
    artifact: Artifact | None = None
    spans: Table[str, Span] = field(default_factory=dict, compare=False, repr=False)

    def along(self, einsum: str) -> tuple[str, ...]:
        """The ranks along the axes of its array while an Einsum runs."""
        return self.lay.get(einsum, self.space.get(self.bind[einsum], ()))


@dataclass(frozen=True, slots=True)
class Machine:
    """A described accelerator. `clock` in hertz, `word` in bytes, levels from the outermost on."""

    name: str
    clock: float
    word: int
    levels: tuple[Level, ...]
    arrays: Table[str, Array]
    mapping: Mapping | None
    span: Span = field(default=NOWHERE, compare=False, repr=False)

    @property
    def memory(self) -> Level:
        """The outermost level, where inputs and outputs live."""
        return self.levels[0]

    @property
    def buffers(self) -> tuple[Level, ...]:
        """The levels between memory and elements, outermost first."""
        return tuple(level for level in self.levels[1:] if not level.registers)

    @property
    def registers(self) -> Level | None:
        """The level of the elements, where it is described."""
        return self.levels[-1] if self.levels[-1].registers else None

    def level(self, name: str) -> Level | None:
        return next((level for level in self.levels if level.name == name), None)
