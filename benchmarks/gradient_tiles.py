"""What tiles do to the kernels of a gradient on an H100: registers, spills, shared memory.

    python benchmarks/gradient_tiles.py            prints the tables and writes gradient_tiles.md

Compiles the adjoint of softmax attention for sm_90 in float16 (no GPU is needed) once as the
compiler maps it and once for each pair of tiles that a schedule can give it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path

import attnc
from attnc.backends.launch import Compiled, compile_kernels
from attnc.driver import stages
from attnc.ir.cascade import Cascade, Directive
from attnc.ir.expr import Const
from attnc.ir.tile import Program

HERE = Path(__file__).resolve().parent
EXAMPLES = HERE.parent / "examples"
CASES = ("attention", "causal")
WIDTHS = (64, 128)
TILES = (32, 64, 128)
WARPS = (4, 8)

HEAD = """\
# Tiles of the backward kernels

The adjoint of two examples for sm_90 in float16, at heads of 64 and 128: the kernel that owns the
queries (dQ) and the one that owns the keys (dK, dV). A tile is that of the rank it owns by that of
the rank it streams. Registers are those of a thread, spills its bytes of local memory, shared the
bytes of an instance; an H100 has 255 and 232,448. An arrow marks what the compiler takes: where the
estimate of `passes/pressure.py` is too high, half of the streamed tile first, then of the own one.
Written by `benchmarks/gradient_tiles.py`.
"""


@dataclass(frozen=True, slots=True, order=True)
class Row:
    """One kernel for one choice of tiles."""

    own: int
    streamed: int
    warps: int
    registers: int
    spills: int
    shared: int


def rows(adjoint: Cascade, width: int) -> dict[str, Row]:
    """The two kernels of an adjoint, by what they own."""
    sizes = {"e": width, "f": width}
    result = stages(adjoint, "triton", dtype="f16", sizes=sizes)
    kernels = compile_kernels(result.source, result.program, dtype="f16", sizes=sizes)
    return {
        entry.rank: row(result.program, place, kernel)
        for place, kernel in enumerate(kernels)
        for entry in result.program.kernels[place].grid
        if entry.rank in ("p", "m")
    }


def row(program: Program, place: int, kernel: Compiled) -> Row:
    mapped = program.kernels[place]
    (own,) = (entry.tile for entry in mapped.grid if entry.rank in ("p", "m"))
    (streamed,) = (axis.size for axis in mapped.axes if axis.rank in ("p0", "m0"))
    assert streamed is not None
    return Row(own, streamed, kernel.warps, kernel.registers, kernel.spills, kernel.shared)


def scheduled(adjoint: Cascade, m: int, p: int, warps: int) -> Cascade:
    lines = (
        Directive("tile", ("m",), Const(m)),
        Directive("tile", ("p",), Const(p)),
        Directive("warps", (), Const(warps)),
    )
    return replace(adjoint, schedule=lines)


def table(found: list[Row], chosen: Row) -> list[str]:
    lines = [
        "| tile | warps | registers | spills | shared | |",
        "| --- | ---: | ---: | ---: | ---: | --- |",
    ]
    for one in sorted({*found, chosen}):
        lines.append(
            f"| {one.own} x {one.streamed} | {one.warps} | {one.registers} | {one.spills} | "
            f"{one.shared} | {'<-' if one == chosen else ''} |"
        )
    return lines


def main() -> None:
    lines = [HEAD.rstrip("\n")]
    for name, width in product(CASES, WIDTHS):
        (cascade,) = attnc.load(EXAMPLES / f"{name}.attn").cascades.values()
        adjoint = attnc.gradient(cascade)
        chosen = rows(adjoint, width)
        tried = [
            rows(scheduled(adjoint, m, p, warps), width)
            for m, p, warps in product(TILES, TILES, WARPS)
        ]
        for rank, results in (("p", "dQ"), ("m", "dK and dV")):
            lines += ["", f"## {name}, {width} wide: {results}", ""]
            lines += table([one[rank] for one in tried], chosen[rank])
            print("\n".join(lines[-len(tried) - 4 :]), flush=True)
    (HERE / "gradient_tiles.md").write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
