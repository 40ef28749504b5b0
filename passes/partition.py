"""Ranks that are read through several variables: the parts of a partition.

    K[m1 * M0 + m0, e]  with  rank m0 = M0      m is partitioned into m1 (outermost) and m0

Each coefficient must be the product of the extents further in, so that every position is met
once. A window X[p + w] or a table T[p - m] over a difference is no partition.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import sympy

from attnc.ir.cascade import Cascade, base, rank_of
from attnc.ir.expr import Const, Expr, Extent, Index, Map, Param
from attnc.ir.source import CompileError
from attnc.ir.walk import accesses, subterms
from attnc.passes.depend import Dependences
from attnc.passes.symbolic import extent_symbol, extents, to_sympy


@dataclass(frozen=True, slots=True)
class Partition:
    """A rank and its parts, outermost first."""

    rank: str
    parts: tuple[str, ...]


def partitions(graph: Dependences, extents: Mapping[str, sympy.Expr]) -> tuple[Partition, ...]:
    """Every partition through which some access reads a tensor."""
    found: dict[Partition, None] = {}
    seen: set[tuple[str, Expr]] = set()
    for number in range(len(graph.edges)):
        for access in graph.accesses(number):
            for axis, subscript in zip(graph.axes[access.tensor], access.subscripts):
                if isinstance(subscript, Map) and (axis, subscript) not in seen:
                    seen.add((axis, subscript))
                    parts = mixed_radix(subscript, graph.classes, extents)
                    if parts:
                        found.setdefault(Partition(axis, parts))
    return tuple(found)


def mixed_radix(
    subscript: Expr, classes: Mapping[str, str], extents: Mapping[str, sympy.Expr]
) -> tuple[str, ...]:
    """The ranks of a subscript a * |b| + b, outermost first; empty if it is not of that form."""
    if len({term.rank for term in subterms(subscript) if isinstance(term, Index)}) < 2:
        return ()
    rest = linear(subscript, extents)
    if rest is None:
        return ()
    parts: list[str] = []
    stride = sympy.Integer(1)
    while rest:
        inner = next((v for v, c in rest.items() if sympy.expand(c - stride) == 0), None)
        if inner is None:
            return ()
        del rest[inner]
        rank = classes.get(inner, base(inner))
        parts.insert(0, rank)
        stride = stride * extents.get(rank, extent_symbol(rank))
    return tuple(parts)


def linear(expr: Expr, extents: Mapping[str, sympy.Expr]) -> dict[str, sympy.Expr] | None:
    """The coefficient of each rank variable in an affine expression; None if it is not one."""
    found: dict[str, sympy.Expr] = {}
    for variable, coefficient in _terms(expr, sympy.Integer(1), extents):
        if variable is None:
            return None
        if variable:
            found[variable] = found.get(variable, sympy.Integer(0)) + coefficient
    return found


def offset(expr: Expr, extents: Mapping[str, sympy.Expr]) -> sympy.Expr | None:
    """The constant of an affine expression; None if it is not one."""
    total = sympy.Integer(0)
    for variable, coefficient in _terms(expr, sympy.Integer(1), extents):
        if variable is None:
            return None
        if not variable:
            total += coefficient
    return total


def _terms(
    expr: Expr, factor: sympy.Expr, extents: Mapping[str, sympy.Expr]
) -> Iterator[tuple[str | None, sympy.Expr]]:
    """Coefficients of variables; "" stands for the constant, None for what is not affine."""
    match expr:
        case Index(rank):
            yield rank, factor
        case Map("+", (a, b)):
            yield from _terms(a, factor, extents)
            yield from _terms(b, factor, extents)
        case Map("-", (a, b)):
            yield from _terms(a, factor, extents)
            yield from _terms(b, -factor, extents)
        case Map("neg", (a,)):
            yield from _terms(a, -factor, extents)
        case Map("*", (a, b)) if (scale := scalar(a, extents)) is not None:
            yield from _terms(b, factor * scale, extents)
        case Map("*", (a, b)) if (scale := scalar(b, extents)) is not None:
            yield from _terms(a, factor * scale, extents)
        case _ if (scale := scalar(expr, extents)) is not None:
            yield "", factor * scale
        case _:
            yield None, factor


def scalar(expr: Expr, extents: Mapping[str, sympy.Expr]) -> sympy.Expr | None:
    """The value of an expression of extents and parameters; None if it is no such expression."""
    if not all(isinstance(term, Const | Extent | Param | Map) for term in subterms(expr)):
        return None
    try:
        return to_sympy(expr, extents)
    except CompileError:
        return None


def is_part(cascade: Cascade, rank: str) -> bool:
    """Whether a rank is declared: a part of another that is cut already, its positions tiles."""
    if not any(decl.name == rank for decl in cascade.ranks):
        return False
    classes, values = rank_of(cascade), extents(cascade)
    return any(
        rank in mixed_radix(subscript, classes, values)[:-1]
        for einsum in cascade.einsums
        for access in (*accesses(einsum.body), *accesses(einsum.where))
        for subscript in access.subscripts
    )
