"""Every command in the documents is run, and what it prints must be what stands there.

A block marked `console` holds commands after `$ ` and their output; a line `...` stands for any
number of lines. A block marked `python` is run, all those of one document in turn.
"""

from __future__ import annotations

import re
import shlex
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from attnc.cli import main

ROOT = Path(__file__).resolve().parent.parent
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def blocks(kind: str) -> Iterator[tuple[str, str]]:
    """The blocks of a kind, each with the document and line it stands at."""
    for document in DOCUMENTS:
        text = document.read_text(encoding="utf-8")
        for found in BLOCK.finditer(text):
            if found[1] == kind:
                line = text.count("\n", 0, found.start()) + 1
                yield f"{document.name}:{line}", found[2]


def commands(block: str) -> list[tuple[str, str]]:
    """Each command of a block with the output below it."""
    parts = re.split(r"^\$ ", block, flags=re.MULTILINE)
    assert parts[0] == "", "a console block opens with a command"
    return [(command, output) for command, _, output in (p.partition("\n") for p in parts[1:])]


def matches(expected: str, printed: str) -> bool:
    """Equality, but for lines of three dots, which stand for any lines."""
    pattern = "".join(
        "(?:.*\n)*?" if line.strip() == "..." else re.escape(line.rstrip()) + "\n"
        for line in expected.rstrip("\n").splitlines()
    )
    shown = "".join(line.rstrip() + "\n" for line in printed.rstrip("\n").splitlines())
    return re.fullmatch(pattern, shown) is not None


CONSOLE = [
    pytest.param(command, output, id=f"{place} {command}")
    for place, block in blocks("console")
    for command, output in commands(block)
]


@pytest.mark.parametrize(("command", "expected"), CONSOLE)
def test_a_command_prints_what_the_document_says(
    command: str, expected: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    words = shlex.split(command, comments=True)
    if words[0] == "make":
        # The rule's work is test_demo's and this very run's; here it must only be a rule.
        subprocess.run(["make", "--dry-run", *words[1:]], check=True, capture_output=True)
        return
    assert words[0] == "attnc", f"not one of ours: {command}"
    main(words[1:])
    out, err = capsys.readouterr()
    assert matches(expected, err + out), f"$ {command}\n{err}{out}"


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_python_in_a_document_runs(document: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    scope: dict[str, object] = {}
    for found in BLOCK.finditer(document.read_text(encoding="utf-8")):
        if found[1] == "python":
            exec(compile(found[2], str(document), "exec"), scope)


def test_the_matcher_sees_a_difference() -> None:
    assert matches("a\n...\nd", "a\nb\nc\nd\n")
    assert matches("a\n...\nd", "a\nd")
    assert not matches("a\n...\nd", "a\nb")
    assert not matches("a.", "ab")


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_files_that_a_document_names_exist(document: Path) -> None:
    text = document.read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)#:]+)\)", text):
        assert (document.parent / target).exists(), target
