"""Merge partial results of attention: `attnc.merge_state`."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np

from attnc.backends import launch
from attnc.calling import Compiled
from attnc.driver import compile
from attnc.ir.source import CallError
from attnc.modules import parse

TEXT = """
cascade merge_state(L[s, p], O[s, p, f]) -> Om[p, f], Lm[p]:
    G[p]     = max[s](L[s, p])
    W[s, p]  = exp(L[s, p] - G[p]) where L[s, p] > -inf
    D[p]     = sum[s](W[s, p])
    A[s, p]  = W[s, p] / D[p]
    Om[p, f] = A[s, p] * O[s, p, f]
    Lm[p]    = G[p] + log(D[p])
"""


@cache
def _kernel(backend: str) -> Compiled:
    return compile(parse(TEXT, filename="<merge_state>")["merge_state"], backend)


def merge_state(*parts: Any) -> tuple[Any, Any]:
    """The attention output over all keys from outputs over parts of them, with its log-sum-exp.

    `merge_state(outputs, lses)` takes s parts stacked: outputs [s, ..., f] and log-sum-exps
    [s, ...], natural logarithms; `merge_state(o1, l1, o2, l2)` takes two parts, o [..., f] and
    l [...]. Returns the output [..., f] in the type of the outputs and the log-sum-exp [...] in
    that of the log-sum-exps: arrays for arrays, tensors for tensors. Associative and commutative
    to rounding; a part of log-sum-exp -inf has no keys and vanishes, and if all have none the
    output is 0 and the log-sum-exp -inf. Raises CallError for shapes that do not fit.

    The merge is that of Flash-Decoding (Dao et al., 2023) and FlashInfer (Ye et al., 2025).
    """
    outputs: Any
    lses: Any
    if len(parts) not in (2, 4):
        raise CallError("merge_state takes outputs and log-sum-exps, or two parts of both")
    for part in parts:
        if not hasattr(part, "shape"):
            raise CallError(f"merge_state takes arrays or tensors, not {type(part).__name__}")
    tensors = not isinstance(parts[0], np.ndarray) and hasattr(parts[0], "is_cuda")
    if len(parts) == 4:
        stack = _torch().stack if tensors else np.stack
        if parts[0].shape != parts[2].shape or parts[1].shape != parts[3].shape:
            raise CallError(
                f"two parts of different shapes: {_shapes(parts[0], parts[1])} "
                f"and {_shapes(parts[2], parts[3])}"
            )
        outputs, lses = stack([parts[0], parts[2]]), stack([parts[1], parts[3]])
    else:
        outputs, lses = parts
    shape = tuple(outputs.shape)
    if len(shape) < 2 or shape[:-1] != tuple(lses.shape):
        raise CallError(
            f"outputs [s, ..., f] and log-sum-exps [s, ...] do not fit: {_shapes(outputs, lses)}"
        )
    kernel = _kernel("triton" if tensors and outputs.is_cuda else "numpy")
    rows = int(np.prod(shape[1:-1], dtype=np.int64))
    flat = outputs.reshape(shape[0], rows, shape[-1])
    merged, lse = kernel(lses.reshape(shape[0], rows), flat)
    merged = merged.to(outputs.dtype) if tensors else merged.astype(outputs.dtype, copy=False)
    return merged.reshape(shape[1:]), lse.reshape(shape[1:-1])


def _shapes(outputs: Any, lses: Any) -> str:
    return f"{list(outputs.shape)} with {list(lses.shape)}"


def _torch() -> Any:
    torch, _ = launch.require()
    return torch
