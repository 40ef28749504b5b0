"""A tile program as Python source: a function a kernel, straight-line NumPy within its loops.

    def kernel_0(arrays, extents, scratch, REAL, instances): ... return read, written, flops, peak

The text has the arithmetic's type as an argument; which inputs must be widened to it is decided
when it is written. Nothing of the program's text gets into it but names, behind a prefix.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import replace

from attnc.backends.numpy_expr import TYPES, Alike, aligned, into, ordered
from attnc.backends.numpy_layout import turning
from attnc.backends.numpy_memory import Memory
from attnc.backends.numpy_scalar import NUMBERS, Frame, Held, Scalars, bare, literal
from attnc.ir.algebra import MONOIDS
from attnc.ir.cascade import Reduction
from attnc.ir.expr import Const, Expr, Map, Param, Tile
from attnc.ir.print_tile import print_head
from attnc.ir.source import InvalidIR
from attnc.ir.tile import (
    Compute,
    Contract,
    Fold,
    Grid,
    Kernel,
    Listed,
    Load,
    Loop,
    Program,
    Scan,
    Statement,
    Store,
)
from attnc.ir.tile_blocks import Alive, Amount, Block, Size, blocks, tensors_of
from attnc.ir.tile_facts import every, lists_read, names_read


def emit(program: Program, widened: frozenset[str]) -> str:
    """The module that runs a program; `widened` are the tensors not of the arithmetic's type."""
    kernels = [
        _Kernel(program, kernel, widened).write(number)
        for number, kernel in enumerate(program.kernels)
    ]
    helpers = sorted({name for _, used in kernels for name in used if name != "uniform"})
    lines = [f'"""{program.name}, as it runs on NumPy."""', "", "import numpy as np"]
    if helpers:
        lines += ["", f"from attnc.backends.numpy_math import {', '.join(helpers)}"]
    if any("uniform" in used for _, used in kernels):
        lines.append("from attnc.backends.random import uniform")
    for own in program.reductions:
        lines += ["", "", *_combination(own)]
    for text, _ in kernels:
        lines += ["", "", *text]
    return "\n".join(lines) + "\n"


def _combination(own: Reduction) -> list[str]:
    """A reduction of the user's own as a function of two arrays."""
    writer = Scalars({})

    def text(expr: Expr) -> str:
        match expr:
            case Param(name):
                return name
            case Const(value):
                return literal(value)
            case Map(op, args):
                return writer.nested(op, [text(arg) for arg in args])
            case _:
                raise InvalidIR(f"reduction {own.name} holds a {type(expr).__name__}")

    result = text(own.body)
    lines = [f"def own_{own.name}(x, y):", f"    return {result}"]
    if writer.helpers:
        names = ", ".join(sorted(writer.helpers))
        lines.insert(1, f"    from attnc.backends.numpy_math import {names}")
    return lines


class _Kernel(Memory):
    """Writes the function of one kernel."""

    def __init__(self, program: Program, kernel: Kernel, widened: frozenset[str]) -> None:
        grid = {entry.rank: entry.tile for entry in kernel.grid if entry.tile > 1}
        made = {s.name: s for s in every(kernel.body) if isinstance(s, Load | Compute)}
        numbered = (Grid(kernel.at, 1),) if kernel.at else ()
        self.entries = (*kernel.grid, *numbered)
        alike = Alike(tuple(entry.rank for entry in self.entries), made)
        turned = turning(kernel)
        super().__init__(tensors_of(program), kernel.axes, grid, alike, widened, turned)
        self.program, self.kernel = program, kernel
        self.reductions = {own.name: own for own in program.reductions}
        self.ones: dict[Size, str] = {}

    def write(self, number: int) -> tuple[list[str], set[str]]:
        """The lines of the function, and the helpers that it calls."""
        block = blocks(self.program, self.kernel)
        for entry in self.entries:
            self.extent(entry.rank)
        for axis in self.kernel.axes:
            if axis.rank not in self.grid:
                size = axis.extent if axis.size is None else Const(axis.size)
                frame = Frame(0, {}, {}, {}, [], set(), 1)
                self.frames.append(frame)
                self.prologue.append(f"{self.size((axis.rank, 0))} = {self.scalar(size)}")
                self.frames.pop()
        self.depth = 2
        self.block(block, {}, 2)
        names = sorted({*self._touched(block), *lists_read(self.kernel.body)})
        positions = [self._counter(entry.rank) for entry in self.entries]
        if len(positions) == 1:
            positions = [f"({positions[0]},)"]
        views, shapes = self._views()
        ragged = [self.size((rank, 0)) for rank in self.grid]
        seen = [self.names.of("seen", rank) for rank in self.grid]
        lines = [
            f"def kernel_{number}(arrays, extents, scratch, REAL, instances):",
            f'    """{print_head(self.kernel)}"""',
            *(f"    {self.names.of('a', name)} = arrays[{name!r}]" for name in names),
            *(f"    {line}" for line in self.prologue),
            *(f"    {line}" for line in shapes),
            "    width = REAL.itemsize",
            "    read = written = flops = peak = 0",
            *(["    shared = {}"] if self.kept else []),
        ]
        if not self.grid:
            lines += [f"    {line}" for line in views]
        else:
            lines.append(f"    {' = '.join(seen)} = None")
        lines.append(f"    for {', '.join(positions) or '_'} in instances:")
        for rank, tile in self.grid.items():
            lo, hi = self.names.of("lo", rank), self.names.of("hi", rank)
            lines.append(f"        {hi} = min({lo} + {tile}, {self.extent(rank)})")
            lines.append(f"        {self.size((rank, 0))} = {hi} - {lo}")
        if self.grid:
            lines.append(f"        if ({', '.join(ragged)},) != ({', '.join(seen)},):")
            lines += [f"            {a} = {b}" for a, b in zip(seen, ragged)]
            lines += [f"            {line}" for line in views]
        lines += [*self.lines, "    return read, written, flops, peak", "", ""]
        ranks = [entry.rank for entry in self.entries]
        order = sorted(ranks, key=lambda rank: rank in self.shared)
        lines.append("# The ranks of the grid by how slowly they vary from instance to instance.")
        lines.append(f"ORDER_{number} = {[ranks.index(rank) for rank in order]}")
        return lines, self.helpers

    def _counter(self, rank: str) -> str:
        return self.names.of("lo" if rank in self.grid else "i", rank)

    def _touched(self, block: Block) -> set[str]:
        found = {s.tensor for s in block.statements if isinstance(s, Load | Store)}
        for inner in block.loops.values():
            for part in inner:
                found |= self._touched(part)
        return found

    def _views(self) -> tuple[list[str], list[str]]:
        """The lines that lay the slots out in scratch memory, and those that ask for it."""
        views, shapes = [], []
        for slot in self.slots:
            nominal = [
                f"min({self.grid[rank]}, {self.extent(rank)})"
                if rank in self.grid
                else self.size((rank, 0))
                for rank in slot.ranks
            ]
            actual = [self.size((rank, 0)) for rank in slot.ranks]
            flat = f"f{slot.number}"
            shapes.append(
                f"{flat} = scratch.of({slot.number}, {' * '.join(nominal)}, {TYPES[slot.kind]})"
            )
            if slot.ranks[-2:] in self.turned:
                choice = f"{self.by_columns(slot.ranks)} = {actual[-1]} > {actual[-2]}"
                views += [choice] if choice not in views else []
            views.append(f"s{slot.number} = {self.laid(flat, slot, actual)}")
        for size, name in self.ones.items():
            shapes.append(f"{name} = np.ones({self.size((size[0], 0))}, REAL)")
        return views, shapes

    # Blocks

    def block(self, block: Block, held: Mapping[str, Held], depth: int) -> dict[str, Held]:
        """Write a block; gives the tiles as they stand at its end."""
        frame = Frame(
            block.number, dict(block.sizes), dict(held), dict(block.made), [], set(), depth
        )
        outer, self.lines = self.lines, []
        self.frames.append(frame)
        self.depth = depth
        cuts = self._cuts(block)
        for place, statement in enumerate(block.statements):
            self.left = Counter(names_read(statement))
            self.freed.clear()
            self.dying = frozenset(name for name, end in block.last.items() if end == place)
            dying = self.dying
            self.line(f"# {print_head(statement)}")
            self.statement(statement, block, place)
            for name in dying:
                gone = frame.held.pop(name)
                if gone.slot is not None and name not in self.freed:
                    gone.slot.refs -= 1
        self._count(block)
        self.frames.pop()
        self.lines = [*outer, *cuts, *frame.head, *self.lines]
        return frame.held

    def _cuts(self, block: Block) -> list[str]:
        """The lines that compute where the axes of a block are cut."""
        lines: list[str] = []
        pad = "    " * self.depth
        for clip in block.clips:
            lo, hi = self.names.of("lo", f"{clip.rank}_{block.number}"), self.stop(clip.rank)
            lines.append(f"{pad}{lo} = {bare(self.scalar(clip.lo))}")
            lines.append(f"{pad}{hi} = max({lo}, {bare(self.scalar(clip.hi))})")
            lines.append(f"{pad}{self.count(clip.rank)} = {hi} - {lo}")
        return lines

    def _count(self, block: Block) -> None:
        if any(block.flops.values()):
            self.line(f"flops += {self._amount(block.flops)}")
        peaks = [self._bytes(peak) for peak in block.peaks]
        peaks = [peak for peak in peaks if peak]
        if peaks:
            self.line(f"peak = max(peak, {', '.join(peaks)})")

    def _bytes(self, alive: Alive) -> str:
        parts = (("width * ", alive.reals), ("8 * ", alive.integers), ("", alive.truths))
        return " + ".join(f"{unit}({self._amount(part)})" for unit, part in parts if part)

    def _amount(self, amount: Amount) -> str:
        terms = []
        for sizes, count in amount.items():
            factors = [self.size(size) for size in sizes]
            if count != 1 or not factors:
                factors.insert(0, str(count))
            if count:
                terms.append(" * ".join(factors))
        return " + ".join(terms)

    # Statements

    def statement(self, statement: Statement, block: Block, place: int) -> None:
        match statement:
            case Load(name):
                self.bind(name, self.load(statement))
            case Compute():
                self.compute(statement)
            case Contract():
                self.contract(statement)
            case Fold():
                self.fold(statement)
            case Scan():
                self.scan(statement)
            case Store():
                self.store(statement)
            case Loop():
                self.loop(statement, block.loops[place])

    def bind(self, name: str, held: Held) -> None:
        """Give a tile its value; a scalar becomes a variable."""
        if not held.ranks:
            code = self.names.of("t", name)
            self.line(f"{code} = {bare(held.code)}")
            held = replace(held, code=code)
        self.frame.held[name] = replace(held, free=False)

    def compute(self, compute: Compute) -> None:
        held = self.value(compute.body, compute.ranks)
        self.bind(compute.name, self.owned(held, compute.ranks))

    def owned(self, held: Held, ranks: tuple[str, ...], kind: str = "") -> Held:
        """A value as a tile of its own: where it lies if that will do, else in a slot."""
        kind = kind or held.kind
        if not ranks:
            cast = f"{NUMBERS[kind]}({held.code})"
            return held if held.kind == kind else replace(held, code=cast, kind=kind)
        sizes = tuple(self.frame.sizes[rank] for rank in ranks)
        if held.ranks == ranks and held.kind == kind and held.sizes == sizes:
            if held.slot is not None and not held.free:
                held.slot.refs += 1
            return held
        out = self.acquire(ranks, kind)
        self.line(f"np.copyto({out.code}, {aligned(held, ranks)})")
        self.release(held)
        return out

    def operand(self, tile: Tile) -> Held:
        """An operand of a product, in the type of the arithmetic."""
        held = self.read(tile)
        if held.kind == "real":
            return held
        out = self.acquire(held.ranks, "real")
        self.line(f"np.copyto({out.code}, {held.code})")
        self.release(held)
        return replace(out, free=True)

    def contract(self, contract: Contract) -> None:
        over = contract.over
        left, right = self.operand(contract.left), self.operand(contract.right)
        stack = tuple(rank for rank in left.ranks if rank in right.ranks and rank != over)
        rows = tuple(rank for rank in left.ranks if rank not in (over, *stack))
        columns = tuple(rank for rank in right.ranks if rank not in (over, *stack))
        if contract.ranks == (*stack, *columns, *rows) and rows:
            left, right, rows, columns = right, left, columns, rows
        if not contract.ranks:
            self.bind(contract.name, Held(f"float(np.dot({left.code}, {right.code}))", (), "real"))
            self.release(left, right)
            return
        if not stack and len(columns) > 1 and right.ranks[0] == columns[0] != right.ranks[-2]:
            # To join the columns would be to copy them.
            stack, columns = columns[:1], columns[1:]
        first = self._matrices(left, stack, (rows, (over,)))
        second = self._matrices(right, stack, ((over,), columns))
        natural = (*stack, *rows, *columns)
        out = self.acquire(natural, "real")
        flat = self._matrices(out, stack, (rows, columns))
        self.line(f"np.matmul({first}, {second}, out={flat})")
        self.release(left, right)
        if natural != contract.ranks:
            turned = self.acquire(contract.ranks, "real")
            self.line(f"np.copyto({turned.code}, {ordered(out, contract.ranks)})")
            self.release(out)
            out = turned
        self.bind(contract.name, out)

    def _matrices(
        self, held: Held, stack: tuple[str, ...], groups: tuple[tuple[str, ...], ...]
    ) -> str:
        """A value as a stack of matrices, each of its other axes a group of its ranks.

        Without a stack an empty group leaves no axis.
        """
        present = tuple(rank for rank in stack if rank in held.ranks)
        code = ordered(held, (*present, *(rank for group in groups for rank in group)))
        if all(len(group) == 1 or not (group or stack) for group in groups) and (
            len(stack) < 2 or present == stack
        ):
            return code
        lengths = [self.count(rank) if rank in present else "1" for rank in stack]
        for group in groups:
            if group or stack:
                lengths.append(" * ".join(self.count(rank) for rank in group) or "1")
        return f"{code}.reshape({', '.join(lengths)})"

    def fold(self, fold: Fold) -> None:
        source = self.read(fold.source)
        kind = self.frame.made[fold.name].kind
        axes = tuple(source.ranks.index(rank) for rank in fold.over)
        natural = tuple(rank for rank in source.ranks if rank not in fold.over)
        code = source.code
        if source.kind == "bool" and kind == "int":
            code = f"{code}.astype(np.int64)"
        elif source.kind != "bool" and kind == "bool":
            code = f"({code} != 0)"
        out = self.acquire(natural, kind) if natural else None
        listed = f"({', '.join(map(str, axes))},)"
        if fold.op not in MONOIDS:
            own = self.reductions[fold.op]
            identity = self.scalar(own.identity)
            call = f"{self.helper('folded')}(own_{own.name}, {code}, {listed}, {identity})"
            written = f"np.copyto({out.code}, {call})" if out else ""
        elif fold.op == "logsumexp":
            call = f"{self.helper('logsumexp')}({code}, {listed})"
            written = into(call, out.code) if out else ""
        elif fold.op == "sum" and kind == "real" and self._by_product(source.ranks, axes):
            # Twice as fast as np.add.reduce along rows of a tile's length.
            ones = self._ones(self.frame.sizes[fold.over[0]])
            last = axes[0] == len(source.ranks) - 1
            call = f"np.matmul({code}, {ones})" if last else f"np.matmul({ones}, {code})"
            written = into(call, out.code) if out else ""
        else:
            start = "" if kind == "bool" else f", initial={self._identity(fold.op, kind)}"
            axis = axes[0] if len(axes) == 1 else axes
            ufunc = MONOIDS[fold.op].numpy
            call = f"{ufunc}.reduce({code}, axis={axis}{start})"
            written = into(call, out.code) if out else ""
            if out and source.ranks[-2:] in self.turned and axis == len(source.ranks) - 1 and start:
                initial = self._identity(fold.op, kind)
                written = f"{self.helper('reduced')}({ufunc}, {code}, {initial}, {out.code})"
        self.release(source)
        if out is None:
            self.bind(fold.name, Held(f"{NUMBERS[kind]}({call})", (), kind))
            return
        self.line(written)
        if natural != fold.ranks:
            turned = self.acquire(fold.ranks, kind)
            self.line(f"np.copyto({turned.code}, {ordered(out, fold.ranks)})")
            self.release(out)
            out = turned
        self.bind(fold.name, out)

    def _by_product(self, ranks: tuple[str, ...], axes: tuple[int, ...]) -> bool:
        """Whether a sum is a product of a matrix, or of a stack of them, with a vector of ones."""
        return len(axes) == 1 and len(ranks) in (2, 3) and axes[0] >= len(ranks) - 2

    def scan(self, scan: Scan) -> None:
        source = self.read(scan.source)
        kind = self.frame.made[scan.name].kind
        natural = tuple(scan.along if rank == scan.over else rank for rank in source.ranks)
        axis = source.ranks.index(scan.over)
        out = self.acquire(natural, kind)
        back = f"[{':, ' * axis}::-1]" if scan.reverse else ""
        ufunc = MONOIDS[scan.op].numpy
        self.line(f"{ufunc}.accumulate({source.code}{back}, axis={axis}, out={out.code}{back})")
        self.release(source)
        if natural != scan.ranks:
            turned = self.acquire(scan.ranks, kind)
            self.line(f"np.copyto({turned.code}, {ordered(out, scan.ranks)})")
            self.release(out)
            out = turned
        self.bind(scan.name, out)

    def _identity(self, op: str, kind: str) -> str:
        value = MONOIDS[op].identity
        if kind == "int":
            return {
                "max": "np.iinfo(np.int64).min", "min": "np.iinfo(np.int64).max",
            }.get(op, str(int(value) if abs(value) < 2 else 0))  # fmt: skip
        return literal(value)

    def _ones(self, size: Size) -> str:
        name = self.names.of("ones", size[0])
        self.ones[(size[0], 0)] = name
        return f"{name}[:{self.size(size)}]" if size[1] else name

    # Loops

    def loop(self, loop: Loop, parts: tuple[Block, ...]) -> None:
        frame = self.frame
        states: dict[str, Held] = {}
        self.dying = frozenset()
        for state in loop.carried:
            kind = frame.made[state.name].kind
            held = self.owned(self.value(state.init, state.ranks), state.ranks, kind)
            if state.ranks and (held.slot is None or held.slot.refs > 1):
                shared, held = held.slot, self._copied(held, state.ranks, kind)
                if shared is not None:
                    shared.refs -= 1
            self.bind(state.name, held)
            states[state.name] = frame.held[state.name]
        for segment, part, (lo, hi) in zip(loop.segments, parts, self._bounds(loop)):
            if segment.note:
                self.line(f"# {segment.note}")
            counter = self.names.of("i", loop.rank)
            among = (
                f"range({lo}, {hi})"
                if segment.listed is None
                else self._named(segment.listed, lo, hi)
            )
            self.line(f"for {counter} in {among}:")
            if segment.when is not None:
                self.line(f"    if not {self.scalar(segment.when)}:")
                self.line("        continue")
            refs = {slot.number: slot.refs for slot in self.slots}
            depth = self.depth
            self.inside(part, {**frame.held, **states}, loop, segment.after, states)
            self.depth = depth
            for slot in self.slots:
                slot.refs = refs.get(slot.number, 0)
        self.freed.clear()
        frame.held.update(states)

    def _bounds(self, loop: Loop) -> list[tuple[str, str]]:
        """Where each segment starts and ends: a start contains the end of the segment before."""
        outer = dict(self.limits)
        pairs: list[tuple[str, str]] = []
        for segment in loop.segments:
            for bound in (segment.lo, segment.hi):
                if isinstance(bound, Map) and bound not in self.limits:
                    code = bare(self.scalar(bound))
                    self.limits[bound] = f"{self.names.of('end', loop.rank)}_{next(self.limited)}"
                    self.line(f"{self.limits[bound]} = {code}")
            pairs.append((self.scalar(segment.lo), self.scalar(segment.hi)))
        self.limits = outer
        return pairs

    def _named(self, listed: Listed, lo: str, hi: str) -> str:
        """The positions at some places of a list, as Python's integers."""
        at = ", ".join(bare(self.scalar(part)) for part in listed.at)
        row = f"[{at}]" if at else ""
        return f"{self.names.of('a', listed.positions)}{row}[{lo} : max({lo}, {hi})].tolist()"

    def inside(
        self,
        part: Block,
        held: dict[str, Held],
        loop: Loop,
        after: tuple[str, ...],
        states: dict[str, Held],
    ) -> None:
        """The body of a segment, and at its end the states' move to their new values."""
        mark = len(self.lines)
        final = self.block(part, held, self.depth + 1)
        if len(self.lines) == mark:
            self.line("pass")
        self.frames.append(
            Frame(part.number, dict(part.sizes), final, dict(part.made), [], set(), self.depth)
        )
        numbers: list[tuple[str, str]] = []
        moves: dict[str, str] = {}
        taken = {value.slot.number for name, value in held.items()
                 if value.slot is not None and name not in states}  # fmt: skip
        for state, name in zip(loop.carried, after):
            old, new = states[state.name], final[name]
            if not state.ranks:
                numbers.append((old.code, self.owned(new, (), old.kind).code))
                continue
            movable = (
                new.slot is not None and new.slot.number not in taken
                and new.slot.ranks == state.ranks == new.ranks and new.kind == old.kind
            )  # fmt: skip
            if not movable:
                new = self._copied(replace(new, free=False), state.ranks, old.kind)
            assert new.slot is not None
            taken.add(new.slot.number)
            moves[old.code] = new.code
        # A buffer that a state left goes where one was taken: the buffers change places.
        left = [code for code in moves if code not in moves.values()]
        bare = [code for code in moves.values() if code not in moves]
        pairs = [*numbers, *moves.items(), *zip(bare, left)]
        pairs = [(new, old) for new, old in pairs if new != old]
        if pairs:
            self.line(f"{', '.join(new for new, _ in pairs)} = {', '.join(o for _, o in pairs)}")
        self.frames.pop()

    def _copied(self, held: Held, ranks: tuple[str, ...], kind: str) -> Held:
        out = self.acquire(ranks, kind)
        self.line(f"np.copyto({out.code}, {aligned(held, ranks)})")
        return out
