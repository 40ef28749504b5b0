"""References for memories with a rule of their own: functions of fla-core, and plain loops."""

from __future__ import annotations

import numpy as np
from caches import normal, softmax
from entry import Arrays, Entry
from fla_core import call

Array = np.ndarray
B, H, T, D, F = 2, 3, 37, 16, 24


def tokens(rng: np.random.Generator, width: int = F, steps: int = T) -> Arrays:
    """Queries, keys of length one, and values."""
    found = normal(rng, Q=(B, H, T, D), K=(B, H, steps, D), V=(B, H, steps, width))
    return found | {"K": found["K"] / np.linalg.norm(found["K"], axis=-1, keepdims=True)}


def plain_inputs(rng: np.random.Generator, width: int = F) -> Arrays:
    return normal(rng, Q=(B, H, T, D), K=(B, H, T, D), V=(B, H, T, width))


def gates(rng: np.random.Generator, *shape: int) -> Array:
    """Logarithms of gates, some of which forget nearly all."""
    return -np.exp(2 * rng.standard_normal(shape)).clip(0, 50)


def rates(rng: np.random.Generator, *shape: int) -> Array:
    return 1 / (1 + np.exp(-rng.standard_normal(shape)))


def gdn2_inputs(rng: np.random.Generator) -> Arrays:
    return tokens(rng) | {
        "g": gates(rng, B, H, T, D),
        "erase": rates(rng, B, H, T, D),
        "write": rates(rng, B, H, T, F),
    }


def gdn2(Q: Array, K: Array, V: Array, g: Array, erase: Array, write: Array) -> Array:
    return call("gdn2/naive.py", "naive_recurrent_gdn2", Q, K, V, g, erase, write)  # type: ignore


def product_inputs(rng: np.random.Generator) -> Arrays:
    return tokens(rng, steps=2 * T) | {
        "beta": 2 * rates(rng, B, H, 2 * T),
        "g": gates(rng, B, H, T),
    }


def product(Q: Array, K: Array, V: Array, beta: Array, g: Array) -> Array:
    path = "gated_delta_product/naive.py"
    return call(path, "naive_recurrent_gated_delta_product", Q, K, V, g, beta,
                scale=D**-0.5, num_householder=2)  # type: ignore  # fmt: skip


def momentum_inputs(rng: np.random.Generator) -> Arrays:
    found = tokens(rng) | {name: rates(rng, B, H, T) / 2 for name in ("beta", "eta")}
    found["P"] = found["K"] + 0.1 * rng.standard_normal((B, H, T, D))
    return found | {name: gates(rng, B, H, T) for name in ("alpha", "mu")}


def momentum(Q: Array, K: Array, V: Array, P: Array, alpha: Array, mu: Array, beta: Array,
             eta: Array) -> Array:  # fmt: skip
    path = "momentum_delta_rule/naive.py"
    return call(path, "recurrent_momentum_delta_rule_ref", Q, K, V, alpha, mu, P, beta, eta)  # type: ignore


def preconditioned_inputs(rng: np.random.Generator) -> Arrays:
    return tokens(rng) | {
        "g": gates(rng, B, H, T, D),
        "decay": gates(rng, B, H, T),
        "rate": rates(rng, B, H, T),
        "beta": rates(rng, B, H, T),
    }


def preconditioned(Q: Array, K: Array, V: Array, g: Array, decay: Array, rate: Array,
                   beta: Array) -> Array:  # fmt: skip
    path = "precond_kda/naive.py"
    return call(path, "naive_recurrent_precond_kda", Q, K, V, g, decay, rate, beta)  # type: ignore


def ttt_inputs(rng: np.random.Generator) -> Arrays:
    found = tokens(rng, width=D) | normal(rng, w=(H, D), bias=(H, D))
    return found | {"eta": 0.2 * rates(rng, B, H, T)}


def ttt(Q: Array, K: Array, V: Array, eta: Array, w: Array, bias: Array) -> Array:
    import torch

    given = (torch.from_numpy(x.copy()) for x in (w, bias))
    return call("ttt/naive.py", "chunk_ttt_linear_ref", Q, K, V, *given, eta[..., None],
                eps=1e-5, mini_batch_size=1)  # type: ignore  # fmt: skip


def path_inputs(rng: np.random.Generator) -> Arrays:
    found = tokens(rng) | normal(rng, W=(B, H, T, D))
    found["W"] /= np.linalg.norm(found["W"], axis=-1, keepdims=True)
    return found | {"beta": 2 * rates(rng, B, H, T), "g": -rates(rng, B, H, T)}


def path(Q: Array, K: Array, V: Array, W: Array, beta: Array, g: Array) -> Array:
    # Its scale is that of the gates as well.
    return call("path_attn/naive.py", "naive_path_attn", Q, K, V, W, beta, g * D**0.5,
                scale=D**-0.5, chunk_size=16)  # type: ignore  # fmt: skip


def deltaformer_inputs(rng: np.random.Generator) -> Arrays:
    return plain_inputs(rng, D) | {"beta": rates(rng, B, H, T)}


def deltaformer(Q: Array, K: Array, V: Array, beta: Array) -> Array:
    path = "deltaformer/naive.py"
    return call(path, "naive_deltaformer_attn", Q, K, V, beta)  # type: ignore


def levels_inputs(rng: np.random.Generator) -> Arrays:
    levels = int(np.ceil(np.log2(T))) + 1
    return plain_inputs(rng) | {
        "g": -rates(rng, B, H, T),
        "scale": rates(rng, B, H, T, levels),
    }


def levels(Q: Array, K: Array, V: Array, g: Array, scale: Array) -> Array:
    path = "log_linear_attn/naive.py"
    return call(path, "naive_log_linear_attn", Q, K, V, g, scale)  # type: ignore


def mesa_inputs(rng: np.random.Generator) -> Arrays:
    return tokens(rng, width=D) | {
        "g": -rates(rng, B, H, T) / 4,
        "beta": rates(rng, B, H, T),
        "lam": 0.25 + rates(rng, H, D),
    }


def mesa(Q: Array, K: Array, V: Array, g: Array, beta: Array, lam: Array) -> Array:
    import torch

    lamb = torch.from_numpy(lam.copy())
    return call("mesa_net/naive.py", "naive_mesa_net_CG", Q, K, V, g, lamb, beta,
                chunk_size=T, max_CG_iteration=12)  # type: ignore  # fmt: skip


def parallax_inputs(rng: np.random.Generator) -> Arrays:
    return normal(rng, Q=(B, H, T, D), R=(B, H, T, D), K=(B, H, T, D), V=(B, H, T, D))


def parallax(Q: Array, R: Array, K: Array, V: Array) -> Array:
    return call("parallax/naive.py", "naive_parallax", Q, R, K, V)  # type: ignore


def causal_flow(Q: Array, K: Array, V: Array) -> Array:
    q, k = (1 / (1 + np.exp(-x)) for x in (Q, K))
    out = np.empty(V.shape)
    incoming, outgoing, weights = (np.empty(V.shape[:3]) for _ in range(3))
    for t in range(V.shape[2]):
        seen, count = slice(t + 1), t + 1
        incoming[..., t] = np.einsum("bhe,bhse->bh", q[:, :, t], k[:, :, seen]) / count
        outgoing[..., t] = np.einsum("bhe,bhse->bh", k[:, :, t], q[:, :, seen]) / count
        given = np.einsum("bhe,bhse,bhs->bh", k[:, :, t], q[:, :, seen], 1 / incoming[..., seen])
        taken = np.einsum("bhe,bhse,bhs->bh", q[:, :, t], k[:, :, seen], 1 / outgoing[..., seen])
        weights[..., t] = np.exp(np.clip(given / count, -1, 1))
        shares = weights[..., seen] / np.cumsum(weights[..., seen], -1) * np.arange(1, count + 1)
        scores = np.einsum("bhe,bhse->bhs", q[:, :, t], k[:, :, seen]) * shares
        read = (scores[..., None] * V[:, :, seen]).sum(2) / (incoming[..., t] * count)[..., None]
        out[:, :, t] = read / (1 + np.exp(-taken / count))[..., None]
    return out


def lasp_inputs(rng: np.random.Generator) -> Arrays:
    shards = (B, H, 5, 19)
    return normal(rng, Q=(*shards, D), K=(*shards, D), V=(*shards, F))


def lasp(Q: Array, K: Array, V: Array) -> Array:
    q, k, v = (x.reshape(B, H, -1, x.shape[-1]) for x in (Q, K, V))
    return (np.tril(q @ k.swapaxes(-1, -2)) @ v).reshape(V.shape)


def performer_inputs(rng: np.random.Generator) -> Arrays:
    return normal(rng, Q=(B, H, T, D), K=(B, H, 53, D), V=(B, H, 53, F), W=(H, 11, D))


def performer(Q: Array, K: Array, V: Array, W: Array) -> Array:
    def features(x: Array) -> Array:
        scaled = x / D**0.25
        return np.einsum("bhpe,hre->bhpr", scaled, W) - (scaled**2).sum(-1, keepdims=True) / 2

    # The mean over features of exp(log-feature of q + log-feature of k), by its logarithm.
    pairs = features(Q)[:, :, :, None] + features(K)[:, :, None]
    return softmax(np.logaddexp.reduce(pairs, -1)) @ V


def infini_inputs(rng: np.random.Generator) -> Arrays:
    return lasp_inputs(rng) | normal(rng, gate=(H,))


def infini(Q: Array, K: Array, V: Array, gate: Array) -> Array:
    def positive(x: Array) -> Array:
        return np.where(x > 0, x + 1, np.exp(np.minimum(x, 0)))

    out = np.empty(V.shape)
    share = 1 / (1 + np.exp(-gate))[:, None, None]
    for s in range(Q.shape[2]):
        before = [x[:, :, :s].reshape(B, H, -1, x.shape[-1]) for x in (positive(K), V)]
        weights = positive(Q[:, :, s]) @ before[0].swapaxes(-1, -2)
        remembered = weights @ before[1] / (weights.sum(-1, keepdims=True) + 1e-6)
        scores = Q[:, :, s] @ K[:, :, s].swapaxes(-1, -2) / np.sqrt(D)
        seen = np.tri(scores.shape[-1], dtype=bool)
        local = softmax(np.where(seen, scores, -np.inf)) @ V[:, :, s]
        out[:, :, s] = share * remembered + (1 - share) * local
    return out


def lolcats_inputs(rng: np.random.Generator) -> Arrays:
    found = plain_inputs(rng) | normal(rng, X=(B, H, T, 7), Y=(B, H, T, 7))
    return found | {"X": np.abs(found["X"]), "Y": np.abs(found["Y"]), "gamma": rates(rng, H)}


def lolcats(Q: Array, K: Array, V: Array, X: Array, Y: Array, gamma: Array) -> Array:
    far = np.subtract.outer(np.arange(T), np.arange(T))
    near = np.where((far >= 0) & (far < 9), Q @ K.swapaxes(-1, -2) / np.sqrt(D), -np.inf)
    near = gamma[:, None, None] * np.exp(near - near.max(-1, keepdims=True))
    weights = near + np.where(far >= 9, X @ Y.swapaxes(-1, -2), 0)
    return weights / weights.sum(-1, keepdims=True) @ V


FLA = "fla-core"
ENTRIES = {
    "gated-deltanet-2": Entry(gdn2_inputs, gdn2, FLA),
    "deltaproduct": Entry(product_inputs, product, FLA),
    "momentum-delta-rule": Entry(momentum_inputs, momentum, FLA),
    "preconditioned-kda": Entry(preconditioned_inputs, preconditioned, FLA),
    "ttt-linear": Entry(ttt_inputs, ttt, FLA),
    "path-attention": Entry(path_inputs, path, FLA),
    "deltaformer": Entry(deltaformer_inputs, deltaformer, FLA),
    "log-linear": Entry(levels_inputs, levels, FLA),
    "mesa-net": Entry(mesa_inputs, mesa, FLA),
    "parallax": Entry(parallax_inputs, parallax, FLA),
    "flowformer:flowformer_causal": Entry(plain_inputs, causal_flow),
    "lasp-2": Entry(lasp_inputs, lasp),
    "infini-attention": Entry(infini_inputs, infini),
    "lolcats": Entry(lolcats_inputs, lolcats, params={"W": 9}),
    "performer": Entry(performer_inputs, performer),
}
