"""What a person at a terminal meets: results, exit codes, diagnostics, and never a traceback."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from attnc.cli import main

ATTENTION = """\
cascade attention[b, h](Q[p, e], K[m, e], V[m, f]) -> O[p, f]:
    S[p, m] = Q[p, e] * K[m, e] / sqrt(|e|)
    G[p]    = max[m](S[p, m])
    N[p, m] = exp(S[p, m] - G[p])
    D[p]    = sum[m](N[p, m])
    A[p, m] = N[p, m] / D[p]
    O[p, f] = A[p, m] * V[m, f]
"""
WRONG = "cascade wrong(X[p]) -> Y[p]:\n    Y[p] = Z[p]\n"
TWO = (
    "cascade one(X[p]) -> Y[p]:\n    Y[p] = X[p]\n"
    "cascade two(X[p]) -> Y[p]:\n    param W: int = 2\n    Y[p] = W * X[p]\n"
)
TINY = "b=1,h=1,p=5,m=7,e=4,f=4"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "attention.attn"
    path.write_text(ATTENTION, encoding="utf-8")
    return path


def status(*arguments: object) -> int:
    return main([str(argument) for argument in arguments])


def test_check_says_nothing_of_a_good_file(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert status("check", file) == 0
    assert capsys.readouterr() == ("", "")


def test_check_reports_every_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first, second = tmp_path / "first.attn", tmp_path / "second.attn"
    first.write_text(WRONG, encoding="utf-8")
    second.write_text(WRONG, encoding="utf-8")
    assert status("check", first, second) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert "first.attn:2:12" in err and "second.attn:2:12" in err
    assert len(err.split("\n\n")) == 2
    assert "|            ^" in err
    assert "\x1b" not in err


@pytest.mark.parametrize(
    "content", [None, b"\xff\xfe\x00", b"\x00" * 100, b"", b"((((" * 9000, "directory"]
)
@pytest.mark.parametrize("command", ["check", "fmt", "analyze", "explain", "compile", "show"])
def test_no_file_gets_a_traceback(
    tmp_path: Path, content: bytes | str | None, command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "given.attn"
    if content == "directory":
        path.mkdir()
    elif isinstance(content, bytes):
        path.write_bytes(content)
    assert status(command, path) == 1
    assert "error" in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments",
    [
        ("nonsense",),
        ("check",),
        ("analyze", "FILE", "--size", "m"),
        ("analyze", "FILE", "--size", "m=-4"),
        ("analyze", "FILE", "--size", "m=1,m=2"),
        ("analyze", "FILE", "--size", "m=1.5"),
        ("analyze", "FILE", "--size", "m=99999999999999999999"),
        ("analyze", "FILE", "--size", "q=3"),
        ("analyze", "FILE", "--cascade", "other"),
        ("compile", "FILE", "--emit", "ptx", "--backend", "numpy"),
        ("compile", "FILE", "--backend", "cuda"),
        ("run", "FILE"),
        ("run", "FILE", "--random", TINY, "--input", "x.npz"),
        ("run", "FILE", "--random", "q=3"),
        ("show", "FILE", "--after", "nothing"),
    ],
    ids=" ".join,
)
def test_wrong_usage_is_2(
    file: Path, arguments: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    assert status(*(file if word == "FILE" else word for word in arguments)) == 2
    out, err = capsys.readouterr()
    assert out == "" and "Error" in err


def test_several_cascades_want_a_name(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "two.attn"
    path.write_text(TWO, encoding="utf-8")
    assert status("analyze", path) == 2
    assert "one, two" in capsys.readouterr().err
    assert status("analyze", path, "--cascade", "two") == 0
    assert capsys.readouterr().out.startswith("two ")


def test_parameters(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, out = tmp_path / "two.attn", tmp_path / "out.npz"
    path.write_text(TWO, encoding="utf-8")
    given = ("run", path, "--cascade", "two", "--random", "p=9", "--output", out)
    assert status(*given) == 0
    doubled = np.load(out)["Y"]
    assert status(*given, "--param", "W=6") == 0
    np.testing.assert_allclose(np.load(out)["Y"], 3 * doubled, rtol=1e-6)
    capsys.readouterr()
    assert status(*given, "--param", "V=6") == 1
    assert status(*given, "--param", "W=0.5") == 1
    assert status(*given, "--param", "W=__import__('os')") == 2


def test_analyze_counts_passes(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert status("analyze", file, "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert found["cascade"] == "attention"
    assert found["written"]["passes"]["m"] == 3
    assert found["optimized"]["passes"]["m"] == 1
    assert found["derivation"] and {"law", "rank", "before", "after"} <= set(found["derivation"][0])
    assert isinstance(found["written"]["flops"], str)


def test_analyze_with_sizes_gives_numbers(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sizes = "b=1,h=1,p=8,m=16,e=4,f=4"
    assert status("analyze", file, "--json", "--size", sizes) == 0
    written = json.loads(capsys.readouterr().out)["written"]
    assert written["bytes"] == 4 * (8 * 4 + 16 * 4 + 16 * 4 + 8 * 4)
    assert written["operations"]["exp"] == 8 * 16
    assert status("analyze", file, "--size", "b=1,h=1", "--size", "p=8,m=16,e=4,f=4") == 0
    assert "passes over m" in capsys.readouterr().out


def test_explain_tells_the_story(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert status("explain", file) == 0
    out = capsys.readouterr().out
    assert "3 passes over m" in out and "^^^" in out


def test_compile_writes_a_module(file: Path, tmp_path: Path) -> None:
    out = tmp_path / "kernel.py"
    assert status("compile", file, "-o", out) == 0
    tree = ast.parse(out.read_text(encoding="utf-8"))
    assert "attention" in {n.name for n in tree.body if isinstance(n, ast.FunctionDef)}
    imported = {a.name for n in ast.walk(tree) if isinstance(n, ast.Import) for a in n.names}
    assert not any(name.startswith("attnc") for name in imported)


@pytest.mark.parametrize("emit", ["tile", "cascade", "source"])
def test_compile_prints(file: Path, emit: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert status("compile", file, "--emit", emit, "--backend", "numpy") == 0
    assert "attention" in capsys.readouterr().out


def test_what_cannot_be_written_is_said(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert status("compile", file, "-o", file / "below" / "a" / "file") == 1
    assert "cannot write" in capsys.readouterr().err


def test_run_on_stored_arrays(file: Path, tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    shapes = {"Q": (1, 2, 5, 4), "K": (1, 2, 7, 4), "V": (1, 2, 7, 3)}
    arrays = {name: rng.standard_normal(shape).astype("f4") for name, shape in shapes.items()}
    np.savez(tmp_path / "in.npz", **arrays)
    out = tmp_path / "out.npz"
    for backend in ("interpreter", "numpy"):
        given = ("--input", tmp_path / "in.npz", "--output", out, "--backend", backend)
        assert status("run", file, *given) == 0
        s = np.einsum("bhpe,bhme->bhpm", arrays["Q"], arrays["K"]).astype("f8") / 2
        a = np.exp(s) / np.exp(s).sum(-1, keepdims=True)
        np.testing.assert_allclose(np.load(out)["O"], a @ arrays["V"], atol=1e-5)


def test_run_verifies(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert status("run", file, "--random", TINY, "--verify", "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert found["agrees"] and found["errors"]["O"] < 1e-5
    assert found["counters"]["bytes_read"] > 0


@pytest.mark.parametrize(
    "content", [b"", b"PK\x03\x04 and no more", b"\x93NUMPY\x01\x00", b"text", None]
)
def test_a_broken_input_is_said(
    file: Path, tmp_path: Path, content: bytes | None, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "in.npz"
    if content is not None:
        path.write_bytes(content)
    assert status("run", file, "--input", path) == 1
    assert "cannot read" in capsys.readouterr().err


def test_an_array_without_a_name_is_said(
    file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    np.save(tmp_path / "one.npy", np.zeros(3))
    assert status("run", file, "--input", tmp_path / "one.npy") == 1
    assert "numpy.savez" in capsys.readouterr().err


def test_a_gpu_that_triton_does_not_know_is_said(
    file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert status("compile", file, "--emit", "ptx", "--target", "sm_99") == 1
    assert "sm_90" in capsys.readouterr().err


def test_arrays_that_do_not_fit_are_said(
    file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "in.npz"
    fitting = {"Q": np.zeros((1, 1, 5, 4), "f4"), "K": np.zeros((1, 1, 7, 4), "f4"),
               "V": np.zeros((1, 1, 7, 4), "f4")}  # fmt: skip
    for name, array in (("K", np.zeros((1, 1, 7, 3), "f4")), ("V", np.zeros((7, 4), "f4")),
                        ("W", np.zeros(3)), ("Q", np.array([{}]))):  # fmt: skip
        np.savez(path, **fitting | {name: array})
        assert status("run", file, "--input", path) == 1
        assert "Traceback" not in capsys.readouterr().err


def test_verify(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert status("verify", file, "--size", "m=9", "--json") == 0
    (record,) = json.loads(capsys.readouterr().out)
    assert record["ok"] and record["sizes"]["m"] == 9
    assert {"interpreter", "optimized", "numpy", "triton"} == {
        outcome["backend"] for outcome in record["outcomes"]
    }


def test_extents_of_zero(file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert status("analyze", file, "--size", "b=0,h=0,p=0,m=0,e=0,f=0") == 0
    for rank in "bhpmf":
        assert status("run", file, "--random", f"{rank}=0", "--verify") == 0
    divided = tmp_path / "divided.attn"
    divided.write_text(
        "cascade divided[h](X[p], Z[; q]) -> Y[p]:\n    Y[p] = X[p] * Z[h // (|h| // |q|)]\n",
        encoding="utf-8",
    )
    assert status("run", divided, "--random", "h=2,q=3") == 1
    assert status("run", file, "--random", "m=99999999999999") == 1
    assert "Traceback" not in capsys.readouterr().err


def test_show_lists_the_steps_and_prints_one(
    file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert status("show", file) == 0
    steps = [line.split()[0] for line in capsys.readouterr().out.splitlines()]
    assert steps[0] == "written" and steps[-2:] == ["lower", "emit"]
    for step in steps:
        assert status("show", file, "--after", step) == 0
        assert capsys.readouterr().out.strip()


def test_bench_names_its_baselines(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = ("bench", file, "--random", TINY, "--repeat", 1)
    assert status(*given, "--json") == 0
    assert [row["name"] for row in json.loads(capsys.readouterr().out)] == ["numpy", "interpreter"]
    assert status(*given, "--baseline", "json:nothing") == 1
    assert status(*given, "--baseline", "json:dumps") == 1
    assert "Traceback" not in capsys.readouterr().err


def test_fmt(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file.write_text("cascade c(X[p])->Y[p]: # kept\n  Y[p]=X[p]  # too\n", encoding="utf-8")
    assert status("fmt", "--check", file) == 1
    assert status("fmt", file) == 0
    text = file.read_text(encoding="utf-8")
    assert "# kept" in text and "# too" in text
    assert status("fmt", "--check", file) == 0


def test_an_interrupt_is_no_traceback(
    file: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupt(path: Path) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("attnc.modules.load", interrupt)
    assert status("check", file) == 130
    assert capsys.readouterr().err.strip() == "interrupted"


def test_a_reader_that_leaves_is_no_traceback(file: Path) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    try:
        done = subprocess.run(
            [sys.executable, "-m", "attnc", "explain", str(file)],
            stdout=writer, stderr=subprocess.PIPE, text=True, check=False,
        )  # fmt: skip
    finally:
        os.close(writer)
    assert done.stderr == ""


def test_check_imports_nothing_heavy(file: Path) -> None:
    code = (
        "import sys; from attnc.cli import main; main(['check', sys.argv[1]]);"
        "print([m for m in ('numpy', 'sympy', 'networkx', 'torch') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(file)], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"
