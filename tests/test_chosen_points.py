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
