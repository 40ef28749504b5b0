"""The main job, as `make demo` runs it."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parent.parent


def test_the_data_are_a_layer_of_attention() -> None:
    with np.load(ROOT / "examples" / "data" / "minilm_layer.npz") as stored:
        shapes = {name: stored[name].shape for name in stored.files}
    assert shapes == dict.fromkeys("QKV", (1, 12, 331, 32))


def test_the_demo_runs_every_backend() -> None:
    done = subprocess.run(
        [sys.executable, str(ROOT / "examples" / "demo.py")],
        capture_output=True, text=True, check=False, cwd=ROOT,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert "passes over m: 3 as written, 1 as derived" in done.stdout
    for backend in ("interpreter", "numpy", "triton, interpreted"):
        assert f"\n{backend} " in done.stdout
    assert "All back-ends agree" in done.stdout
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"^```text\n(passes over .*?)^```$", readme, re.MULTILINE | re.DOTALL)
    assert block in done.stdout, "what README.md says of the traffic"
