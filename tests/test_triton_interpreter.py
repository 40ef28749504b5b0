"""The emitted kernels run in Triton's interpreter, against NumPy in float64.

Triton decides on import whether it interprets, so this file runs its tests in a process of its own.
"""

from __future__ import annotations

import math
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("triton")

import mechanisms  # noqa: E402
from triton_programs import elementwise, flash, folded, gated, m, paged  # noqa: E402

import attnc  # noqa: E402
from attnc.backends import interpreter, launch  # noqa: E402
from attnc.backends.random import uniform  # noqa: E402
from attnc.backends.triton_source import emit  # noqa: E402
from attnc.ir.cascade import Reduction  # noqa: E402
from attnc.ir.expr import Const, Expr, Index, Param, Tile  # noqa: E402
from attnc.ir.source import CallError  # noqa: E402
from attnc.ir.tile import Program  # noqa: E402
from attnc.passes.pipeline import lower  # noqa: E402
from attnc.sampling import default_sizes, sample  # noqa: E402

INSIDE = "ATTNC_TEST_INTERPRETER"
inside = pytest.mark.skipif(INSIDE not in os.environ, reason="runs in a process of its own")
X, Y = Tile("x", ("i",)), Tile("y", ("i",))
TOLERANCE = {"float64": 1e-12, "float32": 1e-5, "float16": 2e-3, "bfloat16": 1.6e-2}


@pytest.mark.skipif(INSIDE in os.environ, reason="this is that process")
def test_in_the_interpreter(tmp_path: Path) -> None:
    environment = os.environ | {
        INSIDE: "1", "TRITON_INTERPRET": "1", "ATTNC_CACHE": str(tmp_path), "OMP_NUM_THREADS": "1",
    }  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", __file__],
        env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr


def run(program: Program, *inputs: Any, **named: Any) -> Any:
    return launch.Kernel(program, emit(program, "test"))(*inputs, **named)


def attention(Q: Any, K: Any, V: Any, causal: bool) -> tuple[Any, Any]:
    """O and L by the textbook, in float64; a row without keys gives 0 and minus infinity."""
    scores = np.einsum("hpe,hme->hpm", Q, K) / math.sqrt(Q.shape[-1])
    if causal:
        scores[:, np.arange(K.shape[1]) > np.arange(Q.shape[1])[:, None]] = -np.inf
    top = scores.max(-1, keepdims=True, initial=-np.inf)
    weights = np.exp(scores - np.where(top == -np.inf, 0, top))
    total = weights.sum(-1, keepdims=True)
    mean = np.einsum("hpm,hmf->hpf", weights, V) / np.where(total == 0, 1, total)
    with np.errstate(divide="ignore"):
        return mean, (top + np.log(total))[..., 0]


def error(found: Any, wanted: Any) -> float:
    found = found.double().numpy() if isinstance(found, torch.Tensor) else found
    assert np.array_equal(np.isfinite(found), np.isfinite(wanted))
    finite = np.isfinite(wanted)
    if not finite.any():
        return 0.0
    scale = np.abs(wanted[finite]).max()
    return float(np.abs(found[finite] - wanted[finite]).max() / (scale or 1))


@inside
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize(
    ("p", "keys", "e", "f"), [(70, 100, 16, 16), (33, 65, 40, 80), (130, 64, 64, 64), (5, 0, 8, 3)]
)
def test_attention(causal: bool, dtype: str, p: int, keys: int, e: int, f: int) -> None:
    rng = np.random.default_rng(p)
    shapes = ((2, p, e), (2, keys, e), (2, keys, f))
    given = [torch.tensor(rng.standard_normal(s)).to(getattr(torch, dtype)) for s in shapes]
    found = run(flash(32, 32, causal), *given)
    wanted = attention(*(x.double().numpy() for x in given), causal)
    assert found.O.dtype == given[0].dtype and found.L.dtype == torch.float32
    assert error(found.O, wanted[0]) < TOLERANCE[dtype]
    assert error(found.L, wanted[1]) < max(TOLERANCE[dtype], 1e-6)


@inside
@pytest.mark.parametrize("scale", [1e4, 1e-4])
def test_large_and_small_scores(scale: float) -> None:
    rng = np.random.default_rng(1)
    Q, K, V = (rng.standard_normal((1, 40, 16)) for _ in range(3))
    found = run(flash(16, 32), Q * scale, K, V)
    assert error(found.O, attention(Q * scale, K, V, False)[0]) < 1e-12


@inside
def test_strides_are_free_and_results_can_be_written_in_place() -> None:
    rng = np.random.default_rng(2)
    Q, K, V = (torch.tensor(rng.standard_normal((16, 50, 2))).permute(2, 1, 0) for _ in range(3))
    out = (
        torch.empty(2, 16, 50, dtype=torch.float64).transpose(1, 2),
        torch.empty(2, 50, dtype=torch.float32),
    )
    kernel = launch.load(emit(flash(32, 32, True), "test"), "attention")
    assert kernel.attention(V=V, K=K, Q=Q, out=out)[0] is out[0]
    wanted = attention(Q.numpy(), K.numpy(), V.numpy(), True)
    assert error(out[0], wanted[0]) < 1e-12


@inside
def test_arrays_give_arrays() -> None:
    x = np.arange(5.0)
    found = run(elementwise(m("+", X, Y)), x, Y=x)
    assert isinstance(found, np.ndarray) and np.array_equal(found, 2 * x)


@inside
def test_an_array_may_run_backwards() -> None:
    x = np.arange(5.0)
    assert run(elementwise(m("+", X, Y)), x[::-1], Y=x).tolist() == [4, 4, 4, 4, 4]


@inside
@pytest.mark.parametrize("dtype", ["bf16", "f8e4m3", "f8e5m2"])
def test_arrays_of_a_type_that_numpy_lacks_are_widened(dtype: str) -> None:
    text = f"cascade c(x[k]) -> y[k]: {dtype}, n[]:\n    y[k] = x[k]\n    n[] = sum[k](x[k])\n"
    found = attnc.compile(attnc.parse(text)["c"], backend="triton")(np.arange(4, dtype="f4"))
    assert found.y.dtype == np.float32 and found.y.tolist() == [0, 1, 2, 3] and found.n == 6


@inside
@pytest.mark.parametrize("dtype", ["i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8"])
def test_integers_of_any_type_mean_the_same(dtype: str) -> None:
    """100 + 100 leaves int8, 0 - 7 leaves what has no sign."""
    text = (
        "cascade c(n[k]: int, x[m]) -> y[k], z[k]: int, w[k]:\n"
        "    y[k] = x[n[k] + n[k]]\n"
        "    z[k] = n[k] - 7\n"
        "    w[k] = sum[m where m < n[k] - 1](x[m])\n"
    )
    n, x = np.array([0, 5, 100], dtype), np.arange(300.0)
    found = attnc.compile(attnc.parse(text)["c"], backend="triton")(n, x)
    assert [part.tolist() for part in found] == [[0, 10, 200], [-7, -2, 93], [0, 6, 4851]]


@inside
def test_words_of_python_and_an_identity_that_is_no_operand() -> None:
    text = (
        "def lse reduce(x, y) = x + log1p(exp(y - x)) identity -inf\n"
        "cascade lambda(def[for]) -> None[for], _y[]:\n"
        "    None[for] = def[for] + 1\n"
        "    _y[]      = lse[for](def[for])\n"
    )
    found = attnc.compile(attnc.parse(text)["lambda"], backend="triton")(np.zeros(3))
    assert found[0].tolist() == [1, 1, 1] and math.isclose(found[1], math.log(3))


@inside
def test_a_tile_of_no_points() -> None:
    text = (
        "cascade c(x[a, k]) -> s[a], t[a], l[a], i[a]: int:\n"
        "    s[a] = sum[k](x[a, k])\n"
        "    t[a] = max[k](x[a, k])\n"
        "    l[a] = logsumexp[k](x[a, k])\n"
        "    i[a] = argmax[k](x[a, k])\n"
    )
    found = attnc.compile(attnc.parse(text)["c"], backend="triton")(np.ones((1, 0)))
    assert [part.tolist() for part in found] == [[0], [-math.inf], [-math.inf], [0]]


@inside
def test_an_extent_that_divides_by_zero_is_said() -> None:
    text = (
        "cascade c(Q[p, e], K[m, e]) -> L[p]:\n"
        "    S[p, m] = Q[p, e] * K[m, e] / sqrt(|e|)\n"
        "    L[p] = logsumexp[m](S[p, m])\n"
    )
    kernel = attnc.compile(attnc.parse(text)["c"], backend="triton")
    with pytest.raises(CallError, match=r"\|e\| = 0"):
        kernel(np.ones((2, 0)), np.ones((3, 0)))


def _sigmoid(x: Any) -> Any:
    return 1 / (1 + np.exp(-x))


_erf = np.vectorize(math.erf)
FUNCTIONS: dict[str, Any] = {
    "exp": np.exp, "exp2": np.exp2, "expm1": np.expm1, "log1p": lambda x: np.log1p(np.abs(x)),
    "sin": np.sin, "cos": np.cos, "tanh": np.tanh, "sigmoid": _sigmoid, "erf": _erf,
    "softplus": lambda x: np.logaddexp(0, x), "relu": lambda x: np.maximum(x, 0),
    "gelu": lambda x: x * (1 + _erf(x / math.sqrt(2))) / 2, "silu": lambda x: x * _sigmoid(x),
    "elu": lambda x: np.where(x > 0, x, np.expm1(np.minimum(x, 0))), "abs": np.abs,
    "sign": np.sign, "floor": np.floor, "ceil": np.ceil, "round": np.rint,
    "sqrt": lambda x: np.sqrt(np.abs(x)), "rsqrt": lambda x: 1 / np.sqrt(np.abs(x)),
    "log": lambda x: np.log(np.abs(x)), "log2": lambda x: np.log2(np.abs(x)),
}  # fmt: skip
POSITIVE = ("log1p", "sqrt", "rsqrt", "log", "log2")
POINTS = np.array([-30, -2.5, -1.5, -1, -0.5, -1e-5, 1e-9, 1e-5, 0.3, 0.5, 1, 1.5, 2.5, 7, 30.0])


@inside
@pytest.mark.parametrize("op", FUNCTIONS)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_functions_keep_their_digits_near_zero_too(op: str, dtype: str) -> None:
    x = POINTS.astype(dtype)
    found = run(elementwise(m(op, m("abs", X) if op in POSITIVE else X)), x, x)
    wanted = FUNCTIONS[op](x.astype(np.float64))
    assert found.dtype == x.dtype
    np.testing.assert_allclose(found, wanted, rtol=2e-6 if dtype == "float32" else 1e-13, atol=0)


@inside
@pytest.mark.parametrize(
    ("body", "wanted"),
    [
        (m("**", X, Y), lambda x, y: np.power(x, y)),
        (m("**", X, Const(2)), lambda x, y: x * x),
        (m("pow", m("abs", X), Const(3.0)), lambda x, y: np.abs(x) ** 3),
        (m("pow", m("abs", X), Const(-1.5)), lambda x, y: np.abs(x) ** -1.5),
        (m("//", X, Y), np.floor_divide),
        (m("%", X, Y), np.mod),
        (m("clip", X, Const(-1), Const(1.5)), lambda x, y: np.clip(x, -1, 1.5)),
        (m("select", m("not", m("<", X, Y)), X, Y), np.maximum),
    ],
)
def test_operations_of_two_numbers(body: Expr, wanted: Any) -> None:
    x, y = (part.ravel().copy() for part in np.meshgrid(POINTS, [-3.0, -2.0, 1.0, 2.0, 5.0]))
    np.testing.assert_allclose(run(elementwise(body), x, y), wanted(x, y), rtol=1e-12)


@inside
@pytest.mark.parametrize("op", ["//", "%"])
def test_division_of_integers_rounds_down(op: str) -> None:
    x, y = (a.ravel().astype(np.int32) for a in np.meshgrid(np.arange(-9, 10), [-4, -3, 3, 4]))
    found = run(elementwise(m(op, X, Y), dtype="int"), x, y)
    assert np.array_equal(found, (np.floor_divide if op == "//" else np.mod)(x, y))


@inside
@pytest.mark.parametrize("seed", [0, 7, -3, 2**40 + 5])
def test_random_numbers_are_those_of_every_back_end(seed: int) -> None:
    i = np.arange(40)
    few = m("uniform", Const(seed), Index("i"), Const(5))
    many = m("uniform", Const(seed), Const(1), Const(2), Const(3), Const(4), Index("i"), Const(6))
    zeros = np.zeros(40)
    assert np.array_equal(run(elementwise(few), zeros, zeros), uniform(seed, i, 5))
    found = run(elementwise(many), zeros, zeros)
    assert np.array_equal(found, uniform(seed, 1, 2, 3, 4, i, 6))


@inside
@pytest.mark.parametrize("j", [1, 5, 16])
@pytest.mark.parametrize("op", ["sum", "prod", "max", "min", "logsumexp"])
def test_folds_over_a_padded_axis(op: str, j: int) -> None:
    x = np.random.default_rng(j).standard_normal((21, j))
    fold = {"sum": np.sum, "prod": np.prod, "max": np.max, "min": np.min,
            "logsumexp": np.logaddexp.reduce}[op]  # fmt: skip
    np.testing.assert_allclose(run(folded(op), x), fold(np.exp(x), axis=1), rtol=1e-12)


@inside
@pytest.mark.parametrize("op", ["any", "all"])
def test_folds_of_truth(op: str) -> None:
    x = np.random.default_rng(3).random((21, 5)) < (0.2 if op == "any" else 0.8)
    assert np.array_equal(run(folded(op, "bool"), x), getattr(np, op)(x, axis=1))


@inside
def test_a_reduction_of_the_users_own() -> None:
    added = m("log2", m("+", m("exp2", Param("x")), m("exp2", Param("y"))))
    lse2 = Reduction("lse2", "x", "y", added, Const(float("-inf")))
    x = np.random.default_rng(4).standard_normal((7, 5))
    found = run(replace(folded("lse2"), reductions=(lse2,)), x)
    np.testing.assert_allclose(found, np.log2(np.exp2(np.exp(x)).sum(1)), rtol=1e-12)


@inside
def test_a_recurrence() -> None:
    rng = np.random.default_rng(5)
    Q, K, V, g = (rng.standard_normal((2, 9, n)) for n in (5, 5, 12, 5))
    state, wanted = np.zeros((2, 5, 12)), []
    for t in range(9):
        state = np.exp(g[:, t, :, None]) * state + K[:, t, :, None] * V[:, t, None, :]
        wanted.append(np.einsum("hd,hdf->hf", Q[:, t], state))
    np.testing.assert_allclose(run(gated(), Q, K, V, g), np.stack(wanted, 1), rtol=1e-10)


@inside
def test_a_page_table_with_pages_that_are_not_there() -> None:
    rng = np.random.default_rng(6)
    table = np.array([3, 0, -1, 2], dtype=np.int64)
    X = rng.standard_normal((4, 16, 10))
    found = run(paged(), table, X, np.zeros(50))
    p = np.arange(50)
    page = table[p // 16]
    assert np.array_equal(found, np.where(page[:, None] < 0, 0, X[page, p % 16]))


@inside
def test_where_it_differs_from_numpy() -> None:
    text = """
cascade c(X[p, m], I[p]: int) -> G[p], A[p, m], J[p]:
    G[p]    = max[m](X[p, m])
    A[p, m] = softmax[m](X[p, m])
    J[p]    = I[p] * I[p] * 1.0
"""
    kernel = attnc.compile(attnc.parse(text)["c"], "triton")
    scores, many = np.array([[1, np.nan, 3]], np.float32), np.array([2**20])
    found = kernel(scores, many.astype(np.int32))
    assert found.G.tolist() == [3]
    assert np.isnan(found.A).all()
    assert found.J.tolist() == [0]
    assert kernel(scores, many).J.tolist() == [2.0**40]


@inside
def test_keys_that_are_normalised_past_the_end() -> None:
    text = (
        "cascade c(X[p, m], K[m, e]) -> O[p, e]:\n"
        "    N[m]    = sqrt(sum[e](K[m, e] * K[m, e]))\n"
        "    U[m, e] = K[m, e] / N[m]\n"
        "    O[p, e] = sum[m](exp(X[p, m]) * U[m, e])\n"
    )
    rng = np.random.default_rng(8)
    X, K = rng.standard_normal((7, 45)), rng.standard_normal((45, 6))
    unit = K / np.linalg.norm(K, axis=1, keepdims=True)
    kernel = attnc.compile(attnc.parse(text)["c"], backend="triton")
    np.testing.assert_allclose(kernel(X, K), np.exp(X) @ unit, rtol=1e-10)


@inside
def test_a_state_that_lies_whole_in_a_tile_is_summed_on_both_sides() -> None:
    text = (
        "cascade c(X[p, m]) -> O[p, m]:\n"
        "    rank i = 3\n"
        "    A[0, p, m]   = exp(X[p, m])\n"
        "    B[i, p, m]   = A[i, p, m] / sum[m](A[i, p, m])\n"
        "    A[i+1, p, m] = B[i, p, m] / sum[p](B[i, p, m])\n"
        "    O[p, m]      = A[|i|, p, m]\n"
    )
    X = np.random.default_rng(9).standard_normal((5, 37))
    wanted = np.exp(X)
    for _ in range(3):
        wanted /= wanted.sum(1, keepdims=True)
        wanted /= wanted.sum(0, keepdims=True)
    kernel = attnc.compile(attnc.parse(text)["c"], backend="triton")
    np.testing.assert_allclose(kernel(X), wanted, rtol=1e-10)


CROWDED = {
    "lightning-tnl": {"t1 by 1", "f by 32"},
    "flowformer:flowformer_causal": {"t1 by 1", "f by 64"},
    "kimi-kda": {"t1 by 1", "f by 64"},
    "rala": {"p by 64", "f by 64"},
}


@inside
@pytest.mark.parametrize("name", CROWDED)
def test_what_leaves_a_crowded_sweep(name: str) -> None:
    """Wide states: the kernels ahead of a sweep, behind it, and divided columns."""
    cascade = mechanisms.specification(name)
    sizes = {rank: 128 for t in cascade.inputs for rank in t.ranks if rank in ("d", "e", "f")}
    program = lower(cascade, "triton", "f64", sizes)
    grids = {f"{own.rank} by {own.tile}" for kernel in program.kernels for own in kernel.grid}
    assert grids - {"b by 1", "h by 1"} == CROWDED[name]
    arrays = sample(cascade, default_sizes(cascade) | sizes | {"t": 37}, dtype="f64", seed=2)
    found = run(program, *arrays.values())
    (wanted,) = interpreter.run(cascade, arrays).values()
    np.testing.assert_allclose(found, wanted, rtol=1e-9, atol=1e-9)


@inside
def test_positions_enter_as_numbers() -> None:
    body = m("*", X, m("-", Index("i"), Const(3)))
    assert np.array_equal(run(elementwise(body), np.ones(40), np.ones(40)), np.arange(40) - 3.0)


@inside
@pytest.mark.parametrize(
    ("inputs", "said"),
    [
        ((np.ones(3), np.ones(4)), "rank i of Y has extent 4, elsewhere it has 3"),
        ((np.ones((3, 1)), np.ones(3)), "X must have 1 axes"),
        ((np.ones(3), np.ones(3, dtype=np.int32)), "Y must be of type float, not int32"),
        ((np.ones(3),), "missing: Y"),
    ],
)
def test_arguments_that_do_not_fit(inputs: tuple[Any, ...], said: str) -> None:
    with pytest.raises(CallError, match=said):
        run(elementwise(m("+", X, Y)), *inputs)
