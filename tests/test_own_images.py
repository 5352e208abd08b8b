"""`slabench data import-folder`: layouts, modes of images, splits and what is refused, on generated files."""

from __future__ import annotations

import csv
import hashlib
import json
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from own_images import LEFT, RIGHT, folders, halves, parts_of, picture
from PIL import Image, ImageOps
from processes import here
from tiny_recipes import tiny_classifier, tiny_fewshot

import slabench
from slabench.core import paths
from slabench.core.errors import DataError, UsageError
from slabench.core.registry import DATASETS
from slabench.data import load
from slabench.data.catalog import info
from slabench.data.loading import load_images
from slabench.data.sources.own_import import import_folder
from slabench.data.store import open_store

NINE = [f"kind-{number}" for number in range(9)]


def test_every_mode_and_kind_of_file_has_the_pixels_that_it_was_made_with(tmp_path):
    grey = [(50, 50, 50), (180, 180, 180)]
    made = {
        "rgb.png": (halves(), [LEFT, RIGHT]),
        "UPPER.PNG": (halves(RIGHT, LEFT), [RIGHT, LEFT]),
        "tall.bmp": (halves(size=(48, 90)), [LEFT, RIGHT]),
        "palette.gif": (halves((0, 0, 255), (255, 0, 0)).convert("P", palette=Image.Palette.ADAPTIVE), None),
        "lossless.webp": (halves((9, 8, 7), (1, 200, 3)), None),
        "grey.png": (halves(*grey).convert("L"), grey),
        "cmyk.tif": (halves((0, 255, 255), (255, 255, 0)).convert("CMYK"), [(0, 255, 255), (255, 255, 0)]),
    }
    made["palette.gif"] = (made["palette.gif"][0], [(0, 0, 255), (255, 0, 0)])
    made["lossless.webp"] = (made["lossless.webp"][0], [(9, 8, 7), (1, 200, 3)])
    clear = halves().convert("RGBA")
    clear.putalpha(Image.fromarray(np.repeat(np.uint8([[255] * 32 + [0] * 32]), 48, 0)))
    made["clear.png"] = (clear, [LEFT, (255, 255, 255)])
    deep = np.repeat(np.uint16([[50 << 8 | 7] * 32 + [180 << 8 | 9] * 32]), 48, 0)
    made["deep.png"] = (Image.fromarray(deep), grey)
    for name, (image, _) in made.items():
        (tmp_path / "mine" / "a" / name).parent.mkdir(parents=True, exist_ok=True)
        image.save(tmp_path / "mine" / "a" / name, **({"lossless": True} if name.endswith("webp") else {}))
    # A camera held upright: the file lies on its side, and EXIF says so (6: turn a quarter clockwise).
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = halves(size=(640, 480)).transpose(Image.Transpose.ROTATE_90)
    turned.save(tmp_path / "mine" / "a" / "upright.JPG", quality=98, subsampling=0, exif=exif)
    made["upright.JPG"] = (turned, [LEFT, RIGHT])
    folders(tmp_path / "mine", ["b"])
    import_folder("modes", tmp_path / "mine", size=16)
    images = open_store(paths.data() / "modes").images("modes")
    with open(paths.data() / "modes" / "image-split.csv", encoding="utf-8") as file:
        rows = {Path(row["file"]).name: int(row["row"]) for row in csv.DictReader(file) if row["class"] == "a"}
    assert set(rows) == set(made)
    for name, (_, (left, right)) in made.items():
        pixels = images.images[rows[name]].astype(int)
        tolerance = 6 if name.endswith("JPG") else 2
        assert np.abs(pixels[:, :5] - left).max() <= tolerance, name
        assert np.abs(pixels[:, -5:] - right).max() <= tolerance, name


def test_junk_is_left_out_and_lone_folders_are_walked_through(tmp_path):
    root = folders(tmp_path / "archive" / "flowers-1.0" / "flowers", ["rose", "tulip"])
    (tmp_path / "archive" / "__MACOSX" / "flowers").mkdir(parents=True)
    (tmp_path / "archive" / "README.txt").write_text("hello")
    for junk in ("rose/Thumbs.db", "rose/._0.png", "tulip/.DS_Store", "tulip/notes.txt"):
        (root / junk).write_bytes(b"junk")
    (root / "tulip").rename(root / "moved")
    (root / "tulip").mkdir()
    (root / "moved").rename(root / "tulip" / "images")
    made = import_folder("flowers", tmp_path / "archive", size=16)
    assert made.store.class_names == ("rose", "tulip")
    assert made.store.manifest["n_images"] == 10
    assert made.left_out == ["1 x .db file", "1 x .txt file", "2 x hidden file"]
    assert made.info.source == "class folders: archive"


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (lambda root: (root / "a" / "photo.HEIC").write_bytes(b"x"), "photo.HEIC is an image that slabench does not read"),
        (lambda root: (root / "a" / "x.psd").write_bytes(b"x"), "x.psd is an image that slabench does not read"),
        (lambda root: (root / "a" / "x.jpg").write_bytes(b""), "x.jpg is not a readable image"),
        (lambda root: (root / "a" / "x.jpg").write_bytes(b"<html>no"), "x.jpg is an HTML page"),
        (lambda root: Image.fromarray(np.ones((9, 9), np.float32)).save(root / "a" / "x.tif"), "floating-point"),
        (lambda root: Image.fromarray(np.full((9, 9), 70000, np.int32)).save(root / "a" / "x.tif"), "32-bit integers"),
        (lambda root: Image.new("RGB", (400, 4)).save(root / "a" / "x.png"), "too narrow"),
        (lambda root: (root / "c").mkdir(), "has no image"),
        (lambda root: (shutil.rmtree(root / "b"), shutil.rmtree(root / "a")), "no class folders with images"),
        (lambda root: shutil.rmtree(root / "b"), "there is one class, 'a'"),
        (lambda root: folders(root / "a" / "deeper", ["x", "y"]), "has folders with images in it"),
        (lambda root: folders(root, {"c": 1}), "class 'c' has 1 image of its own"),
        (lambda root: (folders(root / "train", ["a", "b"]), folders(root / "val", ["a", "z"])), "'z' is not in train"),
        (lambda root: (folders(root / "train", ["a", "b"]), folders(root / "test", ["a"])), "'b' has no test image"),
        (lambda root: (folders(root / "train", ["a"]), (root / "Train").mkdir()), "are both 'train'"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_named_and_leaves_nothing(tmp_path, spoil, told):
    root = folders(tmp_path / "mine", ["a", "b"])
    spoil(root)
    with pytest.raises(DataError, match=told) as caught:
        import_folder("mine", root, size=16)
    assert str(root) in caught.value.message or "class" in caught.value.message
    assert caught.value.remedy
    assert "mine" not in DATASETS
    assert [file for file in paths.data().glob("*") if file.name != "episodes"] == []


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("fc100", "is a data set that slabench or a plug-in has"),
        ("My Birds", "not kebab-case"),
        ("episodes", "another folder"),
        ("../x", "not kebab-case"),
    ],
)
def test_names_that_are_taken_or_none(tmp_path, name, told):
    folders(tmp_path / "mine", ["a", "b"])
    with pytest.raises(UsageError, match=told):
        import_folder(name, tmp_path / "mine", size=16)


def test_drawn_splits_have_a_fifth_of_the_images_and_classes_that_do_not_meet(tmp_path):
    root = folders(tmp_path / "mine", dict.fromkeys(NINE, 10) | {"kind-8": 3})
    shutil.copy(root / "kind-0" / "0.png", root / "kind-0" / "copy.png")
    made = import_folder("mine", root, size=16)
    parts = parts_of("mine")
    tests = Counter(Path(file).parent.name for file, part in parts.items() if part == "test")
    copied = parts["kind-0/0.png"] == "test"  # copies stay together, and count once
    assert tests == dict.fromkeys(NINE, 2) | {"kind-8": 1, "kind-0": 2 + copied}
    assert parts["kind-0/0.png"] == parts["kind-0/copy.png"]
    classes = json.loads((paths.data() / "mine" / "class-split.json").read_text())["classes"]
    assert {part: len(names) for part, names in classes.items()} == {"train": 3, "val": 3, "test": 3}
    assert sorted(name for names in classes.values() for name in names) == NINE
    _, train, test = load_images("mine")
    assert (len(train), len(test)) == (len(parts) - tests.total(), tests.total())
    assert len(load("mine", "val")) == sum(10 + (name == "kind-0") - 7 * (name == "kind-8") for name in classes["val"])
    # Mean and deviation: of the training images of the training classes, in float64 by numpy.
    own = np.isin(train.labels, [train.class_names.index(name) for name in classes["train"]])
    pixels = train.images[own].reshape(-1, 3).astype(np.float64)
    assert info("mine").mean == pytest.approx(pixels.mean(0), abs=0.006)
    assert info("mine").std == pytest.approx(pixels.std(0), abs=0.006)
    assert isinstance(open_store(paths.data() / "mine").images("mine").images, np.memmap)
    again = import_folder("other", root, size=16, seed=1)
    assert again.splits.classes != made.splits.classes
    assert parts_of("other") != parts


def test_the_sizes_of_a_drawn_class_split(tmp_path):
    from slabench.data.sources.own_splits import draw_classes

    sizes = {
        n: tuple(len(names) for names in (draw_classes([f"c{i}" for i in range(n)], 0) or {}).values())
        for n in (5, 6, 14, 15, 30, 100)
    }
    # 64 / 16 / 20 of a hundred, as CIFAR-FS and mini-ImageNet have; five a part as long as there are fifteen.
    assert sizes == {5: (), 6: (2, 2, 2), 14: (6, 4, 4), 15: (5, 5, 5), 30: (19, 5, 6), 100: (64, 16, 20)}


def test_few_classes_make_a_data_set_to_classify(tmp_path):
    made = import_folder("pair", folders(tmp_path / "mine", ["a", "b"]), size=16)
    assert (made.splits.classes, made.info.fewshot) == (None, False)
    assert "too few" in made.splits.classes_from
    assert len(load("pair", "test")) == 2


def test_a_key_rests_on_the_content_and_not_on_paths(tmp_path):
    """Other places, other file names, another order: the same trial. One other pixel, or another split: another trial."""

    def keys(root: Path, seed: int = 0) -> list[str]:
        import_folder("mine", root, size=16, replace=True, seed=seed)
        recipes = [
            tiny_fewshot(data__dataset="mine", protocol__ways=3, train__ways=3, protocol__queries=2),
            tiny_classifier(data={"dataset": "mine", "profile": "exp", "ratio": 2, "val_images": 1}),
        ]
        return [trial.key for trial in slabench.plan(recipes, results=tmp_path / "results")]

    root = folders(tmp_path / "here", NINE, 6)
    first = keys(root)
    for folder in root.iterdir():
        (tmp_path / "there" / "photos" / folder.name).mkdir(parents=True)
        for number, file in enumerate(sorted(folder.iterdir(), reverse=True)):
            shutil.copy(file, tmp_path / "there" / "photos" / folder.name / f"IMG_{number:04}.PNG")
    assert keys(tmp_path / "there") == first
    assert all(a != b for a, b in zip(keys(root, seed=1), first, strict=True))
    picture("kind-0/other", (30, 30)).save(root / "kind-0" / "0.png")
    assert all(a != b for a, b in zip(keys(root), first, strict=True))


def test_parts_with_the_same_classes_are_a_split_of_images(tmp_path):
    for part, images, start in (("Train", 4, 0), ("validation", 2, 10), ("test", 1, 20)):
        folders(tmp_path / "mine" / part, NINE, images, start)
    made = import_folder("mine", tmp_path / "mine", size=16)
    assert made.store.counts(0) == [6] * 9, "the validation images are trained on"
    assert made.store.counts(1) == [1] * 9
    assert "'val' is trained on" in made.splits.images_from
    assert made.splits.classes is not None
    assert made.splits.classes_from == "drawn with seed 0"
    # ImageNet's layout: the validation images are the test; those of `test/` have no labels.
    shutil.rmtree(tmp_path / "mine" / "test")
    (tmp_path / "mine" / "test").mkdir()
    picture("x").save(tmp_path / "mine" / "test" / "0001.JPEG")
    made = import_folder("imagenet-like", tmp_path / "mine", size=16)
    assert (made.store.counts(0), made.store.counts(1)) == ([4] * 9, [2] * 9)
    assert made.left_out == ["1 x folder test/, whose images have no class"]


def test_parts_with_classes_of_their_own_are_a_split_of_classes(tmp_path):
    for part, names in (("train", NINE[:4]), ("val", NINE[4:6]), ("test", NINE[6:])):
        folders(tmp_path / "mine" / part, names)
    made = import_folder("mine", tmp_path / "mine", size=16)
    assert made.splits.classes == {"train": NINE[:4], "val": NINE[4:6], "test": NINE[6:]}
    assert [len(load("mine", part)) for part in ("train", "val", "test")] == [20, 10, 15]
    assert made.store.counts(1) == [1] * 9, "images for classifiers are drawn in every class"
    shutil.rmtree(tmp_path / "mine" / "val")
    made = import_folder("two-parts", tmp_path / "mine", size=16)
    assert made.splits.classes is not None
    assert made.splits.classes["test"] == NINE[6:]
    assert sorted(made.splits.classes["train"] + made.splits.classes["val"]) == NINE[:4]


def test_the_command_shows_the_splits_and_their_digests(tmp_path):
    folders(tmp_path / "mine", NINE)
    code, text = here("data", "import-folder", "my-kinds", str(tmp_path / "mine"), "--size", "16")
    assert code == 0, text
    folder = paths.data() / "my-kinds"
    for file in (folder / "image-split.csv",):
        assert hashlib.sha256(file.read_bytes()).hexdigest() in text
    assert "train 3: kind-" in text
    assert "36 to train on, 9 for the test" in text
    assert "slabench run fewshot --dataset my-kinds --shots 1 --ways 3 --queries 4 --set train.queries=4 --sla" in text
    assert here("data", "import-folder", "my-kinds", str(tmp_path / "mine"))[0] == 2
    assert "my-kinds" in here("list", "datasets")[1]
    shown = here("show", "dataset", "my-kinds")[1]
    assert "36 to train on, 9 for the test" in shown
    assert "kind-8" in shown
    assert here("episodes", "make", "my-kinds", "--ways", "3", "--shots", "1", "--queries", "2")[0] == 0
    assert here("data", "verify", "my-kinds") == (0, "my-kinds: whole\n")
    assert "did you mean 'my-kinds'" in here("show", "dataset", "my-kind")[1]
    assert here("list", "plugins")[1].strip() == "no plugins"

    split = folder / "image-split.csv"
    split.write_text(split.read_text().replace(",train,", ",test,", 1))
    code, text = here("data", "verify", "my-kinds")
    assert code == 1
    assert "the split has changed since the import" in text
    assert "slabench data import-folder my-kinds PATH --replace" in text


def test_a_damaged_entry_is_an_error_of_that_name_alone(tmp_path):
    for name in ("first", "second"):
        import_folder(name, folders(tmp_path / "mine", ["a", "b"]), size=16)
    (paths.data() / "first" / "own.json").write_text('{"name": "first"}')
    code, text = here("list", "datasets")
    assert code == 0
    assert "second" in text
    assert "own.json" in text
    assert here("show", "dataset", "first")[0] != 0
    with pytest.raises(DataError, match=r"own\.json"):
        info("first")
    assert info("second").n_classes == 2
    (paths.data() / "first").rename(paths.data() / "third")
    with pytest.raises(UsageError, match="unknown dataset 'first'"):
        info("first")


@pytest.mark.parametrize(
    "change",
    [{"mean": [float("nan"), 1, 1]}, {"std": [1, 1, float("inf")]}, {"sha256": {"x" * 300: "ab"}}, {"image_size": 0}],
)
def test_an_entry_that_says_what_cannot_be_is_named(tmp_path, change):
    import_folder("mine", folders(tmp_path / "mine", ["a", "b"]), size=16)
    file = paths.data() / "mine" / "own.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | change))
    with pytest.raises(DataError, match=rf"own\.json: {next(iter(change))}"):
        info("mine")


@pytest.mark.usefixtures("registries")
def test_a_name_that_a_plug_in_has_too_is_an_error_of_that_name_alone(tmp_path):
    import_folder("mine", folders(tmp_path / "mine", ["a", "b"]), size=16)
    DATASETS.add("mine", "nowhere:NOTHING", "another", origin="a plug-in")
    with pytest.raises(UsageError, match="'mine' of an import is also registered by a plug-in"):
        info("mine")
    assert "digits" in here("list", "datasets")[1]
    (paths.data() / "mine").rename(tmp_path / "away")
    assert DATASETS.entry("mine").origin == "a plug-in"
    assert DATASETS.problems == {}


def test_a_damaged_exif_block_does_not_cost_the_photograph(tmp_path):
    """Found by flipping bytes: the tag of the camera's maker became one of numbers, and Pillow cannot write the block anew."""
    root = folders(tmp_path / "mine", ["a", "b"])
    exif = Image.Exif()
    exif[0x0112], exif[0x010F] = 6, "Cam"
    damaged = exif.tobytes().replace(b"\x01\x0f\x00\x02", b"\x01\x23\x00\x02")
    halves().save(root / "a" / "photo.jpg", quality=98, exif=damaged)
    with pytest.raises(Exception, match="integer"), Image.open(root / "a" / "photo.jpg") as image:
        ImageOps.exif_transpose(image)
    assert import_folder("mine", root, size=16).store.manifest["n_images"] == 11
