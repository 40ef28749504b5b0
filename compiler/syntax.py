"""A file as it is written: the parser's output, before names, ranks and types are known.

    file      = File(source, items)
    item      = Import | Function | OwnReduction | CascadeText | ScheduleText
    line      = Statement | RankLine | ParamLine | DirectiveLine | Broken
    term      = Number | Constant | Size | Name | Group | Unary | Binary | Compared
              | Call | Bracket | Applied

Every node knows the characters `start` to `end` of the source that it was read from. No two nodes
are equal: what is compared is the cascade that comes of them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from attnc.ir.source import Source


@dataclass(frozen=True, slots=True, eq=False)
class Node:
    """Characters `start` to `end` of the source."""

    start: int
    end: int


@dataclass(frozen=True, slots=True, eq=False)
class Number(Node):
    text: str


@dataclass(frozen=True, slots=True, eq=False)
class Constant(Node):
    """`inf`, `true` or `false`."""

    text: str


@dataclass(frozen=True, slots=True, eq=False)
class Size(Node):
    """`|m|`"""

    rank: str


@dataclass(frozen=True, slots=True, eq=False)
class Name(Node):
    text: str


@dataclass(frozen=True, slots=True, eq=False)
class Group(Node):
    """`(body)`"""

    body: Term


@dataclass(frozen=True, slots=True, eq=False)
class Unary(Node):
    op: str
    body: Term


@dataclass(frozen=True, slots=True, eq=False)
class Binary(Node):
    op: str
    left: Term
    right: Term


@dataclass(frozen=True, slots=True, eq=False)
class Compared(Node):
    """`a < b`, or a chain of comparisons, which the language has not."""

    ops: tuple[str, ...]
    operands: tuple[Term, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Call(Node):
    """`exp(x)`"""

    name: Name
    args: tuple[Term, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Bracket(Node):
    """`T[p, m]`"""

    name: Name
    subscripts: tuple[Term, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Applied(Node):
    """`sum[m where m <= p](x)`, `softmax[m](x)`"""

    name: Name
    ranks: tuple[Term, ...]
    where: Term | None
    args: tuple[Term, ...]


Term = (
    Number | Constant | Size | Name | Group | Unary | Binary | Compared | Call | Bracket | Applied
)


@dataclass(frozen=True, slots=True, eq=False)
class Declaration(Node):
    """`doc[b; m]: int`; `before` is None where no semicolon stands."""

    name: Name
    before: tuple[Name, ...] | None
    ranks: tuple[Name, ...]
    kind: Name | None


@dataclass(frozen=True, slots=True, eq=False)
class Statement(Node):
    target: Name
    subscripts: tuple[Term, ...]
    kind: Name | None
    body: Term
    where: Term | None


@dataclass(frozen=True, slots=True, eq=False)
class RankLine(Node):
    name: Name
    extent: Term


@dataclass(frozen=True, slots=True, eq=False)
class ParamLine(Node):
    name: Name
    kind: Name
    default: Term | None


@dataclass(frozen=True, slots=True, eq=False)
class DirectiveLine(Node):
    verb: Name
    operands: tuple[Term, ...]
    by: Term | None
    on: Name | None
    level: Name | None


@dataclass(frozen=True, slots=True, eq=False)
class Broken(Node):
    """A line that could not be read; `target` is the tensor that it would have assigned."""

    target: str


@dataclass(frozen=True, slots=True, eq=False)
class Import(Node):
    path: str


@dataclass(frozen=True, slots=True, eq=False)
class Function(Node):
    """`def sigmoid2(x) = 1 / (1 + exp(-x))`"""

    name: Name
    params: tuple[Name, ...]
    body: Term


@dataclass(frozen=True, slots=True, eq=False)
class OwnReduction(Node):
    """`def lse2 reduce(x, y) = log2(exp2(x) + exp2(y)) identity -inf`"""

    name: Name
    params: tuple[Name, ...]
    body: Term
    identity: Term


@dataclass(frozen=True, slots=True, eq=False)
class CascadeText(Node):
    """A cascade, or a tensor function: its ranks in brackets, inputs, outputs, lines."""

    name: Name
    ranks: tuple[Name, ...]
    inputs: tuple[Declaration, ...]
    outputs: tuple[Declaration, ...]
    function: bool
    lines: tuple[Line, ...] = ()


@dataclass(frozen=True, slots=True, eq=False)
class ScheduleText(Node):
    name: Name
    lines: tuple[Line, ...] = ()


Line = Statement | RankLine | ParamLine | DirectiveLine | Broken
Item = Import | Function | OwnReduction | CascadeText | ScheduleText


@dataclass(frozen=True, slots=True, eq=False)
class File:
    """The items of a source in their order."""

    source: Source
    items: tuple[Item, ...]


def parts(term: Term) -> tuple[Term, ...]:
    """The terms directly inside one."""
    match term:
        case Number() | Constant() | Size() | Name():
            return ()
        case Group(_, _, body) | Unary(_, _, _, body):
            return (body,)
        case Binary(_, _, _, left, right):
            return (left, right)
        case Compared(_, _, _, operands):
            return operands
        case Call(_, _, _, args):
            return args
        case Bracket(_, _, _, subscripts):
            return subscripts
        case Applied(_, _, _, ranks, where, args):
            return (*ranks, *args) if where is None else (*ranks, where, *args)


def within(term: Term) -> Iterator[tuple[Term, int]]:
    """Every term inside one with its depth, itself first at depth 1, without recursion."""
    stack = [(term, 1)]
    while stack:
        found, depth = stack.pop()
        yield found, depth
        stack.extend((part, depth + 1) for part in reversed(parts(found)))
