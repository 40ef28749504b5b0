"""Runs a tile program with NumPy: the instances of each kernel over threads, everything counted."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import cache
from hashlib import blake2b
from itertools import product
from math import prod
from typing import Any

import numpy as np
import numpy.typing as npt
from threadpoolctl import ThreadpoolController

from attnc.backends.binding import evaluate_extent
from attnc.backends.numpy_math import FORMATS, rounded
from attnc.backends.numpy_source import emit
from attnc.ir.algebra import BYTES
from attnc.ir.cascade import FLOATS, Tensor, base
from attnc.ir.source import InvalidIR
from attnc.ir.tile import Compute, Contract, Kernel, Load, Program, Scan, lists_of, shares_of
from attnc.ir.tile_facts import every

Array = npt.NDArray[Any]


@dataclass(frozen=True, slots=True)
class KernelFunction:
    """A kernel as a function, and the ranks of its grid from the slowest to the fastest."""

    call: Callable[..., tuple[int, int, int, int]]
    order: list[int]


@dataclass(frozen=True, slots=True)
class Counters:
    """What one call did: bytes loaded and stored, operations, and the most bytes that tiles of
    one instance of a grid held at a time."""

    bytes_read: int = 0
    bytes_written: int = 0
    flops: int = 0
    peak_live_bytes: int = 0


class Scratch:
    """Memory for tiles, kept from call to call; one thread uses it at a time."""

    def __init__(self) -> None:
        self.buffers: dict[int, Array] = {}

    def of(self, number: int, count: int, dtype: npt.DTypeLike) -> Array:
        """At least `count` elements, at an address that is a multiple of 64."""
        buffer = self.buffers.get(number)
        if buffer is None or buffer.size < count or buffer.dtype != dtype:
            wanted = np.dtype(dtype)
            raw = np.empty(count * wanted.itemsize + 64, np.uint8)
            start = -raw.ctypes.data % 64
            buffer = raw[start : start + count * wanted.itemsize].view(wanted)
            self.buffers[number] = buffer
        return buffer


SHARED = 1 << 15
"""Elements below which a call of NumPy is over before another thread has the interpreter's lock."""


def text(program: Program) -> str:
    """The source of a program for inputs of float32, or all of float64, and int32."""
    return emit(program, _integers(program))


def _integers(program: Program) -> frozenset[str]:
    return frozenset(tensor.name for tensor in _tensors(program) if tensor.dtype == "int")


def _tensors(program: Program) -> tuple[Tensor, ...]:
    return (*program.inputs, *program.outputs, *program.buffers)


class Executable:
    """A tile program as compiled Python.

    `threads` is how many run at a time, by default as many as this process has processors. `source`
    is what `text` gives, where that is there; other mixtures of types are written when they first
    come.
    """

    def __init__(
        self, program: Program, threads: int | None = None, source: str | None = None
    ) -> None:
        self.program = program
        self.threads = threads or available()
        self.counters = Counters()
        self.source = text(program) if source is None else source
        self._modules: dict[frozenset[str], list[KernelFunction]] = {
            _integers(program): _functions(program, self.source)
        }
        self._made: dict[str, dict[str, Array]] = {}
        self._listed: dict[str, bytes] = {}
        self._idle: dict[int, list[Scratch]] = {n: [] for n in range(len(program.kernels))}

    def run(self, arrays: Mapping[str, Array], extents: Mapping[str, int]) -> dict[str, Array]:
        """The outputs by name; `extents` holds the extent of every rank of the inputs."""
        extents = dict(extents)
        for decl in self.program.ranks:
            if decl.name not in extents:
                extents[decl.name] = int(evaluate_extent(decl.extent, extents, {}))
        memory = dict(arrays)
        floats = [memory[t.name].dtype for t in self.program.inputs if t.dtype in FLOATS]
        real = np.dtype(np.float64 if np.dtype(np.float64) in floats else np.float32)
        first = floats[0] if floats else real
        for tensor in (*self.program.outputs, *self.program.buffers):
            shape = tuple(extents[base(rank)] for rank in tensor.ranks)
            own = real if tensor in self.program.buffers and tensor.dtype == "float" else first
            memory[tensor.name] = np.zeros(shape, dtype_of(tensor, own))
        functions = self._compiled(memory, real)
        total = Counters()
        for number, kernel in enumerate(self.program.kernels):
            if kernel.aside:
                self._aside(number, kernel, functions[number], memory, extents, real)
                continue
            for counts in self._launch(number, kernel, functions[number], memory, extents, real):
                total = Counters(
                    total.bytes_read + counts[0],
                    total.bytes_written + counts[1],
                    total.flops + counts[2],
                    max(total.peak_live_bytes, counts[3]),
                )
        self.counters = total
        for tensor in self.program.outputs:
            if tensor.dtype in FORMATS:
                rounded(memory[tensor.name], tensor.dtype, out=memory[tensor.name])
        return {tensor.name: memory[tensor.name] for tensor in self.program.outputs}

    def _aside(
        self,
        number: int,
        kernel: Kernel,
        function: KernelFunction,
        memory: dict[str, Array],
        extents: Mapping[str, int],
        real: np.dtype[Any],
    ) -> None:
        """Block lists or shares of work, from the last call if their tables hold what they did."""
        tables = sorted({load.tensor for load in kernel.body if isinstance(load, Load)})
        seen = blake2b(repr(sorted(extents.items())).encode())
        for name in tables:
            table = memory[name]
            seen.update(f"{name} {table.dtype} {table.shape}".encode())
            seen.update(np.ascontiguousarray(table).tobytes())
        key = seen.digest()
        if self._listed.get(kernel.aside) != key:
            self._launch(number, kernel, function, memory, extents, real)
            stored = memory[kernel.aside]
            if kernel.lists:
                made = sifted(kernel.lists, stored)
            else:
                made = dealt(kernel.shares, stored, memory[shares_of(kernel.shares).first].size)
            self._made[kernel.aside] = made
            self._listed[kernel.aside] = key
        memory.update(self._made[kernel.aside])

    @property
    def lists(self) -> dict[str, Array]:
        """The block lists and shares of the last call, by buffer."""
        return {name: array for made in self._made.values() for name, array in made.items()}

    def _compiled(self, memory: Mapping[str, Array], real: np.dtype[Any]) -> list[KernelFunction]:
        """The kernels for these types: what is not of the arithmetic's own type is widened."""
        arithmetic = {"int": np.dtype(np.int64), "bool": np.dtype(np.bool_)}
        widened = frozenset(
            tensor.name
            for tensor in _tensors(self.program)
            if memory[tensor.name].dtype != arithmetic.get(tensor.dtype, real)
        )
        if widened not in self._modules:
            self._modules[widened] = _functions(self.program, emit(self.program, widened))
        return self._modules[widened]

    def _launch(
        self,
        number: int,
        kernel: Kernel,
        function: KernelFunction,
        memory: Mapping[str, Array],
        extents: Mapping[str, int],
        real: np.dtype[Any],
    ) -> list[tuple[int, int, int, int]]:
        """Run one kernel; each thread takes the next instance when it has done one."""
        instances: deque[tuple[int, ...] | None] = deque(
            _instances(kernel, function.order, memory, extents)
        )
        enough = largest_tile(kernel, extents) >= SHARED
        workers = min(self.threads if enough else 1, len(instances))
        instances.extend([None] * workers)

        def work() -> tuple[int, int, int, int]:
            idle = self._idle[number]
            try:
                scratch = idle.pop()
            except IndexError:
                scratch = Scratch()
            with np.errstate(all="ignore"):
                counts = function.call(
                    memory, extents, scratch, real, iter(instances.popleft, None)
                )
            idle.append(scratch)
            return counts

        if workers <= 1:
            # One instance alone may have all of BLAS's threads, unless only one was asked for.
            alone = self.threads > 1 and enough
            with nullcontext() if alone else one_blas_thread():
                return [work() for _ in range(workers)]
        with one_blas_thread():
            futures = [pool(self.threads).submit(work) for _ in range(workers - 1)]
            counts = [work()]
            return counts + [future.result() for future in futures]


def _instances(
    kernel: Kernel, order: list[int], memory: Mapping[str, Array], extents: Mapping[str, int]
) -> Iterable[tuple[int, ...]]:
    """The positions of the grid that are computed, behind them the number of each if it has one."""
    ranges = [range(0, extents[entry.rank], entry.tile) for entry in kernel.grid]
    if not kernel.at:
        places = [order.index(number) for number in range(len(order))]
        every_one = product(*(ranges[number] for number in order))
        return (tuple(found[place] for place in places) for found in every_one)
    rows = list(product(*ranges[1 if kernel.walks else 0 :]))
    if not kernel.walks:
        return ((*row, number) for number, row in enumerate(rows))
    made = shares_of(kernel.walks)
    walks = enumerate(zip(memory[made.first].tolist(), memory[made.last].tolist()))
    return ((w, *rows[n], n) for w, (first, last) in walks for n in range(first, last))


def largest_tile(kernel: Kernel, extents: Mapping[str, int]) -> int:
    """The elements of the largest tile that a kernel makes."""
    grid = {entry.rank: entry.tile for entry in kernel.grid}
    sizes = {
        axis.rank: min(grid[axis.rank], extents[axis.rank])
        if axis.rank in grid
        else axis.size or int(evaluate_extent(axis.extent, dict(extents), {}))
        for axis in kernel.axes
    }
    made = {s.ranks for s in every(kernel.body) if isinstance(s, Load | Compute | Contract | Scan)}
    return max((prod(sizes[rank] for rank in ranks) for ranks in made), default=0)


def sifted(states: str, array: Array) -> dict[str, Array]:
    """For each row of states the positions of those that are 2, or 1, in order, and how many."""
    found: dict[str, Array] = {}
    for full in (False, True):
        positions, count = lists_of(states, full)
        wanted = array == (2 if full else 1)
        order = np.argsort(~wanted, axis=-1, kind="stable")
        found[positions] = order.astype(np.int32)
        found[count] = wanted.sum(axis=-1, dtype=np.int32)
    return found


def dealt(counts: str, array: Array, walkers: int) -> dict[str, Array]:
    """The iterations before each row, and the rows in which each walker has a share of them."""
    made = shares_of(counts)
    ends = np.concatenate([[0], np.cumsum(array, dtype=np.int64)])
    each = max(1, -(-int(ends[-1]) // walkers))
    places = np.arange(walkers + 1) * each
    first = np.searchsorted(ends[1:], places[:-1], side="right")
    last = np.searchsorted(ends[:-1], places[1:], side="left")
    tables = {made.ends: ends, made.first: first, made.last: np.maximum(first, last)}
    return {name: table.astype(np.int32) for name, table in tables.items()}


def _functions(program: Program, source: str) -> list[KernelFunction]:
    """The kernels of an emitted module; the text is this package's own in every part."""
    namespace: dict[str, Any] = {}
    exec(compile(source, f"<{program.name} on NumPy>", "exec"), namespace)
    return [
        KernelFunction(namespace[f"kernel_{number}"], namespace[f"ORDER_{number}"])
        for number in range(len(program.kernels))
    ]


def dtype_of(tensor: Tensor, default: np.dtype[Any]) -> np.dtype[Any]:
    """The type of an output's array; types that NumPy lacks are held in float32."""
    match tensor.dtype:
        case "float":
            return default
        case "f16":
            return np.dtype(np.float16)
        case "f64":
            return np.dtype(np.float64)
        case "int":
            return np.dtype(np.int32)
        case "bool":
            return np.dtype(np.bool_)
        case _ if tensor.dtype in BYTES:
            return np.dtype(np.float32)
        case _:
            raise InvalidIR(f"{tensor.name} has the unknown type {tensor.dtype}")


def available() -> int:
    """Processors that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


@cache
def pool(threads: int) -> ThreadPoolExecutor:
    """Threads beside the calling one, kept for all calls."""
    return ThreadPoolExecutor(max(1, threads - 1), thread_name_prefix="attnc")


@cache
def _blas() -> ThreadpoolController:
    return ThreadpoolController()


def one_blas_thread() -> AbstractContextManager[Any]:
    """Hold BLAS to the calling thread, since the grid has the others."""
    limiter: AbstractContextManager[Any] = _blas().limit(limits=1, user_api="blas")
    return limiter
