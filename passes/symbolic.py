"""Scalar expressions of extents and parameters as sympy expressions."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import sympy

from attnc.ir.cascade import Cascade
from attnc.ir.expr import Cast, Const, Expr, Extent, Map, Param
from attnc.ir.source import CompileError, InvalidIR

_FUNCTIONS: dict[str, Callable[..., Any]] = {
    "+": lambda a, b: a + b,
    "-": lambda a, b: a - b,
    "*": lambda a, b: a * b,
    "/": lambda a, b: a / b,
    "//": lambda a, b: sympy.floor(a / b),
    "%": lambda a, b: a - b * sympy.floor(a / b),
    "**": lambda a, b: a**b,
    "pow": lambda a, b: a**b,
    "neg": lambda a: -a,
    "floor": sympy.floor,
    "ceil": sympy.ceiling,
    "round": lambda a: sympy.floor(a + sympy.Rational(1, 2)),
    "min": sympy.Min,
    "max": sympy.Max,
    "clip": lambda a, low, high: sympy.Min(sympy.Max(a, low), high),
    "abs": sympy.Abs,
    "sqrt": sympy.sqrt,
    "rsqrt": lambda a: 1 / sympy.sqrt(a),
    "exp": sympy.exp,
    "exp2": lambda a: sympy.Integer(2) ** a,
    "log": sympy.log,
    "log2": lambda a: sympy.log(a, 2),
    "==": sympy.Eq,
    "!=": sympy.Ne,
    "<": sympy.Lt,
    "<=": sympy.Le,
    ">": sympy.Gt,
    ">=": sympy.Ge,
    "and": sympy.And,
    "or": sympy.Or,
    "not": sympy.Not,
    "select": lambda c, a, b: sympy.Piecewise((a, c), (b, True)),
}


def extent_symbol(name: str) -> sympy.Symbol:
    """The positive integer symbol of a rank's extent or of a parameter, under its own name."""
    return sympy.Symbol(name, positive=True, integer=True)


def to_sympy(expr: Expr, values: Mapping[str, sympy.Expr] | None = None) -> sympy.Expr:
    """The value of a scalar expression, the symbols of ranks and parameters replaced by `values`.

    Raises CompileError where an operation has no closed form.
    """
    known = values or {}
    match expr:
        case Const(bool(value)):
            return sympy.true if value else sympy.false
        case Const(int(value)):
            return sympy.Integer(value)
        case Const(value):
            return sympy.nsimplify(value, rational=True)
        case Extent(name) | Param(name):
            return known[name] if name in known else extent_symbol(name)
        case Map(op, args) if op in _FUNCTIONS:
            return _FUNCTIONS[op](*(to_sympy(arg, values) for arg in args))
        case Cast(_, body):
            return to_sympy(body, values)
        case Map(op, _):
            raise CompileError(f"{op} has no closed form in extents and parameters", expr.span)
        case _:
            raise CompileError("this is no expression of extents and parameters", expr.span)


def extents(cascade: Cascade) -> dict[str, sympy.Expr]:
    """The extent of every declared rank in terms of the ranks of inputs and of parameters."""
    declared = {decl.name: decl for decl in cascade.ranks}
    found: dict[str, sympy.Expr] = {}

    def resolve(name: str, above: tuple[str, ...]) -> None:
        if name in above:
            raise InvalidIR(f"{cascade.name}: the extent of rank {name} depends on itself")
        for other in _extents_in(declared[name].extent):
            if other in declared and other not in found:
                resolve(other, (*above, name))
        found[name] = to_sympy(declared[name].extent, found)

    for name in declared:
        if name not in found:
            resolve(name, ())
    return found


def _extents_in(expr: Expr) -> tuple[str, ...]:
    match expr:
        case Extent(name):
            return (name,)
        case Map(_, args):
            return tuple(name for arg in args for name in _extents_in(arg))
        case Cast(_, body):
            return _extents_in(body)
        case _:
            return ()
