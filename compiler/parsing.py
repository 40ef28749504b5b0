"""Text to `syntax`: one run of the grammar for each logical line, so that all errors are found."""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

from lark import (
    Lark,
    TextSlice,
    Token,
    Transformer,
    UnexpectedCharacters,
    UnexpectedInput,
    UnexpectedToken,
    v_args,
)

from attnc import limits, syntax
from attnc.ir.source import CompileError, Source, Span
from attnc.layout import Line, logical_lines

_OTHER_SPELLINGS = {
    "=": "equality is written '=='",
    "^": "a power is written '**'",
    "&": "write 'and'",
    "!": "write 'not'",
    "|": "an extent is written |m|; the disjunction is 'or'",
    "'": "a path stands in double quotes; only a rank variable ends in primes",
    "∞": "write 'inf'",
    "·": "write '*'",
    "×": "write '*'",
    "−": "write '-'",
    "{": "there are no braces in the language",
    "→": "write '->'",
    "≤": "write '<='",
    "≥": "write '>='",
    "≠": "write '!='",
}


def parse_file(source: Source) -> tuple[syntax.File, list[CompileError]]:
    """The items of a text with every syntax error; a line with an error is `Broken`."""
    bad = _unfit(source)
    if bad is not None:
        return syntax.File(source, ()), [bad]
    lines, errors = logical_lines(source)
    items: list[syntax.Item] = []
    for header, block in _blocks(source, lines, errors):
        if len(errors) > limits.SYNTAX_ERRORS:
            break
        item = _item(source, header, block, errors)
        if item is not None:
            items.append(item)
    if not items and not errors:
        errors.append(
            CompileError(
                "the file is empty",
                Span(source, 0, 0),
                code="E003",
                help="a cascade opens with: cascade NAME(X[p]) -> Y[p]:",
            )
        )
    return syntax.File(source, tuple(items)), errors


def _unfit(source: Source) -> CompileError | None:
    if len(source.text) > limits.FILE_BYTES:
        return CompileError(
            f"a file has at most {limits.FILE_BYTES} characters", Span(source, 0, 0), code="E003"
        )
    null = source.text.find("\0")
    if null >= 0:
        return CompileError(
            "the file holds a zero byte: it is no text", Span(source, null, null + 1), code="E003"
        )
    return None


def _blocks(
    source: Source, lines: list[Line], errors: list[CompileError]
) -> list[tuple[Line | None, list[Line]]]:
    """Each top-level line with the indented lines below it."""
    found: list[tuple[Line | None, list[Line]]] = []
    for line in lines:
        if line.indent == 0:
            found.append((line, []))
            continue
        if not found:
            errors.append(_misplaced(source, line, "the first line of a file is not indented"))
            found.append((None, []))
        block = found[-1][1]
        if block and line.indent != block[0].indent:
            errors.append(
                CompileError(
                    "the lines of a block are indented alike",
                    Span(source, line.start, line.end),
                    f"{line.indent} spaces here, {block[0].indent} above",
                    code="E002",
                )
            )
        block.append(line)
    return found


def _misplaced(source: Source, line: Line, message: str, help: str = "") -> CompileError:
    return CompileError(message, Span(source, line.start, line.end), code="E002", help=help)


def _item(
    source: Source, header: Line | None, block: list[Line], errors: list[CompileError]
) -> syntax.Item | None:
    """A top-level item with its block; None where its header cannot be used."""
    item = _parsed(source, header, errors) if header is not None else None
    inside = [_parsed(source, line, errors) for line in block]
    if header is None or item is None or isinstance(item, syntax.Broken):
        return None
    if isinstance(item, syntax.CascadeText | syntax.ScheduleText):
        if not block:
            errors.append(
                _misplaced(source, header, "a block is missing", "indent its lines by four spaces")
            )
            return replace(item, lines=(syntax.Broken(header.end, header.end, ""),))
        return replace(item, lines=_fitting(source, item, block, inside, errors))
    if isinstance(item, syntax.Import | syntax.Function | syntax.OwnReduction):
        if block:
            errors.append(_misplaced(source, block[0], "nothing opens a block here"))
        return item
    place, help = "this belongs into the block of a cascade", "indent it below its header"
    errors.append(_misplaced(source, header, place, help))
    return None


def _fitting(
    source: Source,
    item: syntax.CascadeText | syntax.ScheduleText,
    block: list[Line],
    inside: list[syntax.Line | syntax.Item],
    errors: list[CompileError],
) -> tuple[syntax.Line, ...]:
    """The lines of a block that may stand in it."""
    fitting: list[syntax.Line] = []
    schedule = isinstance(item, syntax.ScheduleText)
    for line, found in zip(block, inside):
        match found:
            case syntax.Broken():
                fitting.append(found)
            case syntax.DirectiveLine() if schedule:
                fitting.append(found)
            case syntax.Statement() | syntax.RankLine() | syntax.ParamLine() if not schedule:
                fitting.append(found)
            case syntax.DirectiveLine():
                errors.append(
                    _misplaced(
                        source, line, "this is no statement", "a statement reads T[p] = expression"
                    )
                )
            case _:
                kind = "a schedule" if schedule else "a cascade"
                errors.append(_misplaced(source, line, f"this does not belong into {kind}"))
    return tuple(fitting)


_LONG_NAME = re.compile(rf"[A-Za-z0-9_.']{{{limits.NAME_CHARACTERS + 1},}}")
_TARGET = re.compile(r"[A-Za-z_][A-Za-z0-9_]*(?=\s*\[)")


def _parsed(source: Source, line: Line, errors: list[CompileError]) -> syntax.Line | syntax.Item:
    """A logical line as a node; `Broken` where it could not be read."""
    target = _TARGET.match(source.text, line.start)
    broken = syntax.Broken(line.start, line.end, target.group() if target else "")
    if not line.readable or len(errors) > limits.SYNTAX_ERRORS:
        return broken
    long = _LONG_NAME.search(source.text, line.start, line.end)
    if long is not None:
        message = f"a name or number has at most {limits.NAME_CHARACTERS} characters"
        errors.append(CompileError(message, Span(source, *long.span()), code="E004"))
        return broken
    node: Any
    try:
        node = _grammar().parse(TextSlice(source.text, line.start, line.end))
    except UnexpectedInput as error:
        errors.append(_explained(source, line, error))
        return broken
    deep = _too_deep(node) if line.end - line.start > limits.DEPTH else None
    if deep is not None:
        errors.append(
            CompileError(
                f"an expression nests deeper than {limits.DEPTH} levels",
                Span(source, deep.start, deep.end),
                code="E004",
                help="give a part of it a name of its own",
            )
        )
        return broken
    found: syntax.Line | syntax.Item = replace(node, start=line.start, end=line.end)
    return found


def _too_deep(node: syntax.Line | syntax.Item) -> syntax.Term | None:
    """The term of a line that stands on the first level too many."""
    tops: tuple[syntax.Term | None, ...]
    match node:
        case syntax.Statement():
            tops = (*node.subscripts, node.body, node.where)
        case syntax.RankLine():
            tops = (node.extent,)
        case syntax.ParamLine():
            tops = (node.default,)
        case syntax.DirectiveLine():
            tops = (*node.operands, node.by)
        case syntax.Function():
            tops = (node.body,)
        case syntax.OwnReduction():
            tops = (node.body, node.identity)
        case syntax.Import() | syntax.CascadeText() | syntax.ScheduleText() | syntax.Broken():
            tops = ()
    for top in tops:
        if top is not None:
            for term, depth in syntax.within(top):
                if depth > limits.DEPTH:
                    return term
    return None


def _explained(source: Source, line: Line, error: UnexpectedInput) -> CompileError:
    """A syntax error in the language's own words."""
    if isinstance(error, UnexpectedToken) and error.token.type == "$END":
        last = Span(source, max(line.start, line.end - 1), line.end)
        return CompileError(
            "the statement ends too early",
            last,
            _expected(error.expected, "after this"),
            code="E001",
        )
    if isinstance(error, UnexpectedToken):
        start, end = _start(error.token), _end(error.token)
        allowed = error.expected
    else:
        assert isinstance(error, UnexpectedCharacters)
        start = error.pos_in_stream or line.start
        end = start + 1
        allowed = error.allowed or set()
    text = source.text[start:end]
    shown = repr(text[:40]) if text.isprintable() else f"character U+{ord(text[0]):04X}"
    return CompileError(
        f"unexpected {shown}",
        Span(source, start, end),
        _expected(allowed, "here"),
        code="E001",
        help=_OTHER_SPELLINGS.get(text, ""),
    )


_WORDS = {
    "NUMBER": "an expression", "NAME": "a name", "STRING": "a path in double quotes",
    "CLOSE": "')'", "RPAR": "')'", "SQUARE": "']'", "RSQB": "']'", "COLON": "':'",
    "_BLOCK": "':'", "EQUAL": "'='",
    "__ANON_0": "'->'", "IDENTITY": "'identity'", "LPAR": "'('", "LSQB": "'['", "OPEN": "'('",
}  # fmt: skip


def _expected(allowed: Collection[str], where: str) -> str:
    """What could stand at a place, unless that is too much to say."""
    if "NUMBER" in allowed:
        return f"an expression is expected {where}"
    words = sorted({_WORDS[name] for name in allowed if name in _WORDS})
    if "PLUS" in allowed or not 0 < len(words) <= 3:
        return ""
    return f"{' or '.join(words)} is expected {where}"


@cache
def _grammar() -> Lark:
    text = Path(__file__).with_name("grammar.lark").read_text(encoding="utf-8")
    return Lark(text, parser="lalr", lexer="contextual", transformer=_Nodes())


Many = tuple[Any, ...]


def _end(token: Token) -> int:
    return token.end_pos or 0


def _start(token: Token) -> int:
    return token.start_pos or 0


@v_args(inline=True)
class _Nodes(Transformer[Token, Any]):
    """A method for each rule of the grammar; `_parsed` gives the nodes of lines their place."""

    def import_(self, path: Token) -> syntax.Import:
        return syntax.Import(0, 0, path[1:-1])

    def function(self, name: syntax.Name, params: Many, body: Any) -> syntax.Function:
        return syntax.Function(0, 0, name, params, body)

    def reduction(
        self, name: syntax.Name, params: Many, body: Any, identity: Any
    ) -> syntax.OwnReduction:
        return syntax.OwnReduction(0, 0, name, params, body, identity)

    def tensor_function(
        self, name: syntax.Name, ranks: Many, inputs: Many, outputs: Many
    ) -> syntax.CascadeText:
        return syntax.CascadeText(0, 0, name, ranks, inputs, outputs, True)

    def cascade(
        self, name: syntax.Name, ranks: Many | None, inputs: Many, outputs: Many
    ) -> syntax.CascadeText:
        return syntax.CascadeText(0, 0, name, ranks or (), inputs, outputs, False)

    def schedule(self, name: syntax.Name) -> syntax.ScheduleText:
        return syntax.ScheduleText(0, 0, name)

    def declared(self, *found: Any) -> Many:
        return tuple(part for part in found if part is not None)

    exprs = names = declared

    def declaration(
        self, name: syntax.Name, first: Many, semicolon: Token | None, second: Many | None,
        kind: syntax.Name | None,
    ) -> syntax.Declaration:  # fmt: skip
        before, ranks = (None, first) if semicolon is None else (first, second or ())
        last = [name, *first, *ranks, *([kind] if kind else [])][-1]
        return syntax.Declaration(name.start, last.end, name, before, ranks, kind)

    def statement(
        self, target: syntax.Name, subscripts: Many, kind: Any, body: Any, where: Any
    ) -> syntax.Statement:
        return syntax.Statement(0, 0, target, subscripts, kind, body, where)

    def rank(self, name: syntax.Name, extent: Any) -> syntax.RankLine:
        return syntax.RankLine(0, 0, name, extent)

    def param(self, name: syntax.Name, kind: syntax.Name, default: Any) -> syntax.ParamLine:
        return syntax.ParamLine(0, 0, name, kind, default)

    def directive(
        self, verb: syntax.Name, operands: Many, by: Any, place: Any
    ) -> syntax.DirectiveLine:
        word, name = place or ("", None)
        on, level = (name, None) if word == "on" else (None, name)
        return syntax.DirectiveLine(0, 0, verb, operands, by, on, level)

    def place(self, word: Token, name: syntax.Name) -> tuple[str, syntax.Name]:
        return str(word), name

    operands = declared

    def binary(self, left: Any, op: Token, right: Any) -> syntax.Binary:
        return syntax.Binary(left.start, right.end, str(op), left, right)

    def either(self, left: Any, right: Any) -> syntax.Binary:
        return syntax.Binary(left.start, right.end, "or", left, right)

    def both(self, left: Any, right: Any) -> syntax.Binary:
        return syntax.Binary(left.start, right.end, "and", left, right)

    def unary(self, op: Token, body: Any) -> syntax.Unary:
        return syntax.Unary(_start(op), body.end, str(op), body)

    def compared(self, *found: Any) -> syntax.Compared:
        ops = tuple(str(op) for op in found[1::2])
        return syntax.Compared(found[0].start, found[-1].end, ops, found[::2])

    def number(self, token: Token) -> syntax.Number:
        return syntax.Number(_start(token), _end(token), str(token))

    def constant(self, token: Token) -> syntax.Constant:
        return syntax.Constant(_start(token), _end(token), str(token))

    def extent(self, token: Token) -> syntax.Size:
        return syntax.Size(_start(token), _end(token), token.strip("| \t"))

    def variable(self, token: Token) -> syntax.Name:
        return syntax.Name(_start(token), _end(token), str(token))

    name = variable

    def group(self, opened: Token, body: Any, closed: Token) -> syntax.Group:
        return syntax.Group(_start(opened), _end(closed), body)

    def call(self, name: syntax.Name, args: Many, closed: Token) -> syntax.Call:
        return syntax.Call(name.start, _end(closed), name, args)

    def access(self, name: syntax.Name, subscripts: Many, closed: Token) -> syntax.Bracket:
        return syntax.Bracket(name.start, _end(closed), name, subscripts)

    def applied(
        self, name: syntax.Name, ranks: Many, where: Any, args: Many, closed: Token
    ) -> syntax.Applied:
        return syntax.Applied(name.start, _end(closed), name, ranks, where, args)
