"""The adjoint of a recurrence: a recurrence that runs the other way.

    S[0, d, f]   = 0
    S[t+1, d, f] = g[t] * S[t, d, f] + K[t, d] * V[t, f]
    O[t, f]      = Q[t, d] * S[t+1, d, f]

    dS[0, d, f]      = 0
    dS_next[t, d, f] = dS[t, d, f] + dO[r, f] * Q[r, d]               where r = |t| - 1 - t
    dS[t+1, d, f]    = g[r] * dS_next[t, d, f]
    dK_back[t, d]    = dS_next[t, d, f] * V[r, f]
    dK[t, d]         = dK_back[r, d]

Its turn t undoes turn r. dS[t] is what later turns owe to the value that turn r made, dS_next adds
what reads that value in turn r. The values that a turn found, S_before[t] = S[t], come from the
forward cascade. This is backpropagation through time, as a cascade.
"""

from __future__ import annotations

from dataclasses import replace
from graphlib import TopologicalSorter

from attnc.ir.cascade import Cascade, Einsum, Left, base
from attnc.ir.expr import ONE, ZERO, Access, Expr, Extent, Index, Map
from attnc.ir.source import CompileError
from attnc.ir.walk import accesses, rewrite
from attnc.passes.domain import Predicates, conjunction
from attnc.passes.fiber import Names
from attnc.passes.gradient.derivatives import Part, reaches
from attnc.passes.gradient.sweep import Share, Sweep

BEFORE, NEXT, START, FINAL = "before", "next", "start", "final"


class LoopSweep(Sweep):
    """Differentiates a normalised cascade, recurrences included.

    While a recurrence is gone through, `turning` is its rank and `members` are its tensors; what
    is said of a turn then is said of turn r, by the variable of the rank. `_back` says it by the
    turn that undoes it.
    """

    turning: str = ""
    members: frozenset[str] = frozenset()

    def __init__(
        self,
        cascade: Cascade,
        wrt: tuple[str, ...],
        cotangents: dict[str, str],
        constants: frozenset[str],
        names: Names,
    ) -> None:
        super().__init__(cascade, wrt, cotangents, constants, names)
        self.owing: dict[str, str] = {}
        self.recurrent = {
            einsum.target
            for group in self._groups()
            if any(left.step == "next" for einsum in group for left in einsum.left)
            for einsum in group
        }

    def _groups(self) -> list[tuple[Einsum, ...]]:
        """Einsums that depend on one another together, each group behind those that it reads."""
        einsums = self.cascade.einsums
        reads = [self._reads(einsum) for einsum in einsums]
        reached = [_reached(reads, number) for number in range(len(einsums))]
        group = [
            frozenset(n for n in found if number in reached[n]) | {number}
            for number, found in enumerate(reached)
        ]
        order = TopologicalSorter(
            {own: {group[n] for m in own for n in reads[m]} - {own} for own in group}
        )
        return [tuple(einsums[n] for n in sorted(own)) for own in order.static_order()]

    def _reads(self, einsum: Einsum) -> frozenset[int]:
        """The Einsums that make what an Einsum reads."""
        found: set[int] = set()
        for access in (*accesses(einsum.body), *accesses(einsum.where)):
            start = self._kind(access) == START
            for number, maker in enumerate(self.cascade.einsums):
                begins = any(left.step == "start" for left in maker.left)
                if maker.target == access.tensor and (begins or not start):
                    found.add(number)
        return frozenset(found)

    def _kind(self, access: Access) -> str:
        """Which value of an iterative tensor is read; empty for another tensor."""
        if access.tensor not in self.cascade.iterative():
            return ""
        axis = self.cascade.iterative()[access.tensor][0]
        match access.subscripts[axis]:
            case Index():
                return BEFORE
            case Extent():
                return FINAL
            case subscript:
                return START if subscript == ZERO else NEXT

    def _group(self, group: tuple[Einsum, ...]) -> None:
        steps = [left.step for einsum in group for left in einsum.left if left.step]
        if "next" in steps:
            self._loop(group)
        elif "start" in steps:
            self._start(group[0])
        else:
            super()._group(group)

    # -- a recurrence

    def _loop(self, group: tuple[Einsum, ...]) -> None:
        active = [einsum for einsum in group if einsum.target in self.active]
        if not active:
            return
        rank = self._rank(group)
        stepping = [e for e in active if any(left.step for left in e.left)]
        owed = {einsum.target: self._owed(einsum) for einsum in stepping}
        self.owing |= owed
        self.turning, self.members = rank, frozenset(einsum.target for einsum in group)
        for einsum in reversed(active):
            self._turn(einsum, owed)
        for einsum in stepping:
            self._step(einsum, owed[einsum.target])
        self.turning, self.members = "", frozenset()

    def _rank(self, group: tuple[Einsum, ...]) -> str:
        """The one rank along which a recurrence steps. Raises CompileError where there are two."""
        ranks = dict.fromkeys(left.rank for e in group for left in e.left if left.step)
        for einsum in group:
            names = {e.target for e in group}
            for access in accesses(einsum.body):
                ordinary = access.tensor in names and not self._kind(access)
                if ordinary and not set(map(Index, ranks)) <= set(access.subscripts):
                    raise CompileError(
                        f"{einsum.target} reads {access.tensor} of another turn, "
                        "and has no adjoint",
                        access.span,
                        code="E310",
                    )
        if len(ranks) > 1:
            raise CompileError(
                f"a recurrence along {' and '.join(ranks)} at once has no adjoint",
                group[0].span,
                code="E310",
            )
        return next(iter(ranks))

    def _owed(self, einsum: Einsum) -> str:
        """The adjoint of the value that a turn makes, by what comes after it; starts at the end."""
        axis, rank = self.cascade.iterative()[einsum.target]
        name = self.names.fresh(f"d{einsum.target}")
        left = tuple(replace(one, step="start" if one.rank == rank else "") for one in einsum.left)
        body, where = self._total(einsum.target, FINAL)
        self._known(name, einsum.ranks, ())
        self.domains.iterative[name] = (axis, rank)
        self.einsums.append(Einsum(name, left, body, conjunction(where)))
        return name

    def _total(self, tensor: str, kind: str) -> tuple[Expr, Predicates]:
        """What a state is owed: it is carried from turn to turn, so it is there at all points."""
        shares = self.shares.get(f"{tensor} {kind}", [])
        return self._joined(tensor, shares, whole=True) if shares else (ZERO, ())

    def _turn(self, einsum: Einsum, owed: dict[str, str]) -> None:
        """The adjoint of what a member is in a turn, and the shares of what it reads."""
        name = einsum.target
        own: tuple[Expr, ...] = tuple(Index(rank) for rank in einsum.ranks)
        if name in owed:
            before = Share(Access(owed[name], self._undone(own)), ())
            shares = [before, *self.shares.get(f"{name} {NEXT}", [])]
            adjoint = self.names.fresh(f"d{name}_next")
        else:
            shares = self.shares.get(name, [])
            if name in self.cotangents:
                shares = [Share(Access(self.cotangents[name], own), ()), *shares]
            if not shares:
                return
            adjoint = self.names.fresh(f"d{name}_back")
        body, where = self._joined(name, shares)
        self._emit(adjoint, einsum.ranks, self._back(body), conjunction(self._all_back(where)))
        value = Access(name, own)
        if name in owed:
            axis, rank = self.cascade.iterative()[name]
            after = Map("+", (Index(rank), ONE))
            value = Access(name, (*own[:axis], after, *own[axis + 1 :]))
        self._chained(einsum, Access(adjoint, self._undone(own)), value, einsum.ranks)

    def _step(self, einsum: Einsum, name: str) -> None:
        body, where = self._total(einsum.target, BEFORE)
        left = tuple(
            replace(one, step="next" if one.rank == self.turning else "") for one in einsum.left
        )
        self.einsums.append(
            Einsum(name, left, self._back(body), conjunction(self._all_back(where)))
        )

    def _start(self, einsum: Einsum) -> None:
        """What a recurrence starts from is owed what its first turn is, and what reads it."""
        if einsum.target not in self.active or not reaches(einsum.body, self._active):
            return
        rank = self.cascade.iterative()[einsum.target][1]
        ranks = tuple(one for one in einsum.ranks if one != rank)
        place = tuple(Extent(base(r)) if r == rank else Index(r) for r in einsum.ranks)
        shares = [
            Share(Access(self.owing[einsum.target], place), ()),
            *self.shares.get(f"{einsum.target} {START}", []),
        ]
        body, where = self._joined(einsum.target, shares)
        adjoint = self.names.fresh(f"d{einsum.target}_start")
        self._emit(adjoint, ranks, body, conjunction(where))
        value = Access(einsum.target, tuple(ZERO if r == rank else Index(r) for r in einsum.ranks))
        self._chained(einsum, Access(adjoint, tuple(map(Index, ranks))), value, ranks)

    # -- shares

    def _share(self, part: Part, points: tuple[str, ...], holds: Predicates) -> None:
        access = part.access
        kind = self._kind(access)
        if self.turning or kind in (BEFORE, NEXT) or access.tensor in self.recurrent:
            part = replace(part, adjoint=self._kept(part.adjoint))
            holds = tuple(map(self._kept, holds))
        if not kind:
            super()._share(part, points, holds)
            if self.turning and access.tensor not in self.members:
                shares = self.shares[access.tensor]
                shares[-1] = self._outward(shares[-1], access.tensor, self.axes[access.tensor])
            return
        axis, rank = self.cascade.iterative()[access.tensor]
        axes, subscripts = self.axes[access.tensor], access.subscripts
        if kind in (BEFORE, NEXT):
            subscripts = (*subscripts[:axis], Index(rank), *subscripts[axis + 1 :])
        else:
            axes = (*axes[:axis], *axes[axis + 1 :])
            subscripts = (*subscripts[:axis], *subscripts[axis + 1 :])
        share = self._placed(part, subscripts, axes, points, holds)
        if self.turning and access.tensor not in self.members:
            share = self._outward(share, access.tensor, axes)
        self.shares.setdefault(f"{access.tensor} {kind}", []).append(share)

    def _part(self, tensor: str, share: Share) -> Access:
        if not self.turning:
            return super()._part(tensor, share)
        name, ranks = self.names.fresh(f"d{tensor}_part"), self.axes[tensor]
        where = conjunction(self._all_back(self._missing(share)))
        self._emit(name, ranks, self._back(share.value), where)
        return Access(name, self._undone(tuple(Index(rank) for rank in ranks)))

    def _outward(self, share: Share, tensor: str, axes: tuple[str, ...]) -> Share:
        """A share that a turn gives away: each turn writes its own, in the order of turns."""
        if self.turning not in axes:
            return Share(self._back(share.value), share.where)
        name = self.names.fresh(f"d{tensor}_back")
        where = self._all_back(self._missing(share))
        self._emit(name, axes, self._back(share.value), conjunction(where))
        own = tuple(Index(rank) for rank in axes)
        return Share(Access(name, self._undone(own)), share.where)

    def _kept(self, expr: Expr) -> Expr:
        """An expression that reads what a turn found and made from tensors that keep it."""
        return rewrite(expr, self._keeper)

    def _keeper(self, term: Expr) -> Expr | None:
        if not isinstance(term, Access) or self._kind(term) not in (BEFORE, NEXT):
            return None
        axis, rank = self.cascade.iterative()[term.tensor]
        kind = self._kind(term)
        ranks = self.axes[term.tensor]
        own = tuple(Index(r) for r in ranks)
        read = own if kind == BEFORE else tuple(
            Map("+", (Index(r), ONE)) if r == rank else Index(r) for r in ranks
        )  # fmt: skip
        body = Access(term.tensor, read)
        known = next((e for e in self.early if e.body == body), None)
        if known is None:
            name = self.names.fresh(f"{term.tensor}_{kind}")
            known = Einsum(name, tuple(map(Left, ranks)), body)
            self.early.append(known)
            self._known(name, ranks, self.domains.tensors[term.tensor])
        turn = term.subscripts[axis]
        place = turn.args[0] if isinstance(turn, Map) else turn
        return Access(known.target, (*term.subscripts[:axis], place, *term.subscripts[axis + 1 :]))

    # -- the order of turns

    def _undone(self, own: tuple[Expr, ...]) -> tuple[Expr, ...]:
        """A position, in the turn that undoes the one at hand."""
        return tuple(self._back(subscript) for subscript in own)

    def _all_back(self, predicates: Predicates) -> Predicates:
        return tuple(map(self._back, predicates))

    def _back(self, expr: Expr) -> Expr:
        """What is said of turn r by its number, said by the turn that undoes it."""
        last = Map("-", (Extent(base(self.turning)), ONE))

        def rule(term: Expr) -> Expr | None:
            match term:
                case Index(rank) if rank == self.turning:
                    return Map("-", (last, term))
                case Map("-", (first, Map("-", (second, turn)))) if first == second == last:
                    return turn
                case _:
                    return None

        return rewrite(expr, rule)


def _reached(reads: list[frozenset[int]], start: int) -> frozenset[int]:
    """All that an Einsum reads, directly or through others."""
    found: set[int] = set()
    stack = list(reads[start])
    while stack:
        number = stack.pop()
        if number not in found:
            found.add(number)
            stack.extend(reads[number])
    return frozenset(found)
