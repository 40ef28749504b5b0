"""How much of anything a specification may hold, so that no input takes long or nests too deep."""

FILE_BYTES = 1 << 20
FILE_LINES = 4000
LINE_CHARACTERS = 1 << 16
BRACKETS = 64
DEPTH = 100
"""Levels of an expression, after functions were put in place."""
TERMS = 20_000
"""Operations of one Einsum, after functions were put in place."""
EINSUMS = 4000
"""Einsums of one cascade, after functions were put in place."""
CALLS = 32
"""Functions that use one another, one inside the next; files that import one another."""
REPORTED = 20
"""Errors that one report shows."""
SYNTAX_ERRORS = 100
"""Lines that cannot be read, after which the rest of a file is not looked at."""
LARGEST = 2**63 - 1
"""The largest integer and the largest extent."""
