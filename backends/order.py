"""The order in which Einsums are evaluated: one by one, or step by step where they recur."""

from __future__ import annotations

from dataclasses import dataclass

from attnc.ir.cascade import Cascade, Einsum
from attnc.ir.expr import ZERO
from attnc.ir.walk import accesses


@dataclass(frozen=True, slots=True)
class Group:
    """Einsums, in program order, that depend on one another through the ranks of a recurrence.

    Without ranks there is one Einsum, which runs at once.
    """

    einsums: tuple[Einsum, ...]
    ranks: tuple[str, ...]


def groups(cascade: Cascade) -> tuple[Group, ...]:
    """Strongly connected components of the dependences, each behind those that it reads."""
    reads = _reads(cascade)
    found: list[Group] = []
    for component in _components(reads):
        numbers = sorted(component)
        einsums = tuple(cascade.einsums[n] for n in numbers)
        recurs = len(numbers) > 1 or numbers[0] in reads[numbers[0]]
        steps = (left.rank for e in einsums for left in e.left if left.step == "next")
        found.append(Group(einsums, tuple(dict.fromkeys(steps)) if recurs else ()))
    return tuple(found)


def _reads(cascade: Cascade) -> list[set[int]]:
    """For each Einsum the Einsums that must run before it, or with it."""
    defined: dict[str, list[int]] = {}
    for number, einsum in enumerate(cascade.einsums):
        defined.setdefault(einsum.target, []).append(number)
    stepped = cascade.iterative()
    found: list[set[int]] = []
    for einsum in cascade.einsums:
        own: set[int] = set()
        for expr in (einsum.body, einsum.where):
            for access in accesses(expr):
                makers = defined.get(access.tensor, [])
                if (
                    access.tensor in stepped
                    and access.subscripts[stepped[access.tensor][0]] == ZERO
                ):
                    makers = [n for n in makers if _starts(cascade.einsums[n])]
                own.update(makers)
        found.append(own)
    return found


def _starts(einsum: Einsum) -> bool:
    return any(left.step == "start" for left in einsum.left)


def _components(reads: list[set[int]]) -> list[list[int]]:
    """Tarjan's algorithm (1972) without recursion; a component comes after those it reads."""
    index: dict[int, int] = {}
    low: dict[int, int] = {}
    stack: list[int] = []
    on_stack: set[int] = set()
    found: list[list[int]] = []
    for root in range(len(reads)):
        if root in index:
            continue
        work = [(root, iter(sorted(reads[root])))]
        index[root] = low[root] = len(index)
        stack.append(root)
        on_stack.add(root)
        while work:
            node, targets = work[-1]
            for target in targets:
                if target not in index:
                    index[target] = low[target] = len(index)
                    stack.append(target)
                    on_stack.add(target)
                    work.append((target, iter(sorted(reads[target]))))
                    break
                if target in on_stack:
                    low[node] = min(low[node], index[target])
            else:
                work.pop()
                if work:
                    low[work[-1][0]] = min(low[work[-1][0]], low[node])
                if low[node] == index[node]:
                    component: list[int] = []
                    while not component or component[-1] != node:
                        component.append(stack.pop())
                        on_stack.discard(component[-1])
                    found.append(component)
    return found
