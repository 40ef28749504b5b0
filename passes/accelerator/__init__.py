"""What a cascade costs on a described accelerator."""
