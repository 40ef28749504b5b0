"""The adjoint of a cascade, as a cascade, and the cascade that yields what it reads."""

from __future__ import annotations

from dataclasses import replace

from attnc.ir.cascade import FLOATS, Cascade, Einsum, Left, Step, Tensor
from attnc.ir.expr import ZERO
from attnc.ir.source import CallError, CompileError, nearest
from attnc.passes.clean import remove_dead
from attnc.passes.fiber import Names
from attnc.passes.gradient.divide import Gradient, Whole, sorted_by_reads
from attnc.passes.gradient.logs import Logs
from attnc.passes.gradient.loops import LoopSweep
from attnc.passes.gradient.regroup import regrouped
from attnc.passes.gradient.shift import Shift, shifts
from attnc.passes.gradient.sweep import active_tensors
from attnc.passes.gradient.tidy import mapped, scaled, tidied
from attnc.passes.normalise import normalise


def chosen(cascade: Cascade, wrt: tuple[str, ...] | None) -> tuple[str, ...]:
    """The inputs to differentiate by: all of a floating type where none are named.

    Raises CallError for a name that is no input and CompileError, at its declaration, for an
    input whose values are not continuous.
    """
    if wrt is None:
        return tuple(tensor.name for tensor in cascade.inputs if tensor.dtype in FLOATS)
    for name in wrt:
        tensor = cascade.input(name)
        if tensor is None:
            hint = nearest(name, [t.name for t in cascade.inputs])
            raise CallError(f"{cascade.name} has no input {name}" + (f"; {hint}" if hint else ""))
        if tensor.dtype not in FLOATS:
            raise CompileError(
                f"{name} holds {tensor.dtype} values: nothing has a derivative by it",
                tensor.span,
                code="E311",
            )
    return tuple(dict.fromkeys(wrt))


def rebatched(cascade: Cascade, wrt: tuple[str, ...]) -> Cascade:
    """Batch ranks that an input of `wrt` lacks, and those behind them, made plain ranks."""
    kept = 0
    for number, rank in enumerate(cascade.batch):
        if any(
            tensor.ranks[number : number + 1] != (rank,) or tensor.batch <= number
            for tensor in cascade.inputs
            if tensor.name in wrt
        ):
            break
        kept = number + 1
    if kept == len(cascade.batch):
        return cascade
    batch = cascade.batch[:kept]

    def own(tensor: Tensor) -> Tensor:
        leading = 0
        for rank in tensor.ranks[: tensor.batch]:
            if rank not in batch:
                break
            leading += 1
        return replace(tensor, batch=leading)

    return replace(
        cascade,
        batch=batch,
        inputs=tuple(own(tensor) for tensor in cascade.inputs),
        outputs=tuple(own(tensor) for tensor in cascade.outputs),
    )


def differentiate(
    cascade: Cascade, wrt: tuple[str, ...] | None = None, statistics: str = "f32"
) -> Gradient:
    """Reverse-mode differentiation of a checked cascade by some of its inputs.

    `statistics` is the type in which row statistics are saved. Raises CompileError for what has
    no derivative, CallError for a name that is no input.
    """
    wrt = chosen(cascade, wrt)
    written = rebatched(normalise(cascade), wrt)
    names = Names(written)
    cotangents = {
        tensor.name: names.fresh(f"d{tensor.name}")
        for tensor in written.outputs
        if tensor.dtype in FLOATS
    }
    found = shifts(written, active_tensors(written, wrt, frozenset()))
    constants = frozenset(shift.tensor for shift in found)
    logs = Logs(written, names)
    folded = sorted_by_reads(_with(mapped(written, logs.fold), logs.made))
    adjoints = LoopSweep(folded, wrt, cotangents, constants, names).run()
    places = normalise(replace(folded, einsums=(*folded.einsums, *adjoints.early))).einsums
    early = places[len(folded.einsums) :]
    before = frozenset(einsum.target for einsum in places)
    program = replace(
        folded,
        name=f"{written.name}_backward",
        inputs=(*written.inputs, *_given(written, cotangents)),
        einsums=(*places, *adjoints.einsums),
        ranks=(*written.ranks, *adjoints.ranks),
        schedule=(),
    )
    program = _with_gradients(program, wrt, adjoints.names, names)
    program = normalise(program)
    late = frozenset(einsum.target for einsum in program.einsums) - before
    program = sorted_by_reads(_with(tidied(program, late, logs.fold), logs.made))
    program, parts = regrouped(program, late, names)
    program = scaled(normalise(program), late, names)
    made = (*logs.made, *early, *parts)
    whole = Whole(
        cascade, written, sorted_by_reads(remove_dead(program)), made, cotangents, wrt, statistics
    )
    return whole.divided(names, story(found, logs, parts))


def _given(cascade: Cascade, cotangents: dict[str, str]) -> tuple[Tensor, ...]:
    return tuple(
        Tensor(cotangents[tensor.name], tensor.ranks, tensor.batch, tensor.dtype)
        for tensor in cascade.outputs
        if tensor.name in cotangents
    )


def _with_gradients(
    program: Cascade, wrt: tuple[str, ...], adjoints: dict[str, str], names: Names
) -> Cascade:
    """The adjoints of `wrt` as outputs; an input that no output depends on has zeros."""
    einsums = list(program.einsums)
    outputs: list[Tensor] = []
    for tensor in (t for t in program.inputs if t.name in wrt):
        name = adjoints.get(tensor.name)
        if name is None:
            name = names.fresh(f"d{tensor.name}")
            einsums.append(Einsum(name, tuple(map(Left, tensor.ranks)), ZERO))
        outputs.append(Tensor(name, tensor.ranks, len(program.batch), tensor.dtype))
    return replace(program, einsums=tuple(einsums), outputs=tuple(outputs))


def _with(cascade: Cascade, made: list[Einsum]) -> Cascade:
    """The cascade with the logarithms that were given a name."""
    present = {einsum.target for einsum in cascade.einsums}
    more = tuple(einsum for einsum in made if einsum.target not in present)
    return replace(cascade, einsums=(*cascade.einsums, *more))


def story(found: tuple[Shift, ...], logs: Logs, parts: tuple[Einsum, ...]) -> tuple[Step, ...]:
    """The laws that shortened the adjoint, as steps."""
    steps = [
        Step(
            "shift",
            "",
            (shift.tensor, *shift.scaled),
            0,
            0,
            f"nothing depends on {shift.tensor}, whose scale cancels: its adjoint is 0",
            shift.proof,
        )
        for shift in found
    ]
    steps += [
        Step(
            "logarithm",
            "",
            (einsum.target,),
            0,
            0,
            f"{einsum.target} is saved instead of a maximum and a sum",
            "exp(x - g) / d = exp(x - (g + log(d))) for d > 0",
        )
        for einsum in logs.made
    ]
    steps += [
        Step(
            "name",
            "",
            (einsum.target,),
            0,
            0,
            f"{einsum.target} is a contraction that both sweeps need",
            "products distribute over sums",
        )
        for einsum in parts
    ]
    return tuple(steps)
