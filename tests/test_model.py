"""The accelerator model: FuseMax's published rows, other cascades, and mistakes in a machine."""

from __future__ import annotations

import csv
import json
import re
import runpy
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import sympy
from click.testing import CliRunner

import attnc
from attnc.accelerators import machine, shipped
from attnc.cli import app
from attnc.ir.params import with_params
from attnc.modelling import best, model, own_cascade
from attnc.passes.accelerator.area import area
from attnc.passes.accelerator.model import formulas
from attnc.passes.accelerator.problem import Problem
from attnc.passes.symbolic import extent_symbol

ROOT = Path(__file__).resolve().parent.parent
DATA = ROOT / "benchmarks" / "data" / "fusemax"
FIGURES: Any = SimpleNamespace(**runpy.run_path(str(ROOT / "benchmarks" / "fusemax.py")))
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

        allowed = 0.005 if name in ("attn-arch", "attn-binding") else 0.05
        assert found.energy_artifact["total"] == pytest.approx(float(row["energy"]), rel=allowed)
        assert found.energy["total"] > found.energy_artifact["total"]


@pytest.mark.parametrize(("published", "on"), [("flat", "flat"), ("proposal", "fusemax")])
def test_the_linear_layers_around_attention(published: str, on: str) -> None:
    """Their energy is exact too: each operand read once for every tile of the array."""
    with (DATA / f"end2end-{published}.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 12
    for row in rows:
        found = FIGURES.around(on, row["model"].lower(), LENGTHS[row["seq_len"]])
        expected = [float(row[key]) for key in ("latency", "traffic", "energy")]
        assert found == pytest.approx(expected, rel=1e-8)


def test_the_headlines() -> None:
    attention, whole = {}, {}
    for line in FIGURES.headlines()[2:]:
        name, alone, _, end, _ = [cell.strip() for cell in line.strip("| ").split("|")]
        attention[name], whole[name] = float(alone), float(end)
    assert attention["flat"] == pytest.approx(6.7226, abs=1e-3)
    assert whole["flat"] == pytest.approx(5.3017, abs=1e-3)
    assert attention["unfused"] == pytest.approx(10.052, abs=1e-3)
    assert whole["unfused"] == pytest.approx(7.602, abs=1e-3)


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


@pytest.mark.parametrize("form", ["written", "derived", "window"])
def test_tiles_without_a_point_are_left_out(form: str) -> None:
    """16 x 16 tiles of 256 x 256: below the diagonal 136, in a window of 512 beside it 45."""
    sizes = {"b": 1, "h": 1, "e": 64, "f": 64, "m": 4096, "p": 4096}
    text = str(own_cascade("flat"))
    mask = "p - 512 < m and m <= p" if form == "window" else "m <= p"
    masked = text.replace("sqrt(|e|)", f"sqrt(|e|) where {mask}")
    found = []
    for cascade in (attnc.parse(t)["attention"] for t in (text, masked)):
        if form != "written":
            cascade = with_params(attnc.optimize(cascade), {"M0": 256})
        found.append(model(cascade, "fusemax", "", sizes))
    full, part = found
    tiles = 45 if form == "window" else 136
    assert part.einsums["S"] == pytest.approx(full.einsums["S"] * tiles / 256, rel=1e-12)
    if form == "written":
        points = 4096 * 4097 // 2
        assert part.operations["multiply-add"] == 2 * 64 * points
    else:
        # The running states of tiles without a point stay as they were: no array works on them.
        for name in ("G_tile", "N", "D_run", "O_sum_run"):
            assert part.einsums[name] == pytest.approx(full.einsums[name] * tiles / 256, rel=1e-12)


@pytest.mark.parametrize("lanes", [{}, {"p": 8}, {"p": 8, "m": 8}, {"p": 4, "m": 6}, {"m": 16}])
@pytest.mark.parametrize(
    "mask", ["m <= p", "p - 7 < m and m <= p", "m <= p + |m| - |p|", "2 * m <= p", "m < 9"]
)
def test_shares_of_tiles_against_all_points(mask: str, lanes: dict[str, int]) -> None:
    """A tile exists where one of its points does; a window's two sides are told apart, so that
    there the share is an upper bound."""
    text = str(own_cascade("flat")).replace("sqrt(|e|)", f"sqrt(|e|) where {mask}")
    rows, columns = 24, 40
    problem = Problem(
        attnc.parse(text)["attention"], {"b": 1, "h": 1, "e": 2, "f": 2, "p": rows, "m": columns}
    )
    test = eval(f"lambda p, m: {mask.replace('|m|', '40').replace('|p|', '24')}")
    high, wide = lanes.get("p", 1), lanes.get("m", 1)
    tiles = {(p // high, m // wide) for p in range(rows) for m in range(columns) if test(p, m)}
    whole = -(-rows // high) * -(-columns // wide)
    share = problem.tiles(problem.definitions["S"], lanes)
    assert share >= len(tiles) / whole - 1e-12
    if " and " not in mask:
        assert share == pytest.approx(len(tiles) / whole, rel=1e-12)


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

[levels.dram]
bandwidth = 1e9
read = 1

[levels.buffer]
size = 65536

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
    "read is -1, and must not be below 0": ("read = 1", "read = -1"),
    "level buffer has no 'sise'": ("size = 65536", "sise = 65536"),
    "buffer has no size": ("size = 65536", "read = 2"),
    "registers are 'private' or 'common'": ("size = 65536", 'size = 65536\nregisters = "mine"'),
    "a machine needs memory and at least one buffer": ("[levels.buffer]\nsize = 65536", ""),
    "held is -4, and must be a whole number of tiles": ('rows = "p"', 'rows = "p"\nheld = -4'),
    "held is 3, and does not divide the 16 tiles of p": ('rows = "p"', 'rows = "p"\nheld = 3'),
    "held is 16, and buffer of small has room for 3 tiles": (
        "size = 65536",
        "size = 1024",
        'rows = "p"',
        'rows = "p"\nheld = 16',
    ),
    "an entry has extents and times": (
        'einsums = ["S", "G"]',
        'einsums = ["S", "G"]\n[[mapping.fetched]]\nat = { m = 64 }',
    ),
    "the mapping speaks of tensor Z, which attention does not have": (
        'einsums = ["S", "G"]',
        'einsums = ["S", "G"]\n[[mapping.fetched]]\nat = { m = 64 }\ntimes = { Z = 2 }',
    ),
    "the mapping speaks of rank q, which attention does not have": ('rows = "p"', 'rows = "q"'),
    "p lies along two axes of pe": ('space.pe = ["p", "m"]', 'space.pe = ["p", "p"]'),
    "A of attention is bound to no array of small": (
        '"N", "D", "A", "O"]\n\n',
        '"N", "D", "O"]\n\n',
        '["N", "D", "A", "O"]\n',
        '["N", "D", "O"]\n',
    ),
    "T is bound, and attention has no such Einsum": (
        '"A", "O"]\n\n',
        '"A", "O", "T"]\n\n',
        '["N", "D", "A", "O"]\n',
        '["N", "D", "A", "O", "T"]\n',
    ),
    "small has no level cache to hold K in": ('rows = "p"', 'rows = "p"\nhold.cache = ["K"]'),
    "one tile of 4 rows takes 712 words, and buffer of small holds 512": (
        "size = 65536",
        "size = 1024",
        'rows = "p"',
        'rows = "p"\nhold.buffer = ["S", "N"]',
    ),
    "pe of small has no divide, which A needs": ("divide = 1\n", ""),
    "one tile of 4 rows takes": ("size = 65536", "size = 64"),
}
LINE = {
    "held is 3, and does not": "held = 3",
    "A of attention is bound": "bind.pe",
    "the mapping speaks of rank q": 'rows = "q"',
    "p lies along two axes": "space.pe",
    "small has no level cache": "hold.cache",
    "one tile of 4 rows takes 712": "hold.buffer",
    "one tile of 4 rows takes": "size = 64",
    "level buffer has no": "sise",
}
"""What the line of an error shows, where it is easily another one."""


@pytest.mark.parametrize("message", BAD)
def test_a_mistake_in_a_machine_is_shown_at_its_line(message: str, tmp_path: Path) -> None:
    text = GOOD
    for old, new in zip(BAD[message][::2], BAD[message][1::2]):
        assert old in text
        text = text.replace(old, new)
    path = tmp_path / "small.toml"
    path.write_text(text, encoding="utf-8")
    command = ["model", str(ROOT / "examples" / "attention.attn"), "--machine", str(path)]
    sizes = ["--size", "b=1,h=1,p=64,m=64,e=8,f=8"]
    with pytest.raises(attnc.CompileError) as found:
        attnc.model(own_cascade("flat"), str(path), "", {"p": 64, "m": 64, "e": 8, "f": 8})
    assert message in str(found.value) and f"{path}:" in str(found.value)
    line = next((line for start, line in LINE.items() if message.startswith(start)), "")
    assert line in str(found.value).splitlines()[2], found.value
    assert CliRunner().invoke(app, [*command, *sizes]).exit_code != 0


def test_a_machine_that_is_no_text(tmp_path: Path) -> None:
    path = tmp_path / "small.toml"
    path.write_bytes(b"\xb4\x00\xff")
    for unreadable in (path, tmp_path):
        with pytest.raises(attnc.CompileError, match="cannot read"):
            attnc.model(own_cascade("flat"), str(unreadable))


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
    head = bound[: bound.index("[[mapping.overlap]]")]
    head = head.replace('["p", "m"]', '["d"]').replace('"p"', '"d"').replace('"m"', '""')
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


MATMUL = """cascade matmul(A[i, k], B[k, j]) -> C[i, j]:
    C[i, j] = A[i, k] * B[k, j]
"""


def small(tmp_path: Path, mapping: str, **changed: str) -> str:
    """A file of the small machine with another mapping and other lines."""
    text = GOOD[: GOOD.index("[mapping]")] + mapping
    for key, value in changed.items():
        text = re.sub(rf"^{key} = .*$", f"{key} = {value}", text, flags=re.M)
    path = tmp_path / "machine.toml"
    path.write_text(text, encoding="utf-8")
    return str(path)


def test_words_of_a_matrix_product(tmp_path: Path) -> None:
    """By hand: 4 x 4 elements, 16 rows, 8 columns, 32 to sum: 8 tiles, each with 4 x 32 words of
    both operands; 4 tiles of rows, of which the buffer keeps 2, so B comes in twice."""
    mapping = """[mapping]
rows = "i"
columns = "j"
space.pe = ["i", "j"]
bind.pe = ["C"]
"""
    path = small(tmp_path, mapping, size="1100")
    found = attnc.model(attnc.parse(MATMUL)["matmul"], path, "", {"i": 16, "j": 8, "k": 32})
    assert found.einsums["C"] == 8 * 32
    assert found.traffic["buffer"]["read"] == 2 * (8 * 4 * 32 * 2)
    assert found.traffic["dram"]["read"] == 2 * (16 * 32 + 2 * 8 * 32)
    assert found.traffic["dram"]["written"] == 2 * 16 * 8
    assert found.traffic["buffer"]["written"] == found.traffic["dram"]["read"]
    held = attnc.parse(MATMUL + "schedule matmul:\n    hold B in buffer\n")["matmul"]
    found = attnc.model(held, path, "", {"i": 16, "j": 8, "k": 32})
    assert found.traffic["dram"]["read"] == 2 * (16 * 32 + 8 * 32)
    path = small(tmp_path, mapping, size="600")
    with pytest.raises(attnc.CompileError, match="one tile of 4 rows") as caught:
        attnc.model(held, path, "", {"i": 16, "j": 8, "k": 32})
    assert "hold B in buffer" in str(caught.value)


def test_steps_do_not_lie_side_by_side(tmp_path: Path) -> None:
    """A state waits for the step before it: no axis takes its rank, and each step a latency."""
    cascade = attnc.parse(
        "cascade r(X[t, d]) -> Y[t, d]:\n"
        "    S[0, d] = 0\n"
        "    S[t+1, d] = S[t, d] * X[t, d]\n"
        "    Y[t, d] = S[t+1, d]\n"
    )["r"]
    mapping = """[mapping]
rows = "d"
columns = ""
space.pe = ["d"{more}]
bind.pe = ["S", "Y"]
"""
    path = small(tmp_path, mapping.replace("{more}", ', "t"'))
    with pytest.raises(attnc.CompileError, match="t cannot lie along an axis of pe"):
        attnc.model(cascade, path, "", {"t": 8, "d": 4})
    text = mapping.replace("{more}", "") + "[arrays.pe.latency]\nmultiply = 5\n"
    found = attnc.model(cascade, small(tmp_path, text), "", {"t": 8, "d": 4})
    assert found.einsums["S"] == 8 * 5
    found = attnc.model(cascade, small(tmp_path, text), "", {"t": 8, "d": 64})
    assert found.einsums["S"] == 8 * 16


def test_an_axis_takes_one_of_two_variables_of_a_rank() -> None:
    text = """cascade gram[b](X[t, d]) -> G[t, u]:
    rank u = |t|
    S[t, t'] = X[t, d] * X[t', d]
    G[t, u]  = S[t, u] * 2
"""
    cascade = attnc.parse(text)["gram"]
    found = model(cascade, "fusemax", "", {"b": 1, "t": 1024, "d": 64})
    assert found.einsums["S"] >= 1024 * 1024 * 64 / 65536


def test_one_tile_of_rows_cannot_overlap_with_itself() -> None:
    sizes = {"b": 1, "h": 1, "e": 64, "f": 64, "p": 512, "m": 512}
    lines = {"good": ("S, G", "N, D, A, O"), "late": ("S, N", "G, D, A, O")}
    found = {}
    for name, groups in lines.items():
        schedule = "".join(f"    overlap {group}\n" for group in groups)
        text = f"{own_cascade('flat')}\nschedule attention:\n{schedule}"
        found[name] = attnc.parse(text)["attention"]
        assert model(found[name], "flat", "", sizes).latency > 0
    assert model(found["good"], "flat", "", {**sizes, "p": 256}).latency > 0
    with pytest.raises(attnc.CompileError, match="N waits for S over all of m"):
        model(found["late"], "flat", "", {**sizes, "p": 256})


def test_what_a_mapper_chose_holds_at_its_extents_only() -> None:
    table = model(own_cascade("flat"), "flat", "bert", {"m": 65536})
    assert "as given" in table.explained["dram_bytes"]
    decode = model(own_cascade("flat"), "flat", "bert", {"m": 65536, "p": 256})
    assert "as given" not in decode.explained["dram_bytes"]
    keys = 64 * 12 * 65536 * 64
    assert decode.dram_bytes < 2 * (2 * keys) * 2


@pytest.mark.parametrize("length", LENGTHS.values())
def test_a_search_finds_the_published_residency(length: int) -> None:
    fixed = frozenset(["M0"])
    for name in ("fusemax", "flat-cascade"):
        known = model(own_cascade(name), name, "bert", {"m": length})
        found = best(own_cascade(name), name, "bert", {"m": length}, fixed)
        assert found.modelled.latency == pytest.approx(known.latency, rel=1e-12)
        if name == "fusemax":
            assert found.modelled.dram_bytes == pytest.approx(known.dram_bytes, rel=1e-12)
        # At 16K keys and values of a head fit +Cascade's buffer as a whole.
        assert found.modelled.dram_bytes <= known.dram_bytes * (1 + 1e-12)
        any_tile = best(own_cascade(name), name, "bert", {"m": length}).modelled
        assert any_tile.latency <= known.latency * (1 + 1e-12)
    known = model(own_cascade("unfused"), "unfused", "bert", {"m": length})
    found = best(own_cascade("unfused"), "unfused", "bert", {"m": length})
    assert found.modelled.latency <= known.latency * (1 + 1e-12)
    assert found.stays


def test_formulas_have_the_values_of_the_model() -> None:
    cascade = own_cascade("fusemax")
    sizes = {"b": 2, "h": 3, "e": 64, "f": 64}
    found = formulas(cascade, machine("fusemax"), sizes)
    known = model(cascade, "fusemax", "", {**sizes, "m": 8192, "p": 4096})
    values = {extent_symbol("m"): 8192, extent_symbol("p"): 4096}
    values[sympy.Symbol("held", positive=True)] = 16
    for name, cycles in found.einsums.items():
        assert float(cycles.subs(values)) == known.einsums[name]
    assert float(found.latency.subs(values)) == pytest.approx(known.latency, rel=1e-12)
    assert 2 * float(found.words["dram"].subs(values)) == known.dram_bytes


def test_a_roofline_names_its_bound() -> None:
    sizes = {"b": 64, "h": 12, "e": 64, "f": 64, "p": 1, "m": 65536}
    found = model(own_cascade("fusemax"), "fusemax", "", sizes)
    first = found.demands[0]
    assert found.bound == first.resource == "dram"
    assert found.latency == pytest.approx(first.seconds)
    command = ["model", str(ROOT / "examples" / "fusemax.attn"), "--workload", "bert",
               "--size", "m=65536", "--roofline"]  # fmt: skip
    told = CliRunner().invoke(app, command).output.splitlines()
    assert told[0].endswith("bound by pe2d") and "SPNV" in told[3]


def test_the_area_is_that_of_its_parts() -> None:
    found = area(machine("fusemax"))
    assert found["pe2d"] == 256 * found["pe1d"]
    assert found["total"] == pytest.approx(1220894441.84, rel=1e-3)
    assert area(machine("h100-sxm"))["total"] == 0


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
    "hold K": "hold is written otherwise",
    "hold K on pe2d": "hold is written otherwise",
    "hold Z in buffer": "attention has no tensor 'Z'",
    "hold K in cache": "fusemax has no level cache to hold K in",
    "bind S in buffer": "bind is written otherwise",
    "space p, p on pe2d": "p lies along two axes of pe2d",
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


def test_words_of_a_schedule_are_no_keywords() -> None:
    text = """cascade c(in[p, on], by[on]) -> O[p]:
    O[p] = in[p, on] * by[on]

schedule c:
    tile on by 8
    hold in, by in buffer
"""
    cascade = attnc.parse(text)["c"]
    assert attnc.parse(str(cascade))["c"] == cascade


@pytest.mark.parametrize("line", LINES)
def test_a_line_that_no_machine_can_follow(line: str) -> None:
    with pytest.raises(attnc.CompileError, match=LINES[line]):
        cascade = attnc.parse(f"{own_cascade('flat')}\nschedule attention:\n    {line}\n")
        model(cascade["attention"], "fusemax", "", {"e": 64, "f": 64, "p": 256, "m": 256})
