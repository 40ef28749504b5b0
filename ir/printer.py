"""Both representations as text; both read back."""

from attnc.ir.print_cascade import print_cascade, print_einsum
from attnc.ir.print_expr import print_expr
from attnc.ir.print_tile import print_program

__all__ = ["print_cascade", "print_einsum", "print_expr", "print_program"]
