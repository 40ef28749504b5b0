"""The canonical layout: what changes, what stays, and that it is stable."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import attnc
from attnc.formatting import format_source
from attnc.ir.source import Source
from attnc.modules import read

ROOT = Path(__file__).resolve().parent.parent

WRITTEN = """\


# head

# of the file
import   "a.attn"
def f( x )=x+1 # tail
cascade c( X[p ,q; ],tau[;],t[;i,j]:int )->Y[p]: # kept
  # inner


  param W:int=3
  Y[p]=X[p+1,0]*-tau[ ]+X[ p + 1 , q+ W ] -( X[p] * 2 ) # too
  S[p,m] : int= sum[ j where  j<=p and not(a)](X[  # c1
       p,   # c2
       q
       - -1], |  m |
  )
  Z[i+1]=max [m](1e-6)   ** -2
  # last
schedule c:
   tile p by 64
# end"""

CANONICAL = """\
# head

# of the file
import "a.attn"
def f(x) = x + 1  # tail
cascade c(X[p, q;], tau[;], t[; i, j]: int) -> Y[p]:  # kept
    # inner

    param W: int = 3
    Y[p]         = X[p+1, 0] * -tau[] + X[p+1, q + W] - (X[p] * 2)  # too
    S[p, m]: int = sum[j where j <= p and not (a)](X[  # c1
            p,  # c2
            q
            - -1], |m|
    )
    Z[i+1]       = max[m](1e-6) ** -2
    # last

schedule c:
    tile p by 64

# end
"""


def formatted(text: str) -> str:
    return format_source(Source(text))


def test_the_canonical_layout() -> None:
    assert formatted(WRITTEN) == CANONICAL


def test_it_is_stable() -> None:
    assert formatted(CANONICAL) == CANONICAL


def test_every_word_and_comment_stays() -> None:
    assert re.sub(r"\s+", "", formatted(WRITTEN)) == re.sub(r"\s+", "", WRITTEN)


SHIPPED = [*sorted((ROOT / "examples").glob("*.attn")), ROOT / "compiler" / "stdlib.attn"]


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_what_is_shipped_is_canonical(path: Path) -> None:
    source = read(path)
    assert format_source(source) == source.text


def test_a_printed_cascade_is_canonical() -> None:
    for path in SHIPPED[:-1]:
        for cascade in attnc.load(path).cascades.values():
            assert formatted(str(cascade)) == str(cascade)


def test_what_cannot_be_read_is_not_touched() -> None:
    with pytest.raises(attnc.CompileError):
        formatted("cascade c(X[p]) -> Y[p]:\n    Y[p] = (X[p]\n")
