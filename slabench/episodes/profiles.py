"""How the images of an episode are shared out among its classes: supports and queries need not be balanced.

A profile is written `shape:number`. `linear:9`, `step:9` and `exp:9` give the largest class nine times the images of the smallest
(the imbalance ratio; shapes as in Ochal et al., "Few-Shot Learning with Class Imbalance", 2021), the classes of an episode
in random order. `dirichlet:2` draws the shares of each episode from a symmetric Dirichlet distribution (Veilleux et al.,
NeurIPS 2021, who take 2 for queries). Whatever the profile, an episode has N*K supports and N*Q queries: `--shots` and
`--queries` are the mean of a class, and rows of different profiles cost the same.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from slabench.core.errors import UsageError, unknown_name

BALANCED = "balanced"
SHAPES = ("linear", "step", "exp", "dirichlet")


@dataclass(frozen=True)
class Profile:
    """A parsed profile.

    Attributes:
        shape: `balanced`, or one of `SHAPES`.
        number: the imbalance ratio, or the concentration of `dirichlet`; 0 for `balanced`.
    """

    shape: str
    number: float

    @property
    def balanced(self) -> bool:
        """Whether every class gets the same."""
        return self.shape == BALANCED

    def __str__(self) -> str:
        return self.shape if self.balanced else f"{self.shape}:{self.number:g}"

    @property
    def short(self) -> str:
        """For file names: `linear9`."""
        return f"{self.shape}{self.number:g}"

    def counts(self, ways: int, mean: int, n: int, generator: np.random.Generator, least: int) -> NDArray[np.int64]:
        """Images of each class of `n` episodes, int64 `[n, ways]`; every row sums to ways * mean.

        Args:
            ways: N.
            mean: images a class on average.
            n: how many episodes.
            generator: numpy generator.
            least: images that every class gets whatever its share: 1 for supports; 0 for queries drawn at random.
        """
        if self.balanced:
            return np.full((n, ways), mean, dtype=np.int64)
        if self.shape == "dirichlet":
            shares = generator.dirichlet(np.full(ways, self.number), size=n)
        else:
            places = np.arange(ways)
            weights = {
                "linear": 1 + (self.number - 1) * places / max(1, ways - 1),
                "step": np.where(places < ways // 2, 1.0, self.number),
                "exp": self.number ** (places / max(1, ways - 1)),
            }[self.shape]
            shares = generator.permuted(np.tile(weights / weights.sum(), (n, 1)), axis=1)
        return _apportion(shares, ways * mean, least)


def parse_profile(text: str, flag: str = "--support-profile") -> Profile:
    """The profile that `text` names.

    Raises:
        UsageError: an unknown shape (with a did-you-mean), a number that is missing or out of range.
    """
    shape, colon, number = text.partition(":")
    if shape == BALANCED and not colon:
        return Profile(BALANCED, 0.0)
    if shape not in SHAPES:
        raise unknown_name("profile", shape, (BALANCED, *SHAPES))
    remedy = f"write for example {flag} {'dirichlet:2' if shape == 'dirichlet' else f'{shape}:9'}"
    try:
        value = float(number)
    except ValueError:
        raise UsageError(f"{flag} {text} has no number after the shape", remedy) from None
    if not np.isfinite(value) or value <= 0 or (shape != "dirichlet" and value < 1):
        least = "a concentration above 0" if shape == "dirichlet" else "a ratio of 1 or more"
        raise UsageError(f"{flag} {text}: {shape} takes {least}", remedy)
    return Profile(shape, value)


def _apportion(shares: NDArray[np.float64], total: int, least: int) -> NDArray[np.int64]:
    """Whole numbers `[n, N]` near shares * total that sum to it (largest remainders), none below `least`."""
    ways = shares.shape[1]
    if total < least * ways:
        raise UsageError(
            f"{total} images cannot give each of {ways} classes at least {least}", "raise --shots or --queries"
        )
    exact = shares * total
    counts = np.maximum(np.floor(exact).astype(np.int64), least)
    gap = exact - counts
    missing = total - counts.sum(1)
    while bool((missing != 0).any()):
        # One image more where a class falls shortest, or one less where it has most too many: at most N rounds.
        more, less = np.flatnonzero(missing > 0), np.flatnonzero(missing < 0)
        up = gap[more].argmax(1)
        counts[more, up] += 1
        down = np.where(counts[less] > least, gap[less], np.inf).argmin(1)
        counts[less, down] -= 1
        gap = exact - counts
        missing = total - counts.sum(1)
    return counts
