"""What is shipped is whole, typed and clean: the wheel, mypy --strict, ruff."""

from __future__ import annotations

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
FOLDERS = {"compiler": "attnc", "ir": "attnc/ir", "passes": "attnc/passes",
           "backends": "attnc/backends"}  # fmt: skip
SHIPPED = (".py", ".lark", ".attn", ".toml", ".typed")


def run(*command: str, cwd: Path = ROOT) -> None:
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def shipped() -> set[str]:
    """The path in the wheel of every file of the four folders."""
    return {
        f"{package}/{path.relative_to(ROOT / folder).as_posix()}"
        for folder, package in FOLDERS.items()
        for path in (ROOT / folder).rglob("*")
        if path.suffix in SHIPPED or path.name == "py.typed"
    }


def test_the_wheel_holds_every_module(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    for name in ("pyproject.toml", "README.md"):
        tree.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, tree / name)
    for folder in FOLDERS:
        shutil.copytree(ROOT / folder, tree / folder, ignore=shutil.ignore_patterns("__pycache__"))
    run(sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation",
        "--wheel-dir", str(tmp_path), str(tree))  # fmt: skip
    (wheel,) = tmp_path.glob("*.whl")
    inside = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    assert inside == shipped()


def test_mypy_strict(tmp_path: Path) -> None:
    package = tmp_path / "linked" / "attnc"
    package.mkdir(parents=True)
    for path in (ROOT / "compiler").iterdir():
        (package / path.name).symlink_to(path)
    for folder in ("ir", "passes", "backends"):
        (package / folder).symlink_to(ROOT / folder, target_is_directory=True)
    run(sys.executable, "-m", "mypy", "--strict", "--config-file", str(ROOT / "pyproject.toml"),
        "--cache-dir", str(ROOT / ".mypy_cache"), "-p", "attnc", cwd=package.parent)  # fmt: skip


@pytest.mark.parametrize("arguments", [("check",), ("format", "--check")], ids=" ".join)
def test_ruff(arguments: tuple[str, ...]) -> None:
    run(sys.executable, "-m", "ruff", *arguments, ".")


def test_nothing_leaves_the_checkout() -> None:
    """No file that is shipped or tested reads from beside the checkout."""
    parents = "/".join(("..", "shared"))
    for folder in (*FOLDERS, "tests", "examples", "benchmarks", "docs"):
        for path in (ROOT / folder).rglob("*"):
            if path.suffix in (".py", ".attn", ".md", ".lark"):
                assert parents not in path.read_text(encoding="utf-8"), path
