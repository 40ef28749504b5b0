"""How much of anything a specification may hold, so that no input takes long or nests too deep."""

FILE_BYTES = 1 << 20
FILE_LINES = 2000
LINE_CHARACTERS = 1 << 16
NAME_CHARACTERS = 200
BRACKETS = 64
DEPTH = 100
"""Levels of an expression, after functions were put in place."""
TERMS = 20_000
"""Operations of one Einsum, after functions were put in place."""
PLACED = 2000
"""Einsums that the functions of a file add in all the places where they are used."""
CALLS = 32
"""Functions that use one another, one inside the next; files that import one another."""
REPORTED = 20
"""Errors that one report shows."""
LEVELS = 120
"""Levels of an expression while functions are put in place, parentheses counted."""
STEPS = 60_000
"""Terms looked at for one statement, those of functions in place included."""
COMPARED = 64
"""Characters of a name that is compared with others to find what was meant."""
CANDIDATES = 1000
"""Names with which it is compared."""
SYNTAX_ERRORS = 100
"""Lines that cannot be read, after which the rest of a file is not looked at."""
LARGEST = 2**63 - 1
"""The largest integer and the largest extent."""
