"""What the statements of a kernel are to one another: who reads a tile, and when for the last time.

Facts only; the printer of kernels (`triton_kernel`) asks for them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace

from attnc.backends.triton_expr import Scope, Value, is_integer
from attnc.ir.algebra import OPS
from attnc.ir.cascade import Tensor
from attnc.ir.expr import Expr, Map, Tile
from attnc.ir.tile import (
    Carried,
    Compute,
    Contract,
    Fold,
    Load,
    Loop,
    Scan,
    Segment,
    Statement,
    Store,
)
from attnc.ir.walk import children, subterms


@dataclass(frozen=True, slots=True)
class Accumulate:
    """`name = start + sum[over](left * right)`: a product and the addition that alone uses it."""

    name: str
    ranks: tuple[str, ...]
    start: Expr
    product: Contract


Action = Statement | Accumulate


def on_tensor_cores(contract: Contract) -> bool:
    """Whether a product is one of two matrices, rather than with a vector or of many matrices."""
    left, right = contract.left.ranks, contract.right.ranks
    return len(left) >= 2 and len(right) >= 2 and set(left) & set(right) == {contract.over}


def fused(body: tuple[Statement, ...], after: tuple[str, ...]) -> Iterator[Action]:
    """The statements with each product put into the one addition that reads it."""
    uses = tile_uses(body)
    products = {
        statement.name: statement
        for statement in body
        if isinstance(statement, Contract)
        and len(uses.get(statement.name, ())) == 1
        and statement.name not in after
        and on_tensor_cores(statement)
        and len(statement.ranks) == 2
    }
    sums: dict[str, Accumulate] = {}
    for statement in body:
        if isinstance(statement, Compute):
            match statement.body:
                case Map("+", (start, Tile(name, ranks))) | Map("+", (Tile(name, ranks), start)):
                    product = products.get(name)
                    same = set(ranks) == set(statement.ranks)
                    if product is not None and same and ranks == product.ranks:
                        made = Accumulate(statement.name, statement.ranks, start, product)
                        sums[statement.name] = made
                case _:
                    pass
    inside = {action.product.name for action in sums.values()}
    for statement in body:
        if isinstance(statement, Compute) and statement.name in sums:
            yield sums[statement.name]
        elif not (isinstance(statement, Contract) and statement.name in inside):
            yield statement


def reads(action: Action) -> Iterator[str]:
    """The tiles that a statement reads, those of the loops inside it too."""
    match action:
        case Load(_, _, _, subscripts, where):
            yield from tiles_in(*subscripts, where)
        case Compute(_, _, body):
            yield from tiles_in(body)
        case Contract(_, _, left, right):
            yield from (left.name, right.name)
        case Accumulate(_, _, start, contract):
            yield from (*tiles_in(start), contract.left.name, contract.right.name)
        case Fold(_, _, _, source) | Scan(_, _, _, source):
            yield source.name
        case Store(_, subscripts, source, where):
            yield from (source.name, *tiles_in(*subscripts, where))
        case Loop(_, carried, segments):
            for state in carried:
                yield from tiles_in(state.init)
            for segment in segments:
                yield from tiles_in(*segment.scalars)
                yield from segment.after
                for statement in segment.body:
                    yield from reads(statement)


def tiles_in(*exprs: Expr | None) -> Iterator[str]:
    for expr in exprs:
        yield from (term.name for term in subterms(expr) if isinstance(term, Tile))


def tile_uses(body: tuple[Statement, ...]) -> dict[str, list[str]]:
    """For each tile the kinds of its readers, one entry a reading: "product" or "value"."""
    found: dict[str, list[str]] = {}
    for statement in body:
        match statement:
            case Contract(_, _, left, right):
                for side in (left, right):
                    found.setdefault(side.name, []).append("product")
            case Loop(_, carried, segments):
                for name in tiles_in(*(state.init for state in carried)):
                    found.setdefault(name, []).append("value")
                for segment in segments:
                    for name in (*tiles_in(*segment.scalars), *segment.after):
                        found.setdefault(name, []).append("value")
                    for name, kinds in tile_uses(segment.body).items():
                        found.setdefault(name, []).extend(kinds)
            case _:
                for name in reads(statement):
                    found.setdefault(name, []).append("value")
    return found


def predicates_in(statement: Statement) -> Iterator[Expr]:
    """The conditions that a statement tests, the largest first found."""
    match statement:
        case Load(where=where) | Store(where=where):
            if where is not None:
                yield where
        case Compute(body=body):
            for term in subterms(body):
                if isinstance(term, Map) and term.op == "select":
                    yield term.args[0]
        case _:
            return


def repeated(exprs: Iterable[Expr]) -> list[Expr]:
    """The parts of more than one operation that stand in several places."""
    uses = Counter(exprs)
    for term in {part for expr in uses for part in subterms(expr)}:
        uses.update(children(term))
    return [
        term
        for term, count in uses.items()
        if count > 1 and isinstance(term, Map) and any(isinstance(a, Map) for a in term.args)
    ]


def is_last_use(
    carried: Carried, after: str, loop: Loop, segment: Segment, actions: tuple[Action, ...]
) -> bool:
    """Whether the new value may take the old one's name: nothing reads the old one any more."""
    if segment.after.count(after) > 1 or any(state.name == after for state in loop.carried):
        return False
    if carried.name in segment.after:
        return False
    made = [n for n, action in enumerate(actions) if getattr(action, "name", "") == after]
    return len(made) == 1 and not any(
        carried.name in reads(action) for action in actions[made[0] + 1 :]
    )


def carried_kinds(loop: Loop, scope: Scope, tensors: Mapping[str, Tensor]) -> list[str]:
    """The kind of each carried value: an integer where every new value is one by its form."""
    kinds = dict.fromkeys((state.name for state in loop.carried), "int")
    while True:
        before = dict(kinds)
        for segment in loop.segments:
            trial = replace(scope, values=dict(scope.values))
            for state in loop.carried:
                trial.values[state.name] = Value("", state.ranks, kinds[state.name])
            for statement in segment.body:
                _assume(statement, trial, tensors)
            for state, after in zip(loop.carried, segment.after):
                kind = trial.values[after].kind if after in trial.values else "real"
                if kinds[state.name] == "int" and kind != "int":
                    kinds[state.name] = kind if kind == "bool" else "real"
        if kinds == before:
            return [kinds[state.name] for state in loop.carried]


def _assume(statement: Statement, scope: Scope, tensors: Mapping[str, Tensor]) -> None:
    """Note the kind of what a statement makes."""
    match statement:
        case Load(name, ranks, tensor):
            dtype = tensors[tensor].dtype
            kind = dtype if dtype in ("int", "bool") else "real"
        case Compute(name, ranks, body):
            kind = "int" if is_integer(body, scope) else "real"
            if isinstance(body, Map) and OPS[body.op].result == "bool":
                kind = "bool"
        case Fold(name, ranks, op, source):
            kind = "bool" if op in ("any", "all") else scope.values[source.name].kind
        case Scan(name, ranks, _, source):
            kind = scope.values[source.name].kind
        case Contract(name, ranks):
            kind = "real"
        case Store():
            return
        case Loop(_, carried):
            for state, kind in zip(carried, carried_kinds(statement, scope, tensors)):
                scope.values[state.name] = Value("", state.ranks, kind)
            return
    scope.values[name] = Value("", ranks, kind)
