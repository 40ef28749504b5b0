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
    """One back-end: settings up to each width of the whole ranks, widest last.

    `wide` holds for types of 32 bits and more, `by_width` for narrower ones; `base2` says that
    the machine has exp2 alone in hardware. No tile should hold more than `elements`: registers of
    a multiprocessor, or a few megabytes of cache. `processors` run instances of a grid side by
    side (132 multiprocessors of an H100); 0 where a grid with few instances costs nothing. A
    recurrence takes `chunk` steps at once: the first number where its gate is one for the whole
    state, the second where it varies along ranks of it and has a logarithm, the third where it has
    none, the fourth where a step reads what it changes, and `together` problems of a batch, since a
    chunk is little work for a call. `masked` are other tiles where a mask leaves points out, and
    `stacked` those where several problems that it treats alike go together: `tabled` if a tensor
    tells the points, so that tiles count whole.
    `registers` of a thread may hold tiles, as `passes/pressure.py` counts them; 0 where there is no
    such bound. `tests` positions are tested in about the time of a product of tiles: a loop whose
    body has a product for every so many has one body, tested in every iteration, since a second
    would keep what it needs in registers too; 0 where that costs nothing.
    """

    name: str
    base2: bool
    by_width: tuple[tuple[int, Settings], ...]
    wide: tuple[tuple[int, Settings], ...]
    elements: int
    processors: int = 0
    chunk: tuple[int, int, int, int] = (64, 32, 16, 32)
    together: int = 1
    masked: Settings | None = None
    stacked: Settings | None = None
    tabled: Settings | None = None
    registers: int = 0
    tests: int = 0

    def settings(self, width: int, dtype: str, mask: str) -> Settings:
        """Tiles and launch settings for a width (0 where it is not known), a type and a mask: none,
        "masked", "stacked" or "tabled"."""
        named = {"masked": self.masked, "stacked": self.stacked, "tabled": self.tabled}.get(mask)
        if named is not None:
            return named
        table = self.wide if dtype in ("f32", "f64") else self.by_width
        return next((settings for limit, settings in table if width <= limit), table[-1][1])


WIDTH = 64
"""Extent assumed of a rank that lies whole within a tile and is not known."""
CPU = ((1 << 30, (256, 512, 1, 1)),)
TARGETS = {
    "numpy": Target(
        "numpy",
        False,
        CPU,
        CPU,
        1 << 20,
        together=8,
        masked=(256, 1024, 1, 1),
        stacked=(64, 1024, 1, 1),
        tabled=(64, 256, 1, 1),
    ),
    "triton": Target(
        "triton",
        True,
        ((128, (128, 64, 8, 3)), (256, (64, 32, 8, 2))),
        ((128, (64, 32, 8, 1)), (256, (32, 32, 8, 1))),
        1 << 15,
        132,
        (64, 16, 16, 16),
        registers=144,
        tests=6,
    ),
}
