"""Fit the arguments of a call to a cascade: names, shapes, types, extents."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from attnc.ir.cascade import FLOATS, Cascade, Tensor
from attnc.ir.expr import Const, Expr, Extent, Map, Param
from attnc.ir.source import CallError, CompileError, nearest

Array = npt.NDArray[Any]
Scalar = int | float | bool

LARGEST = 2**62
"""Largest number of positions of a rank, and of points of a tensor."""


@dataclass(frozen=True, slots=True)
class Call:
    """Arrays by input, the extent of every rank, the value of every parameter."""

    arrays: dict[str, Array]
    extents: dict[str, int]
    params: dict[str, Scalar]


def bind(cascade: Cascade, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Call:
    """Match arguments, by position or name, with the inputs of a cascade.

    Raises CallError, naming the tensor, the rank and both extents, for arguments that are
    missing, unknown or given twice, and for shapes and types that do not fit.
    """
    arrays = _named(cascade, args, kwargs)
    extents: dict[str, int] = {}
    owner: dict[str, str] = {}
    for tensor in cascade.inputs:
        array = arrays[tensor.name] = _typed(tensor, arrays[tensor.name])
        shown = f"{tensor.name}[{', '.join(tensor.ranks)}]"
        if array.ndim != len(tensor.ranks):
            raise CallError(
                f"{shown} has {len(tensor.ranks)} axes, but the array given has {array.ndim}: "
                f"shape {array.shape}"
            )
        for rank, extent in zip(tensor.ranks, array.shape):
            if extents.setdefault(rank, extent) != extent:
                raise CallError(
                    f"rank {rank} has extent {extents[rank]} in {owner[rank]}, "
                    f"but {extent} in {shown}"
                )
            owner.setdefault(rank, shown)
    params = parameters(cascade)
    return Call(arrays, {**extents, **declared_extents(cascade, extents, params)}, params)


def _named(cascade: Cascade, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    names = [tensor.name for tensor in cascade.inputs]
    if len(args) > len(names):
        raise CallError(f"{cascade.name} takes {len(names)} inputs, but {len(args)} were given")
    found = dict(zip(names, args))
    for name, value in kwargs.items():
        if name not in names:
            hint = nearest(name, names)
            raise CallError(f"{cascade.name} has no input {name}" + (f"; {hint}" if hint else ""))
        if name in found:
            raise CallError(f"{name} is given twice")
        found[name] = value
    missing = [name for name in names if name not in found]
    if missing:
        raise CallError(f"{cascade.name} needs {', '.join(missing)} as well")
    return found


def is_float(dtype: np.dtype[Any]) -> bool:
    """Whether a NumPy type is a floating type, those of ml_dtypes included."""
    return dtype.kind == "f" or dtype.name.startswith(("bfloat", "float"))


def _typed(tensor: Tensor, value: Any) -> Array:
    try:
        array = np.asarray(value)
    except ValueError as error:
        raise CallError(f"{tensor.name} is no array: {error}") from None
    fits = {"int": array.dtype.kind in "iu", "bool": array.dtype.kind == "b"}
    if not fits.get(tensor.dtype, is_float(array.dtype)):
        wanted = "a floating type" if tensor.dtype in FLOATS else tensor.dtype
        raise CallError(f"{tensor.name} takes {wanted}, but the array given holds {array.dtype}")
    return array


def parameters(cascade: Cascade) -> dict[str, Scalar]:
    """The value of every parameter; CompileError for one that has none."""
    found: dict[str, Scalar] = {}
    for decl in cascade.params:
        if decl.default is None:
            raise CompileError(
                f"parameter {decl.name} has no value",
                decl.span,
                code="E110",
                help=f"give one: --param {decl.name}=... or {decl.name}=... in Python",
            )
        found[decl.name] = decl.default
    return found


def declared_extents(
    cascade: Cascade, extents: Mapping[str, int], params: Mapping[str, Scalar]
) -> dict[str, int]:
    """The extents of the ranks that the cascade declares, in exact integers."""
    known = dict(extents)
    for decl in cascade.ranks:
        value = evaluate_extent(decl.extent, known, params)
        if value > LARGEST:
            raise CallError(f"rank {decl.name} would have more than 2**62 positions")
        if not 0 <= value <= LARGEST or value != int(value):
            raise CallError(f"rank {decl.name} would have {value} positions")
        known[decl.name] = int(value)
    return {decl.name: known[decl.name] for decl in cascade.ranks}


def evaluate_extent(expr: Expr, extents: Mapping[str, int], params: Mapping[str, Scalar]) -> Scalar:
    """A scalar expression of extents and parameters; CallError where it is undefined."""
    match expr:
        case Const(value):
            return value
        case Extent(rank):
            if rank not in extents:
                raise CallError(f"the extent of rank {rank} is not known")
            return extents[rank]
        case Param(name):
            return params[name]
        case Map(op, args):
            values = [evaluate_extent(arg, extents, params) for arg in args]
            try:
                return _apply(op, values)
            except ZeroDivisionError:
                raise CallError(f"an extent divides by zero: {op} of {values}") from None
            except OverflowError:
                raise CallError(f"an extent is too large: {op} of {values}") from None
            except ValueError:
                raise CallError(f"an extent has no value: {op} of {values}") from None
        case _:
            raise CallError("an extent is made of extents, parameters and numbers")


def _apply(op: str, values: list[Scalar]) -> Scalar:
    match op, values:
        case "+", [a, b]:
            return a + b
        case "-", [a, b]:
            return a - b
        case "*", [a, b]:
            return a * b
        case "/", [a, b]:
            exact = isinstance(a, int) and isinstance(b, int) and a % b == 0
            return a // b if exact else a / b
        case "//", [a, b]:
            return a // b
        case "%", [a, b]:
            return a % b
        case (("**" | "pow"), [a, b]):
            if abs(b) > 4096 or abs(a) > LARGEST:
                raise OverflowError
            if a < 0 and b != int(b):
                raise CallError(f"an extent has no value: {a} to the power of {b}")
            result: Scalar = a**b
            return result
        case "neg", [a]:
            return -a
        case "min", _:
            return min(values)
        case "max", _:
            return max(values)
        case "ceil", [a]:
            return math.ceil(a)
        case "floor", [a]:
            return math.floor(a)
        case "round", [a]:
            return round(a)
        case "abs", [a]:
            return abs(a)
        case "sqrt", [a]:
            return math.sqrt(a)
        case "log2", [a]:
            return math.log2(a)
        case "select", [condition, a, b]:
            return a if condition else b
        case _:
            raise CallError(f"{op} cannot stand in an extent")
