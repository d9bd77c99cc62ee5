"""Weights in and out: other libraries' names, safe reading, the bundle, the Hub, preprocessing."""
