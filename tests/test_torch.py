"""A cascade as a PyTorch function: gradients, custom operators, compilation, export, autocast."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import attnc

torch = pytest.importorskip("torch")
attention = torch.nn.functional.scaled_dot_product_attention

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"


def function(name: str, **params: Any) -> Any:
    (cascade,) = attnc.load(EXAMPLES / f"{name}.attn").cascades.values()
    return attnc.torch.function(cascade, **params)


def tensors(*shape: int, dtype: Any = torch.float32, count: int = 3) -> list[Any]:
    torch.manual_seed(0)
    return [torch.randn(*shape, dtype=dtype, requires_grad=True) for _ in range(count)]


def gradients(result: Any, leaves: list[Any]) -> list[Any]:
    torch.manual_seed(1)
    return list(torch.autograd.grad(result, leaves, torch.randn(result.shape, dtype=result.dtype)))


def close(found: list[Any], exact: list[Any], tolerance: float = 1e-5) -> None:
    for one, other in zip(found, exact, strict=True):
        assert one.dtype == other.dtype
        assert (one - other).abs().max() <= tolerance * other.abs().max()


def test_forward_and_gradients_are_those_of_torch() -> None:
    leaves = tensors(2, 3, 37, 16)
    ours, theirs = function("causal")(*leaves), attention(*leaves, is_causal=True)
    close([ours], [theirs])
    close(gradients(ours, leaves), gradients(theirs, leaves))


def test_the_same_bits_from_run_to_run() -> None:
    leaves = tensors(1, 2, 70, 16)
    first, second = (gradients(function("causal")(*leaves), leaves) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, second))


def test_tensors_lie_as_they_like() -> None:
    """Queries with the heads behind the positions, as a projection leaves them."""
    leaves = tensors(2, 37, 3, 16)
    turned = [leaf.transpose(1, 2) for leaf in leaves]
    assert not turned[0].is_contiguous()
    ours, theirs = function("attention")(*turned), attention(*turned)
    close(gradients(ours, leaves), gradients(theirs, leaves))
    close(list(torch.autograd.grad(function("attention")(*turned).sum(), leaves)),
          list(torch.autograd.grad(attention(*turned).sum(), leaves)), 1e-4)  # fmt: skip


def test_twice_in_one_graph() -> None:
    q, k, v = tensors(1, 2, 19, 8)
    use = function("attention")
    ours = use(use(q, k, v), k, v) + use(k, q, v)
    theirs = attention(attention(q, k, v), k, v) + attention(k, q, v)
    close(gradients(ours, [q, k, v]), gradients(theirs, [q, k, v]))


@pytest.mark.parametrize("name", ["attention", "causal", "sigmoid", "softcap"])
def test_gradcheck_in_double(name: str) -> None:
    leaves = tensors(1, 1, 5, 4, dtype=torch.float64)
    assert torch.autograd.gradcheck(function(name), leaves)


def test_gradcheck_of_grouped_heads_and_of_scalars() -> None:
    torch.manual_seed(0)
    q = torch.randn(1, 4, 3, 4, dtype=torch.float64, requires_grad=True)
    k, v = tensors(1, 2, 5, 4, dtype=torch.float64, count=2)
    assert torch.autograd.gradcheck(function("gqa"), (q, k, v))
    leaves = tensors(1, 2, 4, 4, dtype=torch.float64)
    sink = torch.randn(2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(function("learned_sink"), (*leaves, sink))


def test_gradcheck_of_a_recurrence() -> None:
    leaves = tensors(1, 1, 4, 3, dtype=torch.float64, count=4)
    assert torch.autograd.gradcheck(function("gla"), leaves)


@pytest.mark.parametrize("name", ["causal", "lse_output"])
def test_opcheck(name: str) -> None:
    leaves = tensors(1, 2, 9, 8)
    use = function(name)
    torch.library.opcheck(use.training, leaves)
    torch.library.opcheck(use.plain, [leaf.detach() for leaf in leaves])


def test_the_compiler_of_torch_sees_one_graph() -> None:
    use = function("causal")

    def layer(q: Any, k: Any, v: Any) -> Any:
        return use(2 * q, K=k, V=v) + q

    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager", dynamic=True)
    for extent in (9, 21):
        leaves = tensors(1, 2, extent, 8)
        close(gradients(compiled(*leaves), leaves), gradients(layer(*leaves), leaves), 1e-6)


def test_export() -> None:
    class Layer(torch.nn.Module):  # type: ignore[misc]
        def forward(self, q: Any, k: Any, v: Any) -> Any:
            return function("causal")(q, k, v)

    leaves = [leaf.detach() for leaf in tensors(1, 2, 9, 8)]
    exported = torch.export.export(Layer(), tuple(leaves))
    assert any("attnc" in str(node.target) for node in exported.graph.nodes)
    close([exported.module()(*leaves)], [function("causal")(*leaves)], 0)


def test_autocast_casts_as_torch_does() -> None:
    leaves = tensors(1, 2, 33, 16)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        ours, theirs = function("attention")(*leaves), attention(*leaves)
    assert ours.dtype == theirs.dtype == torch.bfloat16
    found = gradients(ours, leaves)
    close(found, gradients(attention(*leaves).bfloat16(), leaves), 1.6e-2)


def test_vmap_maps() -> None:
    leaves = [leaf.detach() for leaf in tensors(4, 1, 2, 9, 8)]
    mapped = torch.vmap(function("attention"), in_dims=(0, 0, None))(*leaves[:2], leaves[2][0])
    close([mapped], [torch.stack([attention(q, k, leaves[2][0]) for q, k in zip(*leaves[:2])])])


def test_several_outputs_and_the_gradient_of_a_log_sum_exp() -> None:
    leaves = tensors(1, 1, 6, 4, dtype=torch.float64)
    out, lse = function("lse_output")(*leaves)
    assert out.shape == (1, 1, 6, 4) and lse.shape == (1, 1, 6)
    q, k, _ = leaves
    mask = torch.ones(6, 6, dtype=torch.bool).tril()
    exact = torch.logsumexp((q @ k.transpose(2, 3) / 2).masked_fill(~mask, -torch.inf), 3)
    close(
        list(torch.autograd.grad(lse.sum(), [q, k])),
        list(torch.autograd.grad(exact.sum(), [q, k])),
    )


def test_inputs_that_need_no_gradient_get_none() -> None:
    q, k, v = tensors(1, 1, 6, 4)
    (cascade,) = attnc.load(EXAMPLES / "attention.attn").cascades.values()
    use = attnc.torch.function(cascade, wrt=["V"])
    result = use(q, k, v)
    assert torch.autograd.grad(result.sum(), [q, v], allow_unused=True)[0] is None
    assert use(q, k.detach(), v.detach()).grad_fn is None


def test_a_second_derivative_is_refused() -> None:
    leaves = tensors(1, 1, 6, 4)
    (first, *_) = torch.autograd.grad(
        function("attention")(*leaves).sum(), leaves, create_graph=True
    )
    with pytest.raises(RuntimeError, match="autograd formula"):
        first.sum().backward()


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda use, q: use(q, q), "needs V"),
        (lambda use, q: use(q, q, q, q), "takes 3 inputs"),
        (lambda use, q: use(q, q, q, W=q), "has no input W"),
        (lambda use, q: use(q, q, 1.0), "V must be a tensor"),
        (lambda use, q: use(q, q[:, :, :3], q), "rank m has extent 3"),
    ],
)
def test_arguments_that_do_not_fit(call: Any, words: str) -> None:
    with pytest.raises(attnc.CallError, match=words):
        call(function("attention"), torch.randn(1, 1, 6, 4))
