"""What a cascade costs: operations by kind, and the bytes that must move.

Every Einsum is counted over the points at which it exists. An operation is done once for each
point of the ranks it depends on, so a factor that does not vary along a sum is applied behind it;
a multiplication that feeds a sum is one multiply-add; what depends on extents, parameters and
positions alone is free.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import prod

import sympy

from attnc.ir.algebra import BYTES, MONOIDS, OPS
from attnc.ir.cascade import Cascade, Einsum
from attnc.ir.expr import Access, Cast, Const, Expr, Map, Populate, Reduce, conjuncts
from attnc.ir.walk import accesses, children, free_ranks, subterms
from attnc.passes.depend import Dependences
from attnc.passes.domain import Domains, union
from attnc.passes.points import Points

KINDS = ("multiply-add", "multiply", "add", "max", "exp", "divide", "other")
"""The kinds of operations; a multiply-add counts as two in a sum of operations."""

Operations = dict[str, sympy.Expr]


@dataclass(frozen=True, slots=True)
class EinsumCost:
    """Operations of one Einsum, and its traffic if each tensor it names goes through memory.

    `bounded` says that the counts are upper bounds, since its points have no closed form.
    """

    einsum: Einsum
    operations: Operations
    bytes_read: sympy.Expr
    bytes_written: sympy.Expr
    bounded: bool

    @property
    def bytes(self) -> sympy.Expr:
        return self.bytes_read + self.bytes_written


def einsum_costs(graph: Dependences, extents: Mapping[str, sympy.Expr]) -> tuple[EinsumCost, ...]:
    """The cost of each Einsum of a normalised cascade, in its order."""
    counting = _Counting(graph, extents)
    return tuple(counting.cost(einsum) for einsum in graph.cascade.einsums)


def compulsory_bytes(
    graph: Dependences, extents: Mapping[str, sympy.Expr]
) -> tuple[sympy.Expr, bool]:
    """Every element of an input that is read, once, and every output, once; and whether exact.

    An input whose positions are chosen by data counts in full, which is an upper bound.
    """
    counting = _Counting(graph, extents)
    read: dict[str, None] = {}
    exact = True
    for number in range(len(graph.edges)):
        for access in graph.accesses(number):
            read.setdefault(access.tensor)
            gathered = any(any(accesses(subscript)) for subscript in access.subscripts)
            exact = exact and not gathered
    names = [tensor.name for tensor in graph.cascade.inputs if tensor.name in read]
    names += [tensor.name for tensor in graph.cascade.outputs]
    return sympy.Add(*(counting.size(name) for name in names)), exact


def total(operations: Mapping[str, sympy.Expr]) -> sympy.Expr:
    """Floating-point operations, a multiply-add being two."""
    return sympy.Add(*(n * (2 if kind == "multiply-add" else 1) for kind, n in operations.items()))


def joined(parts: Iterator[Operations]) -> Operations:
    """The operations of several Einsums together, every kind named."""
    found: dict[str, list[sympy.Expr]] = {kind: [] for kind in KINDS}
    for part in parts:
        for kind, number in part.items():
            found[kind].append(number)
    return {kind: sympy.Add(*numbers) for kind, numbers in found.items()}


class _Counting:
    """Counts over one cascade, closed forms shared between its Einsums."""

    def __init__(self, graph: Dependences, extents: Mapping[str, sympy.Expr]) -> None:
        self.graph = graph
        self.points = Points(graph.classes, extents)
        self.domains = Domains(graph.cascade)
        self.widths = _widths(graph.cascade)

    def size(self, tensor: str) -> sympy.Expr:
        """Bytes of a whole tensor."""
        ranks = self.graph.axes[tensor]
        elements = prod((self.points.extent(rank) for rank in ranks), start=sympy.S.One)
        return elements * self.widths[tensor]

    def cost(self, einsum: Einsum) -> EinsumCost:
        left = frozenset(side.rank for side in einsum.left if side.step != "start")
        match einsum.body:
            case Reduce(_, ranks, body, where):
                space = left | frozenset(ranks)
                inside = union(conjuncts(where), self.domains.of(body))
            case Populate(_, rank, body, where):
                space = left | frozenset((rank,))
                inside = union(conjuncts(where), self.domains.of(body))
            case body:
                space, inside = left, self.domains.of(body)
        predicates = union(conjuncts(einsum.where), inside)
        work: Counter[tuple[str, frozenset[str]]] = Counter()
        work.update(_work(einsum, left, space))
        operations: dict[str, list[sympy.Expr]] = {}
        bounded = False
        for (kind, over), times in work.items():
            number, exact = self.points.count(over, predicates)
            bounded = bounded or not exact
            operations.setdefault(kind, []).append(times * number)
        tensors = dict.fromkeys(
            access.tensor for expr in (einsum.body, einsum.where) for access in accesses(expr)
        )
        elements = prod((self.points.extent(rank) for rank in left), start=sympy.S.One)
        return EinsumCost(
            einsum,
            {kind: sympy.Add(*operations[kind]) for kind in KINDS if kind in operations},
            sympy.Add(*(self.size(tensor) for tensor in tensors)),
            elements * self.widths[einsum.target],
            bounded,
        )


def operations_of(einsum: Einsum) -> Counter[tuple[str, frozenset[str]]]:
    """How often an Einsum does each kind of operation, by the ranks over which it does so."""
    left = frozenset(side.rank for side in einsum.left)
    inner = frozenset(einsum.body.ranks) if isinstance(einsum.body, Reduce) else frozenset()
    return Counter(_work(einsum, left, left | inner))


Work = Iterator[tuple[str, frozenset[str]]]
"""Kinds of operations, each with the ranks over which it is done."""


def _work(einsum: Einsum, left: frozenset[str], space: frozenset[str]) -> Work:
    match einsum.body:
        case Reduce("sum", ranks, body):
            yield from _sum(body, frozenset(ranks), left, space)
        case Reduce(op, _, body):
            kind = MONOIDS[op].counts if op in MONOIDS else "other"
            if kind:
                yield kind, space
            yield from _maps(body)
        case Populate(_, rank, body, _, slot):
            # One comparison for each candidate, however many are chosen.
            yield "max", (space - frozenset((slot,))) | frozenset((rank,))
            yield from _maps(body)
        case body:
            yield from _maps(body)


def _sum(body: Expr, ranks: frozenset[str], left: frozenset[str], space: frozenset[str]) -> Work:
    """A sum of products: what varies is multiplied inside, the last time into the sum."""
    above, below = _factors(body)
    for factor in (*above, *below):
        yield from _maps(factor)
    inner = [factor for factor in above if free_ranks(factor) & ranks]
    under = [factor for factor in below if free_ranks(factor) & ranks]
    so_far: frozenset[str] = free_ranks(inner[0]) if inner else frozenset()
    for factor in inner[1:-1]:
        so_far |= free_ranks(factor)
        yield "multiply", so_far
    for factor in under:
        so_far |= free_ranks(factor)
        yield "divide", so_far
    yield "multiply-add" if len(inner) > 1 else "add", space
    for kind, factors, kept in (("multiply", above, inner), ("divide", below, under)):
        for factor in factors:
            if factor not in kept and not _unit(factor):
                yield kind, left


def _unit(factor: Expr) -> bool:
    """A sign or a one costs nothing beside the products it stands in."""
    return isinstance(factor, Const) and factor.value in (1, -1)


def _factors(expr: Expr) -> tuple[list[Expr], list[Expr]]:
    """The factors above and below the line of a product."""
    match expr:
        case Map("*", (a, b)):
            (up, down), (more, under) = _factors(a), _factors(b)
            return [*up, *more], [*down, *under]
        case Map("/", (a, b)):
            (up, down), (under, more) = _factors(a), _factors(b)
            return [*up, *more], [*down, *under]
        case _:
            return [expr], []


def _maps(expr: Expr) -> Work:
    """The operations of a map, but not those of subscripts and of scalars known beforehand."""
    match expr:
        case Map(op, args):
            if _free(expr):
                return
            kind = OPS[op].counts
            if kind:
                for _ in range(len(args) - 1 if op in ("max", "min") else 1):
                    yield kind, free_ranks(expr)
            for arg in args:
                yield from _maps(arg)
        case Cast():
            for part in children(expr):
                yield from _maps(part)
        case _:
            return


def _free(expr: Map) -> bool:
    """Whether a value needs no data: positions, extents and parameters."""
    return not any(
        isinstance(term, Access) or (isinstance(term, Map) and term.op == "uniform")
        for term in subterms(expr)
    )


def _widths(cascade: Cascade) -> dict[str, int]:
    """Bytes of an element of each tensor."""
    widths = {einsum.target: BYTES[einsum.dtype or "float"] for einsum in cascade.einsums}
    for tensor in (*cascade.outputs, *cascade.inputs):
        widths[tensor.name] = BYTES[tensor.dtype]
    return widths
