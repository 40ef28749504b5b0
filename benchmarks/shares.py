"""How evenly a decode step divides over an H100: whole rows, split rows, shares of all rows.

    python benchmarks/shares.py

Prints a table and writes it to benchmarks/shares.md. Sixteen sequences of different lengths, 8
heads of keys, tiles of 64 keys. The tiles of every row are those that the compiled kernel counts
before it deals them out (`share m by 128`). Instances start in the order of the grid, each on the
multiprocessor that is free first; a figure is the tiles of the busiest of 132 over the mean. What
the merge of states costs is left out. Nothing is timed.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable
from pathlib import Path

import numpy as np

import attnc
from attnc.ir.targets import TARGETS
from attnc.passes.split import MOST

SEQUENCES, HEADS, TILE = 16, 8, 64
PROCESSORS = TARGETS["triton"].processors
TEXT = f"""
cascade decode[b, h](Q[e], K[m, e], V[m, f], len[b;]: int) -> O[f]:
    S[m] = Q[e] * K[m, e] where m < len[b]
    A[m] = softmax[m](S[m])
    O[f] = A[m] * V[m, f]

schedule decode:
    share m by {min(MOST, PROCESSORS)}
    tile m by {TILE}
    tile h by 1
"""
HEAD = """\
# How evenly a decode step divides

Written by benchmarks/shares.py: tiles of the busiest of {processors} multiprocessors over the mean,
instances of the grid in order, merges left out; behind it the states that are merged. {sequences}
sequences, {heads} heads of keys, tiles of {tile} keys.

| lengths | tiles | whole rows | split in 4 | split in 16 | shares |
| --- | ---: | ---: | ---: | ---: | ---: |
"""


def lengths() -> dict[str, np.ndarray]:
    """Batches of sequences, by what they are."""
    draw = np.random.default_rng(0)
    return {
        "all 16k": np.full(SEQUENCES, 16 * 1024),
        "1k to 32k at random": draw.integers(1024, 32 * 1024, SEQUENCES),
        "one of 64k, fifteen of 1k": np.array([64 * 1024, *[1024] * (SEQUENCES - 1)]),
        "4k, one in four 32k": np.where(np.arange(SEQUENCES) % 4 == 0, 32 * 1024, 4 * 1024),
    }


def busiest(instances: Iterable[int]) -> int:
    """The work of the busiest processor, if each instance in turn goes to the one that is free."""
    free = [0] * PROCESSORS
    for work in instances:
        heapq.heapreplace(free, free[0] + work)
    return max(free)


def divided(rows: np.ndarray, parts: int) -> Iterable[int]:
    """The tiles of each part of each row."""
    for count in rows.tolist():
        each = -(-count // parts)
        yield from (max(0, min(each, count - part * each)) for part in range(parts))


def counted(kernel: attnc.calling.Compiled, given: np.ndarray) -> tuple[np.ndarray, list[int], int]:
    """The tiles of every row and of every walker, and the states stored, from a call."""
    shape = (SEQUENCES, HEADS, int(given.max()), 1)
    keys = np.zeros(shape, np.float32)
    kernel(np.zeros((SEQUENCES, HEADS, 1), np.float32), keys, keys, given.astype(np.int32))
    tables = {name.rsplit("_", 1)[1]: table for name, table in kernel.runner.lists.items()}
    ends, walks = tables["ends"], list(zip(tables["first"], tables["last"]))
    share = -(-int(ends[-1]) // len(tables["first"]))
    own = [
        min(int(ends[last]), (walker + 1) * share) - max(int(ends[first]), walker * share)
        for walker, (first, last) in enumerate(walks)
        if first < last
    ]
    return np.diff(ends), own, sum(int(last - first) for first, last in walks)


def main() -> None:
    kernel = attnc.compile(attnc.parse(TEXT)["decode"])
    lines = []
    for name, given in lengths().items():
        rows, shares, states = counted(kernel, given)
        mean = rows.sum() / PROCESSORS
        figures = [f"{busiest(divided(rows, 1)) / mean:.2f}"]
        for parts in (4, 16):
            figures.append(f"{busiest(divided(rows, parts)) / mean:.2f}, {parts * len(rows)}")
        figures.append(f"{busiest(shares) / mean:.2f}, {states}")
        lines.append(f"| {name} | {rows.sum()} | {' | '.join(figures)} |")
    page = HEAD.format(processors=PROCESSORS, sequences=SEQUENCES, heads=HEADS, tile=TILE)
    page += "\n".join(lines) + "\n"
    print(page)
    Path(__file__).with_suffix(".md").write_text(page, encoding="utf-8")


if __name__ == "__main__":
    main()
