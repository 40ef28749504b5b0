"""Which program a call takes where it depends on extents whether a sum is worth regrouping."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from attnc.backends.launch import Kernel
from attnc.backends.tiles import Executable
from attnc.passes.recurrences.reassociate import Work

Runner = Executable | Kernel


class Crossover:
    """The programs of a cascade by which of its sums are regrouped, made when first called for.

    A short sequence is cheaper with its product of two long ranks, a long one with a state.
    """

    def __init__(
        self,
        sums: tuple[Work, ...],
        runner: Runner,
        make: Callable[[frozenset[str]], Runner],
    ) -> None:
        self.sums, self.make = sums, make
        self.runners = {self.regrouped({}): runner}
        self.last = runner

    def regrouped(self, extents: Mapping[str, int]) -> frozenset[str]:
        """The sums to regroup at some extents: all or none, since they share what they sum."""
        worth = all(work.falls(extents) for work in self.sums)
        return frozenset(work.target for work in self.sums) if worth else frozenset()

    def runner(self, extents: Mapping[str, int]) -> Runner:
        """The program for a call."""
        wanted = self.regrouped(extents)
        if wanted not in self.runners:
            self.runners[wanted] = self.make(wanted)
        self.last = self.runners[wanted]
        return self.last
