"""Writes README.md: what each example computes, and its passes as written."""

from __future__ import annotations

from pathlib import Path

import attnc
from attnc.passes.report import analyze

HERE = Path(__file__).resolve().parent


def rows() -> list[tuple[str, str, str]]:
    """For each file its name, the first line of its comment, the ranks that need passes."""
    found = []
    for path in sorted(HERE.glob("*.attn")):
        text = path.read_text(encoding="utf-8")
        title = text.splitlines()[0].removeprefix("#").strip().rstrip(".")
        (cascade,) = attnc.load(path).cascades.values()
        counts = analyze(cascade).passes
        several = [f"{count} over {rank}" for rank, count in counts.items() if count > 1]
        found.append((path.name, title, ", ".join(several) or "1"))
    return found


def table() -> str:
    """The whole of README.md."""
    lines = [
        "# Examples",
        "",
        "One algorithm a file, as its paper writes it. The passes are those of the text as it",
        "stands, before the compiler rewrites it; a rank that is not named takes one.",
        "This page is written by `python examples/table.py`.",
        "",
        "| file | computes | passes as written |",
        "| --- | --- | --- |",
        *(f"| [{name}]({name}) | {title} | {passes} |" for name, title, passes in rows()),
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    (HERE / "README.md").write_text(table(), encoding="utf-8")
