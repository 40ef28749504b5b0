"""The statements of a kernel while it is written: a scope for it and one for each open loop."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from attnc.ir.expr import Expr, Tile
from attnc.ir.source import NOWHERE, Span
from attnc.ir.tile import Compute, Load, Statement
from attnc.ir.tile_facts import defines
from attnc.ir.walk import free_ranks

Known = frozenset[Expr]
"""Predicates that hold at every point of a scope."""

Value = tuple[Expr, int]
"""A tile expression and the depth of the scope in which it can be computed."""


@dataclass
class Scope:
    """The statements of the kernel or of one loop body, and the values that they define.

    `asked` collects the predicates that the body would test, `reduced` each reduction with the
    predicates that limit it.
    """

    loop: str | None
    known: Known
    states: dict[str, Tile] = field(default_factory=dict)
    statements: list[Statement] = field(default_factory=list)
    values: dict[object, Value] = field(default_factory=dict)
    asked: dict[Expr, None] = field(default_factory=dict)
    reduced: list[tuple[str, Known]] = field(default_factory=list)


OUTSIDE = -1
"""No depth: a name for anywhere."""


class Scopes:
    """The open scopes, outermost first, and the names given out."""

    def __init__(self) -> None:
        self.open = [Scope(None, frozenset())]
        self.names: set[str] = set()
        self.ever: set[str] = set()

    @property
    def depth(self) -> int:
        return len(self.open) - 1

    def fresh(self, wish: str, depth: int) -> str:
        """A name for a tile at some depth; bodies of one loop may use the same names again.

        At a depth that is not the one at hand, and so at `OUTSIDE`, a name is used only once.
        """
        taken = self.names if depth == self.depth else self.ever
        name, count = wish, 1
        while name in taken:
            count += 1
            name = f"{wish}_{count}"
        self.names.add(name)
        self.ever.add(name)
        return name

    def emit(self, statement: Statement, depth: int) -> None:
        self.open[depth].statements.append(statement)

    def named(
        self, wish: str, ranks: tuple[str, ...], value: Expr, depth: int, span: Span = NOWHERE
    ) -> Tile:
        """A value as a tile of the given ranks, computed unless it is one already."""
        if isinstance(value, Tile) and value.ranks == ranks:
            return value
        name = self.fresh(wish, depth)
        self.emit(Compute(name, ranks, value, span), depth)
        return Tile(name, ranks)

    def loaded(self, value: Expr) -> bool:
        """Whether a value is a tile as it came from memory."""
        statements = (statement for scope in self.open for statement in scope.statements)
        return isinstance(value, Tile) and any(
            isinstance(statement, Load) and statement.name == value.name for statement in statements
        )

    def find(self, key: object) -> Value | None:
        for scope in reversed(self.open):
            if key in scope.values:
                return scope.values[key]
        return None

    def keep(self, key: object, value: Expr, depth: int) -> Value:
        self.open[depth].values[key] = (value, depth)
        return value, depth

    def depth_of(self, loop: str) -> int | None:
        """The depth of the open loop over a rank."""
        return next((d for d, scope in enumerate(self.open) if scope.loop == loop), None)

    def knows(self, predicate: Expr, depth: int) -> bool:
        """Whether a predicate holds wherever a statement at some depth runs."""
        return any(predicate in scope.known for scope in self.open[: depth + 1])

    def ask(self, predicate: Expr) -> None:
        """Note that the body of a loop tests a predicate that varies with it."""
        for scope in self.open:
            if scope.loop is not None and scope.loop in free_ranks(predicate):
                scope.asked.setdefault(predicate)

    @contextmanager
    def back_at(self, depth: int) -> Iterator[None]:
        """Write where an outer scope stands: what is made there comes before the loops within."""
        inner = self.open[depth + 1 :]
        del self.open[depth + 1 :]
        yield
        self.open += inner

    def enter(self, scope: Scope) -> set[str]:
        """Open a scope; returns the names to go back to when it closes."""
        self.open.append(scope)
        return set(self.names)

    def leave(self, names: set[str]) -> Scope:
        """Close the innermost scope: its names are free again, those of outer ones are not."""
        scope = self.open.pop()
        outer = {n for s in self.open for st in s.statements for n in defines(st)}
        self.names = names | outer
        return scope
