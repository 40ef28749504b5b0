"""What must hold of every cascade; a failure is always a fault of this compiler."""

from __future__ import annotations

from collections.abc import Iterable

from attnc.ir.algebra import MONOIDS, OPS, POPULATES
from attnc.ir.cascade import DTYPES, Cascade, Einsum, base, rank_of, variables
from attnc.ir.expr import (
    Access,
    Cast,
    Const,
    Expr,
    Extent,
    Index,
    Map,
    Param,
    Populate,
    Reduce,
    Tile,
)
from attnc.ir.source import InvalidIR
from attnc.ir.walk import children, free_ranks


def verify_cascade(cascade: Cascade) -> None:
    """Check names, ranks, arity and order of a cascade. Raises InvalidIR naming the Einsum."""
    _Verification(cascade).run()


class _Verification:
    """One walk in program order; `ready` holds what may be read so far."""

    def __init__(self, cascade: Cascade) -> None:
        self.cascade = cascade
        self.place = "the header"
        self.ranks = rank_of(cascade)
        self.declared = {rank for tensor in cascade.inputs for rank in tensor.ranks}
        self.declared |= {*cascade.batch, *(decl.name for decl in cascade.ranks)}
        self.iterative = cascade.iterative()
        self.axes = {tensor.name: len(tensor.ranks) for tensor in cascade.inputs}
        self.params = {param.name for param in cascade.params}
        self.monoids = {*MONOIDS, *(own.name for own in cascade.reductions)}
        self.ready: set[tuple[str, str]] = {(tensor.name, "") for tensor in cascade.inputs}

    def fail(self, message: str) -> InvalidIR:
        return InvalidIR(f"{self.cascade.name}: {self.place}: {message}")

    def distinct(self, names: Iterable[str], what: str) -> None:
        seen: set[str] = set()
        for name in names:
            if name in seen:
                raise self.fail(f"{what} {name} stands twice")
            seen.add(name)

    def run(self) -> None:
        cascade = self.cascade
        self.distinct([tensor.name for tensor in cascade.inputs], "input")
        self.distinct([tensor.name for tensor in cascade.outputs], "output")
        self.distinct([*cascade.batch, *(rank.name for rank in cascade.ranks)], "rank")
        self.distinct([param.name for param in cascade.params], "parameter")
        self.distinct([own.name for own in cascade.reductions], "reduction")
        for tensor in (*cascade.inputs, *cascade.outputs):
            self.distinct(tensor.ranks, "rank")
            if tensor.dtype not in DTYPES:
                raise self.fail(f"{tensor.name} has the type {tensor.dtype}")
            if not set(tensor.ranks[: tensor.batch]) <= set(cascade.batch):
                raise self.fail(f"{tensor.name} has batch ranks that the cascade lacks")
        for rank in cascade.ranks:
            self.place = f"rank {rank.name}"
            if free_ranks(rank.extent):
                raise self.fail("an extent depends on a position")
            self.expr(rank.extent, frozenset())
        for einsum in cascade.einsums:
            self.place = einsum.target
            self.einsum(einsum)
        self.place = "the header"
        for tensor in cascade.outputs:
            found = cascade.definitions(tensor.name)
            if not found:
                raise self.fail(f"{tensor.name} is never assigned")
            if found[-1].ranks != tensor.ranks or tensor.name in self.iterative:
                raise self.fail(f"{tensor.name} is not assigned over {', '.join(tensor.ranks)}")

    def einsum(self, einsum: Einsum) -> None:
        step = next((left.step for left in einsum.left if left.step), "")
        self.distinct(einsum.ranks, "rank on the left")
        if einsum.ranks[: len(self.cascade.batch)] != self.cascade.batch:
            raise self.fail("the batch ranks do not stand in front")
        if (einsum.target, step) in self.ready or self.cascade.input(einsum.target) is not None:
            raise self.fail("it is assigned twice")
        if bool(step) != (einsum.target in self.iterative):
            raise self.fail("a start needs steps, and steps need a start")
        if step == "next" and (einsum.target, "start") not in self.ready:
            raise self.fail("it is stepped before it is started")
        if einsum.dtype is not None and einsum.dtype not in DTYPES:
            raise self.fail(f"no type {einsum.dtype}")
        if self.axes.setdefault(einsum.target, len(einsum.left)) != len(einsum.left):
            raise self.fail("start and step have different ranks")
        bound = frozenset(left.rank for left in einsum.left if left.step != "start")
        for rank in variables(einsum):
            if self.ranks.get(rank) not in self.declared:
                raise self.fail(f"rank {rank} has no extent")
        self.expr(einsum.body, bound)
        if einsum.where is not None:
            self.expr(einsum.where, bound)
        self.ready.add((einsum.target, step))

    def expr(self, expr: Expr, bound: frozenset[str]) -> None:
        """Names and arity inside an expression whose free ranks are bound around it."""
        match expr:
            case Const():
                pass
            case Index(rank):
                if rank not in bound:
                    raise self.fail(f"rank {rank} is free")
            case Extent(rank):
                if rank not in self.ranks:
                    raise self.fail(f"no rank {rank}")
            case Param(name):
                if name not in self.params:
                    raise self.fail(f"no parameter {name}")
            case Cast(dtype):
                if dtype not in DTYPES:
                    raise self.fail(f"no type {dtype}")
            case Map(op, args):
                least, most = OPS[op].arity if op in OPS else (0, -1)
                if not least <= len(args) <= most:
                    raise self.fail(f"no operation {op} of {len(args)} operands")
            case Access(name, subscripts):
                self.access(name, subscripts)
            case Reduce(op, ranks):
                if op not in self.monoids or not ranks:
                    raise self.fail(f"no reduction {op} over {len(ranks)} ranks")
                self.distinct(ranks, f"rank of {op}")
                bound |= frozenset(ranks)
            case Populate(op, rank, _, _, slot):
                if op not in POPULATES or (slot is None) != (op in ("argmax", "argmin")):
                    raise self.fail(f"{op} does not choose points")
                if slot is not None and slot not in bound:
                    raise self.fail(f"rank {slot} is free")
                bound |= {rank}
            case Tile(name):
                raise self.fail(f"a tile {name}")
        for part in children(expr):
            self.expr(part, bound)

    def access(self, name: str, subscripts: tuple[Expr, ...]) -> None:
        if name not in self.axes:
            raise self.fail(f"{name} is read before it is assigned")
        if len(subscripts) != self.axes[name]:
            raise self.fail(f"{name} has {self.axes[name]} ranks, not {len(subscripts)}")
        if name not in self.iterative:
            if (name, "") not in self.ready:
                raise self.fail(f"{name} is read before it is assigned")
            return
        axis, rank = self.iterative[name]
        match subscripts[axis]:
            case Const(0):
                needs = "start"
            case Index(found) if found == rank:
                needs = "start"
            case Map("+", (Index(found), Const(1))) if found == rank:
                needs = "next"
            case Extent(found) if found == base(rank):
                needs = "next"
            case _:
                raise self.fail(f"{name} steps along {rank} and is read elsewhere")
        if (name, needs) not in self.ready:
            raise self.fail(f"{name} is read before it is assigned")
