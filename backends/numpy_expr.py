"""Expressions of the tile program as NumPy text.

A scalar is an expression of Python numbers. A value with axes is computed one operation a line,
each into a piece of scratch memory (`Slot`): that of an operand which nothing reads any more, or
one that is free. So a chain of operations stays in one buffer, and in the cache.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import reduce

from attnc.backends.numpy_layout import Pair
from attnc.backends.numpy_scalar import HELPERS, Held, Scalars, Slot
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
from attnc.ir.tile import Compute, Load
from attnc.ir.tile_blocks import axes_of
from attnc.ir.tile_facts import kind_of
from attnc.ir.walk import subterms

FLIPPED = {"==": "!=", "!=": "==", "<": ">=", "<=": ">", ">": "<=", ">=": "<"}
TYPES = {"real": "REAL", "int": "np.int64", "bool": "np.bool_"}


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


FEW = 8
"""Positions of an axis one after the other for which NumPy is called once each."""

KEPT = 8
"""Masks that a thread keeps for the instances to come; it holds no more of them than this."""


@dataclass(frozen=True, slots=True)
class Alike:
    """What a predicate varies with, among the ranks of a kernel's grid and loops.

    `made` gives the statements that load or compute tiles, by tile.
    """

    grid: tuple[str, ...]
    made: Mapping[str, Load | Compute]

    def ranks(self, expr: Expr) -> tuple[str, ...] | None:
        """The ranks of the grid and of loops; None where it depends on more than positions and
        tables."""
        found: dict[str, None] = {}
        for term in subterms(expr):
            match term:
                case Index(rank):
                    found.setdefault(rank)
                case Tile(name):
                    match self.made.get(name):
                        case Load(_, _, _, subscripts, where):
                            inside = [*subscripts, *([] if where is None else [where])]
                        case Compute(_, _, body):
                            inside = [body]
                        case _:
                            return None
                    for part in inside:
                        own = self.ranks(part)
                        if own is None:
                            return None
                        found.update(dict.fromkeys(own))
                case _:
                    pass
        return tuple(found)

    def others(self, varies: tuple[str, ...]) -> tuple[str, ...]:
        """The ranks of the grid at all positions of which a value is the same."""
        return tuple(rank for rank in self.grid if rank not in varies)


class Expressions(Scalars):
    """Writes the lines that compute expressions, and keeps account of the slots.

    `turned` are the last two ranks of tiles that lie in memory by columns, where these are longer.
    """

    def __init__(self, grid: dict[str, int], alike: Alike, turned: frozenset[Pair]) -> None:
        super().__init__(grid)
        self.turned = turned
        self.slots: list[Slot] = []
        self.alike = alike
        self.kept = 0
        self.shared: set[str] = set()

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
            flat = name if slot.ranks[-2:] in self.turned else f"{name}.reshape(-1)"
            self._open(block, cut, f"{cut} = {self.laid(flat, slot, lengths)}")
            name = cut
        return Held(name, slot.ranks, slot.kind, slot, True, sizes)

    def laid(self, memory: str, slot: Slot, lengths: list[str]) -> str:
        """A piece of memory as the tile of a slot."""
        if slot.ranks[-2:] in self.turned:
            by = self.by_columns(slot.ranks)
            return f"{self.helper('laid')}({memory}, ({', '.join(lengths)}), {by})"
        return f"{memory}[:{' * '.join(lengths)}].reshape({', '.join(lengths)})"

    def by_columns(self, ranks: tuple[str, ...]) -> str:
        """The name of the truth that tiles of these last two ranks lie in memory by columns."""
        return self.names.of("by", "_".join(ranks[-2:]))

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

    # Values with axes

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
            case Map("+" | "-" as op, (total, Map("*", factors))) if self._by_parts(
                total, factors, ranks
            ):
                return self._added_in_parts(op, total, factors, ranks)
            case Map(op, args):
                numbers = self.kind(expr) == "real" and OPS[op].result != "bool"
                return self._apply(op, self._operands(args, order, numbers), ranks, self.kind(expr))
            case Const() | Extent() | Access() | Reduce() | Populate() | Param():
                raise InvalidIR(f"{type(expr).__name__} has no axes")

    def _by_parts(self, total: Expr, factors: tuple[Expr, ...], ranks: tuple[str, ...]) -> bool:
        """Whether a product would fill a tile as large as one of scores, and none of what is added
        or multiplied has its place to give, and the first axis has few positions."""
        wide = [len(axes_of(factor, self.frame.sizes)) == len(ranks) for factor in factors]
        return (
            len(ranks) > 2 and ranks[-2:] in self.turned
            and self.grid.get(ranks[0], FEW + 1) <= FEW and not any(wide)
            and self.kind(total) == "real" and len(axes_of(total, self.frame.sizes)) == len(ranks)
        )  # fmt: skip

    def _added_in_parts(
        self, op: str, total: Expr, factors: tuple[Expr, ...], ranks: tuple[str, ...]
    ) -> Held:
        """A tile plus or minus a product of smaller ones, which never is in memory as a whole."""
        held, *operands = self._operands((total, *factors), ranks, numbers=True)
        found = [self._real(own) if own.kind == "int" else own for own in operands]
        out = self.target((held,), ranks, "real")
        part = self.acquire(ranks[1:], "real")
        codes = [
            f"{aligned(own, ranks)}[part]" if ranks[0] in own.ranks else aligned(own, ranks[1:])
            for own in found
        ]
        self.line(f"for part in range({self.count(ranks[0])}):")
        self.line(f"    {into(self.nested('*', codes), part.code)}")
        sides = [f"{aligned(held, ranks)}[part]", part.code]
        self.line(f"    {into(self.nested(op, sides), f'{out.code}[part]')}")
        self.release(part, *found)
        return replace(out, ranks=ranks, free=True)

    def _operands(
        self, args: tuple[Expr, ...], order: tuple[str, ...], numbers: bool
    ) -> tuple[Held, ...]:
        """Operands one after another; a tile that is read twice is not written over between."""
        found: list[Held] = []
        for arg in args:
            held = self._measured(arg, order) if numbers else None
            found.append(held or self.value(arg, order))
            if found[-1].slot is not None:
                found[-1].slot.refs += 1
        for held in found:
            if held.slot is not None:
                held.slot.refs -= 1
        return tuple(found)

    def _apply(self, op: str, args: tuple[Held, ...], ranks: tuple[str, ...], kind: str) -> Held:
        if kind == "real" and OPS[op].result != "bool":
            args = tuple(self._real(held) if held.kind == "int" else held for held in args)
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

    def _measured(self, expr: Expr, order: tuple[str, ...]) -> Held | None:
        """A matrix of sums or differences of two vectors of integers, as numbers at once."""
        ranks = tuple(rank for rank in order if rank in axes_of(expr, self.frame.sizes))
        match expr:
            case Map("+" | "-" as op, args) if len(ranks) > 1 and self.kind(expr) == "int":
                if any(len(axes_of(arg, self.frame.sizes)) > 1 for arg in args):
                    return None
                found = self._operands(args, order, numbers=False)
                codes = ", ".join(aligned(held, ranks) for held in found)
                out = self.acquire(ranks, "real")
                ufunc = {"+": "np.add", "-": "np.subtract"}[op]
                self.line(f"{self.helper('measured')}({ufunc}, {codes}, {out.code})")
                self.release(*found)
                return out
            case _:
                return None

    def _real(self, held: Held) -> Held:
        """Integers as numbers of the arithmetic, before they meet others: NumPy would compute with
        float64, whatever the other operand."""
        if not held.ranks:
            return held
        out = self.acquire(held.ranks, "real")
        self.line(f"np.copyto({out.code}, {held.code}, casting='unsafe')")
        self.release(held)
        return out

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

    def _select(self, condition: Expr, chosen: Expr, other: Expr, ranks: tuple[str, ...]) -> Held:
        kind = kind_of(Map("select", (condition, chosen, other)), self.frame.made)
        if not axes_of(condition, self.frame.sizes):
            test = self.scalar(condition)
            both = (self.value(chosen, ranks), self.value(other, ranks))
            codes = [aligned(held, ranks) for held in both]
            out = self.target(both, ranks, kind)
            self.line(f"np.copyto({out.code}, {codes[0]} if {test} else {codes[1]})")
            return replace(out, ranks=ranks, free=True)
        # One operand is written over the other where it has to be, over a constant never.
        swapped = not axes_of(chosen, self.frame.sizes)
        main, rest = (other, chosen) if swapped else (chosen, other)
        mask = self.fails(negation(condition, self.kind) if swapped else condition, ranks)
        out = self.value(main, ranks)
        sizes = tuple(self.frame.sizes[rank] for rank in ranks)
        if not (
            out.free and out.slot is not None and out.slot.refs == 1
            and out.ranks == ranks == out.slot.ranks and out.kind == kind and out.sizes == sizes
        ):  # fmt: skip
            first, out = out, self.acquire(ranks, kind)
            self.line(f"np.copyto({out.code}, {aligned(first, ranks)})")
            self.release(first)
        second = self.value(rest, ranks)
        self.line(f"np.copyto({out.code}, {aligned(second, ranks)}, where={aligned(mask, ranks)})")
        self.release(second)
        return replace(out, free=True)

    def fails(self, test: Expr, ranks: tuple[str, ...]) -> Held:
        """Where a test fails, as an array that is computed once in a block."""
        if test not in self.frame.masks:
            varies = self.alike.ranks(test)
            wide = len(axes_of(test, self.frame.sizes)) > 1
            shared = wide and varies is not None and bool(self.alike.others(varies))
            held = self._kept(test, ranks, varies or ()) if shared else self._failing(test, ranks)
            self.frame.masks[test] = replace(held, free=False)
        return self.frame.masks[test]

    def _failing(self, test: Expr, ranks: tuple[str, ...]) -> Held:
        held = self.value(negation(test, self.kind), ranks)
        return held if held.kind == "bool" else self._cast("bool", held, held.ranks)

    def _kept(self, test: Expr, ranks: tuple[str, ...], varies: tuple[str, ...]) -> Held:
        """A mask that instances of other heads have as well: the last few are kept."""
        self.shared.update(self.alike.others(varies))
        axes = tuple(rank for rank in ranks if rank in axes_of(test, self.frame.sizes))
        edges = [edge for rank in axes for edge in (self.first(rank), self.stop(rank))]
        points = [rank for rank in varies if rank in self.grid or rank not in self.frame.sizes]
        where = [self.names.of("lo" if rank in self.grid else "i", rank) for rank in points]
        code, self.kept = f"kept_{self.kept}", self.kept + 1
        self.line(f"key = ({self.kept}, {', '.join(dict.fromkeys((*where, *edges)))})")
        self.line(f"{code} = shared.get(key)")
        self.line(f"if {code} is None:")
        known, self.depth = dict(self.frame.masks), self.depth + 1
        held = self._failing(test, ranks)
        self.line(f"if len(shared) >= {KEPT}:")
        self.line("    shared.clear()")
        self.line(f"{code} = shared[key] = {ordered(held, axes)}.copy('K')")
        self.release(held)
        self.frame.masks, self.depth = known, self.depth - 1
        return Held(code, axes, "bool", sizes=tuple(self.frame.sizes[rank] for rank in axes))


def joint(tests: tuple[Expr, ...]) -> Expr:
    """The conjunction of some tests."""
    return reduce(lambda first, second: Map("and", (first, second)), tests)


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
