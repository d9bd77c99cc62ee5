"""One short trainer, and the pure helpers beside it."""
