"""Scalars of the tile program as Python text, and the names and tiles that all text refers to."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field, replace
from itertools import count

from attnc.ir.algebra import OPS
from attnc.ir.expr import (
    Access,
    Cast,
    Const,
    Expr,
    Extent,
    Index,
    Map,
    Param,
    Populate,
    Reduce,
    Tile,
)
from attnc.ir.source import InvalidIR
from attnc.ir.tile_blocks import Size
from attnc.ir.tile_facts import Made, kind_of
from attnc.ir.walk import subterms

HELPERS = frozenset(("rsqrt", "sigmoid", "softplus", "gelu", "silu", "elu", "erf"))
"""Operations of one operand that `numpy_math` has under their own name."""

INFIX = frozenset(("+", "-", "*", "//", "%", "==", "!=", "<", "<=", ">", ">=", "and", "or"))
NUMBERS = {"real": "float", "int": "int", "bool": "bool"}


@dataclass(eq=False, slots=True)
class Slot:
    """Scratch memory for tiles of some axes; `refs` counts the tiles that lie in it."""

    number: int
    ranks: tuple[str, ...]
    kind: str
    refs: int = 0


@dataclass(frozen=True, slots=True)
class Held:
    """A value at hand: its text, axes and kind, and the slot that it fills, if one.

    `free` says that nothing reads it after this, so that its slot may be written over. `sizes`
    are the lengths of the axes, which differ from the current ones for a tile that was made
    before its axis was cut.
    """

    code: str
    ranks: tuple[str, ...]
    kind: str
    slot: Slot | None = None
    free: bool = False
    sizes: tuple[Size, ...] = ()


@dataclass(slots=True)
class Names:
    """Identifiers for the user's names: a prefix says what they are of, no two are alike."""

    known: dict[tuple[str, str], str] = field(default_factory=dict)

    def of(self, prefix: str, name: str) -> str:
        key = (prefix, name)
        if key not in self.known:
            stem = f"{prefix}_{name.replace(chr(39), '_prime')}"
            code, count = stem, 1
            while code in self.known.values():
                count += 1
                code = f"{stem}__{count}"
            self.known[key] = code
        return self.known[key]


@dataclass(slots=True)
class Frame:
    """What is known where a statement stands.

    `sizes` is the length of each axis, `held` the tiles that exist, `made` what they hold, `head`
    the lines that open the block, `opened` what these lines define, `masks` where tests fail.
    """

    number: int
    sizes: dict[str, Size]
    held: dict[str, Held]
    made: dict[str, Made]
    head: list[str]
    opened: set[str]
    depth: int
    masks: dict[Expr, Held] = field(default_factory=dict)


class Scalars:
    """Writes scalars, and knows the names of sizes and positions and the tiles at hand.

    `grid` gives the tile of each rank of the grid that is an axis. `left` counts the reads of each
    tile that the statement at hand has yet to make, `dying` are the tiles that it reads last,
    `freed` those of them that were read for the last time. `limits` names bounds of the loop at
    hand.
    """

    def __init__(self, grid: dict[str, int]) -> None:
        self.grid = grid
        self.names = Names()
        self.prologue: list[str] = []
        self.constants: dict[Expr, str] = {}
        self.limits: dict[Expr, str] = {}
        self.limited = count()
        self.helpers: set[str] = set()
        self.frames: list[Frame] = []
        self.lines: list[str] = []
        self.depth = 1
        self.left: Counter[str] = Counter()
        self.dying: frozenset[str] = frozenset()
        self.freed: set[str] = set()

    @property
    def frame(self) -> Frame:
        return self.frames[-1]

    def line(self, text: str) -> None:
        self.lines.append("    " * self.depth + text)

    def helper(self, name: str) -> str:
        self.helpers.add(name)
        return name

    # Names of sizes and positions

    def extent(self, rank: str) -> str:
        name = self.names.of("extent", rank)
        line = f"{name} = extents[{rank!r}]"
        if line not in self.prologue:
            self.prologue.append(line)
        return name

    def size(self, size: Size) -> str:
        rank, block = size
        return self.names.of("n", rank if block == 0 else f"{rank}_{block}")

    def first(self, rank: str) -> str:
        """The first position of an axis at hand, "0" where it begins at the beginning."""
        block = self.frame.sizes[rank][1]
        if block:
            return self.names.of("lo", f"{rank}_{block}")
        return self.names.of("lo", rank) if rank in self.grid else "0"

    def stop(self, rank: str) -> str:
        """One past the last position of an axis at hand."""
        block = self.frame.sizes[rank][1]
        if block:
            return self.names.of("hi", f"{rank}_{block}")
        return self.names.of("hi", rank) if rank in self.grid else self.size((rank, 0))

    def count(self, rank: str) -> str:
        return self.size(self.frame.sizes[rank])

    def positions(self, rank: str) -> Held:
        """The positions along an axis, as a vector that the block opens with."""
        size = self.frame.sizes[rank]
        name = self.names.of("x", rank if size[1] == 0 else f"{rank}_{size[1]}")
        line = f"{name} = np.arange({self.first(rank)}, {self.stop(rank)})"
        if size[1] or rank in self.grid:
            self._open(size[1], name, line)
        elif line not in self.prologue:
            self.prologue.append(line)
        return Held(name, (rank,), "int", sizes=(size,))

    def _open(self, number: int, name: str, line: str) -> None:
        """Put a line at the head of the block of that number, once."""
        frame = next(frame for frame in self.frames if frame.number == number)
        if name not in frame.opened:
            frame.opened.add(name)
            frame.head.append("    " * frame.depth + line)

    # Scalars

    def scalar(self, expr: Expr) -> str:
        """An expression without axes, as Python; one of constants and extents is named once."""
        if (
            isinstance(expr, Map)
            and self.kind(expr) == "real"
            and not any(isinstance(term, Tile | Index) for term in subterms(expr))
        ):
            if expr not in self.constants:
                code = self._scalar(expr)
                self.constants[expr] = f"c{len(self.constants)}"
                self.prologue.append(f"{self.constants[expr]} = {code}")
            return self.constants[expr]
        return self.limits.get(expr) or self._scalar(expr)

    def kind(self, expr: Expr) -> str:
        return kind_of(expr, self.frame.made)

    def _scalar(self, expr: Expr) -> str:
        match expr:
            case Const(value):
                return literal(value)
            case Index(rank):
                return self.names.of("i", rank)
            case Extent(rank):
                return self.extent(rank)
            case Tile():
                return self.read(expr).code
            case Cast("int" | "bool" as dtype, body):
                return f"{dtype}({self.scalar(body)})"
            case Cast(dtype, body):
                if dtype == "float":
                    return f"float({self.scalar(body)})"
                return f"float({self.helper('rounded')}({self.scalar(body)}, {dtype!r}))"
            case Map(op, args):
                return self._scalar_map(op, args, self.kind(expr))
            case Access() | Reduce() | Populate() | Param():
                raise InvalidIR(f"{type(expr).__name__} has no place in a tile program")

    def _scalar_map(self, op: str, args: tuple[Expr, ...], kind: str) -> str:
        match op, args:
            case "first" | "last", (Index(rank),):
                if self.grid.get(rank, 1) == 1:
                    return self.names.of("i", rank)
                return self.first(rank) if op == "first" else f"({self.stop(rank)} - 1)"
            case "present", _:
                return "1"
            case "floor" | "ceil" as side, (Map("/", (over, by)),) if kind == "int":
                sign = "-" if side == "ceil" else ""
                return f"({sign}({sign}{self.scalar(over)} // {self.scalar(by)}))"
            case "uniform", _:
                places = ", ".join(self.scalar(arg) for arg in args)
                return f"float({self.helper('uniform')}({places}))"
            case _:
                codes = [self.scalar(arg) for arg in args]
        match op:
            case "select":
                return f"({codes[1]} if {codes[0]} else {codes[2]})"
            case "neg":
                return f"(-{codes[0]})"
            case "not":
                return f"(not {codes[0]})"
            case "**" | "pow" if kind == "real":
                # NumPy has no negative powers of integers.
                return f"float(np.power(float({codes[0]}), {codes[1]}))"
            case "/" if isinstance(args[1], Const) and args[1].value:
                return f"({codes[0]} / {codes[1]})"
            case "/":
                return f"{self.helper('divide')}({codes[0]}, {codes[1]})"
            case "floor" | "ceil" | "round" if kind == "int":
                return codes[0]
            case "max" | "min" | "abs" if kind != "real":
                return f"{op}({', '.join(codes)})"
            case _ if op in INFIX and (kind != "real" or op in ("+", "-", "*")):
                return f"({codes[0]} {op} {codes[1]})"
            case _:
                return f"{NUMBERS[kind]}({self.nested(op, codes)})"

    def nested(self, op: str, codes: list[str]) -> str:
        """One operation as an expression of its own."""
        if op == "uniform":
            return f"{self.helper('uniform')}({', '.join(codes)})"
        if op in HELPERS:
            return f"{self.helper(op)}({codes[0]})"
        template = OPS[op].numpy
        if not template:
            raise InvalidIR(f"{op} has no NumPy form")
        code = template.format(*codes)
        for more in codes[2:] if op in ("max", "min") else ():
            code = template.format(code, more)
        return code

    # Tiles

    def read(self, tile: Tile) -> Held:
        """A tile as its reader names the axes, cut where the block at hand has cut them."""
        held = self.frame.held.get(tile.name)
        if held is None:
            raise InvalidIR(f"tile {tile.name} is read before it is made")
        self.left[tile.name] -= 1
        free = self.left[tile.name] <= 0 and tile.name in self.dying
        if free:
            self.freed.add(tile.name)
        code, sizes = held.code, held.sizes
        if held.ranks:
            now = tuple(self.frame.sizes[rank] for rank in tile.ranks)
            renamed = held.ranks != tile.ranks
            if now != sizes and not renamed:
                cuts = [
                    ":" if old == new else f"{self.first(rank)}:{self.stop(rank)}"
                    for rank, old, new in zip(tile.ranks, sizes, now)
                ]
                code = f"{code}[{', '.join(cuts)}]"
            sizes = now if not renamed else sizes
        return replace(held, code=code, ranks=tile.ranks, free=free)


def bare(code: str) -> str:
    """An expression without the parentheses around all of it."""
    depth = 0
    for place, char in enumerate(code):
        depth += (char == "(") - (char == ")")
        if depth == 0 and place < len(code) - 1:
            return code
    return code[1:-1] if code.startswith("(") and code.endswith(")") else code


def literal(value: int | float | bool) -> str:
    """A number as Python writes it."""
    if isinstance(value, float) and value != value:
        return "np.nan"
    if value in (float("inf"), float("-inf")):
        return "np.inf" if value > 0 else "-np.inf"
    return repr(value)
