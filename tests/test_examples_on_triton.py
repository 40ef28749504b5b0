"""Every example as a Triton kernel: interpreted against float64, and compiled for three targets."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")
pytest.importorskip("triton")

SCRIPT = Path(__file__).parent / "triton_examples.py"
NAMES = sorted(path.stem for path in (SCRIPT.parent.parent / "examples").glob("*.attn"))
REFUSED: dict[str, str] = {}


def run(mode: str) -> dict[str, Any]:
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    if mode == "interpret":
        environment["TRITON_INTERPRET"] = "1"
    done = subprocess.run(
        [sys.executable, str(SCRIPT), mode],
        input="".join(f"examples/{name}\n" for name in NAMES),
        capture_output=True,
        text=True,
        env=environment,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return dict(zip(NAMES, map(json.loads, done.stdout.splitlines()), strict=True))


def test_interpreted():
    found = run("interpret")
    refused = {name: value for name, value in found.items() if isinstance(value, str)}
    assert refused == REFUSED
    wrong = {name: value for name, value in found.items() if name not in refused and value > 1e-5}
    assert not wrong


@pytest.mark.parametrize("target", ["sm_80", "sm_90", "sm_100"])
def test_compiled(target):
    found = run(target)
    refused = {name: value for name, value in found.items() if isinstance(value, str)}
    assert refused == REFUSED
    assert all(value[0] > 0 for name, value in found.items() if name not in refused)
