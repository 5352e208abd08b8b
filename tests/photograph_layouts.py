"""Small copies of tiny-ImageNet, CUB-200-2011, MIT Indoor 67 and Stanford Dogs in their official layouts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image
from scipy.io import savemat
from torchvision import transforms

from slabench.data.catalog import DatasetInfo, info

CLASSES, TRAIN, TEST = 3, 4, 2


def picture(path: Path, seed: int, size: tuple[int, int] | None = None) -> None:
    """A smooth picture of an uneven size, so that JPEG keeps it and scaling matters."""
    generator = np.random.default_rng(seed)
    width, height = size or (int(generator.integers(260, 420)), int(generator.integers(260, 420)))
    small = Image.fromarray(generator.integers(0, 256, (6, 6, 3), dtype=np.uint8))
    path.parent.mkdir(parents=True, exist_ok=True)
    small.resize((width, height), Image.Resampling.BICUBIC).save(path, format="JPEG", quality=95)


def tiny_imagenet(root: Path) -> dict[str, list[Path]]:
    wnids = ["n03", "n01", "n02"]
    folder = root / "tiny-imagenet-200"
    files: dict[str, list[Path]] = {"train": [], "test": []}
    lines = []
    for c, wnid in enumerate(wnids):
        for i in range(TRAIN):
            files["train"].append(folder / "train" / wnid / "images" / f"{wnid}_{i}.JPEG")
            picture(files["train"][-1], 10 * c + i, (64, 64))
        boxes = "".join(f"{wnid}_{i}.JPEG\t0\t10\t63\t58\n" for i in range(TRAIN))
        (folder / "train" / wnid / f"{wnid}_boxes.txt").write_text(boxes)
        for i in range(TEST):
            name = f"val_{TEST * c + i}.JPEG"
            files["test"].append(folder / "val" / "images" / name)
            picture(files["test"][-1], 100 + 10 * c + i, (64, 64))
            lines.append(f"{name}\t{wnid}\t0\t32\t44\t62\n")
    (folder / "wnids.txt").write_text("\n".join(wnids) + "\n")
    (folder / "words.txt").write_text("n01\ta thing\n")
    (folder / "val" / "val_annotations.txt").write_text("".join(lines))
    (folder / "test" / "images").mkdir(parents=True)
    return files


def cub200(root: Path) -> dict[str, list[Path]]:
    folder = root / "CUB_200_2011"
    files: dict[str, list[Path]] = {"train": [], "test": []}
    names, labels, parts, number = [], [], [], 0
    for c in range(CLASSES):
        for i in range(TRAIN + TEST):
            number += 1
            name = f"{c + 1:03}.Bird_{c}/Bird_{c}_{i:04}.jpg"
            picture(folder / "images" / name, number)
            training = i % 3 != 2  # parts are mixed within a class, as in the original
            files["train" if training else "test"].append(folder / "images" / name)
            names.append(f"{number} {name}\n")
            labels.append(f"{number} {c + 1}\n")
            parts.append(f"{number} {int(training)}\n")
    (folder / "images.txt").write_text("".join(names))
    (folder / "image_class_labels.txt").write_text("".join(labels))
    (folder / "train_test_split.txt").write_text("".join(parts))
    (folder / "classes.txt").write_text("".join(f"{c + 1} {c + 1:03}.Bird_{c}\n" for c in range(CLASSES)))
    return files


def mit67(root: Path) -> dict[str, list[Path]]:
    files: dict[str, list[Path]] = {"train": [], "test": []}
    lists: dict[str, list[str]] = {"train": [], "test": []}
    for c, room in enumerate(("attic", "bar", "inside_bus")):
        for i in range(TRAIN + TEST + 1):  # one more than is listed, as in the original
            name = f"{room}/picture number {i}.jpg"
            picture(root / "Images" / name, 10 * c + i)
            if i < TRAIN + TEST:
                part = "train" if i < TRAIN else "test"
                files[part].append(root / "Images" / name)
                lists[part].append(name)
    (root / "TrainImages.txt").write_text("\n".join(lists["train"]))  # the original has no last line end either
    (root / "TestImages.txt").write_text("\r\n".join(lists["test"]) + "\r\n")
    return files


def stanford_dogs(root: Path) -> dict[str, list[Path]]:
    files: dict[str, list[Path]] = {"train": [], "test": []}
    content: dict[str, tuple[list[str], list[int]]] = {"train": ([], []), "test": ([], [])}
    for c, breed in enumerate(("n02-Chihuahua", "n03-Pug", "n01-Husky")):  # labels do not follow the alphabet
        for i in range(TRAIN + TEST):
            name = f"{breed}/{breed}_{i}.jpg"
            picture(root / "Images" / name, 10 * c + i)
            part = "train" if i < TRAIN else "test"
            files[part].append(root / "Images" / name)
            content[part][0].append(name)
            content[part][1].append(c + 1)
    (root / "lists").mkdir()
    for part, (names, labels) in content.items():
        save_list(root / "lists" / f"{part}_list.mat", names, labels)
    return files


def save_list(file: Path, names: list[str], labels: list[int]) -> None:
    cells = np.empty((len(names), 1), dtype=object)
    cells[:, 0] = names
    content = {"file_list": cells, "annotation_list": cells, "labels": np.array(labels, np.uint8)[:, None]}
    savemat(file, content, do_compression=True)


WRITERS: dict[str, Callable[[Path], dict[str, list[Path]]]] = {
    "tiny-imagenet": tiny_imagenet,
    "cub200": cub200,
    "mit67": mit67,
    "stanford-dogs": stanford_dogs,
}


def small(name: str) -> DatasetInfo:
    """The catalog's entry with the counts of the small copy."""
    counts = (
        {"per_class": (TRAIN, TEST)} if any(info(name).per_class) else {"totals": (CLASSES * TRAIN, CLASSES * TEST)}
    )
    classes = ("n01", "n02", "n03") if info(name).classes else ()
    return replace(info(name), n_classes=CLASSES, classes=classes, **counts)


def expected(file: Path, size: int) -> np.ndarray:
    """The image as torchvision prepares it, the classes' way for tests."""
    image = Image.open(file).convert("RGB")
    if size == 256:
        image = transforms.CenterCrop(256)(transforms.Resize(256)(image))
    return np.asarray(image)
