"""What can be said of a cascade before it is compiled."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import sympy

from attnc.ir.cascade import Cascade
from attnc.ir.source import CallError
from attnc.passes.cost import EinsumCost, compulsory_bytes, einsum_costs, joined, total
from attnc.passes.count_passes import Barrier, Counts, count_passes
from attnc.passes.footprint import footprint
from attnc.passes.symbolic import extent_symbol, extents

Quantity = Any
"""A sympy expression in extents and parameters; a number once they are all known."""


@dataclass(frozen=True, slots=True)
class Report:
    """Passes, live footprint, operations and traffic of a cascade.

    `passes` and `footprint` (live elements per fiber set) have an entry for each rank, `barriers`
    the longest chain of reasons for its passes. `operations` are by kind, `flops` their sum with a
    multiply-add as two, `bytes` the compulsory traffic (each input element read and each output
    element once), `intensity` flops per byte. `einsums` holds the cost of each Einsum by itself.
    `bounded` says that points without a closed form were counted in full: upper bounds.
    Quantities are over sympy symbols named as the ranks and parameters.
    """

    cascade: Cascade
    passes: dict[str, int]
    footprint: dict[str, Quantity]
    flops: Quantity
    bytes: Quantity
    intensity: Quantity
    operations: dict[str, Quantity]
    einsums: tuple[EinsumCost, ...]
    barriers: dict[str, tuple[Barrier, ...]]
    bounded: bool
    counts: Counts = field(repr=False, compare=False)

    def at(
        self,
        sizes: Mapping[str, int],
        params: Mapping[str, int | float | bool] | None = None,
    ) -> Report:
        """The same report in numbers, for extents and parameters; those not named keep defaults.

        What depends on a rank or parameter without a value stays an expression. Raises CallError
        where an extent is divided by zero.
        """
        known = {d.name: d.default for d in self.cascade.params if d.default is not None}
        values = {
            extent_symbol(name): sympy.sympify(value)
            for name, value in {**known, **(params or {}), **sizes}.items()
        }

        def number(quantity: Quantity) -> Quantity:
            found = sympy.sympify(quantity).subs(values)
            if found.has(sympy.zoo, sympy.nan):
                raise CallError(f"with these sizes {self.cascade.name} divides an extent by zero")
            if not found.is_number:
                return found
            return int(found) if found.is_integer else float(found)

        def numbers(quantities: dict[str, Quantity]) -> dict[str, Quantity]:
            return {name: number(quantity) for name, quantity in quantities.items()}

        flops, moved = number(self.flops), number(self.bytes)
        if isinstance(flops, sympy.Expr) or isinstance(moved, sympy.Expr):
            ratio = number(self.intensity)
        else:
            ratio = flops / moved if moved else 0.0
        return replace(
            self,
            footprint=numbers(self.footprint),
            flops=flops,
            bytes=moved,
            intensity=float(ratio) if isinstance(ratio, int) else ratio,
            operations=numbers(self.operations),
            einsums=tuple(
                replace(
                    cost,
                    operations=numbers(cost.operations),
                    bytes_read=number(cost.bytes_read),
                    bytes_written=number(cost.bytes_written),
                )
                for cost in self.einsums
            ),
        )


def analyze(cascade: Cascade) -> Report:
    """Count the passes and the costs of a cascade as it stands.

    Raises CompileError where an extent has no closed form in extents and parameters.
    """
    counts = count_passes(cascade)
    known = extents(cascade)
    costs = einsum_costs(counts.graph, known)
    operations = joined(cost.operations for cost in costs)
    flops = total(operations)
    moved, exact = compulsory_bytes(counts.graph, known)
    return Report(
        cascade,
        {rank: count.passes for rank, count in counts.ranks.items()},
        footprint(counts, known),
        flops,
        moved,
        flops / moved if moved != 0 else sympy.S.Zero,
        operations,
        costs,
        {rank: count.chain for rank, count in counts.ranks.items()},
        not exact or any(cost.bounded for cost in costs),
        counts,
    )
