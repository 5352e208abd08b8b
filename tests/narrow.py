"""Networks with few channels under the names of the usual ones, for tests that train and do not ask how well."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

# In the environment, so that the copies of `copies.py` have them too. A process that is fresh has the usual ones.
CONV4_CHANNELS = "SLABENCH_TEST_CONV4_CHANNELS"


@contextmanager
def narrow_conv4() -> Iterator[None]:
    """Conv4 at 8 channels in place of 64, in this process and in copies."""
    from slabench.backbones.fewshot import Conv4

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("slabench.backbones.fewshot.conv4", lambda image_size: Conv4(image_size, 8))
        patch.setenv(CONV4_CHANNELS, "8")
        yield


@contextmanager
def narrow_resnets() -> Iterator[None]:
    """ResNet-20 and ResNet-32 that begin with 4 channels in place of 16, and ResNet-12 with 4 in place of 32 or 64."""
    from slabench.backbones.fewshot import ResNet12
    from slabench.backbones.resnet import CifarResNet

    def resnet12(image_size: int, dropblock_size: int = 2, drop_rate: float = 0.1) -> ResNet12:
        return ResNet12(image_size, (4, 8, 8, 8), dropblock_size, drop_rate)

    with pytest.MonkeyPatch.context() as patch:
        for name in ("resnet12", "resnet12_slim"):
            patch.setattr(f"slabench.backbones.fewshot.{name}", resnet12)
        for name, blocks in (("resnet20", 3), ("resnet32", 5)):
            make = lambda size, blocks=blocks: CifarResNet(size, (blocks,) * 3, 4, "A")  # noqa: E731
            patch.setattr(f"slabench.backbones.resnet.{name}", make)
        yield
