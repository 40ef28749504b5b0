"""References for scores that know the positions: rotations, tables and products of distances."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import numpy as np
from caches import normal, softmax
from entry import Arrays, Entry

Array = np.ndarray


def attend(q: Any, k: Any, v: Any, **options: Any) -> Array:
    """PyTorch's attention of tensors."""
    import torch

    return torch.nn.functional.scaled_dot_product_attention(q, k, v, **options).numpy()


def tensors(*arrays: Array) -> list[Any]:
    import torch

    return [torch.from_numpy(np.ascontiguousarray(x)) for x in arrays]


def lower(p: int, m: int) -> Any:
    """True where a query may look: causal, aligned at the end, as a tensor."""
    import torch

    return torch.from_numpy(np.tri(p, m, m - p, dtype=bool))


def square_inputs(rng: np.random.Generator) -> Arrays:
    return normal(rng, Q=(2, 3, 53, 16), K=(2, 3, 53, 16), V=(2, 3, 53, 24))


def cross_inputs(rng: np.random.Generator) -> Arrays:
    return normal(rng, Q=(2, 3, 37, 16), K=(2, 3, 53, 16), V=(2, 3, 53, 24))


def interleaved(Q: Array, K: Array, V: Array) -> Array:
    from transformers.models.gptj.modeling_gptj import apply_rotary_pos_emb

    angles = np.outer(np.arange(Q.shape[2]), 10000.0 ** (-np.arange(0, 16, 2) / 16))[None]
    sin, cos = tensors(np.sin(angles), np.cos(angles))
    q, k = (  # GPT-J has the heads behind the positions.
        apply_rotary_pos_emb(x.transpose(1, 2), sin, cos).transpose(1, 2) for x in tensors(Q, K)
    )
    return attend(q, k, *tensors(V), is_causal=True)


def half(Q: Array, K: Array, V: Array) -> Array:
    from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

    p, m = Q.shape[2], K.shape[2]
    angles = np.outer(np.arange(m), 10000.0 ** (-np.arange(0, 16, 2) / 16))
    cos, sin = tensors(*(np.concatenate([f(angles)] * 2, -1)[None] for f in (np.cos, np.sin)))
    q, k, v = tensors(Q, K, V)
    q, _ = apply_rotary_pos_emb(q, q, cos[:, m - p :], sin[:, m - p :])
    k, _ = apply_rotary_pos_emb(k, k, cos, sin)
    return attend(q, k, v, attn_mask=lower(p, m))


def image_inputs(rng: np.random.Generator) -> Arrays:
    # Queries are the patches of the upper rows.
    return normal(rng, Q=(2, 3, 37, 16), K=(2, 3, 56, 16), V=(2, 3, 56, 24))


def plane(Q: Array, K: Array, V: Array) -> Array:
    from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

    rows, columns = np.divmod(np.arange(K.shape[2]), 7)
    turns = 10000.0 ** (-np.arange(0, 8, 2) / 8)
    angles = np.concatenate([np.outer(rows, turns), np.outer(columns, turns)], -1)
    cos, sin = tensors(*(np.concatenate([f(angles)] * 2, -1)[None] for f in (np.cos, np.sin)))
    q, k, v = tensors(Q, K, V)
    q, _ = apply_rotary_pos_emb(q, q, cos[:, : Q.shape[2]], sin[:, : Q.shape[2]])
    k, _ = apply_rotary_pos_emb(k, k, cos, sin)
    return attend(q, k, v)


def alibi_inputs(rng: np.random.Generator) -> Arrays:
    return normal(rng, Q=(2, 4, 53, 16), K=(2, 4, 53, 16), V=(2, 4, 53, 24))


def alibi(Q: Array, K: Array, V: Array) -> Array:
    import torch
    from transformers.models.bloom.modeling_bloom import build_alibi_tensor

    b, h, n = Q.shape[:3]
    # Bloom adds slope * m, which differs from slope * (m - p) by a constant of the row.
    bias = build_alibi_tensor(torch.ones(b, n), h, torch.float64).reshape(b, h, 1, n)
    mask = torch.where(lower(n, n), bias, -math.inf)
    return attend(*tensors(Q, K, V), attn_mask=mask)


def bucket_inputs(rng: np.random.Generator) -> Arrays:
    # Far enough that the last bucket of either side is used.
    drawn = normal(rng, Q=(1, 2, 150, 8), K=(1, 2, 163, 8), V=(1, 2, 163, 12))
    return drawn | normal(rng, bias=(2, 32))


def buckets(Q: Array, K: Array, V: Array, bias: Array) -> Array:
    import torch
    from transformers.models.t5.modeling_t5 import T5Attention

    distance = torch.arange(K.shape[2])[None, :] - torch.arange(Q.shape[2])[:, None]
    chosen = T5Attention._relative_position_bucket(distance)
    return attend(*tensors(Q, K, V), attn_mask=tensors(bias)[0][:, chosen][None], scale=1.0)


def distance_inputs(rng: np.random.Generator) -> Arrays:
    return cross_inputs(rng) | normal(rng, R=(3, 53, 16), u=(3, 16), v=(3, 16))


def distances(Q: Array, K: Array, V: Array, R: Array, u: Array, v: Array) -> Array:
    """Through XLNet, which keeps Transformer-XL's scores; its r runs from far to near to ahead."""
    import torch
    from transformers.models.xlnet.modeling_xlnet import XLNetRelativeAttention as Relative

    p, m = Q.shape[2], K.shape[2]
    layer = SimpleNamespace(
        r_w_bias=tensors(u)[0], r_r_bias=tensors(v)[0], scale=Q.shape[-1] ** -0.5,
        dropout=torch.nn.Identity(), rel_shift_bnij=Relative.rel_shift_bnij,
    )  # fmt: skip
    # Distances p + |m| - |p| - m, from |m| down to 1 - |p|; only those from 0 to |m| - 1 exist.
    table = np.zeros((m + p, 1, *R.shape[::2]))
    table[1 : m + 1, 0] = R[:, ::-1].swapaxes(0, 1)
    q, k, values, keys = tensors(*(x.transpose(2, 0, 1, 3) for x in (Q, K, V)), table)
    ahead = ~lower(p, m)[:, :, None, None]
    found = Relative.rel_attn_core(
        layer, q, k, values, keys.expand(-1, len(Q), -1, -1), attn_mask=ahead.double()
    )
    return found.permute(1, 2, 0, 3).numpy()


def disentangled_inputs(rng: np.random.Generator) -> Arrays:
    # 3 |e| is a square, so that the float32 in which the oracle takes its root is exact.
    drawn = normal(rng, Q=(2, 3, 53, 12), K=(2, 3, 53, 12), V=(2, 3, 53, 24))
    return drawn | normal(rng, KR=(3, 18, 12), QR=(3, 18, 12))


def disentangled(Q: Array, K: Array, V: Array, KR: Array, QR: Array) -> Array:
    import torch
    from transformers.models.deberta.configuration_deberta import DebertaConfig
    from transformers.models.deberta.modeling_deberta import DisentangledSelfAttention

    class Given(torch.nn.Module):
        """Stands for a projection whose result is known."""

        def __init__(self, result: Any) -> None:
            super().__init__()
            self.result = result

        def forward(self, _: Any) -> Any:
            return self.result.clone()

    (h, n, e), far = Q.shape[1:], KR.shape[1]
    config = DebertaConfig(
        hidden_size=h * e, num_attention_heads=h, relative_attention=True,
        pos_att_type=["c2p", "p2c"], max_relative_positions=far // 2,
    )  # fmt: skip
    layer = DisentangledSelfAttention(config).double().eval()
    layer.pos_proj, layer.pos_q_proj = (
        Given(x.transpose(0, 1).reshape(1, far, h * e)) for x in tensors(KR, QR)
    )
    q, k, v = tensors(Q, K, V)
    distance = torch.arange(n)[:, None] - torch.arange(n)[None, :]
    scale = math.sqrt(3 * e)
    bias = layer.disentangled_att_bias(q / scale, k, distance, torch.zeros(far, h * e).double(), 3)
    return attend(q, k, v, attn_mask=bias, scale=1 / scale)


def polar_inputs(rng: np.random.Generator) -> Arrays:
    b, h, n, i = 2, 3, 37, 8
    drawn = normal(rng, TQ=(b, h, n, i), TK=(b, h, n, i), V=(b, h, n, 24), alpha=(h, i),
                   beta=(h, i))  # fmt: skip
    return drawn | {"RQ": rng.random((b, h, n, i)) * 2, "RK": rng.random((b, h, n, i)) * 2}


def polar(RQ: Array, TQ: Array, RK: Array, TK: Array, V: Array, alpha: Array,
          beta: Array) -> Array:  # fmt: skip
    n, width = RQ.shape[2:]
    angles = np.outer(np.arange(n), 10000.0 ** (-np.arange(width) / width))
    alpha, beta = alpha[:, None], beta[:, None]
    q = RQ * np.exp(1j * (alpha * TQ + angles + beta))
    k = RK * np.exp(1j * (alpha * TK + angles))
    scores = (q @ k.conj().swapaxes(2, 3)).real / math.sqrt(width)
    return softmax(np.where(np.tri(n, dtype=bool), scores, -np.inf)) @ V


def convolved_inputs(rng: np.random.Generator) -> Arrays:
    drawn = square_inputs(rng) | normal(rng, R=(3, 53, 16), u=(3, 16), v=(3, 16))
    return drawn | normal(rng, WQ=(3, 3, 16), WK=(3, 3, 16), WV=(3, 3, 24))


def convolved(Q: Array, K: Array, V: Array, WQ: Array, WK: Array, WV: Array, R: Array, u: Array,
              v: Array) -> Array:  # fmt: skip
    n = Q.shape[2]
    mixed = []
    for x, taps in ((Q, WQ), (K, WK), (V, WV)):
        padded = np.pad(x, ((0, 0), (0, 0), (2, 0), (0, 0)))
        mixed.append(sum(padded[:, :, 2 - w : 2 - w + n] * taps[:, w, None] for w in range(3)))
    return distances(*mixed, R, u, v)


def channel_inputs(rng: np.random.Generator) -> Arrays:
    b, h, t, c, e, f = 1, 2, 9, 5, 16, 24
    drawn = normal(rng, Q=(b, h, t, c, e), K=(b, h, t, c, e), V=(b, h, t, c, f), RT=(h, t, e),
                   RC=(h, c, e))  # fmt: skip
    return drawn | normal(rng, u=(h, e), v=(h, e), w=(h, e))


def channels(Q: Array, K: Array, V: Array, RT: Array, RC: Array, u: Array, v: Array,
             w: Array) -> Array:  # fmt: skip
    out = np.empty(V.shape)
    times, count = Q.shape[2:4]
    for b, h, t, c in np.ndindex(Q.shape[:4]):
        query = Q[b, h, t, c]
        scores = np.empty((t + 1, count))
        for s, n in np.ndindex(scores.shape):
            scores[s, n] = (query + v[h]) @ RT[h, t - s] + (query + w[h]) @ RC[h, abs(c - n)]
            if t - s <= 3 or t == times - 1:
                scores[s, n] += (query + u[h]) @ K[b, h, s, n]
        weights = softmax(scores.reshape(-1) / math.sqrt(len(query)))
        out[b, h, t, c] = weights @ V[b, h, : t + 1].reshape(weights.size, -1)
    return out


ENTRIES: dict[str, Entry] = {
    "rope-interleaved": Entry(square_inputs, interleaved, oracle="transformers GPT-J"),
    "rope-half": Entry(cross_inputs, half, oracle="transformers Llama"),
    "rope-2d": Entry(image_inputs, plane, oracle="transformers Llama"),
    "alibi-slopes": Entry(alibi_inputs, alibi, oracle="transformers Bloom"),
    "t5-buckets": Entry(bucket_inputs, buckets, oracle="transformers T5"),
    "transformer-xl": Entry(distance_inputs, distances, oracle="transformers XLNet"),
    "deberta": Entry(disentangled_inputs, disentangled, oracle="transformers DeBERTa"),
    "complexformer-cmha": Entry(polar_inputs, polar),
    "rcmha": Entry(convolved_inputs, convolved, oracle="transformers XLNet"),
    "mvpa": Entry(
        channel_inputs,
        channels,
        slow="one of its two axes of time lies whole in a tile of five ranks",
    ),
}
