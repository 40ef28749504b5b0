"""Reductions up to a position become scans and recurrences by algebra, and go by chunks."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Any

import numpy as np
import pytest

import attnc
from attnc.explanation import explain
from attnc.ir.cascade import Cascade
from attnc.ir.tile import Loop, Program, Scan
from attnc.passes.pipeline import lower

INSIDE = "ATTNC_TEST_INTERPRETER"

HEAD = "cascade c[b, h](q[h; e], K[m, e], V[m, f], bias[m]) -> O[t, f]:\n    rank t = |m|\n"
SCORE = "    S[t, m] = sum[e](q[e] * K[m, e]) / sqrt(|e|) + bias[m]"
TAIL = "    A[t, m] = softmax[m](S[t, m])\n    O[t, f] = A[t, m] * V[m, f]\n"
STEPS = """cascade c[b, h](q[h; e], K[t, e], V[t, f], bias[t]) -> O[t, f]:
    S[t]      = sum[e](q[e] * K[t, e]) / sqrt(|e|) + bias[t]
    M[0]      = -inf
    M[t+1]    = max(M[t], S[t])
    C[0]      = 0
    C[t+1]    = C[t] * exp(M[t] - M[t+1]) + exp(S[t] - M[t+1])
    A[0, f]   = 0
    A[t+1, f] = A[t, f] * exp(M[t] - M[t+1]) + exp(S[t] - M[t+1]) * V[t, f]
    O[t, f]   = A[t+1, f] / C[t+1]
"""
ATTENTION = {
    "up to a position": f"{HEAD}{SCORE} where m <= t\n{TAIL}",
    "before a position": f"{HEAD}{SCORE} where t > m\n{TAIL}",
    "the position from the other side": f"{HEAD}{SCORE} where t >= m\n{TAIL}",
    "points left out": f"{HEAD}{SCORE} where m <= t and bias[m] < 1\n{TAIL}",
    "steps": STEPS,
}
SCANNED = {
    "extrema": """cascade c[b](X[m, d]) -> Y[t, d], Z[t, d]:
    rank t = |m|
    Y[t, d] = max[m where m <= t](X[m, d])
    Z[t, d] = min[m where m < t](abs(X[m, d]))
""",
    "of several ranks, more positions than points": """cascade c[b](X[m, d], W[t, d]) -> N[t]:
    Y[t, d] = max[m where m <= t](X[m, d])
    N[t]    = max[m, d where m <= t](abs(X[m, d])) + sum[d](Y[t, d] * W[t, d])
""",
    "fewer positions than points": """cascade c[b](X[p, d], W[t, d]) -> N[t, d]:
    N[t, d] = max[p where p <= t](X[p, d]) * W[t, d]
""",
    "sums of exponentials": """cascade c[b](X[m, d]) -> L[t, d]:
    rank t = |m|
    L[t, d] = logsumexp[m where m <= t](X[m, d])
""",
    "relative to the largest so far": """cascade c[b](X[m, d]) -> N[t, d]:
    rank t = |m|
    G[t, d] = max[m where m <= t](abs(X[m, d]))
    N[t, d] = sum[m where m <= t]((abs(X[m, d]) / G[t, d]) ** 3)
""",
    "a reduction of one's own that is linear in its state": """
def either reduce(x, y) = x + y - x * y identity 0
cascade c[b](X[m, d]) -> O[t, d]:
    rank t = |m|
    O[t, d] = either[m where m <= t](cos(X[m, d]) ** 2)
""",
    "what is reduced again": """cascade c[b](X[t, d]) -> F[d]:
    C[t, d] = max[j where j <= t](X[j, d])
    F[d]    = sum[t](C[t, d] * X[t, d])
""",
    "whole numbers that choose": """cascade c[b](count[t]: int, Z[m]) -> F[m]:
    end[t]: int = sum[j where j <= t](count[j])
    F[m]        = sum[t](select(end[t] <= m, Z[m], 0))
""",
}


def cascade(text: str) -> Cascade:
    return attnc.parse(text)["c"]


def drawn(one: Cascade, length: int, scale: float = 1.0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(length)
    sizes = {"b": 2, "h": 3, "e": 5, "f": 7, "d": 4, "t": length, "m": length, "p": length + 70}
    if "m" in {r for t in one.inputs for r in t.ranks} and one.input("W") is not None:
        sizes["m"] = max(1, length - 70)
    found: dict[str, np.ndarray] = {}
    for tensor in one.inputs:
        shape = [sizes[rank] for rank in tensor.ranks]
        found[tensor.name] = rng.standard_normal(shape) * (scale if tensor.name in "KX" else 1)
        if tensor.dtype == "int":
            found[tensor.name] = rng.integers(0, 3, shape, dtype=np.int32)
    return found


def outputs(result: Any) -> list[np.ndarray]:
    return [np.asarray(r) for r in (result if isinstance(result, tuple) else (result,))]


def same(found: Any, expected: Any, tolerance: float = 1e-12) -> None:
    for a, b in zip(outputs(found), outputs(expected), strict=True):
        finite = np.isfinite(b)
        assert np.array_equal(a[~finite], b[~finite])
        largest = max(1e-30, np.abs(b[finite]).max(initial=0))
        assert np.abs(a[finite] - b[finite]).max(initial=0) <= tolerance * largest


def prefix_means(arrays: dict[str, np.ndarray], before: bool = False) -> np.ndarray:
    """Attention of the query to every prefix, by the textbook; 0 where nothing counts."""
    scores = np.einsum("he,bhme->bhm", arrays["q"], arrays["K"]) / np.sqrt(5) + arrays["bias"]
    found = np.zeros_like(arrays["V"])
    for t in range(scores.shape[-1]):
        own = scores[..., : t + (not before)]
        top = own.max(-1, keepdims=True, initial=-np.inf)
        weights = np.exp(own - np.where(top == -np.inf, 0, top))
        total = weights.sum(-1)[..., None]
        mean = np.einsum("bhm,bhmf->bhf", weights, arrays["V"][:, :, : own.shape[-1]])
        found[:, :, t] = np.divide(mean, total, out=np.zeros_like(mean), where=total != 0)
    return found


def scans(program: Program) -> int:
    loops = [s for kernel in program.kernels for s in kernel.body if isinstance(s, Loop)]
    return sum(isinstance(s, Scan) for loop in loops for s in loop.segments[0].body)


@pytest.mark.parametrize("scale", [1.0, 1e4])
@pytest.mark.parametrize("length", [1, 63, 64, 200])
@pytest.mark.parametrize("name", ATTENTION)
def test_attention_to_every_prefix(name: str, length: int, scale: float) -> None:
    one = cascade(ATTENTION[name])
    arrays = drawn(one, length, scale)
    kernel = attnc.compile(one)
    same(kernel(**arrays), attnc.compile(one, backend="interpreter")(**arrays))
    if "left out" not in name:
        same(kernel(**arrays), prefix_means(arrays, name == "before a position"))
    assert scans(kernel.program) == 1


@pytest.mark.parametrize("name", ["up to a position", "before a position", "points left out"])
def test_nothing_counts_for_a_while(name: str) -> None:
    """Scores of minus infinity, through the end of the first chunk and beyond."""
    one = cascade(ATTENTION[name])
    arrays = drawn(one, 200)
    arrays["bias"] = np.where(np.arange(200) < 100, -np.inf, np.minimum(arrays["bias"], 0))
    arrays["bias"][:, :, 150:170] = -np.inf
    found = attnc.compile(one)(**arrays)
    same(found, prefix_means(arrays, name == "before a position"))
    assert not found[:, :, :100].any()


@pytest.mark.parametrize("scale", [1.0, 1e4])
@pytest.mark.parametrize("length", [1, 64, 130])
@pytest.mark.parametrize("name", SCANNED)
def test_what_else_is_scanned(name: str, length: int, scale: float) -> None:
    one = cascade(SCANNED[name])
    arrays = drawn(one, length, scale)
    kernel = attnc.compile(one)
    same(kernel(**arrays), attnc.compile(one, backend="interpreter")(**arrays))
    assert scans(kernel.program) >= 1


def test_the_cascade_of_one_query_and_its_steps_are_one_program() -> None:
    """Two spellings, one count of everything; the quadratic one costs no more than the other."""
    arrays = drawn(cascade(STEPS), 1024)
    counted = []
    for name in ("up to a position", "steps"):
        kernel = attnc.compile(cascade(ATTENTION[name]))
        kernel(**arrays)
        counted.append(kernel.counters)
    quadratic, steps = counted
    assert quadratic.bytes_read == steps.bytes_read
    assert quadratic.bytes_written == steps.bytes_written
    assert quadratic.flops <= 1.01 * steps.flops


@pytest.mark.parametrize("name", ["up to a position", "steps"])
def test_work_grows_with_the_length_and_memory_does_not(name: str) -> None:
    one = cascade(ATTENTION[name])
    counted = []
    for length in (1024, 4096):
        kernel = attnc.compile(one)
        kernel(**drawn(one, length))
        counted.append(kernel.counters)
    short, long = counted
    assert long.flops == 4 * short.flops
    assert long.peak_live_bytes == short.peak_live_bytes
    # Everything is read once.
    assert long.bytes_read == 8 * 2 * 3 * (5 + 4096 * (5 + 7 + 1))


@pytest.mark.parametrize("length", [1, 130])
@pytest.mark.parametrize("name", ["up to a position", "before a position", "steps"])
def test_chunks_stand_side_by_side(name: str, length: int) -> None:
    """The sums of a chunk wait for the sweep of the maximum: a second sweep follows."""
    one = cascade(f"{ATTENTION[name]}schedule c:\n    parallel t\n")
    arrays = drawn(one, length)
    kernel = attnc.compile(one)
    same(kernel(**arrays), prefix_means(arrays, name == "before a position"))
    cut = [[grid.rank for grid in kernel.grid] for kernel in kernel.program.kernels]
    assert [("t1" in ranks) for ranks in cut] == [True, False, True, False, True]


NEAR = {
    "needs S, which names t": f"{SCORE} * (t - m) where m <= t\n{TAIL}",
    "takes other points than those up to its position": f"{SCORE} where m <= t and t - 9 < m\n"
    + TAIL,
    "takes the points where m <= t + 3: no prefix": f"{SCORE} where m <= t + 3\n{TAIL}",
    "is no product of a part without and a part with G": f"{SCORE} where m <= t\n"
    "    G[t] = max[m](S[t, m])\n    O[t, f] = relu(S[t, m] - G[t] + 1) * V[m, f]\n",
}


@pytest.mark.parametrize("reason", NEAR)
def test_a_near_miss_stays_and_says_why(reason: str) -> None:
    one = cascade(HEAD + NEAR[reason])
    assert f"No prefix scan: {'O' if 'G' in reason else 'A_G'} {reason}" in explain(one)
    assert "prefix scan" not in {step.law for step in attnc.optimize(one).derivation}
    arrays = drawn(one, 70)
    kernel = attnc.compile(one)
    same(kernel(**arrays), attnc.compile(one, backend="interpreter")(**arrays))
    assert scans(kernel.program) == 0


STAYING = {
    "a reduction of one's own": """def far reduce(x, y) = select(abs(x) < abs(y), y, x) identity 0
cascade c(x[m]) -> O[t]:
    rank t = |m|
    O[t] = far[m where m <= t](x[m])
""",
    "a map between the reductions": """cascade c(x[m], V[m, f]) -> O[t, f]:
    rank t = |m|
    G[t]    = max[m where m <= t](x[m])
    H[t]    = 2 * G[t] + 1
    O[t, f] = sum[m where m <= t](exp(x[m] - H[t]) * V[m, f])
""",
    "a query of its own at each position": """cascade c(Q[p, e], K[m, e], V[m, f]) -> O[p, f]:
    S[p, m] = Q[p, e] * K[m, e] where m <= p
    A[p, m] = softmax[m](S[p, m])
    O[p, f] = A[p, m] * V[m, f]
""",
    "weights that are wanted": """cascade c(x[m], V[m, f]) -> O[t, f], A[t, m]:
    rank t = |m|
    S[t, m] = 2 * x[m] where m <= t
    A[t, m] = softmax[m](S[t, m])
    O[t, f] = A[t, m] * V[m, f]
""",
    "states that are matrices": """cascade c(X[m, d, f], g[m]) -> Y[t, d, f]:
    rank t = |m|
    Y[t, d, f] = max[m where m <= t](X[m, d, f])
""",
    "tiles that a schedule asks for": f"{ATTENTION['up to a position']}"
    "schedule c:\n    split m by 2\n",
}


@pytest.mark.parametrize("name", STAYING)
def test_reductions_that_stay(name: str) -> None:
    laws = {step.law for step in attnc.optimize(cascade(STAYING[name])).derivation}
    assert "prefix scan" not in laws


UNLIKE = {
    "M takes max of the state, which is not linear": STEPS.replace(
        "max(M[t], S[t])", "max(M[t] + 1, S[t])"
    ),
    "C takes exp of the state, which is not linear": STEPS.replace(
        "C[t] * exp(M[t] - M[t+1])", "exp(C[t] * (M[t] - M[t+1]))"
    ),
}


@pytest.mark.parametrize("reason", UNLIKE)
def test_steps_that_are_no_scan_stay_steps(reason: str) -> None:
    one = cascade(UNLIKE[reason])
    assert f"One at a time: {reason}" in " ".join(explain(one).split())
    assert all("chunk: " not in line for line in lower(one, "numpy").history)


@pytest.mark.parametrize(
    "gate", ["exp(M[t])", "exp(2 * M[t] - M[t+1])", "exp(M[t] - M[t+1]) / 2", "exp(M[t+1] - M[t])"]
)
def test_other_gates_of_a_scanned_state_are_multiplied(gate: str) -> None:
    """Of these only the last leads from one value to the next, and back: the others multiply."""
    text = f"""cascade c[b](x[t], u[t]) -> O[t]:
    M[0]   = 0
    M[t+1] = max(M[t], x[t])
    C[0]   = 1
    C[t+1] = C[t] * {gate} + u[t]
    O[t]   = C[t+1] * M[t]
"""
    one = cascade(text)
    rng = np.random.default_rng(0)
    arrays = {"x": rng.standard_normal((2, 100)) / 50, "u": rng.standard_normal((2, 100))}
    kernel = attnc.compile(one)
    same(kernel(**arrays), attnc.compile(one, backend="interpreter")(**arrays), 1e-10)
    told = "".join(kernel.program.history)
    assert "chunk: C goes" in told
    assert ("each product one value" in told) == (gate == "exp(M[t+1] - M[t])")


@pytest.mark.skipif(INSIDE in os.environ, reason="this is that process")
def test_in_the_interpreter_of_triton() -> None:
    pytest.importorskip("torch")
    pytest.importorskip("triton")
    environment = os.environ | {INSIDE: "1", "TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-k", "kernels", __file__],
        env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.skipif(INSIDE not in os.environ, reason="runs in a process of its own")
@pytest.mark.parametrize("name", [*ATTENTION, *SCANNED])
def test_kernels_compute_it(name: str) -> None:
    one = cascade((ATTENTION | SCANNED)[name])
    arrays = drawn(one, 130, 100.0)
    if "bias" in arrays and name != "steps":
        arrays["bias"][:, :, :70] = -np.inf
    expected = attnc.compile(one)(**arrays)
    same(attnc.compile(one, backend="triton")(**arrays), expected, 1e-11)
