"""Weights in and out: other libraries' names, safe reading, the bundle, the Hub, preprocessing.

``load`` reads from anywhere, ``save_bundle`` writes what nextify ships, ``convert`` goes from one library to another.
"""

from nextify.data.foreign import Differences, library_settings, report_differences
from nextify.data.preprocessing import Preprocessing, PreprocessingError
from nextify.weights.bundle import About, Bundle, Metric, is_bundle, load_bundle, save_bundle, save_ensemble
from nextify.weights.convert import Conversion, convert
from nextify.weights.hub import model_card, pull, push
from nextify.weights.loading import Loaded, load, load_into
from nextify.weights.naming import NAMINGS, Naming, WeightsError, recognize, rename
from nextify.weights.reading import UnsafeFile, read_weights
from nextify.weights.sources import find

__all__ = [
    "NAMINGS",
    "About",
    "Bundle",
    "Conversion",
    "Differences",
    "Loaded",
    "Metric",
    "Naming",
    "Preprocessing",
    "PreprocessingError",
    "UnsafeFile",
    "WeightsError",
    "convert",
    "find",
    "is_bundle",
    "library_settings",
    "load",
    "load_bundle",
    "load_into",
    "model_card",
    "pull",
    "push",
    "read_weights",
    "recognize",
    "rename",
    "report_differences",
    "save_bundle",
    "save_ensemble",
]
