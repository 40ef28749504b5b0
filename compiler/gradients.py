"""The adjoint of a cascade, and the cascade that yields what it reads."""

from __future__ import annotations

from collections.abc import Sequence

from attnc.ir.cascade import Cascade
from attnc.ir.verify import verify_cascade
from attnc.passes.gradient.differentiate import differentiate as _differentiate
from attnc.passes.gradient.divide import Gradient


def differentiate(
    cascade: Cascade, wrt: Sequence[str] | None = None, statistics: str = "f32"
) -> Gradient:
    """A cascade taken apart for training: what runs forward, what runs backward, what is saved.

    `wrt` names inputs of a floating type; all of them where it is left out. `statistics` is the
    type in which row statistics are saved, which is to be f64 where inputs are. Raises CompileError
    where something has no derivative, CallError for a name that is no input.
    """
    verify_cascade(cascade)
    found = _differentiate(cascade, None if wrt is None else tuple(wrt), statistics)
    verify_cascade(found.forward)
    verify_cascade(found.backward)
    return found


def gradient(cascade: Cascade, wrt: Sequence[str] | None = None) -> Cascade:
    """The adjoint of a cascade: from inputs, saved tensors and cotangents to gradients.

    An output O has the cotangent `dO` among its inputs, an input Q of `wrt` the gradient `dQ`,
    of the shape of Q, among its outputs. Saved tensors have the names they have in
    `differentiate(cascade).forward`, which yields them; outputs may be among them.
    """
    return differentiate(cascade, wrt).backward


__all__ = ["Gradient", "differentiate", "gradient"]
