"""The story of `attnc explain`: why each pass is there, what removed it, what keeps it."""

from __future__ import annotations

from collections.abc import Iterator

from attnc.ir.cascade import Cascade, Refusal, Step
from attnc.ir.source import Span, excerpt
from attnc.passes.pipeline import optimize
from attnc.passes.report import Report, analyze


def explain(cascade: Cascade) -> str:
    """Which Einsum waits for which over each rank, which law removed the wait, which term kept it.

    The lines of the source stand in the story with carets where they are known.
    """
    fused = optimize(cascade)
    before, after = analyze(cascade), analyze(fused)
    return "\n".join(_story(cascade, fused, before, after)).rstrip()


def _story(cascade: Cascade, fused: Cascade, before: Report, after: Report) -> Iterator[str]:
    waiting = [rank for rank, count in before.passes.items() if count > 1]
    if not waiting:
        yield f"{cascade.name} takes one pass over every rank as written."
    for rank in waiting:
        yield from _waits(cascade, rank, before)
        yield from _removed(rank, before, after, fused.derivation)
        yield from _kept(rank, fused.refusals)
        yield ""
    elsewhere = [step for step in fused.derivation if step.rank not in waiting]
    if elsewhere:
        yield "Other rewrites"
        for number, step in enumerate(elsewhere, 1):
            yield from _step(number, step)
        yield ""
    if fused == cascade:
        yield "Nothing was rewritten."
    else:
        yield "The cascade that is compiled"
        yield ""
        yield str(fused)


def _waits(cascade: Cascade, rank: str, report: Report) -> Iterator[str]:
    """Why the rank takes its passes: the chain of Einsums each of which waits for the last."""
    yield f"{cascade.name} takes {_passes(report.passes[rank])} over {rank} as written"
    for number, barrier in enumerate(report.barriers[rank], 1):
        yield ""
        yield (
            f"  {number} -> {number + 1}  {barrier.reader.target} reads {barrier.tensor} over "
            f"{rank} again, and waits for {barrier.dropped.target}, which is known only after "
            f"all of {rank}"
        )
        yield from _shown(barrier.dropped.span, f"needs all of {rank}")
        yield from _shown(barrier.reader.span, f"waits for {barrier.dropped.target}")
    yield ""


def _removed(
    rank: str, before: Report, after: Report, derivation: tuple[Step, ...]
) -> Iterator[str]:
    steps = [step for step in derivation if step.rank == rank]
    if not steps:
        return
    yield f"{_passes(before.passes[rank])} become {_passes(after.passes.get(rank, 1))}"
    for number, step in enumerate(steps, 1):
        yield from _step(number, step)


def _step(number: int, step: Step) -> Iterator[str]:
    yield ""
    counts = f" ({step.before} -> {step.after})" if step.before != step.after else ""
    yield f"  {number}. {step.law}{counts}: {step.text}"
    if step.proof:
        yield f"     because {step.proof}"
    yield from _shown(step.span, "")


def _kept(rank: str, refusals: tuple[Refusal, ...]) -> Iterator[str]:
    for refusal in refusals:
        if refusal.rank != rank:
            continue
        yield ""
        yield f"  A pass over {rank} stays, because of {refusal.einsum}: {refusal.reason}"
        yield from _shown(refusal.span, refusal.term)


def _shown(span: Span, note: str) -> Iterator[str]:
    """The source line of a span, indented below the sentence that speaks of it."""
    text = excerpt(span, note)
    if text:
        yield from (f"    {line}" for line in text.splitlines())


def _passes(count: int) -> str:
    return "1 pass" if count == 1 else f"{count} passes"
