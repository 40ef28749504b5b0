"""The steps, in order, and the loops over them.

`optimize` takes a cascade to the cascade with the fewest passes that the laws allow; `lower` takes
that to the tile program of a target. Both show every intermediate to one `observe` hook.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from attnc.ir.cascade import Cascade, Refusal, Step, rank_of
from attnc.ir.expr import Extent, Param, Populate, Reduce
from attnc.ir.print_expr import print_expr
from attnc.ir.source import InvalidIR
from attnc.ir.targets import TARGETS
from attnc.ir.tile import Kernel, Program
from attnc.ir.walk import subterms
from attnc.passes.again import Again
from attnc.passes.blocks import Blocks
from attnc.passes.count_passes import count_passes
from attnc.passes.cut import Cut, closure, costly, cut, heavy, long_ranks, made_in_turns
from attnc.passes.defer import defer
from attnc.passes.domain import Domains
from attnc.passes.extents import Extents
from attnc.passes.fiber import fiber
from attnc.passes.fit import fit
from attnc.passes.fold_scale import fold_scale
from attnc.passes.groups import groups
from attnc.passes.level import CannotLevel, Levels
from attnc.passes.logsumexp import expand_logsumexp
from attnc.passes.loops import Share
from attnc.passes.lower import KernelWriter, buffer
from attnc.passes.mapping import Mapping, check_schedule, mapping
from attnc.passes.normalise import normalise
from attnc.passes.online import online
from attnc.passes.orient import orient
from attnc.passes.own_ranks import ends, under_own_ranks
from attnc.passes.pack import pack
from attnc.passes.partition import is_part
from attnc.passes.placed import placed
from attnc.passes.positions import inline_positions
from attnc.passes.ranked import count_places
from attnc.passes.recompute import recompute_parts
from attnc.passes.recurrences.prefix import Kept, prefixes, unscanned
from attnc.passes.recurrences.reassociate import Ungrouped, Work, crossovers, reassociate, ungrouped
from attnc.passes.stream import in_chunks, stream, told
from attnc.passes.tiling import CannotTile
from attnc.passes.together import together
from attnc.passes.turns import keep_turns
from attnc.passes.vanish import vanish
from attnc.passes.variables import separate_variables
from attnc.passes.warps import launched

Observe = Callable[[str, "Cascade | Program"], None]

TILE = 64
"""Tile size that a derived cascade is printed with; a target may choose another."""


def passes(cascade: Cascade) -> dict[str, int]:
    """The number of passes over each rank."""
    return {rank: count.passes for rank, count in count_passes(cascade).ranks.items()}


def repeated(cascade: Cascade, counts: dict[str, int]) -> tuple[str, ...]:
    """Ranks that need more than one pass and are reduced somewhere, in order of declaration.

    Ranks of constant extent are left out: they lie whole within a tile, where passes are free.
    """
    tiles = {
        decl.name
        for decl in cascade.ranks
        if not any(isinstance(term, Extent) for term in subterms(decl.extent))
    }
    more = [rank for rank, count in counts.items() if count > 1 and rank not in tiles]
    return tuple(rank for rank in more if fiber(cascade, rank).reductions)


def expand(cascade: Cascade) -> Cascade:
    """Take log-sum-exps apart, and say so for every rank whose passes are counted anew."""
    changed = expand_logsumexp(cascade)
    if changed is cascade:
        return cascade
    before, after = passes(cascade), passes(changed)
    classes = rank_of(cascade)
    steps = tuple(
        Step(
            law="log-sum-exp",
            rank=rank,
            einsums=(einsum.target,),
            before=before[rank],
            after=after[rank],
            text=f"{einsum.target} is a maximum and a sum of exponentials relative to it",
            proof="logsumexp(x) = max(x) + log(sum(exp(x - max(x))))",
            span=einsum.span,
        )
        for einsum in cascade.einsums
        if isinstance(einsum.body, Reduce) and einsum.body.op == "logsumexp"
        for rank in dict.fromkeys(classes.get(rank, rank) for rank in einsum.body.ranks)
    )
    return replace(changed, derivation=(*cascade.derivation, *steps))


def defer_factors(cascade: Cascade, free: frozenset[str] = frozenset()) -> Cascade:
    """Take factors that do not vary out of reductions wherever this saves a pass.

    A pass over a rank of `free` costs nothing, so there no sum is taken apart for it.
    """
    counts = passes(cascade)
    for rank in repeated(cascade, counts):
        changed, done = defer(cascade, rank, apart=rank not in free)
        if not done:
            continue
        left = passes(changed)
        before, after = counts[rank], left[rank]
        if after >= before:
            continue
        counts = left
        steps = tuple(
            Step(
                law=f"deferral {deferral.law}",
                rank=rank,
                einsums=(deferral.einsum,),
                before=before,
                after=after,
                text=f"{deferral.factors} does not vary over {rank}, so it leaves the reduction "
                f"in {deferral.einsum}, which no longer waits for it",
                proof=f"the product distributes over the reduction: law {deferral.law}",
                span=next(e.span for e in cascade.einsums if e.target == deferral.einsum),
            )
            for deferral in done
        )
        cascade = replace(changed, derivation=(*cascade.derivation, *steps))
    return cascade


def regroup_sums(
    cascade: Cascade,
    wanted: Callable[[Work], bool] | None = None,
    free: frozenset[str] = frozenset(),
) -> Cascade:
    """Regroup sums of products; what divides in a sum that this makes leaves it if it may."""
    changed = reassociate(cascade, wanted)
    return cascade if changed is cascade else defer_factors(changed, free)


def run_reductions(cascade: Cascade) -> Cascade:
    """Turn reductions that wait for one another into running ones wherever this saves a pass."""
    counts = passes(cascade)
    for rank in repeated(cascade, counts):
        try:
            result = online(cascade, rank, 1 if is_part(cascade, rank) else TILE, ())
        except CannotTile as error:
            refusal = Refusal(rank, error.einsum.target, "", error.reason, error.einsum.span)
            cascade = replace(cascade, refusals=(*cascade.refusals, refusal))
            continue
        refusals = (*cascade.refusals, *result.refusals)
        left = passes(result.cascade)
        before, after = counts[rank], left[rank]
        if after >= before:
            cascade = replace(cascade, refusals=refusals)
            continue
        counts = left
        steps = tuple(
            Step(
                law=f"running {running.law}",
                rank=rank,
                einsums=(running.einsum,),
                before=before,
                after=after,
                text=told(running, rank),
                proof=running.proof,
                span=next(e.span for e in cascade.einsums if e.target == running.einsum),
            )
            for running in result.running
        )
        cascade = replace(
            result.cascade, derivation=(*cascade.derivation, *steps), refusals=refusals
        )
    return cascade


def kept(cascade: Cascade, ranks: tuple[str, ...]) -> tuple[Refusal, ...]:
    """Why passes over ranks are left: tensors wanted whole that wait, and points that are chosen.

    A tensor is wanted whole along a rank if an output that carries the rank depends on it.
    """
    found: list[Refusal] = []
    wanted = {t.name: (t.ranks, closure(cascade, t.name, set())) for t in cascade.outputs}
    for rank in ranks:
        facts = fiber(cascade, rank)
        whole = {name for carried, inside in wanted.values() if rank in carried for name in inside}
        waiting = {
            einsum: facts.waits[einsum.target] - {einsum.target}
            for einsum in cascade.einsums
            if rank in einsum.ranks and einsum.target in whole
        }
        for einsum, awaited in waiting.items():
            if awaited and not any(awaited < other for other in waiting.values()):
                which = "which reduces" if len(awaited) == 1 else "which reduce"
                names = " and ".join(sorted(awaited))
                reason = f"keeps {rank} and waits for {names}, {which} over it"
                found.append(Refusal(rank, einsum.target, einsum.target, reason, einsum.span))
        for einsum in cascade.einsums:
            body = einsum.body
            if isinstance(body, Populate) and body.rank == rank:
                reason = f"chooses among all points of {rank} before any can be read"
                term = print_expr(body)
                found.append(Refusal(rank, einsum.target, term, reason, einsum.span))
    return tuple(found)


STEPS: tuple[tuple[str, Callable[..., Cascade]], ...] = (
    ("normalise", normalise),
    ("variables", separate_variables),
    ("expand", expand),
    ("defer", defer_factors),
    ("reassociate", regroup_sums),
    ("prefixes", prefixes),
    ("online", run_reductions),
)


def optimize(cascade: Cascade, observe: Observe | None = None) -> Cascade:
    """The cascade with the fewest passes that the laws allow, with its derivation.

    Returns the cascade as it was, with the reasons, where no rank needs fewer passes. Raises
    CompileError for a schedule that the dependences of the cascade forbid.
    """
    check_schedule(cascade)
    result = replace(cascade, derivation=(), refusals=())
    for name, step in STEPS:
        result = step(result)
        if observe is not None:
            observe(name, result)
    before, after = passes(cascade), passes(result)
    saved = any(after.get(rank, count) < count for rank, count in before.items())
    saved |= any(step.law in ("reassociation", "prefix scan") for step in result.derivation)
    chosen = result if saved else cascade
    final = after if saved else before
    left = tuple(rank for rank in before if final.get(rank, 1) > 1)
    refusals = tuple(dict.fromkeys((*result.refusals, *kept(normalise(cascade), left))))
    return replace(chosen, derivation=result.derivation if saved else (), refusals=refusals)


def _until_regrouped(cascade: Cascade) -> Cascade:
    """A cascade after the steps that come before sums are regrouped, its choices counted."""
    cascade = normalise(replace(cascade, derivation=(), refusals=()))
    cascade = keep_turns(inline_positions(count_places(cascade)))
    for _, step in STEPS:
        if step is regroup_sums:
            return under_own_ranks(cascade)
        own = (_free(cascade),) if step is defer_factors else ()
        cascade = step(cascade, *own)
    raise InvalidIR("no step regroups sums")


def _free(cascade: Cascade) -> frozenset[str]:
    """The ranks that lie whole within a tile, where passes cost nothing."""
    return frozenset(passes(cascade)) - long_ranks(cascade)


def unscanned_prefixes(cascade: Cascade) -> tuple[Kept, ...]:
    """The reductions up to a position that stay reductions, with the reasons."""
    return unscanned(reassociate(_until_regrouped(cascade)))


def ungrouped_sums(cascade: Cascade) -> tuple[Ungrouped, ...]:
    """The sums of products of sums that are not regrouped, with the reasons."""
    return ungrouped(_until_regrouped(cascade))


def with_states(cascade: Cascade, wanted: Callable[[Work], bool] | None = None) -> Cascade:
    """The cascade that is cut into kernels: sums of which `wanted` says so have become states."""
    cascade = _until_regrouped(cascade)
    return prefixes(regroup_sums(cascade, wanted, _free(cascade)))


def choices(cascade: Cascade) -> tuple[Work, ...]:
    """The sums of a cascade that are regrouped or not by what its extents are."""
    return crossovers(_until_regrouped(cascade))


def lower(
    cascade: Cascade,
    target: str,
    dtype: str = "f32",
    sizes: dict[str, int] | None = None,
    observe: Observe | None = None,
    regroup: frozenset[str] | None = None,
) -> Program:
    """The tile program of a cascade for a target.

    It takes the same steps as `optimize`, but for ranks that lie whole within a tile, where passes
    are free: reductions over them stay as they are written. `sizes` are extents known beforehand;
    they choose tiles, and which sums are regrouped unless `regroup` names them. Raises CompileError
    where a construct cannot be lowered, or a schedule asks for what the dependences forbid.
    """
    facts = TARGETS[target]
    cascade = with_states(
        cascade,
        lambda work: work.falls(sizes or {}) if regroup is None else work.target in regroup,
    )
    decision, cascade = _decided(cascade)
    plan = mapping(cascade, facts, decision.long, sizes or {}, dtype)
    while True:
        try:
            program, streamed, recurrent = _program(cascade, decision, plan, observe)
        except CannotLevel as error:
            plan.refuse(cascade, error.rank, str(error), ("share",))
            plan = replace(plan, unshared=plan.unshared | {error.rank})
            continue
        known = replace(plan, recurrent=recurrent)
        smaller = fit(program, streamed, known)
        if smaller is known:
            program = vanish(program)
            return orient(together(fold_scale(program))) if facts.base2 else program
        plan = replace(smaller, recurrent=plan.recurrent)


def _decided(cascade: Cascade) -> tuple[Cut, Cascade]:
    """What is stored, and the cascade in which the rest is computed where it is read."""
    long = long_ranks(cascade)
    again = Again(cascade, long, costly(cascade), made_in_turns(cascade, ()))
    cascade, kept = again.kept()
    cascade = ends(recompute_parts(cascade, heavy(cascade, kept) | kept, again.tensors))
    return cut(cascade, kept), cascade


def _program(
    cascade: Cascade, decision: Cut, plan: Mapping, observe: Observe | None
) -> tuple[Program, frozenset[str], frozenset[str]]:
    """The program of a mapping, the ranks along the tiles that the compiler made, and those along
    which recurrences go."""
    packed = pack(cascade, plan, decision.stored)
    cascade, plan = packed.cascade, packed.plan
    chunks = in_chunks(cascade, plan, decision.stored)
    if observe is not None and chunks.cascade is not cascade:
        observe("chunk", chunks.cascade)
    plan = plan.with_parts(chunks.parallel).with_streams(chunks.streamed)
    plan = replace(plan, recurrent=frozenset(chunks.ranks), alone=frozenset(chunks.alone))
    streamed = stream(chunks.cascade, plan, chunks.stored)
    cascade = streamed.cascade
    defined = {einsum.target for einsum in cascade.einsums}
    stored = tuple(name for name in chunks.stored if name in defined)
    for made in streamed.splits.values():
        stored = tuple(dict.fromkeys((*stored, *made.stored)))
        plan = replace(plan.with_parts((made.part,)), merged=plan.merged | {made.part})
    cascade = recompute_parts(cascade, heavy(cascade, frozenset(stored)) | set(stored))
    if observe is not None:
        observe("stream", cascade)
    known, domains = Extents(cascade, plan.params(cascade)), Domains(cascade)
    places = {**packed.placed, **placed(cascade, (*(t.name for t in cascade.outputs), *stored))}
    memory = {t.name: t.ranks for t in cascade.inputs}
    memory.update((name, cascade.axes(name)) for name in stored)
    shares = {
        outer: Share(made.belongs, made.part, known.of(made.part), bool(made.table))
        for outer, made in streamed.splits.items()
    }
    kernels: list[Kernel] = []
    listed: list[Blocks] = []
    levels = Levels(cascade, streamed.splits.values(), known)
    for number, (roots, grid) in enumerate(groups(cascade, stored, plan, places)):
        name = cascade.name if number == 0 else f"{cascade.name}_{number}"
        own = {k: v for k, v in memory.items() if k not in roots}
        writer = KernelWriter(
            cascade, name, roots, own, grid, known, domains, places, shares,
            not plan.target.base2, plan.target.tests,
        )  # fmt: skip
        kernel = launched(writer.write(), plan)
        listed += writer.blocks.values()
        kernels += [*(made.kernel for made in writer.blocks.values())]
        kernels += levels.kernels(kernel, writer.dealt)
    outputs = {tensor.name for tensor in cascade.outputs}
    buffers = levels.buffers(buffer(cascade, name) for name in stored if name not in outputs)
    program = Program(
        name=cascade.name,
        inputs=tuple(t for t in cascade.inputs if t.name not in levels.splits),
        outputs=cascade.outputs,
        buffers=(
            *buffers,
            *(tensor for made in listed for tensor in made.buffers),
        ),
        params=cascade.params,
        ranks=(
            *(replace(d, extent=known.of(d.name)) for d in cascade.ranks),
            *(decl for made in listed for decl in made.ranks),
            *levels.ranks,
        ),
        reductions=cascade.reductions,
        kernels=tuple(kernels),
        warps=plan.warps,
        stages=plan.stages,
        history=(
            *(f"{step.law}: {step.text}" for step in cascade.derivation),
            *chunks.notes,
            *streamed.notes,
        ),
    )
    inner = {Param(name) for name in cascade.tiles}
    streams = frozenset(d.name for d in cascade.ranks if d.extent in inner)
    return program, streams, plan.recurrent
