"""The header of a cascade or tensor function: batch ranks, inputs, outputs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from attnc import syntax
from attnc.ir.cascade import DTYPES, Tensor
from attnc.ir.source import Source, Span
from attnc.typed import Errors


@dataclass(frozen=True, slots=True)
class Header:
    """What a header declares; `ranks` are the batch ranks and those of inputs, in order."""

    batch: tuple[str, ...]
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    ranks: tuple[str, ...]


def read_header(text: syntax.CascadeText, source: Source, errors: Errors) -> Header:
    """The declarations of a header; what is wrong with them is reported and left out."""
    return _Reader(text, source, errors).header()


class _Reader:
    def __init__(self, text: syntax.CascadeText, source: Source, errors: Errors) -> None:
        self.text = text
        self.source = source
        self.errors = errors
        self.names: set[str] = set()
        self.batch = () if text.function else self.ranks(text.ranks)

    def span(self, node: syntax.Node) -> Span:
        return Span(self.source, node.start, node.end)

    def header(self) -> Header:
        inputs = tuple(self.input(found) for found in self.text.inputs)
        ranks = dict.fromkeys((*self.batch, *(rank for tensor in inputs for rank in tensor.ranks)))
        if self.text.function:
            for name in self.text.ranks:
                if name.text not in ranks:
                    self.errors.add(
                        f"no input of {self.text.name.text} has the rank {name.text!r}",
                        self.span(name), code="E016",
                    )  # fmt: skip
        outputs = tuple(self.output(found) for found in self.text.outputs)
        if not outputs:
            self.errors.add(
                f"{self.text.name.text} has no output", self.span(self.text.name), code="E019",
                help="name what it computes behind the arrow: -> Y[p]",
            )  # fmt: skip
        return Header(self.batch, inputs, outputs, tuple(ranks))

    def ranks(self, names: Sequence[syntax.Name], primes: bool = False) -> tuple[str, ...]:
        """Distinct rank variables."""
        found: dict[str, None] = {}
        for name in names:
            if name.text in found:
                self.errors.add(f"rank {name.text!r} is named twice", self.span(name), code="E011",
                                help="name the second axis apart")  # fmt: skip
            elif name.text.endswith("'") and not primes:
                self.errors.add(
                    "an input declares its ranks without primes", self.span(name), code="E015",
                    help="name the second axis apart; in the body d' runs over the rank d",
                )  # fmt: skip
            else:
                found[name.text] = None
        return tuple(found)

    def input(self, found: syntax.Declaration) -> Tensor:
        before = self.batch
        if found.before is not None:
            before = self.ranks(found.before)
            for name in found.before:
                if name.text not in self.batch:
                    self.errors.add(
                        f"{name.text!r} is no batch rank of {self.text.name.text}",
                        self.span(name), code="E010",
                        help=self.errors.nearest(name.text, self.batch),
                    )  # fmt: skip
        own = self.own(found, primes=False)
        dtype = self.dtype(found)
        self.new(found)
        return Tensor(found.name.text, (*before, *own), len(before), dtype, self.span(found))

    def output(self, found: syntax.Declaration) -> Tensor:
        if found.before is not None and tuple(name.text for name in found.before) != self.batch:
            self.errors.add(
                f"output {found.name.text} has every batch rank", self.span(found), code="E015",
                help="leave the semicolon out",
            )  # fmt: skip
        own = self.own(found, primes=True)
        dtype = self.dtype(found)
        self.new(found)
        ranks = (*self.batch, *own)
        return Tensor(found.name.text, ranks, len(self.batch), dtype, self.span(found))

    def own(self, found: syntax.Declaration, primes: bool) -> tuple[str, ...]:
        own = self.ranks(found.ranks, primes)
        for name in found.ranks:
            if name.text in self.batch:
                self.errors.add(
                    f"{name.text!r} is a batch rank, which goes unwritten", self.span(name),
                    code="E015",
                    help=f"an input with some of them says so: {found.name.text}[{name.text}; ...]",
                )  # fmt: skip
        return tuple(rank for rank in own if rank not in self.batch)

    def dtype(self, found: syntax.Declaration) -> str:
        if found.kind is None:
            return "float"
        if found.kind.text not in DTYPES:
            self.errors.unknown_type(found.kind.text, self.span(found.kind))
            return "float"
        return found.kind.text

    def new(self, found: syntax.Declaration) -> None:
        """A tensor of the header that no other one of it is named like."""
        name = found.name.text
        if name.endswith("'"):
            self.errors.add("only a rank variable ends in primes", self.span(found.name),
                            code="E015")  # fmt: skip
        if name in self.names:
            self.errors.add(f"{name} is declared twice", self.span(found.name), code="E011")
        self.names.add(name)
