"""Whole blocks of small networks in training."""
