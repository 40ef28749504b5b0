"""Functions in place of their use, imports, scopes: what the front end makes of several parts."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import pytest

import attnc
from attnc.build import Builder, function, over
from attnc.ir.cascade import rank_of
from attnc.ir.verify import verify_cascade


def lines(text: str, name: str = "c") -> list[str]:
    """The statements of a cascade as they are printed, single-spaced."""
    cascade = attnc.parse(text)[name]
    verify_cascade(cascade)
    assert attnc.parse(str(cascade))[name] == cascade
    body = str(cascade).split(":\n", 1)[1].split("\n\nschedule")[0]
    return [" ".join(line.split()) for line in body.splitlines() if line]


def test_softmax_becomes_its_einsums() -> None:
    text = "cascade c[b](S[p, m]) -> A[p, m]:\n    A[p, m] = softmax[m](S[p, m])\n"
    assert lines(text) == [
        "A_G[p] = max[m](S[p, m])",
        "A_N[p, m] = exp(S[p, m] - A_G[p])",
        "A_D[p] = sum[m](A_N[p, m])",
        "A[p, m] = A_N[p, m] / A_D[p]",
    ]


def test_a_function_inside_an_expression_gets_a_tensor_of_its_own() -> None:
    text = "cascade c(S[p, m], V[m, f]) -> O[p, f]:\n    O[p, f] = softmax[m](S[p, m]) * V[m, f]\n"
    assert lines(text)[-2:] == [
        "O_softmax[p, m] = O_N[p, m] / O_D[p]",
        "O[p, f] = O_softmax[p, m] * V[m, f]",
    ]


def test_an_argument_that_is_no_plain_read_gets_a_name() -> None:
    text = "cascade c(S[p, m]) -> A[p, m]:\n    A[p, m] = softmax[m](2 * S[p, m])\n"
    assert lines(text)[:2] == ["A_X[p, m] = 2 * S[p, m]", "A_G[p] = max[m](A_X[p, m])"]


def test_fresh_names_do_not_collide() -> None:
    text = (
        "cascade c(S[p, m], A_G[p]) -> A[p, m]:\n"
        "    A_N[p] = A_G[p]\n"
        "    A[p, m] = softmax[m](softmax[m](S[p, m])) + A_N[p] + A_N2[p]\n"
    ).replace(" + A_N2[p]", "")
    names = [line.split("[")[0] for line in lines(text)]
    assert len(set(names)) == len(names)
    assert "A_G" not in names


def test_the_predicate_of_a_statement_holds_for_its_result_alone() -> None:
    text = "cascade c(S[p, m]) -> A[p, m]:\n    A[p, m] = softmax[m](S[p, m]) where m <= p\n"
    assert [line for line in lines(text) if "where" in line] == [
        "A[p, m] = A_N[p, m] / A_D[p] where m <= p"
    ]


def test_a_function_over_other_rank_names_and_at_chosen_positions() -> None:
    text = "cascade c(S[p, m], I[p, j]: int) -> A[p, j]:\n    A[p, j] = softmax[j](S[p, I[p, j]])\n"
    assert lines(text)[0] == "A_G[p] = max[j](S[p, I[p, j]])"


def test_primes_inside_a_function_do_not_capture_those_of_its_use() -> None:
    text = "cascade c(S[t, u]) -> A[t]:\n    A[t] = S[t, 0] * cumsum[t'](S[t, t'] + S[t', t])\n"
    (line,) = [line for line in lines(text) if "sum[t''" in line]
    assert line == "A_cumsum[t, t'] = sum[t'' where t'' <= t'](A_X[t, t''])"


def test_a_scalar_function_is_put_in_place() -> None:
    text = (
        "def half(x) = x / 2\ndef f(x, y) = half(x) * y\n"
        "cascade c(X[p]) -> Y[p]:\n    Y[p] = f(X[p] + 1, p)\n"
    )
    assert lines(text) == ["Y[p] = (X[p] + 1) / 2 * p"]


def test_a_files_own_function_comes_before_the_librarys() -> None:
    text = (
        "def softmax[m](X[m]) -> Y[m]:\n    Y[m] = exp(X[m])\n"
        "cascade c(X[p]) -> Y[p]:\n    Y[p] = softmax[p](X[p])\n"
    )
    assert lines(text) == ["Y[p] = exp(X[p])"]


def test_a_cascade_is_used_with_its_ranks_matched_by_position() -> None:
    text = (
        "cascade attention[b, h](Q[p, e], K[m, e], V[m, f]) -> O[p, f]:\n"
        "    S[p, m] = Q[p, e] * K[m, e] / sqrt(|e|)\n"
        "    O[p, f] = S[p, m] * V[m, f]\n"
        "cascade c[b](X[s, d], W[; h, d, e]) -> Y[h, s, e]:\n"
        "    P[h, s, e] = X[s, d] * W[h, d, e]\n"
        "    Y[h, s, e] = attention(P[h, s, e], P[h, t, e], P[h, t, e])\n"
    )
    # Both `e` and `f` of the callee are `e` here: the one that it sums gets another name.
    assert lines(text)[1:] == [
        "Y_S[h, s, t] = P[h, s, e'] * P[h, t, e'] / sqrt(|e|)",
        "Y[h, s, e] = Y_S[h, s, t] * P[h, t, e]",
    ]


def test_an_outer_product_of_a_tensor_with_itself_keeps_two_ranks() -> None:
    text = (
        "cascade outer(A[e], B[f]) -> Y[e, f]:\n    Y[e, f] = A[e] * B[f]\n"
        "cascade c(A[x], B[x]) -> Y[x]:\n    Y[x] = outer(A[x], B[x])\n"
    )
    assert lines(text) == [
        "Y_outer[x, x'] = A[x] * B[x']",
        "Y[x] = Y_outer[x, x]",
    ]


@pytest.mark.parametrize("use", ["scale[m](X[p, m], V[m])", "mixed[m](X[m, m])"])
def test_an_argument_that_varies_along_the_ranks_of_the_function_is_refused(use: str) -> None:
    text = (
        "def scale[m](X[m], c[]) -> Y[m]:\n    T[] = sum[m](X[m]) * c[]\n    Y[m] = X[m] * T[]\n"
        "def mixed[m](X[n, m]) -> Y[m]:\n    Y[m] = X[n, m]\n"
        "cascade c(X[p, m], V[m]) -> Y[p, m]:\n    Y[p, m] = "
    )
    with pytest.raises(attnc.CompileError) as caught:
        attnc.parse(text + use + "\n")
    assert caught.value.code == "E014"


def test_a_cascade_without_the_batch_ranks_of_the_one_that_it_uses() -> None:
    text = (
        "cascade twice[b, h](X[p]) -> Y[p]:\n    T[] = X[p]\n    Y[p] = 2 * X[p] + T[]\n"
        "cascade c(X[p]) -> Y[p]:\n    Y[p] = twice(X[p])\n"
    )
    assert lines(text) == ["Y_T[] = sum[p](X[p])", "Y[p] = 2 * X[p] + Y_T[]"]


def test_an_iterative_cascade_is_used() -> None:
    text = (
        "cascade scan(X[t]) -> Y[t]:\n"
        "    S[0] = 0\n    S[t+1] = S[t] + X[t]\n    Y[t] = S[t+1]\n"
        "cascade c[b](X[u, d]) -> Y[u, d]:\n    Y[u, d] = scan(X[u, d])\n"
    )
    with pytest.raises(attnc.CompileError, match=r"batch|position|name"):
        lines(text.replace("scan(X[u, d])", "scan(X[u, d] + 1)"))
    text = text.replace("scan(X[u, d])", "scan(X[d, u])").replace("X[u, d])", "X[d, u])")
    assert lines(text) == [
        "Y_S[d, 0] = 0",
        "Y_S[d, u+1] = Y_S[d, u] + X[d, u]",
        "Y[u, d] = Y_S[d, u+1]",
    ]


def test_parameters_and_ranks_of_a_function_in_its_place() -> None:
    text = (
        "def top[m](X[m]) -> Y[m]:\n"
        "    param K: int = 4\n    rank j = min(K, |m|)\n"
        "    I[j]: int = argtop[m](X[m])\n"
        "    Y[m] = sum[j](select(I[j] == m, X[m], 0))\n"
        "cascade c(X[p, q]) -> Y[p, q]:\n    Y[p, q] = top[q](X[p, q])\n"
    )
    assert lines(text) == [
        "rank Y_j = min(4, |q|)",
        "Y_I[p, Y_j]: int = argtop[q](X[p, q])",
        "Y[p, q] = sum[Y_j](select(Y_I[p, Y_j] == q, X[p, q], 0))",
    ]


def test_own_reductions_go_with_the_cascade_that_uses_them() -> None:
    text = (
        "def lse2 reduce(x, y) = log2(exp2(x) + exp2(y)) identity -inf\n"
        "cascade c(X[p, m]) -> Y[p]:\n    Y[p] = lse2[m](X[p, m])\n"
        "cascade d(X[p]) -> Y[p]:\n    Y[p] = X[p]\n"
    )
    module = attnc.parse(text)
    assert [own.name for own in module["c"].reductions] == ["lse2"]
    assert module["d"].reductions == ()
    assert lines(text) == ["Y[p] = lse2[m](X[p, m])"]


@pytest.mark.parametrize(
    ("body", "identity"),
    [
        ("log2(exp2(x) + exp2(y))", "-inf"),
        ("max(x, y)", "-inf"),
        ("x * y", "1"),
        ("x + y + x * y", "0"),
        ("select(abs(x) < abs(y), y, x)", "0"),
        ("log(exp(x) + exp(y))", "-inf"),
    ],
)
def test_a_reduction_that_keeps_the_laws_is_accepted(body: str, identity: str) -> None:
    text = f"def own reduce(x, y) = {body} identity {identity}\n"
    text += "cascade c(X[p, m]) -> Y[p]:\n    Y[p] = own[m](X[p, m])\n"
    assert attnc.parse(text)["c"].reductions[0].name == "own"


def test_imports(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "base.attn").write_text("def one(x) = x + 1\n", encoding="utf-8")
    (tmp_path / "sub" / "other.attn").write_text(
        'import "base.attn"\ndef two[m](X[m]) -> Y[m]:\n    Y[m] = one(X[m]) * 2\n',
        encoding="utf-8",
    )
    main = tmp_path / "main.attn"
    text = 'import "sub/other.attn"\ncascade c(X[p]) -> Y[p]:\n    Y[p] = two[p](X[p])\n'
    main.write_text(text, encoding="utf-8")
    assert "Y[p] = (X[p] + 1) * 2" in str(attnc.load(main)["c"])
    assert list(attnc.load(main).cascades) == ["c"]
    assert "Y[p]" in str(attnc.parse(text, str(main))["c"])
    # What a file imports is its own business: `one` is not handed on.
    main.write_text(text.replace("two[p](X[p])", "one(X[p])"), encoding="utf-8")
    with pytest.raises(attnc.CompileError, match="no function 'one'"):
        attnc.load(main)


def test_errors_of_several_files_are_in_one_report(tmp_path: Path) -> None:
    (tmp_path / "other.attn").write_text("def f(x) = y\n", encoding="utf-8")
    main = tmp_path / "main.attn"
    main.write_text('import "other.attn"\ncascade c(X[p]) -> Y[p]:\n    Y[p] = Z[p]\n')
    with pytest.raises(attnc.CompileError) as caught:
        attnc.load(main)
    assert "main.attn:3:12" in str(caught.value) and "no tensor 'Z'" in str(caught.value)


@pytest.mark.parametrize(
    "content", [b"\xff\xfe\x00", b"cascade \x00", b"", b"# only\n", b"caf\xe9", b"x" * 2_000_000]
)
def test_what_is_no_text_is_said(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "x.attn"
    path.write_bytes(content)
    with pytest.raises(attnc.CompileError) as caught:
        attnc.load(path)
    assert caught.value.code == "E003"


def test_a_byte_order_mark_and_windows_lines(tmp_path: Path) -> None:
    path = tmp_path / "x.attn"
    path.write_bytes(b"\xef\xbb\xbfcascade c(X[p]) -> Y[p]:\r\n    Y[p] = X[p]\r\n")
    assert list(attnc.load(path).cascades) == ["c"]


def test_a_variable_keeps_the_rank_that_it_was_seen_over() -> None:
    text = "cascade c(X[t]) -> Y[t]:\n    Y[t] = sum[j where j <= t](X[j])\n"
    assert rank_of(attnc.parse(text)["c"])["j"] == "t"


def chain(length: int) -> str:
    body = "".join(f"    T{i + 1}[p] = exp(T{i}[p] * 2) + T{i // 2}[p]\n" for i in range(length))
    return f"cascade c(T0[p]) -> Y[p]:\n{body}    Y[p] = T{length}[p]\n"


def test_long_cascades_take_time_in_proportion() -> None:
    attnc.parse(chain(10))
    calls: list[int] = []
    for length in (100, 400):
        count = 0

        def step(frame: object, event: str, argument: object) -> None:
            nonlocal count
            count += event == "call"

        sys.setprofile(step)
        try:
            attnc.parse(chain(length))
        finally:
            sys.setprofile(None)
        calls.append(count)
    assert calls[1] < 5 * calls[0]


HEADER = "cascade c(X[p, e]) -> Y[p]:\n"
HUGE = {
    "parentheses": HEADER + "    Y[p] = " + "(" * 10_000 + "1" + ")" * 10_000,
    "open brackets": HEADER + "    Y[p] = " + "([" * 500_000,
    "a long sum": HEADER + "    Y[p] = " + " + ".join(["X[p, e]"] * 10_000),
    "signs": HEADER + "    Y[p] = " + "-" * 60_000 + "1",
    "powers": HEADER + "    Y[p] = " + "**".join(["2"] * 20_000),
    "a tower": HEADER + "    rank j = 9 ** 9 ** 9 ** 9\n    Y[p] = X[p, 0]",
    "digits": HEADER + "    Y[p] = " + "9" * 60_000,
    "a name": HEADER + "    Y[p] = " + "a" * 60_000,
    "lines": "abc def\n" * 120_000,
    "newlines": "\n" * 1_000_000,
    "quotes": '"' * 1_000_000,
    "unclosed": "(a =\n" * 200_000,
    "wrong lines": HEADER + "".join(f"    T{i}[p] = Z[p, 0] + 1\n" for i in range(1900)),
    "functions that double": "def f0(x) = x + x\n"
    + "".join(f"def f{i + 1}(x) = f{i}(f{i}(x))\n" for i in range(60))
    + HEADER
    + "    Y[p] = f60(X[p, 0])",
    "functions that forget": "def f0(x) = 1\n"
    + "".join(f"def f{i + 1}(x) = f{i}(f{i}(x) + f{i}(x))\n" for i in range(60))
    + HEADER
    + "    Y[p] = f30(X[p, 0])",
    "tensor functions that double": "def g0[m](X[m]) -> Y[m]:\n    Y[m] = X[m] + 1\n"
    + "".join(
        f"def g{i + 1}[m](X[m]) -> Y[m]:\n    Y[m] = g{i}[m](g{i}[m](X[m]))\n" for i in range(60)
    ),
    "a chain of functions": "".join(
        f"def g{i}[m](X[m]) -> Y[m]:\n    Y[m] = g{i + 1}[m](X[m])\n" for i in range(500)
    ),
    "recursion": "def f(x) = f(x - 1)\n" + HEADER + "    Y[p] = f(X[p, 0])",
}


@pytest.mark.parametrize("name", HUGE)
def test_no_input_is_too_much(name: str) -> None:
    attnc.parse(HEADER + "    Y[p] = X[p, 0]")
    start = time.process_time()
    with pytest.raises(attnc.CompileError) as caught:
        attnc.parse(HUGE[name])
    # A wide margin over the second that it may take: this guards against doubling, not slowness.
    assert time.process_time() - start < 5
    assert len(str(caught.value)) < 20_000


def test_nothing_is_evaluated() -> None:
    for text in ("__import__('os')", "().__class__", "lambda: 1", "{}", "f'{1}'", "open('x')"):
        with pytest.raises(attnc.CompileError):
            attnc.parse(HEADER + f"    Y[p] = {text}\n")


def test_a_cascade_is_built_without_text() -> None:
    b = Builder("attention", batch="b h")
    p, m, e, f = b.ranks("p m e f")
    Q, K, V = b.input("Q", p, e), b.input("K", m, e), b.input("V", m, f)
    slope = b.input("slope", batch="h")
    (h,) = b.ranks("h")
    S, A, O, L = b.tensor("S"), b.tensor("A"), b.tensor("O"), b.tensor("L", "f32")
    W = b.param("W", "int", 128)
    S[p, m] = (Q[p, e] * K[m, e] / function.sqrt(e.extent) + slope[h] * (m - p)).where(
        (p - W < m) & ~(m > p)
    )
    A[p, m] = over.softmax[m](S[p, m])
    O[p, f] = A[p, m] * V[m, f] * -((2 - p) ** -2)
    L[p] = over.max[m, m <= p](S[p, m])
    text = """\
cascade attention[b, h](Q[p, e], K[m, e], V[m, f], slope[h;]) -> O[p, f], L[p]: f32:
    param W: int = 128
    S[p, m] = Q[p, e] * K[m, e] / sqrt(|e|) + slope[h] * (m - p) where p - W < m and not m > p
    A[p, m] = softmax[m](S[p, m])
    O[p, f] = A[p, m] * V[m, f] * -(2 - p) ** -2
    L[p]: f32 = max[m where m <= p](S[p, m])
"""
    built = b.cascade(O[p, f], L[p])
    assert built == attnc.parse(text)["attention"]
    assert attnc.parse(str(built))["attention"] == built


def test_a_builder_says_what_is_no_expression() -> None:
    b = Builder("c")
    (p,) = b.ranks("p")
    X = b.input("X", p)
    with pytest.raises(TypeError, match="write &"):
        assert 0 < X[p] < 1
    with pytest.raises(TypeError, match="no expression"):
        X[p] == "text"  # noqa: B015
