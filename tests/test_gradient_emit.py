"""The module that `attnc compile --grad` writes, run by a Python that has no attnc."""

from __future__ import annotations

import os
import subprocess
import sys
from inspect import getsource
from pathlib import Path
from textwrap import dedent

import pytest

import attnc
from attnc.backends import launch
from attnc.cli import main

pytest.importorskip("torch")
pytest.importorskip("triton")

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"

PREAMBLE = """
import importlib
import math
import sys
sys.modules["attnc"] = None  # Importing it is an error from here on.
from typing import Any
import numpy
import torch
import emitted

def leaves(*shapes, dtype=torch.float32):
    torch.manual_seed(0)
    return [torch.randn(shape, dtype=dtype, requires_grad=True) for shape in shapes]

def same(ours, theirs, inputs):
    # Values and gradients, relative to the largest of each.
    ours, theirs = ([x] if torch.is_tensor(x) else list(x) for x in (ours, theirs))
    arriving = [torch.randn_like(x) for x in theirs]
    ours += torch.autograd.grad(ours, inputs, arriving)
    theirs += torch.autograd.grad(theirs, inputs, arriving)
    for one, other in zip(ours, theirs, strict=True):
        assert one.dtype == other.dtype and one.shape == other.shape
        assert (one - other).abs().max() <= 1e-5 * other.abs().max()

def scores(Q, K):
    return Q @ K.mT / Q.shape[-1] ** 0.5

def ago(Q, K):
    return torch.arange(Q.shape[-2])[:, None] - torch.arange(K.shape[-2])
"""

ATTENTION = """
Q, K, V = leaves((1, 2, 37, 20), (1, 2, 41, 20), (1, 2, 41, 12))
layer = emitted.AttentionLayer()
same(layer(Q, K, V), scores(Q, K).softmax(-1) @ V, (Q, K, V))

space, name = emitted.attention_forward_operator._qualname.split("::")
torch.library.opcheck(getattr(getattr(torch.ops, space), name).default, (Q, K, V))

# As a projection leaves them, heads behind positions; the gradient of a sum has no strides.
turned = [x.transpose(1, 2).contiguous().transpose(1, 2) for x in (Q, K, V)]
same(layer(*turned).sum(), (scores(Q, K).softmax(-1) @ V).sum(), (Q, K, V))

# No break of the graph, the gradient included.
compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
same(compiled(Q, K, V), scores(Q, K).softmax(-1) @ V, (Q, K, V))

assert not layer(Q.detach(), K.detach(), V.detach()).requires_grad
try:
    layer(Q, K, V[:, :, :40])
except emitted.CallError as error:
    assert "rank m of V has extent 40, elsewhere it has 41" in str(error)
else:
    raise AssertionError("keys and values of two lengths went through")
"""

AUTOCAST = """
Q, K, V = leaves((1, 1, 17, 16), (1, 1, 33, 16), (1, 1, 33, 16))
found = emitted.attention(Q, K, V)
with torch.autocast("cpu", dtype=torch.bfloat16):
    lower = emitted.attention(Q, K, V)
assert lower.dtype == torch.bfloat16 and found.dtype == torch.float32
gradient, = torch.autograd.grad(lower.float().sum(), V)
assert gradient.dtype == torch.float32
assert (lower - found).abs().max() <= 1.6e-2 * found.abs().max()

# One batch more in front of all, and a graph to take elsewhere.
more = [torch.randn(3, *x.shape) for x in (Q, K, V)]
same = torch.stack([emitted.attention(*each) for each in zip(*more)])
assert torch.equal(torch.vmap(emitted.attention)(*more), same)
plain = tuple(x.detach() for x in (Q, K, V))
exported = torch.export.export(emitted.AttentionLayer(), plain)
assert torch.equal(exported.module()(*plain), found)
"""

DOUBLE = """
inputs = leaves((1, 1, 5, 3), (1, 1, 7, 3), (1, 1, 7, 2), dtype=torch.float64)
torch.autograd.gradcheck(emitted.attention, inputs)
"""

WINDOW = """
Q, K, V = leaves((1, 1, 37, 16), (1, 1, 37, 16), (1, 1, 37, 16))
assert str(emitted.WindowLayer()) == "WindowLayer(W=9)"
far = (ago(Q, K) < 0) | (ago(Q, K) >= 9)
same(emitted.window(Q, K, V), scores(Q, K).masked_fill(far, -torch.inf).softmax(-1) @ V, (Q, K, V))
"""

GROUPED = """
Q, K, V = leaves((1, 6, 21, 16), (1, 2, 35, 16), (1, 2, 35, 16), dtype=torch.float64)
later = ago(Q, K) < -14
k, v = (x.repeat_interleave(3, 1) for x in (K, V))
theirs = scores(Q, k).masked_fill(later, -torch.inf).softmax(-1) @ v
same(emitted.grouped(Q, K, V), theirs, (Q, K, V))
"""

BIAS = """
Q, K, V, B = leaves((2, 3, 21, 16), (2, 3, 35, 16), (2, 3, 35, 8), (3, 21, 35))
same(emitted.biased(Q, K, V, B), (scores(Q, K) + B).softmax(-1) @ V, (Q, K, V, B))
"""

GATED = """
Q, K, V, g = leaves((1, 2, 37, 16), (1, 2, 37, 16), (1, 2, 37, 8), (1, 2, 37, 16))

def steps(Q, K, V, g):
    state, rows = torch.zeros(1, 2, 16, 8), []
    for t in range(Q.shape[2]):
        state = torch.exp(g[:, :, t, :, None]) * state + K[:, :, t, :, None] * V[:, :, t, None]
        rows.append((Q[:, :, t, :, None] * state).sum(2) / 4)
    return torch.stack(rows, 2)

# The gates of a trained model forget.
decay = torch.nn.functional.logsigmoid(g.detach()).requires_grad_()
same(emitted.gla(Q, K, V, decay), steps(Q, K, V, decay), (Q, K, V, decay))
"""

OUTPUTS = """
Q, K, V = leaves((1, 1, 19, 16), (1, 1, 35, 16), (1, 1, 35, 16))
S = scores(Q, K).masked_fill(ago(Q, K) < 0, -torch.inf)
same(emitted.LseOutputLayer()(Q, K, V), (S.softmax(-1) @ V, S.logsumexp(-1)), (Q, K, V))
"""

CAPTURED = """
from torch.utils._python_dispatch import TorchDispatchMode

class Log(TorchDispatchMode):
    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        asked.add(str(operation))
        return operation(*args, **(kwargs or {}))

class Nothing:
    def __getitem__(self, grid):
        return lambda *args, **named: None

for name in [name for name in vars(emitted) if name.endswith("_kernel")]:
    setattr(emitted, name, Nothing())
asked = set()
Q, K, V = (torch.randn(2, 1, 37, 16) for _ in range(3))
doc = torch.zeros(2, 37, dtype=torch.int32)
with Log():
    O, L = emitted.documents_forward(Q, K, V, doc)
    emitted.documents_backward(Q, K, V, doc, O, L, O)
# Memory is taken, and nothing is waited for or read back.
assert asked == {"aten.empty.memory_format"}

class Table:
    is_cuda, _version = True, 0
    def is_inference(self):
        return False

# A graph makes its lists itself: those that were kept know nothing of tables to come.
table, capturing = Table(), False
torch.cuda.is_current_stream_capturing = lambda: capturing
emitted._keep("lists", (table,), {"p": 37}, "made before")
assert emitted._kept("lists", (table,), {"p": 37}) == "made before"
assert emitted._kept("lists", (table,), {"p": 38}) is None
capturing = True
assert emitted._kept("lists", (table,), {"p": 37}) is None
emitted._keep("lists", (table,), {"p": 37}, "made for the graph")
capturing = False
assert emitted._kept("lists", (table,), {"p": 37}) == "made before"
"""

PART = """
Q, K, V = leaves((1, 1, 17, 16), (1, 1, 17, 16), (1, 1, 17, 16))
found = emitted.window(Q, K, V).sum()
given = torch.autograd.grad(found, (Q, K, V), allow_unused=True)
assert given[0] is None and given[1] is None and given[2] is not None
"""

SIGMOID = """
Q, K, V = leaves((1, 1, 19, 16), (1, 1, 35, 16), (1, 1, 35, 16))
weights = torch.sigmoid(scores(Q, K) - math.log(35))
same(emitted.sigmoid_attention(Q, K, V), weights @ V, (Q, K, V))
"""

TABLE = """
Q, K, V = leaves((2, 1, 37, 16), (2, 1, 37, 16), (2, 1, 37, 16))
doc = torch.randint(0, 3, (2, 37), dtype=torch.int32).sort().values
other = (doc[:, None, :, None] != doc[:, None, None, :]) | (ago(Q, K) < 0)
theirs = scores(Q, K).masked_fill(other, -torch.inf).softmax(-1) @ V
for _ in range(2):  # Once with lists of tiles that are made, once with those that were kept.
    same(emitted.documents(Q, K, V, doc), theirs, (Q, K, V))
    theirs = scores(Q, K).masked_fill(other, -torch.inf).softmax(-1) @ V
"""


CASCADES = {
    "grouped": """
        cascade grouped[b](Q[h, p, e], K[g, m, e], V[g, m, f]) -> O[h, p, f]:
            R[h, p, m] = Q[h, p, e] * K[h // (|h| // |g|), m, e] / sqrt(|e|)
            S[h, p, m] = R[h, p, m] where m <= p + |m| - |p|
            A[h, p, m] = softmax[m](S[h, p, m])
            O[h, p, f] = A[h, p, m] * V[h // (|h| // |g|), m, f]
    """,
    "biased": """
        cascade biased[b, h](Q[p, e], K[m, e], V[m, f], B[h; p, m]) -> O[p, f]:
            R[p, m] = Q[p, e] * K[m, e] / sqrt(|e|)
            S[p, m] = R[p, m] + B[h, p, m]
            A[p, m] = softmax[m](S[p, m])
            O[p, f] = A[p, m] * V[m, f]
    """,
}


def specification(name: str, folder: Path) -> Path:
    """An example, or one of those above as a file."""
    if name not in CASCADES:
        return EXAMPLES / f"{name}.attn"
    path = folder / f"{name}.attn"
    path.write_text(dedent(CASCADES[name]), encoding="utf-8")
    return path


def run_alone(script: str, folder: Path) -> None:
    """Run a script beside an emitted module, in a Python where there is no attnc.

    What Triton's interpreter needs to be told to do as the compiler does comes along as text.
    """
    mending = f"{getsource(launch._mend_interpreter)}\n_mend_interpreter()\n"
    (folder / "script.py").write_text(PREAMBLE + mending + script, encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "script.py"],
        cwd=folder,
        env=os.environ | {"TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("name", "options", "script"),
    [
        pytest.param("attention", ("--dtype", "f32"), ATTENTION, id="attention"),
        pytest.param("attention", ("--dtype", "f32"), AUTOCAST, id="around torch"),
        pytest.param("attention", ("--dtype", "f64"), DOUBLE, id="float64"),
        pytest.param("grouped", ("--dtype", "f64"), GROUPED, id="grouped heads"),
        pytest.param("biased", ("--dtype", "f32"), BIAS, id="bias"),
        pytest.param("window", ("--dtype", "f32", "--param", "W=9"), WINDOW, id="window"),
        pytest.param("lse_output", ("--dtype", "f32"), OUTPUTS, id="two outputs"),
        pytest.param("sigmoid", ("--dtype", "f32"), SIGMOID, id="nothing saved"),
        pytest.param("documents", ("--dtype", "f32"), TABLE, id="table"),
        pytest.param("documents", ("--dtype", "f32"), CAPTURED, id="graphs of CUDA"),
        pytest.param("gla", ("--dtype", "f32"), GATED, id="recurrence"),
    ],
)
def test_the_gradient_is_that_of_the_formula(
    tmp_path: Path, name: str, options: tuple[str, ...], script: str
) -> None:
    out = str(tmp_path / "emitted.py")
    spec = str(specification(name, tmp_path))
    assert main(["compile", spec, "--grad", "-o", out, *options]) == 0
    run_alone(script, tmp_path)


def test_some_inputs_may_be_left_without_a_gradient(tmp_path: Path) -> None:
    cascade = attnc.load(EXAMPLES / "window.attn")["window"]
    text = attnc.emit_layer(cascade, ["V"], dtype="f32", W=9)
    (tmp_path / "emitted.py").write_text(text, encoding="utf-8")
    run_alone(PART, tmp_path)


def test_a_tensor_has_no_name_that_the_module_needs() -> None:
    text = str(attnc.load(EXAMPLES / "attention.attn")["attention"])
    (cascade,) = attnc.parse(text.replace("V[", "_found[")).cascades.values()
    with pytest.raises(attnc.CompileError, match="_found of its own"):
        attnc.emit_layer(cascade)


@pytest.mark.parametrize("options", [("--emit", "ptx"), ("--backend", "numpy")])
def test_it_is_the_source_of_a_triton_module(options: tuple[str, str]) -> None:
    assert main(["compile", str(EXAMPLES / "attention.attn"), "--grad", *options]) == 2
