"""The exact GELU."""
