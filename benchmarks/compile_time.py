"""How long the compiler takes, as whole processes and as the chain of Einsums grows.

    python benchmarks/compile_time.py

Prints a table and writes it to benchmarks/compile_time.md. A process is timed from its start to
its end, interpreter included, as a person at a terminal waits for it; each figure is the median.
"""

from __future__ import annotations

import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from statistics import median
from time import perf_counter

import attnc

HERE = Path(__file__).resolve().parent
EXAMPLE = str(HERE.parent / "examples" / "attention.attn")
LENGTHS = (50, 100, 200, 400)


def machine() -> str:
    """The processor's name, with the cores that this process may use."""
    name = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        lines = info.read_text(encoding="utf-8").splitlines()
        name = next((x.split(":")[1].strip() for x in lines if x.startswith("model name")), name)
    return f"{name}, {len(os.sched_getaffinity(0))} cores, Python {platform.python_version()}"


def timed(work: Callable[[], object], repeat: int) -> float:
    """Median seconds of a piece of work, called once before to warm the disk."""
    work()
    seconds = []
    for _ in range(repeat):
        start = perf_counter()
        work()
        seconds.append(perf_counter() - start)
    return median(seconds)


def command(*arguments: str) -> Callable[[], object]:
    """A run of `attnc` as a process of its own; Triton's cache does not carry over."""

    def work() -> object:
        with tempfile.TemporaryDirectory() as cache:
            return subprocess.run(
                [sys.executable, "-m", "attnc", *arguments],
                stdout=subprocess.DEVNULL,
                check=True,
                env=os.environ | {"TRITON_CACHE_DIR": cache},
            )

    return work


def chain(length: int) -> str:
    """A cascade of that many Einsums: a softmax over m again and again, each of the last result."""
    lines = ["cascade chain[b](X[p, m]) -> Y[p, m]:"]
    source = "X"
    for block in range((length - 1) // 4):
        lines += [
            f"    G{block}[p]    = max[m]({source}[p, m])",
            f"    N{block}[p, m] = exp({source}[p, m] - G{block}[p])",
            f"    D{block}[p]    = sum[m](N{block}[p, m])",
            f"    A{block}[p, m] = N{block}[p, m] / D{block}[p]",
        ]
        source = f"A{block}"
    for extra in range((length - 1) % 4):
        lines.append(f"    E{extra}[p, m] = 2 * {source}[p, m]")
        source = f"E{extra}"
    lines.append(f"    Y[p, m] = {source}[p, m]")
    return "\n".join(lines) + "\n"


def optimised(text: str) -> object:
    cascade = attnc.parse(text)["chain"]
    attnc.analyze(cascade)
    return attnc.optimize(cascade)


def main() -> None:
    machine_code = ("compile", EXAMPLE, "--emit", "cubin", "--target", "sm_90", "--dtype", "f16",
                    "--size", "e=64,f=64", "-o", os.devnull)  # fmt: skip
    rows = [
        ("`attnc --help`", timed(command("--help"), 7)),
        ("`attnc check examples/attention.attn`", timed(command("check", EXAMPLE), 7)),
        ("`attnc compile`, to Triton source", timed(command("compile", EXAMPLE), 5)),
        ("`attnc compile --emit cubin`, sm_90, f16, width 64", timed(command(*machine_code), 3)),
    ]
    for length in LENGTHS:
        text = chain(length)
        seconds = timed(lambda text=text: optimised(text), 3)
        rows.append((f"parse, check, analyse, optimise {length} Einsums", seconds))
    lines = [
        "# Compile time",
        "",
        f"Written by benchmarks/compile_time.py on {machine()}. Medians of seconds; the first four",
        "are whole processes, the others within one.",
        "",
        "| work | seconds |",
        "| --- | ---: |",
        *(f"| {name} | {seconds:.3f} |" for name, seconds in rows),
    ]
    table = "\n".join(lines) + "\n"
    print(table)
    (HERE / "compile_time.md").write_text(table, encoding="utf-8")


if __name__ == "__main__":
    main()
