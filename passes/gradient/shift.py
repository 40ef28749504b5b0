"""Find the tensors on whose value nothing depends: their adjoint is 0.

    G[p]    = max[m](S[p, m])
    N[p, m] = exp(S[p, m] - G[p])      another G scales N by exp(old - new),
    D[p]    = sum[m](N[p, m])          hence D too,
    A[p, m] = N[p, m] / D[p]           and A by 1: the scale cancels

A change of G is followed through the Einsums as a scale of what they compute, each shown by the
test of separability (`separate.py`). If every scale has cancelled where an output reads, the
derivative by G is 0 and G may be any number: how a row is kept from overflowing is no part of what
is learned.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

import sympy

from attnc.ir.algebra import LAWS
from attnc.ir.cascade import Cascade, Einsum
from attnc.ir.expr import ONE, Access, Expr, Extent, Index, Map, Param, Populate, Reduce
from attnc.ir.walk import accesses, children, free_ranks, rebuild, rewrite, substitute
from attnc.passes.separate import (
    DIGITS,
    TOLERANCE,
    TRIALS,
    Separation,
    leaves,
    separate,
    to_sympy,
)

SCALE = next(law for law in LAWS if law.reduction == "sum" and law.product == "*")

BEFORE, AFTER = Param("value before"), Param("value after")
VARYING = "any position"
"""What every operand but the tensor in question varies along, so that none stands in a scale."""


@dataclass(frozen=True, slots=True)
class Shift:
    """A tensor whose value cancels, the tensors it scales, and how that was shown."""

    tensor: str
    scaled: tuple[str, ...]
    proof: str


@dataclass(frozen=True, slots=True)
class _Scale:
    """By what a tensor changes with the one in question, read there at `place`."""

    factor: Expr
    place: tuple[Expr, ...]


def shifts(cascade: Cascade, active: frozenset[str]) -> tuple[Shift, ...]:
    """The extrema among the active tensors whose value cancels, last ones first.

    Extrema alone are asked: they are what algorithms shift by, and their own derivative is dear.
    """
    found: list[Shift] = []
    for einsum in reversed(cascade.einsums):
        stepped = any(left.step for left in einsum.left)
        if einsum.target in active and not stepped and _extremum(einsum.body):
            settled = frozenset(shift.tensor for shift in found)
            shift = cancels(cascade, einsum, settled)
            if shift is not None:
                found.append(shift)
    return tuple(found)


def _extremum(body: Expr) -> bool:
    match body:
        case Reduce("max" | "min", _, _):
            return True
        case Map("max" | "min", _):
            return True
        case _:
            return False


def cancels(
    cascade: Cascade, source: Einsum, settled: frozenset[str] = frozenset()
) -> Shift | None:
    """Whether no output depends on the value of a tensor; None where that cannot be shown.

    Nothing depends on the tensors of `settled` either, so what they read does not matter.
    """
    scales: dict[str, _Scale] = {}
    touched: list[str] = []
    proof = ""
    outputs = {tensor.name for tensor in cascade.outputs}
    if source.target in outputs:
        return None
    for einsum in cascade.einsums:
        if einsum.target in settled:
            continue
        body = einsum.body
        inner = body.body if isinstance(body, Reduce) else body
        guards = [einsum.where, body.where if isinstance(body, Reduce) else None]
        hidden = [s for a in accesses(inner) for s in a.subscripts]
        if any(_moved(a, source, scales) for part in (*guards, *hidden) for a in accesses(part)):
            return None
        places = {
            _place(access, source, scales, cascade)
            for access in accesses(inner)
            if _moved(access, source, scales)
        }
        if not places:
            continue
        if len(places) > 1 or isinstance(body, Populate) or any(left.step for left in einsum.left):
            return None
        (place,) = places
        found = _scale(inner, source, scales)
        if found is None:
            return None
        touched.append(einsum.target)
        if found.correction == ONE:
            proof = found.proof
            continue
        bound = set(body.ranks) if isinstance(body, Reduce) else set()
        linear = not isinstance(body, Reduce) or body.op == "sum"
        if not linear or einsum.target in outputs or any(free_ranks(s) & bound for s in place):
            return None
        scales[einsum.target] = _Scale(found.correction, place)
    return Shift(source.target, tuple(touched), proof)


def _moved(access: Access, source: Einsum, scales: dict[str, _Scale]) -> bool:
    return access.tensor == source.target or access.tensor in scales


def _place(
    access: Access, source: Einsum, scales: dict[str, _Scale], cascade: Cascade
) -> tuple[Expr, ...]:
    """Where an access reads the tensor in question, through what that scales."""
    if access.tensor == source.target:
        return access.subscripts
    values = dict(zip(cascade.axes(access.tensor), access.subscripts))
    return tuple(substitute(part, values) for part in scales[access.tensor].place)


def _scale(body: Expr, source: Einsum, scales: dict[str, _Scale]) -> Separation | None:
    """By what a map changes with the tensor in question, given what its operands change by."""
    asked = Access(source.target, ())
    start = Access("start", (Index(VARYING),))
    values: dict[Expr, Expr] = {BEFORE: start, AFTER: asked}

    def moved(term: Expr) -> Expr | None:
        match term:
            case Access(tensor) if tensor == source.target:
                return asked
            case Access(tensor) if tensor in scales:
                return Map("*", (term, rewrite(scales[tensor].factor, values.get)))
            case _:
                return None

    shape = rewrite(body, moved)
    names: dict[Expr, Expr] = {}
    for number, leaf in enumerate(leaves(shape, (asked,))):
        if leaf not in (asked, start) and not isinstance(leaf, Param | Extent):
            names[leaf] = Access(f"x{number}", (Index(VARYING),))
    shape = _renamed(shape, names)
    for scale in dict.fromkeys((ONE, *(scale.factor for scale in scales.values()))):
        if _constant(Map("/", (shape, rewrite(scale, values.get))), asked):
            return Separation(scale, f"shown at {TRIALS} random points to {DIGITS} digits")
    found = separate(shape, VARYING, (asked,), {asked: BEFORE}, {asked: AFTER}, SCALE)
    return found if isinstance(found, Separation) else None


def _constant(expr: Expr, asked: Expr) -> bool:
    """Whether a map does not vary with one of its leaves: so it is at random points."""
    symbols = {
        leaf: sympy.Symbol(f"x{number}", real=True)
        for number, leaf in enumerate(leaves(expr, (asked,)))
    }
    value = to_sympy(expr, dict(symbols))
    if value is None:
        return False
    dice = random.Random(2024)
    tried = 0
    for _ in range(TRIALS):
        point = {s: sympy.Rational(dice.randint(-400, 400), 101) for s in symbols.values()}
        other = {**point, symbols[asked]: sympy.Rational(dice.randint(-400, 400), 101)}
        first, second = (value.evalf(DIGITS, subs=where) for where in (point, other))
        if not (first.is_number and second.is_number and first.is_real and second.is_real):
            continue
        if first.has(sympy.zoo, sympy.nan, sympy.oo) or second.has(sympy.zoo, sympy.nan, sympy.oo):
            continue
        tried += 1
        if abs(first - second) > TOLERANCE * (1 + abs(first)):
            return False
    return tried > TRIALS // 4


def _renamed(expr: Expr, names: dict[Expr, Expr]) -> Expr:
    """Leaves exchanged whole, whatever stands in their subscripts."""
    if expr in names:
        return names[expr]
    return rebuild(expr, tuple(_renamed(part, names) for part in children(expr)))
