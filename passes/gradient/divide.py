"""Divide a program between what runs before a loss is known and what runs after it.

    S, G, N, D, A, O, L | S, A, dA, dL_sum, dS, dQ, dK, dV        saved: L, O

The first part is the cascade as it was written, with the saved tensors as further outputs. The
second takes them as inputs, beside the cotangents, and computes again what was not saved.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from attnc.ir.cascade import Cascade, Einsum, Left, Step, Tensor, base, rank_of, variables
from attnc.ir.expr import ZERO, Access, Extent, Index, Map, Populate
from attnc.ir.walk import accesses, subterms
from attnc.passes.clean import remove_dead, rename
from attnc.passes.depend import depend
from attnc.passes.domain import Domains, conjunction
from attnc.passes.fiber import Names
from attnc.passes.gradient.saved import saved_tensors
from attnc.passes.normalise import normalise


@dataclass(frozen=True, slots=True)
class Gradient:
    """A cascade taken apart for training.

    `forward` yields the outputs and `saved`, the tensors that `backward` reads beside inputs and
    the cotangents of the outputs (`cotangents`: by output). Outputs of `backward` are the
    gradients (`gradients`: by input). `steps` are the laws that shortened it.
    """

    forward: Cascade
    backward: Cascade
    saved: tuple[str, ...]
    cotangents: dict[str, str]
    gradients: dict[str, str]
    steps: tuple[Step, ...] = ()


@dataclass(frozen=True, slots=True)
class Kept:
    """What is saved: tensors, the Einsums that say where they are there, and how they are read."""

    tensors: tuple[Tensor, ...]
    masks: tuple[Einsum, ...]
    reads: dict[str, Einsum]


@dataclass(frozen=True, slots=True)
class Whole:
    """A cascade with its adjoint as one program, the outputs of which are gradients.

    `written` is the cascade, normalised, with the batch ranks of the program; `made` are early
    Einsums that it lacks. `statistics` is the type in which what is no output is saved.
    """

    cascade: Cascade
    written: Cascade
    program: Cascade
    made: tuple[Einsum, ...]
    cotangents: dict[str, str]
    wrt: tuple[str, ...]
    statistics: str

    def divided(self, names: Names, steps: tuple[Step, ...]) -> Gradient:
        """The two parts."""
        kept = self._kept(names)
        given = {tensor.name for tensor in kept.tensors}
        rest = replace(
            self.program,
            inputs=(*self.program.inputs, *kept.tensors),
            einsums=tuple(e for e in self.program.einsums if e.target not in given),
        )
        rest = rename(rest, {name: einsum.target for name, einsum in kept.reads.items()})
        rest = remove_dead(replace(rest, einsums=(*kept.reads.values(), *rest.einsums)))
        return Gradient(
            self._forward(kept),
            _with_inputs_it_needs(rest),
            tuple(tensor.name for tensor in kept.tensors),
            self.cotangents,
            dict(zip(
                (tensor.name for tensor in self.written.inputs if tensor.name in self.wrt),
                (tensor.name for tensor in rest.outputs),
            )),
            steps,
        )  # fmt: skip

    def _forward(self, kept: Kept) -> Cascade:
        outputs = {tensor.name for tensor in self.cascade.outputs}
        more = tuple(
            replace(tensor, batch=len(self.cascade.batch))
            for tensor in kept.tensors
            if tensor.name not in outputs
        )
        if not more:
            return self.cascade
        forward = replace(
            self.cascade,
            name=f"{self.cascade.name}_forward",
            outputs=(*self.cascade.outputs, *more),
            einsums=(*normalise(self.cascade).einsums, *self.made, *kept.masks),
        )
        return sorted_by_reads(remove_dead(forward))

    def _kept(self, names: Names) -> Kept:
        """What to save. An empty point would be read as 0: what says where one is goes along."""
        before = {einsum.target for einsum in (*self.written.einsums, *self.made)}
        early = tuple(e for e in self.program.einsums if e.target in before)
        late = tuple(e for e in self.program.einsums if e.target not in before)
        first = replace(self.written, einsums=early)
        listed = {tensor.name: tensor for tensor in self.written.outputs}
        definitions = {einsum.target: einsum for einsum in early}
        domains = Domains(first)
        batch = len(self.written.batch)
        tensors: list[Tensor] = []
        masks: list[Einsum] = []
        reads: dict[str, Einsum] = {}
        for name in saved_tensors(first, late):
            einsum = definitions[name]
            ranks, left = einsum.ranks, tuple(map(Left, einsum.ranks))
            own = Access(name, tuple(map(Index, ranks)))
            saved = listed.get(name) or Tensor(name, ranks, batch, self._kind(einsum))
            tensors.append(saved)
            whole = saved.dtype if saved.dtype in ("int", "bool") else None
            where = conjunction(domains.tensors[name])
            if where is None:
                continue
            if any(access.tensor in definitions for access in accesses(where)):
                there = names.fresh(f"{name}_there")
                present = Map(">", (Map("present", (own,)), ZERO))
                masks.append(Einsum(there, left, present, None, "bool"))
                tensors.append(Tensor(there, ranks, batch, "bool"))
                where = Access(there, own.subscripts)
            reads[name] = Einsum(names.fresh(f"{name}_kept"), left, own, where, whole)
        return Kept(tuple(tensors), tuple(masks), reads)

    def _kind(self, einsum: Einsum) -> str:
        """The type in which a tensor is saved: statistics of a row lose nothing in float32."""
        if einsum.dtype is not None:
            return einsum.dtype
        return "int" if isinstance(einsum.body, Populate) else self.statistics


def sorted_by_reads(cascade: Cascade) -> Cascade:
    """The Einsums in an order in which each reads only earlier ones."""
    graph = depend(cascade)
    return replace(cascade, einsums=tuple(graph.cascade.einsums[i] for i in graph.order))


def _with_inputs_it_needs(cascade: Cascade) -> Cascade:
    """Without the inputs that nothing reads, but for those that alone tell a rank's extent."""
    read = {a.tensor for e in cascade.einsums for x in (e.body, e.where) for a in accesses(x)}
    kept = [tensor for tensor in cascade.inputs if tensor.name in read]
    told = {rank for tensor in kept for rank in tensor.ranks}
    asked = _extents_asked(cascade)
    for tensor in cascade.inputs:
        if tensor not in kept and (set(tensor.ranks) & asked) - told:
            kept.append(tensor)
            told |= set(tensor.ranks)
    order = [tensor.name for tensor in cascade.inputs]
    kept.sort(key=lambda tensor: order.index(tensor.name))
    # A rank that an input carries has its extent from there.
    ranks = tuple(decl for decl in cascade.ranks if decl.name not in told)
    return replace(cascade, inputs=tuple(kept), ranks=ranks)


def _extents_asked(cascade: Cascade) -> set[str]:
    """The ranks whose extents the Einsums and the declared ranks depend on."""
    classes = rank_of(cascade)
    found: set[str] = set(cascade.batch)
    for einsum in cascade.einsums:
        found |= {classes.get(rank, base(rank)) for rank in variables(einsum)}
        for expr in (einsum.body, einsum.where):
            found |= {base(t.rank) for t in subterms(expr) if isinstance(t, Extent)}
    while True:
        more = {
            term.rank
            for decl in cascade.ranks
            if decl.name in found
            for term in subterms(decl.extent)
            if isinstance(term, Extent)
        } - found
        if not more:
            return found
        found |= more
