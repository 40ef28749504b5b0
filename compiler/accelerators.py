"""Descriptions of machines and workloads: TOML, checked, with errors at their line."""

from __future__ import annotations

import re
import tomllib
from importlib.resources import files
from pathlib import Path
from typing import Any

from attnc.ir.machine import Array, Fetched, Machine, Mapping, Memory, Overlap
from attnc.ir.source import CompileError, Source, Span

KINDS = ("multiply-add", "multiply", "add", "max", "divide", "exp", "other")
MAPPED = (
    "cascade", "rows", "columns", "space", "bind", "overlap", "phases", "fetched", "held",
)  # fmt: skip
FIELDS = ("name", "clock", "word", "buffer", "memory", "arrays", "mapping")


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
        text = (files("attnc") / "machines" / f"{name}.toml").read_text(encoding="utf-8")
        return _Reader(Source(text, f"{name}.toml")).machine()
    path = Path(name)
    if not path.exists():
        source = Source("", name)
        raise CompileError(
            f"no machine {name!r}, and no file of that name", Span(source, 0, 0),
            help=f"the shipped ones are {', '.join(shipped())}",
        )  # fmt: skip
    return _Reader(Source(path.read_text(encoding="utf-8"), name)).machine()


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
        memory = self.table(data, "memory")
        return Machine(
            name=str(data.get("name", self.source.filename)),
            clock=self.positive(data, "clock"),
            word=int(self.positive(data, "word")),
            buffer=int(self.positive(data, "buffer")),
            memory=self.memory(memory),
            arrays=arrays,
            mapping=self.mapping(data["mapping"], arrays) if "mapping" in data else None,
            span=self.span("name"),
        )

    def memory(self, table: dict[str, Any]) -> Memory:
        energy = self.number(table, "energy", 0.0)
        if energy < 0:
            raise self.error(f"energy is {energy:g}, and must not be below 0", "energy")
        return Memory(self.positive(table, "bandwidth"), energy)

    def array(self, name: str, table: Any) -> Array:
        if not isinstance(table, dict):
            raise self.error(f"array {name} is no table", name)
        shape = table.get("shape")
        if (
            not isinstance(shape, list)
            or not 1 <= len(shape) <= 2
            or not all(isinstance(n, int) and n > 0 for n in shape)
        ):
            raise self.error(
                f"the shape of {name} is one or two positive numbers", "shape", after=name
            )
        cycles = self.kinds(self.table(table, "cycles", name), f"{name}.cycles")
        for kind, value in cycles.items():
            if value <= 0:
                raise self.error(f"{kind} takes {value} cycles", kind, after=f"{name}.cycles")
        return Array(
            name, tuple(shape), cycles, self.kinds(table.get("energy", {}), f"{name}.energy")
        )

    def kinds(self, table: Any, where: str) -> dict[str, float]:
        if not isinstance(table, dict):
            raise self.error(f"{where} is no table of operations", where)
        for kind, value in table.items():
            if any(part not in KINDS for part in kind.split(">")):
                raise self.error(
                    f"no operation {kind!r}", kind, f"there are {', '.join(KINDS)}", where
                )
            if not isinstance(value, int | float) or isinstance(value, bool):
                raise self.error(f"{kind} is no number", kind, after=where)
        return {kind: float(value) for kind, value in table.items()}

    def mapping(self, table: Any, arrays: dict[str, Array]) -> Mapping:
        bind: dict[str, str] = {}
        for array, names in self.table(table, "bind", "mapping").items():
            if array not in arrays:
                raise self.error(
                    f"no array {array!r}", f"bind.{array}", f"there are {', '.join(arrays)}"
                )
            for name in names:
                if name in bind:
                    raise self.error(f"{name} is bound twice", f"bind.{array}")
                bind[name] = array
        space: dict[str, tuple[str, ...]] = {}
        for array, ranks in self.table(table, "space", "mapping").items():
            if array not in arrays:
                raise self.error(
                    f"no array {array!r}", f"space.{array}", f"there are {', '.join(arrays)}"
                )
            if len(ranks) > len(arrays[array].shape):
                axes = len(arrays[array].shape)
                raise self.error(f"{array} has {axes} axes, not {len(ranks)}", f"space.{array}")
            space[array] = tuple(ranks)
        overlap: list[Overlap] = []
        for number, group in enumerate(table.get("overlap", [])):
            span = self.span("[[mapping.overlap]]", number)
            for name in group.get("einsums", []):
                if name not in bind:
                    raise CompileError(f"{name} is in a group and bound to no array", span)
            overlap.append(Overlap(tuple(group.get("einsums", [])), bool(group.get("drain")), span))
        grouped = [name for group in overlap for name in group.einsums]
        for name in bind if overlap else ():
            if grouped.count(name) != 1:
                times = "no group" if name not in grouped else "two groups"
                raise self.error(f"{name} is in {times}", "[[mapping.overlap]]")
        phases = tuple(tuple(phase) for phase in table.get("phases", []))
        listed = [name for phase in phases for name in phase]
        if phases and sorted(listed) != sorted(bind):
            raise self.error("every Einsum is in one phase", "phases")
        fetched = tuple(self.fetched(entry) for entry in table.get("fetched", []))
        for key in table:
            if key not in MAPPED:
                raise self.error(f"a mapping has no {key!r}", key, f"it has {', '.join(MAPPED)}")
        rows, columns = str(table.get("rows", "")), str(table.get("columns", ""))
        cascade = str(table.get("cascade", ""))
        held = int(self.number(table, "held", 0))
        if held < 0:
            raise self.error(f"held is {held}, and must not be below 0", "held")
        return Mapping(cascade, rows, columns, space, bind, tuple(overlap), phases, fetched, held)

    def fetched(self, entry: Any) -> Fetched:
        """How often tensors are moved at one extent."""
        match entry:
            case {"rank": str(rank), "extent": int(extent), "times": dict(times)} if all(
                isinstance(v, int | float) for v in times.values()
            ):
                return Fetched(rank, extent, {name: float(v) for name, v in times.items()})
            case _:
                raise self.error(
                    "an entry has a rank, an extent and times", "[[mapping.fetched]]",
                    'write rank = "m", extent = 1024, times = { K = 2 }',
                )  # fmt: skip

    # -- parts

    def table(self, data: dict[str, Any], key: str, where: str = "") -> dict[str, Any]:
        found = data.get(key)
        if not isinstance(found, dict):
            raise self.error(f"{where or 'the machine'} needs a table {key}", where or "name")
        return found

    def number(self, data: dict[str, Any], key: str, default: float | None = None) -> float:
        found = data.get(key, default)
        if found is None:
            raise self.error(f"{key} is missing", "name")
        if not isinstance(found, int | float) or isinstance(found, bool):
            raise self.error(f"{key} is no number", key)
        return float(found)

    def positive(self, data: dict[str, Any], key: str) -> float:
        found = self.number(data, key)
        if not 0 < found < float("inf"):
            raise self.error(f"{key} is {found:g}, and must be above 0", key)
        return found

    def span(self, key: str, number: int = 0, after: str = "") -> Span:
        """Where a key stands: its own line after that of another."""
        start = self.source.text.find(f"[arrays.{after}") if after else 0
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
