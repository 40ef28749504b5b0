"""FuseMax's published figures beside what the model computes from specification and machine.

    python benchmarks/fusemax.py

The tables of the paper's artifact (Nayak et al., MICRO 2024; MIT licence) lie in data/fusemax.
Latency, DRAM bytes and utilisation are compared row by row, energy too: as the artifact counts, by
what the machine files say that it leaves out, and with everything counted. The linear layers around
attention are modelled from their own specification. Also printed: the mean speed-ups and energies
over all models and lengths, the mappings that a search finds, and latency and area as the arrays
grow. Writes benchmarks/fusemax.md and, if matplotlib is there, figures to build/fusemax.
"""

from __future__ import annotations

import csv
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from statistics import fmean
from time import perf_counter
from typing import Any

from attnc import CallError
from attnc.accelerators import machine, workload
from attnc.ir.cascade import Cascade
from attnc.ir.machine import Machine, Mapping
from attnc.ir.params import with_params
from attnc.modelling import best, compared, extents, model, own_cascade, plot, shipped_cascade
from attnc.passes.accelerator.area import area
from attnc.passes.accelerator.model import Modelled
from attnc.passes.accelerator.model import model as modelled

HERE = Path(__file__).resolve().parent
DATA = HERE / "data" / "fusemax"
CONFIGURATIONS = {
    "unfused": "unfused",
    "flat": "flat",
    "cascade": "flat-cascade",
    "arch": "fusemax-unpipelined",
    "binding": "fusemax",
}
MODELS = ("bert", "trxl", "t5", "xlm")
LENGTHS = {
    "1K": 1 << 10,
    "4K": 1 << 12,
    "16K": 1 << 14,
    "64K": 1 << 16,
    "256K": 1 << 18,
    "1M": 1 << 20,
}
PUBLISHED = {
    "unfused": (10.052, 0.767, 7.602, 0.821),
    "flat": (6.7226, 0.7875, 5.3017, 0.8335),
    "flat-cascade": (7.342, 0.867, 5.643, 0.893),
    "fusemax-unpipelined": (3.026, 1.000, 2.489, 1.000),
}
"""Means of FuseMax against the others: speed-up and energy of attention, then end to end."""


def rows(name: str) -> list[dict[str, str]]:
    with (DATA / f"{name}.csv").open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


@cache
def on(name: str, load: str, length: int) -> Modelled:
    return model(own_cascade(name), name, load, {"m": length})


@cache
def layer(name: str, tokens: int, inner: int, outer: int) -> Modelled:
    """One linear layer on the large array of a machine, its weights kept in the buffer if they
    take no more than half of it."""
    found = machine(name)
    fits = inner * outer * found.word <= found.buffers[0].size / 2
    hold = {"W": found.buffers[0].name} if fits else {}
    mapping = Mapping("linear", "t", "o", {"pe2d": ("t", "o")}, {"Y": "pe2d"}, hold=hold)
    sizes = {"t": tokens, "i": inner, "o": outer}
    return modelled(shipped_cascade("linear"), replace(found, mapping=mapping), sizes)


def around(name: str, load: str, length: int) -> tuple[float, float, float]:
    """Seconds, bytes and picojoules of the linear layers: three projections in, one out, two of the
    feed-forward network."""
    w = workload(load)
    tokens, heads = w["b"] * length, w["h"] * w["e"]
    shapes = [(w["d"], heads)] * 3 + [(heads, w["d"]), (w["d"], w["s"]), (w["s"], w["d"])]
    layers = [layer(name, tokens, *shape) for shape in shapes]
    return (
        sum(one.latency for one in layers),
        sum(one.dram_bytes for one in layers),
        sum(one.energy["total"] for one in layers),
    )


def table(heads: list[str], lines: list[list[str]]) -> list[str]:
    """Markdown, the first column to the left."""
    found = [f"| {' | '.join(heads)} |", f"| --- |{' ---: |' * (len(heads) - 1)}"]
    return found + [f"| {' | '.join(line)} |" for line in lines]


def reproduced() -> list[str]:
    heads = ["configuration", "rows", "latency", "DRAM bytes", "use, 2D", "use, 1D",
             "energy, as the artifact counts", "energy, all of it"]  # fmt: skip
    lines = []
    for published, name in CONFIGURATIONS.items():
        worst = [0.0] * 6
        found = rows(f"attn-{published}")
        for row in found:
            own = on(name, row["model"].lower(), LENGTHS[row["seq_len"]])
            pairs = (
                (own.latency, "latency"),
                (own.dram_bytes, "traffic"),
                (own.utilization["pe2d"], "util_2d"),
                (own.utilization["pe1d"], "util_1d"),
                (own.energy_artifact["total"], "energy"),
                (own.energy["total"], "energy"),
            )
            apart = [value / float(row[key]) - 1 for value, key in pairs]
            worst = [max(a, b, key=abs) for a, b in zip(worst, apart)]
        told = [f"{abs(value):.1g}" for value in worst[:4]] + [f"{v:+.2%}" for v in worst[4:]]
        lines.append([name, str(len(found)), *told])
    for published, name in (("flat", "flat"), ("proposal", "fusemax")):
        worst = [0.0] * 3
        found = rows(f"end2end-{published}")
        for row in found:
            values = around(name, row["model"].lower(), LENGTHS[row["seq_len"]])
            pairs = zip(values, ("latency", "traffic", "energy"))
            apart = [value / float(row[key]) - 1 for value, key in pairs]
            worst = [max(a, b, key=abs) for a, b in zip(worst, apart)]
        cells = [f"{abs(worst[0]):.1g}", f"{abs(worst[1]):.1g}", "", "", "", f"{worst[2]:+.2%}"]
        lines.append([f"linear layers, {name}", str(len(found)), *cells])
    return table(heads, lines)


def mean(name: str, value: Callable[[str, str, int], float]) -> float:
    """The mean over all models and lengths of a machine's value divided by FuseMax's."""
    points = [(load, length) for load in MODELS for length in LENGTHS.values()]
    return fmean(
        value(name, load, length) / value("fusemax", load, length) for load, length in points
    )


def headlines() -> list[str]:
    def alone(name: str, load: str, length: int) -> float:
        return on(name, load, length).latency

    def whole(name: str, load: str, length: int) -> float:
        return alone(name, load, length) + around(name, load, length)[0]

    heads = ["FuseMax against", "attention", "published", "end to end", "published"]
    lines = []
    for name, (attention, _, end, _) in PUBLISHED.items():
        own = [f"{mean(name, value):.4f}" for value in (alone, whole)]
        lines.append([name, own[0], f"{attention:g}", own[1], f"{end:g}"])
    return table(heads, lines)


def energies() -> list[str]:
    def ratio(name: str, count: str, linear: bool) -> float:
        def energy(on_: str, load: str, length: int) -> float:
            one = on(on_, load, length)
            found = one.energy if count == "all" else one.energy_artifact
            own = "fusemax" if on_.startswith("fusemax") else "flat"
            return found["total"] + (around(own, load, length)[2] if linear else 0.0)

        points = [(load, length) for load in MODELS for length in LENGTHS.values()]
        return fmean(energy("fusemax", *point) / energy(name, *point) for point in points)

    heads = ["FuseMax's energy of that of", "attention", "as the artifact counts", "published",
             "end to end", "as the artifact counts", "published"]  # fmt: skip
    lines = []
    for name, (_, attention, _, end) in PUBLISHED.items():
        own = [f"{ratio(name, c, w):.3f}" for w in (False, True) for c in ("all", "artifact")]
        lines.append([name, *own[:2], f"{attention:g}", *own[2:], f"{end:g}"])
    return table(heads, lines)


def searched() -> list[str]:
    """What a search finds, without anything typed in, for BERT."""
    heads = ["machine", "length", "tiles", "tiles of rows held", "K and V read", "latency, s",
             "published", "any M0", "latency, s"]  # fmt: skip
    lines = []
    for name in ("fusemax", "flat-cascade", "unfused", "flat"):
        for label, length in LENGTHS.items():
            cascade = own_cascade(name)
            kept = frozenset(param.name for param in cascade.params)
            own = best(cascade, name, "bert", {"m": length}, kept)
            _, held, tiles = own.stays[-1]
            cells = [f"{own.modelled.latency:.6g}", f"{on(name, 'bert', length).latency:.6g}"]
            free = ["", ""]
            if kept:
                wide = best(cascade, name, "bert", {"m": length})
                free = [str(wide.params["M0"]), f"{wide.modelled.latency:.6g}"]
            lines.append(
                [name, label, str(tiles), str(held), f"{tiles / held:g} times", *cells, *free]
            )
    return table(heads, lines)


def sized(side: int) -> Machine:
    """FuseMax's machine with arrays of another size, and a buffer in proportion."""
    known = machine("fusemax")
    arrays = {
        name: replace(array, shape=tuple(side for _ in array.shape))
        for name, array in known.arrays.items()
    }
    levels = tuple(
        replace(v, size=v.size * side / 256) if v in known.buffers else v for v in known.levels
    )
    return replace(known, arrays=arrays, levels=levels)


def at_side(cascade: Cascade, side: int) -> Modelled:
    """The binding on arrays of a size at 256K tokens of BERT. The published sweep holds no more
    rows than keep memory from being the bound."""
    known = sized(side)
    assert known.mapping is not None
    sizes = extents(cascade, "bert", {"m": LENGTHS["256K"]})
    held = 2
    while True:
        mapping = replace(known.mapping, held=held)
        found = modelled(with_params(cascade, {"M0": side}), replace(known, mapping=mapping), sizes)
        if found.bound != "dram":
            return found
        held *= 2


def grown() -> list[str]:
    heads = ["array", "latency, s", "published", "DRAM bytes", "published", "area, mm^2",
             "published"]  # fmt: skip
    lines = []
    for row in rows("pareto"):
        if row["accel"] != "proposal" or row["model"] != "BERT":
            continue
        side = int(row["PE_dim"])
        found = at_side(own_cascade("fusemax"), side)
        lines.append(
            [f"{side} x {side}", f"{found.latency:.8g}", f"{float(row['latency']):.8g}",
             f"{found.dram_bytes:.8g}", f"{float(row['traffic']):.8g}",
             f"{area(sized(side))['total'] / 1e6:.5g}", f"{float(row['area']) / 1e6:.5g}"]
        )  # fmt: skip
    return table(heads, lines)


def figures() -> str:
    """The paper's figures, by model and length: speed-up, energy, use of the arrays, share of the
    large array by Einsum, and area against latency."""
    folder = HERE.parent / "build" / "fusemax"
    folder.mkdir(parents=True, exist_ok=True)
    found = [on(name, "bert", LENGTHS["64K"]) for name in CONFIGURATIONS.values()]
    for ending in ("svg", "png"):
        plot(found, str(folder / f"bert-64k.{ending}"))
    from matplotlib import pyplot

    points = [(load, label, length) for load in MODELS for label, length in LENGTHS.items()]
    every = {
        name: [on(name, load, length) for load, _, length in points]
        for name in CONFIGURATIONS.values()
    }
    first = every["unfused"]
    shown = {
        "speed-up over unfused": lambda one, base: base.latency / one.latency,
        "energy over unfused": lambda one, base: one.energy["total"] / base.energy["total"],
        "use of the 2D array": lambda one, base: one.utilization["pe2d"],
        "use of the 1D array": lambda one, base: one.utilization["pe1d"],
    }
    labels = [f"{load} {label}" for load, label, _ in points]
    for title, value in shown.items():
        figure, axes = pyplot.subplots(figsize=(11, 3))
        for number, (name, row) in enumerate(every.items()):
            places = [place + 0.16 * (number - 2) for place in range(len(points))]
            axes.bar(places, [value(o, b) for o, b in zip(row, first)], 0.16, label=name)
        axes.set_xticks(range(len(points)), labels, rotation=90)
        axes.set_ylabel(title)
        axes.legend(fontsize=7)
        saved(figure, folder, title)
    figure, axes = pyplot.subplots(figsize=(7, 3))
    below = [0.0] * len(points)
    for einsum in ("BQK", "LM", "SLN", "SLD", "SLNV"):
        shares = [
            one.einsums[einsum] / one.latency / machine("fusemax").clock for one in every["fusemax"]
        ]
        axes.bar(range(len(points)), shares, bottom=below, label=einsum)
        below = [a + b for a, b in zip(below, shares)]
    axes.set_xticks(range(len(points)), labels, rotation=90)
    axes.legend(fontsize=7)
    saved(figure, folder, "share of the 2D array")
    figure, axes = pyplot.subplots(figsize=(5, 3))
    sides = [int(r["PE_dim"]) for r in rows("pareto") if r["model"] == "BERT"]
    own = [(area(sized(side))["total"], at_side(own_cascade("fusemax"), side)) for side in sides]
    axes.loglog([a / 1e6 for a, _ in own], [one.latency for _, one in own], "o-", label="BERT")
    published = [r for r in rows("pareto") if r["model"] == "BERT"]
    axes.loglog(
        [float(r["area"]) / 1e6 for r in published],
        [float(r["latency"]) for r in published],
        "x", label="published",
    )  # fmt: skip
    axes.set_xlabel("area, mm^2")
    axes.set_ylabel("latency, s")
    axes.legend(fontsize=7)
    saved(figure, folder, "area and latency")
    return compared(found)


def saved(figure: Any, folder: Path, title: str) -> None:
    figure.tight_layout()
    for ending in ("svg", "png"):
        figure.savefig(folder / f"{title.replace(' ', '-')}.{ending}")


def main() -> None:
    start = perf_counter()
    lines = [
        "# FuseMax from its specification",
        "",
        "Largest relative difference from the published rows (BERT and TrXL, 1K to 1M tokens).",
        "",
        *reproduced(),
        "",
        "The published energies leave out some words and operations; the machine files say which,",
        "under `mapping.artifact`. Prices of the buffer follow from the published linear layers.",
        "",
        "Mean speed-up over BERT, TrXL, T5 and XLM at six lengths. Some linear layers of T5 wait",
        "for memory, so they take longer than their multiply-adds on the array.",
        "",
        *headlines(),
        "",
        "Mean energy:",
        "",
        *energies(),
        "",
        "What a search finds for BERT, with the published M0 and with any. It is given nothing of",
        "the published residency.",
        "",
        *searched(),
        "",
        "+Binding at 256K tokens of BERT as the arrays grow, the buffer with them:",
        "",
        *grown(),
    ]
    text = "\n".join(lines) + "\n"
    (HERE / "fusemax.md").write_text(text, encoding="utf-8")
    print(text)
    try:
        print(figures())
    except CallError as error:
        print(f"no figures: {error}")
    print(f"{perf_counter() - start:.1f} s")


if __name__ == "__main__":
    main()
