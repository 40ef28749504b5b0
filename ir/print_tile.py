"""A tile program as text; `read_tile.read_program` reads it back.

kernel attention over b, h, p by 128:
    axis p = |p| by 128
    load Q_tile[p, e] = Q[b, h, p, e]
    loop m1:
        carry G[p] = -inf
        segment 0 to |m| // 512 "full":
            contract S[p, m0] = Q_tile[p, e] * K_tile[m0, e] over e
            fold L[p] = max S[p, m0] over m0
            compute G_next[p] = max(G[p], L[p])
            next G_next
    store O[b, h, p, f] = O_out[p, f]
"""

from __future__ import annotations

import json
from collections.abc import Iterator

from attnc.ir.cascade import Tensor
from attnc.ir.expr import Expr
from attnc.ir.print_expr import print_access, print_expr, print_number
from attnc.ir.tile import (
    Compute,
    Contract,
    Fold,
    Grid,
    Kernel,
    Load,
    Loop,
    Program,
    Scan,
    Statement,
    Store,
)

INDENT = "    "


def print_program(program: Program) -> str:
    """The text of a program; what is read back is equal to it."""
    return "\n".join(_program(program)) + "\n"


def _program(program: Program) -> Iterator[str]:
    inputs = ", ".join(map(_tensor, program.inputs))
    outputs = ", ".join(map(_tensor, program.outputs))
    yield f"program {program.name}({inputs}) -> {outputs}:"
    for tensor in program.buffers:
        yield f"{INDENT}buffer {_tensor(tensor)}"
    for param in program.params:
        value = "none" if param.default is None else print_number(param.default)
        yield f"{INDENT}param {param.name}: {param.dtype} = {value}"
    for rank in program.ranks:
        yield f"{INDENT}rank {rank.name} = {print_expr(rank.extent)}"
    for own in program.reductions:
        body, identity = print_expr(own.body), print_expr(own.identity)
        yield f"{INDENT}reduction {own.name}({own.x}, {own.y}) = {body} identity {identity}"
    if program.warps is not None:
        yield f"{INDENT}warps {program.warps}"
    if program.stages is not None:
        yield f"{INDENT}stages {program.stages}"
    for step in program.history:
        yield f"{INDENT}history {json.dumps(step, ensure_ascii=False)}"
    for kernel in program.kernels:
        yield ""
        yield f"{INDENT}{print_head(kernel)}:"
        for axis in kernel.axes:
            size = "" if axis.size is None else f" by {axis.size}"
            yield f"{INDENT * 2}axis {axis.rank} = {print_expr(axis.extent)}{size}"
        for statement in kernel.body:
            yield from (INDENT * 2 + line for line in _statement(statement))


def _tensor(tensor: Tensor) -> str:
    batch, own = tensor.ranks[: tensor.batch], tensor.ranks[tensor.batch :]
    return f"{tensor.name}[{', '.join(batch)}; {', '.join(own)}]: {tensor.dtype}"


def print_head(node: Statement | Kernel) -> str:
    """A statement, or the first line of a loop or kernel, on one line."""
    match node:
        case Load(name, ranks, tensor, subscripts, where):
            return f"load {_tile(name, ranks)} = {_access(tensor, subscripts)}{_where(where)}"
        case Compute(name, ranks, body):
            return f"compute {_tile(name, ranks)} = {print_expr(body)}"
        case Contract(name, ranks, left, right, over):
            product = f"{print_expr(left)} * {print_expr(right)}"
            return f"contract {_tile(name, ranks)} = {product} over {over}"
        case Fold(name, ranks, op, source, over):
            folded = f"{op} {print_expr(source)} over {', '.join(over)}"
            return f"fold {_tile(name, ranks)} = {folded}"
        case Scan(name, ranks, op, source, over, along, reverse):
            way = " reverse" if reverse else ""
            scanned = f"{op} {print_expr(source)} over {over} along {along}{way}"
            return f"scan {_tile(name, ranks)} = {scanned}"
        case Store(tensor, subscripts, source, where):
            return f"store {_access(tensor, subscripts)} = {print_expr(source)}{_where(where)}"
        case Loop(rank):
            return f"loop {rank}"
        case Kernel(name, grid, lists=lists, at=at, shares=shares, walks=walks, warps=warps):
            words = (
                ("at", at), ("lists", lists), ("shares", shares), ("walks", walks),
                ("warps", warps),
            )  # fmt: skip
            made = "".join(f"; {word} {value}" for word, value in words if value)
            return f"kernel {name} over {', '.join(map(_grid, grid))}{made}"


def _statement(statement: Statement) -> Iterator[str]:
    if not isinstance(statement, Loop):
        yield print_head(statement)
        return
    yield f"{print_head(statement)}:"
    for state in statement.carried:
        yield f"{INDENT}carry {_tile(state.name, state.ranks)} = {print_expr(state.init)}"
    for segment in statement.segments:
        lo, hi = print_expr(segment.lo), print_expr(segment.hi)
        note = json.dumps(segment.note, ensure_ascii=False)
        when = "" if segment.when is None else f" when {print_expr(segment.when)}"
        listed = segment.listed
        if listed is not None:
            when = f" listed {_access(listed.positions, listed.at)}{when}"
        yield f"{INDENT}segment {lo} to {hi} {note}{when}:"
        for inner in segment.body:
            yield from (INDENT * 2 + line for line in _statement(inner))
        yield f"{INDENT * 2}next {', '.join(segment.after)}".rstrip()


def _grid(entry: Grid) -> str:
    return entry.rank if entry.tile == 1 else f"{entry.rank} by {entry.tile}"


def _tile(name: str, ranks: tuple[str, ...]) -> str:
    return f"{name}[{', '.join(ranks)}]"


def _access(tensor: str, subscripts: tuple[Expr, ...]) -> str:
    return print_access(tensor, subscripts, {})


def _where(where: Expr | None) -> str:
    return "" if where is None else f" where {print_expr(where)}"
