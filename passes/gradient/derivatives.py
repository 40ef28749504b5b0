"""The derivative of every scalar operation, and the chain rule over an expression.

A rule gets the operands and the value of an operation and gives the derivative by each operand;
None is 0. What is piecewise constant (comparisons, rounding, positions, random numbers) has the
derivative 0 wherever it has one. Where operands of a maximum tie, each gets an equal share.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

from attnc.ir.cascade import FLOATS
from attnc.ir.expr import (
    ONE,
    TRUE,
    ZERO,
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
    both,
)
from attnc.ir.source import InvalidIR
from attnc.ir.walk import subterms

Operands = tuple[Expr, ...]
Rule = Callable[[Operands, Expr], tuple[Expr | None, ...]]

HALF = Const(0.5)


def product(left: Expr, right: Expr) -> Expr:
    """A product without factors of 1, signs and quotients in front."""
    match left, right:
        case (Const(0), _) | (_, Const(0)):
            return ZERO
        case Const(-1), _:
            return negative(right)
        case _, Const(-1):
            return negative(left)
        case Const(1), _:
            return right
        case _, Const(1):
            return left
        case Map("neg", (body,)), _:
            return negative(product(body, right))
        case _, Map("neg", (body,)):
            return negative(product(left, body))
        case _, Map("/", (Const(1), below)):
            return Map("/", (left, below))
        case _:
            return Map("*", (left, right))


def quotient(above: Expr, below: Expr) -> Expr:
    """A quotient without a divisor of 1."""
    match above, below:
        case Const(0), _:
            return ZERO
        case _, Const(1):
            return above
        case Map("neg", (body,)), _:
            return negative(quotient(body, below))
        case _:
            return Map("/", (above, below))


def negative(expr: Expr) -> Expr:
    match expr:
        case Map("neg", (body,)):
            return body
        case Const(value) if not isinstance(value, bool):
            return Const(-value) if value else ZERO
        case _:
            return Map("neg", (expr,))


def total(left: Expr, right: Expr) -> Expr:
    """A sum, written as a difference where the right side is negative."""
    match left, right:
        case Const(0), _:
            return right
        case _, Const(0):
            return left
        case Const(float() | int() as a), Const(float() | int() as b):
            return Const(a + b)
        case _, Const(int() | float() as b) if b < 0:
            return Map("-", (left, Const(-b)))
        case _, Map("neg", (body,)):
            return Map("-", (left, body))
        case Map("neg", (body,)), _:
            return Map("-", (right, body))
        case _:
            return Map("+", (left, right))


def choice(condition: Expr, chosen: Expr, other: Expr = ZERO) -> Expr:
    """A selection, the sign of one that leaves nothing else in front."""
    match chosen, other:
        case Const(0), Const(0):
            return ZERO
        case Map("neg", (body,)), Const(0):
            return negative(Map("select", (condition, body, ZERO)))
        case Const(0), Map("neg", (body,)):
            return negative(Map("select", (condition, ZERO, body)))
        case _:
            return Map("select", (condition, chosen, other))


def _greatest(args: Operands, value: Expr) -> tuple[Expr | None, ...]:
    return _extremum(args, ">=")


def _least(args: Operands, value: Expr) -> tuple[Expr | None, ...]:
    return _extremum(args, "<=")


def _extremum(args: Operands, wins: str) -> tuple[Expr | None, ...]:
    """Equal shares among the operands that none of the others beats; a bound takes none.

    They are compared with each other: the result may have been saved in a shorter type.
    """
    if len(args) == 2:
        left, right = args
        if fixed(right):
            return choice(Map(wins, (left, right)), ONE), None
        if fixed(left):
            return None, choice(Map(wins, (right, left)), ONE)
        tied = Map("==", (left, right))
        pairs = ((left, right), (right, left))
        return tuple(choice(tied, HALF, choice(Map(wins, pair), ONE)) for pair in pairs)
    won: list[Expr] = []
    for arg in args:
        test: Expr = TRUE
        for other in args:
            test = both(test, Map(wins, (arg, other))) or test
        won.append(choice(test, ONE))
    shares: Expr = won[0]
    for one in won[1:]:
        shares = Map("+", (shares, one))
    return tuple(Map("/", (one, shares)) for one in won)


def fixed(expr: Expr) -> bool:
    """Whether an expression is made of numbers, extents and parameters alone."""
    return all(isinstance(term, Const | Extent | Param | Map) for term in subterms(expr))


def _power(args: Operands, value: Expr) -> tuple[Expr | None, ...]:
    """x ** y; by y only for positive x, where its logarithm exists."""
    x, y = args
    match y:
        case Const(int(number)) if not isinstance(number, bool):
            lower: Expr = Map("**", (x, Const(number - 1)))
            by_x = product(y, {1: ONE, 2: x}.get(number, lower))
        case _:
            by_x = product(y, Map("**", (x, Map("-", (y, ONE)))))
    by_y = choice(Map(">", (x, ZERO)), product(value, Map("log", (x,))))
    return by_x, by_y


def _clip(args: Operands, value: Expr) -> tuple[Expr | None, ...]:
    x, low, high = args
    inside = Map("and", (Map("<=", (low, x)), Map("<=", (x, high))))
    below = Map("and", (Map("<", (x, low)), Map("<=", (low, high))))
    above = Map("and", (Map("not", (below,)), Map(">", (x, high))))
    return choice(inside, ONE), choice(below, ONE), choice(above, ONE)


def _gelu(args: Operands, value: Expr) -> tuple[Expr | None, ...]:
    (x,) = args
    spread = Map("+", (ONE, Map("erf", (Map("/", (x, Const(math.sqrt(2)))),))))
    bell = Map("exp", (negative(Map("*", (HALF, Map("*", (x, x))))),))
    density = product(Const(1 / math.sqrt(2 * math.pi)), bell)
    return (Map("+", (product(HALF, spread), product(x, density))),)


def _silu(args: Operands, value: Expr) -> tuple[Expr | None, ...]:
    (x,) = args
    gate = Map("sigmoid", (x,))
    return (product(gate, Map("+", (ONE, product(x, Map("-", (ONE, gate)))))),)


def _nothing(args: Operands, value: Expr) -> tuple[Expr | None, ...]:
    return (None,) * len(args)


def _square(expr: Expr) -> Expr:
    return Map("*", (expr, expr))


RULES: dict[str, Rule] = {
    "+": lambda a, v: (ONE, ONE),
    "-": lambda a, v: (ONE, negative(ONE)),
    "*": lambda a, v: (a[1], a[0]),
    "/": lambda a, v: (quotient(ONE, a[1]), negative(quotient(v, a[1]))),
    "%": lambda a, v: (ONE, negative(Map("floor", (Map("/", a),)))),
    "**": _power,
    "pow": _power,
    "neg": lambda a, v: (negative(ONE),),
    "exp": lambda a, v: (v,),
    "exp2": lambda a, v: (product(Const(math.log(2)), v),),
    "log": lambda a, v: (quotient(ONE, a[0]),),
    "log2": lambda a, v: (quotient(Const(1 / math.log(2)), a[0]),),
    "log1p": lambda a, v: (quotient(ONE, Map("+", (ONE, a[0]))),),
    "expm1": lambda a, v: (Map("exp", a),),
    "sqrt": lambda a, v: (quotient(HALF, v),),
    "rsqrt": lambda a, v: (negative(product(HALF, quotient(v, a[0]))),),
    "sin": lambda a, v: (Map("cos", a),),
    "cos": lambda a, v: (negative(Map("sin", a)),),
    "tanh": lambda a, v: (Map("-", (ONE, _square(v))),),
    "sigmoid": lambda a, v: (product(v, Map("-", (ONE, v))),),
    "softplus": lambda a, v: (Map("sigmoid", a),),
    "relu": lambda a, v: (choice(Map(">", (a[0], ZERO)), ONE),),
    "gelu": _gelu,
    "silu": _silu,
    "elu": lambda a, v: (choice(Map(">", (a[0], ZERO)), ONE, Map("exp", a)),),
    "erf": lambda a, v: (
        product(Const(2 / math.sqrt(math.pi)), Map("exp", (negative(_square(a[0])),))),
    ),
    "abs": lambda a, v: (Map("sign", a),),
    "max": _greatest,
    "min": _least,
    "clip": _clip,
    **dict.fromkeys(
        ("==", "!=", "<", "<=", ">", ">=", "and", "or", "not", "sign", "floor", "ceil", "round",
         "//", "present", "uniform", "first", "last"),
        _nothing,
    ),
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Part:
    """What reaches one reading from the adjoint of a map, where the predicates hold."""

    access: Access
    adjoint: Expr
    where: tuple[Expr, ...]


@dataclass(frozen=True, slots=True)
class Chain:
    """The chain rule: `active` says which readings matter, `exists` where a map does."""

    active: Callable[[Access], bool]
    exists: Callable[[Expr], tuple[Expr, ...]]

    def parts(self, body: Expr, seed: Expr, value: Expr) -> tuple[Part, ...]:
        """What reaches each active reading of a map from the adjoint `seed` of its value.

        `value` is a name for what the body computes. A reduction inside is no map and must have
        been given an Einsum of its own.
        """
        found: dict[tuple[Access, tuple[Expr, ...]], Expr] = {}
        for part in self._of(body, seed, value, ()):
            key = (part.access, part.where)
            found[key] = total(found.get(key, ZERO), part.adjoint)
        return tuple(
            Part(access, adjoint, where)
            for (access, where), adjoint in found.items()
            if adjoint != ZERO
        )

    def _of(self, expr: Expr, seed: Expr, value: Expr, where: tuple[Expr, ...]) -> tuple[Part, ...]:
        match expr:
            case Const() | Index() | Extent() | Param():
                return ()
            case Access():
                if not self.active(expr):
                    return ()
                return (Part(expr, seed, _union(where, self.exists(expr))),)
            case Cast(dtype, body):
                return self._of(body, seed, body, where) if dtype in FLOATS else ()
            case Map("select", (condition, chosen, other)):
                # The choice stands outside: what is not picked may be infinite or empty.
                where = _union(where, self.exists(condition))
                return (
                    *(
                        replace(part, adjoint=choice(condition, part.adjoint))
                        for part in self._of(chosen, seed, chosen, where)
                    ),
                    *(
                        replace(part, adjoint=choice(condition, ZERO, part.adjoint))
                        for part in self._of(other, seed, other, where)
                    ),
                )
            case Map(op, args):
                if not any(reaches(arg, self.active) for arg in args):
                    return ()
                found: list[Part] = []
                for number, (arg, factor) in enumerate(zip(args, RULES[op](args, value))):
                    if factor is None or factor == ZERO or not reaches(arg, self.active):
                        continue
                    beside = (self.exists(a) for n, a in enumerate(args) if n != number)
                    inner = _union(where, *beside)
                    found += self._of(arg, _scaled(seed, factor), arg, inner)
                return tuple(found)
            case Reduce() | Populate() | Tile():
                raise InvalidIR(f"a {type(expr).__name__} inside a map has no derivative")


def _union(*groups: tuple[Expr, ...]) -> tuple[Expr, ...]:
    return tuple(dict.fromkeys(part for group in groups for part in group))


def _scaled(seed: Expr, factor: Expr) -> Expr:
    """A factor times an adjoint; a choice of factors chooses among adjoints instead."""
    match factor:
        case Map("select", (condition, chosen, other)):
            return choice(condition, _scaled(seed, chosen), _scaled(seed, other))
        case Map("/", (Const(1), below)):
            return quotient(seed, below)
        case Map("neg", (body,)):
            return negative(_scaled(seed, body))
        case Map("/", (above, below)):
            return quotient(_scaled(seed, above), below)
        case _:
            return product(seed, factor)


def reaches(expr: Expr, active: Callable[[Access], bool]) -> bool:
    """Whether an active tensor stands in an expression where its value counts."""
    match expr:
        case Const() | Index() | Extent() | Param() | Tile():
            return False
        case Access():
            return active(expr)
        case Cast(dtype, body):
            return dtype in FLOATS and reaches(body, active)
        case Map("select", (_, chosen, other)):
            return reaches(chosen, active) or reaches(other, active)
        case Map(op, args):
            return RULES[op] is not _nothing and any(reaches(arg, active) for arg in args)
        case Reduce(_, _, body) | Populate(_, _, body):
            return reaches(body, active)
