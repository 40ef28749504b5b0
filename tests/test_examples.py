"""Every example is a cascade with the passes that its paper gives it, and is listed."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest

import attnc
from attnc.ir.cascade import Cascade
from attnc.passes.report import analyze

EXAMPLES = Path(__file__).parent.parent / "examples"

# Ranks with more than one pass as written; every other rank has one.
PASSES = {
    "abs_normalised": {"m": 2},
    "alibi": {"m": 3},
    "attention": {"m": 3},
    "attention_local_max": {"m": 2, "m1": 2, "m0": 3},
    "attention_two_pass": {"m": 2},
    "attention_unstable": {"m": 2},
    "attention_unstable_deferred": {},
    "causal": {"m": 3},
    "column_normalised": {"p": 3},
    "cosine": {"m": 3},
    "cumulative": {},
    "delta_rule": {"d": 2},
    "differential": {"m": 3},
    "documents": {"m": 3},
    "dropout": {"m": 3},
    "exp2_attention": {"m": 3},
    "fusemax": {"m0": 2},
    "gla": {},
    "decode": {"m": 3, "n": 3, "s": 3},
    "gqa": {"m": 3},
    "learned_sink": {"m": 3},
    "linear_attention": {},
    "lse_output": {"m": 3},
    "matmul": {},
    "merge_state": {"s": 3},
    "one_pass_iterative": {},
    "one_pass_product": {},
    "other_tensor": {},
    "paged": {"m": 3, "n": 3, "s": 3},
    "power_max": {"m": 3},
    "probabilities": {"m": 3},
    "retention": {},
    "rmsnorm": {"d": 2},
    "sigmoid": {},
    "sink_window": {"m": 3},
    "softcap": {"m": 3},
    "softmax1": {"m": 3},
    "tanh_scores": {"m": 2},
    "topk": {"m": 2, "j": 3},
    "two_pass_product": {"k": 2},
    "varlen": {"m": 3},
    "window": {"m": 3},
}


def example(name: str) -> Cascade:
    (cascade,) = attnc.load(EXAMPLES / f"{name}.attn").cascades.values()
    return cascade


def test_every_example_has_its_row() -> None:
    assert {path.stem for path in EXAMPLES.glob("*.attn")} == set(PASSES)


@pytest.mark.parametrize("name", PASSES)
def test_passes_as_written(name: str) -> None:
    counts = analyze(example(name)).passes
    assert {rank: count for rank, count in counts.items() if count > 1} == PASSES[name]


@pytest.mark.parametrize("name", PASSES)
def test_an_example_prints_as_itself(name: str) -> None:
    cascade = example(name)
    assert attnc.parse(str(cascade))[cascade.name] == cascade


@pytest.mark.parametrize("name", PASSES)
def test_every_quantity_has_a_number(name: str) -> None:
    cascade = example(name)
    ranks = {rank for tensor in cascade.inputs for rank in tensor.ranks}
    report = analyze(cascade).at(dict.fromkeys(ranks, 12))
    for value in (report.flops, report.bytes, *report.footprint.values()):
        assert isinstance(value, int) and value >= 0
    assert set(report.footprint) == set(report.passes)


def test_the_page_of_examples_is_current() -> None:
    table = runpy.run_path(str(EXAMPLES / "table.py"))["table"]
    assert (EXAMPLES / "README.md").read_text(encoding="utf-8") == table()
