"""References for the structure of heads: sharing, routing, mixing, low rank."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from caches import attend, lower, normal, softmax, torch_attention
from entry import Arrays, Entry

Array = np.ndarray


def tensor(x: Array) -> Any:
    import torch

    return torch.from_numpy(np.ascontiguousarray(x))


def merged(heads: Array, WO: Array) -> Array:
    """[b, h, p, f] laid side by side and projected by [h, f, c]."""
    b, h, p, f = heads.shape
    return heads.swapaxes(1, 2).reshape(b, p, h * f) @ WO.reshape(h * f, -1)


def sqa_inputs(rng: np.random.Generator) -> Arrays:
    return normal(rng, X=(2, 37, 20), WQ=(4, 20, 16), WK=(2, 20, 16), WV=(2, 20, 24),
                  WO=(4, 24, 20))  # fmt: skip


def sqa(X: Array, WQ: Array, WK: Array, WV: Array, WO: Array) -> Array:
    q, k, v = (X[:, None] @ W for W in (WQ, WK, WV))
    return merged(torch_attention(q, k, v, lower(37, 37)), WO)


def diffqkv_inputs(rng: np.random.Generator) -> Arrays:
    return normal(rng, Q=(2, 8, 37, 16), K=(2, 2, 53, 16), V=(2, 4, 53, 24))


def diffqkv(Q: Array, K: Array, V: Array) -> Array:
    return torch_attention(Q, np.repeat(K, 4, 1), np.repeat(V, 2, 1), lower(37, 53))


def moh_inputs(rng: np.random.Generator) -> Arrays:
    return normal(rng, X=(2, 37, 20), Q=(2, 6, 37, 16), K=(2, 6, 53, 16), V=(2, 6, 53, 24),
                  WR=(6, 20), WH=(2, 20), WO=(6, 24, 20))  # fmt: skip


def moh(X: Array, Q: Array, K: Array, V: Array, WR: Array, WH: Array, WO: Array) -> Array:
    heads, out = torch_attention(Q, K, V, lower(37, 53)), np.zeros((2, 37, 20))
    for b, p in np.ndindex(2, 37):
        shared, routed = softmax(WR[:2] @ X[b, p]), softmax(WR[2:] @ X[b, p])
        balance = softmax(WH @ X[b, p])
        chosen = [0, 1, *(2 + np.argsort(-routed)[:2])]
        gates = np.concatenate([balance[0] * shared, balance[1] * routed])
        out[b, p] = sum(gates[h] * heads[b, h, p] @ WO[h] for h in chosen)
    return out


def bam_inputs(rng: np.random.Generator) -> Arrays:
    return normal(rng, X=(2, 37, 20), Q=(2, 3, 2, 37, 16), K=(2, 3, 2, 53, 16),
                  V=(2, 3, 2, 53, 24), WR=(3, 20), WO=(3, 2, 24, 20))  # fmt: skip


def bam(X: Array, Q: Array, K: Array, V: Array, WR: Array, WO: Array) -> Array:
    gates = softmax(X @ WR.T)
    experts = (torch_attention(Q[:, i], K[:, i], V[:, i], lower(37, 53)) for i in range(3))
    return sum(gates[..., i, None] * merged(heads, WO[i]) for i, heads in enumerate(experts))


def bam_shared_inputs(rng: np.random.Generator) -> Arrays:
    return bam_inputs(rng) | normal(rng, K=(2, 2, 53, 16), V=(2, 2, 53, 24))


def bam_shared(X: Array, Q: Array, K: Array, V: Array, WR: Array, WO: Array) -> Array:
    return bam(X, Q, np.stack([K] * 3, 1), np.stack([V] * 3, 1), WR, WO)


def expanded(x: Array, W1: Array, W2: Array) -> Array:
    import torch

    return torch.nn.functional.gelu(tensor(x @ W1)).numpy() @ W2


def shrp_inputs(rng: np.random.Generator) -> Arrays:
    return normal(rng, X=(2, 37, 20), Q=(2, 4, 37, 16), K=(2, 4, 53, 16), V=(2, 4, 53, 24),
                  WR=(4, 20), W1=(24, 28), W2=(28, 20))  # fmt: skip


def shrp(X: Array, Q: Array, K: Array, V: Array, WR: Array, W1: Array, W2: Array) -> Array:
    taken = np.zeros((2, 37, 24))
    for b, p in np.ndindex(2, 37):
        chances = softmax(WR @ X[b, p])
        h = chances.argmax()
        taken[b, p] = chances[h] * attend(Q[b, h, p, None], K[b, h], V[b, h])[0]
    return expanded(taken, W1, W2)


def pruned_inputs(rng: np.random.Generator) -> Arrays:
    drawn = shrp_inputs(rng)
    return {k: drawn[k] for k in ("Q", "K", "V", "W1", "W2")} | {"kept": np.array(2, np.int32)}


def pruned(Q: Array, K: Array, V: Array, kept: Array, W1: Array, W2: Array) -> Array:
    one = np.stack([attend(Q[b, 2], K[b, 2], V[b, 2]) for b in range(2)])
    return expanded(one, W1, W2)


def uoe_inputs(rng: np.random.Generator) -> Arrays:
    return normal(rng, X=(2, 37, 20), Q=(2, 4, 37, 16), K=(2, 4, 37, 16), V=(2, 4, 37, 24),
                  WR=(4, 20), WO=(4, 24, 20))  # fmt: skip


def uoe(X: Array, Q: Array, K: Array, V: Array, WR: Array, WO: Array) -> Array:
    out = np.zeros((2, 37, 20))
    for b in range(2):
        chances = softmax(X[b] @ WR.T)
        heard = [set(np.argsort(-row)[:2]) for row in chances]
        for g in range(4):
            seen = np.argsort(-chances[:, g])[:17]
            mixed = attend(Q[b, g, seen], K[b, g, seen], V[b, g, seen]) @ WO[g]
            for row, p in enumerate(seen):
                out[b, p] += chances[p, g] * mixed[row] if g in heard[p] else 0
    return out


def cross_inputs(rng: np.random.Generator) -> Arrays:
    return normal(rng, Q=(2, 3, 37, 16), K=(2, 3, 53, 16), V=(2, 3, 53, 24))


def kronecker(Q: Array, K: Array, V: Array, M: Array) -> Array:
    """As the projection that the paper writes: M (x) I over heads side by side."""
    heads = torch_attention(Q, K, V, lower(37, 53)).swapaxes(1, 2).reshape(2, 37, -1)
    return (heads @ np.kron(M.T, np.eye(24))).reshape(2, 37, -1, 24).swapaxes(1, 2)


def independent(Q: Array, K: Array, V: Array, W: Array) -> Array:
    return torch_attention(Q, K, V, lower(37, 53)) @ W


def gate_swa_inputs(rng: np.random.Generator) -> Arrays:
    return normal(rng, Q=(2, 6, 37, 16), K=(2, 2, 131, 16), V=(2, 2, 131, 24),
                  gate=(2, 6, 37, 24))  # fmt: skip


def gate_swa(Q: Array, K: Array, V: Array, gate: Array) -> Array:
    near = lower(37, 131) & ~np.tri(37, 131, 131 - 37 - 19, dtype=bool)
    assert (near.sum(1) == 19).all()
    return torch_attention(Q, K, V, near) / (1 + np.exp(-gate))


def lama_inputs(rng: np.random.Generator) -> Arrays:
    drawn = normal(rng, X=(3, 53, 20), U=(7, 20), W=(7, 20), c=(20,), P=(4, 7))
    return drawn | {"len": np.array([53, 0, 30], np.int32)}


def lama(X: Array, U: Array, W: Array, c: Array, P: Array, len: Array) -> Array:
    out = np.zeros((3, 4, 20))
    for b, words in enumerate(x[:n] for x, n in zip(X, len)):
        # One bilinear form for each head, of low rank.
        forms = [U.T @ np.diag(row) @ W for row in P]
        if len[b]:
            out[b] = softmax(np.stack([words @ form @ c for form in forms])) @ words
    return out


def mean_inputs(rng: np.random.Generator) -> Arrays:
    return {k: v for k, v in lama_inputs(rng).items() if k != "c"}


def lama_mean(X: Array, U: Array, W: Array, P: Array, len: Array) -> Array:
    alone = (lama(X, U, W, X[b, : len[b]].mean(0), P, len)[b] if len[b] else np.zeros((4, 20))
             for b in range(3))  # fmt: skip
    return np.stack(list(alone))


def shvit_inputs(rng: np.random.Generator) -> Arrays:
    return normal(rng, X=(2, 53, 30), WQ=(10, 16), WK=(10, 16), WV=(10, 10), WO=(30, 30))


def shvit(X: Array, WQ: Array, WK: Array, WV: Array, WO: Array) -> Array:
    import torch

    part = torch.nn.functional.group_norm(tensor(X[..., :10].swapaxes(1, 2)), 1)
    part = part.numpy().swapaxes(1, 2)
    mixed = softmax((part @ WQ) @ (part @ WK).swapaxes(1, 2) / 4) @ (part @ WV)
    return np.maximum(np.concatenate([mixed, X[..., 10:]], -1), 0) @ WO


def mla_inputs(rng: np.random.Generator) -> Arrays:
    return normal(rng, QN=(2, 3, 37, 16), QR=(2, 3, 37, 8), C=(2, 53, 28), KR=(2, 53, 8),
                  WK=(3, 16, 28), WV=(3, 20, 28))  # fmt: skip


def mla(QN: Array, QR: Array, C: Array, KR: Array, WK: Array, WV: Array) -> Array:
    q = np.concatenate([QN, QR], -1)
    shared = np.stack([KR] * WK.shape[0], 1)
    k = np.concatenate([C[:, None] @ WK.swapaxes(1, 2), shared], -1)
    return torch_attention(q, k, C[:, None] @ WV.swapaxes(1, 2), lower(QN.shape[2], C.shape[1]))


def absorbed_inputs(rng: np.random.Generator) -> Arrays:
    drawn = normal(rng, QN=(3, 6, 2, 16), QR=(3, 6, 2, 8), C=(3, 131, 28), KR=(3, 131, 8),
                   WK=(6, 16, 28), WV=(6, 20, 28))  # fmt: skip
    return drawn | {"len": np.array([131, 2, 70], np.int32)}


def absorbed(QN: Array, QR: Array, C: Array, KR: Array, WK: Array, WV: Array, len: Array) -> Array:
    """In the expanded form, each sequence alone."""
    return np.concatenate([
        mla(QN[b, None], QR[b, None], C[b, None, : len[b]], KR[b, None, : len[b]], WK, WV)
        for b in range(3)
    ])  # fmt: skip


def talking_inputs(rng: np.random.Generator) -> Arrays:
    return normal(rng, Q=(2, 3, 37, 16), K=(2, 3, 53, 16), V=(2, 4, 53, 24), PL=(3, 5), PW=(5, 4))


def talking(Q: Array, K: Array, V: Array, PL: Array, PW: Array) -> Array:
    import torch

    scores = tensor(Q) @ tensor(K).transpose(2, 3) / 4
    mixed = torch.einsum("bipm,ij->bjpm", scores, tensor(PL))
    weights = mixed.masked_fill(~tensor(lower(37, 53)), -math.inf).softmax(-1)
    return torch.einsum("bjpm,jk,bkmf->bkpf", weights, tensor(PW), tensor(V)).numpy()


def multi_inputs(rng: np.random.Generator) -> Arrays:
    return normal(rng, Q=(2, 6, 3, 16), K=(2, 131, 16), V=(2, 131, 24))


def multi(Q: Array, K: Array, V: Array) -> Array:
    return torch_attention(Q, K[:, None], V[:, None], lower(3, 131))


SDPA = "torch scaled_dot_product_attention"


ENTRIES: dict[str, Entry] = {
    "sqa": Entry(sqa_inputs, sqa, oracle=SDPA),
    "diffqkv": Entry(diffqkv_inputs, diffqkv, oracle=SDPA),
    "moh": Entry(moh_inputs, moh),
    "bam-moa": Entry(bam_inputs, bam, oracle=SDPA),
    "bam-moa:shared_keys": Entry(bam_shared_inputs, bam_shared, oracle=SDPA),
    "shrp": Entry(shrp_inputs, shrp),
    "shrp:pruned": Entry(pruned_inputs, pruned),
    "uoe-smha": Entry(uoe_inputs, uoe),
    "dual-stream": Entry(
        lambda rng: cross_inputs(rng) | normal(rng, M=(5, 3)), kronecker, oracle=SDPA
    ),
    "dual-stream:independent": Entry(
        lambda rng: cross_inputs(rng) | normal(rng, W=(3, 24, 20)), independent, oracle=SDPA
    ),
    "attention-editing": Entry(gate_swa_inputs, gate_swa, oracle=SDPA),
    "lama-low-rank": Entry(lama_inputs, lama),
    "lama-low-rank:with_mean": Entry(mean_inputs, lama_mean),
    "shvit-shsa": Entry(shvit_inputs, shvit, oracle="torch group_norm"),
    "mla-expanded": Entry(mla_inputs, mla, oracle=SDPA),
    "mla-absorbed": Entry(absorbed_inputs, absorbed, oracle=SDPA),
    "talking-heads": Entry(talking_inputs, talking),
    "multi-query": Entry(multi_inputs, multi, oracle=SDPA),
}
