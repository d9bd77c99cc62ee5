"""Detectors and segmenters: heads on the backbones of this package and of timm."""
