"""Expressions of the tile program as NumPy text.

A scalar is an expression of Python numbers. A value with axes is computed one operation a line,
each into a piece of scratch memory (`Slot`): that of an operand which nothing reads any more, or
one that is free. So a chain of operations stays in one buffer, and in the cache.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace

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
from attnc.ir.tile_blocks import Size, axes_of
from attnc.ir.tile_facts import Made, kind_of
from attnc.ir.walk import subterms

HELPERS = frozenset(("rsqrt", "sigmoid", "softplus", "gelu", "silu", "elu", "erf"))
"""Operations of one operand that `numpy_math` has under their own name."""

FLIPPED = {"==": "!=", "!=": "==", "<": ">=", "<=": ">", ">": "<=", ">=": "<"}
INFIX = frozenset(("+", "-", "*", "//", "%", "==", "!=", "<", "<=", ">", ">=", "and", "or"))
EXACT = frozenset(("max", "min", "abs", "neg", "select"))
NUMBERS = {"real": "float", "int": "int", "bool": "bool"}
TYPES = {"real": "REAL", "int": "np.int64", "bool": "np.bool_"}


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


def aligned(held: Held, ranks: tuple[str, ...]) -> str:
    """The text of a value such that it broadcasts along `ranks`."""
    if not held.ranks or held.ranks == ranks:
        return held.code
    code = ordered(held, tuple(rank for rank in ranks if rank in held.ranks))
    present = [rank in held.ranks for rank in ranks]
    present = present[present.index(True) :]
    if all(present):
        return code
    while present[-1] and len(present) > 1 and present[-2]:
        present.pop()
    return f"{code}[{', '.join(':' if axis else 'None' for axis in present)}]"


def ordered(held: Held, ranks: tuple[str, ...]) -> str:
    """The text of a value with its axes in another order."""
    if held.ranks == ranks:
        return held.code
    if len(ranks) == 2:
        return f"{held.code}.T"
    return f"{held.code}.transpose({', '.join(str(held.ranks.index(rank)) for rank in ranks)})"


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
    the lines that open the block, `opened` what these lines define.
    """

    number: int
    sizes: dict[str, Size]
    held: dict[str, Held]
    made: dict[str, Made]
    head: list[str]
    opened: set[str]
    depth: int


class Expressions:
    """Writes the lines that compute expressions, and keeps account of the slots."""

    def __init__(self, axes: frozenset[str], grid: dict[str, int]) -> None:
        self.axes, self.grid = axes, grid
        self.names = Names()
        self.slots: list[Slot] = []
        self.prologue: list[str] = []
        self.constants: dict[Expr, str] = {}
        self.ones: dict[Size, str] = {}
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

    # Slots

    def acquire(self, ranks: tuple[str, ...], kind: str) -> Held:
        """A free slot of some axes, one reference held."""
        for slot in self.slots:
            if slot.refs == 0 and slot.ranks == ranks and slot.kind == kind:
                break
        else:
            slot = Slot(len(self.slots), ranks, kind)
            self.slots.append(slot)
        slot.refs = 1
        return self.seen(slot)

    def seen(self, slot: Slot) -> Held:
        """A slot as the block at hand sees it: its start, if an axis was cut."""
        sizes = tuple(self.frame.sizes[rank] for rank in slot.ranks)
        block = max(number for _, number in sizes)
        name = f"s{slot.number}"
        if block:
            lengths = [self.size(size) for size in sizes]
            cut = f"{name}_{block}"
            self._open(
                block,
                cut,
                f"{cut} = {name}.reshape(-1)[:{' * '.join(lengths)}].reshape({', '.join(lengths)})",
            )
            name = cut
        return Held(name, slot.ranks, slot.kind, slot, True, sizes)

    def release(self, *values: Held) -> None:
        """Give back the slots of values that nothing reads any more."""
        for held in values:
            if held.free and held.slot is not None and held.slot.refs > 0:
                held.slot.refs -= 1

    def target(self, args: tuple[Held, ...], ranks: tuple[str, ...], kind: str) -> Held:
        """Where a result goes: over an operand that fits, else into a free slot."""
        sizes = tuple(self.frame.sizes[rank] for rank in ranks)
        for held in args:
            slot = held.slot
            if (
                held.free and slot is not None and slot.refs == 1
                and held.ranks == ranks == slot.ranks
                and held.kind == kind and held.sizes == sizes
            ):  # fmt: skip
                self.release(*(other for other in args if other is not held))
                return held
        out = self.acquire(ranks, kind)
        self.release(*args)
        return out

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
        return self._scalar(expr)

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

    # Values with axes

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

    def value(self, expr: Expr, order: tuple[str, ...]) -> Held:
        """Write the lines that compute an expression; its axes come out in the given order."""
        axes = axes_of(expr, self.frame.sizes)
        if not axes and not isinstance(expr, Tile):
            return Held(self.scalar(expr), (), self.kind(expr))
        ranks = tuple(rank for rank in order if rank in axes)
        match expr:
            case Tile():
                return self.read(expr)
            case Index(rank):
                return self.positions(rank)
            case Cast(dtype, body):
                return self._cast(dtype, self.value(body, order), ranks)
            case Map("select", (condition, chosen, other)):
                return self._select(condition, chosen, other, ranks)
            case Map("floor" | "ceil" as side, (Map("/", (over, by)),)) if self.kind(expr) == "int":
                if side == "floor":
                    return self.value(Map("//", (over, by)), order)
                negative = Map("//", (Map("neg", (over,)), by))
                return self.value(Map("neg", (negative,)), order)
            case Map("floor" | "ceil" | "round", (arg,)) if self.kind(expr) == "int":
                return self.value(arg, order)
            case Map(op, args):
                held = tuple(self.value(arg, order) for arg in args)
                return self._apply(op, held, ranks, self.kind(expr))
            case Const() | Extent() | Access() | Reduce() | Populate() | Param():
                raise InvalidIR(f"{type(expr).__name__} has no axes")

    def _apply(self, op: str, args: tuple[Held, ...], ranks: tuple[str, ...], kind: str) -> Held:
        codes = [aligned(held, ranks) for held in args]
        if OPS[op].result != "bool":
            codes = [
                f"{code}.astype(np.int64)" if held.kind == "bool" and held.ranks else code
                for code, held in zip(codes, args)
            ]
        out = self.target(args, ranks, kind)
        if op == "uniform":
            self.line(f"np.copyto({out.code}, {self.nested(op, codes)}, casting='same_kind')")
        elif op in HELPERS:
            self.line(f"{self.helper(op)}({codes[0]}, out={out.code})")
        elif len(codes) > 2 and op in ("max", "min"):
            # The result may lie in one operand, so that one has to go in first.
            codes.sort(key=lambda code: code != out.code)
            for more in codes[1:]:
                self.line(f"{into(OPS[op].numpy.format(codes[0], more), out.code)}")
                codes[0] = out.code
        else:
            self.line(into(self.nested(op, codes), out.code))
        return replace(out, ranks=ranks, free=True)

    def _cast(self, dtype: str, body: Held, ranks: tuple[str, ...]) -> Held:
        code = aligned(body, ranks)
        kind = dtype if dtype in ("int", "bool") else "real"
        if dtype == "float" and body.kind == "real":
            return body
        out = self.target((body,), ranks, kind)
        match dtype:
            case "bool":
                self.line(f"np.not_equal({code}, 0, out={out.code})")
            case "int" | "float":
                self.line(f"np.copyto({out.code}, {code}, casting='unsafe')")
            case _:
                self.line(f"{self.helper('rounded')}({code}, {dtype!r}, out={out.code})")
        return replace(out, ranks=ranks, free=True)

    def _select(
        self, condition: Expr, chosen: Expr, other: Expr, ranks: tuple[str, ...]
    ) -> Held:
        kind = kind_of(Map("select", (condition, chosen, other)), self.frame.made)
        if not axes_of(condition, self.frame.sizes):
            test = self.scalar(condition)
            both = (self.value(chosen, ranks), self.value(other, ranks))
            codes = [aligned(held, ranks) for held in both]
            out = self.target(both, ranks, kind)
            self.line(f"np.copyto({out.code}, {codes[0]} if {test} else {codes[1]})")
            return replace(out, ranks=ranks, free=True)
        # Written over the operand that is there already: the chosen one, where the test fails.
        first = self.value(chosen, ranks)
        sizes = tuple(self.frame.sizes[rank] for rank in ranks)
        keeps = (
            first.free and first.slot is not None and first.slot.refs == 1
            and first.ranks == ranks == first.slot.ranks
            and first.kind == kind and first.sizes == sizes
        )  # fmt: skip
        test_held = self.value(negation(condition, self.kind) if keeps else condition, ranks)
        second = self.value(other, ranks)
        mask = aligned(test_held, ranks)
        if keeps:
            self.line(f"np.copyto({first.code}, {aligned(second, ranks)}, where={mask})")
            self.release(test_held, second)
            return replace(first, free=True)
        code = aligned(first, ranks)
        out = self.target((second,), ranks, kind)
        if aligned(second, ranks) != out.code:
            self.line(f"np.copyto({out.code}, {aligned(second, ranks)})")
        self.line(f"np.copyto({out.code}, {code}, where={mask})")
        self.release(first, test_held)
        return replace(out, ranks=ranks, free=True)

    def mask(self, tests: tuple[Expr, ...], ranks: tuple[str, ...], fails: bool) -> Held:
        """Where all tests hold, or where one fails, as one array."""
        joint = tests[0]
        for test in tests[1:]:
            joint = Map("and", (joint, test))
        return self.value(negation(joint, self.kind) if fails else joint, ranks)


def into(call: str, out: str) -> str:
    """A call of a NumPy function that writes its result to `out`."""
    return f"{call[:-1]}, out={out})"


def negation(expr: Expr, kind: Callable[[Expr], str]) -> Expr:
    """The opposite of a predicate; comparisons of floats keep their form because of NaN."""
    match expr:
        case Map("and", (left, right)):
            return Map("or", (negation(left, kind), negation(right, kind)))
        case Map("or", (left, right)):
            return Map("and", (negation(left, kind), negation(right, kind)))
        case Map("not", (body,)):
            return body
        case Map(op, args) if op in FLIPPED and all(kind(arg) != "real" for arg in args):
            return Map(FLIPPED[op], args)
        case _:
            return Map("not", (expr,))


def literal(value: int | float | bool) -> str:
    """A number as Python writes it."""
    if isinstance(value, float) and value != value:
        return "np.nan"
    if value in (float("inf"), float("-inf")):
        return "np.inf" if value > 0 else "-np.inf"
    return repr(value)
