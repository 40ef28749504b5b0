"""Which iterative tensors share a sweep, and which wait for the end of another."""

from __future__ import annotations

from collections.abc import Collection

from attnc.ir.cascade import Cascade
from attnc.ir.expr import Access, Extent, Index
from attnc.ir.source import InvalidIR
from attnc.ir.walk import accesses


class Stages:
    """The sweeps of one kernel: a tensor that reads T[|i|] belongs to a later one than T.

    Along the ranks of `grid` nothing is swept: every position has an instance of its own.
    """

    def __init__(
        self,
        cascade: Cascade,
        roots: tuple[str, ...],
        memory: frozenset[str],
        grid: Collection[str] = (),
    ) -> None:
        self.cascade, self.roots, self.memory = cascade, roots, memory
        self.stepped = cascade.iterative()
        self.loops = {rank for _, rank in self.stepped.values()} - set(grid)
        self.reads: dict[str, list[Access]] = {}
        self.starts: dict[str, list[Access]] = {}
        for einsum in cascade.einsums:
            found = [a for expr in (einsum.body, einsum.where) for a in accesses(expr)]
            self.reads.setdefault(einsum.target, []).extend(found)
            if any(left.step == "start" for left in einsum.left):
                self.starts[einsum.target] = found
        self.needed = self._needed()

    def loop_ranks(self, tensor: str) -> tuple[str, ...]:
        """The ranks of a tensor along which a loop runs."""
        return tuple(rank for rank in self.cascade.axes(tensor) if rank in self.loops)

    def sweep(self, rank: str, wanted: frozenset[str]) -> tuple[list[str], list[str]]:
        """The states and the stored tensors of the sweep in which `wanted` are computed."""
        level = self._levels(rank)
        stage = max(level[name] for name in wanted)
        around = {own for name in wanted for own in self.loop_ranks(name)}
        states = [
            name
            for name, (_, own) in self.stepped.items()
            if own == rank and name in self.needed and level[name] == stage
            and set(self.loop_ranks(name)) <= around  # what another loop runs around is its own
        ]  # fmt: skip
        stores = [
            root for root in self.roots if rank in self.loop_ranks(root) and level[root] == stage
        ]
        return states, stores

    def before(self, rank: str, wanted: frozenset[str]) -> list[str]:
        """States of earlier sweeps over a rank that `wanted` wait for, in order."""
        level = self._levels(rank)
        stage = max(level[name] for name in wanted)
        states = [
            name
            for name, (_, own) in self.stepped.items()
            if own == rank and name in self.needed and level[name] < stage
        ]
        return sorted(states, key=level.__getitem__)

    def _needed(self) -> set[str]:
        found: set[str] = set()
        stack = list(self.roots)
        while stack:
            name = stack.pop()
            if name not in found and (name not in self.memory or name in self.roots):
                found.add(name)
                stack.extend(access.tensor for access in self.reads.get(name, ()))
        return found

    def _levels(self, rank: str) -> dict[str, int]:
        """How many earlier sweeps over a rank each tensor waits for."""
        level = dict.fromkeys(self.reads, 0)
        for _ in range(len(level) + 1):
            before = dict(level)
            for name, reads in self.reads.items():
                for access in (own for read in reads for own in self._known(read, rank)):
                    if access.tensor in level and access.tensor not in self.memory:
                        wait = 1 if self._is_final(access, rank) else 0
                        level[name] = max(level[name], level[access.tensor] + wait)
            if level == before:
                return level
        raise InvalidIR(f"{self.cascade.name}: sweeps over {rank} wait for one another")

    def _known(self, access: Access, rank: str) -> list[Access]:
        """What a reading waits for: of a state in a turn of another loop only where it starts."""
        stepped = self.stepped.get(access.tensor)
        if stepped is None or stepped[1] == rank:
            return [access]
        axis, other = stepped
        return self.starts[access.tensor] if access.subscripts[axis] == Index(other) else [access]

    def _is_final(self, access: Access, rank: str) -> bool:
        stepped = self.stepped.get(access.tensor)
        return (
            stepped is not None
            and stepped[1] == rank
            and access.subscripts[stepped[0]] == Extent(rank)
        )
