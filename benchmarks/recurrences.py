"""Recurrences in chunks beside PyTorch's attention and flash-linear-attention's reference code.

    python benchmarks/recurrences.py [--repeats 9]

Times are medians, all sides in turn. The reference code is the fastest of the `naive` functions of
fla-core for a mechanism, on PyTorch; attention is `scaled_dot_product_attention`, causal, at the
same size. A second table gives the time for each token as the sequence grows, and what is alive at
once besides inputs and outputs. Writes benchmarks/recurrences.md.
"""

from __future__ import annotations

import argparse
import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from cpu_attention import Run, interleaved, machine

import attnc

HERE = Path(__file__).resolve().parent
EXAMPLES = HERE.parent / "examples"
SIZES = {"b": 1, "h": 8, "t": 4096, "p": 4096, "m": 4096, "d": 64, "e": 64, "f": 64, "r": 64}
NAMES = ("linear_attention", "retention", "gla", "delta_rule", "zoo/performer", "zoo/hedgehog",
         "zoo/cosformer", "zoo/transnormerllm", "zoo/efficient-attention")  # fmt: skip
LENGTHS = (1024, 4096, 16384, 65536)

Arrays = dict[str, np.ndarray]


def naive(module: str, function: str) -> Callable[..., Any]:
    """A reference function of fla-core, from its file: the package itself asks for a GPU."""
    found = importlib.util.find_spec("fla")
    if found is None or not found.submodule_search_locations:
        raise SystemExit("the comparison needs fla-core: pip install --no-deps fla-core einops")
    path = Path(found.submodule_search_locations[0]) / "ops" / module / "naive.py"
    spec = importlib.util.spec_from_file_location(f"naive_{module}", path)
    assert spec is not None and spec.loader is not None
    loaded = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(loaded)
    return getattr(loaded, function)  # type: ignore[no-any-return]


def drawn(cascade: attnc.Cascade, **sizes: int) -> Arrays:
    """Inputs: unit keys, gates between 0 and 1, their logarithms below 0."""
    rng = np.random.default_rng(0)
    found: Arrays = {}
    for tensor in cascade.inputs:
        value = rng.standard_normal([{**SIZES, **sizes}[rank] for rank in tensor.ranks])
        if tensor.name == "K":
            value /= np.linalg.norm(value, axis=-1, keepdims=True)
        if tensor.name == "beta":
            value = 1 / (1 + np.exp(-value))
        if tensor.name == "lam":
            value = 1 - np.abs(value) / 64
        if tensor.name == "W":
            value /= 8
        if tensor.name in ("g", "slope"):
            value = -np.logaddexp(0, value) / 8 if tensor.name == "g" else np.abs(value) / 8
        found[tensor.name] = value.astype(np.float32)
    return found


def tensors(arrays: Arrays, *names: str) -> list[torch.Tensor]:
    """Arrays of (batch, head, time, ...) as fla-core has them: (batch, time, head, ...)."""
    return [torch.from_numpy(arrays[name]).transpose(1, 2).contiguous() for name in names]


def load(name: str) -> attnc.Cascade:
    return next(iter(attnc.load(str(EXAMPLES / f"{name}.attn")).cascades.values()))


def beside(name: str, arrays: Arrays) -> dict[str, Run]:
    """fla-core's functions for a mechanism."""
    match name:
        case "retention":
            parallel = naive("retention", "naive_retention")
            q, k, v = (torch.from_numpy(arrays[n]) for n in ("Q", "K", "V"))
            return {"naive_retention": lambda: parallel(q, k, v)}
        case "gla":
            steps = naive("gla", "naive_recurrent_gla")
            q, k, v, g = tensors(arrays, "Q", "K", "V", "g")
            return {"naive_recurrent_gla": lambda: steps(q, k, v, g)}
        case "delta_rule":
            q, k, v, beta = (torch.from_numpy(arrays[n]) for n in ("Q", "K", "V", "beta"))
            chunks = naive("delta_rule", "delta_rule_chunkwise")
            return {"delta_rule_chunkwise": lambda: chunks(q, k, v, beta)}
        case _:
            return {}


def compared(repeats: int) -> list[str]:
    rows = ["| mechanism | attnc on NumPy, ms | attention, ms | ratio | reference, ms | function |",
            "| --- | ---: | ---: | ---: | ---: | --- |"]  # fmt: skip
    attention = torch.nn.functional.scaled_dot_product_attention
    for name in NAMES:
        cascade = load(name)
        kernel = attnc.compile(cascade, backend="numpy")
        arrays = drawn(cascade)
        q, k, v = (torch.from_numpy(arrays[n]) for n in ("Q", "K", "V"))
        runs: dict[str, Run] = {
            "attnc": lambda kernel=kernel, arrays=arrays: kernel(**arrays),
            "attention": lambda q=q, k=k, v=v: attention(q, k, v, is_causal=True),
        }
        others = beside(name, arrays)
        times = interleaved(runs, repeats)
        own, other = times["attnc"], times["attention"]
        slow = interleaved(others, 1)
        best = min(slow, key=slow.__getitem__, default="")
        told = f"{slow[best]:.0f} | {best}" if best else " | "
        shown = name.removeprefix("zoo/")
        rows.append(f"| {shown} | {own:.1f} | {other:.1f} | {own / other:.2f} | {told} |")
    return rows


def growing(repeats: int) -> list[str]:
    rows = ["| tokens | us a token | alive besides inputs and outputs, KiB |",
            "| ---: | ---: | ---: |"]  # fmt: skip
    kernel = attnc.compile(load("retention"), backend="numpy")
    for length in LENGTHS:
        arrays = drawn(load("retention"), t=length, p=length, m=length, h=1)
        time = interleaved({"": lambda arrays=arrays: kernel(**arrays)}, repeats)[""]
        alive = kernel.counters.peak_live_bytes / 1024
        rows.append(f"| {length} | {1e3 * time / length:.2f} | {alive:.0f} |")
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=9)
    repeats = parser.parse_args().repeats
    lines = [
        "# Recurrences on a CPU",
        "",
        f"Batch, heads, length, width: 1 x 8 x {SIZES['t']} x 64, float32. {machine()}.",
        f"Medians of {repeats} runs. Written by `benchmarks/recurrences.py`.",
        "",
        *compared(repeats),
        "",
        "One head of retention as the sequence grows:",
        "",
        *growing(repeats),
    ]
    text = "\n".join(lines) + "\n"
    (HERE / "recurrences.md").write_text(text, encoding="utf-8")
    print(text, end="")


if __name__ == "__main__":
    main()
