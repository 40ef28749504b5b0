"""The canonical layout of a file: four spaces, aligned `=`, single blank lines; comments stay."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from attnc.ir.print_cascade import INDENT, align
from attnc.ir.source import Source
from attnc.layout import Line, logical_lines
from attnc.modules import report
from attnc.parsing import parse_file

_TOKEN = re.compile(
    r"""(?P<comment>\#[^\n]*)
      | (?P<newline>\n)
      | (?P<blank>[^\S\n]+)
      | (?P<text>"[^"\n]*")
      | (?P<extent>\|[^|\n]*\|)
      | (?P<number>0[xXoObB]\w+|(?:[0-9][0-9_]*(?:\.[0-9_]*)?|\.[0-9][0-9_]*)(?:[eE][+-]?[0-9_]+)?)
      | (?P<name>[A-Za-z_][A-Za-z0-9_]*'*)
      | (?P<op>->|\*\*|//|[=!<>]=|[^\w\s])""",
    re.VERBOSE,
)
_WORDS = frozenset(("and", "or", "not", "where", "identity", "by"))
_NO_OPERAND = (
    frozenset(
        [
            "(",
            "[",
            ",",
            ";",
            ":",
            "=",
            "+",
            "-",
            "*",
            "/",
            "//",
            "%",
            "**",
            "==",
            "!=",
            "<",
            "<=",
            ">",
            ">=",
            "->",
        ]
    )
    | _WORDS
)
"""After one of these a minus is a sign, and a bracket opens an expression."""


@dataclass(frozen=True, slots=True)
class _Row:
    """A line of the result; `right` is what follows an `=` that is aligned with its neighbours'."""

    depth: int
    left: str
    right: str | None = None
    comment: str = ""


_BLANK = _Row(0, "")


def format_source(source: Source) -> str:
    """The text of a file in the canonical layout. Raises CompileError where it cannot be read."""
    _, errors = parse_file(source)
    if errors:
        raise report(errors)
    lines, _ = logical_lines(source)
    rows = _spaced(_rows(source, lines))
    return "\n".join(_printed(rows)) + "\n"


def _rows(source: Source, lines: list[Line]) -> Iterator[_Row]:
    """Every statement and every comment on a line of its own, blank lines between them as found."""
    done = 0
    for number, line in enumerate(lines):
        depth = 1 if line.indent else 0
        if number == 0:
            yield from _between(source.text[: line.start])
        left, right = _sides(source.text[line.start : line.end], depth)
        done = lines[number + 1].start if number + 1 < len(lines) else len(source.text)
        behind, _, rest = source.text[line.end : done].partition("\n")
        yield _Row(depth, left, right, behind.strip())
        yield from _between(rest)


def _between(text: str) -> Iterator[_Row]:
    """The comments and blank lines of a text that holds nothing else."""
    *whole, last = text.split("\n")
    for line in (*whole, last) if last.strip() else whole:
        comment = line.strip()
        yield _Row(0 if line.startswith("#") else 1, comment) if comment else _BLANK


def _spaced(rows: Iterator[_Row]) -> list[_Row]:
    """At most one blank line in a row, one behind every block, none at either end."""
    found: list[_Row] = []
    for row in rows:
        if row == _BLANK:
            if found and found[-1] != _BLANK:
                found.append(row)
            continue
        if found and row.depth == 0 and found[-1] != _BLANK and found[-1].depth == 1:
            found.append(_BLANK)
        found.append(row)
    while found and found[-1] == _BLANK:
        found.pop()
    return found


def _printed(rows: list[_Row]) -> Iterator[str]:
    """The rows as text, the `=` of neighbouring statements below one another."""
    start = 0
    while start < len(rows):
        row = rows[start]
        end = start + 1
        if row.right is None:
            yield _with_comment(INDENT * row.depth + row.left, row.comment)
        else:
            while end < len(rows) and rows[end].right is not None:
                end += 1
            run = rows[start:end]
            aligned = align([(found.left, found.right or "") for found in run])
            for found, text in zip(run, aligned):
                yield _with_comment(INDENT * found.depth + text, found.comment)
        start = end


def _with_comment(text: str, comment: str) -> str:
    return f"{text}  {comment}" if comment else text


def _sides(text: str, depth: int) -> tuple[str, str | None]:
    """A logical line with single spaces, as the two sides of its `=` where it is an Einsum."""
    tokens = [
        (str(found.lastgroup), found.group())
        for found in _TOKEN.finditer(text)
        if found.lastgroup != "blank"
    ]
    spaced = _joined(tokens, depth)
    statement = depth == 1 and len(tokens) > 1 and tokens[1][1] == "["
    if not statement:
        return spaced, None
    left, _, right = spaced.partition(" = ")
    return left, right


def _joined(tokens: list[tuple[str, str]], depth: int) -> str:
    """Tokens with the spaces between them; lines broken inside brackets stay broken."""
    out: list[str] = []
    brackets: list[str] = []
    before, last, sign, tight = "", "", False, False
    for number, (kind, text) in enumerate(tokens):
        if kind == "newline":
            out.append("\n")
            before = "\n"
            continue
        if text in (")", "]"):
            brackets.pop()
        if before == "\n":
            out.append(INDENT * (depth + len(brackets)))
        elif kind == "comment":
            out.append("  ")
        elif number and not sign and not tight and _apart(before, text):
            out.append(" ")
        out.append(f"|{text.strip('| ')}|" if kind == "extent" else text)
        if text in ("(", "["):
            brackets.append(text)
        sign = text == "-" and (last in _NO_OPERAND or not last)
        tight = bool(brackets) and brackets[-1] == "[" and _is_step(tokens, number)
        before = text
        last = last if kind == "comment" else text
    return "".join(out)


def _is_step(tokens: list[tuple[str, str]], number: int) -> bool:
    """Whether a token is the rank or the sign of a subscript like `i+1`."""
    for first in (number, number - 1):
        window = tokens[first - 1 : first + 4] if first > 0 else []
        texts = [text for _, text in window]
        kinds = [kind for kind, _ in window]
        if (
            len(window) == 5
            and texts[0] in ("[", ",")
            and kinds[1] == "name"
            and texts[2] in ("+", "-")
            and kinds[3] == "number"
            and texts[4] in ("]", ",")
        ):
            return True
    return False


def _apart(before: str, text: str) -> bool:
    """Whether a space stands between two tokens."""
    if before in ("(", "[") or text in (")", "]", ",", ";", ":"):
        return False
    if text in ("(", "["):
        return before in _NO_OPERAND
    return True
