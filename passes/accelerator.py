"""What a cascade costs on a described accelerator: cycles, traffic, energy, utilisation.

The cycles of an Einsum are those of its operations at every point of its iteration space, the
ranks along the axes of its array taken so many positions at once. Einsums of one group share the
machine: the group takes as long as its busiest array. A phase takes as long as its groups one after
another, or as its traffic, whichever is longer. Nothing here knows what the cascade computes. The
method is that of Timeloop (Parashar et al., ISPASS 2019), the bindings FuseMax's (MICRO 2024).

A constant factor of a product is folded into an operand as it is loaded and costs nothing.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field, replace
from math import ceil, prod

from attnc.ir.cascade import Cascade, Einsum, base, rank_of
from attnc.ir.expr import Access, Const, Expr, Extent, Index, Map, Reduce, conjuncts
from attnc.ir.machine import Array, Machine, Mapping, Overlap
from attnc.ir.source import CompileError
from attnc.ir.walk import accesses, free_ranks, subterms
from attnc.passes.contraction import factors
from attnc.passes.cost import operations_of
from attnc.passes.count_passes import count_passes
from attnc.passes.domain import Domains, union
from attnc.passes.footprint import footprint
from attnc.passes.normalise import normalise
from attnc.passes.partition import mixed_radix
from attnc.passes.points import Points
from attnc.passes.symbolic import extent_symbol, extents


@dataclass(frozen=True, slots=True)
class Cell:
    """A number and how it came about."""

    value: float
    formula: str


@dataclass(frozen=True, slots=True)
class Modelled:
    """What a cascade costs: seconds, bytes, picojoules, shares of the time; cycles by Einsum.

    `bound` names what the latency is bound by. `explained` has the formula of each number.
    """

    machine: str
    cascade: str
    latency: float
    dram_bytes: float
    utilization: dict[str, float]
    energy: dict[str, float]
    einsums: dict[str, float]
    arrays: dict[str, str]
    bound: str
    explained: dict[str, str] = field(default_factory=dict)


def model(cascade: Cascade, machine: Machine, sizes: dict[str, int]) -> Modelled:
    """The cost of a cascade at the extents of its input ranks.

    Raises CompileError for a mapping that binds an Einsum to no array, whose groups run an Einsum
    before one that it needs, or whose tiles do not fit the buffer.
    """
    return _Model(normalise(cascade), machine, sizes).result()


class _Model:
    def __init__(self, cascade: Cascade, machine: Machine, sizes: dict[str, int]) -> None:
        self.cascade, self.machine = cascade, machine
        self.classes = rank_of(cascade)
        self.sizes = dict(sizes)
        known = {extent_symbol(name): size for name, size in sizes.items()}
        known |= {extent_symbol(p.name): p.default for p in cascade.params if p.default is not None}
        for name, expr in extents(cascade).items():
            self.sizes[name] = int(expr.subs(known))
        for name in sorted({r for t in cascade.inputs for r in t.ranks} - set(self.sizes)):
            raise CompileError(
                f"the extent of rank {name} is not known",
                cascade.span,
                help=f"give it: --size {name}=1024, or a workload that has it",
            )
        for name, size in self.sizes.items():
            if size < 1:
                raise CompileError(
                    f"rank {name} has {size} positions", cascade.span, help="there is at least one"
                )
        self.steps = [
            e for e in cascade.einsums if not any(left.step == "start" for left in e.left)
        ]
        self.definitions = {e.target: e for e in self.steps}
        self.domains = Domains(cascade)
        self.points = Points(self.classes, extents(cascade))
        self.known = known
        own = {e.target for e in self.steps}
        mapping = machine.mapping
        fits = mapping is not None and set(mapping.bind) == own
        self.shipped = fits
        self.mapping = self._scheduled(mapping if fits and mapping is not None else self._derived())
        self._checked()
        self.explained: dict[str, str] = {}

    # -- mapping

    def _derived(self) -> Mapping:
        """A mapping for any cascade: what varies along rows and columns to the larger array, the
        rest to the smaller one, if it has the operations."""
        arrays = sorted(self.machine.arrays.values(), key=lambda a: -prod(a.shape))
        wide, narrow = arrays[0], arrays[-1]
        parts = {
            rank
            for e in self.steps
            for a in accesses(e.body)
            for s in a.subscripts
            for rank in mixed_radix(s, self.classes, extents(self.cascade))[-1:]
        }
        output = self.cascade.outputs[0]
        own = [r for r in output.ranks if r not in self.cascade.batch]
        reduced = Counter(
            self.classes.get(r, base(r))
            for e in self.steps
            if isinstance(e.body, Reduce)
            for r in e.body.ranks
        )
        rows = max(own[:-1] or own, key=lambda r: (self.sizes[r], own.index(r)), default="")
        inner = [r for r in reduced if r in parts] or [
            r for r in reduced if r not in self.cascade.batch
        ]
        columns = max(inner, key=lambda r: self.sizes[r], default="")
        space = {a.name: tuple(r for r in (rows, columns)[: len(a.shape)] if r) for a in arrays}
        bind = {}
        for einsum in self.steps:
            ranks = self._space(einsum)
            both = rows in ranks and columns in ranks
            kinds = {kind for kind, _ in operations_of(replace(einsum, body=folded(einsum.body)))}
            wanted = [wide, narrow] if both else [narrow, wide]
            able = [a for a in (*wanted, *arrays) if kinds <= a.cycles.keys()]
            bind[einsum.target] = (able or wanted)[0].name
        return Mapping(self.cascade.name, rows, columns, space, bind)

    def _scheduled(self, mapping: Mapping) -> Mapping:
        """A mapping with what the schedule of the cascade fixes."""
        bind, space = dict(mapping.bind), dict(mapping.space)
        overlap: list[Overlap] = []
        for line in self.cascade.schedule:
            if line.array and line.array not in self.machine.arrays:
                raise CompileError(
                    f"{self.machine.name} has no array {line.array}",
                    line.span,
                    help=f"there are {', '.join(self.machine.arrays)}",
                )
            match line.verb:
                case "bind":
                    bind.update(dict.fromkeys(line.ranks, line.array))
                case "space":
                    axes = len(self.machine.arrays[line.array].shape)
                    if len(line.ranks) > axes:
                        reason = f"{line.array} has {axes} axes, not {len(line.ranks)}"
                        raise CompileError(reason, line.span)
                    space[line.array] = line.ranks
                case "overlap":
                    overlap.append(Overlap(line.ranks, span=line.span))
                case _:
                    pass
        if overlap:
            listed = {name for group in overlap for name in group.einsums}
            rest = tuple(name for name in bind if name not in listed)
            overlap += [Overlap(rest, span=overlap[-1].span)] if rest else []
        groups = tuple(overlap) or mapping.overlap
        return replace(mapping, bind=bind, space=space, overlap=groups)

    def _checked(self) -> None:
        mapping = self.mapping
        for einsum in self.steps:
            array = mapping.bind.get(einsum.target)
            if array is None or array not in self.machine.arrays:
                raise CompileError(
                    f"{einsum.target} is bound to no array of {self.machine.name}",
                    self.machine.span,
                    help=f"the arrays are {', '.join(self.machine.arrays)}",
                )
        spatial = (rank for ranks in mapping.space.values() for rank in ranks)
        for rank in (mapping.rows, mapping.columns, *spatial):
            if rank and rank not in self.sizes:
                raise CompileError(
                    f"the mapping speaks of rank {rank}, which {self.cascade.name} does not have",
                    self.machine.span,
                    help=f"it has {', '.join(sorted(self.sizes))}",
                )
        place = {name: i for i, group in enumerate(mapping.overlap) for name in group.einsums}
        import networkx as nx

        stepped = self.cascade.iterative()
        steps = nx.DiGraph()
        for einsum in self.steps:
            for access in (*accesses(einsum.body), *accesses(einsum.where)):
                source, target, past = access.tensor, einsum.target, False
                if source in stepped:
                    axis, rank = stepped[source]
                    past = access.subscripts[axis] == Index(rank)
                    if isinstance(access.subscripts[axis], Const | Extent):
                        continue
                if source in place and target in place and source != target:
                    # Groups of the next tile overlap: what comes earlier waits for a tile.
                    slack = int(past) - int(place[target] < place[source])
                    known = steps.get_edge_data(source, target, {"weight": slack})["weight"]
                    steps.add_edge(source, target, weight=min(slack, known))
        for component in nx.strongly_connected_components(steps):
            if not nx.negative_edge_cycle(steps.subgraph(component).copy()):
                continue
            cycle = nx.find_negative_cycle(steps, next(iter(component)))
            raise CompileError(
                f"{' -> '.join(cycle)} goes round in one tile, and its groups take more than one",
                mapping.overlap[place[cycle[0]]].span,
                help=f"put {cycle[0]} and {cycle[1]} into one group, or in the order of the cycle",
            )

    # -- work

    def _space(self, einsum: Einsum) -> tuple[str, ...]:
        left = [side.rank for side in einsum.left]
        inner = list(einsum.body.ranks) if isinstance(einsum.body, Reduce) else []
        return tuple(dict.fromkeys((*left, *inner)))

    def _extent(self, rank: str) -> int:
        return self.sizes[self.classes.get(rank, base(rank))]

    def _lanes(self, array: Array, rank: str) -> int:
        ranks = self.mapping.space.get(array.name, ())
        own = self.classes.get(rank, base(rank))
        return array.shape[ranks.index(own)] if own in ranks else 1

    def _share(self, einsum: Einsum) -> float:
        """Which share of its iteration space an Einsum has points in."""
        body = einsum.body
        inside = self.domains.of(body.body if isinstance(body, Reduce) else body)
        where = body.where if isinstance(body, Reduce) else None
        predicates = union(conjuncts(einsum.where), conjuncts(where), inside)
        space = frozenset(self._space(einsum))
        count, _ = self.points.count(space, predicates)
        whole, _ = self.points.count(space, ())
        ratio = (count / whole).subs(self.known)
        return min(1.0, float(ratio))

    def work(self, einsum: Einsum) -> tuple[dict[str, float], dict[str, float], str]:
        """Operations and cycles of an Einsum by kind, and the formula of its cycles."""
        array = self.machine.arrays[self.mapping.bind[einsum.target]]
        share = self._share(einsum)
        counts: dict[str, float] = {}
        cycles: dict[str, float] = {}
        told: list[str] = []
        work = operations_of(replace(einsum, body=folded(einsum.body)))
        for pair in (kind for kind in array.cycles if ">" in kind):
            first, second = pair.split(">")
            both = [over for kind, over in work if kind == second and (first, over) in work]
            for over in both:
                times = min(work[first, over], work[second, over])
                work[first, over] -= times
                work[second, over] -= times
                work[pair, over] += times
        for (kind, over), times in work.items():
            if not times:
                continue
            if kind not in array.cycles:
                raise CompileError(
                    f"{array.name} of {self.machine.name} has no {kind}, "
                    f"which {einsum.target} needs",
                    self.machine.span,
                    help=f"it has {', '.join(array.cycles)}: bind {einsum.target} to another array",
                )
            points = prod(self._extent(rank) for rank in over) * times * share
            serial = 1.0
            parts: list[str] = []
            for rank in sorted(over):
                extent, lanes = self._extent(rank), self._lanes(array, rank)
                serial *= ceil(extent / lanes)
                parts.append(f"ceil({extent} / {lanes})" if lanes > 1 else str(extent))
            counts[kind] = counts.get(kind, 0) + points
            cycles[kind] = cycles.get(kind, 0) + serial * times * share * array.cycles[kind]
            told.append(
                f"{times} {kind} x {array.cycles[kind]} x "
                + " x ".join(parts or ["1"])
                + (f" x {share:.4g} of the points" if share < 1 else "")
            )
        return counts, cycles, " + ".join(told) or "0"

    # -- traffic

    def _words(self, tensor: str) -> float:
        return float(prod(self._extent(rank) for rank in self.cascade.axes(tensor)))

    def _column_of(self, tensor: str) -> bool:
        """Whether a tensor varies along what is streamed."""
        return any(self._column(rank) for rank in self.cascade.axes(tensor))

    def _column(self, rank: str) -> bool:
        columns = self.mapping.columns
        if rank == columns:
            return True
        for e in self.steps:
            for access in accesses(e.body):
                for subscript, axis in zip(access.subscripts, self.cascade.axes(access.tensor)):
                    if axis == rank and columns in free_ranks(subscript):
                        return True
        return False

    def _refetch(self) -> tuple[float, str]:
        """How often what is streamed is read again: once for every set of rows that fits."""
        mapping, machine = self.mapping, self.machine
        lanes = max((self._lanes(a, mapping.rows) for a in machine.arrays.values()), default=1)
        tiles = ceil(self._extent(mapping.rows) / lanes) if mapping.rows else 1
        output = self.cascade.outputs[0].ranks
        batch = {*self.cascade.batch, *output[:-1]} - {mapping.rows}
        # An axis read at a computed place is not in a tile from end to end.
        plain = {
            subscript.rank
            for e in self.steps
            for access in accesses(e.body)
            for subscript in access.subscripts
            if isinstance(subscript, Index)
        }

        def each(name: str, *but: str) -> int:
            ranks = [r for r in self.cascade.axes(name) if r not in batch and r not in but]
            return prod(self._extent(r) for r in ranks if r in plain)

        stepped = self.cascade.iterative()
        row = sum(
            each(t.name, mapping.rows)
            for t in self.cascade.inputs
            if mapping.rows in t.ranks and not self._column_of(t.name)
        )
        row += sum(
            each(name, mapping.rows, rank)
            for name, (_, rank) in stepped.items()
            if mapping.rows in self.cascade.axes(name)
        )
        row += sum(
            self._extent(mapping.columns)
            for name in self._crossing()
            if {mapping.rows, mapping.columns} <= set(self.cascade.axes(name))
            and self._extent(mapping.columns) <= max(a.shape[-1] for a in machine.arrays.values())
        )
        width = max((self._lanes(a, mapping.columns) for a in machine.arrays.values()), default=1)
        streamed = 2 * sum(
            width * each(t.name, *(r for r in t.ranks if self._column(r)))
            for t in self.cascade.inputs
            if self._column_of(t.name) and mapping.rows not in t.ranks
        )
        room = machine.buffer // machine.word - streamed
        fitting = int(room // (lanes * row)) if row else tiles
        if fitting < 1:
            raise CompileError(
                f"one tile of {lanes} rows takes {lanes * row + streamed} words, and the buffer of "
                f"{machine.name} holds {machine.buffer // machine.word}",
                machine.span,
                help="a larger buffer, or narrower tiles",
            )
        most = min(fitting, mapping.held or fitting)
        held = max(d for d in range(1, tiles + 1) if tiles % d == 0 and d <= most)
        return tiles / held, (
            f"{tiles} tiles of {lanes} rows, {held} of them held at once: "
            f"{lanes * row} words each in {room}"
        )

    def _crossing(self) -> set[str]:
        """Tensors made on one array and read on another."""
        bind = self.mapping.bind
        return {
            access.tensor
            for e in self.steps
            for access in accesses(e.body)
            if access.tensor in bind and bind[access.tensor] != bind[e.target]
        }

    def traffic(self, phase: tuple[str, ...]) -> tuple[float, str]:
        """Bytes between memory and buffer in a phase."""
        inside = set(phase)
        outputs = {t.name for t in self.cascade.outputs}
        read: dict[str, None] = {}
        for e in self.steps:
            if e.target in inside:
                for expr in (e.body, e.where):
                    read.update(dict.fromkeys(a.tensor for a in accesses(expr)))
        made = set(self.definitions)
        later = {a.tensor for e in self.steps if e.target not in inside for a in accesses(e.body)}
        words: dict[str, float] = {}
        fixed = next((f for f in self.mapping.fetched if self.sizes.get(f.rank) == f.extent), None)
        alone = len(phase) == len(self.steps)
        again, told = self._refetch() if fixed is None and alone else (1.0, "each tensor once")
        for name in read:
            if name in made and name in inside:
                continue
            rows = self.mapping.rows in self.cascade.axes(name)
            times = again if not rows and self._column_of(name) else 1.0
            if fixed is not None:
                times = fixed.times.get(name, 1.0)
            words[name] = words.get(name, 0) + times * self._words(name)
        for name in inside:
            if name in outputs or (not alone and name in later):
                words[name] = words.get(name, 0) + self._words(name)
        if fixed is not None and alone:
            told = f"fetched as given for |{fixed.rank}| = {fixed.extent}"
            for name, times in fixed.times.items():
                if name in made and name not in outputs:
                    words[name] = words.get(name, 0) + times * self._words(name)
        elif alone:
            spilled, how = self._spilled()
            if spilled:
                words["spilled"] = spilled
                told += f"; {how}"
        text = " + ".join(f"{name} {count:.0f}" for name, count in words.items() if count)
        return sum(
            words.values()
        ) * self.machine.word, f"({text}) words x {self.machine.word}; {told}"

    def _spilled(self) -> tuple[float, str]:
        """Words of what is kept between passes and has no room in the buffer: out and in again."""
        counts = count_passes(self.cascade)
        rows, columns = self.mapping.rows, self.mapping.columns
        count = counts.ranks.get(columns)
        parted = any(columns in partition.parts for partition in counts.partitions)
        if count is None or count.passes == 1 or parted or not rows:
            return 0.0, ""
        live = footprint(counts, extents(self.cascade))[columns]
        each = float(live.subs(self.known | {extent_symbol(r): s for r, s in self.sizes.items()}))
        lanes = max(self._lanes(a, rows) for a in self.machine.arrays.values())
        share = max(0.0, 1 - self.machine.buffer / self.machine.word / (lanes * each))
        batch = prod(self._extent(rank) for rank in self.cascade.batch)
        words = share * count.passes * each * self._extent(rows) * batch
        return words, f"{share:.4g} of what is kept between passes goes through memory"

    # -- all of it

    def result(self) -> Modelled:
        cycles: dict[str, float] = {}
        energy: dict[str, float] = dict.fromkeys(self.machine.arrays, 0.0)
        for einsum in self.steps:
            counts, own, told = self.work(einsum)
            array = self.mapping.bind[einsum.target]
            cycles[einsum.target] = sum(own.values())
            spent = self.machine.arrays[array].energy
            energy[array] += sum(count * spent.get(kind, 0.0) for kind, count in counts.items())
            self.explained[f"einsums.{einsum.target}"] = (
                f"{told} = {cycles[einsum.target]:.0f} cycles"
            )
        phases = self.mapping.phases or (tuple(e.target for e in self.steps),)
        seconds = 0.0
        moved = 0.0
        bound: dict[str, float] = {}
        for number, phase in enumerate(phases):
            busy, where = self._groups(phase, cycles)
            bytes_, told = self.traffic(phase)
            moved += bytes_
            computing, moving = busy / self.machine.clock, bytes_ / self.machine.memory.bandwidth
            taken = max(computing, moving)
            seconds += taken
            name = "memory" if moving > computing else where
            bound[name] = bound.get(name, 0.0) + taken
            key = f"phases.{number}" if len(phases) > 1 else "latency"
            self.explained[key] = (
                f"max({busy:.0f} cycles / {self.machine.clock:.4g} Hz, {bytes_:.0f} bytes / "
                f"{self.machine.memory.bandwidth:.4g} bytes/s) = {taken:.6g} s"
            )
            self.explained[f"dram_bytes.{number}" if len(phases) > 1 else "dram_bytes"] = told
        energy["dram"] = moved * self.machine.memory.energy
        energy["total"] = sum(energy.values())
        total = seconds * self.machine.clock
        use = {}
        for name in self.machine.arrays:
            busy = sum(cycles[e] for e, array in self.mapping.bind.items() if array == name)
            use[name] = busy / total if total else 0.0
            self.explained[f"utilization.{name}"] = f"{busy:.0f} busy cycles of {total:.0f}"
        longest = max(bound, key=bound.__getitem__)
        return Modelled(
            self.machine.name, self.cascade.name, seconds, moved, use, energy, cycles,
            dict(self.mapping.bind), longest, self.explained,
        )  # fmt: skip

    def _groups(self, phase: tuple[str, ...], cycles: dict[str, float]) -> tuple[float, str]:
        """Cycles of the groups of a phase, one after another, and the busiest array."""
        groups = [
            replace(g, einsums=tuple(e for e in g.einsums if e in phase))
            for g in self.mapping.overlap
        ] or [Overlap(phase)]
        total = 0.0
        busiest: dict[str, float] = {}
        for group in groups:
            by_array: dict[str, float] = {}
            for name in group.einsums:
                array = self.mapping.bind[name]
                by_array[array] = by_array.get(array, 0.0) + cycles[name]
            longest = max(by_array.values(), default=0.0)
            total += longest
            if by_array:
                array = max(by_array, key=by_array.__getitem__)
                busiest[array] = busiest.get(array, 0.0) + longest
                if group.drain:
                    total += self._drained(array, group.einsums)
        return total, max(busiest, key=busiest.__getitem__) if busiest else "nothing"

    def _drained(self, array: str, einsums: tuple[str, ...]) -> float:
        """One cycle for each row of an array and each tile that it works on."""
        own = self.machine.arrays[array]
        ranks = dict.fromkeys(
            r
            for name in einsums
            if self.mapping.bind[name] == array
            for r in self.definitions[name].ranks
        )
        tiles = prod(ceil(self._extent(r) / self._lanes(own, r)) for r in ranks)
        return float(tiles * own.shape[0])


def folded(body: Expr) -> Expr:
    """A body without factors that need no data: they are folded into an operand."""
    if isinstance(body, Reduce):
        return replace(body, body=folded(body.body))
    kept = [(f, inverse) for f, inverse in factors(body)
            if any(isinstance(term, Access | Index) for term in subterms(f))]  # fmt: skip
    if not kept or len(kept) == len(factors(body)):
        return body
    above = [f for f, inverse in kept if not inverse]
    if not above:
        return body
    result = above[0]
    for factor in above[1:]:
        result = Map("*", (result, factor))
    for factor, inverse in kept:
        if inverse:
            result = Map("/", (result, factor))
    return result
