"""Whatever is read gives a cascade or a CompileError, and a cascade comes back from its text."""

# ruff: noqa: SIM905 (words are easier to read in a line)
from __future__ import annotations

import random
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import attnc
from attnc.formatting import format_source
from attnc.ir.source import Source
from attnc.ir.verify import verify_cascade

ROOT = Path(__file__).resolve().parent.parent
TEXTS = [path.read_text("utf-8") for path in sorted((ROOT / "examples").glob("*.attn"))]
FEW = settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow])
MANY = settings(max_examples=10_000, deadline=None, suppress_health_check=list(HealthCheck))

HEADER = "cascade c[b](X[p, e], K[m, e], I[p, m]: int, keep[p]: bool, tau[;]) -> Y[p]:\n"


def survives(text: str) -> attnc.modules.Module | None:
    """The module of a text; None where it is refused with a report that can be shown."""
    try:
        module = attnc.parse(text)
    except attnc.CompileError as error:
        assert str(error).startswith("error[E")
        return None
    for name, cascade in module.cascades.items():
        verify_cascade(cascade)
        assert attnc.parse(str(cascade))[name] == cascade
    formatted = format_source(Source(text))
    assert attnc.parse(formatted).cascades == module.cascades
    assert format_source(Source(formatted)) == formatted
    return module


WORDS = [
    *"cascade def import schedule rank param where reduce identity and or not inf true by".split(),
    *"auto p m e b p' X K I keep tau Y T sum max argtop softmax exp cast f16 select".split(),
    *"present uniform ( ) [ ] , ; : = -> + - * / // % ** == < <= |p| |q| 0 1 2.5 1e9".split(),
    *("99999999999999999999", "#", '"', "\n", "\n    "),
]

noise = st.lists(st.sampled_from(WORDS), max_size=60).map(" ".join)

ranks = st.sampled_from(["p", "m", "e", "b", "p'", "q"])
leaves = st.one_of(
    st.sampled_from(
        ["X[p, e]", "K[m, e]", "I[p, m]", "keep[p]", "tau[]", "X[p+1, 0]", "X[p', e]", "|m|", "W",
         "1", "2.5", "-1", "inf", "true", "p", "e", "K[I[p, m], e]", "X[b, p, e]", "T[p]"]
    ),
    ranks,
)  # fmt: skip


def grown(parts: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    """Expressions over others; most of them are of the right kinds."""
    infix = st.sampled_from("+ - * / // % ** < <= == and or".split())
    call = st.sampled_from("exp log sqrt abs present not relu floor".split())
    fold = st.sampled_from("sum max min prod any logsumexp softmax mean cumsum argmax".split())
    return st.one_of(
        st.builds("{} {} {}".format, parts, infix, parts),
        st.builds("({} {} {})".format, parts, infix, parts),
        st.builds("{}({})".format, call, parts),
        st.builds("-{}".format, parts),
        st.builds("max({}, {})".format, parts, parts),
        st.builds("select({} < {}, {}, {})".format, parts, parts, parts, parts),
        st.builds("{}[{}]({})".format, fold, ranks, parts),
        st.builds("sum[{} where {} <= {}]({})".format, ranks, parts, parts, parts),
        st.builds("cast({}, f16)".format, parts),
        st.builds("K[{}, 0]".format, parts),
    )


expressions = st.recursive(leaves, grown, max_leaves=8)
lefts = st.sampled_from(["T[p]", "T[p, m]", "T[]", "T[p, e]", "T[0, p]", "T[p]: int", "T[e, p']"])
statements = st.one_of(
    st.builds("    {} = {}\n".format, lefts, expressions),
    st.builds("    {} = {} where {}\n".format, lefts, expressions, expressions),
)
programs = st.builds(
    "{}    param W: int = 3\n{}{}    Y[p] = {}\n".format,
    st.just(HEADER), statements, st.sampled_from(["", "    T[p+1] = T[p]\n"]), expressions,
)  # fmt: skip


@st.composite
def mutated(draw: st.DrawFn) -> str:
    """An example with a few of its characters or lines moved, doubled or gone."""
    text = draw(st.sampled_from(TEXTS))
    for _ in range(draw(st.integers(1, 3))):
        start = draw(st.integers(0, len(text)))
        end = min(len(text), start + draw(st.integers(0, 12)))
        middle = draw(st.sampled_from(["", text[start:end] * 2, *WORDS]))
        text = text[:start] + middle + text[end:]
    return text


@pytest.mark.parametrize("kind", ["noise", "programs", "mutated", "text"])
@pytest.mark.parametrize(
    "effort", [FEW, pytest.param(MANY, marks=pytest.mark.slow)], ids=["few", "many"]
)
def test_nothing_that_is_written_gets_a_traceback(
    kind: str, effort: settings, request: pytest.FixtureRequest
) -> None:
    if effort is MANY and "slow" not in str(request.config.getoption("-m")):
        pytest.skip("the long run: pytest -m slow")
    source = {"noise": noise, "programs": programs, "mutated": mutated(), "text": st.text()}[kind]

    @effort
    @given(source)
    def run(text: str) -> None:
        survives(text)

    run()


def test_nothing_that_a_file_holds_gets_a_traceback(tmp_path: Path) -> None:
    path = tmp_path / "x.attn"

    @FEW
    @given(st.binary(max_size=200))
    def run(content: bytes) -> None:
        path.write_bytes(content)
        try:
            attnc.load(path)
        except attnc.CompileError as error:
            assert str(error)

    run()


def test_enough_of_what_is_generated_is_valid() -> None:
    """A generator whose texts are all refused would test nothing."""
    found = []

    @settings(max_examples=300, deadline=None, database=None, derandomize=True)
    @given(programs)
    def run(text: str) -> None:
        found.append(survives(text) is not None)

    run()
    assert sum(found) > len(found) // 20


def test_a_megabyte_of_noise() -> None:
    rng = random.Random(7)
    for alphabet in ("()[]\n =", "ab \n", "".join(map(chr, range(1, 127))), "αβ→≤\n"):
        survives("".join(rng.choices(alphabet, k=1_000_000)))
