"""The area of a described accelerator: its elements and its memories."""

from __future__ import annotations

from math import prod

from attnc.ir.machine import Array, Machine


def element(array: Array) -> float:
    """Square micrometres of one element of an array."""
    return sum(array.area.values())


def area(machine: Machine) -> dict[str, float]:
    """Square micrometres by array and by level on the chip, and their `total`."""
    found = {
        name: array.copies * prod(array.shape) * element(array)
        for name, array in machine.arrays.items()
    }
    for level in machine.levels[1:]:
        if level.size < float("inf"):
            found[level.name] = level.size * level.area
    found["total"] = sum(found.values())
    return found
