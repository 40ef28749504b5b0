"""What must hold of a tile program; a failure is a fault of this compiler."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import astuple, dataclass, replace

from attnc.ir.algebra import MONOIDS, OPS
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
from attnc.ir.print_tile import print_head
from attnc.ir.source import InvalidIR
from attnc.ir.tile import (
    Compute,
    Contract,
    Fold,
    Kernel,
    Listed,
    Load,
    Loop,
    Program,
    Scan,
    Segment,
    Statement,
    Store,
    lists_of,
    shares_of,
)
from attnc.ir.walk import children


def verify_program(program: Program) -> None:
    """Raise InvalidIR, which names the statement, if a program breaks a rule.

    Names are defined before they are used, once in a scope; ranks agree with operands, grid, axes
    and loops; carried values and what they become have the same shape; only outputs and buffers
    are stored to, and only what was stored is read.
    """
    tensors = [*program.inputs, *program.outputs, *program.buffers]
    _once("tensor", (tensor.name for tensor in tensors), program.name)
    _once("kernel", (kernel.name for kernel in program.kernels), program.name)
    axes = {tensor.name: len(tensor.ranks) for tensor in tensors}
    extents = frozenset(
        [rank for tensor in tensors for rank in tensor.ranks] + [d.name for d in program.ranks]
    )
    reductions = frozenset(own.name for own in program.reductions)
    written = {tensor.name for tensor in program.inputs}
    for kernel in program.kernels:
        stored = set(_stored(kernel.body))
        for name in stored:
            if name not in axes or name in {tensor.name for tensor in program.inputs}:
                raise InvalidIR(f"kernel {kernel.name} stores to {name}, which is no output")
        scope = _Scope(kernel, axes, frozenset(written), extents, reductions, frozenset(), {})
        _kernel(kernel, scope)
        written |= stored
        if kernel.aside and kernel.aside not in stored:
            raise InvalidIR(f"kernel {kernel.name} does not store {kernel.aside}")
        if kernel.lists:
            written.update(lists_of(kernel.lists, True), lists_of(kernel.lists, False))
        if kernel.shares:
            written.update(astuple(shares_of(kernel.shares)))
    for tensor in program.outputs:
        if tensor.name not in written:
            raise InvalidIR(f"{program.name}: no kernel stores {tensor.name}")


@dataclass(frozen=True, slots=True)
class _Scope:
    """What may be named where a statement stands; `tiles` gives the ranks of each tile."""

    kernel: Kernel
    tensors: Mapping[str, int]
    readable: frozenset[str]
    extents: frozenset[str]
    reductions: frozenset[str]
    loops: frozenset[str]
    tiles: Mapping[str, tuple[str, ...]]

    @property
    def axes(self) -> frozenset[str]:
        return frozenset(axis.rank for axis in self.kernel.axes)

    @property
    def grid(self) -> frozenset[str]:
        numbered = [self.kernel.at] if self.kernel.at else []
        return frozenset([*(entry.rank for entry in self.kernel.grid), *numbered])

    def having(self, name: str, ranks: tuple[str, ...]) -> _Scope:
        if name in self.tiles:
            raise InvalidIR(f"tile {name} is made twice")
        self.shape(ranks)
        return replace(self, tiles={**self.tiles, name: ranks})

    def shape(self, ranks: tuple[str, ...]) -> None:
        _once("rank", ranks, "a tile")
        for rank in ranks:
            if rank not in self.axes:
                raise InvalidIR(f"{rank} is no axis of the kernel")

    def value(self, expr: Expr | None, ranks: Iterable[str], *, edges: bool = False) -> set[str]:
        """The axes of an expression, all of which must be among `ranks`."""
        found = set() if expr is None else self._axes(expr, edges)
        if not found <= set(ranks):
            raise InvalidIR(f"it varies along {', '.join(sorted(found - set(ranks)))}")
        return found

    def _axes(self, expr: Expr, edges: bool) -> set[str]:
        match expr:
            case Const():
                return set()
            case Extent(rank):
                if rank not in self.extents:
                    raise InvalidIR(f"the extent of {rank} is not known")
                return set()
            case Index(rank):
                if rank not in self.axes | self.grid | self.loops:
                    raise InvalidIR(f"{rank} has no position here")
                return {rank} & self.axes
            case Tile(name, ranks):
                return self.tile(name, ranks)
            case Cast(_, body):
                return self._axes(body, edges)
            case Map("first" | "last", (Index(rank),)) if edges:
                if rank not in self.grid:
                    raise InvalidIR(f"{rank} is not cut by the grid")
                return set()
            case Map(op, args):
                if op not in OPS or not OPS[op].arity[0] <= len(args) <= OPS[op].arity[1]:
                    raise InvalidIR(f"no operation {op} of {len(args)}")
                if op in ("first", "last"):
                    raise InvalidIR(f"{op} stands outside a loop's bounds")
                return {rank for part in children(expr) for rank in self._axes(part, edges)}
            case Access() | Reduce() | Populate() | Param():
                raise InvalidIR(f"{type(expr).__name__} has no place in a tile program")

    def tile(self, name: str, ranks: tuple[str, ...]) -> set[str]:
        if name not in self.tiles:
            raise InvalidIR(f"tile {name} is read before it is made")
        if len(ranks) != len(self.tiles[name]):
            raise InvalidIR(f"tile {name} has {len(self.tiles[name])} axes, not {len(ranks)}")
        self.shape(ranks)
        return set(ranks)


def _once(kind: str, names: Iterable[str], where: str) -> None:
    seen: set[str] = set()
    for name in names:
        if name in seen:
            raise InvalidIR(f"{where} has {kind} {name} twice")
        seen.add(name)


def _stored(statements: tuple[Statement, ...]) -> Iterator[str]:
    for statement in statements:
        match statement:
            case Store(tensor):
                yield tensor
            case Loop(_, _, segments):
                for segment in segments:
                    yield from _stored(segment.body)
            case Load() | Compute() | Contract() | Fold() | Scan():
                pass


def _kernel(kernel: Kernel, scope: _Scope) -> None:
    where = f"kernel {kernel.name}"
    _once("grid rank", (entry.rank for entry in kernel.grid), where)
    _once("axis", (axis.rank for axis in kernel.axes), where)
    if kernel.at and kernel.at not in scope.extents:
        raise InvalidIR(f"{where}: the extent of {kernel.at} is not known")
    if kernel.shares and not kernel.at:
        raise InvalidIR(f"{where} deals out instances that have no number")
    if kernel.walks and (
        not kernel.at
        or [entry.tile for entry in kernel.grid[:1]] != [1]
        or not {*astuple(shares_of(kernel.walks))} <= scope.readable
    ):
        raise InvalidIR(f"{where} has nothing to walk by")
    sizes = {axis.rank: axis.size for axis in kernel.axes}
    for entry in kernel.grid:
        if entry.tile < 1 or entry.rank not in scope.extents:
            raise InvalidIR(f"{where} cannot be cut along {entry.rank} by {entry.tile}")
        if entry.tile > 1 and sizes.get(entry.rank) != entry.tile:
            raise InvalidIR(f"{where} has no axis {entry.rank} by {entry.tile}")
        if entry.tile == 1 and entry.rank in sizes:
            raise InvalidIR(f"{where} has one position of {entry.rank}, which is no axis")
    for axis in kernel.axes:
        try:
            scope.value(axis.extent, ())
        except InvalidIR as error:
            raise InvalidIR(f"{where}, axis {axis.rank}: {error}") from None
    _statements(kernel.body, scope)


def _statements(statements: tuple[Statement, ...], scope: _Scope) -> _Scope:
    for statement in statements:
        if isinstance(statement, Loop):
            scope = _loop(statement, scope)
            continue
        try:
            scope = _statement(statement, scope)
        except InvalidIR as error:
            raise InvalidIR(f"{scope.kernel.name}, {print_head(statement)}: {error}") from None
    return scope


def _statement(statement: Load | Compute | Contract | Fold | Scan | Store, scope: _Scope) -> _Scope:
    match statement:
        case Load(name, ranks, tensor, subscripts, where):
            if tensor not in scope.readable:
                raise InvalidIR(f"nothing has been stored in {tensor}")
            _subscripts(tensor, subscripts, ranks, scope)
            scope.value(where, ranks)
            return scope.having(name, ranks)
        case Compute(name, ranks, body):
            scope.value(body, ranks)
            return scope.having(name, ranks)
        case Contract(name, ranks, left, right, over):
            first, second = (scope.tile(tile.name, tile.ranks) for tile in (left, right))
            if over not in first & second:
                raise InvalidIR(f"the two do not share {over}")
            if set(ranks) != (first | second) - {over}:
                raise InvalidIR(f"the product varies along {', '.join(sorted(first ^ second))}")
            return scope.having(name, ranks)
        case Fold(name, ranks, op, source, over):
            if op not in MONOIDS and op not in scope.reductions:
                raise InvalidIR(f"no reduction {op}")
            own = scope.tile(source.name, source.ranks)
            if not over or not set(over) <= own or set(ranks) != own - set(over):
                raise InvalidIR(f"a fold over {', '.join(over)} does not leave these ranks")
            return scope.having(name, ranks)
        case Scan(name, ranks, op, source, over, along):
            if op not in MONOIDS:
                raise InvalidIR(f"no prefixes of {op}")
            own = scope.tile(source.name, source.ranks)
            if over not in own or along in own or set(ranks) != (own - {over}) | {along}:
                raise InvalidIR(f"a scan over {over} along {along} does not leave these ranks")
            return scope.having(name, ranks)
        case Store(tensor, subscripts, source, where):
            own = scope.tile(source.name, source.ranks)
            _subscripts(tensor, subscripts, source.ranks, scope)
            scope.value(where, own)
            return scope


def _subscripts(
    tensor: str, subscripts: tuple[Expr, ...], ranks: tuple[str, ...], scope: _Scope
) -> None:
    if len(subscripts) != scope.tensors[tensor]:
        raise InvalidIR(f"{tensor} has {scope.tensors[tensor]} axes, not {len(subscripts)}")
    found = {rank for part in subscripts for rank in scope.value(part, ranks, edges=not ranks)}
    if found != set(ranks):
        raise InvalidIR(f"no subscript varies along {', '.join(sorted(set(ranks) - found))}")


def _loop(loop: Loop, scope: _Scope) -> _Scope:
    where = f"{scope.kernel.name}, loop {loop.rank}"
    try:
        if loop.rank in scope.axes | scope.grid | scope.loops:
            raise InvalidIR(f"{loop.rank} has a position already")
        outside = scope
        for state in loop.carried:
            outside.value(state.init, state.ranks)
            scope = scope.having(state.name, state.ranks)
        for segment in loop.segments:
            outside.value(segment.lo, (), edges=True)
            outside.value(segment.hi, (), edges=True)
            inside = replace(outside, loops=outside.loops | {loop.rank})
            inside.value(segment.when, (), edges=True)
            if segment.listed is not None:
                _listed(segment.listed, outside)
    except InvalidIR as error:
        raise InvalidIR(f"{where}: {error}") from None
    for segment in loop.segments:
        _segment(loop, segment, replace(scope, loops=scope.loops | {loop.rank}))
    return scope


def _listed(listed: Listed, scope: _Scope) -> None:
    name, axes = listed.positions, len(listed.at) + 1
    if name not in scope.readable or scope.tensors[name] != axes:
        raise InvalidIR(f"no list {name} of {axes} axes has been made")
    for part in listed.at:
        scope.value(part, (), edges=True)


def _segment(loop: Loop, segment: Segment, scope: _Scope) -> None:
    inside = _statements(segment.body, scope)
    where = f"{scope.kernel.name}, loop {loop.rank}, segment {segment.note!r}"
    if len(segment.after) != len(loop.carried):
        raise InvalidIR(
            f"{where}: {len(segment.after)} values go on, {len(loop.carried)} are carried"
        )
    for state, name in zip(loop.carried, segment.after):
        if name not in inside.tiles:
            raise InvalidIR(f"{where}: {state.name} becomes {name}, which is not made")
        if inside.tiles[name] != state.ranks:
            raise InvalidIR(
                f"{where}: {state.name}[{', '.join(state.ranks)}] becomes "
                f"{name}[{', '.join(inside.tiles[name])}]"
            )
