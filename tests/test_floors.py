"""Imports go down only, and outside packages stay where they belong."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

OURS = {
    "ir": {"attnc.ir"},
    "passes": {"attnc.ir", "attnc.passes"},
    "backends": {"attnc.ir", "attnc.backends"},
    "compiler": {"attnc"},
}
OUTSIDE = {
    "ir": {"sympy"},
    "passes": {"sympy", "networkx"},
    "backends": {"numpy", "threadpoolctl"},
    "compiler": {"numpy", "sympy"},
}
ONLY = {
    "lark": "compiler/parsing.py",
    "click": "compiler/cli.py",
    "matplotlib": "compiler/modelling.py",
    "torch": "backends/launch.py",
    "triton": "backends/launch.py",
}
LATE = {
    "ir": {"sympy", "numpy"},
    "passes": {"networkx"},
    "backends": {"torch", "triton"},
}
"""Packages that a floor may import inside a function only, so that importing it stays quick."""

FILES = sorted(path for floor in OURS for path in (ROOT / floor).rglob("*.py"))


def imports(tree: ast.AST) -> Iterator[tuple[str, int]]:
    """Every imported module with its line; a relative import comes out as dots."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield "." * node.level + (node.module or ""), node.lineno


def within(module: str, packages: set[str]) -> bool:
    return any(module == package or module.startswith(package + ".") for package in packages)


def faults(path: str, text: str) -> list[str]:
    """What a file imports and may not; `path` is relative to the root."""
    floor = path.split("/")[0]
    tree = ast.parse(text)
    found = []
    for module, line in imports(tree):
        top = module.split(".")[0]
        outside = top != "attnc" and top not in sys.stdlib_module_names
        allowed = OUTSIDE[floor] | {name for name, place in ONLY.items() if place == path}
        if module.startswith("."):
            found.append(f"{path}:{line}: relative import")
        elif top == "attnc" and not within(module, OURS[floor]):
            found.append(f"{path}:{line}: {module} is above or beside {floor}")
        elif outside and top not in allowed:
            found.append(f"{path}:{line}: {top} does not belong here")
    late = LATE.get(floor, set())
    for node in ast.parse(text).body:
        found += [
            f"{path}:{line}: import {module} inside a function"
            for module, line in imports(node)
            if module.split(".")[0] in late and isinstance(node, ast.Import | ast.ImportFrom)
        ]
    return found


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_go_down_only(path: Path) -> None:
    assert not faults(path.relative_to(ROOT).as_posix(), path.read_text(encoding="utf-8"))


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("ir/x.py", "from attnc.passes import defer"),
        ("ir/x.py", "import numpy"),
        ("passes/x.py", "def f():\n    from attnc.backends import tiles"),
        ("passes/x.py", "import numpy"),
        ("backends/x.py", "import attnc.passes.pipeline"),
        ("backends/x.py", "import attnc"),
        ("backends/tiles.py", "def f():\n    import torch"),
        ("backends/launch.py", "import torch"),
        ("compiler/x.py", "from . import cli"),
        ("compiler/driver.py", "import click"),
        ("compiler/check.py", "import lark"),
    ],
)
def test_the_guard_sees_a_fault(path: str, text: str) -> None:
    assert faults(path, text)


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("ir/x.py", "def f():\n    import sympy"),
        ("backends/launch.py", "def f():\n    import torch"),
        ("compiler/x.py", "from attnc.passes import pipeline"),
        ("passes/x.py", "from attnc.ir import cascade\nimport sympy"),
    ],
)
def test_the_guard_lets_the_rest_pass(path: str, text: str) -> None:
    assert not faults(path, text)


def test_attnc_alone_imports_nothing_heavy() -> None:
    code = (
        "import attnc, attnc.cli, sys;"
        "print([m for m in ('numpy', 'sympy', 'lark', 'torch', 'triton') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT / "tests"
    )
    assert done.stdout.strip() == "[]"


def test_a_file_stays_readable() -> None:
    long = {
        path.relative_to(ROOT).as_posix(): count
        for path in FILES
        if (count := len(path.read_text(encoding="utf-8").splitlines())) > 700
    }
    assert not long, "files past 700 lines: is each one idea?"
