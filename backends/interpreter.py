"""The literal interpreter: evaluates a cascade as written, one Einsum at a time, with NumPy.

It defines what a program means, so it favours the obvious over the fast. A value is an array with
one axis for each rank on which it depends, and a mask of the points that exist; None for a mask
says that all do. Iterative tensors keep their whole history: |i|+1 positions along their rank.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from math import prod
from typing import Any

import numpy as np

from attnc.backends.binding import Array, bind
from attnc.backends.elementwise import FUNCTIONS, cast
from attnc.backends.order import Group, groups
from attnc.backends.random import uniform
from attnc.backends.reductions import folded, ordered, taken
from attnc.backends.values import Val, aligned, conjunction, joint, restricted, truth, union
from attnc.ir.algebra import MONOIDS
from attnc.ir.cascade import FLOATS, Cascade, Einsum, base, rank_of, variables
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
from attnc.ir.source import CallError, InvalidIR
from attnc.ir.walk import free_ranks

LARGEST_SPACE = 1 << 24
"""Points of an iteration space that are evaluated at once."""


def run(
    cascade: Cascade, arrays: Mapping[str, Array], dtype: np.dtype[Any] | None = None
) -> dict[str, Array]:
    """Evaluate a cascade on NumPy arrays; returns its outputs by name.

    Arithmetic is in `dtype` if given, else float64 where an input is and float32 otherwise.
    Outputs have the declared type, that of the first float input, or `dtype`. Raises CallError
    for arguments that do not fit.
    """
    with np.errstate(all="ignore"):
        return _Run(cascade, arrays, dtype).outputs()


class _Run:
    """One evaluation: tensors by name, positions of the ranks at hand."""

    def __init__(
        self, cascade: Cascade, arrays: Mapping[str, Array], dtype: np.dtype[Any] | None
    ) -> None:
        self.cascade = cascade
        call = bind(cascade, (), arrays)
        self.extents, self.params = call.extents, call.params
        self.given = dtype
        floats = [call.arrays[t.name].dtype for t in cascade.inputs if t.dtype in FLOATS]
        self.first = floats[0] if floats else np.dtype(np.float32)
        wide = any(kind == np.float64 for kind in floats)
        self.dtype = dtype or np.dtype(np.float64 if wide else np.float32)
        self.classes = rank_of(cascade)
        self.iterative = cascade.iterative()
        self.tensors: dict[str, tuple[Array, Array | None]] = {}
        for tensor in cascade.inputs:
            array = call.arrays[tensor.name]
            if tensor.dtype != "bool":
                # Narrow integers would wrap where the language's do not.
                array = array.astype(self.dtype if tensor.dtype in FLOATS else np.int64)
            self.tensors[tensor.name] = (array, None)
        self.positions: dict[str, Array] = {}
        self.bound: dict[str, Val] = {}

    def outputs(self) -> dict[str, Array]:
        for group in groups(self.cascade):
            self._group(group)
        return {tensor.name: self._output(tensor.name, tensor.dtype) for tensor in
                self.cascade.outputs}  # fmt: skip

    def _output(self, name: str, dtype: str) -> Array:
        data, mask = self.tensors[name]
        if mask is not None:
            data = np.where(mask, data, np.zeros((), data.dtype))
        if dtype not in FLOATS:
            return data.astype({"int": np.int64, "bool": np.bool_}[dtype])
        if self.given is not None:
            return data.astype(self.given)
        if dtype == "float":
            return data.astype(self.first)
        stored = {"f16": np.float16, "f64": np.float64}.get(dtype, np.float32)
        return cast(data, dtype).astype(stored)

    # -- Einsums

    def _group(self, group: Group) -> None:
        """One Einsum, or those that a recurrence ties together, a step at a time."""
        for einsum in group.einsums:
            self._allocate(einsum)
        for step in np.ndindex(*(self._extent(rank) for rank in group.ranks)):
            fixed = dict(zip(group.ranks, step))
            for einsum in group.einsums:
                self._einsum(einsum, {r: k for r, k in fixed.items() if r in einsum.ranks})

    def _extent(self, rank: str) -> int:
        name = self.classes.get(rank, base(rank))
        if name not in self.extents:
            raise InvalidIR(f"{self.cascade.name}: rank {rank} has no extent")
        return self.extents[name]

    def _whole(self, rank: str) -> Array:
        try:
            return np.arange(self._extent(rank))
        except (MemoryError, ValueError):
            extent = self._extent(rank)
            raise CallError(f"rank {rank} has {extent} positions, too many for memory") from None

    def _allocate(self, einsum: Einsum) -> None:
        if einsum.target in self.tensors:
            return
        shape = [self._extent(rank) for rank in einsum.ranks]
        if einsum.target in self.iterative:
            shape[self.iterative[einsum.target][0]] += 1
        kind = {"int": np.dtype(np.int64), "bool": np.dtype(np.bool_)}
        listed = {output.name: output.dtype for output in self.cascade.outputs}
        dtype = kind.get(einsum.dtype or listed.get(einsum.target, ""), self.dtype)
        try:
            self.tensors[einsum.target] = (np.zeros(shape, dtype), np.zeros(shape, np.bool_))
        except (MemoryError, ValueError):
            size = " x ".join(map(str, shape))
            raise CallError(f"{einsum.target} has {size} points, too many for memory") from None

    def _einsum(self, einsum: Einsum, fixed: dict[str, int]) -> None:
        whole = {rank: self._whole(rank) for rank in variables(einsum)}
        whole.update({rank: np.array([at]) for rank, at in fixed.items()})
        for positions in _blocks(whole, einsum.ranks):
            self.positions = positions
            self._block(einsum, positions)

    def _block(self, einsum: Einsum, positions: dict[str, Array]) -> None:
        value = self._eval(einsum.body)
        if einsum.where is not None:
            value = restricted(value, self._eval(einsum.where))
        extra = [r for r in value.ranks if r not in einsum.ranks]
        if extra:
            raise InvalidIR(f"{einsum.target}: {', '.join(extra)} is not on the left")
        data, mask = aligned(value, einsum.ranks)
        if einsum.dtype is not None:
            data = cast(data, einsum.dtype)
        target, present = self.tensors[einsum.target]
        if present is None:
            raise InvalidIR(f"{self.cascade.name}: {einsum.target} is an input, and assigned")
        if target.dtype.kind != np.asarray(data).dtype.kind and einsum.dtype is None:
            target = self._retyped(einsum.target, np.asarray(data).dtype)
        place = tuple(
            np.zeros(1, np.int64) if left.step == "start"
            else positions[left.rank] + (left.step == "next")
            for left in einsum.left
        )  # fmt: skip
        if not place:
            target[()] = np.asarray(data).reshape(())
            present[()] = True if mask is None else mask.reshape(())
            return
        where = np.ix_(*place)
        shape = tuple(len(p) for p in place)
        target[where] = np.broadcast_to(data, shape)
        present[where] = True if mask is None else np.broadcast_to(mask, shape)

    def _retyped(self, name: str, dtype: np.dtype[Any]) -> Array:
        """A tensor whose Einsum turns out to yield truth values or integers."""
        data, mask = self.tensors[name]
        wide = np.promote_types(data.dtype, dtype) if np.any(mask) else dtype
        self.tensors[name] = (data.astype(wide), mask)
        return self.tensors[name][0]

    # -- expressions

    def _eval(self, expr: Expr) -> Val:
        match expr:
            case Const(value):
                return Val((), np.asarray(value, None if _exact(value) else self.dtype))
            case Index(rank):
                return Val((rank,), self.positions[rank])
            case Extent(rank):
                return Val((), np.asarray(self._extent(rank)))
            case Param(name) if name in self.bound:
                return self.bound[name]
            case Param(name):
                value = self.params[name]
                return Val((), np.asarray(value, None if _exact(value) else self.dtype))
            case Map("present", (body,)):
                inner = self._eval(body)
                mask = np.ones(inner.data.shape, np.bool_) if inner.mask is None else inner.mask
                return Val(inner.ranks, mask.astype(np.int64))
            case Map("select", (condition, chosen, other)):
                return self._select(self._eval(condition), self._eval(chosen), self._eval(other))
            case Map(op, args):
                return self._map(op, [self._eval(arg) for arg in args])
            case Cast(dtype, body):
                inner = self._eval(body)
                return Val(inner.ranks, self._rounded(inner.data, dtype), inner.mask)
            case Access():
                return self._access(expr)
            case Reduce():
                return self._reduce(expr)
            case Populate():
                return self._populate(expr)
            case Tile(name):
                raise InvalidIR(f"a tile in a cascade: {name}")

    def _rounded(self, data: Array, dtype: str) -> Array:
        rounded = cast(data, dtype)
        return rounded.astype(self.dtype) if dtype in FLOATS else rounded

    def _map(self, op: str, args: list[Val]) -> Val:
        ranks = union(args)
        parts = [aligned(arg, ranks) for arg in args]
        if op == "uniform":
            data = uniform(*(data for data, _ in parts)).astype(self.dtype)
        else:
            data = FUNCTIONS[op](self._numbers(op, [data for data, _ in parts]))
        return Val(ranks, data, joint(mask for _, mask in parts))

    def _numbers(self, op: str, data: list[Array]) -> list[Array]:
        """Integers become floats where they meet one, in the type of the arithmetic."""
        if op in ("and", "or", "not"):
            return data
        if any(part.dtype.kind == "f" for part in data):
            return [part.astype(self.dtype, copy=False) for part in data]
        if op in ROUNDING_TO_FLOAT:
            return [part.astype(np.float64).astype(self.dtype) for part in data]
        return [part.astype(np.int64) if part.dtype.kind == "b" else part for part in data]

    def _select(self, condition: Val, chosen: Val, other: Val) -> Val:
        """Looks only at the operand that it picks."""
        ranks = union([condition, chosen, other])
        (test, known), (a, a_mask), (b, b_mask) = (
            aligned(value, ranks) for value in (condition, chosen, other)
        )
        test = test.astype(np.bool_)
        mask = known
        if a_mask is not None or b_mask is not None:
            picked = np.where(
                test,
                np.True_ if a_mask is None else a_mask,
                np.True_ if b_mask is None else b_mask,
            )
            mask = picked if known is None else known & picked
        a, b = self._numbers("select", [a, b])
        return Val(ranks, np.where(test, a, b), mask)

    def _access(self, access: Access) -> Val:
        array, present = self.tensors[access.tensor]
        subscripts = [self._eval(subscript) for subscript in access.subscripts]
        ranks = union(subscripts)
        places: list[Array] = []
        inside: Array | None = None
        for value, size in zip(subscripts, array.shape):
            index, mask = aligned(value, ranks)
            valid = (index >= 0) & (index < size)
            if not valid.all():
                mask = valid if mask is None else mask & valid
            inside = joint((inside, mask))
            places.append(np.clip(index, 0, max(size - 1, 0)).astype(np.int64))
        if 0 in array.shape:
            shape = np.broadcast_shapes(*(p.shape for p in places))
            return Val(ranks, np.zeros(shape, array.dtype), np.zeros(shape, np.bool_))
        if not places:
            return Val((), array[()], None if present is None else np.asarray(present[()]))
        data = array[tuple(places)]
        own = None if present is None else present[tuple(places)]
        if own is not None and own.all():
            own = None
        return Val(ranks, data, joint((own, inside)))

    # -- reductions

    def _reduce(self, reduce: Reduce) -> Val:
        value = self._operand(reduce, reduce.ranks)
        kept = tuple(rank for rank in value.ranks if rank not in reduce.ranks)
        data, mask = aligned(value, (*kept, *reduce.ranks))
        sizes = tuple(self._extent(rank) for rank in reduce.ranks)
        points = prod(sizes)
        lead = tuple(data.shape[: len(kept)])
        data = np.broadcast_to(data, (*lead, *sizes)).reshape((*lead, points))
        if mask is not None:
            lead = np.broadcast_shapes(lead, mask.shape[: len(kept)])
            data = np.broadcast_to(data, (*lead, points))
            mask = np.broadcast_to(mask, (*lead, *sizes)).reshape((*lead, points))
        result = Val(kept, self._folded(reduce.op, data, mask))
        return restricted(result, self._reachable(reduce.body, frozenset(reduce.ranks)))

    def _operand(self, term: Reduce | Populate, ranks: tuple[str, ...]) -> Val:
        """What a reduction ranges over: its own ranks whole, whatever is at hand outside it."""
        outer = self.positions
        self.positions = {**outer, **{rank: self._whole(rank) for rank in ranks}}
        value = self._eval(term.body)
        if term.where is not None:
            value = restricted(value, self._eval(term.where))
        self.positions = outer
        return value

    def _folded(self, op: str, data: Array, mask: Array | None) -> Array:
        return folded(op, data, mask) if op in MONOIDS else self._own(op, data, mask)

    def _own(self, op: str, data: Array, mask: Array | None) -> Array:
        """A reduction of the user's, combined pairwise as a tree."""
        own = next((r for r in self.cascade.reductions if r.name == op), None)
        if own is None:
            raise InvalidIR(f"{self.cascade.name}: no reduction {op}")
        data = data.astype(self.dtype)
        mask = np.ones(data.shape, np.bool_) if mask is None else mask
        names = tuple(f"axis {i}" for i in range(data.ndim))
        while data.shape[-1] > 1:
            if data.shape[-1] % 2:
                pad = [(0, 0)] * (data.ndim - 1) + [(0, 1)]
                data, mask = np.pad(data, pad), np.pad(mask, pad)
            x, y = data[..., 0::2], data[..., 1::2]
            has_x, has_y = mask[..., 0::2], mask[..., 1::2]
            self.bound = {own.x: Val(names, x), own.y: Val(names, y)}
            joined, _ = aligned(self._eval(own.body), names)
            self.bound = {}
            data = np.where(has_x & has_y, joined, np.where(has_x, x, y))
            mask = has_x | has_y
        identity = self._eval(own.identity).data
        if data.shape[-1] == 0:
            return np.full(data.shape[:-1], identity, self.dtype)
        return np.where(mask[..., 0], data[..., 0], identity)

    def _reachable(self, expr: Expr, reduced: frozenset[str]) -> Val:
        """Where the positions read lie inside, as far as the reduction does not run over them."""
        match expr:
            case Access(tensor, subscripts):
                result = Val((), np.asarray(True))
                for subscript, size in zip(subscripts, self.tensors[tensor][0].shape):
                    if free_ranks(subscript) & reduced:
                        continue
                    index = self._eval(subscript)
                    inside = Val(index.ranks, (index.data >= 0) & (index.data < size), index.mask)
                    result = conjunction(result, truth(inside))
                return result
            case Map("present"):
                return Val((), np.asarray(True))
            case Map("select", (condition, _, _)):
                return self._reachable(condition, reduced)
            case Map(_, args):
                result = Val((), np.asarray(True))
                for arg in args:
                    result = conjunction(result, self._reachable(arg, reduced))
                return result
            case Cast(_, body):
                return self._reachable(body, reduced)
            case _:
                return Val((), np.asarray(True))

    # -- points chosen by value

    def _populate(self, populate: Populate) -> Val:
        rank = populate.rank
        value = self._operand(populate, (rank,))
        kept = tuple(r for r in value.ranks if r != rank)
        data, mask = aligned(value, (*kept, rank))
        shape = (*data.shape[:-1], self._extent(rank))
        data = np.broadcast_to(data, shape)
        mask = np.ones(shape, np.bool_) if mask is None else np.broadcast_to(mask, shape)
        order, there = ordered(populate.op, data, mask)
        if populate.op == "rankof":
            at = self.positions[rank]
            places = np.argsort(order, axis=-1, kind="stable")
            return Val((*kept, rank), places[..., at], mask[..., at])
        if populate.slot is None:
            first = np.zeros((), np.int64)
            return Val(kept, taken(order, first), taken(there, first))
        slots = self.positions[populate.slot]
        return Val((*kept, populate.slot), taken(order, slots), taken(there, slots))


ROUNDING_TO_FLOAT = frozenset(
    name
    for name in FUNCTIONS
    if name
    in ("/", "exp", "exp2", "log", "log2", "log1p", "expm1", "sqrt", "rsqrt", "sin", "cos", "tanh",
        "sigmoid", "softplus", "gelu", "silu", "elu", "erf")
)  # fmt: skip
"""Functions whose value is a float whatever their operands."""


def _exact(value: int | float | bool) -> bool:
    return isinstance(value, bool | int)


def _blocks(whole: dict[str, Array], left: tuple[str, ...]) -> Iterator[dict[str, Array]]:
    """The iteration space in pieces along left ranks, none above the limit if that can be."""
    points = 1
    for positions in whole.values():
        points *= max(1, len(positions))
    longest = max((r for r in left if len(whole[r]) > 1), key=lambda r: len(whole[r]), default="")
    if points <= LARGEST_SPACE or not longest:
        yield whole
        return
    size = len(whole[longest])
    pieces = min(size, -(-points // LARGEST_SPACE))
    for part in np.array_split(whole[longest], pieces):
        yield from _blocks({**whole, longest: part}, left)
