"""Convolutions of patches: as wide as their stride, without padding."""
