"""A cascade without a text: a builder whose operators write the language.

    from attnc.build import Builder, function, over

    b = Builder("attention", batch="b h")
    p, m, e, f = b.ranks("p m e f")
    Q, K, V = b.input("Q", p, e), b.input("K", m, e), b.input("V", m, f)
    S, A, O = b.tensor("S"), b.tensor("A"), b.tensor("O")
    S[p, m] = (Q[p, e] * K[m, e] / function.sqrt(e.extent)).where(m <= p)
    A[p, m] = over.softmax[m](S[p, m])
    O[p, f] = A[p, m] * V[m, f]
    cascade = b.cascade(O[p, f])

What is built is a text; it is parsed and checked like any other, so that an error shows the line
that the builder wrote.
"""

from __future__ import annotations

from collections.abc import Callable

from attnc.ir.cascade import Cascade
from attnc.ir.print_cascade import INDENT
from attnc.ir.print_expr import print_number
from attnc.modules import parse

Value = int | float | bool

_OR, _AND, _NOT, _COMPARE, _SUM, _PRODUCT, _SIGN, _POWER, _ATOM = range(1, 10)


def _infix(
    op: str, strength: int, swapped: bool = False
) -> Callable[[Operand, Operand | Value], Term]:
    """The method of an operator that binds its operands as the language does."""
    first = {_COMPARE: _SUM, _POWER: _ATOM}.get(strength, strength)
    second = _SIGN if strength == _POWER else strength + 1

    def method(self: Operand, other: Operand | Value) -> Term:
        left, right = (term(other), self) if swapped else (self, term(other))
        return Term(f"{left.held(first)} {op} {right.held(second)}", strength)

    return method


class Operand:
    """A piece of an expression: its text, and how strongly its outermost operator binds.

    The operators are those of the language; `&`, `|` and `~` stand for `and`, `or` and `not`.
    """

    def __init__(self, text: str, strength: int = _ATOM) -> None:
        self.text = text
        self.strength = strength

    def __str__(self) -> str:
        return self.text

    def __bool__(self) -> bool:
        raise TypeError(f"{self.text!r} has no truth value yet: write &, | and ~")

    def held(self, least: int) -> str:
        """The text, in parentheses where its operator binds less strongly than `least`."""
        return self.text if self.strength >= least else f"({self.text})"

    def where(self, predicate: Operand) -> Masked:
        """The right-hand side of a statement over the points at which the predicate holds."""
        return Masked(self, predicate)

    __add__, __radd__ = _infix("+", _SUM), _infix("+", _SUM, True)
    __sub__, __rsub__ = _infix("-", _SUM), _infix("-", _SUM, True)
    __mul__, __rmul__ = _infix("*", _PRODUCT), _infix("*", _PRODUCT, True)
    __truediv__, __rtruediv__ = _infix("/", _PRODUCT), _infix("/", _PRODUCT, True)
    __floordiv__, __rfloordiv__ = _infix("//", _PRODUCT), _infix("//", _PRODUCT, True)
    __mod__, __rmod__ = _infix("%", _PRODUCT), _infix("%", _PRODUCT, True)
    __pow__, __rpow__ = _infix("**", _POWER), _infix("**", _POWER, True)
    __lt__, __le__ = _infix("<", _COMPARE), _infix("<=", _COMPARE)
    __gt__, __ge__ = _infix(">", _COMPARE), _infix(">=", _COMPARE)
    __and__, __or__ = _infix("and", _AND), _infix("or", _OR)

    def __eq__(self, other: object) -> Term:  # type: ignore[override]
        return _infix("==", _COMPARE)(self, _value(other))

    def __ne__(self, other: object) -> Term:  # type: ignore[override]
        return _infix("!=", _COMPARE)(self, _value(other))

    __hash__ = None  # type: ignore[assignment]

    def __neg__(self) -> Term:
        return Term(f"-{self.held(_SIGN)}", _SIGN)

    def __invert__(self) -> Term:
        return Term(f"not {self.held(_NOT)}", _NOT)


class Term(Operand):
    """What an operator gives."""


class Rank(Operand):
    """A rank variable; `extent` is |m|, `prime` is m', another index over the same rank."""

    @property
    def extent(self) -> Term:
        return Term(f"|{self.text}|")

    @property
    def prime(self) -> Rank:
        return Rank(self.text + "'")


class Masked:
    """`body where predicate`, the right-hand side of a statement."""

    def __init__(self, body: Operand, predicate: Operand) -> None:
        self.text = f"{body} where {predicate}"

    def __str__(self) -> str:
        return self.text


def _value(found: object) -> Operand | Value:
    if isinstance(found, Operand | int | float):
        return found
    raise TypeError(f"{found!r} is no expression and no number")


def term(found: object) -> Operand:
    """A number, or a piece of an expression, as the latter. Raises TypeError for anything else."""
    value = _value(found)
    if isinstance(value, Operand):
        return value
    return Term(print_number(value), _ATOM if value >= 0 else _SIGN)


def _listed(found: object) -> str:
    return ", ".join(str(term(part)) for part in (found if isinstance(found, tuple) else (found,)))


class Tensor:
    """`T[p, m]` reads and `T[p, m] = ...` assigns; a tensor without ranks is `T[()]`."""

    def __init__(self, builder: Builder, name: str, dtype: str | None = None) -> None:
        self._builder = builder
        self._name = name
        self._dtype = dtype

    def __getitem__(self, subscripts: object) -> Term:
        return Term(f"{self._name}[{_listed(subscripts)}]")

    def __setitem__(self, subscripts: object, value: Operand | Masked | Value) -> None:
        kind = f": {self._dtype}" if self._dtype else ""
        right = value if isinstance(value, Masked) else term(value)
        self._builder.line(f"{self[subscripts]}{kind} = {right}")


class _Functions:
    """`function.exp(x)`: any function of one position of its arguments."""

    def __getattr__(self, name: str) -> Callable[..., Term]:
        return lambda *args: Term(f"{name}({_listed(args)})")


class _Bracket:
    def __init__(self, name: str) -> None:
        self.name = name

    def __getitem__(self, found: object) -> Callable[..., Term]:
        parts = found if isinstance(found, tuple) else (found,)
        ranks = [part for part in parts if isinstance(part, Rank)]
        inside = _listed(tuple(ranks))
        for predicate in parts[len(ranks) :]:
            inside += f" where {term(predicate)}"
        return lambda *args: Term(f"{self.name}[{inside}]({_listed(args)})")


class _Reductions:
    """`over.sum[m](x)`, `over.sum[j, j <= t](x)`, `over.softmax[m](x)`."""

    def __getattr__(self, name: str) -> _Bracket:
        return _Bracket(name)


function = _Functions()
over = _Reductions()


class Builder:
    """Collects the lines of one cascade; `before` is text in front of it: functions, imports."""

    def __init__(self, name: str, batch: str = "", before: str = "") -> None:
        self.name = name
        self.batch = batch.split()
        self.before = before
        self.inputs: list[str] = []
        self.lines: list[str] = []

    def ranks(self, names: str) -> tuple[Rank, ...]:
        """Rank variables by name, to subscript with."""
        return tuple(Rank(name) for name in names.split())

    def input(
        self, name: str, *ranks: Rank, batch: str | None = None, dtype: str = "float"
    ) -> Tensor:
        """An input; `batch` names its batch ranks where it lacks some of the cascade's."""
        own = ", ".join(map(str, ranks))
        if batch is not None:
            own = f"{', '.join(batch.split())}; {own}"
        self.inputs.append(f"{name}[{own}]" + (f": {dtype}" if dtype != "float" else ""))
        return Tensor(self, name)

    def tensor(self, name: str, dtype: str | None = None) -> Tensor:
        """A tensor that statements will assign."""
        return Tensor(self, name, dtype)

    def param(self, name: str, dtype: str, default: Value | None = None) -> Term:
        """A parameter, with or without a default."""
        end = "" if default is None else f" = {print_number(default)}"
        self.line(f"param {name}: {dtype}{end}")
        return Term(name)

    def rank(self, name: str, extent: Operand | Value) -> Rank:
        """A rank that no input has."""
        self.line(f"rank {name} = {term(extent)}")
        return Rank(name)

    def line(self, text: str) -> None:
        """A line of the language as it is written."""
        self.lines.append(text)

    def text(self, *outputs: Operand | str) -> str:
        """The cascade as it will be parsed; a typed output is given as text: `"I[p, j]: int"`."""
        batch = f"[{', '.join(self.batch)}]" if self.batch else ""
        named = ", ".join(map(str, outputs))
        header = f"cascade {self.name}{batch}({', '.join(self.inputs)}) -> {named}:"
        body = [INDENT + line for line in self.lines]
        return "\n".join([*([self.before] if self.before else []), header, *body]) + "\n"

    def cascade(self, *outputs: Operand | str) -> Cascade:
        """The cascade. Raises CompileError for what is wrong with it."""
        return parse(self.text(*outputs), "<built>")[self.name]
