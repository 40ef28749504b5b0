"""Reductions as statements: folds, products of matrices, and prefixes of an axis at once.

    S[p, m] = sum[e](Q[p, e] * K[m, e]) / sqrt(|e|)     contract S_dot[p, m] = Q[p, e] * K[m, e]
    G[p]    = max[m](S[p, m])                           fold G[p] = max S[p, m] over m
    C[t]    = sum[j where j <= t](g[j])                 scan C[t] = sum g[j] over j along t

An operand sees the identity of its reduction where it does not exist.
"""

from __future__ import annotations

from dataclasses import replace

from attnc.ir.algebra import MONOIDS
from attnc.ir.cascade import Einsum, base
from attnc.ir.expr import ZERO, Const, Expr, Index, Map, Reduce, Tile
from attnc.ir.source import NOWHERE, CompileError, InvalidIR
from attnc.ir.tile import Contract, Fold, Scan
from attnc.ir.walk import free_ranks
from attnc.passes.contraction import Part, addends, factors, finite, product, two_groups
from attnc.passes.defer import number
from attnc.passes.domain import union
from attnc.passes.loops import Loops
from attnc.passes.scopes import Value

SCANNED = ("sum", "prod", "max", "min")
"""Reductions whose prefixes a back-end forms at once."""


class Sums(Loops):
    """Lowers what an Einsum reduces; `made` are the tensors that are computed on the spot.

    With `scale_operands` a constant factor of a matrix product goes into the operand that varies
    least instead of the result, which is right where operands keep the type of the arithmetic.
    """

    scale_operands: bool
    made: dict[str, Einsum]

    def _own(self, einsum: Einsum) -> tuple[str, ...]:
        return self.batch_first(rank for rank in einsum.ranks if self._is_axis(rank))

    def _reduce(self, einsum: Einsum, body: Reduce) -> Value:
        ranks = tuple(rank for rank in body.ranks if not self._single(rank))
        for rank in ranks:
            if not self._is_axis(rank) or rank in self.grid:
                raise CompileError(
                    f"{einsum.target} reduces over {rank}, along which its kernel is cut",
                    body.span if body.span is not NOWHERE else einsum.span,
                    f"an instance has a tile of {rank}, and none sees what the others have",
                    code="E303",
                    help="the interpreter runs it as it is: --backend interpreter",
                )
        outside = set(self.domains.of(body))
        predicates = tuple(
            part
            for part in union(self.domains.holding(body.where), self.domains.of(body.body))
            if part not in outside
        )
        for scope in self.scopes.open[1:]:
            scope.reduced.append((einsum.target, frozenset(predicates)))
        prefix = self._prefix(body, ranks, predicates)
        if prefix is not None:
            predicates = tuple(part for part in predicates if part != prefix)
        elif body.op == "sum" and len(ranks) == 1:
            contracted = self._contraction(einsum, body, ranks[0], predicates)
            contracted = contracted or self._several(einsum, body, ranks[0], predicates)
            contracted = contracted or self._masked(einsum, body, ranks[0], predicates)
            if contracted is not None:
                return contracted
        if ranks and body.op == "sum" and prefix is None:
            within, apart = self._apart(body.body, ranks)
        else:
            within, apart = Part(*self._value(body.body)), []
        value, depth = within.value, within.depth
        mask, inner = self.mask(predicates)
        if mask is not None:
            value, depth = (
                Map("select", (mask, value, self._identity(body.op))),
                max(depth, inner),
            )
        if not ranks:
            own = self.axes_of(value)
            return self.scopes.named(einsum.target, own, value, depth, einsum.span), depth
        source, depth = self._operand(einsum, value, depth, ranks)
        if prefix is not None:
            return self._scan(einsum, body, source, depth, prefix)
        name = self.scopes.fresh(f"{einsum.target}_sum" if apart else einsum.target, depth)
        result = tuple(rank for rank in source.ranks if rank not in ranks)
        self.scopes.emit(Fold(name, result, body.op, source, ranks, einsum.span), depth)
        return self._scaled(einsum, Part(Tile(name, result), depth), apart)

    def _apart(self, body: Expr, ranks: tuple[str, ...]) -> tuple[Part, list[Part]]:
        """What a sum over some axes runs over, and the factors that it need not:

            sum[d](Q[t, d] * K[t, d] * V[t, f])     ->     sum[d](Q[t, d] * K[t, d]) * V[t, f]

        These have axes that the others lack. What may be infinite stays inside, since a sum over
        nothing is 0, and 0 times infinity is not.
        """
        within: list[Part] = []
        without: list[Part] = []
        for factor, inverse in factors(body):
            part = Part(*self._value(factor), inverse)
            bound = {*self.axes_of(part.value)} & {*ranks}
            stays = bound or inverse or not finite(factor, self.made)
            (within if stays else without).append(part)
        own = {axis for part in within for axis in self.axes_of(part.value)}
        if not within or all({*self.axes_of(part.value)} <= own for part in without):
            return Part(*self._value(body)), []
        return product(within), without

    def _scaled(self, einsum: Einsum, part: Part, outside: list[Part]) -> Value:
        """A sum times the factors that were taken out of it."""
        if not outside:
            return part.value, part.depth
        scaled = product([part, *outside])
        ranks = self.axes_of(scaled.value)
        tile = self.scopes.named(einsum.target, ranks, scaled.value, scaled.depth, einsum.span)
        return tile, scaled.depth

    def _prefix(
        self, body: Reduce, ranks: tuple[str, ...], predicates: tuple[Expr, ...]
    ) -> Expr | None:
        """The predicate that makes a reduction one of every prefix of an axis, or suffix."""
        if len(ranks) != 1 or body.op not in SCANNED:
            return None
        (over,) = ranks
        for part in predicates:
            match part:
                case Map("<=", (Index(first), Index(second))) if over in (first, second):
                    along = second if first == over else first
                    others = [p for p in predicates if p != part]
                    used = any(along in free_ranks(term) for term in (body.body, *others))
                    if not used and self._alike(over, along):
                        return part
                case _:
                    pass
        return None

    def _alike(self, over: str, along: str) -> bool:
        """Whether two variables are whole axes of one rank."""
        same = self.classes.get(over, base(over)) == self.classes.get(along, base(along))
        whole = over not in self.grid and along not in self.grid
        return same and whole and self._is_axis(over) and self._is_axis(along)

    def _scan(self, einsum: Einsum, body: Reduce, source: Tile, depth: int, prefix: Expr) -> Value:
        """Every prefix at once."""
        (over,) = body.ranks
        (along,) = free_ranks(prefix) - {over}
        reverse = prefix == Map("<=", (Index(along), Index(over)))
        ranks = tuple(along if rank == over else rank for rank in source.ranks)
        name = self.scopes.fresh(einsum.target, depth)
        self.scopes.emit(
            Scan(name, ranks, body.op, source, over, along, reverse, einsum.span), depth
        )
        return Tile(name, ranks), depth

    def _identity(self, op: str) -> Expr:
        if op in MONOIDS:
            identity = MONOIDS[op].identity
            return Const(identity) if isinstance(identity, bool) else number(identity)
        own = next(r for r in self.cascade.reductions if r.name == op)
        return own.identity

    def _contraction(
        self, einsum: Einsum, body: Reduce, over: str, predicates: tuple[Expr, ...]
    ) -> Value | None:
        """A sum of products as a matrix product, where it is one."""
        grouped = self._grouped(body, over, predicates)
        if grouped is None:
            return None
        groups, outside = grouped
        if self.scale_operands and self._scaled_operand(groups, outside):
            outside = []
        left, right = (self._operand(einsum, g.value, g.depth, (over,)) for g in groups)
        own = [rank for rank in self._own(einsum) if rank not in self.cascade.batch]
        if own and own[0] in right[0].ranks:
            left, right = right, left
        both = dict.fromkeys((*left[0].ranks, *right[0].ranks))
        result = self.batch_first(rank for rank in both if rank != over)
        depth = max(left[1], right[1])
        name = self.scopes.fresh(f"{einsum.target}_dot" if outside else einsum.target, depth)
        self.scopes.emit(Contract(name, result, left[0], right[0], over, einsum.span), depth)
        return self._scaled(einsum, Part(Tile(name, result), depth), outside)

    def _grouped(
        self, body: Reduce, over: str, predicates: tuple[Expr, ...]
    ) -> tuple[list[Part], list[Part]] | None:
        """The operands of a matrix product, and the factors that stand outside it."""
        inside: list[Part] = []
        outside: list[Part] = []
        shared = {over, *self.cascade.batch}
        partial: list[set[str]] = []
        for factor, inverse in factors(body.body):
            value, depth = self._value(factor)
            part = Part(value, depth, inverse)
            (inside if over in self.axes_of(part.value) else outside).append(part)
            if inverse or not finite(factor, self.made):
                partial.append({*self.axes_of(value)} - shared)
        groups = two_groups(inside, over, self.axes_of, frozenset(self.cascade.batch))
        if groups is None:
            return None
        mask, inner = self.mask(predicates)
        if mask is not None:
            masked = set(self.axes_of(mask))
            fitting = [i for i, g in enumerate(groups) if masked <= set(self.axes_of(g.value))]
            if not fitting:
                return None
            # What comes from memory goes into the product as it is: it keeps its narrow type.
            chosen = min(fitting, key=lambda i: self.scopes.loaded(groups[i].value))
            part = groups[chosen]
            value = Map("select", (mask, part.value, ZERO))
            groups[chosen] = Part(value, max(part.depth, inner))
            other = groups[1 - chosen]
            # What has no rank of its own is in the first group.
            if any(own & {*self.axes_of(other.value)} if own else chosen for own in partial):
                groups[1 - chosen] = self._defined(other, predicates)
        return groups, outside

    def _several(
        self, einsum: Einsum, body: Reduce, over: str, predicates: tuple[Expr, ...]
    ) -> Value | None:
        """A sum of several products as the sum of as many matrix products, where each is one."""
        terms = addends(body.body, over, self._axes, frozenset(self.cascade.batch))
        if terms is None:
            return None
        bodies = [replace(body, body=term) for _, term in terms]
        if any(self._grouped(own, over, predicates) is None for own in bodies):
            return None
        total: Expr | None = None
        depth = 0
        for (negative, _), own in zip(terms, bodies):
            contracted = self._contraction(einsum, own, over, predicates)
            assert contracted is not None
            part, depth = contracted[0], max(depth, contracted[1])
            if total is None:
                total = Map("neg", (part,)) if negative else part
            else:
                total = Map("-" if negative else "+", (total, part))
        assert total is not None
        axes = self.axes_of(total)
        return self.scopes.named(einsum.target, axes, total, depth, einsum.span), depth

    def _axes(self, expr: Expr) -> tuple[str, ...]:
        """The axes among the ranks of an expression of the cascade."""
        return tuple(sorted(rank for rank in free_ranks(expr) if self._is_axis(rank)))

    def _masked(
        self, einsum: Einsum, body: Reduce, over: str, predicates: tuple[Expr, ...]
    ) -> Value | None:
        """A matrix product of which only some elements exist, as far as their own ranks say."""
        own = tuple(p for p in predicates if over not in free_ranks(p))
        rest = tuple(p for p in predicates if p not in own)
        contracted = self._contraction(einsum, body, over, rest) if own else None
        if contracted is None:
            return None
        mask, inner = self.mask(own)
        if mask is None:
            return contracted
        value, depth = Map("select", (mask, contracted[0], ZERO)), max(contracted[1], inner)
        tile = self.scopes.named(einsum.target, self.axes_of(value), value, depth, einsum.span)
        return tile, depth

    def _defined(self, part: Part, predicates: tuple[Expr, ...]) -> Part:
        """An operand that is 0 where the product does not exist, as far as its own ranks say so."""
        own = {*self.axes_of(part.value)}
        inside = [p for p in predicates if {*self.axes_of(self._value(p)[0])} <= own]
        mask, depth = self.mask(tuple(inside))
        if mask is None:
            return part
        return Part(Map("select", (mask, part.value, ZERO)), max(part.depth, depth))

    def _operand(
        self, einsum: Einsum, value: Expr, depth: int, over: tuple[str, ...]
    ) -> tuple[Tile, int]:
        """What a reduction runs over as a tile with all the reduced ranks, once."""
        ranks = tuple(dict.fromkeys((*self.axes_of(value), *over)))
        found = self.scopes.find(("operand", value, ranks))
        if found is None:
            tile = self.scopes.named(f"{einsum.target}_in", ranks, value, depth, einsum.span)
            self.scopes.keep(("operand", value, ranks), tile, depth)
            return tile, depth
        if not isinstance(found[0], Tile):
            raise InvalidIR(f"{self.name}: an operand of {einsum.target} is no tile")
        return found[0], found[1]

    def _scaled_operand(self, groups: list[Part], outside: list[Part]) -> bool:
        """Multiply scalars into the operand that varies least, if that spares the result."""
        index = min(range(len(groups)), key=lambda i: groups[i].depth)
        chosen, other = groups[index], groups[1 - index]
        if not outside or chosen.depth >= other.depth:
            return False
        if any(self.axes_of(part.value) or part.depth > chosen.depth for part in outside):
            return False
        groups[index] = product([chosen, *outside])
        return True
