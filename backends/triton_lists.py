"""What an emitted module needs for lists of tiles and shares of work: what makes and keeps them."""

from __future__ import annotations

SIFT = '''
@triton.jit
def _sift_kernel(states, partial, partial_count, full, full_count, tiles, BLOCK: tl.constexpr):
    """For each row of states the tiles of state 1 and those of state 2, in order, and how many."""
    row = tl.program_id(0).to(tl.int64)
    some = 0
    whole = 0
    for start in range(0, tiles, BLOCK):
        tile = start + tl.arange(0, BLOCK)
        state = tl.load(states + row * tiles + tile, mask=tile < tiles, other=0)
        is_some = (state == 1).to(tl.int32)
        is_whole = (state == 2).to(tl.int32)
        place = row * tiles + some - 1 + tl.cumsum(is_some, 0)
        tl.store(partial + place, tile, mask=is_some != 0)
        place = row * tiles + whole - 1 + tl.cumsum(is_whole, 0)
        tl.store(full + place, tile, mask=is_whole != 0)
        some += tl.sum(is_some, 0)
        whole += tl.sum(is_whole, 0)
    tl.store(partial_count + row, some)
    tl.store(full_count + row, whole)
'''.strip()

DEAL = '''
@triton.jit
def _deal_kernel(counts, ends, first, last, rows, walkers, BLOCK: tl.constexpr):
    """The iterations before each row, and the rows in which a walker has its share of them."""
    walker = tl.program_id(0)
    total = 0
    for start in range(0, rows, BLOCK):
        row = start + tl.arange(0, BLOCK)
        total += tl.sum(tl.load(counts + row, mask=row < rows, other=0), 0)
    each = tl.maximum(1, (total + walkers - 1) // walkers)
    begin = walker * each
    before = 0
    ended = 0
    begun = 0
    for start in range(0, rows, BLOCK):
        row = start + tl.arange(0, BLOCK)
        count = tl.load(counts + row, mask=row < rows, other=0)
        end = before + tl.cumsum(count, 0)
        ended += tl.sum(((row < rows) & (end <= begin)).to(tl.int32), 0)
        begun += tl.sum(((row < rows) & (end - count < begin + each)).to(tl.int32), 0)
        tl.store(ends + row + 1, end, mask=(row < rows) & (walker == 0))
        before += tl.sum(count, 0)
    tl.store(ends, 0, mask=walker == 0)
    tl.store(first + walker, ended)
    tl.store(last + walker, tl.maximum(ended, begun))
'''.strip()

KEPT = '''
_KEPT = {}


def _kept(name, tables, sizes):
    """What the last call made, None unless its tables are these and none was written since.

    PyTorch counts writes by its own operations. One by a kernel of another library is not seen:
    pass a copy of the table then.
    """
    if name not in _KEPT or _fleeting(tables):
        return None
    known, versions, extents, lists = _KEPT[name]
    same = all(one() is other for one, other in zip(known, tables))
    if not same or extents != sizes or versions != [table._version for table in tables]:
        return None
    return lists


def _fleeting(tables):
    """Whether a table counts for this call only: writes that nobody counts, a graph in the making.

    A captured graph makes everything anew whenever it is replayed, in memory of its own.
    """
    if not tables or any(table.is_inference() for table in tables):
        return True
    return tables[0].is_cuda and torch.cuda.is_current_stream_capturing()


def _keep(name, tables, sizes, lists):
    """Keep what was made for the next call."""
    if _fleeting(tables):
        return
    versions = [table._version for table in tables]
    _KEPT[name] = ([weakref.ref(table) for table in tables], versions, dict(sizes), lists)
'''.strip()
