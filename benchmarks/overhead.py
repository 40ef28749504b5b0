"""What a call costs beside the kernel: checks, strides, allocation, the choice of a kernel.

    python benchmarks/overhead.py

The launchers are those that run on a GPU, called on small tensors with kernels that do nothing,
beside a custom operator of PyTorch that does nothing either. On the CPU whole calls are timed,
NumPy's work included. Medians, one thread. Writes benchmarks/overhead.md.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median
from time import perf_counter
from types import ModuleType
from typing import Any

os.environ["TRITON_INTERPRET"] = "1"  # Before Triton is imported: the launchers take CPU tensors.

import torch
from cpu_attention import machine

import attnc
from attnc.backends.launch import load
from attnc.torch import Program

HERE = Path(__file__).resolve().parent
EXAMPLES = HERE.parent / "examples"
CALLS = 2000
EXTENT = 16


class Nothing:
    """In the place of a kernel."""

    def __getitem__(self, grid: tuple[int, ...]) -> Callable[..., None]:
        return lambda *args, **named: None


def hollow(module: ModuleType) -> ModuleType:
    """An emitted module without its kernels."""
    for name in [name for name in vars(module) if name.endswith("_kernel")]:
        setattr(module, name, Nothing())
    return module


def microseconds(call: Callable[[], Any]) -> float:
    for _ in range(CALLS // 10):
        call()
    times = []
    for _ in range(CALLS):
        start = perf_counter()
        call()
        times.append(perf_counter() - start)
    return median(times) * 1e6


def tensors(cascade: Any, dtype: Any) -> list[Any]:
    """Inputs of a batch of one and one head, everything else of extent 16."""
    one = dict.fromkeys("bh", 1)
    return [
        torch.zeros([one.get(rank, EXTENT) for rank in tensor.ranks], dtype=torch.int32)
        if tensor.dtype == "int"
        else torch.randn([one.get(rank, EXTENT) for rank in tensor.ranks]).to(dtype)
        for tensor in cascade.inputs
    ]


def empty(count: int) -> Any:
    """A custom operator that allocates one result, with another as its autograd formula."""
    inputs = ", ".join(f"Tensor input{number}" for number in range(count))
    several = ", ".join(["Tensor"] * count)

    def operator(name: str, body: Callable[..., Any], result: str) -> Any:
        schema = f"({inputs}) -> {result}"
        label = f"attnc_overhead::{name}{count}"
        return torch.library.custom_op(label, body, mutates_args=(), schema=schema)

    forward = operator("forward", lambda *given: torch.empty_like(given[0]), "Tensor")
    backward = operator("backward", lambda *given: tuple(map(torch.empty_like, given)),
                        f"({several})")  # fmt: skip
    forward.register_autograd(
        lambda ctx, arriving: tuple(
            gradient if wanted else None
            for gradient, wanted in zip(backward(*ctx.saved_tensors), ctx.needs_input_grad)
        ),
        setup_context=lambda ctx, inputs, output: ctx.save_for_backward(*inputs),
    )
    return forward


def without_kernels() -> None:
    """Let `attnc.torch` take CPU tensors for a GPU's, and launch nothing."""
    made = Program._made

    def launch(program: Program, device: str, dtype: str) -> Callable[..., Any]:
        found: Any = made(program, "cuda", dtype)
        found.__self__._module = hollow(load(found.__self__.source, program.cascade.name))
        return found  # type: ignore[no-any-return]

    Program._made = launch  # type: ignore[method-assign]


def step(forward: Callable[..., Any], given: list[Any]) -> Callable[[], Any]:
    leaves = [tensor for tensor in given if tensor.requires_grad]
    arriving = torch.randn_like(forward(*given))
    return lambda: torch.autograd.grad(forward(*given), leaves, arriving)


def cascade_of(name: str) -> Any:
    (cascade,) = attnc.load(EXAMPLES / f"{name}.attn").cascades.values()
    return cascade


def times(name: str, dtype: Any, calls: list[Callable[..., Any]]) -> list[tuple[float, float]]:
    """For each function a call without a gradient, and a whole training step."""
    given = tensors(cascade_of(name), dtype)
    found = []
    for call in calls:
        plain = microseconds(lambda call=call: call(*given))  # type: ignore[misc]
        leaves = [value.clone().requires_grad_(value.is_floating_point()) for value in given]
        found.append((plain, microseconds(step(call, leaves))))
    return found


def main() -> None:
    torch.set_num_threads(1)
    lines = [
        "# What a call costs beside the kernel",
        "",
        f"{machine()}. Medians of {CALLS} calls in microseconds.",
        "Written by `benchmarks/overhead.py`.",
        "",
        "All extents 16, one head. A step is forward and backward through autograd.",
        "",
        "## On the CPU, NumPy's work included",
        "",
        "| case | call | step | scaled_dot_product_attention: call | step |",
        "| --- | ---: | ---: | ---: | ---: |",
    ]
    attention = torch.nn.functional.scaled_dot_product_attention
    for name in ("attention", "causal"):
        sdpa = partial(attention, is_causal=name == "causal")
        ours, theirs = times(name, torch.float32, [attnc.torch.function(cascade_of(name)), sdpa])
        lines.append(
            f"| {name} | {ours[0]:.0f} | {ours[1]:.0f} | {theirs[0]:.0f} | {theirs[1]:.0f} |"
        )
    lines += [
        "",
        "## For a GPU, without the kernels",
        "",
        "What `attnc compile --grad` and `attnc.torch.function` (in process) add to an operator",
        "that does nothing.",
        "",
        "| case | empty: call | step | `--grad`: call | step | in process: call | step |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    without_kernels()
    for name in ("causal", "gqa", "documents"):
        cascade = cascade_of(name)
        module = hollow(load(attnc.emit_layer(cascade), name))
        functions = [
            empty(len(cascade.inputs)), getattr(module, name), attnc.torch.function(cascade)
        ]  # fmt: skip
        base, *found = times(name, torch.float16, functions)
        added = " | ".join(f"+{call - base[0]:.0f} | +{step - base[1]:.0f}" for call, step in found)
        lines.append(f"| {name} | {base[0]:.0f} | {base[1]:.0f} | {added} |")
    text = "\n".join(lines) + "\n"
    (HERE / "overhead.md").write_text(text, encoding="utf-8")
    print(text, end="")


if __name__ == "__main__":
    main()
