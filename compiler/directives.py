"""Schedules: the lines that fix how a cascade is mapped."""

from __future__ import annotations

from attnc import syntax
from attnc.ir.cascade import Cascade, Directive, base
from attnc.ir.expr import Expr
from attnc.ir.source import Source, Span
from attnc.names import Names
from attnc.terms import Terms
from attnc.typed import INT, Abandoned, Errors

_WITH_RANK_AND_SIZE = ("tile", "split", "share")
_WITH_RANKS = ("parallel", "stream")
_WITH_NUMBER = ("warps", "stages")
_ON_AN_ARRAY = ("bind", "space")
_ON_A_MACHINE = (*_ON_AN_ARRAY, "overlap", "hold")
_WRITTEN = {
    "bind": "bind S, G on pe2d",
    "space": "space p, m0 on pe2d",
    "overlap": "overlap S, G",
    "hold": "hold K, V in buffer",
}
VERBS = (*_WITH_RANK_AND_SIZE, *_WITH_RANKS, *_WITH_NUMBER, *_ON_A_MACHINE)


def read_schedule(
    text: syntax.ScheduleText, cascade: Cascade, source: Source, errors: Errors
) -> tuple[Directive, ...]:
    """The directives of a schedule over the ranks and parameters of its cascade."""
    reader = _Reader(cascade, source, errors)
    found = []
    for line in text.lines:
        if isinstance(line, syntax.DirectiveLine):
            try:
                found.append(reader.directive(line))
            except Abandoned:
                continue
    return tuple(found)


class _Reader:
    def __init__(self, cascade: Cascade, source: Source, errors: Errors) -> None:
        self.source = source
        self.errors = errors
        self.cascade = cascade
        ranks = [rank for tensor in cascade.inputs for rank in tensor.ranks]
        self.ranks = dict.fromkeys(
            [*cascade.batch, *ranks, *(decl.name for decl in cascade.ranks),
             *(base(rank) for einsum in cascade.einsums for rank in einsum.ranks)]
        )  # fmt: skip
        self.params = {param.name: param for param in cascade.params}
        self.seen: set[tuple[str, str]] = set()

    def span(self, node: syntax.Node) -> Span:
        return Span(self.source, node.start, node.end)

    def refuse(self, message: str, node: syntax.Node, code: str = "E050", help: str = "") -> None:
        self.errors.add(message, self.span(node), code=code, help=help)
        raise Abandoned

    def directive(self, line: syntax.DirectiveLine) -> Directive:
        verb = line.verb.text
        if verb not in VERBS:
            help = self.errors.nearest(verb, VERBS) or f"there are {', '.join(VERBS)}"
            self.refuse(f"no directive {verb!r}", line.verb, "E010", help)
        if verb in _ON_A_MACHINE:
            return self.on_a_machine(verb, line)
        if line.on is not None:
            self.refuse(f"{verb} has no array", line.on, help="that is for bind and space")
        if line.level is not None:
            self.refuse(f"{verb} has no level", line.level, help="that is for hold")
        if verb in _WITH_NUMBER:
            if len(line.operands) != 1 or line.by is not None:
                self.refuse(f"{verb} takes one number", line, help=f"write {verb} 4")
            value = self.value(line.operands[0])
            self.once(verb, "", line)
            return Directive(verb, (), value, span=self.span(line))
        ranks = tuple(self.rank(operand) for operand in line.operands)
        if verb in _WITH_RANKS:
            if line.by is not None:
                self.refuse(f"{verb} takes ranks and no size", line.by)
            for rank in ranks:
                self.once(verb, rank, line)
            return Directive(verb, ranks, span=self.span(line))
        if len(ranks) != 1 or line.by is None:
            self.refuse(f"{verb} takes one rank and a size", line, help=f"write {verb} m by 64")
        assert line.by is not None
        value = self.value(line.by)
        self.once(verb, ranks[0], line)
        if {("split", ranks[0]), ("share", ranks[0])} <= self.seen:
            self.refuse(f"{ranks[0]} is both split and shared", line, "E011", "keep one of the two")
        return Directive(verb, ranks, value, span=self.span(line))

    def on_a_machine(self, verb: str, line: syntax.DirectiveLine) -> Directive:
        """A line of the mapping on an accelerator: Einsums, tensors or ranks, and their place."""
        if line.by is not None:
            self.refuse(f"{verb} takes no size", line.by)
        place = line.on if verb in _ON_AN_ARRAY else line.level if verb == "hold" else None
        given = [name for name in (line.on, line.level) if name is not None]
        if given != ([] if verb == "overlap" else [place]):
            self.refuse(f"{verb} is written otherwise", line, help=f"write {_WRITTEN[verb]}")
        name = {"space": self.rank, "hold": self.tensor}.get(verb, self.einsum)
        names = tuple(name(operand) for operand in line.operands)
        for one in names if verb != "space" else ():
            self.once(verb, one, line)
        array = "" if place is None else place.text
        return Directive(verb, names, array=array, span=self.span(line))

    def einsum(self, term: syntax.Term) -> str:
        return self.named(term, [einsum.target for einsum in self.cascade.einsums], "Einsum")

    def tensor(self, term: syntax.Term) -> str:
        inputs = [tensor.name for tensor in self.cascade.inputs]
        made = [einsum.target for einsum in self.cascade.einsums]
        return self.named(term, [*inputs, *made], "tensor")

    def named(self, term: syntax.Term, known: list[str], what: str) -> str:
        match term:
            case syntax.Name(_, _, text) if text in known:
                return text
            case syntax.Name(_, _, text):
                self.refuse(f"{self.cascade.name} has no {what} {text!r}", term, "E010",
                            self.errors.nearest(text, list(dict.fromkeys(known))))  # fmt: skip
            case _:
                self.refuse(f"the name of a{'n' * (what[0] == 'E')} {what} is expected here", term)
        raise Abandoned

    def once(self, verb: str, rank: str, line: syntax.DirectiveLine) -> None:
        if (verb, rank) in self.seen:
            self.refuse(f"{verb} {rank}".rstrip() + " stands twice", line, "E011")
        self.seen.add((verb, rank))

    def rank(self, term: syntax.Term) -> str:
        match term:
            case syntax.Name(_, _, text) if text in self.ranks:
                return text
            case syntax.Name(_, _, text):
                self.refuse(f"{self.cascade.name} has no rank {text!r}", term, "E010",
                            self.errors.nearest(text, list(self.ranks)))  # fmt: skip
            case _:
                self.refuse("a rank is expected here", term)
        raise Abandoned

    def value(self, term: syntax.Term) -> Expr | None:
        """A size: a number, an expression of parameters, or None for `auto`."""
        if isinstance(term, syntax.Name) and term.text == "auto":
            return None
        names = Names(_NoFunctions(self.source), (), (), (), {}, self.errors)
        names.params = self.params
        names.defaults = True
        typed = Terms(names, self.errors).of(term)
        if typed.kind != INT or not typed.scalar:
            self.refuse("a size is a number, a parameter or auto", term)
        if typed.value is not None and typed.value < 1:
            self.refuse("a size is at least 1", term)
        return typed.expr


class _NoFunctions:
    """The library of a schedule: it has none."""

    def __init__(self, source: Source) -> None:
        self.source = source

    def function(self, name: str) -> None:
        return None

    def is_reduction(self, name: str) -> bool:
        return False

    def reduction(self, name: str) -> None:
        return None

    def is_tensor_function(self, name: str) -> bool:
        return False

    def checked(self, name: str, span: Span) -> None:
        return None

    def functions(self) -> list[str]:
        return []
