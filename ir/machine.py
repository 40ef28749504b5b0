"""An accelerator as plain data: memory, a buffer, arrays of processing elements, and a mapping.

    machine = Machine(clock, word, memory, buffer, arrays, energy, mapping)
    array   = Array(name, shape, cycles)                 lanes along each axis, cycles by operation
    mapping = Mapping(space, bind, overlap, phases, ...)  which Einsum runs where, and what overlaps

The kinds of operations are those that `algebra.OPS` counts. A fused pair is written "add>exp": the
array does both in so many cycles.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from attnc.ir.source import NOWHERE, Span


@dataclass(frozen=True, slots=True)
class Memory:
    """Off-chip memory: bytes per second, picojoules per byte."""

    bandwidth: float
    energy: float


@dataclass(frozen=True, slots=True)
class Array:
    """Processing elements side by side along one or two axes.

    `cycles` gives for each kind of operation the cycles that an element takes for one; `energy`
    picojoules for one.
    """

    name: str
    shape: tuple[int, ...]
    cycles: dict[str, float]
    energy: dict[str, float]


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
    """How often tensors are moved at one extent of a rank, as a mapper outside of ours chose."""

    rank: str
    extent: int
    times: dict[str, float]


@dataclass(frozen=True, slots=True)
class Mapping:
    """A cascade on a machine.

    `space` gives for each array the ranks along its axes; `bind` the array of each Einsum.
    `overlap` are groups that follow one another; without it all of a phase overlap. `phases` are
    Einsums between which everything goes through memory; without it there is one. `held` is how
    many tiles of rows stay in the buffer at once; 0 for as many as fit.
    """

    cascade: str
    rows: str
    columns: str
    space: dict[str, tuple[str, ...]]
    bind: dict[str, str]
    overlap: tuple[Overlap, ...] = ()
    phases: tuple[tuple[str, ...], ...] = ()
    fetched: tuple[Fetched, ...] = ()
    held: int = 0


@dataclass(frozen=True, slots=True)
class Machine:
    """A described accelerator. `clock` in hertz, `word` and `buffer` in bytes."""

    name: str
    clock: float
    word: int
    buffer: int
    memory: Memory
    arrays: dict[str, Array]
    mapping: Mapping | None
    source: str = ""
    span: Span = field(default=NOWHERE, compare=False, repr=False)
