"""The executor of tile programs: right results, and counters that equal the prediction."""

from __future__ import annotations

import math
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import astuple
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sympy
import tile_texts as texts

import attnc
from attnc.backends import interpreter, numpy_math
from attnc.backends.binding import bind
from attnc.backends.tiles import Counters, Executable
from attnc.ir.read_tile import read_program
from attnc.ir.source import CompileError
from attnc.ir.tile import Contract
from attnc.ir.tile_facts import every
from attnc.ir.verify_tile import verify_program
from attnc.passes.pipeline import lower, optimize
from attnc.passes.predict import predict, predict_symbolic
from attnc.sampling import default_sizes, sample
from attnc.verification import relative_error

Array = np.ndarray[Any, Any]
EXAMPLES = sorted((Path(__file__).parent.parent / "examples").glob("*.attn"))


def random(*shape: int, seed: int = 0, dtype: type = np.float32) -> Array:
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


extents = dict[str, int]


def attention(Q: Array, K: Array, V: Array, causal: bool) -> tuple[Array, Array]:
    """The textbook formula in float64: outputs 0 and log-sum-exp -inf where no key is seen."""
    S = Q.astype(np.float64) @ K.astype(np.float64).swapaxes(-1, -2) / math.sqrt(Q.shape[-1])
    if causal:
        S = np.where(np.arange(S.shape[-1]) <= np.arange(S.shape[-2])[:, None], S, -np.inf)
    top = np.max(S, axis=-1, keepdims=True, initial=-np.inf)
    top = np.where(np.isinf(top), 0, top)
    N = np.exp(S - top)
    D = N.sum(-1, keepdims=True)
    with np.errstate(divide="ignore"):
        L = (top + np.log(D))[..., 0]
    return (N / np.where(D == 0, 1, D)) @ V.astype(np.float64), L


FLASH = {causal: Executable(read_program(texts.flash(32, 48, causal))) for causal in (False, True)}


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("p", [1, 31, 32, 70, 96])
@pytest.mark.parametrize("m", [1, 47, 48, 100, 192])
def test_attention_at_ragged_extents_computes_and_counts(causal: bool, p: int, m: int) -> None:
    Q, K, V = random(2, 3, p, 16), random(2, 3, m, 16, seed=1), random(2, 3, m, 8, seed=2)
    sizes = extents(b=2, h=3, p=p, m=m, e=16, f=8)
    found = FLASH[causal].run({"Q": Q, "K": K, "V": V}, sizes)
    O, L = attention(Q, K, V, causal)
    assert relative_error(found["O"], O) < 2e-6
    assert relative_error(found["L"], L) < 2e-6
    assert astuple(FLASH[causal].counters) == astuple(predict(FLASH[causal].program, sizes))


@pytest.mark.parametrize("causal", [False, True])
def test_symbols_say_what_numbers_say(causal: bool) -> None:
    symbolic = predict_symbolic(FLASH[causal].program)
    for p, m in ((70, 100), (32, 48), (5, 30)):
        sizes = extents(b=2, h=3, p=p, m=m, e=16, f=8)
        assert astuple(symbolic.at(sizes)) == astuple(predict(FLASH[causal].program, sizes))


def test_symbolic_bytes_are_the_formula_of_the_paper() -> None:
    """Queries once, keys and values once for every tile of queries."""
    b, h, p, m, e, f = sympy.symbols("b h p m e f", positive=True, integer=True)
    read = predict_symbolic(FLASH[False].program).bytes_read.subs(m, 96).doit()
    keys = 96 * (e + f) * sympy.ceiling(p / 32)
    assert sympy.expand(read - 4 * b * h * (p * e + keys)) == 0


def test_counts_are_those_of_the_definition() -> None:
    """One instance, one full tile: what a reader adds up by hand."""
    run = Executable(read_program(texts.flash(32, 48)))
    sizes = extents(b=1, h=1, p=32, m=48, e=16, f=8)
    run.run({"Q": random(1, 1, 32, 16), "K": random(1, 1, 48, 16), "V": random(1, 1, 48, 8)}, sizes)
    assert run.counters == Counters(
        bytes_read=4 * (32 * 16 + 48 * 16 + 48 * 8),
        bytes_written=4 * (32 * 8 + 32),
        # two products; divide, subtract, exp, max and sum of scores; per row max, keep (2), D (2)
        # and at the end log and sum; T's update (2) and division.
        flops=2 * 32 * 48 * (16 + 8) + 5 * 32 * 48 + (5 + 2) * 32 + (2 + 1) * 32 * 8,
        # scores and their exponentials, beside Q, V, the state, the new maximum and the safe one
        peak_live_bytes=4 * (32 * 16 + 48 * 8 + 2 * 32 * 48 + 32 * 8 + 4 * 32),
    )


@pytest.mark.parametrize("extreme", [1e4, -1e4])
def test_large_scores_stay_finite(extreme: float) -> None:
    Q, K = np.full((1, 1, 5, 16), extreme, np.float32), np.ones((1, 1, 100, 16), np.float32)
    V = random(1, 1, 100, 8)
    found = FLASH[False].run({"Q": Q, "K": K, "V": V}, extents(b=1, h=1, p=5, m=100, e=16, f=8))
    assert relative_error(found["O"], attention(Q, K, V, False)[0]) < 2e-6


def test_no_keys_at_all_give_zero_and_minus_infinity() -> None:
    Q, K, V = random(1, 1, 5, 16), random(1, 1, 0, 16), random(1, 1, 0, 8)
    found = FLASH[False].run({"Q": Q, "K": K, "V": V}, extents(b=1, h=1, p=5, m=0, e=16, f=8))
    assert not found["O"].any() and (found["L"] == -np.inf).all()


@pytest.mark.parametrize(("dtype", "bound"), [(np.float16, 2e-3), (np.float64, 1e-14)])
def test_types_of_inputs_are_those_of_results(dtype: type, bound: float) -> None:
    Q, K, V = (random(2, 1, n, 16, seed=n, dtype=dtype) for n in (40, 50, 50))
    sizes = extents(b=2, h=1, p=40, m=50, e=16, f=16)
    found = FLASH[True].run({"Q": Q, "K": K, "V": V}, sizes)
    assert found["O"].dtype == dtype
    assert relative_error(found["O"], attention(Q, K, V, True)[0]) < bound
    name = {np.float16: "f16", np.float64: "f64"}[dtype]
    assert astuple(FLASH[True].counters) == astuple(predict(FLASH[True].program, sizes, name))


def test_strides_are_free() -> None:
    Q = random(40, 3, 16, 2).transpose(3, 1, 0, 2)
    K = random(2, 3, 16, 100).swapaxes(2, 3)[:, :, ::-2]
    V = random(2, 1, 50, 8).repeat(3, axis=1)[:, ::-1]
    found = FLASH[False].run({"Q": Q, "K": K, "V": V}, extents(b=2, h=3, p=40, m=50, e=16, f=8))
    assert relative_error(found["O"], attention(Q, K, V, False)[0]) < 2e-6


def test_results_do_not_depend_on_threads_or_on_calls_beside_them() -> None:
    program = read_program(texts.flash(32, 48, causal=True))
    arrays = {"Q": random(2, 3, 100, 16), "K": random(2, 3, 100, 16), "V": random(2, 3, 100, 8)}
    sizes = extents(b=2, h=3, p=100, m=100, e=16, f=8)
    alone = Executable(program, threads=1).run(arrays, sizes)["O"]
    shared = Executable(program, threads=3)
    with ThreadPoolExecutor(4) as pool:
        for found in pool.map(lambda _: shared.run(arrays, sizes)["O"], range(12)):
            assert np.array_equal(found, alone)


def run(text: str, arrays: dict[str, Array], **sizes: int) -> dict[str, Array]:
    """Run a program and hold its counters against the prediction."""
    program = read_program(text)
    verify_program(program)
    executable = Executable(program)
    found = executable.run(arrays, sizes)
    assert astuple(executable.counters) == astuple(predict(program, sizes, data=arrays))
    return found


@pytest.mark.parametrize("p", [1, 2, 5, 16, 33])
def test_a_window_reads_nothing_beyond_either_end(p: int) -> None:
    X, w = random(2, p), random(5, seed=1)
    wide = np.pad(X.astype(np.float64), ((0, 0), (2, 2)))
    expected = sum(w[k] * wide[:, k : k + p] for k in range(5))
    assert np.allclose(run(texts.WINDOW, {"X": X, "w": w}, b=2, p=p, k=5)["Y"], expected, atol=1e-6)


@pytest.mark.parametrize("p", [1, 2, 9, 16, 40])
def test_runs_that_leave_their_tensor_read_zero_there(p: int) -> None:
    X = random(2, p, 3)
    expected = np.zeros_like(X)
    for n in range(p):
        expected[:, n] += X[:, n - 1] if n >= 1 else 0
        expected[:, n] += 10 * X[:, n + 2] if n + 2 < p and n + 2 != 7 else 0
    assert np.array_equal(run(texts.SHIFT, {"X": X}, b=2, p=p, d=3)["Y"], expected)


@pytest.mark.parametrize("m", [1, 8, 13])
def test_a_fold_that_sees_padding_sees_zeros(m: int) -> None:
    X = random(2, m)
    found = run(texts.PADDED, {"X": X}, b=2, m=m)
    padding = -m % 8
    assert np.allclose(found["Y"], np.exp(X).sum(1) + padding)
    assert (found["C"] == m + padding).all()


@pytest.mark.parametrize("t", [1, 2, 3, 7])
def test_states_change_places_without_loss(t: int) -> None:
    X, Z = random(t, 5), random(5, seed=1)
    expected = np.zeros((t, 5))
    for row in range(t):
        a, b, c, k = Z.astype(np.float64), np.zeros(5), np.ones(5), 0
        for i in range(t):
            a, b, c, k = b, a + b + X[i] * k, b, k + 1
        expected[row] = a + 2 * b + 3 * c + 5 * k + 7 * Z
    text = texts.STATES.replace("segment 0 to t", "segment 0 to |t|")
    found = run(text, {"X": X, "Z": Z}, t=t, d=5)
    assert np.allclose(found["Y"], expected, rtol=1e-5)
    assert np.allclose(found["W"], 2 * expected[-1], rtol=1e-5)


def test_tables_and_lengths_come_from_data() -> None:
    Q, C = random(3, 6), random(9, 4, 6, seed=1)
    table = np.array([[3, 1, 8], [0, 5, -1], [7, -99, 99]], np.int32)
    lengths = np.array([11, 8, 1], np.int32)
    found = run(
        texts.PAGED, {"Q": Q, "C": C, "table": table, "len": lengths}, b=3, e=6, n=9, s=4, j=3
    )
    expected = [
        sum(float(C[table[b, m // 4], m % 4] @ Q[b]) ** 2 for m in range(lengths[b]))
        for b in range(3)
    ]
    assert np.allclose(found["O"], expected, rtol=1e-5)


def test_a_range_that_data_decides_is_not_predicted_without_it() -> None:
    with pytest.raises(CompileError, match="depends on values"):
        predict(read_program(texts.PAGED), extents(b=3, e=6, n=9, s=4, j=3))


def test_reductions_built_in_and_own() -> None:
    X = random(7, 5) * 50
    X[3] = -np.inf
    X[4, 1:] = -np.inf
    found = run(texts.OWN, {"X": X}, p=7, m=5)
    wide = X.astype(np.float64)
    assert np.allclose(found["Y"], np.logaddexp2.reduce(wide, axis=1))
    assert np.allclose(found["Z"], np.logaddexp.reduce(wide, axis=1))
    assert found["A"].dtype == bool and np.array_equal(found["A"], (X > 0).any(1))
    assert found["N"].dtype == np.int32 and np.array_equal(found["N"], (X > 0).sum(1))


ELEMENTS = "program elementwise(X[; p]: float) -> Y[; p]: float:\n    kernel k over p by 64:\n"
ELEMENTS += "        axis p = |p| by 64\n        load x[p] = X[p]\n        compute y[p] = {}\n"
ELEMENTS += "        store Y[p] = y[p]\n"


def normal(x: float) -> float:
    return x * 0.5 * math.erfc(-x / math.sqrt(2)) if x > -np.inf else 0.0


ELEMENTWISE: dict[str, Callable[[float], float]] = {
    "x[p] * x[p] + x[p]": lambda x: x * x + x,
    "max(x[p], p, 3, x[p] - 1)": lambda x: max(x, 3.0),
    "select(x[p] > 0 and not x[p] >= 2, x[p], -x[p]) - x[p]":
        lambda x: 0.0 if 0 < x < 2 else -2 * x,
    "select(p % 2 == 0, 7, x[p])": lambda x: 7.0,
    "select(x[p], 3, x[p]) + select(not x[p], 4, x[p])": lambda x: 3 + x,
    "clip(x[p], -1, 1) + cast(cast(x[p] * 3, int), float)":
        lambda x: min(max(x, -1), 1) + math.trunc(x * 3),
    "select(|p| > 3, x[p], 0)": lambda x: 0.0,
    "cast(x[p], bf16)": lambda x: float(numpy_math.rounded(x, "bf16")),
    "rsqrt(abs(x[p]))": lambda x: 1 / math.sqrt(abs(x)),
    "sigmoid(x[p])": lambda x: 1 / (1 + math.exp(-x)) if x > -700 else 0.0,
    "silu(x[p])": lambda x: x / (1 + math.exp(-x)) if x > -700 else 0.0,
    "softplus(x[p])": lambda x: math.log1p(math.exp(-abs(x))) + max(x, 0),
    "elu(x[p])": lambda x: x if x > 0 else math.expm1(x),
    "gelu(x[p])": normal,
    "erf(x[p])": math.erf,
    "exp(min(x[p], 2) // 1)": lambda x: math.exp(min(x, 2) // 1),
    "ceil(3 / 2) + floor(p / 2) + x[p] * (1 / |p|)": lambda x: 2 + x,
}  # fmt: skip


@pytest.mark.parametrize("expr", ELEMENTWISE)
@pytest.mark.parametrize("x", [0.3, -0.3, 1.5, -1.5, 5.5, -5.5, 90.0, -90.0])
def test_elementwise(expr: str, x: float) -> None:
    X = np.array([x])
    found = Executable(read_program(ELEMENTS.format(expr))).run({"X": X}, {"p": 1})["Y"]
    assert found[0] == pytest.approx(ELEMENTWISE[expr](x), rel=1e-14, abs=1e-300)


@pytest.mark.parametrize("op", ["sigmoid", "silu", "softplus", "elu", "gelu", "erf"])
def test_limits_are_reached_and_nan_stays(op: str) -> None:
    X = np.array([-np.inf, np.inf, np.nan], np.float32)
    run = Executable(read_program(ELEMENTS.format(f"{op}(x[p])")))
    low, high, nan = run.run({"X": X}, {"p": 3})["Y"]
    limits = {"sigmoid": (0, 1), "silu": (0, np.inf), "softplus": (0, np.inf),
              "elu": (-1, np.inf), "gelu": (0, np.inf), "erf": (-1, 1)}  # fmt: skip
    assert (low, high) == limits[op] and np.isnan(nan)


def test_erf_and_its_complement_to_the_last_digits() -> None:
    x = np.concatenate((np.linspace(-6, 6, 5001), np.linspace(-26, 26, 501)))
    expected = np.array([math.erf(v) for v in x])
    assert np.allclose(numpy_math.erf(x), expected, rtol=1e-15, atol=0)
    # gelu(x) = x / 2 * erfc(-x / sqrt(2)) keeps the digits of the tail, where 1 + erf has none.
    tail = np.array([v * math.sqrt(0.5) * math.erfc(-v) for v in x])
    assert np.allclose(numpy_math.gelu(x * math.sqrt(2)), tail, rtol=1e-12, atol=1e-290)


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_counters_of_every_example_are_predicted(path: Path) -> None:
    for cascade in attnc.load(str(path)).cascades.values():
        sizes = default_sizes(cascade)
        long = {"p": 150, "m": 550, "t": 140, "n": 33}
        for extended in (sizes, {r: long.get(r, e) if e > 4 else e for r, e in sizes.items()}):
            call = bind(cascade, (), sample(cascade, extended, seed=3))
            try:
                program = lower(optimize(cascade), "numpy")
            except CompileError as error:
                pytest.skip(error.message)
            executable = Executable(program)
            found = executable.run(call.arrays, call.extents)
            expected = predict(program, call.extents, data={**call.arrays, **executable.lists})
            assert astuple(executable.counters) == astuple(expected)
            if extended is sizes:
                truth = interpreter.run(cascade, call.arrays, np.dtype(np.float64))
                for name, array in truth.items():
                    assert relative_error(found[name], array) < 2e-5


def test_positions_with_a_product_of_their_own_are_not_put_in_one_tile() -> None:
    head = "cascade c(K[w, j, e], V[{w}j, f]) -> X[w, e, f]:\n"
    text = head + "    X[w, e, f] = K[w, j, e] * V[{w}j, f]\n"
    apart, shared = (attnc.parse(text.format(w=w))["c"] for w in ("w, ", ""))
    assert [grid.tile for grid in lower(apart, "numpy").kernels[0].grid] == [1]
    assert [grid.tile for grid in lower(shared, "numpy").kernels[0].grid] != [1]


def test_a_mask_kept_for_other_heads_leaves_its_tile_alone() -> None:
    text = (
        "cascade c[b, h](X[p, m], T[b; p, m]) -> O[p, m]:\n"
        "    near[p, m]: bool = T[p, m] > 0\n"
        "    B[p, m] = X[p, m] * select(near[p, m], 0.5, select(X[p, m] > 1, 3, 1))\n"
        "    O[p, m] = select(X[p, m] > 0 and near[p, m], B[p, m], X[p, m])\n"
    )
    assert "WRONG" not in str(attnc.verify(attnc.parse(text)["c"]))


@pytest.mark.parametrize(
    "value", ["Q[p, e] / N[p]", "Q[p, e] * log(N[p])", "Q[p, e] * rsqrt(N[p])"]
)
def test_an_operand_that_is_not_defined_everywhere_adds_nothing_there(value: str) -> None:
    text = (
        "cascade c(A[p, m], Q[p, e], N[p]) -> K[m, e]:\n"
        f"    R[p, e] = {value} where N[p] > 0\n"
        "    K[m, e] = sum[p where p <= m](A[p, m] * R[p, e])\n"
    )
    arrays = {"A": random(5, 9), "Q": random(5, 3, seed=1), "N": np.float32([0, 2, -1, 0, 3])}
    cascade = attnc.parse(text)["c"]
    exact = interpreter.run(cascade, arrays, np.dtype(np.float64))["K"]
    assert relative_error(attnc.compile(cascade, backend="numpy").run(arrays)["K"], exact) < 1e-6


LAID = {
    "as a product, one way or the other": ("sum[e](X[p, e] * Y[m, e])", "", True),
    "with positions beside it": ("sum[e](X[p, e] * Y[m, e]) + (m - p) / 4", "", True),
    "read from memory in one place": ("sum[e](X[p, e] * Y[m, e]) + B[p, m]", "B[p, m]", False),
    "in another place among the axes": ("sum[e](X[m, e] * Y[p, e])", "", True),
    "with the sum along the first axis": ("sum[e](X[p, e] * B[e, m])", "B[e, m]", False),
}


@pytest.mark.parametrize(("m", "p"), [(1500, 5), (3, 40), (1, 1), (0, 2), (33, 130)])
@pytest.mark.parametrize("case", LAID)
def test_products_lie_in_memory_so_that_the_longer_operand_is_first(
    case: str, m: int, p: int
) -> None:
    scores, more, turned = LAID[case]
    text = (
        f"cascade c(X[p, e], Y[m, e], V[m, f]{', ' * bool(more)}{more}) -> O[p, f], T[p]:\n"
        f"    S[p, m] = {scores} where m % 5 != p % 3\n"
        "    T[p]    = max[m](S[p, m])\n    N[p, m] = exp(S[p, m] - T[p])\n"
        "    O[p, f] = sum[m](N[p, m] * V[m, f]) / sum[m](N[p, m])\n"
    )
    if case == "in another place among the axes":
        text = text.replace("X[p, e], Y[m, e]", "X[m, e], Y[p, e]")
    kernel = attnc.compile(attnc.parse(text)["c"])
    assert ("laid(" in kernel.source) is turned
    arrays = sample(kernel.cascade, {"p": p, "m": m, "e": 6, "f": 4}, dtype="f64", seed=1)
    expected = interpreter.run(kernel.cascade, arrays)
    for name, value in kernel.run(arrays).items():
        assert relative_error(value, expected[name]) < 1e-12


SLOPES = """
cascade c[b, h](X[p, e], Y[m, e], V[m, f], slope[h;], B[p, m]) -> O[p, f]:
    S[p, m] = X[p, e] * Y[m, e]
    T[p, m] = BODY where m <= p
    A[p, m] = softmax[m](T[p, m])
    O[p, f] = A[p, m] * V[m, f]
"""


@pytest.mark.parametrize(
    ("body", "in_parts"),
    [
        ("S[p, m] + slope[h] * (m - p)", True),
        ("S[p, m] * S[p, m] - (m - p) / (1 + exp(slope[h])) * slope[h]", False),
        ("S[p, m] * S[p, m] - slope[h] * abs(m - p)", True),
        ("S[p, m] + slope[h] * B[p, m]", False),
    ],
)
def test_a_product_that_is_added_is_never_there_for_all_heads(body: str, in_parts: bool) -> None:
    """Near misses: a factor as large as the product, whose place it may take."""
    text = SLOPES.replace("BODY", body)
    own = attnc.parse(text if "B[" in body else text.replace(", B[p, m]", ""))["c"]
    kernel = attnc.compile(own)
    assert ("for part in range(n_h)" in kernel.source) is in_parts
    sizes = {"b": 2, "h": 11, "p": 90, "m": 70, "e": 5, "f": 3}
    arrays = sample(own, sizes, dtype="f64", seed=4)
    assert relative_error(kernel.run(arrays)["O"], interpreter.run(own, arrays)["O"]) < 1e-12


@pytest.mark.parametrize("shape", [(3, 5, 40), (2, 0, 7), (2, 3, 0), (1, 4, 16), (64, 33)])
@pytest.mark.parametrize("by_columns", [False, True])
def test_a_reduction_in_parts_is_the_reduction(shape: tuple[int, ...], by_columns: bool) -> None:
    tile = numpy_math.laid(np.empty(9000), shape, by_columns)
    tile[...] = np.random.default_rng(0).standard_normal(shape)
    for ufunc, initial in ((np.maximum, -np.inf), (np.minimum, np.inf), (np.multiply, 1.0)):
        expected = ufunc.reduce(np.array(tile, order="C"), axis=-1, initial=initial)
        found = numpy_math.reduced(ufunc, tile, initial, np.empty(shape[:-1]))
        np.testing.assert_allclose(found, expected, rtol=1e-14)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("start", [0, 2**24, 2**53, 2**62])
def test_differences_of_integers_are_rounded_once(start: int, dtype: type) -> None:
    x, y = np.arange(start, start + 9), np.arange(start + 3, start + 7)[:, None]
    found = numpy_math.measured(np.subtract, x, y, np.empty((4, 9), dtype))
    assert found.tolist() == (x - y).tolist()


def test_a_factor_stays_where_a_sum_has_one_position_in_a_kernel() -> None:
    own = attnc.parse(
        "cascade c(Q[t, d], V[i, t, f]) -> O[d, f]:\n"
        "    O[d, f] = sum[i, t](Q[t, d] / V[i, t, f])\n"
        "schedule c:\n    tile t by 1\n    tile i by 1\n"
    )["c"]
    arrays = sample(own, {"t": 7, "d": 5, "f": 3, "i": 4}, dtype="f64", seed=2)
    expected = interpreter.run(own, arrays)["O"]
    assert relative_error(attnc.compile(own).run(arrays)["O"], expected) < 1e-12


APART = """
cascade c(Q[t, d], K[t, d], V[t, f]) -> O[t, f]:
    O[t, f] = sum[dWHERE](BODY)
"""


@pytest.mark.parametrize(
    ("body", "where", "taken"),
    [
        ("Q[t, d] * K[t, d] * V[t, f]", "", True),
        ("V[t, f] * exp(-abs(Q[t, d])) * 3", "", True),
        ("Q[t, d] * V[t, f]", " where Q[t, d] > 0", True),
        ("Q[t, d] * (V[t, f] + K[t, d])", "", False),
        ("Q[t, d] * log(V[t, f])", " where Q[t, d] > 9", False),
        ("Q[t, d] / V[t, f]", " where Q[t, d] > 9", False),
    ],
)
def test_a_factor_without_the_summed_rank_needs_no_tile_of_all_ranks(
    body: str, where: str, taken: bool
) -> None:
    """Near misses: a factor that is no factor, and what may be infinite where nothing is summed."""
    own = attnc.parse(APART.replace("BODY", body).replace("WHERE", where))["c"]
    kernel = attnc.compile(own)
    widest = max(len(s.ranks) for s in kernel.program.kernels[0].body if hasattr(s, "ranks"))
    assert widest == (2 if taken else 3)
    arrays = sample(own, {"t": 7, "d": 5, "f": 3}, dtype="f64", seed=2)
    arrays["V"][:2] = (0.0, 1e3, 5e-324)
    expected = interpreter.run(own, arrays)["O"]
    assert relative_error(kernel.run(arrays)["O"], expected) < 1e-12


def test_a_product_of_operands_that_both_end_early_is_one() -> None:
    """Outside of its domain an operand may be anything, and so may what scales the result."""
    own = attnc.parse(
        "cascade c(X[t, d], Y[s, d], N[t], M[s], V[s, f]) -> O[t, f]:\n"
        "    L[t, d] = X[t, d] / N[t] where N[t] > 0\n"
        "    R[s, d] = Y[s, d] * log(M[s]) where M[s] > 0\n"
        "    S[t, s] = sum[d](L[t, d] / N[t] * R[s, d])\n"
        "    O[t, f] = sum[s](exp(S[t, s]) * V[s, f])\n"
    )["c"]
    kernel = attnc.compile(own)
    made = list(every(kernel.program.kernels[0].body))
    assert sum(isinstance(statement, Contract) for statement in made) >= 2
    assert max(len(getattr(statement, "ranks", ())) for statement in made) == 2
    arrays = sample(own, {"t": 7, "d": 5, "s": 6, "f": 3}, dtype="f64", seed=2)
    arrays["N"][:3], arrays["M"][:3] = (0.0, -1.0, 2.0), (0.0, 3.0, -1.0)
    expected = interpreter.run(own, arrays)["O"]
    assert relative_error(kernel.run(arrays)["O"], expected) < 1e-12
