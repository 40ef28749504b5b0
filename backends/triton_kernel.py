"""The body of one kernel of a tile program as Triton text.

The statements become Triton's one by one. What is decided here is only how a thing is said in
Triton: how an address is put together, what a position past the end of a tile needs (`Width`), and
that a product added to a running sum is `tl.dot(a, b, sum)`, which keeps the sum in the registers
of the tensor cores.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from math import prod

from attnc.backends.triton_address import address_terms
from attnc.backends.triton_expr import (
    DTYPES,
    Scope,
    Text,
    Value,
    cast,
    conjunction,
    operand,
    product,
    real,
    render,
    spread,
    transposed,
    truth,
)
from attnc.backends.triton_flow import (
    Accumulate,
    Action,
    carried_kinds,
    fused,
    is_last_use,
    on_tensor_cores,
    predicates_in,
    repeated,
    tiles_in,
)
from attnc.backends.triton_host import ATOM
from attnc.ir.algebra import BYTES, MONOIDS
from attnc.ir.cascade import Tensor
from attnc.ir.expr import Cast, Const, Expr, Index, Map, Tile
from attnc.ir.source import CompileError, InvalidIR
from attnc.ir.tile import (
    Compute,
    Contract,
    Fold,
    Listed,
    Load,
    Loop,
    Scan,
    Segment,
    Statement,
    Store,
)
from attnc.ir.walk import subterms

LONGEST = 80
"""Characters of an expression beyond which its parts get lines of their own."""

FARTHEST = 2**31 - 1
"""What stands for an infinity among integers, which are positions and lengths of 32 bits."""

LARGEST_TILE = 1 << 20
"""Elements of the largest tile that Triton accepts."""

FOLDS = {
    "sum": "tl.sum({0}, {1})", "max": "tl.max({0}, {1})", "min": "tl.min({0}, {1})",
    "prod": "tl.reduce({0}, {1}, times)", "logsumexp": "tl.reduce({0}, {1}, logaddexp)",
    "any": "tl.reduce({0}, {1}, either)", "all": "tl.reduce({0}, {1}, each)",
}  # fmt: skip
SCANS = {
    "sum": "tl.cumsum({0}, {1}, reverse={2})",
    "prod": "tl.cumprod({0}, {1}, reverse={2})",
    "max": "tl.associative_scan({0}, {1}, larger, reverse={2})",
    "min": "tl.associative_scan({0}, {1}, smaller, reverse={2})",
}
SCAN_HELPERS = {"max": "larger", "min": "smaller"}
FOLD_HELPERS = {"prod": "times", "logsumexp": "logaddexp", "any": "either", "all": "each"}


@dataclass(frozen=True, slots=True)
class Width:
    """How wide the tiles of a kernel are along one rank, and which positions of them exist.

    `block` is the text of the padded width. `guard` is the condition under which a position
    exists, "" where all do.
    """

    block: str
    guard: str


@dataclass(slots=True)
class Writer:
    """A kernel in the writing: its lines so far and what they turned out to need.

    `inputs` are the tensors that the caller gives, whose types the launcher compares. `uses`
    counts who reads each tile. `touched` are the tensors it reads or writes, `bases` the
    addresses at which an instance begins, `guarded` the ranks whose guards it tests, `matched`
    the pairs of inputs that must share a type because they are multiplied, `exact` the inputs in
    whose types tiles have all their digits. `inside` are the
    variables made since the loop at hand began: the next loop may use their names again.
    `shared` are the expressions that several statements have in common, with what to call them.
    """

    scope: Scope
    tensors: Mapping[str, Tensor]
    inputs: frozenset[str]
    widths: Mapping[str, Width]
    uses: Mapping[str, list[str]]
    exact: Mapping[str, frozenset[str]]
    touched: dict[str, None] = field(default_factory=dict)
    bases: dict[str, str] = field(default_factory=dict)
    guarded: dict[str, None] = field(default_factory=dict)
    matched: dict[tuple[str, str], None] = field(default_factory=dict)
    sources: dict[str, str] = field(default_factory=dict)
    inside: list[str] = field(default_factory=list)
    shared: dict[Expr, str] = field(default_factory=dict)
    lines: list[str] = field(default_factory=list)
    depth: int = 1
    precision: bool = False

    def line(self, text: str) -> None:
        self.lines.append("    " * self.depth + text if text else "")

    def assign(self, name: str, head: str, parts: list[str], tail: str = "") -> None:
        """`name = head(parts)tail`, over several lines where one is too short."""
        start = f"{name} = {head}(" if name else f"{head}("
        one = f"{start}{', '.join(parts)}){tail}"
        if len(one) + 4 * self.depth <= 100 and "\n" not in one:
            self.line(one)
            return
        self.line(start)
        for part in parts:
            for number, piece in enumerate(part.split("\n")):
                comma = "," if number == part.count("\n") else ""
                self.line(f"    {piece}{comma}")
        self.line(f"){tail}")

    def text(self, expr: Expr, ranks: tuple[str, ...], name: str = "part") -> Text:
        """An expression as text; the parts of a long one are lines of their own before it."""
        for term in reversed(list(subterms(expr))):
            if term in self.shared and term not in self.scope.named:
                self.part(term, ranks, self.shared[term])
        text = render(expr, ranks, self.scope)
        if len(text.code) <= LONGEST or not isinstance(expr, Map):
            return text
        for arg in expr.args:
            if isinstance(arg, Map) and len(render(arg, ranks, self.scope).code) > LONGEST // 3:
                self.part(arg, ranks, name if name.endswith("_part") else f"{name}_part")
        return render(expr, ranks, self.scope)

    def part(self, expr: Expr, ranks: tuple[str, ...], name: str) -> None:
        """A line of its own for a part of what is to come."""
        self.shared.pop(expr, None)
        text = self.text(expr, ranks, name)
        code = self.scope.namer.name(name)
        self.inside.append(code)
        self.line(f"{code} = {text.code}")
        self.scope.named[expr] = Text(code, ATOM, text.ranks, text.kind)

    def name_positions(self, body: tuple[Statement, ...]) -> None:
        """Give a variable to each position that a statement subscripts with and another reads."""
        elsewhere: set[Expr] = set()
        for statement in body:
            match statement:
                case Load(where=where) | Store(where=where):
                    elsewhere.update(subterms(where))
                case Compute(body=expr):
                    elsewhere.update(subterms(expr))
                case Contract() | Fold() | Scan() | Loop():
                    pass
        for statement in body:
            if not isinstance(statement, Load | Store):
                continue
            order = statement.ranks if isinstance(statement, Load) else statement.source.ranks
            for rank, subscript in zip(self.tensors[statement.tensor].ranks, statement.subscripts):
                known = subscript in self.scope.named or subscript not in elsewhere
                if known or not isinstance(subscript, Map) or any(tiles_in(subscript)):
                    continue
                text = render(subscript, order, self.scope)
                if len(text.ranks) == 1:
                    code = self.scope.namer.name(rank)
                    self.inside.append(code)
                    self.line(f"{code} = {text.code}")
                    self.scope.named[subscript] = Text(code, ATOM, text.ranks, "int")

    def tile(self, tile: Tile) -> Text:
        """A tile with its axes as they are in memory."""
        value = self.scope.values.get(tile.name)
        if value is None:
            raise InvalidIR(f"tile {tile.name} is read before it is made")
        return Text(value.code, ATOM, tile.ranks, value.kind)

    def shape(self, ranks: tuple[str, ...]) -> str:
        return "[" + ", ".join(self.widths[rank].block for rank in ranks) + "]"

    def guards(self, ranks: tuple[str, ...]) -> list[Text]:
        """The conditions that the positions of some ranks exist."""
        found = [rank for rank in ranks if rank in self.widths and self.widths[rank].guard]
        self.guarded.update(dict.fromkeys(found))
        return [Text(self.scope.inside(rank), ATOM, (rank,), "bool") for rank in found]

    def bind(self, name: str, ranks: tuple[str, ...], kind: str, dtype: str = "REAL") -> str:
        """A variable for a tile: the one that was set aside for it, or one named after it."""
        known = self.scope.values.get(name)
        code = known.code if known is not None and known.kind == "" else ""
        if not code:
            code = self.scope.namer.name(name)
            self.inside.append(code)
        self.scope.values[name] = Value(code, ranks, kind, dtype)
        return code

    # Statements

    def block(self, statements: tuple[Action, ...]) -> None:
        for statement in statements:
            if isinstance(statement, Load | Compute | Contract | Fold | Scan):
                self.fits(statement)
            match statement:
                case Load():
                    self.load(statement)
                case Compute():
                    self.compute(statement)
                case Contract():
                    self.contract(statement, statement.name, statement.ranks, None)
                case Accumulate(name, ranks, start, contract):
                    self.contract(contract, name, ranks, start)
                case Fold():
                    self.fold(statement)
                case Scan():
                    self.scan(statement)
                case Store():
                    self.store(statement)
                case Loop():
                    self.loop(statement)

    def fits(self, statement: Load | Compute | Contract | Fold | Scan) -> None:
        """Refuse a tile that Triton would refuse at the first call, where that is known now."""
        widths = [self.widths[rank].block for rank in statement.ranks]
        least = prod(int(width) if width.isdigit() else 1 for width in widths)
        if least > LARGEST_TILE:
            raise CompileError(
                f"{statement.name} would be a tile of at least {least} elements "
                f"({', '.join(statement.ranks)}), and Triton has none above {LARGEST_TILE}",
                statement.span,
                help="a schedule with smaller tiles",
            )

    def mask(self, where: Expr | None, ranks: tuple[str, ...]) -> list[str]:
        texts = self.guards(ranks)
        if where is not None:
            texts.append(truth(self.text(where, ranks)))
        if not texts:
            return []
        joint = conjunction(texts, ranks)
        return [f"mask={spread(joint, ranks)}"]

    def address(self, tensor: str, subscripts: tuple[Expr, ...], ranks: tuple[str, ...]) -> str:
        self.touched[tensor] = None
        fixed, moving = address_terms(self.tensors[tensor], subscripts, ranks, self.scope)
        code = f"{tensor}_ptr"
        if fixed:
            terms = " + ".join((code, *fixed))
            if terms not in self.bases:
                self.bases[terms] = self.scope.namer.name(f"{tensor}_base")
            code = self.bases[terms]
        terms = " + ".join((code, *moving))
        if len(terms) + 4 * self.depth <= 80:
            return terms
        return "\n+ ".join((code, *moving))

    def load(self, load: Load) -> None:
        dtype = self.tensors[load.tensor].dtype
        kind = dtype if dtype in ("int", "bool") else "raw"
        tail = ""
        if kind == "raw" and "product" not in self.uses.get(load.name, ()):
            kind, tail = "real", ".to(REAL)"
        head = "tl.load"
        if kind == "int":
            head, tail = f"{self.scope.helper('integer')}(tl.load", ")"
        parts = [self.address(load.tensor, load.subscripts, load.ranks)]
        masks = self.mask(load.where, load.ranks)
        if masks:
            parts += [*masks, "other=0.0" if kind in ("raw", "real") else "other=0"]
        name = self.bind(load.name, load.ranks, kind)
        if kind == "raw":
            self.scope.values[load.name] = Value(name, load.ranks, kind, f"{name}.dtype")
            self.sources[load.name] = load.tensor
        self.assign(name, head, parts, tail)

    def compute(self, compute: Compute) -> None:
        text = self.text(compute.body, compute.ranks, compute.name)
        dtype = "REAL"
        if text.kind == "raw" and isinstance(compute.body, Cast):
            dtype = f"tl.{DTYPES[compute.body.dtype]}"
        else:
            text = operand(text)
        if not compute.ranks and text.power == ATOM and text.code.isidentifier():
            # A scalar that has a name already needs no second one.
            self.scope.values[compute.name] = Value(text.code, (), text.kind, dtype)
            return
        name = self.bind(compute.name, compute.ranks, text.kind, dtype)
        self.line(f"{name} = {self.filled(text, compute.ranks)}")

    def filled(self, text: Text, ranks: tuple[str, ...]) -> str:
        """The value at every point of a tile, also where it does not vary along some axis."""
        if text.ranks == ranks:
            return text.code
        if not text.ranks:
            return self.full(text, ranks, text.kind)
        return f"tl.broadcast_to({spread(text, ranks)}, {self.shape(ranks)})"

    def full(self, text: Text, ranks: tuple[str, ...], kind: str) -> str:
        """One number at every point, as a tensor of its kind."""
        dtype = {"int": "tl.int32", "bool": "tl.int1"}.get(kind, "REAL")
        if text.code in ("0", "0.0"):
            return f"tl.zeros({self.shape(ranks)}, dtype={dtype})"
        return f"tl.full({self.shape(ranks)}, {text.code}, dtype={dtype})"

    def fold(self, fold: Fold) -> None:
        if fold.op not in MONOIDS:
            template, identity = f"tl.reduce({{0}}, {{1}}, {self.scope.reduction(fold.op)})", None
        else:
            template, identity = FOLDS[fold.op], MONOIDS[fold.op].identity
            if fold.op in FOLD_HELPERS:
                self.scope.helper(FOLD_HELPERS[fold.op])
        if fold.op in ("any", "all"):
            text = truth(self.tile(fold.source))
        else:
            text = operand(self.tile(fold.source))
            if text.kind == "bool":
                text = Text(f"{text.within(ATOM)}.to(tl.int32)", ATOM, text.ranks, "int")
        guards = self.guards(fold.over)
        if guards:
            ranks = text.ranks
            if identity is None:
                neutral = self.text(self.scope.reductions[fold.op].identity, ()).code
            else:
                if text.kind == "int" and abs(identity) > FARTHEST:
                    identity = FARTHEST if identity > 0 else -FARTHEST - 1
                neutral = self.text(Const(identity), ()).code
            code = f"tl.where({spread(conjunction(guards, ranks), ranks)}, {text.code}, {neutral})"
            text = replace(text, code=code, power=ATOM)
        # The last axis first, so that the others keep their numbers.
        for axis in sorted((text.ranks.index(rank) for rank in fold.over), reverse=True):
            ranks = text.ranks[:axis] + text.ranks[axis + 1 :]
            text = Text(template.format(text.code, axis), ATOM, ranks, text.kind)
        if text.ranks:
            text = transposed(text, fold.ranks)
        name = self.bind(fold.name, fold.ranks, text.kind)
        self.line(f"{name} = {text.code}")

    def scan(self, scan: Scan) -> None:
        if scan.op in SCAN_HELPERS:
            self.scope.helper(SCAN_HELPERS[scan.op])
        text = operand(self.tile(scan.source))
        guards = self.guards((scan.over,)) if scan.reverse else []
        if guards:
            inside = spread(conjunction(guards, text.ranks), text.ranks)
            neutral = self.text(Const(MONOIDS[scan.op].identity), ()).code
            text = replace(text, code=f"tl.where({inside}, {text.code}, {neutral})", power=ATOM)
        axis = text.ranks.index(scan.over)
        ranks = tuple(scan.along if rank == scan.over else rank for rank in text.ranks)
        code = SCANS[scan.op].format(text.code, axis, scan.reverse)
        text = transposed(Text(code, ATOM, ranks, text.kind), scan.ranks)
        self.line(f"{self.bind(scan.name, scan.ranks, text.kind)} = {text.code}")

    def store(self, store: Store) -> None:
        source = self.tile(store.source)
        parts = [self.address(store.tensor, store.subscripts, source.ranks), source.code]
        self.assign("", "tl.store", parts + self.mask(store.where, source.ranks))

    # Products

    def contract(
        self, contract: Contract, name: str, ranks: tuple[str, ...], start: Expr | None
    ) -> None:
        if not on_tensor_cores(contract):
            self.multiply_and_add(contract, name, ranks)
            return
        if ranks[0] in contract.right.ranks:
            contract = replace(contract, left=contract.right, right=contract.left)
        left, right = self.operands(contract)
        over = contract.over
        rows = tuple(rank for rank in ranks if rank in left.ranks)
        columns = tuple(rank for rank in ranks if rank in right.ranks)
        left = self.flat(transposed(left, (*rows, over)), (rows, (over,)))
        right = self.flat(transposed(right, (over, *columns)), ((over,), columns))
        parts = [left.code, right.code]
        if start is not None:
            parts.append(self.filled(self.text(start, ranks), ranks))
        parts += ["input_precision=PRECISION", "out_dtype=REAL"]
        self.precision = True
        made = self.bind(name, ranks, "real")
        self.assign(made, "tl.dot", parts)
        if len(ranks) > 2:
            shaped = Text(
                f"tl.reshape({made}, {self.shape(rows + columns)})", ATOM, rows + columns, ""
            )
            self.line(f"{made} = {transposed(shaped, ranks).code}")

    def flat(self, text: Text, groups: tuple[tuple[str, ...], tuple[str, ...]]) -> Text:
        """A tile of any number of axes as a matrix: each group of axes becomes one."""
        if len(text.ranks) == 2:
            return text
        sizes = (" * ".join(self.widths[rank].block for rank in group) for group in groups)
        return Text(f"tl.reshape({text.code}, [{', '.join(sizes)}])", ATOM, text.ranks, text.kind)

    def multiply_and_add(self, contract: Contract, name: str, ranks: tuple[str, ...]) -> None:
        """A product of which one side is a vector."""
        sides = [
            real(self.padded(side.name, self.tile(side), contract.over))
            for side in (contract.left, contract.right)
        ]
        larger, smaller = sorted(sides, key=lambda side: -len(side.ranks))
        missing = tuple(rank for rank in smaller.ranks if rank not in larger.ranks)
        order = larger.ranks[:-1] + missing + larger.ranks[-1:]
        terms = product(sides, order)
        axis = order.index(contract.over)
        left = order[:axis] + order[axis + 1 :]
        text = Text(f"tl.sum({terms.code}, {axis})", ATOM, left, "real")
        text = transposed(text, ranks) if ranks else text
        self.line(f"{self.bind(name, ranks, 'real')} = {text.code}")

    def padded(self, name: str, text: Text, over: str) -> Text:
        """An operand that is 0 where the summed rank has no position: what was loaded is."""
        guards = [] if name in self.sources else self.guards((over,))
        if not guards:
            return text
        guard = spread(conjunction(guards, text.ranks), text.ranks)
        return replace(text, code=f"tl.where({guard}, {text.code}, 0.0)", power=ATOM)

    def operands(self, contract: Contract) -> tuple[Text, Text]:
        """The two sides in one type: that of the loaded one, or the wider of two loaded ones, or
        that of an input if it holds both without rounding."""
        names = (contract.left.name, contract.right.name)
        left, right = (
            self.padded(side.name, self.tile(side), contract.over)
            for side in (contract.left, contract.right)
        )
        made = [self.scope.values[name] for name in names]
        sources = (self.sources.get(name) for name in names)
        loaded = [source if source in self.inputs else None for source in sources]
        if loaded[0] is not None and loaded[1] is not None:
            bytes_ = [BYTES[self.tensors[name].dtype] for name in (loaded[0], loaded[1])]
            if self.tensors[loaded[0]].dtype == self.tensors[loaded[1]].dtype:
                self.matched[loaded[0], loaded[1]] = None
                return left, right
            if bytes_[0] == bytes_[1]:
                return real(left), real(right)
            if bytes_[0] > bytes_[1]:
                return left, cast(right, made[0].dtype)
            return cast(left, made[1].dtype), right
        if loaded[0] is not None:
            return left, cast(right, made[0].dtype)
        if loaded[1] is not None:
            return cast(left, made[1].dtype), right
        if names[0] in self.exact and names[1] in self.exact:
            chosen = self.exact[names[0]] | self.exact[names[1]]
            if len(chosen) == 1:
                dtype = f"{min(chosen)}_ptr.dtype.element_ty"
                return cast(left, dtype), cast(right, dtype)
        return real(left), real(right)

    # Loops

    def loop(self, loop: Loop) -> None:
        kinds = carried_kinds(loop, self.scope, self.tensors)
        for carried, kind in zip(loop.carried, kinds):
            text = operand(self.text(carried.init, carried.ranks))
            name = self.bind(carried.name, carried.ranks, kind)
            start = self.filled(text, carried.ranks) if text.ranks else ""
            self.line(f"{name} = {start or self.full(text, carried.ranks, kind)}")
        counter = self.scope.namer.name(loop.rank)
        limits = self.limits(loop, counter)
        for segment, (start, end) in zip(loop.segments, limits):
            if segment.note:
                self.line(f"# {segment.note[0].upper()}{segment.note[1:]} tiles of {loop.rank}.")
            if segment.listed is None:
                self.line(f"for {counter} in range({start}, {end}):")
            else:
                self.among(segment.listed, counter, start, end)
            self.scope.positions[loop.rank] = Text(counter, ATOM, (), "int")
            if segment.when is None:
                self.segment(loop, segment)
            else:
                self.depth += 1
                self.line(f"if {render(segment.when, (), self.scope).code}:")
                self.segment(loop, segment)
                self.depth -= 1
            del self.scope.positions[loop.rank]

    def among(self, listed: Listed, counter: str, start: str, end: str) -> None:
        """The head of a loop by a list, and the line that reads the position from it."""
        place = self.scope.namer.name(f"{counter}_place")
        self.scope.positions[place] = Text(place, ATOM, (), "int")
        self.line(f"for {place} in range({start}, {end}):")
        self.depth += 1
        position = self.address(listed.positions, (*listed.at, Index(place)), ())
        self.assign(counter, "tl.load", [position])
        self.depth -= 1

    def limits(self, loop: Loop, counter: str) -> list[tuple[str, str]]:
        """The bounds of each segment; one that is more than a number or a name gets a name."""
        bounds = [bound for segment in loop.segments for bound in (segment.lo, segment.hi)]
        outer, self.shared = (
            self.shared,
            dict.fromkeys(repeated(list(dict.fromkeys(bounds))), f"{counter}_bound"),
        )
        for segment in loop.segments:
            words = re.sub(r"\W+", "_", segment.note).strip("_")
            for side, bound in (("start", segment.lo), ("end", segment.hi)):
                text = render(bound, (), self.scope)
                if text.power != ATOM or "(" in text.code:
                    self.part(bound, (), "_".join(filter(None, (counter, words, side))))
        self.shared = outer
        texts = [render(bound, (), self.scope).code for bound in bounds]
        return list(zip(texts[::2], texts[1::2]))

    def segment(self, loop: Loop, segment: Segment) -> None:
        outer = (dict(self.scope.values), self.inside, dict(self.scope.named))
        self.inside = []
        actions = tuple(fused(segment.body, segment.after))
        for carried, after in zip(loop.carried, segment.after):
            if is_last_use(carried, after, loop, segment, actions):
                code = self.scope.values[carried.name].code
                self.scope.values[after] = Value(code, carried.ranks, "")
        self.depth += 1
        self.name_positions(segment.body)
        predicates = [p for action in segment.body for p in predicates_in(action)]
        outer_shared, self.shared = self.shared, dict.fromkeys(repeated(predicates), "inside")
        self.block(actions)
        self.shared = outer_shared
        pairs = [
            (self.scope.values[after].code, outer[0][carried.name].code)
            for carried, after in zip(loop.carried, segment.after)
        ]
        pairs = [(new, old) for new, old in pairs if new != old]
        if pairs:
            self.line(f"{', '.join(p[1] for p in pairs)} = {', '.join(p[0] for p in pairs)}")
        elif not actions:
            self.line("pass")
        self.depth -= 1
        self.scope.namer.taken.difference_update(self.inside)
        self.scope.values, self.inside, self.scope.named = outer
