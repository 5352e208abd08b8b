"""A data set of one's own, made by a function: what a plug-in registers in `slabench.core.registry.DATASETS`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from slabench.core.code_digest import Code, code_of
from slabench.core.registry import DATASETS, Entry
from slabench.data.catalog import DatasetInfo

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from slabench.data.imageset import RawImages

_GREY = (127.5, 127.5, 127.5)


def dataset(
    name: str,
    make: Callable[[], tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64], npt.NDArray[np.bool_]]],
    classes: Sequence[str],
    image_size: int,
    summary: str,
    *,
    source: str = "made by a plug-in",
    licence: str = "see its owner",
    mean: tuple[float, float, float] = _GREY,
    std: tuple[float, float, float] = _GREY,
    class_split: Mapping[str, Sequence[str]] | None = None,
    mirror: bool = True,
    crop_padding: int = 4,
    dropblock_size: int = 2,
) -> DatasetInfo:
    """The catalog entry of a data set whose images a function gives.

    Args:
        name: kebab-case; also the name of its prepared store.
        make: gives images uint8 `[n, image_size, image_size, 3]`, labels int64 `[n]` and whether each is an official test image,
            bool `[n]`. Called once; must give the same every time, as digests and frozen episodes rest on it.
        classes: the name of each label.
        image_size: height and width in pixels.
        summary: one line.
        source: where the images come from.
        licence: what their owners say.
        mean: channel means in units of 0..255.
        std: channel standard deviations in units of 0..255.
        class_split: names of the `train`, `val` and `test` classes, for few-shot; None for a data set to classify.
        mirror: a mirrored image keeps its class.
        crop_padding: pixels around the image before the random crop.
        dropblock_size: edge of DropBlock's blocks, in cells of the last maps.
    """

    def raw() -> RawImages:
        import numpy as np

        from slabench.data.checks import check_made
        from slabench.data.imageset import RawImages

        images, labels, test = make()
        check_made(images, labels, test, name)
        return RawImages(
            images=np.ascontiguousarray(images),
            labels=np.asarray(labels, np.int64),
            parts=np.asarray(test).astype(np.uint8),
            source_positions=np.arange(len(labels), dtype=np.int32),
            class_names=tuple(classes),
            kind="plug-in",
            notes={},
        )

    return DatasetInfo(
        name=name,
        store=name,
        image_size=image_size,
        n_classes=len(classes),
        summary=summary,
        source=source,
        licence=licence,
        mean=mean,
        std=std,
        crop_padding=crop_padding,
        fewshot=class_split is not None,
        embedded=True,
        digest=None,
        dropblock_size=dropblock_size,
        mirror=mirror,
        classes=tuple(classes),
        make=raw,
        class_split=None if class_split is None else {part: tuple(names) for part, names in class_split.items()},
    )


def maker(info: DatasetInfo) -> Code | None:
    """The code that makes the images of a plug-in's data set, to which its store is tied; None for any other data set."""
    if info.make is None:
        return None
    registered = info.name in DATASETS and DATASETS.get(info.name) is info
    return code_of(DATASETS, DATASETS.entry(info.name) if registered else Entry(info.name, info, info.summary, "?"))
