"""A linear recurrence in chunks: matrix products inside a chunk, the state between chunks.

    S[t+1, d, f] = a[t] * S[t, d, f] + K[t, d] * V[t, f]
    O[t, f]      = Q[t, d] * S[t+1, d, f]

    A[t1, t0, t0']  = a[.. t0' < j <= t0 ..] * Q[t1*C + t0, d] * K[t1*C + t0', d] where t0' <= t0
    O[t1*C + t0, f] = a[.. j <= t0 ..] * Q[t1*C + t0, d] * S[t1, d, f]
                      + A[t1, t0, t0'] * V[t1*C + t0', f]
    S[t1+1, d, f]   = a[.. all ..] * S[t1, d, f]
                      + a[.. j > t0 ..] * K[t1*C + t0, d] * V[t1*C + t0, f]

Legal for every step that is linear in the state (`recurrence.py`): the state at a position is the
state at the start of its chunk, scaled by the gates in between, and each update since, scaled by
the gates after it. A read inside the step makes the updates of a chunk depend on one another: a
triangular system, solved by substitution in blocks (`inverse.py`). One pass over t either way; but
a chunk of C positions reads and writes the state once instead of C times, and its sums are matrix
products. Published for single members as Lightning Attention-2 (Qin et al., 2024), GLA (Yang et
al., ICML 2024), SSD (Dao and Gu, ICML 2024), DeltaNet (Yang et al., NeurIPS 2024) and Kimi Delta
Attention (2025).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from attnc.ir.cascade import Cascade, Einsum, Left
from attnc.ir.expr import ONE, ZERO, Access, Const, Expr, Extent, Index, Map
from attnc.ir.source import InvalidIR
from attnc.ir.walk import accesses, free_ranks, rewrite, substitute
from attnc.passes.clean import remove_dead
from attnc.passes.products import Factor, product
from attnc.passes.recurrences.gates import Gate, gate_of
from attnc.passes.recurrences.inverse import inverse
from attnc.passes.recurrences.linear import Summand
from attnc.passes.recurrences.recurrence import (
    NoRecurrence,
    Read,
    Recurrence,
    States,
    carried,
    states,
)
from attnc.passes.recurrences.scanned import Scanned
from attnc.passes.recurrences.weights import Update, Weights, constant


@dataclass(frozen=True, slots=True)
class Chunked:
    """The cascade in chunks of `size`, which `outer` numbers, and for the step of each state what
    it is and what becomes of it in a chunk, in words."""

    cascade: Cascade
    outer: str
    size: int
    told: tuple[tuple[Einsum, str, str], ...]


def chunk(cascade: Cascade, rank: str, sizes: tuple[int, ...], stored: tuple[str, ...]) -> Chunked:
    """Every state along `rank` in chunks of as many positions as the smallest that applies.

    Of `sizes` the first does always, the second where a gate varies along ranks of its state and
    has a logarithm, the third where it varies and has none, the fourth where a step reads what it
    changes (`targets.Target.chunk`). Tensors in `stored` go through memory.
    Raises NoRecurrence where a step is not linear in its state, and CannotTile where a tensor is
    read at another position of the rank.
    """
    found = states(cascade, rank)
    kinds = {0}.union(*(_kinds(found, recurrence) for recurrence in found.linear))
    size = min(sizes[kind] for kind in kinds)
    return _Chunks(found, rank, size, stored).rewritten()


def _kinds(found: States, recurrence: Recurrence) -> set[int]:
    """Which of the sizes of chunks apply to a recurrence."""
    definitions = {e.target: e for e in found.cascade.einsums}
    gate = gate_of(recurrence.gate, recurrence.rank, definitions, found.scans)
    own = recurrence.step.ranks[len(found.cascade.batch) :]
    inside = tuple(rank for rank in own if rank != recurrence.rank)
    kinds = {0}
    if carried(gate.term, inside):
        kinds.add(1 if gate.logarithm and not gate.steady else 2)
    if recurrence.feedback is not None:
        kinds.add(3)
    return kinds


class _Chunks(Weights):
    """The states of one rank while they are put in chunks."""

    def __init__(self, found: States, rank: str, size: int, stored: tuple[str, ...]) -> None:
        super().__init__(found.cascade, rank, size, stored, found.scans)
        self.found = found.linear
        self.axes = {r.state: r.axis for r in found.linear}
        self.axes |= {scan.state: scan.axis for scan in found.scans.values()}
        self.dependent = self._dependents()
        self.stored = self.stored - self.dependent  # What the sweep makes it need not read.
        self.told: list[tuple[Einsum, str, str]] = []

    def _dependents(self) -> frozenset[str]:
        """The tensors that vary along the rank and depend on a step of a state.

        What reads one of them from memory is not among them, unless the next step needs it.
        """
        axes = self.axes
        inner = {r.feedback.einsum.target for r in self.found if r.feedback is not None}
        found = set(axes)
        grown = True
        while grown:
            grown = False
            for einsum in self.cascade.einsums:
                if einsum.target in found or self.rank not in einsum.ranks:
                    continue
                for access in (*accesses(einsum.body), *accesses(einsum.where)):
                    axis = axes.get(access.tensor)
                    whole = axis is not None and isinstance(access.subscripts[axis], Const | Extent)
                    kept = access.tensor in self.stored and access.tensor not in inner
                    if access.tensor in found and not whole and not kept:
                        found.add(einsum.target)
                        grown = True
        return frozenset(found)

    # -- the cascade

    def rewritten(self) -> Chunked:
        by_state = {r.state: r for r in self.found}
        inner = {r.feedback.einsum.target for r in self.found if r.feedback is not None}
        wanted = {t.name for t in self.cascade.outputs} | set(self.stored | self._remembered)
        for einsum in self.cascade.einsums:
            name = einsum.target
            if name in self.axes:
                if any(left.step == "start" for left in einsum.left):
                    self._start(einsum)
                elif name in self.scans:
                    self._scan(self.scans[name])
                else:
                    self._step(by_state[name])
            elif name not in self.dependent:
                self.out.append(self._ended(einsum))
            elif name not in inner:
                self._reader(einsum)
            if name in self.dependent and name in wanted and name not in self.axes:
                self._laid_out(einsum)
        cascade = replace(
            self.cascade,
            ranks=(*self.cascade.ranks, *self._declared),
            einsums=tuple(self.out),
        )
        return Chunked(remove_dead(cascade), self.outer, self.tile, tuple(self.told))

    @property
    def _remembered(self) -> frozenset[str]:
        """Dependent tensors that readers outside the sweep need at their own rank."""
        return frozenset(
            access.tensor
            for einsum in self.cascade.einsums
            if einsum.target not in self.dependent
            for access in (*accesses(einsum.body), *accesses(einsum.where))
            if access.tensor in self.dependent
        )

    def _ended(self, einsum: Einsum) -> Einsum:
        """An Einsum outside the sweep; the end of a state is that of its last chunk."""

        def rule(term: Expr) -> Expr | None:
            if isinstance(term, Access) and term.tensor in self.axes:
                axis = self.axes[term.tensor]
                if term.subscripts[axis] == Extent(self.rank):
                    own = list(term.subscripts)
                    own[axis] = Extent(self.outer)
                    return replace(term, subscripts=tuple(own))
            return None

        where = None if einsum.where is None else rewrite(einsum.where, rule)
        return replace(einsum, body=rewrite(einsum.body, rule), where=where)

    def _laid_out(self, einsum: Einsum) -> None:
        """A tensor under its own rank again, each position found in its chunk."""
        tile = self.tiles.get((einsum.target, -1))
        if tile is None:
            self._tile_of(Access(einsum.target, tuple(Index(r) for r in einsum.ranks)), 0, einsum)
            tile = self.tiles[einsum.target, -1]
        at: dict[str, Expr] = {
            self.outer: Map("//", (Index(self.rank), self.length)),
            self.inner: Map("%", (Index(self.rank), self.length)),
        }
        ranks = tuple(self.inner if r == self.rank else r for r in einsum.ranks)
        own = self._at(tile, tuple(at.get(r, Index(r)) for r in ranks), at[self.outer])
        self.out.append(replace(einsum, body=own, where=None))

    def _reader(self, einsum: Einsum) -> None:
        for recurrence in self.found:
            read = recurrence.reads.get(einsum.target)
            if read is not None:
                others = [r.state for r in self.found if einsum.target in r.reads]
                if len(others) > 1:
                    reason = f"reads {others[0]} and {others[1]} at once"
                    raise NoRecurrence(einsum, einsum.body, reason)
                self._read(recurrence, read)

    # -- a state

    def _start(self, einsum: Einsum) -> None:
        left = tuple(
            replace(part, rank=self.outer) if part.step == "start" else part for part in einsum.left
        )
        self.out.append(replace(einsum, left=left))

    def _scan(self, scan: Scanned) -> None:
        """A scanned state from chunk to chunk; in a chunk whoever reads it makes the scan."""
        step = scan.step
        held = self._scan_at(Access(step.target, tuple(map(Index, step.ranks))), Index(self.outer))
        body = scan.joined(held, self._since(scan, (), None))
        self.out.append(replace(step, left=self._stepping(step), body=body))
        self.told.append((step, f"joins its steps by {scan.op}", "a scan in each"))

    def _stepping(self, step: Einsum) -> tuple[Left, ...]:
        return tuple(Left(self.outer, "next") if p.step == "next" else p for p in step.left)

    def _step(self, recurrence: Recurrence) -> None:
        gate = self._gate(recurrence)
        if recurrence.feedback is not None:
            self._solve(recurrence, recurrence.feedback)
        ranks = self._ranks(recurrence)
        subscripts: list[Expr] = [Index(left.rank) for left in recurrence.step.left]
        subscripts[recurrence.axis] = Index(self.outer)
        body: Expr | None = None
        if recurrence.gate != ZERO:
            body = Access(recurrence.state, tuple(subscripts))
            if recurrence.gate != ONE:
                body = Map("*", (self._through(gate, recurrence), body))
        # Where no gates are accumulated, at the variable at which reads take the updates: once.
        over = self.second if recurrence.gate == ONE or gate.telescopes else self.inner
        by_inner: dict[tuple[Factor, ...], Expr | None] = {}
        for update in self._updates(recurrence, self._contracted(recurrence)):
            outer = self._outer(update.outer, recurrence)
            by_inner[update.inner] = self._added(by_inner.get(update.inner), outer, False)
        for inner, outer_sum in by_inner.items():
            term = self._times(
                self._leaving(gate, recurrence),
                self._here(product(inner), recurrence.step),
                outer_sum,
            )
            term = substitute(term, {self.inner: Index(over)})
            own = self._sum(f"{recurrence.state}_in", ranks, (over,), term, recurrence.step.span)
            body = self._added(body, own, False)
        step, body = recurrence.step, ZERO if body is None else body
        self.out.append(replace(step, left=self._stepping(step), body=body))
        self.told.append((step, "is linear in its state", self._gated(gate, recurrence)))

    def _contracted(self, recurrence: Recurrence) -> frozenset[str]:
        """Ranks along which an update is one factor of a product: those its first read sums."""
        reads = [*recurrence.reads.values()]
        if recurrence.feedback is not None:
            reads.insert(0, recurrence.feedback)
        for read in reads:
            for term in read.terms:
                if term.unknown is not None:
                    return self._summed(recurrence, read, term.unknown)
        return frozenset()

    def _gated(self, gate: Gate, recurrence: Recurrence) -> str:
        """What the transition is, in words."""
        ranks = self._carried(gate, recurrence)
        if recurrence.gate == ONE:
            kind = "nothing is forgotten"
        else:
            how = "powers of" if gate.steady else "products of"
            how = "each product one value of" if gate.telescopes else how
            kind = f"{how} its gate" + (f" along {', '.join(ranks)}" if ranks else "")
            kind += " by sums of logarithms" if gate.logarithm else ""
        if recurrence.feedback is not None:
            name = recurrence.feedback.einsum.target
            kind += f", and {name} by a triangular system in each chunk"
        return kind

    def _read(self, recurrence: Recurrence, read: Read) -> None:
        """A tensor linear in the state, at every position of a chunk."""
        einsum = read.einsum
        value: Expr | None = None
        for term in read.terms:
            if term.unknown is None:
                own = self._here(term.coefficient, einsum)
                if read.ranks:
                    own = self._sum(
                        f"{einsum.target}_own", self._free(own, read), read.ranks, own, einsum.span
                    )
                value = self._added(value, own, term.negative)
            else:
                seen, since = self._seen(recurrence, read, term)
                for part in since:
                    seen = self._added(seen, part, False)
                value = self._added(value, constant(term, seen), term.negative)
        if value is None:
            raise InvalidIR(f"{self.cascade.name}: {einsum.target} reads nothing")
        self._tile(einsum, value)

    def _tile(self, einsum: Einsum, value: Expr) -> None:
        """Define a tensor in a chunk."""
        where = None if einsum.where is None else self._here(einsum.where, einsum)
        name = self.names.fresh(f"{einsum.target}_tile")
        self.tiles[einsum.target, -1] = name
        left = self._left(tuple(self.inner if r == self.rank else r for r in einsum.ranks), "")
        self.out.append(Einsum(name, left, value, where, einsum.dtype, einsum.span))

    def _solve(self, recurrence: Recurrence, read: Read) -> None:
        """The read inside a step at every position of a chunk: a triangular system for it."""
        term, *more = [t for t in read.terms if t.unknown is not None]
        if more or term.negative:
            reason = f"reads {recurrence.state} in more than one term inside its step"
            raise NoRecurrence(read.einsum, read.einsum.body, reason)
        if len(read.terms) > 1 or read.einsum.where is not None:
            reason = f"reads {recurrence.state} with something added or left out inside its step"
            raise NoRecurrence(read.einsum, read.einsum.body, reason)
        fed = [u for u in recurrence.updates if u.unknown is not None]
        free = replace(
            recurrence, updates=tuple(u for u in recurrence.updates if u.unknown is None)
        )
        own = self._ranks_of(read.einsum)
        right, since = self._seen(free, read, term)
        for part in since:
            right = self._added(right, part, False)
        right = constant(term, right)
        right = self._made(
            f"{read.einsum.target}_right", (self.inner, *own), right, None, read.einsum.span
        )
        matrix = self._system(recurrence, read, term, fed)
        if matrix is None:
            self._tile(read.einsum, right)
            return
        span, square = read.einsum.span, (self.inner, self.second)
        solved = inverse(
            matrix,
            (self.inner, self.second, self.third),
            self.tile,
            lambda name, body: self._made(f"{recurrence.state}_{name}", square, body, None, span),
            lambda name, body: self._same(f"{recurrence.state}_{name}", square, body, span),
        )
        moved = substitute(right, {self.inner: Index(self.second)})
        body = self._times(solved, moved)
        value = self._sum(
            f"{read.einsum.target}_solved", (self.inner, *own), (self.second,), body,
            read.einsum.span,
        )  # fmt: skip
        self._tile(read.einsum, value)

    def _system(
        self, recurrence: Recurrence, read: Read, term: Summand, fed: list[Summand]
    ) -> Expr | None:
        """How much of itself a read sees of the step before; None for chunks of one step."""
        unknown = term.unknown
        assert unknown is not None
        names = {
            left.rank: subscript
            for left, subscript in zip(recurrence.step.left, unknown.subscripts)
            if not left.step
        }
        weight = self._here(term.coefficient, read.einsum)
        summed = self._summed(recurrence, read, unknown)
        matrix: Expr | None = None
        for update in fed:
            inner, outer = self._parts(update, recurrence, summed)
            own = self._ranks_of(read.einsum)
            if any(free_ranks(f.expr) & frozenset(own) for f in outer.factors):
                reason = f"scales what it reads back along {', '.join(own)}"
                raise NoRecurrence(recurrence.step, product(outer.factors), reason)
            weights = self._weights(
                recurrence, read, Update(inner, outer), weight, names, True, everywhere=True
            )
            scale = self._here(product(outer.factors), recurrence.step)
            scale = substitute(scale, {self.inner: Index(self.second)})
            for part in weights:
                value = self._times(part.rows, part.weights, part.columns, scale)
                extra = free_ranks(value) - {self.inner, self.second, self.outer}
                extra -= frozenset(self.cascade.batch)
                if extra:
                    reason = f"forgets along {', '.join(sorted(extra))} what it reads back"
                    raise NoRecurrence(recurrence.step, recurrence.gate, reason)
                matrix = self._added(matrix, value, update.negative)
        return matrix
