"""Values of a cascade's parameters."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from attnc.ir.cascade import Cascade, ParamDecl
from attnc.ir.source import CompileError, nearest

Value = int | float | bool


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
        "int": isinstance(value, int) and not isinstance(value, bool),
        "float": isinstance(value, int | float) and not isinstance(value, bool),
        "bool": isinstance(value, bool),
    }
    if not fits.get(decl.dtype, False):
        raise CompileError(
            f"parameter {decl.name} is {decl.dtype}, but {value!r} was given",
            decl.span,
            code="E112",
        )


def _typed(decl: ParamDecl, value: Value) -> Value:
    return float(value) if decl.dtype == "float" else value
