"""The tile program as text and back, what must hold of it, and which axes may be cut."""

from __future__ import annotations

import pytest
import tile_texts as texts

from attnc.ir.affine import affine, solved
from attnc.ir.clip import clipped, edges_of
from attnc.ir.expr import ZERO, Const, Extent, Index, Map
from attnc.ir.print_expr import print_expr
from attnc.ir.print_tile import print_program
from attnc.ir.read_tile import read_expr, read_program
from attnc.ir.source import InvalidIR
from attnc.ir.tile import Loop, Program
from attnc.ir.verify_tile import verify_program

PROGRAMS = {
    "flash": texts.flash(32, 48),
    "causal": texts.flash(32, 48, causal=True),
    "window": texts.WINDOW,
    "shift": texts.SHIFT,
    "padded": texts.PADDED,
    "states": texts.STATES,
    "paged": texts.PAGED,
    "own": texts.OWN,
}


@pytest.mark.parametrize("name", PROGRAMS)
def test_a_program_reads_back_equal_and_is_valid(name: str) -> None:
    program = read_program(PROGRAMS[name])
    verify_program(program)
    assert read_program(print_program(program)) == program


@pytest.mark.parametrize(
    "text",
    [
        "-1", "-(1)", "-x ** 2", "(-x) ** 2", "(-2) ** x", "2 ** -x", "a - (b - c)", "a - b - c",
        "not a == b", "(not a) == b", "not (a and b) or c", "a < b and (b < c or true)",
        "-inf", "1e-06 * inf", "cast(x + 1, f16) // 2 % 3", "select(a == b, |m'|, d'[])",
        "first(p) - -1", "max(a, b, c[p, m0])",
    ],
)  # fmt: skip
def test_an_expression_keeps_its_form(text: str) -> None:
    assert print_expr(read_expr(text)) == text


def test_a_sign_before_a_number_is_part_of_it_and_before_a_bracket_an_operation() -> None:
    assert read_expr("-1") == Const(-1)
    assert read_expr("-(1)") == Map("neg", (Const(1),))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "empty"),
        ("program p() -> :\n    kernel", "expected a name"),
        (texts.WINDOW.replace("fold y[p] = sum", "fold y[p] ="), "expected a name"),
        (texts.WINDOW.replace("X[b; p]: float", "X[b; p]: f12"), "no type f12"),
        (texts.WINDOW.replace("x[p, k] * c[k]", "sqr(x[p, k])"), "no operation sqr of 1"),
        (texts.STATES.replace("                next b, s, b, k1\n", ""), "next"),
        (texts.WINDOW.replace("x[p, k] * c[k]", "(" * 5000 + "1" + ")" * 5000), "nests too deep"),
    ],
)
def test_text_that_is_no_program_is_refused_with_its_line(text: str, message: str) -> None:
    with pytest.raises(InvalidIR, match=message):
        read_program(text)


BROKEN = {
    "a tile before it is made": ("contract B[p, m0] = Q1", "contract B[p, m0] = Q2", "before"),
    "a name twice in a scope": ("compute L1[p]", "compute O1[p]", "made twice"),
    "the name of an outer tile inside a loop": ("load K1[m0, e]", "load Q1[m0, e]", "made twice"),
    "an axis that the kernel lacks": ("= Q1[p, e] *", "= Q1[p, x] *", "no axis"),
    "a value that varies along more": ("compute Dn[p] =", "compute Dn[p] = S[p, m0] *", "varies"),
    "a product that lacks a rank of its operands": (
        "contract U[p, f] = N[p, m0] * V1[m0, f]", "contract U[p, f] = N[f, m0] * V1[m0, f]",
        "varies",
    ),
    "a fold that leaves another shape": ("fold top[p] = max S[p, m0] over m0",
                                         "fold top[p] = max S[p, m0] over p", "leave"),
    "a reduction that nobody defined": ("fold top[p] = max", "fold top[p] = most", "reduction"),
    "a state that becomes another shape": ("next Gn, Dn, Tn", "next Gn, Tn, Dn", "becomes"),
    "a state that goes on without a value": ("next Gn, Dn, Tn", "next Gn, Dn", "2 values"),
    "a store to an input": ("store O[b, h, p, f]", "store Q[b, h, p, f]", "no output"),
    "an output that nothing stores": ("        store L[b, h, p] = L1[p]\n", "", "stores L"),
    "a read of what no earlier kernel stored": ("= Q[b, h, p, e]", "= O[b, h, p, e]", "stored in"),
    "too few subscripts": ("= Q[b, h, p, e]", "= Q[b, p, e]", "4 axes, not 3"),
    "a counter outside its loop": ("compute L1[p] = G[p]", "compute L1[p] = G[p] + m1", "position"),
    "the edge of a tile outside a bound": ("= G[p] + log", "= G[p] + last(p) + log", "bounds"),
    "a bound that varies along a tile": ('to |m| // 48 "full"', 'to p "full"', "varies"),
    "a grid tile without its axis": ("        axis p = |p| by 32\n", "", "no axis p by 32"),
    "an extent of no tensor": ("axis f = |f|", "axis f = |g|", "extent of g"),
}  # fmt: skip


@pytest.mark.parametrize("fault", BROKEN)
def test_a_broken_program_is_found_out(fault: str) -> None:
    old, new, message = BROKEN[fault]
    assert old in PROGRAMS["flash"]
    with pytest.raises(InvalidIR, match=message):
        verify_program(read_program(PROGRAMS["flash"].replace(old, new)))


def cuts(program: Program) -> list[tuple[str, str, str]]:
    """The cuts of the last segment of the first loop."""
    kernel = program.kernels[0]
    place = next(n for n, s in enumerate(kernel.body) if isinstance(s, Loop))
    loop = kernel.body[place]
    assert isinstance(loop, Loop)
    ranks = {s.name: s.ranks for s in kernel.body[:place]}  # type: ignore[union-attr]
    found, _ = clipped(loop, loop.segments[-1], edges_of(kernel), ranks, frozenset())
    return [(clip.rank, print_expr(clip.lo), print_expr(clip.hi)) for clip in found]


def test_a_ragged_tile_is_cut_at_the_end_of_its_rank() -> None:
    assert cuts(read_program(PROGRAMS["flash"])) == [("m0", "0", "min(48, |m| - m1 * 48)")]


def test_a_causal_tile_is_cut_at_the_last_query_too() -> None:
    ((rank, lo, hi),) = cuts(read_program(PROGRAMS["causal"]))
    assert (rank, lo) == ("m0", "0")
    assert "last(p)" in hi and "|m| - m1 * 48" in hi


NOT_CUT = {
    "a fold that sees the positions left out": PROGRAMS["padded"],
    "a fold whose operand is no identity there": PROGRAMS["flash"].replace("sqrt(|e|), -inf)",
                                                                           "sqrt(|e|), 0)"),
    "a tile read under another name of its rank": PROGRAMS["flash"].replace(
        "        axis e = |e|", "        axis j = 48 by 48\n        axis e = |e|"
    ).replace("sum N[p, m0] over m0", "sum N[p, j] over j"),
    "a test made of what the body itself loads": PROGRAMS["paged"].replace(
        "    load p[m0]", "    load l2[] = len[b]\n                load p[m0]"
    ).replace("m1 * 4 + m0 < l[]", "m1 * 4 + m0 < l2[]"),
}  # fmt: skip


@pytest.mark.parametrize("reason", NOT_CUT)
def test_an_axis_stays_whole_for(reason: str) -> None:
    assert cuts(read_program(NOT_CUT[reason])) == []


def test_affine_forms() -> None:
    form = affine(read_expr("m1 * 64 + 3 - 2 * (p - m0)"), {"p", "m0"})
    assert form is not None and form.factors == {"p": -2, "m0": 2}
    assert affine(read_expr("p * m0"), {"p", "m0"}) is None
    assert affine(read_expr("p // 2"), {"p"}) is None
    whole = affine(read_expr("m1 // 2 * |m|"), {"p"})
    assert whole is not None and whole.factors == {}


@pytest.mark.parametrize("text", ["3 * r + q < x", "q - 2 * r >= x", "r == q", "x > 7 - r"])
def test_solved_comparisons_give_exactly_the_positions_that_can_hold(text: str) -> None:
    edges = {"r": (ZERO, Const(9)), "q": (Const(2), Const(5))}
    found = solved(read_expr(text), "r", edges)
    assert found is not None
    interval, exact = found
    assert exact == ("q" not in text)

    def value(term: object, at: dict[str, int]) -> int:
        match term:
            case Const(number):
                return int(number)
            case Index(rank):
                return at[rank]
            case Map(op, args):
                a, *b = (value(arg, at) for arg in args)
                return {"+": lambda: a + b[0], "-": lambda: a - b[0], "*": lambda: a * b[0],
                        "//": lambda: a // b[0], "neg": lambda: -a, "<": lambda: a < b[0],
                        ">=": lambda: a >= b[0], "==": lambda: a == b[0],
                        ">": lambda: a > b[0]}[op]()  # fmt: skip
            case _:
                raise AssertionError(term)

    for x in range(-5, 30):
        can = {
            r for r in range(-50, 60) for q in range(2, 6)
            if value(read_expr(text), {"r": r, "q": q, "x": x})
        }  # fmt: skip
        lo = -50 if interval.lo is None else value(interval.lo, {"x": x})
        hi = 60 if interval.hi is None else value(interval.hi, {"x": x})
        assert can == set(range(max(lo, -50), min(hi, 60)))


def test_no_bound_is_claimed_for_what_is_not_affine() -> None:
    edges = {"r": (ZERO, Const(9))}
    for text in ("r * r < x", "r < x or r > y", "r != x", "t[r] == t[r]", "x < |m|"):
        assert solved(read_expr(text), "r", edges) is None
    assert solved(Map("<", (Index("r"), Extent("m"))), "r", edges) is not None
