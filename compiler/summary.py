"""An analysis before and after optimisation, as plain data and as a table for people."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

import sympy

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
        "bounded": shown.bounded,
        "operations": {kind: _plain(value) for kind, value in shown.operations.items()},
    }


def _plain(value: Any) -> int | float | str:
    """A number where the expression is one, else its text, with what is common factored out."""
    if isinstance(value, int | float):
        return value
    if not value.is_number:
        return str(sympy.factor_terms(value))
    return int(value) if value.is_integer else float(value)


def table(found: Data) -> str:
    """Passes and live elements side by side, the costs, then the steps and the refusals."""
    before, after = found["written"], found["optimized"]
    rows = [(found["cascade"], "as written", "optimised")]
    for title, key, usual in (("passes over", "passes", 1), ("live elements of", "footprint", 1)):
        names = dict.fromkeys((*before[key], *after[key]))
        telling = [
            name
            for name in names
            if not {before[key].get(name, usual), after[key].get(name, usual)} <= {usual}
        ]
        rows += [
            (f"{title} {name}", _text(before[key].get(name)), _text(after[key].get(name)))
            for name in telling
        ]
        if len(telling) < len(names):
            other = "any other rank" if telling else "any rank"
            rows.append((f"{title} {other}", _text(usual), _text(usual)))
    written, optimised = _costs(before), _costs(after)
    symbolic = any(isinstance(cost, str) for cost in (*written.values(), *optimised.values()))
    if not symbolic:
        rows += [(name, _text(written[name]), _text(optimised[name])) for name in written]
    lines = _columns(rows)
    if symbolic:
        for title, costs in (("as written", written), ("optimised", optimised)):
            lines += ["", title]
            lines += [f"  {name:<14}{_text(cost)}" for name, cost in costs.items() if cost != 0]
    if before["bounded"] or after["bounded"]:
        lines += ["", "Points that a predicate excludes have no closed form here: upper bounds."]
    if found["derivation"] or found["refusals"]:
        lines.append("")
    lines += [f"{step['law']}: {step['text']}" for step in found["derivation"]]
    lines += [
        f"a pass over {entry['rank']} stays: {entry['einsum']} {entry['reason']}"
        for entry in found["refusals"]
    ]
    return "\n".join(lines)


def _costs(report: Data) -> dict[str, int | float | str]:
    """Operations by kind, and what follows from them."""
    operations: dict[str, int | float | str] = report["operations"]
    return operations | {name: report[name] for name in ("flops", "bytes", "intensity")}


def _columns(rows: list[tuple[str, str, str]]) -> list[str]:
    widths = [max(len(row[column]) for row in rows) for column in range(3)]
    return [
        f"{name:<{widths[0]}}  {before:>{widths[1]}}  {after:>{widths[2]}}"
        for name, before, after in rows
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
