"""What holds of every cascade: text is a cascade's twin, rewrites keep values and save passes.

The ordinary run searches the same few programs each time; ATTNC_EXAMPLES=2000 searches anew.
"""

from __future__ import annotations

import os
from typing import Any

import numpy as np
from cascades import Program, attentions, chains, error
from hypothesis import HealthCheck, given, settings

import attnc
from attnc.backends import interpreter

FEW = 40
EXAMPLES = int(os.environ.get("ATTNC_EXAMPLES", FEW))
FLOAT64 = np.dtype(np.float64)

searched = settings(
    max_examples=EXAMPLES,
    deadline=None,
    derandomize=EXAMPLES == FEW,
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


def check_kernel(program: Program, dtype: Any, allowed: float) -> None:
    cascade = program.cascade
    arrays = program.arrays(dtype)
    want = interpreter.run(cascade, arrays, FLOAT64)
    got = attnc.compile(cascade, backend="numpy").run(arrays)
    for name, value in want.items():
        assert got[name].dtype == arrays[cascade.inputs[0].name].dtype
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
    check_kernel(program, np.float32, 1e-5)


@searched
@given(chains())
def test_kernels_of_chains(program: Program) -> None:
    check_kernel(program, np.float64, 1e-9)
