"""Arithmetic of extents that are numbers or, where no size is given, symbols."""

from __future__ import annotations

from collections.abc import Iterable
from math import ceil, prod
from typing import Any

Amount = Any
"""An int, a float, or a sympy expression in extents."""


def numeric(value: Amount) -> bool:
    return isinstance(value, int | float)


def product(values: Iterable[Amount]) -> Amount:
    return prod(values)


def quotient(size: Amount, part: int) -> Amount:
    """How many parts cover a whole."""
    if numeric(size):
        return ceil(size / part)
    import sympy

    return size if part == 1 else sympy.ceiling(size / part)


def larger(values: Iterable[Amount]) -> Amount:
    """The largest of some amounts; 0 of none."""
    found = list(values)
    if all(numeric(value) for value in found):
        return max(found, default=0)
    import sympy

    return sympy.Max(*found)


def smaller(values: Iterable[Amount]) -> Amount:
    """The smallest of some shares: none is more than 1."""
    found = [value for value in values if not numeric(value) or value < 1] or [1.0]
    if len(found) == 1:
        return found[0]
    if all(numeric(value) for value in found):
        return min(found)
    import sympy

    return sympy.Min(*found)


def told(value: Amount) -> str:
    """An amount as text: a whole number, or the formula."""
    return f"{value:.0f}" if numeric(value) else str(whole(value))


def whole(value: Amount) -> Amount:
    """A formula whose whole numbers are written as such."""
    if numeric(value):
        return value
    import sympy

    floats = [f for f in value.atoms(sympy.Float) if float(f).is_integer()]
    return value.xreplace({f: sympy.Integer(int(f)) for f in floats})
