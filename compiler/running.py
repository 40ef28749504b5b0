"""One run of a cascade for a person to read: results in a line each, what it moved, how far off."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from attnc.backends import interpreter
from attnc.backends.binding import bind
from attnc.backends.tiles import Counters
from attnc.driver import compile
from attnc.ir.cascade import Cascade
from attnc.ir.source import CallError
from attnc.sampling import default_sizes, sample
from attnc.verification import DTYPES, finite, relative_error

NAMES = {kind.numpy: name for name, kind in DTYPES.items()}


@dataclass(frozen=True, slots=True)
class Record:
    """What a run gave; `errors` is empty unless it was compared with the interpreter in float64."""

    cascade: str
    backend: str
    results: dict[str, np.ndarray]
    counters: Counters | None
    errors: dict[str, float]
    tolerance: float

    @property
    def agrees(self) -> bool:
        return all(error <= self.tolerance for error in self.errors.values())

    def as_dict(self) -> dict[str, Any]:
        """The record without the arrays, as JSON wants it."""
        found: dict[str, Any] = {
            "cascade": self.cascade,
            "backend": self.backend,
            "outputs": {
                name: {"shape": list(array.shape), "type": str(array.dtype)}
                for name, array in self.results.items()
            },
        }
        if self.counters is not None:
            found["counters"] = asdict(self.counters)
        if self.errors:
            errors = {name: finite(error) for name, error in self.errors.items()}
            found |= {"errors": errors, "tolerance": self.tolerance, "agrees": self.agrees}
        return found

    def __str__(self) -> str:
        lines = [f"{self.cascade} on {self.backend}"]
        for name, array in self.results.items():
            shape = ", ".join(map(str, array.shape))
            lines.append(f"  {name}[{shape}] {array.dtype}  {_range(array)}")
        if self.counters is not None:
            lines += [
                f"  {name.replace('_', ' '):<16}{value:>16,}"
                for name, value in asdict(self.counters).items()
            ]
        for name, error in self.errors.items():
            verdict = "agrees" if error <= self.tolerance else "WRONG"
            lines.append(f"  {name} against float64: {error:.1e}, {verdict} ({self.tolerance:.0e})")
        return "\n".join(lines)


def _range(array: np.ndarray) -> str:
    if array.size == 0:
        return "no elements"
    return f"from {array.min():.4g} to {array.max():.4g}"


def random_inputs(
    cascade: Cascade, sizes: Mapping[str, int], dtype: str | None, seed: int
) -> dict[str, np.ndarray]:
    """Random arrays for every input; extents that are not given are small and ragged."""
    return sample(cascade, default_sizes(cascade) | dict(sizes), dtype=dtype or "f32", seed=seed)


def execute(
    cascade: Cascade, backend: str, arrays: Mapping[str, np.ndarray], compared: bool
) -> Record:
    """Compile, run once, and on request compare with the interpreter in float64."""
    call = bind(cascade, (), dict(arrays))
    dtype = next(
        (NAMES[call.arrays[tensor.name].dtype] for tensor in cascade.inputs
         if call.arrays[tensor.name].dtype in NAMES),
        "f32",
    )  # fmt: skip
    kernel = compile(cascade, backend, dtype=dtype, sizes=call.extents)
    results = kernel.run(arrays)
    errors: dict[str, float] = {}
    if compared:
        truth = interpreter.run(cascade, call.arrays, DTYPES["f64"].numpy)
        errors = {name: relative_error(results[name], array) for name, array in truth.items()}
    return Record(cascade.name, backend, results, kernel.counters, errors, DTYPES[dtype].tolerance)


def read_arrays(path: Path) -> dict[str, np.ndarray]:
    """The arrays of an .npz file by name; whatever is wrong with the file is a CallError."""
    try:
        archive = np.load(path, allow_pickle=False)
        if not isinstance(archive, np.lib.npyio.NpzFile):
            raise CallError(f"{path} holds one unnamed array: save it with numpy.savez")
        with archive:
            return {name: archive[name] for name in archive.files}
    except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile, zlib.error) as error:
        raise CallError(f"cannot read {path}: {error}") from error


def write_arrays(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """An .npz file, written member by member: a tensor may have any name, `file` too."""
    try:
        with zipfile.ZipFile(path, "w") as archive:
            for name, array in arrays.items():
                with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                    np.lib.format.write_array(member, np.asanyarray(array), allow_pickle=False)
    except OSError as error:
        raise CallError(f"cannot write {path}: {error.strerror}") from error
