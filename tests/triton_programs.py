"""Tile programs written by hand, for tests of what prints and runs them."""

from __future__ import annotations

import math

from attnc.ir.cascade import Tensor
from attnc.ir.expr import MINUS_INFINITY, Const, Expr, Extent, Index, Map, Tile
from attnc.ir.tile import (
    Axis,
    Carried,
    Compute,
    Contract,
    Fold,
    Grid,
    Kernel,
    Load,
    Loop,
    Program,
    Segment,
    Statement,
    Store,
)


def m(op: str, *args: Expr) -> Map:
    return Map(op, args)


def program(name: str, kernel: Kernel, inputs: tuple[Tensor, ...], *outputs: Tensor) -> Program:
    return Program(name, inputs, outputs, (), (), (), (), (kernel,))


def flash(rows: int = 128, keys: int = 64, causal: bool = False) -> Program:
    """Attention in one sweep, in base 2, with the log-sum-exp as a second output."""
    position = m("+", m("*", Index("m1"), Const(keys)), Index("m0"))
    scale = m("/", Const(math.log2(math.e)), m("sqrt", Extent("e")))
    P, PM, PF = ("p",), ("p", "m0"), ("p", "f")

    def body(full: bool) -> tuple[Statement, ...]:
        exists = None if full else m("<", position, Extent("m"))
        scores = Tile("S", PM)
        masked: tuple[Statement, ...] = ()
        if exists is not None:
            seen = m("and", m("<=", position, Index("p")), exists) if causal else exists
            masked = (Compute("SM", PM, m("select", seen, scores, MINUS_INFINITY)),)
            scores = Tile("SM", PM)
        top = Tile("G_next", P)
        return (
            Load("K", ("m0", "e"), "K", (Index("h"), position, Index("e")), exists),
            Contract("S", PM, Tile("Q", ("p", "e")), Tile("K", ("m0", "e")), "e"),
            *masked,
            Fold("top", P, "max", scores, ("m0",)),
            Compute("G_next", P, m("max", Tile("G", P), m("*", Tile("top", P), scale))),
            Compute("base", P, m("select", m("==", top, MINUS_INFINITY), Const(0.0), top)),
            Compute("N", PM, m("exp2", m("-", m("*", scores, scale), Tile("base", P)))),
            Compute("keep", P, m("exp2", m("-", Tile("G", P), Tile("base", P)))),
            Fold("sum", P, "sum", Tile("N", PM), ("m0",)),
            Compute("D_next", P, m("+", m("*", Tile("D", P), Tile("keep", P)), Tile("sum", P))),
            Load("V", ("m0", "f"), "V", (Index("h"), position, Index("f")), exists),
            Contract("NV", PF, Tile("N", PM), Tile("V", ("m0", "f")), "m0"),
            Compute("T_next", PF, m("+", m("*", Tile("T", PF), Tile("keep", P)), Tile("NV", PF))),
        )

    full_end: Expr = m("//", Extent("m"), Const(keys))
    end: Expr = m("ceil", m("/", Extent("m"), Const(keys)))
    if causal:
        whole = m("//", m("+", m("first", Index("p")), Const(1)), Const(keys))
        full_end = m("min", full_end, whole)
        end = m("min", end, m("+", m("//", m("last", Index("p")), Const(keys)), Const(1)))
    after = ("G_next", "D_next", "T_next")
    loop = Loop(
        "m1",
        (Carried("G", P, MINUS_INFINITY), Carried("D", P, Const(0)), Carried("T", PF, Const(0))),
        (
            Segment(Const(0), full_end, "full", body(True), after),
            Segment(full_end, end, "partial", body(False), after),
        ),
    )
    total = Tile("D", P)
    quotient = m("/", Tile("T", PF), total)
    kernel = Kernel(
        "attention",
        (Grid("h", 1), Grid("p", rows)),
        (
            Axis("p", Extent("p"), rows),
            Axis("m0", Const(keys), keys),
            Axis("e", Extent("e")),
            Axis("f", Extent("f")),
        ),
        (
            Load("Q", ("p", "e"), "Q", (Index("h"), Index("p"), Index("e"))),
            loop,
            Compute("O", PF, m("select", m("==", total, Const(0)), Const(0.0), quotient)),
            Store("O", (Index("h"), Index("p"), Index("f")), Tile("O", PF)),
            Compute("L", P, m("*", Const(math.log(2)), m("+", Tile("G", P), m("log2", total)))),
            Store("L", (Index("h"), Index("p")), Tile("L", P)),
        ),
    )
    return program(
        "attention",
        kernel,
        (
            Tensor("Q", ("h", "p", "e"), 1),
            Tensor("K", ("h", "m", "e"), 1),
            Tensor("V", ("h", "m", "f"), 1),
        ),
        Tensor("O", ("h", "p", "f"), 1),
        Tensor("L", ("h", "p"), 1, "f32"),
    )


def elementwise(body: Expr, name: str = "apply", dtype: str = "float") -> Program:
    """Z[i] = body of X[i] (a tile x) and Y[i] (a tile y), in tiles of 32."""
    here, ranks = (Index("i"),), ("i",)
    kernel = Kernel(
        name,
        (Grid("i", 32),),
        (Axis("i", Extent("i"), 32),),
        (
            Load("x", ranks, "X", here),
            Load("y", ranks, "Y", here),
            Compute("z", ranks, body),
            Store("Z", here, Tile("z", ranks)),
        ),
    )
    inputs = (Tensor("X", ranks, dtype=dtype), Tensor("Y", ranks, dtype=dtype))
    return program(name, kernel, inputs, Tensor("Z", ranks, dtype=dtype))


def folded(op: str, dtype: str = "float") -> Program:
    """Z[i] = op[j](X[i, j]) with the whole rank j in a tile."""
    kernel = Kernel(
        "fold",
        (Grid("i", 16),),
        (Axis("i", Extent("i"), 16), Axis("j", Extent("j"))),
        (
            Load("x", ("i", "j"), "X", (Index("i"), Index("j"))),
            Compute("c", ("i", "j"), m("exp", Tile("x", ("i", "j")))),
            Fold("z", ("i",), op, Tile("c" if dtype == "float" else "x", ("i", "j")), ("j",)),
            Store("Z", (Index("i"),), Tile("z", ("i",))),
        ),
    )
    if dtype == "bool":
        kernel = Kernel(kernel.name, kernel.grid, kernel.axes,
                        (kernel.body[0], *kernel.body[2:]))  # fmt: skip
    inputs = (Tensor("X", ("i", "j"), dtype=dtype),)
    return program("fold", kernel, inputs, Tensor("Z", ("i",), dtype=dtype))


def gated() -> Program:
    """A recurrence over t with a gate along d: S <- exp(g) S + K V, O = Q S."""
    state, here = Tile("S", ("d", "f")), Index("t")
    loads = tuple(
        Load(name.lower(), (rank,), name, (Index("h"), here, Index(rank)))
        for name, rank in (("Q", "d"), ("K", "d"), ("V", "f"), ("g", "d"))
    )
    decayed = m("*", m("exp", Tile("g", ("d",))), state)
    added = m("*", Tile("k", ("d",)), Tile("v", ("f",)))
    segment = Segment(
        Const(0),
        Extent("t"),
        "full",
        (
            *loads,
            Compute("S_next", ("d", "f"), m("+", decayed, added)),
            Contract("o", ("f",), Tile("q", ("d",)), Tile("S_next", ("d", "f")), "d"),
            Store("O", (Index("h"), here, Index("f")), Tile("o", ("f",))),
        ),
        ("S_next",),
    )
    kernel = Kernel(
        "gated",
        (Grid("h", 1),),
        (Axis("d", Extent("d")), Axis("f", Extent("f"))),
        (Loop("t", (Carried("S", ("d", "f"), Const(0)),), (segment,)),),
    )
    inputs = tuple(
        Tensor(name, ("h", "t", rank), 1)
        for name, rank in (("Q", "d"), ("K", "d"), ("V", "f"), ("g", "d"))
    )
    return program("gated", kernel, inputs, Tensor("O", ("h", "t", "f"), 1))


def paged() -> Program:
    """Z[p, e] = X[table[p // |s|], p % |s|, e]: a page table, with a tile that is not full."""
    p, s = Index("p"), Extent("s")
    kernel = Kernel(
        "paged",
        (Grid("p", 32),),
        (Axis("p", Extent("p"), 32), Axis("e", Extent("e"))),
        (
            Load("page", ("p",), "table", (m("//", p, s),)),
            Load(
                "x",
                ("p", "e"),
                "X",
                (Tile("page", ("p",)), m("%", p, s), Index("e")),
                m(">=", Tile("page", ("p",)), Const(0)),
            ),
            Store("Z", (p, Index("e")), Tile("x", ("p", "e"))),
        ),
    )
    inputs = (
        Tensor("table", ("n",), dtype="int"),
        Tensor("X", ("q", "s", "e")),
        Tensor("like", ("p",)),
    )
    return program("paged", kernel, inputs, Tensor("Z", ("p", "e")))
