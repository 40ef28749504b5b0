"""Reverse-mode differentiation: the adjoint of a cascade, as a cascade."""
