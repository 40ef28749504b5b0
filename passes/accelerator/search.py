"""The best tile sizes and residency of a cascade on a machine, by exact enumeration.

Tried are all sizes of partitioned ranks among the divisors near the widths of the arrays, all ways
to lay rows and columns along the axes, and all choices of what is held from end to end. How many
tiles of rows stay needs no trying: more of them never move more words, so it is as many as fit.
Choices come in the order of the time that their arrays alone take; one that cannot be better than
the best so far, by that time and by the words that must move in any case, is not looked at.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import combinations, permutations, product

from attnc.ir.cascade import Cascade
from attnc.ir.expr import Param
from attnc.ir.machine import Array, Machine, Mapping
from attnc.ir.params import with_params
from attnc.passes.accelerator.binding import mapped
from attnc.passes.accelerator.compute import Work, groups, work
from attnc.passes.accelerator.model import Modelled, Run
from attnc.passes.accelerator.problem import Problem
from attnc.passes.accelerator.residency import TooLarge, divisors, read_in, residency

NEAR = 8
"""How much smaller or larger than an array a tile may be."""
MOST_HELD = 4


@dataclass(frozen=True, slots=True)
class Choice:
    """The best mapping: sizes of parts by parameter, what each buffer keeps (rows of tiles held,
    of how many, for each phase), and how many mappings were tried, too large, or not looked at."""

    modelled: Modelled
    mapping: Mapping
    params: dict[str, int]
    stays: tuple[tuple[str, int, int], ...]
    tried: int
    too_large: int
    pruned: int


def search(
    cascade: Cascade, machine: Machine, sizes: dict[str, int], fixed: frozenset[str] = frozenset()
) -> Choice:
    """The mapping of least latency; of those, that of least traffic, then of least energy.

    Parameters in `fixed` keep their value. Raises CompileError where nothing fits.
    """
    candidates = _candidates(cascade, machine, sizes, fixed)
    open_ = sorted(candidates, key=lambda one: (one.seconds, one.bytes))
    best: tuple[tuple[float, float, float], Run, _Candidate] | None = None
    tried = too_large = pruned = 0
    fault: TooLarge | None = None
    for one in open_:
        for hold in _holds(one, machine):
            if best is not None and (one.seconds, one.bytes) >= best[0][:2]:
                pruned += 1
                continue
            mapping = replace(one.mapping, hold=hold)
            try:
                run = Run(one.problem, machine, mapping, one.work)
            except TooLarge as error:
                fault = fault or error
                too_large += 1
                continue
            tried += 1
            found = run.result()
            worth = found.latency, found.dram_bytes, found.energy["total"]
            if best is None or worth < best[0]:
                best = worth, run, one
    if best is None:
        assert fault is not None
        raise fault
    _, run, chosen = best
    return Choice(
        run.result(), run.mapping, chosen.params, tuple(_stays(run)), tried, too_large, pruned
    )


@dataclass(frozen=True, slots=True)
class _Candidate:
    """Tile sizes and axes: what the arrays take for them, and the least that must move."""

    params: dict[str, int]
    problem: Problem
    mapping: Mapping
    work: dict[str, Work]
    seconds: float
    bytes: float


def _candidates(
    cascade: Cascade, machine: Machine, sizes: dict[str, int], fixed: frozenset[str]
) -> Iterator[_Candidate]:
    for params in _params(cascade, machine, sizes, fixed):
        problem = Problem(with_params(cascade, dict(params)), sizes)
        given = replace(mapped(problem, machine), fetched=(), held=0)
        least = machine.word * sum(
            problem.words(name)
            for name in {*read_in(problem, tuple(problem.definitions)), *problem.outputs}
            if name not in problem.definitions or name in problem.outputs
        )
        for space in _spaces(machine, given):
            mapping = replace(given, space=space)
            done = {e.target: work(problem, machine, mapping, e) for e in problem.steps}
            cycles = {name: one.cycles for name, one in done.items()}
            phases = mapping.phases or (tuple(done),)
            busy = sum(groups(machine, mapping, problem, p, cycles).cycles for p in phases)
            seconds = max(busy / machine.clock, least / machine.memory.bandwidth)
            yield _Candidate(params, problem, mapping, done, seconds, least)


def _params(
    cascade: Cascade, machine: Machine, sizes: dict[str, int], fixed: frozenset[str]
) -> Iterator[dict[str, int]]:
    """Sizes of the parts of ranks: parameters that a declared rank has as its extent."""
    parts = dict.fromkeys(d.extent.name for d in cascade.ranks if isinstance(d.extent, Param))
    names = [name for name in parts if name not in fixed]
    widths = {width for array in machine.arrays.values() for width in array.shape}
    near = {
        d
        for size in sizes.values()
        for d in divisors(size)
        if any(width <= NEAR * d and d <= NEAR * width for width in widths)
    }
    tried = sorted(near | {w for w in widths if w <= max(sizes.values())}) or [1]
    for values in product(tried, repeat=len(names)):
        yield dict(zip(names, values))


def _spaces(machine: Machine, mapping: Mapping) -> Iterator[dict[str, tuple[str, ...]]]:
    """Ways to lay rows and columns along the axes of each array, like ones once."""
    ranks = [rank for rank in (mapping.rows, mapping.columns) if rank]
    ways = [list(_ways(array, ranks)) for array in machine.arrays.values()]
    for one in product(*ways):
        yield dict(zip(machine.arrays, one))


def _ways(array: Array, ranks: list[str]) -> Iterator[tuple[str, ...]]:
    seen: set[frozenset[tuple[str, int]]] = set()
    for way in permutations(ranks, min(len(array.shape), len(ranks))):
        kind = frozenset(zip(way, array.shape))
        if kind not in seen:
            seen.add(kind)
            yield way


def _holds(one: _Candidate, machine: Machine) -> Iterator[dict[str, str]]:
    """What the innermost buffer holds from end to end: nothing, or some of what is streamed or
    waits for another pass; that of the mapping first."""
    inner = machine.buffers[-1].name
    given = dict(one.mapping.hold)
    problem, columns = one.problem, one.mapping.columns
    streamed = problem.streamed(columns) if columns else frozenset()
    readers = read_in(problem, tuple(problem.definitions))
    names = [
        name
        for name in readers
        if name not in given
        and streamed & {problem.own(r) for r in problem.cascade.axes(name)}
        and (name not in problem.definitions or len(_passes(one, readers[name])) > 1)
    ]
    names = sorted(names, key=problem.words)[:MOST_HELD]
    for count in range(len(names) + 1):
        for chosen in combinations(names, count):
            yield given | dict.fromkeys(chosen, inner)


def _passes(one: _Candidate, readers: frozenset[int]) -> set[int]:
    steps, columns = one.problem.steps, one.mapping.columns
    return {one.problem.level_of(steps[place].target, columns) for place in readers}


def _stays(run: Run) -> Iterator[tuple[str, int, int]]:
    for level in run.machine.buffers:
        for phase in run.phases:
            stays = residency(run.problem, run.machine, run.mapping, phase, level)
            yield level.name, int(stays.held), int(stays.tiles)
