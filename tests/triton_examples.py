"""Run in a process of its own: every example in Triton's interpreter, or compiled for a target.

    python triton_examples.py interpret         TRITON_INTERPRET=1 must be set
    python triton_examples.py sm_90

Prints one JSON object: by cascade the largest relative error, or the bytes of the code; a string
is the refusal of a construct that has no kernel.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parent))
import conftest  # noqa: F401  maps the folders where nothing is installed

import attnc
from attnc.backends import interpreter, launch
from attnc.driver import WIDTH, stages
from attnc.sampling import default_sizes, sample

EXAMPLES = sorted((Path(__file__).parent.parent / "examples").glob("*.attn"))


def error(cascade: attnc.ir.cascade.Cascade) -> float:
    """The largest error of the kernel on random data, relative to the largest value.

    It is given in units of what the cascade itself loses in float32, where that is above 2.5e-6:
    a recurrence that divides by a sum near 0 is no fault of the kernel.
    """
    arrays = sample(cascade, default_sizes(cascade), dtype="f32", seed=3)
    reference = interpreter.run(cascade, arrays, np.dtype(np.float64))
    own = distance(interpreter.run(cascade, arrays), reference)
    found = attnc.compile(cascade, backend="triton").run(arrays)
    return distance(found, reference) / max(1.0, own / 2.5e-6)


def distance(found: dict[str, np.ndarray], reference: dict[str, np.ndarray]) -> float:
    worst = 0.0
    for name, right in reference.items():
        error = np.max(np.abs(np.asarray(found[name], np.float64) - right), initial=0.0)
        worst = max(worst, float(error / max(np.max(np.abs(right), initial=0.0), 1e-30)))
    return worst


def size(cascade: attnc.ir.cascade.Cascade, target: str) -> int:
    """Bytes of machine code of all kernels for a target, in float16, every rank of width 64."""
    result = stages(cascade, "triton", dtype="f16")
    sizes = {rank: WIDTH for tensor in cascade.inputs for rank in tensor.ranks}
    kernels = launch.compile_kernels(
        result.source, result.program, target=target, dtype="f16", sizes=sizes
    )
    return sum(len(kernel.forms["cubin"]) for kernel in kernels)


def main(mode: str) -> None:
    found: dict[str, float | str] = {}
    for path in EXAMPLES:
        for name, cascade in attnc.load(path).cascades.items():
            if name == "fusemax":
                # Its own tile of 256 keys is that of an accelerator: too large for a GPU.
                cascade = attnc.ir.params.with_params(cascade, {"M0": 64})
            try:
                found[name] = error(cascade) if mode == "interpret" else size(cascade, mode)
            except attnc.CompileError as refusal:
                found[name] = f"{refusal.code}: {refusal.message}"
    print(json.dumps(found))


if __name__ == "__main__":
    main(sys.argv[1])
