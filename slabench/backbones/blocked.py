"""oneDNN's own memory layout, for training on the CPU.

In channels-last memory torch's batch norm takes 16 channels a pixel, half of an AVX-512 register of bfloat16, and is three
times slower than oneDNN's; convolutions and ReLU gain a little too. torch has that layout behind opaque tensors (`to_mkldnn`) and
most of its operators train on them, but not `conv2d`: its derivative is written here, by the operators that torch itself calls.
A step of ResNet-32 takes five sixths of the time in bfloat16 and nine tenths in float32 (benchmarks/speed/classifier.py).
"""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

from slabench.backbones.synchronised import SynchronisedBatchNorm


def enter(module: nn.Module, images: Tensor) -> Tensor:
    """`images` in the blocked layout and in the precision of the pass, where `module` may train on them so; else as they are.

    It may in training on the CPU, unless weights are results of other operators, as in MAML's inner loop: that differentiates
    twice, which only torch's own convolution can. Nor where batch norms are over several processes: those read plain tensors.
    """
    if not (
        module.training and torch.is_grad_enabled() and images.device.type == "cpu" and images.dtype == torch.float32
    ):
        return images
    if not (torch.backends.mkldnn.is_available() and all(weight.is_leaf for weight in module.parameters())):
        return images
    if any(isinstance(part, SynchronisedBatchNorm) for part in module.modules()):
        return images
    if not torch.is_autocast_enabled("cpu"):
        return images.to_mkldnn()
    if torch.get_autocast_dtype("cpu") == torch.bfloat16 and _multiplies_bfloat16():
        return images.bfloat16().to_mkldnn()
    return images


def leave(x: Tensor) -> Tensor:
    """`x` in a layout that every operator knows."""
    return x.to_dense() if x.is_mkldnn else x


@cache
def _multiplies_bfloat16() -> bool:
    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


class Conv2d(nn.Conv2d):
    """`nn.Conv2d` that trains on blocked tensors too: without bias, groups and dilation, zeros around."""

    def forward(self, x: Tensor) -> Tensor:
        """`[B, C', H', W']` of `[B, C, H, W]`, in the layout of `x`."""
        if not x.is_mkldnn:
            return super().forward(x)
        assert self.bias is None
        return _Convolution.apply(x, self.weight.to(x.dtype), self.stride, self.padding)  # type: ignore[no-any-return]


class _Convolution(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, stride: tuple[int, int], padding: tuple[int, int]) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.geometry = stride, padding
        out: Tensor = torch.ops.aten.mkldnn_convolution(x, weight, None, padding, stride, (1, 1), 1)
        return out

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor, None, None]:
        x, weight = ctx.saved_tensors
        stride, padding = ctx.geometry
        asked = ctx.needs_input_grad[0], True, False
        of_x, of_weight, _ = torch.ops.aten.convolution_backward(
            grad, x, weight, None, stride, padding, (1, 1), False, (0, 0), 1, asked
        )
        return of_x, of_weight, None, None
