"""What a program means: emptiness, subscripts, recurrences, points chosen by value, types."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import attnc
from attnc.backends import interpreter
from attnc.backends.elementwise import FUNCTIONS, cast

EXAMPLES = Path(__file__).parent.parent / "examples"
INF = math.inf


def run(text: str, dtype: Any = None, **arrays: Any) -> Any:
    """The one output of a program, or all by name."""
    (cascade,) = attnc.parse(text).cascades.values()
    given = {name: np.asarray(value) for name, value in arrays.items()}
    found = interpreter.run(cascade, given, None if dtype is None else np.dtype(dtype))
    return found if len(found) > 1 else found[cascade.outputs[0].name]


def data(*shape: int, seed: int = 0) -> Any:
    return np.random.default_rng(seed).standard_normal(shape)


# -- a first specification


def softmax_attention(q: Any, k: Any, v: Any, keep: Any) -> Any:
    """The textbook, one query at a time; a query without keys gives 0."""
    out = np.zeros((len(q), v.shape[1]))
    for p in range(len(q)):
        seen = np.flatnonzero(keep[p])
        if len(seen):
            scores = k[seen] @ q[p] / math.sqrt(q.shape[1])
            weights = np.exp(scores - scores.max())
            out[p] = weights @ v[seen] / weights.sum()
    return out


ATTENTION = """cascade attention[b](Q[p, e], K[m, e], V[m, f]) -> O[p, f]:
    S[p, m] = Q[p, e] * K[m, e] / sqrt(|e|) where WHERE
    A[p, m] = softmax[m](S[p, m])
    O[p, f] = A[p, m] * V[m, f]"""


@pytest.mark.parametrize("limit", [1 << 24, 7])
@pytest.mark.parametrize(
    ("where", "keep"),
    [
        ("true", lambda p, m, P, M: p >= 0),
        ("m <= p", lambda p, m, P, M: m <= p),
        ("m <= p + |m| - |p|", lambda p, m, P, M: m <= p + M - P),
        ("p - 2 < m and m <= p", lambda p, m, P, M: (p - 2 < m) & (m <= p)),
        ("m < 1 or p == 3", lambda p, m, P, M: (m < 1) | (p == 3)),
        ("m > p", lambda p, m, P, M: m > p),
        ("false", lambda p, m, P, M: p < 0),
    ],
)
def test_attention_is_the_textbooks(
    where: str, keep: Any, limit: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(interpreter, "LARGEST_SPACE", limit)
    for p, m in ((5, 5), (6, 4), (3, 8), (1, 1), (0, 3), (3, 0)):
        q, k, v = data(2, p, 3), data(2, m, 3, seed=1), data(2, m, 2, seed=2)
        found = run(ATTENTION.replace("WHERE", where), Q=q, K=k, V=v)
        kept = keep(np.arange(p)[:, None], np.arange(m)[None, :], p, m) & np.ones((p, m), bool)
        for b in range(2):
            assert np.allclose(found[b], softmax_attention(q[b], k[b], v[b], kept), atol=1e-12)


# -- emptiness

IDENTITIES = {
    "sum": 0, "prod": 1, "max": -INF, "min": INF, "any": 0, "all": 1, "logsumexp": -INF,
}  # fmt: skip


@pytest.mark.parametrize("op", IDENTITIES)
@pytest.mark.parametrize("extent", [0, 3])
def test_a_reduction_of_nothing_is_its_identity(op: str, extent: int) -> None:
    test = "X[m] > 0" if op in ("any", "all") else "X[m]"
    text = f"""cascade c(X[m]) -> Y[]:
    Y[] = select({op}[m where m > 5]({test}), 1, 0)"""
    if op not in ("any", "all"):
        text = f"cascade c(X[m]) -> Y[]:\n    Y[] = {op}[m where m > 5](X[m])"
    assert run(text, X=data(extent)) == IDENTITIES[op]


def test_what_is_empty_is_skipped_and_not_zero() -> None:
    text = """cascade c(X[m]) -> A[], B[], C[], D[]:
    Y[m] = X[m] where m % 2 == 1
    A[] = max[m](Y[m])
    B[] = prod[m](Y[m])
    C[] = sum[m](present(Y[m]))
    D[] = sum[m](Y[m] + 10)"""
    found = run(text, X=[-9.0, -2.0, 7.0, -3.0, 5.0])
    assert (found["A"], found["B"], found["C"], found["D"]) == (-2, 6, 2, 15)


def test_an_operation_is_empty_where_an_operand_is() -> None:
    text = """cascade c(X[m]) -> A[m], B[m], C[m], D[m], E[m]:
    Y[m] = X[m] where m < 2
    A[m] = present(Y[m] + X[m])
    B[m] = present(max(X[m], Y[m]))
    C[m] = present(select(m < 2, Y[m], X[m]))
    D[m] = present(select(m < 2, X[m], Y[m]))
    E[m] = present(select(Y[m] > 0, 1, 1))"""
    found = run(text, X=[1.0, 2.0, 3.0, 4.0])
    assert found["A"].tolist() == found["B"].tolist() == [1, 1, 0, 0]
    assert found["C"].tolist() == [1, 1, 1, 1], "select looks only at the operand that it picks"
    assert found["D"].tolist() == [1, 1, 0, 0]
    assert found["E"].tolist() == [1, 1, 0, 0], "but always at its condition"


def test_an_empty_predicate_does_not_hold() -> None:
    text = """cascade c(X[m]) -> Y[m], Z[]:
    Y[m] = X[m] where X[m + 1] > 0
    Z[] = sum[m where X[m + 1] > 0](1 + 0 * X[m])"""
    found = run(text, X=[1.0, 2.0, -3.0, 4.0])
    assert found["Y"].tolist() == [1, 0, -3, 0] and found["Z"] == 2


def test_an_empty_point_of_an_output_reads_as_zero_of_its_type() -> None:
    text = """cascade c(X[m]) -> Y[m], B[m]: bool, I[m]: int:
    Y[m] = X[m] where m > 0
    B[m] = X[m] > 0 where m > 0
    I[m] = m + 5 where m > 0"""
    found = run(text, X=[3.0, 4.0])
    assert found["Y"].tolist() == [0, 4]
    assert found["B"].tolist() == [False, True] and found["B"].dtype == np.bool_
    assert found["I"].tolist() == [0, 6] and found["I"].dtype.kind == "i"


def test_nothing_wraps_and_nothing_is_clamped() -> None:
    text = """cascade c(X[m]) -> Y[m], N[m]:
    Y[m] = X[2 * m - 2]
    N[m] = present(X[2 * m - 2])"""
    found = run(text, X=[1.0, 2.0, 3.0, 4.0])
    assert found["Y"].tolist() == [0, 1, 3, 0] and found["N"].tolist() == [0, 1, 1, 0]


def test_a_gather_from_a_table_with_holes() -> None:
    text = """cascade c(X[m], I[p]: int) -> Y[p], Z[p]:
    Y[p] = X[I[p]]
    Z[p] = present(X[I[I[p]]])"""
    found = run(text, X=[1.0, 2.0, 3.0], I=np.array([2, -1, 0, 3, 1]))
    assert found["Y"].tolist() == [3, 0, 1, 0, 2]
    assert found["Z"].tolist() == [1, 0, 1, 0, 0], "I[I[p]] is empty, or -1, where I[p] is outside"


def test_a_reduction_is_empty_where_what_it_reads_lies_outside_by_another_rank() -> None:
    text = """cascade c(Q[p, e], K[m, e]) -> A[p], B[p], C[p], D[]:
    T[p] = sum[e](K[p + 1, e])
    A[p] = present(T[p])
    B[p] = present(sum[e](Q[p, e] * K[p, e]))
    C[p] = present(sum[e](K[p - p, e + p]))
    D[] = max[p](T[p])"""
    found = run(text, Q=np.ones((4, 2)), K=-np.ones((3, 2)))
    assert found["A"].tolist() == [1, 1, 0, 0]
    assert found["B"].tolist() == [1, 1, 1, 0], "the bare rank variable of another rank, too"
    assert found["C"].tolist() == [1, 1, 1, 1], "the reduction runs over e: it skips, and is 0"
    assert found["D"] == -2, "and not the 0 of a sum of nothing"


def test_a_reduction_is_empty_where_a_table_has_no_position_for_it() -> None:
    text = """cascade c(K[m, e], I[p]: int) -> N[p], Z[p]:
    J[p]: int = I[p] where p != 1
    N[p] = present(sum[e](K[J[p], e]))
    Z[p] = present(sum[e where e > 5](K[J[p], e]))"""
    found = run(text, K=np.ones((3, 2)), I=np.array([2, 0, 5, 1]))
    assert found["N"].tolist() == [1, 0, 0, 1]
    assert found["Z"].tolist() == [1, 0, 0, 1], "whether or not anything is left to reduce"


@pytest.mark.parametrize("extent", [0, 1, 3, 4, 5, 11])
def test_fusemax_is_attention_for_extents_that_no_tile_divides(extent: int) -> None:
    cascade = attnc.load(EXAMPLES / "fusemax.attn")["fusemax"]
    cascade = attnc.parse(str(cascade).replace("256", "4"))["fusemax"]
    q, k, v = data(1, 1, 3, 2), data(1, 1, extent, 2, seed=1), data(1, 1, extent, 5, seed=2)
    found = interpreter.run(cascade, {"Q": -9 * q, "K": k, "V": v})["AV"][0, 0]
    if extent:
        every = np.ones((3, extent), bool)
        assert np.allclose(found, softmax_attention(-9 * q[0, 0], k[0, 0], v[0, 0], every))
    else:
        assert np.isnan(found).all(), "the paper's cascade divides 0 by 0 there, as written"


# -- ranks


def test_a_rank_bound_again_is_another_rank(monkeypatch: pytest.MonkeyPatch) -> None:
    text = """cascade c(S[p, m]) -> A[p, m], R[p, m], C[m]:
    A[p, m] = exp(S[p, m]) / sum[m](exp(S[p, m]))
    R[p, m] = rankof[m](S[p, m])
    C[m] = sum[p](S[p, m]) - max[m](S[0, m])"""
    s = data(3, 5)
    for limit in (1 << 24, 2):
        monkeypatch.setattr(interpreter, "LARGEST_SPACE", limit)
        found = run(text, S=s)
        assert np.allclose(found["A"], np.exp(s) / np.exp(s).sum(1, keepdims=True))
        assert (found["R"] == np.argsort(np.argsort(-s, axis=1), axis=1)).all()
        assert np.allclose(found["C"], s.sum(0) - s[0].max())


def test_a_primed_rank_runs_by_itself_over_the_same_extent() -> None:
    x = data(4)
    text = "cascade c(X[m]) -> Y[m]:\n    Y[m] = sum[m' where m' <= m](X[m'])"
    assert np.allclose(run(text, X=x), np.cumsum(x))
    text = "cascade c(X[m]) -> Y[m, m']:\n    Y[m, m'] = X[m] - 2 * X[m']"
    assert np.allclose(run(text, X=x), x[:, None] - 2 * x[None, :])


def test_einsteins_sum_is_over_the_whole_right_hand_side() -> None:
    text = "cascade c(A[k], B[k]) -> Z[]:\n    Z[] = A[k] * B[k] + 1"
    assert run(text, A=[1.0, 2.0], B=[3.0, 4.0]) == 13


def test_a_sum_over_a_rank_that_the_operand_lacks_counts_it() -> None:
    text = """cascade c(X[m], Y[p]) -> Z[p], W[p]:
    Z[p] = sum[m](Y[p])
    W[p] = max[m where m > p](Y[p] + m)"""
    found = run(text, X=np.zeros(3), Y=[1.0, 2.0, 3.0])
    assert found["Z"].tolist() == [3, 6, 9] and found["W"].tolist() == [3, 4, -INF]


def test_a_window_hangs_over_both_edges() -> None:
    text = """cascade c(X[p], F[w]) -> Y[p]:
    Y[p] = X[p + w - |w| // 2] * F[w]"""
    x, f = data(6), data(3, seed=1)
    assert np.allclose(run(text, X=x, F=f), np.convolve(x, f[::-1], "same"))


# -- recurrences


def test_the_history_of_an_iterative_rank() -> None:
    text = """cascade c(X[t]) -> B[t], A[t], F[], S0[]:
    S[0]   = 3
    S[t+1] = 2 * S[t] + X[t]
    B[t]   = S[t]
    A[t]   = S[t+1]
    F[]    = S[|t|]
    S0[]   = S[0]"""
    found = run(text, X=[1.0, 10.0, 100.0])
    assert found["B"].tolist() == [3, 7, 24] and found["A"].tolist() == [7, 24, 148]
    assert found["F"] == 148 and found["S0"] == 3
    found = run(text, X=np.zeros(0))
    assert found["F"] == 3 and found["B"].shape == (0,)


def test_a_step_reads_what_was_assigned_above_it() -> None:
    text = """cascade c(X[t]) -> O[]:
    M[0]   = -inf
    L[0]   = 0
    M[t+1] = max(M[t], X[t])
    L[t+1] = L[t] * exp(M[t] - M[t+1]) + exp(X[t] - M[t+1])
    O[]    = M[|t|] + log(L[|t|])"""
    x = 100 * data(9)
    assert np.allclose(run(text, X=x), x.max() + np.log(np.exp(x - x.max()).sum()))


def test_the_delta_rule_is_its_loop() -> None:
    cascade = attnc.load(EXAMPLES / "delta_rule.attn")["delta_rule"]
    shapes = {"Q": (5, 3), "K": (5, 3), "V": (5, 2), "beta": (5,)}
    given = {name: data(1, 1, *s, seed=n) for n, (name, s) in enumerate(shapes.items())}
    found = interpreter.run(cascade, given)["O"][0, 0]
    q, k, v, beta = (given[name][0, 0] for name in shapes)
    state = np.zeros((3, 2))
    for t in range(5):
        state = state + beta[t] * np.outer(k[t], v[t] - k[t] @ state)
        assert np.allclose(found[t], q[t] @ state)


def test_a_reduction_inside_a_step_runs_over_its_rank_whole() -> None:
    text = """cascade c(X[t]) -> O[t]:
    S[0]   = 0
    R[t]   = sum[t](X[t]) + S[t]
    S[t+1] = R[t] + X[t]
    O[t]   = S[t+1]"""
    assert run(text, X=[0.0, 1.0, 2.0, 3.0]).tolist() == [6, 13, 21, 30]


# -- points chosen by value


def test_argtop_orders_by_value_then_by_position() -> None:
    text = """cascade c(X[m]) -> I[j]: int, J[j]: int, N[j], V[j]:
    rank j = 4
    I[j]: int = argtop[m](X[m])
    J[j]: int = argbottom[m](X[m])
    N[j] = present(X[I[j]])
    V[j] = X[I[j]]"""
    found = run(text, X=[2.0, 7.0, 2.0, 7.0, -1.0])
    assert found["I"].tolist() == [1, 3, 0, 2] and found["J"].tolist() == [4, 0, 2, 1]
    found = run(text, X=[2.0, -INF, 7.0])
    assert found["I"].tolist() == [2, 0, 1, 0] and found["N"].tolist() == [1, 1, 1, 0]
    assert found["V"].tolist() == [7, 2, -INF, 0], "the fourth does not exist"
    assert run(text, X=np.zeros(0))["N"].tolist() == [0, 0, 0, 0]


def test_what_is_empty_is_never_chosen() -> None:
    text = """cascade c(X[p, m]) -> I[p, j]: int, N[p, j], A[p]: int, E[p], R[p, m]:
    rank j = 2
    Y[p, m] = X[p, m] where m < p
    I[p, j]: int = argtop[m](Y[p, m])
    N[p, j] = present(I[p, j])
    A[p]: int = argmin[m where m < p](X[p, m])
    E[p] = present(argmax[m](Y[p, m]))
    R[p, m] = rankof[m](Y[p, m])"""
    x = np.array([[9.0, 5, 7], [9, 5, 7], [5, 9, 7], [5, 9, 7]])
    found = run(text, X=x)
    assert found["I"].tolist() == [[0, 0], [0, 0], [1, 0], [1, 2]]
    assert found["N"].tolist() == [[0, 0], [1, 0], [1, 1], [1, 1]]
    assert found["A"].tolist() == [0, 0, 0, 0] and found["E"].tolist() == [0, 1, 1, 1]
    assert found["R"].tolist() == [[0, 0, 0], [0, 0, 0], [1, 0, 0], [2, 0, 1]]


# -- reductions of the user's own

OWN = """def lse2 reduce(x, y) = max(x, y) + log2(1 + exp2(min(x, y) - max(x, y))) identity -inf
cascade c(X[p, m]) -> Y[p]:
    Y[p] = lse2[m where m < p](X[p, m])"""


def test_an_own_reduction_skips_what_is_empty_in_any_number_of_points() -> None:
    x = data(8, 7)
    found = run(OWN, X=x)
    assert found[0] == -INF
    for p in range(1, 8):
        assert np.isclose(found[p], np.log2(np.exp2(x[p, :p]).sum()))
    assert run(OWN, X=np.zeros((2, 0))).tolist() == [-INF, -INF]


# -- numbers and types


def test_integers_stay_exact_until_they_meet_a_float() -> None:
    text = """cascade c(X[m], I[m]: int) -> A[m]: int, B[m]: int, C[m], D[m]: int:
    A[m] = (I[m] - 3) // 2
    B[m] = (I[m] - 3) % 2
    C[m] = I[m] / 2
    D[m] = I[m] * I[m] + m"""
    large = 2**27 + 1
    found = run(text, X=np.zeros(3, np.float32), I=np.array([0, 4, large]))
    assert found["A"].tolist() == [-2, 0, (large - 3) // 2]
    assert found["B"].tolist() == [1, 1, (large - 3) % 2]
    assert found["C"].tolist()[:2] == [0, 2]
    assert found["D"].tolist() == [0, 17, large * large + 2], "exact beyond 2**53"


def test_integers_of_any_width_neither_wrap_nor_round() -> None:
    text = """cascade c(X[m], I[m]: int) -> A[m]: int, B[m]: int, C[]: int:
    A[m] = I[m] - 10
    B[m] = I[m] * I[m] * I[m] * I[m]
    C[] = max[m](I[m] + 2 ** 30)"""
    for width in (np.uint8, np.int8, np.uint16, np.int32):
        found = run(text, X=np.zeros(2, np.float32), I=np.array([3, 101], width))
        assert found["A"].tolist() == [-7, 91] and found["B"].tolist() == [81, 101**4]
        assert found["C"] == 2**30 + 101, "a maximum of integers keeps more than float32 holds"


@pytest.mark.parametrize("extent", [2**40, 2**61])
def test_what_no_memory_holds_is_refused(extent: int) -> None:
    for line, name in (("T[p, w] = X[p] * w", "T"), ("T[p] = sum[w](X[p] * w)", "rank w")):
        text = f"cascade c(X[p]) -> O[p]:\n    rank w = {extent}\n    {line}\n    O[p] = X[p]"
        with pytest.raises(attnc.CallError, match=f"{name} has .*{extent} .*too many for memory"):
            run(text, X=np.zeros(3))


@pytest.mark.parametrize(
    ("given", "asked", "arithmetic", "stored"),
    [
        (np.float16, None, np.float32, np.float16),
        (np.float32, None, np.float32, np.float32),
        (np.float64, None, np.float64, np.float64),
        (np.float16, np.float64, np.float64, np.float64),
    ],
)
def test_arithmetic_and_outputs_follow_the_inputs(
    given: Any, asked: Any, arithmetic: Any, stored: Any
) -> None:
    text = "cascade c(X[m], I[m]: int) -> Y[m]:\n    Y[m] = (X[m] + 1 / 3) * I[m] - 1"
    found = run(text, asked, X=np.array([3.0, 5.0], given), I=np.array([7, 9]))
    third = arithmetic(1) / arithmetic(3)
    want = (np.array([3, 5], arithmetic) + third) * np.array([7, 9], arithmetic) - arithmetic(1)
    assert found.dtype == stored and np.array_equal(found, want.astype(stored))


def test_declared_output_types_and_casts_round() -> None:
    text = """cascade c(X[m]) -> H[m]: f16, W[m]: f64, R[m], B[m]: bf16:
    H[m] = X[m]
    W[m] = X[m]
    R[m] = cast(X[m], f16) - X[m]
    B[m] = X[m]"""
    found = run(text, X=np.array([1 + 2**-12, 1 + 3 * 2**-8], np.float32))
    assert found["H"].dtype == np.float16 and found["H"][0] == 1
    assert found["W"].dtype == np.float64 and found["W"][0] == 1 + 2**-12
    assert found["R"].tolist() == [-(2.0**-12), 0]
    assert found["B"].tolist() == [1, 1 + 2**-6], "bfloat16 has 8 bits; ties go to even"


def test_bfloat16_keeps_what_is_not_finite() -> None:
    odd = np.array([INF, -INF, np.nan, 3.4e38, 0.0, -0.0], np.float32)
    found = cast(odd, "bf16")
    assert found[:2].tolist() == [INF, -INF] and np.isnan(found[2]) and found[3] == INF
    assert math.copysign(1, found[5]) == -1


POINTS = (-2.5, -1.0, -0.5, 0.25, 0.5, 1.5, 3.0)
MEANING = {
    "exp": math.exp, "exp2": lambda x: 2**x, "expm1": math.expm1, "sin": math.sin,
    "cos": math.cos, "tanh": math.tanh, "erf": math.erf, "abs": abs, "floor": math.floor,
    "ceil": math.ceil, "round": round, "neg": lambda x: -x,
    "sign": lambda x: math.copysign(1, x),
    "sigmoid": lambda x: 1 / (1 + math.exp(-x)),
    "softplus": lambda x: math.log(1 + math.exp(x)),
    "relu": lambda x: max(x, 0),
    "gelu": lambda x: x / 2 * (1 + math.erf(x / math.sqrt(2))),
    "silu": lambda x: x / (1 + math.exp(-x)),
    "elu": lambda x: x if x > 0 else math.exp(x) - 1,
    "log": lambda x: math.log(abs(x)), "log2": lambda x: math.log2(abs(x)),
    "log1p": lambda x: math.log1p(abs(x)), "sqrt": lambda x: math.sqrt(abs(x)),
    "rsqrt": lambda x: 1 / math.sqrt(abs(x)),
}  # fmt: skip


@pytest.mark.parametrize("name", MEANING)
def test_functions(name: str) -> None:
    points = np.array(POINTS)
    if name in ("log", "log2", "log1p", "sqrt", "rsqrt"):
        points = np.abs(points)
    assert np.allclose(FUNCTIONS[name]([points]), [MEANING[name](x) for x in points], rtol=1e-14)


@pytest.mark.parametrize(
    ("name", "point", "value"),
    [
        ("sigmoid", -1e4, 0), ("sigmoid", 1e4, 1), ("softplus", 1e4, 1e4), ("softplus", -1e4, 0),
        ("silu", -1e4, 0), ("gelu", -1e4, 0), ("elu", 1e4, 1e4), ("elu", -1e4, -1),
        ("tanh", 1e4, 1), ("log", 0, -INF), ("exp", -INF, 0),
    ],
)  # fmt: skip
def test_functions_far_out(name: str, point: float, value: float) -> None:
    with np.errstate(all="ignore"):
        assert FUNCTIONS[name]([np.array([point])])[0] == value


def test_every_operation_of_the_language_has_its_meaning_here() -> None:
    from attnc.ir.algebra import OPS

    elsewhere = {"select", "present", "uniform", "first", "last"}
    names = {op.name for op in (OPS.values() if isinstance(OPS, dict) else OPS)}
    assert names - set(FUNCTIONS) == elsewhere


def test_log_sum_exp_of_extremes() -> None:
    text = "cascade c(X[p, m]) -> L[p]:\n    L[p] = logsumexp[m](X[p, m])"
    x = np.array([[1e4, 1e4], [-1e4, -1e4], [-INF, -INF], [-INF, 5], [INF, 5]])
    want = [1e4 + math.log(2), -1e4 + math.log(2), -INF, 5, INF]
    assert run(text, X=x).tolist() == want
