"""attnc: from an attention algorithm, as a paper writes it, to the kernel that computes it."""

__version__ = "0.1.0"
