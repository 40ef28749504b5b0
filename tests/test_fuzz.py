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

RANKS = ["p", "m", "e", "p", "m", "e", "b", "p'", "q"]
NUMBERS = [
    *RANKS, "X[p, e]", "K[m, e]", "I[p, m]", "tau[]", "X[p+1, 0]", "X[p', e]", "|m|", "W", "1",
    "2.5", "-1", "inf", "K[I[p, m], e]", "X[b, p, e]", "T[p]",
]  # fmt: skip
TRUTHS = ["keep[p]", "true", "false", "keep[p + 1]"]
INFIX = ["+", "-", "*", "/", "**", "+", "-", "*", "/", "//", "%"]
ORDER = ["<", "<=", "==", ">", "!="]
CALLS = ["exp", "log", "sqrt", "abs", "present", "relu", "floor", "-"]
FOLDS = ["sum", "max", "min", "prod", "logsumexp", "softmax", "mean", "cumsum", "argmax"]


@st.composite
def expressions(draw: st.DrawFn, levels: int = 2, truth: bool = False) -> str:
    """A random expression, of the right kind but for one in twenty."""
    truth ^= draw(st.integers(0, 19)) == 19

    def one(words: list[str]) -> str:
        return draw(st.sampled_from(words))

    def part(truth: bool = False) -> str:
        return draw(expressions(levels - 1, truth))

    form = draw(st.integers(0, 9)) if levels else 9
    if truth:
        match form:
            case 0 | 1 | 2 | 3:
                return f"{part()} {one(ORDER)} {part()}"
            case 4:
                return f"not ({part(True)})"
            case 5:
                return f"({part(True)}) {one(['and', 'or'])} ({part(True)})"
            case 6:
                return f"any[{one(RANKS)}]({part(True)})"
            case _:
                return one(TRUTHS)
    match form:
        case 0 | 1:
            return f"{part()} {one(INFIX)} {part()}"
        case 2:
            return f"({part()}) {one(INFIX)} ({part()})"
        case 3:
            return f"{one(CALLS)}({part()})"
        case 4:
            return f"max({part()}, {part()})"
        case 5:
            return f"select({part(True)}, {part()}, {part()})"
        case 6:
            return f"{one(FOLDS)}[{one(RANKS)}]({part()})"
        case 7:
            return f"sum[{one(RANKS)} where {part(True)}]({part()})"
        case 8:
            return f"cast({part()}, f16)"
        case _:
            return one(NUMBERS)


@st.composite
def programs(draw: st.DrawFn) -> str:
    """A cascade of two statements, or one with an iterative rank."""
    text = HEADER + "    param W: int = 3\n"
    if draw(st.booleans()):
        text += f"    T[0] = 0\n    T[p+1] = T[p] + {draw(expressions())}\n"
    else:
        left = draw(st.sampled_from(["T[p]", "T[p]", "T[p, m]", "T[]", "T[p]: int", "T[e, p']"]))
        text += f"    {left} = {draw(expressions())}\n"
    text += f"    Y[p] = {draw(expressions())}"
    return text + (f" where {draw(expressions(1, True))}\n" if draw(st.booleans()) else "\n")


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
def test_nothing_that_is_written_gets_a_traceback(kind: str, effort: settings) -> None:
    source = {"noise": noise, "programs": programs(), "mutated": mutated(), "text": st.text()}[kind]

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
    @given(programs())
    def run(text: str) -> None:
        found.append(survives(text) is not None)

    run()
    assert sum(found) > len(found) // 8


def test_a_megabyte_of_noise() -> None:
    rng = random.Random(7)
    for alphabet in ("()[]\n =", "ab \n", "".join(map(chr, range(1, 127))), "αβ→≤\n"):
        survives("".join(rng.choices(alphabet, k=1_000_000)))
