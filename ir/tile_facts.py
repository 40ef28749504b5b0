"""Statements of a tile program by themselves: what each reads, makes and counts as."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from attnc.ir.algebra import INTEGER_ROUNDING, MONOIDS, OPS
from attnc.ir.cascade import Tensor
from attnc.ir.expr import (
    Access,
    Cast,
    Const,
    Expr,
    Extent,
    Index,
    Map,
    Param,
    Populate,
    Reduce,
    Tile,
)
from attnc.ir.source import InvalidIR
from attnc.ir.tile import (
    Compute,
    Contract,
    Fold,
    Load,
    Loop,
    Scan,
    Statement,
    Store,
)
from attnc.ir.walk import free_ranks, subterms

KINDS = ("bool", "int", "real")
"""What a tile holds; of two that meet, the later one comes out."""


@dataclass(frozen=True, slots=True)
class Made:
    """A tile as its definition made it: the axes in order, and what it holds."""

    ranks: tuple[str, ...]
    kind: str


def tiles(*exprs: Expr | None) -> Iterator[Tile]:
    """The tiles that some expressions read, each as often as it is read."""
    for expr in exprs:
        yield from (term for term in subterms(expr) if isinstance(term, Tile))


def terms(statement: Statement) -> Iterator[Expr | None]:
    """The expressions of a statement, without those of the bodies of a loop."""
    match statement:
        case Load(_, _, _, subscripts, where):
            yield from (*subscripts, where)
        case Compute(_, _, body):
            yield body
        case Contract(_, _, left, right):
            yield from (left, right)
        case Fold(_, _, _, source) | Scan(_, _, _, source):
            yield source
        case Store(_, subscripts, source, where):
            yield from (source, *subscripts, where)
        case Loop(_, carried, segments):
            yield from (state.init for state in carried)
            for segment in segments:
                yield from segment.scalars


def reads(statement: Statement) -> Iterator[Tile]:
    """The tiles that a statement reads, those of the loops inside it too.

    The values that a loop carries on are read without naming their axes: `carries` gives them.
    """
    for inner in every((statement,)):
        yield from tiles(*terms(inner))


def ranks_of(statement: Statement) -> frozenset[str]:
    """The ranks whose positions a statement asks for, or along which its tiles run."""
    own = (free_ranks(term) for inner in every((statement,)) for term in terms(inner))
    return frozenset().union(*own)


def every(statements: tuple[Statement, ...]) -> Iterator[Statement]:
    """The statements, those of the bodies of loops too."""
    for statement in statements:
        yield statement
        if isinstance(statement, Loop):
            for segment in statement.segments:
                yield from every(segment.body)


def names_made(statements: tuple[Statement, ...]) -> set[str]:
    """The names of all tiles that statements define, those of the bodies of loops too."""
    return {name for statement in every(statements) for name in defines(statement)}


def unused(taken: set[str], wish: str) -> str:
    """A name that is not taken, and is from now on."""
    name, number = wish, 1
    while name in taken:
        number += 1
        name = f"{wish}_{number}"
    taken.add(name)
    return name


def lists_read(statements: tuple[Statement, ...]) -> Iterator[str]:
    """The buffers of the lists by which loops run."""
    for statement in statements:
        for segment in statement.segments if isinstance(statement, Loop) else ():
            if segment.listed is not None:
                yield segment.listed.positions
            yield from lists_read(segment.body)


def names_read(statement: Statement) -> Iterator[str]:
    """The names of the tiles that a statement reads, carried-on ones too."""
    yield from (tile.name for tile in reads(statement))
    if isinstance(statement, Loop):
        yield from carries(statement)


def carries(loop: Loop) -> Iterator[str]:
    """The tiles that a loop, or one inside it, carries on to its next iteration."""
    for segment in loop.segments:
        yield from segment.after
        for inner in segment.body:
            if isinstance(inner, Loop):
                yield from carries(inner)


def defines(statement: Statement) -> tuple[str, ...]:
    """The tiles that a statement defines for those behind it."""
    match statement:
        case Load(name) | Compute(name) | Contract(name) | Fold(name) | Scan(name):
            return (name,)
        case Loop(_, carried, _):
            return tuple(state.name for state in carried)
        case Store():
            return ()


def tiles_made(statement: Statement) -> Iterator[tuple[str, tuple[str, ...]]]:
    """The names of the tiles that a statement makes, and their ranks; of a loop its states."""
    match statement:
        case Store():
            pass
        case Loop(_, carried):
            yield from ((state.name, state.ranks) for state in carried)
        case _:
            yield statement.name, statement.ranks


def join(*kinds: str) -> str:
    """What comes out where several kinds meet in arithmetic."""
    return max(kinds, key=KINDS.index, default="real")


def kind_of_tensor(tensor: Tensor) -> str:
    return tensor.dtype if tensor.dtype in ("int", "bool") else "real"


def natural_number(expr: Expr) -> bool:
    """Whether an expression is a written integer of at least 0."""
    return isinstance(expr, Const) and isinstance(expr.value, int) and expr.value >= 0


def kind_of(expr: Expr, made: Mapping[str, Made]) -> str:
    """What an expression holds at a point: "bool", "int" or "real"."""
    match expr:
        case Const(value):
            return {bool: "bool", int: "int"}.get(type(value), "real")
        case Index() | Extent():
            return "int"
        case Tile(name):
            if name not in made:
                raise InvalidIR(f"tile {name} is read before it is made")
            return made[name].kind
        case Cast(dtype):
            return dtype if dtype in ("int", "bool") else "real"
        case Map("select", (_, chosen, other)):
            return join(kind_of(chosen, made), kind_of(other, made))
        case Map(op, args) if OPS[op].result == "bool":
            return "bool"
        case Map(op, args) if OPS[op].result == "int":
            return "int"
        case Map(op, args) if OPS[op].result == "number":
            return "real"
        case Map(op, (Map("/", args),)) if op in INTEGER_ROUNDING:
            return "real" if "real" in (kind_of(arg, made) for arg in args) else "int"
        case Map("**" | "pow", (_, exponent)) if not natural_number(exponent):
            return "real"  # The exponent may be negative.
        case Map(op, args):
            return join("int", *(kind_of(arg, made) for arg in args))
        case Access() | Reduce() | Populate() | Param():
            raise InvalidIR(f"{type(expr).__name__} has no place in a tile program")


def kind_of_fold(op: str, kind: str) -> str:
    """What a fold gives: truth for `any` and `all`, else what it folds, counted if it is truth."""
    if op in ("any", "all"):
        return "bool"
    return "real" if op not in MONOIDS or op == "logsumexp" else join("int", kind)


def made_by(
    statement: Statement, made: Mapping[str, Made], tensors: Mapping[str, Tensor]
) -> dict[str, Made]:
    """The tiles that a statement makes in its own scope."""
    match statement:
        case Load(name, ranks, tensor):
            return {name: Made(ranks, kind_of_tensor(tensors[tensor]))}
        case Compute(name, ranks, body):
            return {name: Made(ranks, kind_of(body, made))}
        case Contract(name, ranks):
            return {name: Made(ranks, "real")}
        case Fold(name, ranks, op, source) | Scan(name, ranks, op, source):
            return {name: Made(ranks, kind_of_fold(op, made[source.name].kind))}
        case Store():
            return {}
        case Loop():
            return states_of(statement, made, tensors)


def states_of(
    loop: Loop, made: Mapping[str, Made], tensors: Mapping[str, Tensor]
) -> dict[str, Made]:
    """The carried values of a loop; each holds what its start and every step of it fit into."""
    kinds = {state.name: kind_of(state.init, made) for state in loop.carried}
    while True:
        states = {state.name: Made(state.ranks, kinds[state.name]) for state in loop.carried}
        wider = dict(kinds)
        for segment in loop.segments:
            inside = {**made, **states}
            for statement in segment.body:
                inside.update(made_by(statement, inside, tensors))
            for state, after in zip(loop.carried, segment.after):
                wider[state.name] = join(wider[state.name], inside[after].kind)
        if wider == kinds:
            return states
        kinds = wider


def operations(op: str, count: int) -> int:
    """How many operations one application to `count` operands counts as."""
    if not OPS[op].counts:
        return 0
    return count - 1 if op in ("max", "min") else 1
