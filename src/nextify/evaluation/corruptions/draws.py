"""Random numbers that depend only on a key, not on NumPy's version or the machine.

NumPy guarantees the raw words of a bit generator across versions, but not its distributions. Everything here is
therefore made from raw words, which is also faster: 16 bits index a table, 32 make a uniform number.
"""

import math
from functools import lru_cache

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]


class Draws:
    """A stream of numbers for one key."""

    def __init__(self, *key: int) -> None:
        self._words = np.random.PCG64(np.random.SeedSequence([k & (2**64 - 1) for k in key]))

    def bits(self, count: int) -> npt.NDArray[np.uint16]:
        """``count`` uniform integers below 65,536."""
        raw = self._words.random_raw(-(-count // 4))
        return np.asarray(raw, "<u8").view("<u2")[:count]

    def uniform(self, low: float, high: float, *shape: int) -> Floats:
        """Uniform between ``low`` and ``high``, in steps of 2⁻³² of the range (or a float's own, if coarser)."""
        count = math.prod(shape)
        raw = np.asarray(self._words.random_raw(-(-count // 2)), "<u8").view("<u4")[:count]
        scaled = raw.astype(np.float32)
        scaled *= np.float32((high - low) / 2**32)
        scaled += np.float32(low)
        return scaled.reshape(shape)

    def number(self, low: float, high: float) -> float:
        return float(self.uniform(low, high, 1)[0])

    def integers(self, low: int, high: int, count: int) -> npt.NDArray[np.int32]:
        """Integers from ``low`` to ``high - 1``; none is more than ``(high - low) / 65,536`` likelier than another."""
        numbers = self.bits(count).astype(np.int32)
        numbers *= high - low  # up to 32,767
        numbers >>= 16
        numbers += low
        return numbers

    def normal(self, *shape: int) -> Floats:
        """Standard normal numbers: 65,536 equally likely quantiles, so none beyond ±4.32; their variance is 0.9999."""
        return _quantiles().take(self.bits(math.prod(shape))).reshape(shape)


@lru_cache(maxsize=1)
def _quantiles() -> Floats:
    from scipy.special import ndtri

    return ndtri((np.arange(65_536) + 0.5) / 65_536).astype(np.float32)  # type: ignore[no-any-return]
