"""The inverse of a unit triangular matrix, by substitution in blocks.

    (1 - M)[t0, t0']      M taken below the diagonal, C positions wide

    X_2  = 1 + M_1           M_b: what leads from an even block of b to the odd one after it
    X_2b = X_b + X_b * M_b * X_b

Legal because the inverse of [[A, 0], [-M, B]] is [[A', 0], [B' M A', B']] with A' and B' those of
the blocks. The operations are those of forward substitution in another order, so it loses no more
digits; but there are 2 log2(C) matrix products instead of C dependent steps.
"""

from __future__ import annotations

from collections.abc import Callable

from attnc.ir.expr import ONE, Const, Expr, Index, Map, Reduce
from attnc.ir.walk import substitute

Made = Callable[[str, Expr], Expr]
"""Defines a matrix over the first two variables, by its name and its body."""


def inverse(
    matrix: Expr, variables: tuple[str, str, str], size: int, made: Made, same: Made
) -> Expr:
    """The inverse of 1 - matrix over two of three variables of `size` positions.

    `made` defines what varies from chunk to chunk, `same` what does not.
    """
    first, second, third = variables
    rows, columns, between = Index(first), Index(second), Index(third)

    def chosen(name: str, condition: Expr) -> Expr:
        return same(name, Map("select", (condition, Const(1.0), Const(0.0))))

    def times(left: Expr, right: Expr) -> Expr:
        parts = (substitute(left, {second: between}), substitute(right, {first: between}))
        return Reduce("sum", (third,), Map("*", parts))

    system = made("system", matrix)
    unit = chosen("unit", Map("==", (rows, columns)))
    lead = chosen("leads", leads(1, rows, columns))
    result: Expr = made("inverse", Map("+", (unit, Map("*", (system, lead)))))
    block = 2
    while block < size:
        lead = chosen("leads", leads(block, rows, columns))
        half = made("half", times(result, made("lead", Map("*", (system, lead)))))
        whole = made("whole", times(half, result))
        result = made("inverse", Map("+", (result, whole)))
        block *= 2
    return result


def leads(block: int, rows: Expr, columns: Expr) -> Expr:
    """Where a matrix leads from an even block to the odd one after it."""
    row, column = rows, columns
    if block > 1:
        row, column = (Map("//", (place, Const(block))) for place in (rows, columns))
    odd = Map("==", (Map("%", (row, Const(2))), ONE))
    return Map("and", (odd, Map("==", (column, Map("-", (row, ONE))))))
