"""tiny-ImageNet, CUB-200-2011, MIT Indoor 67 and Stanford Dogs: small copies in the official layouts, whole and damaged."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from photograph_layouts import (
    CLASSES,
    TEST,
    TRAIN,
    WRITERS,
    cub200,
    expected,
    mit67,
    picture,
    save_list,
    small,
    tiny_imagenet,
)
from PIL import Image
from scipy.io import loadmat
from torchvision import transforms

from slabench.core.errors import DataError, DataMissingError
from slabench.data import load
from slabench.data.augment import centre_crop
from slabench.data.catalog import info
from slabench.data.loading import input_size, load_images
from slabench.data.sources.detect import import_dataset
from slabench.data.sources.images import centre_square


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
        order = np.argsort(here.source_positions)
        assert here.source_positions[order].tolist() == list(range(len(own)))
        # The order of the lists; tiny-ImageNet's training images have none, they come by class and name.
        for row, file in zip(order, sorted(own) if own[0].suffix == ".JPEG" else own, strict=True):
            np.testing.assert_array_equal(here.images[row], expected(file, entry.image_size), str(file))
            class_name = file.parents[file.parent.name == "images"].name
            if class_name != "val":
                assert here.class_names[here.labels[row]] == class_name


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


def _relist(file: Path, old: str, new: str) -> None:
    """Replace a file name in one of Stanford's lists."""
    content = loadmat(file, squeeze_me=True)
    names = [new if name == old else str(name) for name in content["file_list"]]
    assert new in names
    save_list(file, names, content["labels"].tolist())


def _unlabel(file: Path) -> None:
    content = loadmat(file, squeeze_me=True)
    save_list(file, content["file_list"].tolist(), content["labels"].tolist()[1:])


HERE = {
    "tiny-imagenet": Path("official/tiny-imagenet-200"),
    "cub200": Path("official/CUB_200_2011"),
    "mit67": Path("official"),
    "stanford-dogs": Path("official"),
}

DAMAGE: list[tuple[str, Callable[[Path], None], str]] = [
    ("tiny-imagenet", lambda p: _cut(p / "train/n01/images/n01_0.JPEG"), r"n01_0.JPEG is not a readable image"),
    (
        "tiny-imagenet",
        lambda p: _drop_line(p / "val/val_annotations.txt"),
        r"val_0.JPEG has no line in .*val_annotations.txt \(1 such",
    ),
    ("tiny-imagenet", lambda p: (p / "val/images/val_3.JPEG").unlink(), r"val_3.JPEG is listed but missing \(1 of 18"),
    (
        "tiny-imagenet",
        lambda p: _edit(p / "val/val_annotations.txt", "n03", "n09"),
        r"val_annotations.txt, line 1: 'val_0.JPEG' has the unknown class 'n09'",
    ),
    ("tiny-imagenet", lambda p: _edit(p / "val/val_annotations.txt", "\t62\n", "\n"), r"line 1: .* 5 words, not 6"),
    (
        "tiny-imagenet",
        lambda p: _edit(p / "val/val_annotations.txt", "val_0", "../val_0"),
        r"is not of the form class/file",
    ),
    ("tiny-imagenet", lambda p: _edit(p / "wnids.txt", "n02\n", ""), r"unknown class 'n02'"),
    ("tiny-imagenet", lambda p: _edit(p / "wnids.txt", "n02", "n04"), r"train.n04.images is missing"),
    ("tiny-imagenet", lambda p: (p / "wnids.txt").unlink(), r"wnids.txt is missing"),
    (
        "tiny-imagenet",
        lambda p: (p / "wnids.txt").write_bytes(b"\xff\xfe"),
        r"wnids.txt is not UTF-8 text: line 1 has the byte 0xff",
    ),
    (
        "tiny-imagenet",
        lambda p: (p / "train/n02/images/n02_1.JPEG").unlink(),
        r"n02_1.JPEG is listed but missing",  # its box is there
    ),
    (
        "tiny-imagenet",
        lambda p: [(p / "train/n02/images/n02_1.JPEG").unlink(), (p / "train/n02/n02_boxes.txt").unlink()],
        r"class 'n02' has 3 training images in .*; tiny-imagenet has 4",
    ),
    (
        "tiny-imagenet",
        lambda p: picture(p / "val/images/val_3.JPEG", 0, (64, 65)),
        r"val_3.JPEG is 64 x 65 pixels; this data set has 64 x 64",
    ),
    ("cub200", lambda p: _drop_line(p / "image_class_labels.txt"), r"class_labels.txt has no line for image 1 \(001"),
    ("cub200", lambda p: _drop_line(p / "train_test_split.txt"), r"split.txt has no line for image 1 \(001"),
    ("cub200", lambda p: _drop_line(p / "images.txt"), r"images.txt lacks image 1, which image_class_labels.txt has"),
    ("cub200", lambda p: _drop_line(p / "classes.txt"), r"image 1 \(001.Bird_0/.*\) has the unknown class '1'"),
    ("cub200", lambda p: _edit(p / "train_test_split.txt", "1 1", "1 2"), r"image 1 is in the part '2'"),
    (
        "cub200",
        lambda p: _edit(p / "images.txt", "001.Bird_0/", "../../"),
        r"image 1: '.*' is not of the form class/file",
    ),
    ("cub200", lambda p: _edit(p / "images.txt", "2 001", "1 001"), r"images.txt, line 2: '1' is listed twice"),
    ("cub200", lambda p: _edit(p / "images.txt", "0_0001.jpg", "0_0000.jpg"), r"Bird_0_0000.jpg is listed twice"),
    ("cub200", lambda p: _edit(p / "image_class_labels.txt", "1 1", "1 2"), r"has the class '002.Bird_1'"),
    ("cub200", lambda p: _cut(p / "images/002.Bird_1/Bird_1_0000.jpg"), r"Bird_1_0000.jpg is not a readable image"),
    ("cub200", lambda p: (p / "images/002.Bird_1/Bird_1_0000.jpg").unlink(), r"Bird_1_0000.jpg is listed but missing"),
    (
        "cub200",
        lambda p: [_drop_line(p / f"{t}.txt") for t in ("images", "image_class_labels", "train_test_split")],
        r"lists 11 training images; cub200 has 12 \(its smallest class here: '001.Bird_0' with 3\)",
    ),
    (
        "mit67",
        lambda p: (p / "Images/bar/picture number 0.jpg").unlink(),
        r"picture number 0.jpg is listed but missing",
    ),
    ("mit67", lambda p: _cut(p / "Images/bar/picture number 5.jpg"), r"picture number 5.jpg is not a readable image"),
    ("mit67", lambda p: (p / "TestImages.txt").unlink(), r"TestImages.txt is missing"),
    ("mit67", lambda p: (p / "TestImages.txt").write_text("<!DOCTYPE html>"), r"is an HTML page"),
    ("mit67", lambda p: _drop_line(p / "TestImages.txt"), r"lists 5 test images; mit67 has 6 .*'attic' with 1\)"),
    (
        "mit67",
        lambda p: _edit(p / "TrainImages.txt", "bar/", "pub/"),
        r"TrainImages.txt, line 5: 'pub/picture number 0.jpg' is of the unknown class 'pub'",
    ),
    ("mit67", lambda p: _edit(p / "TestImages.txt", "number 4", "number 0"), r"picture number 0.jpg is listed twice"),
    ("mit67", lambda p: picture(p / "Images/bar/picture number 0.jpg", 0, (2000, 60)), r"2000 x 60 pixels, too narrow"),
    ("stanford-dogs", lambda p: _cut(p / "lists/test_list.mat"), r"test_list.mat is not a list"),
    ("stanford-dogs", lambda p: _unlabel(p / "lists/test_list.mat"), r"test_list.mat is not a list .*of one length"),
    ("stanford-dogs", lambda p: (p / "lists/train_list.mat").unlink(), r"train_list.mat is missing"),
    ("stanford-dogs", lambda p: _cut(p / "Images/n03-Pug/n03-Pug_1.jpg"), r"n03-Pug_1.jpg is not a readable image"),
    ("stanford-dogs", lambda p: (p / "Images/n03-Pug/n03-Pug_1.jpg").unlink(), r"n03-Pug_1.jpg is listed but missing"),
    (
        "stanford-dogs",
        lambda p: _relist(p / "lists/test_list.mat", "n03-Pug/n03-Pug_5.jpg", "n09-Cat/n03-Pug_5.jpg"),
        r"test_list.mat, row 4: 'n09-Cat/n03-Pug_5.jpg' is of an unknown class",
    ),
    (
        "stanford-dogs",
        lambda p: _relist(p / "lists/test_list.mat", "n03-Pug/n03-Pug_5.jpg", "n01-Husky/n01-Husky_5.jpg"),
        r"row 4: label 2 is 'n03-Pug' and 'n01-Husky'",
    ),
    ("stanford-dogs", lambda p: (p / "Images/n00-Whippet").mkdir(), r"not 1..4, .*; 'n00-Whippet' has none"),
]


@pytest.mark.parametrize(("name", "damage", "message"), DAMAGE)
def test_damage_is_named_and_leaves_nothing(
    name: str, damage: Callable[[Path], None], message: str, tmp_path: Path
) -> None:
    WRITERS[name](tmp_path / "official")
    damage(tmp_path / HERE[name])
    with pytest.raises(DataError, match=message) as caught:
        import_dataset(small(name), tmp_path / "official", tmp_path / "data")
    assert caught.value.remedy
    assert not (tmp_path / "data").exists() or list((tmp_path / "data").iterdir()) == []


def test_counts_may_differ_where_it_is_said(tmp_path: Path) -> None:
    tiny_imagenet(tmp_path / "official")
    folder = tmp_path / HERE["tiny-imagenet"] / "train" / "n02"
    (folder / "images" / "n02_1.JPEG").unlink()
    (folder / "n02_boxes.txt").unlink()
    store, notes = import_dataset(small("tiny-imagenet"), tmp_path / "official", tmp_path / "data", partial=True)
    assert store.counts(0) == [4, 3, 4]
    assert notes == ["class 'n02' has 3 training images instead of 4"]

    mit67(tmp_path / "rooms")
    _drop_line(tmp_path / "rooms" / "TestImages.txt")
    store, notes = import_dataset(small("mit67"), tmp_path / "rooms", tmp_path / "data", partial=True)
    assert store.counts(1) == [1, 2, 2]
    assert notes == ["it has 5 test images instead of 6"]


def test_images_that_are_not_rgb_jpegs(tmp_path: Path) -> None:
    """MIT Indoor 67 holds grey, CMYK and palette images, and GIFs and PNGs that are called .jpg."""
    mit67(tmp_path / "rooms")
    odd = {"L": "JPEG", "CMYK": "JPEG", "P": "GIF", "RGBA": "PNG", "1": "BMP"}
    for number, (mode, kind) in enumerate(odd.items()):
        room = ("attic", "bar", "inside_bus")[number % 3]
        file = tmp_path / "rooms" / "Images" / room / f"picture number {number // 3}.jpg"
        picture(file, 50 + number)
        Image.open(file).convert(mode).save(file, format=kind)
    store, _ = import_dataset(small("mit67"), tmp_path / "rooms", tmp_path / "data")
    assert store.manifest["source"]["image_formats"] == {
        "BMP": 1,
        "GIF": 1,
        "JPEG": 15,
        "PNG": 1,
    }
    train = store.images("mit67").select_part(0)
    pixels = {image.tobytes() for image in np.asarray(train.images)}
    listed = (tmp_path / "rooms" / "TrainImages.txt").read_text().splitlines()
    assert {expected(tmp_path / "rooms" / "Images" / name, 256).tobytes() for name in listed} == pixels


@pytest.mark.parametrize("size", [(256, 256), (256, 999), (257, 256), (300, 255), (31, 512), (1023, 333), (1024, 1025)])
def test_centre_square_is_torchvisions(size: tuple[int, int]) -> None:
    pixels = np.random.default_rng(size[0]).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    image = Image.fromarray(pixels)
    theirs = transforms.CenterCrop(256)(transforms.Resize(256)(image))
    np.testing.assert_array_equal(np.asarray(centre_square(image, 256)), np.asarray(theirs))


@pytest.mark.parametrize("size", [(331, 402), (403, 260), (256, 257), (500, 375)])
def test_what_is_tested_is_the_usual_centre_crop(size: tuple[int, int]) -> None:
    """The middle 224 of the stored square are those of Resize(256) and CenterCrop(224) on the whole picture."""
    pixels = np.random.default_rng(size[0]).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    image = Image.fromarray(pixels)
    stored = torch.from_numpy(np.array(centre_square(image, 256)))[None]
    theirs = transforms.CenterCrop(224)(transforms.Resize(256)(image))
    np.testing.assert_array_equal(centre_crop(stored, 224)[0].numpy(), np.asarray(theirs))


def test_an_archive_is_to_be_unpacked(tmp_path: Path) -> None:
    archive = tmp_path / "CUB_200_2011.tgz"
    archive.write_bytes(b"\x1f\x8b")
    with pytest.raises(DataError, match="is an archive; cub200 is read unpacked") as caught:
        import_dataset(info("cub200"), archive, tmp_path / "data")
    assert "CUB_200_2011/" in caught.value.remedy


@pytest.mark.parametrize("name", WRITERS)
def test_missing_data_says_where_it_is_and_how_to_import_it(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_network(*_: object, **__: object) -> None:
        raise AssertionError("nothing may be fetched")

    monkeypatch.setattr("urllib.request.OpenerDirector.open", no_network)
    with pytest.raises(DataMissingError) as caught:
        load(name, "train")
    assert f"there is no download for {name}" in caught.value.message
    assert f"slabench data import {name} PATH" in caught.value.remedy
    assert info(name).source in caught.value.remedy
    assert "data get" not in caught.value.remedy


def test_counts_as_published() -> None:
    published = {"tiny-imagenet": 110_000, "cub200": 11_788, "mit67": 6_700, "stanford-dogs": 20_580}
    for name, images in published.items():
        entry = info(name)
        assert entry.n_published == images
        assert not entry.fewshot
        assert entry.splits == ("train", "test", "all")
        assert entry.note
        # torchvision's 0.485, 0.456, 0.406 and 0.229, 0.224, 0.225.
        assert np.allclose(np.array(entry.mean) / 255, (0.485, 0.456, 0.406))
        assert np.allclose(np.array(entry.std) / 255, (0.229, 0.224, 0.225))


def test_a_step_on_photographs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stored at 256 pixels, trained on random parts and tested on the middle of 224, without a network of that size."""
    from slabench.recipes import parse_recipe
    from slabench.suites import classifier

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
    task = classifier.build_task(recipe, 0, classifier.prepare(recipe), torch.device("cpu"), None)
    seen = []
    monkeypatch.setattr(
        task.module.backbone,
        "forward",
        lambda x: (seen.append(tuple(x.shape)), x.mean((2, 3)).repeat(1, 171)[:, :512])[1],
    )
    result = task.step(0)
    assert result.images == 4
    assert seen == [(4, 3, 224, 224)]
