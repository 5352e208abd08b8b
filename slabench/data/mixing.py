"""Mixing images in pairs, with the labels of both: mixup, CutMix, Remix and CMO.

All four give each image a partner and a share of it, and say how much of the first label is left. The loss of a mixed image is
share * L(a) + (1 - share) * L(b). SLA's transformations come after mixing: turns and channel orders act on both partners alike,
so that copy j carries the joint labels (a, j) and (b, j).

| name | image | share of the first label | source |
|---|---|---|---|
| mixup | s x_a + (1 - s) x_b, s ~ Beta(alpha, alpha) | s | Zhang et al., ICLR 2018 |
| cutmix | x_a with a box of x_b, of area 1 - s | what is left of x_a | Yun et al., ICCV 2019 |
| remix | as mixup | 0, 1 or s by the classes' counts | Chou et al., ECCVW 2020, eq. 6 |
| cmo | as cutmix, the partner drawn by inverse class frequency | as cutmix | Park et al., CVPR 2022 |
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from slabench.core.errors import UsageError, unknown_name
from slabench.core.uploads import upload

MIXINGS: dict[str, str] = {
    "none": "every image by itself",
    "mixup": "weighted sums of two images",
    "cutmix": "a box of another image",
    "remix": "mixup whose labels favour the rarer class",
    "cmo": "CutMix with boxes of rare classes on common backgrounds",
}

REMIX_KAPPA, REMIX_TAU = 3.0, 0.5
CMO_CHANCE = 0.5


@dataclass(frozen=True)
class Mixed:
    """A batch of mixed images.

    Attributes:
        images: as they came, mixed.
        first: int64 `[B]`.
        second: int64 `[B]`, labels of the partners.
        share: float32 `[B]`, how much of the first label is left.
    """

    images: Tensor
    first: Tensor
    second: Tensor
    share: Tensor

    def loss(self, loss: Callable[[Tensor, Tensor], Tensor], logits: Tensor) -> Tensor:
        """Loss of each mixed image `[B]` from logits `[B, C]`, by a loss of each sample."""
        return self.share * loss(logits, self.first) + (1 - self.share) * loss(logits, self.second)


def mix(
    name: str,
    images: Tensor,
    labels: Tensor,
    generator: np.random.Generator,
    *,
    counts: Sequence[int] | None = None,
    alpha: float = 1.0,
    partners: tuple[Tensor, Tensor] | None = None,
) -> Mixed:
    """Mix a batch by the rule called `name`.

    Args:
        name: one of `MIXINGS`.
        images: float `[B, 3, H, W]`.
        labels: int64 `[B]`.
        generator: shares, boxes and partners are drawn from it.
        counts: training images by class; `remix` alone.
        alpha: of the Beta distribution.
        partners: images and labels to mix in, as many as there are; by default the batch itself in another order. `cmo` needs
            them, drawn by `inverse_frequency`.

    Raises:
        UsageError: an unknown name, or what the rule needs is missing.
    """
    if name not in MIXINGS:
        raise unknown_name("mixing", name, MIXINGS)
    batch = len(images)
    if name == "none":
        return Mixed(images, labels, labels, torch.ones(batch, device=images.device))
    if alpha <= 0:
        raise UsageError(f"mixing with alpha {alpha}: Beta(alpha, alpha) needs a positive one", "1 is usual")
    if name == "cmo" and partners is None:
        raise UsageError("cmo mixes in images drawn by inverse class frequency, and none were given", "pass `partners`")
    if name == "remix" and counts is None:
        raise UsageError("remix compares the counts of two classes, and none were given", "pass `counts`")
    if partners is None:
        order = upload(torch.from_numpy(generator.permutation(batch)), images.device)
        partners = images[order], labels[order]
    others, second = partners
    if others.shape != images.shape or second.shape != labels.shape:
        raise UsageError(f"partners {list(others.shape)} do not fit a batch {list(images.shape)}")
    drawn = torch.from_numpy(generator.beta(alpha, alpha, batch)).to(torch.float32)
    if name in ("mixup", "remix"):
        drawn = upload(drawn, images.device)
        s = drawn.view(-1, 1, 1, 1).to(images.dtype)
        mixed = s * images + (1 - s) * others
        share = drawn if counts is None or name == "mixup" else remix_share(drawn, labels, second, counts)
        return Mixed(mixed, labels, second, share)
    if name == "cmo":
        # Half of the batch stays as it is: a box of area nothing.
        kept = torch.from_numpy(generator.random(batch) >= CMO_CHANCE)
        drawn = torch.where(kept, torch.ones_like(drawn), drawn)
    inside = upload(boxes(drawn, images.shape[-2], images.shape[-1], generator), images.device)
    share = 1 - inside.float().mean((1, 2))
    return Mixed(torch.where(inside.unsqueeze(1), others, images), labels, second, share)


def boxes(share: Tensor, height: int, width: int, generator: np.random.Generator) -> Tensor:
    """Boxes of area about 1 - share around uniform centres, cut at the border: bool `[B, H, W]`.

    As in CutMix's code: sides sqrt(1 - share) of the image's, rounded down, and the centre anywhere in it. `share` is on the CPU,
    where it was drawn, and so are the boxes.
    """
    cut = (1 - share).clamp_min(0).sqrt()
    masks = []
    for size in (height, width):
        side = (size * cut).long()
        centre = torch.from_numpy(generator.integers(0, size, len(share)))
        low, high = (centre - side // 2).clamp(0, size), (centre + side // 2).clamp(0, size)
        place = torch.arange(size)
        masks.append((place >= low[:, None]) & (place < high[:, None]))  # [B, size]
    return masks[0][:, :, None] & masks[1][:, None, :]


def remix_share(share: Tensor, first: Tensor, second: Tensor, counts: Sequence[int]) -> Tensor:
    """Remix's label share: all to the rarer class where it is kappa times rarer and has a part of at least 1 - tau.

    0 (all to the second) if n_a / n_b >= kappa and share < tau; 1 if n_a / n_b <= 1 / kappa and 1 - share < tau; else share.
    """
    n = upload(torch.as_tensor(list(counts), dtype=torch.float32), share.device)
    ratio = n[first] / n[second]
    to_second = (ratio >= REMIX_KAPPA) & (share < REMIX_TAU)
    to_first = (ratio <= 1 / REMIX_KAPPA) & (1 - share < REMIX_TAU)
    return torch.where(to_second, torch.zeros_like(share), torch.where(to_first, torch.ones_like(share), share))


def inverse_frequency(class_rows: Sequence[np.ndarray], size: int, generator: np.random.Generator) -> np.ndarray:
    """Rows of CMO's boxes: class i with a chance proportional to 1 / n_i, then an image of it: int64 `[size]`."""
    n = np.array([len(rows) for rows in class_rows], dtype=np.float64)
    if (n == 0).any():
        raise UsageError("drawing by inverse frequency needs classes that have images", "leave empty classes out")
    classes = generator.choice(len(n), size, p=(1 / n) / (1 / n).sum())
    within = (generator.random(size) * n[classes]).astype(np.int64)
    starts = np.concatenate([[0], np.cumsum(n)[:-1]]).astype(np.int64)
    rows: np.ndarray = np.concatenate(class_rows)[starts[classes] + within]
    return rows.astype(np.int64)
