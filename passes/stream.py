"""Put the long ranks of a cascade into loops: recurrences by chunks, reductions by running states.

What cannot be is left as it is, with a note for the heading of the kernel.
"""

from __future__ import annotations

from dataclasses import dataclass

from attnc.ir.cascade import Cascade
from attnc.passes.fiber import fiber
from attnc.passes.mapping import Mapping
from attnc.passes.online import Running, online
from attnc.passes.partition import is_part
from attnc.passes.recurrences.ahead import Ahead, ahead
from attnc.passes.recurrences.apart import apart
from attnc.passes.recurrences.behind import behind
from attnc.passes.recurrences.chunk import Chunked, chunk
from attnc.passes.recurrences.recurrence import NoRecurrence
from attnc.passes.split import CannotSplit, Split, split
from attnc.passes.tiling import CannotTile


def told(running: Running, rank: str) -> str:
    """What became of a reduction, in a sentence."""
    return (
        f"{running.einsum} runs along {rank}, its state corrected by {running.correction} "
        "whenever a tile changes what it waits for"
    )


@dataclass(frozen=True, slots=True)
class Chunks:
    """A cascade whose linear recurrences go by chunks, what is stored, the ranks along which its
    recurrences go, those of chunks that stand side by side, what had better be alone in its kernel,
    the ranks that are streamed for that, and the story."""

    cascade: Cascade
    stored: tuple[str, ...]
    ranks: tuple[str, ...]
    parallel: tuple[str, ...]
    alone: tuple[str, ...]
    streamed: tuple[str, ...]
    notes: tuple[str, ...]


def in_chunks(cascade: Cascade, plan: Mapping, stored: tuple[str, ...]) -> Chunks:
    """Put every linear recurrence in chunks, and say of the others why they go by steps."""
    notes: list[str] = []
    ranks: list[str] = []
    parallel: list[str] = []
    alone: list[str] = []
    streamed: list[str] = []
    for rank in dict.fromkeys(own for _, own in cascade.iterative().values()):
        sizes = plan.chunk(rank)
        if is_part(cascade, rank):
            continue
        ranks.append(rank)
        if sizes[0] < 2:
            continue
        wide = _long_states(cascade, rank, plan)
        if wide:
            notes.append(f"no chunks: {rank} goes by steps, because its state has the long {wide}")
            continue
        try:
            made = chunk(cascade, rank, sizes, stored)
        except (NoRecurrence, CannotTile) as error:
            notes.append(
                f"no chunks: {rank} goes by steps, because {error.einsum.target} {error.reason}"
            )
            continue
        ranks.append(made.outer)
        notes.extend(
            f"chunk: {step.target} goes from chunk to chunk of {made.size}: {told}"
            for step, _, told in made.told
        )
        rest = _elsewhere(made, rank, plan.apart(cascade, rank, made.size), plan, stored)
        cascade, stored = rest.cascade, rest.stored
        parallel += rest.parallel
        alone += rest.alone
        streamed += rest.streamed
        notes += rest.notes
    return Chunks(
        cascade, stored, tuple(ranks), tuple(parallel), tuple(alone), tuple(streamed), tuple(notes)
    )


def _elsewhere(
    made: Chunked, rank: str, side_by_side: bool, plan: Mapping, stored: tuple[str, ...]
) -> Chunks:
    """What leaves the sweep for kernels that have all chunks of a rank side by side."""
    notes: list[str] = []
    first = Ahead(made.cascade, (), ())
    if plan.target.processors and plan.sizes.get(rank, 2 * made.size) > made.size:
        first = ahead(made.cascade, made.outer, stored, bool(plan.crowded))
    cascade, stored = first.cascade, (*stored, *first.before, *first.stored)
    if first.stored:
        what = ", ".join((*first.before, *first.stored))
        notes.append(f"ahead: all chunks of {rank} make {what} side by side, then the sweep")
    for column in sorted(plan.crowded):
        read = behind(cascade, made.outer, column)
        stored = (*stored, *read)
        if read:
            notes.append(
                f"behind: the sweep stores {', '.join(read)}, all chunks of {rank} then "
                f"sum over {column} side by side"
            )
    if side_by_side:
        cascade, between = apart(cascade, made.outer)
        stored = (*stored, *between)
        notes.append(f"apart: {rank} stands side by side, but for the sweep")
    parallel = (made.outer,) if notes else ()
    stored = tuple(dict.fromkeys(stored))
    return Chunks(cascade, stored, (), parallel, first.stored, first.streamed, tuple(notes))


def _long_states(cascade: Cascade, rank: str, plan: Mapping) -> str:
    """The ranks of the states along a rank that do not lie whole within a tile."""
    ranks = {
        own
        for name, (_, stepped) in cascade.iterative().items()
        if stepped == rank
        for own in cascade.axes(name)
        if own != rank and own not in cascade.batch and own in plan.long
    }
    return ", ".join(sorted(ranks))


@dataclass(frozen=True, slots=True)
class Streamed:
    """A cascade whose reductions run, the splits among them by the rank of their tiles, and the
    story."""

    cascade: Cascade
    splits: dict[str, Split]
    notes: tuple[str, ...]


def stream(cascade: Cascade, plan: Mapping, stored: tuple[str, ...]) -> Streamed:
    """Make every reduction over a long rank a running one, and say where that cannot be.

    A rank that cannot be cut lies whole within a tile: right, but at the cost of its length.
    Raises CompileError where a schedule splits what cannot be split.
    """
    notes: list[str] = []
    splits: dict[str, Split] = {}
    single = plan.one_by_one(cascade)
    for rank in sorted(plan.long):
        if not fiber(cascade, rank).reductions:
            plan.refuse(cascade, rank, "no Einsum reduces over it alone")
            continue
        tile = 1 if is_part(cascade, rank) or rank in single else plan.stream
        try:
            result = online(cascade, rank, tile, stored)
        except CannotTile as error:
            reason = f"{error.einsum.target} {error.reason}"
            notes.append(f"whole tile: {rank} is not cut, because {reason}")
            plan.refuse(cascade, rank, reason)
            continue
        notes.extend(f"running {r.law}: {told(r, rank)}" for r in result.running)
        walkers, parts = plan.walkers(cascade, rank, tile), plan.parts(cascade, rank, tile)
        cascade = result.cascade
        if max(walkers, parts) > 1:
            try:
                made = split(result, walkers, plan.long) if walkers > 1 else split(result, parts)
            except CannotSplit as error:
                notes.append(f"no split: {rank} is not split, because {error.reason}")
                plan.refuse(cascade, rank, error.reason)
                continue
            notes.append(
                f"share: {walkers} instances have equal shares of the tiles of {rank} in all rows, "
                "then the states of a row merge"
                if walkers > 1
                else f"split: {parts} parts of {rank} run side by side, then their states merge"
            )
            cascade, stored = made.cascade, (*stored, *made.stored)
            splits[result.outer] = made
    return Streamed(cascade, splits, tuple(notes))
