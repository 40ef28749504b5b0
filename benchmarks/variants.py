"""What FuseMax's machine makes of mechanisms that its paper does not have.

    python benchmarks/variants.py        prints the tables and writes variants.md and docs/figures

Sizes are BERT's (64 sequences, 12 heads, 64 wide) unless a table says otherwise. Times are given as
multiples of what the two matrix products of attention alone take on the large array, so that 1 is
the least that attention without a mask can take.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from attnc import load, optimize, parse
from attnc.accelerators import machine
from attnc.ir.cascade import Cascade
from attnc.ir.params import with_params
from attnc.modelling import extents, own_cascade
from attnc.passes.accelerator.model import Modelled
from attnc.passes.accelerator.model import model as modelled

HERE = Path(__file__).resolve().parent
FIGURES = HERE.parent / "docs" / "figures"
MACHINE = machine("fusemax")
LENGTHS = {"1K": 1 << 10, "4K": 1 << 12, "16K": 1 << 14, "64K": 1 << 16, "256K": 1 << 18}
HEADS, WIDTH = 64 * 12, 64
CHUNKS = """
cascade linear_chunk[b, h](Q[t, e], K[t, e], V[t, f]) -> O[n, c, f]:
    param C: int = 256
    rank c = C
    rank j = C
    rank n = ceil(|t| / C)
    W[n, c, j]   = Q[n * C + c, e] * K[n * C + j, e] where j <= c
    I[n, c, f]   = W[n, c, j] * V[n * C + j, f]
    H[n, e, f]   = K[n * C + j, e] * V[n * C + j, f]
    S[0, e, f]   = 0
    S[n+1, e, f] = S[n, e, f] + H[n, e, f]
    X[n, c, f]   = Q[n * C + c, e] * S[n, e, f]
    O[n, c, f]   = I[n, c, f] + X[n, c, f]
"""
STEPS = """
cascade linear_steps[b, h](Q[t, e], K[t, e], V[t, f]) -> O[t, f]:
    S[0, e, f]   = 0
    S[t+1, e, f] = S[t, e, f] + K[t, e] * V[t, f]
    O[t, f]      = Q[t, e] * S[t+1, e, f]
"""
LATE = """
cascade differential[b, h](Q1[p, e], K1[m, e], Q2[p, e], K2[m, e], V[m, f], lam[;]) -> O[p, f]:
    S1[p, m] = Q1[p, e] * K1[m, e] / sqrt(|e|)
    S2[p, m] = Q2[p, e] * K2[m, e] / sqrt(|e|)
    A1[p, m] = softmax[m](S1[p, m])
    A2[p, m] = softmax[m](S2[p, m])
    T1[p, f] = A1[p, m] * V[m, f]
    T2[p, f] = A2[p, m] * V[m, f]
    O[p, f]  = T1[p, f] - lam[] * T2[p, f]
"""


@dataclass(frozen=True, slots=True)
class Series:
    """Named curves over common places."""

    name: str
    title: str
    across: str
    up: str
    places: Sequence[str]
    curves: dict[str, list[float]]


def example(name: str) -> Cascade:
    return next(iter(load(str(HERE.parent / "examples" / f"{name}.attn")).cascades.values()))


def derived(cascade: Cascade) -> Cascade:
    """The optimised form, its tiles as wide as the array."""
    found = optimize(cascade)
    return with_params(found, {"M0": 256} if any(p.name == "M0" for p in found.params) else {})


def attention(cascade: Cascade, length: int, **sizes: int) -> Modelled:
    return modelled(cascade, MACHINE, extents(cascade, "bert", {"m": length, **sizes}))


def ideal(length: int) -> float:
    """Seconds of the two products of attention on the large array."""
    return 2 * HEADS * length**2 * WIDTH / 65536 / MACHINE.clock


def by_length(forms: dict[str, Cascade]) -> dict[str, list[float]]:
    return {
        name: [attention(form, n).latency / ideal(n) for n in LENGTHS.values()]
        for name, form in forms.items()
    }


def over_lengths(name: str, title: str, forms: dict[str, Cascade]) -> Series:
    return Series(name, title, "tokens", "time, products = 1", [*LENGTHS], by_length(forms))


def sigmoid() -> Series:
    return over_lengths(
        "sigmoid", "Sigmoid attention",
        {"softmax, one pass": own_cascade("fusemax"), "sigmoid": example("sigmoid")},
    )  # fmt: skip


def causal() -> Series:
    return over_lengths(
        "causal", "Causal masks",
        {"no mask": derived(example("attention")), "causal, derived": derived(example("causal")),
         "causal, as written": example("causal")},
    )  # fmt: skip


def two_pass() -> Series:
    return over_lengths(
        "two-pass", "Two passes",
        {"one pass": own_cascade("fusemax"), "two passes": example("attention_two_pass"),
         "three passes": example("attention")},
    )  # fmt: skip


def differential() -> Series:
    return over_lengths(
        "differential", "Differential attention",
        {"softmax": derived(example("attention")),
         "differential, as in the example": derived(example("differential")),
         "its factor at the end": derived(next(iter(parse(LATE).cascades.values())))},
    )  # fmt: skip


def decode() -> Series:
    """One token of 32 query heads against 64K cached ones: milliseconds."""
    heads = (1, 2, 4, 8, 16, 32)
    cascade = derived(example("gqa"))
    found = [
        modelled(
            cascade, MACHINE, {"b": 64, "h": 32, "g": g, "p": 1, "m": 1 << 16, "e": 64, "f": 64}
        )
        for g in heads
    ]
    arrays = [max(one.utilization.values()) * one.latency * 1e3 for one in found]
    return Series(
        "decode", "Grouped queries, one token", "heads of keys", "milliseconds",
        [str(g) for g in heads],
        {"latency": [one.latency * 1e3 for one in found], "busiest array": arrays},
    )  # fmt: skip


def chunks() -> Series:
    """Linear attention over 64K tokens: milliseconds by the size of a chunk."""
    sizes = (16, 32, 64, 128, 256, 512, 1024)
    given = {"b": 64, "h": 12, "t": 1 << 16, "e": 64, "f": 64}
    chunk, steps = (next(iter(parse(text).cascades.values())) for text in (CHUNKS, STEPS))
    alone = modelled(steps, MACHINE, given).latency * 1e3
    found = [modelled(with_params(chunk, {"C": c}), MACHINE, given) for c in sizes]
    moved = [one.dram_bytes / MACHINE.memory.bandwidth * 1e3 for one in found]
    return Series(
        "chunks", "Linear attention in chunks", "tokens of a chunk", "milliseconds",
        [str(c) for c in sizes],
        {"chunks": [one.latency * 1e3 for one in found], "token by token": [alone] * len(sizes),
         "memory alone": moved},
    )  # fmt: skip


def exponentials() -> Series:
    """The binding at 64K tokens with exponentials of other cost: time, products = 1."""
    cycles = (1, 2, 3, 4, 6, 8, 12)
    cascade = own_cascade("fusemax")
    sizes = extents(cascade, "bert", {"m": 1 << 16})

    def seconds(names: tuple[str, ...], count: int) -> float:
        arrays = {
            name: replace(array, cycles={**array.cycles, "exp": float(count)})
            if name in names
            else array
            for name, array in MACHINE.arrays.items()
        }
        return modelled(cascade, replace(MACHINE, arrays=arrays), sizes).latency / ideal(1 << 16)

    return Series(
        "exponentials", "An exp unit", "cycles of an exponential", "time, products = 1",
        [str(c) for c in cycles],
        {"both arrays": [seconds(("pe2d", "pe1d"), c) for c in cycles],
         "the large one": [seconds(("pe2d",), c) for c in cycles],
         "the small one": [seconds(("pe1d",), c) for c in cycles]},
    )  # fmt: skip


SERIES = (sigmoid, causal, decode, chunks, two_pass, exponentials, differential)


def table(series: Series) -> str:
    """The curves in Markdown."""
    lines = [
        f"| {series.across} | {' | '.join(series.places)} |",
        f"|{' --- |' * (len(series.places) + 1)}",
    ]
    for name, values in series.curves.items():
        lines.append(f"| {name} | {' | '.join(f'{value:.4g}' for value in values)} |")
    return "\n".join(lines)


def draw(series: Series) -> None:
    """One small figure, the same bytes for the same numbers."""
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams.update({"svg.fonttype": "none", "svg.hashsalt": "attnc", "font.size": 8})
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(4.6, 2.6))
    for name, values in series.curves.items():
        axes.plot(range(len(values)), values, "o-", markersize=3, label=name)
    axes.set_xticks(range(len(series.places)), series.places)
    axes.set_ylim(bottom=0)
    axes.set_xlabel(series.across)
    axes.set_ylabel(series.up)
    axes.set_title(series.title, fontsize=9)
    axes.legend(fontsize=7)
    figure.tight_layout()
    FIGURES.mkdir(exist_ok=True)
    metadata: Any = {"Date": None, "Creator": None}
    figure.savefig(FIGURES / f"{series.name}.svg", metadata=metadata)
    pyplot.close(figure)


def main() -> None:
    found = [one() for one in SERIES]
    parts = [f"## {series.title}\n\n{series.up}\n\n{table(series)}\n" for series in found]
    text = (
        "# Other mechanisms on FuseMax's machine\n\nPrinted by `python benchmarks/variants.py`.\n"
    )
    text += "\n" + "\n".join(parts)
    print(text)
    (HERE / "variants.md").write_text(text, encoding="utf-8")
    for series in found:
        draw(series)


if __name__ == "__main__":
    main()
