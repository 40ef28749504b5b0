"""The mapping of a cascade onto a target: grid, tiles, stream, from defaults and the schedule.

A schedule fixes what it names; the rest comes from the target's table. Batch ranks have one
position an instance of the grid; of the long ranks of an output the last is cut into tiles.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field, replace

from attnc.ir.cascade import Cascade, Directive, rank_of
from attnc.ir.expr import Access, Const, Expr, Extent, Index, Map, Param, Reduce
from attnc.ir.source import CompileError
from attnc.ir.targets import Target
from attnc.ir.walk import accesses, free_ranks, subterms
from attnc.passes.cut import closure
from attnc.passes.extents import Extents
from attnc.passes.quantities import Env, Integers
from attnc.passes.split import MOST, parts_for

NOWHERE_AT_ALL = Env({}, {}, {}, {})
FEW = 16
"""Rows that the matrix units want: with fewer queries than this another rank lends its own."""
COLUMNS = 64
"""Positions of a long rank that a tile has beside its rows."""
WARPS = (1, 2, 4, 8, 16, 32)
"""Warps of which a block can be made."""


@dataclass(frozen=True, slots=True)
class Mapping:
    """Tile sizes by rank, the tile of streamed ranks, launch settings.

    `fixed` are the ranks whose tiles a schedule gives or that states are divided along, `splits`
    the parts that it wants of a streamed rank (None for as many as fit), `shares` the instances
    that it wants to share the work of all rows (None for as many as fit), `unshared` the ranks
    whose work cannot be; `merged` the ranks that number such parts, `recurrent` those along which
    recurrences go, by steps or chunks; `stacked` tells that problems of a batch go together,
    `asked` that a schedule says how many warps there are; `alone` are tensors that share a kernel
    only with what they share most sums with, `crowded` ranks of states too wide for a sweep that
    does much besides, and `brief` tells that its chunks have to be short.
    `sizes` are the extents that are known. `cuts` are tiles of the grid by the tensor that is
    stored: smaller ones, or of a rank else whole.
    """

    target: Target
    long: frozenset[str]
    sizes: dict[str, int]
    tiles: dict[str, int]
    fixed: frozenset[str]
    splits: dict[str, int | None]
    shares: dict[str, int | None]
    stream: int
    p: int
    warps: int
    stages: int
    merged: frozenset[str] = frozenset()
    recurrent: frozenset[str] = frozenset()
    stacked: bool = False
    unshared: frozenset[str] = frozenset()
    asked: bool = False
    alone: frozenset[str] = frozenset()
    crowded: frozenset[str] = frozenset()
    brief: bool = False
    cuts: dict[str, dict[str, int]] = field(default_factory=dict)

    def with_parts(self, ranks: tuple[str, ...]) -> Mapping:
        """The same, some ranks cut along the grid with one position an instance."""
        tiles = {**self.tiles, **dict.fromkeys(ranks, 1)}
        return replace(self, long=self.long | set(ranks), tiles=tiles)

    def with_streams(self, ranks: tuple[str, ...]) -> Mapping:
        """The same, some ranks streamed beside the rows of a chunk, by a few positions at once."""
        tiles = {**dict.fromkeys(ranks, 2 * FEW), **self.tiles}
        return replace(self, long=self.long | set(ranks), tiles=tiles)

    def grid(
        self,
        cascade: Cascade,
        root: str,
        stored: Collection[str] | None = None,
        streamed: dict[str, set[str]] | None = None,
    ) -> dict[str, int]:
        """The ranks along which the kernel of a root is cut, with the tile of each.

        What is in `stored` is there already: its kernels are others. Where nobody knows what is,
        every recurrence is one of this kernel. `streamed` is what the method of that name gives,
        where it is known.
        """
        stepped = cascade.iterative()
        inside = stepped if stored is None else closure(cascade, root, set(stored))
        loops = {rank for name, (_, rank) in stepped.items() if name in inside}
        whole = {rank for name in inside if loops for rank in _within(cascade, name, stored or ())}
        ranks = [rank for rank in cascade.axes(root) if rank not in loops | whole]
        cut = [r for r in ranks if r in self.long and r not in cascade.batch]
        varying = self.streamed(cascade) if streamed is None else streamed
        burden = {rank: len(tensors) for rank, tensors in varying.items()}
        # A tile of a rank with little of it shares what is streamed: queries share the keys.
        rows = min(reversed(cut), key=lambda rank: burden.get(rank, 0), default="")
        found: dict[str, int] = {}
        for rank in ranks:
            if rank in cascade.batch:
                several = rank == cascade.batch[-1] and bool(
                    loops if self.stacked else loops & self.recurrent
                )
                found[rank] = self.tiles.get(rank, self.target.together) if several else 1
            elif rank in cut:
                wide = rank == rows and not self._apart(cascade, varying, rank, ranks)
                size = self._rows(rank) if wide else 1
                if rank == ranks[-1] and burden.get(rank, 0) == 1:
                    size = self._columns(rank)
                found[rank] = self.tiles.get(rank, size)
        if max(found.values(), default=FEW) < FEW:
            for rank in reversed(ranks):
                many = self.sizes.get(rank, FEW) > 1 and rank not in self.tiles
                if found.get(rank) == 1 and rank not in burden and many:
                    return {**found, rank: self._rows(rank)}
        return found

    def rows_alone(self, cascade: Cascade, root: str) -> dict[str, int]:
        """The grid of a kernel whose rows share nothing: one of them an instance."""
        axes = cascade.axes(root)
        cut = {*axes[:-1], *cascade.batch, *self.long}
        return {rank: 1 for rank in axes if rank in cut}

    def _rows(self, rank: str) -> int:
        """The tile of a rank: as many positions as it has, where that is known and few."""
        size = self.sizes.get(rank, self.p)
        return min(self.p, 1 if size <= 1 else max(FEW, 1 << (size - 1).bit_length()))

    def _columns(self, rank: str) -> int:
        """The tile of a long last rank: as wide as a head, for what is streamed is as wide."""
        return min(COLUMNS, self._rows(rank))

    def _apart(
        self, cascade: Cascade, streamed: dict[str, set[str]], rank: str, axes: list[str]
    ) -> bool:
        """Whether each position of a rank has a product of its own, of two matrices that differ.

        All that is streamed varies with it, and each of two short ranks only with a part of that:
        several positions would share nothing, and their products would be none of matrices.
        """
        every = {tensor for tensors in streamed.values() for tensor in tensors}
        short = [own for own in axes if own not in self.long and own not in cascade.batch]
        sides = [own for own in short if streamed.get(own, every) < every]
        return streamed.get(rank) == every and len(sides) > 1

    def streamed(self, cascade: Cascade) -> dict[str, set[str]]:
        """For each rank the inputs that a loop streams and that vary with it."""
        streamed = {rank for _, rank in cascade.iterative().values()}
        streamed |= set(_reduced(cascade)) & self.long
        found: dict[str, set[str]] = {}
        for einsum in cascade.einsums:
            for expr in (einsum.body, einsum.where):
                for access in accesses(expr):
                    used = {r for s in access.subscripts for r in free_ranks(s)}
                    if cascade.input(access.tensor) and used & streamed:
                        for rank in used:
                            found.setdefault(rank, set()).add(access.tensor)
        return found

    def parts(self, cascade: Cascade, rank: str, tile: int) -> int:
        """Into how many parts a streamed rank is split: as a schedule says, or to fill the target.

        Without a schedule, and for `auto`, the extents of all ranks of the grid and of this one
        must be known; else one part.
        """
        wanted = self.splits.get(rank)
        if wanted is not None:
            return wanted
        if not self.target.processors and rank not in self.splits:
            return 1
        instances = self._instances(cascade)
        try:
            length = Integers(self.sizes, {}).value(Extents(cascade, {}).of(rank), NOWHERE_AT_ALL)
        except KeyError:
            return 1  # An extent is not known.
        if instances is None:
            return 1
        return parts_for(instances, -(-length // tile), self.target.processors or 1)

    def walkers(self, cascade: Cascade, rank: str, tile: int) -> int:
        """How many instances share the work of all rows along a rank: none if fewer than 2.

        As many as a schedule says, else as the target has room for, where it would split the rank
        and nothing has shown that it cannot be shared.
        """
        if rank in self.unshared:
            return 0
        filling = min(MOST, self.target.processors)
        if rank in self.shares:
            return self.shares[rank] or filling
        wanted = self.splits.get(rank) is None and self.parts(cascade, rank, tile) > 1
        return filling if wanted else 0

    def _instances(self, cascade: Cascade) -> int | None:
        """How many instances the grid of the first output has, if the extents are known."""
        extents, arithmetic = Extents(cascade, {}), Integers(self.sizes, {})
        instances = 1
        try:
            for own, size in self.grid(cascade, cascade.outputs[0].name).items():
                instances *= -(-arithmetic.value(extents.of(own), NOWHERE_AT_ALL) // size)
        except KeyError:
            return None
        return instances

    def one_by_one(self, cascade: Cascade) -> frozenset[str]:
        """The ranks that a loop takes by positions: of sums of products never the last one.

        The last long rank of such a sum is cut into tiles. Were the others too, a tile would have
        three ranks or more, and nothing would be a product of matrices.
        """
        classes = rank_of(cascade)
        last: set[str] = set()
        others: set[str] = set()
        for einsum in cascade.einsums:
            for term in subterms(einsum.body):
                if not isinstance(term, Reduce) or not _product(term.body):
                    continue
                ranks = [classes.get(rank, rank) for rank in term.ranks]
                long = [rank for rank in ranks if rank in self.long]
                last.update(long[-1:])
                others.update(long[:-1])
        return frozenset(others - last)

    def refuse(
        self, cascade: Cascade, rank: str, reason: str, verbs: Collection[str] = ("split", "share")
    ) -> None:
        """Raise CompileError if a schedule asked for parts that cannot be."""
        for line in cascade.schedule:
            if line.verb in verbs and rank in line.ranks:
                raise CompileError(
                    f"{rank} cannot be {PARTED[line.verb]}: {reason}",
                    line.span,
                    "parts of it run side by side, and their states are merged at the end",
                    code="E313",
                    help="leave the line out: the rank is streamed by one instance",
                )

    def chunk(self, rank: str) -> tuple[int, ...]:
        """How many steps of a recurrence along a rank are taken at once, by the ranks of its gate.

        As many as the target likes, or `brief`, but no more than there are; a schedule's tile is
        kept.
        """
        if rank in self.tiles:
            return (self.tiles[rank],) * len(self.target.chunk)
        liked = min(self.target.chunk) if self.brief else max(self.target.chunk)
        most = 1 << (self.sizes.get(rank, liked) - 1).bit_length()
        return tuple(min(size, most, liked) for size in self.target.chunk)

    def apart(self, cascade: Cascade, rank: str, size: int) -> bool:
        """Whether the chunks of a recurrence stand side by side, in kernels of their own.

        Where a schedule says so; else where the grid leaves most of the target idle without, and
        there are chunks enough to pay for their states in memory: as many as fill the rest.
        """
        if any(d.verb == "parallel" and rank in d.ranks for d in cascade.schedule):
            return True
        steps = self.sizes.get(rank, 0)
        instances = self._instances(cascade)
        if not self.target.processors or instances is None:
            return False
        return 2 * instances <= self.target.processors <= instances * (steps // size)

    def params(self, cascade: Cascade) -> dict[str, int]:
        """Values of the tile sizes that the compiler introduced."""
        found: dict[str, int] = {}
        for name in cascade.tiles:
            inner = next(d.name for d in cascade.ranks if d.extent == Param(name))
            default = next(d.default for d in cascade.params if d.name == name)
            size = 1 if default == 1 else self.stream
            found[name] = self.tiles.get(inner, self.tiles.get(inner[:-1], size))
        return found


def mapping(
    cascade: Cascade, target: Target, long: frozenset[str], sizes: dict[str, int], dtype: str
) -> Mapping:
    """Defaults of the target, overridden by the cascade's schedule.

    Raises CompileError for a size that is no positive number, and as `check_schedule` does.
    """
    width = max((sizes.get(rank, 0) for rank in _whole(cascade, long)), default=0)
    masks = _masks(cascade, long)
    stacked = bool(masks) and target.together > 1 and _alike(cascade)
    tabled = stacked and any(True for mask in masks for _ in accesses(mask))
    kind = "tabled" if tabled else "stacked" if stacked else "masked" if masks else ""
    p, m, warps, stages = target.settings(width, dtype, kind)
    tiles: dict[str, int] = {}
    splits: dict[str, int | None] = {}
    shares: dict[str, int | None] = {}
    check_schedule(cascade)
    for line in cascade.schedule:
        match line.verb:
            case "tile":
                size = _number(cascade, line)
                if size is not None:
                    tiles[line.ranks[0]] = size
            case "warps":
                warps = _number(cascade, line) or warps
            case "stages":
                stages = _number(cascade, line) or stages
            case "split":
                splits[line.ranks[0]] = _number(cascade, line)
            case "share":
                shares[line.ranks[0]] = _number(cascade, line)
            case _:
                pass
    fixed = frozenset(name for rank in tiles for name in (rank, f"{rank}0"))
    return Mapping(
        target, long, sizes, tiles, fixed, splits, shares, m, p, warps, stages, stacked=stacked,
        asked=any(line.verb == "warps" for line in cascade.schedule),
    )  # fmt: skip


PARTED = {"split": "split", "share": "shared"}
"""Lines that divide a rank among instances, and what it is then."""

MODELLED = ("bind", "space", "overlap")
"""Lines for a described accelerator: kernels have no use for them."""


def check_schedule(cascade: Cascade) -> None:
    """Raise CompileError for a schedule that the dependences forbid, at its line.

    That is a rank that the cascade lacks, a grid rank that is reduced, and a streamed or split
    rank that is not. Asked of a cascade as written, it names the Einsums of its author.
    """
    known = {r for t in cascade.inputs for r in t.ranks} | {d.name for d in cascade.ranks}
    reduced = _reduced(cascade)
    carried = {r for t in cascade.outputs for r in t.ranks}
    for line in cascade.schedule:
        if line.verb in MODELLED:
            continue
        for rank in line.ranks:
            if rank not in known:
                raise CompileError(
                    f"the schedule names rank {rank}, which {cascade.name} does not have",
                    line.span,
                    code="E310",
                )
        match line.verb:
            case "parallel":
                for rank in line.ranks:
                    if rank not in carried:
                        by = reduced.get(rank)
                        why = f"it is reduced by {by}" if by else "no output carries it"
                        raise CompileError(
                            f"{rank} cannot be parallel: {why}",
                            line.span,
                            "instances of the grid do not see one another's results",
                            code="E311",
                        )
            case "stream" | "split" | "share" as verb:
                for rank in line.ranks:
                    stepped = _steps(cascade, rank)
                    if verb != "stream" and stepped:
                        raise CompileError(
                            f"{rank} cannot be {PARTED[verb]}: {stepped} steps along it",
                            line.span,
                            "a step may need the one before it: no law says how two states merge",
                            code="E313",
                            help="write the reduction: its steps and the merge are derived",
                        )
                    if rank not in reduced and not stepped:
                        done = PARTED.get(verb, "streamed")
                        raise CompileError(
                            f"{rank} cannot be {done}: no Einsum reduces over it",
                            line.span,
                            code="E312",
                        )
            case "tile" | "warps" | "stages":
                pass
            case _:
                raise CompileError(f"no such directive: {line.verb}", line.span, code="E314")


def _within(cascade: Cascade, name: str, stored: Collection[str]) -> tuple[str, ...]:
    """The ranks over which a tensor reduces what a turn of a recurrence has."""
    body = cascade.definitions(name)[-1].body
    turn = closure(cascade, name, {*stored}).keys() & cascade.iterative().keys()
    return body.ranks if isinstance(body, Reduce) and turn else ()


def _masks(cascade: Cascade, long: frozenset[str]) -> list[Expr]:
    """The predicates that leave out points of a streamed rank: smaller tiles fit them closer."""
    streamed = set(_reduced(cascade)) & long
    tests = (einsum.where for einsum in cascade.einsums)
    return [test for test in tests if test is not None and free_ranks(test) & streamed]


def _alike(cascade: Cascade) -> bool:
    """Whether all positions of the last batch rank leave out the same points, and lie one after
    the other in every tensor."""
    for rank in cascade.batch[-1:]:
        for einsum in cascade.einsums:
            terms = [t for expr in (einsum.body, einsum.where) for t in subterms(expr)]
            tests = [einsum.where, *(t.where for t in terms if isinstance(t, Reduce))]
            placed = [s for t in terms if isinstance(t, Access) for s in t.subscripts]
            if any(test is not None and rank in free_ranks(test) for test in tests):
                return False
            if any(s != Index(rank) and rank in free_ranks(s) for s in placed):
                return False
    return bool(cascade.batch)


def _whole(cascade: Cascade, long: frozenset[str]) -> set[str]:
    return {r for t in cascade.inputs for r in t.ranks[t.batch :] if r not in long}


def _steps(cascade: Cascade, rank: str) -> str:
    """A tensor that steps along a rank, or along a part of it; none if there is no such."""
    parts = {d.name for d in cascade.ranks if Extent(rank) in _parts(d.extent)}
    return next((t for t, (_, own) in cascade.iterative().items() if own in {rank, *parts}), "")


def _parts(expr: object) -> tuple[object, ...]:
    match expr:
        case Map(_, args):
            return tuple(part for arg in args for part in _parts(arg))
        case _:
            return (expr,)


def _reduced(cascade: Cascade) -> dict[str, str]:
    """For each rank the first Einsum that reduces over it."""
    classes = rank_of(cascade)
    found: dict[str, str] = {}
    for einsum in cascade.einsums:
        for term in subterms(einsum.body):
            if isinstance(term, Reduce):
                for rank in term.ranks:
                    found.setdefault(classes.get(rank, rank), einsum.target)
    return found


def _number(cascade: Cascade, line: Directive) -> int | None:
    """The value of a line; None for `auto`."""
    if line.value is None:
        return None
    value = line.value
    if isinstance(value, Param):
        value = Const(Extents(cascade, {}).params.get(value.name, 0))
    if isinstance(value, Index) or not isinstance(value, Const) or int(value.value) < 1:
        raise CompileError(f"{line.verb} takes a positive number", line.span, code="E315")
    if line.verb == "warps" and int(value.value) not in WARPS:
        raise CompileError(
            f"warps takes one of {', '.join(map(str, WARPS))}", line.span,
            "a block has at most 1024 threads, in a power of two of warps", code="E315",
        )  # fmt: skip
    return int(value.value)


def _product(body: Expr) -> bool:
    """Whether tensors are multiplied in it."""
    return any(
        isinstance(term, Map) and term.op == "*" and all(any(accesses(arg)) for arg in term.args)
        for term in subterms(body)
    )
