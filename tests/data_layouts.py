"""A small data set, and writers of every layout in which a user may have it."""

from __future__ import annotations

import csv
import io
import pickle
import tarfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from slabench.data.catalog import DatasetInfo

SIZE = 8
CLASSES = ("ant", "bat", "cow")
TRAIN_PER_CLASS, TEST_PER_CLASS = 5, 3
MINI_CLASSES = ("n0001", "n0002", "n0003")

TINY = DatasetInfo(
    name="tiny",
    store="tiny",
    image_size=SIZE,
    n_classes=3,
    summary="three classes of noise",
    source="these tests",
    licence="none needed",
    mean=(127.5, 127.5, 127.5),
    std=(127.5, 127.5, 127.5),
    crop_padding=1,
    fewshot=False,
    embedded=False,
    digest=None,
    dropblock_size=2,
    classes=CLASSES,
    per_class=(TRAIN_PER_CLASS, TEST_PER_CLASS),
)
MINI = replace(
    TINY, name="mini-imagenet", store="mini-imagenet", fewshot=True, classes=MINI_CLASSES, per_class=(4, 0), n_classes=3
)


@dataclass(frozen=True)
class Part:
    """Images of one official part in the original order: uint8 [n, SIZE, SIZE, 3] and int [n]."""

    images: np.ndarray
    labels: np.ndarray


def tiny_parts(seed: int = 0) -> tuple[Part, Part]:
    """Training and test part; one test image equals a training image, as happens in CIFAR."""
    rng = np.random.default_rng(seed)
    parts = []
    for per_class in (TRAIN_PER_CLASS, TEST_PER_CLASS):
        labels = rng.permutation(np.repeat(np.arange(len(CLASSES)), per_class))
        parts.append(Part(rng.integers(0, 256, (len(labels), SIZE, SIZE, 3), dtype=np.uint8), labels))
    train, test = parts
    same = int(np.flatnonzero(train.labels == test.labels[0])[0])
    test.images[0] = train.images[same]
    return train, test


def encode(image: np.ndarray, kind: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, kind)
    return buffer.getvalue()


def write_folders(root: Path, parts: tuple[Part, Part], kind: str = "PNG") -> Path:
    for name, part in zip(("train", "test"), parts, strict=True):
        for row, (image, label) in enumerate(zip(part.images, part.labels, strict=True)):
            file = root / name / CLASSES[label] / f"{row:03}.{'jpg' if kind == 'JPEG' else 'png'}"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(encode(image, kind))
    return root


def write_parquet(
    root: Path, parts: tuple[Part, Part], label_column: str = "fine_label", shuffle: bool = False
) -> Path:
    root.mkdir(parents=True, exist_ok=True)
    for name, part in zip(("train", "test"), parts, strict=True):
        order = np.random.default_rng(1).permutation(len(part.labels)) if shuffle else np.arange(len(part.labels))
        table = pa.table(
            {
                "img": [{"bytes": encode(part.images[row]), "path": None} for row in order],
                label_column: part.labels[order].tolist(),
                "coarse_label": [0] * len(order),
            }
        )
        pq.write_table(table, root / f"{name}-00000-of-00001.parquet")
    return root


class _Python2Pickler(pickle._Pickler):  # type: ignore[name-defined]  # the pure-Python twin of pickle.Pickler
    """Writes bytes as Python 2 wrote its `str`, which is how CIFAR's batches were made."""

    dispatch: ClassVar[dict[type, Any]] = dict(pickle._Pickler.dispatch)  # type: ignore[attr-defined]

    def save_str(self, value: bytes) -> None:
        if len(value) < 256:
            self.write(pickle.SHORT_BINSTRING + bytes([len(value)]) + value)
        else:
            self.write(pickle.BINSTRING + len(value).to_bytes(4, "little") + value)
        self.memoize(value)

    dispatch[bytes] = save_str


def python2_pickle(value: Any) -> bytes:
    """What Python 2's `cPickle.dump(value, file, 2)` would have written for bytes, lists, dicts and arrays."""
    buffer = io.BytesIO()
    _Python2Pickler(buffer, 2).dump(value)
    return buffer.getvalue().replace(b"numpy._core.", b"numpy.core.")


def planes(images: np.ndarray) -> np.ndarray:
    """CIFAR's rows: all red bytes, all green, all blue."""
    return images.transpose(0, 3, 1, 2).reshape(len(images), -1).copy()


def batch_files(parts: tuple[Part, Part]) -> dict[str, bytes]:
    train, test = parts
    files = {"meta": python2_pickle({b"fine_label_names": [name.encode() for name in CLASSES]})}
    for name, part in (("train", train), ("test", test)):
        files[name] = python2_pickle({b"data": planes(part.images), b"fine_labels": part.labels.tolist()})
    return files


def cifar10_batch_files(parts: tuple[Part, Part]) -> dict[str, bytes]:
    """The other form: five training batches, `labels`, `batches.meta`."""
    train, test = parts
    files = {"batches.meta": python2_pickle({b"label_names": [name.encode() for name in CLASSES]})}
    for number, rows in enumerate(np.array_split(np.arange(len(train.labels)), 5), start=1):
        content = {b"data": planes(train.images[rows]), b"labels": train.labels[rows].tolist()}
        files[f"data_batch_{number}"] = python2_pickle(content)
    files["test_batch"] = python2_pickle({b"data": planes(test.images), b"labels": test.labels.tolist()})
    return files


def write_batches(root: Path, files: dict[str, bytes]) -> Path:
    root.mkdir(parents=True, exist_ok=True)
    for name, data in files.items():
        (root / name).write_bytes(data)
    return root


def write_archive(path: Path, files: dict[str, bytes], folder: str = "cifar-100-python") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w:gz") as tar:
        for name, data in files.items():
            member = tarfile.TarInfo(f"{folder}/{name}")
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return path


def mini_images(seed: int = 0, per_class: int = 4, size: int = SIZE) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {name: rng.integers(0, 256, (per_class, size, size, 3), dtype=np.uint8) for name in MINI_CLASSES}


def write_mini_caches(root: Path, images: dict[str, np.ndarray], *, val: str = "val") -> Path:
    """One class a split: `image_data` and `class_dict`, as the common caches have them."""
    root.mkdir(parents=True, exist_ok=True)
    for split, (name, pixels) in zip(("train", val, "test"), images.items(), strict=True):
        content = {"image_data": pixels, "class_dict": {name: list(range(len(pixels)))}}
        (root / f"mini-imagenet-cache-{split}.pkl").write_bytes(pickle.dumps(content, protocol=2))
    return root


def write_mini_csvs(root: Path, images: dict[str, np.ndarray]) -> Path:
    (root / "images").mkdir(parents=True, exist_ok=True)
    for split, (name, pixels) in zip(("train", "val", "test"), images.items(), strict=True):
        with open(root / f"{split}.csv", "w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["filename", "label"])
            for row, image in enumerate(pixels):
                (root / "images" / f"{name}{row:08}.jpg").write_bytes(encode(image))
                writer.writerow([f"{name}{row:08}.jpg", name])
    return root
