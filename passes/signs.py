"""What can be seen of an expression's sign from how it is made."""

from __future__ import annotations

from collections.abc import Set

from attnc.ir.cascade import Cascade
from attnc.ir.expr import Access, Cast, Const, Expr, Extent, Index, Map, Reduce

_POSITIVE = frozenset({"exp", "exp2", "sigmoid", "softplus"})
_NON_NEGATIVE = _POSITIVE | {"abs", "sqrt", "relu", "rsqrt"}


def positive(expr: Expr) -> bool:
    """Whether a value is above 0 wherever it is finite."""
    match expr:
        case Const(value):
            return value > 0
        case Extent():
            return True
        case Map(op, args):
            if op in _POSITIVE:
                return True
            if op in ("*", "/", "sqrt", "rsqrt"):
                return all(positive(arg) for arg in args)
            if op == "+":
                return any(positive(arg) for arg in args) and all(
                    non_negative(arg, frozenset()) for arg in args
                )
            return op in ("**", "pow") and positive(args[0])
        case Cast(_, body):
            return positive(body)
        case _:
            return False


def non_negative_tensors(cascade: Cascade) -> frozenset[str]:
    """The tensors whose every value can be seen to be at least 0."""
    found: set[str] = set()
    for einsum in cascade.einsums:
        if not any(left.step for left in einsum.left) and non_negative(einsum.body, found):
            found.add(einsum.target)
    return frozenset(found)


def non_negative(expr: Expr, known: Set[str]) -> bool:
    """Whether a value is at least 0, or not a number, given the tensors that are."""
    match expr:
        case Const(value):
            return value >= 0
        case Index() | Extent():
            return True
        case Access(tensor):
            return tensor in known
        case Map("**", (root, Const(2 | 4))):
            return not isinstance(root, Const)
        case Map("*", (left, right)) if left == right:
            return True
        case Map("select", (_, chosen, other)):
            return non_negative(chosen, known) and non_negative(other, known)
        case Map(op, args):
            if op in _NON_NEGATIVE:
                return True
            if op in ("**", "pow"):
                return non_negative(args[0], known)
            if op in ("+", "*", "/", "min"):
                return all(non_negative(arg, known) for arg in args)
            return op == "max" and any(non_negative(arg, known) for arg in args)
        case Cast(_, body):
            return non_negative(body, known)
        case Reduce("sum" | "prod" | "min", _, body):
            return non_negative(body, known)
        case _:
            return False
