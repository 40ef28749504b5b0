"""A body as a sum of products, each with at most one unknown: what makes a step linear.

    beta * K * (V - R)          ->  beta * K * V  -  beta * K * [R]
    exp(g) * S + K * V          ->  exp(g) * [S]  +  K * V

Products are distributed over sums only where an unknown stands inside; what is free of them stays
one factor. What is done to an unknown besides adding and scaling it makes the step not linear.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from attnc.ir.expr import ONE, ZERO, Access, Cast, Const, Expr, Map, Reduce
from attnc.ir.print_expr import print_expr
from attnc.passes.contraction import factors
from attnc.passes.products import Factor, product


class NotLinear(Exception):
    """A term in which an unknown is not just added and scaled, and why that is so."""

    def __init__(self, term: Expr, reason: str) -> None:
        super().__init__(reason)
        self.term, self.reason = term, reason


@dataclass(frozen=True, slots=True)
class Summand:
    """A signed product of factors, and of one unknown if there is one."""

    negative: bool
    factors: tuple[Factor, ...]
    unknown: Access | None = None

    @property
    def coefficient(self) -> Expr:
        """The product without sign and unknown."""
        return product(self.factors)

    @property
    def is_unit(self) -> bool:
        return not self.factors


def summands(expr: Expr, unknown: Callable[[Access], bool]) -> tuple[Summand, ...]:
    """The terms whose sum an expression is; raises NotLinear."""
    if not _depends(expr, unknown):
        return (Summand(False, tuple(_factors(expr))),)
    match expr:
        case Access():
            return (Summand(False, (), expr),)
        case Map("neg", (body,)):
            return tuple(_flipped(s) for s in summands(body, unknown))
        case Map("+" | "-" as sign, (left, right)):
            second = summands(right, unknown)
            if sign == "-":
                second = tuple(_flipped(s) for s in second)
            return (*summands(left, unknown), *second)
        case Map("*", (left, right)):
            if _depends(left, unknown) and _depends(right, unknown):
                raise NotLinear(expr, "multiplies the state by itself")
            free, other = (right, left) if _depends(left, unknown) else (left, right)
            return _scaled(summands(other, unknown), free, False)
        case Map("/", (left, right)):
            if _depends(right, unknown):
                raise NotLinear(expr, "divides by the state")
            return _scaled(summands(left, unknown), right, True)
        case Map("select", (condition, chosen, other)) if not _depends(condition, unknown):
            return _chosen(condition, summands(chosen, unknown), summands(other, unknown))
        case Map(op, _):
            raise NotLinear(expr, f"takes {op} of the state, which is not linear")
        case Cast(dtype, _):
            raise NotLinear(expr, f"rounds the state to {dtype}")
        case Reduce(op, _):
            raise NotLinear(expr, f"takes {op} of the state inside an expression")
        case _:
            raise NotLinear(
                expr, f"does more to the state than adding and scaling: {print_expr(expr)}"
            )


def _chosen(
    condition: Expr, first: tuple[Summand, ...], second: tuple[Summand, ...]
) -> tuple[Summand, ...]:
    """A choice between two sums: of the coefficients of what stands in both, else of 1 and 0."""
    shared = [
        (one, other)
        for one in first
        for other in second
        if one.unknown is not None and one.unknown == other.unknown
    ]
    whole = len({one.unknown for one, _ in shared}) == len(shared)
    found: list[Summand] = []
    for one, other in shared if whole else ():
        sides = (_signed(one), _signed(other))
        gate = sides[0] if sides[0] == sides[1] else Map("select", (condition, *sides))
        found.append(Summand(False, tuple(_factors(gate)), one.unknown))
    done = {side.unknown for side in found}
    for side, share in (first, (ONE, ZERO)), (second, (ZERO, ONE)):
        rest = tuple(s for s in side if s.unknown not in done and s.coefficient != ZERO)
        found.extend(_scaled(rest, Map("select", (condition, *share)), False))
    return tuple(found)


def _signed(summand: Summand) -> Expr:
    return Map("neg", (summand.coefficient,)) if summand.negative else summand.coefficient


def _factors(expr: Expr, inverse: bool = False) -> Iterator[Factor]:
    """The factors of a product; a choice between one and 0 is a factor of 1 or 0 beside it.

    What divides stays inside the choice, which may be there because it is 0 elsewhere.
    """
    for factor, below in factors(expr, inverse):
        match factor:
            case Map("select", (condition, chosen, Const(0))) if not below and chosen != ONE:
                divisors, rest = _apart(chosen)
                yield Factor(Map("select", (condition, divisors, ZERO)))
                yield from rest
            case Map("select", (condition, Const(0), chosen)) if not below and chosen != ONE:
                divisors, rest = _apart(chosen)
                yield Factor(Map("select", (condition, ZERO, divisors)))
                yield from rest
            case _:
                if factor != ONE:
                    yield Factor(factor, below)


def _apart(expr: Expr) -> tuple[Expr, tuple[Factor, ...]]:
    """The divisors of a product as one factor, and its other factors."""
    own = tuple(_factors(expr))
    return product(tuple(f for f in own if f.inverse)), tuple(f for f in own if not f.inverse)


def _depends(expr: Expr, unknown: Callable[[Access], bool]) -> bool:
    stack = [expr]
    while stack:
        term = stack.pop()
        match term:
            case Access():
                if unknown(term):
                    return True
                stack.extend(term.subscripts)
            case Map(_, args):
                stack.extend(args)
            case Cast(_, body):
                stack.append(body)
            case Reduce(_, _, body, where):
                stack.extend((body,) if where is None else (body, where))
            case _:
                pass
    return False


def _flipped(summand: Summand) -> Summand:
    return Summand(not summand.negative, summand.factors, summand.unknown)


def _scaled(parts: tuple[Summand, ...], free: Expr, inverse: bool) -> tuple[Summand, ...]:
    own = tuple(_factors(free, inverse))
    return tuple(Summand(s.negative, (*own, *s.factors), s.unknown) for s in parts)
