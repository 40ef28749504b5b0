"""One meaning, many executions: every example, after every step and in NumPy, against the
literal interpreter in float64, with extents that no tile divides and with large values."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import attnc
from attnc.backends import interpreter
from attnc.backends.binding import bind
from attnc.ir.print_tile import print_program
from attnc.ir.read_tile import read_program
from attnc.ir.verify import verify_cascade
from attnc.ir.verify_tile import verify_program
from attnc.passes.pipeline import lower, optimize
from attnc.passes.predict import predict
from attnc.sampling import default_sizes, sample

EXAMPLES = sorted((Path(__file__).parent.parent / "examples").glob("*.attn"))
EXACT = np.dtype(np.float64)
COUNTED = ("bytes_read", "bytes_written", "flops", "peak_live_bytes")
UNSTABLE = {"attention_unstable", "attention_unstable_deferred"}
"""Examples that overflow by design, without a maximum taken off."""


def cascades() -> list[tuple[str, attnc.ir.cascade.Cascade]]:
    found = []
    for path in EXAMPLES:
        found.extend(attnc.load(path).cascades.items())
    return found


EVERY = [pytest.param(cascade, id=name) for name, cascade in cascades()]


def inputs(cascade, scale=1.0, seed=0, dtype="f32"):
    arrays = sample(cascade, default_sizes(cascade), dtype=dtype, seed=seed)
    first = cascade.inputs[0].name
    return {n: a * a.dtype.type(scale) if n == first else a for n, a in arrays.items()}


def distance(found, reference):
    """The largest error relative to the largest value, over all outputs."""
    worst = 0.0
    for name, right in reference.items():
        error = np.max(np.abs(np.asarray(found[name], EXACT) - right), initial=0.0)
        worst = max(worst, float(error / max(np.max(np.abs(right), initial=0.0), 1e-30)))
    return worst


@pytest.mark.parametrize("cascade", EVERY)
def test_every_step_keeps_the_meaning(cascade):
    scales = (1.0,) if cascade.name in UNSTABLE else (1.0, 1e4)
    for scale in scales:
        arrays = inputs(cascade, scale, dtype="f64")
        reference = interpreter.run(cascade, arrays, EXACT)
        if not all(np.isfinite(value).all() for value in reference.values()):
            continue

        def same(name, step, arrays=arrays, reference=reference):
            verify_cascade(step)
            assert attnc.parse(str(step))[step.name] == step, name
            assert distance(interpreter.run(step, arrays, EXACT), reference) < 1e-9, name

        same("optimized", optimize(cascade, same))


@pytest.mark.parametrize("cascade", EVERY)
def test_numpy_computes_it_and_the_counters_are_as_predicted(cascade):
    kernel = attnc.compile(cascade)
    verify_program(kernel.program)
    assert read_program(print_program(kernel.program)) == kernel.program
    arrays = inputs(cascade)
    reference = interpreter.run(cascade, arrays, EXACT)
    assert distance(kernel.run(arrays), reference) < 1e-5
    integers = {name: array for name, array in arrays.items() if array.dtype.kind in "iub"}
    ran = kernel.runner if kernel.crossover is None else kernel.crossover.last
    expected = predict(ran.program, bind(cascade, (), arrays).extents, data=integers | ran.lists)
    for name in COUNTED:
        assert getattr(kernel.counters, name) == getattr(expected, name), name


ONE_PASS = ["attention", "causal", "differential", "learned_sink", "softcap", "sigmoid_attention"]


@pytest.mark.parametrize("name", ONE_PASS)
def test_one_pass_needs_no_more_memory_for_more_keys(name):
    cascade = dict(cascades())[name]
    program = lower(optimize(cascade), "numpy")
    sizes = {t.ranks[i]: 64 for t in cascade.inputs for i in range(len(t.ranks))}
    few, many = (predict(program, sizes | {"m": m, "p": m}) for m in (1024, 8192))
    assert few.peak_live_bytes == many.peak_live_bytes
    assert few.bytes_read < many.bytes_read


def test_the_cascade_of_the_paper_and_the_derived_one_are_equally_good():
    written = attnc.load(EXAMPLES[0].parent / "fusemax.attn")["fusemax"]
    derived = attnc.optimize(attnc.load(EXAMPLES[0].parent / "attention.attn")["attention"])
    ours, theirs = attnc.analyze(derived), attnc.analyze(written)
    for rank in ("m", "m1", "m0", "p"):
        assert ours.passes[rank] == theirs.passes[rank]
        assert ours.footprint[rank] == theirs.footprint[rank]
    draw = np.random.default_rng(0)
    q, k, v = (draw.standard_normal((1, 2, n, 40), np.float32) for n in (300, 700, 700))
    first = attnc.compile(attnc.load(EXAMPLES[0].parent / "attention.attn")["attention"])
    tile = next(p for p in first.program.params if p.name == "M0")
    second = attnc.compile(written, M0=first.program.ranks[0].extent.value)
    assert tile.name == "M0"
    assert np.abs(first(q, k, v) - second(q, k, v)).max() < 1e-6
    assert first.counters == second.counters


@pytest.mark.parametrize("keys", [0, 1, 2])
def test_few_keys(keys):
    """With nothing to attend to the output is 0, never NaN."""
    cascade = dict(cascades())["attention"]
    draw = np.random.default_rng(0)
    q, k, v = (draw.standard_normal((1, 1, n, 8), np.float32) for n in (3, keys, keys))
    found = attnc.compile(cascade)(q, k, v)
    right = interpreter.run(cascade, {"Q": q, "K": k, "V": v}, EXACT)["O"]
    assert np.abs(found - right).max() < 1e-6
    assert keys or not found.any()


def test_scores_of_minus_infinity_are_no_nan():
    """A bias of minus infinity is a value, not a mask: a tile of them alone must not poison."""
    text = """
cascade biased(Q[p, e], K[m, e], V[m, f], B[p, m]) -> O[p, f]:
    S[p, m] = sum[e](Q[p, e] * K[m, e]) + B[p, m]
    A[p, m] = softmax[m](S[p, m])
    O[p, f] = A[p, m] * V[m, f]
"""
    cascade = attnc.parse(text)["biased"]
    draw = np.random.default_rng(0)
    q, k, v = (draw.standard_normal((n, 8), np.float32) for n in (5, 1200, 1200))
    bias = np.full((5, 1200), -np.inf, np.float32)
    bias[:, 1100:] = 0
    found = attnc.compile(cascade)(q, k, v, bias)
    right = interpreter.run(cascade, {"Q": q, "K": k, "V": v, "B": bias}, EXACT)["O"]
    assert np.isfinite(found).all()
    assert np.abs(found - right).max() < 1e-5


def test_an_output_may_carry_a_rank_twice():
    text = """
cascade gram(X[p, e]) -> G[p, p']:
    G[p, p'] = X[p, e] * X[p', e]
"""
    x = np.random.default_rng(0).standard_normal((150, 16), np.float32)
    assert np.abs(attnc.compile(attnc.parse(text)["gram"])(x) - x @ x.T).max() < 1e-4
