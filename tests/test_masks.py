"""Masks as ranges: what a loop leaves out, what it need not test, and that the result is the same.

For every mask the iterations that a kernel would run are compared with the tiles that hold points
and with those that hold nothing but points, counted by brute force.
"""

from __future__ import annotations

import operator
import os
from collections.abc import Iterator
from itertools import product

import numpy as np
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

import attnc
from attnc.backends import interpreter
from attnc.backends.binding import bind
from attnc.ir.print_tile import print_program
from attnc.ir.read_tile import read_program
from attnc.ir.tile import Compute, Fold, Load, Loop
from attnc.passes.predict import predict
from attnc.passes.quantities import Env, Integers

EXACT = np.dtype(np.float64)
TILE = 16
QUERIES, KEYS = 75, 90
COUNTED = ("bytes_read", "bytes_written", "flops", "peak_live_bytes")

TEXT = """
cascade masked[b](Q[p, e], K[m, e], V[m, f], n[b;]: int, w[b;]: int, on[b;]: bool, d[b; m]: int,
        lo[b; p]: int, hi[b; p]: int, keep[; x, y]: bool, side[; z]: int) -> O[p, f]:
    param R: int = 2
    S[p, m] = Q[p, e] * K[m, e] where {mask}
    A[p, m] = softmax[m](S[p, m])
    O[p, f] = A[p, m] * V[m, f]

schedule masked:
    tile p by {tile}
    tile m by {tile}
"""

CLOSED = {
    "causal": "m <= p",
    "causal at the end": "m <= p + |m| - |p|",
    "strictly before": "m < p",
    "window": "p - 20 < m and m <= p",
    "both ways": "abs(p - m) <= 20",
    "window per batch entry": "p - w[b] < m and m <= p",
    "sink and window": "m < 3 or (p - 20 < m and m <= p)",
    "prefix": "m < n[b] or m <= p",
    "padding": "m < n[b] and p < n[b]",
    "full for some": "m <= p and (on[b] or p - m < 9)",
    "blocks": "p // 10 == m // 10",
    "block causal": "m // 10 <= p // 10",
    "far away": "not (p - 20 < m and m <= p)",
    "apart": "abs(p - m) >= 40",
    "ranges from tables": "lo[p] <= m and m < hi[p]",
    "nothing": "m < 0",
    "everything": "m >= 0",
    "a choice": "select(p < 30, m <= p, m > 50)",
    "maximum": "max(p, m) < 40",
    "minimum": "min(p, m) < 20",
    "extents of another": "p // |z| == m // |z|",
}
"""Masks whose ranges leave out every tile that holds no point."""

TESTED = {
    "dilated": "m <= p and (p - m) % 3 == 0",
    "strided blocks": "m <= p and (p // 16 - m // 16 < 1 or m // 16 % 3 == 1)",
    "powers of two": "m <= p and 2 ** floor(log2(max(p // 16 - m // 16, 1))) == p // 16 - m // 16",
    "three parts": "m < 3 or abs(p - m) < 5 or m == 80",
    "disc": "(p // 10 - m // 10) ** 2 + (p % 10 - m % 10) ** 2 <= R ** 2",
    "disc of products": "(p // 10 - m // 10) * (p // 10 - m // 10) <= R * R",
    "box": "abs(p // 10 - m // 10) <= R and abs(p % 10 - m % 10) <= R",
    "neighbourhood": "abs(clip(p // |z|, R, 9 - R) - m // |z|) <= R",
    "unequal": "m != p",
}
"""Masks that are tested once a tile where ranges do not tell."""

TABLES = {
    "documents": "d[p] == d[m]",
    "causal documents": "d[p] == d[m] and m <= p",
    "block mask": "keep[p // 10, m // 10]",
    "documents or sink": "d[p] == d[m] or m < 2",
}
"""Masks that read tables: a list of the tiles that hold points."""


def arrays(seed: int = 0, queries: int = QUERIES, keys: int = KEYS) -> dict[str, np.ndarray]:
    draw = np.random.default_rng(seed)
    start = np.maximum(np.arange(queries) - 12, 0)
    return {
        "Q": draw.standard_normal((2, queries, 8)),
        "K": draw.standard_normal((2, keys, 8)),
        "V": draw.standard_normal((2, keys, 5)),
        "n": np.array([0, 37], np.int32),
        "w": np.array([4, 33], np.int32),
        "on": np.array([True, False]),
        "d": np.sort(draw.integers(0, 5, (2, keys)), -1).astype(np.int32),
        "lo": np.stack([start, start + 30]).astype(np.int32),
        "hi": np.stack([start + 7, start + 31]).astype(np.int32),
        "keep": draw.random((9, 9)) < 0.3,
        "side": np.zeros(10, np.int32),
    }


def compiled(mask: str, tile: int = TILE):
    cascade = attnc.parse(TEXT.format(mask=mask, tile=tile))["masked"]
    return cascade, attnc.compile(cascade)


def iterations(kernel, extents, data) -> Iterator[tuple[int, int, int, str]]:
    """Each run of the body of the loop: batch entry, first query, number of the tile, note."""
    arithmetic = Integers(extents, data)
    main = kernel.program.kernels[-1]
    loop = next(s for s in main.body if isinstance(s, Loop))
    before = main.body[: main.body.index(loop)]
    for b, first in product(range(extents["b"]), range(0, extents["p"], TILE)):
        last = min(first + TILE, extents["p"])
        env = Env({"b": b}, {"p": (first, last)}, {}, {})
        scalars: dict[str, object] = {}
        for statement in before:
            env = Env(env.at, env.edges, env.sizes, scalars)
            match statement:
                case Load(name, (), tensor, subscripts) if tensor in data:
                    places = tuple(arithmetic.value(part, env) for part in subscripts)
                    scalars[name] = data[tensor][places].item()
                case Fold(name, (), op, source):
                    table = next(s for s in before if getattr(s, "name", "") == source.name)
                    row = data[table.tensor][b, first:last]
                    scalars[name] = int(row.min() if op == "min" else row.max())
                case Compute() | Load() | Fold():
                    pass
        for segment in loop.segments:
            if segment.listed is None:
                span = range(arithmetic.value(segment.lo, env), arithmetic.value(segment.hi, env))
            else:
                span = arithmetic.named(segment, env)
            for number in span:
                inside = env.point(loop.rank, number)
                if segment.when is None or arithmetic.value(segment.when, inside):
                    yield b, first, number, segment.note


def points(cascade, data, queries: int, keys: int) -> np.ndarray:
    """The mask itself, by batch entry, query and key, as the interpreter sees it."""
    mask = cascade.einsums[0].where
    text = str(cascade).split(" where ")[1].split("\n")[0]
    names = "n[b;]: int, w[b;]: int, on[b;]: bool, d[b; m]: int, lo[b; p]: int, hi[b; p]: int"
    whole = attnc.parse(
        f"cascade m[b](P[p], M[m], {names}, keep[; x, y]: bool, side[; z]: int) -> H[p, m]: bool:\n"
        f"    param R: int = 2\n"
        f"    H[p, m] = present(P[p] * M[m]) == 1 where {text}\n"
    )["m"]
    assert mask is not None
    tables = {k: v for k, v in data.items() if k not in "QKV"}
    ones = {"P": np.ones((2, queries)), "M": np.ones((2, keys))}
    return interpreter.run(whole, ones | tables, EXACT)["H"]


def check(mask: str, exact: bool, seed: int = 0, queries: int = QUERIES, keys: int = KEYS):
    cascade, kernel = compiled(mask)
    assert read_program(print_program(kernel.program)) == kernel.program
    data = arrays(seed, queries, keys)
    found = kernel.run(data)["O"]
    right = interpreter.run(cascade, data, EXACT)["O"]
    assert np.abs(found - right).max(initial=0) < 1e-12
    tables = {k: v for k, v in data.items() if v.dtype.kind in "iub"} | kernel.runner.lists
    extents = dict(bind(cascade, (), data).extents)
    predicted = predict(kernel.program, extents, "f64", data=tables)
    for name in COUNTED:
        assert getattr(kernel.counters, name) == getattr(predicted, name), name
    for decl in kernel.program.ranks:
        extents.setdefault(decl.name, Integers(extents, {}).value(decl.extent, Env({}, {}, {}, {})))
    there = points(cascade, data, queries, keys)
    run: dict[tuple[int, int, int], str] = {}
    for b, first, number, note in iterations(kernel, extents, tables):
        assert (b, first, number) not in run
        run[b, first, number] = note
    for b, first, number in product(range(2), range(0, queries, TILE), range(-(-keys // TILE))):
        tile = there[b, first : first + TILE, number * TILE : (number + 1) * TILE]
        note = run.get((b, first, number))
        assert note is not None or not tile.any(), "a tile with points is left out"
        if note == "full":
            assert tile.all() or not exact
        if exact:
            assert note is None or tile.any(), "a tile without points is not left out"
    return run, there


@pytest.mark.parametrize("mask", CLOSED.values(), ids=CLOSED)
def test_closed_ranges(mask):
    check(mask, exact=True)


@pytest.mark.parametrize("mask", TABLES.values(), ids=TABLES)
def test_lists(mask):
    check(mask, exact=True)


@pytest.mark.parametrize("mask", TESTED.values(), ids=TESTED)
def test_one_test_a_tile(mask):
    check(mask, exact=False)


FEW = 60
EXAMPLES = int(os.environ.get("ATTNC_EXAMPLES", FEW))
PHASES = (Phase.explicit, Phase.reuse, Phase.generate)
"""No shrinking: each example compiles a kernel, and the masks are short as they are."""

ATOMS = st.sampled_from(
    [
        "m <= p", "p < m + {a}", "m < p + {a}", "m >= {a}", "m < {a}", "p >= {a}",
        "abs(p - m) <= {a}", "abs(p - m) >= {a}", "p // {a} == m // {a}", "m // {a} <= p // {a}",
        "p // {a} - m // {a} <= 1", "(p - m) % {a} == 0", "m % {a} < 2", "2 * m <= p + {a}",
        "m < n[b]", "p - w[b] < m", "d[p] == d[m]", "on[b]", "m != p", "lo[p] <= m",
        "max(p, m) < {a}", "min(p, {a}) <= m",
    ]
)  # fmt: skip


@st.composite
def masks(draw, depth: int = 2) -> str:
    kind = draw(st.sampled_from(["atom", "and", "or", "not"])) if depth else "atom"
    match kind:
        case "atom":
            return draw(ATOMS).format(a=draw(st.integers(1, 40)))
        case "not":
            return f"not ({draw(masks(depth=depth - 1))})"
        case _:
            return f"({draw(masks(depth=depth - 1))}) {kind} ({draw(masks(depth=depth - 1))})"


@settings(max_examples=EXAMPLES, deadline=None, derandomize=EXAMPLES == FEW, phases=PHASES)
@given(masks(), st.integers(0, 3), st.integers(1, 75), st.integers(1, 90))
def test_any_mask(mask, seed, queries, keys):
    """Whatever the mask and the extents: no point is lost, and full tiles hold nothing else."""
    check(mask, exact=False, seed=seed, queries=max(queries, 1), keys=max(keys, queries))


def test_a_kept_list_is_made_anew_when_its_table_changes():
    cascade, kernel = compiled("d[p] == d[m]")
    data = arrays()
    for seed in (1, 2):
        data["d"][:] = np.sort(np.random.default_rng(seed).integers(0, 5, (2, KEYS)), -1)
        right = interpreter.run(cascade, data, EXACT)["O"]
        assert np.abs(kernel.run(data)["O"] - right).max() < 1e-12


def test_nothing_is_compiled_or_listed_for_another_length():
    """An affine mask has no block list, and its source does not depend on a length."""
    _, kernel = compiled("p - 20 < m and m <= p")
    assert not kernel.program.buffers
    assert not kernel.runner.lists
    for queries, keys in ((5, 9), (70, 75), (75, 200)):
        data = arrays(queries=queries, keys=keys)
        data["d"] = np.zeros((2, keys), np.int32)
        kernel.run(data)
    assert len(kernel.runner._modules) == 1


def test_a_row_without_points_where_no_running_form_guards_it():
    """Within one tile the maximum of nothing is -inf, and -inf - -inf is no number."""
    text = """
cascade short(X[p, e], n[p]: int) -> Y[p, e]:
    S[p, e] = X[p, e] where e < n[p]
    Y[p, e] = softmax[e](S[p, e])
"""
    cascade = attnc.parse(text)["short"]
    data = {"X": np.ones((3, 5)), "n": np.array([0, 2, 5], np.int32)}
    right = interpreter.run(cascade, data, EXACT)["Y"]
    assert np.abs(attnc.compile(cascade).run(data)["Y"] - right).max() < 1e-12
    assert not right[0].any()


def test_the_order_of_a_recurrence_is_not_that_of_a_list():
    """What steps along a rank by hand runs in order, whatever its mask reads."""
    text = """
cascade last(X[t], keep[t]: bool) -> Y[]:
    S[0]   = 0
    S[t+1] = select(keep[t], X[t], S[t])
    Y[]    = S[|t|]
"""
    kernel = attnc.compile(attnc.parse(text)["last"])
    assert not kernel.program.buffers
    keep = np.array([True, False, True, False])
    assert kernel(np.arange(4.0), keep) == operator.index(2)


def test_one_reduction_without_points_does_not_stop_the_others():
    text = """
cascade two[h](X[m, e], on[h;]: bool) -> A[e], B[e]:
    S[m, e] = X[m, e] where on[]
    A[e] = sum[m](S[m, e])
    B[e] = sum[m](X[m, e])
"""
    cascade = attnc.parse(text)["two"]
    data = {"X": np.ones((2, 600, 3)), "on": np.array([True, False])}
    found = attnc.compile(cascade).run(data)
    for name, right in interpreter.run(cascade, data, EXACT).items():
        assert np.abs(found[name] - right).max() < 1e-12


def test_what_says_where_a_stored_tensor_exists_is_stored_too():
    """With e cut as well, scores go through memory, and their reader asks for their mask."""
    text = """
cascade apart(Q[e, p], K[e, m], V[m, f], k[p, m]: bool) -> O[p, f]:
    R[p, m]: bool = k[p, m] and m <= p
    S[p, m] = Q[e, p] * K[e, m] where R[p, m]
    A[p, m] = softmax[m](S[p, m])
    O[p, f] = A[p, m] * V[m, f]
"""
    cascade = attnc.parse(text)["apart"]
    draw = np.random.default_rng(0)
    data = {n: draw.standard_normal((8, 70) if n in "QK" else (70, 5)) for n in "QKV"}
    data["k"] = draw.random((70, 70)) < 0.5
    right = interpreter.run(cascade, data, EXACT)["O"]
    assert np.abs(attnc.compile(cascade).run(data)["O"] - right).max() < 1e-12


POSITIONS = """
cascade placed[b](Q[p, e], K[m, e], V[m, f]) -> O[p, f]:
    param W: int = 20
    {made}
    S[p, m] = Q[p, e] * K[m, e] where {mask}
    A[p, m] = softmax[m](S[p, m])
    O[p, f] = A[p, m] * V[m, f]
"""
BACK = "back[p, m]: int = p - m"


@pytest.mark.parametrize(
    ("made", "mask", "same"),
    [
        (BACK, "0 <= back[p, m] and back[p, m] < W", "0 <= p - m and p - m < W"),
        (f"{BACK}\n    near[p, m]: bool = abs(back[p, m]) < W", "near[p, m]", "abs(p - m) < W"),
        ("block[p]: int = p // 10", "block[p] == m // 10", "p // 10 == m // 10"),
    ],
)
def test_a_tensor_of_positions_means_what_it_was_made_of(made, mask, same):
    one, other = (
        attnc.compile(attnc.parse(POSITIONS.format(made=text, mask=where))["placed"]).program
        for text, where in ((made, mask), ("", same))
    )
    assert one.kernels == other.kernels


@pytest.mark.parametrize(
    ("made", "mask"),
    [
        (BACK, "back[p, m + 1] < W"),
        ("back[p, m]: int = p - m where m < 40", "back[p, m] < W"),
        ("back[p, m] = (p - m) / 2", "back[p, m] < W"),
    ],
)
def test_a_tensor_with_points_that_are_none_or_no_whole_numbers_is_read(made, mask):
    cascade = attnc.parse(POSITIONS.format(made=made, mask=mask))["placed"]
    kernel = attnc.compile(cascade)
    data = {k: v for k, v in arrays().items() if k in "QKV"}
    right = interpreter.run(cascade, data, EXACT)["O"]
    assert np.abs(kernel.run(data)["O"] - right).max() < 1e-12
    assert "back" in str(kernel.program).split("history")[-1]


def test_three_pieces_leave_no_tile_without_points():
    run, there = check("p == 0 or m == 0 or abs(p - m) <= 5", exact=False)
    for b, first, number in run:
        tile = slice(number * TILE, (number + 1) * TILE)
        assert there[b, first : first + TILE, tile].any()
    assert len(run) < 2 * 5 * 6
