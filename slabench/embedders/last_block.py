"""Where the last block of a network begins: the maps that go into it, and what makes features of them.

The last block is the last module of the network's chain of blocks or stages, with all that follows it up to the pooled features.
It depends on the family, so families are listed; a network of another one is refused by name, and one of these is measured
before it is believed (`check_cut`).
"""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from slabench.core.errors import UsageError


@dataclass(frozen=True)
class Family:
    """Networks of timm that are cut at the same place.

    Attributes:
        kind: the class in timm.
        chain: the attribute whose last module is the block.
        before: what images go through before it, beside the rest of the chain.
        after: what comes between the block and `forward_head`, in order.
        single: that attribute is the block itself.
    """

    kind: str
    chain: str
    before: tuple[str, ...]
    after: tuple[str, ...]
    single: bool = False


_TOKENS = ("patch_embed", "pos_drop", "patch_drop", "norm_pre", "pos_embed", "cls_token", "reg_token")

FAMILIES = {
    family.kind: family
    for family in (
        Family("EfficientNet", "blocks", ("conv_stem", "bn1"), ("conv_head", "bn2")),
        Family("MobileNetV3", "blocks", ("conv_stem", "bn1"), ()),
        Family("ResNet", "layer4", ("conv1", "bn1", "act1", "maxpool", "layer1", "layer2", "layer3"), (), single=True),
        Family("RegNet", "s4", ("stem", "s1", "s2", "s3"), ("final_conv",), single=True),
        Family("ConvNeXt", "stages", ("stem",), ("norm_pre",)),
        Family("VisionTransformer", "blocks", _TOKENS, ("norm",)),
    )
}
"""By the name of the class in timm; docs/adapters.md tells them."""


@dataclass(frozen=True, eq=False)
class Cut:
    """A network in two parts.

    Attributes:
        block: names of the modules of the second part, for people and manifests.
        entered: the module of the whole network whose input are the maps.
        tail: the second part, with weights of its own: maps float32 `[B, ...]` to features `[B, D]`.
    """

    block: str
    entered: nn.Module
    tail: nn.Module


class _Tail(nn.Module):
    """What is left of a network of timm without all that comes before its last block."""

    def __init__(self, network: nn.Module, family: Family) -> None:
        super().__init__()
        self.network: Any = network
        self._family = family

    def forward(self, maps: Tensor) -> Tensor:
        """Features `[B, D]`."""
        x = _last(self.network, self._family)(maps)
        for name in self._family.after:
            x = getattr(self.network, name)(x)
        return self.network.forward_head(x, pre_logits=True)  # type: ignore[no-any-return]


def _last(network: nn.Module, family: Family) -> nn.Module:
    chain: Any = getattr(network, family.chain)
    return chain if family.single else chain[-1]  # type: ignore[no-any-return]


def cut_timm(network: nn.Module) -> Cut | None:
    """A network of timm, made without its classifier, cut before its last block; None for one of an unknown family."""
    family = FAMILIES.get(type(network).__name__)
    if family is None:
        return None
    rest: Any = deepcopy(network).eval()
    for name in family.before:
        part = getattr(rest, name, None)
        setattr(rest, name, nn.Identity() if isinstance(part, nn.Module) else None)
    last, chain = family.chain, getattr(rest, family.chain)
    if not family.single:
        last = f"{family.chain}.{len(chain) - 1}"
        for place in range(len(chain) - 1):
            chain[place] = nn.Identity()
    return Cut(", ".join((last, *family.after)), _last(network, family), _Tail(rest, family))


class WithMaps(nn.Module):
    """A network that gives maps and features of images in one pass.

    Args:
        network: images `[B, 3, H, W]` to features `[B, D]`.
        entered: see `Cut`.
    """

    def __init__(self, network: nn.Module, entered: nn.Module) -> None:
        super().__init__()
        self.network = network
        self._maps: Tensor | None = None
        entered.register_forward_pre_hook(self._keep)

    def _keep(self, module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        self._maps = inputs[0]

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Maps `[B, ...]` and features `[B, D]`."""
        features = self.network(images)
        maps, self._maps = self._maps, None
        assert maps is not None
        return maps, features


_TOLERANCE = 1e-3


@torch.no_grad()
def check_cut(name: str, network: nn.Module, cut: Cut | None, size: int) -> tuple[int, ...]:
    """Refuse a network whose features do not follow from its maps; the shape of an image's maps.

    Args:
        name: for errors, such as `timm:tf_efficientnet_lite0`.
        network: in eval mode, on the CPU.
        cut: of it; None where nobody knows it.
        size: of its input.

    Raises:
        UsageError: it has no last block that is known here.
    """
    known = f"families of timm whose last block is known: {', '.join(FAMILIES)}; or leave --maps out"
    if cut is None:
        raise UsageError(
            f"--maps: where the last block of {name} ({type(network).__name__}) begins is not known", known
        )
    images = torch.rand(2, 3, size, size, generator=torch.Generator().manual_seed(0))
    seen: list[Tensor] = []
    handle = cut.entered.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    try:
        features = network(images)
    finally:
        handle.remove()
    if len(seen) != 1 or not torch.allclose(cut.tail(seen[0]), features, rtol=_TOLERANCE, atol=_TOLERANCE):
        raise UsageError(f"--maps: the features of {name} do not follow from the maps before {cut.block}", known)
    return tuple(seen[0].shape[1:])
