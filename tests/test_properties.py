"""What holds of every cascade: text is a cascade's twin, rewrites keep values and save passes."""

from __future__ import annotations

import os

import numpy as np
import pytest
from cascades import Program, attentions, chains, error
from hypothesis import HealthCheck, given, settings

import attnc
from attnc.backends import interpreter

EXAMPLES = int(os.environ.get("ATTNC_EXAMPLES", "40"))
FLOAT64 = np.dtype(np.float64)

searched = settings(
    max_examples=EXAMPLES,
    deadline=None,
    derandomize=EXAMPLES == 40,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)


def check_rewrites(program: Program) -> None:
    cascade = program.cascade
    assert attnc.parse(str(cascade))["c"] == cascade

    fused = attnc.optimize(cascade)
    assert attnc.parse(str(fused))["c"] == fused
    before, after = attnc.analyze(cascade).passes, attnc.analyze(fused).passes
    told = {refusal.rank for refusal in fused.refusals}
    for rank, count in before.items():
        assert after[rank] <= count
        assert after[rank] == 1 or rank in told, f"nothing is said of {rank}"
    for step in fused.derivation:
        assert step.text and step.proof

    arrays = program.arrays()
    want, got = interpreter.run(cascade, arrays), interpreter.run(fused, arrays)
    for name, value in want.items():
        assert error(got[name], value) < 1e-9, (name, value, got[name])


def check_kernel(program: Program, allowed: float) -> None:
    cascade = program.cascade
    arrays = program.arrays(np.float32)
    want = interpreter.run(cascade, arrays, FLOAT64)
    got = attnc.compile(cascade, backend="numpy").run(arrays)
    for name, value in want.items():
        assert error(got[name], value) < allowed, (name, value, got[name])


@searched
@given(attentions())
def test_rewrites_of_attention(program: Program) -> None:
    check_rewrites(program)


@searched
@given(chains())
def test_rewrites_of_chains(program: Program) -> None:
    check_rewrites(program)


@searched
@given(attentions())
def test_kernels_of_attention(program: Program) -> None:
    check_kernel(program, 1e-5)


@pytest.mark.slow
@settings(searched, max_examples=20 * EXAMPLES, derandomize=False)
@given(attentions())
def test_rewrites_of_attention_at_length(program: Program) -> None:
    check_rewrites(program)


@pytest.mark.slow
@settings(searched, max_examples=20 * EXAMPLES, derandomize=False)
@given(chains())
def test_rewrites_of_chains_at_length(program: Program) -> None:
    check_rewrites(program)
