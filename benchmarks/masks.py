"""What a mask saves, against what it could, and against PyTorch's FlexAttention, in one run.

    python benchmarks/masks.py [--repeats 15]

Work is the executor's count of operations; the ideal is that of the tiles of 64 x 64 that hold a
point, as if each were computed whole. Times are medians, both sides in turn; FlexAttention is
compiled and its block mask prepared beforehand. Writes benchmarks/masks.md.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import torch
from cpu_attention import SHAPE, Run, interleaved, machine
from torch.nn.attention.flex_attention import create_block_mask, flex_attention

import attnc
from attnc.backends.tiles import available
from attnc.ir.print_expr import print_expr
from attnc.ir.tile import Loop

HERE = Path(__file__).resolve().parent
LENGTH = 4096
TILE = 64
WINDOW = 256
DOCUMENTS = 7
CAP = 50.0
LONG, WIDE = 1 << 20, 512

Arrays = dict[str, np.ndarray]


def compiled(name: str, **params: int) -> Any:
    loaded = attnc.load(str(HERE.parent / "examples" / f"{name}.attn"))
    return attnc.compile(next(iter(loaded.cascades.values())), backend="numpy", **params)


def inputs(length: int, heads: int = SHAPE[1]) -> Arrays:
    draw = np.random.default_rng(0)
    shape = (1, heads, length, SHAPE[3])
    names = ("Q", "K", "V")
    return {name: draw.standard_normal(shape, dtype=np.float32) for name in names}


def documents(length: int) -> np.ndarray:
    """Documents of very different lengths, in order."""
    ends = np.sort(np.random.default_rng(1).choice(length, DOCUMENTS - 1, replace=False))
    return np.searchsorted(ends, np.arange(length), "right").astype(np.int32)[None]


MASKS: dict[str, Callable[[np.ndarray, np.ndarray], np.ndarray]] = {
    "causal": lambda p, m: m <= p,
    "window": lambda p, m: (p - WINDOW < m) & (m <= p),
    "documents": lambda p, m: (documents(LENGTH)[0][p] == documents(LENGTH)[0][m]) & (m <= p),
}


def work() -> list[str]:
    """Operations done over those of the tiles that hold a point."""
    lines = [
        f"| mask at {LENGTH} | tiles of {TILE} with a point | of | operations over theirs |",
        "| --- | ---: | ---: | ---: |",
    ]
    data = inputs(LENGTH, 1)
    full = compiled("attention")
    full(**data)
    p, m = np.arange(LENGTH)[:, None], np.arange(LENGTH)[None, :]
    for name, mask in MASKS.items():
        kernel = compiled(name, **({"W": WINDOW} if name == "window" else {}))
        kernel(**data, **({"doc": documents(LENGTH)} if name == "documents" else {}))
        count = LENGTH // TILE
        tiles = mask(p, m).reshape(count, TILE, count, TILE)
        live = int(tiles.any((1, 3)).sum())
        ratio = kernel.counters.flops / (full.counters.flops * live / count**2)
        lines.append(f"| {name} | {live} | {count**2} | {ratio:.2f} |")
    return lines


def ours(name: str, extra: Arrays, **params: int) -> Run:
    kernel, data = compiled(name, **params), inputs(SHAPE[2])
    return lambda: kernel(**data, **extra)


def theirs(mask: Any = None, score: Any = None) -> Run:
    flex = torch.compile(flex_attention)
    length = SHAPE[2]
    tensors = [torch.from_numpy(array) for array in inputs(length).values()]
    block = None
    if mask is not None:
        block = create_block_mask(mask, None, None, length, length, device="cpu")
    return lambda: flex(*tensors, score_mod=score, block_mask=block)


def cases() -> dict[str, tuple[Run, Run]]:
    length, heads = SHAPE[2], SHAPE[1]
    doc = documents(length)
    table = torch.from_numpy(doc[0])
    slopes = (2.0 ** -np.arange(1, heads + 1)).astype(np.float32)
    slope = torch.from_numpy(slopes)

    def causal(b: Any, h: Any, p: Any, m: Any) -> Any:
        return m <= p

    def window(b: Any, h: Any, p: Any, m: Any) -> Any:
        return (p - WINDOW < m) & (m <= p)

    def document(b: Any, h: Any, p: Any, m: Any) -> Any:
        return (table[p] == table[m]) & (m <= p)

    def capped(score: Any, b: Any, h: Any, p: Any, m: Any) -> Any:
        return CAP * torch.tanh(score / CAP)

    def alibi(score: Any, b: Any, h: Any, p: Any, m: Any) -> Any:
        return score + slope[h] * (m - p)

    return {
        "causal": (ours("causal", {}), theirs(causal)),
        "window": (ours("window", {}, W=WINDOW), theirs(window)),
        "documents": (ours("documents", {"doc": doc}), theirs(document)),
        "softcap": (ours("softcap", {}), theirs(None, capped)),
        "alibi": (ours("alibi", {"slope": slopes}), theirs(causal, alibi)),
    }


def times(repeats: int) -> list[str]:
    lines = [
        "| case | attnc on NumPy, ms | FlexAttention, ms | ratio | largest error |",
        "| --- | ---: | ---: | ---: | ---: |",
    ]
    for name, (mine, other) in cases().items():
        error = float(np.abs(mine() - other().numpy()).max())
        taken = interleaved({"ours": mine, "theirs": other}, repeats)
        ratio = taken["ours"] / taken["theirs"]
        lines.append(
            f"| {name} | {taken['ours']:.1f} | {taken['theirs']:.1f} | {ratio:.2f} | {error:.0e} |"
        )
    return lines


def building() -> list[str]:
    """The ranges of every tile of queries of a long window, from the program's own bounds."""
    kernel = compiled("window", W=WIDE)
    loop = next(s for s in kernel.program.kernels[-1].body if isinstance(s, Loop))
    texts = [print_expr(bound) for part in loop.segments for bound in (part.lo, part.hi)]
    code = [text.replace("|m|", str(LONG)).replace("(p)", "") for text in texts]
    rows = kernel.program.kernels[-1].grid[-1].tile

    def extreme(function: Any) -> Any:
        def apply(*args: Any) -> Any:
            result = args[0]
            for arg in args[1:]:
                result = function(result, arg)
            return result

        return apply

    start = perf_counter()
    first = np.arange(0, LONG, rows)
    scope = {"first": first, "last": np.minimum(first + rows, LONG) - 1,
             "min": extreme(np.minimum), "max": extreme(np.maximum)}  # fmt: skip
    ranges = [eval(text, {"__builtins__": {}}, scope) for text in code]
    taken = (perf_counter() - start) * 1e3
    assert len(ranges) == 2 * len(loop.segments)
    length = 8192
    start = perf_counter()

    def window(b: Any, h: Any, p: Any, m: Any) -> Any:
        return (p - WIDE < m) & (m <= p)

    create_block_mask(window, None, None, length, length, device="cpu")
    grid = (perf_counter() - start) * 1e3
    buffers = len(kernel.program.buffers)
    return [
        f"Building a mask, window {WIDE}: at {LONG:,} queries and keys the ranges of all "
        f"{len(first):,} tiles of queries take {taken:.1f} ms and the kernel has {buffers} buffers "
        f"for it; `create_block_mask` takes {grid:.0f} ms at {length:,}, over a grid of "
        f"{length:,} x {length:,} points.",
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=15)
    repeats = parser.parse_args().repeats
    torch.set_num_threads(available())
    lines = [
        "# Masks",
        "",
        f"{machine()}. Written by `benchmarks/masks.py`.",
        "",
        *work(),
        "",
        f"Batch, heads, length, width: {' x '.join(map(str, SHAPE))}, float32; window {WINDOW}, "
        f"{DOCUMENTS} documents.",
        f"Medians of {repeats} runs, both sides in turn.",
        "",
        *times(repeats),
        "",
        *building(),
    ]
    text = "\n".join(lines) + "\n"
    (HERE / "masks.md").write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
