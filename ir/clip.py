"""Axes cut to the positions that count.

    partial tile:  N = select(m1 * 64 + m0 < |m|, exp(S - G), 0);  D = fold sum over m0 of N
    positions m0 >= |m| - m1 * 64 add the identity to every fold, so m0 may stop there

An axis may be cut in the body of a loop where whatever leaves the axis (a fold, a product, a
store) ignores the positions left out, by a predicate that all of them share. A machine that pads
its tiles has no use for this; one whose tiles can have any size does less work by it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from attnc.ir.affine import least, most, plus, solved
from attnc.ir.algebra import MONOIDS
from attnc.ir.expr import ONE, TRUE, ZERO, Const, Expr, Index, Map, Tile, both, conjuncts
from attnc.ir.source import InvalidIR
from attnc.ir.tile import (
    Compute,
    Contract,
    Fold,
    Kernel,
    Load,
    Loop,
    Scan,
    Segment,
    Statement,
    Store,
)
from attnc.ir.tile_facts import every, reads, tiles
from attnc.ir.walk import free_ranks, rewrite

Edges = Mapping[str, tuple[Expr, Expr]]
Guards = frozenset[Expr]


@dataclass(frozen=True, slots=True)
class Clip:
    """Of an axis only positions lo <= rank < hi are computed; there may be none."""

    rank: str
    lo: Expr
    hi: Expr


def edges_of(kernel: Kernel) -> dict[str, tuple[Expr, Expr]]:
    """The first and the last position of every axis of a kernel's tiles."""
    grid = {entry.rank for entry in kernel.grid}
    found: dict[str, tuple[Expr, Expr]] = {}
    for axis in kernel.axes:
        if axis.rank in grid:
            found[axis.rank] = Map("first", (Index(axis.rank),)), Map("last", (Index(axis.rank),))
        else:
            size = axis.extent if axis.size is None else Const(axis.size)
            last = Const(size.value - 1) if isinstance(size, Const) else Map("-", (size, ONE))
            found[axis.rank] = ZERO, last
    return found


def clipped(
    loop: Loop,
    segment: Segment,
    edges: Edges,
    ranks: Mapping[str, tuple[str, ...]],
    cut: frozenset[str],
) -> tuple[tuple[Clip, ...], tuple[Statement, ...]]:
    """The axes that the body of a segment may cut, and the body without the tests they answer.

    `edges` gives every axis of the kernel; `ranks` the axes of the tiles that are made before the
    loop; `cut` the axes that a loop around it has cut already.
    """
    kept = set(cut) | {rank for state in loop.carried for rank in state.ranks}
    kept |= _renamed(segment.body, {**ranks, **{s.name: s.ranks for s in loop.carried}})
    kept |= _carried_inside(segment.body)
    before = {*ranks, *(state.name for state in loop.carried)}
    counters = {own.rank for own in every(segment.body) if isinstance(own, Loop)}
    definitions = {s.name: s for s in segment.body if isinstance(s, Load | Compute)}
    clips: list[Clip] = []
    known: set[Expr] = set()
    for rank, (first, last) in edges.items():
        if rank in kept or first != ZERO:
            continue
        guards = _shared(rank, segment.body, definitions)
        lo: Expr = ZERO
        hi = whole = plus(last, ONE)
        for guard in sorted(guards or (), key=repr):
            if any(tile.name not in before for tile in tiles(guard)):
                continue
            if counters & free_ranks(guard):
                continue
            found = solved(guard, rank, edges)
            if found is None:
                continue
            interval, exact = found
            lo = lo if interval.lo is None else most(lo, interval.lo)
            hi = hi if interval.hi is None else least(hi, interval.hi)
            if exact:
                known.add(guard)
        if (lo, hi) != (ZERO, whole):
            clips.append(Clip(rank, lo, hi))
    if not clips:
        return (), segment.body
    return tuple(clips), tuple(_assuming(statement, known) for statement in segment.body)


def _renamed(body: tuple[Statement, ...], ranks: dict[str, tuple[str, ...]]) -> set[str]:
    """Ranks along which a tile is read under another name than it was made with."""
    found: set[str] = set()
    ranks = dict(ranks)
    for statement in body:
        if isinstance(statement, Loop):
            for tile in tiles(*(state.init for state in statement.carried)):
                found |= _difference(tile, ranks)
            states = {state.name: state.ranks for state in statement.carried}
            ranks.update(states)
            for segment in statement.segments:
                found |= _renamed(segment.body, ranks)
            continue
        if isinstance(statement, Scan):
            found |= {statement.over, statement.along}
        for tile in reads(statement):
            found |= _difference(tile, ranks)
        if not isinstance(statement, Store):
            ranks[statement.name] = statement.ranks
    return found


def _difference(tile: Tile, ranks: Mapping[str, tuple[str, ...]]) -> set[str]:
    if tile.name not in ranks:
        raise InvalidIR(f"tile {tile.name} is read before it is made")
    pairs = zip(tile.ranks, ranks[tile.name])
    return {rank for pair in pairs if pair[0] != pair[1] for rank in pair}


def _carried_inside(body: tuple[Statement, ...]) -> set[str]:
    found: set[str] = set()
    for statement in body:
        if isinstance(statement, Loop):
            found.update(rank for state in statement.carried for rank in state.ranks)
            for segment in statement.segments:
                found |= _carried_inside(segment.body)
    return found


Definitions = Mapping[str, Load | Compute]


def _shared(rank: str, body: tuple[Statement, ...], definitions: Definitions) -> Guards | None:
    """The predicates without which nothing along a rank leaves it; None if nothing leaves it."""
    found: Guards | None = None
    for guards in _leaving(rank, body, definitions):
        found = guards if found is None else found & guards
    return found


def _leaving(rank: str, body: tuple[Statement, ...], definitions: Definitions) -> Iterator[Guards]:
    for statement in body:
        match statement:
            case Fold(_, _, op, source, over):
                if rank in over:
                    yield _neutral(source, op, definitions)
            case Contract(_, _, left, right, over):
                if rank == over:
                    yield _zero(left, definitions) | _zero(right, definitions)
            case Store(_, _, source, where):
                if rank in source.ranks:
                    yield frozenset(conjuncts(where))
            case Loop(_, _, segments):
                for segment in segments:
                    own = {s.name: s for s in segment.body if isinstance(s, Load | Compute)}
                    yield from _leaving(rank, segment.body, {**definitions, **own})
            case Load() | Compute() | Scan():
                pass


def _neutral(source: Tile, op: str, definitions: Definitions) -> Guards:
    """The predicates without which a tile holds the identity of a reduction."""
    if op == "sum":
        return _zero(source, definitions)
    made = definitions.get(source.name)
    if op not in MONOIDS or made is None or made.ranks != source.ranks:
        return frozenset()
    match made:
        case Compute(_, _, Map("select", (condition, _, Const(value)))):
            same = value == MONOIDS[op].identity
            return frozenset(conjuncts(condition)) if same else frozenset()
        case _:
            return frozenset()


def _zero(expr: Expr, definitions: Definitions) -> Guards:
    """The predicates without which an expression is 0."""
    match expr:
        case Tile(name, ranks):
            match definitions.get(name):
                case Load(_, own, _, _, where) if own == ranks:
                    return frozenset(conjuncts(where))
                case Compute(_, own, body) if own == ranks:
                    return _zero(body, definitions)
                case _:
                    return frozenset()
        case Map("select", (condition, chosen, Const(value))) if value == 0:
            return frozenset(conjuncts(condition)) | _zero(chosen, definitions)
        case Map("*", (left, right)):
            return _zero(left, definitions) | _zero(right, definitions)
        case Map("/", (over, _)):
            return _zero(over, definitions)
        case Map("exp" | "exp2", (body,)):
            return _falling(body, definitions)
        case _:
            return frozenset()


def _falling(expr: Expr, definitions: Definitions) -> Guards:
    """The predicates without which an expression is minus infinity, its exponential 0."""
    match expr:
        case Tile(name, ranks):
            match definitions.get(name):
                case Compute(_, own, body) if own == ranks:
                    return _falling(body, definitions)
                case _:
                    return frozenset()
        case Map("select", (condition, chosen, Const(value))) if value == -math.inf:
            return frozenset(conjuncts(condition)) | _falling(chosen, definitions)
        case Map("-", (body, _)):
            return _falling(body, definitions)
        case Map("+", (left, right)):
            return _falling(left, definitions) | _falling(right, definitions)
        case _:
            return frozenset()


def _assuming(statement: Statement, known: set[Expr]) -> Statement:
    """A statement without the tests that are known to hold."""
    if not known:
        return statement
    match statement:
        case Load() | Store():
            return replace(statement, where=_reduced(statement.where, known))
        case Compute():
            return replace(statement, body=rewrite(statement.body, lambda t: _true(t, known)))
        case Contract() | Fold() | Scan():
            return statement
        case Loop():
            segments = tuple(
                replace(part, body=tuple(_assuming(inner, known) for inner in part.body))
                for part in statement.segments
            )
            return replace(statement, segments=segments)


def _reduced(where: Expr | None, known: set[Expr]) -> Expr | None:
    result: Expr | None = None
    for part in conjuncts(where):
        if part not in known:
            result = both(result, part)
    return result


def _true(term: Expr, known: set[Expr]) -> Expr | None:
    if term in known:
        return TRUE
    match term:
        case Map("and", (left, right)) if TRUE in (left, right):
            return right if left == TRUE else left
        case Map("select", (condition, chosen, _)) if condition == TRUE:
            return chosen
        case _:
            return None
