"""Split reductions: parts of the keys side by side, their states merged; and the public merge."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import attnc
from attnc import merging
from attnc.backends import interpreter, launch
from attnc.backends.binding import bind
from attnc.backends.tiles import dealt
from attnc.driver import stages
from attnc.ir.expr import Const
from attnc.ir.print_tile import print_program
from attnc.ir.read_tile import read_program
from attnc.passes.pipeline import lower
from attnc.passes.predict import predict
from attnc.passes.quantities import Env, Integers
from attnc.passes.segments import shared
from attnc.passes.split import parts_for
from attnc.sampling import default_sizes, sample
from attnc.verification import relative_error

EXACT = np.dtype(np.float64)
EXAMPLES = Path(__file__).parent.parent / "examples"
ONE_PASS = [
    "attention", "causal", "window", "sink_window", "varlen", "documents", "differential",
    "sigmoid", "lse_output", "softcap", "softmax1", "gqa", "learned_sink", "alibi", "paged",
    "exp2_attention", "matmul",
]  # fmt: skip
COUNTED = ("bytes_read", "bytes_written", "flops", "peak_live_bytes")


def scheduled(name: str, parts: int, tile: int = 16, verb: str = "split", *more: str):
    cascade = next(iter(attnc.load(EXAMPLES / f"{name}.attn").cascades.values()))
    rank = "k" if name == "matmul" else "m"
    lines = [f"{verb} {rank} by {parts}", f"tile {rank} by {tile}", *more]
    text = "\n    ".join([f"{cascade}\nschedule {cascade.name}:", *lines])
    return attnc.parse(text)[cascade.name]


def drawn(cascade, seed=0):
    sizes = default_sizes(cascade)
    long = {"m": 75, "p": 19, "n": 9, "k": 75}
    extents = {r: long.get(r, min(e, 9)) for r, e in sizes.items()}
    arrays = sample(cascade, extents, dtype="f64", seed=seed)
    lengths = [t for t in cascade.inputs if t.dtype == "int" and len(t.ranks) == t.batch]
    draw = np.random.default_rng(seed)
    for tensor in lengths:
        arrays[tensor.name] = draw.integers(0, 76, arrays[tensor.name].shape, np.int32)
    return arrays


@pytest.mark.parametrize("parts", [2, 3, 8])
@pytest.mark.parametrize("name", ONE_PASS)
def test_parts_come_to_the_whole(name, parts):
    """More parts than some rows have tiles, and lengths that no tile divides."""
    comes_to_the_whole(scheduled(name, parts))


@pytest.mark.parametrize("name", ONE_PASS)
def test_shares_come_to_the_whole(name):
    """Walkers whose shares begin and end within rows, tiles of one query and of several."""
    comes_to_the_whole(scheduled(name, 5, 16, "share"))
    if name not in ("matmul", "paged", "gqa"):  # The packed form of the last is no text.
        comes_to_the_whole(scheduled(name, 11, 8, "share", "tile p by 4"))


def comes_to_the_whole(cascade):
    arrays = drawn(cascade)
    right = interpreter.run(cascade, arrays, EXACT)

    def same(step, value):
        assert step == "stream"
        assert attnc.parse(str(value))[cascade.name] == value
        draw, given = np.random.default_rng(1), dict(arrays)
        for table in value.inputs[len(cascade.inputs) :]:
            shape = sample(value, {**bind(cascade, (), arrays).extents})[table.name].shape
            given[table.name] = draw.integers(1, value.params[-1].default + 1, shape)
        for output, array in interpreter.run(value, given, EXACT).items():
            assert np.abs(array - right[output]).max(initial=0) < 1e-12

    program = lower(cascade, "numpy", observe=same)
    assert len([kernel for kernel in program.kernels if not kernel.aside]) == 2
    kernel = attnc.compile(cascade)
    assert read_program(print_program(kernel.program)) == kernel.program
    found = kernel.run(arrays)
    rounded = {t.name for t in cascade.outputs if t.dtype == "f32"}
    for output, array in right.items():
        allowed = 1e-6 if output in rounded else 1e-12
        assert np.abs(found[output] - array).max(initial=0) < allowed
    tables = {k: v for k, v in arrays.items() if v.dtype.kind in "iub"} | kernel.runner.lists
    expected = predict(kernel.program, bind(cascade, (), arrays).extents, "f64", data=tables)
    for counter in COUNTED:
        assert getattr(kernel.counters, counter) == getattr(expected, counter), counter


ODD = {
    "whole numbers": """
cascade c(X[p, m, e], V[v, f]) -> A[p, e]: bool, N[p, e]: int, Y[p, f]:
    A[p, e]: bool = any[m](X[p, m, e] > 1)
    N[p, e]: int  = sum[m where X[p, m, e] > 0](1)
    i[p]: int     = max[m, e](cast(abs(X[p, m, e]), int))
    Y[p, f]       = V[i[p], f]""",
    "a reduction of one's own": """
def lse2 reduce(x, y) = max(x, y) + log1p(exp(-abs(x - y))) identity -1e30
cascade c(Q[p, e], K[m, e]) -> L[p]:
    L[p] = lse2[m](Q[p, e] * K[m, e])""",
    "a rank that is short without the schedule": """
cascade c(X[p, m]) -> Y[p, m]:
    Y[p, m] = l2norm[m](X[p, m])""",
    "a rank and its second variable": """
cascade c(X[m, e]) -> Y[m, e], Z[e]:
    A[m, m'] = softmax[m'](X[m, e] * X[m', e])
    Y[m, e]  = A[m, m'] * X[m', e]
    Z[e]     = max[m](X[m, e])""",
    "two ranks, one chain": """
cascade c(Q[p, e], K[m, e], V[m, f], L[n, e], W[n, f]) -> O[p, f]:
    S[p, m] = Q[p, e] * K[m, e]
    T[p, n] = Q[p, e] * L[n, e]
    G[p]    = max(max[m](S[p, m]), max[n](T[p, n]))
    D[p]    = sum[m](exp(S[p, m] - G[p])) + sum[n](exp(T[p, n] - G[p]))
    X[p, f] = exp(S[p, m] - G[p]) * V[m, f]
    Y[p, f] = exp(T[p, n] - G[p]) * W[n, f]
    O[p, f] = (X[p, f] + Y[p, f]) / D[p]
schedule c:
    split n by 2
    tile n by 4""",
    "sweeps that wait for one another": """
cascade c(X[m, e], V[m, f]) -> Y[e, f], Z[e]:
    G[e]    = max[m](X[m, e])
    N[e, m] = tanh(X[m, e] - G[e])
    D[e]    = mean[m](N[e, m])
    W[e, m] = relu(N[e, m] - D[e])
    Z[e]    = sum[m](W[e, m])
    Y[e, f] = W[e, m] * V[m, f]""",
    "positions outside": """
cascade c(Q[p, e], X[n, m, e]) -> T[p, n]:
    S[p, n] = Q[p, e] * X[n + 2, m, e]
    T[p, n] = present(S[p, n])""",
}


def odd(name: str, verb: str = "split"):
    text = ODD[name] if "schedule" in ODD[name] else f"{ODD[name]}\nschedule c:"
    return attnc.parse(f"{text}\n    {verb} m by 3\n    tile m by 8")["c"]


@pytest.mark.parametrize("name", ODD)
def test_not_only_attention(name):
    cascade = odd(name)
    arrays = drawn(cascade)
    kernel = attnc.compile(cascade)
    assert any("3 parts of m" in line for line in kernel.program.history)
    found = kernel.run(arrays)
    for output, right in interpreter.run(cascade, arrays, EXACT).items():
        assert np.abs(found[output] * 1.0 - right).max(initial=0) < 1e-10


@pytest.mark.parametrize("keys", [0, 1, 17])
def test_few_keys_and_rows_without_any(keys):
    cascade = scheduled("varlen", 4)
    draw = np.random.default_rng(0)
    arrays = {t.name: draw.standard_normal((2, 2, keys if "m" in t.ranks else 5, 8))
              for t in cascade.inputs if t.dtype == "float"}  # fmt: skip
    arrays |= {t.name: np.array([0, keys], np.int32)
               for t in cascade.inputs if t.dtype == "int"}  # fmt: skip
    found = attnc.compile(cascade).run(arrays)
    for output, right in interpreter.run(cascade, arrays, EXACT).items():
        assert np.abs(found[output] - right).max(initial=0) < 1e-12


def test_every_part_of_a_short_entry_has_work():
    """What is divided is what there is to do: a sequence of 64 keys keeps all parts busy."""
    cascade = scheduled("varlen", 4)
    draw = np.random.default_rng(0)
    arrays = {t.name: draw.standard_normal((1, 1, 1024 if "m" in t.ranks else 1, 8))
              for t in cascade.inputs if t.dtype == "float"}  # fmt: skip
    arrays |= {t.name: np.array([64], np.int32) for t in cascade.inputs if t.dtype == "int"}
    program = attnc.compile(cascade).program
    assert "(len_tile[] - 1) // 16 + 1" in print_program(program)
    kernel = attnc.compile(cascade)
    kernel.run(arrays)
    four = kernel.counters.flops
    arrays |= {t.name: np.array([1024], np.int32) for t in cascade.inputs if t.dtype == "int"}
    kernel.run(arrays)
    assert kernel.counters.flops > 8 * four


@given(st.lists(st.integers(0, 9), max_size=8), st.integers(1, 9))
@settings(max_examples=150, deadline=None, derandomize=True)
def test_walkers_have_equal_shares_of_all_there_is(counts, walkers):
    """Each iteration once and in order, rows without any too; each place of a state once."""
    made = {name.removeprefix("x_"): table.tolist()
            for name, table in dealt("x", np.array(counts, np.int32), walkers).items()}  # fmt: skip
    total = sum(counts)
    each = max(1, -(-total // walkers))
    found, places = [], []
    for walker, rows in enumerate(zip(made["first"], made["last"])):
        own = []
        for row in range(*rows):
            begin = walker * each - made["ends"][row]
            own += [(row, i) for i in range(max(0, begin), min(counts[row], begin + each))]
            places.append(walker + row)
        assert len(own) <= each
        found += own
    assert found == [(row, i) for row, count in enumerate(counts) for i in range(count)]
    assert len(set(places)) == len(places)
    assert max(places, default=0) < walkers + len(counts)


def test_a_share_ends_in_the_middle_of_a_row():
    """One long sequence among short ones: its tiles go to most walkers, a short one's to one."""
    cascade = scheduled("varlen", 4, 16, "share")
    draw = np.random.default_rng(0)
    arrays = {t.name: draw.standard_normal((4, 1, 160 if "m" in t.ranks else 1, 8))
              for t in cascade.inputs if t.dtype == "float"}  # fmt: skip
    arrays |= {t.name: np.array([16, 160, 0, 16], np.int32)
               for t in cascade.inputs if t.dtype == "int"}  # fmt: skip
    kernel = attnc.compile(cascade)
    found = kernel.run(arrays)
    tables = {name.rsplit("_", 1)[1]: table for name, table in kernel.runner.lists.items()}
    assert tables["ends"].tolist() == [0, 1, 11, 11, 12]
    assert tables["first"].tolist() == [0, 1, 1, 1]
    assert tables["last"].tolist() == [2, 2, 2, 4]
    for output, right in interpreter.run(cascade, arrays, EXACT).items():
        assert np.abs(found[output] - right).max(initial=0) < 1e-12


UNSHARED = {
    "its states are not those of one kernel": lambda: odd("whole numbers", "share"),
    "S steps along it": lambda: attnc.parse(f"{STEPS}\nschedule c:\n    share t by 4")["c"],
}
STEPS = """
cascade c(Q[t, d], K[t, d], V[t, f]) -> O[t, f]:
    S[0, d, f]   = 0
    S[t+1, d, f] = S[t, d, f] + K[t, d] * V[t, f]
    O[t, f]      = Q[t, d] * S[t+1, d, f]"""


@pytest.mark.parametrize("reason", UNSHARED)
def test_what_cannot_be_shared_says_why(reason):
    with pytest.raises(attnc.CompileError, match=f"cannot be shared: {reason}") as refused:
        attnc.compile(UNSHARED[reason]())
    assert refused.value.code == "E313"
    assert "share" in str(refused.value).splitlines()[2]


def test_a_rank_is_split_or_shared():
    with pytest.raises(attnc.CompileError, match="m is both split and shared"):
        scheduled("attention", 3, 16, "share", "split m by 2")


def test_what_differs_from_row_to_row_is_shared():
    """Where the grid leaves a GPU idle; rows that are alike are split."""
    sizes = {"b": 2, "h": 4, "p": 1, "m": 65536, "e": 64, "f": 64}

    def walkers(name, **more):
        cascade = next(iter(attnc.load(EXAMPLES / f"{name}.attn").cascades.values()))
        made = lower(cascade, "triton", "f16", {**sizes, **more})
        return [kernel.grid[0].rank for kernel in made.kernels if kernel.walks], made

    assert walkers("varlen")[0]
    assert walkers("documents")[0]
    assert walkers("causal", p=1024, m=1024)[0]
    found, made = walkers("attention")
    assert not found
    assert any("parts of m" in line for line in made.history)


REFUSED = {
    "t cannot be split: S steps along it": """
cascade c(Q[t, d], K[t, d], V[t, f]) -> O[t, f]:
    S[0, d, f]   = 0
    S[t+1, d, f] = S[t, d, f] + K[t, d] * V[t, f]
    O[t, f]      = Q[t, d] * S[t+1, d, f]
schedule c:
    split t by 4""",
    "m cannot be split: RM steps along it": """
cascade c(X[m, e]) -> Y[e]:
    rank m0 = 4
    rank m1 = ceil(|m| / 4)
    LM[m1, e]   = max[m0](X[m1 * 4 + m0, e])
    RM[0, e]    = -inf
    RM[m1+1, e] = max(RM[m1, e], LM[m1, e])
    Y[e]        = RM[|m1|, e]
schedule c:
    split m by 4""",
    "p cannot be split: no Einsum reduces over it": """
cascade c(X[p, m, e]) -> Y[p, e]:
    Y[p, e] = max[m](X[p, m, e])
schedule c:
    split p by 4""",
    "d cannot be split: O reads S, which steps along a rank of its own": """
cascade c(Q[t, d], K[t, d], V[t, f]) -> O[t, f]:
    S[0, d, f]   = 0
    S[t+1, d, f] = S[t, d, f] + K[t, d] * V[t, f]
    O[t, f]      = Q[t, d] * S[t+1, d, f]
schedule c:
    split d by 4""",
}


@pytest.mark.parametrize("message", REFUSED)
def test_what_cannot_be_split_says_why(message):
    cascade = attnc.parse(REFUSED[message])["c"]
    with pytest.raises(attnc.CompileError, match=message) as refused:
        attnc.compile(cascade)
    assert refused.value.code in ("E312", "E313")
    assert "split" in str(refused.value).splitlines()[2]


@pytest.mark.parametrize("parts", [1, 2, 3, 8])
@given(data=st.data())
@settings(max_examples=60, deadline=None, derandomize=True)
def test_parts_have_equal_shares_of_what_there_is(parts, data):
    """Pieces of a loop with gaps between them: each iteration once, and no part has more."""

    def value(expr):
        return int(Integers({}, {}).value(expr, Env({}, {}, {}, {})))

    pieces, begin = [], 0
    piece = st.lists(st.integers(0, 9), min_size=1, max_size=3)
    for steps in data.draw(st.lists(piece, min_size=1, max_size=2)):
        begin += data.draw(st.integers(1, 4))
        for step in steps:
            pieces.append((Const(begin), Const(begin + step), "full"))
            begin += step
    every = [i for lo, hi, _ in pieces for i in range(value(lo), value(hi))]
    own = [
        [
            i
            for lo, hi, _ in shared(pieces, Const(s), Const(parts))
            for i in range(value(lo), value(hi))
        ]
        for s in range(parts)
    ]
    assert [i for part in own for i in part] == every
    assert max(map(len, own)) == -(-len(every) // parts)


def test_the_merge_takes_a_row_an_instance():
    """The rows of a merge share nothing, and the tile of the queries is what it was."""
    cascade = scheduled("lse_output", 100)
    first, merge = lower(cascade, "triton", "f16").kernels
    assert first.grid[-1].tile > 1
    assert all(own.tile == 1 for own in merge.grid)


def test_the_parts_fill_the_machine():
    assert parts_for(instances=1, tiles=1024, processors=132) == 128
    assert parts_for(instances=8, tiles=1024, processors=132) == 16
    assert parts_for(instances=8, tiles=6, processors=132) == 3
    assert parts_for(instances=200, tiles=1024, processors=132) == 1
    assert parts_for(instances=0, tiles=0, processors=132) == 1


def test_known_extents_choose_a_split_and_unknown_ones_do_not():
    cascade = attnc.load(EXAMPLES / "attention.attn")["attention"]
    sizes = {"b": 1, "h": 4, "p": 1, "m": 65536, "e": 64, "f": 64}
    assert len(lower(cascade, "triton", "f16", sizes).kernels) == 2
    assert len(lower(cascade, "triton", "f16", {**sizes, "h": 200}).kernels) == 1
    del sizes["b"]
    assert len(lower(cascade, "triton", "f16", sizes).kernels) == 1


INSIDE = """
import json, sys
sys.path.insert(0, sys.argv[1])
import conftest, test_split
for line in sys.stdin:
    print(json.dumps(getattr(test_split, sys.argv[2])(line.strip())), flush=True)
"""


def wrong(name):
    """How far the Triton kernel is from float64, in units of the largest result."""
    name, *more = name.split(": ")
    verb = "share" if more else "split"
    cascade = odd(name, verb) if name in ODD else scheduled(name, 3, 16, verb, *more[1:])
    arrays = {n: a.astype(np.float32) if a.dtype.kind == "f" else a
              for n, a in drawn(cascade).items()}  # fmt: skip
    found = attnc.compile(cascade, "triton").run(arrays)
    reference = interpreter.run(cascade, arrays, EXACT)
    return max(relative_error(found[output] * 1.0, right) for output, right in reference.items())


def spilled(name):
    """Bytes that a thread of the kernels for sm_90 spills."""
    name, *more = name.split(": ")
    verb = "share" if more else "split"
    result = stages(scheduled(name, 100, 64, verb), "triton", dtype="f16")
    sizes = {rank: 64 for tensor in result.written.inputs for rank in tensor.ranks}
    kernels = launch.compile_kernels(
        result.source, result.program, target="sm_90", dtype="f16", sizes=sizes
    )
    return [kernel.spills for kernel in kernels]


def many(name):
    """Whether a kernel deals many rows out as NumPy does: more than it takes at a time."""
    rows, walkers = map(int, name.split())
    cascade = attnc.parse(
        "cascade c[b](X[m], len[b;]: int) -> Y[b;]:\n    Y[b] = sum[m where m < len[b]](X[m])\n"
        f"schedule c:\n    share m by {walkers}\n    tile m by 1\n"
    )["c"]
    draw = np.random.default_rng(0)
    arrays = {"X": draw.standard_normal((rows, 3), np.float32)}
    arrays["len"] = draw.integers(0, 4, rows).astype(np.int32)
    found, wanted = (attnc.compile(cascade, name).run(arrays)["Y"] for name in ("triton", "numpy"))
    return float(np.abs(found - wanted).max(initial=0))


def elsewhere(function, names, **environment):
    """The answers of a process of its own, since Triton decides on import how it runs."""
    pytest.importorskip("triton")
    folder = str(Path(__file__).parent)
    done = subprocess.run(
        [sys.executable, "-c", INSIDE, folder, function],
        input="".join(f"{name}\n" for name in names),
        capture_output=True,
        text=True,
        env={k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"} | environment,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return dict(zip(names, map(json.loads, done.stdout.splitlines()), strict=True))


def test_in_the_interpreter_of_triton():
    names = ["attention", "sink_window", "documents", "differential", "lse_output", "gqa", "paged"]
    names += [
        "varlen: shared",
        "documents: shared",
        "lse_output: shared: tile p by 4",
        "positions outside: shared",
    ]
    found = elsewhere("wrong", [*names, *ODD], TRITON_INTERPRET="1")
    assert not {name: error for name, error in found.items() if error > 1e-5}


def test_many_rows_in_the_interpreter_of_triton():
    found = elsewhere("many", ["1030 7", "1 128", "0 3"], TRITON_INTERPRET="1")
    assert not {name: error for name, error in found.items() if error > 1e-5}


def test_compiled_without_spills():
    names = ["attention", "window", "gqa", "paged", "lse_output", "paged: shared", "window: shared"]
    found = elsewhere("spilled", names)
    assert not {name: spills for name, spills in found.items() if any(spills)}


def attend(q, k, v):
    scores = np.einsum("...pe,...me->...pm", q, k)
    if scores.shape[-1] == 0:
        return np.zeros((*q.shape[:-1], v.shape[-1])), np.full(q.shape[:-1], -np.inf)
    top = scores.max(-1, keepdims=True)
    weights = np.exp(scores - top)
    total = weights.sum(-1, keepdims=True)
    return (weights / total) @ v, (top + np.log(total))[..., 0]


@settings(max_examples=40, deadline=None, derandomize=True)
@given(st.lists(st.integers(0, 9), min_size=1, max_size=6), st.integers(0, 10), st.randoms())
def test_merging_parts_in_any_order(lengths, seed, chance):
    draw = np.random.default_rng(seed)
    keys = sum(lengths)
    q, k, v = (draw.standard_normal((2, n, 4)) for n in (3, keys, keys))
    k *= 30
    ends = np.cumsum([0, *lengths])
    parts = [attend(q, k[:, a:b], v[:, a:b]) for a, b in pairwise(ends)]
    right, lse = attend(q, k, v)

    def close(found, want):
        both = np.isneginf(found) & np.isneginf(want)
        return np.abs(np.where(both, 0, found) - np.where(both, 0, want)).max() < 1e-12

    merged = attnc.merge_state(np.stack([o for o, _ in parts]), np.stack([x for _, x in parts]))
    assert close(merged[0], right)
    assert close(merged[1], lse)
    chance.shuffle(parts)
    while len(parts) > 1:
        place = chance.randrange(len(parts) - 1)
        parts[place : place + 2] = [attnc.merge_state(*parts[place], *parts[place + 1])]
    assert close(parts[0][0], right)
    assert close(parts[0][1], lse)


def test_merging_tensors_and_types():
    torch = pytest.importorskip("torch")
    draw = torch.Generator().manual_seed(0)
    o = torch.randn(3, 2, 5, 8, generator=draw).to(torch.float16)
    lse = torch.randn(3, 2, 5, generator=draw)
    merged, total = attnc.merge_state(o, lse)
    assert (merged.dtype, total.dtype) == (torch.float16, torch.float32)
    assert torch.allclose(total, torch.logsumexp(lse, 0), atol=1e-6)
    right = (torch.softmax(lse, 0)[..., None] * o.float()).sum(0)
    assert (merged.float() - right).abs().max() < 2e-3


def test_the_example_is_what_is_called():
    example = attnc.load(EXAMPLES / "merge_state.attn")["merge_state"]
    assert example == merging._kernel("numpy").cascade


@pytest.mark.parametrize("parts", [0, 3])
def test_nothing_in_any_part(parts):
    merged, lse = attnc.merge_state(np.ones((parts, 2, 4)), np.full((parts, 2), -np.inf))
    assert (merged == 0).all() and np.isneginf(lse).all()


def test_shapes_that_do_not_fit():
    with pytest.raises(attnc.CallError, match="do not fit"):
        attnc.merge_state(np.zeros((2, 3, 4)), np.zeros((2, 4)))
    with pytest.raises(attnc.CallError, match="different shapes"):
        attnc.merge_state(np.zeros((3, 4)), np.zeros(3), np.zeros((2, 4)), np.zeros(2))
    with pytest.raises(attnc.CallError, match="takes outputs"):
        attnc.merge_state(np.zeros((3, 4)))
    with pytest.raises(attnc.CallError, match="takes arrays or tensors, not int"):
        attnc.merge_state(1, 2)
