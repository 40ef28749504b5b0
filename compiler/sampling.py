"""Random inputs that a cascade can be run on: types, extents and positions that make sense.

A float tensor is standard normal. An `int` tensor that is used as a position is drawn from the
rank that it points into; one that is compared with a position (a length) is drawn up to that
rank's extent, never 0; any other (a document number) is drawn from few values, so that some agree.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from math import prod

import numpy as np

from attnc.ir.cascade import Cascade, Tensor
from attnc.ir.expr import Access, Expr, Extent, Map
from attnc.ir.source import CallError
from attnc.ir.walk import accesses, free_ranks, subterms

RAGGED = (37, 45, 22, 19, 13, 27)
"""Default extents: none a multiple of a tile, no two of them alike."""

NUMPY = {"f16": np.float16, "f32": np.float32, "f64": np.float64, "float": np.float32}
FEW = 3
MOST = 2**34


def default_sizes(cascade: Cascade) -> dict[str, int]:
    """Small extents for every rank of the inputs: 2 for batch ranks, ragged for the others.

    Where the cascade divides one extent by another (query heads by key heads), it divides evenly.
    """
    sizes = dict.fromkeys(cascade.batch, 2)
    for tensor in cascade.inputs:
        for rank in tensor.ranks:
            if rank not in sizes:
                sizes[rank] = RAGGED[len(sizes) % len(RAGGED)]
    for whole, part in _divided(cascade):
        if whole in sizes and part in sizes:
            sizes[part], sizes[whole] = 2, 4
    return sizes


def sample(
    cascade: Cascade, sizes: Mapping[str, int], *, dtype: str = "f32", seed: int = 0
) -> dict[str, np.ndarray]:
    """One array for every input, of the extents in `sizes` and with `dtype` for `float`.

    Raises CallError for a rank without an extent, or with one that is none; what `sizes` says of
    other ranks is for other cascades. The values depend on the seed alone.
    """
    for rank, extent in sizes.items():
        if not isinstance(extent, int) or extent < 0:
            raise CallError(f"rank {rank} cannot have the extent {extent!r}")
    generator = np.random.default_rng(seed)
    return {
        tensor.name: _draw(cascade, tensor, sizes, dtype, generator) for tensor in cascade.inputs
    }


def _draw(
    cascade: Cascade,
    tensor: Tensor,
    sizes: Mapping[str, int],
    dtype: str,
    generator: np.random.Generator,
) -> np.ndarray:
    unknown = [rank for rank in tensor.ranks if rank not in sizes]
    if unknown:
        raise CallError(f"{tensor.name}: rank '{unknown[0]}' has no extent; give {unknown[0]}=...")
    shape = tuple(sizes[rank] for rank in tensor.ranks)
    if prod(shape) > MOST:
        raise CallError(f"{tensor.name} would have {prod(shape):,} elements; at most {MOST:,} do")
    if tensor.dtype == "bool":
        return generator.random(shape) < 0.75
    if tensor.dtype == "int":
        low, high = _bounds(cascade, tensor, sizes)
        return generator.integers(low, high, shape, dtype=np.int32)
    kind = dtype if tensor.dtype == "float" else tensor.dtype
    values = generator.standard_normal(shape)
    if kind in NUMPY:
        return values.astype(NUMPY[kind])
    return values.astype(np.float32)


def _bounds(cascade: Cascade, tensor: Tensor, sizes: Mapping[str, int]) -> tuple[int, int]:
    """The range from which an int tensor is drawn: lowest value, and one past the highest."""
    for expr in _expressions(cascade):
        for term in subterms(expr):
            match term:
                case Access(owner, subscripts):
                    for subscript, axis in zip(subscripts, cascade.axes(owner)):
                        if _reads(subscript, tensor.name) and axis in sizes:
                            return 0, max(1, sizes[axis])
                case Map("<" | "<=" | ">" | ">=", (left, right)):
                    for length, other in ((left, right), (right, left)):
                        ranks = [rank for rank in free_ranks(other) if rank in sizes]
                        bare = isinstance(length, Access) and length.tensor == tensor.name
                        if bare and ranks and not any(True for _ in accesses(other)):
                            return 1, 1 + max(1, *(sizes[rank] for rank in ranks))
                case _:
                    pass
    return 0, FEW


def _reads(expr: Expr, name: str) -> bool:
    return any(access.tensor == name for access in accesses(expr))


def _expressions(cascade: Cascade) -> Iterator[Expr]:
    for einsum in cascade.einsums:
        yield einsum.body
        if einsum.where is not None:
            yield einsum.where


def _divided(cascade: Cascade) -> Iterator[tuple[str, str]]:
    """The pairs of ranks of which one's extent is divided by the other's."""
    for expr in _expressions(cascade):
        for term in subterms(expr):
            match term:
                case Map("//" | "%", (Extent(whole), Extent(part))):
                    yield whole, part
                case _:
                    pass
