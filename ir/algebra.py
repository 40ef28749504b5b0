"""Facts about operations, as tables.

`OPS` holds every scalar operation of the language, `MONOIDS` every built-in reduction, `LAWS` the
pairs (reduction, product) by which a factor moves through a reduction. Passes and back-ends read
these tables; none of them names an operation where a row would do.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Op:
    """A scalar operation.

    `symbol` is how an infix operation is written ("" for a function). `arity` is a range.
    `counts` is the kind under which it is counted: multiply, add, max, divide, exp, other, or ""
    for what costs nothing (comparisons, selection, positions). `result` is "number", "bool",
    "same" (the kind of the operands) or "int". `numpy` and `triton` are source templates with
    {0}, {1}, ... for the operands; an empty one means that the back-end writes it by hand.
    """

    name: str
    symbol: str
    arity: tuple[int, int]
    counts: str
    result: str
    numpy: str
    triton: str


def _table(*rows: Op) -> dict[str, Op]:
    return {row.name: row for row in rows}


OPS = _table(
    Op("+", "+", (2, 2), "add", "same", "np.add({0}, {1})", "({0} + {1})"),
    Op("-", "-", (2, 2), "add", "same", "np.subtract({0}, {1})", "({0} - {1})"),
    Op("*", "*", (2, 2), "multiply", "same", "np.multiply({0}, {1})", "({0} * {1})"),
    Op("/", "/", (2, 2), "divide", "number", "np.divide({0}, {1})", "({0} / {1})"),
    Op("//", "//", (2, 2), "other", "same", "np.floor_divide({0}, {1})", ""),
    Op("%", "%", (2, 2), "other", "same", "np.mod({0}, {1})", ""),
    Op("**", "**", (2, 2), "exp", "same", "np.power({0}, {1})", ""),
    Op("neg", "-", (1, 1), "add", "same", "np.negative({0})", "(-{0})"),
    Op("==", "==", (2, 2), "", "bool", "np.equal({0}, {1})", "({0} == {1})"),
    Op("!=", "!=", (2, 2), "", "bool", "np.not_equal({0}, {1})", "({0} != {1})"),
    Op("<", "<", (2, 2), "", "bool", "np.less({0}, {1})", "({0} < {1})"),
    Op("<=", "<=", (2, 2), "", "bool", "np.less_equal({0}, {1})", "({0} <= {1})"),
    Op(">", ">", (2, 2), "", "bool", "np.greater({0}, {1})", "({0} > {1})"),
    Op(">=", ">=", (2, 2), "", "bool", "np.greater_equal({0}, {1})", "({0} >= {1})"),
    Op("and", "and", (2, 2), "", "bool", "np.logical_and({0}, {1})", "({0} & {1})"),
    Op("or", "or", (2, 2), "", "bool", "np.logical_or({0}, {1})", "({0} | {1})"),
    Op("not", "not", (1, 1), "", "bool", "np.logical_not({0})", "(not {0})"),
    Op("exp", "", (1, 1), "exp", "number", "np.exp({0})", "tl.exp({0})"),
    Op("exp2", "", (1, 1), "exp", "number", "np.exp2({0})", "tl.exp2({0})"),
    Op("log", "", (1, 1), "exp", "number", "np.log({0})", "tl.log({0})"),
    Op("log2", "", (1, 1), "exp", "number", "np.log2({0})", "tl.log2({0})"),
    Op("log1p", "", (1, 1), "exp", "number", "np.log1p({0})", ""),
    Op("expm1", "", (1, 1), "exp", "number", "np.expm1({0})", ""),
    Op("sqrt", "", (1, 1), "other", "number", "np.sqrt({0})", "tl.sqrt({0})"),
    Op("rsqrt", "", (1, 1), "other", "number", "", "tl.rsqrt({0})"),
    Op("sin", "", (1, 1), "other", "number", "np.sin({0})", "tl.sin({0})"),
    Op("cos", "", (1, 1), "other", "number", "np.cos({0})", "tl.cos({0})"),
    Op("tanh", "", (1, 1), "exp", "number", "np.tanh({0})", ""),
    Op("sigmoid", "", (1, 1), "exp", "number", "", "tl.sigmoid({0})"),
    Op("softplus", "", (1, 1), "exp", "number", "", ""),
    Op("relu", "", (1, 1), "max", "same", "np.maximum({0}, 0)", ""),
    Op("gelu", "", (1, 1), "exp", "number", "", ""),
    Op("silu", "", (1, 1), "exp", "number", "", ""),
    Op("elu", "", (1, 1), "exp", "number", "", ""),
    Op("erf", "", (1, 1), "exp", "number", "", "tl.erf({0})"),
    Op("abs", "", (1, 1), "other", "same", "np.abs({0})", "tl.abs({0})"),
    Op("sign", "", (1, 1), "other", "same", "np.sign({0})", ""),
    Op("floor", "", (1, 1), "other", "same", "np.floor({0})", "tl.floor({0})"),
    Op("ceil", "", (1, 1), "other", "same", "np.ceil({0})", "tl.ceil({0})"),
    Op("round", "", (1, 1), "other", "same", "np.rint({0})", ""),
    Op("max", "", (2, 99), "max", "same", "np.maximum({0}, {1})", "tl.maximum({0}, {1})"),
    Op("min", "", (2, 99), "max", "same", "np.minimum({0}, {1})", "tl.minimum({0}, {1})"),
    Op("clip", "", (3, 3), "max", "same", "np.clip({0}, {1}, {2})", ""),
    Op("pow", "", (2, 2), "exp", "same", "np.power({0}, {1})", ""),
    Op("select", "", (3, 3), "", "same", "np.where({0}, {1}, {2})", "tl.where({0}, {1}, {2})"),
    Op("present", "", (1, 1), "", "int", "", ""),
    Op("uniform", "", (1, 99), "other", "number", "", ""),
    # Positions of a rank within the tile at hand, in the bounds of a loop only.
    Op("first", "", (1, 1), "", "int", "", ""),
    Op("last", "", (1, 1), "", "int", "", ""),
)

PARTIAL = frozenset(
    ("/", "//", "%", "**", "pow", "exp", "exp2", "expm1", "log", "log2", "log1p", "sqrt", "rsqrt")
)
"""Operations that are undefined or infinite for some finite operands."""

INTEGER_ROUNDING = ("floor", "ceil", "round")
"""Functions whose result is an integer when their argument is an expression of extents."""


@dataclass(frozen=True, slots=True)
class Monoid:
    """A reduction: an associative, commutative operation with its identity.

    `combine` is the operation of `OPS` that joins two partial results ("" where none does).
    `counts` is the kind under which one application is counted. `selective` says that the result
    is always one of the operands, so that repeating an operand changes nothing.
    """

    name: str
    combine: str
    identity: float | bool
    counts: str
    selective: bool
    numpy: str


INF = float("inf")

MONOIDS = {
    row.name: row
    for row in (
        Monoid("sum", "+", 0.0, "add", False, "np.add"),
        Monoid("prod", "*", 1.0, "multiply", False, "np.multiply"),
        Monoid("max", "max", -INF, "max", True, "np.maximum"),
        Monoid("min", "min", INF, "max", True, "np.minimum"),
        Monoid("any", "or", False, "", True, "np.logical_or"),
        Monoid("all", "and", True, "", True, "np.logical_and"),
        Monoid("logsumexp", "", -INF, "exp", False, "np.logaddexp"),
    )
}

POPULATES = ("argtop", "argbottom", "rankof", "argmax", "argmin")


@dataclass(frozen=True, slots=True)
class Law:
    """`product` distributes over `reduction`: ⊕_k (x_k ⊗ h) = (⊕_k x_k) ⊗ h.

    `condition` is what h must satisfy ("" or "positive").
    Sources: FuseMax (MICRO 2024) for sums and maxima, RedFuser (2026) for the general pair.
    """

    reduction: str
    product: str
    condition: str


LAWS = (
    Law("sum", "*", ""),
    Law("max", "+", ""),
    Law("min", "+", ""),
    Law("max", "*", "positive"),
    Law("min", "*", "positive"),
    Law("logsumexp", "+", ""),
)


def laws_of(reduction: str) -> tuple[Law, ...]:
    """The laws by which a factor moves through a reduction, the preferred one first."""
    return tuple(law for law in LAWS if law.reduction == reduction)


BYTES = {"float": 4, "f16": 2, "bf16": 2, "f32": 4, "f64": 8, "f8e4m3": 1, "f8e5m2": 1,
         "int": 4, "bool": 1}  # fmt: skip
"""Bytes of an element of each type; `float` counts as float32 where nothing else is said."""
