"""What an expression is worth: its kind, how large it is, and its value where that is known."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from attnc import limits
from attnc.ir.algebra import INTEGER_ROUNDING, OPS
from attnc.ir.cascade import DTYPES
from attnc.ir.expr import ZERO, Expr
from attnc.ir.source import CompileError, Span, nearest

NUMBER, INT, BOOL, UNKNOWN = "number", "int", "bool", ""
KIND_NAMES = {NUMBER: "a number", INT: "an integer", BOOL: "a truth value", UNKNOWN: "unknown"}

Value = int | float | bool


@dataclass(frozen=True, slots=True)
class Typed:
    """An expression with its kind; `kind` is UNKNOWN where an error was reported already.

    `count` and `depth` measure it as a tree. `scalar` says that it holds neither tensors nor
    positions. `value` is its value where only literals (or defaults of parameters) stand in it.
    """

    expr: Expr
    kind: str
    count: int = 1
    depth: int = 1
    scalar: bool = False
    value: Value | None = None


POISON = Typed(ZERO, UNKNOWN)


OTHER_NAMES = {
    "float16": "f16", "half": "f16", "fp16": "f16", "bfloat16": "bf16", "float32": "f32",
    "fp32": "f32", "float64": "f64", "fp64": "f64", "double": "f64", "float8_e4m3fn": "f8e4m3",
    "float8_e5m2": "f8e5m2", "int8": "int", "int16": "int", "int32": "int", "int64": "int",
    "long": "int", "boolean": "bool",
}  # fmt: skip
"""What other libraries call the types of the language."""


class Errors:
    """The errors of a run in the order in which they were found; `placed` counts the Einsums that
    functions added to it."""

    def __init__(self) -> None:
        self.found: list[CompileError] = []
        self.placed = 0

    def add(self, message: str, span: Span, note: str = "", *, code: str, help: str = "") -> None:
        self.found.append(CompileError(message, span, note, code=code, help=help))

    def unknown_type(self, name: str, span: Span) -> None:
        """Add the error for a word that is no type; what PyTorch and NumPy call one is known."""
        meant = OTHER_NAMES.get(name)
        help = f"did you mean {meant}?" if meant else self.nearest(name, DTYPES)
        help = help or f"types are {', '.join(DTYPES)}"
        self.add(f"no type {name!r}", span, code="E010", help=help)

    def nearest(self, name: str, known: Iterable[str]) -> str:
        """A help that offers the most similar name; none once more errors than are shown."""
        if len(self.found) > limits.REPORTED or len(name) > limits.COMPARED:
            return ""
        candidates = sorted({other for other in known if len(other) <= limits.COMPARED})
        return nearest(name, candidates[: limits.CANDIDATES])


class Abandoned(Exception):
    """A statement of which nothing more can be said; its error is reported already."""


def kind_of(dtype: str) -> str:
    """The kind of a tensor or parameter of a declared type."""
    return dtype if dtype in (INT, BOOL) else NUMBER


def join(kinds: Sequence[str]) -> str:
    """The kind of a result that may be any of some numbers."""
    if UNKNOWN in kinds:
        return UNKNOWN
    return INT if all(kind == INT for kind in kinds) else NUMBER


def fits(kind: str, wanted: str) -> bool:
    """Whether a value of a kind may stand where another is wanted."""
    return UNKNOWN in (kind, wanted) or kind == wanted or (kind == INT and wanted == NUMBER)


_LOGIC = ("and", "or", "not")
_ORDER = ("<", "<=", ">", ">=")
_EQUALITY = ("==", "!=")


def wanted_kinds(op: str, kinds: Sequence[str]) -> list[str]:
    """The kind that each operand of an operation must have, given what they are."""
    if op in _LOGIC:
        return [BOOL] * len(kinds)
    if op == "present":
        return list(kinds)
    if op == "uniform":
        return [INT] * len(kinds)
    if op in _EQUALITY and BOOL in kinds:
        return [BOOL] * len(kinds)
    if op == "select":
        chosen = BOOL if BOOL in kinds[1:] else NUMBER
        return [BOOL, chosen, chosen]
    return [NUMBER] * len(kinds)


def result_kind(op: str, args: Sequence[Typed]) -> str:
    """The kind of an operation's result, its operands being of the right kinds."""
    kinds = [arg.kind for arg in args]
    if op in INTEGER_ROUNDING and all(arg.scalar for arg in args):
        return INT
    match OPS[op].result:
        case "bool":
            return BOOL
        case "int":
            return INT
        case "number":
            return NUMBER
        case _:
            picked = kinds[1:] if op == "select" else kinds
            return BOOL if BOOL in picked else join(picked)


def fold(op: str, values: Sequence[Value | None]) -> Value | None:
    """The value of an operation on known values, None where it is unknown or no finite number.

    Raises OverflowError past the largest integer, ZeroDivisionError where a quotient of integers
    does not exist.
    """
    if any(value is None for value in values):
        return None
    known = [value for value in values if value is not None]
    a, b = known[0], known[-1]
    result: Value
    match op:
        case "+":
            result = a + b
        case "-":
            result = a - b
        case "*":
            result = a * b
        case "neg":
            result = -a
        case "/" if b != 0:
            result = a / b
        case "//" | "%":
            if b == 0 and isinstance(a, int) and isinstance(b, int):
                raise ZeroDivisionError
            if b == 0 or math.isinf(a):
                return None
            result = a // b if op == "//" else a % b
        case "**" | "pow":
            return _power(a, b)
        case "max" | "min":
            result = max(known) if op == "max" else min(known)
        case "ceil" if math.isfinite(a):
            result = math.ceil(a)
        case "floor" if math.isfinite(a):
            result = math.floor(a)
        case "round" if math.isfinite(a):
            result = round(a)
        case _:
            return None
    if isinstance(result, int) and abs(result) > limits.LARGEST:
        raise OverflowError
    return result


def _power(base: Value, exponent: Value) -> Value | None:
    if isinstance(base, int) and isinstance(exponent, int) and exponent >= 0:
        if abs(base) > 1 and exponent * (abs(base).bit_length() - 1) > 63:
            raise OverflowError
        return _checked(int(base) ** int(exponent))
    if base <= 0:
        return None
    try:
        return math.pow(base, exponent)
    except OverflowError:
        return math.inf


def _checked(value: int) -> int:
    if abs(value) > limits.LARGEST:
        raise OverflowError
    return value
