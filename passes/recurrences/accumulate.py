"""Gates accumulated inside a chunk: between two positions, from its start, to its end.

Each runs over the steps it means and no others, in logarithms where the gate has one (`gates.py`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from attnc.ir.cascade import Cascade
from attnc.ir.expr import ONE, ZERO, Access, Const, Expr, Extent, Index, Map, Reduce, both
from attnc.ir.walk import accesses, rewrite, substitute
from attnc.passes.recurrences.gates import Gate, gate_of
from attnc.passes.recurrences.inside import Inside
from attnc.passes.recurrences.recurrence import Recurrence, carried, following
from attnc.passes.recurrences.scanned import Scanned

Place = Callable[[Access], Access]
"""What stands for a scanned state at a place of a chunk."""

LOWEST = -(2.0**13)
"""A logarithm whose exponential is 0 in every type, as is that of everything below it.

It stands for them where logarithms are added by a matrix of 0 and 1: 0 times minus infinity is no
number. A power of two is a number of every type, so that what is not below keeps its own.
"""


class Accumulated(Inside):
    """The products of gates that a chunk needs."""

    def __init__(
        self,
        cascade: Cascade,
        rank: str,
        size: int,
        stored: tuple[str, ...],
        scans: dict[str, Scanned],
    ) -> None:
        super().__init__(cascade, rank, size, stored, scans)
        self.gates: dict[str, Gate] = {}

    def _gate(self, recurrence: Recurrence) -> Gate:
        if recurrence.state not in self.gates:
            gate = gate_of(recurrence.gate, self.rank, self.facts.definitions, self.scans)
            self.gates[recurrence.state] = gate
        return self.gates[recurrence.state]

    def _carried(self, gate: Gate, recurrence: Recurrence) -> tuple[str, ...]:
        return carried(gate.term, self._ranks(recurrence))

    def _term(self, gate: Gate, recurrence: Recurrence) -> Expr:
        """The gate at a position of a chunk."""
        return self._tiled(gate.term, 0, recurrence.step)

    def _shifts(self, gate: Gate, recurrence: Recurrence) -> bool:
        """Whether a gate is there at the next position too: it is read from memory alone."""
        return all(
            access.tensor in self.stored or self.cascade.input(access.tensor) is not None
            for access in accesses(self._term(gate, recurrence))
        )

    def _between(self, gate: Gate, recurrence: Recurrence, before: bool) -> Expr | None:
        """The gates after an update at the second variable, up to a read at the first."""
        if recurrence.gate == ONE:
            return None
        if gate.telescopes:
            return self._from_to(gate, self._after(self.second), self._at_read(before))
        first, second, third = Index(self.inner), Index(self.second), Index(self.third)
        if gate.steady:
            steps: Expr = Map("-", (first, second))
            return self._steady(gate, recurrence, Map("-", (steps, ONE)) if before else steps)
        ranks = (self.inner, self.second, *self._carried(gate, recurrence))
        if before:
            after = Map("<", (second, third))
            return self._until(gate, recurrence, "between_before", ranks, after)
        where = Map("and", (Map("<=", (third, first)), Map("<", (second, third))))
        return self._accumulated(gate, recurrence, "between", ranks, where, 0)

    def _entering(self, gate: Gate, recurrence: Recurrence, before: bool) -> Expr | None:
        """The gates from the start of the chunk up to a read."""
        if recurrence.gate == ONE:
            return None
        if gate.telescopes:
            return self._from_to(gate, self._start_of, self._at_read(before))
        first, third = Index(self.inner), Index(self.third)
        if gate.steady:
            steps = first if before else Map("+", (first, ONE))
            return self._steady(gate, recurrence, steps)
        ranks = (self.inner, *self._carried(gate, recurrence))
        if before:
            return self._until(gate, recurrence, "from_before", ranks, None)
        until = Map("<=", (third, first))
        return self._accumulated(gate, recurrence, "from", ranks, until, 0)

    def _until(
        self,
        gate: Gate,
        recurrence: Recurrence,
        name: str,
        ranks: tuple[str, ...],
        after: Expr | None,
    ) -> Expr:
        """The gates before a position: up to it, each read one position earlier, if it can be."""
        first, third = Index(self.inner), Index(self.third)
        if not self._shifts(gate, recurrence):
            where = both(Map("<", (third, first)), after)
            return self._accumulated(gate, recurrence, name, ranks, where, 0)
        since: Expr = Map("<", (ZERO, third))
        if after is not None:
            since = substitute(after, {self.third: Map("-", (third, ONE))})
        where = both(Map("<=", (third, first)), since)
        return self._accumulated(gate, recurrence, name, ranks, where, -1)

    def _leaving(self, gate: Gate, recurrence: Recurrence) -> Expr | None:
        """The gates after an update, up to the end of the chunk."""
        if recurrence.gate == ONE:
            return None
        if gate.telescopes:
            return self._from_to(gate, self._after(self.inner), self._end_of)
        first, third = Index(self.inner), Index(self.third)
        if gate.steady:
            last = Map("-", (self._steps(), ONE))
            return self._steady(gate, recurrence, Map("-", (last, first)))
        ranks = (self.inner, *self._carried(gate, recurrence))
        if not self._shifts(gate, recurrence):
            where = Map("<", (first, third))
            return self._accumulated(gate, recurrence, "to", ranks, where, 0)
        inside = Map("<", (Map("+", (third, ONE)), self.length))
        where = Map("and", (Map("<=", (first, third)), inside))
        return self._accumulated(gate, recurrence, "to", ranks, where, 1)

    def _through(self, gate: Gate, recurrence: Recurrence) -> Expr:
        """The gates of a whole chunk."""
        if gate.telescopes:
            return self._from_to(gate, self._start_of, self._end_of)
        if gate.steady:
            return self._steady(gate, recurrence, self._steps())
        ranks = self._carried(gate, recurrence)
        return self._accumulated(gate, recurrence, "all", ranks, None, 0)

    def _from_to(self, gate: Gate, old: Place, new: Place) -> Expr:
        """A gate that telescopes, from the scanned states at one place to those at another."""

        def rule(term: Expr) -> Expr | None:
            scan = self.scans.get(term.tensor) if isinstance(term, Access) else None
            if scan is None:
                return None
            assert isinstance(term, Access)
            return (new if following(term, scan.axis, self.rank) else old)(term)

        return rewrite(gate.term, rule)

    def _start_of(self, state: Access) -> Access:
        """A scanned state at the start of a chunk."""
        return self._scan_at(state, Index(self.outer))

    def _end_of(self, state: Access) -> Access:
        return self._scan_at(state, Map("+", (Index(self.outer), ONE)))

    def _after(self, position: str) -> Place:
        """Where a scanned state is after the step at a position of a chunk."""
        return lambda state: self._moved(self._scanned(state, False), position)

    def _at_read(self, before: bool) -> Place:
        return lambda state: self._scanned(state, before)

    def _moved(self, access: Access, position: str) -> Access:
        moved = substitute(access, {self.inner: Index(position)})
        assert isinstance(moved, Access)
        return moved

    def _steps(self) -> Expr:
        """How many positions of the rank a chunk has."""
        begin = Map("*", (Index(self.outer), self.length))
        return Map("min", (self.length, Map("-", (Extent(self.rank), begin))))

    def _steady(self, gate: Gate, recurrence: Recurrence, steps: Expr) -> Expr:
        return replace(gate, term=self._tiled(gate.term, 0, recurrence.step)).power(steps)

    def _accumulated(
        self,
        gate: Gate,
        recurrence: Recurrence,
        name: str,
        ranks: tuple[str, ...],
        where: Expr | None,
        shift: int,
    ) -> Expr:
        place: Expr = Index(self.third)
        if shift:
            place = Map("+" if shift > 0 else "-", (place, Const(abs(shift))))
        term = substitute(self._term(gate, recurrence), {self.inner: place})
        body = Reduce(gate.op, (self.third,), term, where)
        own = self._made(f"{recurrence.state}_{name}", ranks, body, None, recurrence.step.span)
        return gate.value(own)

    def _in_block(
        self, gate: Gate, recurrence: Recurrence, block: int, before: bool
    ) -> Expr | None:
        """In an odd block the gates up to a position (with `before` not its own), in an even block
        those after it; None where there are none."""
        if block == 1 and before:
            return None
        first, third = Index(self.inner), Index(self.third)
        value = Map("max", (self._term(gate, recurrence), Const(LOWEST)))
        span, ranks = recurrence.step.span, (self.inner, *self._carried(gate, recurrence))

        def gates(logarithm: Expr) -> Expr:
            name = f"{recurrence.state}_gates"
            return self._made(name, ranks, Map("exp", (logarithm,)), None, span)

        if block == 1:
            odd = Map("==", (Map("%", (first, Const(2))), ONE))
            mask = Map("select", (odd, Const(1.0), Const(0.0)))
            way = self._same(f"{recurrence.state}_way", (self.inner,), mask, span)
            return gates(Map("*", (way, value)))
        odd = Map("==", (Map("%", (Map("//", (first, Const(block))), Const(2))), ONE))
        own, other = (Map("//", (place, Const(block))) for place in (first, third))
        until = Map("and", (odd, Map("<" if before else "<=", (third, first))))
        after = Map("and", (Map("not", (odd,)), Map("<", (first, third))))
        inside = Map("and", (Map("==", (own, other)), Map("or", (until, after))))
        mask = Map("select", (inside, Const(1.0), Const(0.0)))
        way = self._same(f"{recurrence.state}_way", (self.inner, self.third), mask, span)
        body = Map("*", (way, substitute(value, {self.inner: third})))
        total = Reduce("sum", (self.third,), body)
        return gates(self._made(f"{recurrence.state}_log", ranks, total, None, span))
