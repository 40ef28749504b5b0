"""The representations of a program, as plain data, and what is true of them."""
