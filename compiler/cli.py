"""The `attnc` command: arguments and exit codes, nothing else.

Exit status: 0 done, 1 the specification or the input is at fault, 2 wrong usage. What a command
needs is imported inside it, so that `attnc --help` and `attnc check` answer at once.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from attnc import __version__
from attnc.ir.source import CallError, CompileError, InvalidIR

if TYPE_CHECKING:
    from attnc.driver import Value
    from attnc.ir.cascade import Cascade
    from attnc.modules import Module

INTERRUPTED = 130
TEXTS = ("source", "tile", "cascade")
MACHINE = ("ttir", "ttgir", "llir", "ptx", "cubin", "sass")
BACKENDS = ("interpreter", "numpy", "triton")
DTYPES = ("f16", "f32", "f64")

Command = TypeVar("Command", bound=Callable[..., Any])


class Assignments(click.ParamType[dict[str, Any]]):
    """`name=value,name=value`, the values whole numbers, or any constants of the language."""

    def __init__(self, name: str, constants: bool = False) -> None:
        self.name = name
        self.constants = constants

    def convert(self, value: Any, param: Any, ctx: Any) -> dict[str, Any]:
        if isinstance(value, dict):
            return value
        found: dict[str, Any] = {}
        for part in filter(None, (piece.strip() for piece in value.split(","))):
            name, equals, text = (piece.strip() for piece in part.partition("="))
            number = self._value(text)
            if not name or not equals or number is None:
                self.fail(f"{part!r} is not {self.name}", param, ctx)
            if name in found:
                self.fail(f"{name} is given twice", param, ctx)
            found[name] = number
        return found

    def _value(self, text: str) -> int | float | bool | None:
        if self.constants and text in ("true", "false"):
            return text == "true"
        for kind in (int, float) if self.constants else (int,):
            try:
                number = kind(text)
            except ValueError:
                continue
            return number if self.constants or 0 <= number < 2**63 else None
        return None


SIZES = Assignments("RANK=EXTENT")
CONSTANTS = Assignments("NAME=VALUE", constants=True)


def _merged(ctx: click.Context, param: click.Parameter, given: tuple[dict[str, Any], ...]) -> Any:
    """An option given several times is one table."""
    return {name: value for table in given for name, value in table.items()}


def _option(flag: str, kind: Assignments, help: str) -> Callable[[Command], Command]:
    return click.option(
        flag, type=kind, multiple=True, callback=_merged, metavar=kind.name + ",...", help=help
    )


FILE = click.argument("file", type=click.Path(path_type=Path))
FILES = click.argument("files", type=click.Path(path_type=Path), nargs=-1, required=True)
NAME = click.option("--cascade", "name", metavar="NAME", help="The cascade, of several in a file.")
JSON = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
PARAM = _option("--param", CONSTANTS, "Values for the cascade's parameters.")
SIZE = _option("--size", SIZES, "Extents of ranks.")
DTYPE = click.option("--dtype", type=click.Choice(DTYPES), help="Type of the `float` inputs.")
BACKEND = click.option("--backend", type=click.Choice(BACKENDS), default="numpy", show_default=True)
SEED = click.option("--seed", type=int, default=0, show_default=True, help="For random inputs.")


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="attnc", message="%(prog)s %(version)s")
def app() -> None:
    """A compiler for attention: from a cascade of extended Einsums to a fused kernel."""


@app.command()
@FILES
def check(files: tuple[Path, ...]) -> None:
    """Report all errors of all files."""
    from attnc.modules import load

    failures = 0
    for file in files:
        try:
            load(file)
        except CompileError as error:
            if failures:
                click.echo(err=True)
            failures += 1
            _complain(error)
    if failures:
        raise click.exceptions.Exit(1)


@app.command()
@FILES
@click.option(
    "--check", "only_check", is_flag=True, help="Change nothing; 1 if a file would change."
)
def fmt(files: tuple[Path, ...], only_check: bool) -> None:
    """Put files into the canonical layout; comments stay."""
    from attnc.formatting import format_source
    from attnc.modules import read

    status = 0
    for file in files:
        try:
            source = read(file)
            text = format_source(source)
            if text == source.text:
                continue
            if only_check:
                click.echo(f"would reformat {file}")
                status = 1
            else:
                _write(file, text)
                click.echo(f"reformatted {file}")
        except CompileError as error:
            _complain(error)
            status = 1
    if status:
        raise click.exceptions.Exit(status)


@app.command()
@FILE
@NAME
@SIZE
@PARAM
@JSON
def analyze(file: Path, name: str | None, size: dict[str, int], param: dict[str, Any],
            as_json: bool) -> None:  # fmt: skip
    """Count passes, footprint, operations and traffic, as written and as optimised."""
    from attnc import summary
    from attnc.ir.params import with_params

    cascade = with_params(_one(file, name), param)
    found = summary.summarize(cascade, _with_known(cascade, size))
    click.echo(json.dumps(found, indent=2) if as_json else summary.table(found))


@app.command()
@FILE
@NAME
def explain(file: Path, name: str | None) -> None:
    """Tell which Einsum waits for which, and which law removed a pass or which term kept it."""
    from attnc.explanation import explain as story

    click.echo(story(_one(file, name)))


@app.command()
@click.argument("file", type=click.Path(path_type=Path), required=False)
@NAME
@click.option(
    "--machine",
    "machine",
    default="fusemax",
    show_default=True,
    metavar="NAME|FILE",
    help="A shipped machine, or a TOML file.",
)
@click.option("--compare", metavar="NAMES", help="Machines side by side, the first being 1.")
@click.option("--workload", default="", metavar="NAME", help="bert, trxl, t5 or xlm.")
@SIZE
@PARAM
@JSON
@click.option("--optimize", is_flag=True, help="Model the cascade that the laws derive.")
@click.option("--search", is_flag=True, help="Choose tile sizes, axes and what is held.")
@click.option("--roofline", is_flag=True, help="How long each array and level is needed.")
@click.option("--formulas", is_flag=True, help="Formulas in the extents that are not given.")
@click.option("--accounting", type=click.Choice(("honest", "artifact")), default="honest",
              show_default=True, help="What energy counts: all, or as published.")  # fmt: skip
@click.option("--explain", "cell", metavar="CELL", help="The formula of a number, or of all.")
@click.option("--plot", type=click.Path(path_type=Path), help="Write a figure (.svg, .png).")
def model(file: Path | None, name: str | None, machine: str, compare: str | None, workload: str,
          size: dict[str, int], param: dict[str, Any], as_json: bool, optimize: bool, search: bool,
          roofline: bool, formulas: bool, accounting: str, cell: str | None,
          plot: Path | None) -> None:  # fmt: skip
    """Cycles, traffic and energy on a described accelerator.

    Without FILE the cascade that the mapping of the machine is written for.
    """
    from attnc import modelling
    from attnc.ir.params import with_params
    from attnc.passes.pipeline import optimize as derived

    found = []
    chosen: list[dict[str, Any]] = []
    for label in (compare or machine).split(","):
        cascade = modelling.own_cascade(label) if file is None else _one(file, name)
        if optimize:
            cascade = derived(cascade)
        cascade = with_params(cascade, param)
        if formulas:
            click.echo(modelling.symbolic(cascade, label, workload, size))
            continue
        if search:
            choice = modelling.best(cascade, label, workload, size, frozenset(param))
            if not as_json and not compare and cell is None and not roofline:
                click.echo(modelling.searched(choice))
                continue
            found.append(choice.modelled)
            chosen.append(modelling.choice(choice))
        else:
            found.append(modelling.model(cascade, label, workload, size, accounting))
    if not found:
        return
    if plot is not None:
        modelling.plot(found, str(plot))
    if cell is not None:
        for one in found:
            if cell != "all" and cell not in one.explained:
                raise click.UsageError(f"no number {cell!r}; there are {', '.join(one.explained)}")
            for key in one.explained if cell == "all" else (cell,):
                click.echo(f"{one.machine}: {key} = {one.explained[key]}")
    elif roofline and not as_json:
        for one in found:
            click.echo(modelling.roofline(one))
    elif as_json:
        records = [
            modelling.record(one) | extra
            for one, extra in zip(found, chosen or [{} for _ in found])
        ]
        click.echo(json.dumps(records if compare else records[0], indent=2))
    else:
        click.echo(modelling.compared(found) if compare else modelling.table(found[0]))


@app.command("compile")
@FILE
@NAME
@click.option("-o", "--out", type=click.Path(path_type=Path), help="Where to write [stdout].")
@click.option("--backend", type=click.Choice(BACKENDS[1:]), default="triton", show_default=True)
@click.option("--emit", type=click.Choice(TEXTS + MACHINE), default="source", show_default=True)
@click.option("--target", default="sm_90", show_default=True, help="GPU for machine code.")
@click.option("--dtype", type=click.Choice(("f16", "bf16", "f32", "f64")), help="Input type.")
@click.option("--grad", is_flag=True, help="A PyTorch layer: kernels both ways and operators.")
@SIZE
@PARAM
def compile_(file: Path, name: str | None, out: Path | None, backend: str, emit: str, target: str,
             dtype: str | None, grad: bool, size: dict[str, int],
             param: dict[str, Any]) -> None:  # fmt: skip
    """Emit a kernel: its source, a module that needs nothing of attnc, or another stage of it."""
    if emit in MACHINE and backend != "triton":
        raise click.UsageError(f"--emit {emit} is machine code: it needs --backend triton")
    if grad and (emit != "source" or backend != "triton"):
        raise click.UsageError("--grad writes the source of a Triton module, nothing else")
    from attnc import driver, layers
    from attnc.ir.params import with_params

    dtype = dtype or ("f16" if backend == "triton" else "f32")
    cascade = with_params(_one(file, name), param)
    size = _with_known(cascade, size)
    if grad:
        _emit(layers.emit_layer(cascade, dtype=dtype, sizes=size), out, emit)
        return
    result = driver.stages(cascade, backend, dtype=dtype, sizes=size)
    text: str | bytes
    match emit:
        case "source":
            text = result.source
        case "tile":
            text = str(result.program)
        case "cascade":
            text = str(result.optimized)
        case _:
            text = driver.machine_code(result, target=target, dtype=dtype, sizes=size, emit=emit)
    _emit(text, out, emit)


def _emit(text: str | bytes, out: Path | None, emit: str) -> None:
    """What a compilation gave, into a file or on standard output; there no binary on a terminal."""
    if out is not None:
        _write(out, text)
    elif isinstance(text, str):
        click.echo(text.rstrip("\n"))
    elif sys.stdout.isatty():
        raise click.UsageError(f"{emit} is binary: write it to a file with -o")
    else:
        sys.stdout.buffer.write(text)


@app.command()
@FILE
@NAME
@click.option("--input", "inputs", type=click.Path(path_type=Path), help="Arrays by name (.npz).")
@_option("--random", SIZES, "Random inputs of these extents.")
@click.option("--output", type=click.Path(path_type=Path), help="Where results go (.npz).")
@BACKEND
@DTYPE
@PARAM
@SEED
@click.option("--verify", "compared", is_flag=True, help="Compare with the interpreter in float64.")
@JSON
def run(file: Path, name: str | None, inputs: Path | None, random: dict[str, int],
        output: Path | None, backend: str, dtype: str | None, param: dict[str, Any], seed: int,
        compared: bool, as_json: bool) -> None:  # fmt: skip
    """Execute a cascade on the arrays of a file, or on random ones."""
    if (inputs is None) == (not random):
        raise click.UsageError("give either --input FILE.npz or --random RANK=EXTENT,...")
    from attnc import running
    from attnc.ir.params import with_params

    cascade = with_params(_one(file, name), param)
    if inputs is not None:
        arrays = running.read_arrays(inputs)
    else:
        arrays = running.random_inputs(cascade, _with_known(cascade, random), dtype, seed)
    record = running.execute(cascade, backend, arrays, compared)
    if output is not None:
        running.write_arrays(output, record.results)
    click.echo(json.dumps(record.as_dict(), indent=2) if as_json else str(record))
    if not record.agrees:
        raise click.exceptions.Exit(1)


@app.command()
@FILES
@NAME
@SIZE
@PARAM
@click.option("--dtype", type=click.Choice(DTYPES), default="f32", show_default=True)
@SEED
@JSON
def verify(files: tuple[Path, ...], name: str | None, size: dict[str, int], param: dict[str, Any],
           dtype: str, seed: int, as_json: bool) -> None:  # fmt: skip
    """Compare every back-end with the interpreter in float64, on random inputs."""
    from attnc import driver
    from attnc.ir.params import with_params

    cascades = [c for file in files for c in ([_one(file, name)] if name else _all(file))]
    records = []
    for number, cascade in enumerate(cascades):
        _progress(f"{number + 1}/{len(cascades)} {cascade.name}")
        cascade = with_params(cascade, param)
        record = driver.verify(cascade, _with_known(cascade, size), dtype=dtype, seed=seed)
        records.append(record)
        _progress("")
        if not as_json:
            click.echo(str(record))
    if as_json:
        click.echo(json.dumps([record.as_dict() for record in records], indent=2))
    if not all(record.ok for record in records):
        raise click.exceptions.Exit(1)


@app.command()
@FILE
@NAME
@click.option("--after", metavar="STEP", help="The step; without it, the steps are listed.")
@click.option("--backend", type=click.Choice(BACKENDS[1:]), default="numpy", show_default=True)
@PARAM
def show(file: Path, name: str | None, after: str | None, backend: str,
         param: dict[str, Any]) -> None:  # fmt: skip
    """Print the program between two steps, or list the steps."""
    from attnc import driver
    from attnc.ir.params import with_params

    seen: dict[str, Value] = {}
    cascade = with_params(_one(file, name), param)
    driver.stages(cascade, backend, observe=seen.__setitem__)
    if after is not None:
        if after not in seen:
            raise click.UsageError(f"no step {after!r}; there are {', '.join(seen)}")
        click.echo(str(seen[after]).rstrip("\n"))
        return
    before: Value | None = None
    for step, value in seen.items():
        click.echo(f"{step:<16}{'unchanged' if value == before else type(value).__name__.lower()}")
        before = value


@app.command()
@FILE
@NAME
@_option("--random", SIZES, "Extents of the random inputs; small and ragged where left out.")
@BACKEND
@click.option("--baseline", "baselines", multiple=True, metavar="NAME",
              help="A back-end, or a function as package.module:function.")  # fmt: skip
@click.option("--repeat", type=click.IntRange(1), default=7, show_default=True)
@DTYPE
@PARAM
@SEED
@JSON
def bench(file: Path, name: str | None, random: dict[str, int], backend: str,
          baselines: tuple[str, ...], repeat: int, dtype: str | None, param: dict[str, Any],
          seed: int, as_json: bool) -> None:  # fmt: skip
    """Time a cascade against named baselines, called in turn with the same inputs."""
    from attnc import driver, running, timing
    from attnc.ir.params import with_params

    cascade = with_params(_one(file, name), param)
    arrays = running.random_inputs(cascade, _with_known(cascade, random), dtype, seed)
    chosen = (backend, *(baselines or ("interpreter",)))
    contenders = {
        label: timing.function(label, cascade)
        if ":" in label
        else driver.compile(cascade, label).run
        for label in dict.fromkeys(chosen)
    }
    rows = timing.race(contenders, arrays, repeat)
    click.echo(json.dumps(rows, indent=2) if as_json else timing.table(rows))


def _all(file: Path) -> list[Cascade]:
    from attnc.modules import load

    return list(load(file).cascades.values())


def _one(file: Path, name: str | None) -> Cascade:
    """The cascade that a command means: the named one, or the only one of the file."""
    from attnc.modules import load

    module: Module = load(file)
    names = ", ".join(module.cascades)
    if name is not None:
        if name not in module.cascades:
            raise click.UsageError(f"{file} has no cascade {name!r}; it has {names or 'none'}")
        return module.cascades[name]
    if not module.cascades:
        raise CallError(f"{file} has no cascade")
    if len(module.cascades) > 1:
        raise click.UsageError(f"{file} has several cascades: pick one with --cascade ({names})")
    return next(iter(module.cascades.values()))


def _with_known(cascade: Cascade, sizes: dict[str, int]) -> dict[str, int]:
    """The extents as given, if each is that of a rank of an input: those alone are free."""
    known = dict.fromkeys(rank for tensor in cascade.inputs for rank in tensor.ranks)
    for rank in sizes:
        if rank not in known:
            raise click.UsageError(
                f"no input of {cascade.name} has a rank {rank!r}; there are {', '.join(known)}"
            )
    return sizes


def _write(path: Path, text: str | bytes) -> None:
    try:
        path.write_bytes(text.encode() if isinstance(text, str) else text)
    except OSError as error:
        raise CallError(f"cannot write {path}: {error.strerror}") from error


def _progress(text: str) -> None:
    """One line on a terminal that the next one replaces; nothing anywhere else."""
    if sys.stderr.isatty():
        click.echo(f"\r\033[K{text}", nl=False, err=True)


def _complain(error: Exception) -> None:
    """A diagnostic on standard error, its first word in colour on a terminal."""
    text = str(error) if isinstance(error, CompileError) else f"error: {error}"
    head, colon, rest = text.partition(":")
    click.echo(click.style(head, fg="red", bold=True) + colon + rest, err=True)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and give its exit status; no input of a user's ends in a traceback."""
    try:
        status = app.main(args=argv, prog_name="attnc", standalone_mode=False)
        sys.stdout.flush()
    except (CompileError, CallError) as error:
        _complain(error)
        return 1
    except click.UsageError as error:
        error.show()
        return 2
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except InvalidIR as error:
        click.echo(f"this is a fault of attnc, not of what it was given: {error}", err=True)
        return 1
    except MemoryError as error:
        click.echo(f"error: not enough memory: {error}", err=True)
        return 1
    except (click.Abort, KeyboardInterrupt):
        click.echo("interrupted", err=True)
        return INTERRUPTED
    except BrokenPipeError:
        # Whoever read our output has gone; what is still buffered must not be flushed at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    return status if isinstance(status, int) else 0


if __name__ == "__main__":
    sys.exit(main())
