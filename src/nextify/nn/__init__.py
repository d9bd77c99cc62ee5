"""Torch modules that build any Layout. Nothing here knows what a Design means."""
