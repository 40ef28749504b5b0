"""References for linear attention in its many forms, and for hybrids of it."""

from __future__ import annotations

import numpy as np
from caches import normal, softmax
from entry import Arrays, Entry

Array = np.ndarray
B, H, P, M, E, F, N = 2, 3, 37, 53, 16, 24, 6


def sigmoid(x: Array) -> Array:
    return 1 / (1 + np.exp(-x))


def elu1(x: Array) -> Array:
    return np.where(x > 0, x + 1, np.exp(np.minimum(x, 0)))


def rms(x: Array) -> Array:
    return x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-6)


def qkv(rng: np.random.Generator, p: int = P, m: int = M) -> Arrays:
    return normal(rng, Q=(B, H, p, E), K=(B, H, m, E), V=(B, H, m, F))


def tnl_inputs(rng: np.random.Generator) -> Arrays:
    return (
        qkv(rng, 70, 70) | normal(rng, U=(B, H, 70, F)) | {"slope": 2.0 ** -np.arange(1.0, H + 1)}
    )


def tnl(Q: Array, K: Array, V: Array, slope: Array, U: Array) -> Array:
    far = np.subtract.outer(np.arange(70), np.arange(70))
    fading = np.where(far >= 0, np.exp(-slope[:, None, None] * np.maximum(far, 0)), 0)
    return rms((Q @ K.swapaxes(-1, -2) * fading) @ V) * U


def turning_inputs(rng: np.random.Generator) -> Arrays:
    found = qkv(rng, 37, 37) | normal(rng, U=(B, H, 37, F))
    return found | {"lam": np.array([0.9, 0.7, 0.5]), "theta": rng.uniform(0, 1, E)}


def turning(Q: Array, K: Array, V: Array, lam: Array, theta: Array, U: Array) -> Array:
    far = np.subtract.outer(np.arange(37), np.arange(37))
    turned = np.cos(theta * far[..., None])
    scores = np.einsum("bhpe,bhme,pme->bhpm", Q, K, turned)
    fading = np.where(far >= 0, lam[:, None, None] ** np.maximum(far, 0), 0)
    return rms((scores * fading) @ V) * U


def titans_inputs(rng: np.random.Generator) -> Arrays:
    found = qkv(rng, 37, 37)
    found["K"] /= np.linalg.norm(found["K"], axis=-1, keepdims=True)
    for name in ("eta", "theta", "alpha"):
        found[name] = rng.uniform(0.1, 0.4, (B, H, 37))
    return found


def titans(Q: Array, K: Array, V: Array, eta: Array, theta: Array, alpha: Array) -> Array:
    memory = np.zeros((B, H, F, E))
    momentum = np.zeros_like(memory)
    out = np.empty_like(V)
    for t in range(V.shape[2]):
        k, v = K[:, :, t], V[:, :, t]
        slope = 2 * np.einsum("bhf,bhe->bhfe", (memory @ k[..., None])[..., 0] - v, k)
        momentum = eta[:, :, t, None, None] * momentum - theta[:, :, t, None, None] * slope
        memory = (1 - alpha[:, :, t, None, None]) * memory + momentum
        out[:, :, t] = (memory @ Q[:, :, t, :, None])[..., 0]
    return out


def hedgehog_inputs(rng: np.random.Generator) -> Arrays:
    return qkv(rng, 37, 37) | normal(rng, W=(H, E, 8), bias=(H, 8))


def hedgehog(Q: Array, K: Array, V: Array, W: Array, bias: Array) -> Array:
    def features(x: Array) -> Array:
        raw = x @ W + bias[:, None]
        return softmax(np.concatenate([raw, -raw], -1))

    weights = np.tril(features(Q) @ features(K).swapaxes(-1, -2))
    return weights / weights.sum(-1, keepdims=True) @ V


def cosformer(Q: Array, K: Array, V: Array) -> Array:
    distance = np.arange(P)[:, None] - np.arange(M)
    weights = np.maximum(Q, 0) @ np.maximum(K, 0).swapaxes(-1, -2)
    weights = np.tril(weights * np.cos(np.pi / 2 * distance / M))
    return weights @ V / (weights.sum(-1, keepdims=True) + 1e-6)


def efficient(Q: Array, K: Array, V: Array) -> Array:
    return softmax(Q) @ (softmax(K.swapaxes(-1, -2)) @ V)


def flowformer(Q: Array, K: Array, V: Array) -> Array:
    q, k = sigmoid(Q), sigmoid(K)
    incoming = np.einsum("bhpe,bhe->bhp", q, k.sum(2))
    outgoing = np.einsum("bhme,bhe->bhm", k, q.sum(2))
    conserved_in = np.einsum("bhpe,bhe->bhp", q, (k / outgoing[..., None]).sum(2))
    conserved_out = np.einsum("bhme,bhe->bhm", k, (q / incoming[..., None]).sum(2))
    compete = softmax(np.clip(conserved_out, -1, 1)) * M
    state = k.swapaxes(-1, -2) @ (V * compete[..., None])
    return sigmoid(conserved_in)[..., None] * ((q / incoming[..., None]) @ state)


def inline(Q: Array, K: Array, V: Array) -> Array:
    scores = Q @ K.swapaxes(-1, -2)
    return (scores - scores.mean(-1, keepdims=True) + 1 / M) @ V


def rala_inputs(rng: np.random.Generator) -> Arrays:
    return qkv(rng) | normal(rng, U=(B, H, P, F))


def rala(Q: Array, K: Array, V: Array, U: Array) -> Array:
    q, k = elu1(Q), elu1(K)
    alpha = M * softmax(np.einsum("bhe,bhme->bhm", q.mean(2), k) / np.sqrt(E))
    state = (alpha[..., None] * k).swapaxes(-1, -2) @ V
    normaliser = np.einsum("bhpe,bhe->bhp", q, (alpha[..., None] * k).sum(2))
    return q @ state / normaliser[..., None] * U


def agent_inputs(rng: np.random.Generator) -> Arrays:
    return qkv(rng) | normal(rng, G=(B, H, N, E), B1=(H, N, M), B2=(H, P, N))


def agent(Q: Array, G: Array, K: Array, V: Array, B1: Array, B2: Array) -> Array:
    gathered = softmax(G @ K.swapaxes(-1, -2) / np.sqrt(E) + B1) @ V
    return softmax(Q @ G.swapaxes(-1, -2) / np.sqrt(E) + B2) @ gathered


def axes_inputs(rng: np.random.Generator) -> Arrays:
    x, y = 11, 13
    return normal(rng, Qx=(B, H, x, E), Kx=(B, H, x, E), Qy=(B, H, y, E), Ky=(B, H, y, E),
                  V=(B, H, x, y, F))  # fmt: skip


def axes(Qx: Array, Kx: Array, Qy: Array, Ky: Array, V: Array) -> Array:
    along_x = np.einsum("bhxz,bhzyf->bhxyf", Qx @ Kx.swapaxes(-1, -2), V)
    return along_x + np.einsum("bhyz,bhxzf->bhxyf", Qy @ Ky.swapaxes(-1, -2), V)


def falcon_inputs(rng: np.random.Generator) -> Arrays:
    t = 70
    found = normal(rng, Q=(B, H, t, E), K=(B, H, t, E), V=(B, H, t, F), C=(B, H, t, N),
                   B=(B, H, t, N), X=(B, H, t, F), D=(H,))  # fmt: skip
    return found | {"dt": rng.uniform(0.01, 1, (B, H, t)), "A": -rng.uniform(0.1, 4, H)}


def falcon(Q: Array, K: Array, V: Array, C: Array, B: Array, X: Array, dt: Array, A: Array,
           D: Array) -> Arrays:  # fmt: skip
    t = Q.shape[2]
    scores = np.where(np.tri(t, dtype=bool), Q @ K.swapaxes(-1, -2) / np.sqrt(E), -np.inf)
    state = np.zeros((*Q.shape[:2], N, F))
    out = np.empty_like(X)
    for i in range(t):
        step = dt[:, :, i, None, None]
        state = (
            np.exp(step * A[:, None, None]) * state + step * B[:, :, i, :, None] * X[:, :, i, None]
        )
        out[:, :, i] = np.einsum("bhn,bhnf->bhf", C[:, :, i], state)
    return {"O": softmax(scores) @ V, "Y": out + D[:, None, None] * X}


def vim_inputs(rng: np.random.Generator) -> Arrays:
    return normal(rng, A=(B, M, N), B=(B, M, N), X=(B, M, E), C=(B, P, N), U=(B, N, E))


def vim(A: Array, B: Array, X: Array, C: Array, U: Array) -> Array:
    return C @ (((A * B).swapaxes(-1, -2) @ X) * U * sigmoid(U))


def dsf_inputs(rng: np.random.Generator) -> Arrays:
    found = normal(rng, U=(B, 70, E), L=(B, 70, N), B=(B, 70, N), C=(B, 70, N), D=(E,))
    return found | {"L": np.tanh(found["L"])}


def dsf(U: Array, L: Array, B: Array, C: Array, D: Array) -> Array:
    state = np.zeros((U.shape[0], N, E))
    out = np.empty_like(U)
    for t in range(U.shape[1]):
        state = L[:, t, :, None] * state + B[:, t, :, None] * U[:, t, None]
        out[:, t] = (C[:, t, :, None] * state).sum(1) + D * U[:, t]
    return out


def gam_inputs(rng: np.random.Generator) -> Arrays:
    return normal(rng, X=(B, P, E), W=(4, E), M=(N, E), N=(N, E), G=(B, P, E))


def gam(X: Array, W: Array, M: Array, N: Array, G: Array) -> Array:
    local = sum(W[w] * np.pad(X, ((0, 0), (w, 0), (0, 0)))[:, :P] for w in range(len(W)))
    return sigmoid(G) * local + (1 - sigmoid(G)) * (softmax(X @ M.T) @ N)


def scatter_inputs(rng: np.random.Generator) -> Arrays:
    found = normal(rng, Q=(H, P, E), K=(H, M, E), V=(H, M, F))
    return found | {"wq": rng.integers(0, 7, P, np.int32), "wk": rng.integers(0, 6, M, np.int32)}


def scatter(Q: Array, K: Array, V: Array, wq: Array, wk: Array) -> Array:
    q, k = np.maximum(Q, 0) + 0.01, np.maximum(K, 0) + 0.01
    weights = q @ k.swapaxes(-1, -2) * (wq[:, None] == wk)
    total = weights.sum(-1, keepdims=True)
    return weights @ V / np.where(total == 0, 1, total)


ENTRIES = {
    "lightning-tnl": Entry(tnl_inputs, tnl),
    "transnormerllm": Entry(turning_inputs, turning),
    "titans-lmm": Entry(titans_inputs, titans),
    "hedgehog": Entry(hedgehog_inputs, hedgehog),
    "cosformer": Entry(qkv, cosformer),
    "efficient-attention": Entry(qkv, efficient),
    "flowformer": Entry(qkv, flowformer),
    "inline": Entry(qkv, inline, spread=4),
    "rala": Entry(rala_inputs, rala),
    "agent-attention": Entry(agent_inputs, agent),
    "ifactformer-m": Entry(axes_inputs, axes),
    "falcon-h1": Entry(falcon_inputs, falcon),
    "efficientvim-hsm-ssd": Entry(vim_inputs, vim),
    "dsf": Entry(dsf_inputs, dsf),
    "gated-associative-memory": Entry(gam_inputs, gam),
    "scatterformer-sla": Entry(scatter_inputs, scatter),
}
