"""Operations, traffic and live footprint against counts made by hand and by enumeration."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
import sympy

import attnc
from attnc.passes.report import Report, analyze
from attnc.passes.symbolic import extent_symbol

EXAMPLES = Path(__file__).parent.parent / "examples"
SIZES = {"b": 2, "h": 3, "p": 10, "m": 30, "e": 4, "f": 5}


def report(name: str) -> Report:
    (cascade,) = attnc.load(EXAMPLES / f"{name}.attn").cascades.values()
    return analyze(cascade)


def of(text: str) -> Report:
    (cascade,) = attnc.parse(text).cascades.values()
    return analyze(cascade)


def symbols(names: str) -> list[sympy.Symbol]:
    return [extent_symbol(name) for name in names.split()]


def test_attention_costs_what_the_paper_counts() -> None:
    found = report("attention")
    b, h, p, m, e, f = symbols("b h p m e f")
    points = b * h * p * m
    expected = {
        "multiply-add": points * (e + f),
        "multiply": 0,
        "add": 2 * points,
        "max": points,
        "exp": points,
        "divide": 2 * points,
        "other": 0,
    }
    assert {k: sympy.expand(v - found.operations[k]) for k, v in expected.items()} == dict.fromkeys(
        expected, 0
    )
    assert sympy.expand(found.flops - points * (2 * e + 2 * f + 6)) == 0
    assert sympy.expand(found.bytes - 4 * b * h * (p * e + m * e + m * f + p * f)) == 0
    assert sympy.simplify(found.intensity - found.flops / found.bytes) == 0
    assert not found.bounded


def test_each_einsum_by_itself() -> None:
    costs = {cost.einsum.target: cost for cost in report("attention").at(SIZES).einsums}
    assert costs["S"].operations == {"multiply-add": 2 * 3 * 10 * 30 * 4, "divide": 2 * 3 * 300}
    assert costs["G"].bytes_read == 4 * 2 * 3 * 300
    assert costs["G"].bytes_written == 4 * 2 * 3 * 10
    assert costs["N"].bytes == 4 * 2 * 3 * (300 + 10 + 300)


def test_numbers_are_integers_and_what_is_unknown_stays() -> None:
    found = report("attention").at(SIZES)
    assert type(found.flops) is int and found.flops == 6 * 300 * (8 + 10 + 6)
    assert type(found.intensity) is float
    partly = report("attention").at({"b": 1, "h": 1})
    assert {str(symbol) for symbol in partly.flops.free_symbols} == {"p", "m", "e", "f"}


def test_types_have_their_widths() -> None:
    found = of("cascade c(A[k]: f16, I[k]: int, M[k]: bool) -> Z[k]: f64:\n"
               "    Z[k] = select(M[k], A[k], I[k])")  # fmt: skip
    assert found.at({"k": 10}).bytes == 10 * (2 + 4 + 1 + 8)


def test_an_input_that_nothing_reads_is_not_moved() -> None:
    assert of("cascade c(A[k], B[k]) -> Z[k]:\n    Z[k] = A[k]").at({"k": 10}).bytes == 80


def test_a_factor_that_does_not_vary_is_applied_behind_the_sum() -> None:
    found = of("cascade c(A[p, m], D[p]) -> Z[p]:\n    Z[p] = sum[m](A[p, m] / D[p])")
    numbers = found.at({"p": 7, "m": 11}).operations
    assert (numbers["add"], numbers["divide"]) == (77, 7)


MASKS = [
    "m <= p",
    "m < p",
    "p >= m",
    "m <= p + |m| - |p|",
    "p - 3 < m and m <= p",
    "m - p < 4 and p - m < 2",
    "m < 4",
    "2 <= m and m < 6",
    "m + 3 < |m|",
    "m <= p - 4",
]


@pytest.mark.parametrize("mask", MASKS)
def test_points_of_a_mask_are_counted_exactly(mask: str) -> None:
    found = of(f"cascade c(A[p], B[m]) -> Z[p, m]:\n    Z[p, m] = A[p] * B[m] where {mask}")
    assert not found.bounded
    for p, m in itertools.product((1, 2, 5, 9), repeat=2):
        python = mask.replace("|m|", str(m)).replace("|p|", str(p))
        expected = sum(
            eval(python, {"p": i, "m": j})  # our own text above
            for i in range(p)
            for j in range(m)
        )
        assert found.at({"p": p, "m": m}).operations["multiply"] == expected, (p, m)


@pytest.mark.parametrize("mask", ["m <= p and m + p < 7", "m * p < 5", "T[p] == T[m]"])
def test_points_without_a_closed_form_are_bounded(mask: str) -> None:
    found = of(
        f"cascade c(A[p], B[m], T[m]: int) -> Z[p, m]:\n    Z[p, m] = A[p] * B[m] where {mask}"
    )
    assert found.bounded
    assert found.at({"p": 6, "m": 8}).operations["multiply"] <= 48


def test_a_mask_holds_for_what_is_made_from_the_masked() -> None:
    numbers = report("causal").at({**SIZES, "p": 8, "m": 8}).operations
    assert numbers["exp"] == 6 * 36
    assert numbers["multiply-add"] == 6 * 36 * (4 + 5)


def test_a_partition_has_the_points_of_its_rank() -> None:
    m, p, e, f = symbols("m p e f")
    b, h = symbols("b h")
    found = report("fusemax")
    assert sympy.expand(found.operations["multiply-add"] - b * h * p * m * (e + f)) == 0
    assert not found.bounded


FOOTPRINTS = {
    "attention": {"m": "m", "p": "1"},
    "attention_two_pass": {"m": "m"},
    "attention_unstable_deferred": {"m": "1"},
    "differential": {"m": "2*m"},
    "fusemax": {"m": "M0", "m1": "M0", "m0": "M0"},
    "attention_local_max": {"m": "m", "m1": "m", "m0": "M0"},
    "other_tensor": {"k": "1"},
    "two_pass_product": {"k": "k"},
}


@pytest.mark.parametrize("name", FOOTPRINTS)
def test_footprint(name: str) -> None:
    found = report(name).footprint
    assert {rank: str(found[rank]) for rank in FOOTPRINTS[name]} == FOOTPRINTS[name]


def test_footprint_in_numbers() -> None:
    assert report("fusemax").at({**SIZES, "m": 4096}).footprint["m"] == 256
    assert report("fusemax").at({**SIZES, "m": 4096}, {"M0": 64}).footprint["m"] == 64
