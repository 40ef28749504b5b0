"""References for other maps and normalisers than the softmax, and for edits of its weights."""

from __future__ import annotations

import math

import numpy as np
from caches import normal, philox_word, softmax
from entry import Arrays, Entry

Array = np.ndarray


def sigmoid(x: Array) -> Array:
    return 1 / (1 + np.exp(-x))


def causal(scores: Array) -> Array:
    """Minus infinity at keys behind the query, which stands at p + |m| - |p|."""
    p, m = scores.shape[-2:]
    return np.where(np.tri(p, m, m - p, dtype=bool), scores, -np.inf)


def scaled(q: Array, k: Array) -> Array:
    return q @ k.swapaxes(-1, -2) / math.sqrt(q.shape[-1])


def square_inputs(rng: np.random.Generator) -> Arrays:
    """As many queries as keys, a width of values that differs from that of keys."""
    return normal(rng, Q=(2, 3, 53, 16), K=(2, 3, 53, 16), V=(2, 3, 53, 24))


def cross_inputs(rng: np.random.Generator) -> Arrays:
    """Fewer queries than keys."""
    return normal(rng, Q=(2, 3, 37, 16), K=(2, 3, 53, 16), V=(2, 3, 53, 24))


def flash_sigmoid(Q: Array, K: Array, V: Array) -> Array:
    return np.tril(sigmoid(scaled(Q, K) - math.log(K.shape[2]))) @ V


def lssar(Q: Array, K: Array, V: Array) -> Array:
    out = np.empty(V.shape)
    for b, h, p in np.ndindex(V.shape[:3]):
        seen = p + 1
        scores = K[b, h, :seen] @ Q[b, h, p] / 4 * math.log(16) * math.log(seen)
        weights = np.log1p(np.exp(scores))
        weights = np.maximum(seen * weights / weights.sum() - 0.5, 0) ** 15
        out[b, h, p] = weights / weights.sum() @ V[b, h, :seen]
    return out


def softplus_l1(Q: Array, K: Array, V: Array) -> Array:
    weights = np.logaddexp(0, causal(scaled(Q, K)))
    return weights @ V / weights.sum(-1, keepdims=True)


def relu_power(Q: Array, K: Array, V: Array) -> Array:
    return np.maximum(scaled(Q, K), 0) ** 2 @ V / K.shape[2]


def ssa_inputs(rng: np.random.Generator) -> Arrays:
    tokens = normal(rng, X=(2, 53, 10))
    return square_inputs(rng) | tokens | {"Y": tokens["X"]} | normal(
        rng, wq=(3, 10), wv=(3, 10), aq=(3,), av=(3,)
    )  # fmt: skip


def ssa(Q: Array, K: Array, V: Array, X: Array, Y: Array, wq: Array, wv: Array, aq: Array,
        av: Array) -> Array:  # fmt: skip
    n = np.log(np.arange(1, X.shape[1] + 1))
    sharp = np.tanh(X @ wq.T).swapaxes(1, 2) + 1 + sigmoid(aq)[:, None] * n
    loud = np.tanh(Y @ wv.T).swapaxes(1, 2) + 1 + sigmoid(av)[:, None] * n
    return softmax(causal(scaled(Q * sharp[..., None], K))) @ (V * loud[..., None])


def karat_inputs(rng: np.random.Generator) -> Arrays:
    drawn = normal(rng, Q=(2, 3, 37, 16), K=(2, 3, 29, 16), V=(2, 3, 29, 24))
    return drawn | normal(rng, C=(3, 6, 29, 4), D=(3, 6, 29, 4), W=(3, 29, 6))


def karat(Q: Array, K: Array, V: Array, C: Array, D: Array, W: Array) -> Array:
    scores = scaled(Q, K)[:, :, :, None, :]
    reduced = 0
    for g in range(C.shape[-1]):
        waves = np.exp(1j * (g + 1) * scores)
        reduced = reduced + ((C - 1j * D)[:, None, :, :, g] * waves).real.sum(-1)
    return reduced @ W.swapaxes(-1, -2) @ V


def key_bias_inputs(rng: np.random.Generator) -> Arrays:
    return square_inputs(rng) | normal(rng, sink=(3, 16))


def key_biases(Q: Array, K: Array, V: Array, sink: Array) -> Array:
    first = np.broadcast_to(sink[:, None, :], (len(Q), *sink.shape[:1], 1, sink.shape[1]))
    keys = np.concatenate([first, K], 2)
    values = np.concatenate([np.zeros_like(V[:, :, :1]), V], 2)
    return softmax(causal(scaled(Q, keys))) @ values


def normalised_sigmoid(Q: Array, K: Array, V: Array) -> Array:
    weights = sigmoid(causal(scaled(Q, K)))
    return weights @ V / weights.sum(-1, keepdims=True)


def mlp_inputs(rng: np.random.Generator) -> Arrays:
    return square_inputs(rng) | normal(rng, W=(3, 16, 12), B=(3, 12))


def mlp_kernel(Q: Array, K: Array, V: Array, W: Array, B: Array) -> Array:
    q, k = (np.maximum(x @ W + B[:, None], 0) for x in (Q, K))
    weights = np.tril(scaled(q, k))
    return weights @ V / np.maximum(np.abs(weights.sum(-1, keepdims=True)), 1)


def act_inputs(rng: np.random.Generator) -> Arrays:
    drawn = square_inputs(rng)
    # Two keys that every query likes, one of which is the first.
    drawn["K"][:, :, [0, 17]] = 2 * drawn["Q"].mean(2, keepdims=True)
    drawn["Q"] += drawn["Q"].mean(2, keepdims=True) * 3
    return drawn | {"chosen": np.array([True, False, True])}


def act(Q: Array, K: Array, V: Array, chosen: Array) -> Array:
    weights = softmax(causal(scaled(Q, K)))
    for b, h in np.ndindex(Q.shape[:2]):
        map_ = weights[b, h]
        sinks = [m for m in range(1, len(map_)) if map_[:, m].mean() > 2 / len(map_)]
        if chosen[h] and sinks:
            rest = np.setdiff1d(np.arange(len(map_)), sinks)
            freed = 0.6 * map_[:, sinks].sum(1, keepdims=True)
            map_[:, sinks] *= 0.4
            map_[:, rest] += freed * map_[:, rest] / map_[:, rest].sum(1, keepdims=True)
    assert np.allclose(weights.sum(-1), 1)
    return weights @ V


def visual_inputs(rng: np.random.Generator) -> Arrays:
    drawn = cross_inputs(rng) | normal(rng, X=(2, 53, 20))
    visual = np.zeros((2, 53), bool)
    visual[0, 5:33] = visual[1, 9:21] = True
    return drawn | {"dims": np.array([3, 11], np.int32), "visual": visual}


def redistribution(Q: Array, K: Array, V: Array, X: Array, dims: Array, visual: Array) -> Array:
    weights = softmax(causal(scaled(Q, K)))
    size = np.abs(X / np.sqrt((X**2).mean(-1, keepdims=True) + 1e-6))
    sinks = size[..., dims].max(-1) > 1.5
    for b, h, p in np.ndindex(Q.shape[:3]):
        row, image, sink = weights[b, h, p], visual[b], sinks[b]
        seen = row[image].sum()
        if seen >= 0.2 and row[image & sink].sum() <= 0.5 * seen:
            share = np.where(image & ~sink, row, 0)
            freed = 0.4 * row[sink].sum()
            row[sink] *= 0.6
            row += freed * share / share.sum()
    return weights @ V


def imbalanced_inputs(rng: np.random.Generator) -> Arrays:
    drawn = visual_inputs(rng)
    kept = {name: drawn[name] for name in ("Q", "K", "V", "visual")}
    return kept | normal(rng, local=(2, 53), spatial=(2, 53))


def imbalanced(Q: Array, K: Array, V: Array, visual: Array, local: Array, spatial: Array) -> Array:
    weights = softmax(causal(scaled(Q, K)))
    for b, h in np.ndindex(Q.shape[:2]):
        inside = np.flatnonzero(visual[b])
        kept = {
            *inside[np.argsort(-local[b, inside])[:7]],
            *inside[np.argsort(-spatial[b, inside])[:5]],
        }
        weights[b, h, :, list(kept)] *= 1 + 1.5 * weights[b, h][:, inside].sum(1).mean()
    return weights / weights.sum(-1, keepdims=True) @ V


def reinforcement_inputs(rng: np.random.Generator) -> Arrays:
    drawn = visual_inputs(rng)
    wide = normal(rng, Q=(2, 5, 37, 16), K=(2, 5, 53, 16), V=(2, 5, 53, 24))
    return wide | {"visual": drawn["visual"]}


def reinforcement(Q: Array, K: Array, V: Array, visual: Array) -> Array:
    scores = causal(scaled(Q, K))
    out = softmax(scores) @ V
    blind = softmax(np.where(visual[:, None, None], -np.inf, scores)) @ V
    divergence = np.linalg.norm(out - blind, axis=-1)
    order = np.argsort(-divergence, axis=1)
    for b, p in np.ndindex(len(Q), Q.shape[2]):
        out[b, order[b, :3, p], p] *= 1.3
    return out


def reversed_inputs(rng: np.random.Generator) -> Arrays:
    b, h, p, d, u = 2, 3, 37, 10, 5
    drawn = normal(rng, Q=(b, h, p, 16), K=(b, h, 53, 16), V=(b, h, p, 24), X=(b, p, d),
                   WH=(d, h), W1=(d, u), w2=(u,))  # fmt: skip
    return drawn | {"WH": drawn["WH"] / 10, "gate": rng.random((b, p))}


def reversed_attention(Q: Array, K: Array, V: Array, X: Array, WH: Array, W1: Array, w2: Array,
                       gate: Array) -> Arrays:  # fmt: skip
    hidden = X @ W1
    hidden = hidden * (1 + np.vectorize(math.erf)(hidden / math.sqrt(2))) / 2
    message = gate * sigmoid(hidden @ w2)
    heads = softmax(X @ WH / 0.1).swapaxes(1, 2)
    sent = V * (heads * message[:, None])[..., None]
    return {"O": softmax(scaled(Q, K)).swapaxes(2, 3) @ sent, "message": message}


def positional_inputs(rng: np.random.Generator) -> Arrays:
    return normal(rng, P=(37, 12), R=(53, 12), WQ=(3, 12, 16), WK=(3, 12, 16), X=(2, 53, 10),
                  WV=(3, 10, 24))  # fmt: skip


def positional(P: Array, R: Array, WQ: Array, WK: Array, X: Array, WV: Array) -> Array:
    weights = softmax(scaled(P @ WQ, R @ WK))
    return np.stack([weights @ (x @ WV) for x in X], 1)


def table_inputs(rng: np.random.Generator) -> Arrays:
    return normal(rng, V=(2, 3, 37, 24)) | {"seed": np.array(2**40 + 7)}


def static_table(V: Array, seed: Array) -> Array:
    heads, n = V.shape[1:3]
    key = [int(seed) % 2**32, int(seed) >> 32]
    scores = np.full((heads, n, n), -np.inf)
    for h, p in np.ndindex(heads, n):
        for m in range(p + 1):
            scores[h, p, m] = 6 * (philox_word([h, p, m, 0], key) >> 8) / 2**24 - 3
    return softmax(scores) @ V


def mean_inputs(rng: np.random.Generator) -> Arrays:
    return normal(rng, V=(2, 3, 67, 24))


def causal_mean(V: Array) -> Array:
    return np.cumsum(V, 2) / np.arange(1, V.shape[2] + 1)[:, None]


def minimal_inputs(rng: np.random.Generator) -> Arrays:
    return normal(rng, X=(2, 53, 16), L=(16, 5))


def minimal(X: Array, L: Array) -> Array:
    return softmax(X @ L @ L.T @ X.swapaxes(1, 2) / 4) @ X


def latte_inputs(rng: np.random.Generator) -> Arrays:
    return cross_inputs(rng) | normal(rng, before=(2, 3, 37, 53), temb=(2, 9), wg=(3, 9))


def latte_flow(Q: Array, K: Array, V: Array, before: Array, temb: Array, wg: Array) -> Arrays:
    weights = softmax(scaled(Q, K)) + np.tanh(temb @ wg.T)[..., None, None] * before
    return {"O": weights @ V, "A": weights}


def instillation_inputs(rng: np.random.Generator) -> Arrays:
    return cross_inputs(rng) | normal(rng, VG=(2, 3, 53, 7))


def instillation(Q: Array, K: Array, V: Array, VG: Array) -> Arrays:
    weights = softmax(scaled(Q, K))
    return {"O": weights @ V, "OG": weights @ VG}


def cosine_inputs(rng: np.random.Generator) -> Arrays:
    # The second head is above the bound.
    return cross_inputs(rng) | {"logit": np.array([2.0, 5.0, 3.5])}


def cosine(Q: Array, K: Array, V: Array, logit: Array) -> Array:
    import torch
    from torch.nn.functional import normalize, scaled_dot_product_attention

    q, k, v, scale = (torch.from_numpy(x) for x in (Q, K, V, logit))
    q = normalize(q, dim=-1) * torch.clamp(scale, max=math.log(100)).exp()[:, None, None]
    return scaled_dot_product_attention(q, normalize(k, dim=-1), v, scale=1.0).numpy()


def differential_inputs(rng: np.random.Generator) -> Arrays:
    drawn = square_inputs(rng) | normal(rng, Q2=(2, 3, 53, 16), K2=(2, 3, 53, 16))
    lambdas = normal(rng, lq1=(3, 16), lk1=(3, 16), lq2=(3, 16), lk2=(3, 16))
    drawn |= {name: 0.1 * x for name, x in lambdas.items()}
    return drawn | {"Q1": drawn.pop("Q"), "K1": drawn.pop("K")}


def differential(Q1: Array, K1: Array, Q2: Array, K2: Array, V: Array, lq1: Array, lk1: Array,
                 lq2: Array, lk2: Array) -> Array:  # fmt: skip
    import torch
    from torch.nn.functional import rms_norm, scaled_dot_product_attention

    first, second = (
        scaled_dot_product_attention(*(torch.from_numpy(x) for x in (q, k, V)), is_causal=True)
        for q, k in ((Q1, K1), (Q2, K2))
    )
    share = np.exp((lq1 * lk1).sum(-1)) - np.exp((lq2 * lk2).sum(-1)) + 0.8
    both = first - torch.from_numpy(share)[:, None, None] * second
    return 0.2 * rms_norm(both, (V.shape[-1],), eps=1e-6).numpy()


def logit_dropout_inputs(rng: np.random.Generator) -> Arrays:
    # With so few keys some rows lose all of them.
    drawn = normal(rng, Q=(2, 3, 37, 16), K=(2, 3, 3, 16), V=(2, 3, 3, 24))
    return drawn | {"seed": np.array(2**35 + 99)}


def logit_dropout(Q: Array, K: Array, V: Array, seed: Array) -> Array:
    key = [int(seed) % 2**32, int(seed) >> 32]
    scores = scaled(Q, K)
    for b, h, p, m in np.ndindex(scores.shape):
        if (philox_word([b, h, p, m], key) >> 8) / 2**24 < 0.3:
            scores[b, h, p, m] = -np.inf
    assert np.isneginf(scores).all(-1).any()
    return softmax(scores) @ V


def slot_inputs(rng: np.random.Generator) -> Arrays:
    return normal(rng, Q=(2, 7, 16), K=(2, 53, 16), V=(2, 53, 24))


def slots(Q: Array, K: Array, V: Array) -> Array:
    shares = softmax(scaled(K, Q)).swapaxes(1, 2) + 1e-8
    return shares / shares.sum(-1, keepdims=True) @ V


def temperature(Q: Array, K: Array, V: Array) -> Array:
    import torch

    steps = np.floor((np.arange(Q.shape[2]) + 1) / 8)
    warm = Q * (np.log1p(steps) * 0.1 + 1)[:, None]
    q, k, v = (torch.from_numpy(x) for x in (warm, K, V))
    return torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True).numpy()


SDPA = "torch scaled_dot_product_attention"

ENTRIES: dict[str, Entry] = {
    "flash-sigmoid": Entry(square_inputs, flash_sigmoid),
    "lssar": Entry(square_inputs, lssar),
    "softplus-l1": Entry(square_inputs, softplus_l1),
    "relu-power": Entry(cross_inputs, relu_power),
    "selective-ssa": Entry(ssa_inputs, ssa),
    "karat": Entry(karat_inputs, karat),
    "attention-sink-study": Entry(key_bias_inputs, key_biases),
    "attention-sink-sigmoid": Entry(square_inputs, normalised_sigmoid),
    "attention-sink-mlp": Entry(mlp_inputs, mlp_kernel),
    "act-calibration": Entry(act_inputs, act),
    "visual-attention-redistribution": Entry(visual_inputs, redistribution),
    "imbalanced-attention-fix": Entry(imbalanced_inputs, imbalanced),
    "vision-head-reinforcement": Entry(reinforcement_inputs, reinforcement),
    "reversed-attention": Entry(reversed_inputs, reversed_attention),
    "positional-attention": Entry(positional_inputs, positional),
    "deconstructing-attention": Entry(table_inputs, static_table),
    "causal-mean": Entry(mean_inputs, causal_mean),
    "minimal-transformer": Entry(minimal_inputs, minimal),
    "latte-flow-residual-attention": Entry(latte_inputs, latte_flow),
    "cross-modal-attention-instillation": Entry(instillation_inputs, instillation),
    "cosine-temperature": Entry(cosine_inputs, cosine, oracle=SDPA),
    "differential-transformer": Entry(differential_inputs, differential, oracle=SDPA),
    "token-temperature": Entry(square_inputs, temperature, oracle=SDPA),
    "logit-dropout": Entry(logit_dropout_inputs, logit_dropout),
    "slot-attention": Entry(slot_inputs, slots),
}
