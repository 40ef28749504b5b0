"""The callable that a compilation gives, and the record that `verify` gives."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import attnc
from attnc.passes.normalise import normalise
from attnc.sampling import default_sizes, sample
from attnc.verification import compare, relative_error

PAIR = """\
cascade pair[b](X[p, m], t[;]) -> D[p], G[p]:
    D[p] = t[] * X[p, m]
    G[p] = max[m](X[p, m])
"""
ODD = (
    "cascade odd(self[p], args[p], file[p]) -> kwargs[p]:\n"
    "    kwargs[p] = self[p] + args[p] + file[p]\n"
)
CPU = ("interpreter", "numpy")


@pytest.fixture(params=CPU)
def pair(request: pytest.FixtureRequest) -> object:
    return attnc.compile(attnc.parse(PAIR)["pair"], backend=request.param)


def test_arrays_give_a_named_tuple_of_arrays(pair: attnc.calling.Compiled) -> None:
    x = np.random.default_rng(0).standard_normal((2, 5, 7), dtype=np.float32)
    found = pair(x, np.float32(2))
    assert found._fields == ("D", "G")
    np.testing.assert_allclose(found.D, 2 * x.sum(-1), atol=1e-5)
    np.testing.assert_array_equal(found.G, x.max(-1))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_tensors_give_tensors_of_their_type(
    pair: attnc.calling.Compiled, dtype: torch.dtype
) -> None:
    x = torch.randn(2, 7, 5, generator=torch.Generator().manual_seed(0)).to(dtype).mT
    found = pair(X=x, t=2.0)
    assert {part.dtype for part in found} == {dtype}
    tolerance = 2 * torch.finfo(dtype).eps * 7
    torch.testing.assert_close(found.D, 2 * x.sum(-1), atol=tolerance, rtol=tolerance)


def test_tensors_are_read_in_place_and_may_want_gradients() -> None:
    kernel = attnc.compile(attnc.parse(PAIR)["pair"])
    x = torch.ones(1, 2, 3, requires_grad=True)
    assert kernel(x, 1).D.tolist() == [[3.0, 3.0]]


@pytest.mark.parametrize("backend", CPU)
def test_words_of_python_are_names(backend: str) -> None:
    text = (
        "cascade lambda(def[for]) -> None[for], _y[for]:\n"
        "    None[for] = def[for] + 1\n"
        "    _y[for]   = def[for] - 1\n"
    )
    kernel = attnc.compile(attnc.parse(text)["lambda"], backend=backend)
    assert [part.tolist() for part in kernel(np.ones(2))] == [[2, 2], [0, 0]]


@pytest.mark.parametrize("backend", CPU)
def test_any_name_is_a_name(backend: str) -> None:
    kernel = attnc.compile(attnc.parse(ODD)["odd"], backend=backend)
    one = np.ones(3, np.float32)
    assert kernel(**{"self": one, "args": one, "file": one}).tolist() == [3, 3, 3]


def test_what_does_not_fit_is_a_call_error(pair: attnc.calling.Compiled) -> None:
    x = np.ones((2, 5, 7), np.float32)
    for args, named in [
        ((x,), {}),
        ((x, 1.0, 2.0), {}),
        ((x, 1.0), {"X": x}),
        ((x[0], 1.0), {}),
        ((x.astype(int), 1.0), {}),
        (("text", 1.0), {}),
        ((torch.ones(2, 5, 7, device="meta"), 1.0), {}),
    ]:
        with pytest.raises(attnc.CallError):
            pair(*args, **named)


def test_counters_are_those_of_the_last_call() -> None:
    kernel = attnc.compile(attnc.parse(PAIR)["pair"])
    assert kernel.program is not None and kernel.source
    for extent in (4, 8):
        kernel(np.ones((1, 2, extent), np.float32), 1.0)
        assert kernel.counters.bytes_read >= 4 * 2 * extent
        assert kernel.counters.bytes_written == 4 * 4


def test_an_unknown_backend_or_a_module_is_a_call_error() -> None:
    module = attnc.parse(PAIR)
    with pytest.raises(attnc.CallError, match="interpreter, numpy, triton"):
        attnc.compile(module["pair"], backend="cuda")
    with pytest.raises(attnc.CallError, match="takes a cascade"):
        attnc.compile(module)


def test_parameters_are_numbers_of_the_language() -> None:
    text = (
        "cascade c(X[p]) -> Y[p]:\n"
        "    param W: int = 3\n"
        "    param F: float = 1\n"
        "    Y[p] = X[p] * W * F\n"
    )
    cascade = attnc.parse(text)["c"]
    kernel = attnc.compile(cascade, W=np.int64(2), F=np.float32(0.5))
    assert kernel(np.ones(2, np.float32)).tolist() == [1, 1]
    for name, value in (("W", 2**63), ("F", 10**400), ("F", float("nan")), ("W", True)):
        with pytest.raises(attnc.CompileError, match=name):
            attnc.compile(cascade, **{name: value})


@pytest.mark.parametrize("sizes", [{"m": -1}, {"m": 1.5}])
def test_verify_wants_extents_of_ranks(sizes: dict[str, int]) -> None:
    with pytest.raises(attnc.CallError, match="m"):
        attnc.verify(attnc.parse(PAIR)["pair"], sizes)


def test_a_number_that_has_no_room_is_a_call_error() -> None:
    cascade = attnc.parse("cascade c(n[k]: int) -> s[]: int:\n    s[] = sum[k](n[k])\n")["c"]
    with pytest.raises(attnc.CallError, match="too large"):
        attnc.compile(cascade)(np.full(3, 2**30, np.int32))


@pytest.mark.parametrize("backend", CPU)
@pytest.mark.parametrize(
    "body", ["max(x, y) + log1p(exp(-abs(x - y)))", "x + log1p(exp(y - x))", "log(exp(x) + exp(y))"]
)
def test_an_own_reduction_whose_identity_is_no_operand(backend: str, body: str) -> None:
    """Two of the three bodies are not a number at minus infinity; all mean the same."""
    text = (
        f"def lse reduce(x, y) = {body} identity -inf\n"
        "cascade c(X[k]) -> Y[k], Z[]:\n"
        "    Y[k] = lse[j where j < k](X[j])\n"
        "    Z[]  = lse[k](X[k])\n"
    )
    x = np.random.default_rng(0).standard_normal(70)
    found = attnc.compile(attnc.parse(text)["c"], backend=backend)(x)
    prefix = np.logaddexp.accumulate(x)
    np.testing.assert_allclose(found.Y, [-np.inf, *prefix[:-1]], rtol=1e-9)
    np.testing.assert_allclose(found.Z, prefix[-1], rtol=1e-9)


def test_a_reduction_is_guarded_only_where_its_identity_hurts() -> None:
    text = (
        "def lse reduce(x, y) = {} identity -inf\ncascade c(X[k]) -> Y[]:\n    Y[] = lse[k](X[k])\n"
    )
    for body, guarded in (("log(exp(x) + exp(y))", False), ("x + log1p(exp(y - x))", True)):
        cascade = attnc.parse(text.format(body))["c"]
        assert (normalise(cascade).reductions != cascade.reductions) == guarded
        assert normalise(normalise(cascade)) == normalise(cascade)


@pytest.mark.parametrize("backend", CPU)
def test_integers_have_negative_powers(backend: str) -> None:
    text = "cascade c(X[p]) -> Y[p]:\n    Y[p] = X[p] * 2 ** -1 + |p| ** -2\n"
    kernel = attnc.compile(attnc.parse(text)["c"], backend=backend)
    assert kernel(np.ones(2)).tolist() == [0.75, 0.75]


@pytest.mark.parametrize("backend", CPU)
@pytest.mark.parametrize(
    ("name", "dtype"),
    [
        ("f16", torch.float16), ("bf16", torch.bfloat16),
        ("f8e4m3", torch.float8_e4m3fn), ("f8e5m2", torch.float8_e5m2),
    ],
)  # fmt: skip
def test_a_cast_rounds_as_torch_does(backend: str, name: str, dtype: torch.dtype) -> None:
    text = f"cascade c(X[p]) -> Y[p]:\n    Y[p] = cast(X[p], {name})\n"
    x = (
        torch.randn(500, generator=torch.Generator().manual_seed(0))
        * 2.0 ** torch.arange(-20, 5)[torch.arange(500) % 25]
    )
    found = attnc.compile(attnc.parse(text)["c"], backend=backend)(x)
    assert torch.equal(found, x.to(dtype).float())


NARROW = {"bf16": torch.bfloat16, "f8e4m3": torch.float8_e4m3fn, "f8e5m2": torch.float8_e5m2}


@pytest.mark.parametrize("backend", CPU)
@pytest.mark.parametrize("name", NARROW)
def test_an_output_of_a_type_that_numpy_lacks(backend: str, name: str) -> None:
    """A tensor of it, or an array of float32 that holds what it can hold."""
    cascade = attnc.parse(f"cascade c(X[p]) -> Y[p]: {name}:\n    Y[p] = X[p]\n")["c"]
    kernel = attnc.compile(cascade, backend=backend)
    x = torch.linspace(-3, 3, 50)
    wanted = x.to(NARROW[name])
    assert kernel(x).dtype == NARROW[name]
    assert np.array_equal(kernel(x.numpy()), wanted.float().numpy())


def test_errors_are_relative_to_the_largest_value() -> None:
    truth = np.array([4.0, 1e-9, -np.inf])
    assert relative_error(np.array([4.0, 2e-9, -np.inf]), truth) == pytest.approx(2.5e-10)
    assert relative_error(np.array([4.0, 0.0, 0.0]), truth) == np.inf
    assert relative_error(np.array([4.0, np.nan, -np.inf]), truth) == np.inf
    assert relative_error(np.array([4.0]), truth) == np.inf
    assert relative_error(np.zeros(2), np.zeros(2)) == 0


def test_a_wrong_backend_is_found_and_a_refusal_is_no_agreement() -> None:
    truth = {"Y": np.ones(3)}

    def refuse() -> dict[str, np.ndarray]:
        raise attnc.CompileError("no such thing")

    (right,) = compare("a", lambda: {"Y": np.ones(3)}, truth, {"Y": 1e-5})
    (wrong,) = compare("a", lambda: {"Y": np.array([1, 1, 1.1])}, truth, {"Y": 1e-5})
    (refused,) = compare("a", refuse, truth, {"Y": 1e-5})
    (skipped,) = compare("a", "no GPU", truth, {"Y": 1e-5})
    assert [right.ok, wrong.ok, refused.ok, skipped.ok] == [True, False, False, True]


def test_random_inputs_point_where_they_may() -> None:
    text = (
        "cascade paged(Kc[page, s], table[j]: int, len[;]: int, doc[m]: int) -> Y[m]:\n"
        "    Y[m] = Kc[table[m // |s|], m % |s|] where m < len[] and doc[m] == 1\n"
    )
    cascade = attnc.parse(text)["paged"]
    sizes = default_sizes(cascade)
    arrays = sample(cascade, sizes)
    assert arrays["table"].min() >= 0 and arrays["table"].max() < sizes["page"]
    assert 1 <= arrays["len"] <= sizes["m"]
    assert set(arrays["doc"]) <= {0, 1, 2}
