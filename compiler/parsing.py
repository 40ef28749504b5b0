"""Text to `syntax`: one run of the grammar for each logical line, so that all errors are found."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from importlib.resources import files
from typing import Any

from lark import Lark, Token, Transformer, UnexpectedCharacters, UnexpectedInput, UnexpectedToken
from lark import TextSlice, v_args

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
                "the file is empty", Span(source, 0, 0), code="E003",
                help="a cascade opens with: cascade NAME(X[p]) -> Y[p]:",
            )  # fmt: skip
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
                    "the lines of a block are indented alike", Span(source, line.start, line.end),
                    f"{line.indent} spaces here, {block[0].indent} above", code="E002",
                )  # fmt: skip
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
    match item:
        case syntax.CascadeText():
            kinds: tuple[type, ...] = (syntax.Statement, syntax.RankLine, syntax.ParamLine)
            wanted = "a statement, a rank or a param"
        case syntax.ScheduleText():
            kinds, wanted = (syntax.DirectiveLine,), "a directive: tile, parallel, stream, ..."
        case syntax.Import() | syntax.Function() | syntax.OwnReduction():
            if block:
                errors.append(_misplaced(source, block[0], "nothing opens a block here"))
            return item
        case None:
            return None
        case _:
            if header is not None and not isinstance(item, syntax.Broken):
                errors.append(
                    _misplaced(
                        source, header, "this belongs into the block of a cascade",
                        "indent it below its header",
                    )  # fmt: skip
                )
            return None
    if header is not None and not block:
        errors.append(
            _misplaced(source, header, "a block is missing", "indent its lines by four spaces")
        )
    for line, found in zip(block, inside):
        if not isinstance(found, (*kinds, syntax.Broken)):
            errors.append(_misplaced(source, line, f"{wanted} stands here, nothing else"))
    fitting = tuple(found for found in inside if isinstance(found, (*kinds, syntax.Broken)))
    return replace(item, lines=fitting)


def _parsed(source: Source, line: Line, errors: list[CompileError]) -> Any:
    """A logical line as a node; `Broken` where it could not be read."""
    target = re.compile(r"[A-Za-z_][A-Za-z0-9_]*(?=\s*\[)").match(source.text, line.start)
    broken = syntax.Broken(line.start, line.end, target.group() if target else "")
    if not line.readable or len(errors) > limits.SYNTAX_ERRORS:
        return broken
    try:
        node = _grammar().parse(TextSlice(source.text, line.start, line.end))  # type: ignore[arg-type]
    except UnexpectedInput as error:
        errors.append(_explained(source, line, error))
        return broken
    except _TooDeep as error:
        start, end = error.args
        errors.append(
            CompileError(
                f"an expression nests deeper than {limits.DEPTH} levels", Span(source, start, end),
                code="E004", help="give a part of it a name of its own",
            )  # fmt: skip
        )
        return broken
    return node


def _explained(source: Source, line: Line, error: UnexpectedInput) -> CompileError:
    """A syntax error in the language's own words."""
    if isinstance(error, UnexpectedToken) and error.token.type == "$END":
        last = Span(source, max(line.start, line.end - 1), line.end)
        return CompileError(
            "the statement ends too early", last, _expected(error.expected, "after this"),
            code="E001",
        )  # fmt: skip
    if isinstance(error, UnexpectedToken):
        start, end = error.token.start_pos or line.start, error.token.end_pos or line.end
        allowed = error.expected
    else:
        assert isinstance(error, UnexpectedCharacters)
        start, end = error.pos_in_stream, error.pos_in_stream + 1
        allowed = error.allowed or set()
    text = source.text[start:end]
    shown = repr(text) if text.isprintable() else f"character U+{ord(text[0]):04X}"
    return CompileError(
        f"unexpected {shown}", Span(source, start, end), _expected(allowed, "here"),
        code="E001", help=_OTHER_SPELLINGS.get(text, ""),
    )  # fmt: skip


_WORDS = {
    "NUMBER": "an expression", "NAME": "a name", "STRING": "a path in double quotes",
    "CLOSE": "')'", "RPAR": "')'", "SQUARE": "']'", "RSQB": "']'", "COLON": "':'", "EQUAL": "'='",
    "__ANON_0": "'->'", "IDENTITY": "'identity'", "LPAR": "'('", "LSQB": "'['", "OPEN": "'('",
}  # fmt: skip


def _expected(allowed: Any, where: str) -> str:
    """What could stand at a place, unless that is too much to say."""
    if "NUMBER" in allowed:
        return f"an expression is expected {where}"
    words = sorted({_WORDS[name] for name in allowed if name in _WORDS})
    if not 0 < len(words) <= 3:
        return ""
    return f"{' or '.join(words)} is expected {where}"


class _TooDeep(Exception):
    """An expression past the limit of levels, with its first and last character."""


@cache
def _grammar() -> Lark:
    text = files("attnc").joinpath("grammar.lark").read_text(encoding="utf-8")
    return Lark(text, parser="lalr", lexer="contextual", transformer=_Nodes())


def _known(found: list[Any]) -> tuple[Any, ...]:
    return tuple(part for part in found if part is not None and not isinstance(part, Token))
