"""Counter-based random numbers: Philox 4x32-10 (Salmon et al., SC 2011).

`uniform(seed, r1, r2, ...)` is a pure function: the key is (low, high) 32 bits of the seed, the
counter the low 32 bits of the first four positions, missing ones 0. Of more than four positions,
each further group of four is combined by exclusive or with the four words that the generator
makes of what stands before it. The number is the upper 24 bits of the first word, divided by
2**24: in [0, 1), exact in float32.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

Words = npt.NDArray[np.uint32]

ROUNDS = 10
MULTIPLIERS = (np.uint64(0xD2511F53), np.uint64(0xCD9E8D57))
WEYL = (0x9E3779B9, 0xBB67AE85)
MASK = np.uint64(0xFFFFFFFF)


def philox(counter: tuple[Any, Any, Any, Any], key: tuple[Any, Any]) -> tuple[Words, ...]:
    """The four words of a counter under a key; all are arrays of 32-bit words that broadcast."""
    words = [np.asarray(word).astype(np.uint64) & MASK for word in counter]
    keys = [np.asarray(word).astype(np.uint64) & MASK for word in key]
    for _ in range(ROUNDS):
        first = words[0] * MULTIPLIERS[0]
        second = words[2] * MULTIPLIERS[1]
        words = [
            (second >> np.uint64(32)) ^ words[1] ^ keys[0],
            second & MASK,
            (first >> np.uint64(32)) ^ words[3] ^ keys[1],
            first & MASK,
        ]
        keys = [(word + np.uint64(step)) & MASK for word, step in zip(keys, WEYL)]
    return tuple(word.astype(np.uint32) for word in words)


def uniform(seed: Any, *positions: Any) -> npt.NDArray[np.float64]:
    """Numbers in [0, 1) for integer arrays of positions that broadcast."""
    wide = np.asarray(seed).astype(np.int64).astype(np.uint64)
    key = (wide & MASK, wide >> np.uint64(32))
    low = [np.asarray(p).astype(np.int64).astype(np.uint64) & MASK for p in positions]
    words: tuple[Any, ...] = tuple((*low[:4], 0, 0, 0, 0)[:4])
    for start in range(4, len(low), 4):
        group: tuple[Any, ...] = (*low[start : start + 4], 0, 0, 0, 0)[:4]
        words = tuple(a.astype(np.uint64) ^ b for a, b in zip(philox(words, key), group))
    return (philox(words, key)[0] >> np.uint32(8)).astype(np.float64) * 2.0**-24
