"""What the model says of attention on an H100, beside the instructions of the emitted kernel.

    python benchmarks/h100.py            prints the table and writes benchmarks/h100.md

The model has the derived cascade with the kernel's own tiles on the described machine. The
instructions are those of the steady loop in the SASS for sm_90 (sass.py); no GPU is needed, and
nothing here was measured on one. Cycles are those of one multiprocessor for one score: of the
model, what each array needs; of the SASS, what the special-function unit (16 a cycle) and the four
schedulers (128 threads' instructions a cycle) need for the instructions that there are.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from sass import ARITHMETIC, MASKS, SPECIFICATION, WIDTHS, Row, measure

from attnc import optimize, parse
from attnc.accelerators import machine
from attnc.backends import launch
from attnc.ir.params import with_params
from attnc.passes.accelerator.binding import mapped
from attnc.passes.accelerator.model import Modelled, Run
from attnc.passes.accelerator.problem import Problem

MACHINE = machine("h100-sxm")
SIZES = {"b": 4, "h": 16, "p": 8192, "m": 8192}
KINDS = {"exp": "MUFU", "max": "FMNMX"}
"""Kinds of operations of the model that are one instruction each."""


def predicted(row: Row, mask: str, width: int) -> Modelled:
    """The model of the cascade with the kernel's tiles: so many rows to a multiprocessor at once,
    so many keys to a step."""
    rows, keys = row.tile
    cascade = optimize(parse(SPECIFICATION.format(mask=MASKS[mask]))["attention"])
    problem = Problem(with_params(cascade, {"M0": keys}), {**SIZES, "e": width, "f": width})
    mapping = mapped(problem, MACHINE)
    held = rows // MACHINE.arrays["tensor"].shape[0]
    return Run(problem, MACHINE, replace(mapping, held=held)).result()


def cells(mask: str, width: int) -> list[str]:
    row = measure(mask, width)
    found = predicted(row, mask, width)
    scores = SIZES["b"] * SIZES["h"] * SIZES["p"] * SIZES["m"]
    scores *= (SIZES["m"] + 1) / 2 / SIZES["m"] if mask == "causal" else 1
    arrays, copies = MACHINE.arrays, MACHINE.arrays["tensor"].copies
    busy = {
        name: sum(c for e, c in found.einsums.items() if found.arrays[e] == name) * copies / scores
        for name in arrays
    }
    operations = {kind: count / scores for kind, count in found.operations.items()}
    instructions = sum(row.counts.values()) + row.rest
    arithmetic = sum(row.counts[kind] for kind in ARITHMETIC)
    plain = sum(operations.get(kind, 0.0) for kind in ("add", "multiply", "max", "exp"))
    issue, special = instructions / 128, row.counts["MUFU"] / 16
    seconds = max(issue, special, busy["tensor"]) * scores / copies / MACHINE.clock
    flops = 4 * width * scores
    return [
        row.name,
        *(f"{operations[kind]:.2f} / {row.counts[code]:.2f}" for kind, code in KINDS.items()),
        f"{plain:.2f} / {arithmetic:.2f}",
        f"{instructions:.2f}",
        *(f"{busy[name]:.4f}" for name in ("tensor", "fp32")),
        f"{special:.4f}",
        f"{issue:.4f}",
        found.bound,
        f"{flops / found.latency / 1e12:.0f}",
        f"{flops / seconds / 1e12:.0f}",
    ]


def main() -> None:
    heads = ["kernel", "exp / MUFU", "max / FMNMX", "arithmetic: model / SASS", "all instructions",
             "cycles, tensor cores", "cycles, fp32 pipes", "SASS: special functions",
             "SASS: issue", "bound", "TFLOP/s, model", "TFLOP/s, by the SASS"]  # fmt: skip
    lines = [f"| {' | '.join(heads)} |", f"|{' --- |' * len(heads)}"]
    lines += [f"| {' | '.join(cells(mask, width))} |" for width in WIDTHS for mask in MASKS]
    text = "\n".join(lines)
    print(text)
    _, triton = launch.require()
    head = (
        "# The H100's prediction beside the kernel's instructions\n\n"
        "Printed by `python benchmarks/h100.py`: 4 x 16 heads of 8192 tokens, float16; operations, "
        "instructions and cycles of one multiprocessor are for one score that the mask keeps. The "
        f"SASS is that of Triton {triton.__version__} for sm_90. Neither column of TFLOP/s is a "
        "measurement: the first is the model's, the second what the instructions of the loop take "
        "if every slot is filled.\n\n"
    )
    Path(__file__).with_suffix(".md").write_text(f"{head}{text}\n", encoding="utf-8")


if __name__ == "__main__":
    main()
