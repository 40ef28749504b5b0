"""Linear recurrences: what makes one, its gates, its form in chunks."""
