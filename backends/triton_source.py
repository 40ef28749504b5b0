"""Prints a tile program as a Python module that needs nothing but PyTorch and Triton.

The module holds a function for every kernel and one launcher, named after the cascade and with its
signature. Extents of ranks that lie whole within a tile are compile-time constants of a kernel, and
with them the strides of what the launcher allocates between kernels; all other extents, and every
other stride, are ordinary arguments, so a new length compiles nothing.
"""

from __future__ import annotations

import keyword
from collections.abc import Collection, Mapping

from attnc.backends.triton_exact import exact
from attnc.backends.triton_expr import (
    Namer,
    Scope,
    Text,
    Value,
    local,
    render,
)
from attnc.backends.triton_flow import fused, on_tensor_cores, tile_uses
from attnc.backends.triton_helpers import HELPERS, helper_text
from attnc.backends.triton_host import ATOM, host
from attnc.backends.triton_kernel import Width, Writer
from attnc.backends.triton_launcher import (
    Argument,
    Printed,
    float_inputs,
    launchers,
    parameter,
    signature,
)
from attnc.backends.triton_lists import DEAL, KEPT, SIFT
from attnc.ir.cascade import Reduction, base
from attnc.ir.expr import Const, Expr, Extent, Index, Map, Param, Tile
from attnc.ir.source import InvalidIR
from attnc.ir.tile import (
    Axis,
    Compute,
    Contract,
    Fold,
    Kernel,
    Load,
    Loop,
    Program,
    Statement,
    Store,
    shares_of,
)
from attnc.ir.walk import rewrite, subterms

RESERVED = frozenset(keyword.kwlist) | frozenset(HELPERS) | {
    "tl", "torch", "triton", "math", "namedtuple", "range", "float", "int", "bool", "max", "min",
    "abs", "round", "REAL", "PRECISION", "CallError", "instance", "out", "sizes", "print", "len",
}  # fmt: skip
"""Names that no tile may take."""


def emit(program: Program, header: str) -> str:
    """The text of a self-contained module that runs a tile program on a GPU.

    `header` (the cascade and how it was derived) becomes the module's docstring. The launcher
    takes the cascade's inputs in order, or by name, and `out=` for results to be written in
    place; it checks types, shapes and devices and raises the module's `CallError`.
    """
    return emit_all((program,), header)


def emit_all(programs: tuple[Program, ...], header: str) -> str:
    """The text of one module with the launchers of several programs, the names of which differ."""
    printed = [
        [print_kernel(program, kernel) for kernel in program.kernels] for program in programs
    ]
    kernels = [kernel for found in printed for kernel in found]
    helpers = list(dict.fromkeys(name for kernel in kernels for name in kernel.helpers))
    listed = any(kernel.lists for kernel in kernels)
    dealt = any(kernel.shares for kernel in kernels)
    several = any(len(program.outputs) > 1 for program in programs)
    parts = [
        _docstring(header),
        "from collections import namedtuple\n" * several
        + "import math\n"
        + "import weakref\n" * (listed or dealt)
        + "\nimport torch\nimport triton\nimport triton.language as tl",
        *([_PRECISION] if any(kernel.precision for kernel in kernels) else []),
        *helper_text(helpers),
        *_reductions(programs, {name for kernel in kernels for name in kernel.reductions}),
        *(kernel.text for kernel in kernels),
        *([SIFT] if listed else []),
        *([DEAL] if dealt else []),
        *([KEPT] if listed or dealt else []),
        launchers(list(zip(programs, printed))),
    ]
    return "\n\n\n".join(parts) + "\n"


def _reductions(programs: tuple[Program, ...], used: set[str]) -> list[str]:
    """The users' own reductions that kernels apply, each once."""
    texts: dict[str, str] = {}
    for found in (found for program in programs for found in program.reductions):
        text = _reduction(found)
        if texts.setdefault(found.name, text) != text:
            raise InvalidIR(f"two reductions {found.name} in one module")
    return [text for name, text in texts.items() if name in used]


_PRECISION = '''
def _precision(*inputs):
    """How matrices that were computed in float32 are multiplied: as three products of tensor
    cores, which keep about 22 bits of each operand ("tf32x3") or, for inputs of at most 16 bits,
    16 in half of the registers ("bf16x3", which Triton's interpreter lacks). "ieee" keeps all 24
    but leaves the tensor cores idle. Narrower types are multiplied exactly in any case.
    """
    narrow = [x.element_size() <= 2 and x.device.type != "cpu" for x in inputs]
    return "bf16x3" if narrow and all(narrow) else "tf32x3"
'''.strip()


def _docstring(header: str) -> str:
    body = header.strip("\n").replace("\\", "\\\\").replace('"""', '\\"\\"\\"')
    return f'"""{body}\n"""'


def _reduction(reduction: Reduction) -> str:
    """A user's own reduction as the function that `tl.reduce` applies."""
    scope = Scope(Namer(set(RESERVED)), {}, {}, frozenset(), frozenset())
    for name in (reduction.x, reduction.y):
        scope.values[name] = Value(name, (), "real")

    def named(term: Expr) -> Expr | None:
        return Tile(term.name, ()) if isinstance(term, Param) else None

    body = render(rewrite(reduction.body, named), (), scope).code
    return f"@triton.jit\ndef {reduction.name}({reduction.x}, {reduction.y}):\n    return {body}"


def print_kernel(program: Program, kernel: Kernel) -> Printed:
    """One kernel as text, and its arguments."""
    tensors = {t.name: t for t in (*program.inputs, *program.outputs, *program.buffers)}
    taken = set(RESERVED) | {f"{name}_ptr" for name in tensors}
    taken |= {kernel.name for kernel in program.kernels} | {program.name}
    taken |= {reduction.name for reduction in program.reductions}
    namer = Namer(taken)
    whole = dict.fromkeys(
        axis.extent.rank
        for axis in kernel.axes
        if axis.size is None and isinstance(axis.extent, Extent)
    )
    fixed = frozenset((*(g.rank for g in kernel.grid if g.tile == 1), *filter(None, [kernel.at])))
    scope = Scope(namer, {}, {}, fixed, frozenset(whole))
    scope.reductions.update((reduction.name, reduction) for reduction in program.reductions)
    for rank in (*whole, *(grid.rank for grid in kernel.grid)):
        scope.extent(rank)
    known = _known_strides(program, scope)
    scope.strides.update(known)
    dotted = _dotted(kernel.body)
    prologue = _instance(kernel, scope)
    widths: dict[str, Width] = {}
    blocks: dict[Expr, tuple[str, str, str]] = {}
    for axis in kernel.axes:
        if axis.rank in scope.firsts:
            continue
        widths[axis.rank] = _width(axis, axis.rank in dotted, scope, blocks)
    for grid in kernel.grid:
        if grid.tile > 1:
            widths[grid.rank] = _grid_width(grid.rank, grid.tile, grid.rank in dotted, scope)
    inputs = {tensor.name: tensor for tensor in program.inputs}
    found = exact(kernel, inputs)
    writer = Writer(scope, tensors, frozenset(inputs), widths, tile_uses(kernel.body), found)
    writer.block(tuple(fused(kernel.body, ())))
    prologue += [*_axes(widths, writer), *_bases(writer.bases)]
    lines = [*prologue, "", *(line.removeprefix("    ") for line in writer.lines)]
    if kernel.walks:
        lines = _walk(kernel, writer, lines)
    arguments = _arguments(writer, blocks, float_inputs(program), known)
    name = f"{kernel.name}_kernel"
    text = "\n".join(
        [
            "@triton.jit",
            f"def {name}(",
            *(f"    {line}" for line in signature(arguments)),
            "):",
            *(f"    {line}" if line else "" for line in lines),
        ]
    )
    counts = (_count(g.rank, g.tile, scope) for g in kernel.grid[: 1 if kernel.walks else None])
    return Printed(
        name, text, arguments, tuple(counts), tuple(scope.helpers), tuple(scope.reduced),
        tuple(writer.matched), writer.precision, "" if scope.helpers else _state(kernel),
        kernel.lists, kernel.shares,
        tuple(sorted({s.tensor for s in kernel.body if isinstance(s, Load)})), kernel.warps,
    )  # fmt: skip


def _state(kernel: Kernel) -> str:
    """The extent of the columns of the one matrix that a kernel of two products carries.

    "" for a kernel that does more: it needs all the registers that it can get.
    """
    loops = [statement for statement in kernel.body if isinstance(statement, Loop)]
    if len(loops) != 1 or max((axis.size or 0 for axis in kernel.axes), default=0) > 128:
        return ""
    matrices = [carried.ranks[1] for carried in loops[0].carried if len(carried.ranks) == 2]
    extents = {axis.rank: axis.extent for axis in kernel.axes}
    rows = {grid.rank for grid in kernel.grid if grid.tile > 1}
    plain = all(_is_plain(segment.body, rows) for segment in loops[0].segments)
    if len(matrices) != 1 or matrices[0] not in extents or not plain:
        return ""
    return host(extents[matrices[0]], size_of)


def _is_plain(body: tuple[Statement, ...], rows: set[str]) -> bool:
    """Whether a loop has two products by rows of what it loads, and little between them."""
    products = [s for s in body if isinstance(s, Contract)]
    by_rows = all(product.ranks[0] in rows for product in products)
    loads = [s for s in body if isinstance(s, Load)]
    between = [s for s in body if isinstance(s, Compute | Fold) and len(_source(s)) > 1]
    others = [s for s in body if isinstance(s, Store | Loop)]
    return by_rows and len(products) == len(loads) == 2 and len(between) <= 6 and not others


def _source(statement: Compute | Fold) -> tuple[str, ...]:
    return statement.source.ranks if isinstance(statement, Fold) else statement.ranks


def _dotted(body: tuple[Statement, ...]) -> set[str]:
    """Ranks of tiles that the tensor cores multiply: at least 16 wide there."""
    found: set[str] = set()
    for statement in body:
        match statement:
            case Contract(_, _, left, right) if on_tensor_cores(statement):
                found |= {*left.ranks, *right.ranks}
            case Loop(_, _, segments):
                for segment in segments:
                    found |= _dotted(segment.body)
            case _:
                pass
    return found


def _growing(body: tuple[Statement, ...]) -> set[str]:
    """Ranks of the grid whose last position bounds a loop."""
    return {
        term.args[0].rank
        for loop in body
        if isinstance(loop, Loop)
        for segment in loop.segments
        for term in subterms(segment.hi)
        if isinstance(term, Map) and term.op == "last" and isinstance(term.args[0], Index)
    }


def _padded(size: int, dotted: bool) -> int:
    return max(16 if dotted else 1, 1 << max(size - 1, 0).bit_length())


def _width(
    axis: Axis, dotted: bool, scope: Scope, blocks: dict[Expr, tuple[str, str, str]]
) -> Width:
    """The width of an axis that is no rank of the grid."""
    position = scope.namer.name(axis.rank)
    scope.positions[axis.rank] = Text(position, ATOM, (axis.rank,), "int")
    size = axis.extent.value if isinstance(axis.extent, Const) else axis.size
    if size is not None:
        block = _padded(int(size), dotted)
        return Width(str(block), "" if block == size else f"{position} < {size}")
    if axis.extent not in blocks:
        if isinstance(axis.extent, Extent):
            extent = scope.extent(axis.extent.rank)
        else:
            extent = scope.namer.name(f"{axis.rank}_width")
        least = f"max({16 if dotted else 1}, {_POWER})"
        name = scope.namer.name(f"BLOCK_{axis.rank.upper()}")
        blocks[axis.extent] = (name, extent, least)
    name, extent, least = blocks[axis.extent]
    if dotted:
        blocks[axis.extent] = (name, extent, f"max(16, {_POWER})")
    return Width(name, f"({position} < {extent}) | ({extent} == {name})")


_POWER = "triton.next_power_of_2({0})"


def _grid_width(rank: str, tile: int, dotted: bool, scope: Scope) -> Width:
    """The width of a tile of the grid: the last one may reach past the end of its rank."""
    block = _padded(tile, dotted)
    position = scope.positions[rank].code
    guard = f"{position} < {scope.extent(rank)}"
    if block != tile:
        guard = f"({guard}) & ({scope.positions[local(rank)].code} < {tile})"
    return Width(str(block), guard)


def _walk(kernel: Kernel, writer: Writer, lines: list[str]) -> list[str]:
    """The lines of one instance in a loop over those that a walker takes."""
    made, part, scope = shares_of(kernel.walks), Index(kernel.grid[0].rank), writer.scope
    writer.bases = {}
    first, last = (f"tl.load({writer.address(n, (part,), ())})" for n in (made.first, made.last))
    row = scope.positions[kernel.at].code
    place = scope.namer.name(f"{row}_place")
    return [
        f"{scope.positions[part.rank].code} = tl.program_id(0).to(tl.int64)",
        *_bases(writer.bases),
        f"for {place} in range({first}, {last}):",
        f"    {row} = tl.cast({place}, tl.int64)",
        *(f"    {line}" if line else "" for line in lines),
    ]


def _instance(kernel: Kernel, scope: Scope) -> list[str]:
    """Which positions are this instance's: tiled ranks vary fastest, then batch ranks.

    Instances that have a number go in its order.
    """
    order = [grid for grid in reversed(kernel.grid) if grid.tile > 1]
    order += [grid for grid in reversed(kernel.grid) if grid.tile == 1]
    growing = _growing(kernel.body)
    lines = ["instance = tl.program_id(0)"] if order else []
    if kernel.at:
        order, growing = list(reversed(kernel.grid)), set()
        number = scope.namer.name(kernel.at)
        scope.positions[kernel.at] = Text(number, ATOM, (), "int")
        lines = [f"{number} = tl.program_id(0).to(tl.int64)", f"instance = {number}"]
    if kernel.walks:
        part = order.pop().rank
        scope.positions[part] = Text(scope.namer.name(part), ATOM, (), "int")
        lines = [f"instance = {scope.positions[kernel.at].code}"] if order else []
    for place, grid in enumerate(order):
        name = scope.namer.name(grid.rank)
        extent = scope.extent(grid.rank)
        last = place == len(order) - 1
        if grid.tile == 1:
            here = "instance" if last else f"(instance % {extent})"
            lines.append(f"{name} = {here}.to(tl.int64)")
            scope.positions[grid.rank] = Text(name, ATOM, (), "int")
            count = extent
        else:
            first = scope.namer.name(f"{grid.rank}_first")
            count = f"tl.cdiv({extent}, {grid.tile})"
            if not last:
                count = scope.namer.name(f"{grid.rank}_tiles")
                lines.append(f"{count} = tl.cdiv({extent}, {grid.tile})")
            here = "instance" if last else f"instance % {count}"
            if grid.rank in growing:
                lines.append(f"# Later tiles of {grid.rank} have longer loops: they start first.")
                here = f"({count} - 1 - {here})"
            lines.append(f"{first} = {here} * {grid.tile}")
            within = scope.namer.name(f"{grid.rank}_local")
            scope.firsts[grid.rank] = (first, grid.tile)
            scope.positions[grid.rank] = Text(name, ATOM, (grid.rank,), "int")
            scope.positions[local(grid.rank)] = Text(within, ATOM, (grid.rank,), "int")
        if not last:
            lines.append(f"instance = instance // {count}")
    return lines


def _axes(widths: dict[str, Width], writer: Writer) -> list[str]:
    """The positions along each axis, and which of them exist."""
    scope = writer.scope
    lines = []
    for rank, width in widths.items():
        if rank in scope.firsts:
            within = scope.positions[local(rank)].code
            lines.append(f"{within} = tl.arange(0, {width.block})")
            lines.append(f"{scope.positions[rank].code} = {scope.firsts[rank][0]} + {within}")
        elif rank in scope.used or rank in writer.guarded:
            lines.append(f"{scope.positions[rank].code} = tl.arange(0, {width.block})")
    lines += [f"{scope.inside(rank)} = {widths[rank].guard}" for rank in writer.guarded]
    return lines


def _bases(bases: Mapping[str, str]) -> list[str]:
    lines = []
    for terms, name in bases.items():
        one = f"{name} = {terms}"
        if len(one) <= 94:
            lines.append(one)
            continue
        first, *rest = terms.split(" + ")
        lines += [f"{name} = (", f"    {first}", *(f"    + {term}" for term in rest), ")"]
    return lines


def _arguments(
    writer: Writer,
    blocks: dict[Expr, tuple[str, str, str]],
    floats: list[str],
    known: Collection[tuple[str, str]],
) -> tuple[Argument, ...]:
    """Pointers, strides but those that are `known`, extents, then compile-time constants."""
    scope = writer.scope
    found = [Argument(f"{name}_ptr", parameter(name), "pointer") for name in writer.touched]
    for name in writer.touched:
        ranks = writer.tensors[name].ranks
        own = [rank for rank in ranks if (name, rank) not in known]
        part = "" if own == [*ranks] else f"[:{len(own)}]"
        for rank in own:
            value = f"*{parameter(name)}.stride(){part}"
            found.append(Argument(scope.stride(name, rank), value, name))
    for rank, name in scope.extents.items():
        group = "constant" if rank in scope.whole else "extent"
        found.append(Argument(name, size_of(rank), group))
    for extent, (block, width, least) in blocks.items():
        value = host(extent, size_of)
        if not isinstance(extent, Extent):
            found.append(Argument(width, value, "constant"))
        found.append(Argument(block, least.format(value), "constant"))
    for expr, name in scope.constants.items():
        found.append(Argument(name, host(expr, size_of), "constant"))
    found.append(Argument("REAL", "real", "constant"))
    if writer.precision:
        found.append(Argument("PRECISION", f"_precision({', '.join(floats)})", "constant"))
    found.sort(key=lambda argument: argument.group == "constant")
    return tuple(found)


def _known_strides(program: Program, scope: Scope) -> dict[tuple[str, str], str]:
    """The strides of the inner axes of buffers, which the launcher allocates without gaps.

    They are known when a kernel is compiled as far as the extents are, and take no registers.
    """
    extents = {decl.name: decl.extent for decl in program.ranks}
    found: dict[tuple[str, str], str] = {}
    for tensor in program.buffers:
        number, factors = 1, list[str]()
        for rank in reversed(tensor.ranks):
            least = [str(number)] if number > 1 or not factors else []
            found[tensor.name, rank] = " * ".join((*factors, *least))
            extent = extents.get(base(rank), Extent(base(rank)))
            if isinstance(extent, Const):
                number *= int(extent.value)
            elif isinstance(extent, Extent) and extent.rank in scope.whole:
                factors.append(scope.extent(extent.rank))
            else:
                break
    return found


def size_of(rank: str) -> str:
    """How the launcher writes an extent."""
    return f'sizes["{rank}"]'


def _count(rank: str, tile: int, scope: Scope) -> str:
    return size_of(rank) if tile == 1 else f"triton.cdiv({size_of(rank)}, {tile})"
