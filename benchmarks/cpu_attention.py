"""Attention on a CPU: compiled for NumPy against PyTorch, in one run, as ratios.

    python benchmarks/cpu_attention.py [--repeats 15] [--tiles]

Both sides compute 1 x 8 x 2048 x 64 in float32 with the same number of threads, turn by turn, so
that what else the machine does falls on both; medians are compared. Prints a table and writes it
to benchmarks/cpu_attention.md. `--tiles` times other tile sizes instead and writes nothing.
"""

from __future__ import annotations

import argparse
import platform
from collections.abc import Callable, Mapping
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

import numpy as np
import torch
from torch.nn.attention.flex_attention import flex_attention
from torch.nn.functional import scaled_dot_product_attention

import attnc
from attnc.backends.numpy_math import laid
from attnc.backends.tiles import available, one_blas_thread

HERE = Path(__file__).resolve().parent
SHAPE = (1, 8, 2048, 64)
CAP = 50.0
TILES = tuple((p, m) for p in (64, 128, 256, 512) for m in (128, 256, 512, 1024))

Run = Callable[[], Any]


def machine() -> str:
    """The processor's name, the threads used, and the versions of both sides."""
    name = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        lines = info.read_text(encoding="utf-8").splitlines()
        name = next((x.split(":")[1].strip() for x in lines if x.startswith("model name")), name)
    versions = f"NumPy {np.__version__}, PyTorch {torch.__version__}"
    return f"{name}, {available()} threads, {versions}"


def inputs() -> tuple[np.ndarray, ...]:
    generator = np.random.default_rng(0)
    return tuple(generator.standard_normal(SHAPE, dtype=np.float32) for _ in range(3))


def compiled(name: str, tiles: tuple[int, int] | None = None) -> Run:
    """One of the examples for NumPy, on the inputs; `tiles` are those of queries and keys."""
    cascade = next(
        iter(attnc.load(str(HERE.parent / "examples" / f"{name}.attn")).cascades.values())
    )
    if tiles is not None:
        text = f"{cascade}\nschedule {cascade.name}:\n    tile p by {tiles[0]}\n"
        text += f"    tile m by {tiles[1]}\n"
        cascade = attnc.parse(text)[name]
    kernel = attnc.compile(cascade, backend="numpy")
    arrays = inputs()
    return lambda: kernel(*arrays)


def softcap() -> Run:
    """torch's own compiler on the same formula."""
    flex = torch.compile(flex_attention)
    tensors = [torch.from_numpy(array) for array in inputs()]

    def capped(score: Any, b: Any, h: Any, p: Any, m: Any) -> Any:
        return CAP * torch.tanh(score / CAP)

    return lambda: flex(*tensors, score_mod=capped)


def fused(causal: bool) -> Run:
    tensors = [torch.from_numpy(array) for array in inputs()]
    return lambda: scaled_dot_product_attention(*tensors, is_causal=causal)


CASES: dict[str, tuple[str, str, Callable[[], Run]]] = {
    "full": ("attention", "scaled_dot_product_attention", lambda: fused(False)),
    "causal": ("causal", "scaled_dot_product_attention", lambda: fused(True)),
    "softcap": ("softcap", "flex_attention, compiled", softcap),
}


def interleaved(runs: Mapping[str, Run], repeats: int) -> dict[str, float]:
    """Median milliseconds of each, all of them run in turn.

    Each has a run before that is not counted: threads of OpenMP wait for work by spinning, and
    would be found on the next one's processors.
    """
    taken: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(repeats):
        for name, run in runs.items():
            run()
            start = perf_counter()
            run()
            taken[name].append((perf_counter() - start) * 1e3)
    return {name: median(times) for name, times in taken.items()}


def compare(repeats: int) -> str:
    """The table of all cases."""
    lines = [
        "# Attention on a CPU",
        "",
        f"Batch, heads, length, width: {' x '.join(map(str, SHAPE))}, float32. {machine()}.",
        f"Medians of {repeats} runs, both sides in turn. Written by `benchmarks/cpu_attention.py`.",
        "",
        "| case | attnc on NumPy, ms | PyTorch, ms | PyTorch's function | ratio | largest error |",
        "| --- | ---: | ---: | --- | ---: | ---: |",
    ]
    for case, (example, function, baseline) in CASES.items():
        ours, theirs = compiled(example), baseline()
        error = float(np.abs(ours() - theirs().numpy()).max())
        times = interleaved({"ours": ours, "theirs": theirs}, repeats)
        lines.append(
            f"| {case} | {times['ours']:.1f} | {times['theirs']:.1f} | {function} "
            f"| {times['ours'] / times['theirs']:.2f} | {error:.0e} |"
        )
    return "\n".join(lines) + "\n"


def layouts(repeats: int) -> str:
    """What a tile of scores takes as a product, in either order in memory."""
    rows, keys, heads, width = 64, 1024, SHAPE[1], SHAPE[3]
    queries, scored = (array[0, :, :n] for array, n in zip(inputs(), (rows, keys)))
    memory = np.empty(heads * rows * keys, np.float32)

    def into(by_columns: bool) -> Run:
        out = laid(memory, (heads, rows, keys), by_columns)
        return lambda: np.matmul(queries, scored.swapaxes(-1, -2), out=out)

    with one_blas_thread():
        times = interleaved({"rows": into(False), "columns": into(True)}, repeats)
    rate = {name: 2e-6 * heads * rows * keys * width / taken for name, taken in times.items()}
    return (
        f"{heads} products of {rows} queries with {keys} keys, one thread: {rate['rows']:.0f} "
        f"GFLOP/s by rows, {rate['columns']:.0f} by columns.\n"
    )


def tile_sizes(repeats: int) -> str:
    """Milliseconds of every pair of tile sizes."""
    lines = []
    for case, (example, _, baseline) in CASES.items():
        runs = {f"{p:4} x {m:4}": compiled(example, (p, m)) for p, m in TILES}
        times = interleaved({"PyTorch": baseline(), **runs}, repeats)
        lines += [case, *(f"  {name:<12}{taken:8.1f}" for name, taken in times.items())]
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--tiles", action="store_true")
    arguments = parser.parse_args()
    torch.set_num_threads(available())
    if arguments.tiles:
        print(tile_sizes(arguments.repeats))
        return
    table = compare(arguments.repeats) + "\n" + layouts(10 * arguments.repeats)
    (HERE / "cpu_attention.md").write_text(table, encoding="utf-8")
    print(table)


if __name__ == "__main__":
    main()
