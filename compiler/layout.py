"""Logical lines: a statement ends with its line, except inside brackets; blocks are indented."""

from __future__ import annotations

import re
from dataclasses import dataclass

from attnc import limits
from attnc.ir.source import CompileError, Source, Span

_PIECE = re.compile(
    r"""(?P<newline>\n(?:[^\S\n]*\n)*)
      | (?P<blank>[^\S\n]+)
      | (?P<comment>\#[^\n]*)
      | (?P<open>[(\[])
      | (?P<close>[)\]])
      | (?P<assign>(?<![=!<>])=(?!=))
      | (?P<word>"[^"\n]*"|[^\s()\[\]"\#=]+|[="])""",
    re.VERBOSE,
)
_CLOSING = {"(": ")", "[": "]"}
_TOP = frozenset(("import", "def", "cascade", "schedule"))


@dataclass(frozen=True, slots=True)
class Line:
    """A logical line: where its text starts and ends, its indentation, whether it can be read."""

    start: int
    end: int
    indent: int
    readable: bool = True


def logical_lines(source: Source) -> tuple[list[Line], list[CompileError]]:
    """The logical lines of a text that hold more than a comment, and what is wrong with them."""
    scan = _Scan(source)
    scan.run()
    return scan.lines, scan.errors


class _Scan:
    """One walk over a text; a bracket that never closes ends where the next statement starts."""

    def __init__(self, source: Source) -> None:
        self.source = source
        self.lines: list[Line] = []
        self.errors: list[CompileError] = []
        self.open: list[int] = []
        self.start: int | None = None
        self.end = 0
        self.indent = 0
        self.readable = True
        self.physical = 0

    def run(self) -> None:
        text = self.source.text
        position = 0
        while position < len(text) and not self._full():
            piece = _PIECE.match(text, position)
            assert piece is not None, "every character is one kind of piece"
            position = self._take(str(piece.lastgroup), piece.start(), piece.end())
        if self.open:
            self._unclosed()
        self._finish()

    def _full(self) -> bool:
        """Whether the text, or the statement at hand, is larger than any that will be read."""
        if len(self.lines) > limits.FILE_LINES:
            message = f"a file has at most {limits.FILE_LINES} statements"
            line = self.lines[-1]
            help = "split it, and import the parts"
            self.errors = [
                CompileError(
                    message, Span(self.source, line.start, line.end), code="E004", help=help
                )
            ]
            self.lines.clear()
            return True
        if self.start is None or self.end - self.start <= limits.LINE_CHARACTERS:
            return len(self.errors) >= limits.SYNTAX_ERRORS
        self._fault(
            Span(self.source, self.start, self.start + 1),
            f"a statement has at most {limits.LINE_CHARACTERS} characters",
            "E004",
            "close its brackets, or give parts of the expression names of their own",
        )
        self.open.clear()
        return True

    def _take(self, kind: str, start: int, end: int) -> int:
        """Account for one piece; the position from which to go on."""
        text = self.source.text
        if kind == "newline":
            self.physical = end
            if not self.open:
                self._finish()
            return end
        if kind in ("blank", "comment"):
            return end
        if self.start is None:
            self._begin(start)
        elif self.open and self._is_new_statement(kind, text[start:end], start):
            self._unclosed()
            self._finish()
            return self.physical
        if kind == "open":
            self.open.append(start)
            if len(self.open) == limits.BRACKETS + 1:
                self._fault(
                    Span(self.source, start, end),
                    f"brackets nest deeper than {limits.BRACKETS} levels", "E004",
                    "give a part of the expression a name of its own",
                )  # fmt: skip
        elif kind == "close":
            self._close(start, end)
        self.end = end
        return end

    def _begin(self, start: int) -> None:
        blank = self.source.text[self.physical : start]
        self.readable = True
        if blank.strip(" "):
            self._fault(
                Span(self.source, self.physical, start), "a line is indented by spaces only",
                "E002", "write four spaces for a tab",
            )  # fmt: skip
        self.start, self.indent, self.readable = start, len(blank.expandtabs(4)), True

    def _is_new_statement(self, kind: str, word: str, start: int) -> bool:
        """Whether a piece inside brackets belongs to the statement after theirs."""
        if self.start is None or self.physical <= self.start:
            return False
        return kind == "assign" or (start == self.physical and word in _TOP)

    def _close(self, start: int, end: int) -> None:
        if len(self.open) > limits.BRACKETS:
            self.open.pop()
            return
        opened = self.source.text[self.open[-1]] if self.open else ""
        found = self.source.text[start]
        if _CLOSING.get(opened) == found:
            self.open.pop()
            return
        wanted = f"'{_CLOSING[opened]}' closes the bracket before it" if opened else "nothing open"
        self._fault(Span(self.source, start, end), f"unmatched '{found}'", "E002", note=wanted)
        self.open.clear()

    def _unclosed(self) -> None:
        if len(self.open) <= limits.BRACKETS:
            at = self.open[-1]
            self._fault(
                Span(self.source, at, at + 1),
                f"'{self.source.text[at]}' is never closed", "E002",
            )  # fmt: skip
        self.readable = False

    def _fault(self, span: Span, message: str, code: str, help: str = "", note: str = "") -> None:
        """Keep an error, one a line and not without end."""
        if self.readable and len(self.errors) < limits.SYNTAX_ERRORS:
            self.errors.append(CompileError(message, span, note, code=code, help=help))
        self.readable = False

    def _finish(self) -> None:
        if self.start is not None:
            self.lines.append(Line(self.start, self.end, self.indent, self.readable))
        self.open.clear()
        self.start = None
