"""Values of a cascade's parameters."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from numbers import Integral, Real

from attnc.ir.cascade import Cascade, ParamDecl
from attnc.ir.source import CompileError, nearest

Value = int | float | bool

LARGEST = 2**63
"""Integers end below it."""


def with_params(cascade: Cascade, values: Mapping[str, Value]) -> Cascade:
    """The cascade with values in place of its parameters' defaults.

    Raises CompileError for a parameter that the cascade lacks or a value of another type.
    """
    if not values:
        return cascade
    declared = {decl.name: decl for decl in cascade.params}
    for name, value in values.items():
        if name not in declared:
            known = ", ".join(declared) or "none"
            raise CompileError(
                f"{cascade.name} has no parameter {name}",
                cascade.span,
                f"its parameters: {known}",
                code="E111",
                help=nearest(name, declared),
            )
        _check(declared[name], value)
    params = tuple(
        replace(decl, default=_typed(decl, values[decl.name])) if decl.name in values else decl
        for decl in cascade.params
    )
    return replace(cascade, params=params)


def _check(decl: ParamDecl, value: Value) -> None:
    fits = {
        "int": isinstance(value, Integral) and not isinstance(value, bool),
        "float": isinstance(value, Real) and not isinstance(value, bool) and value == value,
        "bool": isinstance(value, bool),
    }
    if not fits.get(decl.dtype, False):
        raise CompileError(
            f"parameter {decl.name} is {decl.dtype}, but {value!r} was given",
            decl.span,
            code="E112",
        )
    if isinstance(value, Integral) and not -LARGEST <= value < LARGEST:
        raise CompileError(
            f"the value of parameter {decl.name} is too large",
            decl.span,
            "2^63 or more",
            code="E040",
        )


def _typed(decl: ParamDecl, value: Value) -> Value:
    match decl.dtype:
        case "int":
            return int(value)
        case "float":
            return float(value)
        case _:
            return value
