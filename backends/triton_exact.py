"""Which tiles the type of an input holds without rounding.

    L[t, d]  = max(g[t, d], -8192)
    W[t, t'] = select(t' < t, 1, 0)
    G[t, d]  = sum[t'](W[t, t'] * L[t', d])

A product of two such tiles in that type is the product in float32, at a third of the instructions
and half of the registers that three products of parts of float32 take.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import frexp

from attnc.ir.cascade import Tensor
from attnc.ir.expr import Const, Expr, Map, Tile
from attnc.ir.tile import Compute, Contract, Fold, Kernel, Load, Loop, Scan, Store
from attnc.ir.tile_facts import every

SMALLEST, LARGEST = -14, 15
"""Exponents of the powers of two that are normal numbers of float16, and of all types but f8e4m3
that an input has."""

Sources = frozenset[str] | None
"""The inputs from whose values a tile's are chosen, besides zeros and powers of two; else None."""


def exact(kernel: Kernel, inputs: Mapping[str, Tensor]) -> dict[str, frozenset[str]]:
    """For each tile that chooses among values of inputs these inputs; constants have none.

    Of a name that stands for several tiles all do, or it is not there.
    """
    found: dict[str, Sources] = {}
    for own in every(kernel.body):
        sources: Sources = None
        match own:
            case Load(name, _, tensor):
                if tensor in inputs and inputs[tensor].dtype not in ("int", "bool", "f8e4m3"):
                    sources = frozenset({tensor})
            case Compute(name, _, body):
                sources = _chosen(body, found)
            case Contract(name) | Fold(name) | Scan(name):
                pass
            case Loop(_, carried):
                found.update((state.name, None) for state in carried)
                continue
            case Store():
                continue
        known = found.get(name, frozenset())
        found[name] = None if known is None or sources is None else known | sources
    return {name: sources for name, sources in found.items() if sources is not None}


def _chosen(expr: Expr, found: Mapping[str, Sources]) -> Sources:
    match expr:
        case Const(bool()):
            return None
        case Const(value):
            fraction, exponent = frexp(value)
            power = abs(fraction) == 0.5 and SMALLEST <= exponent - 1 <= LARGEST
            return frozenset() if power or value == 0 else None
        case Tile(name):
            return found.get(name)
        case Map("select", (_, *args)) | Map("max" | "min" | "neg" | "abs", args):
            parts = [_chosen(arg, found) for arg in args]
            known = [part for part in parts if part is not None]
            return frozenset().union(*known) if len(known) == len(parts) else None
        case _:
            return None
