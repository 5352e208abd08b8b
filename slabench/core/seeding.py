"""Seeds derived by name. Nothing here reads or sets a global random state, but for `fork_for_init`, which restores it.

One trial seed gives independent streams for initialisation, episode order, augmentation and dropout:
`derive(seed, "order", step)`. Each step has a seed of its own, so that a resumed run needs no saved generator state
and draws what the uninterrupted one would have drawn.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy
    import torch


def derive(seed: int, *names: str | int) -> int:
    """A 63-bit seed that depends on `seed` and every one of `names`, in order.

    The hash is sha256, so that streams of neighbouring seeds are unrelated (DomainBed's `seed_hash` does the same).
    """
    text = "\x1f".join([str(seed), *(str(name) for name in names)])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def torch_generator(seed: int, *names: str | int, device: str | torch.device = "cpu") -> torch.Generator:
    """A torch generator of its own on `device`, seeded with `derive(seed, *names)`."""
    import torch

    return torch.Generator(device=device).manual_seed(derive(seed, *names))


def numpy_generator(seed: int, *names: str | int) -> numpy.random.Generator:
    """A numpy generator of its own, seeded with `derive(seed, *names)`."""
    import numpy

    return numpy.random.Generator(numpy.random.PCG64(derive(seed, *names)))


@contextlib.contextmanager
def fork_for_init(seed: int, *names: str | int) -> Iterator[None]:
    """Seed torch's CPU state for building a module (its constructors draw from it), and put the state back after."""
    import torch

    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(derive(seed, *names))
        yield
