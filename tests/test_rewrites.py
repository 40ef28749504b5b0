"""Rewrites that remove passes: the programs that get shorter, and beside them those that must not.

Every program, rewritten or refused, must print as itself and keep its value in float64: with
ragged extents, rows without a key, and nothing to reduce at all.
"""

from __future__ import annotations

import re
from functools import cache
from typing import Any

import numpy as np
import pytest

import attnc
from attnc.backends import interpreter
from attnc.ir.cascade import Cascade
from attnc.sampling import sample
from attnc.verification import relative_error

SCORES = """cascade c(Q[p, e], K[m, e], V[m, f]) -> O[p, f]:
    S[p, m] = Q[p, e] * K[m, e] / sqrt(|e|)
"""
GIVEN = "cascade c(S[p, m], V[m, f]) -> O[p, f]:\n"
ROWS = "cascade c(S[p, m]) -> O[p]:\n"
SOFTMAX = """    G[p] = max[m](S[p, m])
    N[p, m] = exp(S[p, m] - G[p])
    D[p] = sum[m](N[p, m])
    O[p, f] = N[p, m] / D[p] * V[m, f]"""

# Passes over m before and after.
SHORTER: dict[str, tuple[int, int, str]] = {
    "softmax attention": (3, 1, SCORES + SOFTMAX),
    "with a mask that leaves rows empty": (
        3, 1, SCORES.replace("sqrt(|e|)", "sqrt(|e|) where m < p - 1") + SOFTMAX,
    ),
    "with the library's softmax": (
        3, 1, SCORES + """    A[p, m] = softmax[m](S[p, m])
    O[p, f] = A[p, m] * V[m, f]""",
    ),
    "named otherwise": (
        3, 1, """cascade c(zz[i, x], a[j, x], k[j, w]) -> b[i, w]:
    max_[i, j] = zz[i, x] * a[j, x]
    sum_[i] = max[j](max_[i, j])
    t[i, j] = exp(max_[i, j] - sum_[i])
    O[i] = sum[j](t[i, j])
    b[i, w] = t[i, j] / O[i] * k[j, w]""",
    ),
    "with other variables over its rank": (
        3, 1, SCORES + """    G[p] = max[j](S[p, j])
    N[p, m'] = exp(S[p, m'] - G[p])
    O[p, f] = N[p, m] / sum[m'](N[p, m']) * V[m, f]""",
    ),
    "to the base 2": (3, 1, SCORES + SOFTMAX.replace("exp", "exp2")),
    "to the base e by its logarithm": (3, 1, SCORES + SOFTMAX.replace("exp(", "exp2(1.4427 * (")
        .replace("G[p])\n", "G[p]))\n", 1)),
    "with a temperature that is known when it runs": (
        3, 1, (SCORES + SOFTMAX).replace("V[m, f])", "V[m, f], tau[])")
        .replace("exp(S[p, m] - G[p])", "exp((S[p, m] - G[p]) / (1 + abs(tau[])))"),
    ),
    "with a temperature of every row": (
        3, 1, (SCORES + SOFTMAX).replace("V[m, f])", "V[m, f], tau[p])")
        .replace("exp(S[p, m] - G[p])", "exp((S[p, m] - G[p]) * tau[p] ** 2)"),
    ),
    "with a term added to the score": (
        3, 1, (SCORES + SOFTMAX).replace("V[m, f])", "V[m, f], B[p, m])")
        .replace("sqrt(|e|)\n", "sqrt(|e|) + B[p, m] - 0.5 * (p - m)\n"),
    ),
    "with a further factor on V": (
        3, 1, (SCORES + SOFTMAX).replace("V[m, f])", "V[m, f], w[m])") + " * w[m]",
    ),
    "with 1 in the denominator": (
        3, 1, SCORES + SOFTMAX.replace("sum[m]", "exp(-G[p]) + sum[m]"),
    ),
    "with a learned sink": (
        3, 1, (SCORES + SOFTMAX).replace("V[m, f])", "V[m, f], sink[])")
        .replace("max[m](S[p, m])", "max(sink[], max[m](S[p, m]))")
        .replace("sum[m]", "exp(sink[] - G[p]) + sum[m]"),
    ),
    "with some weights dropped": (
        3, 1, SCORES + SOFTMAX.replace(
            "N[p, m] / D[p] *", "select(uniform(3, p, m) < 0.3, 0, N[p, m] / D[p] / 0.7) *"),
    ),
    "with some weights dropped, in rows that may be empty": (
        3, 1, SCORES.replace("sqrt(|e|)", "sqrt(|e|) where m < p - 1") + SOFTMAX.replace(
            "N[p, m] / D[p] *", "select(uniform(3, p, m) < 0.3, 0, N[p, m] / D[p] / 0.7) *"),
    ),
    "with some weights kept by a table": (
        3, 1, (SCORES + SOFTMAX).replace("V[m, f])", "V[m, f], keep[m]: bool)")
        .replace("N[p, m] / D[p] *", "select(keep[m], N[p, m] / D[p], 0) *"),
    ),
    "two of them, one taken from the other": (
        3, 1, GIVEN + """    A[p, m] = softmax[m](S[p, m])
    B[p, m] = softmax[m](2 * S[p, m])
    O[p, f] = (A[p, m] - 0.5 * B[p, m]) * V[m, f]""",
    ),
    "a log-sum-exp beside it": (
        3, 1, SCORES.replace("-> O[p, f]", "-> O[p, f], L[p]") + SOFTMAX + """
    L[p] = G[p] + log(D[p])""",
    ),
    "a log-sum-exp by which it is normalised": (
        2, 1, GIVEN.replace("-> O[p, f]", "-> O[p, f], L[p]")
        + """    L[p] = logsumexp[m](S[p, m])
    O[p, f] = exp(S[p, m] - L[p]) * V[m, f]""",
    ),
    "unstable, divided inside": (
        2, 1, GIVEN + """    N[p, m] = exp(S[p, m])
    D[p] = sum[m](N[p, m])
    O[p, f] = N[p, m] / D[p] * V[m, f]""",
    ),
    "divided by the sum of absolute values": (
        2, 1, GIVEN + """    T[p, m] = S[p, m] where m < p
    D[p] = sum[m](abs(T[p, m]))
    O[p, f] = T[p, m] / D[p] * V[m, f]""",
    ),
    "divided by the euclidean length": (
        2, 1, GIVEN + """    D[p] = sqrt(sum[m](S[p, m] ** 2))
    O[p, f] = S[p, m] / D[p] * V[m, f]""",
    ),
    "a power of what is relative to the largest": (
        2, 1, GIVEN + """    T[p, m] = S[p, m] where m < p
    G[p] = max[m](abs(T[p, m]))
    O[p, f] = abs(T[p, m] / G[p]) ** 3 * V[m, f]""",
    ),
    "the power a parameter": (
        2, 1, GIVEN + """    param A: float = 2.5
    T[p, m] = S[p, m] where m < p
    G[p] = max[m](abs(T[p, m]))
    O[p, f] = (abs(T[p, m]) / G[p]) ** A * V[m, f]""",
    ),
    "a polynomial times an exponential": (
        2, 1, GIVEN + """    G[p] = max[m](S[p, m])
    O[p, f] = S[p, m] * exp2(S[p, m] - G[p]) * V[m, f]""",
    ),
    "a maximum over more points than the sum": (
        2, 1, ROWS + """    G[p] = max[m](S[p, m])
    O[p] = sum[m where m < p](exp(S[p, m] - G[p]))""",
    ),
    "a maximum of differences": (
        2, 1, ROWS + """    G[p] = sum[m](S[p, m])
    O[p] = max[m](S[p, m] - G[p])""",
    ),
    "by what was seen of fewer points, and may have been seen nowhere": (
        2, 1, ROWS + """    G[p] = min[m where m < p - 1](S[p, m])
    O[p] = max[m](S[p, m] / (1 + abs(G[p])))""",
    ),
    "a maximum of products by what is positive": (
        2, 1, ROWS + """    G[p] = max[m](S[p, m])
    O[p] = max[m](S[p, m] * exp(G[p]))""",
    ),
}  # fmt: skip

# Passes over m before and after, the Einsum that the refusal names, words of its reason.
KEPT: dict[str, tuple[int, int, str, str, str]] = {
    "the probabilities are an output": (
        3, 2, "A", "keeps m and waits for",
        "cascade c(S[p, m]) -> A[p, m]:\n    A[p, m] = softmax[m](S[p, m])",
    ),
    "and beside the values": (
        3, 2, "A", "keeps m and waits for",
        GIVEN.replace("-> O[p, f]", "-> O[p, f], A[p, m]") + """    A[p, m] = softmax[m](S[p, m])
    O[p, f] = A[p, m] * V[m, f]""",
    ),
    **{
        f"{function}(x - y)": (
            2, 2, "O", f"{function}(S[p, m] - G[p]): is no product",
            GIVEN + f"""    G[p] = max[m](S[p, m])
    O[p, f] = {function}(S[p, m] - G[p]) * V[m, f]""",
        )
        for function in ("tanh", "relu", "sigmoid", "abs", "sin")
    },
    "exp(x * y)": (
        2, 2, "O", "S[p, m] * G[p]: is no product",
        GIVEN + """    G[p] = max[m](S[p, m])
    O[p, f] = exp(S[p, m] * G[p]) * V[m, f]""",
    ),
    "exp(x - y) plus something": (
        2, 2, "O", "is no product",
        GIVEN + """    G[p] = max[m](S[p, m])
    O[p, f] = (exp(S[p, m] - G[p]) + S[p, m]) * V[m, f]""",
    ),
    "a branch that depends on y": (
        2, 2, "O", "",
        GIVEN + """    G[p] = max[m](S[p, m])
    O[p, f] = select(S[p, m] > G[p] - 1, exp(S[p, m] - G[p]), 0) * V[m, f]""",
    ),
    "two branches that would be corrected otherwise": (
        2, 2, "O", "select",
        GIVEN + """    G[p] = max[m](S[p, m])
    O[p, f] = select(m % 2 == 0, exp(S[p, m] - G[p]), exp2(S[p, m] - G[p])) * V[m, f]""",
    ),
    "a temperature that varies along the rank": (
        2, 2, "O", "is no product",
        GIVEN.replace("V[m, f])", "V[m, f], tau[m])") + """    G[p] = max[m](S[p, m])
    O[p, f] = exp((S[p, m] - G[p]) / tau[m]) * V[m, f]""",
    ),
    "a variance about its mean, which would cancel": (
        2, 2, "O", "may pass through 0",
        ROWS + """    M[p] = sum[m](S[p, m]) / |m|
    O[p] = sum[m]((S[p, m] - M[p]) ** 2)""",
    ),
    "a maximum over fewer points than the sum": (
        2, 2, "O", "takes points that G has not seen",
        ROWS + """    G[p] = max[m where m < p](S[p, m])
    O[p] = sum[m](exp(S[p, m] - G[p]))""",
    ),
    "a power relative to the last by sign, not the largest by size": (
        2, 2, "O", "is undefined where G is 0",
        GIVEN + """    G[p] = max[m](S[p, m])
    O[p, f] = abs(S[p, m] / G[p]) ** 3 * V[m, f]""",
    ),
    "a maximum of products by what may be negative": (
        2, 2, "O", "may be negative",
        GIVEN.replace("O[p, f]", "O[p]") + """    G[p] = max[m](S[p, m])
    O[p] = max[m](S[p, m] * G[p])""",
    ),
    "a mean taken off, which would cancel": (
        2, 2, "O", "may pass through 0",
        GIVEN + """    D[p] = sum[m](S[p, m])
    O[p, f] = (S[p, m] - D[p]) * V[m, f]""",
    ),
    "two variables over the rank that meet in one term": (
        2, 2, "O", "is no product",
        GIVEN + """    G[p] = max[m](S[p, m])
    O[p, f] = sum[m, m'](tanh(S[p, m] - S[p, m'] - G[p]) * V[m, f])""",
    ),
    "the largest points of a row": (
        2, 2, "I", "chooses",
        GIVEN + """    rank j = 2
    D[p] = sum[m](S[p, m])
    I[p, j]: int = argtop[m](S[p, m])
    O[p, f] = S[p, I[p, j]] / D[p] * V[I[p, j], f]""",
    ),
}  # fmt: skip

SIZES = (0, 1, 7, 131)


@cache
def parsed(text: str) -> tuple[Cascade, Cascade, str]:
    """A program, what became of it, and the rank that it reduces over."""
    cascade = attnc.parse(text)["c"]
    return cascade, attnc.optimize(cascade), "j" if "[i, j]" in text else "m"


def check_values(text: str, largest: float = 1.0) -> None:
    cascade, fused, rank = parsed(text)
    for extent in SIZES:
        sizes = {r: 3 for tensor in cascade.inputs for r in tensor.ranks} | {rank: extent}
        arrays: dict[str, Any] = sample(cascade, sizes, dtype="f64", seed=extent)
        for name in ("S", "Q"):
            if name in arrays:
                arrays[name] = largest * arrays[name]
        want, got = interpreter.run(cascade, arrays), interpreter.run(fused, arrays)
        for name, value in want.items():
            error = relative_error(got[name], value)
            assert error < 1e-10, (name, extent, value, got[name])


@pytest.mark.parametrize("case", SHORTER)
def test_shorter(case: str) -> None:
    before, after, text = SHORTER[case]
    cascade, fused, rank = parsed(text)
    assert attnc.analyze(cascade).passes[rank] == before
    assert attnc.analyze(fused).passes[rank] == after
    assert attnc.parse(str(fused))["c"] == fused
    steps = fused.derivation
    assert (steps[0].before, steps[-1].after) == (before, after) and not fused.refusals
    assert {step.rank for step in steps} == {rank} and all(step.proof for step in steps)


@pytest.mark.parametrize("case", KEPT)
def test_kept(case: str) -> None:
    before, after, einsum, words, text = KEPT[case]
    cascade, fused, rank = parsed(text)
    assert attnc.analyze(cascade).passes[rank] == before
    assert attnc.analyze(fused).passes[rank] == after
    assert attnc.parse(str(fused))["c"] == fused
    told = {r.einsum: f"{r.term}: {r.reason}" for r in fused.refusals if r.rank == rank}
    assert words in told.get(einsum, f"nothing of {einsum}: {told}")
    if after == before:
        assert fused == cascade and not fused.derivation


@pytest.mark.parametrize("case", [*SHORTER, *KEPT])
def test_values_stay(case: str) -> None:
    check_values(SHORTER[case][2] if case in SHORTER else KEPT[case][4])


# Those that are finite as written, however large the scores.
STABLE = [case for case, (_, _, text) in SHORTER.items() if SOFTMAX[:30] in text]


@pytest.mark.parametrize("case", STABLE)
def test_values_stay_where_exponentials_overflow(case: str) -> None:
    check_values(SHORTER[case][2], 1e4)


def test_column_normalised_attention_keeps_its_pass_over_keys_and_queries() -> None:
    text = (
        GIVEN
        + """    A[p, m] = softmax[p](S[p, m])
    O[p, f] = A[p, m] * V[m, f]"""
    )
    cascade = attnc.parse(text)["c"]
    fused = attnc.optimize(cascade)
    passes, after = attnc.analyze(cascade).passes, attnc.analyze(fused).passes
    assert (passes["p"], passes["m"], after["p"], after["m"]) == (3, 1, 2, 1)
    assert any(r.rank == "p" and "keeps p" in r.reason for r in fused.refusals)
    check_values(text)


def test_a_rewrite_does_not_depend_on_the_order_of_independent_einsums() -> None:
    text = GIVEN.replace("V[m, f])", "V[m, f], W[m, f])").replace("-> ", "-> U[p, f], ") + (
        """    G[p] = max[m](S[p, m])
    N[p, m] = exp(S[p, m] - G[p])
    U[p, f] = N[p, m] * W[m, f]
    D[p] = sum[m](N[p, m])
    O[p, f] = N[p, m] / D[p] * V[m, f]"""
    )
    fused = attnc.optimize(attnc.parse(text)["c"])
    assert attnc.analyze(fused).passes["m"] == 1
    check_values(text)


# -- what is written down: the derived cascade, letter by letter

DERIVED = """cascade c(Q[p, e], K[m, e], V[m, f]) -> O[p, f]:
    param M0: int = 64
    rank m0 = M0
    rank m1 = ceil(|m| / M0)
    S[m1, p, m0]          = Q[p, e] * K[m1 * M0 + m0, e] / sqrt(|e|)
    G_tile[m1, p]         = max[m0](S[m1, p, m0])
    G_run[0, p]           = -inf
    G_run[m1+1, p]        = max(G_run[m1, p], G_tile[m1, p])
    G_fix[m1, p]          = select(G_run[m1, p] == -inf, 0, exp(G_run[m1, p] - G_run[m1+1, p]))
    N[m1, p, m0]          = exp(S[m1, p, m0] - select(G_run[m1+1, p] == -inf, 0, G_run[m1+1, p]))
    D_tile[m1, p]         = sum[m0](N[m1, p, m0])
    D_run[0, p]           = 0
    D_run[m1+1, p]        = D_run[m1, p] * G_fix[m1, p] + D_tile[m1, p]
    D[p]                  = D_run[|m1|, p]
    O_sum_tile[m1, p, f]  = N[m1, p, m0] * V[m1 * M0 + m0, f]
    O_sum_run[0, p, f]    = 0
    O_sum_run[m1+1, p, f] = O_sum_run[m1, p, f] * G_fix[m1, p] + O_sum_tile[m1, p, f]
    O_sum[p, f]           = O_sum_run[|m1|, p, f]
    O[p, f]               = select(D[p] == 0, 0, O_sum[p, f] / D[p])
"""


def test_the_derived_cascade_of_attention() -> None:
    fused = parsed(SCORES + SOFTMAX)[1]
    assert str(fused).rstrip() == DERIVED.rstrip()
    assert [(s.law, s.einsums, s.before, s.after) for s in fused.derivation] == [
        ("deferral (sum, *)", ("O",), 3, 2),
        ("running (sum, *)", ("D",), 2, 1),
        ("running (sum, *)", ("O_sum",), 2, 1),
    ]


def test_a_mask_is_a_predicate_of_the_derived_score_and_nothing_else() -> None:
    masked = (SCORES + SOFTMAX).replace("sqrt(|e|)", "sqrt(|e|) where m <= p")
    line = next(x for x in DERIVED.splitlines() if x.lstrip().startswith("S["))
    want = DERIVED.replace(line, line + " where m1 * M0 + m0 <= p")
    assert str(attnc.optimize(attnc.parse(masked)["c"])).rstrip() == want.rstrip()


@pytest.mark.parametrize("size", [1, 3, 64])
def test_any_tile_size_gives_the_same_value(size: int) -> None:
    cascade, fused, _ = parsed(SHORTER["with a mask that leaves rows empty"][2])
    tiled = attnc.parse(re.sub(r"M0: int = \d+", f"M0: int = {size}", str(fused)))["c"]
    arrays = sample(cascade, {"p": 5, "m": 10, "e": 2, "f": 3}, dtype="f64")
    want, got = interpreter.run(cascade, arrays)["O"], interpreter.run(tiled, arrays)["O"]
    assert np.allclose(got, want, atol=1e-13) and not got[0].any()


# -- schedules


def lowered(schedule: str, text: str = SCORES + SOFTMAX) -> Any:
    lines = "\n".join(f"    {line}" for line in schedule.split("; "))
    return attnc.compile(attnc.parse(f"{text}\nschedule c:\n{lines}")["c"]).program


def test_a_factor_that_is_idle_leaves_with_one_that_waits_and_stays_where_none_does() -> None:
    gated = SOFTMAX.replace("O[p, f] =", "O[p, f] = g[p] *")
    scaled = SCORES.replace("V[m, f])", "V[m, f], g[p])") + gated
    lines = str(attnc.optimize(attnc.parse(scaled)["c"])).splitlines()
    assert not any("g[p]" in line for line in lines if "O_sum_tile" in line)
    assert any("g[p]" in line for line in lines if line.lstrip().startswith("O[p, f]"))
    alone = attnc.parse("cascade c(X[p, m], g[p]) -> O[p]:\n    O[p] = g[p] * X[p, m]\n")["c"]
    assert attnc.optimize(alone) == alone


def test_a_schedule_is_kept() -> None:
    program = lowered("tile p by 32; tile m by 16; parallel p; stream m; warps 2; stages 4")
    (kernel,) = program.kernels
    assert [(entry.rank, entry.tile) for entry in kernel.grid] == [("p", 32)]
    assert {decl.name: str(decl.extent) for decl in program.ranks}["m0"].find("16") >= 0
    assert (program.warps, program.stages) == (2, 4)


def test_a_schedule_fills_in_what_it_leaves_out() -> None:
    default, auto = lowered("warps 1"), lowered("tile p by auto; tile m by auto; warps 1")
    assert default.kernels == auto.kernels


@pytest.mark.parametrize(
    ("schedule", "words"),
    [
        ("parallel m", "m cannot be parallel: it is reduced by G"),
        ("parallel p, m", "m cannot be parallel: it is reduced by G"),
        ("stream f", "f cannot be streamed"),
        ("split f by 8", "f cannot be split"),
        ("tile p by 0", "at least 1"),
        ("tile q by 8", "q"),
        ("warps 0", "at least 1"),
    ],
)
def test_a_schedule_that_cannot_be_kept(schedule: str, words: str) -> None:
    with pytest.raises(attnc.CompileError) as caught:
        lowered(schedule)
    line = f"    {schedule}"
    assert words in caught.value.message
    assert caught.value.span.text in line, "the error points into the schedule"
