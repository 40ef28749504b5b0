"""IR 1: what is computed. A cascade of extended Einsums, names resolved, batch ranks written out.

    cascade   = Cascade(name, batch, inputs, outputs, params, ranks, reductions, einsums, schedule)
    tensor    = Tensor(name, ranks, batch, dtype)
    einsum    = Einsum(target, left, body, where, dtype)
    left      = Left(rank, step)            step: "" plain, "start" for T[0], "next" for T[i+1]

In a cascade every tensor access and every left side carries the batch ranks as its first
subscripts, the Einstein sum is an explicit `Reduce`, functions are inlined. A tensor that a left
side steps along a rank is *iterative*: it has |i|+1 positions there, read as T[i] (before step i),
T[i+1] (after it), T[0] and T[|i|].
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from attnc.ir.expr import Access, Cast, Const, Expr, Extent, Index, Map, Populate, Reduce
from attnc.ir.source import NOWHERE, InvalidIR, Span

FLOATS = ("float", "f16", "bf16", "f32", "f64", "f8e4m3", "f8e5m2")
DTYPES = (*FLOATS, "int", "bool")


@dataclass(frozen=True, slots=True)
class Tensor:
    """An input or output: its ranks in the order of its axes, the first `batch` of them batch."""

    name: str
    ranks: tuple[str, ...]
    batch: int = 0
    dtype: str = "float"
    span: Span = field(default=NOWHERE, compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class ParamDecl:
    """`param W: int = 128`; without a default the caller must give it."""

    name: str
    dtype: str
    default: int | float | bool | None
    span: Span = field(default=NOWHERE, compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class RankDecl:
    """`rank j = extent`, the extent an expression of extents and parameters."""

    name: str
    extent: Expr
    span: Span = field(default=NOWHERE, compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class Reduction:
    """A user's own reduction: `body` combines Param("x") and Param("y") under these names."""

    name: str
    x: str
    y: str
    body: Expr
    identity: Expr
    span: Span = field(default=NOWHERE, compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class Left:
    """One subscript on the left: `p`, or for an iterative rank `0` or `i+1`."""

    rank: str
    step: str = ""


@dataclass(frozen=True, slots=True)
class Einsum:
    """`target[left] = body where predicate`."""

    target: str
    left: tuple[Left, ...]
    body: Expr
    where: Expr | None = None
    dtype: str | None = None
    span: Span = field(default=NOWHERE, compare=False, repr=False)

    @property
    def ranks(self) -> tuple[str, ...]:
        return tuple(left.rank for left in self.left)


STREAMING = ("stream", "split", "share")
"""Lines of a schedule that ask for a loop over a rank, in one instance or in several."""


@dataclass(frozen=True, slots=True)
class Directive:
    """One line of a schedule: tile, parallel, stream, split, share, warps, stages; bind, space,
    overlap, hold.

    The last four are for a described accelerator. `ranks` are Einsums where they bind or overlap,
    tensors where they are held; `array` is what a line ends in with `on`, or the level after `in`.
    """

    verb: str
    ranks: tuple[str, ...] = ()
    value: Expr | None = None
    array: str = ""
    span: Span = field(default=NOWHERE, compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class Step:
    """One entry of a derivation: a law, the Einsums it touched, the passes over `rank` it left.

    `proof` states the identity that was checked. `text` is the story in a sentence.
    """

    law: str
    rank: str
    einsums: tuple[str, ...]
    before: int
    after: int
    text: str
    proof: str = ""
    span: Span = field(default=NOWHERE, compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class Refusal:
    """A pass over `rank` that stays: the Einsum that needs it, the term at fault, the reason."""

    rank: str
    einsum: str
    term: str
    reason: str
    span: Span = field(default=NOWHERE, compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class Cascade:
    """A compilable unit. Two cascades are equal when they compute alike by the same text.

    `tiles` names the parameters that the compiler introduced as tile sizes: a target may choose
    other values for them.
    """

    name: str
    batch: tuple[str, ...]
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    einsums: tuple[Einsum, ...]
    params: tuple[ParamDecl, ...] = ()
    ranks: tuple[RankDecl, ...] = ()
    reductions: tuple[Reduction, ...] = ()
    schedule: tuple[Directive, ...] = ()
    derivation: tuple[Step, ...] = field(default=(), compare=False)
    refusals: tuple[Refusal, ...] = field(default=(), compare=False)
    tiles: tuple[str, ...] = field(default=(), compare=False)
    span: Span = field(default=NOWHERE, compare=False, repr=False)

    def __str__(self) -> str:
        from attnc.ir.printer import print_cascade

        return print_cascade(self)

    def input(self, name: str) -> Tensor | None:
        return next((tensor for tensor in self.inputs if tensor.name == name), None)

    def definitions(self, name: str) -> tuple[Einsum, ...]:
        """The Einsums that assign a tensor: one, or start and step of an iterative one."""
        return tuple(einsum for einsum in self.einsums if einsum.target == name)

    def iterative(self) -> dict[str, tuple[int, str]]:
        """For each iterative tensor the axis and the rank along which it steps."""
        return {
            einsum.target: (axis, left.rank)
            for einsum in self.einsums
            for axis, left in enumerate(einsum.left)
            if left.step == "next"
        }

    def axes(self, name: str) -> tuple[str, ...]:
        """The rank of each axis of any tensor of the cascade."""
        tensor = self.input(name)
        if tensor is not None:
            return tensor.ranks
        found = self.definitions(name)
        if not found:
            raise InvalidIR(f"{self.name}: no tensor {name}")
        return found[-1].ranks


def base(rank: str) -> str:
    """The rank of a variable without its primes."""
    return rank.rstrip("'")


def rank_of(cascade: Cascade) -> dict[str, str]:
    """For every rank variable the declared rank over which it runs.

    A primed variable runs over the unprimed rank; one that nothing declares runs over the axis
    that it first subscripts alone.
    """
    from attnc.ir.walk import subterms

    known = {rank: rank for tensor in cascade.inputs for rank in tensor.ranks}
    known.update((rank, rank) for rank in cascade.batch)
    known.update((decl.name, decl.name) for decl in cascade.ranks)
    axes: dict[str, tuple[str, ...]] = {tensor.name: tensor.ranks for tensor in cascade.inputs}
    for einsum in cascade.einsums:
        axes[einsum.target] = einsum.ranks
    for einsum in cascade.einsums:
        for term in (*subterms(einsum.body), *subterms(einsum.where)):
            if isinstance(term, Access):
                for subscript, axis in zip(term.subscripts, axes.get(term.tensor, ())):
                    if isinstance(subscript, Index) and base(subscript.rank) not in known:
                        known[subscript.rank] = known.get(base(axis), base(axis))
    for einsum in cascade.einsums:
        for rank in variables(einsum):
            if rank not in known and base(rank) in known:
                known[rank] = known[base(rank)]
    return known


def variables(einsum: Einsum) -> tuple[str, ...]:
    """Every rank variable of an Einsum, left ones first."""
    from attnc.ir.walk import subterms

    found = dict.fromkeys(einsum.ranks)
    for term in (*subterms(einsum.body), *subterms(einsum.where)):
        match term:
            case Index(rank):
                found.setdefault(rank)
            case Reduce(_, ranks):
                found.update(dict.fromkeys(ranks))
            case Populate(_, rank, _, _, slot):
                found.setdefault(rank)
                if slot is not None:
                    found.setdefault(slot)
            case _:
                pass
    return tuple(found)


__all__ = [
    "DTYPES", "FLOATS", "Access", "Cascade", "Cast", "Const", "Directive", "Einsum", "Expr",
    "Extent", "Index", "Left", "Map", "ParamDecl", "Populate", "RankDecl", "Reduce",
    "Reduction", "Refusal", "Step", "Tensor", "base", "rank_of", "replace", "variables",
]  # fmt: skip
