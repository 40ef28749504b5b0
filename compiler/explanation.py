"""The story of `attnc explain`: why each pass is there, what removed it, what keeps it."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from itertools import groupby

from attnc.ir.cascade import Cascade, Einsum, Refusal, Step
from attnc.ir.printer import print_einsum
from attnc.ir.source import Span, excerpt
from attnc.passes.normalise import normalise
from attnc.passes.partition import is_part
from attnc.passes.pipeline import optimize, ungrouped_sums, unscanned_prefixes, with_states
from attnc.passes.recurrences.chunk import chunk
from attnc.passes.recurrences.recurrence import NoRecurrence
from attnc.passes.report import Report, analyze
from attnc.passes.tiling import CannotTile

WIDTH = 100


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
        yield ""
    for rank in waiting:
        yield from _waits(cascade, rank, before)
        steps = [step for step in fused.derivation if step.rank == rank]
        if steps:
            yield f"{_passes(before.passes[rank])} become {_passes(after.passes.get(rank, 1))}"
            yield ""
            yield from _steps(steps)
        yield from _kept(rank, fused.refusals)
    elsewhere = [step for step in fused.derivation if step.rank not in waiting]
    if elsewhere:
        yield "Other rewrites"
        yield ""
        yield from _steps(elsewhere)
    yield from _sums(cascade)
    yield from _prefixes(cascade)
    yield from _recurrences(with_states(cascade))
    if fused == cascade:
        yield "Nothing was rewritten."
    else:
        yield "The cascade that is compiled"
        yield ""
        yield str(fused)


def _sums(cascade: Cascade) -> Iterator[str]:
    """Which sums of products of sums keep a tensor over two long ranks, and why."""
    for kept in ungrouped_sums(cascade):
        yield from _sentence("", f"Not regrouped: {kept.einsum.target} {kept.reason}")
        yield from _shown(kept.einsum.span, kept.term)
        yield ""


def _prefixes(cascade: Cascade) -> Iterator[str]:
    """Which reductions up to a position are no scans, and why, unless data of each position say."""
    for kept in unscanned_prefixes(cascade):
        if not kept.data:
            yield from _sentence("", f"No prefix scan: {kept.einsum.target} {kept.reason}")
            yield from _shown(kept.einsum.span, "")
            yield ""


def _recurrences(cascade: Cascade) -> Iterator[str]:
    """Which states go from chunk to chunk, and which go step by step, and why."""
    plain = normalise(cascade)
    for rank in dict.fromkeys(rank for _, rank in cascade.iterative().values()):
        if is_part(plain, rank):
            continue
        yield f"Steps along {rank}"
        yield ""
        try:
            for step, kind, told in chunk(plain, rank, (2, 2, 2, 2), ()).told:
                text = f"{step.target} {kind} and runs in chunks: {told}"
                yield from _sentence("", text)
                yield from _shown(step.span, "")
        except NoRecurrence as error:
            yield from _sentence("", f"One at a time: {error.einsum.target} {error.reason}")
            yield from _shown(error.einsum.span, "")
        except CannotTile as error:
            yield from _sentence("", f"One at a time: {error.einsum.target} {error.reason}")
            yield from _shown(error.einsum.span, "")
        yield ""


def _waits(cascade: Cascade, rank: str, report: Report) -> Iterator[str]:
    """Why the rank takes its passes: the chain of Einsums each of which waits for the last."""
    yield f"{cascade.name} takes {_passes(report.passes[rank])} over {rank} as written"
    yield ""
    for number, barrier in enumerate(report.barriers[rank], 1):
        awaited = barrier.dropped.target
        yield from _sentence(
            f"{number} -> {number + 1}  ",
            f"{barrier.reader.target} reads {barrier.tensor} over {rank} again, and waits for "
            f"{awaited}, which is known only after all of {rank}",
        )
        yield from _einsum(report.counts.graph.cascade, barrier.dropped, f"needs all of {rank}")
        yield from _einsum(report.counts.graph.cascade, barrier.reader, f"waits for {awaited}")
        yield ""


def _steps(steps: list[Step]) -> Iterator[str]:
    """Each step with its place; a proof that several share stands once, below the last of them."""
    number = 0
    for proof, group in groupby(steps, lambda step: step.proof):
        for step in group:
            number += 1
            saved = f" ({step.before} -> {step.after})" if step.before != step.after else ""
            yield from _sentence(f"{number}. ", f"{step.law}{saved}: {step.text}")
            yield from _shown(step.span, "")
        if proof:
            yield from _sentence("   ", f"because {proof}")
        yield ""


def _kept(rank: str, refusals: tuple[Refusal, ...]) -> Iterator[str]:
    for refusal in refusals:
        if refusal.rank == rank:
            yield from _sentence("", f"A pass over {rank} stays: {refusal.einsum} {refusal.reason}")
            yield from _shown(refusal.span, refusal.term)
            yield ""


def _einsum(cascade: Cascade, einsum: Einsum, note: str) -> Iterator[str]:
    """An Einsum where it stands in the source, and in full if a function's use stands there."""
    yield from _shown(einsum.span, note)
    if not einsum.span.text.lstrip().startswith(einsum.target + "["):
        yield f"      which is {print_einsum(cascade, einsum)}"


def _shown(span: Span, note: str) -> Iterator[str]:
    """The source line of a span, indented below the sentence that speaks of it."""
    text = excerpt(span, note)
    if text:
        yield from (f"    {line}" for line in text.splitlines())


def _sentence(mark: str, text: str) -> Iterator[str]:
    first = "  " + mark
    yield from textwrap.wrap(
        text, WIDTH, initial_indent=first, subsequent_indent=" " * len(first),
        break_long_words=False, break_on_hyphens=False,
    )  # fmt: skip


def _passes(count: int) -> str:
    return "1 pass" if count == 1 else f"{count} passes"
