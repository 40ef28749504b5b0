"""What the machine does for one score of attention: the steady loop of the emitted kernel, counted.

    python benchmarks/sass.py            prints the table and writes benchmarks/sass.md

Compiles attention for sm_90 in float16 (no GPU is needed), finds in the SASS the loop over full
tiles of keys (the backward branch that encloses the matrix instructions and tests no position) and
divides its instructions by the scores that a thread computes in it. The least that one score needs
is an FFMA (scale and subtract), a MUFU.EX2, an FMNMX, an FADD and half an F2FP; rescaling the
running sum adds |f| / (tile of keys) FMUL.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from attnc import parse
from attnc.backends import launch
from attnc.driver import stages
from attnc.ir.tile import Program

SPECIFICATION = """
cascade attention[b, h](Q[p, e], K[m, e], V[m, f]) -> O[p, f]:
    S[p, m] = Q[p, e] * K[m, e] / sqrt(|e|){mask}
    G[p]    = max[m](S[p, m])
    N[p, m] = exp(S[p, m] - G[p])
    D[p]    = sum[m](N[p, m])
    A[p, m] = N[p, m] / D[p]
    O[p, f] = A[p, m] * V[m, f]
"""
MASKS = {"full": "", "causal": " where m <= p"}
WIDTHS = (64, 128)
ARITHMETIC = ("FFMA", "MUFU", "FMNMX", "FADD", "FMUL", "F2FP")
TENSOR = re.compile(r"^(HGMMA|HMMA|QGMMA|IMMA)\b")


@dataclass(frozen=True, slots=True)
class Row:
    """One kernel: instructions of each kind for one score, and what a thread occupies."""

    name: str
    tile: tuple[int, int]
    counts: dict[str, float]
    matrix: int
    rest: float
    kernel: launch.Compiled


def instructions(sass: str) -> tuple[list[str], dict[str, int]]:
    """The instructions in order without their predicates, and where each label stands."""
    found: list[str] = []
    labels: dict[str, int] = {}
    for line in sass.splitlines():
        label = re.match(r"\s*\.(L_x_\d+):", line)
        if label:
            labels[label[1]] = len(found)
        code = re.search(r"/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\w+\s+)?(.*?)\s*;", line)
        if code:
            found.append(code[1])
    return found, labels


def loops(sass: str) -> Iterator[list[str]]:
    """The bodies of the loops that multiply matrices."""
    code, labels = instructions(sass)
    for place, text in enumerate(code):
        target = re.match(r"BRA.*`\(\.(L_x_\d+)\)", text)
        if target and labels.get(target[1], place + 1) <= place:
            body = code[labels[target[1]] : place + 1]
            if any(TENSOR.match(line) for line in body):
                yield body


def steady_loop(sass: str) -> list[str]:
    """The shortest of these loops: the one over full tiles, which tests no position."""
    return min(loops(sass), key=len)


def tile_of(program: Program) -> tuple[int, int]:
    """Queries and keys of a tile."""
    kernel = program.kernels[0]
    rows = max(grid.tile for grid in kernel.grid)
    grid = {grid.rank for grid in kernel.grid}
    keys = max(axis.size or 0 for axis in kernel.axes if axis.rank not in grid)
    return rows, keys


def measure(mask: str, width: int) -> Row:
    """Compile attention with a mask for heads of a width and count."""
    cascade = parse(SPECIFICATION.format(mask=MASKS[mask]))["attention"]
    sizes = {"e": width, "f": width}
    result = stages(cascade, "triton", dtype="f16", sizes=sizes)
    (kernel,) = launch.compile_kernels(
        result.source, result.program, target="sm_90", dtype="f16", sizes=sizes
    )
    cubin = kernel.forms["cubin"]
    assert isinstance(cubin, bytes)
    body = steady_loop(launch.disassemble(cubin))
    rows, keys = tile_of(result.program)
    scores = rows * keys / (32 * kernel.warps)
    kinds = Counter(re.split(r"[.\s]", line)[0] for line in body)
    matrix = sum(1 for line in body if TENSOR.match(line))
    counted = sum(kinds[kind] for kind in ARITHMETIC) + matrix
    return Row(
        f"{mask}, width {width}",
        (rows, keys),
        {kind: kinds[kind] / scores for kind in ARITHMETIC},
        matrix,
        (len(body) - counted) / scores,
        kernel,
    )


def table(rows: list[Row]) -> str:
    """The rows in Markdown."""
    heads = ["kernel", "tile", *ARITHMETIC, "other", "HGMMA", "warps", "registers", "spills",
             "shared"]  # fmt: skip
    lines = [f"| {' | '.join(heads)} |", f"|{' --- |' * len(heads)}"]
    for row in rows:
        cells = [
            row.name,
            f"{row.tile[0]} x {row.tile[1]}",
            *(f"{row.counts[kind]:.2f}" for kind in ARITHMETIC),
            f"{row.rest:.2f}",
            str(row.matrix),
            str(row.kernel.warps),
            str(row.kernel.registers),
            f"{row.kernel.spills} B",
            f"{row.kernel.shared // 1024} KiB",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    text = table([measure(mask, width) for width in WIDTHS for mask in MASKS])
    print(text)
    _, triton = launch.require()
    head = (
        "# Instructions for one score\n\n"
        "Printed by `python benchmarks/sass.py`: the loop over full tiles of keys, compiled for "
        f"sm_90 in float16 by Triton {triton.__version__}; instructions of a thread divided by its "
        "scores. *other* is addresses, copies, barriers and the reductions across threads.\n\n"
    )
    Path(__file__).with_suffix(".md").write_text(f"{head}{text}\n", encoding="utf-8")


if __name__ == "__main__":
    main()
