"""Random programs mean the same to the interpreter and to a reading of them point by point."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import attnc
from attnc.backends import interpreter

from pointwise import Pointwise  # isort: skip

INPUTS = "X[p, m], Y[m], Z[p, e], I[p]: int, J[m]: int, B[p, m]: bool"
KINDS = ("map", "sum", "reduce", "again", "rank", "nested", "choose", "slots", "step")
EXTENTS = st.sampled_from((3, 4, 2, 1, 0))
SUMS = st.sampled_from(["sum", "prod", "max", "min", "logsumexp"])


def subscript(ranks: tuple[str, ...], tables: bool = True) -> st.SearchStrategy[str]:
    """An integer expression that is now and then outside."""
    plain = [*ranks, *(f"{a} + {b} - 1" for a in ranks for b in ranks if a != b), "1"]
    plain += [f"{a} // 2" for a in ranks] + [f"2 * {a} - 1" for a in ranks]
    plain += [f"|m| - 1 - {a}" for a in ranks] + [f"{a} % 2" for a in ranks]
    if tables and "p" in ranks:
        plain += ["I[p]", "I[p] - p"]
    if tables and "m" in ranks:
        plain += ["J[m]", "J[J[m]]"]
    return st.sampled_from(plain)


def made_of(ranks: tuple[str, ...], known: tuple[tuple[str, int], ...]) -> st.SearchStrategy[str]:
    """A numeric expression over some ranks, of tensors that exist with so many axes."""

    @st.composite
    def leaf(draw: st.DrawFn) -> str:
        name, axes = draw(st.sampled_from([("X", 2), ("Y", 1), ("Z", 2), *known, ("", 0)]))
        if not name:
            return draw(st.sampled_from(["2", "0.5", "-1", *ranks]))
        return f"{name}[{', '.join(draw(subscript(ranks)) for _ in range(axes))}]"

    def grown(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
        return st.one_of(
            st.tuples(inner, st.sampled_from("+-*"), inner).map(lambda t: f"({' '.join(t)})"),
            st.tuples(st.sampled_from(["max", "min"]), inner, inner).map(
                lambda t: f"{t[0]}({t[1]}, {t[2]})"
            ),
            st.tuples(st.sampled_from(["tanh", "sin", "abs", "relu", "present"]), inner).map(
                lambda t: f"{t[0]}({t[1]})"
            ),
            st.tuples(predicate(ranks, inner), inner, inner).map(
                lambda t: f"select({t[0]}, {t[1]}, {t[2]})"
            ),
        )

    return st.recursive(leaf(), grown, max_leaves=4)


def predicate(
    ranks: tuple[str, ...], value: st.SearchStrategy[str] | None = None
) -> st.SearchStrategy[str]:
    tests = [f"{a} <= {b} + 1" for a in ranks for b in ranks if a != b]
    tests += [f"{a} % 2 == 0" for a in ranks] + ["true", "false"]
    if "p" in ranks and "m" in ranks:
        tests += ["B[p, m]", "B[m, p]", "I[p] == J[m]", "I[p + 1] > J[m]", "m <= p or B[p, 0]"]
    simple = st.sampled_from(tests)
    if value is None:
        return st.one_of(simple, simple.map(lambda test: f"not ({test})"))
    return st.one_of(simple, st.tuples(value, value).map(lambda t: f"{t[0]} < {t[1]}"))


@st.composite
def programs(draw: st.DrawFn) -> str:
    """A few Einsums, each reading those before: maps, reductions, choices, a recurrence."""
    known: tuple[tuple[str, int], ...] = ()
    lines: list[str] = []
    outputs: list[str] = []
    for number in range(draw(st.integers(1, 4))):
        name = f"T{number}"
        kind = draw(st.sampled_from(KINDS))
        body = draw(made_of(("p", "m"), known))
        test = draw(predicate(("p", "m")))
        masked = f" where {test}" if draw(st.booleans()) else ""
        match kind:
            case "map":
                lines.append(f"{name}[p, m] = {body}{masked}")
                axes = "p, m"
            case "sum":
                lines.append(f"{name}[p] = Y[m] * {body}{masked}")
                axes = "p"
            case "reduce":
                lines.append(f"{name}[p] = {draw(SUMS)}[m{masked}]({body})")
                axes = "p"
            case "again":
                lines.append(f"{name}[p, m] = {body} - {draw(SUMS)}[m{masked}](tanh({body}))")
                axes = "p, m"
            case "rank":
                lines.append(f"{name}[p, m] = rankof[m{masked}](X[p, m] + {body})")
                axes = "p, m"
            case "nested":
                inner = draw(made_of(("p", "m", "e"), known))
                lines.append(f"{name}[p, m] = {body} - {draw(SUMS)}[e](tanh({inner})){masked}")
                axes = "p, m"
            case "choose":
                op = draw(st.sampled_from(["argmax", "argmin"]))
                lines.append(f"{name}[p]: int = {op}[m{masked}]({body})")
                axes = "p"
            case "slots":
                op = draw(st.sampled_from(["argtop", "argbottom"]))
                lines.append(f"{name}[p, j]: int = {op}[m{masked}](X[p, m] + {body})")
                axes = "p, j"
            case _:
                over = draw(made_of(("p",), ()))
                lines.append(f"S{number}[0, p] = {over}")
                lines.append(f"R{number}[m, p] = S{number}[m, p] * 0.5 + Y[m]")
                lines.append(f"S{number}[m+1, p] = tanh({body}) + R{number}[m, p - 1]{masked}")
                lines.append(f"{name}[p, m] = S{number}[m+1, p] + S{number}[|m|, p]")
                axes = "p, m"
        outputs.append(f"{name}[{axes}]" + (": int" if kind in ("choose", "slots") else ""))
        known = (*known, (name, axes.count(",") + 1))
    text = "\n    ".join(["rank j = 3", *lines])
    return f"cascade c({INPUTS}) -> {', '.join(outputs)}:\n    {text}\n"


def arrays(p: int, m: int, e: int, seed: int) -> dict[str, Any]:
    """Values with ties, tables that point outside now and then."""
    draw = np.random.default_rng(seed)
    return {
        "X": draw.integers(-3, 4, (p, m)) / 2,
        "Y": draw.integers(-3, 4, m) / 2,
        "Z": draw.integers(-3, 4, (p, e)) / 2,
        "I": draw.integers(-1, m + 2, p),
        "J": draw.integers(-1, p + 2, m),
        "B": draw.integers(0, 2, (p, m)) > 0,
    }


@pytest.mark.filterwarnings("ignore")
@settings(max_examples=100, deadline=None, derandomize=True)
@given(programs(), EXTENTS, EXTENTS, EXTENTS, st.integers(0, 99))
def test_a_program_means_the_same_point_by_point(
    text: str, p: int, m: int, e: int, seed: int
) -> None:
    cascade, data = attnc.parse(text)["c"], arrays(p, m, e, seed)
    reading = Pointwise(cascade, data)
    wants = {output.name: reading.output(output.name) for output in cascade.outputs}
    for space in (1 << 24, 3):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(interpreter, "LARGEST_SPACE", space)
            found = interpreter.run(cascade, data, np.dtype(np.float64))
        for name, array in found.items():
            want = np.array(wants[name], np.float64).reshape(array.shape)
            assert np.allclose(array, want, rtol=1e-9, atol=1e-9, equal_nan=True), name
