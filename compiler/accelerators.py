"""Descriptions of machines and workloads: TOML, checked, with errors at their line."""

from __future__ import annotations

import re
import tomllib
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

from attnc.ir.machine import (
    COMMON,
    PRIVATE,
    Array,
    Artifact,
    Fetched,
    Level,
    Machine,
    Mapping,
    Overlap,
)
from attnc.ir.source import CompileError, Source, Span

KINDS = ("multiply-add", "multiply", "add", "max", "divide", "exp", "other")
MAPPED = (
    "cascade", "rows", "columns", "space", "bind", "overlap", "phases", "fetched", "lay", "hold",
    "held",
    "artifact",
)  # fmt: skip
FIELDS = ("name", "clock", "word", "levels", "arrays", "mapping")
LEVEL = ("size", "bandwidth", "read", "write", "area", "copies", "registers")
ARRAY = ("shape", "copies", "cycles", "latency", "energy", "area")
ARTIFACT = ("unread", "unwritten", "uncomputed")


def shipped() -> list[str]:
    """The names of the machines that come with attnc."""
    folder = files("attnc") / "machines"
    names = (
        path.name.removesuffix(".toml") for path in folder.iterdir() if path.name.endswith(".toml")
    )
    return sorted(name for name in names if name != "workloads")


def machine(name: str) -> Machine:
    """A shipped machine by name, or the one that a file describes.

    Raises CompileError at the line at fault, or where there is no such machine.
    """
    if name in shipped():
        return _shipped(name)
    path = Path(name)
    if not path.exists():
        source = Source("", name)
        raise CompileError(
            f"no machine {name!r}, and no file of that name", Span(source, 0, 0),
            help=f"the shipped ones are {', '.join(shipped())}",
        )  # fmt: skip
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "the text is not UTF-8"
        raise CompileError(
            f"cannot read {name}: {reason}", Span(Source("", name), 0, 0), code="E003"
        ) from error
    return _Reader(Source(text, name)).machine()


@cache
def _shipped(name: str) -> Machine:
    text = (files("attnc") / "machines" / f"{name}.toml").read_text(encoding="utf-8")
    return _Reader(Source(text, f"{name}.toml")).machine()


def workload(name: str) -> dict[str, int]:
    """The extents of a shipped workload by rank; `d` and `s` are those of its linear layers."""
    text = (files("attnc") / "machines" / "workloads.toml").read_text(encoding="utf-8")
    found = tomllib.loads(text)
    if name not in found:
        raise CompileError(
            f"no workload {name!r}", Span(Source("", "workloads.toml"), 0, 0),
            help=f"there are {', '.join(sorted(found))}",
        )  # fmt: skip
    return {key: int(value) for key, value in found[name].items()}


class _Reader:
    """Checks one description; an error knows the line of the key that it is about."""

    def __init__(self, source: Source) -> None:
        self.source = source
        try:
            self.data = tomllib.loads(source.text)
        except tomllib.TOMLDecodeError as error:
            place = re.search(r"line (\d+)", str(error))
            raise CompileError(
                f"this is no TOML: {error}", self._line(int(place.group(1)) if place else 1)
            ) from None

    def machine(self) -> Machine:
        data = self.data
        for key in data:
            if key not in FIELDS:
                raise self.error(f"a machine has no {key!r}", key, f"it has {', '.join(FIELDS)}")
        arrays = {
            name: self.array(name, table) for name, table in self.table(data, "arrays").items()
        }
        if not arrays:
            raise self.error("a machine needs at least one array", "arrays")
        return Machine(
            name=str(data.get("name", self.source.filename)),
            clock=self.positive(data, "clock"),
            word=int(self.positive(data, "word")),
            levels=self.levels(self.table(data, "levels")),
            arrays=arrays,
            mapping=self.mapping(data["mapping"], arrays) if "mapping" in data else None,
            span=self.span("name"),
        )

    def levels(self, tables: dict[str, Any]) -> tuple[Level, ...]:
        """The levels in the order in which they stand: memory, buffers, registers."""
        found = [self.level(name, table) for name, table in tables.items()]
        if len([level for level in found if not level.registers]) < 2:
            raise self.error("a machine needs memory and at least one buffer inside it", "levels")
        for number, level in enumerate(found):
            if level.registers and number < len(found) - 1:
                raise CompileError("only the last level is that of registers", level.span)
            if number > 0 and not level.registers and level.size == float("inf"):
                raise CompileError(f"{level.name} has no size", level.span)
        return tuple(found)

    def level(self, name: str, table: Any) -> Level:
        where = f"levels.{name}"
        if not isinstance(table, dict):
            raise self.error(f"level {name} is no table", where)
        self.only(table, LEVEL, f"level {name}", where)
        endless = float("inf")
        registers = table.get("registers", "")
        if registers not in ("", PRIVATE, COMMON):
            raise self.error(f"registers are {PRIVATE!r} or {COMMON!r}", "registers", "", where)
        copies = self.positive(table, "copies", 1, where)
        return Level(
            name,
            size=self.positive(table, "size", endless, where),
            bandwidth=self.positive(table, "bandwidth", endless, where),
            read=self.natural(table, "read", where),
            write=self.natural(table, "write", where),
            area=self.natural(table, "area", where),
            copies=int(copies),
            registers=registers,
            span=self.span("size" if "size" in table else where, after=where),
        )

    def array(self, name: str, table: Any) -> Array:
        where = f"arrays.{name}"
        if not isinstance(table, dict):
            raise self.error(f"array {name} is no table", name)
        self.only(table, ARRAY, f"array {name}", where)
        shape = table.get("shape")
        if (
            not isinstance(shape, list)
            or not 1 <= len(shape) <= 2
            or not all(isinstance(n, int) and n > 0 for n in shape)
        ):
            raise self.error(
                f"the shape of {name} is one or two positive numbers", "shape", after=where
            )
        cycles = self.kinds(self.table(table, "cycles", name), f"{where}.cycles")
        for kind, value in cycles.items():
            if value <= 0:
                raise self.error(f"{kind} takes {value} cycles", kind, after=f"{where}.cycles")
        energy, latency, area = (
            self.kinds(table.get(key, {}), f"{where}.{key}", key == "area")
            for key in ("energy", "latency", "area")
        )
        copies = int(self.positive(table, "copies", 1, where))
        return Array(name, tuple(shape), cycles, cycles | latency, energy, area, copies)

    def only(self, table: dict[str, Any], known: tuple[str, ...], what: str, where: str) -> None:
        for key in table:
            if key not in known:
                raise self.error(f"{what} has no {key!r}", key, f"it has {', '.join(known)}", where)

    def kinds(self, table: Any, where: str, whole: bool = False) -> dict[str, float]:
        if not isinstance(table, dict):
            raise self.error(f"{where} is no table of operations", where)
        for kind, value in table.items():
            named = whole and kind == "element"
            if not named and any(part not in KINDS for part in kind.split(">")):
                raise self.error(
                    f"no operation {kind!r}", kind, f"there are {', '.join(KINDS)}", where
                )
            if not isinstance(value, int | float) or isinstance(value, bool):
                raise self.error(f"{kind} is no number", kind, after=where)
            if value < 0:
                raise self.error(f"{kind} is {value:g}, and must not be below 0", kind, after=where)
        return {kind: float(value) for kind, value in table.items()}

    def mapping(self, table: Any, arrays: dict[str, Array]) -> Mapping:
        if not isinstance(table, dict):
            raise self.error("the mapping is no table", "mapping")
        self.only(table, MAPPED, "a mapping", "mapping")
        bind: dict[str, str] = {}
        for array, names in self.on_arrays(table, "bind", arrays).items():
            for name in names:
                if name in bind:
                    raise self.error(f"{name} is bound twice", f"bind.{array}")
                bind[name] = array
        space = self.on_arrays(table, "space", arrays)
        overlap: list[Overlap] = []
        for number, group in enumerate(table.get("overlap", [])):
            span = self.span("[[mapping.overlap]]", number)
            self.only(group, ("einsums", "drain"), "a group", "mapping.overlap")
            names = self.names(group, "einsums", "[[mapping.overlap]]")
            for name in names:
                if name not in bind:
                    raise CompileError(f"{name} is in a group and bound to no array", span)
            overlap.append(Overlap(names, bool(group.get("drain")), span))
        grouped = [name for group in overlap for name in group.einsums]
        for name in bind if overlap else ():
            if grouped.count(name) != 1:
                times = "no group" if name not in grouped else "two groups"
                raise self.error(f"{name} is in {times}", "[[mapping.overlap]]")
        phases = tuple(tuple(phase) for phase in table.get("phases", []))
        listed = [name for phase in phases for name in phase]
        if phases and sorted(listed) != sorted(bind):
            raise self.error("every Einsum is in one phase", "phases")
        held = self.number(table, "held", 0)
        if held < 0 or held != int(held):
            raise self.error(f"held is {held:g}, and must be a whole number of tiles", "held")
        hold = {
            tensor: level
            for level in (self.table(table, "hold", "mapping") if "hold" in table else {})
            for tensor in self.names(table["hold"], level, f"hold.{level}")
        }
        lay = {
            einsum: self.names(table["lay"], einsum, f"lay.{einsum}")
            for einsum in (self.table(table, "lay", "mapping") if "lay" in table else {})
        }
        for einsum, ranks in lay.items():
            if einsum not in bind:
                raise self.error(f"{einsum} is laid out and bound to no array", f"lay.{einsum}")
            if len(ranks) > len(arrays[bind[einsum]].shape):
                raise self.error(f"{bind[einsum]} has fewer axes", f"lay.{einsum}")
        spans = {key: self.span(key, after="mapping") for key in ("rows", "columns", "held")}
        spans |= {f"space.{array}": self.span(f"space.{array}") for array in space}
        spans |= {f"bind.{array}": self.span(f"bind.{array}") for array in bind.values()}
        spans |= {f"lay.{einsum}": self.span(f"lay.{einsum}") for einsum in lay}
        spans["bind"] = next((spans[f"bind.{a}"] for a in bind.values()), self.span("mapping"))
        spans |= {f"hold.{tensor}": self.span(f"hold.{level}") for tensor, level in hold.items()}
        return Mapping(
            str(table.get("cascade", "")), str(table.get("rows", "")),
            str(table.get("columns", "")), space, bind, tuple(overlap), phases,
            tuple(self.fetched(e, n, spans) for n, e in enumerate(table.get("fetched", []))),
            lay, hold, int(held), self.artifact(table["artifact"]) if "artifact" in table else None,
            spans,
        )  # fmt: skip

    def on_arrays(
        self, table: dict[str, Any], key: str, arrays: dict[str, Array]
    ) -> dict[str, tuple[str, ...]]:
        """Names by array: Einsums that are bound to it, or ranks along its axes."""
        found = {}
        for array in self.table(table, key, "mapping"):
            if array not in arrays:
                raise self.error(
                    f"no array {array!r}", f"{key}.{array}", f"there are {', '.join(arrays)}"
                )
            found[array] = self.names(table[key], array, f"{key}.{array}")
        return found

    def names(self, table: Any, key: str, where: str) -> tuple[str, ...]:
        found = table.get(key)
        if not isinstance(found, list) or not all(isinstance(name, str) for name in found):
            raise self.error(f"{key} is a list of names", where)
        return tuple(found)

    def fetched(self, entry: Any, number: int, spans: dict[str, Span]) -> Fetched:
        """How often tensors are moved at some extents."""
        match entry:
            case {"at": dict(at), "times": dict(times), **rest} if not rest and all(
                isinstance(v, int | float) for v in (*at.values(), *times.values())
            ):
                span = self.span("[[mapping.fetched]]", number)
                spans[f"fetched.{number}"] = span
                own = {name: float(v) for name, v in times.items()}
                return Fetched({rank: int(size) for rank, size in at.items()}, own, span)
            case _:
                raise self.error(
                    "an entry has extents and times", "[[mapping.fetched]]",
                    "write at = { m = 1024, p = 1024 } and times = { K = 2 }",
                )  # fmt: skip

    def artifact(self, table: Any) -> Artifact:
        where = "mapping.artifact"
        if not isinstance(table, dict):
            raise self.error("artifact is no table", where)
        self.only(table, ARTIFACT, "the artifact's accounting", where)
        lists = (self.names(table, key, key) if key in table else () for key in ARTIFACT)
        return Artifact(*lists)

    # -- parts

    def table(self, data: dict[str, Any], key: str, where: str = "") -> dict[str, Any]:
        found = data.get(key)
        if not isinstance(found, dict):
            raise self.error(f"{where or 'the machine'} needs a table {key}", where or "name")
        return found

    def number(
        self, data: dict[str, Any], key: str, default: float | None = None, after: str = ""
    ) -> float:
        found = data.get(key, default)
        if found is None:
            raise self.error(f"{key} is missing", "name")
        if not isinstance(found, int | float) or isinstance(found, bool):
            raise self.error(f"{key} is no number", key, after=after)
        return float(found)

    def positive(
        self, data: dict[str, Any], key: str, default: float | None = None, after: str = ""
    ) -> float:
        found = self.number(data, key, default, after)
        if not found > 0 or (key in data and found == float("inf")):
            raise self.error(f"{key} is {found:g}, and must be above 0", key, after=after)
        return found

    def natural(self, data: dict[str, Any], key: str, after: str) -> float:
        found = self.number(data, key, 0.0, after)
        if not 0 <= found < float("inf"):
            raise self.error(f"{key} is {found:g}, and must not be below 0", key, after=after)
        return found

    def span(self, key: str, number: int = 0, after: str = "") -> Span:
        """Where a key stands: its own line after that of another."""
        start = self.source.text.find(f"[{after}") if after else 0
        pattern = (
            re.escape(key) if key.startswith("[") else rf"^\s*\[?[\w.]*\"?{re.escape(key)}\"?\b"
        )
        found = list(re.compile(pattern, re.M).finditer(self.source.text, max(0, start)))
        if len(found) <= number:
            return Span(self.source, 0, max(1, self.source.text.find("\n")))
        line, _ = self.source.position(found[number].end() - 1)
        return self._line(line)

    def _line(self, number: int) -> Span:
        lines = self.source.text.split("\n")
        start = sum(len(line) + 1 for line in lines[: number - 1])
        return Span(self.source, start, start + len(lines[min(number, len(lines)) - 1]))

    def error(self, message: str, key: str, help: str = "", after: str = "") -> CompileError:
        return CompileError(message, self.span(key, after=after), help=help)
