"""The main job, on real data: check, explain, compile and run examples/attention.attn.

    make demo          or, in an environment with attnc:   python examples/demo.py

Q, K and V are those of one layer of a trained transformer reading the Gettysburg Address
(examples/data/extract_minilm.py). Every back-end computes the layer's attention from them and is
compared with the interpreter in float64. The printed traffic is counted, not modelled: the fused
form by the NumPy executor as it moves tiles, the unfused form by the size of what each Einsum
reads and writes.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np

import attnc
from attnc.backends import interpreter
from attnc.driver import stages
from attnc.verification import DTYPES, relative_error

HERE = Path(__file__).resolve().parent
SPECIFICATION = HERE / "attention.attn"
DATA = HERE / "data" / "minilm_layer.npz"
OUT = HERE.parent / "build" / "demo"


def main() -> int:
    OUT.mkdir(parents=True, exist_ok=True)
    cascade = attnc.load(SPECIFICATION)["attention"]
    with np.load(DATA) as stored:
        arrays = {name: stored[name].astype(np.float32) for name in stored.files}
    batch, heads, tokens, width = arrays["Q"].shape
    sizes = {"b": batch, "h": heads, "p": tokens, "m": tokens, "e": width, "f": width}

    section("The specification, and why its passes go")
    print(attnc.explain(cascade))

    section("Compiled")
    triton = stages(cascade, "triton", dtype="f32", sizes={"e": width, "f": width})
    path = OUT / "attention_triton.py"
    path.write_text(triton.source, encoding="utf-8")
    print(f"Triton: {path.relative_to(HERE.parent)}, {len(triton.source.splitlines())} lines")
    kernel = attnc.compile(cascade, backend="numpy")
    print(f"NumPy:  {len(kernel.source.splitlines())} lines")

    section(f"Run on {heads} heads of width {width} over {tokens} tokens, float32")
    truth = interpreter.run(cascade, arrays, DTYPES["f64"].numpy)["O"]
    results = {
        "interpreter": attnc.compile(cascade, backend="interpreter")(**arrays),
        "numpy": kernel(**arrays),
        "triton, interpreted": interpreted(arrays),
    }
    errors = {name: relative_error(result, truth) for name, result in results.items()}
    for name, error in errors.items():
        print(f"{name:<22}largest error against float64, relative to the largest value {error:.1e}")

    section("Passes and traffic")
    written, derived = attnc.analyze(cascade), attnc.analyze(triton.optimized)
    for rank in written.passes:
        if written.passes[rank] > 1:
            print(f"passes over {rank}: {written.passes[rank]} as written, "
                  f"{derived.passes[rank]} as derived")  # fmt: skip
    unfused = sum(int(einsum.bytes) for einsum in written.at(sizes).einsums)
    counters = kernel.counters
    assert counters is not None
    fused = counters.bytes_read + counters.bytes_written
    print(f"{unfused / 1e6:8.2f} MB move if every Einsum goes through memory")
    print(f"{fused / 1e6:8.2f} MB moved by the fused form: {unfused / fused:.1f} times less")
    print(f"{counters.peak_live_bytes / 1e6:8.2f} MB in tiles at the peak of one instance")

    worst = max(errors.values())
    if worst > DTYPES["f32"].tolerance:
        print(f"the back-ends disagree: {worst:.1e}", file=sys.stderr)
        return 1
    print(f"\nAll back-ends agree to {worst:.1e}.")
    return 0


def interpreted(arrays: dict[str, np.ndarray]) -> np.ndarray:
    """Triton's result from its interpreter, which must be chosen before triton is imported."""
    given, found = OUT / "inputs.npz", OUT / "outputs.npz"
    np.savez(given, **arrays)
    subprocess.run(
        [sys.executable, "-m", "attnc", "run", str(SPECIFICATION), "--backend", "triton",
         "--input", str(given), "--output", str(found)],
        env=os.environ | {"TRITON_INTERPRET": "1"}, check=True, stdout=subprocess.DEVNULL,
    )  # fmt: skip
    with np.load(found) as stored:
        return stored["O"]


def section(title: str) -> None:
    print(f"\n== {title}\n", flush=True)


if __name__ == "__main__":
    sys.exit(main())
