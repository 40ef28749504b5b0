"""Recurrences in chunks and sums regrouped: they fire by algebra, and say why they do not."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import attnc
from attnc.ir.cascade import Cascade
from attnc.ir.print_tile import print_program
from attnc.ir.read_tile import read_program
from attnc.ir.tile import Contract, Loop
from attnc.ir.tile_facts import every, tiles_made
from attnc.ir.verify_tile import verify_program
from attnc.passes.normalise import normalise
from attnc.passes.pipeline import lower
from attnc.passes.recurrences.ahead import ahead
from attnc.passes.recurrences.behind import behind
from attnc.passes.recurrences.chunk import chunk
from attnc.passes.recurrences.recurrence import NoRecurrence

SIZES = {"b": 2, "h": 2, "t": 37, "p": 37, "m": 37, "d": 5, "e": 5, "f": 3, "n": 4, "r": 6}


def cascade(text: str) -> Cascade:
    return next(iter(attnc.parse(text).cascades.values()))


def drawn(one: Cascade, seed: int = 0, **sizes: int) -> dict[str, np.ndarray]:
    """Inputs whose name says what they are: gates `a` in 0..1, logarithms `g` below 0, unit `K`."""
    rng = np.random.default_rng(seed)
    known = {**SIZES, **sizes}
    found: dict[str, np.ndarray] = {}
    for tensor in one.inputs:
        value = rng.standard_normal([known[rank] for rank in tensor.ranks])
        if tensor.name == "K":
            value /= np.linalg.norm(value, axis=-1, keepdims=True)
        if tensor.name in ("a", "beta"):
            value = 1 / (1 + np.exp(-3 * value))
            value[value < 0.05] = 0
        if tensor.name == "g":
            value = -np.exp(4 * value).clip(0, 50)
        found[tensor.name] = value
    return found


def outputs(result: object) -> list[np.ndarray]:
    return list(result) if isinstance(result, tuple) else [result]  # type: ignore[list-item]


def same(left: object, right: object, tolerance: float) -> None:
    for a, b in zip(outputs(left), outputs(right), strict=True):
        assert np.abs(a - b).max() <= tolerance * max(1e-30, np.abs(b).max())


def in_chunks(one: Cascade, rank: str, size: int) -> Cascade:
    made = chunk(normalise(one), rank, (size,) * 4, ()).cascade
    return cascade(str(made))


HEAD = "cascade r[b, h](Q[t, d], K[t, d], V[t, f], g[t, d], a[t], beta[t], S0[d, f]) -> O[t, f]"
START = "    S[0, d, f] = S0[d, f]\n"
AFTER = "    O[t, f] = Q[t, d] * S[t+1, d, f]\n"
BEFORE = "    O[t, f] = Q[t, d] * S[t, d, f]\n"
RECURRENCES = {
    "nothing forgotten": START + "    S[t+1, d, f] = S[t, d, f] + K[t, d] * V[t, f]\n" + AFTER,
    "gate of each step": START
    + "    S[t+1, d, f] = a[t] * S[t, d, f] + K[t, d] * V[t, f]\n"
    + AFTER,
    "gate along what reads sum over": START
    + "    S[t+1, d, f] = exp(g[t, d]) * S[t, d, f] + K[t, d] * V[t, f]\n"
    + AFTER,
    "gate along what they do not": START
    + "    S[t+1, d, f] = exp(-abs(V[t, f])) * S[t, d, f] + K[t, d] * V[t, f]\n"
    + AFTER,
    "gate along both": START
    + "    S[t+1, d, f] = sigmoid(g[t, d] - V[t, f]) * S[t, d, f] + K[t, d] * V[t, f]\n"
    + AFTER,
    "gate that may be 0 and change sign": START
    + "    S[t+1, d, f] = (a[t] - 0.5) * S[t, d, f] + K[t, d] * V[t, f]\n"
    + AFTER,
    "gate in a tensor of its own": START
    + "    w[t, d] = exp(-softplus(g[t, d]))\n"
    + "    S[t+1, d, f] = w[t, d] * S[t, d, f] + K[t, d] * V[t, f]\n"
    + AFTER,
    "the same gate in each step": START
    + "    S[t+1, d, f] = 0.9 * S[t, d, f] + K[t, d] * V[t, f]\n"
    + AFTER,
    "read before the step": START
    + "    S[t+1, d, f] = exp(g[t, d]) * S[t, d, f] + K[t, d] * V[t, f]\n"
    + BEFORE,
    "read before a gated step": START
    + "    S[t+1, d, f] = a[t] * S[t, d, f] + K[t, d] * V[t, f]\n"
    + BEFORE,
    "read with something added": START
    + "    S[t+1, d, f] = exp(g[t, d]) * S[t, d, f] + K[t, d] * V[t, f]\n"
    + "    O[t, f] = sum[d](Q[t, d] * (S[t, d, f] + beta[t] * K[t, d] * V[t, f])) - V[t, f]\n",
    "delta rule": START
    + "    R[t, f] = K[t, d] * S[t, d, f]\n"
    + "    S[t+1, d, f] = S[t, d, f] + beta[t] * K[t, d] * (V[t, f] - R[t, f])\n"
    + AFTER,
    "gated delta rule": START
    + "    W[t, d, f] = a[t] * S[t, d, f]\n"
    + "    R[t, f] = K[t, d] * W[t, d, f]\n"
    + "    S[t+1, d, f] = W[t, d, f] + beta[t] * K[t, d] * (V[t, f] - R[t, f])\n"
    + AFTER,
    "delta rule with a gate along d": START
    + "    W[t, d, f] = exp(g[t, d]) * S[t, d, f]\n"
    + "    R[t, f] = K[t, d] * W[t, d, f]\n"
    + "    S[t+1, d, f] = W[t, d, f] + beta[t] * K[t, d] * (V[t, f] - R[t, f])\n"
    + AFTER,
    "low rank with other vectors": START
    + "    R[t, f] = Q[t, d] * S[t, d, f]\n"
    + "    S[t+1, d, f] = exp(g[t, d]) * S[t, d, f] - K[t, d] * beta[t] * R[t, f]"
    + " + K[t, d] * V[t, f]\n"
    + AFTER,
    "a step that keeps the state": START
    + "    S[t+1, d, f] = select(a[t] > 0.4, exp(g[t, d]) * S[t, d, f] + K[t, d] * V[t, f], "
    + "S[t, d, f])\n"
    + AFTER,
    "one of two gates": START
    + "    S[t+1, d, f] = select(t % 3 == 0, a[t] * S[t, d, f], K[t, d] * V[t, f] "
    + "- beta[t] * S[t, d, f])\n"
    + AFTER,
    "no sum at all": "    S[0, f] = 0\n"
    + "    S[t+1, f] = exp(-abs(V[t, f])) * S[t, f] + a[t] * V[t, f]\n"
    + "    O[t, f] = S[t+1, f] * beta[t]\n",
}


@pytest.mark.parametrize("size", [1, 2, 8, 13, 64])
@pytest.mark.parametrize("name", RECURRENCES)
def test_a_chunk_does_what_its_steps_do(name: str, size: int) -> None:
    one = cascade(f"{HEAD}:\n{RECURRENCES[name]}")
    inputs = drawn(one)
    expected = attnc.compile(one, backend="interpreter")(**inputs)
    same(attnc.compile(in_chunks(one, "t", size), backend="interpreter")(**inputs), expected, 1e-12)


@pytest.mark.parametrize("length", [1, 63, 64, 130])
@pytest.mark.parametrize("name", RECURRENCES)
def test_the_tile_executor_runs_chunks(name: str, length: int) -> None:
    one = cascade(f"{HEAD}:\n{RECURRENCES[name]}")
    inputs = {k: v.astype(np.float32) for k, v in drawn(one, t=length).items()}
    expected = attnc.compile(one, backend="interpreter")(
        **{k: v.astype(np.float64) for k, v in inputs.items()}
    )
    same(attnc.compile(one, backend="numpy")(**inputs), expected, 1e-5)


@pytest.mark.parametrize("length", [1, 130])
@pytest.mark.parametrize("name", RECURRENCES)
def test_chunks_stand_side_by_side(name: str, length: int) -> None:
    end = "f" if name == "no sum at all" else "d, f"
    text = f"{HEAD}, F[{end}]:\n{RECURRENCES[name]}    F[{end}] = S[|t|, {end}]\n"
    one = cascade(f"{text}\nschedule r:\n    parallel t\n")
    inputs = {k: v.astype(np.float32) for k, v in drawn(one, t=length).items()}
    expected = attnc.compile(one, backend="interpreter")(
        **{k: v.astype(np.float64) for k, v in inputs.items()}
    )
    same(attnc.compile(one, backend="numpy")(**inputs), expected, 1e-5)
    cut = [[grid.rank for grid in kernel.grid] for kernel in lower(one, "numpy").kernels]
    assert len(cut) == 3 and cut[0] == cut[2] == ["b", "h", "t1"] and cut[1] == ["b", "h"]


@pytest.mark.parametrize("name", RECURRENCES)
def test_instances_divide_the_columns_of_a_state(name: str) -> None:
    end = "f" if name == "no sum at all" else "d, f"
    text = f"{HEAD}, F[{end}]:\n{RECURRENCES[name]}    F[{end}] = S[|t|, {end}]\n"
    one = cascade(f"{text}\nschedule r:\n    tile f by 2\n")
    inputs = drawn(one, t=70)
    expected = attnc.compile(one, backend="interpreter")(**inputs)
    same(attnc.compile(one, backend="numpy")(**inputs), expected, 1e-12)
    for target in ("numpy", "triton"):
        program = lower(one, target)
        verify_program(program)
        *first, sweep = program.kernels
        assert [own.rank for own in sweep.grid] == ["b", "h", "f"]
        assert all([own.rank for own in kernel.grid] == ["b", "h", "t1"] for kernel in first)
        assert target == "triton" or not first


GATED = RECURRENCES["gate along what reads sum over"]
MIXED = RECURRENCES["delta rule with a gate along d"]
NORMED = (
    GATED.replace("    O[t, f] =", "    X[t, f] =") + "    O[t, f] = X[t, f] / max[f](X[t, f])\n"
)


@pytest.mark.parametrize(
    ("text", "width", "tile"),
    [
        (GATED, 64, None),  # It fits.
        (GATED, 96, 64),
        (GATED, 128, 64),
        (GATED, 256, 64),
        (MIXED, 128, 64),
        (NORMED, 128, 64),
    ],
)
def test_states_that_fill_the_registers_are_divided(
    text: str, width: int, tile: int | None
) -> None:
    sizes = {"d": 128, "f": width} if width > 64 else {"d": 64, "f": 64}
    kernels = lower(cascade(f"{HEAD}:\n{text}"), "triton", "f16", sizes).kernels
    grids = [{own.rank: own.tile for own in kernel.grid} for kernel in kernels]
    assert [grid.get("f") for grid in grids if "t1" not in grid] == [tile]
    (kernel,) = lower(cascade(f"{HEAD}:\n{text}"), "numpy", sizes=sizes).kernels
    assert "f" not in [own.rank for own in kernel.grid]


def test_states_are_not_divided_where_too_much_would_be_computed_again() -> None:
    """In one chunk alone the weights are part of the sweep: four instances would make them each."""
    sizes = {"d": 128, "f": 256, "t": 16}
    (kernel,) = lower(cascade(f"{HEAD}:\n{GATED}"), "triton", "f16", sizes).kernels
    assert {own.rank: own.tile for own in kernel.grid}.get("f") == 128


AHEAD = {
    "gate along what reads sum over": {"O_weights"},
    "gate in a tensor of its own": {"O_weights"},
    "read before the step": {"O_weights"},
    "read with something added": {"O_sum_weights"},
    "delta rule": {"R_weights", "S_inverse4"},
    "gated delta rule": {"R_weights", "S_inverse4"},
    "delta rule with a gate along d": {"R_weights", "S_inverse4", "O_weights"},
    "low rank with other vectors": {"R_weights", "S_inverse4", "O_weights"},
    "unit keys": {"N_sum_tile", "O_weights"},
    "keys that a state scales": {"A_kept", "R_weights", "S_inverse4", "O_weights"},
}
UNIT = "    N[t, d] = K[t, d] / sqrt(sum[d'](K[t, d'] ** 2))\n"
MOMENT = (
    "    A[0, d] = 0\n"
    "    A[t+1, d] = a[t] * A[t, d] + K[t, d] ** 2\n"
    "    N[t, d] = K[t, d] / sqrt(1 + A[t+1, d])\n"
)
OF_KEYS = {
    "unit keys": UNIT + GATED.replace("K[t, d]", "N[t, d]"),
    "keys that a state scales": MOMENT + MIXED.replace("K[t, d] * (", "N[t, d] * ("),
}


@pytest.mark.parametrize("name", {**RECURRENCES, **OF_KEYS})
def test_what_needs_no_state_is_made_ahead(name: str) -> None:
    """It means the same, is what takes several sums, and has a kernel of its own on a GPU alone."""
    one = cascade(f"{HEAD}:\n{ {**RECURRENCES, **OF_KEYS}[name] }")
    inputs = drawn(one)
    expected = attnc.compile(one, backend="interpreter")(**inputs)
    made = ahead(in_chunks(one, "t", 16), "t1", ())
    assert {*made.before, *made.stored} == AHEAD.get(name, set())
    again = cascade(str(made.cascade))
    same(attnc.compile(again, backend="interpreter")(**inputs), expected, 1e-12)
    *first, sweep = lower(one, "triton").kernels
    assert bool(first) == bool(made.stored) and "t1" not in [own.rank for own in sweep.grid]
    assert len(lower(one, "numpy").kernels) == 1


@pytest.mark.parametrize(
    ("text", "rank", "stored"),
    [
        (NORMED, "f", ("X_tile",)),
        (NORMED.replace("X[t, f] /", "V[t, f] * Q[t, f] * X[t, f] /"), "f", ("X_tile",)),
        (NORMED, "d", ()),  # The state itself is summed.
        (GATED, "f", ()),
    ],
)
def test_what_sums_over_columns_comes_behind_the_sweep(
    text: str, rank: str, stored: tuple[str, ...]
) -> None:
    head = HEAD.replace("Q[t, d]", "Q[t, d], U[t, f]")
    made = in_chunks(cascade(f"{head}:\n{text.replace('Q[t, f]', 'U[t, f]')}"), "t", 16)
    assert behind(made, "t1", rank) == stored


def test_a_sum_that_a_step_needs_stays_in_the_sweep() -> None:
    """Updates that are divided by a sum over the columns of another state's reads."""
    text = (
        "    A[0, f] = 0\n"
        "    A[t+1, f] = a[t] * A[t, f] + V[t, f] ** 2\n"
        "    N[t] = sqrt(1 + sum[f](A[t+1, f]))\n"
    ) + GATED.replace("V[t, f]", "V[t, f] / N[t]")
    one = in_chunks(cascade(f"{HEAD}:\n{text}"), "t", 16)
    assert behind(one, "t1", "f") == ()


def test_a_recurrence_without_room_takes_shorter_chunks() -> None:
    """Two wide states: nothing can leave the sweep, and 32 columns of each are too many."""
    text = START + (
        "    S[t+1, d, f] = S[t, d, f] + K[t, d] * V[t, f]\n"
        "    P[0, d, f] = 0\n"
        "    P[t+1, d, f] = P[t, d, f] + Q[t, d] * V[t, f]\n"
        "    X[t, f] = Q[t, d] * S[t+1, d, f]\n"
        "    O[t, f] = X[t, f] + sum[d](K[t, d] * P[t+1, d, f]) * V[t, f]\n"
    )
    for width, size in ((64, 64), (256, 16)):
        sizes = {"d": width, "f": width}
        *_, kernel = lower(cascade(f"{HEAD}:\n{text}"), "triton", "f16", sizes).kernels
        assert {axis.size for axis in kernel.axes if axis.rank == "t0"} == {size}


def test_what_would_be_summed_again_for_every_tile_stays_in_the_sweep() -> None:
    """Keys that are sums over e, under d: streamed along d, each tile would hold all of e."""
    head = HEAD.replace("S0[d, f]", "S0[d, f], E[t, e], P[e, d]")
    text = "    N[t, d] = E[t, e] * P[e, d]\n" + GATED.replace("K[t, d]", "N[t, d]")
    made = ahead(in_chunks(cascade(f"{head}:\n{text}"), "t", 16), "t1", ())
    assert not made.stored and made.cascade == in_chunks(cascade(f"{head}:\n{text}"), "t", 16)


def test_a_kernel_has_as_many_warps_as_its_tiles_keep_busy() -> None:
    """Weights of 16 x 16 keep one warp busy; a schedule that says how many is followed."""
    text = f"{HEAD}:\n{GATED}"
    program = lower(cascade(text), "triton")
    assert [kernel.warps for kernel in program.kernels] == [1, None]
    assert read_program(print_program(program)) == program
    program = lower(cascade(f"{text}\nschedule r:\n    warps 2\n"), "triton")
    assert program.warps == 2 and [kernel.warps for kernel in program.kernels] == [None, None]


@pytest.mark.parametrize(("size", "bodies"), [(16, 1), (64, 2)])
def test_a_loop_has_one_body_where_tests_are_little_beside_products(size: int, bodies: int) -> None:
    text = f"{HEAD}:\n{GATED}\nschedule r:\n    tile t by {size}\n"
    for target, expected in (("triton", bodies), ("numpy", 2)):
        (loop,) = (s for s in lower(cascade(text), target).kernels[-1].body if isinstance(s, Loop))
        assert len(loop.segments) == expected


def test_chunks_stand_side_by_side_where_the_grid_is_small() -> None:
    one = cascade(f"{HEAD}:\n{RECURRENCES['delta rule']}")
    long = {"b": 1, "h": 4, "t": 65536, "d": 64, "f": 64}
    for target, sizes, kernels in (
        ("triton", long, 4),
        ("triton", long | {"b": 64}, 2),
        ("triton", long | {"t": 64}, 2),
        ("triton", long | {"t": 16}, 1),
        ("triton", {}, 2),
        ("numpy", long, 1),
    ):
        assert len(lower(one, target, sizes=sizes).kernels) == kernels


BOTH_SIDES = (
    "cascade r(Q[p, e], K[m, e], V[m, f]) -> O[p, f]:\n"
    "    rank i = 3\n"
    "    A[0, p, m]   = exp(Q[p, e] * K[m, e] / 4)\n"
    "    B[i, p, m]   = A[i, p, m] / sum[m](A[i, p, m])\n"
    "    A[i+1, p, m] = B[i, p, m] / sum[p](B[i, p, m])\n"
    "    O[p, f]      = A[|i|, p, m] * V[m, f]\n"
)


def test_a_step_that_sums_over_both_sides_has_them_whole() -> None:
    """Sinkhorn's normalisation (Sander et al., AISTATS 2022): no side can be cut, so none is."""
    one = cascade(BOTH_SIDES)
    inputs = drawn(one)
    expected = attnc.compile(one, backend="interpreter")(**inputs)
    same(attnc.compile(one, backend="numpy")(**inputs), expected, 1e-12)
    program = lower(one, "triton")
    assert [(kernel.grid, len(kernel.axes)) for kernel in program.kernels] == [((), 4)]
    assert any(line.startswith("whole tile: m is not cut") for line in program.history)


def test_the_end_of_a_state_is_that_of_its_last_chunk() -> None:
    one = cascade(
        "cascade r[b](K[t, d], V[t, f], a[t]) -> O[t, f], F[d, f]:\n"
        "    S[0, d, f] = 1\n"
        "    S[t+1, d, f] = a[t] * S[t, d, f] + K[t, d] * V[t, f]\n"
        "    O[t, f] = K[t, d] * S[t+1, d, f]\n"
        "    F[d, f] = S[|t|, d, f]\n"
    )
    inputs = drawn(one)
    expected = attnc.compile(one, backend="interpreter")(**inputs)
    same(attnc.compile(in_chunks(one, "t", 16), backend="interpreter")(**inputs), expected, 1e-12)
    same(attnc.compile(one, backend="numpy")(**inputs), expected, 1e-12)


@pytest.mark.parametrize("name", ["gate along what reads sum over", "gated delta rule"])
def test_thousands_of_steps_with_gates_down_to_e_to_the_minus_50(name: str) -> None:
    one = cascade(f"{HEAD}:\n{RECURRENCES[name]}")
    inputs = drawn(one, t=4096, b=1, h=1)
    inputs["g"] = np.where(inputs["g"] < -1, -50, inputs["g"] / 1e3)
    short = {k: v.astype(np.float32) for k, v in inputs.items()}
    expected = attnc.compile(one, backend="interpreter")(
        **{k: v.astype(np.float64) for k, v in short.items()}
    )
    same(attnc.compile(one, backend="numpy")(**short), expected, 1e-5)


GATES = ("1", "a[t]", "exp(g[t, d])", "sigmoid(g[t, d]) * a[t]", "0.5", "exp(-abs(V[t, f]))")
READS = ("Q[t, d] * S[t+1, d, f]", "Q[t, d] * S[t, d, f]", "Q[t, d] * S[t+1, d, f] * V[t, f] / 2")
UPDATES = ("K[t, d] * V[t, f]", "-K[t, d] * V[t, f] * beta[t] + Q[t, d] * V[t, f]", "K[t, d]")


@settings(max_examples=40, deadline=None)
@given(
    gate=st.sampled_from(GATES),
    read=st.sampled_from(READS),
    update=st.sampled_from(UPDATES),
    fed=st.booleans(),
    size=st.integers(1, 40),
    length=st.integers(1, 45),
    seed=st.integers(0, 99),
)
def test_any_linear_step_can_be_taken_in_chunks(
    gate: str, read: str, update: str, fed: bool, size: int, length: int, seed: int
) -> None:
    fed = fed and "f]" not in gate
    back = " - beta[t] * K[t, d] * R[t, f]" if fed else ""
    lines = ["    R[t, f] = K[t, d] * S[t, d, f]"] if fed else []
    lines += [f"    S[t+1, d, f] = {gate} * S[t, d, f] + {update}{back}", f"    O[t, f] = {read}"]
    one = cascade(f"{HEAD}:\n{START}" + "\n".join(lines) + "\n")
    inputs = drawn(one, seed, t=length, b=1, h=1)
    expected = attnc.compile(one, backend="interpreter")(**inputs)
    same(attnc.compile(in_chunks(one, "t", size), backend="interpreter")(**inputs), expected, 1e-11)


REFUSED = {
    "takes tanh of the state, which is not linear": START
    + "    S[t+1, d, f] = tanh(S[t, d, f]) + K[t, d] * V[t, f]\n"
    + AFTER,
    "multiplies the state by itself": START
    + "    S[t+1, d, f] = S[t, d, f] * S[t, d, f] + K[t, d] * V[t, f]\n"
    + AFTER,
    "takes max of S, which is not linear": START
    + "    S[t+1, d, f] = S[t, d, f] + K[t, d] * V[t, f]\n"
    + "    O[t, f] = max[d](Q[t, d] * S[t+1, d, f])\n",
    "scales what it reads back along f": START
    + "    R[t, f] = K[t, d] * S[t, d, f]\n"
    + "    S[t+1, d, f] = S[t, d, f] - K[t, d] * V[t, f] * R[t, f]\n"
    + AFTER,
    "forgets along f what it reads back": START
    + "    R[t, f] = K[t, d] * S[t, d, f]\n"
    + "    S[t+1, d, f] = exp(-abs(V[t, f])) * S[t, d, f] - K[t, d] * R[t, f]\n"
    + AFTER,
    "has steps that may not exist": START
    + "    S[t+1, d, f] = select(t > 0 and a[t] > a[t-1], S[t, d, f], 0) + K[t, d] * V[t, f]\n"
    + AFTER,
    "adds what is no product of factors along d, f": START
    + "    S[t+1, d, f] = S[t, d, f] + exp(K[t, d] * V[t, f])\n"
    + AFTER,
    "steps together with S, which it needs and which needs it": "    S[0, d, f] = 0\n"
    + "    Z[0, d, f] = 0\n"
    + "    Z[t+1, d, f] = a[t] * Z[t, d, f] + S[t, d, f]\n"
    + "    S[t+1, d, f] = S[t, d, f] + Z[t, d, f] + K[t, d] * V[t, f]\n"
    + AFTER,
}


@pytest.mark.parametrize("reason", REFUSED)
def test_a_step_that_is_not_linear_stays_a_step(reason: str) -> None:
    one = cascade(f"{HEAD}:\n{REFUSED[reason]}")
    with pytest.raises(NoRecurrence) as refused:
        chunk(normalise(one), "t", (8,) * 4, ())
    assert refused.value.reason == reason
    if "exist" in reason:
        with pytest.raises(attnc.CompileError, match="a step of S may be empty"):
            attnc.compile(one, backend="numpy")
        return
    inputs = drawn(one, t=5)
    inputs["Q"], inputs["V"] = inputs["Q"] / 9, inputs["V"] / 9
    expected = attnc.compile(one, backend="interpreter")(**inputs)
    same(attnc.compile(one, backend="numpy")(**inputs), expected, 1e-12)


QK = "    S[p, m] = Q[p, e] * K[m, e]"
SUM = "    O[p, f] = S[p, m] * V[m, f]\n"
TWO = "cascade q[b, h](Q[p, e], K[m, e], V[m, f], a[h;], g[p])"
REGROUPED = {
    "sums over all keys": f"{TWO} -> O[p, f]:\n{QK}\n{SUM}",
    "up to the query": f"{TWO} -> O[p, f]:\n{QK} where m <= p\n{SUM}",
    "before the query": f"{TWO} -> O[p, f]:\n{QK} where m < p\n{SUM}",
    "the same tensor on both sides": "cascade q[b, h](Q[p, e], K[m, e], a[h;]) -> O[p, e]:\n"
    f"{QK} where m <= p\n    O[p, e] = S[p, m] * K[m, e]\n",
    "powers of the distance": f"{TWO} -> O[p, f]:\n{QK} * a[h] ** (p - m) where m <= p\n{SUM}",
    "exponentials of the distance": f"{TWO} -> O[p, f]:\n{QK} * exp(-a[h] * (p - m)) where m <= p\n"
    + SUM,
    "gates on the way": f"{TWO} -> O[p, f]:\n    G[p] = sum[j where j <= p](-abs(g[j]))\n"
    + f"{QK} * exp(G[p] - G[m]) where m <= p\n{SUM}",
    "gates as a product": f"{TWO} -> O[p, f]:\n"
    + "    G[p, m] = prod[j where m < j and j <= p](sigmoid(g[j]))\n"
    + f"{QK} * G[p, m] where m <= p\n{SUM}",
    "features of weights": "cascade q[b, h](Q[p, e], K[m, e], V[m, f], w[h; r, e]) -> O[p, f]:\n"
    + "    X[p, r] = exp(Q[p, e] * w[r, e])\n    Y[m, r] = exp(K[m, e] * w[r, e])\n"
    + f"    S[p, m] = X[p, r] * Y[m, r]\n{SUM}",
    "features of weights, up to the query": "cascade q[b, h](Q[p, e], K[m, e], V[m, f], w[; r, e])"
    + " -> O[p, f]:\n    X[p, r] = exp(Q[p, e] * w[r, e])\n    Y[m, r] = exp(K[m, e] * w[r, e])\n"
    + f"    S[p, m] = X[p, r] * Y[m, r] where m <= p\n{SUM}",
    "divided by something of each side": f"{TWO} -> O[p, f]:\n"
    + "    X[p] = sum[e](exp(Q[p, e]))\n    Y[m] = sum[e](exp(K[m, e]))\n"
    + "    S[p, m] = sum[e](exp(Q[p, e] + 1) * K[m, e] + Q[p, e] * exp(K[m, e])) / (X[p] * Y[m]) "
    + f"where m <= p\n{SUM}",
    "with a linear normaliser": f"{TWO} -> O[p, f]:\n"
    + "    S[p, m] = (elu(Q[p, e]) + 1) * (elu(K[m, e]) + 1) where m <= p\n"
    + "    D[p] = sum[m](S[p, m])\n    A[p, m] = S[p, m] / D[p]\n    O[p, f] = A[p, m] * V[m, f]\n",
}
STAYING = {
    "exp stands between": f"{TWO} -> O[p, f]:\n    S[p, m] = exp(Q[p, e] * K[m, e])\n{SUM}",
    "the scores are an output": f"{TWO} -> O[p, f], S[p, m]:\n{QK}\n{SUM}",
    "aligned at the end": f"{TWO} -> O[p, f]:\n{QK} where m <= p + |m| - |p|\n{SUM}",
    "a window": f"{TWO} -> O[p, f]:\n{QK} where m <= p and p - m < 8\n{SUM}",
    "an angle that is no sum": f"{TWO} -> O[p, f]:\n{QK} * cos(p * m) where m <= p\n{SUM}",
    "a choice of zero by both sides": f"{TWO} -> O[p, f]:\n    D[p] = sum[e](Q[p, e])\n"
    + "    E[m] = sum[e](K[m, e])\n    S[p, m] = select(D[p] == E[m], 0, Q[p, e] * K[m, e])\n"
    + SUM,
    "a decay that is no product of gates": f"{TWO} -> O[p, f]:\n"
    + f"{QK} * exp(-(p - m) * (p - m)) where m <= p\n{SUM}",
}


@pytest.mark.parametrize("name", REGROUPED)
def test_a_sum_is_regrouped(name: str) -> None:
    one = cascade(REGROUPED[name])
    best = attnc.optimize(one)
    assert {step.law for step in best.derivation} >= {"reassociation"}
    for seed, (p, m) in enumerate(((37, 37), (70, 53), (1, 1), (40, 64))):
        if "exp(G" in REGROUPED[name]:
            m = min(p, m)
        inputs = drawn(one, seed, p=p, m=m)
        expected = attnc.compile(one, backend="interpreter")(**inputs)
        same(attnc.compile(best, backend="interpreter")(**inputs), expected, 1e-11)
        same(attnc.compile(one, backend="numpy")(**inputs), expected, 1e-11)


@pytest.mark.parametrize("name", STAYING)
def test_a_sum_stays(name: str) -> None:
    one = cascade(STAYING[name])
    assert "reassociation" not in {step.law for step in attnc.optimize(one).derivation}


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("exp stands between", "O has a factor of p and m that is no product of one of each"),
        ("the scores are an output", "O is made of S, which something else needs as it is"),
        ("aligned at the end", "O is summed over points that are not those up to a position"),
        ("a window", "O is summed over points that are not those up to a position"),
        (
            "an angle that is no sum",
            "O has a factor of p and m that is no product of one of each, nor a gate",
        ),
        (
            "a choice of zero by both sides",
            "O has a factor of p and m that is no product of one of each",
        ),
    ],
)
def test_a_sum_that_stays_says_why(name: str, reason: str) -> None:
    told = attnc.explain(cascade(STAYING[name]))
    assert f"Not regrouped: {reason}" in told


def test_weights_that_are_a_map_of_scores_are_no_news() -> None:
    one = cascade(
        "cascade q[b, h](Q[p, e], K[m, e], V[m, f]) -> O[p, f]:\n"
        f"{QK} where m <= p\n    A[p, m] = softmax[m](S[p, m])\n"
        "    O[p, f] = A[p, m] * V[m, f]\n"
    )
    assert "Not regrouped" not in attnc.explain(one)


def test_a_second_reader_keeps_one_sum_and_not_the_other() -> None:
    one = cascade(
        "cascade q[b, h](Q[p, e], K[m, e], V[m, f]) -> O[p, f], N[p, f], S[p, m]:\n"
        "    S[p, m] = Q[p, e] * K[m, e]\n    T[p, m] = Q[p, e] * K[m, e] where m <= p\n"
        "    O[p, f] = S[p, m] * V[m, f]\n    N[p, f] = T[p, m] * V[m, f]\n"
    )
    best = attnc.optimize(one)
    assert [step.einsums for step in best.derivation] == [("N",)]
    inputs = drawn(one)
    same(
        attnc.compile(one, backend="numpy")(**inputs),
        attnc.compile(one, backend="interpreter")(**inputs),
        1e-11,
    )


@pytest.mark.parametrize(
    "body",
    [
        "sum[e](X[p, e] * K[m, e] - Q[p, e] * Y[m, e])",
        "sum[e]((exp(Q[p, e]) * Y[m, e] + X[p, e] * K[m, e]) * a[h])",
        "sum[e](Q[p, e] * K[m, e] * cos(g[e] * (p - m) + 1))",
        "sum[e](Q[p, e] * K[m, e] * -sin(Q[p, e] - K[m, e]))",
    ],
)
@pytest.mark.parametrize("backend", ["numpy", "triton"])
def test_a_sum_of_several_products_is_as_many_matrix_products(body: str, backend: str) -> None:
    one = cascade(
        "cascade q[b, h](Q[p, e], K[m, e], V[m, f], a[h;], g[; e]) -> O[p, f]:\n"
        "    X[p, e] = sigmoid(Q[p, e])\n    Y[m, e] = sigmoid(K[m, e])\n"
        f"    S[p, m] = {body}\n    A[p, m] = softmax[m](S[p, m])\n"
        "    O[p, f] = A[p, m] * V[m, f]\n"
    )
    program = lower(one, backend, "f64")
    (kernel,) = program.kernels
    full = [own for loop in kernel.body if isinstance(loop, Loop) for own in loop.segments[0].body]
    assert sum(isinstance(own, Contract) for own in full) == 3
    assert all(len(ranks) < 4 for own in full for _, ranks in tiles_made(own))
    inputs = drawn(one)
    expected = attnc.compile(one, backend="interpreter")(**inputs)
    same(attnc.compile(one, backend="numpy")(**inputs), expected, 1e-11)


@pytest.mark.parametrize(
    "body", ["sum[e]((Q[p, e] - K[m, e]) * Q[p, e])", "sum[e](1 + Q[p, e] * K[m, e])"]
)
def test_a_difference_is_not_multiplied_out(body: str) -> None:
    one = cascade(
        f"cascade q[b, h](Q[p, e], K[m, e]) -> S[p, m]:\n    S[p, m] = {body}\n",
    )
    program = lower(one, "triton", "f64")
    assert not any(isinstance(own, Contract) for k in program.kernels for own in every(k.body))
    inputs = drawn(one)
    expected = attnc.compile(one, backend="interpreter")(**inputs)
    same(attnc.compile(one, backend="numpy")(**inputs), expected, 1e-11)


def test_a_sweep_finds_its_projections_in_memory() -> None:
    one = cascade(
        "cascade q[b, h](Q[t, e], K[t, e], V[t, f], w[h; e, d]) -> O[t, f]:\n"
        "    X[t, d] = Q[t, e] * w[e, d]\n    Y[t, d] = K[t, e] * w[e, d]\n"
        "    S[0, d, f] = 0\n    S[t+1, d, f] = S[t, d, f] + exp(Y[t, d]) * V[t, f]\n"
        "    O[t, f] = exp(X[t, d]) * S[t+1, d, f]\n"
    )
    program = lower(one, "numpy", "f64")
    (sweep,) = [own for k in program.kernels for own in k.body if isinstance(own, Loop)
                and any(state.name == "S" for state in own.carried)]  # fmt: skip
    assert not any(isinstance(own, Loop) for part in sweep.segments for own in part.body)
    inputs = drawn(one)
    expected = attnc.compile(one, backend="interpreter")(**inputs)
    same(attnc.compile(one, backend="numpy")(**inputs), expected, 1e-11)


@pytest.mark.parametrize("length", [1, 64, 150])
def test_batch_entries_of_different_length(length: int) -> None:
    """An entry's state ends with its last token, and what lies behind it is neither read nor 0."""
    one = cascade(
        "cascade r[b, h](Q[t, d], K[t, d], V[t, f], g[t, d], n[b;]: int) -> O[t, f], F[d, f]:\n"
        "    S[0, d, f] = 0\n"
        "    S[t+1, d, f] = select(t < n[b], exp(g[t, d]) * S[t, d, f] + K[t, d] * V[t, f], "
        "S[t, d, f])\n"
        "    O[t, f] = Q[t, d] * S[t+1, d, f] where t < n[b]\n"
        "    F[d, f] = S[|t|, d, f]\n"
    )
    inputs = drawn(one, t=length, b=3, n=3) | {"n": np.array([0, length // 3, length])}
    kernel = attnc.compile(one, backend="numpy")
    whole = kernel(**inputs)
    assert "chunk" in kernel.source or "scan" in kernel.source
    same(whole, attnc.compile(one, backend="interpreter")(**inputs), 1e-11)
    for entry, tokens in enumerate(inputs["n"]):
        own = {k: v[entry : entry + 1] for k, v in inputs.items() if k != "n"}
        own = {k: v[:, :, :tokens] for k, v in own.items()} | {"n": np.array([tokens])}
        alone = kernel(**own)
        same(alone.O, whole.O[entry : entry + 1, :, :tokens], 1e-11) if tokens else None
        same(alone.F, whole.F[entry : entry + 1], 1e-11)
        assert not whole.O[entry, :, tokens:].any()


def test_a_short_sequence_stays_quadratic() -> None:
    one = cascade(REGROUPED["sums over all keys"])
    sizes = {"p": 32, "m": 32, "e": 128, "f": 128}
    assert "state" not in attnc.compile(one, backend="numpy", sizes=sizes).source
    sizes = {"p": 4096, "m": 4096, "e": 128, "f": 128}
    assert "state" in attnc.compile(one, backend="numpy", sizes=sizes).source


@pytest.mark.parametrize("name", ["sums over all keys", "up to the query"])
def test_extents_of_a_call_decide_where_none_are_known(name: str) -> None:
    one = cascade(REGROUPED[name])
    kernel = attnc.compile(one, backend="numpy")
    for p, m, by_state in ((16, 16, False), (300, 300, True), (2, 300, False), (16, 20, False)):
        inputs = drawn(one, p=p, m=m, e=32, f=32, b=1, h=1)
        same(kernel(**inputs), attnc.compile(one, backend="interpreter")(**inputs), 1e-11)
        assert kernel.crossover is not None
        assert ("state" in kernel.crossover.last.source) == by_state
    assert len(kernel.crossover.runners) == 2
    fixed = attnc.compile(one, backend="numpy", sizes={"p": 300, "m": 300, "e": 32, "f": 32})
    assert fixed.crossover is None


OVER_TURNS = {
    "mean_of_the_outputs": "P[f] = sum[t](O[t, f]) / |t|",
    "sum_of_the_states": "P[f] = sum[t, d where d <= t](S[t, d, f] * Q[t, d])",
    "largest_state": "P[f] = max[t, d where t > 0](S[t, d, f])",
    "normalised_over_all_steps": "P[t, f] = softmax[t](O[t, f])",
    "prefix_of_the_outputs": "P[t, f] = cumsum[t](O[t, f])",
}


@pytest.mark.parametrize("name", OVER_TURNS)
def test_a_reduction_over_the_turns_of_a_recurrence(name: str) -> None:
    left = OVER_TURNS[name].partition(" = ")[0]
    text = f"{HEAD}, {left}:\n{START}"
    text += "    S[t+1, d, f] = a[t] * S[t, d, f] + K[t, d] * V[t, f]\n"
    one = cascade(f"{text}{AFTER}    {OVER_TURNS[name]}\n")
    inputs = drawn(one)
    found, exact = (
        attnc.compile(one, backend=backend)(**inputs) for backend in ("numpy", "interpreter")
    )
    same(found, exact, 1e-5)


def test_a_function_along_the_steps_takes_what_every_step_leaves() -> None:
    text = "cascade c(X[t]) -> Y[t]:\n    T[0]   = 0\n    T[t+1] = T[t] + X[t]\n"
    one = cascade(f"{text}    Y[t]   = cumsum[t](T[t])\n")
    values = np.arange(1.0, 8.0)
    before = np.concatenate([[0.0], np.cumsum(values)[:-1]])
    assert np.allclose(attnc.compile(one, backend="numpy")(values), np.cumsum(before))


CLAMPED = (
    "cascade c(X[t, d], doc[t]: int) -> Y[t, d]:\n"
    "    S[0, d]   = 0\n"
    "    S[t+1, d] = select(doc[t] == doc[{}], S[t, d], 0) + X[t, d]\n"
    "    Y[t, d]   = S[t+1, d]\n"
)


def test_a_state_that_begins_anew_with_each_document() -> None:
    """A subscript that is held within its rank always reads something; any other one may not."""
    rng = np.random.default_rng(0)
    X, doc = rng.standard_normal((70, 3)), np.sort(rng.integers(0, 5, 70)).astype(np.int32)
    wanted = np.stack([X[doc == doc[t]][: t + 1 - np.argmax(doc == doc[t])].sum(0)
                       for t in range(70)])  # fmt: skip
    for previous in ("max(t - 1, 0)", "max(0, t - 1)", "min(max(t - 1, 0), |t| - 1)"):
        same(attnc.compile(cascade(CLAMPED.format(previous)))(X, doc), wanted, 1e-12)
    for previous in ("t - 1", "max(t + 1, 0)", "min(t - 1, |t| - 1)", "max(t - 1, 1)"):
        with pytest.raises(attnc.CompileError, match="may be empty"):
            attnc.compile(cascade(CLAMPED.format(previous)))


@pytest.mark.parametrize("extent", [0, 3, 9])
def test_a_subscript_is_held_only_where_its_rank_has_a_position(extent: int) -> None:
    one = cascade(
        "cascade c(X[t], Z[k]) -> A[k], B[k], C[t]:\n"
        "    A[k] = present(X[min(k, 0)])\n"
        "    B[k] = present(X[max(k - 1, 0)])\n"
        "    C[t] = present(X[|t| - 5])\n"
    )
    found = attnc.compile(one)(np.ones(extent), np.ones(6))
    assert found.A.tolist() == [float(extent > 0)] * 6
    assert found.B.tolist() == [float(max(k - 1, 0) < extent) for k in range(6)]
    assert found.C.tolist() == [float(extent >= 5)] * extent


TURNS = """
cascade c(Q[t, e], W[e, d], K[m, d], V[m, e]) -> O[t, m]:
    param STEPS: int = 3
    rank i = STEPS
    Y[0, t, e]   = Q[t, e]
    N[i, t, m]   = BODY
    Z[i, t, e]   = sum[m](N[i, t, m] * V[m, e])
    Y[i+1, t, e] = Y[i, t, e] + Z[i, t, e]
    O[t, m]      = sum[i](N[i, t, m] * (i + 1))
"""


def test_scores_that_all_turns_add_to_are_made_again_of_the_state() -> None:
    scores = cascade(TURNS.replace("BODY", "Y[i, t, e] * V[m, e]"))
    assert attnc.verify(scores).ok
    program = attnc.compile(scores, backend="numpy").program
    assert program is not None
    assert [buffer.ranks for buffer in program.buffers] == [("i", "t", "e")]


def test_scores_that_hold_a_sum_within_a_sum_are_refused_at_their_place() -> None:
    """A near miss: made again by every reader, they would cost another factor of a width."""
    body = "sum[d](tanh(sum[e](Y[i, t, e] * W[e, d] * K[m, d])))"
    with pytest.raises(attnc.CompileError) as caught:
        attnc.compile(cascade(TURNS.replace("BODY", body)))
    assert caught.value.code == "E302"
