"""The emitted kernels compile for GPUs that are not there, and fit into their registers.

Triton decides on import whether it interprets, so everything is compiled in a process of its own:
this file run as a program.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from functools import reduce
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).resolve().parent


def compile_all() -> dict[str, dict[str, Any]]:
    """What became of every kernel, by a name that says which it is."""
    from triton_programs import elementwise, flash, folded, gated, m, paged

    import attnc
    from attnc.backends import launch
    from attnc.backends.triton_source import emit
    from attnc.driver import stages
    from attnc.ir.expr import Const, Index, Tile
    from attnc.ir.source import CompileError

    found: dict[str, dict[str, Any]] = {}
    examples = HERE.parent / "examples"
    differential = attnc.load(examples / "differential.attn")["differential"]
    adjoint = attnc.gradient(attnc.load(examples / "causal.attn")["causal"])

    def note(name: str, program: Any, target: str, dtype: str, **sizes: int) -> None:
        for kernel in launch.compile_kernels(
            emit(program, name), program, target=target, dtype=dtype, sizes=sizes
        ):
            cubin = kernel.forms["cubin"]
            assert isinstance(cubin, bytes)
            found[name] = {
                "registers": kernel.registers,
                "spills": kernel.spills,
                "shared": kernel.shared,
                "warps": kernel.warps,
                "wgmma": "HGMMA" in launch.disassemble(cubin),
                "target": re.findall(r"\.target (\S+)", str(kernel.forms["ptx"])),
            }

    for width in (64, 128):
        for causal in (False, True):
            note(f"flash {width} causal={causal}", flash(causal=causal), "sm_90", "f16",
                 e=width, f=width)  # fmt: skip
    note("flash sm_80", flash(causal=True), "sm_80", "bf16", e=64, f=64)
    note("flash sm_100", flash(causal=True), "sm_100", "f16", e=64, f=64)
    note("flash f32", flash(64, 32), "sm_90", "f32", e=64, f=64)
    note("flash 40", flash(64, 32), "sm_90", "bf16", e=40, f=72)
    x = Tile("x", ("i",))
    operations = ("tanh", "log1p", "softplus", "gelu", "silu", "elu", "sign", "round", "erf",
                  "sigmoid", "rsqrt", "floor", "relu")  # fmt: skip
    terms = [m(op, x) for op in operations] + [
        m("**", x, x),
        m("**", x, Const(3)),
        m("**", x, Const(-0.5)),
        m("//", x, x),
        m("%", x, x),
    ]
    terms.append(m("uniform", Const(3), Index("i")))
    note("functions", elementwise(reduce(lambda a, b: m("+", a, b), terms)), "sm_90", "bf16")
    note("logsumexp", folded("logsumexp"), "sm_90", "f16", j=40)
    note("all", folded("all", "bool"), "sm_90", "f16", j=40)
    note("gated", gated(), "sm_90", "f16", d=64, f=64)
    note("paged", paged(), "sm_90", "f16", e=64)

    for width in (64, 128):
        sizes = {"e": width, "f": width}
        for name, cascade in {"differential": differential, "adjoint": adjoint}.items():
            result = stages(cascade, "triton", dtype="f16", sizes=sizes)
            for kernel in launch.compile_kernels(
                result.source, result.program, target="sm_90", dtype="f16", sizes=sizes
            ):
                found[f"{name} {width}: {kernel.name}"] = {"spills": kernel.spills}

    program = flash()
    source = emit(program, "")
    for emitted in launch.FORMS:
        form = launch.compile_ahead(source, program, sizes={"e": 64, "f": 64}, emit=emitted)
        found[f"form {emitted}"] = {"start": form[:4].hex() if isinstance(form, bytes) else form}
    for wrong in ({"target": "volta"}, {"emit": "obj"}, {"kernel": 3}):
        try:
            launch.compile_ahead(source, program, sizes={"e": 64, "f": 64}, **wrong)
        except CompileError as error:
            found[f"error {next(iter(wrong))}"] = {"message": error.message}
    return found


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    pytest.importorskip("torch")
    pytest.importorskip("triton")
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    environment["ATTNC_CACHE"] = str(tmp_path_factory.mktemp("cache"))
    environment["OMP_NUM_THREADS"] = "1"
    script = (
        f"import sys, json; sys.path[:0] = [{str(HERE)!r}]; import conftest; "
        "from test_triton_compile import compile_all; print(json.dumps(compile_all()))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    result: dict[str, dict[str, Any]] = json.loads(done.stdout)
    return result


@pytest.mark.parametrize("width", [64, 128])
@pytest.mark.parametrize("causal", [False, True])
def test_attention_on_hopper(compiled: dict[str, dict[str, Any]], width: int, causal: bool) -> None:
    kernel = compiled[f"flash {width} causal={causal}"]
    assert kernel["spills"] == 0
    assert kernel["wgmma"]
    # Two instances on a multiprocessor where the head is narrow, so that they can take turns.
    instances = 2 if width == 64 else 1
    assert instances * kernel["registers"] * kernel["warps"] * 32 <= 65536
    assert instances * kernel["shared"] <= 227 * 1024


@pytest.mark.parametrize(
    "name",
    ["flash sm_80", "flash sm_100", "flash f32", "flash 40", "functions", "logsumexp", "all",
     "gated", "paged"],
)  # fmt: skip
def test_everything_compiles(compiled: dict[str, dict[str, Any]], name: str) -> None:
    limit = {"flash sm_80": 163}.get(name, 227) * 1024
    assert compiled[name]["shared"] <= limit
    assert compiled[name]["spills"] == 0


@pytest.mark.parametrize("width", [64, 128])
@pytest.mark.parametrize("name", ["differential", "adjoint"])
def test_two_states_fit_into_the_registers(
    compiled: dict[str, dict[str, Any]], name: str, width: int
) -> None:
    spills = [row["spills"] for key, row in compiled.items() if key.startswith(f"{name} {width}:")]
    assert spills == [0] * {"differential": 1, "adjoint": 2}[name]


def test_the_target_is_the_one_asked_for(compiled: dict[str, dict[str, Any]]) -> None:
    assert compiled["flash sm_80"]["target"] == ["sm_80"]
    assert compiled["flash sm_100"]["target"] == ["sm_100a"]


@pytest.mark.parametrize(
    ("form", "holds"),
    [("ttir", "tt.dot"), ("ttgir", "ttng.warp_group_dot"), ("llir", "define"),
     ("ptx", "wgmma.mma_async"), ("sass", "HGMMA")],
)  # fmt: skip
def test_every_form(compiled: dict[str, dict[str, Any]], form: str, holds: str) -> None:
    assert holds in compiled[f"form {form}"]["start"]
    assert compiled["form cubin"]["start"] == b"\x7fELF".hex()


def test_what_is_not_there_is_named(compiled: dict[str, dict[str, Any]]) -> None:
    assert "'volta'" in compiled["error target"]["message"]
    assert "'obj'" in compiled["error emit"]["message"]
    assert "no 3" in compiled["error kernel"]["message"]
