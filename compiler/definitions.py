"""What one file defines and imports, each name elaborated when it is first asked for."""

from __future__ import annotations

from collections.abc import Sequence

from attnc import limits, syntax
from attnc.check import check_cascade
from attnc.ir.algebra import MONOIDS
from attnc.ir.cascade import Reduction
from attnc.ir.expr import Param
from attnc.ir.source import Source, Span
from attnc.names import Checked
from attnc.reductions import fault
from attnc.terms import RESERVED, Local, Scope, Terms
from attnc.typed import NUMBER, POISON, UNKNOWN, Abandoned, Errors, Typed, fits


class Definitions:
    """The library of a file's cascades; `outside` holds what it imports, `done` what is checked."""

    def __init__(self, source: Source, errors: Errors) -> None:
        self.source = source
        self.errors = errors
        self.own: dict[str, syntax.Function | syntax.OwnReduction | syntax.CascadeText] = {}
        self.outside: dict[str, Definitions] = {}
        self.done: dict[str, Checked | None] = {}
        self.reductions: dict[str, Reduction | None] = {}
        self.waiting: list[str] = []

    def span(self, node: syntax.Node) -> Span:
        return Span(self.source, node.start, node.end)

    def define(self, item: syntax.Function | syntax.OwnReduction | syntax.CascadeText) -> None:
        name = item.name.text
        if name in RESERVED:
            self.errors.add(f"{name} is built in", self.span(item.name), code="E011",
                            help="give the function another name")  # fmt: skip
        elif name in self.own:
            self.errors.add(f"{name} is defined twice", self.span(item.name), code="E011")
        elif name.endswith("'"):
            self.errors.add("only a rank variable ends in primes", self.span(item.name),
                            code="E015")  # fmt: skip
        else:
            self.own[name] = item

    # ---- the library of a cascade

    def functions(self) -> list[str]:
        return [*self.own, *self.outside]

    def function(self, name: str) -> tuple[syntax.Function, Scope] | None:
        item = self.own.get(name)
        if isinstance(item, syntax.Function):
            return item, Local(_Outermost(self), {}, self.errors)
        return self.outside[name].function(name) if name in self._elsewhere(item) else None

    def is_reduction(self, name: str) -> bool:
        item = self.own.get(name)
        if item is not None:
            return isinstance(item, syntax.OwnReduction)
        return name in self.outside and self.outside[name].is_reduction(name)

    def reduction(self, name: str) -> Reduction | None:
        item = self.own.get(name)
        if isinstance(item, syntax.OwnReduction):
            if name not in self.reductions:
                self.reductions[name] = self._reduction(item)
            return self.reductions[name]
        return self.outside[name].reduction(name) if name in self._elsewhere(item) else None

    def is_tensor_function(self, name: str) -> bool:
        item = self.own.get(name)
        if item is not None:
            return isinstance(item, syntax.CascadeText)
        return name in self.outside and self.outside[name].is_tensor_function(name)

    def checked(self, name: str, span: Span | None = None) -> Checked | None:
        """A cascade or tensor function by name; None where it has an error."""
        item = self.own.get(name)
        if item is None:
            return self.outside[name].checked(name, span)
        if name in self.done:
            return self.done[name]
        assert isinstance(item, syntax.CascadeText)
        if name in self.waiting or len(self.waiting) >= limits.CALLS:
            circle = " -> ".join((*self.waiting[-4:], name))
            self.errors.add(f"{name} is used in its own definition: {circle}"
                            if name in self.waiting
                            else f"functions use one another more than {limits.CALLS} deep",
                            span or self.span(item.name), code="E031")  # fmt: skip
            return None
        self.waiting.append(name)
        self.done[name] = check_cascade(item, self, self.errors)
        self.waiting.pop()
        return self.done[name]

    def _elsewhere(self, item: object) -> dict[str, Definitions]:
        """What is imported, unless the file itself defines the name."""
        return self.outside if item is None else {}

    # ---- all of a file

    def check(self) -> None:
        """Every definition, used or not."""
        for name, item in self.own.items():
            match item:
                case syntax.CascadeText():
                    self.checked(name)
                case syntax.OwnReduction():
                    self.reduction(name)
                case syntax.Function():
                    self._function(item)

    def _distinct(self, params: tuple[syntax.Name, ...]) -> None:
        for number, param in enumerate(params):
            if param.text in (before.text for before in params[:number]):
                self.errors.add(f"{param.text} is named twice", self.span(param), code="E011")

    def _function(self, item: syntax.Function) -> None:
        self._distinct(item.params)
        values = {param.text: POISON for param in item.params}
        try:
            Terms(Local(_Outermost(self), values, self.errors), self.errors).of(item.body)
        except Abandoned:
            return

    def _reduction(self, item: syntax.OwnReduction) -> Reduction | None:
        """A reduction over two operands, its own names bound to them."""
        self._distinct(item.params)
        if len(item.params) != 2:
            self.errors.add("a reduction joins two values", self.span(item.name), code="E014",
                            help=f"write def {item.name.text} reduce(x, y) = ...")  # fmt: skip
            return None
        x, y = item.params
        values = {name.text: Typed(Param(name.text, self.span(name)), NUMBER) for name in (x, y)}
        outer = _Outermost(self)
        try:
            body = Terms(Local(outer, values, self.errors), self.errors).of(item.body)
            identity = Terms(Local(outer, {}, self.errors), self.errors).of(item.identity)
        except Abandoned:
            return None
        for typed, term in ((body, item.body), (identity, item.identity)):
            if not fits(typed.kind, NUMBER):
                self.errors.add("a reduction joins numbers", self.span(term), code="E020")
                return None
        if UNKNOWN in (body.kind, identity.kind):
            return None
        own = Reduction(item.name.text, x.text, y.text, body.expr, identity.expr, self.span(item))
        problem, _, shown = fault(own).partition(": ")
        if problem:
            self.errors.add(problem, self.span(item), shown, code="E024",
                            help="partial results are joined in any order")  # fmt: skip
            return None
        return own


class _Outermost:
    """The scope of a file's functions: nothing but its other functions."""

    def __init__(self, library: Definitions) -> None:
        self.library = library
        self.source = library.source

    def name(self, name: str, span: Span) -> Typed:
        return POISON

    def extent(self, rank: str, span: Span) -> Typed:
        return POISON

    def tensor(self, name: str, subscripts: Sequence[Typed], span: Span, at: Span) -> Typed:
        return POISON

    def bind(self, rank: str, span: Span) -> None:
        raise Abandoned

    def slot(self, op: str, body: Typed, where: Typed | None, span: Span) -> str | None:
        raise Abandoned

    def function(self, name: str) -> tuple[syntax.Function, Scope] | None:
        return self.library.function(name)

    def monoid(self, name: str) -> bool:
        return name in MONOIDS or self.library.is_reduction(name)

    def tensor_function(
        self, name: str, ranks: Sequence[str] | None, args: Sequence[Typed], span: Span
    ) -> Typed | None:
        return None

    def functions(self) -> list[str]:
        return self.library.functions()
