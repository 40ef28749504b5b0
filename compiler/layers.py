"""A cascade as one module to train with: kernels both ways, custom operators and a layer.

The text that `attnc compile --grad` writes. It needs torch and triton, nothing of attnc.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace

from attnc.backends.triton_launcher import allocation, filled_lines, parameter
from attnc.backends.triton_source import emit_all
from attnc.driver import heading, stages
from attnc.gradients import Gradient, differentiate
from attnc.ir.cascade import Cascade, Tensor
from attnc.ir.params import with_params
from attnc.ir.source import CompileError
from attnc.ir.tile import Program

WIDTH = 100

OPERATOR = """
@torch.library.custom_op("{space}::{short}", mutates_args=())
{head}
    return {value}


@{name}_operator.register_fake
{fake_head}
{fake}
""".strip()

AUTOGRAD = """
def _setup(ctx, inputs, output):
{saved}
    ctx.types = [value.dtype for value in inputs]


def _formula(_ctx, {arriving}):
{restored}
{backward}
{gradients}


{forward}_operator.register_autograd(_formula, setup_context=_setup)
""".strip()

AUTOCAST = '''
def _autocast(value):
    """A tensor as autocast has those of torch's own attention: what is double stays so."""
    kind = value.device.type
    if value.dtype != torch.float32 or not torch.is_autocast_enabled(kind):
        return value
    return value.to(torch.get_autocast_dtype(kind))
'''.strip()

LAYER = '''
{head}
    """{signature}."""
{call}
    return {value}


class {layer}(torch.nn.Module):
    """`{function}` as a layer; what it computes stands at the top of this file."""

    forward = staticmethod({function})

    def extra_repr(self):
        return "{constants}"
'''.strip()


@dataclass(frozen=True, slots=True)
class Part:
    """One of the two directions: its cascade, its tile program and what is told of them."""

    cascade: Cascade
    program: Program
    heading: str

    @property
    def name(self) -> str:
        return parameter(self.program.name)


def emit_layer(
    cascade: Cascade,
    wrt: Sequence[str] | None = None,
    *,
    dtype: str = "f16",
    sizes: dict[str, int] | None = None,
    **params: int | float | bool,
) -> str:
    """The text of a module with a function and a `torch.nn.Module` of the cascade, trainable.

    It imports torch and triton only. Gradients flow to the inputs of `wrt`: all of a floating type
    where it is left out. `params` are parameters of the cascade by name, which are constants of the
    module. `dtype` and `sizes` choose tiles, and in f64 what is saved between the two directions is
    f64 too. Raises CompileError where something has no derivative or cannot be lowered.
    """
    cascade = with_params(cascade, params)
    found = differentiate(cascade, wrt, "f64" if dtype == "f64" else "f32")
    # Where nothing is saved, the forward direction is the cascade itself, with its name.
    forth = replace(found.forward, name=f"{cascade.name}_forward")
    parts = []
    for half in (forth, found.backward):
        result = stages(half, "triton", dtype=dtype, sizes=sizes)
        parts.append(Part(half, result.program, heading(half, result.optimized)))
    forward, backward = parts
    _distinct(forward, backward)
    header = f"{forward.heading}\n\n\n{backward.heading}"
    kernels = emit_all((forward.program, backward.program), header)
    # One process may hold several of these modules, and each has operators of its own.
    space = f"attnc_{cascade.name}_{hashlib.sha256(kernels.encode()).hexdigest()[:12]}"
    sections = (
        kernels.rstrip("\n"),
        _operator(forward, space, "forward"),
        _operator(backward, space, "backward"),
        _autograd(found, forward, backward),
        AUTOCAST,
        _layer(cascade, forward),
    )
    return "\n\n\n".join(sections) + "\n"


def _distinct(*parts: Part) -> None:
    """What the functions of the module call, and what they call their own, is no tensor."""
    taken = {"_ctx", "_found", "_autocast"}
    taken |= {name for part in parts for name in (part.name, f"{part.name}_operator")}
    taken |= {f"_{number}" for number in range(len(parts[0].cascade.outputs))}
    for tensor in (t for part in parts for t in (*part.cascade.inputs, *part.cascade.outputs)):
        if tensor.name in taken:
            raise CompileError(
                f"a module with a gradient has a {tensor.name} of its own", tensor.span
            )


def _wrapped(opening: str, items: list[str], closing: str, indent: int = 4) -> str:
    """Items between brackets, on one line if they fit."""
    margin = " " * indent
    # A tuple of one needs its comma; the arguments of a call do not.
    comma = "," if len(items) == 1 and opening == "return (" else ""
    line = f"{margin}{opening}{', '.join(items)}{comma}{closing}"
    if len(line) <= WIDTH:
        return line
    inside = (f"{margin}    {line}" for line in filled_lines(items, WIDTH - 4 - indent))
    return "\n".join((f"{margin}{opening}", *inside, f"{margin}{closing}"))


def _unpacked(names: list[str], value: str) -> str:
    line = f"    {', '.join(names)}{',' * (len(names) == 1)} = {value}"
    return line if len(line) <= WIDTH else _wrapped("(", names, f") = {value}")


def _names(tensors: tuple[Tensor, ...]) -> list[str]:
    return [parameter(tensor.name) for tensor in tensors]


def _operator(part: Part, space: str, short: str) -> str:
    names, count = _names(part.program.inputs), len(part.program.outputs)
    typed = [f"{name}: torch.Tensor" for name in names]
    result = "torch.Tensor" if count == 1 else f"tuple[{', '.join(['torch.Tensor'] * count)}]"
    call = f"{part.name}({', '.join(names)})"
    return OPERATOR.format(
        space=space,
        short=short,
        name=part.name,
        head=_wrapped(f"def {part.name}_operator(", typed, f") -> {result}:", 0),
        fake_head=_wrapped("def _(", names, "):", 0),
        value=call if count == 1 else f"tuple({call})",
        fake="\n".join(allocation(part.program)),
    )


def _autograd(found: Gradient, forward: Part, backward: Part) -> str:
    """The formula of the gradient: what is kept of the forward direction, and who reads it."""
    given, made = _names(forward.program.inputs), _names(forward.program.outputs)
    places = {name: f"inputs[{number}]" for number, name in enumerate(given)}
    places |= {name: f"output[{number}]" for number, name in enumerate(made)}
    if len(made) == 1:
        places[made[0]] = "output"
    reads = _names(backward.program.inputs)
    cotangents = {output: parameter(name) for output, name in found.cotangents.items()}
    kept = [name for name in reads if name not in cotangents.values()]
    arriving = [
        cotangents.get(tensor.name, f"_{number}")
        for number, tensor in enumerate(forward.program.outputs)
    ]
    results = [tensor.name for tensor in backward.program.outputs]
    gradients = []
    for number, tensor in enumerate(forward.program.inputs):
        if tensor.name in found.gradients:
            place = results.index(found.gradients[tensor.name])
            value = "_found" if len(results) == 1 else f"_found[{place}]"
            gradients.append(f"{value}.to(_ctx.types[{number}])")
        else:
            gradients.append("None")
    return AUTOGRAD.format(
        saved=_wrapped("ctx.save_for_backward(", [places[name] for name in kept], ")"),
        arriving=", ".join(arriving),
        restored=_unpacked(kept, "_ctx.saved_tensors"),
        backward=_wrapped(f"_found = {backward.name}_operator(", reads, ")"),
        gradients=_wrapped("return (", gradients, ")"),
        forward=forward.name,
    )


def _layer(cascade: Cascade, forward: Part) -> str:
    names, count = _names(forward.program.inputs), len(cascade.outputs)
    cast = [
        f"_autocast({name})" if tensor.dtype == "float" else name
        for name, tensor in zip(names, forward.program.inputs)
    ]
    whole = len(forward.program.outputs) == count
    function = parameter(cascade.name)
    inputs, outputs = (
        ", ".join(f"{tensor.name}[{', '.join(tensor.ranks)}]" for tensor in tensors)
        for tensors in (cascade.inputs, cascade.outputs)
    )
    return LAYER.format(
        head=_wrapped(f"def {function}(", names, "):", 0),
        signature=f"{inputs} -> {outputs}",
        call=_wrapped(f"_found = {forward.name}_operator(", cast, ")"),
        value="_found" if whole else "_found[0]" if count == 1 else f"_found[:{count}]",
        function=function,
        layer="".join(word.capitalize() for word in cascade.name.split("_")) + "Layer",
        constants=", ".join(f"{decl.name}={decl.default}" for decl in cascade.params),
    )


__all__ = ["emit_layer"]
