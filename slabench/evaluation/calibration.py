"""Whether probabilities mean what they say: a temperature from validation, and the NLL and ECE of logits with and without it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from torch import Tensor

from slabench.evaluation.metrics import expected_calibration_error

MAX_TEMPERATURE = 100.0
"""T is searched between its inverse and it."""


def fit_temperature(z: Tensor, labels: Tensor, most: float = MAX_TEMPERATURE) -> float:
    """T of the least mean NLL of softmax(z / T) (Guo et al., ICML 2017, section 4.2), within `1 / most` .. `most`.

    The likelihood is concave in 1 / T, so its slope is bisected. The end of the range where it has no optimum within.

    Args:
        z: float `[n, C]`.
        labels: int64 `[n]`.
        most: the end of the range.
    """
    z, low, high = z.double(), -math.log(most), math.log(most)
    own = z.gather(1, labels.unsqueeze(1)).mean()

    def slope(log_b: float) -> float:
        """d NLL / d b at b = 1 / T: the expected logit less the true one's. It rises with b."""
        return float(((math.exp(log_b) * z).softmax(1) * z).sum(1).mean() - own)

    if slope(high) <= 0:
        return 1 / most
    if slope(low) >= 0:
        return most
    for _ in range(50):
        middle = (low + high) / 2
        low, high = (low, middle) if slope(middle) > 0 else (middle, high)
    return math.exp(-(low + high) / 2)


@dataclass
class Reliability:
    """Confidences of predictions, gathered part by part, at one or several temperatures.

    Attributes:
        temperatures: T by which logits are divided.
    """

    temperatures: Sequence[float] = (1.0,)
    _confidence: list[list[Tensor]] = field(default_factory=list)
    _right: list[Tensor] = field(default_factory=list)
    _nll: list[list[Tensor]] = field(default_factory=list)

    def add(self, logits: Tensor, labels: Tensor) -> None:
        """Take in logits `[..., C]` and labels int64 `[...]`."""
        z, truth = logits.double().flatten(0, -2), labels.flatten()
        log_p = [(z / t).log_softmax(-1) for t in self.temperatures]
        self._confidence.append([p.amax(-1).exp().cpu() for p in log_p])
        self._nll.append([-p.gather(1, truth.unsqueeze(1)).squeeze(1).cpu() for p in log_p])
        self._right.append((z.argmax(-1) == truth).cpu())

    def nll(self) -> list[float]:
        """Mean negative log-likelihood (natural logarithm) at each temperature."""
        return [float(np.concatenate(parts).mean()) for parts in zip(*self._nll, strict=True)]

    def ece(self) -> list[float]:
        """`slabench.evaluation.metrics.expected_calibration_error` at each temperature."""
        right = np.concatenate(self._right)
        return [
            expected_calibration_error(np.concatenate(parts), right) for parts in zip(*self._confidence, strict=True)
        ]
