"""Text to cascade and back: what each form of the language becomes."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import attnc
from attnc.ir.cascade import Cascade, Directive, Einsum, Left, RankDecl, Tensor
from attnc.ir.expr import (
    Access,
    Cast,
    Const,
    Expr,
    Extent,
    Index,
    Map,
    Param,
    Populate,
    Reduce,
)
from attnc.ir.print_expr import print_expr
from attnc.ir.source import InvalidIR
from attnc.ir.verify import verify_cascade

ROOT = Path(__file__).resolve().parent.parent

HEADER = (
    "cascade c[b, h](X[p, e], Z[p], N[p, m], K[m, e], I[p, j]: int, doc[b; m]: int, slope[h;], "
    "table[; p, m], tau[;], len[b;]: int, keep[p, m]: bool) -> Y[p]:\n"
    "    param W: int = 4\n"
    "    param P: float = 0.5\n"
)
"""Everything that an expression can speak of."""

p, m, e, b, h = map(Index, "pmebh")


def cascade(statements: str, header: str = HEADER) -> Cascade:
    lines = "".join(f"    {line}\n" for line in statements.split("\n"))
    return attnc.parse(header + lines)["c"]


def statement(text: str) -> Einsum:
    """The Einsum of one statement, after which the output is assigned."""
    return cascade(f"{text}\nY[p] = Z[p]").einsums[0]


def body(text: str) -> Expr:
    """An expression over p."""
    return statement(f"T[p] = {text}").body


def batched(tensor: str, *subscripts: Expr) -> Access:
    return Access(tensor, (b, h, *subscripts))


Zp = batched("Z", p)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1_000", Const(1000)),
        ("0x10", Const(16)),
        ("1e-6", Const(1e-6)),
        ("-1", Const(-1)),
        ("-(1)", Map("neg", (Const(1),))),
        ("--1", Map("neg", (Const(-1),))),
        ("-inf", Const(float("-inf"))),
        ("W", Param("W")),
        ("|m|", Extent("m")),
        ("|m'|", Extent("m")),
        ("Z[p]", Zp),
        ("Z[b, h, p]", Zp),
        ("Z[p - 1]", batched("Z", Map("-", (p, Const(1))))),
        ("len[]", Access("len", (b,))),
        ("len[b]", Access("len", (b,))),
        ("tau[]", Access("tau", ())),
        ("slope[h] * p", Map("*", (Access("slope", (h,)), p))),
        ("Z[I[p, 0]]", batched("Z", batched("I", p, Const(0)))),
        ("cast(Z[p], f16)", Cast("f16", Zp)),
        ("max(1, 2, 3)", Map("max", (Const(1), Const(2), Const(3)))),
        ("Z[p] - 1 - 2", Map("-", (Map("-", (Zp, Const(1))), Const(2)))),
        ("2 ** p ** 3", Map("**", (Const(2), Map("**", (p, Const(3)))))),
        ("-p ** 2", Map("neg", (Map("**", (p, Const(2))),))),
        ("2 ** -p", Map("**", (Const(2), Map("neg", (p,))))),
        ("p // 2 % 3 * 4", Map("*", (Map("%", (Map("//", (p, Const(2))), Const(3))), Const(4)))),
        ("sum[m](N[p, m])", Reduce("sum", ("m",), batched("N", p, m))),
        (
            "sum[m where m <= p](N[p, m])",
            Reduce("sum", ("m",), batched("N", p, m), Map("<=", (m, p))),
        ),
        ("argmax[m](N[p, m])", Populate("argmax", "m", batched("N", p, m))),
        (
            "select(p < 3 and not keep[p, 0] or true, 1, 2)",
            Map(
                "select",
                (
                    Map(
                        "or",
                        (
                            Map(
                                "and",
                                (
                                    Map("<", (p, Const(3))),
                                    Map("not", (batched("keep", p, Const(0)),)),
                                ),
                            ),
                            Const(True),
                        ),
                    ),
                    Const(1),
                    Const(2),
                ),
            ),
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_an_expression(text: str, expected: Expr) -> None:
    assert body(text) == expected


@pytest.mark.parametrize(
    ("text", "summed", "rest"),
    [
        ("T[p] = N[p, m]", ("m",), None),
        ("T[p, m] = N[p, m]", (), None),
        ("T[p] = N[p, m] / sum[m](N[p, m])", ("m",), None),
        ("T[p] = X[p, e] * K[m, e]", ("e", "m"), None),
        ("T[p, q] = I[p, q]", (), None),
    ],
)
def test_a_rank_on_the_right_alone_is_summed_over_the_whole_right_side(
    text: str, summed: tuple[str, ...], rest: None
) -> None:
    found = statement(text).body
    ranks = found.ranks if isinstance(found, Reduce) and found.op == "sum" else ()
    assert ranks == summed


def test_a_predicate_over_the_left_masks_and_one_over_a_summed_rank_restricts() -> None:
    found = statement("S[p, m] = X[p, e] * K[m, e] where m <= p and e < W and p < 9")
    assert found.where == Map("and", (Map("<=", (m, p)), Map("<", (p, Const(9)))))
    assert isinstance(found.body, Reduce)
    assert found.body.where == Map("<", (e, Param("W")))


def test_a_predicate_stays_whole_where_nothing_is_summed() -> None:
    found = statement("S[p, m] = N[p, m] where m <= p and (m < 3 and p < 9)")
    assert found.where == Map(
        "and",
        (Map("<=", (m, p)), Map("and", (Map("<", (m, Const(3))), Map("<", (p, Const(9)))))),
    )


def test_a_header() -> None:
    found = cascade("Y[p] = Z[p]")
    assert found.batch == ("b", "h")
    assert found.inputs[0] == Tensor("X", ("b", "h", "p", "e"), 2)
    assert found.input("doc") == Tensor("doc", ("b", "m"), 1, "int")
    assert found.input("slope") == Tensor("slope", ("h",), 1)
    assert found.input("table") == Tensor("table", ("p", "m"), 0)
    assert found.input("tau") == Tensor("tau", (), 0)
    assert found.outputs == (Tensor("Y", ("b", "h", "p"), 2),)
    assert [(decl.name, decl.default) for decl in found.params] == [("W", 4), ("P", 0.5)]


def test_an_output_takes_the_type_of_its_statement() -> None:
    text = "cascade c(X[p, m]) -> I[p], J[p]: int:\n    I[p]: int = argmax[m](X[p, m])\n"
    found = attnc.parse(text + "    J[p] = argmin[m](X[p, m])\n")["c"]
    assert [tensor.dtype for tensor in found.outputs] == ["int", "int"]


def test_an_iterative_rank() -> None:
    text = (
        "cascade c[b](X[t, d]) -> Y[t], Z[d]:\n"
        "    S[0, d] = 0\n"
        "    R[t] = S[t, d']\n"
        "    S[t+1, d] = S[t, d] + X[t, d] * R[t]\n"
        "    Y[t] = S[t+1, d]\n"
        "    Z[d] = S[|t|, d]\n"
    )
    found = attnc.parse(text)["c"]
    assert found.einsums[0].left == (Left("b"), Left("t", "start"), Left("d"))
    assert found.einsums[2].left == (Left("b"), Left("t", "next"), Left("d"))
    assert found.iterative() == {"S": (1, "t")}
    assert found.einsums[4].body == Access("S", (b, Extent("t"), Index("d")))
    reduced = found.einsums[1].body
    assert isinstance(reduced, Reduce) and reduced.ranks == ("d'",)


def test_a_choice_by_value_fills_the_rank_that_stands_nowhere_else() -> None:
    found = cascade("rank k = 8\nT[p, k]: int = argtop[m](N[p, m])\nY[p] = Z[p]")
    assert found.ranks == (RankDecl("k", Const(8)),)
    assert found.einsums[0].body == Populate("argtop", "m", batched("N", p, m), None, "k")
    ranked = statement("T[p, m]: int = rankof[m](N[p, m])").body
    assert ranked == Populate("rankof", "m", batched("N", p, m), None, "m")


def test_a_variable_that_nothing_declares_runs_over_the_axis_it_subscripts() -> None:
    found = cascade("T[p] = sum[i where i <= p](Z[i]) / |i|\nY[p] = T[p]")
    assert Extent("p") in (found.einsums[0].body.args if isinstance(found.einsums[0].body, Map) else ())  # noqa: E501  # fmt: skip


@pytest.mark.parametrize(
    "name",
    ["rank", "param", "schedule", "reduce", "by", "auto", "identity", "tile", "where_", "c"],
)
def test_a_word_of_the_language_may_name_a_tensor_or_a_rank_on_the_right(name: str) -> None:
    text = f"cascade c({name}[p, {name}]) -> Y[p]:\n    Y[p] = {name}[p, {name}]\n"
    found = attnc.parse(text)["c"]
    assert attnc.parse(str(found))["c"] == found


def test_lines_go_on_inside_brackets_and_comments_go_anywhere() -> None:
    text = (
        "\ufeff# first\r\n\r\ncascade c(X[p, e],  # one\r\n     K[m, e]) -> S[p, m]:  # two\r\n"
        "  # three\r\n\r\n  S[p, m] = (X[p, e]\r\n# four\r\n     * K[m, e])\r\n# five"
    )
    (found,) = attnc.parse(text.removeprefix("\ufeff")).cascades.values()
    assert print_expr(found.einsums[0].body) == "sum[e](X[p, e] * K[m, e])"


def test_a_schedule() -> None:
    text = (
        "cascade c(X[p, e]) -> Y[p]:\n    param W: int = 8\n    Y[p] = X[p, e]\n"
        "schedule c:\n    tile p by 128\n    tile e by W * 2\n    split e by auto\n"
        "    parallel p\n    stream e\n    warps 8\n    stages 3\n"
    )
    found = attnc.parse(text)["c"]
    assert found.schedule == (
        Directive("tile", ("p",), Const(128)),
        Directive("tile", ("e",), Map("*", (Param("W"), Const(2)))),
        Directive("split", ("e",)),
        Directive("parallel", ("p",)),
        Directive("stream", ("e",)),
        Directive("warps", (), Const(8)),
        Directive("stages", (), Const(3)),
    )
    assert attnc.parse(str(found))["c"] == found


ROUND_TRIPS = [
    "S[p, m] = X[p, e] * K[m, e] where m <= p and e < W",
    "S[p, m] = sum[e where e < W](N[p, m]) * 2 where p < 3",
    "S[p, m] = sum[e where e < W and (m < 2 and e < 9)](X[p, e] * K[m, e]) where m <= p",
    "S[p, m] = sum[e where m < W](X[p, e] * K[m, e])",
    "S[p, m] = N[p, m] where (m <= p and p < 2) and not (m < 3 or keep[p, m])",
    "T[p] = Z[p] - (Z[p] - (1 - W)) / (2 / (3 * W)) ** (-2) ** p",
    "T[p] = (-2) ** 3 + -2 ** 3 - -W * -(1) - --W",
    "T[] = 1\nU[p] = T[] + Z[p] + len[] + tau[]",
    "T[p] = Z[p + 1] + Z[p+1] + Z[p - W] + Z[b, h, p] + X[p, e // 2]",
    "T[p] = sum[m](sum[e](X[p, e] * K[m, e]) * N[p, m])",
    "T[p] = uniform(3, b, h, p) * logsumexp[m](N[p, m]) % 2 // 3",
    "T[p] = softmax[m](N[p, m] + slope[h] * (m - p)) * N[p, m]",
    "T[p] = mean[m](N[p, m]) + entropy[m](softmax[m](N[p, m]))",
    "T[p, m] = layernorm[m](l1norm[m](rmsnorm[m](l2norm[m](cumsum[m](N[p, m])))))",
]


@pytest.mark.parametrize("text", ROUND_TRIPS)
def test_what_is_printed_parses_to_the_same(text: str) -> None:
    found = cascade(f"{text}\nY[p] = Z[p]")
    verify_cascade(found)
    assert attnc.parse(str(found))["c"] == found


def test_the_printed_form_is_what_a_person_would_write() -> None:
    text = (ROOT / "examples" / "attention.attn").read_text(encoding="utf-8")
    written = text[text.index("cascade") :]
    assert str(attnc.parse(written)["attention"]) == written


@pytest.mark.parametrize(
    "path", sorted((ROOT / "examples").glob("*.attn")), ids=lambda path: path.stem
)
def test_every_example_is_valid_and_comes_back(path: Path) -> None:
    for name, found in attnc.load(path).cascades.items():
        verify_cascade(found)
        assert attnc.parse(str(found))[name] == found


PROGRAMS = [
    pytest.param(found[1], id=f"{document.name}:{found.start()}")
    for document in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))
    for found in re.finditer(r"^```attn\n(.*?)^```$", document.read_text("utf-8"), re.M | re.S)
]


@pytest.mark.parametrize("text", PROGRAMS)
def test_every_program_of_the_documents_is_valid(text: str) -> None:
    for name, found in attnc.parse(text).cascades.items():
        verify_cascade(found)
        assert attnc.parse(str(found))[name] == found


def test_a_sum_that_the_rule_would_not_give_again_is_written_out() -> None:
    product = Map("*", (Access("A", (p, m)), Access("B", (m, e))))
    inputs = (Tensor("A", ("p", "m")), Tensor("B", ("m", "e")))
    for ranks, shown in (
        (("m", "e"), "A[p, m] * B[m, e]"),
        (("e", "m"), "sum[e, m](A[p, m] * B[m, e])"),
    ):
        einsum = Einsum("Y", (Left("p"),), Reduce("sum", ranks, product))
        found = Cascade("c", (), inputs, (Tensor("Y", ("p",)),), (einsum,))
        assert f"Y[p] = {shown}\n" in str(found)
        assert attnc.parse(str(found))["c"] == found


def test_a_value_without_a_literal_is_not_printed() -> None:
    with pytest.raises(InvalidIR):
        print_expr(Const(float("nan")))


Z = Access("Z", (p,))


@pytest.mark.parametrize(
    ("einsum", "reason"),
    [
        (Einsum("Y", (Left("p"),), Access("X", (p,))), "no such tensor"),
        (Einsum("Y", (Left("p"),), Access("Z", (p, p))), "two subscripts for one rank"),
        (Einsum("Y", (Left("p"),), Access("Z", (m,))), "a free rank"),
        (Einsum("Y", (Left("p"),), Map("exp", (Z, Z))), "two operands for one"),
        (Einsum("Y", (Left("p"),), Map("frobnicate", (Z,))), "no such operation"),
        (Einsum("Y", (Left("p"),), Param("W")), "no such parameter"),
        (Einsum("Y", (Left("p"), Left("p")), Z), "a rank twice on the left"),
        (Einsum("Y", (Left("p", "next"),), Z), "a step without a start"),
        (Einsum("Y", (Left("p"),), Reduce("sum", (), Z)), "a sum over nothing"),
        (Einsum("Y", (Left("p"),), Access("Y", (p,))), "read before it is assigned"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_the_verifier_sees(einsum: Einsum, reason: str) -> None:
    good = Cascade(
        "c", (), (Tensor("Z", ("p",)),), (Tensor("Y", ("p",)),), (Einsum("Y", (Left("p"),), Z),)
    )
    verify_cascade(good)
    with pytest.raises(InvalidIR, match="c: "):
        verify_cascade(Cascade("c", (), good.inputs, good.outputs, (einsum,)))
