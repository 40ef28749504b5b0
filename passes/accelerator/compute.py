"""Operations and cycles of each Einsum, and how long groups of them hold the arrays."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace

from attnc.ir.cascade import Einsum
from attnc.ir.machine import Machine, Mapping, Overlap
from attnc.ir.source import CompileError
from attnc.passes.accelerator.amounts import (
    Amount,
    larger,
    numeric,
    product,
    quotient,
    smaller,
    told,
)
from attnc.passes.accelerator.binding import independent, lanes, widths
from attnc.passes.accelerator.problem import Problem


@dataclass(frozen=True, slots=True)
class Work:
    """Operations of an Einsum by kind, the cycles that it holds its array, and their formula."""

    operations: dict[str, Amount]
    cycles: Amount
    formula: str


def work(problem: Problem, machine: Machine, mapping: Mapping, einsum: Einsum) -> Work:
    """What an Einsum does on its array.

    It takes the ranks along the axes of the array so many positions at once, leaves out tiles in
    which no point exists, and operates on the points that do. A step that waits for the one before
    it takes at least the latency of its operations. Raises CompileError where the array lacks one.
    """
    array = machine.arrays[mapping.bind[einsum.target]]
    ranks = problem.spaces[einsum.target]
    width = widths(problem, machine, mapping, einsum)
    taken = problem.steps_taken(einsum, width)
    share, tiles = problem.share(einsum), problem.tiles(einsum, width)
    share, tiles = smaller((share, taken)), smaller((tiles, taken))
    counts: dict[str, Amount] = {}
    cycles: Amount = 0
    parts: list[str] = []
    for (kind, over), times in fused(problem.operations[einsum.target], array.cycles).items():
        if kind not in array.cycles:
            raise CompileError(
                f"{array.name} of {machine.name} has no {kind}, which {einsum.target} needs",
                machine.span,
                help=f"it has {', '.join(array.cycles)}: bind {einsum.target} to another array",
            )
        counts[kind] = counts.get(kind, 0) + product(map(problem.extent, over)) * times * share
        serial = product(quotient(problem.extent(r), width.get(r, 1)) for r in over)
        cycles = cycles + serial * times * tiles * array.cycles[kind]
        loops = [
            f"ceil({problem.extent(r)} / {width[r]})" if width.get(r, 1) > 1
            else str(problem.extent(r))
            for r in sorted(over)
        ]  # fmt: skip
        parts.append(
            f"{times} {kind} x {array.cycles[kind]} x "
            + " x ".join(loops or ["1"])
            + ("" if numeric(tiles) and tiles == 1 else f" x {_part(tiles)} of the tiles")
        )
    text = " + ".join(parts) or "0"
    if array.copies > 1:
        count = independent(problem, machine, mapping, ranks)
        cycles = cycles * quotient(count, array.copies) / count
        text = f"({text}) x ceil({count} / {array.copies}) of {count} tiles"
    wait = _wait(problem, einsum, array.latency)
    if numeric(cycles) and numeric(wait) and wait > cycles:
        cycles, text = (
            wait,
            f"{problem.stepped[einsum.target][1]} steps that wait, each its latency",
        )
    return Work(counts, cycles, f"{text} = {told(cycles)} cycles")


def _part(share: Amount) -> str:
    return f"{share:.4g}" if numeric(share) else f"({share})"


def fused(
    work: Counter[tuple[str, frozenset[str]]], cycles: object
) -> Counter[tuple[str, frozenset[str]]]:
    """Operations with those pairs as one that an array does together."""
    assert isinstance(cycles, dict)
    found = Counter(work)
    for pair in (kind for kind in cycles if ">" in kind):
        first, second = pair.split(">")
        for over in [o for kind, o in work if kind == second and (first, o) in work]:
            times = min(found[first, over], found[second, over])
            found[first, over] -= times
            found[second, over] -= times
            found[pair, over] += times
    return +found


def _wait(problem: Problem, einsum: Einsum, latency: object) -> Amount:
    """Cycles of the steps along a rank that a state takes one after another."""
    assert isinstance(latency, dict)
    if einsum.target not in problem.stepped:
        return 0
    _, rank = problem.stepped[einsum.target]
    kinds = {kind for kind, _ in problem.operations[einsum.target]}
    return problem.extent(rank) * sum(latency.get(kind, 0.0) for kind in kinds)


@dataclass(frozen=True, slots=True)
class Busy:
    """Cycles of a phase, and of those the ones in which each array is the busiest."""

    cycles: Amount
    waited: dict[str, Amount]


def groups(
    machine: Machine, mapping: Mapping, problem: Problem, phase: tuple[str, ...],
    cycles: dict[str, Amount],
) -> Busy:  # fmt: skip
    """The groups of a phase one after another, each as long as its busiest array."""
    found = [
        replace(g, einsums=tuple(e for e in g.einsums if e in phase)) for g in mapping.overlap
    ] or [Overlap(phase)]
    total: Amount = 0
    waited: dict[str, Amount] = {}
    for group in found:
        by_array: dict[str, Amount] = {}
        for name in group.einsums:
            array = mapping.bind[name]
            by_array[array] = by_array.get(array, 0) + cycles[name]
        longest = larger(by_array.values())
        total = total + longest
        if not by_array:
            continue
        array = next((a for a, value in by_array.items() if value == longest), next(iter(by_array)))
        waited[array] = waited.get(array, 0) + longest
        if group.drain:
            total = total + _drained(problem, machine, mapping, array, group.einsums)
    return Busy(total, waited)


def _drained(
    problem: Problem, machine: Machine, mapping: Mapping, array: str, einsums: tuple[str, ...]
) -> Amount:
    """One cycle for each row of an array and each tile that it works on."""
    ranks = dict.fromkeys(
        r
        for name in einsums
        if mapping.bind[name] == array
        for r in problem.definitions[name].ranks
    )
    tiles = product(
        quotient(problem.extent(r), lanes(machine, mapping, problem.own(r), array)) for r in ranks
    )
    return tiles * machine.arrays[array].shape[0]
