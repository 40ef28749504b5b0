"""Which tensors go through memory between kernels, and which ranks a kernel is cut along.

A rank is *short* where it is the last axis of every input of two ranks or more that carries it
(the contiguous one: head widths), those aside whose every rank is so in others, where its extent is
a constant, or where a recurrence has it in its state and `weights` alone carry it; it lies whole in
a tile. All other ranks are *long*, and those that a schedule
streams or splits: cut along the grid where an output carries them, streamed where they are reduced.
A tensor is *stored* where a kernel could not have it otherwise:

- it is read at other than its own position;
- what reads it carries the long rank over which it was reduced (it must be whole first);
- it was reduced over a long rank and lacks one that its reader is cut along (each part of the
  grid would reduce again);
- it was reduced over a long rank and carries one over which its reader reduces, or along which it
  steps, if it carries no other long rank (each step of that loop would run another);
- it is what a turn of a recurrence leaves behind, and its reader reduces over the turns, or what a
  larger tensor is made of that would be (passes/again.py);
- it is a sum of products, compared with itself or with what is made of it: computed twice, in tiles
  of other shapes, it might differ from itself in the last digit.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from attnc.ir.cascade import STREAMING, Cascade, Einsum, base, rank_of
from attnc.ir.expr import Access, Const, Expr, Extent, Index, Map, Param, Reduce
from attnc.ir.walk import accesses, subterms
from attnc.passes.domain import Domains
from attnc.passes.partition import mixed_radix
from attnc.passes.symbolic import extents

COMPARISONS = ("==", "!=", "<", "<=", ">", ">=")


@dataclass(frozen=True, slots=True)
class Cut:
    """The stored tensors, in order, and the long ranks."""

    stored: tuple[str, ...]
    long: frozenset[str]


def long_ranks(cascade: Cascade) -> frozenset[str]:
    """The ranks that do not lie whole within a tile."""
    layouts = [tensor.ranks[tensor.batch :] for tensor in cascade.inputs]
    matrices = [own for own in layouts if len(own) >= 2]
    last = {own[-1] for own in matrices}
    # A matrix of widths alone, such as the state of a recurrence, says nothing of lengths.
    lengthy = [
        own
        for i, own in enumerate(matrices)
        if not set(own) <= {other[-1] for j, other in enumerate(matrices) if j != i}
    ]
    inner = {rank for own in lengthy for rank in own[:-1]}
    constant = constant_ranks(cascade)
    every = {rank for own in layouts for rank in own} | {decl.name for decl in cascade.ranks}
    short = (last - inner) | constant
    short |= {
        d.name for d in cascade.ranks if isinstance(d.extent, Extent) and d.extent.rank in short
    }
    steps = cascade.iterative()
    states = {rank for name in steps for rank in cascade.axes(name)}
    short |= (states & weights(cascade)) - {rank for _, rank in steps.values()}
    asked = {r for d in cascade.schedule if d.verb in STREAMING for r in d.ranks}
    return frozenset(every - (short - asked))


def weights(cascade: Cascade) -> frozenset[str]:
    """The ranks that only inputs carry which are the same for all entries of the outermost batch.

    They are widths of a model, such as its number of features; a sequence differs between entries.
    """
    first = frozenset(cascade.batch[:1])
    shared = {rank for t in cascade.inputs if first.isdisjoint(t.ranks) for rank in t.ranks}
    own = {rank for t in cascade.inputs if not first.isdisjoint(t.ranks) for rank in t.ranks}
    return frozenset(shared - own) if first else frozenset()


def constant_ranks(cascade: Cascade) -> frozenset[str]:
    """The ranks, and those of their length, whose extents are made of numbers and parameters."""

    def constant(extent: Expr) -> bool:
        return all(not isinstance(t, Extent | Access | Index) for t in subterms(extent)) and any(
            isinstance(t, Const | Param) for t in subterms(extent)
        )

    found = frozenset(decl.name for decl in cascade.ranks if constant(decl.extent))
    alike = {d.name: d.extent.rank for d in cascade.ranks if isinstance(d.extent, Extent)}
    return found | {name for name, rank in alike.items() if rank in found}


def cut(cascade: Cascade, kept: Collection[str] = ()) -> Cut:
    """Decide what is stored beside what is `kept`; what one kernel computes stores nothing."""
    long = long_ranks(cascade)
    classes = rank_of(cascade)
    parts = _parts(cascade, classes)
    stepped = cascade.iterative()
    definitions: dict[str, Einsum] = {e.target: e for e in cascade.einsums}
    stored: dict[str, None] = dict.fromkeys((*kept, *_compared(cascade)))
    for einsum in cascade.einsums:
        for expr in (einsum.body, einsum.where):
            for access in accesses(expr):
                source = definitions.get(access.tensor)
                if source is None or access.tensor in stepped:
                    continue
                if not _own_position(access, source, classes, long):
                    stored.setdefault(access.tensor)
    outputs = [t.name for t in cascade.outputs]
    domains = Domains(cascade)
    while True:
        more = _forced(cascade, (*outputs, *stored), set(stored), long, classes, parts)
        # Who reads what is stored asks where it exists: what says so is stored beside it.
        more += [
            access.tensor
            for name in stored
            for part in domains.tensors[name]
            for access in accesses(part)
            if access.tensor in definitions and access.tensor not in stored
        ]
        if not more:
            order = [e.target for e in cascade.einsums]
            return Cut(tuple(sorted(stored, key=order.index)), long)
        stored.update(dict.fromkeys(more))


def _own_position(
    access: Access, source: Einsum, classes: dict[str, str], long: frozenset[str]
) -> bool:
    for subscript, left in zip(access.subscripts, source.left):
        if not isinstance(subscript, Index):
            return False
        mine, other = (classes.get(r, base(r)) for r in (left.rank, subscript.rank))
        if subscript.rank != left.rank and (mine in long or other != mine):
            return False
    return True


def _parts(cascade: Cascade, classes: dict[str, str]) -> dict[str, set[str]]:
    """For each rank that is a part of others in a partition those ranks, itself included."""
    found: dict[str, set[str]] = {}
    values = extents(cascade)
    axes = {t.name: t.ranks for t in cascade.inputs}
    for einsum in cascade.einsums:
        for expr in (einsum.body, einsum.where):
            for access in accesses(expr):
                for subscript, axis in zip(access.subscripts, axes.get(access.tensor, ())):
                    for rank in mixed_radix(subscript, classes, values):
                        found.setdefault(rank, {rank}).add(axis)
    return found


def _forced(
    cascade: Cascade,
    roots: tuple[str, ...],
    stored: set[str],
    long: frozenset[str],
    classes: dict[str, str],
    parts: dict[str, set[str]],
) -> list[str]:
    """Reductions over a long rank that a root needs whole, or would repeat."""
    stepped = cascade.iterative()
    finals, turns = _finals(cascade), made_in_turns(cascade, stored)
    loops = {rank for _, rank in stepped.values()}
    found: list[str] = []
    for root in roots:
        carried = {classes.get(r, r) for r in cascade.axes(root)} & long
        beneath = _beneath(cascade, root, stored, long | loops, classes)
        needed, batch = closure(cascade, root, stored), {*cascade.batch}
        swept = {rank for name, (_, rank) in stepped.items() if name in needed}
        held = {classes.get(r, r) for name in stepped if name in needed for r in cascade.axes(name)}
        for tensor, einsum in needed.items():
            if tensor == root or tensor in stepped or tensor in stored:
                continue
            if turns.get(tensor, set()) & beneath.get(tensor, set()):
                found.append(tensor)
                continue
            reduced: set[str] = set()
            if isinstance(einsum.body, Reduce):
                reduced = {c for r in einsum.body.ranks for c in parts.get(r, {classes.get(r, r)})}
            elif tensor in finals:
                reduced = set(parts.get(finals[tensor], {finals[tensor]}))
            if not reduced & long:
                continue
            own = {classes.get(r, r) for r in einsum.ranks}
            if own & loops and closure(cascade, tensor, stored).keys() & stepped.keys():
                continue
            again = carried & reduced or carried - own - loops or own & beneath.get(tensor, set())
            alone = own & swept and not (own & long) - swept - batch and reduced - held
            if again or alone:
                found.append(tensor)
    # What only serves another of them is computed with it; the next round sees what is left.
    inside = {
        name for tensor in found for name in closure(cascade, tensor, stored) if name != tensor
    }
    return [tensor for tensor in dict.fromkeys(found) if tensor not in inside]


def _beneath(
    cascade: Cascade,
    root: str,
    stored: set[str],
    long: frozenset[str],
    classes: dict[str, str],
) -> dict[str, set[str]]:
    """For each tensor that a root needs the long ranks over which what reads it reduces."""
    found: dict[str, set[str]] = {}
    for name, einsum in closure(cascade, root, stored).items():
        if isinstance(einsum.body, Reduce):
            reduced = {classes.get(r, base(r)) for r in einsum.body.ranks} & long
            for inner in closure(cascade, name, stored) if reduced else ():
                if inner != name:
                    found.setdefault(inner, set()).update(reduced)
    return found


def costly(cascade: Cascade) -> frozenset[str]:
    """Tensors not to compute a second time: reduced over a long rank, or compared."""
    long = long_ranks(cascade)
    classes = rank_of(cascade)
    reduced = frozenset(
        einsum.target
        for einsum in cascade.einsums
        if isinstance(einsum.body, Reduce)
        and any(classes.get(rank, base(rank)) in long for rank in einsum.body.ranks)
    )
    return reduced | frozenset(_finals(cascade)) | _compared(cascade)


def heavy(cascade: Cascade, stored: frozenset[str] = frozenset()) -> frozenset[str]:
    """What is costly, or found on the way of a recurrence, turn by turn, and not made of what is
    stored."""
    return costly(cascade) | frozenset(made_in_turns(cascade, stored))


def _compared(cascade: Cascade) -> frozenset[str]:
    """Sums that are compared with themselves, or with something computed from them."""
    definitions = {einsum.target: einsum for einsum in cascade.einsums}
    found: set[str] = set()
    for einsum in cascade.einsums:
        for term in (*subterms(einsum.body), *subterms(einsum.where)):
            if isinstance(term, Map) and term.op in COMPARISONS:
                left, right = ({a.tensor for a in accesses(side)} for side in term.args)
                for one, other in ((left, right), (right, left)):
                    behind = {own for name in other for own in closure(cascade, name, set())}
                    found |= one & behind
    return frozenset(
        name
        for name in found - cascade.iterative().keys()
        if any(_rounded(cascade, definitions[own]) for own in closure(cascade, name, set()))
    )


def _rounded(cascade: Cascade, einsum: Einsum) -> bool:
    """Whether it is a sum of numbers that are not whole: its last digit depends on the tiles."""
    types = {tensor.name: tensor.dtype for tensor in cascade.inputs}
    types |= {made.target: made.dtype or "float" for made in cascade.einsums}
    return (
        isinstance(einsum.body, Reduce)
        and einsum.body.op not in ("max", "min", "any", "all")
        and any(types[a.tensor] not in ("int", "bool") for a in accesses(einsum.body.body))
    )


def made_in_turns(cascade: Cascade, stored: Collection[str]) -> dict[str, set[str]]:
    """Tensors made of what an iterative one is in each turn, and of nothing stored, with the ranks
    of the turns that they have."""
    stepped = cascade.iterative()
    found: dict[str, set[str]] = {}
    for einsum in cascade.einsums:
        if einsum.target in stepped:
            continue
        for expr in (einsum.body, einsum.where):
            for access in accesses(expr):
                turn = stepped.get(access.tensor)
                own = {turn[1]} if turn is not None else found.get(access.tensor, set())
                if access.tensor in stored:
                    continue
                if access.tensor in found or own & {*einsum.ranks}:
                    found.setdefault(einsum.target, set()).update(own & {*einsum.ranks})
    return found


def _finals(cascade: Cascade) -> dict[str, str]:
    """Tensors defined as the final slice of an iterative one, with its rank."""
    stepped = cascade.iterative()
    found: dict[str, str] = {}
    for einsum in cascade.einsums:
        body = einsum.body
        if isinstance(body, Access) and body.tensor in stepped:
            axis, rank = stepped[body.tensor]
            if body.subscripts[axis] == Extent(rank):
                found[einsum.target] = rank
    return found


def reads(einsum: Einsum) -> set[str]:
    """The tensors that an Einsum reads."""
    return {a.tensor for expr in (einsum.body, einsum.where) for a in accesses(expr)}


def closure(cascade: Cascade, root: str, stored: set[str]) -> dict[str, Einsum]:
    """The Einsums that a root needs, stopping at what is stored."""
    definitions: dict[str, list[Einsum]] = {}
    for einsum in cascade.einsums:
        definitions.setdefault(einsum.target, []).append(einsum)
    found: dict[str, Einsum] = {}
    stack = [root]
    while stack:
        name = stack.pop()
        if name in found or name not in definitions or (name in stored and name != root):
            continue
        found[name] = definitions[name][-1]
        for einsum in definitions[name]:
            for expr in (einsum.body, einsum.where):
                stack.extend(access.tensor for access in accesses(expr))
    return found
