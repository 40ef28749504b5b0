"""Which tensors their readers make again, tile by tile, and what is kept so that they can.

    S[p, m]    = sum[e](Q[p, e] * K[m, e])            A[p, m] = exp(S[p, m] - L[p])
    dK[m, e]   = sum[p'](A[p', m] * ...)

A has the points of p and m, and is made of tensors that have one of the two: in memory it would be
larger than what it is made of, so whoever reads it, under whatever variables, makes it again.

    T[i, t, m] = sum[d](K[m, d] * Y[i, t, d])         Y[i+1, t, d] = ...
    W[t, m]    = sum[i](T[i, t, m] * B[i, t, m])

    Y_kept[i, t, d] = Y[i, t, d]
    T[i, t, m]      = sum[d](K[m, d] * Y_kept[i, t, d])

Nor does the turn of a recurrence leave T to who reads it outside of the sweep along i: it leaves Y.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

from attnc.ir.cascade import Cascade, Einsum, Left
from attnc.ir.expr import ONE, Access, Expr, Index, Map, Populate, Reduce
from attnc.ir.walk import accesses, rewrite
from attnc.passes.cut import constant_ranks
from attnc.passes.fiber import Names


class Again:
    """The tensors of a normalised cascade that are made again.

    `long` are the ranks that do not lie whole within a tile, `costly` the tensors of which a second
    computation would cost too much or differ, `turns` those made of states turn by turn, with the
    ranks of the turns. A tensor is made again if each input that a reduction in it reads, and all
    else that is in memory or a state, has fewer long ranks than it, and no reduction in it but
    over ranks of constant extent holds another: then it costs about what it would to read it.
    """

    def __init__(
        self,
        cascade: Cascade,
        long: Collection[str],
        costly: Collection[str],
        turns: dict[str, set[str]],
    ) -> None:
        self.cascade, self.turns = cascade, turns
        self.stepped = cascade.iterative()
        self.long = {*long} - {rank for _, rank in self.stepped.values()}
        self.made = {
            einsum.target: einsum
            for einsum in cascade.einsums
            if einsum.target not in self.stepped and einsum.target not in costly
        }
        self.constant = constant_ranks(cascade)
        self.known: dict[tuple[str, frozenset[str], frozenset[str]], bool] = {}
        self.tensors = frozenset(
            name for name in self.made if self._fits(name, self._width(name), frozenset())
        )

    def _fits(self, name: str, own: frozenset[str], reduced: frozenset[str]) -> bool:
        """Whether what has `own` long ranks can be made again of what a tensor is made of, and
        reduces over some ranks what it makes of that."""
        if (name, own, reduced) not in self.known:
            self.known[name, own, reduced] = self._looked_up(self.made[name], own, reduced)
        return self.known[name, own, reduced]

    def _looked_up(self, einsum: Einsum, own: frozenset[str], reduced: frozenset[str]) -> bool:
        match einsum.body:
            case Populate():
                return False
            case Reduce(_, ranks):
                if reduced - self.constant:
                    return False
                reduced = reduced | {*ranks}
            case _:
                pass
        for access in (*accesses(einsum.body), *accesses(einsum.where)):
            name = access.tensor
            if self._width(name) < own or (self.cascade.input(name) and not reduced):
                continue
            if name not in self.made or not self._fits(name, own, reduced):
                return False
        return True

    def _width(self, tensor: str) -> frozenset[str]:
        return frozenset(rank for rank in self.cascade.axes(tensor) if rank in self.long)

    def kept(self) -> tuple[Cascade, frozenset[str]]:
        """The cascade whose turns leave no such tensor behind, and what they leave instead."""
        work = _Kept(self)
        wide = {name: None for name in self._outside() for name in self._with(name)}
        return (work.run(wide), frozenset(work.small)) if wide else (self.cascade, frozenset())

    def _outside(self) -> dict[str, None]:
        """The tensors of a turn that are made again, as they are read outside of it."""
        found: dict[str, None] = {}
        for einsum in self.cascade.einsums:
            for access in (*accesses(einsum.body), *accesses(einsum.where)):
                turn = {Index(rank) for rank in self.turns.get(access.tensor, ())}
                if access.tensor in self.tensors and not turn <= {*access.subscripts}:
                    found.setdefault(access.tensor)
        return found

    def _with(self, name: str) -> dict[str, None]:
        """A tensor of a turn and those of the turn that are as wide, in it."""
        found = {name: None}
        for access in (*accesses(self.made[name].body), *accesses(self.made[name].where)):
            if access.tensor in self.turns and not self._width(access.tensor) < self._width(name):
                found |= self._with(access.tensor)
        return found


class _Kept:
    """Large tensors of a turn made of copies of states, and the small tensors that they read."""

    def __init__(self, again: Again) -> None:
        self.cascade, self.turns, self.stepped = again.cascade, again.turns, again.stepped
        self.names = Names(self.cascade)
        self.small: dict[str, None] = {}
        self.copies: dict[Access, Einsum] = {
            einsum.body: einsum
            for einsum in self.cascade.einsums
            if isinstance(einsum.body, Access)
            and einsum.where is None
            and einsum.target in self.turns
        }

    def run(self, wide: Collection[str]) -> Cascade:
        """The cascade with what is made again made of what is kept."""
        einsums: dict[Einsum, None] = {}
        for einsum in self.cascade.einsums:
            if einsum.target in wide:
                made: list[Einsum] = []

                def kept(term: Expr, made: list[Einsum] = made) -> Expr | None:
                    return self._kept(term, wide, made) if isinstance(term, Access) else None

                where = None if einsum.where is None else rewrite(einsum.where, kept)
                einsum = replace(einsum, body=rewrite(einsum.body, kept), where=where)
                einsums.update(dict.fromkeys(made))
            einsums.setdefault(einsum)
        return replace(self.cascade, einsums=tuple(einsums))

    def _kept(self, term: Access, wide: Collection[str], made: list[Einsum]) -> Expr | None:
        """A state by its copy, which is among `made` then; what else a turn leaves is noted."""
        if term.tensor in self.turns:
            if term.tensor not in wide:
                self.small.setdefault(term.tensor)
            return None
        if term.tensor not in self.stepped:
            return None
        axis, rank = self.stepped[term.tensor]
        ranks, turn = self.cascade.axes(term.tensor), term.subscripts[axis]
        if turn not in (Index(rank), Map("+", (Index(rank), ONE))):
            return None
        own = tuple(turn if r == rank else Index(r) for r in ranks)
        body = Access(term.tensor, own)
        if body not in self.copies:
            name = self.names.fresh(f"{term.tensor}_kept")
            self.copies[body] = Einsum(name, tuple(map(Left, ranks)), body)
        made.append(self.copies[body])
        copy = self.copies[body].target
        self.small.setdefault(copy)
        return Access(copy, (*term.subscripts[:axis], Index(rank), *term.subscripts[axis + 1 :]))
