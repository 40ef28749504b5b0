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
from attnc.ir.walk import accesses, free_ranks, substitute
from attnc.passes.angles import angle_sum
from attnc.passes.clean import remove_dead
from attnc.passes.contraction import factors
from attnc.passes.cut import heavy, long_ranks, weights
from attnc.passes.domain import Domains, conjunction
from attnc.passes.fiber import Names, plain
from attnc.passes.products import MOST_FACTORS, MOST_TERMS, Factor, product
from attnc.passes.recurrences.decay import decay_of


class _Stays(Exception):
    """A sum that is left as it is."""


@dataclass(frozen=True, slots=True)
class _Term:
    """A signed product summed over `ranks`, at the points where `where` holds.

    It is 0, whatever its factors are, where one of `zero` holds.
    """

    negative: bool
    factors: tuple[Factor, ...]
    ranks: tuple[str, ...]
    where: tuple[Expr, ...]
    zero: tuple[Expr, ...] = ()


@dataclass(frozen=True, slots=True)
class _Read:
    """What a state gives: `value`, times `factors` that no sum goes over, or 0 if one of `zero`."""

    value: Expr
    factors: tuple[Factor, ...]
    zero: tuple[Expr, ...]

    def whole(self) -> Expr:
        return _or_zero(self.zero, product((Factor(self.value), *self.factors)))


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
    facts = _Facts(
        cascade,
        {e.target: e for e in cascade.einsums},
        frozenset(cascade.iterative()),
        frozenset(rank for _, rank in cascade.iterative().values()),
        long_ranks(cascade),
        long_ranks(cascade) - weights(cascade),
        heavy(cascade),
        rank_of(cascade),
        Names(cascade),
        wanted or (lambda work: work.falls({})),
    )
    opened: set[str] = set()
    einsums: list[Einsum] = []
    steps: list[Step] = []
    for einsum in cascade.einsums:
        try:
            own = _Sum(facts, einsum)
            made = own.regrouped()
        except _Stays:
            einsums.append(einsum)
        else:
            einsums += made
            opened |= own.opened
            steps.append(own.step())
    if not steps:
        return cascade
    result = remove_dead(replace(cascade, einsums=tuple(einsums)))
    if opened & {einsum.target for einsum in result.einsums}:
        return cascade  # Something else needs the tensor all the same.
    return replace(result, derivation=(*cascade.derivation, *steps))


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
        self.opened: set[str] = set()
        self.causal = False
        body = einsum.body
        if not isinstance(body, Reduce) or einsum.target in facts.stepped:
            raise _Stays
        if einsum.where is not None or einsum.dtype is not None:
            raise _Stays
        if set(einsum.ranks) & facts.loops:
            raise _Stays  # A state of its own would have to be there at every turn.
        classes, long, batch = facts.classes, facts.long, facts.cascade.batch
        self.inner = frozenset(r for r in body.ranks if classes.get(r, base(r)) in long)
        self.outer = frozenset(
            r for r in einsum.ranks if classes.get(r, r) in long and r not in batch
        )
        if not self.inner or not self.outer:
            raise _Stays
        self.counts = body.op == "any"
        self.body = body if body.op == "sum" else self._counted(body)
        self.used = {*body.ranks, *einsum.ranks}

    def _counted(self, body: Reduce) -> Reduce:
        """Whether any point exists, as how many of them do."""
        match body:
            case Reduce("any", ranks, Map(">", (Map("present", (term,)), Const(0))), None):
                where = conjunction(Domains(self.cascade).of(term))
                self.opened |= {access.tensor for access in accesses(term)} & {
                    name for name, e in self.definitions.items() if set(e.ranks) & set(ranks)
                }
                return Reduce("sum", ranks, ONE, where)
            case _:
                raise _Stays

    def regrouped(self) -> list[Einsum]:
        where = conjuncts(self.body.where)
        terms = [replace(t, ranks=(*self.body.ranks, *t.ranks), where=(*where, *t.where))
                 for t in self._terms(self.body.body)]  # fmt: skip
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

    # -- opening

    def _terms(self, expr: Expr) -> tuple[_Term, ...]:
        """An expression as a sum of products, tensors over both kinds of rank written out."""
        match expr:
            case Map("*", (left, right)):
                return self._cross(self._terms(left), self._terms(right))
            case Map("**" | "pow", (base, Const(int(power)))) if 1 < power <= 4 and self._mixed(
                base
            ):
                result = self._terms(base)
                for _ in range(power - 1):
                    result = self._cross(result, self._terms(base))
                return result
            case Map("/", (left, right)):
                below = tuple(Factor(own, not under) for own, under in factors(right))
                return tuple(replace(t, factors=(*t.factors, *below)) for t in self._terms(left))
            case Map("neg", (body,)):
                return tuple(replace(t, negative=not t.negative) for t in self._terms(body))
            case Map("+" | "-" as sign, (left, right)) if self._mixed(expr):
                second = self._terms(right)
                if sign == "-":
                    second = tuple(replace(t, negative=not t.negative) for t in second)
                return (*self._terms(left), *second)
            case Map("cos" | "sin") if products := angle_sum(expr, self.outer, self.inner):
                return tuple(
                    _Term(negative, (Factor(one), Factor(other)), (), ())
                    for negative, one, other in products
                )
            case Map("select", (Map("or", (first, second)), Const(0), other)) if self._mixed(expr):
                return self._terms(_or_zero((first,), _or_zero((second,), other)))
            case Map("select", (condition, Const(0), other)) if not self._mixed(condition):
                return tuple(
                    replace(t, zero=tuple(dict.fromkeys((condition, *t.zero))))
                    for t in self._terms(other)
                )
            case Access() if self._mixed(expr):
                return self._open(expr)
            case Const(1):
                return (_Term(False, (), (), ()),)
            case _:
                return (_Term(False, (Factor(expr),), (), ()),)

    def _mixed(self, expr: Expr) -> bool:
        own = free_ranks(expr)
        return bool(own & self.inner) and bool(own & self.outer)

    def _cross(self, left: tuple[_Term, ...], right: tuple[_Term, ...]) -> tuple[_Term, ...]:
        if len(left) * len(right) > MOST_TERMS:
            raise _Stays
        found: list[_Term] = []
        for a in left:
            for b in right:
                factors = (*a.factors, *b.factors)
                if len(factors) > MOST_FACTORS:
                    raise _Stays
                found.append(_Term(a.negative != b.negative, factors, (*a.ranks, *b.ranks),
                                   tuple(dict.fromkeys((*a.where, *b.where))),
                                   tuple(dict.fromkeys((*a.zero, *b.zero)))))  # fmt: skip
        return tuple(found)

    def _unused(self, rank: str) -> str:
        """A variable over a rank that nothing else in the sum is called: none is captured."""
        while rank in self.used:
            rank += "'"
        self.used.add(rank)
        return rank

    def _open(self, access: Access) -> tuple[_Term, ...]:
        """A tensor by its definition, if that is a product or a sum of products."""
        einsum = self.definitions.get(access.tensor)
        atom = (_Term(False, (Factor(access),), (), ()),)
        if einsum is None or access.tensor in self.facts.stepped or not plain(access):
            return atom
        if einsum.dtype is not None:
            return atom
        body, where = einsum.body, einsum.where
        ranks: tuple[str, ...] = ()
        if isinstance(body, Reduce):
            if (
                body.op != "sum"
                or body.where is not None
                or frozenset(body.ranks) & self.facts.lengths
            ):
                return atom
            ranks, body = body.ranks, body.body
        names = {left.rank: s for left, s in zip(einsum.left, access.subscripts)}
        bound = tuple(self._unused(rank) for rank in ranks)
        fresh = {rank: Index(own) for rank, own in zip(ranks, bound)}
        body = substitute(body, {**names, **fresh})
        self.opened.add(access.tensor)
        own = tuple(substitute(part, names) for part in conjuncts(where))
        return tuple(
            replace(t, ranks=(*bound, *t.ranks), where=(*own, *t.where)) for t in self._terms(body)
        )

    # -- regrouping

    def _apart(
        self, term: _Term
    ) -> tuple[tuple[Factor, ...], tuple[Factor, ...], tuple[Factor, ...]]:
        """The factors of the outer side, of the inner side, and those of both."""
        outer = tuple(f for f in term.factors if not free_ranks(f.expr) & self.inner)
        both = tuple(f for f in term.factors if self._mixed(f.expr))
        inner = tuple(f for f in term.factors if f not in outer and f not in both)
        return outer, inner, both

    def _part(self, term: _Term, out: list[Einsum], alone: bool) -> _Read:
        """One term, regrouped: the Einsums that it needs go to `out`."""
        outer, inner, both = self._apart(term)
        masks = [part for part in dict.fromkeys(term.where) if free_ranks(part) & self.outer]
        own = tuple(part for part in term.where if part not in masks)
        # What may be 0 where there is no key divides where the keys are.
        unsafe = tuple(f for f in outer if self._undefined(f, term, masks))
        if any(free_ranks(factor.expr) & self.outer for factor in unsafe):
            raise _Stays
        outer, inner = tuple(f for f in outer if f not in unsafe), (*inner, *unsafe)
        absent = tuple(part for part in term.zero if free_ranks(part) & self.inner)
        added = _or_zero(absent, product(inner))
        kept = tuple(
            dict.fromkeys(
                rank
                for expr in (*(factor.expr for factor in inner), *absent)
                for rank in sorted(free_ranks(expr))
                if rank not in self.inner and rank not in self.cascade.batch
            )
        )
        if frozenset(kept) & self.facts.lengths or not (inner or masks):
            raise _Stays
        summed = tuple(rank for rank in term.ranks if rank not in self.inner)
        # Factors of short summed ranks alone belong to whichever side carries them.
        result = tuple(rank for rank in kept if rank not in summed)
        work = Work(self.einsum.target, self.inner, self.outer, self._products(), result, kept)
        if not self.facts.wanted(work):
            raise _Stays
        if both or masks:
            if not summed and any(a.tensor in self.facts.heavy for a in accesses(added)):
                raise _Stays  # No product is saved: what a long sum has made is added up as it is.
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
        term: _Term,
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
        value = _or_zero(within, Map("*", (product(inside), state)) if inside else state)
        return _Read(
            Reduce("sum", summed, value) if summed else value,
            tuple(f for f in outer if f not in inside),
            tuple(part for part in none if part not in within),
        )

    def _products(self) -> tuple[tuple[str, ...], ...]:
        """The ranks that the tensors written out reduce over, for each of them."""
        bodies = (self.definitions[name].body for name in sorted(self.opened))
        return tuple(body.ranks for body in bodies if isinstance(body, Reduce))

    def _undefined(self, factor: Factor, term: _Term, masks: list[Expr]) -> bool:
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
        if len(self.inner) != 1 or len(self.outer) != 1 or len(masks) != 1:
            raise _Stays
        (key,), (query,) = self.inner, self.outer
        after = masks[0] in (
            Map("<=", (Index(key), Index(query))), Map(">=", (Index(query), Index(key))),
        )  # fmt: skip
        if not after and masks[0] not in (
            Map("<", (Index(key), Index(query))), Map(">", (Index(query), Index(key))),
        ):  # fmt: skip
            raise _Stays
        gate: Expr = ONE
        for factor in both:
            decay = decay_of(factor, query, key, self.definitions)
            if decay is None:
                raise _Stays
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


def _or_zero(conditions: tuple[Expr, ...], expr: Expr) -> Expr:
    """An expression, or 0 where one of the conditions holds."""
    for condition in conditions:
        expr = Map("select", (condition, ZERO, expr))
    return expr
