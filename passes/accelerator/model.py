"""What a cascade costs on a described accelerator: cycles, traffic, energy, utilisation.

The cycles of an Einsum are those of its operations at every tile of its iteration space, the
ranks along the axes of its array taken so many positions at once. Einsums of one group share the
machine: the group takes as long as its busiest array. A phase takes as long as its groups one after
another, or as the traffic of its busiest level, whichever is longer. Nothing here knows what the
cascade computes. The method is that of Timeloop (Parashar et al., ISPASS 2019), the bindings are
FuseMax's (MICRO 2024).

A constant factor of a product is folded into an operand as it is loaded and costs nothing.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from attnc.ir.cascade import Cascade
from attnc.ir.machine import Artifact, Machine, Mapping
from attnc.passes.accelerator.amounts import Amount, larger, told, whole
from attnc.passes.accelerator.binding import mapped
from attnc.passes.accelerator.compute import Work, groups, work
from attnc.passes.accelerator.problem import Problem
from attnc.passes.accelerator.traffic import Flow, Moves, flows

Energy = dict[str, float]
"""Picojoules by array and by level, and their `total`."""


@dataclass(frozen=True, slots=True)
class Demand:
    """The seconds for which a cascade needs one array or level, and who needs it most."""

    resource: str
    seconds: float
    intensity: float
    einsum: str


@dataclass(frozen=True, slots=True)
class Modelled:
    """What a cascade costs: seconds, bytes, picojoules, shares of the time; cycles by Einsum.

    `bound` names the array or level that the latency waits for. `traffic` are bytes read and
    written by level, `operations` all operations by kind. `energy_artifact` is the energy without
    what the mapping says that published figures leave out, empty where it says nothing. `demands`
    are those of every array and level, `explained` has the formula of each number.
    """

    machine: str
    cascade: str
    latency: float
    dram_bytes: float
    utilization: dict[str, float]
    energy: Energy
    einsums: dict[str, float]
    arrays: dict[str, str]
    bound: str
    traffic: dict[str, dict[str, float]]
    operations: dict[str, float]
    energy_artifact: Energy
    demands: tuple[Demand, ...]
    explained: dict[str, str] = field(default_factory=dict)


def model(cascade: Cascade, machine: Machine, sizes: dict[str, int]) -> Modelled:
    """The cost of a cascade at the extents of its input ranks.

    Raises CompileError for a mapping that binds an Einsum to no array, whose groups run an Einsum
    before one that it needs, or whose tiles do not fit their level.
    """
    problem = Problem(cascade, sizes)
    return Run(problem, machine, mapped(problem, machine)).result()


@dataclass(frozen=True, slots=True)
class Formulas:
    """Costs with extents as symbols: cycles by Einsum, words read from and written to each level,
    and seconds. `held` stands for the tiles of rows that a buffer keeps at once."""

    einsums: dict[str, Amount]
    words: dict[str, Amount]
    latency: Amount


def formulas(cascade: Cascade, machine: Machine, sizes: dict[str, int]) -> Formulas:
    """The cost of a cascade where some extents are not given, as formulas in these.

    What finds no room between passes depends on numbers and counts as kept.
    """
    problem = Problem(cascade, sizes, symbolic=True)
    run = Run(problem, machine, mapped(problem, machine))
    words: dict[str, Amount] = {}
    for phase in run.flows:
        for name, flow in phase.items():
            words[name] = words.get(name, 0) + flow.words
    einsums = {name: whole(done.cycles) for name, done in run.work.items()}
    latency = whole(run.latency)
    return Formulas(einsums, {name: whole(count) for name, count in words.items()}, latency)


class Run:
    """One cascade on one machine by one mapping, phase by phase."""

    def __init__(
        self, problem: Problem, machine: Machine, mapping: Mapping,
        done: dict[str, Work] | None = None,
    ) -> None:  # fmt: skip
        self.problem, self.machine, self.mapping = problem, machine, mapping
        self.work = done or {e.target: work(problem, machine, mapping, e) for e in problem.steps}
        self.phases = mapping.phases or (tuple(self.work),)
        self.flows = [flows(problem, machine, mapping, phase, self.work) for phase in self.phases]
        cycles = {name: done.cycles for name, done in self.work.items()}
        self.busy = [groups(machine, mapping, problem, phase, cycles) for phase in self.phases]
        self.times = [self._needed(number) for number in range(len(self.phases))]

    def _needed(self, number: int) -> dict[str, Amount]:
        """Seconds that a phase needs its groups, as "", and each level that can be waited for."""
        found: dict[str, Amount] = {"": self.busy[number].cycles / self.machine.clock}
        for name, flow in self.flows[number].items():
            if flow.level.bandwidth < float("inf"):
                found[name] = flow.words * self.machine.word / flow.level.bandwidth
        return found

    @property
    def latency(self) -> Amount:
        return sum(larger(times.values()) for times in self.times)

    def result(self) -> Modelled:
        explained = {f"einsums.{name}": done.formula for name, done in self.work.items()}
        bound: dict[str, float] = {}
        many = len(self.phases) > 1
        for number, times in enumerate(self.times):
            longest = max(times, key=times.__getitem__)
            waited = self.busy[number].waited
            name = longest or max(waited, key=waited.__getitem__, default="nothing")
            bound[name] = bound.get(name, 0.0) + times[longest]
            explained[f"phases.{number}" if many else "latency"] = self._told(number, times)
            for level, flow in self.flows[number].items():
                key = f"traffic.{level}" + (f".{number}" if many else "")
                explained[key] = flow.formula(self.machine.word)
        memory = self.machine.memory.name
        for key in [key for key in explained if key.startswith(f"traffic.{memory}")]:
            explained[key.replace(f"traffic.{memory}", "dram_bytes", 1)] = explained.pop(key)
        total = self.latency * self.machine.clock
        use = {}
        for name in self.machine.arrays:
            busy = sum(self.work[e].cycles for e, a in self.mapping.bind.items() if a == name)
            use[name] = busy / total if total else 0.0
            explained[f"utilization.{name}"] = f"{busy:.0f} busy cycles of {total:.0f}"
        traffic = self._traffic()
        energy = self._energy(Artifact(), explained)
        artifact = self.mapping.artifact
        counts: dict[str, float] = {}
        for done in self.work.values():
            for kind, count in done.operations.items():
                for part in kind.split(">"):
                    counts[part] = counts.get(part, 0) + count
        return Modelled(
            self.machine.name, self.problem.cascade.name, self.latency,
            sum(traffic[memory].values()), use, energy,
            {name: done.cycles for name, done in self.work.items()}, dict(self.mapping.bind),
            max(bound, key=bound.__getitem__), traffic, counts,
            self._energy(artifact, {}) if artifact is not None else {}, self._demands(counts),
            explained,
        )  # fmt: skip

    def _told(self, number: int, times: dict[str, Amount]) -> str:
        parts = [f"{told(self.busy[number].cycles)} cycles / {self.machine.clock:.4g} Hz"]
        for name, flow in self.flows[number].items():
            if name in times:
                moved = flow.words * self.machine.word
                parts.append(f"{name} {moved:.0f} bytes / {flow.level.bandwidth:.4g} bytes/s")
        return f"max({', '.join(parts)}) = {max(times.values()):.6g} s"

    def _traffic(self) -> dict[str, dict[str, float]]:
        found = {level.name: {"read": 0.0, "written": 0.0} for level in self.machine.levels}
        for phase in self.flows:
            for name, flow in phase.items():
                found[name]["read"] += sum(flow.read.values()) * self.machine.word
                found[name]["written"] += sum(flow.written.values()) * self.machine.word
        return found

    def _energy(self, without: Artifact, explained: dict[str, str]) -> Energy:
        """Picojoules by component, without what is left out."""
        found: Energy = {}
        parts: dict[str, list[str]] = {}
        for name, done in self.work.items():
            array = self.machine.arrays[self.mapping.bind[name]]
            found.setdefault(array.name, 0.0)
            for kind, count in done.operations.items():
                each = array.energy.get(kind, 0.0)
                if name not in without.uncomputed:
                    found[array.name] += count * each
                parts.setdefault(array.name, []).append(f"{name} {count:.0f} {kind} x {each:g}")
        found = {name: found.get(name, 0.0) for name in self.machine.arrays}
        inner = self.machine.buffers[-1].name if self.machine.buffers else ""
        for level in self.machine.levels:
            skipped = level.name == inner
            read = self._counted(level.name, "read", without.unread if skipped else ())
            written = self._counted(level.name, "written", without.unwritten if skipped else ())
            word = self.machine.word
            found[level.name] = (read * level.read + written * level.write) * word
            parts[level.name] = [
                f"{read:.0f} words read x {level.read * word:g}",
                f"{written:.0f} written x {level.write * word:g}",
            ]
        for name, terms in parts.items():
            explained[f"energy.{name}"] = " + ".join(terms) + f" = {found[name]:.6g} pJ"
        found["total"] = sum(found.values())
        explained["energy.total"] = " + ".join(
            f"{name} {value:.6g}" for name, value in found.items() if name != "total"
        ) + f" = {found['total']:.6g} pJ"  # fmt: skip
        return found

    def _counted(self, level: str, way: str, without: tuple[str, ...]) -> float:
        """Words into or out of a level; those that come from the level outside are all counted."""
        total = 0.0
        for phase in self.flows:
            moves: Moves = phase[level].read if way == "read" else phase[level].written
            for (tensor, einsum), words in moves.items():
                left_out = tensor in without and (way == "read" or tensor == einsum)
                total += 0.0 if left_out else words
        return total

    def _demands(self, counts: dict[str, float]) -> tuple[Demand, ...]:
        """What each array and each level is needed for, the longest first."""
        found: list[Demand] = []
        operations = sum(n * (2 if kind == "multiply-add" else 1) for kind, n in counts.items())
        for name in self.machine.arrays:
            own = {e: self.work[e].cycles for e, a in self.mapping.bind.items() if a == name}
            seconds = sum(own.values()) / self.machine.clock
            if own:
                most = max(own, key=own.__getitem__)
                found.append(Demand(name, seconds, 0.0, most))
        for level in self.machine.levels:
            moved = 0.0
            by_einsum: dict[str, float] = {}
            for phase in self.flows:
                flow: Flow = phase[level.name]
                for moves in (flow.read, flow.written):
                    for (_, einsum), words in moves.items():
                        by_einsum[einsum] = by_einsum.get(einsum, 0.0) + words
                        moved += words * self.machine.word
            if moved and level.bandwidth < float("inf"):
                most = max(by_einsum, key=by_einsum.__getitem__)
                seconds = moved / level.bandwidth
                found.append(Demand(level.name, seconds, operations / moved, most))
        return tuple(sorted(found, key=lambda demand: -demand.seconds))
