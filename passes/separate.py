"""Decide whether a term splits into a part in x and a part in y, and find what changing y costs.

    exp(x - y)      correction exp(y_old - y_new)          for sums
    abs(x / y)**a   correction (abs(y_old) / abs(y_new))**a
    x - y           correction y_old - y_new               for maxima

F(x, y) = G(x) ⊗ H(y) exactly if the quotient R of F(x, y_new) by F(x, y_old) (for ⊗ = +, their
difference) does not depend on x. R is then the correction by which a running reduction of F moves
from y_old to y_new, and it is found as one expression, so that it cannot overflow where F does
not. The criterion is RedFuser's (2026): F(x,y) F(x0,y0) = F(x,y0) F(x0,y).
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache

import sympy as sp

from attnc.ir.algebra import Law
from attnc.ir.expr import Access, Cast, Const, Expr, Extent, Index, Map, Param
from attnc.ir.source import InvalidIR
from attnc.ir.walk import children, free_ranks, rebuild, subterms

TRIALS = 24
DIGITS = 30
TOLERANCE = sp.Float(10) ** -20

_FUNCTIONS: dict[str, Callable[..., sp.Expr]] = {
    "+": lambda a, b: a + b,
    "-": lambda a, b: a - b,
    "*": lambda a, b: a * b,
    "/": lambda a, b: a / b,
    "**": lambda a, b: a**b,
    "pow": lambda a, b: a**b,
    "neg": lambda a: -a,
    "exp": sp.exp,
    "exp2": lambda a: sp.Integer(2) ** a,
    "log": sp.log,
    "log2": lambda a: sp.log(a) / sp.log(2),
    "log1p": lambda a: sp.log(1 + a),
    "expm1": lambda a: sp.exp(a) - 1,
    "sqrt": sp.sqrt,
    "rsqrt": lambda a: 1 / sp.sqrt(a),
    "sin": sp.sin,
    "cos": sp.cos,
    "tanh": sp.tanh,
    "erf": sp.erf,
    "sigmoid": lambda a: 1 / (1 + sp.exp(-a)),
    "softplus": lambda a: sp.log(1 + sp.exp(a)),
    "silu": lambda a: a / (1 + sp.exp(-a)),
    "gelu": lambda a: a * (1 + sp.erf(a / sp.sqrt(2))) / 2,
    "elu": lambda a: sp.Piecewise((a, a > 0), (sp.exp(a) - 1, True)),
    "relu": lambda a: sp.Max(a, 0),
    "abs": sp.Abs,
    "sign": sp.sign,
    "max": sp.Max,
    "min": sp.Min,
    "clip": lambda a, low, high: sp.Min(sp.Max(a, low), high),
}


@dataclass(frozen=True, slots=True)
class Separation:
    """A correction over leaves `old` and `new` of y, and how the identity was established."""

    correction: Expr
    proof: str


@dataclass(frozen=True, slots=True)
class Inseparable:
    """Why a term does not split, in words, and the smallest term that mixes x and y."""

    reason: str
    term: Expr


def leaves(expr: Expr, ys: tuple[Expr, ...] = ()) -> dict[Expr, None]:
    """What an expression depends on: accesses, positions, extents, parameters.

    A condition in which no y stands is one too where it chooses between something and 0: it is a
    factor of 0 or 1.
    """
    found: dict[Expr, None] = {}
    stack = [expr]
    while stack:
        term = stack.pop()
        match term:
            case Access() | Index() | Extent() | Param():
                found.setdefault(term)
            case Map("select", (condition, Const(0), other)) if _without(condition, ys):
                found.setdefault(condition)
                stack.append(other)
            case Map("select", (condition, other, Const(0))) if _without(condition, ys):
                found.setdefault(condition)
                stack.append(other)
            case Map(_, args):
                stack.extend(args)
            case Cast(_, body):
                stack.append(body)
            case _:
                pass
    return found


def _without(expr: Expr, ys: tuple[Expr, ...]) -> bool:
    return all(term not in ys for term in subterms(expr))


def to_sympy(expr: Expr, symbols: dict[Expr, sp.Expr]) -> sp.Expr | None:
    """The same value in sympy; None where an operation has no counterpart there."""
    if expr in symbols:
        return symbols[expr]
    match expr:
        case Const(value):
            return sp.nsimplify(value) if isinstance(value, float) else sp.Integer(int(value))
        case Map("select", (condition, Const(0), other)) if condition in symbols:
            rest = to_sympy(other, symbols)
            return None if rest is None else (1 - symbols[condition]) * rest
        case Map("select", (condition, other, Const(0))) if condition in symbols:
            rest = to_sympy(other, symbols)
            return None if rest is None else symbols[condition] * rest
        case Map(op, args) if op in _FUNCTIONS:
            parts = [to_sympy(arg, symbols) for arg in args]
            if any(part is None for part in parts):
                return None
            return _FUNCTIONS[op](*parts)
        case _:
            return None


def from_sympy(value: sp.Expr, leaf: dict[sp.Symbol, Expr]) -> Expr | None:
    """A sympy expression in the language; None where it has no word for it."""
    match value:
        case sp.Symbol():
            return leaf[value]
        case sp.Integer():
            return Const(int(value))
        case sp.Number() | sp.NumberSymbol():
            return Const(float(value))
        case sp.Add():
            return _sum(value, leaf)
        case sp.Mul():
            return _product(value, leaf)
        case _:
            parts = [from_sympy(arg, leaf) for arg in value.args]
            known = tuple(part for part in parts if part is not None)
            return _word(value, known) if len(known) == len(parts) else None


def _word(value: sp.Expr, args: tuple[Expr, ...]) -> Expr | None:
    match value:
        case sp.Pow() if value.base == 2:
            return Map("exp2", args[1:])
        case sp.Pow():
            return Map("**", args)
        case sp.exp():
            return Map("exp", args)
        case sp.log():
            return Map("log", args)
        case sp.Abs():
            return Map("abs", args)
        case sp.Max():
            return Map("max", args)
        case sp.Min():
            return Map("min", args)
        case _:
            return None


def _sum(value: sp.Expr, leaf: dict[sp.Symbol, Expr]) -> Expr | None:
    """Positive addends first, so that no sum opens with a minus that it can avoid."""
    ordered = sorted(value.args, key=lambda arg: (arg.could_extract_minus_sign(), str(arg)))
    result: Expr | None = None
    for arg in ordered:
        negative = arg.could_extract_minus_sign()
        part = from_sympy(-arg if negative else arg, leaf)
        if part is None:
            return None
        if result is None:
            result = Map("neg", (part,)) if negative else part
        else:
            result = Map("-" if negative else "+", (result, part))
    return result


def _product(value: sp.Expr, leaf: dict[sp.Symbol, Expr]) -> Expr | None:
    """Factors of one exponent are divided before they are raised, lest either side overflows."""
    powers: dict[sp.Expr, tuple[list[sp.Expr], list[sp.Expr]]] = {}
    for factor in value.args:
        root, exponent = factor.as_base_exp() if not isinstance(factor, sp.exp) else (factor, 1)
        exponent = sp.sympify(exponent)
        below = exponent.could_extract_minus_sign()
        above_below = powers.setdefault(-exponent if below else exponent, ([], []))
        above_below[1 if below else 0].append(root)
    result: Expr | None = None
    for exponent, (above, below_) in powers.items():
        top = _chain([from_sympy(root, leaf) for root in above])
        bottom = _chain([from_sympy(root, leaf) for root in below_])
        if (above and top is None) or (below_ and bottom is None):
            return None
        ratio = top if top is not None else Const(1)
        if bottom is not None:
            ratio = Map("/", (ratio, bottom))
        if exponent != 1:
            power = from_sympy(exponent, leaf)
            if power is None:
                return None
            ratio = Map("**", (ratio, power))
        result = ratio if result is None else Map("*", (result, ratio))
    return result


def _chain(parts: list[Expr | None]) -> Expr | None:
    result: Expr | None = None
    for part in parts:
        if part is None:
            return None
        result = part if result is None else Map("*", (result, part))
    return result


def separate(
    body: Expr,
    rank: str,
    ys: tuple[Access, ...],
    old: dict[Expr, Expr],
    new: dict[Expr, Expr],
    law: Law,
) -> Separation | Inseparable:
    """Split `body` between the accesses `ys` and all that varies along a rank, for one law.

    What does neither is a constant, which may stand in the correction. `old` and `new` say how
    the value of each y before and after a tile is written.
    """
    others = [leaf for leaf in leaves(body, ys) if leaf not in ys]
    xs = [leaf for leaf in others if rank in free_ranks(leaf)]
    constants = [leaf for leaf in others if leaf not in xs]
    names: dict[Expr, Expr] = {x: Param(f"x{i}") for i, x in enumerate(xs)}
    names.update({c: Param(f"c{i}") for i, c in enumerate(constants)})
    names.update({y: Param(f"y{i}") for i, y in enumerate(ys)})
    shape = _renamed(body, names)
    found = _separate_shape(shape, (len(xs), len(constants), len(ys)), law)
    back = {name: leaf for leaf, name in names.items()}
    if isinstance(found, Inseparable):
        reason = f"{found.reason} {_names(ys)}" if found.reason.endswith("with") else found.reason
        return Inseparable(reason, _renamed(found.term, back))
    for i, y in enumerate(ys):
        back[Param(f"y{i}_old")], back[Param(f"y{i}_new")] = old[y], new[y]
    return Separation(_renamed(found.correction, back), found.proof)


def _renamed(expr: Expr, names: Mapping[Expr, Expr]) -> Expr:
    """Leaves exchanged, outermost first: an access is one leaf, whatever its subscripts are."""
    if expr in names:
        return names[expr]
    return rebuild(expr, tuple(_renamed(part, names) for part in children(expr)))


@lru_cache(maxsize=512)
def _separate_shape(
    shape: Expr, counts: tuple[int, int, int], law: Law
) -> Separation | Inseparable:
    """The same question for leaves called x0, x1, ..., c0, ... and y0, ...: asked once a shape."""
    xs = [sp.Symbol(f"x{i}", real=True) for i in range(counts[0])]
    constants = [sp.Symbol(f"c{i}", real=True) for i in range(counts[1])]
    before = [sp.Symbol(f"y{i}_old", real=True) for i in range(counts[2])]
    after = [sp.Symbol(f"y{i}_new", real=True) for i in range(counts[2])]
    ys = tuple(Param(f"y{i}") for i in range(counts[2]))
    table: dict[Expr, sp.Expr] = {Param(s.name): s for s in (*xs, *constants)}
    f_old = to_sympy(shape, {**table, **dict(zip(ys, before))})
    f_new = to_sympy(shape, {**table, **dict(zip(ys, after))})
    if f_old is None or f_new is None:
        opaque = next(t for t in subterms(shape) if isinstance(t, Map) and t.op not in _FUNCTIONS)
        return Inseparable(f"nothing is known of {opaque.op} that would split it", opaque)
    quotient = law.product == "*"
    if law.product not in ("*", "+"):
        raise InvalidIR(f"no rule for corrections by {law.product}")
    free = [*xs, *constants, *before, *after]
    candidates = _corrections(f_old, f_new, xs, quotient)
    correction = next((c for c in candidates if _holds(f_old, f_new, c, free, quotient)), None)
    if correction is None:
        kind = "product" if quotient else "sum"
        return Inseparable(f"is no {kind} of a part without and a part with", _mixing(shape, ys))
    leaf: dict[sp.Symbol, Expr] = {s: Param(s.name) for s in (*constants, *before, *after)}
    result = from_sympy(correction, leaf)
    if result is None:
        return Inseparable(f"its correction {correction} has no form in the language", shape)
    return Separation(result, _proof(f_old, f_new, correction, quotient))


def chains(term: Expr, old: tuple[Access, ...], new: tuple[Access, ...]) -> bool:
    """Whether a factor between an old and a new y multiplies along a chain of them.

    f(a, b) f(b, c) = f(a, c): then the product of such factors over many steps is the factor
    between the first and the last y. Every correction H(y_new) / H(y_old) is one.
    """
    constants = [leaf for leaf in leaves(term) if leaf not in (*old, *new)]
    points = [[sp.Symbol(f"{at}{i}", real=True) for i in range(len(old))] for at in "abc"]
    names: dict[Expr, sp.Expr] = {
        leaf: sp.Symbol(f"k{i}", real=True) for i, leaf in enumerate(constants)
    }

    def between(first: int, second: int) -> sp.Expr | None:
        ends: dict[Expr, sp.Expr] = dict(zip((*old, *new), (*points[first], *points[second])))
        return to_sympy(term, {**names, **ends})

    one, other, whole = between(0, 1), between(1, 2), between(0, 2)
    if one is None or other is None or whole is None:
        return False
    free = [*points[0], *points[1], *points[2], *names.values()]
    return _holds(one, whole, other, free, True)


def _names(ys: tuple[Access, ...]) -> str:
    return " and ".join(dict.fromkeys(y.tensor for y in ys))


def _corrections(
    f_old: sp.Expr, f_new: sp.Expr, xs: list[sp.Symbol], quotient: bool
) -> Iterator[sp.Expr]:
    """The quotient or difference at fixed values of x at which it is defined."""
    for start in (0, 1, 2, -1):
        point = {x: sp.Integer(start + i) for i, x in enumerate(xs)}
        low, high = f_old.subs(point), f_new.subs(point)
        if low.has(sp.zoo, sp.nan, sp.oo) or high.has(sp.zoo, sp.nan, sp.oo):
            continue
        if not quotient:
            yield sp.expand(high - low)
        elif low != 0 and high != 0:
            yield sp.powsimp(high / low)


def _holds(
    f_old: sp.Expr,
    f_new: sp.Expr,
    correction: sp.Expr,
    free: list[sp.Symbol],
    quotient: bool,
) -> bool:
    """The identity at random points, to 30 digits: false identities fail at almost all of them."""
    dice = random.Random(2024)
    residue = f_new - (f_old * correction if quotient else f_old + correction)
    tried = 0
    for _ in range(TRIALS):
        point = {s: sp.Rational(dice.randint(-400, 400), 101) for s in free}
        value = residue.evalf(DIGITS, subs=point)
        if not value.is_number or value.has(sp.zoo, sp.nan, sp.oo) or not value.is_real:
            continue
        tried += 1
        size = f_new.evalf(DIGITS, subs=point)
        if abs(value) > TOLERANCE * (1 + abs(size)):
            return False
    return tried > TRIALS // 4


def _proof(f_old: sp.Expr, f_new: sp.Expr, correction: sp.Expr, quotient: bool) -> str:
    residue = f_new / (f_old * correction) - 1 if quotient else f_new - f_old - correction
    identity = f"F(x, new) = F(x, old) {'*' if quotient else '+'} {correction}"
    if sp.powsimp(sp.expand(residue), combine="all", force=True) == 0:
        return f"{identity}, shown symbolically"
    return f"{identity}, checked at {TRIALS} random points to {DIGITS} digits"


def _mixing(body: Expr, ys: tuple[Param, ...]) -> Expr:
    """The smallest operation in which the whole mixture of x and y takes place."""
    term = body
    while True:
        mixed = [
            part
            for part in (term.args if isinstance(term, Map) else ())
            if any(y in leaves(part) for y in ys) and any(x not in ys for x in leaves(part))
        ]
        if len(mixed) != 1 or not isinstance(mixed[0], Map) or mixed[0].op in ("+", "-"):
            return term
        term = mixed[0]
