"""Tiles as a thread's registers want them: which way round they lie, and how large they are."""

from __future__ import annotations

from pathlib import Path

import pytest

import attnc
from attnc.ir.read_tile import read_program
from attnc.ir.tile import Compute, Contract, Kernel, Store
from attnc.ir.tile_facts import every
from attnc.ir.verify_tile import verify_program
from attnc.passes.orient import orient
from attnc.passes.pipeline import lower
from attnc.passes.pressure import pressure
from attnc.passes.together import together

EXAMPLES = Path(__file__).parent.parent / "examples"


def example(name: str) -> attnc.ir.cascade.Cascade:
    (cascade,) = attnc.load(EXAMPLES / f"{name}.attn").cascades.values()
    return cascade


def orders(kernel: Kernel) -> dict[str, tuple[str, ...]]:
    """The axes of every matrix that a kernel computes, in order."""
    made = (own for own in every(kernel.body) if isinstance(own, Compute | Contract))
    return {own.name: own.ranks for own in made if len(own.ranks) == 2}


def test_gradients_of_keys_own_the_rows_of_the_scores_and_queries_those_of_theirs() -> None:
    program = lower(attnc.gradient(example("causal")), "triton", "f16")
    queries, keys = (orders(kernel) for kernel in program.kernels)
    assert queries["A_part"] == ("p", "m0")
    assert keys["A_part2"] == keys["S_part2_dot"] == keys["dA_part2"] == ("m", "p0")


BOTH = """
program twice(A[b; i, k]: float, B[b; j, k]: float, C[b; i, f]: float, D[b; j, f]: float) -> X[b; j, f]: float, Y[b; i, f]: float:
    kernel twice over b:
        axis i = |i|
        axis j = |j|
        axis k = |k|
        axis f = |f|
        load A_tile[i, k] = A[b, i, k]
        load B_tile[j, k] = B[b, j, k]
        load C_tile[i, f] = C[b, i, f]
        load D_tile[j, f] = D[b, j, f]
        contract S[i, j] = A_tile[i, k] * B_tile[j, k] over k
        compute N[i, j] = exp(S[i, j])
        contract X_tile[j, f] = N[i, j] * C_tile[i, f] over i
        store X[b, j, f] = X_tile[j, f]
"""  # noqa: E501
ALONG = """        contract Y_tile[i, f] = N[i, j] * D_tile[j, f] over j
        store Y[b, i, f] = Y_tile[i, f]
"""
KEPT = """        compute Y_tile[i, f] = C_tile[i, f]
        store Y[b, i, f] = Y_tile[i, f]
"""


def test_a_tile_is_turned_where_all_its_products_agree_and_nothing_keeps_it() -> None:
    turned = orient(read_program(BOTH + KEPT))
    verify_program(turned)
    assert orders(turned.kernels[0])["N"] == orders(turned.kernels[0])["S"] == ("j", "i")
    disputed = read_program(BOTH + ALONG)
    assert orient(disputed) == disputed
    stored = read_program((BOTH + KEPT).replace("Y[b; i, f]: float", "Y[b; i, j]: float").replace(
        "Y_tile[i, f] = C_tile[i, f]", "Y_tile[i, j] = N[i, j]"
    ).replace("store Y[b, i, f] = Y_tile[i, f]", "store Y[b, i, j] = Y_tile[i, j]"))  # fmt: skip
    assert orient(stored) == stored


SHARED = """\
program both(X[b; t, d]: float, Y[b; t, d]: float, Z[b; t, d]: float) -> A[b; t, f]: float, B[b; t, f]: float:

    kernel both over b:
        axis t = |t|
        axis s = 16 by 16
        axis d = |d|
        axis f = |f|
        load X_tile[t, d] = X[b, t, d]
        compute E[t, d] = exp(X_tile[t, d])
        load Y_tile[s, d] = Y[b, s, d]
        contract P[t, s] = E[t, d] * Y_tile[s, d] over d
        load W[s, f] = Y[b, s, f]
        contract A_tile[t, f] = P[t, s] * W[s, f] over s
        store A[b, t, f] = A_tile[t, f]
        load Z_tile[s, d] = Z[b, s, d]
        compute G[s, d] = Z_tile[s, d] * 2
        contract R[t, s] = E[t, d] * G[s, d] over d
        contract B_tile[t, f] = R[t, s] * W[s, f] over s
        store B[b, t, f] = B_tile[t, f]
"""  # noqa: E501


def test_products_of_one_operand_stand_together() -> None:
    """Near misses: a load would pass a store, the result is no smaller, it needs a product."""

    def products(text: str) -> list[str]:
        program = together(read_program(text))
        verify_program(program)
        return [s.name for s in program.kernels[0].body if isinstance(s, Contract)]

    store = "        store A[b, t, f] = A_tile[t, f]\n"
    later = SHARED.replace(store, "") + store
    assert products(SHARED) == ["P", "A_tile", "R", "B_tile"]
    assert products(later) == ["P", "R", "A_tile", "B_tile"]
    assert products(later.replace("axis s = 16 by 16", "axis s = |d|")) == products(SHARED)
    product = "contract G[s, d] = P[t, s] * X_tile[t, d] over t"
    made = later.replace("compute G[s, d] = Z_tile[s, d] * 2", product)
    assert products(made) == ["P", "A_tile", "G", "R", "B_tile"]


def test_what_lives_at_once_is_counted() -> None:
    (kernel,) = lower(example("attention"), "triton", "f16", {"e": 128, "f": 128}).kernels
    sizes = {"p": 128, "m0": 64, "e": 128, "f": 128}
    # Two tiles, and four vectors along the rows.
    assert pressure(kernel, sizes, 256) == (128 * 128 + 128 * 64 + 4 * 128) // 256
    (kernel,) = lower(example("differential"), "triton", "f16").kernels
    assert pressure(kernel, sizes, 256) >= (2 * 128 * 128 + 128 * 64) // 256


@pytest.mark.parametrize(
    ("name", "width", "tiles"),
    [
        ("attention", 128, (128, 64)),
        ("differential", 64, (128, 64)),
        ("differential", 128, (64, 32)),
    ],
)
def test_tiles_are_smaller_where_two_states_would_not_fit(
    name: str, width: int, tiles: tuple[int, int]
) -> None:
    (kernel,) = lower(example(name), "triton", "f16", {"e": width, "f": width}).kernels
    sizes = {axis.rank: axis.size for axis in kernel.axes}
    assert (sizes["p"], sizes["m0"]) == tiles


SQUASHED = """
cascade squashed[b](Q[p, e], K[m, e], V[m, f]) -> O[p, f]:
    A[e, f] = K[m, e] * V[m, f]
    N[e, f] = tanh(A[e, f])
    X[p, e] = exp(Q[p, e])
    O[p, f] = X[p, e] * N[e, f]
"""


@pytest.mark.parametrize(
    ("width", "tiles"), [(64, {"b": 1, "p": 128}), (128, {"b": 1, "p": 64, "f": 64})]
)
def test_columns_are_divided_where_two_computed_operands_would_not_fit(
    width: int, tiles: dict[str, int]
) -> None:
    sizes = {"e": width, "f": width}
    *_, kernel = lower(attnc.parse(SQUASHED)["squashed"], "triton", "f16", sizes).kernels
    assert {entry.rank: entry.tile for entry in kernel.grid} == tiles


MERGED = """
cascade merged[b](Q[h, p, e], K[h, m, e], V[h, m, f], W[; h, f, c]) -> Y[p, c]:
    S[h, p, m] = Q[h, p, e] * K[h, m, e]
    A[h, p, m] = softmax[m](S[h, p, m])
    O[h, p, f] = A[h, p, m] * V[h, m, f]
    Y[p, c]    = O[h, p, f] * W[h, f, c]
"""


def test_a_sum_over_heads_and_widths_is_products_of_matrices() -> None:
    attention, merge = (lower(attnc.parse(MERGED)["merged"], "triton", "f16").kernels)[-2:]
    # The rows of W are a long rank here, and still columns of the tile of attention.
    assert {entry.rank: entry.tile for entry in attention.grid} == {
        "b": 1,
        "h": 1,
        "p": 128,
        "f": 64,
    }
    assert {axis.rank for axis in merge.axes} == {"p", "c", "f0"}
    assert any(isinstance(own, Contract) for own in every(merge.body))


def test_a_kernel_with_large_tiles_leaves_those_of_another_alone() -> None:
    triples = """
cascade triples[b](X[p, d], Y[m, d], Z[n, d], V[m, n, f]) -> O[p, f], T[p, m]:
    S[p, m, n] = tanh(X[p, d] * Y[m, d] * Z[n, d])
    O[p, f]    = exp(S[p, m, n]) * V[m, n, f]
    T[p, m]    = X[p, d] * Y[m, d]
"""
    program = lower(attnc.parse(triples)["triples"], "triton", "f16")
    tiles = {
        store.tensor: {entry.rank: entry.tile for entry in kernel.grid}
        for kernel in program.kernels
        for store in every(kernel.body)
        if isinstance(store, Store)
    }
    assert tiles["T"]["p"] == 1 and tiles["O"]["p"] < 128 == tiles["T"]["m"]
