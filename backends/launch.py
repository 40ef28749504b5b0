"""Writes, imports, compiles and calls emitted modules: the one place that knows PyTorch and Triton.

Neither is imported before something is compiled or called.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy

from attnc.backends.shapes import DTYPES, Shape, stand_in
from attnc.backends.triton_launcher import parameter
from attnc.ir.source import CallError, CompileError
from attnc.ir.tile import Program

TORCH_TYPES = {
    "f16": "float16", "bf16": "bfloat16", "f32": "float32", "f64": "float64",
    "f8e4m3": "float8_e4m3fn", "f8e5m2": "float8_e5m2", "int": "int32", "bool": "bool",
}  # fmt: skip
TEXTS = ("ttir", "ttgir", "llir", "ptx")
FORMS = (*TEXTS, "cubin", "sass")
"""What a kernel can be compiled to, from Triton's own form to the machine's instructions."""

CAPABILITIES = (70, 72, 75, 80, 86, 87, 89, 90, 100, 103, 110, 120, 121)
"""GPUs that Triton writes code for; asked for another one, LLVM ends the process."""

USUAL_EXTENT = 1024
"""Extent of a rank for which none is given: only that it divides by 16 enters the code."""


def cache_directory() -> Path:
    """Where emitted modules are kept: ATTNC_CACHE, else `attnc` in the user's cache."""
    chosen = os.environ.get("ATTNC_CACHE")
    if chosen:
        return Path(chosen)
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "attnc"


def load(source: str, name: str, torch: ModuleType | None = None) -> ModuleType:
    """The module of an emitted text, which is written to the cache first (Triton reads files).

    It imports `torch` as PyTorch, if that is given.
    """
    digest = hashlib.sha256(source.encode()).hexdigest()[:20]
    module_name = f"attnc_{'emitted' if torch is None else 'shapes'}_{name}_{digest}"
    known = sys.modules.get(module_name)
    if known is not None:
        return known
    path = cache_directory() / f"{module_name}.py"
    if not path.exists() or path.read_text(encoding="utf-8") != source:
        path.parent.mkdir(parents=True, exist_ok=True)
        # Another process may be writing the same text: the last step is one that cannot be halved.
        with tempfile.NamedTemporaryFile(
            "w", encoding="utf-8", dir=path.parent, suffix=".tmp", delete=False
        ) as file:
            file.write(source)
        os.replace(file.name, path)
    spec = importlib.util.spec_from_file_location(module_name, path)
    if spec is None or spec.loader is None:
        raise CallError(f"cannot import {path}")
    module = importlib.util.module_from_spec(spec)
    sys.modules[module_name] = module
    try:
        with _imported(torch):
            spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[module_name]
        raise
    return module


@contextmanager
def _imported(torch: ModuleType | None) -> Iterator[None]:
    """`import torch` gives another module meanwhile."""
    if torch is None:
        yield
        return
    before = sys.modules.get("torch")
    sys.modules["torch"] = torch
    try:
        yield
    finally:
        if before is None:
            del sys.modules["torch"]
        else:
            sys.modules["torch"] = before


def require() -> tuple[Any, Any]:
    """PyTorch and Triton, or an error that says what to install."""
    try:
        return importlib.import_module("torch"), importlib.import_module("triton")
    except ImportError as error:
        raise CallError(
            f"the Triton back-end needs PyTorch and Triton ({error.name} is missing): "
            "pip install 'attnc[triton]'"
        ) from error


def _triton() -> Any:
    """Triton, before anything stands in for PyTorch, or an error that says what to install."""
    try:
        return importlib.import_module("triton")
    except ImportError as error:
        raise CallError("compiling needs Triton: pip install 'attnc[triton]'") from error


def interpreted() -> bool:
    """Whether kernels run in Triton's interpreter, on NumPy."""
    return os.environ.get("TRITON_INTERPRET", "0").lower() in ("1", "true", "on", "yes")


def _mend_interpreter() -> None:
    """Let Triton's interpreter do three things that the compiler does.

    It keeps bfloat16 as 16-bit integers and, up to 3.9 at least, multiplies those integers
    (triton-lang/triton#11584); widened to float32 first, the products are exact. It spreads a
    scalar condition over a tile as a tile of numbers, which cannot be joined with others. Up to
    3.6 it takes a loop's bound from an array of one element in a way that NumPy 2.4 refuses.
    """
    language = importlib.import_module("triton.language")
    interpreter: Any = importlib.import_module("triton.runtime.interpreter")
    builder: Any = interpreter.InterpreterBuilder
    if getattr(builder, "mended", False):
        return
    multiply, splat = builder.create_dot, builder.create_splat
    patch = interpreter._patch_lang_tensor

    def widened(handle: Any) -> Any:
        if handle.dtype.scalar != language.bfloat16 or handle.data.dtype != numpy.uint16:
            return handle
        bits = handle.data.astype(numpy.uint32) << 16
        return interpreter.TensorHandle(bits.view(numpy.float32), language.float32)

    def create_dot(self: Any, a: Any, b: Any, *rest: Any) -> Any:
        return multiply(self, widened(a), widened(b), *rest)

    def create_splat(self: Any, kind: Any, handle: Any) -> Any:
        if handle.data.dtype != numpy.bool_:
            return splat(self, kind, handle)
        return interpreter.TensorHandle(numpy.full(kind.shape, handle.data), language.int1)

    def patch_tensor(tensor: Any, scope: Any) -> None:
        patch(tensor, scope)
        scope.set_attr(tensor, "__index__", lambda self: int(self.handle.data.item()))

    builder.create_dot, builder.create_splat = create_dot, create_splat
    interpreter._patch_lang_tensor = patch_tensor
    builder.mended = True


def _runnable(torch: Any, device: Any) -> None:
    """Raise CallError, and say what is missing, where no kernel can run on a device."""
    if interpreted():
        return
    if not torch.cuda.is_available():
        raise CallError(
            "a Triton kernel needs a GPU with CUDA and there is none: use the NumPy back-end, "
            "or set TRITON_INTERPRET=1 before starting Python to run it in Triton's interpreter"
        )
    if device.type == "cpu":
        raise CallError("the inputs are on the CPU: move them to the GPU first (x.cuda())")


@dataclass(slots=True)
class Kernel:
    """An emitted module, ready to be called as the cascade that it came from."""

    program: Program
    source: str
    _module: ModuleType | None = field(default=None, repr=False, compare=False)

    def __call__(self, /, *args: Any, **named: Any) -> Any:
        """Run on PyTorch tensors, or on NumPy arrays and get NumPy arrays back.

        Raises `CallError` where arguments do not fit and where no GPU is there to run on.
        """
        torch, _ = require()
        inputs = self._arguments(args, named)
        device = next(
            (value.device for value in inputs.values() if isinstance(value, torch.Tensor)),
            torch.device("cpu" if interpreted() else "cuda"),
        )
        _runnable(torch, device)
        result = self.launch(*(
            value if isinstance(value, torch.Tensor) else _tensor(torch, value).to(device)
            for value in inputs.values()
        ))  # fmt: skip
        if any(isinstance(value, torch.Tensor) for value in inputs.values()):
            return result
        if isinstance(result, tuple):
            return type(result)(*(_array(torch, part) for part in result))
        return _array(torch, result)

    def launch(self, *tensors: Any) -> Any:
        """Run on tensors in the order of the inputs, all on one device that can run the kernels.

        Raises `CallError` where they do not fit.
        """
        if self._module is None:
            self._module = load(self.source, self.program.name)
        function = getattr(self._module, parameter(self.program.name))
        try:
            if not interpreted():
                return function(*tensors)
            _mend_interpreter()
            # The interpreter computes with NumPy; a division by zero is no cause for alarm.
            with numpy.errstate(all="ignore"):
                return function(*tensors)
        except self._module.CallError as error:
            raise CallError(str(error)) from None

    def _arguments(self, args: tuple[Any, ...], named: Mapping[str, Any]) -> dict[str, Any]:
        names = [tensor.name for tensor in self.program.inputs]
        if len(args) > len(names):
            raise CallError(f"{self.program.name} takes {len(names)} inputs, not {len(args)}")
        given = dict(zip(names, args))
        for name, value in named.items():
            if name not in names:
                raise CallError(f"{self.program.name} has no input {name}")
            if name in given:
                raise CallError(f"{name} is given twice")
            given[name] = value
        missing = [name for name in names if name not in given]
        if missing:
            raise CallError(f"missing: {', '.join(missing)}")
        return {name: given[name] for name in names}


@dataclass(slots=True)
class _Launch:
    """Stands for a kernel in its module and notes how the launcher would start it."""

    function: Any
    calls: list[tuple[Any, dict[str, Any], dict[str, Any]]]

    def __getitem__(self, grid: tuple[int, ...]) -> Any:
        def note(*args: Any, **named: Any) -> None:
            names = self.function.arg_names
            values = dict(zip(names, args)) | {n: v for n, v in named.items() if n in names}
            options = {n: v for n, v in named.items() if n not in names}
            self.calls.append((self.function, values, options))

        return note


@dataclass(frozen=True, slots=True)
class Compiled:
    """A kernel compiled for a GPU: its forms by name, and what an instance occupies.

    `registers` are those of a thread, `spills` the bytes of local memory of a thread, `shared`
    the bytes of shared memory of an instance of `warps` warps.
    """

    name: str
    forms: dict[str, str | bytes]
    registers: int
    spills: int
    shared: int
    warps: int


def compile_kernels(
    source: str,
    program: Program,
    *,
    target: str = "sm_90",
    dtype: str = "f16",
    sizes: Mapping[str, int] | None = None,
) -> list[Compiled]:
    """Compile every kernel of an emitted module for a GPU that need not be there.

    The launcher is run on tensors without storage, so that types, constants and options are those
    of a real call: `dtype` is the type of inputs declared `float`, `sizes` the extents (the
    widths of heads, as a rule); `target` is a compute capability such as "sm_90".
    """
    triton = _triton()
    if interpreted():
        raise CallError("Triton compiles nothing while TRITON_INTERPRET=1 is set")
    module = load(source, program.name, stand_in())
    calls: list[tuple[Any, dict[str, Any], dict[str, Any]]] = []
    originals = {name: value for name, value in vars(module).items() if name.endswith("_kernel")}
    extents: dict[str, int] = dict(sizes or {})
    inputs = [
        Shape(
            tuple(extents.get(rank, USUAL_EXTENT) for rank in tensor.ranks),
            DTYPES[TORCH_TYPES[dtype if tensor.dtype == "float" else tensor.dtype]],
        )
        for tensor in program.inputs
    ]
    capability = _capability(target)
    known = vars(module).get("_generation")
    try:
        for name, function in originals.items():
            setattr(module, name, _Launch(function, calls))
        if known is not None:
            originals["_generation"] = known
            vars(module)["_generation"] = lambda device: capability // 10
        getattr(module, parameter(program.name))(*inputs)
    finally:
        for name, function in originals.items():
            setattr(module, name, function)
    return [_compile(triton, capability, *call) for call in calls]


def _compile(
    triton: Any, capability: int, function: Any, values: dict[str, Any], options: dict[str, Any]
) -> Compiled:
    signature: dict[str, str] = {}
    constants: dict[tuple[int, ...], Any] = {}
    hints: dict[tuple[int, ...], list[list[object]]] = {}
    declared = {param.name for param in function.params if param.is_constexpr}
    for place, (name, value) in enumerate((n, values[n]) for n in function.arg_names):
        # What follows is how Triton specialises the arguments of a real launch.
        if name in declared or (isinstance(value, int) and value == 1):
            signature[name] = "constexpr"
            constants[(place,)] = value
            continue
        if isinstance(value, int):
            signature[name] = "i32" if -(2**31) <= value < 2**31 else "i64"
            divisible = value % 16 == 0
        else:
            signature[name] = f"*{_pointee(str(value.dtype))}"
            divisible = True
        if divisible:
            hints[(place,)] = [["tt.divisibility", 16]]
    targets = importlib.import_module("triton.backends.compiler")
    with warnings.catch_warnings():
        # The options say whether products and sums are fused: its default is of no concern.
        warnings.filterwarnings("ignore", message="TRITON_DEFAULT_FP_FUSION")
        compiled = triton.compile(
            triton.compiler.ASTSource(function, signature, constants, hints),
            target=targets.GPUTarget("cuda", capability, 32),
            options=options,
        )
    forms: dict[str, str | bytes] = {form: compiled.asm[form] for form in TEXTS}
    cubin = compiled.asm["cubin"]
    forms["cubin"] = cubin
    registers, spills = resources(cubin)
    metadata = compiled.metadata
    return Compiled(
        function.__name__, forms, registers, spills, metadata.shared, metadata.num_warps
    )


def _tensor(torch: ModuleType, array: Any) -> Any:
    """An array or number as a tensor in place; PyTorch has no negative strides, so those go."""
    backwards = any(stride < 0 for stride in getattr(array, "strides", ()))
    return torch.as_tensor(array.copy() if backwards else array)


def _array(torch: ModuleType, tensor: Any) -> Any:
    """A tensor as an array; of a type that NumPy lacks, widened to float32."""
    lacking = (torch.bfloat16, torch.float8_e4m3fn, torch.float8_e5m2)
    return (tensor.float() if tensor.dtype in lacking else tensor).cpu().numpy()


def _capability(target: str) -> int:
    found = re.fullmatch(r"sm_?(\d{2,3})[af]?", target)
    if found is None or int(found[1]) not in CAPABILITIES:
        known = ", ".join(f"sm_{number}" for number in CAPABILITIES)
        raise CompileError(f"no target {target!r}", help=f"there are {known}")
    return int(found[1])


def _pointee(dtype: str) -> str:
    """A type of PyTorch as Triton's signatures write it."""
    return {
        "torch.float16": "fp16", "torch.bfloat16": "bf16", "torch.float32": "fp32",
        "torch.float64": "fp64", "torch.float8_e4m3fn": "fp8e4nv", "torch.float8_e5m2": "fp8e5",
        "torch.int32": "i32", "torch.int64": "i64", "torch.bool": "i1",
    }[dtype]  # fmt: skip


def compile_ahead(
    source: str,
    program: Program,
    *,
    target: str = "sm_90",
    dtype: str = "f16",
    sizes: Mapping[str, int] | None = None,
    emit: str = "ptx",
    kernel: int = 0,
) -> str | bytes:
    """One kernel of an emitted module in one of `FORMS`; see `compile_kernels`."""
    if emit not in FORMS:
        raise CompileError(f"no form {emit!r}", help=f"one of {', '.join(FORMS)}")
    compiled = compile_kernels(source, program, target=target, dtype=dtype, sizes=sizes)
    if not 0 <= kernel < len(compiled):
        raise CompileError(f"{program.name} has {len(compiled)} kernels, there is no {kernel}")
    if emit == "sass":
        cubin = compiled[kernel].forms["cubin"]
        return disassemble(cubin if isinstance(cubin, bytes) else cubin.encode())
    return compiled[kernel].forms[emit]


def tool(name: str) -> str:
    """A program of the CUDA toolkit: the one in Triton's wheel, else one on the path."""
    triton = _triton()
    shipped = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / name
    found = str(shipped) if shipped.exists() else shutil.which(name)
    if found is None:
        raise CallError(f"{name} is neither in Triton's wheel nor on the path")
    return found


def _run_tool(name: str, *options: str, cubin: bytes) -> str:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "kernel.cubin"
        path.write_bytes(cubin)
        done = subprocess.run(
            [tool(name), *options, str(path)], capture_output=True, text=True, check=False
        )
    if done.returncode != 0:
        raise CallError(f"{name} failed: {done.stderr.strip()}")
    return done.stdout


def disassemble(cubin: bytes) -> str:
    """The machine's instructions of a compiled kernel."""
    return _run_tool("nvdisasm", "-c", cubin=cubin)


def resources(cubin: bytes) -> tuple[int, int]:
    """Registers of a thread, and bytes of local memory that it spills to."""
    usage = _run_tool("cuobjdump", "-res-usage", cubin=cubin)
    found = re.search(r"REG:(\d+) STACK:(\d+).*?LOCAL:(\d+)", usage)
    if found is None:
        raise CallError("cuobjdump told nothing of registers")
    return int(found[1]), int(found[2]) + int(found[3])
