"""Faster versions of single layers."""
