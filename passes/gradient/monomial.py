"""A map as a signed product of factors over divisors, and back."""

from __future__ import annotations

from dataclasses import dataclass

from attnc.ir.expr import ONE, Access, Const, Expr, Map
from attnc.passes.gradient.derivatives import fixed, negative, total


@dataclass(frozen=True, slots=True)
class Monomial:
    """Factors above and below the line, each as often as it stands there."""

    negative: bool
    above: tuple[Expr, ...]
    below: tuple[Expr, ...]

    def times(self, other: Monomial) -> Monomial:
        return Monomial(
            self.negative != other.negative,
            (*self.above, *other.above),
            (*self.below, *other.below),
        )

    def inverse(self) -> Monomial:
        return Monomial(self.negative, self.below, self.above)

    def without(self, other: Monomial) -> Monomial | None:
        """The quotient by a monomial whose factors all stand here; None where one does not."""
        above, below = list(self.above), list(self.below)
        for mine, wanted in ((above, other.above), (below, other.below)):
            for factor in wanted:
                if factor not in mine:
                    return None
                mine.remove(factor)
        return Monomial(self.negative != other.negative, tuple(above), tuple(below))

    def reduced(self) -> Monomial:
        """Without what stands above and below alike."""
        below = list(self.below)
        above = []
        for factor in self.above:
            if factor in below:
                below.remove(factor)
            else:
                above.append(factor)
        return Monomial(self.negative, tuple(above), tuple(below))

    def expr(self) -> Expr:
        """The product: what varies first, numbers and divisors last."""
        above = sorted(self.above, key=fixed)
        below = sorted(self.below, key=fixed)
        result: Expr | None = None
        for factor in above:
            if factor != ONE:
                result = factor if result is None else Map("*", (result, factor))
        result = ONE if result is None else result
        for factor in below:
            result = Map("/", (result, factor))
        return negative(result) if self.negative else result


def monomial(expr: Expr) -> Monomial:
    """The factors of a product or quotient; anything else is one factor."""
    match expr:
        case Map("*", (left, right)):
            return monomial(left).times(monomial(right))
        case Map("/", (left, right)):
            return monomial(left).times(monomial(right).inverse())
        case Map("neg", (body,)):
            inner = monomial(body)
            return Monomial(not inner.negative, inner.above, inner.below)
        case Const(1):
            return Monomial(False, (), ())
        case Const(-1):
            return Monomial(True, (), ())
        case _:
            return Monomial(False, (expr,), ())


def ordered(expr: Expr) -> Expr:
    """Every product inside a map with its numbers last."""
    match expr:
        case Map("*" | "/" | "neg"):
            found = monomial(expr)
            return Monomial(
                found.negative,
                tuple(ordered(factor) for factor in found.above),
                tuple(ordered(factor) for factor in found.below),
            ).expr()
        case Map(op, args):
            return Map(op, tuple(ordered(arg) for arg in args), expr.span)
        case _:
            return expr


def added(left: Expr, right: Expr) -> Expr:
    """A sum, a tensor that both sides have as a factor taken out: a*c + b*c = (a + b)*c."""
    first, second = monomial(left), monomial(right)
    rest = list(second.above)
    common: list[Expr] = []
    for factor in first.above:
        if isinstance(factor, Access) and factor in rest:
            rest.remove(factor)
            common.append(factor)
    if not common:
        return total(left, right)
    shared = Monomial(False, tuple(common), ())
    one, other = first.without(shared), second.without(shared)
    if one is None or other is None:
        return total(left, right)
    below = tuple(factor for factor in one.below if factor in other.below)
    divisors = Monomial(False, (), below)
    if one.below == other.below == below:
        one, other = one.without(divisors) or one, other.without(divisors) or other
        shared = shared.times(divisors)
    return Monomial(False, (total(one.expr(), other.expr()), *shared.above), shared.below).expr()
