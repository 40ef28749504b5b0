"""What a thread of every kernel of the zoo occupies on an H100: registers, spills, shared memory.

    python benchmarks/zoo_spills.py                  writes benchmarks/zoo_spills.md (an hour)
    python benchmarks/zoo_spills.py NAME...          prints the rows of these mechanisms
    python benchmarks/zoo_spills.py --cached FILE    keeps what is measured in a file of JSON lines

Compiles for sm_90 in float16 (no GPU is needed) at heads of 64 and 128: that is the extent of the
ranks that lie whole within a tile, but for those of which a mechanism has few (heads, taps). Two
processes compile side by side, each mechanism in one of its own.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

from sass import loops, steady_loop

import attnc
from attnc.backends import launch
from attnc.backends.launch import Compiled
from attnc.driver import stages
from attnc.ir.targets import TARGETS
from attnc.passes.pressure import pressure

ROOT = Path(__file__).resolve().parent.parent
PAGE = Path(__file__).with_suffix(".md")
WIDTHS = (64, 128)
FEW = 8
"""A rank shorter than this in its test (heads, taps, branches) is no width."""
USUAL = 1024
"""Extent of any other rank that lies whole within a tile."""
SHARED = 128
"""Registers of a thread where the launcher wants two instances on a multiprocessor."""
FUNCTION = 64
"""Bytes of local memory that a function of Triton's library takes for itself."""
LIMIT = 900
"""Seconds for one mechanism."""

HEAD = """\
# What a thread of the zoo occupies

Every kernel of the zoo, compiled for sm_90 in float16 at heads of 64 and 128 (the ranks that lie
whole within a tile, but for those of which a mechanism has few): registers of a thread, bytes that
it spills, bytes of shared memory of an instance. An H100 has 255 registers a thread and 232,448
bytes. Where a kernel spills, a note says why, and how many of the instructions of the loop over
full tiles read or write what was spilled (its shortest loop with matrix instructions, if it has
one). `python benchmarks/zoo_spills.py` writes this page.

"""


@dataclass(frozen=True, slots=True)
class Row:
    """One kernel at one width, or why a mechanism has none (`note`, without a kernel)."""

    name: str
    width: int
    kernel: str = ""
    tiles: str = ""
    registers: int = 0
    spills: int = 0
    shared: int = 0
    note: str = ""


def measure(name: str, width: int) -> list[Row]:
    """Compile a mechanism at a width; a refusal of the compiler is a row."""
    sys.path.insert(0, str(ROOT / "tests"))
    import mechanisms

    cascade, arrays = mechanisms.specification(name), mechanisms.single(name)
    own = {
        rank: extent
        for tensor in cascade.inputs
        for rank, extent in zip(tensor.ranks, arrays[tensor.name].shape)
    }
    try:
        widths: dict[str, int] = {}
        while True:
            result = stages(cascade, "triton", dtype="f16", sizes=widths)
            every = {axis for kernel in result.program.kernels for axis in kernel.axes}
            # A rank that instances divide may lie whole in one where others are known to be short.
            more = {axis.rank for axis in every if axis.size is None} & own.keys() - widths.keys()
            if not more:
                break
            widths |= {rank: own[rank] if own[rank] < FEW else width for rank in more}
        few = {rank: extent for rank, extent in own.items() if extent < FEW}
        kernels = launch.compile_kernels(
            result.source, result.program, target="sm_90", dtype="f16", sizes=few | widths
        )
    except attnc.CompileError as refusal:
        return [Row(name, width, note=f"{refusal.code}: {refusal.message}")]
    except RuntimeError as fault:  # Of Triton, or of its assembler.
        return [Row(name, width, note=str(fault).strip().splitlines()[0][:200])]
    made = {f"{kernel.name}_kernel": kernel for kernel in result.program.kernels}
    rows: list[Row] = []
    for k in kernels:
        kernel = made.get(k.name)  # Triton's own helpers have no tiles of ours.
        axes = {a.rank: a.size or widths.get(a.rank, USUAL) for a in kernel.axes} if kernel else {}
        tiles = ", ".join(f"{rank} {size}" for rank, size in axes.items())
        note = ""
        if k.spills and kernel:
            need = pressure(kernel, axes, 32 * k.warps)
            note = why(need, k.registers, k.spills, min(255, 65536 // (32 * k.warps))) + in_loop(k)
        rows.append(Row(name, width, k.name, tiles, k.registers, k.spills, k.shared, note))
    return rows


def why(need: int, registers: int, spills: int, most: int) -> str:
    """Why a thread has local memory, of `most` registers where its tiles take `need`."""
    if need > TARGETS["triton"].registers:
        return f"its tiles take {need} registers: states and widths that no schedule may halve"
    if registers == SHARED:
        return "held to 128 registers, so that two instances share a multiprocessor"
    if registers < most and spills <= FUNCTION:
        return "no spill: the stack of a function, such as a sine of large arguments"
    if registers < most:
        return "the assembler found no registers for it and put nearly all of it in memory"
    return f"its tiles take {need} registers, addresses and predicates the rest"


def in_loop(kernel: Compiled) -> str:
    """How much of the steady loop over products is local memory, if the kernel has such a loop."""
    cubin = kernel.forms["cubin"]
    assert isinstance(cubin, bytes)
    sass = launch.disassemble(cubin)
    if not any(loops(sass)):
        return ""
    body = steady_loop(sass)
    spilled = sum(line.startswith(("LDL", "STL")) for line in body)
    return f"; {spilled} of {len(body)} instructions of its steady loop"


def one(name: str) -> list[Row]:
    """The rows of a mechanism, from a process of its own: a compiler may crash, or never end."""
    command = [sys.executable, __file__, "--json", name]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT, check=False)
    except subprocess.TimeoutExpired:
        return [Row(name, width, note=f"not compiled within {LIMIT} s") for width in WIDTHS]
    rows = [Row(**json.loads(line)) for line in done.stdout.splitlines() if line.startswith("{")]
    missing = {*WIDTHS} - {row.width for row in rows}
    last = (done.stderr.strip().splitlines() or [f"ended with {done.returncode}"])[-1]
    return rows + [Row(name, width, note=last[:200]) for width in sorted(missing)]


def page(rows: list[Row]) -> str:
    """The rows in Markdown."""
    cells = [("mechanism", "kernel", "width", "tiles", "registers", "spills", "shared", "note")]
    cells.append(("---", "---", "---:", "---", "---:", "---:", "---:", "---"))
    for r in rows:
        numbers = (r.registers, r.spills, r.shared) if r.kernel else ("", "", "")
        cells.append((r.name, r.kernel, r.width, r.tiles, *numbers, r.note))
    lines = [f"| {' | '.join(str(cell) for cell in line)} |\n" for line in cells]
    return "".join((HEAD, *lines))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("names", nargs="*")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--cached", type=Path)
    asked = parser.parse_args()
    if asked.json:
        for name in asked.names:
            for width in WIDTHS:
                for row in measure(name, width):
                    print(json.dumps(asdict(row)), flush=True)
        return
    sys.path.insert(0, str(ROOT / "tests"))
    import mechanisms

    names = asked.names or sorted(n for n in mechanisms.ENTRIES if mechanisms.path(n).exists())
    rows: dict[str, list[Row]] = {}
    if asked.cached and asked.cached.exists():
        for line in asked.cached.read_text(encoding="utf-8").splitlines():
            row = Row(**json.loads(line))
            rows.setdefault(row.name, []).append(row)
    left = [name for name in names if name not in rows]
    with ThreadPoolExecutor(2) as pool:
        for name, found in zip(left, pool.map(one, left)):
            rows[name] = found
            for row in found:
                print(json.dumps(asdict(row)), flush=True)
            if asked.cached:
                with asked.cached.open("a", encoding="utf-8") as file:
                    file.writelines(json.dumps(asdict(row)) + "\n" for row in found)
    if not asked.names:
        PAGE.write_text(page([row for name in names for row in rows[name]]), encoding="utf-8")


if __name__ == "__main__":
    main()
