"""Published mechanisms, each against a dense reference of its own, through every back-end."""

from __future__ import annotations

import json
import os
import runpy
import select
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mechanisms
import numpy as np
import pytest

import attnc
from attnc.backends import interpreter
from attnc.backends.binding import bind
from attnc.formatting import format_source
from attnc.ir.print_tile import print_program
from attnc.ir.read_tile import read_program
from attnc.ir.source import Source
from attnc.ir.verify import verify_cascade
from attnc.ir.verify_tile import verify_program
from attnc.passes.pipeline import optimize
from attnc.passes.predict import predict
from attnc.verification import relative_error

EXACT = np.dtype(np.float64)
COUNTED = ("bytes_read", "bytes_written", "flops", "peak_live_bytes")
FILES = sorted(path.stem for path in mechanisms.SPECIFICATIONS.glob("*.attn"))
NAMES = sorted(name for name in mechanisms.ENTRIES if mechanisms.path(name).exists())
every = pytest.mark.parametrize("name", NAMES)
every_file = pytest.mark.parametrize("file", FILES)


def test_every_specification_has_a_reference_and_every_reference_a_specification():
    assert {mechanisms.path(name).stem for name in mechanisms.ENTRIES} == set(FILES)


def distance(found, name):
    """The largest error over all outputs, relative to the largest value of each."""
    reference = mechanisms.expected(name)
    assert found.keys() == reference.keys()
    return max(relative_error(found[output], right) for output, right in reference.items())


def held_to_its_refusal(name, backend, raised):
    """The one excuse for a back-end: exactly the refusal that the entry tells of.

    What has no Triton kernel has none for a GPU either, and the entry says so once.
    """
    refused = mechanisms.ENTRIES[name].refused
    told = refused.get(backend) or (refused.get("triton") if backend == "sm_90" else None)
    assert raised == told


@every_file
def test_the_file_is_in_the_canonical_layout(file):
    text = mechanisms.path(file).read_text(encoding="utf-8")
    assert format_source(Source(text, file)) == text


@every
def test_the_cascade_says_what_the_reference_computes(name):
    assert not any(np.isnan(array).any() for array in mechanisms.expected(name).values())
    cascade = mechanisms.specification(name)
    assert distance(interpreter.run(cascade, mechanisms.drawn(name), EXACT), name) < 1e-10


@every
def test_every_step_keeps_the_meaning(name):
    cascade, seen = mechanisms.specification(name), []

    def same(step, result):
        verify_cascade(result)
        assert attnc.parse(str(result))[result.name] == result, step
        if result not in (cascade, *seen):
            found = interpreter.run(result, mechanisms.drawn(name), EXACT)
            assert distance(found, name) < 1e-9, step
            seen.append(result)

    same("optimized", optimize(cascade, same))


@every
def test_numpy_computes_it_and_the_counters_are_as_predicted(name):
    cascade, entry = mechanisms.specification(name), mechanisms.ENTRIES[name]
    try:
        kernel = attnc.compile(cascade)
    except attnc.CompileError as refusal:
        held_to_its_refusal(name, "numpy", f"{refusal.code}: {refusal.message}")
        return
    held_to_its_refusal(name, "numpy", None)
    verify_program(kernel.program)
    assert read_program(print_program(kernel.program)) == kernel.program
    arrays = mechanisms.single(name)
    assert distance(kernel.run(arrays), name) < 1e-5 * entry.spread
    integers = {name: array for name, array in arrays.items() if array.dtype.kind in "iub"}
    extents = bind(cascade, (), arrays).extents
    ran = kernel.runner if kernel.crossover is None else kernel.crossover.last
    right = predict(ran.program, extents, data=integers | ran.lists)
    for quantity in COUNTED:
        assert getattr(kernel.counters, quantity) == getattr(right, quantity), quantity


TABLE = runpy.run_path(str(mechanisms.SPECIFICATIONS / "table.py"))
PAGE = (mechanisms.SPECIFICATIONS / "README.md").read_text(encoding="utf-8")
ROWS = [line for line in PAGE.splitlines(keepends=True) if line.startswith("| [")]


def left_out_if_slow(name):
    """Minutes of a compiler are asked for, not taken."""
    slow = mechanisms.ENTRIES[name].slow
    if slow and "ATTNC_SLOW" not in os.environ:
        pytest.skip(f"{slow}: set ATTNC_SLOW=1")


@every_file
def test_its_row_of_the_page_is_current(file):
    assert TABLE["row"](mechanisms.path(file)) in ROWS


def test_the_page_has_these_rows_and_the_rest_is_current():
    assert len(ROWS) == len(FILES)
    assert TABLE["page"](ROWS) == PAGE


class Server:
    """A process that has Triton and answers for one mechanism at a time.

    It is started with the first question, and anew after one that took longer than LIMIT seconds.
    """

    LIMIT = 60

    def __init__(self, mode: str) -> None:
        self.mode = mode
        self.process: subprocess.Popen[bytes] | None = None

    def ask(self, name: str) -> Any:
        if self.process is None or self.process.poll() is not None:
            self.process = self._start()
        question, answers = self.process.stdin, self.process.stdout
        assert question is not None and answers is not None
        question.write(f"zoo/{name}\n".encode())
        question.flush()
        if not select.select([answers], [], [], self.LIMIT)[0]:
            self.stop()
            pytest.fail(f"no answer within {self.LIMIT} s")
        line = answers.readline()
        assert line, f"the process ended with {self.process.wait()}"
        return json.loads(line)

    def _start(self) -> subprocess.Popen[bytes]:
        environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
        if self.mode == "interpret":
            environment["TRITON_INTERPRET"] = "1"
        return subprocess.Popen(
            [sys.executable, str(Path(__file__).parent / "triton_examples.py"), self.mode],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment,
            start_new_session=True,
        )

    def stop(self) -> None:
        if self.process is not None and self.process.poll() is None:
            # Its assembler may be running too.
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()


@pytest.fixture(scope="module")
def triton() -> Iterator[Server]:
    """Kernels in Triton's interpreter."""
    yield from serve("interpret")


@pytest.fixture(scope="module")
def sm_90() -> Iterator[Server]:
    """Kernels compiled for a GPU that need not be there."""
    yield from serve("sm_90")


def serve(mode: str) -> Iterator[Server]:
    pytest.importorskip("torch")
    pytest.importorskip("triton")
    server = Server(mode)
    yield server
    server.stop()


@every
def test_triton_computes_it(name, triton):
    left_out_if_slow(name)
    found = triton.ask(name)
    if isinstance(found, str):
        held_to_its_refusal(name, "triton", found)
        return
    held_to_its_refusal(name, "triton", None)
    assert found < 1e-5 * mechanisms.ENTRIES[name].spread


@every
def test_it_compiles_for_a_gpu(name, sm_90, record_property):
    left_out_if_slow(name)
    found = sm_90.ask(name)
    if isinstance(found, str):
        held_to_its_refusal(name, "sm_90", found)
        return
    held_to_its_refusal(name, "sm_90", None)
    code, spills = found
    assert code > 0
    record_property("bytes of code", code)
    record_property("bytes spilled by a thread", spills)
