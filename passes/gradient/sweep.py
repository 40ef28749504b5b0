"""The reverse sweep: the adjoint of every Einsum that lies between `wrt` and the outputs.

    S[p, m] = Q[p, e] * K[m, e]        dQ[p, e] = sum[m](dS[p, m] * K[m, e])
    A[p, m] = exp(S[p, m] - L[p])      dS[p, m] = dA[p, m] * A[p, m]
                                       dL[p]    = sum[m](-(dA[p, m] * A[p, m]))

Einsums are gone through backwards. What an Einsum reads gets the chain rule's product, summed over
the points that read it, where those exist: a mask carries over. Selections, positions and truth
values are constants.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from attnc.ir.cascade import FLOATS, Cascade, Einsum, Left, RankDecl, Reduction, base, rank_of
from attnc.ir.expr import (
    ONE,
    ZERO,
    Access,
    Const,
    Expr,
    Extent,
    Index,
    Map,
    Param,
    Populate,
    Reduce,
)
from attnc.ir.source import InvalidIR
from attnc.ir.walk import accesses, rewrite, substitute, subterms
from attnc.passes.domain import Domains, Predicates, conjunction, union
from attnc.passes.fiber import Names
from attnc.passes.gradient.derivatives import (
    Chain,
    Part,
    choice,
    negative,
    product,
    reaches,
)
from attnc.passes.gradient.gather import Points, readers
from attnc.passes.gradient.monomial import added, ordered
from attnc.passes.symbolic import extents


@dataclass(frozen=True, slots=True)
class Share:
    """What one reading of a tensor adds to its adjoint, over the tensor's own ranks."""

    value: Expr
    where: Predicates


@dataclass(frozen=True, slots=True)
class Adjoints:
    """The Einsums of the sweep in order, the adjoint of each tensor by name, new ranks.

    `early` are further Einsums that need no adjoint and belong to the forward cascade.
    """

    early: tuple[Einsum, ...]
    einsums: tuple[Einsum, ...]
    names: dict[str, str]
    ranks: tuple[RankDecl, ...]


class Sweep:
    """Differentiates a normalised cascade without recurrences.

    `cotangents` names the adjoint of each output that has one, `constants` are tensors on whose
    value no output depends. A tensor of `wrt` without an adjoint in the result has none: 0.
    """

    def __init__(
        self,
        cascade: Cascade,
        wrt: tuple[str, ...],
        cotangents: dict[str, str],
        constants: frozenset[str],
        names: Names,
    ) -> None:
        self.cascade = cascade
        self.names = names
        self.cotangents = cotangents
        self.classes = rank_of(cascade)
        self.extents = extents(cascade)
        self.domains = Domains(cascade)
        self.axes = {t.name: t.ranks for t in cascade.inputs}
        self.axes.update((e.target, e.ranks) for e in cascade.einsums)
        self.active = active_tensors(cascade, wrt, constants)
        self.shares: dict[str, list[Share]] = {}
        self.found: dict[str, str] = {}
        self.early: list[Einsum] = []
        self.einsums: list[Einsum] = []
        self.ranks: list[RankDecl] = []
        for tensor, name in cotangents.items():
            self._known(name, self.axes[tensor], ())

    def run(self) -> Adjoints:
        for group in reversed(self._groups()):
            self._group(group)
        for tensor in self.cascade.inputs:
            if tensor.name in self.active:
                self._adjoint(tensor.name)
        return Adjoints(tuple(self.early), tuple(self.einsums), self.found, tuple(self.ranks))

    def _groups(self) -> list[tuple[Einsum, ...]]:
        """The Einsums in an order in which each reads only earlier ones."""
        return [(einsum,) for einsum in self.cascade.einsums]

    def _group(self, group: tuple[Einsum, ...]) -> None:
        for einsum in reversed(group):
            if einsum.target in self.active:
                self._einsum(einsum)

    def _known(self, name: str, ranks: tuple[str, ...], domain: Predicates) -> None:
        """Tell the table of domains about a tensor of the sweep."""
        self.domains.left[name] = ranks
        self.domains.axes[name] = tuple(self.classes.get(rank, rank) for rank in ranks)
        self.domains.tensors[name] = domain
        self.axes[name] = ranks

    # -- adjoints

    def _adjoint(self, tensor: str) -> Access | None:
        """The adjoint of a tensor at its own position, its Einsum written; None where it is 0."""
        ranks = self.axes[tensor]
        shares = self.shares.get(tensor, [])
        cotangent = self.cotangents.get(tensor)
        if cotangent is not None:
            given = Access(cotangent, tuple(Index(rank) for rank in ranks))
            shares = [Share(given, ()), *shares]
            if len(shares) == 1:
                self.found[tensor] = cotangent
                return given
        if not shares:
            return None
        body, where = self._joined(tensor, shares)
        name = self.names.fresh(f"d{tensor}")
        self.found[tensor] = name
        self._emit(name, ranks, body, conjunction(where))
        return Access(name, tuple(Index(rank) for rank in ranks))

    def _emit(self, name: str, ranks: tuple[str, ...], body: Expr, where: Expr | None) -> None:
        einsum = Einsum(name, tuple(Left(rank) for rank in ranks), body, where)
        self.einsums.append(einsum)
        self._known(name, ranks, self.domains.of_einsum(einsum))

    def _joined(
        self, tensor: str, shares: list[Share], whole: bool = False
    ) -> tuple[Expr, Predicates]:
        """The sum of the shares; one that exists at fewer points than the tensor adds 0 there.

        A single one may leave points out, unless the sum is wanted `whole`.
        """
        shares = self._gathered(shares)
        if len(shares) == 1 and not whole:
            return shares[0].value, self._missing(shares[0])
        domain = set(self.domains.tensors[tensor])
        body: Expr = ZERO
        for share in shares:
            value = share.value
            limits = union(share.where, self.domains.of(value))
            outside = tuple(part for part in limits if part not in domain)
            guard = conjunction(outside)
            if guard is not None and any(self.domains.of(part) for part in outside):
                # What says where it exists does not exist everywhere itself.
                value = self._part(tensor, share)
                guard = Map(">", (Map("present", (value,)), ZERO))
            body = added(body, value if guard is None else choice(guard, value))
        return body, ()

    def _part(self, tensor: str, share: Share) -> Access:
        """An Einsum of its own for a share."""
        name, ranks = self.names.fresh(f"d{tensor}_part"), self.axes[tensor]
        self._emit(name, ranks, share.value, conjunction(self._missing(share)))
        return Access(name, tuple(Index(rank) for rank in ranks))

    def _gathered(self, shares: list[Share]) -> list[Share]:
        """Sums over the same points as one, where what is summed exists at the same."""
        found: list[Share] = []
        places: dict[tuple[tuple[str, ...], Expr | None, frozenset[Expr]], int] = {}
        for share in shares:
            summed = _summed(share.value)
            if summed is None or share.where:
                found.append(share)
                continue
            key = (summed.ranks, summed.where, frozenset(self.domains.of(summed.body)))
            if key in places:
                before = _summed(found[places[key]].value)
                if before is None:
                    raise InvalidIR("a sum that is none")
                both = replace(summed, body=added(before.body, summed.body))
                found[places[key]] = Share(both, ())
            else:
                places[key] = len(found)
                found.append(share)
        return found

    def _missing(self, share: Share) -> Predicates:
        own = set(self.domains.of(share.value))
        return tuple(part for part in share.where if part not in own)

    # -- Einsums

    def _einsum(self, einsum: Einsum) -> None:
        adjoint = self._adjoint(einsum.target)
        if adjoint is not None:
            value = Access(einsum.target, tuple(Index(rank) for rank in einsum.ranks))
            self._chained(einsum, adjoint, value, einsum.ranks)

    def _chained(
        self, einsum: Einsum, adjoint: Access, value: Access, points: tuple[str, ...]
    ) -> None:
        """The shares of what an Einsum reads; `value` names its own value over `points`."""
        holds = self.domains.holding(einsum.where)
        match einsum.body:
            case Reduce(_, ranks, body, where):
                seed = self._seed(einsum, einsum.body, adjoint, value)
                holds = union(holds, self.domains.holding(where))
                name: Expr = body
                points = (*points, *ranks)
            case Populate():
                return
            case _:
                body, seed, name = einsum.body, adjoint, value
        chain = Chain(self._active, self.domains.of)
        for part in chain.parts(body, seed, name):
            self._share(part, points, union(holds, part.where))

    def _active(self, access: Access) -> bool:
        return access.tensor in self.active

    def _share(self, part: Part, points: tuple[str, ...], holds: Predicates) -> None:
        access = part.access
        share = self._placed(part, access.subscripts, self.axes[access.tensor], points, holds)
        self.shares.setdefault(access.tensor, []).append(share)

    def _placed(
        self,
        part: Part,
        subscripts: tuple[Expr, ...],
        axes: tuple[str, ...],
        points: tuple[str, ...],
        holds: Predicates,
    ) -> Share:
        """What a reading by `subscripts` adds at each position of `axes`."""
        access = part.access
        # That the position asked for lies within its rank goes without saying.
        inside = set(self.domains.position(access))
        holds = tuple(limit for limit in holds if limit not in inside)
        taken = frozenset(self.names.taken)
        seen = readers(subscripts, axes, points, self.classes, self.extents, taken, self.ranks)
        for decl in seen.declared:
            if decl not in self.ranks:
                self.names.taken.add(decl.name)
                self.ranks.append(decl)
                self.classes[decl.name] = decl.name
        # What a recurrence makes turn by turn is stored in any case.
        whole = not seen.declared and not self.cascade.iterative()
        if (seen.parted and seen.free and whole) or self._strays(part.adjoint, seen):
            return self._by_parts(part, seen, points, holds)
        body = substitute(part.adjoint, seen.values)
        where = union(tuple(substitute(limit, seen.values) for limit in holds), seen.where)
        # Nothing reads an adjoint but where its tensor exists.
        own = set(self.domains.tensors[access.tensor])
        where = tuple(limit for limit in where if limit not in own)
        if seen.summed:
            sign = isinstance(body, Map) and body.op == "neg"
            if sign:
                body = negative(body)
            missing = conjunction(self._missing(Share(body, where)))
            body = Reduce("sum", seen.summed, ordered(body), missing)
            if sign:
                body = negative(body)
            where = ()
        else:
            body = ordered(body)
        return Share(body, where)

    def _strays(self, adjoint: Expr, seen: Points) -> bool:
        """Whether a recurrence would be read at other steps than the one at hand."""
        stepping = self.cascade.iterative()
        turns = (stepping[a.tensor][1] for a in accesses(adjoint) if a.tensor in stepping)
        return any(seen.values.get(turn, Index(turn)) != Index(turn) for turn in turns)

    def _by_parts(
        self, part: Part, seen: Points, points: tuple[str, ...], holds: Predicates
    ) -> Share:
        """A share summed where it arises, by parts of the position, and only then put together.

        What is summed is larger than the sum; it would have to be stored to be read by division.
        """
        name = self.names.fresh(f"d{part.access.tensor}_parts")
        read = {
            term.rank: None
            for subscript in part.access.subscripts
            for term in subterms(subscript)
            if isinstance(term, Index)
        }
        ranks = tuple(
            dict.fromkeys(v for v in (*read, *points) if v in points and v not in seen.free)
        )
        missing = conjunction(self._missing(Share(part.adjoint, holds)))
        summed = tuple(rank for rank in seen.free if rank in points)
        if summed:
            self._emit(name, ranks, Reduce("sum", summed, ordered(part.adjoint), missing), None)
        else:
            self._emit(name, ranks, ordered(part.adjoint), missing)
        whole = Access(name, tuple(seen.values[rank] for rank in ranks))
        rest = tuple(own for rank, own in zip(seen.free, seen.summed) if rank not in points)
        if not rest:
            return Share(whole, seen.where)
        return Share(Reduce("sum", rest, whole, conjunction(seen.where)), ())

    # -- reductions

    def _seed(self, einsum: Einsum, reduce: Reduce, adjoint: Access, value: Access) -> Expr:
        """The adjoint of what is reduced, by what its points add to the result."""
        own = {reduction.name: reduction for reduction in self.cascade.reductions}
        if reduce.op in own:
            return product(adjoint, self._by_operand(own[reduce.op], reduce))
        match reduce.op:
            case "sum":
                return adjoint
            case "max" | "min":
                return choice(self._won(einsum, reduce, value), adjoint)
            case "logsumexp":
                return product(adjoint, Map("exp", (Map("-", (reduce.body, value)),)))
            case "prod":
                return product(adjoint, self._others(reduce))
            case _:
                raise InvalidIR(f"{einsum.target}: {reduce.op} yields no number")

    def _won(self, einsum: Einsum, reduce: Reduce, value: Access) -> Expr:
        """Whether a point is the one that gave an extremum its value: of several, the last.

        Its position is found before, where values are compared with those they were chosen from:
        computed again, in other tiles, they would differ in their last digits.
        """
        position: Expr = Index(reduce.ranks[0])
        for rank in reduce.ranks[1:]:
            size = Extent(self.classes.get(rank, base(rank)))
            position = Map("+", (Map("*", (position, size)), Index(rank)))
        nowhere = Const(-1)
        found = choice(Map("==", (reduce.body, value)), position, nowhere)
        place = Map("max", (nowhere, replace(reduce, op="max", body=found)))
        name = self.names.fresh(f"{einsum.target}_at")
        left = tuple(Left(rank) for rank in einsum.ranks)
        self.early.append(Einsum(name, left, place, None, "int"))
        self._known(name, einsum.ranks, ())
        return Map("==", (position, Access(name, tuple(Index(rank) for rank in einsum.ranks))))

    def _others(self, reduce: Reduce) -> Reduce:
        """The same reduction over every other point."""
        names: dict[str, Expr] = {}
        for rank in reduce.ranks:
            name = rank + "'"
            while name in self.classes or name in (v.rank for v in names.values()
                                                   if isinstance(v, Index)):  # fmt: skip
                name += "'"
            names[rank] = Index(name)
            self.classes[name] = self.classes[rank]
        differs: Expr | None = None
        for rank, other in names.items():
            part = Map("!=", (other, Index(rank)))
            differs = part if differs is None else Map("or", (differs, part))
        where = union(self.domains.holding(reduce.where), self.domains.of(reduce.body))
        inside = conjunction(tuple(substitute(part, names) for part in where))
        if differs is None:
            raise InvalidIR(f"{reduce.op} over no rank")
        return Reduce(
            reduce.op,
            tuple(i.rank for i in names.values() if isinstance(i, Index)),
            substitute(reduce.body, names),
            differs if inside is None else Map("and", (inside, differs)),
            reduce.span,
        )

    def _by_operand(self, own: Reduction, reduce: Reduce) -> Expr:
        """The derivative of one's own reduction by one point: of its body by x, y all others."""
        x, y = Access(own.x, ()), Access(own.y, ())
        values: dict[Expr, Expr] = {Param(own.x): x, Param(own.y): y}
        body = rewrite(own.body, values.get)
        found = Chain(lambda access: access == x, lambda expr: ()).parts(body, ONE, body)
        back: dict[Expr, Expr] = {x: reduce.body, y: self._others(reduce)}
        return rewrite(found[0].adjoint if found else ZERO, back.get)


def _summed(value: Expr) -> Reduce | None:
    """A sum, the sign before it inside; None where a value is none."""
    match value:
        case Reduce("sum"):
            return value
        case Map("neg", (Reduce("sum", _, body) as inner,)):
            return replace(inner, body=negative(body))
        case _:
            return None


def active_tensors(
    cascade: Cascade, wrt: tuple[str, ...], constants: frozenset[str]
) -> frozenset[str]:
    """The tensors that an input of `wrt` reaches through operations with a derivative."""
    kinds = {tensor.name: tensor.dtype for tensor in cascade.outputs}
    active = set(wrt)

    def reached(access: Access) -> bool:
        return access.tensor in active

    # An iterative tensor is read above its step: what reaches it may come later.
    while True:
        before = len(active)
        for einsum in cascade.einsums:
            kind = einsum.dtype or kinds.get(einsum.target, "float")
            if einsum.target not in constants and kind in FLOATS and _passes(einsum.body, reached):
                active.add(einsum.target)
        if len(active) == before:
            return frozenset(active)


def _passes(body: Expr, active: Callable[[Access], bool]) -> bool:
    match body:
        case Populate():
            return False
        case Reduce("any" | "all"):
            return False
        case Reduce(_, _, inner):
            return reaches(inner, active)
        case _:
            return reaches(body, active)
