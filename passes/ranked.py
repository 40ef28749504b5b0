"""Count where a point stands among its fiber, for machines that cannot sort.

    R[p, m] = rankof[m](S[p, m])
    R[p, m] = sum[m' where S[p, m'] > S[p, m] or S[p, m'] == S[p, m] and m' < m](1)

    I[p, j] = argtop[m](S[p, m])            I_place[p, m] = rankof[m](S[p, m])
                                            I_count[p]    = sum[m](present(S[p, m]))
                                            I[p, j]       = sum[m where I_place[p, m] == j](m)
                                                            where j < I_count[p]

    J[p] = argmax[m](S[p, m])               J_best[p] = max[m](S[p, m])
                                            J[p]      = min[m where S[p, m] == J_best[p]](m)
                                                        where J_count[p] > 0

Ties go to the smaller position, and what is empty has no place. The work grows with the square of
the fiber; it is that of a product of matrices, without any exchange between instances. All hold for
numbers alone: NaN, which the interpreter puts last, is larger than nothing here.
"""

from __future__ import annotations

from dataclasses import replace

from attnc.ir.cascade import Cascade, Einsum, Left
from attnc.ir.expr import ONE, ZERO, Access, Expr, Index, Map, Populate, Reduce, both
from attnc.ir.walk import free_ranks, substitute
from attnc.passes.fiber import Names


def count_places(cascade: Cascade) -> Cascade:
    """The normalised cascade with sums and extrema for every choice by value; the same if none."""
    names = Names(cascade)
    einsums: list[Einsum] = []
    for einsum in cascade.einsums:
        if isinstance(einsum.body, Populate):
            einsums += _Places(cascade, einsum, einsum.body, names).einsums()
        else:
            einsums.append(einsum)
    same = all(new is old for new, old in zip(einsums, cascade.einsums))
    return cascade if same else replace(cascade, einsums=tuple(einsums))


class _Places:
    """One choice by value: the values, and a second position along their rank."""

    def __init__(self, cascade: Cascade, einsum: Einsum, populate: Populate, names: Names) -> None:
        self.einsum, self.populate, self.names = einsum, populate, names
        self.rank = populate.rank
        free = free_ranks(populate.body) | free_ranks(populate.where) | {self.rank}
        free |= {*cascade.batch}
        self.ranks = tuple(dict.fromkeys((*cascade.batch, *sorted(free))))
        self.other = f"{self.rank}'"
        while self.other in self.ranks:
            self.other += "'"

    def einsums(self) -> list[Einsum]:
        """What stands for the Einsum: its values if they have no name, helpers, the result."""
        made, value = self._values()
        if self.populate.op == "rankof":
            return [*made, self._place(self.einsum, value)]
        kept = tuple(rank for rank in self.ranks if rank != self.rank)
        present = Reduce("sum", (self.rank,), Map("present", (value,)))
        count = replace(self._own("count", kept), body=present)
        slot = self.populate.slot
        if slot is None:
            extremum = "min" if self.populate.op == "argmin" else "max"
            best = self._own("best", kept)
            best = replace(best, body=Reduce(extremum, (self.rank,), value), dtype=None)
            helpers = [best, count]
            chosen = Reduce("min", (self.rank,), Index(self.rank), Map("==", (value, _at(best))))
            exists = Map(">", (_at(count), ZERO))
        else:
            place = self._place(self._own("place", self.ranks), value)
            helpers = [place, count]
            there = Map("==", (_at(place), Index(slot)))
            chosen = Reduce("sum", (self.rank,), Index(self.rank), there)
            exists = Map("<", (Index(slot), _at(count)))
        where = both(self.einsum.where, exists)
        return [*made, *helpers, replace(self.einsum, body=chosen, where=where)]

    def _values(self) -> tuple[list[Einsum], Expr]:
        """What is compared, as a tensor: where it is computed, every reader must see the same."""
        body = self.populate.body
        if isinstance(body, Access) and self.populate.where is None:
            return [], body
        values = replace(
            self._own("value", self.ranks), body=body, where=self.populate.where, dtype=None
        )
        return [values], _at(values)

    def _place(self, einsum: Einsum, value: Expr) -> Einsum:
        """How many stand before a point; it exists where the point does."""
        rank, other = Index(self.rank), Index(self.other)
        there = substitute(value, {self.rank: other})
        before = Map("<" if self.populate.op == "argbottom" else ">", (there, value))
        tied = Map("and", (Map("==", (there, value)), Map("<", (other, rank))))
        counted = Reduce("sum", (self.other,), ONE, Map("or", (before, tied)))
        exists = Map("present", (value,))
        return replace(einsum, body=counted, where=both(einsum.where, exists))

    def _own(self, part: str, ranks: tuple[str, ...]) -> Einsum:
        name = self.names.fresh(f"{self.einsum.target}_{part}")
        return Einsum(name, tuple(map(Left, ranks)), ONE, None, "int", self.einsum.span)


def _at(einsum: Einsum) -> Access:
    """A tensor at its own position."""
    return Access(einsum.target, tuple(map(Index, einsum.ranks)), einsum.span)
