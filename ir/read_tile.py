"""Reads the printed form of a tile program: `read_program(print_program(program)) == program`."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from attnc.ir.algebra import OPS
from attnc.ir.cascade import DTYPES, ParamDecl, RankDecl, Reduction, Tensor
from attnc.ir.expr import Cast, Const, Expr, Extent, Index, Map, Param, Tile
from attnc.ir.source import InvalidIR
from attnc.ir.tile import (
    Axis,
    Carried,
    Compute,
    Contract,
    Fold,
    Grid,
    Kernel,
    Listed,
    Load,
    Loop,
    Program,
    Scan,
    Segment,
    Statement,
    Store,
)
from attnc.ir.walk import rewrite

Item = TypeVar("Item")

DEEPEST = 100
"""Nesting beyond which text is refused rather than recursed into."""

TOKEN = re.compile(
    r"""\s*(?:(?P<number>(?:\d[\d_]*\.?\d*|\.\d+)(?:e[+-]?\d+)?|inf\b)
    |(?P<string>"(?:[^"\\]|\\.)*")
    |(?P<name>[A-Za-z_]\w*'*)
    |(?P<sign>//|\*\*|[=!<>]=|->|[-+*/%<>=|()\[\],;:]))""",
    re.VERBOSE | re.IGNORECASE,
)
ASIDE = ("at", "lists", "shares", "walks")
"""What the head of a kernel may name besides its grid."""

NOT, COMPARISON, SIGN = 3, 4, 7
POWERS = {
    "or": 1, "and": 2, "==": 4, "!=": 4, "<": 4, "<=": 4, ">": 4, ">=": 4,
    "+": 5, "-": 5, "*": 6, "/": 6, "//": 6, "%": 6, "**": 8,
}  # fmt: skip
"""How tightly operators bind; a comparison is not chained, a power groups to the right."""


def read_program(text: str) -> Program:
    """The program that a text describes; InvalidIR names the line that is none."""
    lines = [
        (number, len(line) - len(line.lstrip()), line.strip())
        for number, line in enumerate(text.split("\n"), 1)
        if line.strip()
    ]
    return _Block(lines).program()


def read_expr(text: str) -> Expr:
    """An expression of a tile program."""
    reader = _Line(text, 1)
    found = reader.expr()
    reader.end()
    return found


@dataclass(slots=True)
class _Block:
    """The lines of a text, taken one after another."""

    lines: list[tuple[int, int, str]]
    place: int = 0

    def more(self, indent: int) -> bool:
        return self.place < len(self.lines) and self.lines[self.place][1] > indent

    def word(self) -> str:
        return self.lines[self.place][2].split(" ", 1)[0].rstrip(":")

    def take(self) -> tuple[_Line, int]:
        number, indent, text = self.lines[self.place]
        self.place += 1
        return _Line(text, number), indent

    def program(self) -> Program:
        if not self.lines:
            raise InvalidIR("an empty text is no tile program")
        head, indent = self.take()
        head.word("program")
        name = head.name()
        head.sign("(")
        inputs = head.many(head.tensor, ")")
        head.sign("->")
        outputs = head.many(head.tensor, ":")
        head.end()
        buffers: list[Tensor] = []
        params: list[ParamDecl] = []
        ranks: list[RankDecl] = []
        reductions: list[Reduction] = []
        kernels: list[Kernel] = []
        history: list[str] = []
        numbers: dict[str, int] = {}
        while self.more(indent):
            match self.word():
                case "kernel":
                    kernels.append(self.kernel())
                    continue
                case _:
                    line, _ = self.take()
            match line.name():
                case "buffer":
                    buffers.append(line.tensor())
                case "param":
                    params.append(line.param())
                case "rank":
                    rank = line.name()
                    line.sign("=")
                    ranks.append(RankDecl(rank, line.expr()))
                case "reduction":
                    reductions.append(line.reduction())
                case "warps" | "stages" as word:
                    numbers[word] = line.integer()
                case "history":
                    history.append(line.string())
                case word:
                    raise line.error(f"a program has no {word}")
            line.end()
        if self.place < len(self.lines):
            raise self.take()[0].error("text after the program")
        return Program(
            name, inputs, outputs, tuple(buffers), tuple(params), tuple(ranks),
            tuple(reductions), tuple(kernels), numbers.get("warps"), numbers.get("stages"),
            tuple(history),
        )  # fmt: skip

    def kernel(self) -> Kernel:
        head, indent = self.take()
        head.word("kernel")
        name = head.name()
        head.word("over")
        grid: list[Grid] = []
        while head.peek() not in (":", ";"):
            grid.append(head.grid())
            head.have(",")
        aside: dict[str, str] = {}
        warps: int | None = None
        while head.have(";"):
            word = head.name()
            if word == "warps":
                warps = head.integer()
                continue
            if word not in ASIDE:
                raise head.error(f"a kernel has no {word}")
            aside[word] = head.name()
        head.sign(":")
        head.end()
        axes: list[Axis] = []
        while self.more(indent) and self.word() == "axis":
            line, _ = self.take()
            line.word("axis")
            rank = line.name()
            line.sign("=")
            extent = line.expr()
            axes.append(Axis(rank, extent, line.integer() if line.have("by") else None))
            line.end()
        return Kernel(name, tuple(grid), tuple(axes), self.statements(indent), **aside, warps=warps)

    def statements(self, indent: int) -> tuple[Statement, ...]:
        found: list[Statement] = []
        while self.more(indent) and self.word() != "next":
            found.append(self.loop() if self.word() == "loop" else self.statement())
            if len(found) and self.more(self.lines[self.place - 1][1]):
                raise self.take()[0].error("an indented line that belongs to nothing")
        return tuple(found)

    def statement(self) -> Statement:
        line, _ = self.take()
        word = line.name()
        statement: Statement
        if word == "store":
            tensor, subscripts = line.access()
            line.sign("=")
            source = line.tile()
            statement = Store(tensor, subscripts, source, line.where())
            line.end()
            return statement
        made = line.tile()
        line.sign("=")
        match word:
            case "load":
                tensor, subscripts = line.access()
                statement = Load(made.name, made.ranks, tensor, subscripts, line.where())
            case "compute":
                statement = Compute(made.name, made.ranks, line.expr())
            case "contract":
                left = line.tile()
                line.sign("*")
                right = line.tile()
                line.word("over")
                statement = Contract(made.name, made.ranks, left, right, line.name())
            case "fold":
                op, source = line.name(), line.tile()
                line.word("over")
                statement = Fold(made.name, made.ranks, op, source, line.many(line.name, ""))
            case "scan":
                op, source = line.name(), line.tile()
                line.word("over")
                over = line.name()
                line.word("along")
                along = line.name()
                reverse = line.have("reverse")
                statement = Scan(made.name, made.ranks, op, source, over, along, reverse)
            case _:
                raise line.error(f"a kernel has no {word}")
        line.end()
        return statement

    def loop(self) -> Loop:
        head, indent = self.take()
        if indent > 2 * DEEPEST:
            raise head.error("loops nest too deep")
        head.word("loop")
        rank = head.name()
        head.sign(":")
        head.end()
        carried: list[Carried] = []
        while self.more(indent) and self.word() == "carry":
            line, _ = self.take()
            line.word("carry")
            state = line.tile()
            line.sign("=")
            carried.append(Carried(state.name, state.ranks, line.expr()))
            line.end()
        segments: list[Segment] = []
        while self.more(indent):
            line, own = self.take()
            line.word("segment")
            lo = line.expr()
            line.word("to")
            hi, note = line.expr(), line.string()
            listed: Listed | None = None
            if line.have("listed"):
                positions, at = line.access()
                listed = Listed(positions, at)
            when = line.expr() if line.have("when") else None
            line.sign(":")
            line.end()
            body = self.statements(own)
            if not self.more(own):
                raise line.error("a segment ends with what it carries on: next")
            last, _ = self.take()
            last.word("next")
            segments.append(Segment(lo, hi, note, body, last.many(last.name, ""), when, listed))
            last.end()
        return Loop(rank, tuple(carried), tuple(segments))


class _Line:
    """The tokens of one line, read by recursive descent."""

    def __init__(self, text: str, number: int) -> None:
        self.text, self.number, self.place, self.depth = text, number, 0, 0
        self.tokens: list[tuple[str, str]] = []
        at = 0
        while at < len(text.rstrip()):
            found = TOKEN.match(text, at)
            if found is None or found.lastgroup is None:
                raise self.error(f"no token at {text[at : at + 10]!r}")
            self.tokens.append((found.lastgroup, found.group(found.lastgroup)))
            at = found.end()

    def error(self, message: str) -> InvalidIR:
        return InvalidIR(f"line {self.number}: {message}: {self.text[:80]}")

    def peek(self, ahead: int = 0) -> str:
        place = self.place + ahead
        return self.tokens[place][1] if place < len(self.tokens) else ""

    def next(self, kind: str) -> str:
        if self.place >= len(self.tokens) or self.tokens[self.place][0] != kind:
            raise self.error(f"expected a {kind} instead of {self.peek() or 'the end'!r}")
        self.place += 1
        return self.tokens[self.place - 1][1]

    def have(self, text: str) -> bool:
        if self.peek() != text:
            return False
        self.place += 1
        return True

    def word(self, text: str) -> None:
        if not self.have(text):
            raise self.error(f"expected {text!r} instead of {self.peek() or 'the end'!r}")

    sign = word

    def end(self) -> None:
        if self.place < len(self.tokens):
            raise self.error(f"unexpected {self.peek()!r}")

    def name(self) -> str:
        return self.next("name")

    def string(self) -> str:
        found = json.loads(self.next("string"))
        assert isinstance(found, str)
        return found

    def integer(self) -> int:
        text = self.next("number")
        if not text.isdigit():
            raise self.error(f"expected a whole number instead of {text}")
        return int(text)

    def many(self, one: Callable[[], Item], end: str) -> tuple[Item, ...]:
        """Items between commas up to a sign, or to the end of the line."""
        found: list[Item] = []
        while self.peek() != end:
            found.append(one())
            if self.peek() != end:
                self.sign(",")
        self.place += bool(end)
        return tuple(found)

    def tensor(self) -> Tensor:
        name = self.name()
        self.sign("[")
        batch = self.many(self.name, ";")
        own = self.many(self.name, "]")
        self.sign(":")
        dtype = self.name()
        if dtype not in DTYPES:
            raise self.error(f"no type {dtype}")
        return Tensor(name, (*batch, *own), len(batch), dtype)

    def param(self) -> ParamDecl:
        name = self.name()
        self.sign(":")
        dtype = self.name()
        self.sign("=")
        if self.have("none"):
            return ParamDecl(name, dtype, None)
        value = self.expr()
        if not isinstance(value, Const):
            raise self.error("a parameter is a number")
        return ParamDecl(name, dtype, value.value)

    def reduction(self) -> Reduction:
        name = self.name()
        self.sign("(")
        x, y = self.many(self.name, ")")
        self.sign("=")
        body = _params(self.expr())
        self.word("identity")
        return Reduction(name, x, y, body, self.expr())

    def grid(self) -> Grid:
        rank = self.name()
        return Grid(rank, self.integer() if self.have("by") else 1)

    def tile(self) -> Tile:
        name = self.name()
        self.sign("[")
        return Tile(name, self.many(self.name, "]"))

    def access(self) -> tuple[str, tuple[Expr, ...]]:
        name = self.name()
        self.sign("[")
        return name, self.many(self.expr, "]")

    def where(self) -> Expr | None:
        return self.expr() if self.have("where") else None

    def expr(self, least: int = 0) -> Expr:
        """An expression of operators that bind at least so tightly."""
        self.depth += 1
        if self.depth > DEEPEST:
            raise self.error("an expression nests too deep")
        found = self._operand()
        compared = False
        while (power := POWERS.get(self.peek(), -1)) >= least:
            if power == COMPARISON and compared:
                break
            compared = compared or power == COMPARISON
            op = self.tokens[self.place][1]
            self.place += 1
            found = Map(op, (found, self.expr(SIGN if op == "**" else power + 1)))
        self.depth -= 1
        return found

    def _operand(self) -> Expr:
        if self.have("not"):
            return Map("not", (self.expr(NOT),))
        if self.have("-"):
            literal = self.tokens[self.place : self.place + 1]
            if literal and literal[0][0] == "number" and self.peek(1) != "**":
                return Const(-self._number())
            return Map("neg", (self.expr(SIGN),))
        return self._atom()

    def _number(self) -> int | float:
        text = self.next("number")
        return int(text) if text.replace("_", "").isdigit() else float(text)

    def _atom(self) -> Expr:
        if self.place >= len(self.tokens):
            raise self.error("expected an expression")
        if self.tokens[self.place][0] == "number":
            return Const(self._number())
        if self.have("("):
            found = self.expr()
            self.sign(")")
            return found
        if self.have("|"):
            rank = self.name()
            self.sign("|")
            return Extent(rank)
        name = self.name()
        if name in ("true", "false"):
            return Const(name == "true")
        if self.peek() == "[":
            self.place -= 1
            return self.tile()
        if not self.have("("):
            return Index(name)
        if name == "cast":
            body = self.expr()
            self.sign(",")
            dtype = self.name()
            self.sign(")")
            return Cast(dtype, body)
        args = self.many(self.expr, ")")
        if name not in OPS or not OPS[name].arity[0] <= len(args) <= OPS[name].arity[1]:
            raise self.error(f"no operation {name} of {len(args)}")
        return Map(name, args)


def _params(expr: Expr) -> Expr:
    """In a reduction of the user's own a bare name is an operand."""
    return rewrite(expr, lambda term: Param(term.rank) if isinstance(term, Index) else None)
