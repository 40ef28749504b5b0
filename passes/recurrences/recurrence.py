"""Recognise a linear recurrence along a rank: a state that each step scales and adds to.

    S[t+1, d, f] = a[t, d] * S[t, d, f] + u[t, d] * y[t, f]        gate a, update u y
    R[t, f]      = sum[d](w[t, d] * S[t, d, f])                    a read, before the step
    O[t, f]      = sum[d](w[t, d] * S[t+1, d, f])                  a read, after it

The gate may vary along any ranks of the state. An update may contain a read made before the step:
then the transition is the gate less a product of two vectors (the delta rule). Nothing but the
algebra of the bodies is looked at. The family is that of Yang et al. (ICML 2024, NeurIPS 2024) and
of Mamba-2 (Dao and Gu, ICML 2024).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from attnc.ir.cascade import Cascade, Einsum, Left
from attnc.ir.expr import ONE, Access, Const, Expr, Extent, Index, Map, Populate, Reduce
from attnc.ir.walk import accesses, free_ranks, rewrite, substitute
from attnc.passes.clean import rewritten
from attnc.passes.domain import Domains
from attnc.passes.fiber import Names
from attnc.passes.recurrences.linear import NotLinear, Summand, summands
from attnc.passes.recurrences.scanned import Scanned, scanned


class NoRecurrence(Exception):
    """Why an iterative tensor is not a linear recurrence: the Einsum, the term, the reason."""

    def __init__(self, einsum: Einsum, term: Expr, reason: str) -> None:
        super().__init__(reason)
        self.einsum, self.term, self.reason = einsum, term, reason


@dataclass(frozen=True, slots=True)
class Read:
    """A tensor linear in the state at its own step: `sum[ranks]` of its terms.

    Terms with the state name it as `unknown`, at its step or the next.
    """

    einsum: Einsum
    ranks: tuple[str, ...]
    terms: tuple[Summand, ...]


@dataclass(frozen=True, slots=True)
class Recurrence:
    """A state along a rank. `gate` scales it in each step; the updates are added.

    `feedback` is the read that updates contain, None if they contain none. `reads` are the other
    tensors that are linear in the state, by name.
    """

    state: str
    rank: str
    axis: int
    start: Einsum
    step: Einsum
    gate: Expr
    updates: tuple[Summand, ...]
    feedback: Read | None
    reads: dict[str, Read]


@dataclass(frozen=True, slots=True)
class States:
    """What steps along a rank: linear recurrences, and scans by name, known at every position.

    In `cascade` each map that reads the states of recurrences other than linearly reads them
    under names of their own.
    """

    cascade: Cascade
    linear: tuple[Recurrence, ...]
    scans: dict[str, Scanned]


def states(cascade: Cascade, rank: str) -> States:
    """The states along a rank, in order; raises NoRecurrence where one is neither."""
    cascade = _Steps(cascade, rank).named()
    steps = _Steps(cascade, rank)
    return States(cascade, steps.found(), steps.scans)


def following(access: Access, axis: int, rank: str) -> bool:
    """Whether a state is read after the step at hand."""
    return access.subscripts[axis] == Map("+", (Index(rank), ONE))


class _Steps:
    """One step of a rank: who reads the states in it, and who is read by them."""

    def __init__(self, cascade: Cascade, rank: str) -> None:
        self.cascade, self.rank, self.domains = cascade, rank, Domains(cascade)
        self.stepped = {
            name: axis for name, (axis, own) in cascade.iterative().items() if own == rank
        }
        self.starts: dict[str, Einsum] = {}
        self.definitions: dict[str, Einsum] = {}
        for einsum in cascade.einsums:
            start = any(left.step == "start" for left in einsum.left)
            (self.starts if start else self.definitions)[einsum.target] = einsum
        import networkx as nx

        graph = nx.DiGraph()
        for einsum in self.definitions.values():
            graph.add_node(einsum.target)
            for expr in (einsum.body, einsum.where):
                for access in accesses(expr):
                    if access.tensor in self.definitions and not self._whole(access):
                        graph.add_edge(access.tensor, einsum.target)
        self.cycles = {
            name: frozenset(group)
            for group in nx.strongly_connected_components(graph)
            for name in group
        }
        found = (
            scanned(self.definitions[name], axis, self.cycles[name], self.domains)
            for name, axis in self.stepped.items()
        )
        self.scans = {scan.state: scan for scan in found if scan is not None}

    def found(self) -> tuple[Recurrence, ...]:
        for name in self.scans:
            self._exists(self.starts[name])
        return tuple(self._recurrence(name) for name in self.stepped if name not in self.scans)

    def named(self) -> Cascade:
        """Maps of states read them by name: what is linear in one state then stands alone."""
        names = Names(self.cascade)
        einsums: list[Einsum] = []
        made: dict[Access, str] = {}
        for einsum in self.cascade.einsums:
            own: dict[Expr, Expr] = {}
            for access in self._not_linear(einsum):
                step, axis = self.definitions[access.tensor], self.stepped[access.tensor]
                place: list[Expr] = list(map(Index, step.ranks))
                place[axis] = access.subscripts[axis]
                value = replace(access, subscripts=tuple(place))
                if value not in made:
                    made[value] = names.fresh(f"{access.tensor}_at")
                    left = tuple(map(Left, step.ranks))
                    einsums.append(Einsum(made[value], left, value, span=einsum.span))
                place = list(access.subscripts)
                place[axis] = Index(self.rank)
                own[access] = Access(made[value], tuple(place), access.span)
            einsums.append(rewritten(einsum, own.get) if own else einsum)
        return replace(self.cascade, einsums=tuple(einsums)) if made else self.cascade

    def _not_linear(self, einsum: Einsum) -> tuple[Access, ...]:
        """The states at a step that a map reads, unless it is linear in one of them alone."""
        if isinstance(einsum.body, Reduce | Populate) or einsum.target in self.stepped:
            return ()
        if self.cycles[einsum.target] & self.stepped.keys():
            return ()
        found = dict.fromkeys(
            access
            for access in accesses(einsum.body)
            if access.tensor in self.stepped.keys() - self.scans.keys() and not self._whole(access)
        )
        if len({access.tensor for access in found}) < 2:
            try:
                summands(einsum.body, lambda access: access in found)
            except NotLinear:
                return tuple(found)
            return ()
        return tuple(found)

    def _whole(self, access: Access) -> bool:
        """Whether an access reads the start or the end of an iteration, not a step."""
        axis = self.stepped.get(access.tensor)
        return axis is not None and isinstance(access.subscripts[axis], Const | Extent)

    def _recurrence(self, state: str) -> Recurrence:
        step, axis, cycle = self.definitions[state], self.stepped[state], self.cycles[state]
        others = sorted(name for name in cycle if name in self.stepped and name != state)
        if others:
            reason = f"steps together with {others[0]}, which it needs and which needs it"
            raise NoRecurrence(step, step.body, reason)
        self._exists(step)
        self._exists(self.starts[state])
        if isinstance(step.body, Reduce):
            raise NoRecurrence(step, step.body, "is a reduction over its last step")
        if step.dtype is not None:
            raise NoRecurrence(step, step.body, f"rounds its state to {step.dtype} in each step")
        feedback = self._feedback(state)
        inner = {state} if feedback is None else {state, feedback.einsum.target}
        terms = self._terms(step, self._opened(step.body, cycle), inner)
        gates: list[Summand] = []
        updates: list[Summand] = []
        ranks = [left.rank for left in step.left]
        for term in terms:
            if term.unknown is None or term.unknown.tensor != state:
                updates.append(term)
                continue
            at = [Index(r) for r in ranks]
            if following(term.unknown, axis, self.rank) or list(term.unknown.subscripts) != at:
                reason = "moves its state from one place to another"
                raise NoRecurrence(step, term.unknown, reason)
            gates.append(term)
        reads = {
            name: self._read(einsum, state)
            for name, einsum in self.definitions.items()
            if name not in cycle and self._reads(einsum, state)
        }
        start = self.starts[state]
        gate = _sum(gates)
        return Recurrence(
            state, self.rank, axis, start, step, gate, tuple(updates), feedback, reads
        )

    def _exists(self, einsum: Einsum) -> None:
        if any(self.rank in free_ranks(part) for part in self.domains.of_einsum(einsum)):
            raise NoRecurrence(einsum, einsum.where or einsum.body, "has steps that may not exist")

    def _reads(self, einsum: Einsum, state: str) -> bool:
        return any(
            access.tensor == state and not self._whole(access)
            for expr in (einsum.body, einsum.where)
            for access in accesses(expr)
        )

    def _feedback(self, state: str) -> Read | None:
        """The reduction inside a step, if there is one."""
        inside = sorted(
            name
            for name in self.cycles[state]
            if name != state and isinstance(self.definitions[name].body, Reduce)
        )
        if not inside:
            return None
        if len(inside) > 1:
            einsum = self.definitions[inside[1]]
            reason = f"is a second read of {state} that its next step needs, beside {inside[0]}"
            raise NoRecurrence(einsum, einsum.body, reason)
        return self._read(self.definitions[inside[0]], state)

    def _read(self, einsum: Einsum, state: str) -> Read:
        if any(access.tensor == state for access in accesses(einsum.where)):
            assert einsum.where is not None
            raise NoRecurrence(einsum, einsum.where, f"asks {state} which points exist")
        body: Expr = einsum.body
        ranks: tuple[str, ...] = ()
        if isinstance(body, Reduce):
            if body.op != "sum" or body.where is not None:
                raise NoRecurrence(einsum, body, f"takes {body.op} of {state}, which is not linear")
            ranks, body = body.ranks, body.body
        if self.rank in ranks or self.rank not in einsum.ranks:
            raise NoRecurrence(einsum, einsum.body, f"needs every step of {state} at once")
        terms = self._terms(einsum, self._opened(body, self.cycles[state]), {state})
        for term in terms:
            if term.unknown is not None:
                self._plain(einsum, term.unknown)
        return Read(einsum, ranks, terms)

    def _plain(self, einsum: Einsum, access: Access) -> None:
        axis = self.stepped[access.tensor]
        at = access.subscripts[axis]
        if at != Index(self.rank) and at != Map("+", (Index(self.rank), ONE)):
            raise NoRecurrence(einsum, access, "reads a step that is long past")
        names = [s for i, s in enumerate(access.subscripts) if i != axis]
        if any(not isinstance(s, Index) for s in names) or len(set(names)) < len(names):
            raise NoRecurrence(einsum, access, "reads the state at a computed place")

    def _terms(self, einsum: Einsum, body: Expr, inner: set[str]) -> tuple[Summand, ...]:
        """A body as terms with one unknown of `inner` each; their factors know nothing of it."""
        state = next(name for name in inner if name in self.stepped)

        def unknown(access: Access) -> bool:
            return access.tensor in inner and not self._whole(access)

        try:
            terms = summands(body, unknown)
        except NotLinear as error:
            raise NoRecurrence(einsum, error.term, error.reason) from None
        for term in terms:
            for factor in term.factors:
                for access in accesses(factor.expr):
                    if access.tensor in self.cycles[state] and not self._whole(access):
                        reason = f"multiplies {state} by what depends on it"
                        raise NoRecurrence(einsum, access, reason)
        return terms

    def _opened(self, body: Expr, cycle: frozenset[str]) -> Expr:
        """A body with the maps between the state and its next step written out."""

        def rule(term: Expr) -> Expr | None:
            if not isinstance(term, Access) or term.tensor not in cycle:
                return None
            einsum = self.definitions[term.tensor]
            if term.tensor in self.stepped or isinstance(einsum.body, Reduce):
                return None
            self._exists(einsum)
            if einsum.dtype is not None:
                raise NoRecurrence(einsum, einsum.body, f"rounds to {einsum.dtype} in each step")
            names = {left.rank: s for left, s in zip(einsum.left, term.subscripts)}
            return self._opened(substitute(einsum.body, names), cycle)

        return rewrite(body, rule)


def _sum(terms: list[Summand]) -> Expr:
    """The coefficients of several terms as one expression; 0 if there is none."""
    result: Expr | None = None
    for term in terms:
        own = term.coefficient
        if result is None:
            result = Map("neg", (own,)) if term.negative else own
        else:
            result = Map("-" if term.negative else "+", (result, own))
    return Const(0) if result is None else result


def carried(expr: Expr, ranks: tuple[str, ...]) -> tuple[str, ...]:
    """Which of some ranks an expression varies along."""
    own = free_ranks(expr)
    return tuple(rank for rank in ranks if rank in own)
