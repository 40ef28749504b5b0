"""`attnc model`: what a specification costs on a described accelerator."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, replace
from functools import cache
from importlib.resources import files
from typing import Any

from attnc.accelerators import machine, workload
from attnc.ir.cascade import Cascade
from attnc.ir.source import CallError
from attnc.modules import parse
from attnc.passes.accelerator.model import Modelled, formulas
from attnc.passes.accelerator.model import model as modelled
from attnc.passes.accelerator.search import Choice, search

WIDTHS = ("d", "s")
"""Keys of a workload that are no ranks of attention: the widths of the linear layers around it."""


def own_cascade(name: str) -> Cascade:
    """The cascade that the mapping of a machine is written for.

    Raises CallError where a machine has no mapping.
    """
    found = machine(name).mapping
    if found is None or not found.cascade:
        raise CallError(f"{name} has no cascade of its own: give a specification")
    return shipped_cascade(found.cascade)


@cache
def shipped_cascade(name: str) -> Cascade:
    """A cascade that comes with the machines: attention, fusemax, linear."""
    text = (files("attnc") / "machines" / f"{name}.attn").read_text(encoding="utf-8")
    return parse(text, f"{name}.attn")[name]


def model(
    cascade: Cascade, machine_name: str, workload_name: str = "", sizes: Mapping[str, int] = {},
    accounting: str = "honest",
) -> Modelled:  # fmt: skip
    """Latency, traffic, energy and utilisation of a cascade on a machine, shipped or a TOML file.

    Extents come from the workload, then from `sizes`; queries are as many as keys unless given. The
    machine's own mapping is taken where it binds the Einsums of this cascade, else one is derived.
    With `accounting="artifact"` the energy leaves out what the mapping says that published figures
    do. Raises CompileError for a machine, a workload or a mapping at fault.
    """
    found = modelled(cascade, machine(machine_name), extents(cascade, workload_name, sizes))
    if accounting != "artifact":
        return found
    if not found.energy_artifact:
        raise CallError(f"{machine_name} says of no published energies what they leave out")
    return replace(found, energy=found.energy_artifact)


def best(
    cascade: Cascade, machine_name: str, workload_name: str = "", sizes: Mapping[str, int] = {},
    fixed: frozenset[str] = frozenset(),
) -> Choice:  # fmt: skip
    """The best mapping of a cascade on a machine; parameters in `fixed` keep their value."""
    return search(cascade, machine(machine_name), extents(cascade, workload_name, sizes), fixed)


def extents(
    cascade: Cascade, workload_name: str = "", sizes: Mapping[str, int] = {}
) -> dict[str, int]:
    """The extents of a cascade's input ranks: those of a workload, then those given."""
    known: dict[str, int] = {}
    if workload_name:
        known = {k: v for k, v in workload(workload_name).items() if k not in WIDTHS}
    known.update(sizes)
    if "m" in known and "p" not in known:
        known["p"] = known["m"]
    ranks = {rank for tensor in cascade.inputs for rank in tensor.ranks}
    extra = {rank: 1 for rank in cascade.batch if rank not in known}
    return {rank: size for rank, size in {**extra, **known}.items() if rank in ranks}


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
        f"  energy       {found.energy['total']:.6g} pJ: " + parts(found.energy),
    ]
    if found.energy_artifact and found.energy_artifact is not found.energy:
        lines.append(
            f"               {found.energy_artifact['total']:.6g} pJ as published energies count"
        )
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


def parts(energy: Mapping[str, float]) -> str:
    """Shares of the energy by component, those that cost nothing left out."""
    total = energy["total"] or 1.0
    shares = {name: value / total for name, value in energy.items() if name != "total" and value}
    return ", ".join(f"{name} {share:.1%}" for name, share in shares.items()) or "none is known"


def roofline(found: Modelled) -> str:
    """How long each array and level is needed, the bound first, and by which Einsum most."""
    lines = [
        f"{found.cascade} on {found.machine}: {found.latency:.6g} s, bound by {found.bound}",
        "",
        f"  {'needs':<10} {'seconds':>12} {'share':>7} {'operations/byte':>16}  most for",
    ]
    for demand in found.demands:
        intensity = f"{demand.intensity:.4g}" if demand.intensity else ""
        lines.append(
            f"  {demand.resource:<10} {demand.seconds:>12.6g} "
            f"{demand.seconds / found.latency:>7.1%} {intensity:>16}  {demand.einsum}"
        )
    return "\n".join(lines)


def choice(found: Choice) -> dict[str, Any]:
    """What `--search --json` adds: tile sizes, axes, what is held, and tiles of rows by buffer."""
    return {
        "params": found.params,
        "space": {array: list(ranks) for array, ranks in found.mapping.space.items()},
        "hold": dict(found.mapping.hold),
        "held": [{"level": level, "tiles": held, "of": of} for level, held, of in found.stays],
    }


def searched(found: Choice) -> str:
    """What a search chose, and the page of the mapping that it is."""
    lines = [table(found.modelled), ""]
    lines += [f"  {name} = {value}" for name, value in found.params.items()]
    lines += [
        f"  {array} takes {' x '.join(ranks)}"
        for array, ranks in found.mapping.space.items()
        if ranks
    ]
    for level, held, tiles in found.stays:
        lines.append(
            f"  {level} keeps {held} of {tiles} tiles of {found.mapping.rows}: "
            f"what is streamed comes in {tiles / held:g} times"
        )
    for level in dict.fromkeys(found.mapping.hold.values()):
        names = [name for name, place in found.mapping.hold.items() if place == level]
        lines.append(f"  {level} holds {', '.join(names)} from end to end")
    counts = f"{found.tried} mappings tried, {found.too_large} too large"
    lines.append(f"  {counts}, {found.pruned} worse by their bound")
    return "\n".join(lines)


def symbolic(
    cascade: Cascade, machine_name: str, workload_name: str, sizes: Mapping[str, int]
) -> str:
    """Cycles, words and seconds as formulas in the extents that are not given."""
    known = (workload(workload_name) if workload_name else {}) | dict(sizes)
    ranks = {rank for tensor in cascade.inputs for rank in tensor.ranks}
    given = {rank: size for rank, size in known.items() if rank in ranks}
    found = formulas(cascade, machine(machine_name), given)
    width = max(len(name) for name in (*found.einsums, *found.words))
    lines = [f"{cascade.name} on {machine_name}", ""]
    lines += [f"  {name:<{width}}  {amount} cycles" for name, amount in found.einsums.items()]
    lines.append("")
    lines += [f"  {name:<{width}}  {amount} words" for name, amount in found.words.items()]
    return "\n".join([*lines, "", f"  latency  {found.latency} s"])


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
