"""What the back-ends' machines like: tile sizes and launch settings, as a table.

`p` is the tile of the last rank that the grid cuts, `m` that of the streamed rank. The sizes of
the NumPy target keep a tile of scores in the second-level cache; those of the Triton target were
chosen from the SASS for sm_90 (no spills, both products on wgmma).
"""

from __future__ import annotations

from dataclasses import dataclass

Settings = tuple[int, int, int, int]
"""Tile of the grid, tile of the stream, warps, stages."""


@dataclass(frozen=True, slots=True)
class Target:
    """One back-end: settings up to each width of the whole ranks, widest last."""

    name: str
    base2: bool
    by_width: tuple[tuple[int, Settings], ...]

    def settings(self, width: int, dtype: str) -> Settings:
        """Tiles and launch settings for a width (0 where it is not known) and a type."""
        for limit, settings in self.by_width:
            if width <= limit:
                p, m, warps, stages = settings
                return (p, m // 2, warps, 2) if dtype in ("f32", "f64") and self.base2 else settings
        return self.by_width[-1][1]


TARGETS = {
    "numpy": Target("numpy", False, ((1 << 30, (128, 512, 1, 1)),)),
    "triton": Target(
        "triton", True, ((64, (128, 64, 4, 3)), (128, (128, 64, 8, 3)), (1 << 30, (64, 32, 8, 2)))
    ),
}
