"""Passes over every rank: the table of the published cascades, their renamings, near misses."""

from __future__ import annotations

import re
import time
from pathlib import Path

import pytest

import attnc
from attnc.ir.cascade import Cascade, Einsum, Left, Tensor
from attnc.ir.expr import Access, Index, Map
from attnc.ir.source import InvalidIR
from attnc.passes.count_passes import count_passes
from attnc.passes.depend import depend
from attnc.passes.normalise import normalise
from attnc.passes.report import analyze

EXAMPLES = Path(__file__).parent.parent / "examples"

PUBLISHED = {
    "two_pass_product": {"k": 2},
    "one_pass_product": {"k": 1},
    "one_pass_iterative": {"i": 1},
    "other_tensor": {"k": 1},
    "attention_unstable": {"m": 2, "p": 1, "e": 1, "f": 1, "b": 1, "h": 1},
    "attention_unstable_deferred": {"m": 1, "p": 1, "e": 1, "f": 1, "b": 1, "h": 1},
    "attention": {"m": 3, "p": 1, "e": 1, "f": 1, "b": 1, "h": 1},
    "attention_two_pass": {"m": 2, "p": 1, "e": 1, "f": 1, "b": 1, "h": 1},
    "attention_local_max": {"m": 2, "m1": 2, "m0": 3, "p": 1, "e": 1, "f": 1, "b": 1, "h": 1},
    "fusemax": {"m": 1, "m1": 1, "m0": 2, "p": 1, "e": 1, "f": 1, "b": 1, "h": 1},
}

KEYWORDS = {
    *("cascade", "rank", "param", "where", "int", "float", "bool", "and", "or", "not", "inf"),
    *("max", "sum", "exp", "sqrt", "ceil", "select"),
}


def only(text: str) -> Cascade:
    (cascade,) = attnc.parse(text).cascades.values()
    return cascade


def passes(text: str) -> dict[str, int]:
    return analyze(only(text)).passes


def renamed(text: str) -> tuple[str, dict[str, str]]:
    """Every name replaced by another that sorts the other way round and says nothing."""
    text = re.sub(r"#.*", "", text)
    names = sorted(set(re.findall(r"[A-Za-z_]\w*", text)) - KEYWORDS)
    new = {name: f"n{len(names) - at:03d}" for at, name in enumerate(names)}
    return re.sub(r"[A-Za-z_]\w*", lambda found: new.get(found[0], found[0]), text), new


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_cascades_have_the_published_passes(name: str) -> None:
    assert passes((EXAMPLES / f"{name}.attn").read_text()) == PUBLISHED[name]


@pytest.mark.parametrize("name", PUBLISHED)
def test_names_do_not_count(name: str) -> None:
    text, new = renamed((EXAMPLES / f"{name}.attn").read_text())
    assert passes(text) == {new[rank]: count for rank, count in PUBLISHED[name].items()}


CASES = {
    "a derived tensor is visited again as its source is": (
        """cascade c(A[k]) -> Z[]:
    Y[] = sum[k](A[k])
    B[k] = 2 * A[k]
    Z[] = Y[] * B[k]""",
        {"k": 2},
    ),
    "a tensor without the rank may wait for anything": (
        """cascade c(A[k], B[p]) -> Z[p]:
    Y[] = sum[k](A[k])
    Z[p] = Y[] * B[p]""",
        {"k": 1, "p": 1},
    ),
    "a reduction inside a quotient counts as one of its own": (
        """cascade c(N[p, m]) -> A[p, m]:
    A[p, m] = N[p, m] / sum[m](N[p, m])""",
        {"p": 1, "m": 2},
    ),
    "a primed variable runs over the same rank": (
        """cascade c(N[p, m]) -> A[p, m]:
    A[p, m] = N[p, m] / sum[m'](N[p, m'])""",
        {"p": 1, "m": 2},
    ),
    "reductions three deep": (
        """cascade c(S[m]) -> Z[]:
    Z[] = sum[m](exp(S[m] - max[m'](S[m'])) / sum[m'](exp(S[m'] - max[m''](S[m'']))))""",
        {"m": 3},
    ),
    "independent reductions share a pass": (
        """cascade c(A[k]) -> Z[]:
    X[] = max[k](A[k])
    Y[] = sum[k](A[k])
    Z[] = X[] * Y[]""",
        {"k": 1},
    ),
    "a prefix sum beside its own element is no barrier": (
        """cascade c(x[t]) -> Z[t]:
    C[t] = sum[j where j <= t](x[j])
    Z[t] = C[t] * x[t]""",
        {"t": 1},
    ),
    "a prefix sum of all but the element itself": (
        """cascade c(x[t]) -> Z[t]:
    C[t] = sum[j where t > j](x[j])
    Z[t] = C[t] * x[t]""",
        {"t": 1},
    ),
    "a sum over the whole rank is a barrier": (
        """cascade c(x[t]) -> Z[t]:
    C[] = sum[j](x[j])
    Z[t] = C[] * x[t]""",
        {"t": 2},
    ),
    "a prefix sum met by other elements is a barrier": (
        """cascade c(x[t]) -> Z[t]:
    C[t] = sum[j where j <= t](x[j])
    Z[t] = sum[j](C[t] * x[j])""",
        {"t": 2},
    ),
    "a limit behind the end of the rank limits nothing": (
        """cascade c(x[t]) -> Z[t]:
    C[t] = sum[j where j <= t + |t|](x[j])
    Z[t] = C[t] * x[t]""",
        {"t": 2},
    ),
    "a suffix sum of a prefix sum waits for everything": (
        """cascade c(x[t]) -> Z[t]:
    C[t] = sum[j where j <= t](x[j])
    B[t] = sum[j where j >= t](C[j])
    Z[t] = B[t] * x[t]""",
        {"t": 2},
    ),
    "rows that grow with t are whole fibers nevertheless": (
        """cascade c(A[t], B[t]) -> Z[t]:
    X[t, t'] = A[t] * B[t']
    G[t] = max[t' where t' <= t](X[t, t'])
    Z[t] = sum[t' where t' <= t](X[t, t'] * G[t])""",
        {"t": 2},
    ),
    "the last turn of an iteration is a barrier": (
        """cascade c(A[i]) -> Z[i]:
    Y[0] = 0
    Y[i+1] = Y[i] + A[i]
    Z[i] = Y[|i|] * A[i]""",
        {"i": 2},
    ),
    "its turn at hand is none": (
        """cascade c(A[i]) -> Z[i]:
    Y[0] = 0
    Y[i+1] = Y[i] + A[i]
    Z[i] = Y[i+1] * A[i]""",
        {"i": 1},
    ),
    "what an iteration held before this turn is none": (
        """cascade c(X[t, d]) -> Z[t, d]:
    Y[0] = 0
    Y[t+1] = Y[t] + sum[d](X[t, d])
    Z[t, d] = Y[t] * X[t, d]""",
        {"t": 1, "d": 1},
    ),
    "what it holds after this turn is one for the rank that the turn reduces": (
        """cascade c(X[t, d]) -> Z[t, d]:
    Y[0] = 0
    Y[t+1] = Y[t] + sum[d](X[t, d])
    Z[t, d] = Y[t+1] * X[t, d]""",
        {"t": 1, "d": 2},
    ),
    "choosing by value is a barrier": (
        """cascade c(S[m]) -> Z[]:
    rank j = 4
    I[j]: int = argtop[m](S[m])
    Z[] = S[I[j]]""",
        {"m": 2, "j": 1},
    ),
    "an order by value is one though it keeps the rank": (
        """cascade c(S[m]) -> Z[m]:
    R[m] = rankof[m](S[m])
    Z[m] = select(R[m] < 4, S[m], 0)""",
        {"m": 2},
    ),
    "a window is no partition": (
        """cascade c(Q[p], K[m]) -> Z[p]:
    rank w = 5
    S[p, w] = Q[p] * K[p + w - |w| // 2]
    G[p] = max[w](S[p, w])
    Z[p] = sum[w](exp(S[p, w] - G[p]))""",
        {"p": 1, "m": 1, "w": 2},
    ),
    "another partition order may be chosen": (
        """cascade c(K[m]) -> Z[m0]:
    rank m0 = 8
    rank m1 = ceil(|m| / 8)
    S[m1, m0] = K[m1 * 8 + m0]
    G[m0] = max[m1](S[m1, m0])
    Z[m0] = sum[m1](exp(S[m1, m0] - G[m0]))""",
        {"m": 1, "m0": 1, "m1": 2},
    ),
    "a table that is read through its page is read as often as the keys": (
        """cascade c(K[page, s], table[n]: int) -> Z[]:
    rank m = |n| * |s|
    Y[] = sum[m](K[table[m // |s|], m % |s|])
    Z[] = sum[m](Y[] * K[table[m // |s|], m % |s|])""",
        {"page": 1, "s": 2, "n": 2, "m": 2},
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_cases_and_near_misses(name: str) -> None:
    text, expected = CASES[name]
    assert passes(text) == expected


def test_barriers_tell_which_einsum_waits_for_which() -> None:
    report = analyze(attnc.load(EXAMPLES / "attention.attn")["attention"])
    chain = [
        (b.first.target, b.reader.target, b.tensor, b.dropped.target) for b in report.barriers["m"]
    ]
    assert chain == [("G", "N", "S", "G"), ("D", "A", "N", "D")]
    assert [e.target for e in report.barriers["m"][1].path] == ["D", "A"]
    assert report.barriers["p"] == ()
    assert report.barriers["m"][0].reader.span.text.startswith("N[p, m]")


def test_levels_are_the_earliest_pass_of_each_einsum() -> None:
    counts = count_passes(attnc.load(EXAMPLES / "attention.attn")["attention"])
    names = [einsum.target for einsum in counts.graph.cascade.einsums]
    levels = dict(zip(names, counts.ranks["m"].levels))
    assert levels == {"S": 1, "G": 1, "N": 2, "D": 2, "A": 3, "O": 3}


def test_normalise_leaves_what_is_normal() -> None:
    cascade = attnc.load(EXAMPLES / "attention.attn")["attention"]
    assert normalise(cascade) is cascade


def test_normalise_gives_each_reduction_a_name_once() -> None:
    cascade = only(
        """cascade c(S[p, m], A_max[p]) -> A[p, m]:
    A[p, m] = exp(S[p, m] - max[m'](S[p, m'])) + max[m'](S[p, m']) * A_max[p]"""
    )
    hoisted = normalise(cascade)
    assert [einsum.target for einsum in hoisted.einsums] == ["A_max2", "A"]
    assert hoisted.einsums[0].ranks == ("p",)
    assert normalise(hoisted) is hoisted


def test_a_cycle_within_one_turn_is_no_cascade() -> None:
    x = Tensor("X", ("k",))
    a = Einsum("A", (Left("k"),), Map("exp", (Access("B", (Index("k"),)),)))
    b = Einsum("B", (Left("k"),), Map("exp", (Access("A", (Index("k"),)),)))
    with pytest.raises(InvalidIR, match="depends on itself"):
        depend(Cascade("c", (), (x,), (Tensor("B", ("k",)),), (a, b)))


def chain(length: int) -> Cascade:
    lines = ["cascade c(X0[p, m], W[m]) -> Z[p, m]:"]
    for i in range(length // 4):
        lines += [
            f"    G{i}[p] = max[m](X{i}[p, m])",
            f"    N{i}[p, m] = exp(X{i}[p, m] - G{i}[p])",
            f"    D{i}[p] = sum[m](N{i}[p, m])",
            f"    X{i + 1}[p, m] = N{i}[p, m] / D{i}[p] * W[m]",
        ]
    lines.append(f"    Z[p, m] = X{length // 4}[p, m]")
    return only("\n".join(lines))


def test_a_long_chain_is_counted_in_time() -> None:
    cascade = chain(400)
    start = time.perf_counter()
    assert analyze(cascade).passes == {"p": 1, "m": 201}
    assert time.perf_counter() - start < 3


def test_a_partition_of_a_rank_that_is_also_read_whole() -> None:
    text = """cascade c(K[m]) -> Z[m]:
    rank m0 = 8
    rank m1 = ceil(|m| / 8)
    T[m1] = sum[m0](K[m1 * 8 + m0])
    R[0] = 0
    R[m1+1] = R[m1] + T[m1]
    Z[m] = K[m] * R[|m1|]"""
    assert passes(text) == {"m": 2, "m0": 1, "m1": 1}
    assert passes(text.replace("* R[|m1|]", "* 2")) == {"m": 1, "m0": 1, "m1": 1}
