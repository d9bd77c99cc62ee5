"""Masked autoencoders: a design whose encoder sees part of an image, and a decoder that restores the rest."""
