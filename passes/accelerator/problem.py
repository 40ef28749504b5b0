"""A cascade with its extents: iteration spaces, operations, what is read, and what exists."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property

from attnc.ir.cascade import Cascade, Einsum, base, rank_of
from attnc.ir.expr import Access, Const, Expr, Extent, Index, Map, Reduce, conjuncts
from attnc.ir.source import CompileError
from attnc.ir.walk import accesses, free_ranks, subterms
from attnc.passes.accelerator.amounts import Amount, larger, product
from attnc.passes.accelerator.existing import Existing
from attnc.passes.contraction import factors
from attnc.passes.cost import operations_of
from attnc.passes.count_passes import Counts, count_passes
from attnc.passes.domain import Domains, union
from attnc.passes.normalise import normalise
from attnc.passes.skip import skippable
from attnc.passes.symbolic import extent_symbol, extents


@dataclass(frozen=True, slots=True)
class Read:
    """One tensor that an Einsum reads: the rank variables that it is read along.

    `past` says that an iterative tensor is read as it was before the step, `last` at its end.
    """

    tensor: str
    ranks: frozenset[str]
    past: bool = False
    last: bool = False


class Problem:
    """A cascade at given extents; an extent that is not given stays a symbol if `symbolic`.

    Raises CompileError for an extent that is missing or no number of positions.
    """

    def __init__(self, cascade: Cascade, sizes: Mapping[str, int], symbolic: bool = False) -> None:
        self.cascade = normalise(cascade)
        self.classes = rank_of(self.cascade)
        self.extents = extents(self.cascade)
        given = {extent_symbol(name): size for name, size in sizes.items()}
        params = self.cascade.params
        given |= {extent_symbol(p.name): p.default for p in params if p.default is not None}
        self.known = given
        self.sizes: dict[str, Amount] = dict(sizes)
        for name in sorted({r for t in self.cascade.inputs for r in t.ranks} - set(sizes)):
            if not symbolic:
                raise CompileError(
                    f"the extent of rank {name} is not known",
                    cascade.span,
                    help=f"give it: --size {name}=1024, or a workload that has it",
                )
            self.sizes[name] = extent_symbol(name)
        for name, expr in self.extents.items():
            value = expr.subs(given)
            self.sizes[name] = int(value) if value.is_number else value
        for name, size in self.sizes.items():
            if isinstance(size, int) and size < 1:
                raise CompileError(
                    f"rank {name} has {size} positions", cascade.span, help="there is at least one"
                )
        self.steps = [
            e for e in self.cascade.einsums if not any(left.step == "start" for left in e.left)
        ]
        self.definitions = {e.target: e for e in self.steps}
        self.stepped = self.cascade.iterative()
        self.outputs = {t.name for t in self.cascade.outputs}
        self.domains = Domains(self.cascade)
        self.reads = {e.target: self._reads(e) for e in self.steps}
        self.spaces = {e.target: self._space(e) for e in self.steps}
        self.operations = {e.target: operations(e) for e in self.steps}
        self.existing = Existing(self.classes, self.extents, self.sizes, self.known)

    @cached_property
    def passes(self) -> Counts:
        return count_passes(self.cascade)

    def own(self, rank: str) -> str:
        """The rank over which a variable runs."""
        return self.classes.get(rank, base(rank))

    def extent(self, rank: str) -> Amount:
        return self.sizes[self.own(rank)]

    def words(self, tensor: str) -> Amount:
        return product(self.extent(rank) for rank in self.cascade.axes(tensor))

    def level_of(self, einsum: str, rank: str) -> int:
        """The pass over a rank in which an Einsum runs."""
        return self._levels.get((einsum, rank), 1)

    @cached_property
    def _levels(self) -> dict[tuple[str, str], int]:
        return {
            (e.target, rank): level
            for rank, count in self.passes.ranks.items()
            for e, level in zip(self.passes.graph.cascade.einsums, count.levels)
        }

    def parts(self, rank: str) -> frozenset[str]:
        """The ranks that a rank is read through or that are read through it, itself included."""
        found = {rank}
        for e in self.steps:
            for access in accesses(e.body):
                for subscript, axis in zip(access.subscripts, self.cascade.axes(access.tensor)):
                    inside = {self.own(r) for r in free_ranks(subscript)}
                    if rank in inside or axis == rank:
                        found |= {axis, *inside}
        return frozenset(found)

    def streamed(self, columns: str) -> frozenset[str]:
        """The rank of columns and the ranks that it is a part of."""
        found = {columns}
        for e in self.steps:
            for access in accesses(e.body):
                for subscript, axis in zip(access.subscripts, self.cascade.axes(access.tensor)):
                    if columns in {self.own(r) for r in free_ranks(subscript)}:
                        found.add(axis)
        return frozenset(found)

    def outer(self, columns: str) -> frozenset[str]:
        """Ranks that are loops around a tile: batch, steps, and the parts around the columns."""
        steps = {rank for _, rank in self.stepped.values()}
        wide = (self.parts(columns) - {columns}) if columns else frozenset()
        return frozenset({*self.cascade.batch, *steps, *wide})

    def _space(self, einsum: Einsum) -> tuple[str, ...]:
        left = [side.rank for side in einsum.left]
        inner = list(einsum.body.ranks) if isinstance(einsum.body, Reduce) else []
        return tuple(dict.fromkeys((*left, *inner)))

    def _reads(self, einsum: Einsum) -> tuple[Read, ...]:
        found: dict[Read, None] = {}
        for access in (*accesses(einsum.body), *accesses(einsum.where)):
            past = last = False
            if access.tensor in self.stepped:
                axis, rank = self.stepped[access.tensor]
                past = access.subscripts[axis] == Index(rank)
                last = isinstance(access.subscripts[axis], Const | Extent)
            ranks = frozenset(r for s in access.subscripts for r in free_ranks(s))
            found.setdefault(Read(access.tensor, ranks, past, last))
        return tuple(found)

    # -- what exists

    def predicates(self, einsum: Einsum) -> tuple[Expr, ...]:
        """What must hold at a point of an Einsum for it to exist."""
        body = einsum.body
        inside = self.domains.of(body.body if isinstance(body, Reduce) else body)
        where = body.where if isinstance(body, Reduce) else None
        return union(conjuncts(einsum.where), conjuncts(where), inside)

    def share(self, einsum: Einsum) -> Amount:
        """Which share of the points of its iteration space exist."""
        return self.existing.share(self.predicates(einsum), self._space(einsum), {})

    def tiles(self, einsum: Einsum, lanes: Mapping[str, int]) -> Amount:
        """Which share of its tiles has a point: `lanes` positions of each rank at once."""
        return self.existing.share(self.predicates(einsum), self._space(einsum), lanes)

    def steps_taken(self, einsum: Einsum, lanes: Mapping[str, int]) -> Amount:
        """Which share of its steps is taken: those that would change nothing are left out."""
        share: Amount = 1.0
        for rank, empty in self.idle.items():
            if rank in self._space(einsum):
                share = larger(self._step_share(rank, name, lanes) for name in empty)
        return share

    def _step_share(self, rank: str, source: str, lanes: Mapping[str, int]) -> Amount:
        """The share of the steps along a rank, tile by tile of the states, in which a reduction has
        a point."""
        einsum = self.definitions[source]
        states = {r for name, (_, own) in self.stepped.items() if own == rank
                  for r in self.definitions[name].ranks}  # fmt: skip
        space = frozenset(self._space(einsum))
        wide = {r: n for r in space - states if isinstance(n := self.extent(r), int)}
        return self.existing.share(self.predicates(einsum), space, {**lanes, **wide})

    @cached_property
    def idle(self) -> dict[str, tuple[str, ...]]:
        """Ranks whose steps do nothing where certain reductions are empty, with these.

        Such a step leaves every state as it was and makes nothing that is read elsewhere.
        """
        found: dict[str, tuple[str, ...]] = {}
        for rank in dict.fromkeys(rank for _, rank in self.stepped.values()):
            inside = {e.target for e in self.steps if rank in e.ranks}
            states = tuple(name for name, (_, own) in self.stepped.items() if own == rank)
            sources = tuple(
                e.target
                for e in self.steps
                if rank in e.ranks and isinstance(e.body, Reduce) and self._masked(e)
            )
            read = {
                access.tensor
                for e in self.steps
                if e.target not in inside
                for access in accesses(e.body)
            }
            alone = not ((read | self.outputs) & inside - set(states))
            if sources and alone and skippable(
                self.cascade, states, frozenset(sources), self.stepped, rank
            ):  # fmt: skip
                found[rank] = sources
        return found

    def _masked(self, einsum: Einsum) -> bool:
        bounds = self.domains.bounds
        return any(predicate not in bounds for predicate in self.predicates(einsum))


def operations(einsum: Einsum) -> Counter[tuple[str, frozenset[str]]]:
    """How often an Einsum does each kind of operation, by the ranks over which it does so."""
    return operations_of(replace(einsum, body=folded(einsum.body)))


def folded(body: Expr) -> Expr:
    """A body without factors that need no data: they are folded into an operand."""
    if isinstance(body, Reduce):
        return replace(body, body=folded(body.body))
    parts = factors(body)
    kept = [(f, inverse) for f, inverse in parts
            if any(isinstance(term, Access | Index) for term in subterms(f))]  # fmt: skip
    above = [f for f, inverse in kept if not inverse]
    if not above or len(kept) == len(parts):
        return body
    result = above[0]
    for factor in above[1:]:
        result = Map("*", (result, factor))
    for factor, inverse in kept:
        if inverse:
            result = Map("/", (result, factor))
    return result
