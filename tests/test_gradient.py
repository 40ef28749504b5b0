"""Gradients against finite differences, against PyTorch, and as the programs they come out as.

Triton decides on import whether it interprets, so what needs its interpreter runs in a process of
its own.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

import attnc
from attnc.backends.interpreter import run
from attnc.driver import stages
from attnc.gradients import Gradient
from attnc.ir.cascade import Cascade
from attnc.ir.tile import Contract, Load
from attnc.ir.tile_facts import every
from attnc.sampling import default_sizes, sample
from attnc.verification import relative_error

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"
SLOW = {"paged", "decode"}
WIDE = {"mixformer_mam", "mvpa", "neighborhood_3d", "emov2", "dlgsanet"}
"""Entries of the zoo whose images the interpreter takes long over, or has no memory for."""
DOUBLE = np.dtype(np.float64)
SIGNS = {
    "mesa_net": {"beta": 1, "lam": 4, "g": -1},
    "preconditioned_kda": {"rate": 1, "beta": 0.2, "decay": -1, "g": -1, "K": 0.2},
}
"""What sizes of inputs are multiplied by: a matrix of either sign is solved to no digit at all, and
a sum of either sign has no logarithm."""
SCALES = {
    "lama": {"U": 0.4, "W": 0.4, "P": 0.4},
    "with_mean": {"U": 0.4, "W": 0.4, "P": 0.4},
    "mesa_net": {"K": 0.4},
}
"""What weights are multiplied by, so that more than one key of a row counts: where one does, the
gradient of its score is a difference of equal numbers. Keys of a matrix to solve have length 1."""
BRANCHES = {"lolcats": {"p": 72, "m": 72}, "kgat": {"n": 20}}
"""Extents at which a gate has two branches and an entity several triplets: with one, what is made
of it cancels, and its gradient is 0."""
STEPS = (1e-5, 1e-7)
"""Half the distance of the ends of a finite difference; near a kink only the smaller will do."""

INSIDE = "ATTNC_TEST_GRADIENT_KERNELS"

Arrays = dict[str, npt.NDArray[Any]]


def parsed(text: str) -> Cascade:
    (cascade,) = attnc.parse(text).cascades.values()
    return cascade


def cascades(folder: Path) -> list[Any]:
    found = []
    for path in sorted(folder.glob("*.attn")):
        for name, cascade in attnc.load(path).cascades.items():
            marks = [pytest.mark.slow] if name in SLOW else []
            found.append(pytest.param(cascade, id=f"{path.stem}-{name}", marks=marks))
    return found


def arguments(found: Gradient, cascade: Cascade, arrays: Arrays) -> tuple[Arrays, Arrays]:
    """What the backward cascade takes, saved tensors from the forward one; the cotangents."""
    dice = np.random.default_rng(7)
    outputs = run(found.forward, arrays, DOUBLE)
    # The log-sum-exp of a row without keys is minus infinity, and stays it.
    cotangents = {
        name: dice.standard_normal(outputs[name].shape) * np.isfinite(outputs[name])
        for name in found.cotangents
    }
    given = {found.cotangents[name]: value for name, value in cotangents.items()}
    every = {**arrays, **{name: outputs[name] for name in found.saved}, **given}
    return {t.name: every[t.name] for t in found.backward.inputs}, cotangents


def inputs(cascade: Cascade, sizes: dict[str, int] | None = None) -> Arrays:
    """Values as a cascade is meant for, those of weights the size that a network gives them."""
    arrays = sample(cascade, default_sizes(cascade) | (sizes or {}), dtype="f64", seed=3)
    arrays |= {name: s * abs(arrays[name]) for name, s in SIGNS.get(cascade.name, {}).items()}
    arrays |= {name: s * arrays[name] for name, s in SCALES.get(cascade.name, {}).items()}
    return {k: v.astype(DOUBLE) if v.dtype.kind == "f" else v for k, v in arrays.items()}


def check(cascade: Cascade, sizes: dict[str, int] | None = None) -> None:
    """Along a random direction of every input the gradient is the slope of the outputs."""
    found = attnc.differentiate(cascade)
    arrays = inputs(cascade, sizes)
    given, cotangents = arguments(found, cascade, arrays)
    gradients = run(found.backward, given, DOUBLE)
    dice = np.random.default_rng(11)
    for name, gradient in found.gradients.items():
        assert gradients[gradient].shape == arrays[name].shape
        way = dice.standard_normal(arrays[name].shape)
        exact = float(np.sum(gradients[gradient] * way))
        size = float(np.linalg.norm(gradients[gradient])) + abs(exact) + 1e-3

        @np.errstate(invalid="ignore")
        def off(name: str, way: Any, exact: float, step: float) -> float:
            first, last = (
                run(cascade, {**arrays, name: arrays[name] + s * way}, DOUBLE)
                for s in (step, -step)
            )
            slopes = (cotangents[o] * np.nan_to_num(first[o] - last[o], nan=0) for o in cotangents)
            return abs(sum(float(np.sum(slope)) for slope in slopes) / (2 * step) - exact)

        assert any(off(name, way, exact, step) < 1e-6 * size for step in STEPS), name


@pytest.mark.parametrize("cascade", cascades(EXAMPLES))
def test_every_example_has_the_slope_of_finite_differences(cascade: Cascade) -> None:
    check(cascade)


@pytest.mark.parametrize("cascade", cascades(EXAMPLES / "zoo"))
def test_every_entry_of_the_zoo_has_the_slope_of_finite_differences(cascade: Cascade) -> None:
    check(cascade, small(cascade))


@pytest.mark.parametrize("cascade", cascades(EXAMPLES))
def test_the_adjoint_is_a_cascade_of_the_language(cascade: Cascade) -> None:
    backward = attnc.gradient(cascade)
    assert attnc.parse(str(backward))[backward.name] == backward
    assert attnc.analyze(backward).passes


SMALL = {
    "products": "cascade c(X[p, m]) -> Y[p]:\n    Y[p] = prod[m where m < p](X[p, m])\n",
    "own_reduction": "def lse2 reduce(x, y) = log2(exp2(x) + exp2(y)) identity -inf\n"
    "cascade c(X[p, m]) -> Y[p]:\n    Y[p] = lse2[m](X[p, m])\n",
    "logsumexp": "cascade c(X[p, m]) -> Y[p]:\n    Y[p] = logsumexp[m](X[p, m])\n",
    "extrema": "cascade c(X[p, m, n]) -> Y[p], Z[p]:\n    Y[p] = max[m, n](X[p, m, n])\n"
    "    Z[p] = min[m](sum[n](X[p, m, n])) * Y[p]\n",
    "window": "cascade c[b](X[t, c], W[; c, w]) -> Y[t, c]:\n"
    "    Y[t, c] = sum[w](X[t + w - 2, c] * W[c, w])\n",
    "partition": "cascade c[b](X[t, c]) -> Y[n, s, c]:\n    param S: int = 4\n    rank s = S\n"
    "    rank n = ceil(|t| / S)\n    Y[n, s, c] = X[n * S + s, c] * X[n * S, c]\n",
    "different_domains": "cascade c(X[p, m], Y[p, m]) -> O[p]:\n"
    "    A[p, m] = X[p, m] * Y[p, m] where m <= p\n    B[p, m] = X[p, m] where m > p\n"
    "    O[p]    = sum[m](A[p, m]) * sum[m](B[p, m])\n",
    "functions": "cascade c(X[p], Y[p]) -> O[p]:\n"
    "    A[p] = sin(X[p]) * cos(Y[p]) + gelu(X[p]) * silu(Y[p]) - erf(X[p]) / softplus(Y[p])\n"
    "    B[p] = elu(X[p]) + relu(Y[p]) * abs(X[p]) + expm1(X[p]) * log1p(abs(Y[p]))\n"
    "    C[p] = rsqrt(exp(X[p])) + (abs(X[p]) + 1) ** Y[p] + clip(Y[p], -1, 1) * sin(X[p]) ** 3\n"
    "    O[p] = A[p] * B[p] + exp2(C[p]) * tanh(Y[p]) + max(X[p], Y[p]) * min(X[p], 2 * Y[p])\n",
    "recurrence_with_a_start": "cascade c(X[t, d], s[d], W[d]) -> Y[t, d], Z[d]:\n"
    "    S[0, d]   = s[d] * W[d]\n    R[t, d]   = sin(S[t, d]) * W[d]\n"
    "    S[t+1, d] = R[t, d] + X[t, d] * S[t, d]\n    Y[t, d]   = R[t, d] * S[t, d]\n"
    "    Z[d]      = S[|t|, d] * S[0, d]\n",
    "two_recurrences": "cascade c(X[t], g[t]) -> Y[t]:\n    A[0]   = 1\n    B[0]   = 0\n"
    "    A[t+1] = A[t] * g[t] + B[t] * X[t]\n    B[t+1] = B[t] - tanh(A[t+1]) * g[t]\n"
    "    C[0]   = A[|t|]\n    C[t+1] = C[t] * X[t] + B[t+1] * A[t]\n    Y[t]   = C[t+1] * X[t]\n",
    "unused": "cascade c(X[p], Y[p, q]) -> O[p]:\n    O[p] = X[p] * X[p]\n",
}


@pytest.mark.parametrize("name", SMALL)
def test_small_programs_have_the_slope_of_finite_differences(name: str) -> None:
    check(parsed(SMALL[name]), {"t": 6})


def body(cascade: Cascade) -> list[str]:
    """The statements of a cascade, spaces made one."""
    return [" ".join(line.split()) for line in str(cascade).splitlines()[1:]]


def example(name: str) -> Cascade:
    return attnc.load(EXAMPLES / f"{name}.attn")[name]


def test_attention_comes_out_as_flash_attention_2_has_it() -> None:
    found = attnc.differentiate(example("attention"))
    assert found.saved == ("L", "O")
    assert body(found.backward) == [
        "S[p, m] = Q[p, e] * K[m, e] / sqrt(|e|)",
        "A[p, m] = exp(S[p, m] - L[p])",
        "dA[p, m] = dO[p, f] * V[m, f]",
        "dL_sum[p] = dO[p, f] * O[p, f]",
        "dS[p, m] = (dA[p, m] - dL_sum[p]) * A[p, m]",
        "dQ_sum[p, e] = dS[p, m] * K[m, e]",
        "dQ[p, e] = dQ_sum[p, e] / sqrt(|e|)",
        "dK_sum[m, e] = dS[p, m] * Q[p, e]",
        "dK[m, e] = dK_sum[m, e] / sqrt(|e|)",
        "dV[m, f] = dO[p, f] * A[p, m]",
    ]
    assert "L[p] = G[p] + log(D[p])" in body(found.forward)


@pytest.mark.parametrize(
    ("name", "saved"),
    [
        ("causal", ("L", "O")),
        ("attention_local_max", ("L", "O")),
        ("softcap", ("L", "O")),
        ("exp2_attention", ("L", "O")),
        ("learned_sink", ("L", "O")),
        ("softmax1", ("L", "O")),
        ("gqa", ("L", "O")),
        ("dropout", ("L", "O")),
        ("power_max", ("G", "D", "O")),
        ("differential", ("L", "L2", "O_part", "O_part2")),
        ("sigmoid", ()),
        ("tanh_scores", ("G", "G_at")),
    ],
)
def test_what_is_saved(name: str, saved: tuple[str, ...]) -> None:
    (cascade,) = attnc.load(EXAMPLES / f"{name}.attn").cascades.values()
    assert attnc.differentiate(cascade).saved == saved


def test_an_output_that_is_the_log_sum_exp_is_saved_as_it_is() -> None:
    found = attnc.differentiate(example("lse_output"))
    assert found.saved == ("L", "O")
    assert found.forward == example("lse_output")
    assert found.cotangents == {"O": "dO", "L": "dL"}


NEAR = """
cascade c(Q[p, e], K[m, e], V[m, f]) -> O[p, f]:
    S[p, m] = Q[p, e] * K[m, e]
    A[p, m] = softmax[m](S[p, m])
    O[p, f] = sum[m where m > 0](A[p, m] * V[m, f])
"""


@pytest.mark.parametrize(
    ("output", "saved"),
    [
        ("sum[m where m > 0](A[p, m] * V[m, f])", ("L", "O")),
        ("A[p, m] * A[p, m] * V[m, f]", ("L", "O")),
        ("3 * A[p, m] * V[m, f] / (p + 1)", ("L", "O")),
        ("tanh(A[p, m]) * V[m, f]", ("L",)),
    ],
)
def test_a_row_term_is_found_where_the_contraction_has_a_name(
    output: str, saved: tuple[str, ...]
) -> None:
    """A product of A that O sums has O's name; a function of A that it sums is another sum."""
    near = parsed(NEAR.replace("sum[m where m > 0](A[p, m] * V[m, f])", output))
    assert attnc.differentiate(near).saved == saved
    check(near)


def test_no_tensor_of_two_long_ranks_is_kept() -> None:
    kernel = attnc.compile(attnc.gradient(example("causal")), backend="numpy")
    assert kernel.program is not None
    assert not kernel.program.buffers
    assert len(kernel.program.kernels) == 2


def test_what_is_multiplied_comes_as_it_lies_in_memory() -> None:
    """A mask goes to the computed side: the loaded one would lose its narrow type by it."""
    program = stages(attnc.gradient(example("attention")), "triton", dtype="f16").program
    for kernel in program.kernels:
        loaded = {own.name for own in every(kernel.body) if isinstance(own, Load)}
        products = [own for own in every(kernel.body) if isinstance(own, Contract)]
        assert products
        assert all({own.left.name, own.right.name} & loaded for own in products)


def test_the_peak_does_not_grow_with_the_keys() -> None:
    kernel = attnc.compile(attnc.gradient(example("attention")), backend="numpy")
    peaks = []
    for extent in (2048, 4096):
        long, short = np.ones((1, 1, extent, 8), np.float32), np.ones((1, 1, 64, 8), np.float32)
        kernel(Q=short, K=long, V=long, dO=short, O=short, L=np.zeros((1, 1, 64), np.float32))
        assert kernel.counters is not None
        peaks.append(kernel.counters.peak_live_bytes)
    assert peaks[0] == peaks[1]


LONG = {"mixformer_mam", "mvpa", "neighborhood_3d", "overlock_contmix"}
"""Cascades that take half a minute to compile both ways."""


def kernels() -> list[Any]:
    """All cascades of the examples and of the zoo."""
    paths = [*sorted(EXAMPLES.glob("*.attn")), *sorted((EXAMPLES / "zoo").glob("*.attn"))]
    return [
        pytest.param(
            cascade,
            id=f"{path.parent.name}-{path.stem}-{name}",
            marks=[pytest.mark.slow] if name in LONG else [],
        )
        for path in paths
        for name, cascade in attnc.load(path).cascades.items()
    ]


def small(cascade: Cascade) -> dict[str, int]:
    """Extents for the interpreter, which takes time and memory for every point of a cascade."""
    sizes = {rank: min(size, 6) for rank, size in default_sizes(cascade).items()}
    sizes |= BRANCHES.get(cascade.name, {})
    return {**sizes, "b": 1, "h": 2} if cascade.name in WIDE else sizes


def rounded(arrays: Arrays, kind: Any) -> Arrays:
    return {k: v.astype(kind) if v.dtype.kind == "f" else v for k, v in arrays.items()}


@pytest.mark.parametrize("cascade", kernels())
def test_a_training_step_is_as_exact_as_its_type_allows(cascade: Cascade) -> None:
    """Forward and backward through the tile executor, against both in float64; every bit twice."""
    found = attnc.differentiate(cascade)
    arrays = rounded(rounded(inputs(cascade, small(cascade)), np.float16), DOUBLE)
    outputs = run(found.forward, arrays, DOUBLE)
    dice = np.random.default_rng(7)
    arriving = {
        given: (dice.standard_normal(outputs[name].shape) * np.isfinite(outputs[name]))
        for name, given in found.cotangents.items()
    }
    arriving = rounded(rounded(arriving, np.float16), DOUBLE)

    def given(kind: Any, made: Arrays) -> Arrays:
        every = {**rounded({**arrays, **arriving}, kind), **{n: made[n] for n in found.saved}}
        return {tensor.name: every[tensor.name] for tensor in found.backward.inputs}

    exact = run(found.backward, given(DOUBLE, outputs), DOUBLE)
    forward, backward = attnc.compile(found.forward), attnc.compile(found.backward)
    for kind, tolerance in ((np.float32, 1e-5), (np.float16, 4e-3)):
        inputs_of = given(kind, forward.run(rounded(arrays, kind)))
        first, second = backward.run(inputs_of), backward.run(inputs_of)
        for name, value in exact.items():
            assert np.array_equal(first[name], second[name]), name
            assert relative_error(first[name], value) < tolerance, (name, kind)


KERNELS = ["attention", "causal", "varlen", "gqa", "differential", "sigmoid", "gla", "delta_rule"]


def agrees(name: str, backend: str, sizes: dict[str, int]) -> None:
    """A back-end in float32 against the interpreter in float64."""
    (cascade,) = attnc.load(EXAMPLES / f"{name}.attn").cascades.values()
    found = attnc.differentiate(cascade)
    given, _ = arguments(found, cascade, inputs(cascade, sizes))
    exact = run(found.backward, given, DOUBLE)
    single = {k: v.astype(np.float32) if v.dtype.kind == "f" else v for k, v in given.items()}
    computed = attnc.compile(found.backward, backend=backend).run(single)
    for key, value in exact.items():
        assert np.max(np.abs(computed[key] - value)) < 1e-5 * np.max(np.abs(value)), key


@pytest.mark.parametrize("name", KERNELS)
@pytest.mark.parametrize("sizes", [{}, {"p": 70, "m": 133}], ids=["small", "ragged"])
def test_the_tile_executor_agrees(name: str, sizes: dict[str, int]) -> None:
    agrees(name, "numpy", sizes)


@pytest.mark.skipif(INSIDE in os.environ, reason="this is that process")
def test_the_kernels_agree_in_a_process_of_their_own(tmp_path: Path) -> None:
    pytest.importorskip("triton")
    environment = os.environ | {
        INSIDE: "1", "TRITON_INTERPRET": "1", "ATTNC_CACHE": str(tmp_path), "OMP_NUM_THREADS": "1",
    }  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", __file__,
         "-k", "test_the_kernels_agree"],
        env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.skipif(INSIDE not in os.environ, reason="runs in a process of its own")
@pytest.mark.parametrize("name", KERNELS)
def test_the_kernels_agree(name: str) -> None:
    sizes = {"p": 37, "m": 41, "t": 37, "e": 16, "f": 16, "d": 16, "b": 1, "h": 2, "g": 1}
    agrees(name, "triton", sizes)


def test_a_recurrence_runs_the_other_way() -> None:
    """States are found again by the forward recurrence; only their adjoint is carried back."""
    backward = attnc.gradient(example("gla"))
    assert set(backward.iterative()) == {"S", "dS"}
    assert "dS[t+1, d, f] = dS_next[t, d, f] * exp(g[|t| - 1 - t, d])" in body(backward)


def test_a_network_that_feeds_back_through_a_matrix_has_a_kernel_both_ways() -> None:
    """What a step hands to the one before goes through two tensors, which one kernel computes. With
    fewer rows than columns a part of the state is not fed back."""
    cell = parsed(
        "cascade rnn[b](x[t, d], g[; c, d]) -> O[t, d]:\n    S[0, d]   = 0\n"
        "    R[t, d]   = S[t, c] * g[c, d]\n    S[t+1, d] = tanh(R[t, d] + x[t, d])\n"
        "    O[t, d]   = S[t+1, d]\n"
    )
    sizes = {"t": 6, "c": 3, "d": 5}
    check(cell, sizes)
    found = attnc.differentiate(cell)
    given, _ = arguments(found, cell, inputs(cell, sizes))
    exact = run(found.backward, given, DOUBLE)
    computed = attnc.compile(found.backward).run(rounded(given, np.float32))
    for name, value in exact.items():
        assert relative_error(computed[name], value) < 1e-5, name


def test_a_recurrence_along_two_ranks_is_refused_at_its_place() -> None:
    grid = parsed(
        "cascade c(X[i, j]) -> Y[]:\n    A[0, j]   = 0\n    B[i, 0]   = 0\n"
        "    A[i+1, j] = B[i, j] + X[i, j]\n    B[i, j+1] = A[i, j] * X[i, j]\n"
        "    Y[]       = sum[j](A[|i|, j])\n"
    )
    with pytest.raises(attnc.CompileError) as caught:
        attnc.gradient(grid)
    assert "along i and j at once" in str(caught.value)


def test_rows_without_keys_have_a_gradient_of_zero() -> None:
    cascade = example("varlen")
    found = attnc.differentiate(cascade)
    arrays = inputs(cascade)
    arrays["len"] = np.zeros_like(arrays["len"])
    given, _ = arguments(found, cascade, arrays)
    for backend in ("interpreter", "numpy"):
        for value in attnc.compile(found.backward, backend=backend).run(given).values():
            assert not np.any(value), backend


@pytest.mark.parametrize("causal", [False, True])
def test_attention_agrees_with_autograd(causal: bool) -> None:
    torch = pytest.importorskip("torch")
    cascade = example("causal" if causal else "attention")
    found = attnc.differentiate(cascade)
    arrays = inputs(cascade)
    given, cotangents = arguments(found, cascade, arrays)
    leaves = [torch.tensor(arrays[name], requires_grad=True) for name in ("Q", "K", "V")]
    result = torch.nn.functional.scaled_dot_product_attention(*leaves, is_causal=causal)
    result.backward(torch.tensor(cotangents["O"]))
    gradients = run(found.backward, given, DOUBLE)
    for leaf, name in zip(leaves, ("dQ", "dK", "dV")):
        np.testing.assert_allclose(gradients[name], leaf.grad.numpy(), rtol=0, atol=1e-12)


def test_gates_between_keys_and_queries_leave_no_matrix_behind() -> None:
    """Each gate is read at the key and at the query: one gradient is a sum of rows, one of columns,
    and neither needs the matrix in memory."""
    cascade = attnc.load(EXAMPLES / "zoo" / "forgetting-attention.attn")["forgetting_attention"]
    program = stages(attnc.gradient(cascade), "numpy").program
    assert all(len(buffer.ranks) == 3 for buffer in program.buffers)


def buffers(file: str, name: str) -> dict[str, tuple[str, ...]]:
    """What goes through memory between the kernels of an adjoint, with its ranks."""
    cascade = attnc.load(EXAMPLES / "zoo" / f"{file}.attn")[name]
    program = stages(attnc.gradient(cascade), "numpy").program
    return {buffer.name: buffer.ranks for buffer in program.buffers}


@pytest.mark.parametrize(
    ("file", "name", "rank"),
    [
        ("clear", "clear", "p"),
        ("sener-arrow-bispa", "arrow", "p"),
        ("shvit-shsa", "shsa", "p"),
        ("sinklora-sf-attn", "sinklora", "p"),
        ("mesa-net", "mesa_net", "t"),
    ],
)
def test_scores_of_one_rank_with_itself_are_made_again(file: str, name: str, rank: str) -> None:
    """Keys read the probabilities as A[m, p], where queries have A[p, m]; neither from memory."""
    found = buffers(file, name)
    assert found
    assert not any({rank, f"{rank}_"} <= {*ranks} for ranks in found.values())


def test_what_is_no_larger_than_its_operands_is_stored() -> None:
    """Near misses: a projection, and a sum over what is itself a sum over nodes."""
    assert "K" in buffers("deconstructing-attention", "first_layer")
    assert {"dS2", "M1"} <= buffers("latte", "latte").keys()


def test_a_turn_leaves_the_vectors_of_which_its_scores_are_made() -> None:
    found = buffers("mesa-net", "mesa_net")
    turns = {name for name, ranks in found.items() if "i" in ranks}
    assert {"Y_before", "dZ_back"} <= turns
    assert turns.isdisjoint({"T", "T_sum", "dT_back"})


def test_a_bound_is_compared_with_what_it_bounds() -> None:
    """The result is saved, so it may differ in its last digit from an operand that is not."""
    bounded = parsed(
        "cascade c(X[p, e], Y[p, e]) -> O[p, e], Z[p, e]:\n"
        "    N[p]    = max(sqrt(sum[e](X[p, e] * X[p, e])), 1e-12)\n"
        "    O[p, e] = X[p, e] / N[p]\n    Z[p, e] = min(X[p, e], Y[p, e], 2 * O[p, e])\n"
    )
    check(bounded)
    text = str(attnc.gradient(bounded))
    assert ">= 1e-12" in text
    assert "== N" not in text


def test_only_what_is_asked_for_is_computed() -> None:
    backward = attnc.gradient(example("attention"), wrt=["V"])
    assert body(backward) == [
        "S[p, m] = Q[p, e] * K[m, e] / sqrt(|e|)",
        "A[p, m] = exp(S[p, m] - L[p])",
        "dV[m, f] = dO[p, f] * A[p, m]",
    ]
    assert [tensor.name for tensor in backward.inputs] == ["Q", "K", "dO", "L"]


def test_an_integer_input_has_no_gradient() -> None:
    with pytest.raises(attnc.CompileError) as caught:
        attnc.gradient(example("varlen"), wrt=["Q", "len"])
    assert "len holds int values" in str(caught.value)
    assert "^" in str(caught.value)


def test_an_unknown_input_is_told_its_neighbour() -> None:
    with pytest.raises(attnc.CallError, match="did you mean"):
        attnc.gradient(example("varlen"), wrt=["Len"])
