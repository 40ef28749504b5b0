"""The emitted text: what is in it, and what must not be."""

from __future__ import annotations

import ast
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
from triton_programs import elementwise, flash, gated, m, paged

import attnc
from attnc.backends.triton_source import emit
from attnc.ir.expr import Const, Expr, Extent, Index, Map, Tile
from attnc.ir.source import CompileError, InvalidIR
from attnc.ir.tile import Compute, Loop, Program

X, Y = Tile("x", ("i",)), Tile("y", ("i",))


@pytest.mark.parametrize("program", [flash(), flash(causal=True), gated(), paged()])
def test_a_module_needs_only_torch_and_triton(program: Program) -> None:
    tree = ast.parse(emit(program, "heading"))
    names = {
        alias.name.split(".")[0]
        for node in ast.walk(tree)
        if isinstance(node, ast.Import)
        for alias in node.names
    } | {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert names <= {"torch", "triton", "math", "collections"}
    assert max(map(len, emit(program, "heading").splitlines())) <= 100


def test_the_heading_is_the_docstring_whatever_it_holds() -> None:
    heading = 'a \\ b """ c\n  indented \\n'
    assert ast.get_docstring(ast.parse(emit(flash(), heading)), clean=False) == heading + "\n"


def test_matrices_computed_in_float32_are_multiplied_more_exactly_than_the_inputs_are() -> None:
    (function,) = (
        node
        for node in ast.parse(emit(flash(), "")).body
        if isinstance(node, ast.FunctionDef) and node.name == "_precision"
    )
    scope: dict[str, Any] = {}
    exec(ast.unparse(function), scope)

    def on(device: str, *sizes: int) -> str:
        kind = SimpleNamespace(type=device)
        inputs = [SimpleNamespace(element_size=lambda s=s: s, device=kind) for s in sizes]
        return str(scope["_precision"](*inputs))

    assert on("cuda", 2, 2, 1) == "bf16x3"
    assert on("cuda", 2, 4) == on("cuda", 8) == on("cpu", 2) == on("cuda") == "tf32x3"


GATES = """
cascade c(g[t, d], h[t, d]) -> O[t, d]:
    rank s = |t|
    L[t, d] = GATE
    W[t, s] = MASK
    O[t, d] = sum[s](W[t, s] * L[s, d])
"""


@pytest.mark.parametrize(
    ("gate", "mask", "narrow"),
    [
        ("max(g[t, d], -64)", "select(s < t, 1.0, 0.0)", True),
        ("select(g[t, d] > 0, -abs(g[t, d]), 0.5)", "select(s < t, 0.25, -1.0)", True),
        ("min(g[t, d], 3.0)", "select(s < t, 1.0, 0.0)", False),
        ("g[t, d] * 2", "select(s < t, 1.0, 0.0)", False),
        ("max(g[t, d], h[t, d])", "select(s < t, 1.0, 0.0)", False),
        ("max(g[t, d], -65536)", "select(s < t, 1.0, 0.0)", False),
        ("max(g[t, d], -64)", "select(s < t, 1 / (1 + t - s), 0.0)", False),
    ],
)
def test_values_chosen_from_an_input_are_multiplied_in_its_type(
    gate: str, mask: str, narrow: bool
) -> None:
    """Near misses: numbers that float16 rounds or lacks, results of arithmetic, two inputs."""
    text = GATES.replace("GATE", gate).replace("MASK", mask)
    own = attnc.parse(text if "h[" in gate else text.replace(", h[t, d]", ""))["c"]
    source = attnc.compile(own, backend="triton").source
    assert ("_ptr.dtype.element_ty)" in source) is narrow


def test_a_product_added_to_the_state_goes_into_the_dot() -> None:
    text = emit(flash(), "")
    assert text.count("T = tl.dot(N.to(V.dtype), V, T * keep[:, None]") == 2


def test_a_product_that_is_read_twice_does_not() -> None:
    program = flash()
    kernel = program.kernels[0]
    loop = kernel.body[1]
    assert isinstance(loop, Loop)
    again = Compute("again", ("p", "f"), m("neg", Tile("NV", ("p", "f"))))
    segments = tuple(replace(s, body=(*s.body, again)) for s in loop.segments)
    body = (kernel.body[0], replace(loop, segments=segments), *kernel.body[2:])
    text = emit(replace(program, kernels=(replace(kernel, body=body),)), "")
    assert "T * keep[:, None] + NV" in text


def test_state_that_is_still_read_keeps_its_name_until_the_end_of_the_body() -> None:
    text = emit(flash(), "")
    assert text.index("G_next = tl.maximum(G") < text.index("tl.exp2(G - base)")
    assert "        G = G_next\n" in text


def test_full_tiles_test_no_position() -> None:
    text = emit(flash(causal=True), "")
    full = text[text.index("# Full") : text.index("# Partial")]
    assert "<" not in full
    assert "m[None, :] <= p[:, None]" in text


@pytest.mark.parametrize(
    ("body", "found"),
    [
        (m("//", Index("i"), Const(4)), "i // 4"),
        (m("//", m("-", Index("i"), Const(4)), Const(4)), "floor_quotient(i - 4, 4)"),
        (m("%", m("-", Index("i"), Extent("i")), Const(4)), "floor_remainder(i - i_size, 4)"),
        (m("-", X, m("-", Y, X)), "x - (y - x)"),
        (m("/", X, m("*", Y, X)), "x / (y * x)"),
        (m("neg", m("+", X, Y)), "-(x + y)"),
        (m("max", X, Y, Const(0.0)), "tl.maximum(tl.maximum(x, y), 0.0)"),
        (m("/", Index("i"), Extent("i")), "tl.cast(i, REAL) / tl.cast(i_size, REAL)"),
        (
            m("select", m("and", m("<", X, Y), m("not", m("==", X, Y))), X, Y),
            "tl.where((x < y) & (x != y), x, y)",
        ),
    ],
)
def test_expressions(body: Expr, found: str) -> None:
    assert f"z = {found}\n" in emit(elementwise(body), "")


def test_a_helper_stands_there_only_if_it_is_called() -> None:
    assert "def expm1(" in emit(elementwise(m("tanh", X)), "")
    assert "def expm1(" not in emit(elementwise(m("exp", X)), "")


def test_names_that_python_or_triton_own_are_not_taken() -> None:
    program = elementwise(X)
    kernel = program.kernels[0]
    *loads, compute, store = kernel.body
    renamed = (replace(compute, name="tl"), replace(store, source=Tile("tl", ("i",))))
    body = (*loads, *renamed)
    text = emit(replace(program, kernels=(replace(kernel, body=body),)), "")
    assert "tl_2 = x\n" in text
    ast.parse(text)


def test_a_tile_that_nothing_made_is_our_fault() -> None:
    with pytest.raises(InvalidIR, match="nowhere"):
        emit(elementwise(Map("+", (X, Tile("nowhere", ("i",))))), "")


def test_a_tile_that_triton_cannot_hold_is_refused_by_name() -> None:
    emit(flash(1024, 1024), "")
    with pytest.raises(CompileError, match=r"S would be a tile of at least 2097152 elements"):
        emit(flash(2048, 1024), "")


def test_strides_of_buffers_are_known_as_far_as_extents_are() -> None:
    """The state of every chunk is stored: its rows lie f apart, in a kernel that knows f."""
    text = (
        "cascade c[b](Q[t, d], K[t, d], V[t, f]) -> O[t, f]:\n"
        "    S[0, d, f] = 0\n"
        "    S[t+1, d, f] = S[t, d, f] + K[t, d] * V[t, f]\n"
        "    O[t, f] = Q[t, d] * S[t+1, d, f]\n"
        "\nschedule c:\n    parallel t\n    tile t by 16\n"
    )
    source = attnc.compile(attnc.parse(text)["c"], backend="triton").source
    (sweep,) = (part for part in source.split("@triton.jit") if "def c_1_kernel(" in part)
    assert "S_kept_stride_b" in sweep and "S_kept_stride_t1" not in sweep
    assert "+ d[:, None] * f_size\n            + f[None, :]," in sweep
    assert "*S_kept.stride()[:1]," in source
