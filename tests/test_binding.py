"""Arguments that do not fit a cascade are refused by name, with both extents."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import attnc
from attnc.backends.binding import bind
from attnc.ir.params import with_params

TEXT = """cascade c[b](Q[p, e], K[m, e], len[b;]: int, keep[; m]: bool) -> O[p]:
    param width: int = 4
    rank w = width
    rank n = ceil(|m| / width)
    O[p] = Q[p, e] * K[m, e] where keep[m] and m < len[b]"""

CASCADE = attnc.parse(TEXT)["c"]


def arrays(**changed: Any) -> dict[str, Any]:
    fitting = {
        "Q": np.zeros((2, 3, 5), np.float32),
        "K": np.zeros((2, 7, 5), np.float32),
        "len": np.array([7, 2], np.int32),
        "keep": np.ones(7, np.bool_),
    }
    return {**fitting, **changed}


def test_extents_come_from_the_arrays_and_the_declarations() -> None:
    call = bind(CASCADE, (), arrays())
    assert call.extents == {"b": 2, "p": 3, "e": 5, "m": 7, "w": 4, "n": 2}
    assert call.params == {"width": 4}


def test_arguments_go_by_position_by_name_or_both() -> None:
    given = arrays()
    mixed = bind(CASCADE, (given["Q"], given["K"]), {"keep": given["keep"], "len": given["len"]})
    assert all(mixed.arrays[name] is given[name] for name in given), "no array is copied"


def test_strides_are_free() -> None:
    flipped = arrays(K=np.zeros((5, 7, 2), np.float32).T[:, ::-1])
    assert bind(CASCADE, (), flipped).arrays["K"] is flipped["K"]


REFUSED = {
    "an extent that two tensors see differently": (
        arrays(K=np.zeros((2, 7, 6), np.float32)),
        ("rank e", "5", "6", "Q[b, p, e]", "K[b, m, e]"),
    ),
    "a batch extent too": (arrays(len=np.zeros(3, np.int32)), ("rank b", "2", "3", "len")),
    "an axis too few": (arrays(Q=np.zeros((3, 5), np.float32)), ("Q[b, p, e]", "3", "(3, 5)")),
    "integers for floats": (arrays(Q=np.zeros((2, 3, 5), np.int32)), ("Q", "floating", "int32")),
    "floats for integers": (arrays(len=np.zeros(2)), ("len", "int", "float64")),
    "integers for truth values": (arrays(keep=np.ones(7, np.int8)), ("keep", "bool", "int8")),
    "truth values for integers": (arrays(len=np.ones(2, np.bool_)), ("len", "int", "bool")),
    "a list of rows that differ in length": (arrays(len=[[1], [2, 3]]), ("len", "no array")),
    "a name that is none": (arrays(Keep=np.ones(7, np.bool_)), ("Keep", "did you mean keep?")),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused(case: str) -> None:
    given, words = REFUSED[case]
    with pytest.raises(attnc.CallError) as caught:
        bind(CASCADE, (), given)
    for word in words:
        assert word in str(caught.value)


def test_what_is_missing_is_named() -> None:
    given = arrays()
    del given["K"], given["keep"]
    with pytest.raises(attnc.CallError, match="needs K, keep"):
        bind(CASCADE, (), given)


def test_an_input_given_twice_or_too_many_of_them() -> None:
    given = arrays()
    with pytest.raises(attnc.CallError, match="Q is given twice"):
        bind(CASCADE, (given["Q"],), given)
    with pytest.raises(attnc.CallError, match="takes 4 inputs, but 5"):
        bind(CASCADE, (*given.values(), 0), {})


@pytest.mark.parametrize(
    ("extent", "words"),
    [
        ("|m| - 8", "-1 positions"),
        ("|m| // (|p| - 3)", "divides by zero"),
        ("2 ** |m| ** 4", "more than"),
        ("2 ** |m| ** 5", "too large"),
        ("floor((2 - |p|) ** 0.5)", "no value"),
        ("floor(sqrt(2 - |p|))", "no value"),
    ],
)
def test_a_declared_extent_must_be_a_number_of_positions(extent: str, words: str) -> None:
    text = f"""cascade c(Q[p, e], K[m, e]) -> O[p]:
    rank j = {extent}
    T[p, j] = Q[p, e] * j
    O[p] = T[p, j]"""
    with pytest.raises(attnc.CallError, match=words):
        bind(attnc.parse(text)["c"], (np.zeros((3, 5)), np.zeros((7, 5))), {})


def test_parameters_are_checked_by_name_and_type() -> None:
    assert bind(with_params(CASCADE, {"width": 3}), (), arrays()).extents["n"] == 3
    with pytest.raises(attnc.CompileError, match="no parameter widht") as caught:
        with_params(CASCADE, {"widht": 3})
    assert "did you mean width?" in str(caught.value)
    for value in (2.5, True):
        with pytest.raises(attnc.CompileError, match="parameter width is int"):
            with_params(CASCADE, {"width": value})


def test_a_parameter_without_a_value_is_asked_for() -> None:
    text = """cascade c(X[m]) -> Y[m]:
    param W: int
    Y[m] = X[m] * W"""
    cascade = attnc.parse(text)["c"]
    with pytest.raises(attnc.CompileError, match="parameter W has no value"):
        bind(cascade, (np.zeros(3),), {})
    assert bind(with_params(cascade, {"W": 2}), (np.zeros(3),), {}).params == {"W": 2}
