"""Where an element lies: subscripts and strides as the sum that a pointer is moved by.

A sum is split into what an instance of the kernel knows from the start (64-bit scalars, computed
once), what moves with a loop (64-bit scalars) and what varies within a tile. The last stays below
a tile's size times a stride, so 32 bits hold it; only positions read from memory or formed by a
division need 64 bits at every point.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from attnc.backends.triton_expr import (
    Scope,
    Text,
    is_natural,
    local,
    render,
    spread,
)
from attnc.backends.triton_host import ATOM, PLUS, TIMES
from attnc.ir.cascade import Tensor
from attnc.ir.expr import Const, Expr, Index, Map, Tile
from attnc.ir.walk import subterms


def address_terms(
    tensor: Tensor, subscripts: tuple[Expr, ...], ranks: tuple[str, ...], scope: Scope
) -> tuple[list[str], list[str]]:
    """The terms that are fixed for an instance, and those that move, scalars first."""
    fixed: list[str] = []
    scalars: list[str] = []
    vectors: list[str] = []
    for rank, subscript in zip(tensor.ranks, subscripts, strict=True):
        stride = scope.stride(tensor.name, rank)
        for term, negative in summands(subscript, scope):
            if term == Const(0):
                continue
            # What is fixed is computed at the top, before anything has got a name.
            here = replace(scope, named={}) if is_fixed(term, scope) else scope
            text = render(Map("neg", (term,)) if negative else term, ranks, here)
            if text.ranks:
                if not stays_in_tile(term, scope):
                    text = Text(f"tl.cast({text.code}, tl.int64)", ATOM, text.ranks, "int")
                if text.ranks != ranks:
                    text = Text(spread(text, ranks), ATOM, ranks, "int")
                vectors.append(_times(text, stride))
                continue
            if not is_wide(term, scope):
                text = Text(f"tl.cast({text.code}, tl.int64)", ATOM, (), "int")
            code = _times(text, stride)
            (fixed if is_fixed(term, scope) else scalars).append(code)
    return fixed, scalars + vectors


def _times(text: Text, stride: str) -> str:
    return text.within(PLUS) if stride == "1" else f"{text.within(TIMES)} * {stride}"


def summands(expr: Expr, scope: Scope, negative: bool = False) -> Iterator[tuple[Expr, bool]]:
    """The terms of a sum with their signs; a tiled position is its first one and the rest."""
    match expr:
        case Map("+", (left, right)):
            yield from summands(left, scope, negative)
            yield from summands(right, scope, negative)
        case Map("-", (left, right)):
            yield from summands(left, scope, negative)
            yield from summands(right, scope, not negative)
        case Map("neg", (body,)):
            yield from summands(body, scope, not negative)
        case Map("*", (body, factor)) if is_scalar(factor, scope) and is_sum(body, scope):
            for term, sign in summands(body, scope, negative):
                yield Map("*", (term, factor)), sign
        case Map("*", (factor, body)) if is_scalar(factor, scope) and is_sum(body, scope):
            for term, sign in summands(body, scope, negative):
                yield Map("*", (factor, term)), sign
        case Index(rank) if rank in scope.firsts:
            yield Map("first", (expr,)), negative
            yield Index(local(rank)), negative
        case _:
            yield expr, negative


def is_sum(expr: Expr, scope: Scope) -> bool:
    """Whether `summands` finds more than one term."""
    match expr:
        case Map("+" | "-"):
            return True
        case Index(rank):
            return rank in scope.firsts
        case _:
            return False


def is_scalar(expr: Expr, scope: Scope) -> bool:
    """Whether the value is one number for an instance at a time."""
    for term in subterms(expr):
        match term:
            case Tile(_, ranks) if ranks:
                return False
            case Map("first" | "last"):
                return all(isinstance(arg, Index) for arg in term.args)
            case Index(rank) if rank in scope.positions and scope.positions[rank].ranks:
                return False
            case _:
                pass
    return True


def is_fixed(expr: Expr, scope: Scope) -> bool:
    """Whether a scalar is known when an instance starts: no loop counter, nothing loaded."""
    for term in subterms(expr):
        match term:
            case Tile():
                return False
            case Index(rank) if rank not in scope.fixed and rank not in scope.firsts:
                return False
            case _:
                pass
    return True


def is_wide(expr: Expr, scope: Scope) -> bool:
    """Whether a scalar has 64 bits already: the positions of batch ranks do."""
    return any(isinstance(term, Index) and term.rank in scope.fixed for term in subterms(expr))


def stays_in_tile(expr: Expr, scope: Scope) -> bool:
    """Whether a position along an axis of a tile is smaller than the tile is wide."""
    match expr:
        case Index():
            return True
        case Map("*", (left, right)):
            parts = (left, right)
            return all(isinstance(part, Const) or stays_in_tile(part, scope) for part in parts)
        case Map("//" | "%", (left, right)):
            return stays_in_tile(left, scope) and is_scalar(right, scope) and is_natural(right)
        case _:
            return False
