"""What names mean inside a cascade: its tensors, ranks, parameters, and functions from outside."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from attnc import limits, syntax
from attnc.inline import Misfit, Surroundings, place
from attnc.ir.algebra import MONOIDS
from attnc.ir.cascade import (
    Cascade,
    Einsum,
    Left,
    ParamDecl,
    RankDecl,
    Reduction,
    Tensor,
    base,
)
from attnc.ir.expr import Access, Const, Expr, Extent, Index, Map, Param
from attnc.ir.source import Source, Span
from attnc.ir.walk import depth, free_ranks, subterms
from attnc.terms import Scope
from attnc.typed import (
    INT,
    KIND_NAMES,
    POISON,
    UNKNOWN,
    Abandoned,
    Errors,
    Typed,
    fits,
    kind_of,
)


@dataclass(frozen=True, slots=True)
class Checked:
    """A cascade with what its use as a function needs: bracket ranks, kinds of inputs, result."""

    cascade: Cascade
    bracket: tuple[str, ...]
    inputs: tuple[str, ...]
    result: str


class Library(Protocol):
    """The definitions that a file can use."""

    source: Source

    def function(self, name: str) -> tuple[syntax.Function, Scope] | None: ...
    def is_reduction(self, name: str) -> bool: ...
    def reduction(self, name: str) -> Reduction | None: ...
    def is_tensor_function(self, name: str) -> bool: ...
    def checked(self, name: str, span: Span) -> Checked | None: ...
    def functions(self) -> list[str]: ...


@dataclass(slots=True)
class Known:
    """What is known of a tensor; `ranks` is None after an error in its statement.

    `step` gives the axis and the rank of an iterative tensor, `started` and `stepped` say which
    of its two statements have been read.
    """

    ranks: tuple[str, ...] | None
    batch: int
    kind: str
    span: Span
    step: tuple[int, str] | None = None
    started: bool = False
    stepped: bool = False


@dataclass(slots=True)
class Current:
    """The statement at hand: its left side, where names stood in it first, functions in place."""

    target: str
    left: tuple[Left, ...]
    seen: dict[str, Span] = field(default_factory=dict)
    sizes: dict[str, Span] = field(default_factory=dict)
    pending: list[Einsum] = field(default_factory=list)


class Names:
    """The scope of a cascade's expressions.

    `terms` gives for each tensor that a statement assigns the right sides of its statements.
    `over` gives for a rank variable the declared rank over which it runs. While `defaults` holds,
    a parameter is worth its default.
    """

    def __init__(
        self, library: Library, batch: tuple[str, ...], ranks: Iterable[str],
        inputs: Iterable[Tensor], terms: Mapping[str, Sequence[syntax.Term]], errors: Errors,
    ) -> None:  # fmt: skip
        self.library = library
        self.source = library.source
        self.errors = errors
        self.batch = batch
        self.over = {rank: rank for rank in ranks}
        self.learned: dict[str, str] = {}
        self.params: dict[str, ParamDecl] = {}
        self.declared: dict[str, RankDecl] = {}
        self.reductions: dict[str, Reduction] = {}
        self.tensors = {
            tensor.name: Known(tensor.ranks, tensor.batch, kind_of(tensor.dtype), tensor.span)
            for tensor in inputs
        }
        self.terms = terms
        self.targets = frozenset(terms)
        self.taken = {*self.tensors, *self.targets}
        self.current: Current | None = None
        self.defaults = False

    def _see(self, rank: str, span: Span) -> None:
        if self.current is not None:
            self.current.seen.setdefault(rank, span)

    def name(self, name: str, span: Span) -> Typed:
        """A parameter, or the position along a rank."""
        if name in self.params:
            param = self.params[name]
            value = param.default if self.defaults else None
            return Typed(Param(name, span), kind_of(param.dtype), scalar=True, value=value)
        if base(name) not in self.over and (name in self.tensors or name in self.targets):
            self.errors.add(
                f"{name} is a tensor, and its subscripts are missing", span, code="E013",
                help=self._written(name),
            )  # fmt: skip
            return POISON
        self._see(name, span)
        return Typed(Index(name, span), INT)

    def _written(self, name: str) -> str:
        """A tensor with the subscripts that it takes."""
        known = self.tensors.get(name)
        if known is None or known.ranks is None:
            return ""
        own = known.ranks[known.batch :] or known.ranks
        return f"write {name}[{', '.join(own)}]"

    def extent(self, rank: str, span: Span) -> Typed:
        if base(rank) in self.over:
            return Typed(Extent(self.over[base(rank)], span), INT, scalar=True)
        if rank in self.params:
            self.errors.add(f"{rank} is a parameter, no rank", span, code="E010",
                            help=f"write {rank}")  # fmt: skip
            return POISON
        if self.current is None:
            self.errors.add(f"no rank {rank!r}", span, code="E010",
                            help=self.errors.nearest(rank, self.over))  # fmt: skip
            return POISON
        self.current.sizes.setdefault(rank, span)
        return Typed(Extent(rank, span), INT, scalar=True)

    def bind(self, rank: str, span: Span) -> None:
        """A rank variable that a reduction runs over."""
        if rank in self.params:
            self.errors.add(f"{rank} is a parameter, no rank", span, code="E010")
            raise Abandoned
        self._see(rank, span)

    def slot(self, op: str, body: Typed, where: Typed | None, span: Span) -> str | None:
        """The rank on the left that the chosen positions fill."""
        if op in ("argmax", "argmin"):
            return None
        inside = free_ranks(body.expr) | (free_ranks(where.expr) if where else frozenset())
        left = self.current.left if self.current else ()
        free = [
            part.rank
            for part in left[len(self.batch) :]
            if not part.step and part.rank not in inside
        ]
        if len(free) != 1:
            self.errors.add(
                f"{op} fills one rank on the left", span,
                f"{len(free)} ranks of the left stand nowhere in it", code="E015",
                help=f"as in I[p, j]: int = {op}[m](S[p, m]) with rank j = 8",
            )  # fmt: skip
            raise Abandoned
        return free[0]

    # ---- tensors

    def tensor(self, name: str, subscripts: Sequence[Typed], span: Span, at: Span) -> Typed:
        """A read of a tensor at a position, batch ranks written out."""
        known = self.tensors.get(name)
        if known is None:
            self._not_assigned(name, at)
            return POISON
        if known.ranks is None:
            return POISON
        prefix = known.ranks[: known.batch]
        exprs = tuple(part.expr for part in subscripts)
        if len(exprs) == len(known.ranks) - known.batch:
            exprs = (*(Index(rank, span) for rank in prefix), *exprs)
        elif len(exprs) != len(known.ranks):
            self._wrong_count(name, known, len(exprs), span)
            return POISON
        if known.kind == UNKNOWN or any(part.kind == UNKNOWN for part in subscripts):
            return POISON
        if known.step is not None:
            self._step_is_read_in_order(name, known, exprs[known.step[0]], span)
        count = 1 + sum(part.count for part in subscripts)
        depth = 1 + max((part.depth for part in subscripts), default=0)
        return Typed(Access(name, exprs, span), known.kind, count, depth)

    def _not_assigned(self, name: str, at: Span) -> None:
        current = self.current
        itself = current is not None and name == current.target
        if current is not None and itself and any(part.step == "next" for part in current.left):
            self.errors.add(
                f"{name} steps, and no start {name}[0, ...] is assigned above", at, code="E017",
                help=f"assign {name}[0, ...] first",
            )  # fmt: skip
        elif itself:
            self.errors.add(
                f"{name} is defined by itself", at, code="E018",
                help="a value that depends on the one before steps along a rank: "
                f"{name}[0, ...] = ..., {name}[i+1, ...] = ...",
            )  # fmt: skip
        elif name in self.targets:
            circle = self._circle(name)
            self.errors.add(
                f"{name} is read before it is assigned", at, circle, code="E018",
                help="" if circle else "move its statement up",
            )  # fmt: skip
        elif name in self.over or name in self.params:
            what = "rank" if name in self.over else "parameter"
            self.errors.add(f"{name} is a {what}, no tensor", at, code="E010")
        else:
            near = self.errors.nearest(name, {*self.tensors, *self.targets})
            self.errors.add(f"no tensor {name!r}", at, code="E010", help=near)

    def _circle(self, name: str) -> str:
        """How a tensor depends on the one that the statement at hand assigns; "" if it does not."""
        if self.current is None:
            return ""
        goal = self.current.target
        came: dict[str, str] = {name: goal}
        queue = [name]
        for tensor in queue:
            for term in self.terms.get(tensor, ()):
                for part, _ in syntax.within(term):
                    if isinstance(part, syntax.Bracket) and part.name.text not in came:
                        came[part.name.text] = tensor
                        queue.append(part.name.text)
        if goal not in came:
            return ""
        path = [goal]
        while path[-1] != name:
            path.append(came[path[-1]])
        path.reverse()
        return "a circle: " + ", ".join(
            f"{reader} needs {read}" for reader, read in zip([goal, *path], path)
        )

    def _wrong_count(self, name: str, known: Known, count: int, span: Span) -> None:
        assert known.ranks is not None
        own = known.ranks[known.batch :] or known.ranks
        plural = "rank" if len(own) == 1 else "ranks"
        self.errors.add(
            f"{name} has {len(own)} {plural}, but {count} subscript"
            f"{'s stand' if count != 1 else ' stands'} here",
            span, f"its ranks are {', '.join(own)}" if own else "", code="E013",
            help=f"write {name}[{', '.join(own)}]",
        )  # fmt: skip

    def _step_is_read_in_order(self, name: str, known: Known, at: Expr, span: Span) -> None:
        """An iterative tensor is read before its step, after it, at the start or at the end."""
        assert known.step is not None
        rank = known.step[1]
        match at:
            case Index(found) if found == rank:
                ready = known.started
            case Const(0):
                ready = known.started
            case Map("+", (Index(found), Const(1))) if found == rank:
                ready = known.stepped
            case Extent(found) if found == base(rank):
                ready = known.stepped
            case _:
                self.errors.add(
                    f"{name} steps along {rank!r} and is not kept", span, code="E017",
                    help=f"it is read at {rank}, {rank}+1, 0 and |{rank}|",
                )  # fmt: skip
                raise Abandoned
        if not ready:
            what = f"{name}[0, ...]" if not known.started else f"{name}[{rank}+1, ...]"
            self.errors.add(f"{name} is read here before {what} is assigned", span, code="E017",
                            help="move that statement up")  # fmt: skip
            raise Abandoned

    # ---- functions

    def function(self, name: str) -> tuple[syntax.Function, Scope] | None:
        return self.library.function(name)

    def functions(self) -> list[str]:
        return self.library.functions()

    def monoid(self, name: str) -> bool:
        if name in MONOIDS:
            return True
        if not self.library.is_reduction(name):
            return False
        own = self.library.reduction(name)
        if own is None:
            raise Abandoned
        self._use(own)
        return True

    def _use(self, own: Reduction) -> None:
        """Keep a reduction of the file's own with the cascade that uses it."""
        known = self.reductions.setdefault(own.name, own)
        if known != own:
            self.errors.add(
                f"two files define the reduction {own.name}, and both are used here", own.span,
                code="E011", help="give one of them another name",
            )  # fmt: skip
            raise Abandoned

    def fresh(self, name: str) -> str:
        """A name for a tensor or rank of a function in its place."""
        assert self.current is not None
        wanted = f"{self.current.target}_{name}"
        found, number = wanted, 2
        while found in self.taken or found in self.over or found in self.params:
            found, number = f"{wanted}{number}", number + 1
        self.taken.add(found)
        return found

    def runs_over(self, rank: str) -> str:
        return self.over.get(rank) or self.over.get(base(rank), base(rank))

    def tensor_function(
        self, name: str, ranks: Sequence[str] | None, args: Sequence[Typed], span: Span
    ) -> Typed | None:
        """A tensor function, or another cascade, in place of its use; None if there is none."""
        if not self.library.is_tensor_function(name):
            return None
        if self.current is None:
            self.errors.add("a tensor cannot stand here", span, code="E020")
            return POISON
        for rank in ranks or ():
            self.bind(rank, span)
        if self.errors.placed > limits.PLACED:
            raise Abandoned
        callee = self.library.checked(name, span)
        if callee is None or any(arg.kind == UNKNOWN for arg in args):
            return POISON
        for tensor, wanted, arg in zip(callee.cascade.inputs, callee.inputs, args):
            if not fits(arg.kind, wanted):
                self.errors.add(
                    f"{tensor.name} of {name} is {KIND_NAMES[wanted]}, not {KIND_NAMES[arg.kind]}",
                    arg.expr.span, code="E020",
                )  # fmt: skip
                return POISON
        steps = {tensor: known.step[1] for tensor, known in self.tensors.items() if known.step}
        here = Surroundings(
            self.batch, self.runs_over, self.fresh, frozenset(self.params), span, steps
        )
        try:
            placed = place(callee.cascade, callee.bracket, ranks, [arg.expr for arg in args], here)
        except Misfit as misfit:
            self.errors.add(misfit.message, span, code="E014", help=misfit.help)
            return POISON
        for own in callee.cascade.reductions:
            self._use(own)
        for decl in placed.ranks:
            self.over[decl.name] = decl.name
            self.declared[decl.name] = decl
        self.current.pending += placed.einsums
        self._stays_small(placed.einsums, span)
        return Typed(placed.result, callee.result, 1 + len(placed.result.subscripts), 2)

    def _stays_small(self, einsums: Sequence[Einsum], span: Span) -> None:
        """What a function adds is bounded, however functions use one another."""
        self.errors.placed += len(einsums)
        levels = max(max(depth(einsum.body), depth(einsum.where)) for einsum in einsums)
        if self.errors.placed <= limits.PLACED and levels <= limits.LEVELS:
            return
        what = (
            f"more than {limits.LEVELS} levels"
            if levels > limits.LEVELS
            else f"more than {limits.PLACED} Einsums"
        )
        self.errors.add(f"the functions put in place have {what}", span, code="E004")
        raise Abandoned

    # ---- after a statement

    def learn(self, *exprs: Expr | None) -> None:
        """A variable that nothing declares runs over the axis that it first subscripts alone."""
        for expr in exprs:
            for term in subterms(expr):
                if isinstance(term, Access):
                    for subscript, axis in zip(term.subscripts, self.axes(term.tensor)):
                        runs = self.runs_over(axis)
                        if isinstance(subscript, Index) and runs in self.over:
                            self._learn_one(subscript, runs)

    def axes(self, name: str) -> tuple[str, ...]:
        known = self.tensors.get(name)
        if known is not None:
            return known.ranks or ()
        pending = self.current.pending if self.current else []
        return next((einsum.ranks for einsum in pending if einsum.target == name), ())

    def _learn_one(self, subscript: Index, runs: str) -> None:
        rank = subscript.rank
        if base(rank) not in self.over and rank not in self.over:
            self.over[rank] = self.learned[rank] = runs
        elif self.learned.get(rank, runs) != runs:
            self.errors.add(
                f"{rank!r} runs over {runs!r} here and over {self.learned[rank]!r} before",
                subscript.span, code="E016", help="use another name for one of them",
            )  # fmt: skip
            raise Abandoned
