"""Small valid cascades as text, with data to run them on, for hypothesis to search through."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from hypothesis import strategies as st

import attnc
from attnc.ir.cascade import Cascade


@dataclass(frozen=True)
class Program:
    """A cascade called `c`, the extents of its ranks, how large its values are, and a seed."""

    text: str
    sizes: tuple[tuple[str, int], ...]
    largest: float
    seed: int

    @property
    def cascade(self) -> Cascade:
        return attnc.parse(self.text)["c"]

    def arrays(self, dtype: Any = np.float64) -> dict[str, np.ndarray]:
        """Inputs by name. Large values are integers, so that their products are exact in float32:
        what is then compared is the program, not the rounding of its scores."""
        dice = np.random.default_rng(self.seed)
        sizes = dict(self.sizes)
        found: dict[str, np.ndarray] = {}
        for tensor in self.cascade.inputs:
            shape = tuple(sizes[rank] for rank in tensor.ranks)
            if tensor.dtype == "bool":
                found[tensor.name] = dice.random(shape) < 0.6
            elif tensor.dtype == "int":
                found[tensor.name] = dice.integers(-1, 6, shape, dtype=np.int32)
            elif tensor.name in ("Q", "X") and self.largest > 1:
                drawn = np.rint(self.largest * dice.uniform(-1, 1, shape))
                found[tensor.name] = drawn.astype(dtype)
            elif tensor.name in ("K", "sink", "B") and self.largest > 1:
                found[tensor.name] = dice.integers(-3, 4, shape).astype(dtype)
            else:
                found[tensor.name] = dice.standard_normal(shape).astype(dtype)
        return found


EXTENTS = st.sampled_from((0, 1, 2, 3, 5, 9, 17, 66, 131))
SMALL = st.sampled_from((-3, -2, -1, 1, 2, 3))

TABLES = {
    "keep[m]": "keep[m]: bool",
    "block[p // 3, m // 2]": "block[p, m]: bool",
    "dp[p] == dm[m]": "dp[p]: int, dm[m]: int",
    "m < len[]": "len[]: int",
    "m <= p + start[p]": "start[p]: int",
}


@st.composite
def comparisons(draw: st.DrawFn) -> str:
    """An affine comparison of the two positions, or one with a remainder or quotient."""
    match draw(st.integers(0, 4)):
        case 0:
            return draw(st.sampled_from(("m <= p", "m < p", "m <= p + |m| - |p|", "p - 2 < m")))
        case 1:
            return f"m % {draw(st.integers(2, 3))} == p % 2"
        case 2:
            return f"m // {draw(st.integers(2, 4))} <= p // {draw(st.integers(1, 3))}"
        case 3:
            return f"m < {draw(st.integers(0, 4))}"
        case _:
            left = f"{draw(SMALL)} * p + {draw(SMALL)} * m"
            sign = draw(st.sampled_from(("<", "<=", ">", ">=", "==", "!=")))
            return f"{left} {sign} {draw(st.integers(-4, 9))}"


@st.composite
def predicates(draw: st.DrawFn, depth: int = 2) -> tuple[str, tuple[str, ...]]:
    """A predicate over p and m, and the inputs that it reads."""
    if depth and draw(st.booleans()):
        left, first = draw(predicates(depth - 1))
        right, second = draw(predicates(depth - 1))
        joint = draw(st.sampled_from(("and", "or", "and not")))
        return f"({left}) {joint} ({right})", tuple(dict.fromkeys((*first, *second)))
    if draw(st.integers(0, 3)) == 0:
        table = draw(st.sampled_from(sorted(TABLES)))
        return table, tuple(TABLES[table].split(", "))
    return draw(comparisons()), ()


SCORES = (
    "sum[e](Q[p, e] * K[m, e]) / sqrt(|e|)",
    "sum[e](Q[p, e] * K[m, e]) * 0.25 - 0.5 * abs(p - m)",
    "sum[e](Q[p, e] * K[m, e]) + B[p, m]",
    "5 * tanh(sum[e](Q[p, e] * K[m, e]) / 5)",
    "sum[e](Q[p, e] * K[m, e] + 1)",
)

STABLE = {
    "softmax": """    A[p, m] = softmax[m](S[p, m])""",
    "spelled out": """    G[p] = max[m](S[p, m])
    N[p, m] = exp(S[p, m] - G[p])
    D[p] = sum[m](N[p, m])
    A[p, m] = N[p, m] / D[p]""",
    "base 2": """    G[p] = max[m](S[p, m])
    N[p, m] = exp2(S[p, m] - G[p])
    D[p] = sum[m](N[p, m])
    A[p, m] = N[p, m] / D[p]""",
    "softmax1": """    G[p] = max(0, max[m](S[p, m]))
    N[p, m] = exp(S[p, m] - G[p])
    D[p] = exp(-G[p]) + sum[m](N[p, m])
    A[p, m] = N[p, m] / D[p]""",
    "sink": """    G[p] = max(sink[], max[m](S[p, m]))
    N[p, m] = exp(S[p, m] - G[p])
    D[p] = exp(sink[] - G[p]) + sum[m](N[p, m])
    A[p, m] = N[p, m] / D[p]""",
    "dropped": """    P[p, m] = softmax[m](S[p, m])
    A[p, m] = select(uniform(7, p, m) < 0.4, 0, P[p, m] / 0.6)""",
    "not separable": """    G[p] = max[m](S[p, m])
    A[p, m] = tanh(S[p, m] - G[p])""",
    "size": """    D[p] = sum[m](abs(S[p, m]))
    A[p, m] = S[p, m] / D[p]""",
    "length": """    D[p] = sqrt(sum[m](S[p, m] ** 2))
    A[p, m] = S[p, m] / D[p]""",
    "power": """    G[p] = max[m](abs(S[p, m]))
    A[p, m] = abs(S[p, m] / G[p]) ** 2""",
}

# Exact only in as far as the scores, or their log-sum-exp, are.
TAME = {
    "by log-sum-exp": """    L[p] = logsumexp[m](S[p, m])
    A[p, m] = exp(S[p, m] - L[p])""",
    "unstable": """    N[p, m] = exp(S[p, m])
    D[p] = sum[m](N[p, m])
    A[p, m] = N[p, m] / D[p]""",
    "sigmoid": """    A[p, m] = sigmoid(S[p, m])""",
    "relu": """    A[p, m] = relu(S[p, m])""",
    "two": """    A1[p, m] = softmax[m](S[p, m])
    A2[p, m] = softmax[m](S[p, m] * 0.5)
    A[p, m] = A1[p, m] - 0.3 * A2[p, m]""",
    "linear": """    A[p, m] = S[p, m]""",
}

EXTRA = {
    "G": ("G[p]", None),
    "D": ("D[p]", None),
    "L2": ("L2[p]", "    L2[p] = logsumexp[m](S[p, m])"),
    "C": ("C[p]", "    C[p] = sum[m](present(A[p, m]))"),
    "A": ("A[p, m]", None),
}


@st.composite
def attentions(draw: st.DrawFn) -> Program:
    """Attention with a score, a mask, a weight and a normaliser, and perhaps further outputs."""
    largest = draw(st.sampled_from((1.0, 1.0, 1e4)))
    weights = STABLE if largest > 1 else {**STABLE, **TAME}
    weight = weights[draw(st.sampled_from(sorted(weights)))]
    score = draw(st.sampled_from(SCORES))
    inputs = ["Q[p, e]", "K[m, e]", "V[m, f]"]
    inputs += ["B[p, m]"] * ("B[" in score) + ["sink[]"] * ("sink" in weight)
    lines = [f"    S[p, m] = {score}"]
    if draw(st.booleans()):
        predicate, tables = draw(predicates())
        lines[0] += f" where {predicate}"
        inputs += tables
    lines.append(weight)
    value = draw(st.sampled_from(("A[p, m] * V[m, f]", "A[p, m] * V[m, f] * w[m]",
                                  "A[p, m] * (V[m, f] + 1)", "A[p, m] * V[m + 1, f]")))  # fmt: skip
    inputs += ["w[m]"] * ("w[" in value)
    lines.append(f"    O[p, f] = {value}")
    outputs = ["O[p, f]"]
    for name in draw(st.lists(st.sampled_from(sorted(EXTRA)), max_size=2, unique=True)):
        shown, line = EXTRA[name]
        if line is None and f"    {shown} =" not in weight:
            continue
        outputs.append(shown)
        lines += [] if line is None else [line]
    batch = draw(st.sampled_from(("", "[b]")))
    text = f"cascade c{batch}({', '.join(inputs)}) -> {', '.join(outputs)}:\n" + "\n".join(lines)
    sizes = {
        "b": 2, "p": draw(EXTENTS.filter(lambda n: n < 66)), "m": draw(EXTENTS),
        "e": draw(st.sampled_from((1, 4) if largest > 1 else (1, 2, 3, 4))),
        "f": draw(st.sampled_from((1, 2, 3))),
    }  # fmt: skip
    return Program(text, tuple(sizes.items()), largest, draw(st.integers(0, 99)))


FIRST = ("{x}", "abs({x})", "exp({x})", "{x} ** 2", "0.5 * {x} + 1")
THEN = (
    "{x} - {y}", "{y} - {x}", "exp({x} - {y})", "exp2({y} - {x})", "{x} / {y}", "{x} * {y}",
    "{x} / (1 + abs({y}))", "abs({x} / {y}) ** 3", "max({x}, {y})", "exp({x}) / {y}",
    "{x} * exp({x} - {y})", "exp({x} - {y}) + 1", "log(1 + abs({x} - {y}))", "{x} + sqrt({y})",
    "select({x} > 0, exp({x} - {y}), 0)", "exp(({x} - {y}) / (1 + {z} ** 2))",
)  # fmt: skip
OPS = ("sum", "sum", "sum", "max", "max", "min", "logsumexp", "prod", "any")


@st.composite
def chains(draw: st.DrawFn) -> Program:
    """Reductions over one rank, each of terms that may wait for those before it."""
    inputs = ["X[p, m]", "Z[p]"]
    lines = ["    T[p, m] = X[p, m]"]
    if draw(st.booleans()):
        predicate, tables = draw(predicates(1))
        lines[0] += f" where {predicate}"
        inputs += tables
    known: list[str] = []
    for number in range(draw(st.integers(2, 4))):
        form = draw(st.sampled_from(THEN if known else FIRST))
        names = {"x": draw(st.sampled_from(("T[p, m]", "T[p, m]", "X[p, m]"))), "z": "Z[p]"}
        if known:
            names["y"] = draw(st.sampled_from(known))
        op = draw(st.sampled_from(OPS))
        term = form.format(**names)
        if op == "any":
            op, term = "sum", f"select({term} > 0.5, 1, 0)"
        bound = draw(st.sampled_from(("m", "m", "m", "m where m != 1")))
        lines.append(f"    Y{number}[p] = {op}[{bound}]({term})")
        known.append(f"Y{number}[p]")
    outputs = draw(st.lists(st.sampled_from(known), min_size=1, unique=True))
    outputs = [*outputs, *([] if known[-1] in outputs else [known[-1]])]
    text = f"cascade c({', '.join(inputs)}) -> {', '.join(outputs)}:\n" + "\n".join(lines)
    sizes = {"p": draw(st.sampled_from((1, 3))), "m": draw(EXTENTS)}
    return Program(text, tuple(sizes.items()), 1.0, draw(st.integers(0, 99)))


def error(got: np.ndarray, want: np.ndarray) -> float:
    """Largest difference relative to the largest value; infinite where infinities differ.

    Where the reference is no number anything may stand, and no number where it has divided by 0
    or overflowed to plus infinity. A result of denormal numbers only is 0.
    """
    known = ~(np.isnan(want) | (np.isposinf(want) & np.isnan(got)))
    got, want = got[known].astype(np.float64), want[known].astype(np.float64)
    finite = np.isfinite(want)
    if got.shape != want.shape or not np.array_equal(got[~finite], want[~finite]):
        return float("inf")
    if not np.isfinite(got[finite]).all():
        return float("inf")
    scale = float(np.abs(want[finite]).max(initial=0))
    apart = float(np.abs(got[finite] - want[finite]).max(initial=0))
    return apart / (scale if scale > 1e-300 else 1.0)
