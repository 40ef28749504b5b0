"""References for recurrences and linear attention: fla-core's own functions."""

from __future__ import annotations

import numpy as np
from caches import normal
from entry import Arrays, Entry
from fla_core import call

Array = np.ndarray
B, H, T, D, F, N = 2, 3, 70, 16, 24, 6


def drawn(*extra: str, keys: bool = True) -> object:
    """Inputs of a recurrence: unit keys, gates as logarithms below 0, betas between 0 and 1."""

    def inputs(rng: np.random.Generator) -> Arrays:
        found = normal(rng, Q=(B, H, T, D), K=(B, H, T, D), V=(B, H, T, F))
        if keys:
            found["K"] /= np.linalg.norm(found["K"], axis=-1, keepdims=True)
        shapes = {"g1": (B, H, T), "g": (B, H, T, D), "gn": (B, H, T, N), "beta": (B, H, T),
                  "S0": (B, H, D, F), "alpha": (B, H, T, D), "betad": (B, H, T, D),
                  "P": (B, H, T, D), "W": (B, H, T, N), "U": (H, D), "gamma": (H,),
                  "slope": (H,)}  # fmt: skip
        for name in extra:
            value = rng.standard_normal(shapes[name])
            if name[0] == "g":
                value = -np.exp(2 * value).clip(0, 50)
            if name == "beta":
                value = 1 / (1 + np.exp(-value))
            if name in ("alpha", "betad", "P"):
                value /= np.linalg.norm(value, axis=-1, keepdims=True)
            if name == "gamma":
                value = 1 - 2.0 ** (-5.0 - np.arange(H))
            if name == "slope":
                value = 2.0 ** -np.arange(1.0, H + 1)
            found[{"g1": "g", "gn": "g", "betad": "beta"}.get(name, name)] = value
        return found

    return inputs


def final(S0: Array, steps: object) -> Array:
    """The state after steps that scale it by (gate) and add (update)."""
    state = S0.copy()
    for gate, update in steps:  # type: ignore[attr-defined]
        state = gate * state + update
    return state


def retnet(Q: Array, K: Array, V: Array, gamma: Array) -> Array:
    return call("retention/naive.py", "naive_retention", Q, K, V, timed=False)  # type: ignore


def lightning(Q: Array, K: Array, V: Array, slope: Array) -> Array:
    g = np.broadcast_to(-slope[:, None], Q.shape[:3])
    return call("simple_gla/naive.py", "naive_recurrent_simple_gla", Q, K, V, g, scale=1.0)  # type: ignore


def simple_gla(Q: Array, K: Array, V: Array, g: Array, S0: Array) -> Arrays:
    import torch

    out = call("simple_gla/naive.py", "naive_recurrent_simple_gla", Q, K, V, g,
               initial_state=torch.from_numpy(S0))  # fmt: skip
    steps = (
        (np.exp(g[:, :, t, None, None]), K[:, :, t, :, None] * V[:, :, t, None]) for t in range(T)
    )
    return {"O": out, "F": final(S0, steps)}


def gla(Q: Array, K: Array, V: Array, g: Array, S0: Array) -> Arrays:
    import torch

    out = call(
        "gla/naive.py", "naive_recurrent_gla", Q, K, V, g, initial_state=torch.from_numpy(S0)
    )
    steps = (
        (np.exp(g[:, :, t, :, None]), K[:, :, t, :, None] * V[:, :, t, None]) for t in range(T)
    )
    return {"O": out, "F": final(S0, steps)}


def linear_inputs(rng: np.random.Generator) -> Arrays:
    found = normal(rng, Q=(B, H, T, D), K=(B, H, T, D), V=(B, H, T, F))
    return found | {"Q": np.abs(found["Q"]) + 0.1, "K": np.abs(found["K"]) + 0.1}


def linear_attention(Q: Array, K: Array, V: Array) -> Array:
    return call("linear_attn/naive.py", "naive_recurrent_linear_attn", Q, K, V, normalize=True)  # type: ignore


def deltanet(Q: Array, K: Array, V: Array, beta: Array) -> Array:
    return call("delta_rule/naive.py", "delta_rule_recurrence", Q, K, V, beta, timed=False)  # type: ignore


def gated_deltanet(Q: Array, K: Array, V: Array, beta: Array, g: Array, S0: Array) -> Arrays:
    import torch

    out = call("gated_delta_rule/naive.py", "naive_recurrent_gated_delta_rule", Q, K, V, beta, g,
               initial_state=torch.from_numpy(S0))  # fmt: skip
    state = S0.copy()
    for t in range(T):
        state = np.exp(g[:, :, t, None, None]) * state
        read = np.einsum("bhd,bhdf->bhf", K[:, :, t], state)
        change = beta[:, :, t, None] * (V[:, :, t] - read)
        state = state + K[:, :, t, :, None] * change[:, :, None]
    return {"O": out, "F": state}


def comba(Q: Array, K: Array, V: Array, P: Array, beta: Array, g: Array) -> Array:
    return call("comba/naive.py", "naive_recurrent_comba", Q, K, V, P, beta, g)  # type: ignore


def iplr(Q: Array, K: Array, V: Array, alpha: Array, beta: Array) -> Array:
    path = "generalized_delta_rule/iplr/naive.py"
    return call(path, "iplr_recurrence", Q, K, V, alpha, beta, timed=False)  # type: ignore


def dplr(Q: Array, K: Array, V: Array, alpha: Array, beta: Array, g: Array) -> Array:
    path = "generalized_delta_rule/dplr/naive.py"
    return call(path, "dplr_recurrence", Q, K, V, alpha, beta, g, timed=False)  # type: ignore


def kda(Q: Array, K: Array, V: Array, g: Array, beta: Array) -> Array:
    return call("kda/naive.py", "naive_recurrent_kda", Q, K, V, g, beta)  # type: ignore


def based(Q: Array, K: Array, V: Array) -> Array:
    return call("based/naive.py", "naive_parallel_based", Q, K, V, timed=False)  # type: ignore


def rebased(Q: Array, K: Array, V: Array) -> Array:
    return call("rebased/naive.py", "naive_parallel_rebased", Q, K, V, timed=False)  # type: ignore


def hgrn_inputs(rng: np.random.Generator) -> Arrays:
    found = normal(rng, X=(B, T, D), g=(B, T, D))
    return found | {"g": -np.exp(2 * found["g"]).clip(0, 50)}


def hgrn(X: Array, g: Array) -> Array:
    return call("hgrn/naive.py", "naive_recurrent_hgrn", X, g, timed=False)  # type: ignore


def rwkv6(Q: Array, K: Array, V: Array, g: Array, U: Array) -> Array:
    path = "rwkv6/recurrent_naive.py"
    return call(path, "naive_recurrent_rwkv6", Q, K, V, g, U, timed=False)  # type: ignore


def gsa(Q: Array, K: Array, V: Array, W: Array, g: Array) -> Array:
    return call("gsa/naive.py", "naive_recurrent_gsa", Q, K, V, W, g)  # type: ignore


def abc(Q: Array, K: Array, V: Array, W: Array) -> Array:
    g = np.zeros_like(W)
    return call("abc/naive.py", "naive_recurrent_abc", Q, K, V, W, g, timed=False)  # type: ignore


def forgetting_inputs(rng: np.random.Generator) -> Arrays:
    found = normal(rng, Q=(B, H, T, D), K=(B, H, T, D), V=(B, H, T, F), g=(B, H, T))
    return found | {"g": -np.abs(found["g"])}


def forgetting(Q: Array, K: Array, V: Array, g: Array) -> Array:
    return call("forgetting_attn/naive.py", "naive_forgetting_attn", Q, K, V, g)  # type: ignore


def plain_inputs(rng: np.random.Generator) -> Arrays:
    return normal(rng, Q=(B, H, T, D), K=(B, H, T, D), V=(B, H, T, F))


def stick_breaking(Q: Array, K: Array, V: Array) -> Array:
    return call("stickbreaking_attn/naive.py", "naive_stickbreaking_attn", Q, K, V)  # type: ignore


FLA = "fla-core"
ENTRIES = {
    "retnet": Entry(drawn("gamma", keys=False), retnet, FLA, spread=4),
    "lightning-2": Entry(drawn("slope", keys=False), lightning, FLA),
    "mamba2-ssd": Entry(drawn("g1", "S0"), simple_gla, FLA),
    "gla": Entry(drawn("g", "S0"), gla, FLA),
    "linear-attention": Entry(linear_inputs, linear_attention, FLA),
    "deltanet": Entry(drawn("beta"), deltanet, FLA),
    "gated-deltanet": Entry(drawn("beta", "g1", "S0"), gated_deltanet, FLA),
    "comba": Entry(drawn("P", "beta", "g1"), comba, FLA),
    "iplr-delta": Entry(drawn("alpha", "betad"), iplr, FLA, spread=8),
    "rwkv7-dplr": Entry(drawn("alpha", "betad", "g"), dplr, FLA),
    "kimi-kda": Entry(drawn("g", "beta"), kda, FLA),
    "based": Entry(plain_inputs, based, FLA),
    "rebased": Entry(plain_inputs, rebased, FLA),
    "hgrn": Entry(hgrn_inputs, hgrn, FLA),
    "rwkv6": Entry(drawn("g", "U"), rwkv6, FLA),
    "gsa": Entry(drawn("W", "gn"), gsa, FLA),
    "abc": Entry(drawn("W"), abc, FLA),
    "forgetting-attention": Entry(forgetting_inputs, forgetting, FLA),
    "stick-breaking": Entry(plain_inputs, stick_breaking, FLA),
}
