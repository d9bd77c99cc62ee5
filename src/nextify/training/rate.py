"""A learning-rate check: one short training in which the rate grows, which shows whether the recipe's is good.

The range test of Smith 2017 (arXiv 1506.01186, section 3.3) with the exponential ramp that fastai made customary.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from nextify.system import native, processes
from nextify.training.prepare import Prepared
from nextify.training.request import RequestError
from nextify.training.trainer import Trainer
from nextify.training.trial import Runtime

STEPS = 100
BELOW, ABOVE = 1e-3, 1e2
"""The ramp's ends, as shares of the recipe's rate: 20 steps for each factor of ten."""
SMOOTHED_OVER = 3.0
"""Steps: sigma of the Gaussian by which the loss is smoothed, which unlike a running mean does not lag behind."""
DIVERGED = 4.0
"""Times its lowest value from which on the loss is said to diverge (fastai's)."""
BEGUN = 0.1
"""Share of the whole fall of the loss after which it is said to fall."""


@dataclass(frozen=True)
class RateRamp:
    """The loss at each rate of the ramp; it ends early where the loss diverges."""

    rates: tuple[float, ...]
    losses: tuple[float, ...]
    smoothed: tuple[float, ...]
    rate: float
    """The recipe's."""

    @property
    def good(self) -> tuple[float, float] | None:
        """The good range: from where the smoothed loss has begun to fall to the last rate at which it is no higher than
        at its lowest, but for its noise; None where it does not fall by more than that of a step."""
        loss = np.array(self.smoothed)
        lowest = int(loss.argmin())
        fall = loss[0] - loss[lowest]
        noise = float(np.std(np.array(self.losses[: lowest + 1]) - loss[: lowest + 1]))
        if fall <= noise:
            return None
        begun = int(np.argmax(loss[0] - loss >= BEGUN * fall))
        error = noise / math.sqrt(2 * math.sqrt(math.pi) * SMOOTHED_OVER)  # of the mean under the Gaussian
        last = int(np.flatnonzero(loss <= loss[lowest] + 2 * error)[-1])
        return self.rates[begun], self.rates[last]

    @property
    def verdict(self) -> str:
        """Whether the recipe's rate lies inside the good range, and what to try where it does not."""
        if self.good is None:
            return "the loss falls at no learning rate: check with nextify train --overfit-batch"
        low, high = self.good
        more = " or more" if high == self.rates[-1] else ""
        good = f"the good range, {low:.2g} to {high:.2g}{more}"
        if low <= self.rate <= high:
            return f"the rate {self.rate:.3g} lies inside {good}"
        where = "below" if self.rate < low else "above"
        return f"the rate {self.rate:.3g} lies {where} {good}: try --set learning_rate={math.sqrt(low * high):.2g}"


class _Ramp(Trainer):
    rates: Sequence[float] = ()

    def rate(self) -> float:
        return self.rates[self.step]


def find_rate(prepared: Prepared, runtime: Runtime) -> RateRamp:
    """Train for ``STEPS`` steps at growing rates, as the recipe says but without mixing, which would make the loss of
    some steps another one; keep nothing."""
    if processes.launched() > 1:
        raise RequestError("--find-rate runs in one process: start it without torchrun")
    from scipy.ndimage import gaussian_filter1d

    trial, recipe = prepared.trial, prepared.trial.recipe
    bare = recipe.with_(warmup_epochs=0.0, progressive_resizing="off", mixing="off", ema="off")
    rates = np.geomspace(BELOW * recipe.learning_rate, ABOVE * recipe.learning_rate, STEPS).tolist()
    torch.set_num_threads(runtime.threads)
    losses: list[float] = []
    with native.use_image_kernels(runtime.kernels):
        trainer = _Ramp(replace(trial, recipe=bare), prepared.images, runtime, prepared.start)
        trainer.rates = rates
        for step in range(STEPS):
            loss = float(trainer.train_step(*trainer.batches.batch(step)))
            if not math.isfinite(loss) or loss > DIVERGED * min([*losses, loss]):
                break
            losses.append(loss)
    if not losses:
        raise RequestError(
            f"the loss is NaN or infinite at a learning rate of {rates[0]:.2g}: check the training "
            f"with nextify train --overfit-batch"
        )
    smoothed = gaussian_filter1d(np.array(losses), SMOOTHED_OVER, mode="nearest").tolist()
    return RateRamp(tuple(rates[: len(losses)]), tuple(losses), tuple(smoothed), recipe.learning_rate)
