"""References for masks that follow from positions: windows, strides, shifted groups, images."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from caches import attend, lower, normal, softmax, torch_attention
from entry import Arrays, Entry

Array = np.ndarray


def later(rng: np.random.Generator) -> Arrays:
    """More queries than keys: aligned at the end, the first 16 have no key."""
    return normal(rng, Q=(2, 3, 53, 16), K=(2, 3, 37, 16), V=(2, 3, 37, 24))


def last(rng: np.random.Generator) -> Arrays:
    """Fewer queries than keys."""
    return normal(rng, Q=(2, 3, 37, 16), K=(2, 3, 53, 16), V=(2, 3, 53, 24))


def causal_end(Q: Array, K: Array, V: Array) -> Arrays:
    out = np.zeros((*Q.shape[:3], V.shape[-1]))
    total = np.full(Q.shape[:3], -np.inf)
    first = Q.shape[2] - K.shape[2]
    for b, h in np.ndindex(Q.shape[:2]):
        for m in range(K.shape[2]):
            scores = K[b, h, : m + 1] @ Q[b, h, first + m] / 4
            total[b, h, first + m] = np.log(np.exp(scores).sum())
            out[b, h, first + m] = softmax(scores) @ V[b, h, : m + 1]
    return {"O": out, "L": total}


def prefix_inputs(rng: np.random.Generator) -> Arrays:
    drawn = normal(rng, Q=(4, 2, 37, 16), K=(4, 2, 53, 16), V=(4, 2, 53, 24))
    # A prefix within the queries, none, one beyond them, and a sequence without tokens.
    return drawn | {
        "prefix": np.array([11, 0, 45, 0], np.int32),
        "len": np.array([53, 29, 53, 0], np.int32),
    }


def prefix_lm(Q: Array, K: Array, V: Array, prefix: Array, len: Array) -> Array:
    keep = np.tile(np.tri(37, 53, dtype=bool), (4, 1, 1))
    for b in range(4):
        keep[b, :, : prefix[b]] = True
        keep[b, :, len[b] :] = False
    return np.nan_to_num(torch_attention(Q, K, V, keep[:, None]))


def dilated_inputs(rng: np.random.Generator) -> Arrays:
    return later(rng) | {"gap": np.array([1, 3, 5], np.int32)}


def dilated(Q: Array, K: Array, V: Array, gap: Array) -> Array:
    out = np.zeros((*Q.shape[:3], V.shape[-1]))
    for b, h, m in np.ndindex(2, 3, 37):
        seen = [m - i * gap[h] for i in range(6) if m >= i * gap[h]]
        scores = K[b, h, seen] @ Q[b, h, 16 + m] / 4
        out[b, h, 16 + m] = softmax(scores) @ V[b, h, seen]
    return out


def streaming_inputs(rng: np.random.Generator) -> Arrays:
    drawn = normal(rng, Q=(5, 3, 16), K=(5, 3, 131, 16), V=(5, 3, 131, 24))
    # Nothing yet, fewer tokens than sinks, a cache about to overflow, and one that long has.
    return drawn | {"len": np.array([0, 3, 44, 45, 128], np.int32)}


def streaming(Q: Array, K: Array, V: Array, len: Array) -> Array:
    out = np.zeros((*Q.shape[:2], V.shape[-1]))
    turn = 10000.0 ** (-np.arange(8) / 8)

    def rotated(x: Array, place: Array) -> Array:
        return (x[..., :8] + 1j * x[..., 8:]) * np.exp(1j * np.multiply.outer(place, turn))

    for b, h in np.ndindex(5, 3):
        # The cache as a list that a token enters at the end, and leaves behind the sinks.
        cache: list[int] = []
        for token in range(len[b]):
            cache.append(token)
            if cache[44:]:
                del cache[4]
        if cache:
            places = np.arange(np.size(cache))
            keys = rotated(K[b, h, cache], places)
            scores = (keys * rotated(Q[b, h], places[-1]).conj()).real.sum(-1) / 4
            out[b, h] = softmax(scores) @ V[b, h, cache]
    return out


def duo_inputs(rng: np.random.Generator) -> Arrays:
    drawn = normal(rng, Q=(2, 6, 37, 16), K=(2, 3, 53, 16), V=(2, 3, 53, 24))
    return drawn | {"alpha": np.array([0.0, 0.375, 1.0])}


def duo(Q: Array, K: Array, V: Array, alpha: Array) -> Array:
    share = np.repeat(alpha, 2)[None, :, None, None]
    near = lower(37, 53) & ((np.arange(53) < 4) | ~np.tri(37, 53, 53 - 37 - 12, dtype=bool))
    full = torch_attention(Q, K, V, lower(37, 53))
    return share * full + (1 - share) * torch_attention(Q, K, V, near)


def deployed_inputs(rng: np.random.Generator) -> Arrays:
    drawn = normal(rng, Q=(2, 6, 53, 16), K=(2, 3, 37, 16), V=(2, 3, 37, 24))
    return drawn | {"full": np.array([False, True, False])}


def deployed(Q: Array, K: Array, V: Array, full: Array) -> Array:
    out = np.zeros((2, 6, 53, 24))
    for b, h, t in np.ndindex(2, 6, 37):
        g = h // 2
        seen = [m for m in range(t + 1) if full[g] or m in range(4) or t - m in range(12)]
        scores = K[b, g, seen] @ Q[b, h, 16 + t] / 4
        out[b, h, 16 + t] = softmax(scores) @ V[b, g, seen]
    return out


def s2(Q: Array, K: Array, V: Array) -> Array:
    keep = np.zeros((3, 37, 53), bool)
    for h, p in np.ndindex(3, 37):
        token = 16 + p
        for block in range(token // 4 + 1):
            if token // 4 - block in (0, 1) or block % 3 == (2, 1, 0)[h]:
                keep[h, p, 4 * block : 4 * block + 4] = True
    return torch_attention(Q, K, V, keep & lower(37, 53))


def power(Q: Array, K: Array, V: Array) -> Array:
    keep = np.zeros((37, 53), bool)
    for p in range(37):
        own = (16 + p) // 4
        for block in {0, own, own - 1, own - 2, own - 4, own - 8} - {-1, -2, -4, -8}:
            if block >= 0:
                keep[p, 4 * block : 4 * block + 4] = True
    return torch_attention(Q, K, V, keep & lower(37, 53))


def spans(queries: Callable[[np.random.Generator], Arrays]) -> Callable[..., Arrays]:
    """With rules of which one leaves nothing but the sinks, and one reaches beyond all keys."""

    def inputs(rng: np.random.Generator) -> Arrays:
        rules = {"alpha": np.array([0, 5, 31], np.int32), "beta": np.array([0, 0.125, 0.75])}
        return queries(rng) | rules

    return inputs


def moa(Q: Array, K: Array, V: Array, alpha: Array, beta: Array) -> Array:
    out = np.zeros((*Q.shape[:3], V.shape[-1]))
    n, first = K.shape[2], Q.shape[2] - K.shape[2]
    for b, h, m in np.ndindex(2, 3, n):
        span = int(alpha[h] + beta[h] * n)
        seen = sorted({*range(min(3, m + 1)), *range(max(m + 1 - span, 0), m + 1)})
        scores = K[b, h, seen] @ Q[b, h, first + m] / 4
        out[b, h, first + m] = softmax(scores) @ V[b, h, seen]
    return out


def shifted_inputs(rng: np.random.Generator) -> Arrays:
    return normal(rng, Q=(2, 5, 53, 16), K=(2, 5, 53, 16), V=(2, 5, 53, 24))


def shifted(Q: Array, K: Array, V: Array) -> Array:
    out = np.empty(V.shape)
    for b, h in np.ndindex(2, 5):
        # The odd head out is a shifted one.
        starts = [0, *range(12 if h < 2 else 6, 53, 12)]
        for start, end in zip(starts, [*starts[1:], 53]):
            for p in range(start, end):
                seen = sorted({*range(min(2, p + 1)), *range(start, p + 1)})
                weights = softmax(K[b, h, seen] @ Q[b, h, p] / 4)
                out[b, h, p] = weights @ V[b, h, seen]
    return out


def clear_inputs(rng: np.random.Generator) -> Arrays:
    # Seven tokens of text; the image has nine rows of eleven pixels.
    drawn = normal(rng, Q=(2, 2, 106, 16), K=(2, 2, 106, 16), V=(2, 2, 106, 24))
    return drawn | {"text": np.array(7, np.int32), "width": np.array(11, np.int32)}


def clear(Q: Array, K: Array, V: Array, text: Array, width: Array) -> Array:
    y, x = (axis.ravel() for axis in np.indices((9, 11)))
    keep = np.ones((106, 106), bool)
    keep[7:, 7:] = np.hypot(y[:, None] - y, x[:, None] - x) < 3.01
    return torch_attention(Q, K, V, keep)


def image_inputs(rng: np.random.Generator) -> Arrays:
    return normal(rng, Q=(1, 2, 11, 13, 16), K=(1, 2, 11, 13, 16), V=(1, 2, 11, 13, 24))


def first_neighbor(at: int, length: int, dilation: int) -> int:
    """Where a window of 5 begins: the arithmetic of the public kernels, in whole pixels."""
    reach = 2 * dilation
    if at < reach:
        return at % dilation
    if at + reach < length:
        return at - reach
    whole = length // dilation * dilation
    own = at % dilation
    return (whole if own < length - whole else whole - dilation) + own - 2 * reach


def neighborhood(Q: Array, K: Array, V: Array, dilation: int = 2) -> Array:
    out = np.empty(V.shape)
    for b, h, y, x in np.ndindex(out.shape[:4]):
        rows = first_neighbor(y, Q.shape[2], dilation) + dilation * np.arange(5)
        cols = first_neighbor(x, Q.shape[3], dilation) + dilation * np.arange(5)
        keys, values = (z[b, h][np.ix_(rows, cols)].reshape(25, -1) for z in (K, V))
        out[b, h, y, x] = softmax(keys @ Q[b, h, y, x] / 4) @ values
    return out


def video_inputs(rng: np.random.Generator) -> Arrays:
    return normal(rng, Q=(1, 2, 5, 6, 7, 16), K=(1, 2, 5, 6, 7, 16), V=(1, 2, 5, 6, 7, 24))


def video(Q: Array, K: Array, V: Array) -> Array:
    out = np.empty(V.shape)
    for b, h, t, y, x in np.ndindex(out.shape[:5]):
        top, left = min(max(y - 1, 0), 6 - 3), min(max(x - 1, 0), 7 - 3)
        box = slice(max(t - 2, 0), t + 1), slice(top, top + 3), slice(left, left + 3)
        keys, values = (z[b, h][box].reshape(-1, z.shape[-1]) for z in (K, V))
        out[b, h, t, y, x] = softmax(keys @ Q[b, h, t, y, x] / 4) @ values
    return out


def halo_inputs(rng: np.random.Generator) -> Arrays:
    # No side is a number of whole blocks.
    drawn = normal(rng, Q=(2, 3, 11, 13, 16), K=(2, 3, 11, 13, 16), V=(2, 3, 11, 13, 24))
    return drawn | normal(rng, RY=(3, 11, 16), RX=(3, 11, 16))


def halo(Q: Array, K: Array, V: Array, RY: Array, RX: Array) -> Array:
    out = np.empty(V.shape)
    for b, h, y, x in np.ndindex(out.shape[:4]):
        top, left = y - y % 4 - 2, x - x % 4 - 2
        scores, values = [], []
        for v in range(max(top, 0), min(top + 8, 11)):
            for u in range(max(left, 0), min(left + 8, 13)):
                place = RY[h, v - y + 5] + RX[h, u - x + 5]
                scores.append(Q[b, h, y, x] @ (K[b, h, v, u] + place) / 4)
                values.append(V[b, h, v, u])
        out[b, h, y, x] = softmax(np.array(scores)) @ np.array(values)
    return out


def arrow_inputs(rng: np.random.Generator) -> Arrays:
    drawn = normal(rng, Q=(4, 2, 53, 16), K=(4, 2, 53, 16), V=(4, 2, 53, 24))
    # With a single token the scores of [CLS] become 0; the last sequence has not even [CLS].
    return drawn | {"len": np.array([53, 29, 1, 0], np.int32)}


def arrow(Q: Array, K: Array, V: Array, len: Array) -> Array:
    out = np.zeros(V.shape)
    for b, h in np.ndindex(4, 2):
        n = len[b]
        keep = np.tri(n, n, 5, dtype=bool) & np.tri(n, n, 5, dtype=bool).T
        keep[:1] = keep[:, :1] = True
        queries = Q[b, h, :n].copy()
        queries[:1] *= math.log(max(n, 1), 512)
        if n:
            out[b, h, :n] = attend(queries, K[b, h, :n], V[b, h, :n], keep)
    return out


def plus_inputs(rng: np.random.Generator) -> Arrays:
    return normal(rng, Q=(1, 2, 11, 11, 16), K=(1, 2, 11, 11, 16), V=(1, 2, 11, 11, 24))


def plus(Q: Array, K: Array, V: Array) -> Array:
    out = np.zeros(V.shape)
    for b, h, i, j in np.ndindex(1, 2, 11, 11):
        around = {(i + d, j) for d in range(-2, 3)} | {(i, j + d) for d in range(-2, 3)}
        spans = sorted((s, t) for s, t in around if 0 <= s <= t < 11)
        if i <= j:
            keys, values = (np.stack([z[b, h][at] for at in spans]) for z in (K, V))
            out[b, h, i, j] = softmax(keys @ Q[b, h, i, j] / 4) @ values
    return out


ENTRIES = {
    "causal-end": Entry(later, causal_end),
    "prefix-lm": Entry(prefix_inputs, prefix_lm, oracle="torch scaled_dot_product_attention"),
    "dilated-window": Entry(dilated_inputs, dilated),
    "streamingllm": Entry(streaming_inputs, streaming),
    "duo-attention": Entry(duo_inputs, duo, oracle="torch scaled_dot_product_attention"),
    "duo-attention:deployed": Entry(deployed_inputs, deployed),
    "s2-attention": Entry(last, s2, oracle="torch scaled_dot_product_attention"),
    "powerattention": Entry(
        last, power, params={"BLOCK": 4}, oracle="torch scaled_dot_product_attention"
    ),
    "moa-sparse": Entry(spans(later), moa),
    "sinklora-sf-attn": Entry(shifted_inputs, shifted),
    "clear": Entry(clear_inputs, clear, oracle="torch scaled_dot_product_attention"),
    "fused-neighborhood-attention": Entry(image_inputs, neighborhood),
    "neighborhood-3d": Entry(video_inputs, video),
    "halonet": Entry(halo_inputs, halo),
    "sener-arrow-bispa": Entry(arrow_inputs, arrow),
    "sener-arrow-bispa:bispa": Entry(plus_inputs, plus),
}
