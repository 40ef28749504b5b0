"""Files: reading them, what each defines, and what it may use of others."""

from __future__ import annotations

import stat
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

from attnc import limits, syntax
from attnc.definitions import Definitions
from attnc.directives import read_schedule
from attnc.ir.cascade import Cascade
from attnc.ir.source import CompileError, Source, Span
from attnc.parsing import parse_file
from attnc.typed import Errors


@dataclass(frozen=True)
class Module:
    """The cascades of a file by name."""

    source: Source
    cascades: dict[str, Cascade]

    def __getitem__(self, name: str) -> Cascade:
        return self.cascades[name]


def parse(text: str, filename: str = "<string>") -> Module:
    """The cascades of a text; imports are looked for beside `filename`.

    Raises CompileError with all errors of the text.
    """
    return _Files().module(Source(text, filename), Path(filename))


def load(path: str | Path) -> Module:
    """The cascades of a file. Raises CompileError with all errors of the file."""
    return _Files().module(read(path), Path(path))


def read(path: str | Path) -> Source:
    """The text of a file. Raises CompileError where there is none that can be read."""
    text = _text(Path(path))
    if isinstance(text, _Unreadable):
        nothing = Span(Source("", str(path)), 0, 0)
        raise CompileError(f"{path}: {text.reason}", nothing, code="E003")
    return Source(text, str(path))


@dataclass(frozen=True, slots=True)
class _Unreadable:
    reason: str


def _text(path: Path) -> str | _Unreadable:
    """The text of a file, or why there is none."""
    try:
        # A pipe or a device would keep us waiting.
        if not stat.S_ISREG(path.stat().st_mode):
            return _Unreadable("this is no file")
        with path.open("rb") as file:
            data = file.read(limits.FILE_BYTES + 1)
    except OSError as error:
        return _Unreadable(error.strerror or "it cannot be read")
    except ValueError:
        return _Unreadable("this is no path")
    if len(data) > limits.FILE_BYTES:
        return _Unreadable(f"a file has at most {limits.FILE_BYTES} bytes")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        return _Unreadable(f"the text is not UTF-8: byte {error.start}, in line {line}")


class _Files:
    """The files that one run reads, each once; `waiting` are those whose imports are read."""

    def __init__(self) -> None:
        self.known: dict[Path, Definitions | None] = {}
        self.waiting: list[Path] = []
        self.errors = Errors()

    def module(self, source: Source, path: Path) -> Module:
        """A checked file. Raises CompileError with everything that is wrong with it."""
        schedules, library = self.definitions(source, path)
        library.check()
        found = {
            name: library.done[name]
            for name, item in library.own.items()
            if isinstance(item, syntax.CascadeText) and not item.function
        }
        cascades = {name: done.cascade for name, done in found.items() if done is not None}
        for schedule in schedules:
            name = schedule.name.text
            if name not in found:
                self.errors.add(
                    f"no cascade {name!r}", library.span(schedule.name), code="E010",
                    help=self.errors.nearest(name, found),
                )  # fmt: skip
            elif name in cascades and cascades[name].schedule:
                self.errors.add(f"{name} has two schedules", library.span(schedule.name),
                                code="E011")  # fmt: skip
            elif name in cascades:
                lines = read_schedule(schedule, cascades[name], source, self.errors)
                cascades[name] = replace(cascades[name], schedule=lines)
        if self.errors.found:
            raise report(self.errors.found)
        return Module(source, cascades)

    def definitions(
        self, source: Source, path: Path
    ) -> tuple[list[syntax.ScheduleText], Definitions]:
        """What a text defines, with the standard library and its imports around it."""
        file, errors = parse_file(source)
        self.errors.found += errors
        library = Definitions(source, self.errors)
        schedules: list[syntax.ScheduleText] = []
        self.waiting.append(_resolved(path))
        for item in file.items:
            match item:
                case syntax.Import():
                    self.import_(item, library, path.parent)
                case syntax.ScheduleText():
                    schedules.append(item)
                case _:
                    library.define(item)
        self.waiting.pop()
        library.outside = {**dict.fromkeys(_standard().own, _standard()), **library.outside}
        return schedules, library

    def import_(self, item: syntax.Import, library: Definitions, folder: Path) -> None:
        span, near = library.span(item), folder / item.path
        path = _resolved(near)
        if path in self.waiting or len(self.waiting) > limits.CALLS:
            circle = " -> ".join(part.name for part in (*self.waiting[-4:], path))
            self.errors.add(
                f"files import one another in a circle: {circle}"
                if path in self.waiting
                else f"files import one another more than {limits.CALLS} deep",
                span,
                code="E030",
                help="move what both need into a third file",
            )
            return
        if path not in self.known:
            text = _text(near)
            if isinstance(text, _Unreadable):
                self.errors.add(f"cannot import {item.path!r}: {text.reason}", span, code="E030")
                self.known[path] = None
            else:
                self.known[path] = self.definitions(Source(text, str(near)), near)[1]
        other = self.known[path]
        if other is not None:
            library.outside.update(dict.fromkeys(other.own, other))


def _resolved(path: Path) -> Path:
    """One name for one file, however it is written; the path itself where it has none."""
    try:
        return path.resolve()
    except (OSError, ValueError, RuntimeError):
        return path


@cache
def _standard() -> Definitions:
    """The standard library, which is written in the language itself."""
    text = Path(__file__).with_name("stdlib.attn").read_text(encoding="utf-8")
    file, problems = parse_file(Source(text, "stdlib.attn"))
    errors = Errors()
    errors.found += problems
    library = Definitions(file.source, errors)
    for item in file.items:
        if isinstance(item, syntax.Function | syntax.OwnReduction | syntax.CascadeText):
            library.define(item)
    return library


def report(found: list[CompileError]) -> CompileError:
    """All errors as one, in the order of their places, the first of them at the top."""
    distinct = {(error.message, error.span): error for error in found}
    ordered = sorted(
        distinct.values(), key=lambda error: (error.span.source.filename, error.span.start)
    )
    shown = ordered[: limits.REPORTED]
    if len(ordered) > len(shown):
        count = len(ordered) - len(shown)
        shown.append(CompileError(f"{count} more errors are not shown", code="E005"))
    first, *others = shown
    return CompileError(
        first.message, first.span, first.note,
        code=first.code, help=first.help, others=tuple(others),
    )  # fmt: skip
