"""The mapping of a cascade on a machine: the machine's own, or a derived one; and its checks."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import replace
from math import prod

from attnc.ir.cascade import Einsum
from attnc.ir.expr import Reduce
from attnc.ir.machine import Machine, Mapping, Overlap
from attnc.ir.source import CompileError, Span
from attnc.ir.walk import accesses
from attnc.passes.accelerator.amounts import Amount, numeric, product, quotient
from attnc.passes.accelerator.problem import Problem
from attnc.passes.partition import mixed_radix


def mapped(problem: Problem, machine: Machine) -> Mapping:
    """The mapping of a machine, if it is written for this cascade or binds its Einsums, else a
    derived one; with what the schedule of the cascade fixes.

    Raises CompileError for a mapping that leaves an Einsum out, speaks of what is not there, or
    overlaps Einsums against a dependence.
    """
    own = {e.target: None for e in problem.steps}
    mapping, cascade = machine.mapping, problem.cascade
    if mapping is not None and mapping.bind.keys() != own.keys():
        # Another cascade of that name shares no Einsum; a rewritten one is no longer the same.
        shared = mapping.bind.keys() & own.keys()
        if shared and mapping.cascade in ("", cascade.name) and not cascade.derivation:
            _complete(mapping, machine, list(own), cascade.name)
        mapping = None
    found = _scheduled(problem, machine, mapping or derived(problem, machine))
    _check(problem, machine, found)
    return found


def _complete(mapping: Mapping, machine: Machine, own: list[str], name: str) -> None:
    span = mapping.spans.get("bind", machine.span)
    for einsum in own:
        if einsum not in mapping.bind:
            raise CompileError(
                f"{einsum} of {name} is bound to no array of {machine.name}",
                span,
                help=f"the arrays are {', '.join(machine.arrays)}; for a cascade of another name "
                "a mapping is derived",
            )
    for einsum in mapping.bind:
        if einsum not in own:
            raise CompileError(
                f"{einsum} is bound, and {name} has no such Einsum",
                mapping.spans.get(f"bind.{mapping.bind[einsum]}", span),
                help=f"it has {', '.join(own)}",
            )


def derived(problem: Problem, machine: Machine) -> Mapping:
    """A mapping for any cascade: what varies along rows and columns to the larger array, the rest
    to the smaller one, if it has the operations."""
    arrays = sorted(machine.arrays.values(), key=lambda a: -prod(a.shape))
    wide, narrow = arrays[0], arrays[-1]
    cascade = problem.cascade
    parts = {
        rank
        for e in problem.steps
        for a in accesses(e.body)
        for s in a.subscripts
        for rank in mixed_radix(s, problem.classes, problem.extents)[-1:]
    }
    output = cascade.outputs[0]
    steps = {rank for _, rank in problem.stepped.values()}
    own = [r for r in output.ranks if r not in cascade.batch]
    reduced = Counter(
        problem.own(r) for e in problem.steps if isinstance(e.body, Reduce) for r in e.body.ranks
    )
    # Steps wait for one another: they cannot lie side by side.
    free = [r for r in own[:-1] if r not in steps] or [r for r in own[-1:] if r not in steps]
    rows = _longest(problem, free)
    free = [r for r in reduced if r != rows and r not in steps]
    inner = [r for r in free if r in parts] or [r for r in free if r not in cascade.batch]
    columns = _longest(problem, list(reversed(inner)))
    space = {a.name: tuple(r for r in (rows, columns)[: len(a.shape)] if r) for a in arrays}
    bind, lay = {}, {}
    for einsum in problem.steps:
        ranks = {problem.own(r) for r in problem.spaces[einsum.target]}
        both = rows in ranks and columns in ranks
        free = [r for r in einsum.ranks if problem.own(r) not in (*cascade.batch, *steps)]
        own = list(dict.fromkeys(problem.own(r) for r in free))
        gathers = len(own) > 1 and _gathers(problem, einsum)
        kinds = {kind for kind, _ in problem.operations[einsum.target]}
        wanted = [wide, narrow] if both or gathers else [narrow, wide]
        able = [a for a in (*wanted, *arrays) if kinds <= a.cycles.keys()]
        array = (able or wanted)[0]
        bind[einsum.target] = array.name
        if not both and (gathers or not ranks & set(space[array.name])):
            # A product of matrices fills both axes with ranks of its own, as does what lacks those
            # of the array.
            longest = sorted(own, key=lambda r: _length(problem, r), reverse=True)
            lay[einsum.target] = tuple(longest[: len(array.shape)])
    held = _kept(problem, machine, columns)
    return Mapping(cascade.name, rows, columns, space, bind, lay=lay, hold=held)


def _gathers(problem: Problem, einsum: Einsum) -> bool:
    return any(kind == "multiply-add" for kind, _ in problem.operations[einsum.target])


def _kept(problem: Problem, machine: Machine, columns: str) -> dict[str, str]:
    """What is streamed stays in an outer buffer, where there is one that has room for all of it."""
    if len(machine.buffers) < 2 or not columns:
        return {}
    level, streamed = machine.buffers[0], problem.streamed(columns)
    names = [
        tensor.name
        for tensor in problem.cascade.inputs
        if streamed & {problem.own(rank) for rank in tensor.ranks}
    ]
    words: Amount = sum(
        product(problem.extent(r) for r in problem.cascade.axes(name)
                if r not in problem.cascade.batch)
        for name in names
    )  # fmt: skip
    fits = numeric(words) and words * machine.word <= level.size / 2
    return dict.fromkeys(names, level.name) if fits else {}


def _longest(problem: Problem, ranks: list[str]) -> str:
    """The longest rank, the last of several."""
    places = range(len(ranks))
    return ranks[max(places, key=lambda i: (_length(problem, ranks[i]), i))] if ranks else ""


def _length(problem: Problem, rank: str) -> tuple[bool, int]:
    """The extent of a rank, to compare: a symbol counts as longer than any number."""
    size: Amount = problem.extent(rank)
    return not numeric(size), size if numeric(size) else 0


def _scheduled(problem: Problem, machine: Machine, mapping: Mapping) -> Mapping:
    bind, space, hold = dict(mapping.bind), dict(mapping.space), dict(mapping.hold)
    spans = dict(mapping.spans)
    overlap: list[Overlap] = []
    for line in problem.cascade.schedule:
        place = line.array
        if line.verb in ("bind", "space") and place not in machine.arrays:
            raise CompileError(
                f"{machine.name} has no array {place}",
                line.span,
                help=f"there are {', '.join(machine.arrays)}",
            )
        match line.verb:
            case "bind":
                bind.update(dict.fromkeys(line.ranks, place))
            case "space":
                space[place] = line.ranks
                spans[f"space.{place}"] = line.span
            case "overlap":
                overlap.append(Overlap(line.ranks, span=line.span))
            case "hold":
                hold.update(dict.fromkeys(line.ranks, place))
                spans.update((f"hold.{name}", line.span) for name in line.ranks)
            case _:
                pass
    if overlap:
        listed = {name for group in overlap for name in group.einsums}
        rest = tuple(name for name in bind if name not in listed)
        overlap += [Overlap(rest, span=overlap[-1].span)] if rest else []
    groups = tuple(overlap) or mapping.overlap
    return replace(mapping, bind=bind, space=space, overlap=groups, hold=hold, spans=spans)


def _check(problem: Problem, machine: Machine, mapping: Mapping) -> None:
    def span(key: str) -> Span:
        return mapping.spans.get(key, machine.span)

    name = problem.cascade.name
    keyed = [("rows", mapping.rows), ("columns", mapping.columns)]
    keyed += [(f"space.{array}", r) for array, ranks in mapping.space.items() for r in ranks]
    keyed += [(f"lay.{einsum}", r) for einsum, ranks in mapping.lay.items() for r in ranks]
    for key, rank in keyed:
        if rank and rank not in problem.sizes:
            raise CompileError(
                f"the mapping speaks of rank {rank}, which {name} does not have",
                span(key),
                help=f"it has {', '.join(sorted(problem.sizes))}",
            )
    for array, ranks in mapping.space.items():
        axes = len(machine.arrays[array].shape)
        if len(ranks) > axes:
            raise CompileError(f"{array} has {axes} axes, not {len(ranks)}", span(f"space.{array}"))
        if len(set(ranks)) < len(ranks):
            raise CompileError(
                f"{ranks[0]} lies along two axes of {array}",
                span(f"space.{array}"),
                help="each axis has a rank of its own",
            )
    for state, (_, rank) in problem.stepped.items():
        array = mapping.bind[state]
        if rank in mapping.along(state):
            raise CompileError(
                f"{state} at one position of {rank} waits for the one before it: {rank} cannot "
                f"lie along an axis of {array}",
                span(f"space.{array}"),
                help=f"leave {rank} out, or bind {state} to another array",
            )
    tensors = {t.name for t in problem.cascade.inputs} | problem.definitions.keys()
    _known(mapping.hold, tensors, "hold", name, mapping, machine)
    for number, entry in enumerate(mapping.fetched):
        _known(entry.times, tensors, f"fetched.{number}", name, mapping, machine)
    for tensor, level in mapping.hold.items():
        if machine.level(level) is None or machine.level(level) is machine.registers:
            raise CompileError(
                f"{machine.name} has no level {level} to hold {tensor} in",
                span(f"hold.{tensor}"),
                help=f"there are {', '.join(v.name for v in machine.levels if not v.registers)}",
            )
    _overlaps(problem, machine, mapping)


def _known(
    named: Iterable[str], tensors: set[str], key: str, cascade: str, mapping: Mapping, on: Machine
) -> None:
    for tensor in named:
        if tensor not in tensors:
            raise CompileError(
                f"the mapping speaks of tensor {tensor}, which {cascade} does not have",
                mapping.spans.get(f"{key}.{tensor}", mapping.spans.get(key, on.span)),
                help=f"it has {', '.join(sorted(tensors))}",
            )


def _overlaps(problem: Problem, machine: Machine, mapping: Mapping) -> None:
    """Refuse groups that a dependence forbids: one around a step, or one that waits for a whole
    rank where no other tile is there to work on."""
    import networkx as nx

    place = {name: i for i, group in enumerate(mapping.overlap) for name in group.einsums}
    steps = nx.DiGraph()
    for einsum in problem.steps:
        target = einsum.target
        for read in problem.reads[target]:
            source = read.tensor
            if read.last or source not in place or target not in place or source == target:
                continue
            # Groups of the next tile overlap: what comes earlier waits for a tile.
            slack = int(read.past) - int(place[target] < place[source])
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
    if independent(problem, machine, mapping) != 1:
        return
    for group in mapping.overlap:
        for first in group.einsums:
            for second in group.einsums:
                waits = waited(problem, mapping.columns, first, second)
                if waits and mapping.bind[first] != mapping.bind[second]:
                    raise CompileError(
                        f"{second} waits for {first} over all of {mapping.columns}, and there is "
                        "one tile of rows: they cannot overlap",
                        group.span,
                        help=f"put {second} into a later group",
                    )


def waited(problem: Problem, columns: str, first: str, second: str) -> bool:
    """Whether an Einsum reads another one and runs in a later pass over the columns."""
    if not columns or not any(r.tensor == first for r in problem.reads[second]):
        return False
    body = problem.definitions[first].body
    dropped = isinstance(body, Reduce) and columns in {problem.own(r) for r in body.ranks}
    later = problem.level_of(second, columns) > problem.level_of(first, columns)
    return later and (dropped or columns in problem.definitions[first].ranks)


def independent(
    problem: Problem, machine: Machine, mapping: Mapping, ranks: Iterable[str] | None = None
) -> Amount:
    """Tiles of rows, over all batch ranks: what groups can overlap across, and copies share.

    With `ranks` only those of an Einsum that has these.
    """
    own = None if ranks is None else {problem.own(r) for r in ranks}
    count: Amount = 1
    for rank in problem.cascade.batch:
        count = count * (problem.extent(rank) if own is None or rank in own else 1)
    if mapping.rows and (own is None or mapping.rows in own):
        tiles = quotient(problem.extent(mapping.rows), lanes(machine, mapping, mapping.rows))
        count = count * tiles
    return count


def lanes(machine: Machine, mapping: Mapping, rank: str, array: str = "") -> int:
    """How many positions of a rank an array takes at once; of no array, the most that one takes."""
    return max(
        (
            machine.arrays[name].shape[ranks.index(rank)]
            for name, ranks in mapping.space.items()
            if rank in ranks and array in ("", name)
        ),
        default=1,
    )


def widths(problem: Problem, machine: Machine, mapping: Mapping, einsum: Einsum) -> dict[str, int]:
    """How many positions of each of its rank variables an Einsum takes at once on its array. Of two
    variables over one rank the first lies along the axis."""
    shape = machine.arrays[mapping.bind[einsum.target]].shape
    free = dict(zip(mapping.along(einsum.target), shape))
    return {r: free.pop(problem.own(r), 1) for r in problem.spaces[einsum.target]}
