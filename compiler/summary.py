"""An analysis before and after optimisation, as plain data and as a table for people."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from attnc.ir.cascade import Cascade, Refusal, Step
from attnc.passes.pipeline import optimize
from attnc.passes.report import Report, analyze

Data = dict[str, Any]


def summarize(cascade: Cascade, sizes: Mapping[str, int]) -> Data:
    """Passes, footprint, operations and traffic of a cascade as written and as optimised.

    Symbolic expressions are strings; where `sizes` gives every extent, they are numbers.
    """
    fused = optimize(cascade)
    return {
        "cascade": cascade.name,
        "written": _report(analyze(cascade), sizes),
        "optimized": _report(analyze(fused), sizes),
        "derivation": [_record(step) for step in fused.derivation],
        "refusals": [_record(refusal) for refusal in fused.refusals],
    }


def _record(entry: Step | Refusal) -> Data:
    named = [field.name for field in fields(entry) if field.name != "span"]
    return {
        name: list(value) if isinstance(value := getattr(entry, name), tuple) else value
        for name in named
    }


def _report(report: Report, sizes: Mapping[str, int]) -> Data:
    shown = report.at(dict(sizes)) if sizes else report
    return {
        "passes": dict(shown.passes),
        "footprint": {rank: _plain(value) for rank, value in shown.footprint.items()},
        "flops": _plain(shown.flops),
        "bytes": _plain(shown.bytes),
        "intensity": _plain(shown.intensity),
        "operations": {kind: _plain(value) for kind, value in shown.operations.items()},
    }


def _plain(value: Any) -> int | float | str:
    """A number where the expression is one, else its text."""
    if isinstance(value, int | float):
        return value
    if not value.is_number:
        return str(value)
    return int(value) if value.is_integer else float(value)


def table(found: Data) -> str:
    """One line for each quantity, written beside optimised, then the steps and the refusals."""
    rows = [(found["cascade"], "as written", "optimised")]
    for title, key in (("passes over", "passes"), ("live elements of", "footprint")):
        rows += _pairs(found, key, title + " ")
    rows += _pairs(found, "operations", "")
    for key in ("flops", "bytes", "intensity"):
        rows.append((key, _text(found["written"][key]), _text(found["optimized"][key])))
    widths = [max(len(row[column]) for row in rows) for column in range(3)]
    lines = [
        f"{name:<{widths[0]}}  {before:>{widths[1]}}  {after:>{widths[2]}}".rstrip()
        for name, before, after in rows
    ]
    lines += [f"{step['law']}: {step['text']}" for step in found["derivation"]]
    lines += [
        f"a pass over {entry['rank']} stays: {entry['einsum']}: {entry['term']}: {entry['reason']}"
        for entry in found["refusals"]
    ]
    return "\n".join(lines)


def _pairs(found: Data, key: str, title: str) -> list[tuple[str, str, str]]:
    """A row for every entry that either of the two reports has; a dash where one lacks it."""
    before, after = found["written"][key], found["optimized"][key]
    return [
        (title + name, _text(before.get(name)), _text(after.get(name)))
        for name in dict.fromkeys((*before, *after))
    ]


def _text(value: int | float | str | None) -> str:
    match value:
        case None:
            return "-"
        case int():
            return f"{value:,}"
        case float():
            return f"{value:,.2f}"
        case str():
            return value
