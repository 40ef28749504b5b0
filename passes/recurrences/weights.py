"""What a read sees of the updates since its chunk began: a matrix of weights."""

from __future__ import annotations

from dataclasses import dataclass, replace

from attnc.ir.expr import ONE, Access, Const, Expr, Index, Map
from attnc.ir.walk import accesses, free_ranks, substitute
from attnc.passes.domain import union
from attnc.passes.products import Factor, product
from attnc.passes.recurrences.accumulate import Accumulated
from attnc.passes.recurrences.inverse import leads
from attnc.passes.recurrences.linear import Summand
from attnc.passes.recurrences.recurrence import NoRecurrence, Read, Recurrence, following


def varying(term: Summand) -> tuple[Factor, ...]:
    """The factors of a term that need data or a position; the rest leave every sum."""
    return tuple(f for f in term.factors if free_ranks(f.expr) or any(accesses(f.expr)))


def constant(term: Summand, value: Expr) -> Expr:
    """A value times the factors of a term that are the same everywhere."""
    kept = varying(term)
    return product((Factor(value), *(f for f in term.factors if f not in kept)))


@dataclass(frozen=True, slots=True)
class Update:
    """An update in two parts: factors along ranks that a read sums over, and the rest."""

    inner: tuple[Factor, ...]
    outer: Summand


@dataclass(frozen=True, slots=True)
class Seen:
    """How much a read at the first variable sees of an update at the second.

    `rows` scales what was summed, `columns` what is summed; None is 1. Where all it sees has weight
    1, `where` says what that is.
    """

    rows: Expr | None
    weights: Expr
    columns: Expr | None
    where: Expr | None = None


class Weights(Accumulated):
    """Reads and updates of a chunk."""

    def _updates(self, recurrence: Recurrence, summed: frozenset[str]) -> tuple[Update, ...]:
        """The updates in parts along what reads sum over, like ones put together."""
        found: dict[tuple[Factor, ...], list[Summand]] = {}
        for summand in recurrence.updates:
            inner, outer = self._parts(self._existing(summand), recurrence, summed)
            found.setdefault(inner, []).append(outer)
        return tuple(Update(inner, outer) for inner, many in found.items() for outer in many)

    def _existing(self, summand: Summand) -> Summand:
        """A summand without the choice of 0 where it does not exist: sums skip that anyway."""
        parts = [f.expr for f in summand.factors]
        if summand.unknown is not None:
            parts.append(summand.unknown)
        where = set(union(*(self.domains.of(part) for part in parts)))
        kept = tuple(_sure(f, where) for f in summand.factors)
        kept = tuple(f for f in kept if f.expr != ONE)
        return replace(summand, factors=kept)

    def _summed(self, recurrence: Recurrence, read: Read, unknown: Access) -> frozenset[str]:
        """The ranks of a state, under its own names, that a read sums over."""
        return frozenset(
            left.rank
            for left, subscript in zip(recurrence.step.left, unknown.subscripts)
            if isinstance(subscript, Index) and subscript.rank in read.ranks
        )

    def _parts(
        self, summand: Summand, recurrence: Recurrence, summed: frozenset[str]
    ) -> tuple[tuple[Factor, ...], Summand]:
        """An update as a product of what varies along summed ranks and of what does not."""
        inner = tuple(f for f in summand.factors if free_ranks(f.expr) & summed)
        outer = tuple(f for f in summand.factors if not free_ranks(f.expr) & summed)
        rest = frozenset(self._ranks(recurrence)) - summed
        mixed = [f for f in inner if free_ranks(f.expr) & rest]
        if summand.unknown is not None and free_ranks(summand.unknown) & summed:
            reason = "feeds what it reads back along a rank that reads sum over"
            raise NoRecurrence(recurrence.step, summand.unknown, reason)
        if mixed:
            own = ", ".join(sorted(free_ranks(mixed[0].expr) & frozenset(self._ranks(recurrence))))
            reason = f"adds what is no product of factors along {own}"
            raise NoRecurrence(recurrence.step, mixed[0].expr, reason)
        return inner, Summand(summand.negative, outer, summand.unknown)

    def _outer(self, outer: Summand, recurrence: Recurrence) -> Expr:
        """The part of an update that no read sums over, at the first variable."""
        value = self._here(product(outer.factors), recurrence.step)
        if outer.unknown is not None:
            value = self._times(value, self._tiled(outer.unknown, 0, recurrence.step))
        return Map("neg", (value,)) if outer.negative else value

    def _seen(
        self, recurrence: Recurrence, read: Read, term: Summand
    ) -> tuple[Expr, tuple[Expr, ...]]:
        """What a read sees: of the state at the start of the chunk, and of each update since."""
        unknown = term.unknown
        assert unknown is not None
        gate = self._gate(recurrence)
        before = not following(unknown, recurrence.axis, self.rank)
        names = {
            left.rank: subscript
            for left, subscript in zip(recurrence.step.left, unknown.subscripts)
            if not left.step
        }
        weight = self._here(product(varying(term)), read.einsum)
        subscripts = list(unknown.subscripts)
        subscripts[recurrence.axis] = Index(self.outer)
        entering = self._entering(gate, recurrence, before)
        held = self._times(
            weight,
            None if entering is None else substitute(entering, names),
            Access(recurrence.state, tuple(subscripts)),
        )
        held = self._sum(
            f"{read.einsum.target}_held", self._free(held, read), read.ranks, held, read.einsum.span
        )
        since: list[Expr] = []
        by_weights: dict[tuple[Seen, ...], Expr | None] = {}
        for update in self._updates(recurrence, self._summed(recurrence, read, unknown)):
            weights = self._weights(recurrence, read, update, weight, names, before)
            outer = substitute(self._outer(update.outer, recurrence), names)
            outer = substitute(outer, {self.inner: Index(self.second)})
            by_weights[weights] = self._added(by_weights.get(weights), outer, False)
        for many, outer_sum in by_weights.items():
            assert outer_sum is not None
            for own in many:
                body = self._times(own.weights, own.columns, outer_sum)
                name = f"{read.einsum.target}_since"
                ranks = self._free(Map("*", (body, own.where or ONE)), read, self.second)
                span = read.einsum.span
                part = self._sum(name, ranks, (self.second,), body, span, own.where)
                since.append(self._times(own.rows, part))
        return held, tuple(since)

    def _weights(
        self,
        recurrence: Recurrence,
        read: Read,
        update: Update,
        weight: Expr,
        names: dict[str, Expr],
        before: bool,
        everywhere: bool = False,
    ) -> tuple[Seen, ...]:
        """How much a read sees of the updates since the chunk began, in terms that add up.

        Where it sees them, that is; `everywhere` is for who leaves the other points out himself.
        """
        inner = self._here(product(update.inner), recurrence.step)
        inner = substitute(substitute(inner, names), {self.inner: Index(self.second)})
        gate = self._gate(recurrence)
        deep = self._carried(gate, recurrence)
        if recurrence.gate != ONE and gate.logarithm and not gate.steady and deep:
            return self._by_blocks(recurrence, read, weight, inner, names, before)
        between = self._between(gate, recurrence, before)
        if between is not None:
            between = substitute(between, names)
        summed = between is not None and bool(free_ranks(between) & frozenset(read.ranks))
        value = self._product(recurrence, read, weight, between if summed else None, inner)
        if not summed:
            value = self._times(value, between)
        if everywhere:
            return (Seen(None, value, None),)
        op = "<" if before else "<="
        where = Map(op, (Index(self.second), Index(self.inner)))
        if value == ONE:
            return (Seen(None, ONE, None, where),)
        return (Seen(None, self._weighted(read, value, where), None),)

    def _product(self, recurrence: Recurrence, read: Read, *factors: Expr | None) -> Expr:
        """A sum over the ranks of a read."""
        body = self._times(*factors)
        name = f"{recurrence.state}_seen"
        return self._sum(name, self._free(body, read), read.ranks, body, read.einsum.span)

    def _weighted(self, read: Read, value: Expr, where: Expr | None) -> Expr:
        ranks = tuple(dict.fromkeys((*self._free(value, read), self.inner, self.second)))
        name = f"{read.einsum.target}_weights"
        return self._made(name, ranks, value, where, read.einsum.span)

    def _by_blocks(
        self,
        recurrence: Recurrence,
        read: Read,
        weight: Expr,
        inner: Expr,
        names: dict[str, Expr],
        before: bool,
    ) -> tuple[Seen, ...]:
        """Weights with a gate along ranks of the state, as matrix products.

        Of two positions of a chunk the later lies in an odd block of some size, the earlier in the
        block before. The gates between them are those up to the end of the earlier block and those
        from the start of the later one: two factors, and neither has a positive exponent.
        """
        gate, square = self._gate(recurrence), (self.inner, self.second)
        rows, columns = Index(self.inner), Index(self.second)
        span = read.einsum.span
        found: list[Seen] = []
        total: Expr | None = None
        block = 1
        while block < self.tile:
            mask = self._same(
                f"{recurrence.state}_leads",
                square,
                Map("select", (leads(block, rows, columns), Const(1.0), Const(0.0))),
                span,
            )
            first = self._in_block(gate, recurrence, block, before)
            second: Expr | None = None
            if first is not None:
                first = substitute(first, names)
                second = substitute(first, {self.inner: columns})
            if first is None or free_ranks(first) & frozenset(read.ranks):
                left, right = self._times(weight, first), self._times(inner, second)
                value = self._product(recurrence, read, left, right)
                total = self._added(total, self._times(value, mask), False)
            else:
                value = self._product(recurrence, read, weight, inner)
                value = self._weighted(read, self._times(value, mask), None)
                found.append(Seen(first, value, second))
            block *= 2
        if not before:
            own = substitute(inner, {self.second: Index(self.inner)})
            own = self._product(recurrence, read, weight, own)
            unit = self._same(
                f"{recurrence.state}_unit",
                square,
                Map("select", (Map("==", (rows, columns)), Const(1.0), Const(0.0))),
                span,
            )
            total = self._added(total, self._times(unit, own), False)
        if total is not None:
            found.insert(0, Seen(None, self._weighted(read, total, None), None))
        return tuple(found)


def _sure(factor: Factor, where: set[Expr]) -> Factor:
    """A factor that is 0 where some condition does not hold, there where it does."""
    match factor.expr:
        case Map("select", (condition, Map("/", (Const(1), divisor)), Const(0))) if (
            condition in where
        ):
            return Factor(divisor, not factor.inverse)
        case Map("select", (condition, chosen, Const(0))) if condition in where:
            return replace(factor, expr=chosen)
        case _:
            return factor
