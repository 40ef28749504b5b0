"""From a cascade to a tile program: every reduction running, every value a tile, nothing empty.

Each output and each stored tensor is the root of a kernel; roots that are cut along the same grid
share one. A kernel is written by demand from its roots: what a value needs is lowered before it,
once, in the outermost loop that it does not vary with. A final slice T[|i|] demands the loop over
i, in which all iterative tensors of the same stage share one sweep. Emptiness becomes explicit
here: a load knows where it may read, a fold sees the identity where its operand does not exist,
and the ranges of loops leave out iterations that no point survives (`ranges.py`).
"""

from __future__ import annotations

import math

from attnc.ir.cascade import Cascade, Einsum, Tensor
from attnc.ir.expr import (
    ZERO,
    Access,
    Cast,
    Const,
    Expr,
    Extent,
    Index,
    Map,
    Reduce,
    Tile,
    both,
)
from attnc.ir.source import CompileError, InvalidIR, Span
from attnc.ir.tile import (
    Grid,
    Kernel,
    Store,
)
from attnc.ir.walk import free_ranks, subterms
from attnc.passes.defer import number
from attnc.passes.domain import Domains, union
from attnc.passes.extents import Extents
from attnc.passes.loops import Share
from attnc.passes.placed import Place
from attnc.passes.probe import probe
from attnc.passes.scopes import Value
from attnc.passes.stages import Stages
from attnc.passes.sums import Sums


class KernelWriter(Sums):
    """Writes one kernel: `roots` are stored, tensors in `memory` are read from memory.

    `placed` says where a root is stored, if not at its own ranks, and `shares` which loops are
    divided. `scale_operands` is that of `Sums`, `tests` that of the target.
    """

    def __init__(
        self,
        cascade: Cascade,
        name: str,
        roots: tuple[str, ...],
        memory: dict[str, tuple[str, ...]],
        tiles: dict[str, int],
        extents: Extents,
        domains: Domains,
        placed: dict[str, Place],
        shares: dict[str, Share],
        scale_operands: bool,
        tests: int,
    ) -> None:
        stages = Stages(cascade, roots, frozenset(memory), tiles)
        super().__init__(cascade, name, memory, tiles, extents, domains, stages, shares, tests)
        self.roots, self.placed, self.scale_operands = roots, placed, scale_operands
        self.made = {t: e for t, e in self.definitions.items() if t not in memory}

    # -- the kernel

    def write(self) -> Kernel:
        """The kernel, its roots stored."""
        stepping = [(r, k) for r in self.roots for k in self.stages.loop_ranks(r)[:1]]
        for root, rank in stepping:
            if self.scopes.find((root, "stored")) is None:
                self._loop(rank, frozenset({root}))
        for root in self.roots:
            if root not in dict(stepping):
                self._store(root)
        grid = tuple(Grid(rank, size) for rank, size in self.grid.items())
        body = tuple(self.scopes.open[0].statements)
        return Kernel(self.name, grid, tuple(self.axes.values()), body)

    def _store(self, root: str) -> None:
        einsum = self.definitions[root]
        if root in self.stepped:
            raise CompileError(
                f"the history of {root} is an output",
                einsum.span,
                "every step of an iterative tensor would have to be stored",
                code="E301",
                help="assign what the output needs of each step to a tensor of its own",
            )
        value, depth = self._tensor(root, einsum.span)
        own = Tile("", tuple(r for r in einsum.ranks if self._is_axis(r)))
        predicates = union(self.domains.tensors[root])
        mask, inner = self.mask(predicates)
        if mask is not None:
            value, depth = Map("select", (mask, value, ZERO)), max(depth, inner)
        tile = self.scopes.named(f"{root}_out", own.ranks, value, depth, einsum.span)
        own_place = Place(root, einsum.ranks, tuple(Index(rank) for rank in einsum.ranks))
        place = self.placed.get(root, own_place)
        subscripts = tuple(self._value(subscript)[0] for subscript in place.subscripts)
        store = Store(place.tensor, subscripts, tile, self._inside(place), einsum.span)
        self.scopes.emit(store, self.scopes.depth)
        self.scopes.keep((root, "stored"), tile, 0)

    def _inside(self, place: Place) -> Expr | None:
        """Where a root has elements, if its ranks were put together from parts."""
        inside: Expr | None = None
        for subscript, rank in zip(place.subscripts, place.ranks):
            if not isinstance(subscript, Index):
                bound = Map("<", (self._value(subscript)[0], self.extents.of(rank)))
                inside = both(inside, bound)
        return inside

    # -- Einsums

    def _tensor(self, tensor: str, span: Span) -> Value:
        """The value of an Einsum that is not iterative, once."""
        found = self.scopes.find(tensor)
        if found is not None:
            return found
        einsum = self.definitions.get(tensor)
        if einsum is None:
            raise InvalidIR(f"{self.name}: no definition of {tensor}")
        body = einsum.body
        if isinstance(body, Reduce):
            value, depth = self._reduce(einsum, body)
        else:
            value, depth = self._value(body)
        value = _typed(value, einsum)
        if not isinstance(value, Tile | Const):
            # What is alike in all problems of a batch is there once.
            varying = self.axes_of(value)
            ranks = tuple(
                rank
                for rank in self._own(einsum)
                if rank in varying or rank not in self.cascade.batch
            )
            value = self.scopes.named(tensor, ranks, value, depth, einsum.span)
        return self.scopes.keep(tensor, value, depth)

    # -- iterative tensors

    def _iterative(self, access: Access) -> Value:
        axis, rank = self.stepped[access.tensor]
        step = self.definitions[access.tensor]
        names = {
            left.rank: subscript
            for i, (left, subscript) in enumerate(zip(step.left, access.subscripts))
            if i != axis
        }
        carried = any(access.tensor in scope.states for scope in self.scopes.open)
        match access.subscripts[axis]:
            case Index(r) if r == rank and carried:
                value, depth = self._state(access.tensor, rank)
            case Map("+", (Index(r), Const(1))) if r == rank and carried:
                value, depth = self._after(access.tensor)
            case Extent(r) if r == rank:
                value, depth = self._final(access.tensor, rank)
            case Const(0):
                value, depth = self._start(access.tensor)
            case _:
                raise CompileError(
                    f"{access.tensor} is read at a step that a sweep does not hold",
                    access.span,
                    f"a kernel holds {access.tensor}[{rank}], [{rank}+1] and [|{rank}|]",
                    code="E304",
                )
        return self._renamed(value, names), depth

    def _state(self, tensor: str, rank: str) -> Value:
        for depth, scope in enumerate(self.scopes.open):
            if scope.loop == rank and tensor in scope.states:
                return scope.states[tensor], depth
        raise InvalidIR(f"{self.name}: {tensor} is read outside its sweep")

    def _start(self, tensor: str) -> Value:
        value, depth = self._value(self.starts[tensor].body)
        if all(isinstance(term, Const | Map) for term in subterms(value)):
            folded = probe(value, {})
            if not math.isnan(folded):
                return number(folded), 0
        return value, depth

    def _after(self, tensor: str) -> Value:
        found = self.scopes.find((tensor, "after"))
        if found is not None:
            return found
        einsum = self.definitions[tensor]
        rank = self.stepped[tensor][1]
        if any(rank in free_ranks(part) for part in self.domains.of_einsum(einsum)):
            raise CompileError(
                f"a step of {tensor} may be empty",
                einsum.span,
                "a state that does not exist cannot be carried",
                code="E305",
                help="use select(...) to keep the state where nothing is added",
            )
        if isinstance(einsum.body, Reduce):
            value, depth = self._reduce(einsum, einsum.body)
        else:
            value, depth = self._value(einsum.body)
        value = _typed(value, einsum)
        depth = max(depth, self.scopes.depth_of(rank) or 0)
        tile = self.scopes.named(
            f"{tensor}_next", self._state_ranks(tensor), value, depth, einsum.span
        )
        return self.scopes.keep((tensor, "after"), tile, depth)

    def _final(self, tensor: str, rank: str) -> Value:
        key = (tensor, "final")
        found = self.scopes.find(key)
        if found is None:
            carried = self.definitions[tensor].ranks
            outside = max((self.scopes.depth_of(own) or 0 for own in carried), default=0)
            with self.scopes.back_at(outside):
                self._loop(rank, frozenset({tensor}))
            found = self.scopes.find(key)
        if found is None:
            raise InvalidIR(f"{self.name}: no sweep over {rank} computes {tensor}")
        return found


def _typed(value: Expr, einsum: Einsum) -> Expr:
    """A value rounded to the type that its Einsum declares; truth values are what they are."""
    if einsum.dtype in (None, "float", "bool"):
        return value
    return Cast(einsum.dtype or "", value, einsum.span)


def buffer(cascade: Cascade, name: str) -> Tensor:
    """A stored tensor as memory between kernels, of its own type if it has one."""
    dtype = cascade.definitions(name)[-1].dtype or "float"
    return Tensor(name, cascade.axes(name), len(cascade.batch), dtype)
