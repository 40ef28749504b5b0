"""IR 2: where and when. The tile program: what each back-end runs, and what is counted.

    program   = Program(name, inputs, outputs, buffers, params, extents, kernels)
    kernel    = Kernel(name, grid, axes, body, ...)      run one after another
    grid      = Grid(rank, tile)                         one instance for every `tile` positions
    axis      = Axis(rank, extent, size)                 a rank that lies within a tile
    statement = Load(name, ranks, tensor, subscripts, where)       memory -> tile
              | Compute(name, ranks, body)                         elementwise, by rank name
              | Contract(name, ranks, left, right, over)           matrix product of two tiles
              | Fold(name, ranks, op, source, over)                reduction along axes
              | Scan(name, ranks, op, source, over, along, reverse)  every prefix reduced
              | Store(tensor, subscripts, source, where)           tile -> memory
              | Loop(rank, carried, segments)                      a streamed rank
    carried   = Carried(name, ranks, init)
    segment   = Segment(lo, hi, note, body, after, when, listed)

A tile is a value in fast memory whose axes are named by ranks; operands of elementwise
statements are aligned by these names, so a tile without ranks is a scalar. Inside an expression
`Index(r)` is: the positions of the tile at hand for a grid rank (a number where its tile is 1,
else a vector along the axis r), the counter of a loop for its rank, 0, 1, ... along an axis.
`Extent(r)` is the full extent of rank r at call time. `first(p)` and `last(p)` in loop bounds are
the smallest and the largest position of the tile at hand.

Nothing is empty in a tile program: lowering has turned emptiness into the `where` of loads (which
read 0 where it fails, and never touch memory there), into `select` before folds, and into loop
ranges. Wherever `where` holds, every subscript lies inside its axis. Two things are left to a
back-end: positions of a grid tile past the end of its rank do not exist (clip the tile, or mask
loads and stores), and a whole rank within a tile may be padded (loads pad with 0; a fold over a
padded axis must see the identity of its monoid there).

Every parameter has become a constant and every extent is that of a rank of an input. Arithmetic
is float32 for inputs of at most 32 bits and float64 for float64. `Contract` takes its operands in
the type of the loaded one and accumulates in the type of the arithmetic.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from attnc.ir.cascade import ParamDecl, RankDecl, Reduction, Tensor
from attnc.ir.expr import Expr, Tile
from attnc.ir.source import NOWHERE, Span


@dataclass(frozen=True, slots=True)
class Grid:
    """One instance of the kernel for every `tile` consecutive positions of a rank."""

    rank: str
    tile: int


@dataclass(frozen=True, slots=True)
class Axis:
    """A rank that lies within a tile: `size` positions, or all `extent` of them where it is None.

    A rank of the grid with a tile above 1 is an axis too, of size `tile`.
    """

    rank: str
    extent: Expr
    size: int | None = None


@dataclass(frozen=True, slots=True)
class Load:
    """A tile from memory. Where the predicate fails, or a subscript is outside, it reads 0."""

    name: str
    ranks: tuple[str, ...]
    tensor: str
    subscripts: tuple[Expr, ...]
    where: Expr | None = None
    span: Span = field(default=NOWHERE, compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class Compute:
    """An elementwise expression of tiles, positions, extents and parameters."""

    name: str
    ranks: tuple[str, ...]
    body: Expr
    span: Span = field(default=NOWHERE, compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class Contract:
    """`sum[over](left * right)` as a matrix product; other ranks that both have number several."""

    name: str
    ranks: tuple[str, ...]
    left: Tile
    right: Tile
    over: str
    span: Span = field(default=NOWHERE, compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class Fold:
    """A tile reduced along some of its axes by a monoid."""

    name: str
    ranks: tuple[str, ...]
    op: str
    source: Tile
    over: tuple[str, ...]
    span: Span = field(default=NOWHERE, compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class Scan:
    """The prefixes of a tile along an axis, each reduced by a monoid.

    Position i of `along`, which stands for `over` and is as long, holds the reduction of the
    positions up to i; with `reverse` of those from i on.
    """

    name: str
    ranks: tuple[str, ...]
    op: str
    source: Tile
    over: str
    along: str
    reverse: bool
    span: Span = field(default=NOWHERE, compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class Store:
    """A tile to memory, at the points where the predicate holds and that lie inside."""

    tensor: str
    subscripts: tuple[Expr, ...]
    source: Tile
    where: Expr | None = None
    span: Span = field(default=NOWHERE, compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class Carried:
    """State of a loop: its value before the first iteration. After the loop the name holds the
    last value; inside it, the value before the iteration."""

    name: str
    ranks: tuple[str, ...]
    init: Expr


@dataclass(frozen=True, slots=True)
class Listed:
    """Iterations that a list names: the one at place n of it is positions[at, n]."""

    positions: str
    at: tuple[Expr, ...]


@dataclass(frozen=True, slots=True)
class Segment:
    """Iterations `lo` to `hi` (exclusive) of a loop, and their statements.

    `note` says what is known in this range ("full", "partial"); `after` gives, for each carried
    value in order, the tile that it becomes. Where `when`, a scalar, fails, an iteration does
    nothing and every carried value stays as it is. With `listed`, `lo` and `hi` are places in the
    list, which names the iterations.
    """

    lo: Expr
    hi: Expr
    note: str
    body: tuple[Statement, ...]
    after: tuple[str, ...]
    when: Expr | None = None
    listed: Listed | None = None

    @property
    def scalars(self) -> tuple[Expr, ...]:
        """Its bounds and its condition."""
        at = () if self.listed is None else self.listed.at
        return (self.lo, self.hi, *at) if self.when is None else (self.lo, self.hi, *at, self.when)


@dataclass(frozen=True, slots=True)
class Loop:
    """A streamed rank: segments run one after another over the same carried state."""

    rank: str
    carried: tuple[Carried, ...]
    segments: tuple[Segment, ...]


Statement = Load | Compute | Contract | Fold | Scan | Store | Loop


@dataclass(frozen=True, slots=True)
class Kernel:
    """One launch: the same statements for every instance of the grid.

    An instance has `warps` warps, or as many as the program says.

    A kernel with `lists` stores states of tiles in the buffer of that name: 0, 1 or 2 where none,
    some or all points of a tile exist. When it has run, the positions along the last axis are
    sifted into the buffers that `lists_of` names. One with `shares` stores how many iterations
    each of its instances stands for, and these are dealt out as `shares_of` says. Both read inputs
    only, and their results may be kept as long as these stay as they are; what they do is not
    counted.

    `at` is a rank whose positions number the instances in the order of the grid, its first rank
    outermost. With `walks`, the name of shares, the first rank of the grid is that of the walkers
    and no part of this order: each takes the instances that have iterations in its share, one
    after another.
    """

    name: str
    grid: tuple[Grid, ...]
    axes: tuple[Axis, ...]
    body: tuple[Statement, ...]
    lists: str = ""
    at: str = ""
    shares: str = ""
    walks: str = ""
    warps: int | None = None

    @property
    def aside(self) -> str:
        """What is stored for the launcher to go by, "" for a kernel that computes."""
        return self.lists or self.shares


def lists_of(states: str, full: bool) -> tuple[str, str]:
    """The buffers of the positions whose state is 2, or 1, and of how many there are."""
    positions = f"{states}_{'full' if full else 'partial'}"
    return positions, f"{positions}_count"


@dataclass(frozen=True, slots=True)
class Shares:
    """How the iterations of all instances are dealt out, by the names of the buffers that say it.

    `ends[n]` iterations come before instance n, and `ends[-1]` are all there are. Each walker has
    as many as the others, `max(1, ceil(ends[-1] / walkers))` or what is left, in the order of the
    instances: it takes those from `first[w]` to `last[w]` (exclusive).
    """

    ends: str
    first: str
    last: str


def shares_of(counts: str) -> Shares:
    """The buffers of the shares of what a kernel counts in the buffer `counts`."""
    return Shares(f"{counts}_ends", f"{counts}_first", f"{counts}_last")


@dataclass(frozen=True, slots=True)
class Program:
    """Kernels that run in order. Buffers are tensors that one writes and a later one reads."""

    name: str
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    buffers: tuple[Tensor, ...]
    params: tuple[ParamDecl, ...]
    ranks: tuple[RankDecl, ...]
    reductions: tuple[Reduction, ...]
    kernels: tuple[Kernel, ...]
    warps: int | None = None
    stages: int | None = None
    history: tuple[str, ...] = field(default=(), compare=False)

    def __str__(self) -> str:
        from attnc.ir.printer import print_program

        return print_program(self)
