"""The left side of a statement: plain ranks, `0` and `i+1` of an iterative one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from attnc import syntax
from attnc.ir.cascade import Left, Tensor
from attnc.ir.source import Span
from attnc.names import Names
from attnc.typed import Abandoned

Steps = Mapping[str, tuple[int, str]]
"""For each iterative tensor the axis along which it steps, batch ranks included, and its rank."""


def find_steps(statements: Sequence[syntax.Statement], batch: tuple[str, ...]) -> Steps:
    """The tensors that a statement `T[i+1, ...] = ...` makes iterative."""
    found: dict[str, tuple[int, str]] = {}
    for line in statements:
        ahead = 0 if _is_full(line.subscripts, batch) else len(batch)
        for axis, part in enumerate(line.subscripts):
            rank = _next(part)
            if rank is not None:
                found.setdefault(line.target.text, (ahead + axis, rank))
    return found


def _next(term: syntax.Term) -> str | None:
    """The rank `i` of `i+1`."""
    match term:
        case syntax.Binary(_, _, "+", syntax.Name(_, _, rank), syntax.Number(_, _, "1")):
            return rank
        case _:
            return None


def _is_full(subscripts: Sequence[syntax.Term], batch: tuple[str, ...]) -> bool:
    """Whether the batch ranks are written out."""
    names = [part.text if isinstance(part, syntax.Name) else "" for part in subscripts]
    return bool(batch) and tuple(names[: len(batch)]) == batch


def read_left(
    line: syntax.Statement, names: Names, outputs: Sequence[Tensor], steps: Steps
) -> tuple[Left, ...]:
    """The left side, batch ranks in front. Raises Abandoned where it is wrong, once reported."""
    return _Reader(line, names, steps).read(outputs)


class _Reader:
    def __init__(self, line: syntax.Statement, names: Names, steps: Steps) -> None:
        self.line = line
        self.target = line.target.text
        self.names = names
        self.step = steps.get(self.target)

    def refuse(self, message: str, node: syntax.Node, code: str, help: str = "") -> None:
        self.names.errors.add(message, self.span(node), code=code, help=help)
        raise Abandoned

    def span(self, node: syntax.Node) -> Span:
        return Span(self.names.source, node.start, node.end)

    def read(self, outputs: Sequence[Tensor]) -> tuple[Left, ...]:
        batch = self.names.batch
        if self.target.endswith("'"):
            self.refuse("only a rank variable ends in primes", self.line.target, "E015")
        own = self.line.subscripts
        if _is_full(own, batch):
            own = own[len(batch) :]
        left = list(map(Left, batch))
        for part in own:
            left.append(self.part(part, len(left)))
            if left[-1].rank in (before.rank for before in left[:-1]):
                rank = left[-1].rank
                what = "is a batch rank, which goes unwritten" if rank in batch else "stands twice"
                self.refuse(f"{rank!r} {what} on the left", part, "E015")
        self.is_new(left)
        for output in outputs:
            ranks = tuple(part.rank for part in left)
            if output.name == self.target and ranks != output.ranks and self.step is None:
                shown = ", ".join(output.ranks[output.batch :])
                self.refuse(
                    f"the header declares {self.target}[{shown}]", self.line.target, "E015",
                    f"write {self.target}[{shown}]",
                )  # fmt: skip
        return tuple(left)

    def part(self, term: syntax.Term, axis: int) -> Left:
        """One subscript of the left side."""
        at_step = self.step is not None and self.step[0] == axis
        rank = _next(term)
        match term:
            case syntax.Name(_, _, text):
                if text in self.names.params:
                    self.refuse(f"{text} is a parameter, no rank", term, "E015")
                if at_step:
                    self.refuse(
                        f"{self.target} steps along {text!r} elsewhere", term, "E017",
                        f"assign {self.target}[0, ...] and {self.target}[{text}+1, ...]",
                    )  # fmt: skip
                return Left(text)
            case syntax.Number(_, _, "0"):
                if not at_step or self.step is None:
                    self.refuse(
                        f"{self.target}[0, ...] is a start, and nothing assigns the steps", term,
                        "E017", f"assign {self.target}[i+1, ...] too",
                    )  # fmt: skip
                    raise Abandoned
                return Left(self.step[1], "start")
            case _ if rank is not None:
                if not at_step or self.step is None or self.step[1] != rank:
                    self.refuse(f"{self.target} steps along one rank only", term, "E017")
                return Left(rank, "next")
            case _:
                self.refuse(
                    "the left side has plain ranks, and 0 or i+1 of an iterative one", term, "E015",
                    "to place a value elsewhere, subscript what is read",
                )  # fmt: skip
                raise Abandoned

    def is_new(self, left: Sequence[Left]) -> None:
        """A tensor is assigned once; an iterative one has start and step over the same ranks."""
        known = self.names.tensors.get(self.target)
        if known is None:
            return
        step = next((part.step for part in left if part.step), "")
        done = {"start": known.started, "next": known.stepped}.get(step, True)
        if done or known.ranks is None:
            if known.ranks is None:
                raise Abandoned
            self.refuse(f"{self.target} is assigned twice", self.line.target, "E011",
                        "give the second one another name")  # fmt: skip
        ranks = tuple(part.rank for part in left)
        if ranks != known.ranks:
            shown = ", ".join(known.ranks[known.batch :])
            self.refuse(f"{self.target} has the ranks {shown} above", self.line.target, "E017",
                        "start and step have the same ranks in the same order")  # fmt: skip
