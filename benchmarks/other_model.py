"""Products of matrices by this model and by accelforge, an independent one, on the same mapping.

    python3.12 -m venv other && other/bin/pip install accelforge -e .
    other/bin/python benchmarks/other_model.py

Compared are cycles and words at memory and at the buffer, for a product with its sums kept in the
elements and for one that sums along an axis of the array, an operand kept in the elements. There
accelforge reads sums under way before the first of them is there, and this model does not.
accelforge (from PyPI) needs Python 3.12; nothing else here does. Writes benchmarks/other_model.md.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path

from attnc import parse
from attnc.ir.machine import PRIVATE, Array, Level, Machine, Mapping
from attnc.passes.accelerator.model import Modelled, model

WORD = 2
PRODUCT = """
cascade product(A[i, k], B[k, j]) -> C[i, j]:
    C[i, j] = A[i, k] * B[k, j]
"""


@dataclass(frozen=True, slots=True)
class Case:
    """Extents, the side of the array, how many tiles of rows the buffer keeps, and the rank along
    the columns of the array: `j`, or `k` to sum along them."""

    i: int
    j: int
    k: int
    side: int
    held: int
    columns: str = "j"

    def __str__(self) -> str:
        return f"{self.i} x {self.j}, sums of {self.k}, array {self.side}, held {self.held}, " \
            f"columns {self.columns}"  # fmt: skip


CASES = (
    Case(16, 8, 32, 4, 2),
    Case(16, 8, 32, 4, 1),
    Case(2048, 1024, 64, 256, 2),
    Case(2048, 4096, 128, 256, 8),
    Case(16, 8, 32, 4, 2, "k"),
    Case(2048, 64, 1024, 256, 4, "k"),
)
ARCHITECTURE = """
arch:
  nodes:
  - !Memory
    {{name: Main, size: inf, leak_power: 0, area: 0, tensors: {{keep: All}}, actions: [{moves}]}}
  - !Memory
    {{name: Buffer, size: inf, leak_power: 0, area: 0, tensors: {{keep: {kept}}},
      actions: [{moves}]}}
  - !Container
    name: Array
    spatial: [{{name: X, fanout: {side}}}, {{name: Y, fanout: {side}}}]
  - !Memory
    {{name: Own, size: inf, leak_power: 0, area: 0, tensors: {{keep: {own}}}, actions: [{moves}]}}
  - !Compute
    {{name: MAC, leak_power: 0, area: 0,
      actions: [{{name: compute, energy: 1, throughput: 1, latency: 0}}]}}
workload:
  iteration_space_shape: {{i: 0 <= i < {i}, j: 0 <= j < {j}, k: 0 <= k < {k}}}
  bits_per_value: {{All: 16}}
  einsums:
  - name: Product
    tensor_accesses:
    - {{name: A, projection: [i, k]}}
    - {{name: B, projection: [k, j]}}
    - {{name: C, projection: [i, j], output: True}}
    renames: {{weight: B, input: A, output: C}}
mapping:
  nodes:
{nodes}
"""
MOVES = ", ".join(
    f"{{name: {name}, energy: 0, throughput: inf, latency: 0}}" for name in ("read", "write")
)


def nodes(case: Case) -> list[str]:
    """The loops, outermost first, and where tensors are stored between them."""

    def loop(kind: str, rank: str, size: int, more: str = "") -> str:
        return f"!{kind} {{rank_variable: {rank}, tile_shape: {size}{more}}}"

    def store(tensors: str, place: str) -> str:
        return f"!Storage {{tensors: [{tensors}], component: {place}}}"

    inner = "k" if case.columns == "j" else "j"
    kept, streamed = ("A", "B") if case.columns == "j" else ("C", "A, B")
    return [
        store("A, B, C", "Main"),
        loop("Temporal", "i", case.held * case.side),
        store(kept, "Buffer"),
        loop("Temporal", case.columns, case.side),
        store(streamed, "Buffer"),
        loop("Temporal", "i", case.side),
        loop("Spatial", "i", 1, ", component: Array, name: X"),
        loop("Spatial", case.columns, 1, ", component: Array, name: Y"),
        store("C" if case.columns == "j" else "A", "Own"),
        loop("Temporal", inner, 1),
        "!Compute {einsum: Product, component: MAC}",
    ]


def other(case: Case) -> dict[str, float]:
    """Cycles and words by accelforge."""
    import accelforge

    text = ARCHITECTURE.format(
        moves=MOVES, side=case.side, i=case.i, j=case.j, k=case.k,
        kept="A | B" if case.columns == "j" else "All",
        own="C" if case.columns == "j" else "A",
        nodes="\n".join(f"  - {node}" for node in nodes(case)),
    )  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "product.yaml"
        path.write_text(text, encoding="utf-8")
        found = accelforge.Spec.from_yaml(str(path)).evaluate_mapping()
    moved = found.actions(per_component=True, per_tensor=True)
    words = {
        (place, way): sum(v for (p, _, w), v in moved.items() if (p, w) == (place, way)) / 16
        for place in ("Main", "Buffer")
        for way in ("read", "write")
    }
    return {
        "cycles": float(found.latency()),
        "memory read": words["Main", "read"],
        "memory written": words["Main", "write"],
        "buffer read": words["Buffer", "read"],
    }


def own(case: Case) -> dict[str, float]:
    """Cycles and words by this model."""
    levels = (
        Level("main", bandwidth=1e30),
        Level("buffer", size=float(1 << 40)),
        Level("own", registers=PRIVATE),
    )
    cycles = {"multiply-add": 1.0}
    array = Array("pe", (case.side, case.side), cycles, cycles, {}, {})
    mapping = Mapping(
        "product", "i", case.columns, {"pe": ("i", case.columns)}, {"C": "pe"}, held=case.held
    )
    machine = Machine("square", 1e9, WORD, levels, {"pe": array}, mapping)
    sizes = {"i": case.i, "j": case.j, "k": case.k}
    found: Modelled = model(parse(PRODUCT)["product"], machine, sizes)
    return {
        "cycles": found.einsums["C"],
        "memory read": found.traffic["main"]["read"] / WORD,
        "memory written": found.traffic["main"]["written"] / WORD,
        "buffer read": found.traffic["buffer"]["read"] / WORD,
    }


def main() -> None:
    heads = ["product", "cycles", "words read from memory", "written to it", "read from the buffer"]
    lines = [f"| {' | '.join(heads)} |", "| --- | ---: | ---: | ---: | ---: |"]
    for case in CASES:
        ours, theirs = own(case), other(case)
        cells = [
            f"{ours[key]:.0f}"
            if ours[key] == theirs[key]
            else f"{ours[key]:.0f} / {theirs[key]:.0f}"
            for key in ours
        ]
        lines.append(f"| {case} | {' | '.join(cells)} |")
    text = "\n".join(lines)
    print(text)
    head = (
        "# Beside accelforge\n\nPrinted by `python benchmarks/other_model.py`: one figure where "
        "both models agree, else ours / theirs.\n\n"
    )
    Path(__file__).with_suffix(".md").write_text(f"{head}{text}\n", encoding="utf-8")


if __name__ == "__main__":
    main()
