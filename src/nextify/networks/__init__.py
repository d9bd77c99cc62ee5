"""A Design becomes a torch module."""
