"""tiny-ImageNet, CUB-200-2011, MIT Indoor 67 and Stanford Dogs: small copies in the official layouts, whole and damaged."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.io import savemat
from torchvision import transforms

from slabench.data.catalog import DatasetInfo, info
from slabench.data.classification import input_size, load_images
from slabench.data.sources.detect import import_dataset
from slabench.errors import DataError

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
        (folder / "train" / wnid / f"{wnid}_boxes.txt").write_text(f"{wnid}_0.JPEG\t0\t0\t63\t63\n")
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
    (root / "TrainImages.txt").write_text("\n".join(lists["train"]))
    (root / "TestImages.txt").write_text("\n".join(lists["test"]) + "\n")
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
        cells = np.empty((len(names), 1), dtype=object)
        cells[:, 0] = names
        savemat(root / "lists" / f"{part}_list.mat", {"file_list": cells, "labels": np.array(labels)[:, None]})
    return files


WRITERS: dict[str, Callable[[Path], dict[str, list[Path]]]] = {
    "tiny-imagenet": tiny_imagenet,
    "cub200": cub200,
    "mit67": mit67,
    "stanford-dogs": stanford_dogs,
}


def small(name: str) -> DatasetInfo:
    """The catalog's entry with the counts of the small copy."""
    per_class = (TRAIN, TEST) if info(name).per_class != (0, 0) else (0, 0)
    return replace(info(name), n_classes=CLASSES, per_class=per_class, totals=(CLASSES * TRAIN, CLASSES * TEST))


def expected(file: Path, size: int) -> np.ndarray:
    """The image as torchvision prepares it, the classes' way for tests."""
    image = Image.open(file).convert("RGB")
    if size == 256:
        image = transforms.CenterCrop(256)(transforms.Resize(256)(image))
    return np.asarray(image)


@pytest.mark.parametrize("name", WRITERS)
def test_official_layout(name: str, tmp_path: Path) -> None:
    files = WRITERS[name](tmp_path / "official")
    entry = small(name)
    store, notes = import_dataset(entry, tmp_path / "official", tmp_path / "data")
    assert notes == []
    images = store.images(name)
    assert (len(images), images.n_classes) == (CLASSES * (TRAIN + TEST), CLASSES)
    for part, own in enumerate(files.values()):
        here = images.select_part(part)
        assert np.bincount(here.labels).tolist() == [len(own) // CLASSES] * CLASSES
        by_position = np.asarray(here.images)[np.argsort(here.source_positions)]
        pixels = {row.tobytes() for row in by_position}
        for file in own:
            wanted = expected(file, entry.image_size)
            assert wanted.tobytes() in pixels, file
            (row,) = np.flatnonzero([(image == wanted).all() for image in by_position])
            label = here.labels[np.argsort(here.source_positions)][row]
            class_name = file.parent.name if file.parent.name != "images" else file.parent.parent.name
            if class_name != "val":
                assert images.class_names[label] == class_name


def test_labels_of_tiny_imagenets_validation_are_those_of_its_list(tmp_path: Path) -> None:
    files = tiny_imagenet(tmp_path / "official")
    store, _ = import_dataset(small("tiny-imagenet"), tmp_path / "official" / "tiny-imagenet-200", tmp_path / "data")
    test = store.images("t").select_part(1)
    assert test.class_names == ("n01", "n02", "n03")
    wnids = dict(zip([f.name for f in files["test"]], ["n03", "n03", "n01", "n01", "n02", "n02"], strict=True))
    for file in files["test"]:
        (row,) = np.flatnonzero([(np.asarray(image) == expected(file, 64)).all() for image in test.images])
        assert test.class_names[test.labels[row]] == wnids[file.name]


def _cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:200])


def _drop_line(file: Path) -> None:
    file.write_text("".join(file.read_text().splitlines(keepends=True)[1:]))


def _edit(file: Path, old: str, new: str) -> None:
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new, 1))


TINY, CUB = Path("official/tiny-imagenet-200"), Path("official/CUB_200_2011")


@pytest.mark.parametrize(
    ("name", "damage", "message"),
    [
        ("tiny-imagenet", lambda p: _cut(p / TINY / "train/n01/images/n01_0.JPEG"), r"n01_0.JPEG is not a readable"),
        ("tiny-imagenet", lambda p: _drop_line(p / TINY / "val/val_annotations.txt"), r"has 5 test images.*has 6"),
        ("tiny-imagenet", lambda p: (p / TINY / "val/images/val_3.JPEG").unlink(), r"val_3.JPEG is listed but missing"),
        ("tiny-imagenet", lambda p: _edit(p / TINY / "val/val_annotations.txt", "n03", "n09"), r"the class 'n09'"),
        ("tiny-imagenet", lambda p: _edit(p / TINY / "val/val_annotations.txt", "\t62\n", "\n"), r"line 1: .* 5 words"),
        (
            "tiny-imagenet",
            lambda p: _edit(p / TINY / "wnids.txt", "n02", ""),
            r"has 2 classes; tiny-imagenet has 3|'n02'",
        ),
        ("tiny-imagenet", lambda p: (p / TINY / "train/n02/images/n02_1.JPEG").unlink(), r"has 11 training images"),
        ("cub200", lambda p: _drop_line(p / CUB / "image_class_labels.txt"), r"says nothing of image 1 "),
        ("cub200", lambda p: _edit(p / CUB / "train_test_split.txt", "1 1", "1 2"), r"the part '2'"),
        ("cub200", lambda p: _edit(p / CUB / "images.txt", "001.Bird_0/", "../../"), r"lies outside of"),
        ("cub200", lambda p: _cut(p / CUB / "images/002.Bird_1/Bird_1_0000.jpg"), r"Bird_1_0000.jpg is not a readable"),
        (
            "mit67",
            lambda p: (p / "official/Images/bar/picture number 0.jpg").unlink(),
            r"picture number 0.jpg is listed",
        ),
        ("mit67", lambda p: (p / "official/TestImages.txt").unlink(), r"TestImages.txt is missing"),
        ("mit67", lambda p: (p / "official/TestImages.txt").write_text("<!DOCTYPE html>"), r"is an HTML page"),
        ("stanford-dogs", lambda p: _cut(p / "official/lists/test_list.mat"), r"test_list.mat is no list"),
        ("stanford-dogs", lambda p: (p / "official/lists/train_list.mat").unlink(), r"train_list.mat is missing"),
    ],
)
def test_damage_is_named_and_leaves_nothing(
    name: str, damage: Callable[[Path], None], message: str, tmp_path: Path
) -> None:
    WRITERS[name](tmp_path / "official")
    damage(tmp_path)
    with pytest.raises(DataError, match=f"(?s){message}"):
        import_dataset(small(name), tmp_path / "official", tmp_path / "data")
    assert not (tmp_path / "data").exists() or list((tmp_path / "data").iterdir()) == []


def test_counts_may_differ_where_it_is_said(tmp_path: Path) -> None:
    tiny_imagenet(tmp_path / "official")
    (tmp_path / TINY / "train/n02/images/n02_1.JPEG").unlink()
    store, notes = import_dataset(small("tiny-imagenet"), tmp_path / "official", tmp_path / "data", partial=True)
    assert store.counts(0) == [4, 3, 4]
    assert notes


def test_a_step_on_photographs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stored at 256 pixels, trained on random parts and tested on the middle of 224, without a network of that size."""
    from slabench.recipe import parse_recipe
    from slabench.suites import classification

    cub200(tmp_path / "official")
    monkeypatch.setenv("SLABENCH_DATA", str(tmp_path / "data"))
    import_dataset(small("cub200"), tmp_path / "official", tmp_path / "data")
    assert input_size(info("cub200")) == 224
    assert input_size(info("tiny-imagenet")) == 64
    entry, train, _ = load_images("cub200")
    assert entry.image_size == train.images.shape[1] == 256
    recipe = parse_recipe(
        {
            "name": "t",
            "suite": "supervised",
            "data": {"dataset": "cub200", "val_fraction": 0.25},
            "model": {"backbone": "resnet18"},
            "sla": {"objective": "sla", "transforms": "rotation2"},
            "train": {"steps": 1, "batch_size": 2, "precision": "float32"},
        }
    )
    task = classification.build_task(recipe, 0, classification.prepare(recipe), torch.device("cpu"), None)
    seen = []
    monkeypatch.setattr(
        task.module.backbone,
        "forward",
        lambda x: (seen.append(tuple(x.shape)), x.mean((2, 3)).repeat(1, 171)[:, :512])[1],
    )
    result = task.step(0)
    assert result.images == 4
    assert seen == [(4, 3, 224, 224)]
