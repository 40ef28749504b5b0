"""Turn a reading round: from where each point reads to which points read each position.

    X[p + w - 1] at (p, w)       position x is read at (x - w + 1, w), for every w
    K[m1 * M0 + m0] at (m1, m0)  position m is read at (m // M0, m % M0)
    K[h // 4] at h               position g is read at 4 * g + r, for r < 4
    V[I[p, j]] at (p, j)         position m is read at every (p, j) where I[p, j] == m

So what a gather gives back is a sum, which the position owns: no two points write one place.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import sympy

from attnc.ir.affine import affine, plus, times
from attnc.ir.cascade import RankDecl, base
from attnc.ir.expr import ZERO, Const, Expr, Extent, Index, Map, Param
from attnc.ir.walk import free_ranks, substitute, subterms
from attnc.passes.partition import mixed_radix


@dataclass(frozen=True, slots=True)
class Points:
    """The points that read a position: variables in terms of it, what is left free, and where.

    `free` are the variables that the position does not tell, `summed` the names they have beside
    it. `parted` tells that some variables are parts of the position, found by division.
    """

    values: dict[str, Expr]
    free: tuple[str, ...]
    summed: tuple[str, ...]
    where: tuple[Expr, ...]
    declared: tuple[RankDecl, ...]
    parted: bool


@dataclass(slots=True)
class _Search:
    """The subscripts still to be solved; `values` are in the variables of either side."""

    points: tuple[str, ...]
    classes: dict[str, str]
    extents: dict[str, sympy.Expr]
    taken: set[str]
    known: list[RankDecl]
    values: dict[str, Expr] = field(default_factory=dict)
    where: list[Expr] = field(default_factory=list)
    declared: list[RankDecl] = field(default_factory=list)
    parted: bool = False


def readers(
    subscripts: tuple[Expr, ...],
    axes: tuple[str, ...],
    points: tuple[str, ...],
    classes: dict[str, str],
    extents: dict[str, sympy.Expr],
    taken: frozenset[str],
    declared: list[RankDecl],
) -> Points:
    """Where the position `axes` of a tensor is read by `subscripts` over the variables `points`.

    `taken` are names that a new rank must not have, `declared` the new ranks there are already.
    The axes are the tensor's own ranks.
    """
    # The positions asked for have names of their own until every subscript is solved.
    marks = {axis: f"{axis} asked" for axis in axes}
    search = _Search(points, classes, extents, set(taken), declared)
    rest: list[tuple[Expr, str]] = []
    for subscript, axis in zip(subscripts, axes):
        if isinstance(subscript, Index) and subscript.rank in points:
            _plain(search, subscript.rank, axis, marks[axis])
        else:
            rest.append((subscript, axis))
    for subscript, axis in rest:
        _solve(search, substitute(subscript, search.values), axis, Index(marks[axis]))
    return _named(search, axes, marks)


def _plain(search: _Search, variable: str, axis: str, mark: str) -> None:
    if variable in search.values:
        search.where.append(Map("==", (search.values[variable], Index(mark))))
        return
    search.values[variable] = Index(mark)
    rank = search.classes.get(variable, base(variable))
    if rank != search.classes.get(axis, base(axis)):
        search.where.append(Map("<", (Index(mark), Extent(rank))))


def _solve(search: _Search, subscript: Expr, axis: str, mark: Expr) -> None:
    """Give a variable of the subscript its value, or ask for equality."""
    free = [v for v in search.points if v not in search.values and v in free_ranks(subscript)]
    parts = mixed_radix(subscript, search.classes, search.extents)
    if len(parts) > 1 and set(parts) <= set(free) and _without_data(subscript):
        search.parted = True
        rest: Expr = mark
        for part in reversed(parts[1:]):
            extent = Extent(search.classes.get(part, base(part)))
            search.values[part] = Map("%", (rest, extent))
            rest = Map("//", (rest, extent))
        _let(search, parts[0], rest, lower=False)
        return
    match subscript:
        case Map("//", (Index(variable), size)) if variable in free and not free_ranks(size):
            alike = (d for d in search.known if d.extent == size and d not in search.declared)
            decl = next(alike, None) or RankDecl(_fresh(search, f"{variable}_in"), size)
            name = decl.name
            search.declared.append(decl)
            search.classes[name] = name
            _let(search, variable, plus(Map("*", (mark, Extent(name))), Index(name)), lower=False)
            return
        case _:
            pass
    for variable in free if _without_data(subscript) else ():
        form = affine(subscript, [variable])
        if form is not None and abs(form.factors[variable]) == 1:
            others = plus(mark, times(form.rest, -1))
            _let(search, variable, times(others, form.factors[variable]))
            return
    search.where.append(Map("==", (subscript, mark)))


def _let(search: _Search, variable: str, value: Expr, lower: bool = True) -> None:
    """A variable's value, where it lies within the variable's rank."""
    for name, old in search.values.items():
        search.values[name] = substitute(old, {variable: value})
    search.where[:] = [substitute(part, {variable: value}) for part in search.where]
    search.values[variable] = value
    if lower:
        search.where.append(Map(">=", (value, ZERO)))
    rank = Extent(search.classes.get(variable, base(variable)))
    search.where.append(Map("<", (value, rank)))


def _named(search: _Search, axes: tuple[str, ...], marks: dict[str, str]) -> Points:
    """The same under the tensor's own names; a free variable takes a primed one beside them."""
    names: dict[str, Expr] = {mark: Index(axis) for axis, mark in marks.items()}
    used = set(axes)
    free: list[str] = []
    summed: list[str] = []
    for variable in (*search.points, *(decl.name for decl in search.declared)):
        if variable in search.values:
            continue
        name = search.classes.get(variable, base(variable))
        while name in used:
            name += "'"
        used.add(name)
        free.append(variable)
        summed.append(name)
        if name != variable:
            names[variable] = Index(name)
    values = {
        variable: substitute(value, names)
        for variable, value in (names | search.values).items()
        if variable not in marks.values()
    }
    where = tuple(substitute(part, names) for part in search.where)
    return Points(values, tuple(free), tuple(summed), where, tuple(search.declared), search.parted)


def _fresh(search: _Search, wish: str) -> str:
    name, number = wish, 1
    while name in search.taken:
        number += 1
        name = f"{wish}{number}"
    search.taken.add(name)
    return name


def _without_data(expr: Expr) -> bool:
    return all(isinstance(t, Index | Extent | Const | Map | Param) for t in subterms(expr))
