"""The one way from the host's memory to a device's, which does not make the host wait."""

from __future__ import annotations

import torch
from torch import Tensor


def upload(tensor: Tensor, device: torch.device) -> Tensor:
    """`tensor` on `device`; itself where it is there already.

    From the CPU to CUDA it is copied from page-locked memory, in its turn: a plain copy would make the host wait until the
    device has done all that it was given before, and a training step makes several. torch keeps such memory until it is copied.

    Args:
        tensor: of any shape, on any device.
        device: where it is needed.
    """
    if tensor.device.type == "cpu" and device.type == "cuda":
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)
