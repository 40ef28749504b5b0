"""References for higher-order, graph and channel attention and for other token mixers."""

from __future__ import annotations

import math

import numpy as np
from caches import normal, softmax
from entry import Arrays, Entry

Array = np.ndarray


def erf_gelu(x: Array) -> Array:
    """GELU with the error function."""
    return x * (1 + np.vectorize(math.erf)(x / math.sqrt(2))) / 2


def windows(image: Array) -> Array:
    """[..., y, x] -> [..., y, x, 3, 3]: what surrounds each pixel, NaN outside the image."""
    around = [(0, 0)] * (image.ndim - 2) + [(1, 1)] * 2
    padded = np.pad(image, around, constant_values=np.nan)
    return np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(-2, -1))


def depthwise(image: Array, taps: Array) -> Array:
    """Convolution [..., c, y, x] with the taps [..., c, 9] in each channel, zeros outside."""
    square = taps.reshape(*taps.shape[:-1], 1, 1, 3, 3)
    return (np.nan_to_num(windows(image)) * square).sum((-2, -1))


def unit(image: Array) -> Array:
    """[..., c, y, x] flattened to [..., c, pixels] and divided by its length."""
    flat = image.reshape(*image.shape[:-2], -1)
    return flat / np.maximum(np.linalg.norm(flat, axis=-1, keepdims=True), 1e-12)


def kronecker_inputs(rng: np.random.Generator) -> Arrays:
    p, m, n, e, f = 9, 19, 23, 16, 24
    return normal(rng, Q=(2, 2, p, e), K1=(2, 2, m, e), K2=(2, 2, n, e),
                  V1=(2, 2, m, f), V2=(2, 2, n, f))  # fmt: skip


def kronecker(Q: Array, K1: Array, K2: Array, V1: Array, V2: Array) -> Array:
    out = np.empty((*Q.shape[:-1], V1.shape[-1]))
    for b, h in np.ndindex(Q.shape[:2]):
        keys = np.stack([np.kron(x, y) for x, y in zip(K1[b, h].T, K2[b, h].T)], -1)
        values = np.stack([np.kron(x, y) for x, y in zip(V1[b, h].T, V2[b, h].T)], -1)
        out[b, h] = softmax(Q[b, h] @ keys.T / Q.shape[-1]) @ values
    return out


def grit_inputs(rng: np.random.Generator) -> Arrays:
    b, h, n, c, d, f = 2, 3, 21, 7, 8, 12
    drawn = normal(rng, XQ=(b, h, n, d), XK=(b, h, n, d), XV=(b, h, n, f), E=(b, n, n, c),
                   WEw=(h, c, d), WEb=(h, c, d), wA=(h, d), WEv=(h, d, f))  # fmt: skip
    return drawn | {"n": np.array([n, 13], np.int32)}


def grit(XQ: Array, XK: Array, XV: Array, E: Array, WEw: Array, WEb: Array, wA: Array,
         WEv: Array, n: Array) -> Arrays:  # fmt: skip
    out = np.zeros(XV.shape)
    updated = np.zeros((*XQ.shape[:3], *XQ.shape[2:]))
    for b, h in np.ndindex(XQ.shape[:2]):
        for i in range(n[b]):
            hidden = np.empty((n[b], XQ.shape[-1]))
            for j in range(n[b]):
                joint = (XQ[b, h, i] + XK[b, h, j]) * (E[b, i, j] @ WEw[h])
                rooted = np.sign(joint) * np.sqrt(np.abs(joint))
                hidden[j] = np.maximum(rooted + E[b, i, j] @ WEb[h], 0)
            updated[b, h, i, : n[b]] = hidden
            weights = softmax(hidden @ wA[h])
            out[b, h, i] = weights @ (XV[b, h, : n[b]] + hidden @ WEv[h])
    return {"O": out, "Eh": updated}


def kgat_inputs(rng: np.random.Generator) -> Arrays:
    v, r, n, d, k, f = 29, 4, 83, 10, 6, 8
    drawn = normal(rng, X=(v, d), R=(r, k), W=(r, d, k), W1=(d, f), W2=(d, f))
    # The last two entities head no triplet.
    return drawn | {
        "head": rng.integers(0, v - 2, n, dtype=np.int32),
        "rel": rng.integers(0, r, n, dtype=np.int32),
        "tail": rng.integers(0, v, n, dtype=np.int32),
    }


def kgat(X: Array, R: Array, W: Array, head: Array, rel: Array, tail: Array, W1: Array,
         W2: Array) -> Array:  # fmt: skip
    out = np.empty((len(X), W1.shape[1]))
    for v in range(len(X)):
        triplets = [(rel[n], tail[n]) for n in range(len(head)) if head[n] == v]
        around = np.zeros(X.shape[1])
        if triplets:
            scores = [(X[t] @ W[r]) @ np.tanh(X[v] @ W[r] + R[r]) for r, t in triplets]
            around = softmax(np.array(scores)) @ np.stack([X[t] for _, t in triplets])
        both = ((X[v] + around) @ W1, (X[v] * around) @ W2)
        out[v] = sum(np.where(x > 0, x, 0.01 * x) for x in both)
    return out


def latte_inputs(rng: np.random.Generator) -> Arrays:
    i, c, r, d, f = 5, 5, 2, 8, 6
    drawn = normal(rng, X=(i, c), WL1=(c, d), WR1=(c, d), aL1=(r, d), aR1=(r, d), tau1=(r,),
                   WB1=(c, r + 1), WL2=(d, f), WR2=(d, f), aL2=(r, r, f), aR2=(r, r, f),
                   tau2=(r, r), WB2=(d, r * r + 1))  # fmt: skip
    return drawn | {"adj": rng.random((r, i, i)) < 0.3}


def latte(X: Array, adj: Array, WL1: Array, WR1: Array, aL1: Array, aR1: Array, tau1: Array,
          WB1: Array, WL2: Array, WR2: Array, aL2: Array, aR2: Array, tau2: Array,
          WB2: Array) -> Arrays:  # fmt: skip
    def layer(X, edges, WL, WR, aL, aR, tau, WB):
        left, right = X @ WL, X @ WR
        parts = []
        for edge, at_left, at_right, sharpness in zip(edges, aL, aR, tau):
            raw = (left @ at_left)[:, None] + (right @ at_right)[None, :]
            scores = sharpness * np.maximum(raw, 0.2 * raw)
            parts.append(softmax(np.where(edge, scores, -np.inf)) @ right)
        shares = softmax(X @ WB)
        return np.maximum(sum(s[:, None] * p for s, p in zip(shares.T, [*parts, left])), 0)

    pairs = [(a.astype(int) @ b.astype(int)) > 0 for a in adj for b in adj]
    first = layer(X, adj, WL1, WR1, aL1, aR1, tau1, WB1)
    flat = (x.reshape(len(pairs), *x.shape[2:]) for x in (aL2, aR2, tau2))
    return {"H1": first, "H2": layer(first, pairs, WL2, WR2, *flat, WB2)}


def drsformer_inputs(rng: np.random.Generator) -> Arrays:
    b, h, c, y, x = 2, 3, 11, 9, 7
    image, taps = (b, h, c, y, x), (h, c, 9)
    return normal(rng, XQ=image, XK=image, XV=image, WQ=taps, WK=taps, WV=taps, tau=(h,), w=(4,))


def drsformer(XQ: Array, XK: Array, XV: Array, WQ: Array, WK: Array, WV: Array, tau: Array,
              w: Array) -> Array:  # fmt: skip
    q, k, v = (depthwise(x, taps) for x, taps in ((XQ, WQ), (XK, WK), (XV, WV)))
    scores = unit(q) @ np.swapaxes(unit(k), -1, -2) * tau[:, None, None]
    c = scores.shape[-1]
    total = np.zeros(scores.shape)
    for weight, keep in zip(w, (c // 2, 2 * c // 3, 3 * c // 4, 4 * c // 5)):
        least = np.sort(scores, -1)[..., c - keep, None]
        total += weight * softmax(np.where(scores >= least, scores, -np.inf))
    return (total @ v.reshape(*v.shape[:3], -1)).reshape(v.shape)


def dlgsanet_inputs(rng: np.random.Generator) -> Arrays:
    b, c, y, x, a, g, h, k = 2, 12, 9, 7, 3, 4, 2, 6
    return normal(rng, X=(b, c, y, x), WR=(a, c), WD=(a, 9), WP=(g, 9, a), WQ=(h, k, c),
                  WK=(h, k, c), WV=(h, k, c), tau=(h,))  # fmt: skip


def dlgsanet(X: Array, WR: Array, WD: Array, WP: Array, WQ: Array, WK: Array, WV: Array,
             tau: Array) -> Array:  # fmt: skip
    hidden = depthwise(np.tensordot(WR, X, (1, 1)).swapaxes(0, 1), WD)
    seen = np.nan_to_num(windows(X))
    mixed = np.zeros(X.shape)
    for c in range(X.shape[1]):
        group = c // (X.shape[1] // len(WP))
        taps = np.tensordot(hidden, WP[group], (1, 1)).reshape(*seen[:, c].shape)
        mixed[:, c] = (seen[:, c] * taps).sum((-2, -1))
    flat = mixed.reshape(*X.shape[:2], -1)
    out = []
    for wq, wk, wv, t in zip(WQ, WK, WV, tau):
        q, k = (w @ flat for w in (wq, wk))
        q, k = (z / np.linalg.norm(z, axis=-1, keepdims=True) for z in (q, k))
        out.append(np.maximum(t * (q @ k.swapaxes(1, 2)), 0) @ (wv @ flat))
    return np.stack(out, 1).reshape(len(X), *WQ.shape[:2], *X.shape[2:])


def hsdt_inputs(rng: np.random.Generator) -> Arrays:
    b, c, d, y, x, f = 2, 6, 13, 9, 7, 5
    return normal(rng, X=(b, c, d, y, x), WQ=(d, c), bias=(d,), WV=(c, f), WF=(f, c))


def hsdt(X: Array, WQ: Array, bias: Array, WV: Array, WF: Array) -> Array:
    out = np.empty(X.shape)
    for b, image in enumerate(X):
        pooled = image.mean((2, 3)).T  # [band, channel]
        weights = softmax(pooled @ WQ.T + bias)
        for y, x in np.ndindex(image.shape[2:]):
            bands = image[:, :, y, x].T
            out[b, :, :, y, x] = (weights @ (bands @ WV) @ WF + bands).T
    return out


def dct_inputs(rng: np.random.Generator) -> Arrays:
    return normal(rng, Q=(2, 3, 37, 16), K=(2, 3, 37, 16), V=(2, 3, 37, 24))


def dct(Q: Array, K: Array, V: Array) -> Array:
    # The DCT-II of a signal is the Fourier transform of the signal and its mirror image, turned
    # by half a step; the rows of that of the unit vectors are the basis.
    t = Q.shape[2]
    turned = np.exp(-0.5j * np.pi * np.arange(t) / t)[:, None]
    spectrum = np.fft.fft(np.concatenate([np.eye(t), np.eye(t)[::-1]]), axis=0)[:t]
    basis = (turned * spectrum).real
    low = (basis / np.linalg.norm(basis, axis=1, keepdims=True))[:16]
    q, k, v = (low @ x for x in (Q, K, V))
    return low.T @ softmax(q @ k.swapaxes(2, 3) / np.sqrt(Q.shape[-1])) @ v


def contmix_inputs(rng: np.random.Generator) -> Arrays:
    b, g, y, x, e, f = 2, 3, 9, 11, 8, 6
    return normal(rng, Q=(b, g, y, x, e), C=(b, g, y, x, e), V=(b, g, y, x, f), W=(16, 9),
                  bias=(9,))  # fmt: skip


def contmix(Q: Array, C: Array, V: Array, W: Array, bias: Array) -> Array:
    *_, height, width, e = Q.shape
    pooled = []
    for u, v in np.ndindex(4, 4):
        ys = slice(math.floor(u * height / 4), math.ceil((u + 1) * height / 4))
        xs = slice(math.floor(v * width / 4), math.ceil((v + 1) * width / 4))
        pooled.append(C[:, :, ys, xs].mean((2, 3)))
    out = np.empty((*Q.shape[:-1], V.shape[-1]))
    for b, g, y, x in np.ndindex(Q.shape[:-1]):
        affinity = np.array([region[b, g] @ Q[b, g, y, x] for region in pooled]) / math.sqrt(e)
        top, left = min(max(y - 1, 0), height - 3), min(max(x - 1, 0), width - 3)
        seen = V[b, g, top : top + 3, left : left + 3].reshape(9, -1)
        out[b, g, y, x] = softmax(affinity @ W + bias) @ seen
    return out


def inception_inputs(rng: np.random.Generator) -> Arrays:
    h, e, f, c1, c2, c3, d1, d2, d3 = 2, 8, 6, 3, 4, 5, 6, 4, 2
    return normal(rng, X=(2, c1 + c2 + c3, 9, 7), WM=(d1, c1), WL=(d2, c2), WD=(d2, 9),
                  WQ=(h, c3, e), WK=(h, c3, e), WV=(h, c3, f), WO=(d3, h, f), WF=(12, 9),
                  WC=(10, 12))  # fmt: skip


def inception(X: Array, WM: Array, WL: Array, WD: Array, WQ: Array, WK: Array, WV: Array,
              WO: Array, WF: Array, WC: Array) -> Array:  # fmt: skip
    out = []
    for image in X:
        one, two, low = np.split(image, np.cumsum([WM.shape[1], WL.shape[1]]))
        high = np.tensordot(WM, np.nanmax(windows(one), (-2, -1)), 1)
        middle = depthwise(np.tensordot(WL, two, 1), WD)
        rows, columns = (-(-n // 2) for n in low.shape[1:])
        pooled = np.array([[low[:, 2 * i : 2 * i + 2, 2 * j : 2 * j + 2].mean((1, 2))
                            for j in range(columns)] for i in range(rows)])  # fmt: skip
        tokens = pooled.reshape(rows * columns, -1)
        mixed = 0
        for wq, wk, wv, wo in zip(WQ, WK, WV, WO.swapaxes(0, 1)):
            weights = softmax(tokens @ wq @ (tokens @ wk).T / math.sqrt(wq.shape[1]))
            mixed = mixed + weights @ (tokens @ wv) @ wo.T
        small = mixed.T.reshape(-1, rows, columns)
        large = small.repeat(2, 1).repeat(2, 2)[:, : low.shape[1], : low.shape[2]]
        joined = np.concatenate([high, middle, large])
        out.append(np.tensordot(WC, joined + depthwise(joined, WF), 1))
    return np.stack(out)


def poolformer_inputs(rng: np.random.Generator) -> Arrays:
    return normal(rng, X=(2, 5, 37, 13))


def poolformer(X: Array) -> Array:
    import torch

    mean = torch.nn.functional.avg_pool2d(
        torch.from_numpy(X), 3, stride=1, padding=1, count_include_pad=False
    )
    return mean.numpy() - X


def ninformer_inputs(rng: np.random.Generator) -> Arrays:
    t, c, k, l = 37, 16, 21, 24
    return normal(rng, X=(2, t, c), W1=(k, t), b1=(k,), W2=(t, k), b2=(t,), W3=(c, l), b3=(l,),
                  W4=(l, c), b4=(c,), WP=(c, c), bp=(c,))  # fmt: skip


def ninformer(X: Array, W1: Array, b1: Array, W2: Array, b2: Array, W3: Array, b3: Array,
              W4: Array, b4: Array, WP: Array, bp: Array) -> Array:  # fmt: skip
    def norm(x: Array) -> Array:
        return (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5)

    inner = norm(X)
    tokens = W2 @ erf_gelu(W1 @ norm(inner) + b1[:, None]) + b2[:, None]
    gate = inner + tokens
    gate = gate + erf_gelu(norm(gate) @ W3 + b3) @ W4 + b4
    return gate * (inner @ WP + bp) + X


ENTRIES: dict[str, Entry] = {
    "kronecker-tensor-attention": Entry(kronecker_inputs, kronecker),
    "grit": Entry(grit_inputs, grit),
    "kgat": Entry(kgat_inputs, kgat),
    "latte": Entry(latte_inputs, latte),
    "drsformer-tksa": Entry(drsformer_inputs, drsformer),
    "dlgsanet": Entry(dlgsanet_inputs, dlgsanet, params={"SIDE": 3}),
    "hsdt-gssa": Entry(hsdt_inputs, hsdt),
    "dct-attention": Entry(dct_inputs, dct, oracle="numpy fft"),
    "overlock-contmix": Entry(contmix_inputs, contmix, params={"SIDE": 4, "TAPS": 3}),
    "inception-mixer": Entry(inception_inputs, inception),
    "poolformer": Entry(poolformer_inputs, poolformer, oracle="torch avg_pool2d"),
    "ninformer": Entry(ninformer_inputs, ninformer),
}
