"""Every command in the documents is run, and what it prints must be what stands there.

A block marked `console` holds commands after `$ ` and their output; a line `...` stands for any
number of lines. A block marked `python` is run, all those of one document in turn. A block marked
`attn` is part of an example, one marked `py` part of the kernel that examples/attention.attn
becomes. `python tests/test_docs.py` writes what the commands print now into the documents.
"""

from __future__ import annotations

import contextlib
import io
import os
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
KERNEL = ("compile", "examples/attention.attn")


def blocks(kind: str, documents: list[Path] = DOCUMENTS) -> Iterator[tuple[str, str]]:
    """The blocks of a kind, each with the document and line it stands at."""
    for document in documents:
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


def printed(*words: str) -> str:
    """What a command prints, diagnostics first, no blanks at the ends of lines."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        main(words)
    text = err.getvalue() + out.getvalue()
    return "".join(line.rstrip() + "\n" for line in text.rstrip("\n").splitlines())


def matches(expected: str, shown: str) -> bool:
    """Equality, but for lines of three dots, which stand for any lines."""
    pattern = "".join(
        "(?:.*\n)*?" if line.strip() == "..." else re.escape(line.rstrip()) + "\n"
        for line in expected.rstrip("\n").splitlines()
    )
    return re.fullmatch(pattern, shown) is not None


CONSOLE = [
    pytest.param(command, output, id=f"{place} {command}")
    for place, block in blocks("console")
    for command, output in commands(block)
]


@pytest.fixture(autouse=True)
def at_the_root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)


@pytest.mark.parametrize(("command", "expected"), CONSOLE)
def test_a_command_prints_what_the_document_says(command: str, expected: str) -> None:
    words = shlex.split(command, comments=True)
    if words[0] == "make":
        # The rule's work is test_demo's and this very run's; here it must only be a rule.
        subprocess.run(["make", "--dry-run", *words[1:]], check=True, capture_output=True)
        return
    assert words[0] == "attnc", f"not one of ours: {command}"
    shown = printed(*words[1:])
    assert matches(expected, shown), f"$ {command}\n{shown}"


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_python_in_a_document_runs(document: Path) -> None:
    scope: dict[str, object] = {}
    for place, text in blocks("python", [document]):
        exec(compile(text, place, "exec"), scope)


def test_specifications_in_the_readme_are_those_of_the_examples() -> None:
    examples = [path.read_text(encoding="utf-8") for path in (ROOT / "examples").glob("*.attn")]
    for place, text in blocks("attn", [ROOT / "README.md"]):
        assert any(text in example for example in examples), place


def test_kernels_in_the_readme_are_what_is_emitted() -> None:
    emitted = printed(*KERNEL)
    for place, text in blocks("py", [ROOT / "README.md"]):
        assert text in emitted, place


def test_the_matcher_sees_a_difference() -> None:
    assert matches("a\n...\nd", "a\nb\nc\nd\n")
    assert matches("a\n...\nd", "a\nd\n")
    assert not matches("a\n...\nd", "a\nb\n")
    assert not matches("a.", "ab\n")


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_files_that_a_document_names_exist(document: Path) -> None:
    text = BLOCK.sub("", document.read_text(encoding="utf-8"))
    text = re.sub(r"`[^`\n]*`", "", text)
    for target in re.findall(r"\]\(([^)#:\s]+)\)", text):
        assert (document.parent / target).exists(), target


def refreshed(found: re.Match[str]) -> str:
    """A block with what is printed now; where it ends in dots, as many lines as stood there."""
    kind, text = found[1], found[2]
    match kind:
        case "console":
            parts = []
            for command, output in commands(text):
                words = shlex.split(command, comments=True)
                shown = printed(*words[1:]) if words[0] == "attnc" else output
                if "...\n" in output and not matches(output, shown):
                    count = output.splitlines().index("...")
                    shown = "".join(shown.splitlines(keepends=True)[:count]) + "...\n"
                elif "...\n" in output:
                    shown = output
                parts.append(f"$ {command}\n{shown}")
            text = "".join(parts)
        case "py":
            first = text.splitlines()[0]
            _, _, rest = printed(*KERNEL).partition(first + "\n")
            indent = first[: len(first) - len(first.lstrip())]
            text = first + "\n" + rest.partition(f"\n{indent}#")[0] + "\n"
        case _:
            pass
    return f"```{kind}\n{text}```"


if __name__ == "__main__":
    os.chdir(ROOT)
    for path in DOCUMENTS:
        path.write_text(BLOCK.sub(refreshed, path.read_text(encoding="utf-8")), encoding="utf-8")
