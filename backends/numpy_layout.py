"""Which tiles in scratch memory have their columns without gaps, instead of their rows.

    R[h, p, m0] = Q[h, p, e] * K[h, m0, e] over e

Of two operands with the summed axis last, BLAS packs the second across its rows. OpenBLAS's kernel
for AVX-512 takes a third longer where that is the longer one; the product the other way round
has it first, and a result that lies in memory as R[h, m0, p]. Only the memory is turned round, once
the lengths are known: the text indexes R[h, p, m0] in either case.
"""

from __future__ import annotations

from math import inf

from attnc.ir.tile import Compute, Contract, Fold, Kernel, Load, Loop, Scan, Store
from attnc.ir.tile_facts import every

Pair = tuple[str, ...]


def turning(kernel: Kernel) -> frozenset[Pair]:
    """The last two ranks of products that may be turned round in memory.

    Not those that an array of the user's has too, nor a scan along rows, nor a tile that has them
    in another place: these would be read with strides. Nor those of a product with several ranks
    for its rows or columns, which go into one axis: that takes rows without gaps. Nor where the
    program itself says that there are no more columns than rows.
    """
    sizes = {axis.rank: axis.size for axis in kernel.axes}
    products: set[Pair] = set()
    computed: list[Pair] = []
    fixed: list[Pair] = []
    for own in every(kernel.body):
        match own:
            case Contract(_, ranks, left, right, over):
                computed.append(ranks)
                apart = {*left.ranks} ^ {*right.ranks}
                if {*ranks[-2:]} != apart:
                    fixed.append(ranks)
                elif left.ranks[-1] == right.ranks[-1] == over:
                    products.add(ranks[-2:])
            case Compute(_, ranks) | Fold(_, ranks):
                computed.append(ranks)
            case Load(_, ranks):
                fixed.append(ranks)
            case Store() | Scan():
                fixed.append(own.source.ranks)
            case Loop():
                pass
    return frozenset(
        pair
        for pair in products
        if len(pair) == 2
        and (sizes[pair[1]] or inf) > (sizes[pair[0]] or 0)
        and not any({*pair} <= {*ranks} for ranks in fixed)
        and all(ranks[-2:] == pair for ranks in computed if {*pair} <= {*ranks})
    )
