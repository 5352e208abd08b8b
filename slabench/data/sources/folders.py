"""One folder a class: `train/<class>/*.png|jpg` and `test/<class>/*.png|jpg`."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from slabench.core.errors import DataError
from slabench.data.catalog import DatasetInfo
from slabench.data.imageset import TEST_PART, TRAIN_PART, RawImages
from slabench.data.sources import Kind
from slabench.data.sources.pixels import check_class_names, decode_all

_LAYOUT = "class folders train/<class>/*.png|jpg and test/<class>/*.png|jpg"
_PARTS = (("train", TRAIN_PART), ("test", TEST_PART))
_ENDS = (".png", ".jpg", ".jpeg")


def find(path: Path) -> bool:
    """Whether `path` has a folder `train` with folders in it."""
    train = path / "train"
    return train.is_dir() and any(child.is_dir() for child in train.iterdir())


def read(path: Path, entry: DatasetInfo) -> RawImages:
    """Read every image below `path`. File names say nothing of the original order: positions are unknown."""
    files: list[Path] = []
    labels: list[int] = []
    parts: list[int] = []
    for name, part in _PARTS:
        if not (path / name).is_dir():
            raise DataError(f"{path} has no folder '{name}'", f"slabench reads {_LAYOUT}")
        classes = sorted(
            child.name for child in (path / name).iterdir() if child.is_dir() and not child.name.startswith(".")
        )
        check_class_names(classes, sorted(entry.classes), path / name, entry.store)
        for label, class_name in enumerate(entry.classes):
            found = sorted(
                file
                for file in (path / name / class_name).iterdir()
                if file.suffix.lower() in _ENDS and not file.name.startswith(".")
            )
            if not found:
                raise DataError(
                    f"class '{class_name}' has no image in {path / name / class_name}",
                    "complete the folder, then import",
                )
            files += found
            labels += [label] * len(found)
            parts += [part] * len(found)
    images, formats = decode_all(
        lambda row: files[row].read_bytes(), lambda row: str(files[row]), len(files), entry.image_size, fit="exact"
    )
    return RawImages(
        images=images,
        labels=np.array(labels, np.int64),
        parts=np.array(parts, np.uint8),
        source_positions=np.full(len(files), -1, np.int32),
        class_names=entry.classes,
        kind="folders",
        notes={"image_formats": formats},
    )


KIND = Kind(_LAYOUT, find, read)
