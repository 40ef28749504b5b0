"""Reference functions of fla-core, run in float64 on a CPU.

The package asks for a GPU when it is imported, so a function is taken from its file; and it
computes in float32, so the text is read with float64 in its place, which is torch's default type
meanwhile. Nothing else of it is changed.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

Array = np.ndarray


@cache
def naive(path: str, function: str) -> Callable[..., Any]:
    """A function of a file of fla/ops, in float64."""
    found = importlib.util.find_spec("fla")
    assert found is not None and found.submodule_search_locations, "pip install fla-core einops"
    file = Path(found.submodule_search_locations[0]) / "ops" / path
    text = file.read_text(encoding="utf-8")
    for single, double in (
        (".float()", ".double()"),
        ("torch.float32", "torch.float64"),
        ("torch.float)", "torch.float64)"),
        ("dtype=torch.float,", "dtype=torch.float64,"),
    ):
        text = text.replace(single, double)
    names: dict[str, Any] = {"__name__": f"naive_{file.parent.name}"}
    exec(compile(text, str(file), "exec"), names)
    return names[function]  # type: ignore[no-any-return]


def call(
    path: str, function: str, *arrays: Array | None, timed: bool = True, **options: Any
) -> Any:
    """The function on arrays of (batch, head, time, ...), results as arrays likewise.

    `timed` says that the function has time before heads.
    """
    import torch

    def given(array: Array | None) -> Any:
        if array is None:
            return None
        tensor = torch.from_numpy(np.ascontiguousarray(array))
        return tensor.transpose(1, 2).contiguous() if timed and tensor.ndim > 2 else tensor

    usual = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        result = naive(path, function)(*map(given, arrays), **options)
    finally:
        torch.set_default_dtype(usual)
    first = result[0] if isinstance(result, tuple) else result
    return (first.transpose(1, 2) if timed else first).numpy()
