"""What can be seen of an expression's sign from how it is made."""

from __future__ import annotations

from attnc.ir.cascade import Einsum
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
                    non_negative(arg, {}) for arg in args
                )
            return op in ("**", "pow") and positive(args[0])
        case Cast(_, body):
            return positive(body)
        case _:
            return False


def non_negative(expr: Expr, definitions: dict[str, Einsum]) -> bool:
    """Whether a value is at least 0, or not a number."""
    match expr:
        case Const(value):
            return value >= 0
        case Index() | Extent():
            return True
        case Access(tensor):
            einsum = definitions.get(tensor)
            return (
                einsum is not None
                and not any(left.step for left in einsum.left)
                and non_negative(einsum.body, definitions)
            )
        case Map("**", (root, Const(2 | 4))):
            return not isinstance(root, Const)
        case Map("*", (left, right)) if left == right:
            return True
        case Map("select", (_, chosen, other)):
            return non_negative(chosen, definitions) and non_negative(other, definitions)
        case Map(op, args):
            if op in _NON_NEGATIVE:
                return True
            if op in ("+", "*", "/", "**", "pow", "min"):
                return all(non_negative(arg, definitions) for arg in args)
            return op == "max" and any(non_negative(arg, definitions) for arg in args)
        case Cast(_, body):
            return non_negative(body, definitions)
        case Reduce("sum" | "prod" | "min", _, body):
            return non_negative(body, definitions)
        case _:
            return False
