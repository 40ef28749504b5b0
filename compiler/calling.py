"""The callable that a compilation gives: NumPy arrays in and out, or torch tensors in and out."""

from __future__ import annotations

import sys
from collections import namedtuple
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import zip_longest
from keyword import iskeyword
from types import ModuleType
from typing import Any

import numpy as np

from attnc.backends import interpreter
from attnc.backends.binding import bind
from attnc.backends.launch import TORCH_TYPES, Kernel
from attnc.backends.numpy_math import FORMATS
from attnc.backends.tiles import Counters, Executable
from attnc.crossover import Crossover
from attnc.ir.cascade import FLOATS, Cascade
from attnc.ir.source import CallError
from attnc.ir.tile import Program


@dataclass(frozen=True)
class Compiled:
    """A cascade ready to be called, by position or by name, with arrays or tensors.

    `cascade` is what was asked for and `optimized` what the steps made of it; `program` is the
    tile program and `source` the text that runs it. The interpreter has no tile program, and its
    source is the cascade. A call raises CallError for arguments that do not fit. One output comes
    back as itself, several as a named tuple. Where `crossover` is given, another program runs at
    extents at which it does less; it computes the same.
    """

    cascade: Cascade
    backend: str
    source: str
    optimized: Cascade
    program: Program | None = None
    runner: Executable | Kernel | None = None
    crossover: Crossover | None = None

    @property
    def counters(self) -> Counters | None:
        """Bytes, operations and peak of the last call; the NumPy back-end alone counts."""
        runner = self.runner if self.crossover is None else self.crossover.last
        return runner.counters if isinstance(runner, Executable) else None

    def __call__(self, /, *args: Any, **kwargs: Any) -> Any:
        call = bind(self.cascade, *self._views(args, kwargs))
        runner = self.runner if self.crossover is None else self.crossover.runner(call.extents)
        try:
            if isinstance(runner, Kernel):
                return runner(*args, **kwargs)
            results = (
                interpreter.run(self.cascade, call.arrays)
                if runner is None
                else runner.run(call.arrays, call.extents)
            )
        except ZeroDivisionError as error:
            extents = ", ".join(f"|{rank}| = {extent}" for rank, extent in call.extents.items())
            raise CallError(f"{self.cascade.name} divides by zero where {extents}") from error
        except OverflowError as error:
            raise CallError(f"a number of {self.cascade.name} is too large: {error}") from error
        torch = _torch_of((*args, *kwargs.values()))
        if torch is None:
            return _outputs(self.cascade, results)
        given = dict(zip((tensor.name for tensor in self.cascade.inputs), args)) | kwargs
        return _outputs(self.cascade, self._tensors(torch, results, given))

    def _views(
        self, args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> tuple[tuple[np.ndarray, ...], dict[str, np.ndarray]]:
        """The arguments as arrays that `bind` can judge: a GPU's tensors by their shape alone."""
        view = _shape if isinstance(self.runner, Kernel) else _array
        values = (*args, *kwargs.values())
        wide = any(str(getattr(value, "dtype", "")).endswith("float64") for value in values)
        real = np.dtype(np.float64 if wide else np.float32)
        reals = {tensor.name: real for tensor in self.cascade.inputs if tensor.dtype in FLOATS}
        names = [tensor.name for tensor in self.cascade.inputs][: len(args)]
        return (
            tuple(view(value, reals.get(name)) for name, value in zip_longest(names, args)),
            {name: view(value, reals.get(name)) for name, value in kwargs.items()},
        )

    def run(self, arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Call with arrays by name and give the outputs by name, however many there are."""
        found = self(**arrays)
        names = [tensor.name for tensor in self.cascade.outputs]
        return dict(zip(names, (found,) if len(names) == 1 else found))

    def _tensors(
        self, torch: ModuleType, results: Mapping[str, np.ndarray], given: Mapping[str, Any]
    ) -> dict[str, Any]:
        """The results as tensors; one of no stated type takes that of the first float input."""
        first = next(
            (given[tensor.name] for tensor in self.cascade.inputs if tensor.dtype in FLOATS), None
        )
        tensors = {name: torch.from_numpy(array) for name, array in results.items()}
        for tensor in self.cascade.outputs:
            if tensor.dtype == "float" and isinstance(first, torch.Tensor):
                tensors[tensor.name] = tensors[tensor.name].to(first.dtype)
            elif tensor.dtype in FORMATS:
                kind = getattr(torch, TORCH_TYPES[tensor.dtype])
                tensors[tensor.name] = tensors[tensor.name].to(kind)
        return tensors


def _outputs(cascade: Cascade, results: Mapping[str, Any]) -> Any:
    """The one output as itself, several as a named tuple in the order of the header."""
    names = [tensor.name for tensor in cascade.outputs]
    if len(names) == 1:
        return results[names[0]]
    title = "Outputs" if iskeyword(cascade.name) else cascade.name
    return namedtuple(title, names, rename=True)(*(results[name] for name in names))


def _torch_of(values: tuple[Any, ...]) -> ModuleType | None:
    """torch, if one of the values is its tensor: then the caller has already imported it."""
    torch = sys.modules.get("torch")
    return torch if torch and any(isinstance(value, torch.Tensor) for value in values) else None


def _shape(value: Any, real: np.dtype[Any] | None) -> np.ndarray:
    """An array of the shape and kind of a tensor, without its elements, wherever they lie."""
    torch = _torch_of((value,))
    if torch is None:
        return _array(value, real)
    one = _array(torch.empty((), dtype=value.dtype), real)
    return np.broadcast_to(one, tuple(value.shape))


def _array(value: Any, real: np.dtype[Any] | None) -> np.ndarray:
    """A view of an array or tensor; a number becomes `real` where that is given.

    A tensor of a type that NumPy lacks (bfloat16, the float8s) is widened to float32, exactly.
    """
    if isinstance(value, np.ndarray):
        return value
    torch = _torch_of((value,))
    if torch is not None:
        if value.device.type != "cpu":
            raise CallError(
                f"a tensor lies on {value.device}, and this back-end reads main memory: "
                "compile with backend='triton', or pass tensor.cpu()"
            )
        narrow = value.dtype.is_floating_point and value.dtype.itemsize < 4
        widened = value.float() if narrow and value.dtype != torch.float16 else value
        array: np.ndarray = widened.detach().numpy()
        return array
    if isinstance(value, np.generic | bool):
        return np.asarray(value)
    if isinstance(value, int | float):
        return np.asarray(value, real)
    raise CallError(f"expected a NumPy array or a torch tensor, not {type(value).__name__}")
