"""From a representation to results or to source text."""
