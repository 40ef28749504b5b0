"""Reduce in one sweep what waits for another reduction over the same rank.

    G[p] = max[m](S[p, m])
    D[p] = sum[m](exp(S[p, m] - G[p]))

    G_run[m1+1, p] = max(G_run[m1, p], G_tile[m1, p])
    D_run[m1+1, p] = D_run[m1, p] * exp(G_run[m1, p] - G_run[m1+1, p]) + D_tile[m1, p]

The rank is cut into tiles of M0 positions. Every reduction over it becomes a running one, of the
state and of the reduction of one tile; where its terms F(x, y) wait for a reduction y of the same
sweep, they are taken at the value that y has after the tile, and the state is corrected by
H(y_new) / H(y_old). Legal because F(x, y) = G(x) ⊗ H(y) (`separate.py`), ⊗ distributes over the
reduction (`algebra.LAWS`), and no term takes a point that y has not seen. The softmax case is
Milakov and Gimelshein (2018), the cascade FuseMax's fifth (MICRO 2024), the general law
RedFuser's (2026).

A y at the identity of its reduction has seen nothing, or nothing that counts: there the state is
empty, the correction is taken as 0, and terms are taken at a y where they are defined.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from attnc.ir.algebra import MONOIDS, Law, laws_of
from attnc.ir.cascade import Cascade, Einsum, Refusal
from attnc.ir.expr import (
    ONE,
    ZERO,
    Access,
    Cast,
    Const,
    Expr,
    Extent,
    Index,
    Map,
    Param,
    Populate,
    Reduce,
    both,
)
from attnc.ir.print_cascade import prefixes_of
from attnc.ir.print_expr import print_expr
from attnc.ir.walk import accesses, free_ranks, rewrite, substitute
from attnc.passes.clean import remove_dead, rename
from attnc.passes.defer import number
from attnc.passes.domain import counting, union
from attnc.passes.fiber import empty_values, plain
from attnc.passes.probe import probe
from attnc.passes.separate import Inseparable, separate
from attnc.passes.signs import positive
from attnc.passes.tiling import CannotTile, Tiling


@dataclass(frozen=True, slots=True)
class Running:
    """One reduction that joined a sweep: what its state is corrected by, and the proof."""

    einsum: str
    sweep: int
    correction: str
    law: str
    proof: str


@dataclass(frozen=True, slots=True)
class State:
    """A running reduction: its tensor, the state, the reduction of one tile, the correction.

    The state is corrected by `fix` with `product`; neither where nothing it holds can change.
    """

    tensor: str
    run: str
    part: str
    op: str
    product: str = ""
    fix: Access | None = None


@dataclass(frozen=True, slots=True)
class Online:
    """The rewritten cascade, the reductions of its sweeps, and what did not join one.

    `rank` is what is reduced, `outer` numbers the tiles along which the states run; `maps` are the
    Einsums that run beside them, as functions of running values, by the name of what runs.
    """

    cascade: Cascade
    running: tuple[Running, ...]
    refusals: tuple[Refusal, ...]
    rank: str
    outer: str
    states: tuple[State, ...]
    maps: dict[str, Einsum]


def online(cascade: Cascade, rank: str, tile: int, stored: tuple[str, ...]) -> Online:
    """Turn every reduction over `rank` into a running one over tiles of `tile` positions.

    Tensors in `stored` go through memory: they are read at any position, like inputs. Raises
    CannotTile where another is read along the rank at other than its own position.
    """
    return Sweeps(cascade, rank, tile, stored).rewritten()


class Sweeps(Tiling):
    """The state of one rewrite: what runs, what corrects it, and what was refused."""

    def __init__(self, cascade: Cascade, rank: str, tile: int, stored: tuple[str, ...]) -> None:
        super().__init__(cascade, rank, tile, stored)
        self.empty = empty_values(self.facts)
        self.runs: dict[str, str] = {}
        self.fixes: dict[Expr, Access] = {}
        self.singular: dict[Access, tuple[float, ...]] = {}
        self.running: list[Running] = []
        self.refusals: list[Refusal] = []
        self.states: list[State] = []
        self.maps: dict[str, Einsum] = {}

    def rewritten(self) -> Online:
        for einsum in self.cascade.einsums:
            body = self.facts.reductions.get(einsum.target)
            if body is None:
                self.out.append(einsum)
            else:
                self._reduction(einsum, body)
        result = self._shared(remove_dead(self._cut()))
        alive = {einsum.target for einsum in result.einsums}
        freed = {name: tensor for (tensor, _), name in self.tiles.items() if tensor not in alive}
        back: dict[str, str] = {}
        for name, tensor in freed.items():
            if tensor not in back.values():
                back[name] = tensor
        return Online(
            rename(result, back),
            tuple(self.running),
            tuple(self.refusals),
            self.rank,
            self.outer,
            tuple(state for state in self.states if state.run in alive),
            {name: einsum for name, einsum in self.maps.items() if name in alive},
        )

    # -- one reduction

    def _reduction(self, einsum: Einsum, body: Reduce) -> None:
        waits = self.facts.waits[einsum.target] - {einsum.target}
        sweep = max((self.sweep[name] for name in waits), default=0)
        self.sweep[einsum.target] = sweep
        correction: Expr | None = None
        product = ""
        ys = self._awaited(body.body, sweep)
        chooser = self._chooser(body, sweep)
        hidden = self._hidden(self._opened(body.body, sweep), sweep)
        if ys or chooser is not None or hidden is not None:
            found = (
                self._correction(einsum, body, ys, sweep)
                if chooser is None
                else self._refusal(einsum, chooser, "chooses points by what is not known yet")
            )
            if isinstance(found, Refusal):
                self.refusals.append(found)
                self.sweep[einsum.target] = sweep = sweep + 1
            else:
                correction, product = found
        self._emit(einsum, body, sweep, correction, product)

    def _awaited(self, body: Expr, sweep: int) -> tuple[Access, ...]:
        """The values that terms wait for in this sweep: constant along the rank, not yet known."""
        found: dict[Access, None] = {}
        for access in accesses(self._opened(body, sweep)):
            if self._pending(access, sweep):
                found.setdefault(access)
        return tuple(found)

    def _chooser(self, body: Reduce, sweep: int) -> Expr | None:
        """A predicate that waits in this sweep: which points are reduced, no law can correct."""
        for part in union(self.domains.holding(body.where), self.domains.of(body.body)):
            if any(self._waits(access.tensor, sweep) for access in accesses(part)):
                return part
        return None

    def _hidden(self, opened: Expr, sweep: int) -> Access | None:
        """A tensor that varies along the rank and waits in this sweep, by no map of its own."""
        for access in accesses(opened):
            if self.facts.varies(access) and self._waits(access.tensor, sweep):
                return access
        return None

    def _opened(self, body: Expr, sweep: int) -> Expr:
        """The body with every map that varies and waits in a sweep replaced by its definition."""

        def rule(term: Expr) -> Expr | None:
            if not isinstance(term, Access) or not self.facts.varies(term):
                return None
            einsum = self.facts.definitions.get(term.tensor)
            if einsum is None or not self._waits(term.tensor, sweep) or not plain(term):
                return None
            if term.tensor in self.stored or isinstance(einsum.body, Reduce | Populate):
                return None
            if any(left.step for left in einsum.left):
                return None
            values = dict(zip(einsum.ranks, term.subscripts))
            return self._opened(substitute(einsum.body, values), sweep)

        return rewrite(body, rule)

    def _correction(
        self, einsum: Einsum, body: Reduce, ys: tuple[Access, ...], sweep: int
    ) -> tuple[Expr, str] | Refusal:
        opened = self._opened(body.body, sweep)
        hidden = self._hidden(opened, sweep)
        if hidden is not None:
            return self._refusal(
                einsum,
                hidden,
                f"reads {hidden.tensor}, whose own reduction waits for what is not known yet",
            )
        unsteady = self._unsteady(ys, sweep)
        if unsteady is not None:
            return self._refusal(
                einsum, opened, f"waits for {unsteady}, a sum that may pass through 0"
            )
        spread = next((y for y in ys if free_ranks(y) & {*body.ranks}), None)
        if spread is not None:
            ranks = ", ".join(sorted(free_ranks(spread) & {*body.ranks}))
            why = f"waits for {spread.tensor}, which differs along {ranks}, reduced as well"
            return self._refusal(einsum, opened, why)
        unseen = self._unseen(body, ys, sweep)
        if unseen is not None:
            return self._refusal(einsum, opened, f"takes points that {unseen} has not seen")
        old: dict[Expr, Expr] = {y: self._run(y, Index(self.outer)) for y in ys}
        new: dict[Expr, Expr] = {y: self._run(y, self._next) for y in ys}
        reason: Inseparable | None = None
        for law in laws_of(body.op):
            split = separate(opened, self.rank, ys, old, new, law)
            if isinstance(split, Inseparable):
                reason = reason or split
                continue
            if law.condition == "positive" and not positive(split.correction):
                reason = Inseparable("is corrected by a factor that may be negative", opened)
                continue
            trouble = self._find_singular(opened, split.correction, ys, old, new)
            if trouble is not None:
                return self._refusal(einsum, opened, trouble)
            text = self._told(split.correction)
            self.running.append(
                Running(einsum.target, sweep, text, f"({body.op}, {law.product})", split.proof)
            )
            return self._guarded(split.correction, ys, old, law), law.product
        if reason is None:
            return self._refusal(
                einsum, opened, f"no product is known to distribute over {body.op}"
            )
        return self._refusal(einsum, reason.term, reason.reason)

    def _told(self, expr: Expr) -> str:
        """An expression as a reader of the specification knows it, batch ranks unwritten."""
        running = dict.fromkeys(self.runs.values(), self.cascade.batch)
        return print_expr(expr, {**prefixes_of(self.cascade), **running})

    def _refusal(self, einsum: Einsum, term: Expr, reason: str) -> Refusal:
        return Refusal(self.rank, einsum.target, self._told(term), reason, einsum.span)

    def _unsteady(self, ys: tuple[Access, ...], sweep: int) -> str | None:
        """A reduction of this sweep that is no extremum and no sum of what is never negative.

        Its running value can come close to 0 and leave again: corrections by it lose accuracy.
        """
        for y in ys:
            for name in sorted(self.facts.waits[y.tensor]):
                other = self.facts.reductions[name]
                steady = other.op in MONOIDS and MONOIDS[other.op].selective
                steady = steady or (other.op == "sum" and name in self.facts.non_negative)
                if self.sweep[name] == sweep and not steady:
                    return name
        return None

    def _unseen(self, body: Reduce, ys: tuple[Access, ...], sweep: int) -> str | None:
        """A reduction of this sweep over fewer points than those that count and wait for it."""
        term = counting(self._opened(body.body, sweep))
        own = set(union(self.domains.holding(body.where), self.domains.of(term)))
        for y in ys:
            for name in self.facts.waits[y.tensor]:
                other = self.facts.reductions[name]
                if self.sweep[name] == sweep:
                    seen = union(self.domains.holding(other.where), self.domains.of(other.body))
                    if not {part for part in seen if self.rank in free_ranks(part)} <= own:
                        return name
        return None

    def _find_singular(
        self,
        opened: Expr,
        correction: Expr,
        ys: tuple[Access, ...],
        old: dict[Expr, Expr],
        new: dict[Expr, Expr],
    ) -> str | None:
        """Note, for each y, the values at which terms or corrections are undefined.

        Returns why the rewrite is not safe: a value that y can pass through while terms that it
        has seen count for something.
        """
        for y in ys:
            values: list[float] = []
            start = self.empty.get(y.tensor, math.nan)
            candidates = [start] if math.isinf(start) or start == 0 else []
            if 0.0 not in candidates:
                candidates.append(0.0)
            for value in candidates:
                broken = not math.isfinite(probe(opened, {y: value})) or not all(
                    math.isfinite(probe(correction, {old[y]: value, new[y]: after}))
                    for after in (value, 1.25)
                )
                if not broken:
                    continue
                nothing = value == start and math.isinf(start)
                if not nothing and not self._vanishes(opened, y, value):
                    return f"is undefined where {y.tensor} is {value:g}, which it can be"
                values.append(value)
            self.singular[y] = tuple(values)
        return None

    def _vanishes(self, opened: Expr, y: Access, value: float) -> bool:
        """Whether y = 0 says that every term it has seen is 0: y is made of |x| alone."""
        body = self.facts.reductions.get(y.tensor)
        if body is None or body.op not in ("max", "sum") or value != 0:
            return False
        match self._opened(body.body, self.sweep[y.tensor]):
            case Map("abs", (inner,)):
                zero: dict[Expr, float] = dict.fromkeys(accesses(inner), 0.0)
                return probe(inner, dict(zero)) == 0.0 == probe(opened, {**zero, y: 1.0})
            case _:
                return False

    def _guarded(
        self, correction: Expr, ys: tuple[Access, ...], old: dict[Expr, Expr], law: Law
    ) -> Expr:
        """0 where the old y is singular: the state is the identity there, whatever it meets."""
        condition: Expr | None = None
        for y in ys:
            for value in self.singular[y]:
                test = Map("==", (old[y], number(value)))
                condition = test if condition is None else Map("or", (condition, test))
        if condition is not None:
            neutral = ONE if law.condition == "positive" else ZERO
            correction = Map("select", (condition, neutral, correction))
        return self._fix(correction, ys)

    def _fix(self, correction: Expr, ys: tuple[Access, ...]) -> Expr:
        """The correction as an Einsum of its own, since several reductions may share it."""
        if correction not in self.fixes:
            ranks = free_ranks(correction) - {self.outer}
            left = self._left(tuple(r for r in self._order(ys) if r in ranks), "")
            name = self.names.fresh(f"{ys[0].tensor}_fix")
            self.out.append(Einsum(name, left, correction))
            self.fixes[correction] = Access(name, tuple(Index(x.rank) for x in left))
        return self.fixes[correction]

    def _order(self, ys: tuple[Access, ...]) -> tuple[str, ...]:
        found = dict.fromkeys(self.cascade.batch)
        for y in ys:
            found.update((s.rank, None) for s in y.subscripts if isinstance(s, Index))
        return tuple(found)

    # -- emission

    @property
    def _next(self) -> Expr:
        return Map("+", (Index(self.outer), ONE))

    def _run(self, y: Access, counter: Expr) -> Access:
        """The running value of something constant along the rank, at a counter."""
        if y.tensor not in self.runs:
            self._emit_running_map(y.tensor)
        return self._at(self.runs[y.tensor], y.subscripts, counter)

    def _emit_running_map(self, tensor: str) -> None:
        """A map of running values runs too, before the first tile and after each."""
        einsum = self.facts.definitions[tensor]
        if any(left.step for left in einsum.left):
            raise CannotTile(einsum, einsum.body, "steps along a rank of its own")
        name = self.names.fresh(f"{tensor}_run")
        sweep = max(self.sweep[w] for w in self.facts.waits[tensor])

        def at(counter: Expr) -> Expr:
            def rule(term: Expr) -> Expr | None:
                if isinstance(term, Access) and self._pending(term, sweep):
                    return self._run(term, counter)
                return None

            return rewrite(einsum.body, rule)

        start, after = at(ZERO), at(self._next)
        self.runs[tensor] = name
        self.maps[name] = einsum
        self.out.append(Einsum(name, self._left(einsum.ranks, "start"), start, span=einsum.span))
        self.out.append(Einsum(name, self._left(einsum.ranks, "next"), after, span=einsum.span))

    def _emit(
        self, einsum: Einsum, body: Reduce, sweep: int, correction: Expr | None, product: str
    ) -> None:
        inside = self._tiled(body.body, sweep, einsum)
        where = None if body.where is None else self._tiled(body.where, sweep, einsum)
        if not self._anchored(body.body, einsum):
            where = both(where, self._in_range)
        ranks = tuple(self.inner if r == self.rank else r for r in body.ranks)
        part = self.names.fresh(f"{einsum.target}_tile")
        state = self.names.fresh(f"{einsum.target}_run")
        self.runs[einsum.target] = state
        own = tuple(Index(r) for r in einsum.ranks)
        self.out.append(
            Einsum(
                part,
                self._left(einsum.ranks, ""),
                replace(body, ranks=ranks, body=inside, where=where),
                span=einsum.span,
            )
        )
        old: Expr = self._at(state, own, Index(self.outer))
        fix = correction if isinstance(correction, Access) else None
        self.states.append(State(einsum.target, state, part, body.op, product, fix))
        if correction is not None:
            old = Map(product, (old, correction))
        combined = self._combined(body.op, old, self._at(part, own, Index(self.outer)))
        start = self._identity(body.op)
        self.out.append(Einsum(state, self._left(einsum.ranks, "start"), start, span=einsum.span))
        self.out.append(Einsum(state, self._left(einsum.ranks, "next"), combined, span=einsum.span))
        final: Expr = self._at(state, own, Extent(self.outer))
        if einsum.dtype == "int":
            final = Cast("int", final)
        self.out.append(replace(einsum, body=final))

    def _identity(self, op: str) -> Expr:
        if op in MONOIDS:
            identity = MONOIDS[op].identity
            return Const(identity) if isinstance(identity, bool) else number(identity)
        return next(r.identity for r in self.cascade.reductions if r.name == op)

    def _combined(self, op: str, old: Expr, new: Expr) -> Expr:
        if op in MONOIDS:
            return Map(MONOIDS[op].combine, (old, new))
        own = next(r for r in self.cascade.reductions if r.name == op)
        values: dict[Expr, Expr] = {Param(own.x): old, Param(own.y): new}
        return rewrite(own.body, lambda term: values.get(term))

    def _known(self, y: Access) -> Expr:
        """The value after the tile, moved where terms are undefined to where they are not."""
        running = self._run(y, self._next)
        result: Expr = running
        bad = self.singular.get(y, ())
        regular = ONE if 0.0 in bad else ZERO
        for value in bad:
            result = Map("select", (Map("==", (running, number(value))), regular, result))
        return result
