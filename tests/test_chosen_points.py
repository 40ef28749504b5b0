"""Which points a reduction takes may not wait for another one: no law corrects for that."""

from __future__ import annotations

import numpy as np
import pytest

import attnc
from attnc.backends import interpreter

HEAD = "cascade near(S[p, m], V[m, f]) -> O[p, f]:\n    G[p] = max[m](S[p, m])\n    "
ON_THE_REDUCTION = "O[p, f] = sum[m where S[p, m] > G[p] - 1](exp(S[p, m]) * V[m, f])\n"
ON_THE_TERM = "\n    ".join(
    (
        "N[p, m] = exp(S[p, m] - G[p]) where S[p, m] > G[p] - 1",
        "O[p, f] = N[p, m] * V[m, f]\n",
    )
)
BY_A_TENSOR = "\n    ".join(
    (
        "B[p, m] = select(S[p, m] > G[p] - 1, 1, 0)",
        "O[p, f] = sum[m where B[p, m] == 1](exp(S[p, m]) * V[m, f])\n",
    )
)
ON_AN_INPUT = "O[p, f] = sum[m where S[p, m] > 0](exp(S[p, m] - G[p]) * V[m, f])\n"


def inputs() -> dict[str, np.ndarray]:
    draw = np.random.default_rng(3)
    # Sorted scores: every tile raises the maximum, so that what came first drops out.
    scores = np.sort(draw.standard_normal((5, 700)), axis=1)
    return {"S": scores, "V": draw.standard_normal((700, 4))}


@pytest.mark.parametrize("body", [ON_THE_REDUCTION, ON_THE_TERM, BY_A_TENSOR])
def test_points_chosen_by_a_running_maximum_keep_their_pass(body):
    cascade = attnc.parse(HEAD + body)["near"]
    derived = attnc.optimize(cascade)
    assert attnc.analyze(derived).passes["m"] == 2
    assert any("chooses points" in refusal.reason for refusal in derived.refusals)
    reference = interpreter.run(cascade, inputs(), np.dtype(np.float64))["O"]
    for found in (
        interpreter.run(derived, inputs(), np.dtype(np.float64))["O"],
        attnc.compile(cascade)(**inputs()),
    ):
        assert np.abs(found - reference).max() < 1e-9 * np.abs(reference).max()


def test_points_chosen_by_an_input_do_not():
    cascade = attnc.parse(HEAD + ON_AN_INPUT)["near"]
    assert attnc.analyze(attnc.optimize(cascade)).passes["m"] == 1


CHOSEN = """
cascade chosen(X[p, m], keep[p, m]: bool) -> R[p, m], I[p, j], J[p, j], H[p], L[p]:
    rank j = 4
    S[p, m]      = X[p, m] where keep[p, m]
    R[p, m]: int = rankof[m](S[p, m])
    I[p, j]: int = argtop[m](S[p, m] + 1)
    J[p, j]: int = argbottom[m](S[p, m])
    H[p]: int    = argmax[m](S[p, m])
    L[p]: int    = argmin[m where m > 0](S[p, m])
"""


@pytest.mark.parametrize("keys", [0, 1, 3, 70])
def test_kernels_choose_as_the_interpreter_does(keys):
    draw = np.random.default_rng(keys)
    # Few values, so that most are tied; a row without any point, and one of minus infinity.
    scores = draw.integers(-2, 3, (6, keys)).astype(np.float32)
    keep = draw.random((6, keys)) < 0.7
    keep[1], keep[2], scores[2] = False, True, -np.inf
    cascade = attnc.parse(CHOSEN)["chosen"]
    reference = interpreter.run(cascade, {"X": scores, "keep": keep})
    found = attnc.compile(cascade).run({"X": scores, "keep": keep})
    for name, array in reference.items():
        assert np.array_equal(found[name], array), name


def test_scores_that_are_compared_with_themselves_are_computed_once():
    head = "cascade c(Q[p, e], K[m, e]) -> R[p, m]:\n    S[p, m] = Q[p, e] * K[m, e]\n"
    ranked = attnc.parse(head + "    R[p, m]: int = rankof[m](S[p, m])\n")["c"]
    assert [buffer.name for buffer in attnc.compile(ranked).program.buffers] == ["S"]
    alone = attnc.parse(head + "    R[p, m] = select(S[p, m] > 0, 1, 0)\n")["c"]
    assert not attnc.compile(alone).program.buffers


def test_the_report_speaks_of_the_choice_as_written():
    ranked = attnc.parse(CHOSEN)["chosen"]
    assert attnc.optimize(ranked).einsums == ranked.einsums
