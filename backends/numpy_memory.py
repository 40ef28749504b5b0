"""Loads and stores of the tile program as NumPy text.

A run of positions is a slice, so a tile at hand in the arithmetic's type is a view and nothing is
copied; a tile that may leave its tensor is copied into zeros; positions by table are gathered.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from attnc.backends.numpy_expr import Alike, Expressions, aligned, joint, negation, ordered
from attnc.backends.numpy_layout import Pair
from attnc.backends.numpy_scalar import NUMBERS, Held
from attnc.ir.cascade import Tensor
from attnc.ir.expr import Expr
from attnc.ir.tile import Axis, Load, Store
from attnc.ir.tile_facts import kind_of_tensor
from attnc.ir.touch import Point, Run, Table, Touch, touch


class Memory(Expressions):
    """Writes loads and stores; `widened` are the tensors not of the arithmetic's type."""

    def __init__(
        self,
        tensors: Mapping[str, Tensor],
        axes: tuple[Axis, ...],
        grid: dict[str, int],
        alike: Alike,
        widened: frozenset[str],
        turned: frozenset[Pair],
    ) -> None:
        super().__init__(grid, alike, turned)
        self.tensors, self.widened = tensors, widened
        self.by_rank = {axis.rank: axis for axis in axes}

    def load(self, load: Load) -> Held:
        tensor = self.tensors[load.tensor]
        kind = kind_of_tensor(tensor)
        touched = touch(load, tensor, self.by_rank)
        array = self.names.of("a", load.tensor)
        wide = load.tensor in self.widened
        sizes = tuple(self.frame.sizes[rank] for rank in load.ranks)
        if not load.ranks:
            code = self._element(array, touched, kind)
            return Held(code, (), kind)
        name = self.names.of("t", load.name)
        if touched.direct:
            view, ranks = (
                self._gather(array, touched, load.ranks, guarded=False)
                if touched.scattered
                else self._view(array, touched)
            )
            self.line(f"{name} = {ordered(Held(view, ranks, kind), load.ranks)}")
            self.line(f"read += {name}.nbytes")
            if not wide:
                return Held(name, load.ranks, kind, sizes=sizes)
            out = self.acquire(load.ranks, kind)
            self.line(f"np.copyto({out.code}, {name})")
            return out
        out = self.acquire(load.ranks, kind)
        if touched.once or touched.cut:
            self.line(f"{out.code}.fill(0)")
        if touched.once:
            self.line(f"if {self._all(touched.once)}:")
            self.depth += 1
        target = out.code
        if touched.scattered:
            view, ranks = self._gather(array, touched, load.ranks, guarded=True)
        else:
            view, ranks, places = self._cut_view(array, touched, name)
            if places:
                slices = ", ".join(places.get(rank, ":") for rank in load.ranks)
                target = f"{out.code}[{slices}]"
        self.line(f"{name} = {ordered(Held(view, ranks, kind), load.ranks)}")
        self.line(f"read += {name}.nbytes")
        self.line(f"np.copyto({target}, {name})")
        if touched.tests:
            test = joint(touched.tests)
            # What is computed within a branch is not there for statements after it.
            fails = (
                self.value(negation(test, self.kind), load.ranks)
                if touched.once
                else self.fails(test, load.ranks)
            )
            nothing = "False" if kind == "bool" else "0"
            self.line(f"np.copyto({out.code}, {nothing}, where={aligned(fails, load.ranks)})")
            self.release(fails)
        if touched.once:
            self.depth -= 1
        return out

    def _all(self, tests: tuple[Expr, ...]) -> str:
        return " and ".join(self.scalar(test) for test in tests)

    def _element(self, array: str, touched: Touch, kind: str) -> str:
        """One element of a tensor as a number."""
        places = ", ".join(self.scalar(p.position) for p in touched.parts if isinstance(p, Point))
        number = NUMBERS[kind]
        code = f"{number}({array}[{places or '()'}])"
        if not touched.once:
            self.line(f"read += {array}.itemsize")
            return code
        test = self._all(touched.once)
        self.line(f"read += {array}.itemsize if {test} else 0")
        return f"({code} if {test} else {number}())"

    def _sum(self, start: Expr, offset: str) -> str:
        code = self.scalar(start)
        if offset == "0":
            return code
        return offset if code == "0" else f"{code} + {offset}"

    def _range(self, run: Run) -> str:
        if run.whole and run.rank not in self.grid and not self.frame.sizes[run.rank][1]:
            return ":"
        lo, hi = self.first(run.rank), self.stop(run.rank)
        if run.step == 1:
            return f"{self._sum(run.start, lo)}:{self._sum(run.start, hi)}"
        start = self.scalar(run.start)
        return f"{start} + {run.step} * {lo}:{start} + {run.step} * {hi}:{run.step}"

    def _view(self, array: str, touched: Touch) -> tuple[str, tuple[str, ...]]:
        """A view by points and ranges, and the ranks of its axes."""
        places, ranks = [], []
        for part in touched.parts:
            if isinstance(part, Point):
                places.append(self.scalar(part.position))
            elif isinstance(part, Run):
                places.append(self._range(part))
                ranks.append(part.rank)
        while places and places[-1] == ":":
            places.pop()
        return f"{array}[{', '.join(places)}]" if places else array, tuple(ranks)

    def _cut_view(
        self, array: str, touched: Touch, name: str
    ) -> tuple[str, tuple[str, ...], dict[str, str]]:
        """A view of what lies inside, and where in the tile it goes, by rank."""
        places, ranks, into_tile = [], [], {}
        for number, part in enumerate(touched.parts):
            if isinstance(part, Point):
                places.append(self.scalar(part.position))
                continue
            assert isinstance(part, Run)
            ranks.append(part.rank)
            if part.inside:
                places.append(self._range(part))
                continue
            at, lo, hi = f"{name}_at{number}", f"{name}_lo{number}", f"{name}_hi{number}"
            self.line(f"{at} = {self._sum(part.start, self.first(part.rank))}")
            self.line(f"{lo} = max({at}, 0)")
            end = self._sum(part.start, self.stop(part.rank))
            self.line(f"{hi} = max({lo}, min({end}, {array}.shape[{number}]))")
            places.append(f"{lo}:{hi}")
            into_tile[part.rank] = f"{lo} - {at}:{hi} - {at}"
        return f"{array}[{', '.join(places)}]", tuple(ranks), into_tile

    def _gather(
        self, array: str, touched: Touch, order: tuple[str, ...], guarded: bool
    ) -> tuple[str, tuple[str, ...]]:
        """The elements at computed positions, those axes first."""
        view, places, shared, free = self._tables(array, touched, order)
        guard = ", True" if guarded else ", False"
        return f"{self.helper('gathered')}({view}, ({', '.join(places)},){guard})", (*shared, *free)

    def _tables(
        self, array: str, touched: Touch, order: tuple[str, ...]
    ) -> tuple[str, list[str], tuple[str, ...], tuple[str, ...]]:
        """A view with the axes looked up by position first, the positions, and the ranks."""
        subscripts: list[str] = []
        axes: list[Run | Table] = []
        for part in touched.parts:
            match part:
                case Point(position):
                    subscripts.append(self.scalar(position))
                case Run():
                    subscripts.append(self._range(part))
                    axes.append(part)
                case Table():
                    subscripts.append(":")
                    axes.append(part)
        tables = [part for part in axes if isinstance(part, Table)]
        runs = [part for part in axes if isinstance(part, Run)]
        held = [self.value(part.position, order) for part in tables]
        shared = tuple(rank for rank in order if any(rank in value.ranks for value in held))
        view = f"{array}[{', '.join(subscripts)}]"
        kinds = [isinstance(part, Run) for part in axes]
        turned = sorted(range(len(axes)), key=lambda place: kinds[place])
        if turned != sorted(turned):
            view += f".transpose({', '.join(map(str, turned))})"
        codes = [aligned(value, shared) for value in held]
        self.release(*held)
        return view, codes, shared, tuple(run.rank for run in runs)

    def store(self, store: Store) -> None:
        tensor = self.tensors[store.tensor]
        touched = touch(store, tensor, self.by_rank)
        array = self.names.of("a", store.tensor)
        source = self.read(store.source)
        if touched.once:
            self.line(f"if {self._all(touched.once)}:")
            self.depth += 1
        if not source.ranks:
            element = ", ".join(
                self.scalar(p.position) for p in touched.parts if isinstance(p, Point)
            )
            self.line(f"{array}[{element or '()'}] = {source.code}")
            self.line(f"written += {array}.itemsize")
        elif touched.scattered:
            mask = Held("True", (), "bool")
            if touched.tests:
                mask = self.value(joint(touched.tests), source.ranks)
            view, positions, shared, free = self._tables(array, touched, source.ranks)
            test = aligned(mask, shared)
            self.release(mask)
            values = ordered(source, (*shared, *free))
            self.line(
                f"{self.helper('scattered')}({view}, ({', '.join(positions)},), {values}, {test})"
            )
            self.line(f"written += {source.code}.size * {array}.itemsize")
        else:
            name = self.names.of("out", store.tensor)
            view, ranks, places = self._cut_view(array, touched, name)
            code = source.code
            if places:
                code = f"{code}[{', '.join(places.get(rank, ':') for rank in source.ranks)}]"
            value = ordered(replace(source, code=code), ranks)
            self.line(f"{name} = {view}")
            if touched.tests:
                mask = self.value(joint(touched.tests), source.ranks)
                test = aligned(mask, source.ranks)
                if places:
                    test = f"np.broadcast_to({test}, {source.code}.shape)"
                    test += f"[{', '.join(places.get(rank, ':') for rank in source.ranks)}]"
                    test = ordered(Held(test, source.ranks, "bool"), ranks)
                else:
                    test = aligned(mask, ranks)
                self.line(f"np.copyto({name}, {value}, casting='unsafe', where={test})")
                self.release(mask)
            else:
                self.line(f"{name}[...] = {value}")
            self.line(f"written += {name}.nbytes")
        if touched.once:
            self.depth -= 1
        self.release(source)
