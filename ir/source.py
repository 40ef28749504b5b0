"""Where a program's text comes from, and the one kind of error that is its author's."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable
from dataclasses import dataclass, field
from difflib import get_close_matches
from functools import cached_property


@dataclass(frozen=True)
class Source:
    """A text and the name under which its errors are reported."""

    text: str = field(repr=False)
    filename: str = "<string>"

    @cached_property
    def _starts(self) -> list[int]:
        starts = [0]
        starts.extend(i + 1 for i, char in enumerate(self.text) if char == "\n")
        return starts

    def position(self, offset: int) -> tuple[int, int]:
        """Line and column, both counted from 1, of a character offset."""
        line = bisect_right(self._starts, offset)
        return line, offset - self._starts[line - 1] + 1

    def line(self, number: int) -> str:
        """The text of a line counted from 1, without its end."""
        start = self._starts[number - 1]
        end = self._starts[number] if number < len(self._starts) else len(self.text)
        return self.text[start:end].rstrip("\r\n")


@dataclass(frozen=True, slots=True)
class Span:
    """Characters `start` to `end` of a source."""

    source: Source
    start: int
    end: int

    @property
    def text(self) -> str:
        return self.source.text[self.start : self.end]


NOWHERE = Span(Source("", "<built>"), 0, 0)
"""The span of a node that no text stands behind."""

WIDEST = 160
"""Longest piece of a source line that an error shows."""


def excerpt(span: Span, note: str = "") -> str:
    """The line of a span with the span underlined, and a note behind the carets."""
    if not span.source.text:
        return ""
    number, column = span.source.position(span.start)
    line = span.source.line(number)
    width = max(1, min(span.end - span.start, len(line) - column + 1))
    if len(line) > WIDEST:
        cut = max(0, column - 1 - WIDEST // 4)
        line, column = line[cut : cut + WIDEST], column - cut
        width = max(1, min(width, len(line) - column + 1))
    shown = "".join(char if char.isprintable() else " " for char in line)
    gutter = " " * len(str(number))
    carets = " " * (column - 1) + "^" * width + (f" {note}" if note else "")
    return f"  {number} | {shown}\n  {gutter} | {carets}"


class CompileError(Exception):
    """A mistake in a specification: what, where, and what to write instead.

    `message` says what is wrong, `span` where, `note` stands beside the carets, `help` offers
    the nearest right form, `code` is the number under which the documentation explains it.
    `others` are further errors of the same text, reported in the same run.
    """

    def __init__(
        self,
        message: str,
        span: Span = NOWHERE,
        note: str = "",
        *,
        code: str = "E000",
        help: str = "",
        others: tuple[CompileError, ...] = (),
    ) -> None:
        super().__init__(message)
        self.message = message
        self.span = span
        self.note = note
        self.code = code
        self.help = help
        self.others = others

    def _block(self) -> str:
        lines = [f"error[{self.code}]: {self.message}"]
        if self.span.source.text or self.span.source.filename != "<built>":
            line, column = self.span.source.position(self.span.start)
            lines.append(f"  --> {self.span.source.filename}:{line}:{column}")
        shown = excerpt(self.span, self.note)
        if shown:
            lines.append(shown)
        elif self.note:
            lines.append(f"  {self.note}")
        if self.help:
            lines.append(f"  help: {self.help}")
        return "\n".join(lines)

    def __str__(self) -> str:
        return "\n\n".join(error._block() for error in (self, *self.others))


class CallError(Exception):
    """Arguments of a call that do not fit the cascade: names the tensor, the rank, the extents."""


class InvalidIR(Exception):
    """A representation that breaks its own rules: always a fault of this compiler."""


def nearest(name: str, known: Iterable[str]) -> str:
    """A help that offers the known name most like one that is not known; empty if none is."""
    close = get_close_matches(name, list(known), n=1)
    return f"did you mean {close[0]}?" if close else ""
