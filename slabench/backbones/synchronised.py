"""Batch norm over the images of all processes, so that several train as one.

torch's own (`nn.SyncBatchNorm`) works on CUDA alone, and is used there; this one is for the CPU.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.modules.batchnorm import _BatchNorm

from slabench.core.team import gather_equal, reduce


def synchronise(module: nn.Module, device: torch.device) -> None:
    """Replace the batch norms within `module` by synchronised ones that hold the same weights under the same names."""
    if device.type == "cuda":
        for name, child in module.named_children():
            setattr(module, name, nn.SyncBatchNorm.convert_sync_batchnorm(child))
        return
    for name, child in module.named_children():
        if isinstance(child, _BatchNorm):
            setattr(module, name, SynchronisedBatchNorm.of(child))
        else:
            synchronise(child, device)


class SynchronisedBatchNorm(_BatchNorm):
    """Batch norm of `[B, C, ...]` whose statistics in training are those of the rows of all processes.

    In eval mode it is torch's.
    """

    @classmethod
    def of(cls, norm: _BatchNorm) -> SynchronisedBatchNorm:
        """One with the weights and statistics of `norm`, the very same tensors."""
        made = cls(norm.num_features, norm.eps, norm.momentum, norm.affine, norm.track_running_stats)
        made.weight, made.bias = norm.weight, norm.bias
        made.running_mean, made.running_var = norm.running_mean, norm.running_var
        made.num_batches_tracked = norm.num_batches_tracked
        return made.train(norm.training)

    def forward(self, input: Tensor) -> Tensor:
        """`[B, C, ...]`, normalised by channel. A process may have no rows."""
        if not self.training:
            return super().forward(input)
        momentum = self.momentum
        if self.num_batches_tracked is not None:
            self.num_batches_tracked.add_(1)
            if momentum is None:
                momentum = 1 / float(self.num_batches_tracked)
        out: Tensor = _Normalise.apply(
            input, self.weight, self.bias, self.running_mean, self.running_var, momentum, self.eps
        )
        return out

    def _check_input_dim(self, input: Tensor) -> None:
        """Any number of dimensions: the norms that it replaces have checked theirs."""


class _Normalise(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        running_mean: Tensor | None,
        running_var: Tensor | None,
        momentum: float,
        eps: float,
    ) -> Tensor:
        channels = x.shape[1]
        own = torch.zeros(2 * channels + 1, dtype=torch.float64)
        if count := x.numel() // channels:
            var, mean = torch.var_mean(x.to(_exact(x)), _all_but_channels(x), correction=0)
            own[:channels], own[channels:-1], own[-1] = mean, var, count
        # Parts are put together from their own means and variances (Chan et al., 1979): sums of squares would cancel.
        found = gather_equal(own)
        means, variances, counts = found[:, :channels], found[:, channels:-1], found[:, -1:]
        total = counts.sum()
        mean = (counts * means).sum(0) / total
        var = (counts * (variances + (means - mean) ** 2)).sum(0) / total
        if running_mean is not None and running_var is not None:
            running_mean.lerp_(mean.to(running_mean), momentum)
            running_var.lerp_((var * total / (total - 1).clamp_min(1)).to(running_var), momentum)
        mean, var = mean.to(_exact(x)), var.to(_exact(x))
        ctx.save_for_backward(x, weight, mean, (var + eps).rsqrt())
        ctx.total = float(total)
        return functional.batch_norm(x, mean, var, weight, bias, False, 0.0, eps)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, mean, scale = ctx.saved_tensors
        shape, dims = [1, -1, *[1] * (x.dim() - 2)], _all_but_channels(x)
        normalised = (x.to(_exact(x)) - mean.view(shape)) * scale.view(shape)
        grad = grad.to(_exact(x))
        of_bias, of_weight = grad.sum(dims), (grad * normalised).sum(dims)
        sums = reduce(torch.stack([of_bias, of_weight])) / ctx.total
        inner = grad - sums[0].view(shape) - normalised * sums[1].view(shape)
        factor = scale if weight is None else scale * weight
        of_x = (inner * factor.view(shape)).to(x.dtype)
        # Of the own rows: what the other processes add comes with the mean over gradients.
        return of_x, None if weight is None else of_weight, None if weight is None else of_bias, None, None, None, None


def _exact(x: Tensor) -> torch.dtype:
    """What statistics of `x` are computed in: float32 for bfloat16."""
    return torch.promote_types(x.dtype, torch.float32)


def _all_but_channels(x: Tensor) -> list[int]:
    return [dim for dim in range(x.dim()) if dim != 1]
