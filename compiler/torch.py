"""A cascade as a PyTorch function that can be trained: `attnc.torch.function(cascade)`.

Two custom operators stand behind one: the cascade alone, for inference, and the cascade with what
its adjoint reads, whose autograd formula is a third, the adjoint. All have shapes for tensors
without storage, so that `torch.compile`, `torch.export` and friends see through none of it and
through all around it. On a GPU the Triton kernels run, on the CPU the NumPy executor, which reads
tensors where they lie.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any

from attnc.backends.launch import Kernel
from attnc.driver import compile as compile_cascade
from attnc.gradients import differentiate
from attnc.ir.cascade import FLOATS, Cascade, Tensor
from attnc.ir.expr import Const, Expr, Extent, Map, Param
from attnc.ir.params import with_params
from attnc.ir.source import CallError, CompileError, InvalidIR

torch: Any = import_module("torch")

NAMESPACE = "attnc"

TYPES: dict[str, Any] = {
    "f16": torch.float16, "bf16": torch.bfloat16, "f32": torch.float32, "f64": torch.float64,
    "f8e4m3": torch.float8_e4m3fn, "f8e5m2": torch.float8_e5m2, "int": torch.int32,
    "bool": torch.bool,
}  # fmt: skip

SHORT = {dtype: name for name, dtype in TYPES.items() if name in FLOATS}


@dataclass(frozen=True, slots=True)
class Function:
    """A cascade as a function of tensors, by position or by name, with an autograd formula.

    One output comes back as itself, several as a tuple in the order of the header. Gradients flow
    to the inputs of `wrt`. Under autocast the inputs of a floating type are cast as torch's own
    attention casts its. Raises CallError for arguments that do not fit.
    """

    cascade: Cascade
    wrt: tuple[str, ...]
    plain: Any
    training: Any

    def __call__(self, *args: Any, **named: Any) -> Any:
        given = self._arguments(args, named)
        wanted = torch.is_grad_enabled() and any(value.requires_grad for value in given)
        count = len(self.cascade.outputs)
        results = (self.training if wanted else self.plain)(*given)
        if isinstance(results, torch.Tensor):
            return results
        return results[0] if count == 1 else tuple(results[:count])

    def _arguments(self, args: tuple[Any, ...], named: dict[str, Any]) -> list[Any]:
        names = [tensor.name for tensor in self.cascade.inputs]
        if len(args) > len(names):
            raise CallError(f"{self.cascade.name} takes {len(names)} inputs, not {len(args)}")
        given = dict(zip(names, args))
        for name, value in named.items():
            if name not in names:
                raise CallError(f"{self.cascade.name} has no input {name}")
            if name in given:
                raise CallError(f"{name} is given twice")
            given[name] = value
        missing = [name for name in names if name not in given]
        if missing:
            raise CallError(f"{self.cascade.name} needs {', '.join(missing)} as well")
        return [self._cast(tensor, given[tensor.name]) for tensor in self.cascade.inputs]

    def _cast(self, tensor: Tensor, value: Any) -> Any:
        if not isinstance(value, torch.Tensor):
            raise CallError(f"{tensor.name} must be a tensor, not {type(value).__name__}")
        kind = value.device.type
        if tensor.dtype == "float" and torch.is_autocast_enabled(kind):
            lower = torch.get_autocast_dtype(kind)
            # What is double is so on purpose, here as in torch.
            value = value.to(lower) if value.dtype == torch.float32 else value
        # What has nothing to detach stays itself: block lists are kept with their tables.
        return value.detach() if value.requires_grad and tensor.name not in self.wrt else value


@dataclass(slots=True)
class Program:
    """A cascade with its compiled forms, each made when a tensor first asks for it."""

    cascade: Cascade
    compiled: dict[tuple[str, str], Callable[..., Any]] = field(default_factory=dict)

    def run(self, given: Sequence[Any]) -> tuple[Any, ...]:
        """The outputs for some inputs, on the device where these are."""
        first = self._first(given)
        key = (given[0].device.type, SHORT.get(first, "f32"))
        if key not in self.compiled:
            self.compiled[key] = self._made(*key)
        found = self.compiled[key](*given)
        if len(self.cascade.outputs) == 1:
            found = (found,)
        return tuple(
            result.to(first if tensor.dtype == "float" else TYPES[tensor.dtype])
            for tensor, result in zip(self.cascade.outputs, found)
        )

    def _made(self, device: str, dtype: str) -> Callable[..., Any]:
        if device != "cuda":
            return compile_cascade(self.cascade, "numpy")
        compiled = compile_cascade(self.cascade, "triton", dtype=dtype)
        if compiled.crossover is None and isinstance(compiled.runner, Kernel):
            # The launcher checks its arguments itself: once is enough where a GPU is waiting.
            return compiled.runner.launch
        return compiled

    def shapes(self, given: Sequence[Any]) -> list[Any]:
        """Tensors without values of the shapes, types and device of the outputs."""
        first = self._first(given)
        extents = {
            rank: extent
            for tensor, value in zip(self.cascade.inputs, given)
            for rank, extent in zip(tensor.ranks, value.shape)
        }
        params = {decl.name: decl.default for decl in self.cascade.params}
        for decl in self.cascade.ranks:
            if decl.name not in extents:
                extents[decl.name] = _extent(decl.extent, extents, params)
        device = given[0].device
        return [
            torch.empty(
                [extents[rank] for rank in tensor.ranks],
                dtype=_dtype(tensor, first),
                device=device,
            )
            for tensor in self.cascade.outputs
        ]

    def _first(self, given: Sequence[Any]) -> Any:
        """The type of the first input of a floating type."""
        kinds = (v.dtype for t, v in zip(self.cascade.inputs, given) if t.dtype in FLOATS)
        return next(kinds, torch.float32)


def _dtype(tensor: Tensor, first: Any) -> Any:
    return first if tensor.dtype == "float" else TYPES[tensor.dtype]


def _extent(expr: Expr, extents: dict[str, Any], params: dict[str, Any]) -> Any:
    """An extent by operations that torch can follow where sizes are symbols."""
    match expr:
        case Const(value):
            return value
        case Extent(rank):
            return extents[rank]
        case Param(name):
            return params[name]
        case Map("ceil", (Map("/", (above, below)),)):
            return -(-_extent(above, extents, params) // _extent(below, extents, params))
        case Map(op, args) if op in _EXTENTS:
            return _EXTENTS[op](*(_extent(arg, extents, params) for arg in args))
        case _:
            raise InvalidIR("an extent that is none")


_EXTENTS: dict[str, Any] = {
    "+": lambda a, b: a + b,
    "-": lambda a, b: a - b,
    "*": lambda a, b: a * b,
    "//": lambda a, b: a // b,
    "/": lambda a, b: a / b,
    "%": lambda a, b: a % b,
    "min": torch.sym_min,
    "max": torch.sym_max,
    "ceil": math.ceil,
    "floor": math.floor,
}


_KNOWN: dict[str, Function] = {}


def function(
    cascade: Cascade, wrt: Sequence[str] | None = None, **params: int | float | bool
) -> Function:
    """A cascade as a differentiable PyTorch function; `params` are its parameters by name.

    `wrt` names the inputs that gradients flow to: all of a floating type where it is left out.
    Raises CompileError where the cascade cannot be differentiated or lowered.
    """
    cascade = with_params(cascade, params)
    single = differentiate(cascade, wrt)
    names = tuple(single.gradients)
    text = f"{cascade}{names}{cascade.params}"
    label = f"{cascade.name}_{hashlib.sha256(text.encode()).hexdigest()[:12]}"
    if label not in _KNOWN:
        plain = _registered(label, cascade, {"": Program(cascade)})
        training = _trainable(label, cascade, names)
        _KNOWN[label] = Function(cascade, names, plain, training)
    return _KNOWN[label]


def _registered(label: str, cascade: Cascade, programs: dict[str, Program]) -> Any:
    """A custom operator that runs a cascade; `programs` by the type that statistics have."""

    def chosen(given: Sequence[Any]) -> Program:
        double = any(value.dtype == torch.float64 for value in given)
        return programs.get("f64" if double else "f32") or programs[""]

    def run(*given: Any) -> Any:
        results = chosen(given).run(given)
        return results[0] if len(results) == 1 else results

    def fake(*given: Any) -> Any:
        results = chosen(given).shapes(given)
        return results[0] if len(results) == 1 else tuple(results)

    def batched(info: Any, axes: Sequence[int | None], *given: Any) -> Any:
        """One call for each entry of the mapped axis, which no rank of the cascade stands for."""
        parts = [
            operator(*(
                value if axis is None else value.select(axis, entry)
                for value, axis in zip(given, axes)
            ))
            for entry in range(info.batch_size)
        ]  # fmt: skip
        if isinstance(parts[0], torch.Tensor):
            return torch.stack(parts), 0
        return tuple(map(torch.stack, zip(*parts))), (0,) * len(parts[0])

    count = len(cascade.outputs)
    inputs = ", ".join(f"Tensor input{number}" for number in range(len(cascade.inputs)))
    outputs = "Tensor" if count == 1 else f"({', '.join(['Tensor'] * count)})"
    operator: Any = torch.library.custom_op(
        f"{NAMESPACE}::{label}", run, mutates_args=(), schema=f"({inputs}) -> {outputs}"
    )
    operator.register_fake(fake)
    operator.register_vmap(batched)
    return operator


def _trainable(label: str, cascade: Cascade, wrt: tuple[str, ...]) -> Any:
    """The operator that yields what the adjoint reads, with the adjoint as its formula."""
    kinds = {kind: differentiate(cascade, wrt, kind) for kind in ("f32", "f64")}
    found = kinds["f32"]
    forward = _registered(
        f"{label}_forward",
        found.forward,
        {kind: Program(each.forward) for kind, each in kinds.items()},
    )
    backward = _registered(
        f"{label}_backward",
        found.backward,
        {kind: Program(each.backward) for kind, each in kinds.items()},
    )
    names = [tensor.name for tensor in cascade.inputs]
    outputs = [tensor.name for tensor in found.forward.outputs]
    reads = [tensor.name for tensor in found.backward.inputs]
    cotangents = {name: output for output, name in found.cotangents.items()}
    kept = [name for name in reads if name not in cotangents]

    def setup(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        given = dict(zip(names, inputs))
        results = (output,) if isinstance(output, torch.Tensor) else output
        made = dict(zip(outputs, results))
        ctx.save_for_backward(*(made[n] if n in made else given[n] for n in kept))
        ctx.types = {name: value.dtype for name, value in given.items()}
        ctx.set_materialize_grads(True)

    def formula(ctx: Any, *gradients: Any) -> tuple[Any, ...]:
        arriving = dict(zip(outputs, gradients))
        values = dict(zip(kept, ctx.saved_tensors))
        values |= {name: arriving[output] for name, output in cotangents.items()}
        results = backward(*(values[name] for name in reads))
        results = (results,) if isinstance(results, torch.Tensor) else results
        by_input = dict(zip(found.gradients, results))
        return tuple(
            by_input[name].to(ctx.types[name]) if name in by_input else None for name in names
        )

    forward.register_autograd(formula, setup_context=setup)
    return forward


__all__ = ["CompileError", "Function", "function"]
