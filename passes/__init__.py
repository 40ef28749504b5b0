"""Analyses (representation to fact) and rewrites (representation to representation)."""
