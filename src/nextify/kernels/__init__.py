"""Faster versions of single layers, installed into a finished network.

``install(model, "auto" | "on" | "off")`` puts them in, ``describe(model)`` says which layers use which kernel and why.
"""

from nextify.kernels.choice import Choice, libraries
from nextify.kernels.modules import Installed, describe, install, installed

__all__ = ["Choice", "Installed", "describe", "install", "installed", "libraries"]
