"""Regroup a product of sums so that no tensor over two long ranks is formed.

    S[p, m] = Q[p, e] * K[m, e]             O_state[e, f] = K[m, e] * V[m, f]
    O[p, f] = S[p, m] * V[m, f]             O[p, f]       = Q[p, e] * O_state[e, f]

    S[p, m] = a ** (p - m) * Q[p, e] * K[m, e] where m <= p
    O[p, f] = S[p, m] * V[m, f]

    O_state[0, e, f]   = 0
    O_state[p+1, e, f] = a * O_state[p, e, f] + K[p, e] * V[p, f]
    O[p, f]            = Q[p, e] * O_state[p+1, e, f]

Legal because the product distributes over the sum, and sums over two ranks change places. Where the
points are those up to the query, the inner sum is a prefix sum, and a factor that changes from one
query to the next by what does not depend on the key is the gate of its recurrence. The order of
the work falls from |p| |m| to |p| + |m|: worth it wherever what is left of a sum is short.
Katharopoulos et al. (ICML 2020) for the sums, RetNet (Sun et al., 2023) for the decay.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from math import prod

from attnc.ir.cascade import Cascade, Einsum, Left, Step, base, rank_of
from attnc.ir.expr import ONE, ZERO, Access, Const, Expr, Extent, Index, Map, Reduce, conjuncts
from attnc.ir.print_cascade import prefixes_of
from attnc.ir.print_expr import print_expr
from attnc.ir.walk import accesses, free_ranks, substitute
from attnc.passes.clean import remove_dead
from attnc.passes.cut import closure, heavy, long_ranks, weights
from attnc.passes.domain import Domains, conjunction
from attnc.passes.fiber import Names
from attnc.passes.products import Factor, product
from attnc.passes.recurrences.decay import decay_of
from attnc.passes.recurrences.terms import Stays, Term, Terms, or_zero


@dataclass(frozen=True, slots=True)
class Ungrouped:
    """A sum of products of sums that stays one, the term at fault, and the reason."""

    einsum: Einsum
    reason: str
    term: str = ""


@dataclass(frozen=True, slots=True)
class _Read:
    """What a state gives: `value`, times `factors` that no sum goes over, or 0 if one of `zero`."""

    value: Expr
    factors: tuple[Factor, ...]
    zero: tuple[Expr, ...]

    def whole(self) -> Expr:
        return or_zero(self.zero, product((Factor(self.value), *self.factors)))


@dataclass(frozen=True, slots=True)
class Work:
    """What a sum costs, by the ranks of its two sides: `inner` is reduced, `outer` is not.

    As written it takes |inner| |outer| times the ranks that the products in it sum (`summed`, a
    group for each) and those of the result; regrouped, |inner| + |outer| times the `kept` ranks of
    a state.
    """

    target: str
    inner: frozenset[str]
    outer: frozenset[str]
    summed: tuple[tuple[str, ...], ...]
    result: tuple[str, ...]
    kept: tuple[str, ...]

    def falls(self, sizes: Mapping[str, int]) -> bool:
        """Whether the regrouped sum costs less. Where extents are not known, long ranks are longer
        than a state of two ranks has elements, and no longer than one of three."""
        groups = (self.inner, self.outer, self.kept, self.result, *self.summed)
        if any(base(rank) not in sizes for group in groups for rank in group):
            return len(self.kept) <= 2
        inner, outer, kept, *products = (prod(sizes[base(r)] for r in ranks) for ranks in groups)
        return (inner + outer) * kept < inner * outer * sum(products)


def crossovers(cascade: Cascade) -> tuple[Work, ...]:
    """The sums that could be regrouped, where extents make it worth their while."""
    found: list[Work] = []

    def wanted(work: Work) -> bool:
        found.append(work)
        return True

    changed = reassociate(cascade, wanted)
    done = {name for step in changed.derivation for name in step.einsums}
    return tuple(work for work in found if work.target in done)


def reassociate(cascade: Cascade, wanted: Callable[[Work], bool] | None = None) -> Cascade:
    """The cascade with every sum regrouped of which `wanted` says so: all whose work falls, as far
    as can be told without extents, if it is not given."""
    return _regrouped(cascade, wanted)[0]


def ungrouped(cascade: Cascade) -> tuple[Ungrouped, ...]:
    """The sums of products of sums that stay, with the reasons."""
    return _regrouped(cascade, None)[1]


def _regrouped(
    cascade: Cascade, wanted: Callable[[Work], bool] | None
) -> tuple[Cascade, tuple[Ungrouped, ...]]:
    long = long_ranks(cascade)
    facts = _Facts(
        cascade,
        {e.target: e for e in cascade.einsums},
        frozenset(cascade.iterative()),
        frozenset(rank for _, rank in cascade.iterative().values()),
        long,
        long - weights(cascade),
        heavy(cascade),
        rank_of(cascade),
        Names(cascade),
        wanted or (lambda work: work.falls({})),
    )
    found: dict[Einsum, tuple[_Sum, list[Einsum]]] = {}
    stays: list[Ungrouped] = []
    for einsum in cascade.einsums:
        try:
            own = _Sum(facts, einsum)
            found[einsum] = own, own.regrouped()
        except Stays as error:
            if error.reason:
                term = error.term and print_expr(error.term, prefixes_of(cascade))
                stays.append(Ungrouped(einsum, error.reason, term or ""))
    while found:
        made = [own for e in cascade.einsums for own in (found[e][1] if e in found else (e,))]
        result = remove_dead(replace(cascade, einsums=tuple(made)))
        left = {einsum.target for einsum in result.einsums}
        needed = {
            e: own.terms.opened & left for e, (own, _) in found.items() if own.terms.opened & left
        }
        if not needed:
            steps = tuple(own.step() for own, _ in found.values())
            return replace(result, derivation=(*cascade.derivation, *steps)), tuple(stays)
        for einsum, names in needed.items():
            del found[einsum]
            reason = (
                f"is made of {' and '.join(sorted(names))}, which something else needs as it is"
            )
            stays.append(Ungrouped(einsum, reason))
    return cascade, tuple(stays)


@dataclass(frozen=True, slots=True)
class _Facts:
    """What is asked of a cascade, once for all its sums.

    `stepped` are its iterative tensors and `loops` the ranks that they step along; `lengths` are
    the long ranks that are no widths of a model.
    """

    cascade: Cascade
    definitions: dict[str, Einsum]
    stepped: frozenset[str]
    loops: frozenset[str]
    long: frozenset[str]
    lengths: frozenset[str]
    heavy: frozenset[str]
    classes: dict[str, str]
    names: Names
    wanted: Callable[[Work], bool]


class _Sum:
    """One sum over a long rank of an Einsum that carries another."""

    def __init__(self, facts: _Facts, einsum: Einsum) -> None:
        self.facts, self.einsum = facts, einsum
        self.cascade, self.definitions = facts.cascade, facts.definitions
        self.causal = False
        body = einsum.body
        if not isinstance(body, Reduce) or einsum.target in facts.stepped:
            raise Stays
        if einsum.where is not None or einsum.dtype is not None:
            raise Stays
        if set(einsum.ranks) & facts.loops:
            raise Stays  # A state of its own would have to be there at every turn.
        classes, long, batch = facts.classes, facts.long, facts.cascade.batch
        self.inner = frozenset(r for r in body.ranks if classes.get(r, base(r)) in long)
        self.outer = frozenset(
            r for r in einsum.ranks if classes.get(r, r) in long and r not in batch
        )
        if not self.inner or not self.outer:
            raise Stays
        used = {*body.ranks, *einsum.ranks}
        self.terms = Terms(
            self.inner, self.outer, self.definitions, facts.stepped, facts.lengths, used
        )
        self.counts = body.op == "any"
        self.body = body if body.op == "sum" else self._counted(body)

    def _counted(self, body: Reduce) -> Reduce:
        """Whether any point exists, as how many of them do."""
        match body:
            case Reduce("any", ranks, Map(">", (Map("present", (term,)), Const(0))), None):
                where = conjunction(Domains(self.cascade).of(term))
                self.terms.opened |= {access.tensor for access in accesses(term)} & {
                    name for name, e in self.definitions.items() if set(e.ranks) & set(ranks)
                }
                return Reduce("sum", ranks, ONE, where)
            case _:
                raise Stays

    def regrouped(self) -> list[Einsum]:
        where = conjuncts(self.body.where)
        terms = [replace(t, ranks=(*self.body.ranks, *t.ranks), where=(*where, *t.where))
                 for t in self.terms.of(self.body.body)]  # fmt: skip
        out: list[Einsum] = []
        reads = [self._part(term, out, len(terms) == 1) for term in terms]
        shared = replace(reads[0], value=ZERO)
        alike = all(replace(read, value=ZERO) == shared for read in reads)
        bare = not (shared.factors or shared.zero or terms[0].negative or self.counts)
        value: Expr | None = None
        for term, read in zip(terms, reads):
            if isinstance(read.value, Reduce) and not (bare and len(terms) == 1):
                name = f"{self.einsum.target}_{'count' if self.counts else 'part'}"
                read = replace(read, value=self._named(name, self.einsum.ranks, read.value, out))
            own = read.value if alike else read.whole()
            if value is None:
                value = Map("neg", (own,)) if term.negative else own
            else:
                value = Map("-" if term.negative else "+", (value, own))
        assert value is not None
        value = replace(shared, value=value).whole() if alike else value
        return [*out, replace(self.einsum, body=Map(">", (value, ZERO)) if self.counts else value)]

    def step(self) -> Step:
        ranks = ", ".join(sorted(self.inner))
        over = " and ".join(f"|{rank}|" for rank in (*sorted(self.outer), *sorted(self.inner)))
        kind = "prefix sums over" if self.causal else "sums over"
        law = "a sum of products up to a position is a recurrence" if self.causal else (
            "the product distributes over the sum, and two sums change places"
        )  # fmt: skip
        return Step(
            law="reassociation",
            rank=sorted(self.inner)[0],
            einsums=(self.einsum.target,),
            before=1,
            after=1,
            text=f"{self.einsum.target} needs {kind} {ranks} alone: the product of {over} is gone",
            proof=law,
            span=self.einsum.span,
        )

    # -- regrouping

    def _apart(
        self, term: Term
    ) -> tuple[tuple[Factor, ...], tuple[Factor, ...], tuple[Factor, ...]]:
        """The factors of the outer side, of the inner side, and those of both."""
        outer = tuple(f for f in term.factors if not free_ranks(f.expr) & self.inner)
        both = tuple(f for f in term.factors if self.terms.mixed(f.expr))
        inner = tuple(f for f in term.factors if f not in outer and f not in both)
        return outer, inner, both

    def _part(self, term: Term, out: list[Einsum], alone: bool) -> _Read:
        """One term, regrouped: the Einsums that it needs go to `out`."""
        outer, inner, both = self._apart(term)
        masks = [part for part in dict.fromkeys(term.where) if free_ranks(part) & self.outer]
        own = tuple(part for part in term.where if part not in masks)
        # What may be 0 where there is no key divides where the keys are.
        unsafe = tuple(f for f in outer if self._undefined(f, term, masks))
        for factor in unsafe:
            if free_ranks(factor.expr) & self.outer:
                reason = "divides by what may be 0 where nothing is summed"
                raise self._told(reason, factor.expr)
        outer, inner = tuple(f for f in outer if f not in unsafe), (*inner, *unsafe)
        absent = tuple(part for part in term.zero if free_ranks(part) & self.inner)
        added = or_zero(absent, product(inner))
        kept = tuple(
            dict.fromkeys(
                rank
                for expr in (*(factor.expr for factor in inner), *absent)
                for rank in sorted(free_ranks(expr))
                if rank not in self.inner and rank not in self.cascade.batch
            )
        )
        if not (inner or masks):
            raise Stays
        for rank in kept:
            if rank in self.facts.lengths:
                raise self._told(f"would keep all of {rank} in its state")
        summed = tuple(rank for rank in term.ranks if rank not in self.inner)
        # Factors of short summed ranks alone belong to whichever side carries them.
        result = tuple(rank for rank in kept if rank not in summed)
        work = Work(self.einsum.target, self.inner, self.outer, self._products(), result, kept)
        if not self.facts.wanted(work):
            extents = " ".join(f"|{rank}|" for rank in kept)
            raise self._told(f"would keep {extents} elements, which only extents can justify")
        if both or masks:
            if not summed and any(a.tensor in self.facts.heavy for a in accesses(added)):
                raise Stays  # No product is saved: what a long sum has made is added up as it is.
            state = self._prefix(added, both, masks, own, kept, out)
        else:
            ranks = tuple(rank for rank in term.ranks if rank in self.inner)
            body = Reduce("sum", ranks, added, conjunction(own))
            state = self._named(
                f"{self.einsum.target}_state", (*self.cascade.batch, *kept), body, out
            )
        return self._read(term, outer, state, summed, absent, alone)

    def _read(
        self,
        term: Term,
        outer: tuple[Factor, ...],
        state: Expr,
        summed: tuple[str, ...],
        absent: tuple[Expr, ...],
        alone: bool,
    ) -> _Read:
        """A state with the factors of the other side: those that the sum goes over stand in it.

        So do the others where no second term shares them, for they scale what is there already.
        """
        over = frozenset(summed)
        alone = alone and not term.zero
        inside = tuple(f for f in outer if alone or free_ranks(f.expr) & over)
        none = tuple(part for part in term.zero if part not in absent)
        within = tuple(part for part in none if free_ranks(part) & over)
        value = or_zero(within, Map("*", (product(inside), state)) if inside else state)
        return _Read(
            Reduce("sum", summed, value) if summed else value,
            tuple(f for f in outer if f not in inside),
            tuple(part for part in none if part not in within),
        )

    def _told(self, reason: str, term: Expr | None = None, *both: Factor) -> Stays:
        """Why this sum stays, if it is one of products of sums: a map of a sum is no product."""
        definitions = self.definitions
        sums = {n for n, e in definitions.items() if isinstance(e.body, Reduce)}
        mixed = {n for n in sums if {*definitions[n].ranks} & self.inner}
        mixed = {n for n in mixed if {*definitions[n].ranks} & self.outer}
        behind = {
            name
            for factor in both
            for access in accesses(factor.expr)
            for name in closure(self.cascade, access.tensor, set())
        }
        return Stays() if behind & mixed or not self.terms.opened & sums else Stays(reason, term)

    def _products(self) -> tuple[tuple[str, ...], ...]:
        """The ranks that the tensors written out reduce over, for each of them."""
        bodies = (self.definitions[name].body for name in sorted(self.terms.opened))
        return tuple(body.ranks for body in bodies if isinstance(body, Reduce))

    def _undefined(self, factor: Factor, term: Term, masks: list[Expr]) -> bool:
        """Whether a divisor may be 0 where there is no key: nothing divided by it is 0, not 0/0."""
        if not factor.inverse or not any(accesses(factor.expr)):
            return False
        if Map("==", (factor.expr, ZERO)) in term.zero:
            return False
        reduced = any(
            isinstance(e.body, Reduce) and set(e.body.ranks) & self.inner
            for a in accesses(factor.expr)
            if (e := self.definitions.get(a.tensor)) is not None
        )
        return reduced or any(isinstance(m, Map) and m.op in ("<", ">") for m in masks)

    def _named(self, name: str, ranks: tuple[str, ...], body: Expr, out: list[Einsum]) -> Expr:
        fresh = self.facts.names.fresh(name)
        left = tuple(Left(rank) for rank in ranks)
        out.append(Einsum(fresh, left, body, None, None, self.einsum.span))
        return Access(fresh, tuple(Index(rank) for rank in ranks))

    def _up_to(self, masks: list[Expr], both: tuple[Factor, ...]) -> tuple[str, str, bool]:
        """The rank of the keys and that of the queries up to which a sum goes, and whether the
        query's own position is among them."""
        (key, *keys), (query, *queries) = sorted(self.inner), sorted(self.outer)
        if not masks:
            reason = f"has a factor of {query} and {key} that is no product of one of each"
            raise self._told(reason, both[0].expr, *both)
        if keys or queries:
            reason = f"goes up to a position of one of several long ranks, {query}, "
            reason += ", ".join((*queries, key, *keys))
            raise self._told(f"{reason}: others may be batch ranks", masks[0], *both)
        first, second = Index(key), Index(query)
        within = Map("<=", (first, second)), Map(">=", (second, first))
        before = Map("<", (first, second)), Map(">", (second, first))
        if len(masks) != 1 or masks[0] not in (*within, *before):
            reason = "is summed over points that are not those up to a position"
            raise self._told(reason, masks[-1], *both)
        return key, query, masks[0] in within

    def _prefix(
        self,
        added: Expr,
        both: tuple[Factor, ...],
        masks: list[Expr],
        own: tuple[Expr, ...],
        kept: tuple[str, ...],
        out: list[Einsum],
    ) -> Expr:
        """The state of a recurrence that sums the inner side up to a position of the outer."""
        key, query, after = self._up_to(masks, both)
        gate: Expr = ONE
        for factor in both:
            decay = decay_of(factor, query, key, self.definitions)
            if decay is None:
                reason = f"has a factor of {query} and {key} that is no product of one of each"
                raise self._told(f"{reason}, nor a gate", factor.expr, *both)
            gate = decay if gate == ONE else Map("*", (gate, decay))
        self.causal = True
        at: dict[str, Expr] = {key: Index(query)}
        added = substitute(added, at)
        inside = conjunction((*self._exists(key, query), *(substitute(part, at) for part in own)))
        if inside is not None:
            added = Map("select", (inside, added, ZERO))
        fresh = self.facts.names.fresh(f"{self.einsum.target}_state")
        batch = tuple(Left(r) for r in self.cascade.batch)
        rest = tuple(Left(r) for r in kept)
        ranks = (*self.cascade.batch, query, *kept)
        before = Access(fresh, tuple(Index(r) for r in ranks))
        scaled: Expr = before if gate == ONE else Map("*", (gate, before))
        span = self.einsum.span
        out.append(Einsum(fresh, (*batch, Left(query, "start"), *rest), ZERO, None, None, span))
        out.append(
            Einsum(
                fresh, (*batch, Left(query, "next"), *rest), Map("+", (scaled, added)), None, None,
                span,
            )
        )  # fmt: skip
        if not after:
            return before
        place = Map("+", (Index(query), ONE))
        return Access(fresh, tuple(place if r == query else Index(r) for r in ranks))

    def _exists(self, key: str, query: str) -> tuple[Expr, ...]:
        """What must hold for a position of the queries to be one of the keys."""
        sizes = {decl.name: decl.extent for decl in self.cascade.ranks}
        classes = self.facts.classes
        first, second = (classes.get(rank, base(rank)) for rank in (key, query))
        same = sizes.get(first, Extent(first)) == sizes.get(second, Extent(second))
        return () if same else (Map("<", (Index(query), Extent(key))),)
