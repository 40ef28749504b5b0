"""The accelerator model: FuseMax's published rows, other cascades, and mistakes in a machine."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path

import pytest
from click.testing import CliRunner

import attnc
from attnc.accelerators import machine, shipped
from attnc.cli import app
from attnc.modelling import model, own_cascade

ROOT = Path(__file__).resolve().parent.parent
DATA = ROOT / "benchmarks" / "data" / "fusemax"
LENGTHS = {"1K": 1024, "4K": 4096, "16K": 16384, "64K": 65536, "256K": 262144, "1M": 1048576}
CONFIGURATIONS = {
    "attn-unfused": "unfused",
    "attn-flat": "flat",
    "attn-cascade": "flat-cascade",
    "attn-arch": "fusemax-unpipelined",
    "attn-binding": "fusemax",
}


@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_every_published_row(name: str) -> None:
    on = CONFIGURATIONS[name]
    with (DATA / f"{name}.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 12
    for row in rows:
        found = model(own_cascade(on), on, row["model"].lower(), {"m": LENGTHS[row["seq_len"]]})
        assert found.latency == pytest.approx(float(row["latency"]), rel=1e-9)
        assert found.dram_bytes == pytest.approx(float(row["traffic"]), rel=1e-9)
        assert found.utilization["pe2d"] == pytest.approx(float(row["util_2d"]), rel=1e-9)
        assert found.utilization["pe1d"] == pytest.approx(float(row["util_1d"]), rel=1e-9)


def test_names_play_no_part() -> None:
    text = str(own_cascade("fusemax"))
    names = ("BQK", "LM", "SLNV", "SLN", "SLD", "PRM", "SPD", "SPNV", "RNV", "AV", "RM", "RD")
    for number, name in enumerate(names):
        text = re.sub(rf"\b{name}\b", f"T{number}", text)
    cascade = next(iter(attnc.parse(text).cascades.values()))
    renamed, known = (
        model(c, "fusemax", "bert", {"m": 4096}) for c in (cascade, own_cascade("fusemax"))
    )
    assert list(renamed.einsums.values()) == list(known.einsums.values())
    assert renamed.dram_bytes == known.dram_bytes


@pytest.mark.parametrize("example", sorted(p.stem for p in (ROOT / "examples").glob("*.attn")))
def test_every_example_has_a_cost(example: str) -> None:
    for cascade in attnc.load(str(ROOT / "examples" / f"{example}.attn")).cascades.values():
        ranks = {rank for tensor in cascade.inputs for rank in tensor.ranks}
        sizes = {rank: 64 if rank in "def" else 512 for rank in ranks}
        found = model(cascade, "fusemax", "", sizes)
        assert found.latency > 0 and found.dram_bytes > 0
        assert all(0 <= share <= 1 + 1e-9 for share in found.utilization.values())


def test_a_causal_mask_halves_the_scores() -> None:
    sizes = {"b": 1, "h": 1, "e": 64, "f": 64, "m": 4096, "p": 4096}
    full, causal = (
        model(attnc.load(str(ROOT / "examples" / f"{name}.attn"))[name], "fusemax", "", sizes)
        for name in ("attention", "causal")
    )
    assert causal.einsums["S"] == pytest.approx(full.einsums["S"] / 2, rel=1e-3)


def test_the_command_prints_json_and_formulas() -> None:
    runner = CliRunner()
    command = ["model", str(ROOT / "examples" / "fusemax.attn"), "--workload", "bert",
               "--size", "m=65536"]  # fmt: skip
    done = runner.invoke(app, [*command, "--json"])
    assert done.exit_code == 0, done.output
    found = json.loads(done.output)
    assert set(found) >= {"latency", "dram_bytes", "utilization", "energy", "einsums"}
    assert found["energy"]["total"] == pytest.approx(
        sum(v for k, v in found["energy"].items() if k != "total")
    )
    told = runner.invoke(app, [*command, "--explain", "einsums.SLN"]).output
    assert "exp" in told and "352321536 cycles" in told


GOOD = """name = "small"
clock = 1e9
word = 2
buffer = 65536

[memory]
bandwidth = 1e9
energy = 1

[arrays.pe]
shape = [4, 4]
[arrays.pe.cycles]
multiply-add = 1
add = 1
max = 1
exp = 4
divide = 1
multiply = 1

[mapping]
cascade = "attention"
rows = "p"
columns = "m"
space.pe = ["p", "m"]
bind.pe = ["S", "G", "N", "D", "A", "O"]

[[mapping.overlap]]
einsums = ["S", "G"]
[[mapping.overlap]]
einsums = ["N", "D", "A", "O"]
"""
BAD = {
    "clock is 0, and must be above 0": ("clock = 1e9", "clock = 0"),
    "bandwidth is 0, and must be above 0": ("bandwidth = 1e9", "bandwidth = 0"),
    "word is -2, and must be above 0": ("word = 2", "word = -2"),
    "clock is no number": ("clock = 1e9", 'clock = "fast"'),
    "clock is missing": ("clock = 1e9\n", ""),
    "a machine has no 'frequency'": ("clock = 1e9", "clock = 1e9\nfrequency = 2"),
    "this is no TOML": ("word = 2", "word = = 2"),
    "the shape of pe is one or two positive numbers": ("shape = [4, 4]", "shape = [4, 0]"),
    "no operation 'tanh'": ("exp = 4", "tanh = 4"),
    "exp takes 0.0 cycles": ("exp = 4", "exp = 0"),
    "no array 'other'": ("bind.pe", "bind.other"),
    "pe has 2 axes, not 3": ('space.pe = ["p", "m"]', 'space.pe = ["p", "m", "e"]'),
    "S is bound twice": ('"S", "G", "N"', '"S", "S", "N"'),
    "X is in a group and bound to no array": ('einsums = ["S", "G"]', 'einsums = ["S", "X"]'),
    "G is in no group": ('einsums = ["S", "G"]', 'einsums = ["S"]'),
    "every Einsum is in one phase": ('rows = "p"', 'rows = "p"\nphases = [["S"], ["O"]]'),
    "a mapping has no 'column'": ('columns = "m"', 'column = "m"'),
    "energy is -1, and must not be below 0": ("energy = 1", "energy = -1"),
    "held is -4, and must not be below 0": ('rows = "p"', 'rows = "p"\nheld = -4'),
    "an entry has a rank, an extent and times": (
        'einsums = ["S", "G"]',
        'einsums = ["S", "G"]\n[[mapping.fetched]]\nrank = "m"',
    ),
    "the mapping speaks of rank q, which attention does not have": ('rows = "p"', 'rows = "q"'),
    "pe of small has no divide, which A needs": ("divide = 1\n", ""),
    "one tile of 4 rows takes": ("buffer = 65536", "buffer = 64"),
}


@pytest.mark.parametrize("message", BAD)
def test_a_mistake_in_a_machine_is_shown_at_its_line(message: str, tmp_path: Path) -> None:
    old, new = BAD[message]
    assert old in GOOD
    path = tmp_path / "small.toml"
    path.write_text(GOOD.replace(old, new), encoding="utf-8")
    command = ["model", str(ROOT / "examples" / "attention.attn"), "--machine", str(path)]
    sizes = ["--size", "b=1,h=1,p=64,m=64,e=8,f=8"]
    with pytest.raises(attnc.CompileError) as found:
        attnc.model(own_cascade("flat"), str(path), "", {"p": 64, "m": 64, "e": 8, "f": 8})
    assert message in str(found.value) and f"{path}:" in str(found.value)
    assert CliRunner().invoke(app, [*command, *sizes]).exit_code != 0


def test_groups_that_a_recurrence_cannot_keep_up_with(tmp_path: Path) -> None:
    cascade = attnc.parse(
        "cascade r(X[t, d]) -> Y[t, d]:\n"
        "    S[0, d] = 0\n"
        "    A[t, d] = S[t, d] + X[t, d]\n"
        "    B[t, d] = A[t, d] * A[t, d]\n"
        "    S[t+1, d] = B[t, d] * X[t, d]\n"
        "    Y[t, d] = S[t+1, d] * 2\n"
    )["r"]
    bound = GOOD.replace('["S", "G", "N", "D", "A", "O"]', '["S", "A", "B", "Y"]')
    head = bound[: bound.index("[[mapping.overlap]]")].replace('"p"', '"t"').replace('"m"', '"d"')
    groups = {"fits": '[["A"], ["B"], ["S", "Y"]]', "waits": '[["S", "Y"], ["B"], ["A"]]'}
    for name, order in groups.items():
        text = "".join(
            f"[[mapping.overlap]]\neinsums = {json.dumps(group)}\n" for group in json.loads(order)
        )
        path = tmp_path / f"{name}.toml"
        path.write_text(head + text, encoding="utf-8")
        if name == "fits":
            assert attnc.model(cascade, str(path), "", {"t": 8, "d": 8}).latency > 0
        else:
            with pytest.raises(attnc.CompileError, match="goes round in one tile"):
                attnc.model(cascade, str(path), "", {"t": 8, "d": 8})


def test_the_good_machine_runs(tmp_path: Path) -> None:
    path = tmp_path / "small.toml"
    path.write_text(GOOD, encoding="utf-8")
    sizes = {"p": 64, "m": 64, "e": 8, "f": 8}
    assert attnc.model(own_cascade("flat"), str(path), "", sizes).latency > 0


def test_the_shipped_machines_are_sound() -> None:
    assert {"fusemax", "flat", "unfused", "h100-sxm"} <= set(shipped())
    for name in shipped():
        assert machine(name).clock > 0
    with pytest.raises(attnc.CompileError, match="no machine"):
        machine("abacus")


SCHEDULED = """
schedule attention:
    space p, m on pe2d
    bind S, O on pe2d
    bind G, N, D, A on pe1d
    overlap S, G
    overlap N, D, A, O
"""
LINES = {
    "bind S": "bind is written otherwise",
    "bind X on pe2d": "attention has no Einsum 'X'",
    "bind S, S on pe2d": "bind S stands twice",
    "space p by 3": "space takes no size",
    "space q on pe2d": "attention has no rank 'q'",
    "space p, m, e on pe2d": "pe2d has 2 axes, not 3",
    "overlap S on pe2d": "overlap is written otherwise",
    "tile p by 3 on pe2d": "tile has no array",
    "bind S on pe9": "fusemax has no array pe9",
}


def test_a_schedule_binds_and_is_no_matter_for_kernels() -> None:
    text = str(own_cascade("flat"))
    cascade = attnc.parse(text + SCHEDULED)["attention"]
    assert attnc.parse(str(cascade))["attention"] == cascade
    sizes = {"b": 1, "h": 1, "e": 64, "f": 64, "p": 1024, "m": 1024}
    found = model(cascade, "fusemax", "", sizes)
    assert found.arrays["N"] == "pe1d" and found.arrays["S"] == "pe2d"
    plain = model(attnc.parse(text)["attention"], "fusemax", "", sizes)
    assert found.einsums["N"] == 256 * plain.einsums["N"]
    assert attnc.compile(cascade, backend="numpy").source


@pytest.mark.parametrize("line", LINES)
def test_a_line_that_no_machine_can_follow(line: str) -> None:
    with pytest.raises(attnc.CompileError, match=LINES[line]):
        cascade = attnc.parse(f"{own_cascade('flat')}\nschedule attention:\n    {line}\n")
        model(cascade["attention"], "fusemax", "", {"e": 64, "f": 64, "p": 256, "m": 256})
