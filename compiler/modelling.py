"""`attnc model`: what a specification costs on a described accelerator."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from importlib.resources import files
from typing import Any

from attnc.accelerators import machine, workload
from attnc.ir.cascade import Cascade
from attnc.ir.source import CallError
from attnc.modules import parse
from attnc.passes.accelerator import Modelled
from attnc.passes.accelerator import model as modelled

WIDTHS = ("d", "s")
"""Keys of a workload that are no ranks of attention: the widths of the linear layers around it."""


def own_cascade(name: str) -> Cascade:
    """The cascade that the mapping of a machine is written for.

    Raises CallError where a machine has no mapping.
    """
    found = machine(name).mapping
    if found is None or not found.cascade:
        raise CallError(f"{name} has no cascade of its own: give a specification")
    text = (files("attnc") / "machines" / f"{found.cascade}.attn").read_text(encoding="utf-8")
    return parse(text, f"{found.cascade}.attn")[found.cascade]


def model(
    cascade: Cascade, machine_name: str, workload_name: str = "", sizes: Mapping[str, int] = {}
) -> Modelled:
    """Latency, traffic, energy and utilisation of a cascade on a machine, shipped or a TOML file.

    Extents come from the workload, then from `sizes`; queries are as many as keys unless given. The
    machine's own mapping is taken where it binds the Einsums of this cascade, else one is derived.
    Raises CompileError for a machine, a workload or a mapping at fault.
    """
    known: dict[str, int] = {}
    if workload_name:
        known = {k: v for k, v in workload(workload_name).items() if k not in WIDTHS}
    known.update(sizes)
    if "m" in known and "p" not in known:
        known["p"] = known["m"]
    ranks = {rank for tensor in cascade.inputs for rank in tensor.ranks}
    extra = {rank: 1 for rank in cascade.batch if rank not in known}
    chosen = {rank: size for rank, size in {**extra, **known}.items() if rank in ranks}
    return modelled(cascade, machine(machine_name), chosen)


def record(found: Modelled) -> dict[str, Any]:
    """What `--json` prints."""
    return asdict(found)


def table(found: Modelled) -> str:
    """A page for people."""
    lines = [
        f"{found.cascade} on {found.machine}",
        "",
        f"  latency      {found.latency:.6g} s, bound by {found.bound}",
        f"  memory       {found.dram_bytes:.6g} bytes",
        f"  energy       {found.energy['total']:.6g} pJ, {found.energy['dram']:.4g} of it memory",
    ]
    lines += [
        f"  {name:<12} busy {share:.1%} of the time" for name, share in found.utilization.items()
    ]
    width = max(len(name) for name in found.einsums)
    lines += ["", f"  {'Einsum':<{width}}  {'array':<8} {'cycles':>16}"]
    lines += [
        f"  {name:<{width}}  {found.arrays[name]:<8} {count:>16,.0f}"
        for name, count in found.einsums.items()
    ]
    return "\n".join(lines)


def compared(found: list[Modelled]) -> str:
    """Machines side by side, the first being 1."""
    first = found[0]
    head = f"  {'machine':<20} {'latency, s':>12} {'speed-up':>9} {'bytes':>12} {'energy, pJ':>12}"
    lines = [f"{head} bound by"]
    for one in found:
        lines.append(
            f"  {one.machine:<20} {one.latency:>12.6g} {first.latency / one.latency:>9.2f} "
            f"{one.dram_bytes:>12.5g} {one.energy['total']:>12.5g} {one.bound}"
        )
    return "\n".join(lines)


def plot(found: list[Modelled], path: str) -> None:
    """Cycles of each Einsum by array, as a figure; the ending of the path says its format.

    Raises CallError where matplotlib is not installed.
    """
    try:
        import matplotlib
    except ImportError:
        raise CallError("a figure needs matplotlib: pip install 'attnc[plots]'") from None
    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7, 0.6 + 0.5 * sum(len(f.utilization) for f in found)))
    labels: list[str] = []
    for one in found:
        for array in one.utilization:
            row, start = len(labels), 0.0
            labels.append(f"{one.machine}\n{array}")
            for name, count in one.einsums.items():
                if one.arrays[name] == array and one.latency:
                    axes.barh(row, count, left=start)
                    if count > 0.02 * sum(one.einsums.values()):
                        axes.text(
                            start + count / 2, row, name, ha="center", va="center", fontsize=6
                        )
                    start += count
    axes.set_yticks(range(len(labels)), labels, fontsize=7)
    axes.invert_yaxis()
    axes.set_xlabel("cycles")
    figure.tight_layout()
    figure.savefig(path)
    pyplot.close(figure)
