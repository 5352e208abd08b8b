"""The transformations t_0 .. t_{M-1} of SLA: quarter turns, colour permutations and their products.

Order and names follow the code of Lee, Hwang and Shin (ICML 2020), `--aug`: turns are the outer loop, channel orders the
inner one, t_0 is the identity. Copies of a batch are interleaved: row b*M + j of `TransformSet.apply(x)` is t_j(x[b]).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING

from slabench.core import registry
from slabench.core.errors import UsageError

if TYPE_CHECKING:
    from torch import Tensor

Channels = tuple[int, int, int]

_IDENTITY: tuple[Channels, ...] = ((0, 1, 2),)
_CYCLES: tuple[Channels, ...] = ((0, 1, 2), (1, 2, 0), (2, 0, 1))
_ALL_ORDERS: tuple[Channels, ...] = ((0, 1, 2), (0, 2, 1), (1, 0, 2), (1, 2, 0), (2, 0, 1), (2, 1, 0))
_ALL_TURNS = (0, 1, 2, 3)


@dataclass(frozen=True)
class TransformSet:
    """M transformations of a batch of images, the identity first.

    Attributes:
        name: kebab-case name, as in `--transforms rotation`.
        views: for each j, the number of counter-clockwise quarter turns and the order of the source channels.
    """

    name: str
    views: tuple[tuple[int, Channels], ...]

    @property
    def M(self) -> int:
        """The number of transformations, the identity included."""
        return len(self.views)

    def apply(self, images: Tensor) -> Tensor:
        """All M copies of every image, interleaved.

        Args:
            images: `[B, 3, H, W]`, any dtype; H == W if the set holds quarter turns.

        Returns:
            `[B*M, 3, H, W]` in channels-last memory; row b*M + j is t_j(images[b]).

        Raises:
            UsageError: if a quarter turn is asked of an image that is not square.
        """
        import torch

        self.check(images)
        batch, channels, height, width = images.shape
        source = images.permute(0, 2, 3, 1)
        # Written straight into channels-last storage: one pass over the copies, and convolutions need no reordering.
        out = torch.empty((batch, self.M, height, width, channels), dtype=images.dtype, device=images.device)
        for j, (turns, order) in enumerate(self.views):
            out[:, j] = _view(source, turns, order)
        return out.flatten(0, 1).permute(0, 3, 1, 2)

    def plain(self, images: Tensor) -> Tensor:
        """Every image under t_0, the identity: what an objective without copies sees."""
        return images

    def apply_each(self, images: Tensor, which: Tensor) -> Tensor:
        """One transformation an image.

        Args:
            images: `[B, 3, H, W]`.
            which: int64 `[B]`, j of each image; best on the CPU, where the rows of each j are looked up.

        Returns:
            `[B, 3, H, W]` in channels-last memory; row b is t_{which[b]}(images[b]).
        """
        import torch

        from slabench.core.uploads import upload

        self.check(images)
        source = images.permute(0, 2, 3, 1)
        out = torch.empty(source.shape, dtype=images.dtype, device=images.device)
        for j, (turns, order) in enumerate(self.views):
            rows = upload((which == j).nonzero().squeeze(1), images.device)
            if len(rows):
                out[rows] = _view(source[rows], turns, order)
        return out.permute(0, 3, 1, 2)

    def undo(self, images: Tensor, j: int) -> Tensor:
        """The inverse of t_j: `undo(t_j(x), j) == x`. Shapes as in `apply_each`."""
        turns, order = self.views[j]
        inverse = (order.index(0), order.index(1), order.index(2))
        return _view(images.permute(0, 2, 3, 1), -turns, inverse).permute(0, 3, 1, 2)

    def check(self, images: Tensor) -> None:
        """Refuse batches that the set cannot transform: not `[B, 3, H, W]`, or not square for quarter turns."""
        if images.dim() != 4 or images.shape[1] != 3:
            raise UsageError(
                f"transformations take images [B, 3, H, W], got {list(images.shape)}",
                "move the channels to the second dimension; repeat a grey image to three channels",
            )
        height, width = images.shape[2:]
        if height != width and any(turns % 2 for turns, _ in self.views):
            raise UsageError(
                f"'{self.name}' turns images by 90 degrees, and {height} x {width} is not square",
                "use square images, or a set without quarter turns: rotation2, color-perm, color-perm3",
            )


def _view(images: Tensor, turns: int, order: Channels) -> Tensor:
    """t of `images` `[B, H, W, 3]`."""
    turned = images.rot90(turns, (1, 2)) if turns % 4 else images
    if order == (0, 1, 2):
        return turned
    import torch

    channels = turned.unbind(-1)  # a list as an index would be uploaded for every copy
    return torch.stack([channels[c] for c in order], -1)


def _set(name: str, turns: tuple[int, ...], orders: tuple[Channels, ...]) -> TransformSet:
    return TransformSet(name, tuple(product(turns, orders)))


for _chosen in (
    _set("rotation", _ALL_TURNS, _IDENTITY),
    _set("rotation2", (0, 2), _IDENTITY),
    _set("color-perm", (0,), _ALL_ORDERS),
    _set("color-perm3", (0,), _CYCLES),
    _set("rot-color-perm6", (0, 2), _CYCLES),
    _set("rot-color-perm12", _ALL_TURNS, _CYCLES),
    _set("rot-color-perm24", _ALL_TURNS, _ALL_ORDERS),
):
    _turns = sorted({turn for turn, _ in _chosen.views})
    _orders = len({order for _, order in _chosen.views})
    _plural = "s" if _orders > 1 else ""
    registry.TRANSFORMS.add(
        _chosen.name, _chosen, f"M = {_chosen.M}: quarter turns {_turns}, {_orders} channel order{_plural}"
    )
TRANSFORM_SETS: Mapping[str, TransformSet] = registry.TRANSFORMS.objects()
"""By name, plug-ins included."""

IDENTITY = _set("identity", (0,), _IDENTITY)


def transform_set(name: str) -> TransformSet:
    """The transformation set called `name`; an unknown name is a usage error with a did-you-mean."""
    chosen: TransformSet = registry.TRANSFORMS.get(name)
    return chosen


def copies(name: str) -> int | None:
    """M of the transformation set of a record; None for one of a plug-in that is not installed here."""
    try:
        return transform_set(name).M
    except UsageError:
        return None


@dataclass(frozen=True)
class FunctionSet(TransformSet):
    """Transformations that are functions of a batch; see `function_set`. It has no `views` and cannot `undo`."""

    functions: tuple[Callable[[Tensor], Tensor], ...] = ()

    @property
    def M(self) -> int:
        """The number of transformations, the identity included."""
        return len(self.functions)

    def apply(self, images: Tensor) -> Tensor:
        """As `TransformSet.apply`; the memory format is contiguous."""
        import torch

        self.check(images)
        return torch.stack([function(images) for function in self.functions], 1).flatten(0, 1)

    def apply_each(self, images: Tensor, which: Tensor) -> Tensor:
        """As `TransformSet.apply_each`; the memory format is contiguous."""
        import torch

        from slabench.core.uploads import upload

        self.check(images)
        out = torch.empty_like(images, memory_format=torch.contiguous_format)
        for j, function in enumerate(self.functions):
            rows = upload((which == j).nonzero().squeeze(1), images.device)
            if len(rows):
                out[rows] = function(images[rows])
        return out

    def undo(self, images: Tensor, j: int) -> Tensor:
        """Refused: a function's inverse is not known."""
        raise UsageError(f"'{self.name}' is made of functions, whose inverses are not known", "use a set of views")


@dataclass(frozen=True)
class CachedViews(TransformSet):
    """Transformations that were applied before an embedder was: a batch is the features of all views, and t_j takes view j."""

    def apply(self, images: Tensor) -> Tensor:
        """Features of all M views, interleaved.

        Args:
            images: `[B, V, D]`, V >= M views of each image.

        Returns:
            `[B*M, D]`; row b*M + j is view j of image b.

        Raises:
            UsageError: something else than the features of at least M views.
        """
        self.check(images)
        return images[:, : self.M].flatten(0, 1)

    def plain(self, images: Tensor) -> Tensor:
        """View 0 of every image, `[B, D]`."""
        self.check(images)
        return images[:, 0]

    def apply_each(self, images: Tensor, which: Tensor) -> Tensor:
        """View `which[b]` of every image, `[B, D]`; `which` int64 `[B]`."""
        import torch

        from slabench.core.uploads import upload

        self.check(images)
        return images[torch.arange(len(images), device=images.device), upload(which, images.device)]

    def undo(self, images: Tensor, j: int) -> Tensor:
        """Refused: an embedder cannot be inverted."""
        raise UsageError(f"'{self.name}' was applied before the images were embedded", "undo it on the images")

    def check(self, images: Tensor) -> None:
        """Refuse what is not features `[B, V, D]` of at least M views."""
        if images.dim() != 3 or images.shape[1] < self.M:
            raise UsageError(
                f"features of {self.M} views have the shape [B, {self.M}, D], got {list(images.shape)}",
                "embed the images under all transformations",
            )


def cached_views(transforms: TransformSet) -> CachedViews:
    """The same transformations for features that were embedded under each of them."""
    return CachedViews(transforms.name, transforms.views)


def function_set(name: str, functions: Sequence[Callable[[Tensor], Tensor]]) -> FunctionSet:
    """A plug-in's own transformations.

    Args:
        name: kebab-case name.
        functions: t_0 .. t_{M-1}, t_0 the identity; each maps `[B, 3, H, W]` to the same shape, image by image, without
            randomness, and leaves its input as it is.
    """
    return FunctionSet(name, (), tuple(functions))
