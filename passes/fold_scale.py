"""Exponentials in base 2, and a positive scale taken through maxima into them.

    S = S_dot * c                       raw = max[m0](S_dot);  G_tile = raw * c
    G_tile = max[m0](S)                 k = c * log2(e);       H = G * log2(e)
    N = exp(S - G)                      N = exp2(S_dot * k - H)

max(c x) = c max(x) for c > 0, and exp(x) = exp2(x log2 e). On a GPU, which has exp2 alone in
hardware, a score then costs one multiply-add and one exp2 (FlashAttention-2, Dao 2023).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace

from attnc.ir.expr import Const, Expr, Extent, Map, Tile
from attnc.ir.tile import (
    Compute,
    Contract,
    Fold,
    Kernel,
    Load,
    Loop,
    Program,
    Scan,
    Segment,
    Statement,
    Store,
)
from attnc.ir.tile_facts import names_made, names_read, unused
from attnc.ir.walk import rewrite, subterms
from attnc.passes.signs import positive

LOG2E = Const(math.log2(math.e))


def fold_scale(program: Program) -> Program:
    """Apply both laws in every kernel."""
    kernels = tuple(_Folder(kernel).folded() for kernel in program.kernels)
    return replace(program, kernels=kernels)


@dataclass
class _Folder:
    """One kernel: scaled tiles by name, and scalars computed once at its top."""

    kernel: Kernel
    scaled: dict[str, tuple[Tile, Expr]] = field(default_factory=dict)
    scalars: dict[Expr, Tile] = field(default_factory=dict)
    names: set[str] = field(default_factory=set)

    def folded(self) -> Kernel:
        self.names = names_made(self.kernel.body)
        body = _live(self._statements(self.kernel.body))
        top = tuple(Compute(tile.name, (), expr) for expr, tile in self.scalars.items())
        used = {name for statement in body for name in names_read(statement)}
        return replace(self.kernel, body=(*(c for c in top if c.name in used), *body))

    def _statements(self, statements: tuple[Statement, ...]) -> tuple[Statement, ...]:
        out: list[Statement] = []
        masked: dict[str, tuple[Expr, Tile, Expr]] = {}
        logs: dict[Expr, Tile] = {}
        own: list[str] = []
        for statement in statements:
            match statement:
                case Compute(name, ranks, body):
                    self._note(name, ranks, body, masked)
                    out.extend(self._compute(statement, logs))
                case Fold(name, _, "max", source) if source.name in self.scaled:
                    tile, scale = self.scaled[source.name]
                    out.extend(self._fold(statement, self._seen(tile, source), scale))
                case Fold(name, _, "max", source) if source.name in masked:
                    test, tile, scale = masked[source.name]
                    raw = unused(self.names, f"{source.name}_raw")
                    inside = Map("select", (test, tile, Const(-math.inf)))
                    out.append(Compute(raw, source.ranks, inside))
                    self.scaled[source.name] = Tile(raw, source.ranks), scale
                    own.append(source.name)
                    out.extend(self._fold(statement, Tile(raw, source.ranks), scale))
                case Loop():
                    out.append(replace(statement, segments=self._segments(statement.segments)))
                case Load() | Contract() | Fold() | Scan() | Store():
                    out.append(statement)
        for name in own:
            del self.scaled[name]  # The next body makes another of this name.
        return tuple(out)

    def _segments(self, segments: tuple[Segment, ...]) -> tuple[Segment, ...]:
        """Segments name alike what holds the same values, but each makes it in its own way."""
        out: list[Segment] = []
        names, outer = set(self.names), self.scaled
        for segment in segments:
            scalars = {tile.name for tile in self.scalars.values()}
            self.names, self.scaled = names | scalars, dict(outer)
            out.append(replace(segment, body=self._statements(segment.body)))
        self.scaled = outer
        return tuple(out)

    def _note(
        self,
        name: str,
        ranks: tuple[str, ...],
        body: Expr,
        masked: dict[str, tuple[Expr, Tile, Expr]],
    ) -> None:
        """Remember what is a tile times a positive scalar, bare or under a mask."""
        match body:
            case Map("select", (test, Tile(inner) as tile, Const(value))) if (
                inner in self.scaled and value == -math.inf
            ):
                source, scale = self.scaled[inner]
                masked[name] = (test, self._seen(source, tile), scale)
            case _:
                split = _scale(body)
                if split is not None and split[0].ranks == ranks and len(ranks) > 1:
                    self.scaled[name] = split

    def _seen(self, source: Tile, reader: Tile) -> Tile:
        return Tile(source.name, reader.ranks)

    def _fold(self, fold: Fold, source: Tile, scale: Expr) -> tuple[Statement, ...]:
        raw = unused(self.names, f"{fold.name}_raw")
        factor = self._scalar(scale)
        return (
            replace(fold, name=raw, source=source),
            Compute(fold.name, fold.ranks, Map("*", (Tile(raw, fold.ranks), factor)), fold.span),
        )

    def _compute(self, statement: Compute, logs: dict[Expr, Tile]) -> list[Statement]:
        before: list[Statement] = []

        def rule(term: Expr) -> Expr | None:
            match term:
                case Map("exp", (body,)):
                    wide = len(statement.ranks) > 1
                    power = (
                        self._base2(body, statement.ranks, before, logs)
                        if wide
                        else (Map("*", (body, LOG2E)))
                    )
                    return Map("exp2", (power,), term.span)
                case _:
                    return None

        body = rewrite(statement.body, rule)
        return [*before, replace(statement, body=body)]

    def _base2(
        self,
        expr: Expr,
        ranks: tuple[str, ...],
        before: list[Statement],
        logs: dict[Expr, Tile],
    ) -> Expr:
        """An expression times log2(e), the factor taken as deep as it costs nothing."""
        match expr:
            case Map("+" | "-" as op, (left, right)):
                return Map(
                    op,
                    (
                        self._base2(left, ranks, before, logs),
                        self._base2(right, ranks, before, logs),
                    ),
                )
            case Map("neg", (body,)):
                return Map("neg", (self._base2(body, ranks, before, logs),))
            case Const(value):
                return Const(value * float(LOG2E.value))
            case Tile(name, own) if name in self.scaled:
                tile, scale = self.scaled[name]
                factor = self._scalar(Map("*", (scale, LOG2E)))
                return Map("*", (Tile(tile.name, own), factor))
            case Tile(_, own) if len(own) < len(ranks):
                return self._narrow(expr, own, before, logs)
            case Map("select") if (own := _ranks(expr)) and len(own) < len(ranks):
                return self._narrow(expr, own, before, logs)
            case _:
                return Map("*", (expr, LOG2E))

    def _narrow(
        self,
        expr: Expr,
        own: tuple[str, ...],
        before: list[Statement],
        logs: dict[Expr, Tile],
    ) -> Tile:
        """Something of fewer ranks times log2(e), computed by itself."""
        if expr not in logs:
            name = expr.name if isinstance(expr, Tile) else "shift"
            logs[expr] = Tile(unused(self.names, f"{name}_log2"), own)
            before.append(Compute(logs[expr].name, own, Map("*", (expr, LOG2E))))
        return logs[expr]

    def _scalar(self, expr: Expr) -> Tile:
        if expr not in self.scalars:
            self.scalars[expr] = Tile(unused(self.names, "scale"), ())
        return self.scalars[expr]


def _scale(body: Expr) -> tuple[Tile, Expr] | None:
    """A body that is one tile times a positive constant of the call."""
    match body:
        case Map("*", (Tile() as tile, factor)) | Map("*", (factor, Tile() as tile)):
            return (tile, factor) if _constant(factor) else None
        case Map("/", (Tile() as tile, divisor)):
            return (tile, Map("/", (Const(1.0), divisor))) if _constant(divisor) else None
        case Map("*" | "/" as op, (inner, factor)) if _constant(factor):
            deeper = _scale(inner)
            return None if deeper is None else (deeper[0], Map(op, (deeper[1], factor)))
        case _:
            return None


def _constant(expr: Expr) -> bool:
    return positive(expr) and all(isinstance(t, Const | Extent | Map) for t in subterms(expr))


def _ranks(expr: Expr) -> tuple[str, ...]:
    return tuple(dict.fromkeys(r for t in subterms(expr) if isinstance(t, Tile) for r in t.ranks))


def _live(statements: tuple[Statement, ...]) -> tuple[Statement, ...]:
    """The statements whose values are read."""
    while True:
        used = {name for statement in statements for name in names_read(statement)}
        kept = _without(statements, used)
        if kept == statements:
            return statements
        statements = kept


def _without(statements: tuple[Statement, ...], used: set[str]) -> tuple[Statement, ...]:
    out: list[Statement] = []
    for statement in statements:
        match statement:
            case Loop():
                segments = tuple(
                    replace(s, body=_without(s.body, used)) for s in statement.segments
                )
                out.append(replace(statement, segments=segments))
            case Store():
                out.append(statement)
            case Load(name) | Compute(name) | Contract(name) | Fold(name) | Scan(name):
                if name in used:
                    out.append(statement)
    return tuple(out)
