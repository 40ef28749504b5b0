"""The whole compiler on one page: parse -> check -> steps -> lower -> emit.

    text --parse, check--> cascade --steps of passes.pipeline--> cascade --lower--> tile program
         --emit--> source text

`attnc.modules` does the first arrow; this page does the others. Every value that appears on the
way is handed to one hook, `observe(name, value)`: `attnc show` prints it, a test checks it against
the interpreter, a benchmark reads the clock.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from attnc.backends import launch, tiles, triton_source
from attnc.backends.binding import Array
from attnc.backends.interpreter import run as evaluate
from attnc.calling import Compiled
from attnc.crossover import Crossover
from attnc.explanation import explain
from attnc.ir.cascade import Cascade
from attnc.ir.params import with_params
from attnc.ir.source import CallError, CompileError
from attnc.ir.tile import Program
from attnc.ir.verify import verify_cascade
from attnc.ir.verify_tile import verify_program
from attnc.passes.pipeline import choices, lower, optimize
from attnc.passes.report import analyze
from attnc.sampling import default_sizes, sample
from attnc.verification import DTYPES, Verification, compare, relative_error

Value = Cascade | Program | str
Observe = Callable[[str, Value], None]

BACKENDS = ("interpreter", "numpy", "triton")

SLACK = 4

WIDTH = 64
"""Extent of a rank that lies whole within a tile where machine code is asked for and none given."""


@dataclass(frozen=True, slots=True)
class Result:
    """What a compilation went through: the cascade as written, as derived, tiles, text."""

    written: Cascade
    optimized: Cascade
    program: Program
    source: str


def stages(
    cascade: Cascade,
    target: str,
    *,
    dtype: str = "f32",
    sizes: dict[str, int] | None = None,
    observe: Observe | None = None,
    regroup: frozenset[str] | None = None,
) -> Result:
    """Take a checked cascade to the text of a kernel for a target, "numpy" or "triton".

    `dtype` is the type of the `float` inputs and `sizes` are extents known beforehand; both only
    choose tiles, and which sums are regrouped unless `regroup` names them. Raises CompileError
    where a construct cannot be lowered.
    """
    see: Observe = observe or (lambda name, value: None)

    verify_cascade(cascade)
    see("written", cascade)

    optimized = optimize(cascade, see)
    verify_cascade(optimized)

    program = lower(cascade, target, dtype, sizes, see, regroup)
    verify_program(program)
    see("lower", program)

    source = (
        triton_source.emit(program, heading(cascade, optimized))
        if target == "triton"
        else tiles.text(program)
    )
    see("emit", source)
    return Result(cascade, optimized, program, source)


def heading(written: Cascade, optimized: Cascade) -> str:
    """What an emitted file opens with: the cascade it came from and the steps that led here."""
    text = str(written).rstrip()
    if optimized == written:
        return text
    steps = [f"  {step.law}: {step.text}" for step in optimized.derivation]
    return "\n".join((text, "", "Derived:", *steps, "", str(optimized).rstrip()))


def compile(
    cascade: Cascade,
    backend: str = "numpy",
    *,
    dtype: str = "f32",
    sizes: dict[str, int] | None = None,
    threads: int | None = None,
    observe: Observe | None = None,
    **params: int | float | bool,
) -> Compiled:
    """A callable that computes a cascade; `params` give the cascade's parameters by name.

    `sizes` are extents known beforehand, which choose tiles and which sums are regrouped; without
    them the extents of each call choose the latter.

    Called with the inputs by position or by name; NumPy arrays give arrays, torch tensors give
    tensors. Raises CompileError for what the back-end cannot do, CallError for an unknown one.
    """
    if backend not in BACKENDS:
        raise CallError(f"no back-end {backend!r}; there are {', '.join(BACKENDS)}")
    if not isinstance(cascade, Cascade):
        raise CallError(f"compile takes a cascade, as in module['name'], not a {type(cascade)}")
    cascade = with_params(cascade, params)
    if backend == "interpreter":
        verify_cascade(cascade)
        return Compiled(cascade, backend, str(cascade), cascade)
    result = stages(cascade, backend, dtype=dtype, sizes=sizes, observe=observe)

    def executable(result: Result) -> tiles.Executable | launch.Kernel:
        if backend == "numpy":
            return tiles.Executable(result.program, threads, result.source)
        return launch.Kernel(result.program, result.source)

    def regrouped(sums: frozenset[str]) -> tiles.Executable | launch.Kernel:
        return executable(stages(cascade, backend, dtype=dtype, regroup=sums))

    runner = executable(result)
    open_choices = () if sizes else choices(cascade)
    crossover = Crossover(open_choices, runner, regrouped) if open_choices else None
    return Compiled(
        cascade, backend, result.source, result.optimized, result.program, runner, crossover
    )


def verify(
    cascade: Cascade,
    sizes: dict[str, int] | None = None,
    *,
    dtype: str = "f32",
    seed: int = 0,
    **params: int | float | bool,
) -> Verification:
    """Run every back-end on random data and compare with the interpreter in float64.

    Extents that `sizes` leaves out are small and ragged. Where the interpreter itself loses more
    than the tolerance in the type of the run (a recurrence that grows, say), no back-end can be
    held to less; it may lose SLACK times as much, since it adds in another order. The optimised
    cascade is interpreted in float64 and held to that. Triton takes part where it can run: on a
    GPU, or in its own interpreter when TRITON_INTERPRET=1 was set before the start.
    """
    if dtype not in DTYPES:
        raise CallError(f"no such type {dtype!r}; there are {', '.join(DTYPES)}")
    cascade = with_params(cascade, params)
    extents = default_sizes(cascade) | (sizes or {})
    arrays = sample(cascade, extents, dtype=dtype, seed=seed)
    exact = DTYPES["f64"].numpy
    reference = evaluate(cascade, arrays, exact)
    literal = evaluate(cascade, arrays)
    loose = {
        name: max(DTYPES[dtype].tolerance, SLACK * relative_error(literal[name], truth))
        for name, truth in reference.items()
    }
    tight = dict.fromkeys(reference, DTYPES["f64"].tolerance)

    def run(backend: str) -> Callable[[], dict[str, Array]]:
        return lambda: compile(cascade, backend, dtype=dtype).run(arrays)

    outcomes = (
        *compare("optimized", lambda: evaluate(optimize(cascade), arrays, exact), reference, tight),
        *compare("interpreter", lambda: literal, reference, loose),
        *compare("numpy", run("numpy"), reference, loose),
        *compare("triton", missing() or run("triton"), reference, loose),
    )
    return Verification(cascade.name, extents, dtype, outcomes)


def missing() -> str:
    """What this machine lacks to call a Triton kernel; nothing if it can."""
    try:
        torch, _ = launch.require()
    except CallError as error:
        return str(error)
    if launch.interpreted() or torch.cuda.is_available():
        return ""
    return "no GPU here, and TRITON_INTERPRET=1 is not set"


def machine_code(
    result: Result, *, target: str, dtype: str, sizes: dict[str, int], emit: str
) -> str | bytes:
    """The compiled kernels of a result in one of Triton's forms, for a GPU that need not be there.

    Ranks that lie whole within a tile have the extent WIDTH unless `sizes` says otherwise.
    """
    whole = {
        axis.rank for kernel in result.program.kernels for axis in kernel.axes if axis.size is None
    }
    extents = dict.fromkeys(whole, WIDTH) | sizes
    forms = [
        launch.compile_ahead(
            result.source,
            result.program,
            target=target,
            dtype=dtype,
            sizes=extents,
            emit=emit,
            kernel=number,
        )
        for number in range(len(result.program.kernels))
    ]
    if len(forms) > 1 and emit == "cubin":
        raise CompileError(
            f"{result.written.name} has {len(forms)} kernels, and a cubin holds one",
            help="--emit ptx prints them one after another",
        )
    return forms[0] if len(forms) == 1 else "\n".join(str(form) for form in forms)


__all__ = ["analyze", "compile", "explain", "machine_code", "optimize", "stages", "verify"]
