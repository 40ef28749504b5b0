"""A training step of attention on the CPU: the derived adjoint beside PyTorch's own.

    python benchmarks/gradients.py [--heads 8] [--extent 2048] [--width 64] [--threads 2]

Prints, for each form, the seconds of forward and backward together, best of several, and the ratio
to `scaled_dot_product_attention`, both sides measured in one run. The peak counts tiles of all
instances that run at a time, and what is allocated beyond inputs, outputs and gradients.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

import attnc

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"
REPEATS = 5


def seconds(step: Callable[[], Any]) -> float:
    """The best of several runs, after one that compiles."""
    step()
    found = []
    for _ in range(REPEATS):
        start = time.perf_counter()
        step()
        found.append(time.perf_counter() - start)
    return min(found)


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
    for name, causal in (("attention", False), ("causal", True)):
        (cascade,) = attnc.load(EXAMPLES / f"{name}.attn").cascades.values()
        ours = seconds(step(attnc.torch.function(cascade), leaves, cotangent))
        theirs = seconds(
            step(lambda *x: attention(*x, is_causal=causal), leaves, cotangent)  # noqa: B023
        )
        print(
            f"{name:<10} {'x'.join(map(str, shape))}  attnc {ours:.3f} s  torch {theirs:.3f} s  "
            f"ratio {ours / theirs:.2f}"
        )


if __name__ == "__main__":
    main()
