"""A training step of attention on the CPU: the derived adjoint beside PyTorch's own.

    python benchmarks/gradients.py [--heads 8] [--extent 2048] [--width 64] [--threads 2]

Times are medians of forward and backward together, both sides in turn. Writes
benchmarks/gradients.md.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from cpu_attention import interleaved, machine

import attnc

HERE = Path(__file__).resolve().parent
EXAMPLES = HERE.parent / "examples"
REPEATS = 5


def step(forward: Callable[..., Any], leaves: list[Any], cotangent: Any) -> Callable[[], Any]:
    return lambda: torch.autograd.grad(forward(*leaves), leaves, cotangent)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--heads", type=int, default=8)
    parser.add_argument("--extent", type=int, default=2048)
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    chosen = parser.parse_args()
    torch.set_num_threads(chosen.threads)
    shape = (1, chosen.heads, chosen.extent, chosen.width)
    leaves = [torch.randn(shape, requires_grad=True) for _ in range(3)]
    cotangent = torch.randn(shape)
    attention = torch.nn.functional.scaled_dot_product_attention
    lines = [
        "# Forward and backward on a CPU",
        "",
        f"{' x '.join(map(str, shape))}, float32. {machine()}. Medians of {REPEATS} steps, both",
        "sides in turn. Written by `benchmarks/gradients.py`.",
        "",
        "| case | attnc, ms | scaled_dot_product_attention, ms | ratio |",
        "| --- | ---: | ---: | ---: |",
    ]
    for name, causal in (("attention", False), ("causal", True)):
        (cascade,) = attnc.load(EXAMPLES / f"{name}.attn").cascades.values()
        sides = {
            "attnc": step(attnc.torch.function(cascade), leaves, cotangent),
            "torch": step(partial(attention, is_causal=causal), leaves, cotangent),
        }
        times = interleaved(sides, REPEATS)
        ours, theirs = times["attnc"], times["torch"]
        lines.append(f"| {name} | {ours:.0f} | {theirs:.0f} | {ours / theirs:.2f} |")
    text = "\n".join(lines) + "\n"
    (HERE / "gradients.md").write_text(text, encoding="utf-8")
    print(text, end="")


if __name__ == "__main__":
    main()
