"""A cascade as written to the cascade that is computed: every mistake at its span.

Declares ranks and tensors, elaborates statements one after another, supplies the Einstein sum,
writes batch ranks out, and puts functions in place. A statement with an error leaves its tensor
behind as unknown, so that one mistake is reported once.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from attnc import syntax
from attnc.header import read_header
from attnc.ir.cascade import Cascade, Einsum, Left, ParamDecl, RankDecl, base, variables
from attnc.ir.einstein import free_in_order, split_where
from attnc.ir.expr import Access, Const, Expr, Extent, Index, Reduce, both
from attnc.ir.source import Span
from attnc.ir.walk import accesses, free_ranks, rewrite, subterms
from attnc.left import find_steps, read_left
from attnc.names import Checked, Current, Known, Library, Names
from attnc.terms import Terms
from attnc.typed import (
    BOOL,
    INT,
    KIND_NAMES,
    NUMBER,
    UNKNOWN,
    Abandoned,
    Errors,
    fits,
    kind_of,
)


def check_cascade(text: syntax.CascadeText, library: Library, errors: Errors) -> Checked | None:
    """The cascade of a text, or None where it, or what it uses, has an error."""
    before = len(errors.found)
    check = _Check(text, library, errors)
    check.run()
    return check.result() if check.whole and len(errors.found) == before else None


class _Check:
    """One walk over the lines of a cascade."""

    def __init__(self, text: syntax.CascadeText, library: Library, errors: Errors) -> None:
        self.text = text
        self.source = library.source
        self.errors = errors
        self.header = read_header(text, self.source, errors)
        self.batch = self.header.batch
        self.statements = [line for line in text.lines if isinstance(line, syntax.Statement)]
        terms: dict[str, list[syntax.Term]] = {
            line.target: [] for line in text.lines if isinstance(line, syntax.Broken)
        }
        self.whole = not terms
        self.readable = "" not in terms
        for line in self.statements:
            parts = [line.body] if line.where is None else [line.body, line.where]
            terms.setdefault(line.target.text, []).extend(parts)
        self.names = Names(
            library, self.batch, self.header.ranks, self.header.inputs,
            terms, errors,
        )  # fmt: skip
        self.terms = Terms(self.names, errors)
        self.steps = find_steps(self.statements, self.batch)
        self.einsums: list[Einsum] = []
        self.typed: dict[str, syntax.Name] = {}
        for line in self.statements:
            if line.kind is not None:
                self.typed.setdefault(line.target.text, line.kind)

    def span(self, node: syntax.Node) -> Span:
        return Span(self.source, node.start, node.end)

    # ---- the cascade as a whole

    def run(self) -> None:
        for line in self.text.lines:
            try:
                match line:
                    case syntax.ParamLine():
                        self.param(line)
                    case syntax.RankLine():
                        self.rank(line)
                    case _:
                        pass
            except Abandoned:
                continue
        self.output_ranks()
        for line in self.text.lines:
            match line:
                case syntax.Statement():
                    self.statement(line)
                case syntax.Broken(start, end, target):
                    self.forget(target, Span(self.source, start, end))
                case _:
                    pass
        self.iterations()
        self.outputs()

    def result(self) -> Checked:
        typed = {name: kind.text for name, kind in self.typed.items()}
        outputs = tuple(
            replace(tensor, dtype=typed.get(tensor.name, "float"))
            if tensor.dtype == "float"
            else tensor
            for tensor in self.header.outputs
        )
        cascade = Cascade(
            name=self.text.name.text,
            batch=self.batch,
            inputs=self.header.inputs,
            outputs=outputs,
            einsums=tuple(self.einsums),
            params=tuple(self.names.params.values()),
            ranks=tuple(self.names.declared.values()),
            reductions=tuple(self.names.reductions.values()),
            span=self.span(self.text),
        )
        bracket = tuple(name.text for name in self.text.ranks)
        inputs = tuple(kind_of(tensor.dtype) for tensor in self.header.inputs)
        return Checked(cascade, bracket, inputs, self.names.tensors[outputs[0].name].kind)

    def output_ranks(self) -> None:
        for tensor in self.header.outputs:
            for rank in tensor.ranks:
                if base(rank) not in self.names.over:
                    self.errors.add(
                        f"rank {rank!r} of output {tensor.name} has no extent", tensor.span,
                        code="E016",
                        help=self.errors.nearest(rank, self.names.over)
                        or f"give it one, as in rank {base(rank)} = 16",
                    )  # fmt: skip

    def iterations(self) -> None:
        """Every iterative tensor has a start and a step."""
        for name, known in self.names.tensors.items():
            if known.kind == UNKNOWN or known.step is None or (known.started and known.stepped):
                continue
            rank = known.step[1]
            missing = f"{name}[0, ...]" if not known.started else f"{name}[{rank}+1, ...]"
            self.errors.add(
                f"{name} steps along {rank!r}, but {missing} is never assigned", known.span,
                code="E017", help=f"assign {missing}",
            )  # fmt: skip

    def outputs(self) -> None:
        for tensor in self.header.outputs:
            known = self.names.tensors.get(tensor.name)
            if known is None and self.readable:
                self.errors.add(
                    f"output {tensor.name} is never assigned", tensor.span, code="E019",
                    help=self.errors.nearest(tensor.name, self.names.targets),
                )  # fmt: skip
            elif known is not None and known.step is not None:
                rank = known.step[1]
                self.errors.add(
                    f"output {tensor.name} is iterative", tensor.span,
                    f"it has |{rank}|+1 positions along {rank!r}", code="E017",
                    help=f"assign what you need of it, as in O[...] = {tensor.name}[|{rank}|, ...]",
                )  # fmt: skip

    def forget(self, target: str, span: Span) -> None:
        """A tensor whose statement could not be read: nothing more is said of it."""
        if target and target not in self.names.tensors:
            self.names.tensors[target] = Known(None, 0, UNKNOWN, span, started=True, stepped=True)

    # ---- parameters and ranks

    def param(self, line: syntax.ParamLine) -> None:
        name, dtype = line.name.text, line.kind.text
        self.new_name(line.name, "parameter")
        if dtype not in ("int", "float", "bool"):
            self.errors.add(
                f"a parameter is int, float or bool, not {dtype}", self.span(line.kind), code="E020"
            )
            raise Abandoned
        value: int | float | bool | None = None
        if line.default is not None:
            typed = self.terms.of(line.default)
            value = typed.expr.value if isinstance(typed.expr, Const) else typed.value
            if typed.kind == UNKNOWN:
                self.whole, value = False, None
            elif value is None:
                self.errors.add(
                    f"the default of {name} is no constant", self.span(line.default), code="E041",
                    help="leave it out, and it must be given",
                )  # fmt: skip
            elif not fits(typed.kind, kind_of(dtype)):
                self.errors.add(
                    f"{name} is {dtype}, its default is {KIND_NAMES[typed.kind]}",
                    self.span(line.default), code="E020",
                )  # fmt: skip
            elif dtype == "float":
                value = float(value)
        self.names.params[name] = ParamDecl(name, dtype, value, self.span(line))

    def rank(self, line: syntax.RankLine) -> None:
        self.new_name(line.name, "rank")
        name, place = line.name.text, self.span(line.extent)
        self.names.defaults = True
        try:
            typed = self.terms.of(line.extent)
        finally:
            self.names.defaults = False
            self.names.over[name] = name
        self.names.declared[name] = RankDecl(name, typed.expr, self.span(line))
        self.whole &= typed.kind != UNKNOWN
        if typed.kind == UNKNOWN:
            return
        if not typed.scalar:
            unknown = next((t.rank for t in subterms(typed.expr) if isinstance(t, Index)), "")
            self.errors.add(
                f"the extent of {name} is no expression of extents and parameters", place,
                code="E040",
                help=self.errors.nearest(unknown, self.names.params) if unknown else "",
            )  # fmt: skip
        elif typed.kind != INT:
            self.errors.add(
                f"the extent of {name} is {KIND_NAMES[typed.kind]}, no integer", place,
                code="E040", help="a quotient of integers is written a // b, or ceil(a / b)",
            )  # fmt: skip
        elif typed.value is not None and typed.value < 0:
            self.errors.add(f"the extent of {name} is negative", place, code="E040")

    def new_name(self, name: syntax.Name, what: str) -> None:
        """A parameter or rank that the cascade has not yet."""
        span, names = self.span(name), self.names
        if name.text.endswith("'"):
            self.errors.add(f"a {what} is declared without primes", span, code="E015")
        elif name.text in names.params or name.text in names.over:
            self.errors.add(f"{name.text} is declared twice", span, code="E011")
        elif what == "parameter" and name.text in names.taken:
            self.errors.add(f"{name.text} is a tensor too", span, code="E011",
                            help="give the parameter another name")  # fmt: skip
        else:
            return
        raise Abandoned

    # ---- statements

    def statement(self, line: syntax.Statement) -> None:
        before = len(self.errors.found)
        left: tuple[Left, ...] | None = None
        kind = UNKNOWN
        try:
            left = read_left(line, self.names, self.header.outputs, self.steps)
            self.names.current = Current(line.target.text, left)
            self.terms = Terms(self.names, self.errors)
            kind = self.assign(line, left)
        except Abandoned:
            kind = UNKNOWN
        self.names.current = None
        self.whole &= kind != UNKNOWN
        if left is None:
            self.forget(line.target.text, self.span(line.target))
        else:
            self.remember(line, left, UNKNOWN if len(self.errors.found) > before else kind)

    def remember(self, line: syntax.Statement, left: tuple[Left, ...], kind: str) -> None:
        """The tensor of a statement, for those that follow."""
        axis = next((number for number, part in enumerate(left) if part.step), None)
        step = None if axis is None else (axis, left[axis].rank)
        ranks = tuple(part.rank for part in left)
        known = self.names.tensors.setdefault(
            line.target.text,
            Known(ranks, len(self.batch), kind, self.span(line.target), step),
        )
        known.started |= any(part.step == "start" for part in left)
        known.stepped |= any(part.step == "next" for part in left)
        if kind == UNKNOWN:
            known.kind = UNKNOWN

    def assign(self, line: syntax.Statement, left: tuple[Left, ...]) -> str:
        """Elaborate a statement and keep its Einsum; the kind of its tensor."""
        current = self.names.current
        assert current is not None
        body = self.terms.of(line.body)
        where = None if line.where is None else self.terms.predicate(line.where)
        if body.kind == UNKNOWN or (where is not None and where.kind == UNKNOWN):
            return UNKNOWN
        mask = None if where is None else where.expr
        expr, mask = self.merged(body.expr, mask, left)
        plain = {part.rank for part in left if part.step != "start"}
        summed = tuple(rank for rank in free_in_order(expr) if rank not in plain)
        for einsum in current.pending:
            self.names.learn(einsum.body, einsum.where)
        self.names.learn(expr, mask)
        self.known_ranks(line, left, summed, expr, mask)
        if mask is not None:
            self.predicate_is_bound(line, mask, plain | set(summed))
        if summed:
            if body.kind == BOOL:
                self.errors.add(
                    f"truth values are not summed over {summed[0]!r}", self.span(line.body),
                    code="E020", help=f"write any[{summed[0]}](...), or select(..., 1, 0)",
                )  # fmt: skip
                return UNKNOWN
            mask, inner = split_where(mask, summed)
            expr = Reduce("sum", summed, expr, inner, self.span(line.body))
        kind = self.kind(line, body.kind)
        dtype = None if line.kind is None else line.kind.text
        last = Einsum(line.target.text, left, expr, mask, dtype, self.span(line))
        self.einsums += (self.sized(einsum) for einsum in (*current.pending, last))
        return kind

    def merged(
        self, body: Expr, mask: Expr | None, left: tuple[Left, ...]
    ) -> tuple[Expr, Expr | None]:
        """The last Einsum of a function becomes the statement itself where it is all of it."""
        current = self.names.current
        if current is None or not current.pending or not isinstance(body, Access):
            return body, mask
        *others, last = current.pending
        whole = body.tensor == last.target and body.subscripts == tuple(map(Index, last.ranks))
        used = any(
            access.tensor == last.target
            for einsum in current.pending
            for part in (einsum.body, einsum.where)
            for access in accesses(part)
        )
        plain = not any(part.step for part in (*left, *last.left))
        same = {part.rank for part in left} == set(last.ranks)
        if not (whole and plain and same) or used or last.dtype is not None:
            return body, mask
        current.pending = others
        return last.body, both(last.where, mask)

    def sized(self, einsum: Einsum) -> Einsum:
        """|j| of a variable that nothing declares is the extent of the rank that it runs over."""
        current = self.names.current
        if current is None or not current.sizes:
            return einsum

        def declared(term: Expr) -> Expr | None:
            if isinstance(term, Extent) and term.rank in current.sizes:
                return replace(term, rank=self.names.runs_over(term.rank))
            return None

        where = None if einsum.where is None else rewrite(einsum.where, declared)
        return replace(einsum, body=rewrite(einsum.body, declared), where=where)

    def kind(self, line: syntax.Statement, found: str) -> str:
        """The kind of a statement's tensor: as declared, else as computed."""
        name = line.target.text
        kind = self.typed.get(name)
        output = next((tensor for tensor in self.header.outputs if tensor.name == name), None)
        dtype = kind.text if kind is not None else None
        if output is not None and (dtype is None or output.dtype != "float"):
            if dtype is not None and dtype != output.dtype and kind is not None:
                self.errors.add(
                    f"{name} is {dtype} here and {output.dtype} in the header", self.span(kind),
                    code="E020",
                )  # fmt: skip
            dtype = output.dtype
        if line.kind is not None and kind is not None and line.kind.text != kind.text:
            self.errors.add(
                f"{name} is {kind.text} above and {line.kind.text} here", self.span(line.kind),
                code="E020",
            )  # fmt: skip
        if dtype is None:
            iterative = self.steps.get(name) is not None and found != BOOL
            return NUMBER if iterative else found
        if not fits(found, kind_of(dtype)):
            self.errors.add(
                f"{name} is {dtype}, but {KIND_NAMES[found]} is assigned", self.span(line.body),
                code="E020",
                help=f"declare it -> {name}[...]: {found}" if output is not None else "",
            )  # fmt: skip
        return kind_of(dtype)

    # ---- ranks of a statement

    def known_ranks(
        self, line: syntax.Statement, left: tuple[Left, ...], summed: tuple[str, ...],
        expr: Expr, mask: Expr | None,
    ) -> None:  # fmt: skip
        """Every rank variable of the statement has an extent."""
        current = self.names.current
        assert current is not None
        here = Einsum(line.target.text, left, expr, mask)
        placed = [rank for einsum in current.pending for rank in variables(einsum)]
        outer = {part.rank for part in left}
        for rank in dict.fromkeys((*variables(here), *current.sizes, *placed)):
            if base(rank) in self.names.over or rank in self.names.over:
                continue
            place = current.seen.get(rank) or current.sizes.get(rank) or self.span(line)
            free = rank in summed or rank in free_ranks(mask) or rank in current.sizes
            if rank in outer:
                self.unbound_left(line, rank, summed, expr)
            elif free:
                known = [*self.names.over, *self.names.params]
                self.errors.add(
                    f"{rank!r} is neither a rank nor a parameter",
                    place,
                    code="E010",
                    help=self.errors.nearest(rank, known) or f"declare it: rank {base(rank)} = ...",
                )
            else:
                self.errors.add(
                    f"rank {rank!r} has no extent",
                    place,
                    "nothing declares it, and it subscripts no tensor alone",
                    code="E016",
                    help=f"declare it: rank {base(rank)} = ...",
                )
            raise Abandoned

    def unbound_left(
        self, line: syntax.Statement, rank: str, summed: tuple[str, ...], expr: Expr
    ) -> None:
        """A rank on the left that stands nowhere on the right."""
        candidates = [
            (access, other)
            for access in accesses(expr)
            for other in summed
            if Index(other) in access.subscripts
        ]
        lone = [
            (access, other)
            for access, other in candidates
            if sum(other == found for _, found in candidates) == 1
        ]
        if not candidates:
            place = next((part for part in line.subscripts if _is_name(part, rank)), line.target)
            self.errors.add(
                f"rank {rank!r} of {line.target.text} has no extent", self.span(place),
                f"{rank!r} stands nowhere on the right", code="E012",
                help=self.errors.nearest(rank, self.names.over) or f"declare it: rank {rank} = ...",
            )  # fmt: skip
            return
        access, other = (lone or candidates)[0]
        names = [_left_text(part) for part in line.subscripts]
        meant = ", ".join(other if name == rank else name for name in names)
        self.errors.add(
            f"rank {other!r} of {access.tensor} has no bound extent on the left", access.span,
            f"{other!r} is summed here, but {rank!r} on the left stands nowhere on the right",
            code="E012", help=f"did you mean {line.target.text}[{meant}]?",
        )  # fmt: skip

    def predicate_is_bound(self, line: syntax.Statement, mask: Expr, bound: Iterable[str]) -> None:
        loose = [rank for rank in free_in_order(mask) if rank not in set(bound)]
        if not loose or line.where is None:
            return
        self.errors.add(
            f"the predicate speaks of {loose[0]!r}, which the statement neither has on the left "
            "nor sums", self.span(line.where), code="E023",
            help=f"inside a reduction write it there: sum[{loose[0]} where ...](...)",
        )  # fmt: skip
        raise Abandoned


def _is_name(term: syntax.Term, text: str) -> bool:
    return isinstance(term, syntax.Name) and term.text == text


def _left_text(term: syntax.Term) -> str:
    match term:
        case syntax.Name(_, _, text) | syntax.Number(_, _, text):
            return text
        case syntax.Binary(_, _, op, syntax.Name(_, _, first), syntax.Number(_, _, second)):
            return f"{first}{op}{second}"
        case _:
            return "..."
