"""Cascades and tensor functions put in place of their use.

    A[p, m] = softmax[m](S[p, m])

becomes the Einsums of `softmax` under fresh names, over `S`, batched over p:

    A_G[p]    = max[m](S[p, m])
    A_N[p, m] = exp(S[p, m] - A_G[p])
    A_D[p]    = sum[m](A_N[p, m])
    A[p, m]   = A_N[p, m] / A_D[p]
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from attnc.ir.cascade import Cascade, Einsum, Left, RankDecl, rank_of, variables
from attnc.ir.einstein import free_in_order
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
from attnc.ir.source import InvalidIR, Span
from attnc.ir.walk import substitute, subterms


class Misfit(Exception):
    """Arguments that do not fit a tensor function: what is wrong, and what to write instead."""

    def __init__(self, message: str, help: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.help = help


@dataclass(frozen=True, slots=True)
class Surroundings:
    """Where a function is used: the batch ranks, the rank that each variable runs over, names.

    `over` gives the declared rank of a variable, `fresh` an unused name for a tensor or rank.
    `steps` are the tensors that step along a rank: elsewhere than at a step they are not kept.
    """

    batch: tuple[str, ...]
    over: Callable[[str], str]
    fresh: Callable[[str], str]
    params: frozenset[str]
    span: Span
    steps: dict[str, str]


@dataclass(frozen=True, slots=True)
class Placed:
    """A function put in place: its Einsums, the ranks it declares, and where its result stands."""

    einsums: tuple[Einsum, ...]
    ranks: tuple[RankDecl, ...]
    result: Access


def place(
    callee: Cascade,
    bracket: tuple[str, ...],
    given: Sequence[str] | None,
    arguments: Sequence[Expr],
    here: Surroundings,
) -> Placed:
    """The Einsums of a cascade over these arguments.

    `bracket` are the ranks of the callee that stand in its brackets and `given` what its use
    writes there. Raises Misfit where ranks and arguments do not fit.
    """
    if len(callee.outputs) != 1:
        names = ", ".join(tensor.name for tensor in callee.outputs)
        raise Misfit(f"{callee.name} has several results: {names}", "use a cascade with one output")
    if len(arguments) != len(callee.inputs):
        plural = "s" if len(callee.inputs) != 1 else ""
        raise Misfit(
            f"{callee.name} takes {len(callee.inputs)} argument{plural}, not {len(arguments)}"
        )
    hoisted: list[Einsum] = []
    held = [
        argument
        if isinstance(argument, Access)
        and not _folds(argument)
        and here.steps.get(argument.tensor) not in (given or ())
        else _hoisted(tensor.name, argument, here, hoisted)
        for tensor, argument in zip(callee.inputs, arguments)
    ]
    computed = frozenset(einsum.target for einsum in hoisted)
    renamed = _matched(callee, bracket, given, held, computed, here)
    _vary(callee, [rank for rank in bracket if rank not in callee.batch], renamed, held)
    return _Placing(callee, renamed, held, here).run(hoisted)


def _folds(expr: Expr) -> bool:
    return any(isinstance(term, Reduce | Populate) for term in subterms(expr))


def _hoisted(name: str, body: Expr, here: Surroundings, einsums: list[Einsum]) -> Access:
    """The argument as a tensor of its own, over all ranks that it varies over."""
    free = tuple(rank for rank in free_in_order(body) if rank not in here.batch)
    ranks = here.batch + free
    einsums.append(
        Einsum(here.fresh(name), tuple(Left(rank) for rank in ranks), body, span=here.span)
    )
    return Access(einsums[-1].target, tuple(Index(rank) for rank in ranks), here.span)


def _matched(
    callee: Cascade,
    bracket: tuple[str, ...],
    given: Sequence[str] | None,
    arguments: Sequence[Access],
    hoisted: frozenset[str],
    here: Surroundings,
) -> dict[str, str]:
    """The variable of the use for each rank of the callee: by bracket, by position, by name.

    A batch rank of the callee that nothing names is left out: there is nothing to batch over.
    """
    known: dict[str, str] = {}
    if given is not None and (given or not callee.batch):
        if len(given) != len(bracket):
            plural = "s" if len(bracket) != 1 else ""
            raise Misfit(
                f"{callee.name} takes {len(bracket)} rank{plural} in brackets, not {len(given)}",
                f"write {callee.name}[{', '.join(bracket)}](...)",
            )
        known.update(zip(bracket, given))
    elif bracket and bracket != callee.batch:
        raise Misfit(
            f"{callee.name} works along ranks, and none is named",
            f"write {callee.name}[{', '.join(bracket)}](...)",
        )
    for tensor, argument in zip(callee.inputs, arguments):
        own = tensor.ranks[tensor.batch :]
        if all(rank in known for rank in own):
            continue
        for rank, subscript in zip(
            own, _last(argument, len(own), len(here.batch) if argument.tensor in hoisted else None)
        ):
            if isinstance(subscript, Index):
                if known.setdefault(rank, subscript.rank) != subscript.rank:
                    raise Misfit(
                        f"rank {rank!r} of {callee.name} is {known[rank]!r} in one argument and "
                        f"{subscript.rank!r} in another"
                    )
            elif rank not in known:
                raise Misfit(
                    f"which rank of the argument is {rank!r} of {callee.name}?",
                    "give the argument a name of its own, subscripted by plain ranks",
                )
    scope = {*here.batch, *(rank for arg in arguments for rank in free_in_order(arg))}
    known.update((rank, rank) for rank in callee.batch if rank not in known and rank in scope)
    return known


def _vary(
    callee: Cascade,
    bracket: Sequence[str],
    renamed: Mapping[str, str],
    arguments: Sequence[Access],
) -> None:
    """Refuse a rank to work along that no argument has: over one value, repeated, nobody asks."""
    over = dict.fromkeys(rank for argument in arguments for rank in free_in_order(argument))
    for rank in bracket:
        if renamed[rank] not in over:
            raise Misfit(
                f"{callee.name} works along {renamed[rank]!r}, over which no argument varies",
                f"they vary over {', '.join(over)}" if over else "",
            )


def _last(argument: Access, count: int, ahead: int | None) -> tuple[Expr | None, ...]:
    """The subscripts that stand for the ranks of an input, None for one that cannot be told.

    They are the last ones of a tensor that is read as it is. An expression, the tensor of which has
    `ahead` batch ranks, has an order of ranks only where it has a single one.
    """
    total = len(argument.subscripts)
    if count > total or (ahead is not None and (count, total - ahead) != (1, 1)):
        return (None,) * count
    return argument.subscripts[total - count :]


class _Placing:
    """Renames all of a callee.

    `lead` is what all of it varies over. `outer` gives the variable of the use for each rank that
    the arguments have, `ranks` the variable by which the placed Einsums call it: another one where
    two ranks of the callee run over the same variable of the use.
    """

    def __init__(
        self,
        callee: Cascade,
        outer: dict[str, str],
        arguments: Sequence[Access],
        here: Surroundings,
    ) -> None:
        self.callee = callee
        self.here = here
        self.outer = outer
        own = {new for old, new in outer.items() if old not in callee.batch}
        varies = dict.fromkeys(rank for arg in arguments for rank in free_in_order(arg))
        varies.update((outer[rank], None) for rank in callee.batch if rank in outer)
        extra = tuple(rank for rank in varies if rank not in own and rank not in here.batch)
        self.lead = here.batch + extra
        self.arguments = dict(zip((tensor.name for tensor in callee.inputs), arguments))
        self.declared = {decl.name: here.fresh(decl.name) for decl in callee.ranks}
        self.ranks = {rank: outer[rank] for rank in callee.batch if rank in outer} | self.declared
        self._rename_variables()
        self.tensors = {
            name: here.fresh(callee.name if name == callee.outputs[0].name else name)
            for name in dict.fromkeys(einsum.target for einsum in callee.einsums)
        }
        self.defaults = {param.name: param.default for param in callee.params}

    def _rename_variables(self) -> None:
        """Every variable of the callee gets one of its own, primed where the plain one is taken.

        The result's come first, so that it carries the names of its use.
        """
        runs = rank_of(self.callee)
        dropped = set(self.callee.batch) - set(self.ranks)
        named = [*self.callee.outputs[0].ranks, *self.outer]
        inner = [rank for einsum in self.callee.einsums for rank in variables(einsum)]
        taken = {*self.ranks.values()}
        for rank in dict.fromkeys((*named, *inner)):
            if rank in self.ranks or rank in dropped:
                continue
            over = self.outer.get(rank) or self.ranks.get(runs[rank])
            if over is None:
                raise Misfit(f"{self.callee.name} reads along its batch rank {runs[rank]!r}")
            name = over if rank in self.outer else over + "'"
            while name in taken or (name in self.lead and name != over):
                name += "'"
            taken.add(name)
            self.ranks[rank] = name

    def run(self, hoisted: Sequence[Einsum]) -> Placed:
        ranks = tuple(
            RankDecl(self.declared[decl.name], self.expr(decl.extent), self.here.span)
            for decl in self.callee.ranks
        )
        einsums = tuple(self._einsum(einsum) for einsum in self.callee.einsums)
        output = self.callee.outputs[0]
        outside: dict[str, Expr] = {
            self.ranks[rank]: Index(self.outer[rank], self.here.span)
            for rank in output.ranks
            if rank in self.outer
        }
        read = self.expr(Access(output.name, tuple(Index(rank) for rank in output.ranks)))
        result = substitute(read, outside)
        if not isinstance(result, Access):
            raise InvalidIR(f"{self.callee.name}: the result is no tensor")
        return Placed((*hoisted, *einsums), ranks, result)

    def _einsum(self, einsum: Einsum) -> Einsum:
        left = self._left(einsum)
        body, where = self.expr(einsum.body), self._where(einsum.where)
        bound = {part.rank for part in left if part.step != "start"}
        for rank in (*free_in_order(body), *(free_in_order(where) if where is not None else ())):
            if rank not in bound:
                raise Misfit(
                    f"an argument of {self.callee.name} varies over {rank!r}, along which it works",
                    "its header does not give that rank to this argument",
                )
        return Einsum(self.tensors[einsum.target], left, body, where, einsum.dtype, self.here.span)

    def _left(self, einsum: Einsum) -> tuple[Left, ...]:
        """The axes of a tensor in its new place: what all varies over, then its own."""
        own = []
        for left in einsum.left:
            rank = self.ranks.get(left.rank)
            if rank is None or rank in self.lead:
                if left.step:
                    raise Misfit(
                        f"{self.callee.name} steps along {left.rank!r}, which is a batch rank here"
                    )
                continue
            own.append(replace(left, rank=rank))
        return (*map(Left, self.lead), *own)

    def _tensor(self, name: str, subscripts: Sequence[Expr]) -> Expr:
        """A read of one of the callee's tensors, its axes in their new order."""
        axes = self.callee.axes(name)
        lead: dict[str, Expr] = {rank: Index(rank, self.here.span) for rank in self.lead}
        own: list[Expr] = []
        for axis, subscript in zip(axes, subscripts):
            rank = self.ranks.get(axis)
            if rank is None:
                self._only_itself(axis, subscript)
            elif rank in lead:
                lead[rank] = self.expr(subscript)
            else:
                own.append(self.expr(subscript))
        return Access(self.tensors[name], (*lead.values(), *own), self.here.span)

    def _argument(self, name: str, subscripts: Sequence[Expr]) -> Expr:
        """A read of one of the callee's inputs: the argument at these positions."""
        tensor = self.callee.input(name)
        if tensor is None:
            raise InvalidIR(f"{self.callee.name}: no input {name}")
        values: dict[str, Expr] = {}
        for axis, subscript in zip(tensor.ranks, subscripts):
            rank = self.outer.get(axis)
            if rank is None:
                self._only_itself(axis, subscript)
            elif rank in values:
                raise Misfit(f"two ranks of {name} of {self.callee.name} are {rank!r} here")
            else:
                values[rank] = self.expr(subscript)
        return substitute(self.arguments[name], values)

    def _only_itself(self, axis: str, subscript: Expr) -> None:
        if subscript != Index(axis):
            raise Misfit(
                f"{self.callee.name} reads along its batch rank {axis!r}, and none is named here",
                f"write {self.callee.name}[{', '.join(self.callee.batch)}](...)",
            )

    def expr(self, expr: Expr) -> Expr:
        """An expression of the callee in the names of its use."""
        span = self.here.span
        match expr:
            case Const(value):
                return Const(value, span)
            case Index(rank):
                if rank not in self.ranks:
                    self._only_itself(rank, Const(0))
                return Index(self.ranks[rank], span)
            case Extent(rank):
                if rank not in self.ranks:
                    self._only_itself(rank, Const(0))
                return Extent(self.here.over(self.ranks[rank]), span)
            case Param(name):
                return self._param(name)
            case Access(name, subscripts):
                if name in self.arguments:
                    return self._argument(name, subscripts)
                return self._tensor(name, subscripts)
            case Map(op, args):
                return Map(op, tuple(self.expr(arg) for arg in args), span)
            case Cast(dtype, body):
                return Cast(dtype, self.expr(body), span)
            case Reduce(op, ranks, body, where):
                names = tuple(self.ranks[rank] for rank in ranks)
                return Reduce(op, names, self.expr(body), self._where(where), span)
            case Populate(op, rank, body, where, slot):
                filled = None if slot is None else self.ranks[slot]
                return Populate(
                    op, self.ranks[rank], self.expr(body), self._where(where), filled, span
                )
            case Tile(name):
                raise InvalidIR(f"{self.callee.name}: a tile {name} in a cascade")

    def _where(self, where: Expr | None) -> Expr | None:
        return None if where is None else self.expr(where)

    def _param(self, name: str) -> Expr:
        """A parameter of the callee: its default, or the one of this name where it is used."""
        default = self.defaults[name]
        if default is not None:
            return Const(default, self.here.span)
        if name not in self.here.params:
            raise Misfit(
                f"{self.callee.name} has a parameter {name!r} without a default",
                f"declare it here too: param {name}: ...",
            )
        return Param(name, self.here.span)
