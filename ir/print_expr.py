"""Expressions as the language writes them, with no parenthesis that a reader could do without."""

from __future__ import annotations

import math
from collections.abc import Mapping

from attnc.ir.algebra import OPS
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
    Tile,
)
from attnc.ir.source import InvalidIR

_NOT, _NEG, _POWER, _ATOM = 3, 7, 8, 9
_BINARY = {
    "or": 1, "and": 2, "==": 4, "!=": 4, "<": 4, "<=": 4, ">": 4, ">=": 4,
    "+": 5, "-": 5, "*": 6, "/": 6, "//": 6, "%": 6,
}  # fmt: skip
_COMPARISON = 4

Prefixes = Mapping[str, tuple[str, ...]]
"""The batch ranks of each tensor, which its accesses leave unwritten."""


def print_expr(expr: Expr, prefixes: Prefixes | None = None) -> str:
    """The text of an expression; `prefixes` names the leading ranks that accesses may leave out.

    Raises InvalidIR for a value that no literal can write.
    """
    return _printed(expr, prefixes or {})[0]


def print_number(value: int | float | bool) -> str:
    """A literal of the language: Python's numbers, `inf`, `true` and `false`."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        if math.isnan(value):
            raise InvalidIR("no literal writes a NaN")
        return repr(value)
    return str(value)


def print_access(tensor: str, subscripts: tuple[Expr, ...], prefixes: Prefixes) -> str:
    """`T[p, m]`, without the batch ranks where they stand in front unchanged and others follow."""
    prefix = prefixes.get(tensor, ())
    count = len(prefix)
    if count < len(subscripts) and subscripts[:count] == tuple(map(Index, prefix)):
        subscripts = subscripts[count:]
    return f"{tensor}[{', '.join(_subscript(part, prefixes) for part in subscripts)}]"


def _subscript(expr: Expr, prefixes: Prefixes) -> str:
    match expr:
        case Map("+" | "-" as op, (Index(rank), Const(int(step)))) if step >= 0:
            return f"{rank}{op}{print_number(step)}"
        case _:
            return _printed(expr, prefixes)[0]


def _printed(expr: Expr, prefixes: Prefixes) -> tuple[str, int]:
    """The text with the strength by which its outermost operator binds."""
    match expr:
        case Const(value):
            signed = not isinstance(value, bool) and math.copysign(1, value) < 0
            return print_number(value), _NEG if signed else _ATOM
        case Index(rank):
            return rank, _ATOM
        case Extent(rank):
            return f"|{rank}|", _ATOM
        case Param(name):
            return name, _ATOM
        case Access(tensor, subscripts):
            return print_access(tensor, subscripts, prefixes), _ATOM
        case Tile(name, ranks):
            return f"{name}[{', '.join(ranks)}]", _ATOM
        case Cast(dtype, body):
            return f"cast({_printed(body, prefixes)[0]}, {dtype})", _ATOM
        case Reduce(op, ranks, body, where):
            return _folded(op, ranks, body, where, prefixes), _ATOM
        case Populate(op, rank, body, where):
            return _folded(op, (rank,), body, where, prefixes), _ATOM
        case Map(op, args):
            return _applied(op, args, prefixes)


def _folded(
    op: str, ranks: tuple[str, ...], body: Expr, where: Expr | None, prefixes: Prefixes
) -> str:
    inside = ", ".join(ranks)
    if where is not None:
        inside += f" where {_printed(where, prefixes)[0]}"
    return f"{op}[{inside}]({_printed(body, prefixes)[0]})"


def _applied(op: str, args: tuple[Expr, ...], prefixes: Prefixes) -> tuple[str, int]:
    if op == "neg":
        # A literal with its sign is one number, and a negated literal is an operation on one.
        least = _ATOM + 1 if _is_literal(args[0]) else _NEG
        return "-" + _operand(args[0], least, prefixes), _NEG
    if op == "not":
        return "not " + _operand(args[0], _NOT, prefixes), _NOT
    if op == "**":
        base = _operand(args[0], _ATOM, prefixes)
        return f"{base} ** {_operand(args[1], _NEG, prefixes)}", _POWER
    if op in _BINARY:
        strength = _BINARY[op]
        first = strength + 1 if strength == _COMPARISON else strength
        parts = [_operand(args[0], first, prefixes)]
        parts += [_operand(arg, strength + 1, prefixes) for arg in args[1:]]
        return f" {op} ".join(parts), strength
    if op not in OPS:
        raise InvalidIR(f"no operation {op!r}")
    return f"{op}({', '.join(_printed(arg, prefixes)[0] for arg in args)})", _ATOM


def _is_literal(expr: Expr) -> bool:
    return isinstance(expr, Const) and not isinstance(expr.value, bool) and expr.value >= 0


def _operand(expr: Expr, least: int, prefixes: Prefixes) -> str:
    text, strength = _printed(expr, prefixes)
    return text if strength >= least else f"({text})"
