"""Where gradients cancel: errors beside those of autograd of the literal program, at most fourfold.

The inputs are normal and no weight is scaled, so that scores are large, most rows have one key, and
the gradient of its score is a difference of equal numbers. Errors are relative to the largest
gradient of a cascade.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import attnc
from attnc.backends.interpreter import run
from attnc.sampling import default_sizes, sample

torch = pytest.importorskip("torch")

ZOO = Path(__file__).resolve().parent.parent / "examples" / "zoo"
FACTOR = 4
DOUBLE = np.dtype(np.float64)

Tensor = Any


def softmax(scores: Tensor, where: Tensor) -> Tensor:
    """Along the last axis, over the points where a condition holds."""
    return torch.softmax(scores.masked_fill(~where, float("-inf")), -1).nan_to_num()


def lama(X: Tensor, U: Tensor, W: Tensor, c: Tensor, P: Tensor, len: Tensor) -> Tensor:
    scores = torch.einsum("hr,bmr,...r->bhm", P, X @ U.T, c @ W.T)
    return softmax(scores, torch.arange(X.shape[1]) < len[:, None, None]) @ X


def with_mean(X: Tensor, U: Tensor, W: Tensor, P: Tensor, len: Tensor) -> Tensor:
    words = torch.arange(X.shape[1])[:, None] < len[:, None, None]
    mean = (X * words).sum(1) / words.sum(1)
    scores = torch.einsum("hr,bmr,br->bhm", P, X @ U.T, mean @ W.T)
    return softmax(scores, words.mT) @ X


def kgat(
    X: Tensor, R: Tensor, W: Tensor, head: Tensor, rel: Tensor, tail: Tensor, W1: Tensor, W2: Tensor
) -> Tensor:
    leaky = torch.nn.functional.leaky_relu
    first = torch.einsum("ndk,nd->nk", W[rel], X[head])
    last = torch.einsum("ndk,nd->nk", W[rel], X[tail])
    scores = (last * torch.tanh(first + R[rel])).sum(-1).expand(len(X), -1)
    near = softmax(scores, head == torch.arange(len(X))[:, None]) @ X[tail]
    return leaky((X + near) @ W1) + leaky((X * near) @ W2)


def lolcats(Q: Tensor, K: Tensor, V: Tensor, X: Tensor, Y: Tensor, gamma: Tensor) -> Tensor:
    p, m = torch.arange(Q.shape[-2])[:, None], torch.arange(K.shape[-2])
    scores = Q @ K.mT / Q.shape[-1] ** 0.5
    scores = scores.masked_fill((m > p) | (m <= p - 64), float("-inf"))
    near = gamma[..., None, None] * torch.exp(scores - scores.amax(-1, keepdim=True))
    far = X @ Y.mT * (m <= p - 64)
    return (near @ V + far @ V) / (near + far).sum(-1, keepdim=True)


@pytest.mark.parametrize(
    ("file", "program"),
    [("lama-low-rank", lama), ("lama-low-rank", with_mean), ("kgat", kgat), ("lolcats", lolcats)],
    ids=lambda value: getattr(value, "__name__", ""),
)
@pytest.mark.parametrize(("kind", "tolerance"), [(np.float32, 1e-5), (np.float16, 4e-3)])
def test_autograd_loses_as_much(
    file: str, program: Callable[..., Tensor], kind: Any, tolerance: float
) -> None:
    cascade = attnc.load(ZOO / f"{file}.attn")[program.__name__]
    found = attnc.differentiate(cascade)
    sizes = {rank: min(size, 6) for rank, size in default_sizes(cascade).items()}
    arrays = {
        name: array.astype(np.float16) if array.dtype.kind == "f" else array
        for name, array in sample(cascade, sizes, dtype="f64", seed=3).items()
    }

    def of(dtype: Any) -> dict[str, Any]:
        return {n: a.astype(dtype) if a.dtype.kind == "f" else a for n, a in arrays.items()}

    (output,), (given,) = found.cotangents, found.cotangents.values()
    shape = run(cascade, of(DOUBLE), DOUBLE)[output].shape
    arriving = np.random.default_rng(7).standard_normal(shape).astype(np.float16)

    def autograd(dtype: Any) -> dict[str, Any]:
        leaves = {
            n: torch.tensor(a, requires_grad=a.dtype.kind == "f") for n, a in of(dtype).items()
        }
        program(**leaves).backward(torch.tensor(arriving.astype(dtype)))
        return {found.gradients[n]: leaves[n].grad.double().numpy() for n in found.gradients}

    exact = autograd(DOUBLE)
    largest = max(float(np.max(np.abs(value))) for value in exact.values())

    def error(gradients: dict[str, Any]) -> float:
        return max(float(np.max(np.abs(gradients[n] - exact[n]))) for n in exact) / largest

    every = of(kind) | {given: arriving.astype(kind)}
    every |= attnc.compile(found.forward).run(of(kind))
    ours = attnc.compile(found.backward).run({t.name: every[t.name] for t in found.backward.inputs})
    assert error(ours) < max(tolerance, FACTOR * error(autograd(kind)))
