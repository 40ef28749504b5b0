"""A race: contenders called in turn, so that a noisy machine slows them all alike."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from statistics import median
from time import perf_counter
from typing import Any

import numpy as np

from attnc.ir.cascade import Cascade
from attnc.ir.source import CallError

Arrays = Mapping[str, np.ndarray]


def function(path: str, cascade: Cascade) -> Callable[[Arrays], Any]:
    """A Python function named `package.module:function`, called with the inputs in order.

    A package with a function `from_numpy` is handed its own tensors over the same memory. Raises
    CallError if there is no such function, and from its call if that fails.
    """
    module_name, _, name = path.partition(":")
    try:
        package = importlib.import_module(module_name.split(".")[0])
        called = getattr(importlib.import_module(module_name), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise CallError(f"no baseline {path!r}: {error}") from error
    if not callable(called):
        raise CallError(f"the baseline {path!r} cannot be called")
    convert = getattr(package, "from_numpy", np.asarray)
    names = [tensor.name for tensor in cascade.inputs]

    def call(arrays: Arrays) -> Any:
        try:
            return called(*(convert(arrays[name]) for name in names))
        except Exception as error:
            # The function is the caller's own: whatever it raises is an answer about the input.
            raise CallError(f"the baseline {path!r} failed: {error}") from error

    return call


def race(
    contenders: Mapping[str, Callable[[Arrays], Any]], arrays: Arrays, repeat: int
) -> list[dict[str, Any]]:
    """Median seconds of each contender, and its ratio to the first; one call each warms up."""
    for call in contenders.values():
        call(arrays)
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(repeat):
        for name, call in contenders.items():
            start = perf_counter()
            call(arrays)
            seconds[name].append(perf_counter() - start)
    medians = {name: median(times) for name, times in seconds.items()}
    first = next(iter(medians.values()))
    return [
        {"name": name, "seconds": time, "ratio": time / first} for name, time in medians.items()
    ]


def table(rows: list[dict[str, Any]]) -> str:
    """The rows of a race, one contender a line."""
    width = max(len(row["name"]) for row in rows)
    return "\n".join(
        f"{row['name']:<{width}}  {1e3 * row['seconds']:10.3f} ms  {row['ratio']:8.2f}x"
        for row in rows
    )
