"""Deal the work of all rows out to a fixed number of instances, an equal share to each.

    ends[n]      the iterations of the rows before row n, whatever their lengths depend on
    each         ceil(ends[rows] / walkers), the share of a walker
    walker w     goes from row to row, from place w * each to place (w + 1) * each of them all, and
                 stores its part of row n at w + n, which grows by 1 with every step of all walks
    row n        has the parts of walkers ends[n] // each to (ends[n + 1] - 1) // each

A share may begin in one row and end in the next, so no walker waits for another however much the
rows differ. This is LeanAttention (Sanovar et al., 2024), and Stream-K for products of matrices
(Osama et al., PPoPP 2023). Rows are the positions of the grid of the kernel that has the loop: a
head of a problem, or a tile of its queries. A kernel before it counts their iterations.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from attnc.ir.affine import divided, plus, times
from attnc.ir.cascade import Cascade, RankDecl, Tensor
from attnc.ir.expr import ONE, ZERO, Const, Expr, Extent, Index, Map, Tile, both
from attnc.ir.tile import Compute, Grid, Kernel, Load, Loop, Statement, Store, shares_of
from attnc.ir.tile_facts import (
    defines,
    every,
    names_made,
    names_read,
    ranks_of,
    terms,
    unused,
)
from attnc.ir.walk import free_ranks, subterms
from attnc.passes.extents import Extents
from attnc.passes.fiber import Names
from attnc.passes.loops import Dealt
from attnc.passes.lower import buffer
from attnc.passes.split import Split


class CannotLevel(Exception):
    """Why the work along a rank stays with its rows."""

    def __init__(self, rank: str, reason: str) -> None:
        super().__init__(reason)
        self.rank = rank


@dataclass(frozen=True, slots=True)
class Rows:
    """The rows that `walkers` share, each a position of `grid`, and the names of what that takes.

    `over` is the rank that is shared. `part` numbers the walkers, `row` the rows, `end` their ends,
    `slot` the places of the states of parts, `within` the positions inside a tile of the grid, by
    its rank. `states` are the tensors of these states as they were, `table` is that of the number
    of parts, `counts` the buffer of iterations.
    """

    over: str
    part: str
    walkers: Expr
    grid: tuple[Grid, ...]
    extents: dict[str, Expr]
    states: dict[str, Tensor]
    table: Tensor
    row: str
    end: str
    slot: str
    within: dict[str, str]
    counts: str

    def tiles(self, entry: Grid) -> Expr:
        """How many positions of the grid a rank has."""
        return divided(plus(self.extents[entry.rank], Const(entry.tile - 1)), entry.tile)

    def number(self, at: dict[str, Expr]) -> Expr:
        """The row in which some positions lie."""
        number: Expr = ZERO
        for entry in self.grid:
            place = divided(at[entry.rank], entry.tile)
            number = place if number == ZERO else plus(_product(number, self.tiles(entry)), place)
        return number

    @property
    def ranks(self) -> tuple[RankDecl, ...]:
        rows: Expr = ONE
        for entry in self.grid:
            rows = _product(rows, self.tiles(entry))
        sizes = {entry.rank: entry.tile for entry in self.grid}
        return (
            RankDecl(self.row, rows),
            RankDecl(self.end, plus(Extent(self.row), ONE)),
            RankDecl(self.slot, plus(Extent(self.row), self.walkers)),
            *(RankDecl(own, Const(sizes[rank])) for rank, own in self.within.items()),
        )

    @property
    def buffers(self) -> tuple[Tensor, ...]:
        """What the counting makes; the states are buffers already, at other places."""
        made = shares_of(self.counts)
        return (
            Tensor(self.counts, (self.row,), 0, "int"),
            Tensor(made.ends, (self.end,), 0, "int"),
            Tensor(made.first, (self.part,), 0, "int"),
            Tensor(made.last, (self.part,), 0, "int"),
        )

    def moved(self, tensor: Tensor) -> Tensor:
        """A tensor in memory: the state of a part lies at the place of walker and row."""
        if tensor.name not in self.states:
            return tensor
        ranks = (self.within.get(rank, rank) for rank in tensor.ranks if not self._fixed(rank))
        return Tensor(tensor.name, (self.slot, *ranks), 0, tensor.dtype)

    def place(self, tensor: Tensor, slot: Expr, subscripts: tuple[Expr, ...]) -> tuple[Expr, ...]:
        """Subscripts of a state as they are now."""
        sizes = {entry.rank: entry.tile for entry in self.grid}
        return (
            slot,
            *(
                Map("%", (subscript, Const(sizes[rank]))) if rank in self.within else subscript
                for rank, subscript in zip(tensor.ranks, subscripts)
                if not self._fixed(rank)
            ),
        )

    def _fixed(self, rank: str) -> bool:
        return rank == self.part or any(e.rank == rank and e.tile == 1 for e in self.grid)

    def each(self, every_one: str) -> Expr:
        """A walker's share of all iterations, whose number is in a tile."""
        more = plus(Tile(every_one, ()), plus(self.walkers, Const(-1)))
        if isinstance(self.walkers, Const):
            return Map("max", (ONE, divided(more, int(self.walkers.value))))
        return Map("max", (ONE, Map("//", (more, self.walkers))))


class Levels:
    """The divisions of a program by rows and walkers, found as its kernels are written."""

    def __init__(self, cascade: Cascade, splits: Iterable[Split], extents: Extents) -> None:
        self.cascade, self.extents, self.names = cascade, extents, Names(cascade)
        self.splits = {made.table: made for made in splits if made.table}
        self.rows: dict[str, Rows] = {}

    def kernels(self, kernel: Kernel, dealt: list[Dealt]) -> tuple[Kernel, ...]:
        """A kernel as it is with shares, behind the one that counts them if it has a loop to share.

        Raises CannotLevel for a kernel that does more than make all parts of a row in one loop.
        """
        for rows in self.rows.values():
            kernel = merging(rows, kernel)
        along = {entry.rank for entry in kernel.grid}
        found = [made for made in self.splits.values() if made.part in along]
        if not found:
            return (kernel,)
        (made, *others) = found
        if others or made.table in self.rows:
            raise CannotLevel(made.rank, "its states are those of several kernels")
        rows = self._rows(kernel, made)
        counts = counting(rows, kernel, dealt[0])
        asked = any(d.verb == "share" and made.rank in d.ranks for d in self.cascade.schedule)
        if not asked and not _uneven(counts):
            raise CannotLevel(made.rank, "all rows have as much to do")
        self.rows[made.table] = rows
        return counts, walking(rows, kernel, dealt[0])

    def _rows(self, kernel: Kernel, made: Split) -> Rows:
        stored = {s.tensor for s in every(kernel.body) if isinstance(s, Store)}
        if stored != {*made.stored}:
            raise CannotLevel(made.rank, "its states are not those of one kernel")
        loops = [s for s in every(kernel.body) if isinstance(s, Loop) and s.rank == made.outer]
        if len(loops) != 1 or loops[0] not in kernel.body:
            raise CannotLevel(made.rank, "a row has several loops over it")
        grid = tuple(entry for entry in kernel.grid if entry.rank != made.part)
        table = next(t for t in self.cascade.inputs if t.name == made.table)
        unknown = [entry.rank for entry in grid if entry.rank not in table.ranks]
        if unknown:
            raise CannotLevel(made.rank, f"not all states vary along {', '.join(unknown)}")
        names = self.names
        names.taken |= self.extents.declared.keys()  # Lists of tiles have ranks of their own.
        return Rows(
            over=made.rank,
            part=made.part,
            walkers=self.extents.of(made.part),
            grid=grid,
            extents={entry.rank: self.extents.of(entry.rank) for entry in grid},
            states={name: buffer(self.cascade, name) for name in made.stored},
            table=table,
            row=names.fresh("row"),
            end=names.fresh("row_end"),
            slot=names.fresh("slot"),
            within={entry.rank: names.fresh(f"{entry.rank}0") for entry in grid if entry.tile > 1},
            counts=names.fresh(f"{kernel.name}_counts"),
        )

    def buffers(self, stored: Iterable[Tensor]) -> tuple[Tensor, ...]:
        """The stored tensors as they lie in memory, and what the counting makes."""
        found = tuple(stored)
        for made in self.splits.values():
            if made.table not in self.rows:
                raise CannotLevel(made.rank, "no kernel has a loop over it alone")
        for rows in self.rows.values():
            found = (*map(rows.moved, found), *rows.buffers)
        return found

    @property
    def ranks(self) -> tuple[RankDecl, ...]:
        return tuple(decl for rows in self.rows.values() for decl in rows.ranks)


def counting(rows: Rows, kernel: Kernel, dealt: Dealt) -> Kernel:
    """The kernel that counts the iterations of each row: its loop without a body."""
    needed = set(names_read(dealt.count))
    body: list[Statement] = []
    for statement in reversed(kernel.body):
        shared = isinstance(statement, Loop) and statement.rank == dealt.count.rank
        if needed & {*defines(statement)} and not shared:
            body.insert(0, statement)
            needed |= {*names_read(statement)}
    (count,) = dealt.count.carried
    body += [dealt.count, Store(rows.counts, (Index(rows.row),), Tile(count.name, ()))]
    used = {rank for statement in body for rank in ranks_of(statement)}
    if rows.part in used:
        raise CannotLevel(rows.over, "what a row has to do depends on the part")
    axes = tuple(axis for axis in kernel.axes if axis.rank in used | rows.within.keys())
    return Kernel(rows.counts, rows.grid, axes, tuple(body), at=rows.row, shares=rows.counts)


def walking(rows: Rows, kernel: Kernel, dealt: Dealt) -> Kernel:
    """The kernel itself: in each row of a walk it begins where the share of the walker does."""
    taken = names_made(kernel.body) | {dealt.begin, dealt.each}
    before, every_one = unused(taken, "before"), unused(taken, "total")
    head = (
        *_share(rows, every_one, dealt.each),
        Load(before, (), shares_of(rows.counts).ends, (Index(rows.row),)),
        Compute(dealt.begin, (), _begin(rows, before, dealt.each)),
    )
    slot = plus(Index(rows.part), Index(rows.row))
    body = tuple(
        replace(s, subscripts=rows.place(rows.states[s.tensor], slot, s.subscripts))
        if isinstance(s, Store)
        else s
        for s in kernel.body
    )
    grid = (Grid(rows.part, 1), *rows.grid)
    return replace(kernel, grid=grid, body=(*head, *body), at=rows.row, walks=rows.counts)


def _begin(rows: Rows, before: str, each: str) -> Expr:
    """The place in a row where the share of a walker begins, below 0 if it began earlier."""
    return plus(Map("*", (Index(rows.part), Tile(each, ()))), times(Tile(before, ()), -1))


def _share(rows: Rows, every_one: str, each: str) -> tuple[Statement, ...]:
    """The size of a share, in the tile `each`."""
    whole = Load(every_one, (), shares_of(rows.counts).ends, (Extent(rows.row),))
    return whole, Compute(each, (), rows.each(every_one))


def merging(rows: Rows, kernel: Kernel) -> Kernel:
    """A kernel that reads parts: from their places, and of a row as many as it has."""
    reader = _Reader(rows, kernel)
    body = reader.block(kernel.body)
    return replace(kernel, body=(*reader.head, *body)) if reader.head else kernel


def _uneven(counts: Kernel) -> bool:
    """Whether what a row has to do depends on tables, or on where in a rank its tile lies."""
    every_one = list(every(counts.body))
    ends = (
        isinstance(term, Map) and term.op in ("first", "last")
        for statement in every_one
        for expr in terms(statement)
        for term in subterms(expr)
    )
    return any(isinstance(statement, Load) for statement in every_one) or any(ends)


class _Reader:
    """Rewrites what one kernel reads; `head` is what it must know for that, at the beginning."""

    def __init__(self, rows: Rows, kernel: Kernel) -> None:
        self.rows, self.kernel, self.taken = rows, kernel, names_made(kernel.body)
        self.head: list[Statement] = []
        self.known: dict[Expr, tuple[Tile, Tile]] = {}
        self.each = ""

    def block(self, body: tuple[Statement, ...]) -> tuple[Statement, ...]:
        return tuple(map(self.statement, body))

    def statement(self, statement: Statement) -> Statement:
        match statement:
            case Load(name, ranks, tensor, subscripts) if tensor == self.rows.table.name:
                return Compute(name, ranks, self.parts(self.rows.table, subscripts)[1])
            case Load(_, _, tensor, subscripts, where) if tensor in self.rows.states:
                state = self.rows.states[tensor]
                first, count = self.parts(state, subscripts)
                number = subscripts[state.ranks.index(self.rows.part)]
                row = self.rows.number(dict(zip(state.ranks, subscripts)))
                slot = plus(plus(first, number), row)
                there = both(where, Map("<", (number, count)))
                placed = self.rows.place(state, slot, subscripts)
                return replace(statement, subscripts=placed, where=there)
            case Loop(_, _, segments):
                inside = tuple(replace(s, body=self.block(s.body)) for s in segments)
                return replace(statement, segments=inside)
            case _:
                return statement

    def parts(self, tensor: Tensor, subscripts: tuple[Expr, ...]) -> tuple[Tile, Tile]:
        """The walker of the first part of the row that a tensor is read in, and how many parts."""
        row = self.rows.number(dict(zip(tensor.ranks, subscripts)))
        if row in self.known:
            return self.known[row]
        axes = {axis.rank for axis in self.kernel.axes}
        there = axes | {entry.rank for entry in self.kernel.grid}
        if not free_ranks(row) <= there:
            raise CannotLevel(self.rows.over, "parts are read in a loop over rows")
        if not self.each:
            self.each = unused(self.taken, "each")
            self.head += _share(self.rows, unused(self.taken, "total"), self.each)
        ranks = tuple(axis.rank for axis in self.kernel.axes if axis.rank in free_ranks(row))
        before, after, first, count = (
            Tile(unused(self.taken, name), ranks) for name in ("before", "after", "first", "parts")
        )
        each, ends = Tile(self.each, ()), shares_of(self.rows.counts).ends
        last = Map("//", (plus(after, Const(-1)), each))
        some = plus(plus(last, times(first, -1)), ONE)
        self.head += [
            Load(before.name, ranks, ends, (row,)),
            Load(after.name, ranks, ends, (plus(row, ONE),)),
            Compute(first.name, ranks, Map("//", (before, each))),
            Compute(count.name, ranks, Map("select", (Map("<", (before, after)), some, ZERO))),
        ]
        self.known[row] = first, count
        return first, count


def _product(left: Expr, right: Expr) -> Expr:
    match left, right:
        case Const(int(factor)), other:
            return times(other, factor)
        case other, Const(int(factor)):
            return times(other, factor)
        case _:
            return Map("*", (left, right))
