"""How far a result is from the truth, and the record of such comparisons.

The error of an array is its largest difference from the reference, relative to the largest
magnitude of the reference. Infinities and empty results must agree exactly; a NaN where the
reference has none makes the error infinite.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from math import isinf
from typing import Any

import numpy as np

from attnc.ir.source import CompileError

Arrays = Mapping[str, np.ndarray]


@dataclass(frozen=True, slots=True)
class Dtype:
    """A floating type of a run, and the error that it may make."""

    numpy: np.dtype
    tolerance: float


DTYPES = {
    "f64": Dtype(np.dtype(np.float64), 1e-10),
    "f32": Dtype(np.dtype(np.float32), 1e-5),
    "f16": Dtype(np.dtype(np.float16), 2e-3),
}


@dataclass(frozen=True, slots=True)
class Outcome:
    """One output of one back-end: its error, or in `reason` why there is none.

    `error` is None where the back-end was skipped (this machine lacks something) or refused (it
    cannot do a construct of the cascade).
    """

    backend: str
    output: str
    error: float | None
    tolerance: float
    reason: str = ""
    refused: bool = False

    @property
    def ok(self) -> bool:
        return not self.refused and (self.error is None or self.error <= self.tolerance)


@dataclass(frozen=True, slots=True)
class Verification:
    """All back-ends of one cascade against the interpreter in float64."""

    cascade: str
    sizes: dict[str, int]
    dtype: str
    outcomes: tuple[Outcome, ...]

    @property
    def ok(self) -> bool:
        return all(outcome.ok for outcome in self.outcomes)

    @property
    def errors(self) -> dict[str, dict[str, float]]:
        """The error of each output by back-end; one that did not run has no entry."""
        found: dict[str, dict[str, float]] = {}
        for outcome in self.outcomes:
            if outcome.error is not None:
                found.setdefault(outcome.backend, {})[outcome.output] = outcome.error
        return found

    def as_dict(self) -> dict[str, Any]:
        """The record as JSON wants it."""
        outcomes = [
            {**asdict(outcome), "error": finite(outcome.error), "ok": outcome.ok}
            for outcome in self.outcomes
        ]
        return {**asdict(self), "outcomes": outcomes, "ok": self.ok}

    def __str__(self) -> str:
        sizes = ", ".join(f"{rank}={extent}" for rank, extent in self.sizes.items())
        return "\n".join([f"{self.cascade} ({self.dtype}; {sizes})", *map(_line, self.outcomes)])


def _line(outcome: Outcome) -> str:
    name = f"  {outcome.backend:<12}{outcome.output:<8}"
    if outcome.error is None:
        return f"{name}{'refused' if outcome.refused else 'skipped'}: {outcome.reason}"
    verdict = "agrees" if outcome.ok else f"WRONG, at most {outcome.tolerance:.0e} allowed"
    return f"{name}{outcome.error:.1e}  {verdict}"


def finite(error: float | None) -> float | str | None:
    """An error as JSON can say it, which knows no infinity."""
    return "infinite" if error is not None and isinf(error) else error


def relative_error(result: np.ndarray, reference: np.ndarray) -> float:
    """Largest difference over largest magnitude; infinite where shapes or infinities differ."""
    if result.shape != reference.shape:
        return float("inf")
    if reference.dtype.kind in "bi":
        return float(np.any(result != reference))
    got, want = result.astype(np.float64), reference.astype(np.float64)
    finite = np.isfinite(want)
    same = np.isnan(want) | (got == want)
    if not bool(np.all(np.isfinite(got[finite]))) or not bool(np.all(same[~finite])):
        return float("inf")
    if not finite.any():
        return 0.0
    scale = float(np.abs(want[finite]).max())
    return float(np.abs(got[finite] - want[finite]).max()) / (scale or 1.0)


def compare(
    backend: str,
    attempt: Callable[[], Arrays] | str,
    reference: Arrays,
    tolerance: Mapping[str, float],
) -> Iterator[Outcome]:
    """Run one attempt and judge each output; a text says why the attempt is skipped."""
    if isinstance(attempt, str):
        yield Outcome(backend, "", None, 0.0, attempt)
        return
    try:
        results = attempt()
    except CompileError as error:
        yield Outcome(backend, "", None, 0.0, error.message, refused=True)
        return
    for name, truth in reference.items():
        yield Outcome(backend, name, relative_error(results[name], truth), tolerance[name])
