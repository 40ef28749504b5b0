"""A cascade as the language writes it: what is printed parses to an equal cascade."""

from __future__ import annotations

from collections.abc import Iterator

from attnc.ir.cascade import Cascade, Directive, Einsum, Left, ParamDecl, RankDecl, Tensor
from attnc.ir.einstein import implicit
from attnc.ir.expr import Const, Index, Map
from attnc.ir.print_expr import Prefixes, print_access, print_expr, print_number

INDENT = "    "
WIDEST_LEFT = 32
"""A left side longer than this does not push the others' `=` to the right."""


def print_cascade(cascade: Cascade) -> str:
    """The text of a cascade, its own reductions above it and its schedule below.

    Batch ranks go unwritten except in a tensor that has no others.
    """
    return "\n".join((*_reductions(cascade), *_cascade(cascade), *_schedule(cascade))) + "\n"


def print_einsum(cascade: Cascade, einsum: Einsum) -> str:
    """The text of one Einsum as it stands in its cascade."""
    left, right = _statement(einsum, prefixes_of(cascade))
    return f"{left} = {right}"


def align(statements: list[tuple[str, str]]) -> list[str]:
    """Left and right sides joined, every `=` of the block below the other."""
    width = max((len(left) for left, _ in statements if len(left) <= WIDEST_LEFT), default=0)
    return [f"{left:<{width}} = {right}" for left, right in statements]


def _reductions(cascade: Cascade) -> Iterator[str]:
    for own in cascade.reductions:
        body, identity = print_expr(own.body), print_expr(own.identity)
        yield f"def {own.name} reduce({own.x}, {own.y}) = {body} identity {identity}"
        yield ""


def _cascade(cascade: Cascade) -> Iterator[str]:
    batch = f"[{', '.join(cascade.batch)}]" if cascade.batch else ""
    inputs = ", ".join(_declared(tensor, cascade.batch) for tensor in cascade.inputs)
    outputs = ", ".join(_declared(tensor, cascade.batch) for tensor in cascade.outputs)
    yield f"cascade {cascade.name}{batch}({inputs}) -> {outputs}:"
    for param in cascade.params:
        yield INDENT + _param(param)
    for rank in cascade.ranks:
        yield INDENT + _rank(rank)
    prefixes = prefixes_of(cascade)
    for line in align([_statement(einsum, prefixes) for einsum in cascade.einsums]):
        yield INDENT + line


def prefixes_of(cascade: Cascade) -> Prefixes:
    """The batch ranks of every tensor, which go unwritten."""
    prefixes: dict[str, tuple[str, ...]] = dict.fromkeys(
        (einsum.target for einsum in cascade.einsums), cascade.batch
    )
    return prefixes | {tensor.name: tensor.ranks[: tensor.batch] for tensor in cascade.inputs}


def _declared(tensor: Tensor, batch: tuple[str, ...]) -> str:
    before, own = tensor.ranks[: tensor.batch], ", ".join(tensor.ranks[tensor.batch :])
    if before != batch:
        own = f"{', '.join(before)}; {own}".strip()
    kind = f": {tensor.dtype}" if tensor.dtype != "float" else ""
    return f"{tensor.name}[{own}]{kind}"


def _param(param: ParamDecl) -> str:
    default = f" = {print_number(param.default)}" if param.default is not None else ""
    return f"param {param.name}: {param.dtype}{default}"


def _rank(rank: RankDecl) -> str:
    return f"rank {rank.name} = {print_expr(rank.extent)}"


def _statement(einsum: Einsum, prefixes: Prefixes) -> tuple[str, str]:
    kind = f": {einsum.dtype}" if einsum.dtype is not None else ""
    left = print_access(einsum.target, tuple(map(_left, einsum.left)), prefixes) + kind
    body, where = implicit(einsum) or (einsum.body, einsum.where)
    right = print_expr(body, prefixes)
    if where is not None:
        right += f" where {print_expr(where, prefixes)}"
    return left, right


def _left(left: Left) -> Const | Index | Map:
    match left.step:
        case "start":
            return Const(0)
        case "next":
            return Map("+", (Index(left.rank), Const(1)))
        case _:
            return Index(left.rank)


def _schedule(cascade: Cascade) -> Iterator[str]:
    if cascade.schedule:
        yield ""
        yield f"schedule {cascade.name}:"
        yield from (INDENT + _directive(directive) for directive in cascade.schedule)


def _directive(directive: Directive) -> str:
    value = "auto" if directive.value is None else print_expr(directive.value)
    ranks = ", ".join(directive.ranks)
    match directive.verb:
        case "tile" | "split" | "share":
            return f"{directive.verb} {ranks} by {value}"
        case "parallel" | "stream" | "overlap":
            return f"{directive.verb} {ranks}"
        case "bind" | "space":
            return f"{directive.verb} {ranks} on {directive.array}"
        case "hold":
            return f"{directive.verb} {ranks} in {directive.array}"
        case _:
            return f"{directive.verb} {value}"
