"""attnc: from an attention algorithm, as a paper writes it, to the kernel that computes it."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from attnc.ir.source import CallError, CompileError

if TYPE_CHECKING:
    from attnc import build
    from attnc.driver import analyze, compile, explain, optimize, verify
    from attnc.gradients import differentiate, gradient
    from attnc.layers import emit_layer
    from attnc.merging import merge_state
    from attnc.modelling import model
    from attnc.modules import load, parse

__version__ = "0.1.0"

# A name is imported when it is first asked for, so that `import attnc` costs next to nothing.
_HOMES = {
    "load": "attnc.modules",
    "parse": "attnc.modules",
    "analyze": "attnc.driver",
    "compile": "attnc.driver",
    "differentiate": "attnc.gradients",
    "emit_layer": "attnc.layers",
    "explain": "attnc.driver",
    "gradient": "attnc.gradients",
    "merge_state": "attnc.merging",
    "model": "attnc.modelling",
    "optimize": "attnc.driver",
    "verify": "attnc.driver",
}

_MODULES = ("build", "torch", "transformers")


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return import_module(f"attnc.{name}")
    if name not in _HOMES:
        raise AttributeError(f"module 'attnc' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


__all__ = [
    "CallError", "CompileError", "__version__", "analyze", "build", "compile", "differentiate",
    "emit_layer", "explain", "gradient", "load", "merge_state", "model", "optimize", "parse",
    "verify",
]  # fmt: skip
