"""The Einsums of a chunk: names, variables, and each body once."""

from __future__ import annotations

from dataclasses import replace

from attnc.ir.cascade import Cascade, Einsum, Left
from attnc.ir.expr import ONE, Access, Const, Expr, Index, Map, Reduce, both
from attnc.ir.source import InvalidIR, Span
from attnc.ir.walk import free_ranks, substitute
from attnc.passes.recurrences.recurrence import Read, Recurrence
from attnc.passes.recurrences.scanned import Scanned
from attnc.passes.tiling import CannotTile, Tiling


class Inside(Tiling):
    """A cascade while a rank is cut in chunks of so many positions.

    Three variables run over the positions of a chunk: of a read, of an update, and in between.
    """

    def __init__(
        self,
        cascade: Cascade,
        rank: str,
        size: int,
        stored: tuple[str, ...],
        scans: dict[str, Scanned],
    ) -> None:
        super().__init__(cascade, rank, size, stored)
        self.scans = scans
        self.length = Const(size)
        self.second, self.third = f"{self.inner}'", f"{self.inner}''"
        self.made: dict[tuple[object, ...], Access] = {}

    def _known(self, y: Access) -> Expr:
        raise InvalidIR(f"{self.cascade.name}: {y.tensor} waits for a sweep that there is not")

    # -- states that are known at every position

    def _tile_of(self, access: Access, sweep: int, reader: Einsum) -> Access:
        scan = self.scans.get(access.tensor)
        if scan is None:
            return super()._tile_of(access, sweep, reader)
        after = access.subscripts[scan.axis] == Map("+", (Index(self.rank), ONE))
        if not after and access.subscripts[scan.axis] != Index(self.rank):
            raise CannotTile(reader, access, f"reads {access.tensor} at another position")
        own = tuple(self._tiled(s, sweep, reader) for s in access.subscripts)
        return self._scanned(replace(access, subscripts=own), not after)

    def _scanned(self, access: Access, before: bool) -> Access:
        """A scanned state at a position of a chunk, before or after its step."""
        scan = self.scans[access.tensor]
        step = scan.step
        seen = Map("<" if before else "<=", (Index(self.second), Index(self.inner)))
        since = self._since(scan, (self.inner,), seen)
        held = self._scan_at(Access(step.target, tuple(map(Index, step.ranks))), Index(self.outer))
        name = f"{step.target}_{'before' if before else 'after'}"
        ranks = (self.inner, *self._ranks_of(step))
        made = self._made(name, ranks, scan.joined(held, since), None, step.span)
        names = {r: s for r, s in zip(step.ranks, access.subscripts) if r != self.rank}
        found = substitute(made, names)
        assert isinstance(found, Access)
        return found

    def _since(self, scan: Scanned, ranks: tuple[str, ...], seen: Expr | None) -> Expr:
        """The updates of a chunk reduced, all or those seen from a position."""
        step = scan.step
        update = substitute(self._here(scan.update, step), {self.inner: Index(self.second)})
        if not self._anchored(scan.update, step):
            seen = both(seen, substitute(self._in_range, {self.inner: Index(self.second)}))
        name = f"{step.target}_{'since' if ranks else 'in'}"
        body = Reduce(scan.op, (self.second,), update, seen)
        return self._made(name, (*ranks, *self._ranks_of(step)), body, None, step.span)

    def _scan_at(self, state: Access, counter: Expr) -> Access:
        """A scanned state between chunks."""
        own = list(state.subscripts)
        own[self.scans[state.tensor].axis] = counter
        return replace(state, subscripts=tuple(own))

    # -- Einsums

    def _ranks(self, recurrence: Recurrence) -> tuple[str, ...]:
        """The ranks of a state besides its batch and the one along which it steps."""
        return self._ranks_of(recurrence.step)

    def _ranks_of(self, einsum: Einsum) -> tuple[str, ...]:
        return tuple(r for r in einsum.ranks[self.bound :] if r != self.rank)

    def _here(self, expr: Expr, einsum: Einsum) -> Expr:
        return self._tiled(expr, 0, einsum)

    def _times(self, *factors: Expr | None) -> Expr:
        result: Expr | None = None
        for factor in factors:
            if factor is not None and factor != ONE:
                result = factor if result is None else Map("*", (result, factor))
        return ONE if result is None else result

    def _added(self, value: Expr | None, term: Expr, negative: bool) -> Expr:
        if isinstance(term, Map) and term.op == "neg":
            (term,), negative = term.args, not negative
        if value is None:
            return Map("neg", (term,)) if negative else term
        return Map("-" if negative else "+", (value, term))

    def _free(self, expr: Expr, read: Read, *but: str) -> tuple[str, ...]:
        """The ranks that the sum of an expression over those of a read has."""
        own = free_ranks(expr) - {*read.ranks, *but, self.outer, *self.cascade.batch}
        ordered = (self.inner, self.second, *self._ranks_of(read.einsum))
        return tuple(dict.fromkeys((*(r for r in ordered if r in own), *sorted(own))))

    def _sum(
        self,
        name: str,
        ranks: tuple[str, ...],
        over: tuple[str, ...],
        body: Expr,
        span: Span,
        where: Expr | None = None,
    ) -> Expr:
        """A sum as an Einsum of its own; the expression itself where nothing is summed."""
        if not over:
            return body
        own = tuple(r for r in ranks if r not in over)
        return self._made(name, own, Reduce("sum", over, body, where), None, span)

    def _same(self, name: str, ranks: tuple[str, ...], body: Expr, span: Span) -> Expr:
        """An Einsum that is the same in every chunk, once for each body."""
        key = (ranks, body)
        if key not in self.made:
            fresh = self.names.fresh(name)
            own = (*self.cascade.batch, *ranks)
            self.out.append(Einsum(fresh, tuple(map(Left, own)), body, None, None, span))
            self.made[key] = Access(fresh, tuple(map(Index, own)))
        return self.made[key]

    def _made(
        self, name: str, ranks: tuple[str, ...], body: Expr, where: Expr | None, span: Span
    ) -> Expr:
        """An Einsum of a chunk, once for each body."""
        key = (ranks, body, where)
        if key not in self.made:
            fresh = self.names.fresh(name)
            left = self._left((*self.cascade.batch, *ranks), "")
            self.out.append(Einsum(fresh, left, body, where, None, span))
            own = tuple(Index(r) for r in (*self.cascade.batch, *ranks))
            self.made[key] = self._at(fresh, own, Index(self.outer))
        return self.made[key]
