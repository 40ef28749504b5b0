"""From a cascade to a tile program: every reduction running, every value a tile, nothing empty.

Each output and each stored tensor is the root of a kernel; roots that are cut along the same grid
share one. A kernel is written by demand from its roots: what a value needs is lowered before it,
once, in the outermost loop that it does not vary with. A final slice T[|i|] demands the loop over
i, in which all iterative tensors of the same stage share one sweep. Emptiness becomes explicit
here: a load knows where it may read, a fold sees the identity where its operand does not exist,
and the ranges of loops leave out iterations that no point survives (`ranges.py`).
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from attnc.ir.algebra import MONOIDS
from attnc.ir.cascade import Cascade, Einsum, Tensor, base, rank_of
from attnc.ir.expr import (
    ONE,
    ZERO,
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
    both,
    conjuncts,
)
from attnc.ir.source import NOWHERE, CompileError, InvalidIR, Span
from attnc.ir.tile import (
    Axis,
    Carried,
    Compute,
    Contract,
    Fold,
    Grid,
    Kernel,
    Load,
    Loop,
    Segment,
    Statement,
    Store,
)
from attnc.ir.walk import free_ranks, substitute
from attnc.passes.defer import number
from attnc.passes.domain import Domains, union
from attnc.passes.extents import Extents
from attnc.passes.skip import skippable
from attnc.passes.ranges import Live, Space, live, maximum, minimum

Known = frozenset[Expr]


@dataclass
class _Scope:
    """The statements of the kernel or of one loop body, and the values that they define."""

    loop: str | None
    known: Known
    states: dict[str, tuple[str, ...]] = field(default_factory=dict)
    statements: list[Statement] = field(default_factory=list)
    values: dict[object, tuple[Expr, int]] = field(default_factory=dict)
    asked: dict[Expr, Expr] = field(default_factory=dict)
    reduced: list[tuple[str, frozenset[Expr]]] = field(default_factory=list)


Value = tuple[Expr, int]
"""A tile expression and the depth of the scope in which it can be computed."""


class KernelWriter:
    """Writes one kernel: `roots` are stored, tensors in `memory` are read from memory.

    With `scale_operands` a constant factor of a matrix product goes into the operand that varies
    least instead of the result, which is right where operands keep the type of the arithmetic.
    """

    def __init__(
        self,
        cascade: Cascade,
        name: str,
        roots: tuple[str, ...],
        memory: dict[str, tuple[str, ...]],
        tiles: dict[str, int],
        extents: Extents,
        scale_operands: bool,
    ) -> None:
        self.scale_operands = scale_operands
        self.cascade, self.name, self.roots, self.memory = cascade, name, roots, memory
        self.extents = extents
        self.classes = rank_of(cascade)
        self.domains = Domains(cascade)
        self.stepped = cascade.iterative()
        self.loops = {rank for _, rank in self.stepped.values()}
        self.definitions: dict[str, Einsum] = {}
        self.starts: dict[str, Einsum] = {}
        for einsum in cascade.einsums:
            start = any(left.step == "start" for left in einsum.left)
            (self.starts if start else self.definitions)[einsum.target] = einsum
        self.grid = {rank: size for rank, size in tiles.items() if rank not in self.loops}
        self.axes: dict[str, Axis] = {}
        self.scopes = [_Scope(None, frozenset())]
        self.names: set[str] = set()

    # -- the kernel

    def write(self) -> Kernel:
        for root in self.roots:
            if not self._loop_ranks(root):
                self._store(root)
        for root in self.roots:
            loops = self._loop_ranks(root)
            if loops and not self._stored_in_loop(root):
                self._loop(loops[0], frozenset({root}))
        grid = tuple(Grid(rank, size) for rank, size in self.grid.items())
        return Kernel(self.name, grid, tuple(self.axes.values()), tuple(self.scopes[0].statements))

    def _loop_ranks(self, root: str) -> tuple[str, ...]:
        return tuple(rank for rank in self.definitions[root].ranks if rank in self.loops)

    def _stored_in_loop(self, root: str) -> bool:
        def stores(statements: tuple[Statement, ...] | list[Statement]) -> bool:
            return any(
                (isinstance(s, Store) and s.tensor == root)
                or (isinstance(s, Loop) and any(stores(part.body) for part in s.segments))
                for s in statements
            )

        return stores(self.scopes[0].statements)

    def _store(self, root: str) -> None:
        einsum = self.definitions[root]
        if root in self.stepped:
            raise CompileError(
                f"the history of {root} is an output",
                einsum.span,
                "every step of an iterative tensor would have to be stored",
                code="E301",
                help="assign what the output needs of each step to a tensor of its own",
            )
        value, depth = self._tensor(root, einsum.span)
        own = Tile("", tuple(r for r in einsum.ranks if self._is_axis(r)))
        predicates = union(self.domains.tensors[root])
        mask, inner = self._mask(predicates)
        if mask is not None:
            value, depth = Map("select", (mask, value, ZERO)), max(depth, inner)
        tile = self._named(f"{root}_out", own.ranks, value, depth, einsum.span)
        subscripts = tuple(self._index(rank)[0] for rank in einsum.ranks)
        self._emit(Store(root, subscripts, tile, None, einsum.span), len(self.scopes) - 1)

    # -- names, scopes, axes

    def _fresh(self, wish: str) -> str:
        name, count = wish, 1
        while name in self.names:
            count += 1
            name = f"{wish}_{count}"
        self.names.add(name)
        return name

    def _emit(self, statement: Statement, depth: int) -> None:
        self.scopes[depth].statements.append(statement)

    def _is_axis(self, rank: str) -> bool:
        """Whether a rank variable runs along a tile; notes its axis if so."""
        if rank in self.loops or self.grid.get(rank) == 1:
            return False
        if rank not in self.axes:
            self.axes[rank] = self._axis(rank)
        return True

    def _axis(self, rank: str) -> Axis:
        extent = self.extents.of(self.classes.get(rank, base(rank)))
        if rank in self.grid:
            return Axis(rank, extent, self.grid[rank])
        if isinstance(extent, Const):
            return Axis(rank, extent, int(extent.value))
        return Axis(rank, extent, None)

    def _index(self, rank: str) -> Value:
        if rank in self.loops:
            for depth, scope in enumerate(self.scopes):
                if scope.loop == rank:
                    return Index(rank), depth
            raise InvalidIR(f"{self.name}: {rank} is used outside its loop")
        self._is_axis(rank)
        return Index(rank), 0

    def _ranks(self, expr: Expr) -> tuple[str, ...]:
        """The axes of a tile expression, in the order in which they appear."""
        found: dict[str, None] = {}
        stack = [expr]
        while stack:
            term = stack.pop()
            match term:
                case Tile(_, ranks):
                    found.update(dict.fromkeys(ranks))
                case Index(rank):
                    if self._is_axis(rank):
                        found.setdefault(rank)
                case Map("select", (condition, chosen, other)):
                    stack.extend((condition, other, chosen))
                case Map(_, args):
                    stack.extend(reversed(args))
                case Cast(_, body):
                    stack.append(body)
                case _:
                    pass
        return tuple(found)

    def _named(
        self, wish: str, ranks: tuple[str, ...], value: Expr, depth: int, span: Span = NOWHERE
    ) -> Tile:
        """A value as a tile of the given ranks, computed unless it is one already."""
        if isinstance(value, Tile) and value.ranks == ranks:
            return value
        name = self._fresh(wish)
        self._emit(Compute(name, ranks, value, span), depth)
        return Tile(name, ranks)

    def _find(self, key: object) -> Value | None:
        for scope in reversed(self.scopes):
            if key in scope.values:
                return scope.values[key]
        return None

    def _keep(self, key: object, value: Expr, depth: int) -> Value:
        self.scopes[depth].values[key] = (value, depth)
        return value, depth

    # -- expressions

    def _value(self, expr: Expr) -> Value:
        """An expression of the cascade as an expression of tiles."""
        match expr:
            case Const():
                return expr, 0
            case Index(rank):
                return self._index(rank)
            case Extent(rank):
                return self.extents.of(rank), 0
            case Param(name):
                return Const(self.extents.params[name]), 0
            case Map("present", (body,)):
                mask, depth = self._mask(self.domains.of(body))
                if mask is None:
                    return ONE, 0
                return Map("select", (mask, ONE, ZERO)), depth
            case Map(op, args):
                parts = [self._value(arg) for arg in args]
                depth = max((depth for _, depth in parts), default=0)
                return Map(op, tuple(part for part, _ in parts), expr.span), depth
            case Cast(dtype, body):
                value, depth = self._value(body)
                return Cast(dtype, value, expr.span), depth
            case Access():
                return self._access(expr)
            case Populate(op):
                raise CompileError(
                    f"{op} cannot be lowered to a kernel",
                    expr.span,
                    "points chosen by value run in the interpreter only",
                    code="E302",
                    help="compile with backend='interpreter'",
                )
            case Reduce() | Tile():
                raise InvalidIR(f"{self.name}: a reduction inside an expression")

    def _access(self, access: Access) -> Value:
        tensor = access.tensor
        if tensor in self.memory and tensor not in self.stepped:
            return self._load(access)
        if tensor in self.stepped:
            return self._iterative(access)
        value, depth = self._tensor(tensor, access.span)
        names = zip(self.definitions[tensor].ranks, access.subscripts)
        return self._renamed(value, dict(names)), depth

    def _renamed(self, value: Expr, names: dict[str, Expr]) -> Expr:
        """A tile seen under the rank variables of its reader."""
        other = {r: s.rank for r, s in names.items() if isinstance(s, Index) and s.rank != r}
        if not other:
            return value
        match value:
            case Tile(name, ranks):
                for rank in other.values():
                    self._is_axis(rank)
                return Tile(name, tuple(other.get(r, r) for r in ranks))
            case _:
                return substitute(value, {r: Index(s) for r, s in other.items()})

    def _load(self, access: Access) -> Value:
        key = (access, self._unknown(access))
        found = self._find(key)
        if found is not None:
            return found
        parts = [self._value(subscript) for subscript in access.subscripts]
        subscripts = tuple(part for part, _ in parts)
        where, inner = self._mask(self._unknown(access))
        depth = max([depth for _, depth in parts] + [inner], default=0)
        ranks: dict[str, None] = {}
        for part in subscripts:
            ranks.update(dict.fromkeys(self._ranks(part)))
        name = self._fresh(f"{access.tensor}_tile")
        self._emit(
            Load(name, tuple(ranks), access.tensor, subscripts, where, access.span), depth
        )
        return self._keep(key, Tile(name, tuple(ranks)), depth)

    def _unknown(self, access: Access) -> tuple[Expr, ...]:
        bounds = self.domains.position(access)
        for part in bounds:
            self._ask(part)
        return tuple(part for part in bounds if not self._is_known(part))

    # -- predicates

    def _is_known(self, part: Expr) -> bool:
        return any(part in scope.known for scope in self.scopes)

    def _ask(self, part: Expr) -> None:
        """Note that a loop's body tests a predicate that varies with it."""
        for scope in self.scopes:
            if scope.loop is not None and scope.loop in free_ranks(part):
                scope.asked.setdefault(part, part)

    def _mask(self, predicates: tuple[Expr, ...]) -> tuple[Expr | None, int]:
        """The predicates that are not known to hold, as one tile expression."""
        result: Expr | None = None
        depth = 0
        for part in predicates:
            self._ask(part)
            if self._is_known(part):
                continue
            value, inner = self._value(part)
            result, depth = both(result, value), max(depth, inner)
        return result, depth

    # -- Einsums

    def _tensor(self, tensor: str, span: Span) -> Value:
        """The value of an Einsum that is not iterative, once."""
        found = self._find(tensor)
        if found is not None:
            return found
        einsum = self.definitions.get(tensor)
        if einsum is None:
            raise InvalidIR(f"{self.name}: no definition of {tensor}")
        body = einsum.body
        if isinstance(body, Reduce):
            value, depth = self._reduce(einsum, body)
        else:
            value, depth = self._value(body)
            if not isinstance(value, Tile | Const):
                value = self._named(tensor, self._own(einsum), value, depth, einsum.span)
        return self._keep(tensor, value, depth)

    def _own(self, einsum: Einsum) -> tuple[str, ...]:
        return tuple(rank for rank in einsum.ranks if self._is_axis(rank))

    def _reduce(self, einsum: Einsum, body: Reduce) -> Value:
        for rank in body.ranks:
            if not self._is_axis(rank) or rank in self.grid:
                raise CompileError(
                    f"{einsum.target} reduces over {rank}, along which its kernel is cut",
                    body.span if body.span is not NOWHERE else einsum.span,
                    code="E303",
                )
        outside = set(self.domains.of(body))
        predicates = tuple(
            part
            for part in union(conjuncts(body.where), self.domains.of(body.body))
            if part not in outside
        )
        for scope in self.scopes[1:]:
            scope.reduced.append((einsum.target, frozenset(predicates)))
        if body.op == "sum":
            contracted = self._contraction(einsum, body, predicates)
            if contracted is not None:
                return contracted
        value, depth = self._value(body.body)
        mask, inner = self._mask(predicates)
        if mask is not None:
            value, depth = (
                Map("select", (mask, value, self._identity(body.op))),
                max(depth, inner),
            )
        source, depth = self._operand(einsum, value, depth, body.ranks)
        name = self._fresh(einsum.target)
        result = tuple(rank for rank in source.ranks if rank not in body.ranks)
        self._emit(Fold(name, result, body.op, source, body.ranks, einsum.span), depth)
        return Tile(name, result), depth

    def _identity(self, op: str) -> Expr:
        if op in MONOIDS:
            identity = MONOIDS[op].identity
            return Const(identity) if isinstance(identity, bool) else number(identity)
        own = next(r for r in self.cascade.reductions if r.name == op)
        return own.identity

    def _contraction(
        self, einsum: Einsum, body: Reduce, predicates: tuple[Expr, ...]
    ) -> Value | None:
        """A sum of products of two groups of factors that share the summed rank alone."""
        if len(body.ranks) != 1:
            return None
        over = body.ranks[0]
        inside: list[tuple[bool, Expr, int]] = []
        outside: list[tuple[bool, Expr, int]] = []
        for inverse, factor in _factors(body.body):
            value, depth = self._value(factor)
            group = inside if over in self._ranks(value) else outside
            group.append((inverse, value, depth))
        groups = self._groups(inside, over)
        if groups is None:
            return None
        mask, inner = self._mask(predicates)
        if mask is not None:
            masked = set(self._ranks(mask))
            fitting = [g for g in groups if masked <= set(self._ranks(g[0]))]
            if not fitting:
                return None
            chosen = groups.index(fitting[0])
            value, depth = groups[chosen]
            groups[chosen] = (Map("select", (mask, value, ZERO)), max(depth, inner))
        if self.scale_operands and self._scaled_operand(groups, outside):
            outside = []
        tiles: list[tuple[Tile, int]] = []
        for value, depth in groups:
            tiles.append(self._operand(einsum, value, depth, (over,)))
        (left, a), (right, b) = tiles
        own = self._own(einsum)
        if own and own[0] in right.ranks:
            left, right = right, left
        result = tuple(r for r in (*left.ranks, *right.ranks) if r != over)
        depth = max(a, b)
        scaled = bool(outside)
        name = self._fresh(f"{einsum.target}_dot" if scaled else einsum.target)
        self._emit(Contract(name, result, left, right, over, einsum.span), depth)
        value: Expr = Tile(name, result)
        for inverse, factor, inner in outside:
            value = Map("/" if inverse else "*", (value, factor))
            depth = max(depth, inner)
        ranks = self._ranks(value)
        return (
            self._named(einsum.target, ranks, value, depth, einsum.span) if scaled else value,
            depth,
        )

    def _operand(
        self, einsum: Einsum, value: Expr, depth: int, over: tuple[str, ...]
    ) -> tuple[Tile, int]:
        """What a reduction runs over as a tile with all the reduced ranks, once."""
        found = self._find(("operand", value))
        if found is None:
            ranks = tuple(dict.fromkeys((*self._ranks(value), *over)))
            tile = self._named(f"{einsum.target}_in", ranks, value, depth, einsum.span)
            found = self._keep(("operand", value), tile, depth)
        assert isinstance(found[0], Tile)
        return found[0], found[1]

    def _scaled_operand(
        self, groups: list[tuple[Expr, int]], outside: list[tuple[bool, Expr, int]]
    ) -> bool:
        """Multiply scalars into the operand that varies least, if that spares the result."""
        index = min(range(len(groups)), key=lambda i: groups[i][1])
        value, depth = groups[index]
        other = groups[1 - index][1]
        if not outside or depth >= other:
            return False
        if any(self._ranks(factor) or inner > depth for _, factor, inner in outside):
            return False
        for inverse, factor, _ in outside:
            value = Map("/" if inverse else "*", (value, factor))
        groups[index] = (value, depth)
        return True

    def _groups(
        self, factors: list[tuple[bool, Expr, int]], over: str
    ) -> list[tuple[Expr, int]] | None:
        """The factors in two groups without a common rank but the summed one, or None."""
        groups: list[tuple[set[str], list[tuple[bool, Expr, int]]]] = []
        alone: list[tuple[bool, Expr, int]] = []
        for item in factors:
            ranks = set(self._ranks(item[1])) - {over}
            if not ranks:
                alone.append(item)
                continue
            joined = [item]
            for other in [g for g in groups if g[0] & ranks]:
                ranks |= other[0]
                joined = [*other[1], *joined]
                groups.remove(other)
            groups.append((ranks, joined))
        if len(groups) != 2:
            return None
        groups[0][1].extend(alone)
        return [(_product(items), max(d for _, _, d in items)) for _, items in groups]

    # -- iterative tensors

    def _iterative(self, access: Access) -> Value:
        axis, rank = self.stepped[access.tensor]
        step = self.definitions[access.tensor]
        names = {
            left.rank: subscript
            for i, (left, subscript) in enumerate(zip(step.left, access.subscripts))
            if i != axis
        }
        match access.subscripts[axis]:
            case Index(r) if r == rank:
                value, depth = self._state(access.tensor, rank)
            case Map("+", (Index(r), Const(1))) if r == rank:
                value, depth = self._after(access.tensor)
            case Extent(r) if r == rank:
                value, depth = self._final(access.tensor, rank)
            case Const(0):
                value, depth = self._start(access.tensor)
            case _:
                raise CompileError(
                    f"{access.tensor} is read at a step that a sweep does not hold",
                    access.span,
                    f"a kernel holds {access.tensor}[{rank}], [{rank}+1] and [|{rank}|]",
                    code="E304",
                )
        return self._renamed(value, names), depth

    def _state_ranks(self, tensor: str) -> tuple[str, ...]:
        axis, _ = self.stepped[tensor]
        ranks = self.definitions[tensor].ranks
        return tuple(r for i, r in enumerate(ranks) if i != axis and self._is_axis(r))

    def _state(self, tensor: str, rank: str) -> Value:
        for depth, scope in enumerate(self.scopes):
            if scope.loop == rank and tensor in scope.states:
                return Tile(tensor, scope.states[tensor]), depth
        raise InvalidIR(f"{self.name}: {tensor} is read outside its sweep")

    def _start(self, tensor: str) -> Value:
        return self._value(self.starts[tensor].body)

    def _after(self, tensor: str) -> Value:
        found = self._find((tensor, "after"))
        if found is not None:
            return found
        einsum = self.definitions[tensor]
        if self.domains.of_einsum(einsum):
            raise CompileError(
                f"a step of {tensor} may be empty",
                einsum.span,
                "a state that does not exist cannot be carried",
                code="E305",
                help="use select(...) to keep the state where nothing is added",
            )
        if isinstance(einsum.body, Reduce):
            value, depth = self._reduce(einsum, einsum.body)
        else:
            value, depth = self._value(einsum.body)
        depth = max(depth, self._depth_of(self.stepped[tensor][1]))
        tile = self._named(f"{tensor}_next", self._state_ranks(tensor), value, depth, einsum.span)
        return self._keep((tensor, "after"), tile, depth)

    def _depth_of(self, rank: str) -> int:
        return next(d for d, scope in enumerate(self.scopes) if scope.loop == rank)

    def _final(self, tensor: str, rank: str) -> Value:
        key = (tensor, "final")
        found = self._find(key)
        if found is None:
            self._loop(rank, frozenset({tensor}))
            found = self._find(key)
        if found is None:
            raise InvalidIR(f"{self.name}: no sweep over {rank} computes {tensor}")
        return found

    # -- loops

    def _sweep(self, rank: str, wanted: frozenset[str]) -> tuple[list[str], list[str]]:
        """The states and the stored tensors of the sweep in which `wanted` are computed."""
        stage = self._stages(rank)
        level = max(stage.get(name, 0) for name in wanted)
        needed = self._needed()
        states = [
            name
            for name, (_, r) in self.stepped.items()
            if r == rank and name in needed and stage[name] == level
        ]
        stores = [
            root
            for root in self.roots
            if rank in self.definitions[root].ranks and stage.get(root, 0) == level
        ]
        return states, stores

    def _needed(self) -> set[str]:
        found: set[str] = set()
        stack = list(self.roots)
        while stack:
            name = stack.pop()
            if name in found or (name in self.memory and name not in self.roots):
                continue
            found.add(name)
            stack.extend(a.tensor for a in self._reads(name))
        return found

    def _reads(self, name: str) -> tuple[Access, ...]:
        from attnc.ir.walk import accesses

        return tuple(
            access
            for table in (self.starts, self.definitions)
            if name in table
            for expr in (table[name].body, table[name].where)
            for access in accesses(expr)
        )

    def _stages(self, rank: str) -> dict[str, int]:
        """How many earlier sweeps over a rank each tensor waits for."""
        stage = {name: 0 for name in (*self.starts, *self.definitions)}
        changed = True
        rounds = 0
        while changed:
            changed = False
            rounds += 1
            if rounds > len(stage) + 2:
                raise InvalidIR(f"{self.name}: sweeps over {rank} wait for one another")
            for name in stage:
                for access in self._reads(name):
                    if access.tensor not in stage or access.tensor in self.memory:
                        continue
                    level = stage[access.tensor]
                    stepped = self.stepped.get(access.tensor)
                    if (
                        stepped is not None
                        and stepped[1] == rank
                        and access.subscripts[stepped[0]] == Extent(rank)
                    ):
                        level += 1
                    if level > stage[name]:
                        stage[name] = level
                        changed = True
        return stage

    def _loop(self, rank: str, wanted: frozenset[str]) -> None:
        states, stores = self._sweep(rank, wanted)
        carried: list[Carried] = []
        depth = len(self.scopes) - 1
        for name in states:
            init, _ = self._start(name)
            self.names.add(name)
            carried.append(Carried(name, self._state_ranks(name), init))
        trial = self._body(rank, carried, stores, frozenset())
        segments = self._segments(rank, carried, stores, trial)
        self._emit(Loop(rank, tuple(carried), tuple(segments)), depth)
        for state in carried:
            self._keep((state.name, "final"), Tile(state.name, state.ranks), depth)

    def _body(
        self, rank: str, carried: list[Carried], stores: list[str], known: Known
    ) -> tuple[_Scope, tuple[str, ...]]:
        """One body of a loop, given what is known to hold in it."""
        names = set(self.names)
        scope = _Scope(rank, known, {c.name: c.ranks for c in carried})
        self.scopes.append(scope)
        after: list[str] = []
        for state in carried:
            tile, _ = self._after(state.name)
            assert isinstance(tile, Tile)
            after.append(tile.name)
        for root in stores:
            self._store(root)
        self.scopes.pop()
        outer = {
            name for s in self.scopes for st in s.statements for name in _defined(st)
        }
        self.names = names | outer
        return scope, tuple(after)

    def _segments(
        self,
        rank: str,
        carried: list[Carried],
        stores: list[str],
        trial: tuple[_Scope, tuple[str, ...]],
    ) -> list[Segment]:
        scope, after = trial
        count = self.extents.of(rank)
        axes = {a.rank: Const(a.size) if a.size is not None else a.extent
                for a in self.axes.values() if a.rank not in self.grid}  # fmt: skip
        space = Space(rank, axes, frozenset(self.grid))
        facts: dict[Expr, Live] = {}
        for part in scope.asked:
            value, depth = self._value_outside(part, rank)
            if value is not None:
                facts[part] = live(value, space)
        skipped = self._skippable(scope, carried, stores, rank)
        lo: Expr = ZERO
        hi: Expr = count
        for part in skipped & facts.keys():
            some = facts[part].some
            lo = lo if some.lo is None else maximum(lo, some.lo)
            hi = hi if some.hi is None else minimum(hi, some.hi)
        known = frozenset(part for part, fact in facts.items() if fact.full is not None)
        if not scope.asked:
            return [Segment(lo, hi, "full", tuple(scope.statements), after)]
        if not known:
            return [Segment(lo, hi, "partial", tuple(scope.statements), after)]
        first: Expr | None = None
        last: Expr | None = None
        for part in sorted(known, key=list(scope.asked).index):
            full = facts[part].full
            assert full is not None
            if full.lo is not None:
                first = full.lo if first is None else maximum(first, full.lo)
            if full.hi is not None:
                last = full.hi if last is None else minimum(last, full.hi)
        start = lo if first is None else minimum(maximum(lo, first), maximum(lo, hi))
        stop = hi if last is None else maximum(start, minimum(hi, last))
        clear, clear_after = self._body(rank, carried, stores, known)
        segments = []
        if first is not None:
            segments.append(Segment(lo, start, "partial", tuple(scope.statements), after))
        segments.append(Segment(start, stop, "full", tuple(clear.statements), clear_after))
        if last is not None:
            segments.append(Segment(stop, hi, "partial", tuple(scope.statements), after))
        return segments

    def _value_outside(self, part: Expr, rank: str) -> tuple[Expr | None, int]:
        """A predicate over positions and scalars, which a loop's bounds can be made of."""
        self.scopes.append(_Scope(rank, frozenset()))
        value, depth = self._value(part)
        scope = self.scopes.pop()
        return (None, 0) if scope.statements else (value, depth)

    def _skippable(
        self, scope: _Scope, carried: list[Carried], stores: list[str], rank: str
    ) -> set[Expr]:
        """Predicates without which an iteration leaves every state as it is."""
        if stores:
            return set()
        limited = [(name, parts) for name, parts in scope.reduced if parts]
        if not limited:
            return set()
        common = frozenset.intersection(*(parts for _, parts in limited))
        names = frozenset(name for name, _ in limited)
        states = tuple(c.name for c in carried)
        if common and skippable(self.cascade, states, names, self.stepped, rank):
            return set(common)
        return set()


def _defined(statement: Statement) -> tuple[str, ...]:
    match statement:
        case Load(name) | Compute(name) | Contract(name) | Fold(name):
            return (name,)
        case Loop(_, carried, _):
            return tuple(c.name for c in carried)
        case Store():
            return ()


def _factors(expr: Expr, inverse: bool = False) -> list[tuple[bool, Expr]]:
    match expr:
        case Map("*", (left, right)):
            return [*_factors(left, inverse), *_factors(right, inverse)]
        case Map("/", (left, right)):
            return [*_factors(left, inverse), *_factors(right, not inverse)]
        case _:
            return [(inverse, expr)]


def _product(items: list[tuple[bool, Expr, int]]) -> Expr:
    ordered = sorted(items, key=lambda item: item[0])
    result: Expr = ONE if ordered[0][0] else ordered[0][1]
    for inverse, value, _ in ordered if ordered[0][0] else ordered[1:]:
        result = Map("/" if inverse else "*", (result, value))
    return result


def buffer(cascade: Cascade, name: str, dtype: str) -> Tensor:
    """A stored tensor as memory between kernels."""
    return Tensor(name, cascade.axes(name), len(cascade.batch), dtype)


__all__ = ["KernelWriter", "buffer", "replace"]
