"""Turn reductions up to a position into recurrences, where the position limits them and no more.

    G[t] = max[m](S[m]) where m <= t             G_run[0]   = -inf
    D[t] = sum[m](exp(S[m] - G[t])) where m <= t G_run[t+1] = max(G_run[t], S[t])
                                                 G[t]       = G_run[t+1]
                                                 D_run[0]   = 0
                                                 D_run[t+1] = D_run[t] * exp(G_run[t] - G_run[t+1])
                                                              + exp(S[t] - G_run[t+1])
                                                 D[t]       = D_run[t+1]

Leave the position out of every term: what is left is the reduction of one sequence, and the state
of its sweep after a step is the reduction of the prefix that ends there. Legal if the terms depend
on the position through the predicate alone, besides reductions of the same prefix; what these cost
when they change is what a running reduction is corrected by (`online.py`), under its conditions.
The work falls from |t| |m| to |t|. Feng et al., "Attention as an RNN" (2024), for the softmax.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from attnc.ir.cascade import STREAMING, Cascade, Einsum, Step, Tensor, base, rank_of
from attnc.ir.expr import (
    Access,
    Cast,
    Expr,
    Extent,
    Index,
    Map,
    Populate,
    Reduce,
    conjuncts,
)
from attnc.ir.print_expr import print_expr
from attnc.ir.walk import children, free_ranks, rebuild
from attnc.passes.clean import remove_dead
from attnc.passes.cut import closure, cut, heavy, long_ranks
from attnc.passes.domain import Domains, conjunction, union
from attnc.passes.fiber import Names
from attnc.passes.online import Sweeps
from attnc.passes.recurrences.chunk import chunk
from attnc.passes.recurrences.recurrence import NoRecurrence
from attnc.passes.tiling import CannotTile


@dataclass(frozen=True, slots=True)
class Kept:
    """A reduction of prefixes that is no scan: why, and whether data of each position say so."""

    einsum: Einsum
    reason: str
    data: bool = False


class _Stays(Exception):
    """A tensor that depends on the position by more than the prefix that ends there."""

    def __init__(self, reason: str, data: bool = False) -> None:
        super().__init__(reason)
        self.reason, self.data = reason, data


@dataclass(frozen=True, slots=True)
class _Prefix:
    """The reductions over `key` up to a position along `query`, that position included or not.

    With `shifted` they end elsewhere: there only is to say why that is no scan.
    """

    query: str
    key: str
    after: bool
    mask: Expr
    shifted: bool = False


def prefixes(cascade: Cascade) -> Cascade:
    """The cascade with every reduction of prefixes that can be one as a recurrence."""
    return _rewritten(cascade)[0]


def unscanned(cascade: Cascade) -> tuple[Kept, ...]:
    """The reductions of prefixes that stay as they are, with the reasons."""
    return _rewritten(cascade)[1]


def _rewritten(cascade: Cascade) -> tuple[Cascade, tuple[Kept, ...]]:
    kept: dict[str, Kept] = {}
    for prefix in dict.fromkeys(_found(cascade)):
        made = _Scan(cascade, prefix)
        cascade = made.rewritten()
        for reduction in made.kept:
            kept.setdefault(reduction.einsum.target, reduction)
    return cascade, tuple(kept.values())


def _found(cascade: Cascade) -> Iterator[_Prefix]:
    """The prefixes that a cascade reduces."""
    domains, long, classes = Domains(cascade), long_ranks(cascade), rank_of(cascade)
    asked = {r for d in cascade.schedule if d.verb in STREAMING for r in d.ranks}
    loops = {rank for _, rank in cascade.iterative().values()}
    for einsum in cascade.einsums:
        body = einsum.body
        if not isinstance(body, Reduce) or set(einsum.ranks) & loops:
            continue
        points = union(domains.holding(body.where), domains.of(body.body))
        for key in body.ranks:
            if classes.get(key, base(key)) not in long or base(key) in asked:
                continue
            for query in einsum.ranks[len(cascade.batch) :]:
                if classes.get(query, query) in long:
                    yield from _prefix(points, query, key)


def _prefix(points: tuple[Expr, ...], query: str, key: str) -> Iterator[_Prefix]:
    for part in points:
        match part:
            case Map("<=" | "<" as op, (Index(first), Index(second))) | Map(
                ">=" | ">" as op, (Index(second), Index(first))
            ) if (first, second) == (key, query):
                yield _Prefix(query, key, op in ("<=", ">="), part)
            case Map("<=" | "<" | ">=" | ">") if {query, key} <= free_ranks(part):
                yield _Prefix(query, key, True, part, shifted=True)
            case _:
                pass


class _Scan:
    """One prefix of a cascade: the reductions of it, without the position, and their sweep."""

    def __init__(self, cascade: Cascade, prefix: _Prefix) -> None:
        self.cascade, self.prefix = cascade, prefix
        self.definitions = {einsum.target: einsum for einsum in cascade.einsums}
        self.domains = Domains(cascade)
        self.stepped = cascade.iterative()
        self.erased: dict[str, Einsum] = {}
        self.kept: list[Kept] = []

    def rewritten(self) -> Cascade:
        wanted = self._wanted()
        if self.prefix.shifted:
            reason = f"takes the points where {print_expr(self.prefix.mask)}: no prefix"
            self.kept += [Kept(self.definitions[name], reason) for name in wanted]
        if self.kept or not wanted:
            return self.cascade  # What is left needs every pair of positions all the same.
        sweep = _Steps(self._sequence(wanted), self.cascade, self.prefix, self._stored(), wanted)
        einsums: list[Einsum] = []
        for einsum in self.cascade.einsums:
            if einsum.target in wanted:
                try:
                    einsums += sweep.steps(einsum)
                except CannotTile as error:
                    self.kept.append(Kept(einsum, f"{error.einsum.target} {error.reason}"))
                    return self.cascade
            else:
                einsums.append(einsum)
        for refusal in sweep.refusals:
            own = self.definitions[refusal.einsum]
            self.kept.append(Kept(own, refusal.reason))
        result = remove_dead(replace(self.cascade, einsums=tuple(einsums)))
        left = {einsum.target for einsum in result.einsums} - wanted.keys()
        if sweep.refusals or left & self.erased.keys():
            return self.cascade
        try:
            chunk(result, self.prefix.query, (2, 2, 2, 2), cut(result).stored)
        except (NoRecurrence, CannotTile) as error:
            reason = f"would go by single steps, since {error.einsum.target} {error.reason}"
            self.kept += [Kept(self.definitions[name], reason) for name in wanted]
            return self.cascade
        steps = (self._step(self.definitions[name]) for name in wanted)
        return replace(result, derivation=(*self.cascade.derivation, *steps))

    def _step(self, einsum: Einsum) -> Step:
        query, key = self.prefix.query, self.prefix.key
        assert isinstance(einsum.body, Reduce)
        return Step(
            law="prefix scan",
            rank=key,
            einsums=(einsum.target,),
            before=1,
            after=1,
            text=f"{einsum.target} steps along {query}: the product of |{query}| and |{key}| is "
            "gone",
            proof=f"terms name {query} in the predicate alone: the {einsum.body.op} up to a "
            "position is the state of one sweep",
            span=einsum.span,
        )

    def _wanted(self) -> dict[str, None]:
        """The reductions of this prefix that depend on the position by nothing else."""
        found: dict[str, None] = {}
        for einsum in self.cascade.einsums:
            body = einsum.body
            if not isinstance(body, Reduce) or self.prefix.key not in body.ranks:
                continue
            if self.prefix.query in einsum.ranks and self.prefix.mask in self._points(body):
                state = set(einsum.ranks) - {self.prefix.query, *self.cascade.batch}
                try:
                    if len(state) > 1:
                        ranks = ", ".join(sorted(state))
                        raise _Stays(f"is a matrix ({ranks}) at each position, too much for a tile")
                    self._erase(einsum.target)
                except _Stays as error:
                    self.kept.append(Kept(einsum, error.reason, error.data))
                else:
                    found[einsum.target] = None
        return found

    def _points(self, body: Reduce) -> tuple[Expr, ...]:
        return union(self.domains.holding(body.where), self.domains.of(body.body))

    # -- the sequence without the position

    def _sequence(self, wanted: dict[str, None]) -> Cascade:
        """The cascade of one sequence: what the reductions need, the position left out of it."""
        needed = {name for target in wanted for name in closure(self.cascade, target, set())}
        return replace(
            self.cascade,
            outputs=tuple(
                Tensor(name, self.erased[name].ranks, len(self.cascade.batch)) for name in wanted
            ),
            einsums=tuple(
                self.erased.get(einsum.target, einsum)
                for einsum in self.cascade.einsums
                if einsum.target in needed
            ),
        )

    def _stored(self) -> tuple[str, ...]:
        """What is there before the sweep: it takes a reduction over a long rank."""
        return tuple(heavy(self.cascade) - self.erased.keys())

    def _erase(self, tensor: str) -> None:
        """Leave the position out of a tensor and of all that it is made of."""
        if tensor in self.erased:
            return
        einsum, query, key = self.definitions[tensor], self.prefix.query, self.prefix.key
        if tensor in self.stepped:
            raise _Stays(f"needs {tensor}, which steps along a rank of its own")
        body = einsum.body
        if isinstance(body, Populate):
            raise _Stays(f"needs {tensor}, which chooses points")
        if isinstance(body, Reduce):
            if key in body.ranks:
                mixed = [p for p in self._points(body) if query in free_ranks(p)]
                other = next((p for p in mixed if p != self.prefix.mask), None)
                if not mixed or other is not None:
                    raise _Stays("takes other points than those up to its position")
            body = replace(body, body=self._free(body.body, tensor), where=self._open(body.where))
        else:
            body = self._free(body, tensor)
        left = tuple(part for part in einsum.left if part.rank != query)
        where = self._open(einsum.where)
        self.erased[tensor] = replace(einsum, left=left, body=body, where=where)

    def _open(self, where: Expr | None) -> Expr | None:
        """A predicate without that of the prefix."""
        parts = tuple(part for part in conjuncts(where) if part != self.prefix.mask)
        if any(self.prefix.query in free_ranks(part) for part in parts):
            raise _Stays("takes other points than those up to its position")
        return conjunction(parts)

    def _free(self, expr: Expr, tensor: str) -> Expr:
        """An expression without the position."""
        query = self.prefix.query
        match expr:
            case Index(rank) if rank == query:
                raise _Stays(f"needs {tensor}, which names {query}")
            case Map("present"):
                raise _Stays(f"needs {tensor}, which asks what exists")
            case Access(name, subscripts) if query in free_ranks(expr):
                source = self.definitions.get(name)
                if source is None or query not in source.ranks:
                    raise _Stays(f"needs {tensor}, which reads {name} at {query}", True)
                axis = source.ranks.index(query)
                rest = subscripts[:axis] + subscripts[axis + 1 :]
                if subscripts[axis] != Index(query) or any(query in free_ranks(s) for s in rest):
                    raise _Stays(f"needs {tensor}, which reads {name} at another position")
                self._erase(name)
                return replace(expr, subscripts=rest)
            case _:
                parts = tuple(self._free(part, tensor) for part in children(expr))
                return rebuild(expr, parts)


class _Steps(Sweeps):
    """The sweep over a sequence, a step for each position: a tile is one of them."""

    def __init__(
        self,
        sequence: Cascade,
        cascade: Cascade,
        prefix: _Prefix,
        stored: tuple[str, ...],
        wanted: dict[str, None],
    ) -> None:
        super().__init__(sequence, prefix.key, 1, stored)
        self.names, self.outer, self.after = Names(cascade), prefix.query, prefix.after
        sizes = {decl.name: decl.extent for decl in cascade.ranks}
        classes = rank_of(cascade)
        query, key = (classes.get(rank, base(rank)) for rank in (prefix.query, prefix.key))
        self.alike = sizes.get(query, Extent(query)) == sizes.get(key, Extent(key))

    @property
    def position(self) -> Expr:
        return Index(self.outer)

    def steps(self, whole: Einsum) -> list[Einsum]:
        """The Einsums of a reduction: its state, and what it is at each position."""
        einsum = self.facts.definitions[whole.target]
        self._reduction(einsum, self.facts.reductions[whole.target])
        own = Access(whole.target, tuple(Index(r) for r in einsum.ranks))
        place = self._next if self.after else Index(self.outer)
        final: Expr = self._at(self.runs[whole.target], own.subscripts, place)
        if whole.dtype == "int":
            final = Cast("int", final)
        made, self.out = self.out, []
        return [*made, replace(whole, body=final)]

    def _emit(
        self, einsum: Einsum, body: Reduce, sweep: int, correction: Expr | None, product: str
    ) -> None:
        points = union(self.domains.holding(body.where), self.domains.of(body.body))
        inside = [self._tiled(part, sweep, einsum) for part in points]
        term = self._tiled(body.body, sweep, einsum)
        rest = tuple(rank for rank in body.ranks if rank != self.rank)
        if rest:
            name = self.names.fresh(f"{einsum.target}_step")
            whole = replace(body, ranks=rest, body=term, where=conjunction(tuple(inside)))
            self.out.append(Einsum(name, self._left(einsum.ranks, ""), whole, span=einsum.span))
            own = tuple(map(Index, einsum.ranks))
            term, inside = self._at(name, own, Index(self.outer)), []
        if not self.alike:
            inside.append(self._in_range)
        condition = conjunction(tuple(dict.fromkeys(inside)))
        if condition is not None:
            term = Map("select", (condition, term, self._identity(body.op)))
        state = self.names.fresh(f"{einsum.target}_run")
        self.runs[einsum.target] = state
        old: Expr = self._at(state, tuple(map(Index, einsum.ranks)), Index(self.outer))
        if correction is not None:
            old = Map(product, (old, correction))
        start, step = self._left(einsum.ranks, "start"), self._left(einsum.ranks, "next")
        self.out.append(Einsum(state, start, self._identity(body.op), span=einsum.span))
        combined = self._combined(body.op, old, term)
        self.out.append(Einsum(state, step, combined, span=einsum.span))

    def _tile_of(self, access: Access, sweep: int, reader: Einsum) -> Access:
        source = self.facts.definitions[access.tensor]
        axis = source.ranks.index(self.rank) if self.rank in source.ranks else None
        if any(left.step for left in source.left) or axis is None:
            raise CannotTile(reader, access, f"reads {access.tensor}, which has steps of its own")
        if access.subscripts[axis] != Index(self.rank):
            raise CannotTile(reader, access, f"reads {access.tensor} at another position")
        waits = self.facts.waits[access.tensor]
        stage = sweep if any(self.sweep.get(w) == sweep for w in waits) else -1
        key = (access.tensor, stage)
        if key not in self.tiles:
            body = self._tiled(source.body, sweep, source)
            where = None if source.where is None else self._tiled(source.where, sweep, source)
            name = self.names.fresh(f"{access.tensor}_step")
            self.tiles[key] = name
            left = self._left(tuple(r for r in source.ranks if r != self.rank), "")
            self.out.append(Einsum(name, left, body, where, source.dtype, source.span))
        own = tuple(
            self._tiled(s, sweep, reader) for i, s in enumerate(access.subscripts) if i != axis
        )
        return self._at(self.tiles[key], own, Index(self.outer))
