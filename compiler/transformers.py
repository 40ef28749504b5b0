"""A cascade as an attention implementation of Hugging Face Transformers.

    attnc.transformers.register(name="attnc")
    model.set_attn_implementation("attnc")

Without a cascade, each layer gets the one that its configuration asks for: grouped heads, causal,
a sliding window, capped scores, sinks, dropout. Of a mask only what the cascade cannot know is
handed on: which keys are padding. Causal masks and windows stay predicates of the cascade, from
which ranges of tiles follow; a mask of any other form is read as a table of truth values.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from typing import Any

from attnc.ir.cascade import Cascade
from attnc.ir.source import CallError
from attnc.modules import parse
from attnc.torch import Function, function

torch: Any = import_module("torch")

GIVEN = ("keep", "mask", "sink", "seed", "scale")
"""What a cascade may ask for beside queries, keys and values, by the names of its inputs."""


@dataclass(frozen=True, slots=True)
class Layer:
    """What a layer's attention is, as far as it changes the cascade."""

    grouped: bool
    causal: bool
    window: bool
    softcap: bool
    sink: bool
    dropout: bool
    keep: bool
    mask: bool


def standard(layer: Layer) -> Cascade:
    """The cascade of a layer; W, CAP, SCALE and P are its parameters, as far as it has them."""
    heads = "h // (|h| // |g|)" if layer.grouped else "h"
    group = "g" if layer.grouped else "h"
    inputs = [f"Q[h, p, e], K[{group}, m, e], V[{group}, m, f]"]
    params = ["SCALE: float"]
    where: list[str] = []
    score = "R[h, p, m]"
    if layer.causal:
        where.append("m <= p + |m| - |p|")
    if layer.window:
        params.append("W: int")
        where.append("p + |m| - |p| - W < m")
    if layer.keep:
        inputs.append("keep[m]: bool")
        where.append("keep[m]")
    if layer.mask:
        inputs.append("mask[p, m]: bool")
        where.append("mask[p, m]")
    if layer.softcap:
        params.append("CAP: float")
        score = "CAP * tanh(R[h, p, m] / CAP)"
    if layer.dropout:
        inputs.append("seed[;]: int")
        params.append("P: float")
    if layer.sink:
        inputs.append("sink[; h]")
    predicate = f" where {' and '.join(where)}" if where else ""
    top, rest = ("max[m](S[h, p, m])", "")
    if layer.sink:
        top, rest = "max(sink[h], max[m](S[h, p, m]))", "exp(sink[h] - G[h, p]) + "
    weight = "A[h, p, m]"
    if layer.dropout:
        weight = "select(uniform(seed[], b, h, p, m) < P, 0, A[h, p, m] / (1 - P))"
    return parse("\n".join((
        f"cascade attention[b]({', '.join(inputs)}) -> O[h, p, f]:",
        *(f"    param {param}" for param in params),
        f"    R[h, p, m] = Q[h, p, e] * K[{heads}, m, e] * SCALE",
        f"    S[h, p, m] = {score}{predicate}",
        f"    G[h, p]    = {top}",
        "    N[h, p, m] = exp(S[h, p, m] - G[h, p])",
        f"    D[h, p]    = {rest}sum[m](N[h, p, m])",
        "    A[h, p, m] = N[h, p, m] / D[h, p]",
        f"    B[h, p, m] = {weight}",
        f"    O[h, p, f] = B[h, p, m] * V[{heads}, m, f]",
        "",
    )))["attention"]  # fmt: skip


@dataclass(frozen=True, slots=True)
class Attention:
    """The function that Transformers calls in every layer, for one cascade or for whatever a
    layer's own options ask."""

    cascade: Cascade | None
    known: dict[tuple[Any, ...], Function]

    def __call__(
        self,
        module: Any,
        query: Any,
        key: Any,
        value: Any,
        attention_mask: Any,
        scaling: float | None = None,
        dropout: float = 0.0,
        is_causal: bool | None = None,
        sliding_window: int | None = None,
        softcap: float | None = None,
        s_aux: Any = None,
        position_bias: Any = None,
        **rest: Any,
    ) -> tuple[Any, None]:
        """Queries [b, h, p, e], keys [b, g, m, e], values [b, g, m, f] to [b, p, h, f].

        Raises CallError for what the cascade has no input for.
        """
        if position_bias is not None:
            raise CallError("a position bias reaches no cascade: register one that computes it")
        table = attention_mask is not None and attention_mask.ndim == 4
        params = {
            "SCALE": query.shape[-1] ** -0.5 if scaling is None else float(scaling),
            "W": sliding_window,
            "CAP": softcap,
            "P": dropout or None,
        }
        if self.cascade is None:
            causal = getattr(module, "is_causal", True) if is_causal is None else is_causal
            layer = Layer(
                grouped=query.shape[1] != key.shape[1],
                causal=bool(causal) and not table,
                window=sliding_window is not None and bool(causal) and not table,
                softcap=softcap is not None,
                sink=s_aux is not None,
                dropout=bool(dropout),
                keep=attention_mask is not None and not table,
                mask=table,
            )
            use = self._function((layer, *params.values()), lambda: standard(layer), params)
        else:
            cascade = self.cascade
            use = self._function(tuple(params.values()), lambda: cascade, params)
        given = self._given(use.cascade, query, attention_mask, s_aux, params["SCALE"])
        key, value = (self._heads(use.cascade, query, part) for part in (key, value))
        result = use(query, key, value, *given)
        return result.transpose(1, 2).contiguous(), None

    def _function(self, label: tuple[Any, ...], source: Any, params: dict[str, Any]) -> Function:
        if label not in self.known:
            cascade = source()
            declared = {decl.name for decl in cascade.params}
            own = {n: v for n, v in params.items() if n in declared and v is not None}
            self.known[label] = function(cascade, **own)
        return self.known[label]

    def _heads(self, cascade: Cascade, query: Any, part: Any) -> Any:
        """Keys and values of a group for each of its heads, where the cascade knows no groups."""
        queries, keys = cascade.inputs[:2]
        if queries.ranks[1] != keys.ranks[1] or query.shape[1] == part.shape[1]:
            return part
        return part.repeat_interleave(query.shape[1] // part.shape[1], dim=1)

    def _given(self, cascade: Cascade, query: Any, mask: Any, sink: Any, scale: Any) -> list[Any]:
        """The further inputs of the cascade; a mask that none of them takes is an error."""
        names = [tensor.name for tensor in cascade.inputs[3:]]
        values: dict[str, Any] = {"sink": sink}
        if "seed" in names:
            values["seed"] = torch.randint(2**31 - 1, (), device=query.device, dtype=torch.int32)
        if "scale" in names:
            values["scale"] = torch.tensor(scale, dtype=query.dtype, device=query.device)
        if mask is not None:
            values["keep" if mask.ndim == 2 else "mask"] = (
                mask.bool() if mask.ndim == 2 else _truth(mask)
            )
        taken = {name: value for name, value in values.items() if value is not None}
        for name in names:
            if name not in taken and name not in GIVEN:
                raise CallError(f"{cascade.name} takes {name}, which no layer gives")
            if name not in taken:
                raise CallError(f"{cascade.name} takes {name}, and this call has none")
        for name in taken:
            if name not in names:
                raise CallError(f"this call has a {name}, and {cascade.name} has no input for it")
        return [taken[name] for name in names]


def _truth(mask: Any) -> Any:
    """A table over queries and keys, true where a key counts; one for all heads."""
    if mask.shape[1] != 1:
        raise CallError(f"a mask of its own for each of {mask.shape[1]} heads")
    mask = mask[:, 0]
    return mask if mask.dtype == torch.bool else mask > torch.finfo(mask.dtype).min / 2


def _mask(
    batch_size: int,
    q_length: int,
    kv_length: int,
    q_offset: int = 0,
    kv_offset: int = 0,
    mask_function: Any = None,
    attention_mask: Any = None,
    **rest: Any,
) -> Any:
    """What a layer is told of its mask: nothing, which keys count [b, m], or all of it.

    A mask that is only causal, a window, or neither is a predicate of the cascade, as long as the
    last query stands at the last key.
    """
    masks = import_module("transformers.masking_utils")
    ends_together = q_offset + q_length == kv_offset + kv_length
    causal = any(part is masks.causal_mask_function for part in _parts(mask_function))
    known = all(_predicate(part, masks) for part in _parts(mask_function))
    if not known or (causal and not ends_together):
        return masks.sdpa_mask(
            batch_size=batch_size,
            q_length=q_length,
            kv_length=kv_length,
            q_offset=q_offset,
            kv_offset=kv_offset,
            mask_function=mask_function,
            attention_mask=attention_mask,
            **{**rest, "allow_is_causal_skip": False, "allow_is_bidirectional_skip": False},
        )
    keep = masks.prepare_padding_mask(attention_mask, kv_length, kv_offset)
    if keep is None:
        return None
    keep = keep[:, kv_offset : kv_offset + kv_length].bool()
    return None if bool(keep.all()) else keep


def _parts(function_: Any) -> list[Any]:
    """The masks whose conjunction a mask is."""
    if getattr(function_, "__qualname__", "") == "and_masks.<locals>.and_mask":
        inside = dict(zip(function_.__code__.co_freevars, function_.__closure__))
        return [p for part in inside["mask_functions"].cell_contents for p in _parts(part)]
    return [function_]


def _predicate(part: Any, masks: Any) -> bool:
    """Whether a mask is one that a cascade states itself."""
    name = getattr(part, "__qualname__", "")
    return part in (
        None,
        masks.causal_mask_function,
        masks.bidirectional_mask_function,
    ) or name.startswith("sliding_window_overlay.")


def register(cascade: Cascade | None = None, *, name: str = "attnc") -> None:
    """Make a cascade, or the one each layer asks for, the attention implementation `name`.

    The first three inputs of a cascade are queries [b, h, p, e], keys [b, g, m, e] and values
    [b, g, m, f]; its output is [b, h, p, f]. Further inputs take by name what the model has: `keep`
    [b, m] (false for padding), `mask` [b, p, m], `sink` [h], `scale` [], `seed` []. Parameters
    SCALE, W, CAP and P get the layer's scale, window, cap and share of dropout. Raises CallError
    for a cascade of fewer inputs.
    """
    if cascade is not None and len(cascade.inputs) < 3:
        raise CallError(f"{cascade.name} takes no queries, keys and values")
    library = import_module("transformers")
    library.AttentionInterface.register(name, Attention(cascade, {}))
    library.AttentionMaskInterface.register(name, _mask)


__all__ = ["Attention", "Layer", "register", "standard"]
