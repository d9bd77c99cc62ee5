"""Faster versions of layers and blocks, for networks that are already built.

``install(model, "auto" | "on" | "off")`` puts them in; ``describe(model)`` says which kernel each layer uses and why.
"""

from nextify.kernels.choice import Choice, libraries
from nextify.kernels.modules import Installed, describe, install, installed

__all__ = ["Choice", "Installed", "describe", "install", "installed", "libraries"]
