"""Run parts of a streamed rank side by side, and merge their states.

    G_run[m1+1, p] = max(G_run[m1, p], G_tile[m1, p])
    D_run[m1+1, p] = D_run[m1, p] * G_fix[m1, p] + D_tile[m1, p]

    G_run[s, m1+1, p], D_run[s, m1+1, p]     the same, of the tiles that belong to part s
    G_part[s, p]  = G_run[s, |m1|, p]        D_part[s, p] = D_run[s, |m1|, p]
    G[p]          = max[s](G_part[s, p])     D[p]         = sum[s](D_part[s, p] * G_merge[s, p])

A state corrected by H(y_new) / H(y_old) is a monoid: what takes a part's value of y to that of all
parts is the correction that took it from tile to tile. Legal for any division of the tiles among
the parts, so a kernel may give each part as many live ones as the others. This is split-K as in
Flash-Decoding (Dao et al., 2023), merged by the associative rescaling of LeanAttention (2024).

How many parts there are may differ from row to row: then a table says it, and a merge reads no more
of them than there are. What fills the table, `level.py` says.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace

from attnc.ir.cascade import Cascade, Einsum, Left, ParamDecl, RankDecl, Tensor, base
from attnc.ir.expr import ONE, Access, Cast, Expr, Extent, Index, Map, Param, Reduce, both
from attnc.ir.source import NOWHERE, Span
from attnc.ir.walk import accesses, rewrite
from attnc.passes.clean import remove_dead
from attnc.passes.domain import Domains, conjunction
from attnc.passes.fiber import Names
from attnc.passes.online import Online, State


@dataclass(frozen=True, slots=True)
class Split:
    """A cascade with a rank in parts: the rank of the parts, and the states to be stored.

    `rank` is what is split, `outer` numbers its tiles. `belongs` is the predicate that a tile
    belongs to a part; lowering may divide otherwise. `table` is the tensor that says how many parts
    a row has, "" where all have the same number.
    """

    cascade: Cascade
    rank: str
    outer: str
    part: str
    belongs: Expr
    stored: tuple[str, ...]
    table: str = ""


class CannotSplit(Exception):
    """Why the states of a sweep cannot be merged, and where."""

    def __init__(self, reason: str, span: Span = NOWHERE) -> None:
        super().__init__(reason)
        self.reason, self.span = reason, span


def split(online: Online, parts: int, long: Collection[str] | None = None) -> Split:
    """The cascade of a sweep, its tiles divided among `parts`.

    What waits for a sweep has one of its own, in parts too. With `long` a table says how many of
    the parts there are, by the ranks among `long` that all states have. Raises CannotSplit where
    something in a sweep is no running reduction.
    """
    return _Parts(online, parts, long).split()


class _Parts:
    """The state of one rewrite."""

    def __init__(self, online: Online, parts: int, long: Collection[str] | None) -> None:
        self.cascade, self.outer, self.parts = _with_finals(online), online.outer, parts
        self.over = online.rank
        self.states = {state.run: state for state in online.states}
        self.finals = {state.tensor: state for state in online.states}
        self.own = {einsum.target: einsum.ranks for einsum in self.cascade.einsums}
        self.domains = Domains(self.cascade)
        names = Names(self.cascade)
        self.rank, self.size = names.fresh("s"), names.fresh("S0")
        self.table: Tensor | None = None
        if long is not None:
            self.table = Tensor(
                names.fresh(f"{base(self.outer)}_parts"),
                self._common(online, long),
                len(self.cascade.batch),
                "int",
            )
        self.stored = {state.tensor: names.fresh(f"{state.tensor}_part") for state in online.states}
        self.maps = online.maps
        self.stored.update(
            (own.target, names.fresh(f"{own.target}_part")) for own in self.maps.values()
        )
        self.merges: dict[Access, str] = {}
        self.written: list[str] = []
        self.names = names

    def _common(self, online: Online, long: Collection[str]) -> tuple[str, ...]:
        """The ranks of the batch, and those among `long` that every state has."""
        batch, states = self.cascade.batch, [self.own[state.run] for state in online.states]
        common = set.intersection(*map(set, states)) & set(long) - {*batch, self.outer}
        return (*batch, *(rank for rank in states[0] if rank in common))

    @property
    def belongs(self) -> Expr:
        """Tile m1 is one of part s: m1 // ceil(|m1| / S0) == s."""
        parts: Expr = Param(self.size)
        if self.table is not None:
            parts = Map("max", (_number(self.table), ONE))
        each = Map("ceil", (Map("/", (Extent(self.outer), parts)),))
        return Map("==", (Map("//", (Index(self.outer), each)), Index(self.rank)))

    def split(self) -> Split:
        out: list[Einsum] = []
        for einsum in self.cascade.einsums:
            if self.outer in einsum.ranks:
                out.append(self._beside(einsum))
            elif einsum.target in self.finals:
                out += self._merged(einsum, self.finals[einsum.target])
            else:
                self._no_state(einsum)
                out.append(einsum)
        cascade = replace(
            self.cascade,
            inputs=(*self.cascade.inputs, *([] if self.table is None else [self.table])),
            einsums=tuple(out),
            params=(*self.cascade.params, ParamDecl(self.size, "int", self.parts)),
            ranks=(*self.cascade.ranks, RankDecl(self.rank, Param(self.size))),
        )
        cascade = remove_dead(cascade)
        alive = {einsum.target for einsum in cascade.einsums}
        stored = dict.fromkeys((*self.written, *self._awaited()))
        table = "" if self.table is None else self.table.name
        kept = tuple(name for name in stored if name in alive)
        return Split(cascade, self.over, self.outer, self.rank, self.belongs, kept, table)

    def _awaited(self) -> list[str]:
        """Reductions of an earlier sweep that a later one reads: merged before it begins."""
        reads: dict[str, dict[str, None]] = {}
        for einsum in self.cascade.einsums:
            own = reads.setdefault(einsum.target, {})
            for expr in (einsum.body, einsum.where):
                own.update((access.tensor, None) for access in accesses(expr))
        stack = [name for name, ranks in self.own.items() if self.outer in ranks]
        found: dict[str, None] = {}
        while stack:
            for name in reads[stack.pop()]:
                if name in reads and name not in found and self.outer not in self.own[name]:
                    found[name] = None
                    if name not in self.finals:
                        stack.append(name)
        return [name for name in found if name in self.finals]

    # -- inside the sweep

    def _beside(self, einsum: Einsum) -> Einsum:
        """An Einsum of the sweep, once for every part."""
        runs = einsum.target in self.states or einsum.target in self.maps
        if any(left.step for left in einsum.left) and not runs:
            raise CannotSplit(f"{einsum.target} is carried but is no reduction", einsum.span)
        left = tuple(
            own
            for part in einsum.left
            for own in ((Left(self.rank), part) if part.rank == self.outer else (part,))
        )
        body = rewrite(einsum.body, self._parted)
        where = None if einsum.where is None else rewrite(einsum.where, self._parted)
        if isinstance(body, Reduce) and einsum.target in {s.part for s in self.states.values()}:
            body = replace(body, where=both(body.where, self.belongs))
        return replace(einsum, left=left, body=body, where=where)

    def _parted(self, term: Expr) -> Expr | None:
        """A tensor of the sweep is read at the part at hand."""
        if not isinstance(term, Access) or self.outer not in self.own.get(term.tensor, ()):
            return None
        axis = self.own[term.tensor].index(self.outer)
        subscripts = (*term.subscripts[:axis], Index(self.rank), *term.subscripts[axis:])
        return replace(term, subscripts=subscripts)

    # -- after it

    def _no_state(self, einsum: Einsum) -> None:
        for expr in (einsum.body, einsum.where):
            for access in accesses(expr):
                if self.outer in self.own.get(access.tensor, ()):
                    reason = f"{einsum.target} reads {access.tensor} tile by tile"
                    raise CannotSplit(reason, einsum.span)

    def _merged(self, einsum: Einsum, state: State) -> list[Einsum]:
        """The state of each part, and what they come to together."""
        part = self._last(einsum, state.run)
        here = Access(part.target, tuple(Index(own.rank) for own in part.left))
        term: Expr = here
        before: list[Einsum] = []
        if state.fix is not None:
            name, made = self._merge(state.fix)
            before += made
            ranks = self.own[state.fix.tensor]
            fixed = tuple(Index(self.rank) if rank == self.outer else Index(rank) for rank in ranks)
            term = Map(state.product, (here, Access(name, fixed)))
        # A sum of parts exists everywhere, what it stands for perhaps not.
        where = conjunction(self.domains.of_einsum(einsum))
        there = None
        if self.table is not None:
            there = Map("<", (Index(self.rank), _number(self.table)))
        body = Reduce(state.op, (self.rank,), term, where=there)
        merged = replace(einsum, body=body, where=where)
        return [part, *before, merged]

    def _last(self, einsum: Einsum, run: str) -> Einsum:
        """The value of a tensor after all tiles of a part, by the name under which it is stored."""
        axis = self.own[run].index(self.outer)
        places = [Index(left.rank) for left in einsum.left]
        value: Expr
        value = Access(run, (*places[:axis], Index(self.rank), Extent(self.outer), *places[axis:]))
        if isinstance(einsum.body, Cast):  # A whole number is one for each part.
            value = replace(einsum.body, body=value)
        left = (*einsum.left[:axis], Left(self.rank), *einsum.left[axis:])
        name = self.stored[einsum.target]
        self.written.append(name)
        exact = einsum.dtype if einsum.dtype in ("int", "bool") else None
        return Einsum(name, left, value, dtype=exact, span=einsum.span)

    def _merge(self, fix: Access) -> tuple[str, list[Einsum]]:
        """The correction from the values of a part to those of all, once."""
        if fix in self.merges:
            return self.merges[fix], []
        source = next(e for e in self.cascade.einsums if e.target == fix.tensor)
        made: list[Einsum] = []

        def tensor(run: str) -> str:
            """What a running value comes to; a map of such is made if nothing else reads it."""
            if run in self.states:
                return self.states[run].tensor
            if run not in self.maps:
                raise CannotSplit(f"{fix.tensor} depends on more than running reductions")
            einsum = self.maps[run]
            if self.stored[einsum.target] not in self.written:
                if einsum.target not in self.own:
                    made.append(einsum)
                made.append(self._last(einsum, run))
            return einsum.target

        def rule(term: Expr) -> Expr | None:
            if not isinstance(term, Access) or self.outer not in self.own.get(term.tensor, ()):
                return None
            whole = tensor(term.tensor)
            axis = self.own[term.tensor].index(self.outer)
            rest = (*term.subscripts[:axis], *term.subscripts[axis + 1 :])
            if term.subscripts[axis] != Index(self.outer):
                return Access(whole, rest)
            subscripts = (*rest[:axis], Index(self.rank), *rest[axis:])
            return Access(self.stored[whole], subscripts)

        left = tuple(Left(self.rank) if own.rank == self.outer else own for own in source.left)
        name = self.names.fresh(f"{source.target.removesuffix('_fix')}_merge")
        self.merges[fix] = name
        merge = Einsum(name, left, rewrite(source.body, rule))
        return name, [*made, merge]


def _number(table: Tensor) -> Expr:
    """How many parts the row at hand has."""
    return Access(table.name, tuple(Index(rank) for rank in table.ranks))


def _with_finals(online: Online) -> Cascade:
    """The cascade of a sweep with the last value of every state, read or not: merges need them."""
    out: list[Einsum] = []
    there = {einsum.target for einsum in online.cascade.einsums}
    missing = {state.run: state for state in online.states if state.tensor not in there}
    for einsum in online.cascade.einsums:
        out.append(einsum)
        state = missing.get(einsum.target)
        if state is not None and any(left.step == "next" for left in einsum.left):
            places = tuple(
                Extent(online.outer) if left.step else Index(left.rank) for left in einsum.left
            )
            ranks = tuple(left for left in einsum.left if not left.step)
            out.append(Einsum(state.tensor, ranks, Access(state.run, places), span=einsum.span))
    return replace(online.cascade, einsums=tuple(out))


MOST = 128
"""Parts of one reduction at most: all of them lie in one tile when they are merged."""


def parts_for(instances: int, tiles: int, processors: int) -> int:
    """How many parts fill a machine: one more for each time that the grid would fit beside itself.

    `instances` of the grid run on `processors` at a time; a part of fewer than two `tiles` does
    not pay for the merge.
    """
    if instances <= 0 or tiles <= 0:
        return 1
    return max(1, min(processors // instances, tiles // 2, MOST))
