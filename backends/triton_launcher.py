"""The launcher of an emitted module: checks arguments, allocates results, starts the kernels."""

from __future__ import annotations

import keyword
from dataclasses import astuple, dataclass

from attnc.backends.triton_expr import DTYPES
from attnc.backends.triton_helpers import HELPERS
from attnc.backends.triton_host import host
from attnc.ir.cascade import Tensor, base
from attnc.ir.tile import Program, lists_of, shares_of


@dataclass(frozen=True, slots=True)
class Argument:
    """A parameter of a kernel and what the launcher passes for it.

    `group` is "pointer", "constant", "extent", or for a stride the name of its tensor.
    """

    name: str
    value: str
    group: str


@dataclass(frozen=True, slots=True)
class Printed:
    """A kernel as text, with what the launcher must know to start it.

    `grid` has a factor for each rank of the grid; `matched` are pairs of inputs that are
    multiplied with each other and so must have one type. `precision` tells that it multiplies
    matrices. `state` is the extent of the columns of the one matrix that its loop carries, ""
    where it carries none or several. `lists` names the states of tiles that it stores, `shares`
    the numbers of iterations, "" for any other kernel, and `tables` are the inputs that it reads.
    It has `warps`, or as many as the program.
    """

    name: str
    text: str
    arguments: tuple[Argument, ...]
    grid: tuple[str, ...]
    helpers: tuple[str, ...]
    reductions: tuple[str, ...]
    matched: tuple[tuple[str, str], ...]
    precision: bool
    state: str
    lists: str
    shares: str
    tables: tuple[str, ...]
    warps: int | None


GENERATION = '''
def _generation(device):
    """The major compute capability of a GPU: 8 for Ampere, 9 for Hopper, 10 for Blackwell."""
    return torch.cuda.get_device_capability(device)[0] if device.type == "cuda" else 0
'''.strip()

DEFAULT_WARPS = 8
DEFAULT_STAGES = 3
"""Where the program does not say: two warpgroups, each with half of a tile of 128 queries, so that
scores and running sums fit into registers; two tiles of keys on their way while one is used."""

CHECKS = '''
class CallError(ValueError):
    """Arguments that do not fit: names the tensor, the rank and both extents."""


def _check(sizes, name, tensor, ranks, dtype, device):
    """Compare a tensor with its declaration and note the extents of its ranks in `sizes`."""
    if not isinstance(tensor, torch.Tensor):
        raise CallError(f"{name} must be a tensor, not {type(tensor).__name__}")
    if tensor.device != device:
        raise CallError(f"{name} is on {tensor.device}, the first input on {device}")
    kind = (
        "bool" if tensor.dtype == torch.bool
        else "float" if tensor.is_floating_point()
        else "int"
    )
    if kind != dtype and tensor.dtype != getattr(torch, dtype, None):
        raise CallError(f"{name} must be of type {dtype}, not {str(tensor.dtype)[6:]}")
    if tensor.ndim != len(ranks):
        raise CallError(
            f"{name} must have {len(ranks)} axes ({', '.join(ranks)}), not {tensor.ndim}"
        )
    for rank, extent in zip(ranks, tensor.shape):
        if sizes.setdefault(rank, extent) != extent:
            raise CallError(
                f"rank {rank} of {name} has extent {extent}, elsewhere it has {sizes[rank]}"
            )


def _empty(sizes, ranks, dtype, device):
    return torch.empty([sizes[rank] for rank in ranks], dtype=dtype, device=device)
'''.strip()


TAKEN = frozenset(keyword.kwlist) | frozenset(HELPERS) | {
    "torch", "triton", "tl", "math", "namedtuple", "sizes", "real", "narrow", "instances", "out",
    "CallError", "Outputs", "_precision", "_check", "_empty", "_generation", "_torch_type", "kept",
    "_kept", "_keep", "_sift_kernel", "_deal_kernel", "given", "weakref",
}  # fmt: skip
"""What a launcher cannot call a tensor, or itself."""


def parameter(name: str) -> str:
    """The name of a tensor or a cascade in the launcher: its own, unless Python needs that."""
    taken = name in TAKEN or name.endswith("_kernel") or name.startswith("Outputs_")
    return f"{name}_" if taken else name


def host_dtype(dtype: str) -> str:
    """A declared type as the attribute of `torch` that it is; float, int and bool are kinds."""
    return {"f8e4m3": "float8_e4m3fn", "int": "int", "bool": "bool", "float": "float",
            "f8e5m2": "float8_e5m2"}.get(dtype) or DTYPES[dtype]  # fmt: skip


def aside(kernel: Printed) -> tuple[str, ...]:
    """The buffers of a block list or of shares: what the kernel stores, then what is made of it."""
    if kernel.lists:
        return (kernel.lists, *lists_of(kernel.lists, False), *lists_of(kernel.lists, True))
    return (kernel.shares, *astuple(shares_of(kernel.shares))) if kernel.shares else ()


def launchers(found: list[tuple[Program, list[Printed]]]) -> str:
    """The class of errors, the check and for each program the function that a user calls."""
    functions = []
    for program, kernels in found:
        # What a module has once for all needs the program's name where there are several.
        label = f"_{program.name}" if len(found) > 1 else ""
        if len(program.outputs) > 1:
            fields = ", ".join(f'"{tensor.name}"' for tensor in program.outputs)
            # What Python forbids as a name is read by its place.
            forbidden = any(keyword.iskeyword(t.name) or t.name[0] == "_" for t in program.outputs)
            tail = ", rename=True" if forbidden else ""
            functions.append(f'Outputs{label} = namedtuple("Outputs", [{fields}]{tail})')
        functions.append("\n".join(_launcher(program, kernels, label)))
    parts = [CHECKS]
    if any("_generation(" in function for function in functions):
        parts.append(GENERATION)
    if any(tensor.dtype == "float" for program, _ in found for tensor in program.buffers):
        parts.append("_torch_type = {tl.float32: torch.float32, tl.float64: torch.float64}")
    return "\n\n\n".join([*parts, *functions])


def _launcher(program: Program, kernels: list[Printed], label: str) -> list[str]:
    names = [parameter(tensor.name) for tensor in program.inputs]
    lines = [f"def {parameter(program.name)}({', '.join([*names, '*', 'out=None'])}):"]
    lines.append(f'    """{_signature_line(program)}"""')
    lines += _sizes(program, kernels)
    floats = float_inputs(program)
    lines.append(_arithmetic(floats))
    lines += _outputs(program, label)
    made_aside = {name for kernel in kernels for name in aside(kernel)}
    for buffer in program.buffers:
        if buffer.name not in made_aside:
            lines.append(_buffer(buffer, names[0]))
    for kernel in kernels:
        if aside(kernel):
            lines += _prepare(program, kernel, names[0], label)
        else:
            lines += _launch(program, kernel)
    return [*lines, "    return out"]


def allocation(program: Program) -> list[str]:
    """The body of a function that checks the inputs and gives outputs without values."""
    outputs = [_allocated(program, tensor) for tensor in program.outputs]
    lines = _sizes(program, [])
    if len(outputs) == 1:
        return [*lines, f"    return {outputs[0]}"]
    return [*lines, "    return (", *(f"        {output}," for output in outputs), "    )"]


def _sizes(program: Program, kernels: list[Printed]) -> list[str]:
    """Check the inputs and note the extents of all ranks."""
    first = parameter(program.inputs[0].name)
    lines = ["    sizes = {}", *(_check(tensor, first) for tensor in program.inputs)]
    lines += _matched(kernels)
    for decl in program.ranks:
        lines.append(f'    sizes["{decl.name}"] = {host(decl.extent, _size)}')
    return lines


def float_inputs(program: Program) -> list[str]:
    """The inputs of floating types, by their names in the launcher."""
    return [
        parameter(tensor.name) for tensor in program.inputs if tensor.dtype not in ("int", "bool")
    ]


def _allocated(program: Program, tensor: Tensor) -> str:
    """An output without values, of the type of the first input of a floating type."""
    floats = float_inputs(program)
    real = f"{floats[0]}.dtype" if floats else "torch.float32"
    return _empty(tensor, parameter(program.inputs[0].name), real)


def _buffer(buffer: Tensor, first: str) -> str:
    return f"    {parameter(buffer.name)} = {_empty(buffer, first, '_torch_type[real]')}"


def _prepare(program: Program, kernel: Printed, first: str, label: str) -> list[str]:
    """The launch of a kernel of states or counts, and what is made of them, unless it is known."""
    found = aside(kernel)
    names, made = [parameter(name) for name in found], [parameter(name) for name in found[1:]]
    tables = " ".join(f"{parameter(name)}," for name in kernel.tables)
    buffers = [b for b in program.buffers if b.name in found]
    if kernel.lists:
        what, maker = "Which tiles hold points", "_sift_kernel"
        instances = " * ".join(_size(rank) for rank in buffers[0].ranks[:-1]) or "1"
        arguments = [*names, _size(buffers[0].ranks[-1]), "BLOCK=256"]
    else:
        what, maker, instances = "Whose work is what", "_deal_kernel", _size(buffers[2].ranks[0])
        arguments = [*names, _size(buffers[0].ranks[0]), instances, "BLOCK=1024"]
    return [
        f"    # {what}; known from the last call if its tables were the same.",
        f'    kept = _kept("{found[0]}{label}", ({tables}), sizes)',
        "    if kept is None:",
        *(f"    {_buffer(buffer, first)}" for buffer in buffers),
        *(f"    {line}" for line in _launch(program, kernel)),
        f"        if {instances} > 0:",
        f"            {maker}[({instances},)](",
        *(f"                {line}" for line in filled_lines(arguments)),
        "            )",
        "        kept = (",
        *(f"            {line}" for line in filled_lines(made)),
        "        )",
        f'        _keep("{found[0]}{label}", ({tables}), sizes, kept)',
        "    (",
        *(f"        {line}" for line in filled_lines(made)),
        "    ) = kept",
    ]


def _size(rank: str) -> str:
    return f'sizes["{rank}"]'


def _signature_line(program: Program) -> str:
    def declared(tensor: Tensor) -> str:
        return f"{tensor.name}[{', '.join(tensor.ranks)}]"

    inputs = ", ".join(declared(tensor) for tensor in program.inputs)
    return f"{inputs} -> {', '.join(declared(tensor) for tensor in program.outputs)}."


def _ranks(tensor: Tensor) -> str:
    inside = ", ".join(f'"{base(rank)}"' for rank in tensor.ranks)
    return f"({inside},)" if len(tensor.ranks) == 1 else f"({inside})"


def _check(tensor: Tensor, first: str) -> str:
    value, dtype = parameter(tensor.name), host_dtype(tensor.dtype)
    return (
        f'    _check(sizes, "{tensor.name}", {value}, {_ranks(tensor)}, "{dtype}", {first}.device)'
    )


def _matched(kernels: list[Printed]) -> list[str]:
    pairs = dict.fromkeys(pair for kernel in kernels for pair in kernel.matched)
    lines = []
    for left, right in pairs:
        if left != right:
            lines += [
                f"    if {parameter(left)}.dtype != {parameter(right)}.dtype:",
                f'        raise CallError(f"{left} and {right} are multiplied, but one is '
                f'{{{parameter(left)}.dtype}} and the other {{{parameter(right)}.dtype}}")',
            ]
    return lines


def _arithmetic(floats: list[str]) -> str:
    if not floats:
        return "    real = tl.float32"
    types = ", ".join(f"{name}.dtype" for name in floats)
    return f"    real = tl.float64 if torch.float64 in [{types}] else tl.float32"


def _empty(tensor: Tensor, first: str, real: str) -> str:
    match tensor.dtype:
        case "float":
            dtype = real
        case "int":
            dtype = "torch.int32"
        case _:
            dtype = f"torch.{host_dtype(tensor.dtype)}"
    return f"_empty(sizes, {_ranks(tensor)}, {dtype}, {first}.device)"


def _outputs(program: Program, label: str) -> list[str]:
    """Allocate the outputs, or check those that the caller gave."""
    made = [_allocated(program, tensor) for tensor in program.outputs]
    lines = []
    if len(made) == 1:
        lines.append(f"        out = {made[0]}")
    else:
        lines.append(f"        out = Outputs{label}(")
        lines += [f"            {each}," for each in made]
        lines.append("        )")
    names = ", ".join(parameter(tensor.name) for tensor in program.outputs)
    first = parameter(program.inputs[0].name)
    checks = [_check(tensor, first) for tensor in program.outputs]
    return [
        "    given = out is not None",
        "    if not given:",
        *lines,
        f"    {names} = out",
        "    if given:",
        *(f"    {line}" for line in checks),
    ]


def _launch(program: Program, kernel: Printed) -> list[str]:
    grid = " * ".join(kernel.grid) or "1"
    warps = kernel.warps or program.warps or DEFAULT_WARPS
    stages = DEFAULT_STAGES if program.stages is None else program.stages
    lines = [f"    instances = {grid}", "    if instances > 0:"]
    lines.append(f"        {kernel.name}[(instances,)](")
    plain = [argument for argument in kernel.arguments if argument.group != "constant"]
    values = list(dict.fromkeys(argument.value for argument in plain))
    lines += [f"            {line}" for line in filled_lines(values)]
    for argument in kernel.arguments:
        if argument.group == "constant":
            lines.append(f"            {argument.name}={argument.value},")
    lines.append(f"            num_warps={warps},")
    lines.append(f"            num_stages={_stages(program, stages)},")
    lines.append("            enable_fp_fusion=True,")
    wide = _wide(program)
    if kernel.state and warps == DEFAULT_WARPS and wide:
        lines[1:1] = [
            "    # On Hopper: with half of the registers two instances share a multiprocessor, and",
            "    # while one multiplies, the other takes exponentials. Only a narrow sum fits so.",
            f"    narrow = {kernel.state} <= 64 and {wide}.element_size() <= 2",
        ]
        lines.append(
            f"            maxnreg=128 if narrow and _generation({wide}.device) == 9 else None,"
        )
    lines.append("        )")
    return lines


def _wide(program: Program) -> str:
    """An input whose elements may be of 4 bytes or more, "" if there is none."""
    names = (t.name for t in program.inputs if t.dtype in ("float", "f32", "f64"))
    return parameter(next(names, ""))


def _stages(program: Program, stages: int) -> str:
    """Tiles of wide elements fill the shared memory that further stages would need."""
    wide = _wide(program)
    if stages == 1 or not wide:
        return str(stages)
    return f"{stages} if {wide}.element_size() <= 2 else 1"


def filled_lines(items: list[str], width: int = 84) -> list[str]:
    """Items with commas, as many to a line as fit."""
    lines = [""]
    for item in items:
        if lines[-1] and len(lines[-1]) + len(item) + 2 > width:
            lines.append("")
        lines[-1] += f"{' ' if lines[-1] else ''}{item},"
    return [line for line in lines if line]


def signature(arguments: tuple[Argument, ...]) -> list[str]:
    """The parameters of a kernel: pointers, the strides of each tensor, extents, constants."""
    lines = []
    for group in dict.fromkeys(argument.group for argument in arguments):
        names = [argument.name for argument in arguments if argument.group == group]
        if group == "constant":
            lines += [f"{name}: tl.constexpr," for name in names]
        else:
            lines += filled_lines(names)
    return lines
