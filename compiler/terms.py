"""Expressions as written to expressions of the cascade: names resolved, kinds checked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from attnc import limits, syntax
from attnc.ir.algebra import MONOIDS, OPS, POPULATES
from attnc.ir.cascade import DTYPES
from attnc.ir.expr import Cast, Const, Expr, Map, Populate, Reduce
from attnc.ir.source import Source, Span
from attnc.typed import (
    BOOL,
    INT,
    KIND_NAMES,
    NUMBER,
    POISON,
    UNKNOWN,
    Abandoned,
    Errors,
    Typed,
    fits,
    fold,
    join,
    kind_of,
    result_kind,
    wanted_kinds,
)

_OF_TILES = ("first", "last")
FUNCTIONS = {name: op for name, op in OPS.items() if not op.symbol and name not in _OF_TILES}
RESERVED = frozenset((*FUNCTIONS, *MONOIDS, *POPULATES, "cast"))
"""Names of functions that a file cannot define anew."""


class Scope(Protocol):
    """What stands around an expression: how it reads names, tensors and functions."""

    source: Source

    def name(self, name: str, span: Span) -> Typed: ...
    def extent(self, rank: str, span: Span) -> Typed: ...
    def tensor(self, name: str, subscripts: Sequence[Typed], span: Span, at: Span) -> Typed: ...
    def bind(self, rank: str, span: Span) -> None: ...
    def slot(self, op: str, body: Typed, where: Typed | None, span: Span) -> str | None: ...
    def function(self, name: str) -> tuple[syntax.Function, Scope] | None: ...
    def monoid(self, name: str) -> bool: ...
    def tensor_function(
        self, name: str, ranks: Sequence[str] | None, args: Sequence[Typed], span: Span
    ) -> Typed | None: ...
    def functions(self) -> list[str]: ...


@dataclass(slots=True)
class Effort:
    """What the statement at hand has cost: levels and functions entered, terms looked at."""

    levels: int = 0
    functions: int = 0
    steps: int = 0


class Terms:
    """Elaborates terms in a scope."""

    def __init__(self, scope: Scope, errors: Errors, effort: Effort | None = None) -> None:
        self.scope = scope
        self.errors = errors
        self.effort = effort or Effort()

    def span(self, term: syntax.Node) -> Span:
        return Span(self.scope.source, term.start, term.end)

    def of(self, term: syntax.Term) -> Typed:
        """The elaborated term; POISON where an error was reported. Raises Abandoned."""
        self.effort.levels += 1
        self.effort.steps += 1
        if self.effort.levels > limits.LEVELS or self.effort.steps > limits.STEPS:
            self.errors.add(
                "this expression is too large, its functions put in place",
                self.span(term),
                code="E004",
                help="give a part of it a name of its own",
            )
            raise Abandoned
        found = self._of(term)
        self.effort.levels -= 1
        return found

    def _of(self, term: syntax.Term) -> Typed:
        span = self.span(term)
        match term:
            case syntax.Number(_, _, text):
                return self.literal(text, span)
            case syntax.Constant(_, _, text):
                if text == "inf":
                    return Typed(Const(float("inf"), span), NUMBER, scalar=True)
                return Typed(Const(text == "true", span), BOOL, scalar=True)
            case syntax.Size(_, _, rank):
                return self.scope.extent(rank, span)
            case syntax.Name(_, _, text):
                return self.scope.name(text, span)
            case syntax.Group(_, _, body):
                return self.of(body)
            case syntax.Unary(_, _, "-", syntax.Number() | syntax.Constant() as body):
                return self.negative(self.of(body), span)
            case syntax.Unary(_, _, op, body):
                return self.applied("neg" if op == "-" else op, [self.of(body)], [body], span)
            case syntax.Binary(_, _, op, left, right):
                return self.applied(op, [self.of(left), self.of(right)], [left, right], span)
            case syntax.Compared(_, _, ops, operands):
                return self.compared(ops, operands, span)
            case syntax.Call(_, _, name, args):
                return self.call(name, args, span)
            case syntax.Bracket(_, _, name, subscripts):
                typed = [self.of(part) for part in subscripts]
                for part, found in zip(subscripts, typed):
                    if not fits(found.kind, INT):
                        self.errors.add(
                            f"a subscript of {name.text} is {KIND_NAMES[found.kind]}, no integer",
                            self.span(part), code="E022",
                            help="a quotient of integers is written //",
                        )  # fmt: skip
                return self.scope.tensor(name.text, typed, span, self.span(name))
            case syntax.Applied():
                return self.reduced(term, span)

    def literal(self, text: str, span: Span) -> Typed:
        """A number of the source. Numbers are Python's, but integers end at 2^63."""
        plain = text.lower()
        try:
            whole = not (set(plain) & set(".e")) or plain[:2] == "0x"
            value: int | float = int(plain, 0) if whole else float(plain)
        except ValueError:
            too_long = len(plain) > 4000
            self.errors.add(
                "this integer is too large" if too_long else f"{text} is no number", span,
                code="E040" if too_long else "E001",
            )  # fmt: skip
            return POISON
        if isinstance(value, int) and value > limits.LARGEST:
            self.errors.add("this integer is too large", span, "2^63 or more", code="E040")
            return POISON
        if value == float("inf"):
            self.errors.add("this number is too large", span, code="E040", help="write inf")
            return POISON
        kind = INT if isinstance(value, int) else NUMBER
        return Typed(Const(value, span), kind, scalar=True, value=value)

    def negative(self, typed: Typed, span: Span) -> Typed:
        """A literal with its sign is one number."""
        match typed.expr:
            case Const(bool()):
                return self.applied("neg", [typed], [], span)
            case Const(value) if typed.kind != UNKNOWN:
                known = None if typed.value is None else -typed.value
                return Typed(Const(-value, span), typed.kind, scalar=True, value=known)
            case _:
                return POISON

    def applied(
        self, op: str, args: list[Typed], terms: Sequence[syntax.Node], span: Span
    ) -> Typed:
        """An operation of the table on operands of the right kinds."""
        for number, (arg, want) in enumerate(
            zip(args, wanted_kinds(op, [arg.kind for arg in args]))
        ):
            if not fits(arg.kind, want):
                place = self.span(terms[number]) if terms else span
                self.errors.add(
                    f"{_shown(op)} takes {KIND_NAMES[want]} here, not {KIND_NAMES[arg.kind]}",
                    place, code="E020", help=_remedy(arg.kind, want),
                )  # fmt: skip
                return POISON
        if any(arg.kind == UNKNOWN for arg in args):
            return POISON
        whole = op in ("//", "%") and all(fits(arg.kind, INT) for arg in args)
        if whole and args[1].value is not None and args[1].value == 0:
            self.errors.add("division by zero", span, code="E040")
            return POISON
        try:
            value = fold(op, [arg.value for arg in args])
        except OverflowError:
            self.errors.add("this integer is too large", span, "2^63 or more", code="E040")
            return POISON
        except ZeroDivisionError:
            self.errors.add("division by zero", span, code="E040")
            return POISON
        expr = Map(op, tuple(arg.expr for arg in args), span)
        return self.grown(expr, result_kind(op, args), args, span, value)

    def grown(
        self, expr: Expr, kind: str, inside: Sequence[Typed], span: Span,
        value: int | float | bool | None = None, scalar: bool | None = None,
    ) -> Typed:  # fmt: skip
        """A node over others, unless that makes the expression too large."""
        count = 1 + sum(part.count for part in inside)
        depth = 1 + max((part.depth for part in inside), default=0)
        if count > limits.TERMS or depth > limits.DEPTH:
            what = (
                f"more than {limits.TERMS} operations"
                if count > limits.TERMS
                else f"more than {limits.DEPTH} levels"
            )
            self.errors.add(
                f"this expression has {what}, its functions put in place", span, code="E004",
                help="give a part of it a name of its own",
            )  # fmt: skip
            raise Abandoned
        if scalar is None:
            scalar = all(part.scalar for part in inside)
        return Typed(expr, kind, count, depth, scalar, value)

    def compared(
        self, ops: tuple[str, ...], operands: tuple[syntax.Term, ...], span: Span
    ) -> Typed:
        args = [self.of(operand) for operand in operands]
        if len(ops) > 1:
            self.errors.add(
                "comparisons do not chain", span, code="E020",
                help="write a < b and b < c",
            )  # fmt: skip
            return POISON
        return self.applied(ops[0], args, operands, span)

    def call(self, name: syntax.Name, args: tuple[syntax.Term, ...], span: Span) -> Typed:
        if name.text == "cast":
            return self.cast(args, span)
        if name.text in FUNCTIONS:
            least, most = FUNCTIONS[name.text].arity
            if not least <= len(args) <= most:
                return self.wrong_arity(name, args, least, most, span)
            return self.applied(name.text, [self.of(arg) for arg in args], args, span)
        defined = self.scope.function(name.text)
        if defined is not None:
            return self.put_in_place(name, args, defined, span)
        if self.scope.monoid(name.text) or name.text in POPULATES:
            self.errors.add(
                f"{name.text} reduces over ranks, and none is named", self.span(name), code="E014",
                help=f"write {name.text}[m](...)",
            )  # fmt: skip
            return POISON
        typed = [self.of(arg) for arg in args]
        found = self.scope.tensor_function(name.text, None, typed, span)
        return found if found is not None else self.unknown_function(name)

    def wrong_arity(
        self, name: syntax.Name, args: Sequence[syntax.Term], least: int, most: int, span: Span
    ) -> Typed:
        count = str(least) if least == most else f"{least} to {most}"
        single = name.text in MONOIDS and len(args) == 1
        self.errors.add(
            f"{name.text} takes {count} argument{'s' if count != '1' else ''}, not {len(args)}",
            span, code="E014",
            help=f"to reduce over a rank, write {name.text}[m](...)" if single else "",
        )  # fmt: skip
        return POISON

    def cast(self, args: tuple[syntax.Term, ...], span: Span) -> Typed:
        if len(args) != 2 or not isinstance(args[1], syntax.Name):
            self.errors.add("cast takes a value and a type", span, code="E014",
                            help="write cast(x, f16)")  # fmt: skip
            return POISON
        body, dtype = self.of(args[0]), args[1].text
        if dtype not in DTYPES:
            self.errors.unknown_type(dtype, self.span(args[1]))
            return POISON
        return self.grown(Cast(dtype, body.expr, span), kind_of(dtype), [body], span, scalar=False)

    def put_in_place(
        self,
        name: syntax.Name,
        args: tuple[syntax.Term, ...],
        defined: tuple[syntax.Function, Scope],
        span: Span,
    ) -> Typed:
        """The body of a scalar function over the arguments of its use."""
        function, scope = defined
        if len(args) != len(function.params):
            return self.wrong_arity(name, args, len(function.params), len(function.params), span)
        if self.effort.functions >= limits.CALLS:
            self.errors.add(
                f"functions use one another more than {limits.CALLS} deep", span, code="E031",
                help="a function cannot use itself",
            )  # fmt: skip
            raise Abandoned
        typed = [self.of(arg) for arg in args]
        if any(arg.kind == UNKNOWN for arg in typed):
            return POISON
        values = {param.text: arg for param, arg in zip(function.params, typed)}
        local = Terms(Local(scope, values, self.errors), self.errors, self.effort)
        self.effort.functions += 1
        found = local.of(function.body)
        self.effort.functions -= 1
        return self.grown(found.expr, found.kind, [found], span, found.value, found.scalar)

    def reduced(self, term: syntax.Applied, span: Span) -> Typed:
        """A reduction, a choice of points by value, or a tensor function over some ranks."""
        name = term.name.text
        ranks = self.ranks(term)
        populates = name in POPULATES
        if not populates and not self.scope.monoid(name):
            if term.where is not None:
                self.errors.add(
                    f"{name} is no reduction: it takes ranks, and no predicate",
                    self.span(term.where), code="E014",
                    help="give the argument a name of its own, with a where",
                )  # fmt: skip
                return POISON
            args = [self.of(arg) for arg in term.args]
            found = self.scope.tensor_function(name, ranks, args, span)
            return found if found is not None else self.unknown_function(term.name)
        for rank, part in zip(ranks, term.ranks):
            self.scope.bind(rank, self.span(part))
        args = [self.of(arg) for arg in term.args]
        if len(args) != 1 or not ranks or (populates and len(ranks) != 1):
            wanted = "one rank" if populates else "at least one rank"
            self.errors.add(f"{name} takes {wanted} and one argument", span, code="E014",
                            help=f"write {name}[m](...)")  # fmt: skip
            return POISON
        where = None if term.where is None else self.predicate(term.where)
        body = args[0]
        inside = [body] if where is None else [body, where]
        wanted = BOOL if name in ("any", "all") else NUMBER
        if not fits(body.kind, wanted):
            self.errors.add(
                f"{name} takes {KIND_NAMES[wanted]}, not {KIND_NAMES[body.kind]}",
                self.span(term.args[0]), code="E020", help=_remedy(body.kind, wanted),
            )  # fmt: skip
            return POISON
        if any(part.kind == UNKNOWN for part in inside):
            return POISON
        mask = None if where is None else where.expr
        if populates:
            slot = ranks[0] if name == "rankof" else self.scope.slot(name, body, where, span)
            node: Expr = Populate(name, ranks[0], body.expr, mask, slot, span)
            return self.grown(node, INT, inside, span, scalar=False)
        exact = name in ("sum", "prod", "max", "min")
        kind = BOOL if wanted == BOOL else join([body.kind]) if exact else NUMBER
        return self.grown(Reduce(name, ranks, body.expr, mask, span), kind, inside, span,
                          scalar=False)  # fmt: skip

    def ranks(self, term: syntax.Applied) -> tuple[str, ...]:
        """The rank variables in the brackets of a reduction or of a tensor function."""
        found: list[str] = []
        for part in term.ranks:
            if not isinstance(part, syntax.Name):
                self.errors.add("a rank variable is expected here", self.span(part), code="E015")
                raise Abandoned
            if part.text in found:
                self.errors.add(f"rank {part.text!r} is named twice", self.span(part), code="E011")
                raise Abandoned
            found.append(part.text)
        return tuple(found)

    def predicate(self, term: syntax.Term) -> Typed:
        """An expression that is true or false."""
        typed = self.of(term)
        if not fits(typed.kind, BOOL):
            self.errors.add(
                "a predicate is true or false", self.span(term),
                f"this is {KIND_NAMES[typed.kind]}", code="E021",
                help="compare it, as in x != 0",
            )  # fmt: skip
            return POISON
        return typed

    def unknown_function(self, name: syntax.Name) -> Typed:
        known = sorted({*RESERVED, *self.scope.functions()})
        self.errors.add(f"no function {name.text!r}", self.span(name), code="E010",
                        help=self.errors.nearest(name.text, known))  # fmt: skip
        return POISON


class Local:
    """The scope of a scalar function's body: its parameters, and the functions of its file."""

    def __init__(self, outer: Scope, values: Mapping[str, Typed], errors: Errors) -> None:
        self.outer = outer
        self.source = outer.source
        self.values = values
        self.errors = errors

    def name(self, name: str, span: Span) -> Typed:
        if name not in self.values:
            self.errors.add(
                f"no parameter {name!r}", span, code="E010",
                help=self.errors.nearest(name, self.values),
            )  # fmt: skip
            return POISON
        return self.values[name]

    def _refuse(self, what: str, span: Span) -> None:
        self.errors.add(
            f"a scalar function knows no {what}", span, code="E015",
            help="pass what it needs as an argument, or define a tensor function",
        )  # fmt: skip
        raise Abandoned

    def extent(self, rank: str, span: Span) -> Typed:
        self._refuse("ranks", span)
        return POISON

    def tensor(self, name: str, subscripts: Sequence[Typed], span: Span, at: Span) -> Typed:
        self._refuse("tensors", span)
        return POISON

    def bind(self, rank: str, span: Span) -> None:
        self._refuse("ranks", span)

    def slot(self, op: str, body: Typed, where: Typed | None, span: Span) -> str | None:
        self._refuse("ranks", span)
        return None

    def function(self, name: str) -> tuple[syntax.Function, Scope] | None:
        return self.outer.function(name)

    def monoid(self, name: str) -> bool:
        return self.outer.monoid(name)

    def tensor_function(
        self, name: str, ranks: Sequence[str] | None, args: Sequence[Typed], span: Span
    ) -> Typed | None:
        if name in self.outer.functions():
            self._refuse("tensors", span)
        return None

    def functions(self) -> list[str]:
        return self.outer.functions()


def _shown(op: str) -> str:
    return "unary -" if op == "neg" else op


def _remedy(kind: str, wanted: str) -> str:
    """How a value of one kind becomes one of another."""
    if kind == BOOL:
        return "select(condition, 1, 0) turns a truth value into a number"
    if wanted == BOOL:
        return "compare it, as in x != 0"
    return ""
