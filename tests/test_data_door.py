"""What stands at the door of the prepared stores: images that nothing could learn from, and sources that claim too much."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from data_layouts import (
    TINY,
    Part,
    cifar10_batch_files,
    encode,
    write_archive,
    write_batches,
    write_folders,
    write_parquet,
)
from photograph_layouts import CLASSES, TEST, TRAIN, expected, small, tiny_imagenet
from PIL import Image
from processes import here
from result_records import make_record

from slabench.core import paths
from slabench.core.errors import DataError
from slabench.core.registry import DATASETS
from slabench.data.catalog import info
from slabench.data.loading import ensure, load, load_images
from slabench.data.plugin_dataset import dataset
from slabench.data.sources.detect import import_dataset
from slabench.data.store import Store, doubts
from slabench.ranking.published import load as published_numbers
from slabench.ranking.rows import rows

Made = tuple[Any, Any, Any]


def pictures() -> Made:
    """Forty noisy images of two classes, every fifth a test image."""
    images = np.random.default_rng(0).integers(0, 256, (40, 8, 8, 3), dtype=np.uint8)
    return images, np.arange(40) % 2, np.arange(40) % 5 == 4


BAD: list[tuple[Callable[[Any, Any, Any], Made], str]] = [
    (lambda x, y, t: ((x / 255).astype(np.float32), y, t), "float32, from 0 to 1: not uint8"),
    (lambda x, y, t: (x // 128, y, t), "no pixel of own is above 1"),
    (lambda x, y, t: (x.astype(np.int64), y, t), "int64, from 0 to 255: not uint8"),
    (lambda x, y, t: (x[..., 0], y, t), r"\(8, 8\), not \(8, 8, 3\)"),
    (lambda x, y, t: (x.transpose(0, 3, 1, 2), y, t), r"\(3, 8, 8\), not \(8, 8, 3\)"),
    (lambda x, y, t: (x[:, :7], y, t), r"\(7, 8, 3\), not \(8, 8, 3\)"),
    (lambda x, y, t: (x[:30], y, t), r"30 images of own have labels of the shape \(40,\)"),
    (lambda x, y, t: (x, y[:, None], t), r"labels of the shape \(40, 1\)"),
    (lambda x, y, t: (x, y, t[:7]), r"test flags of the shape \(7,\)"),
    (lambda x, y, t: (x, y + 0.5, t), "float64, such as 0.5: not whole numbers"),
    (lambda x, y, t: (x, np.array(["a", "b"])[y], t), "<U1, such as a: not whole numbers"),
    (lambda x, y, t: (x, y + 1, t), "run from 1 to 2, its classes from 0 to 1"),
    (lambda x, y, t: (x, y - 1, t), "run from -1 to 0, its classes from 0 to 1"),
    (lambda x, y, t: (x, y * 0, t), "classes without images: b"),
    (lambda x, y, t: (x, y, y == 1), "classes without training images: b"),
    (lambda x, y, t: (x, y, t * 2), "int64, such as 2: not true or false"),
    (lambda x, y, t: (np.full_like(x, 200), y, t), "every image of own is of one colour"),
    (lambda x, y, t: (x[:0], y[:0], t[:0]), "own has no images"),
]


@pytest.mark.usefixtures("registries")
@pytest.mark.parametrize(("change", "message"), BAD)
def test_own_images_that_nothing_could_learn_from_are_refused(
    change: Callable[[Any, Any, Any], Made], message: str
) -> None:
    DATASETS.add("own", dataset("own", lambda: change(*pictures()), ("a", "b"), 8, "x"), "x")
    with pytest.raises(DataError, match=message) as caught:
        ensure("own")
    assert caught.value.remedy
    assert not (paths.data() / "own").exists()
    code, output = here("data", "get", "own")
    assert (code, "Traceback" in output) == (1, False)


@pytest.mark.usefixtures("registries")
def test_means_in_other_units_are_refused_when_the_store_is_made() -> None:
    DATASETS.add("own", dataset("own", pictures, ("a", "b"), 8, "x", mean=(0.5,) * 3, std=(0.2,) * 3), "x")
    with pytest.raises(DataError, match="away from 0 on average"):
        ensure("own")


@pytest.mark.usefixtures("registries")
def test_an_image_in_both_parts_or_in_two_classes_is_told_everywhere() -> None:
    def leaking() -> Made:
        images, labels, test = pictures()
        images[4] = images[0]  # a test image and a training image, both of class a
        images[9], images[14] = images[1], images[1]  # two test images, of class b and of class a
        return images, labels, test

    DATASETS.add("own", dataset("own", leaking, ("a", "b"), 8, "x"), "x")
    told = [
        "test images that are training images too, bit for bit: 3 of 8",
        "images that are, bit for bit, of another class too: 3 of 40",
    ]
    for command in (("data", "get", "own"), ("data", "verify", "own"), ("show", "dataset", "own")):
        code, output = here(*command)
        assert code == 0
        assert all(line in output for line in told), output
    _, train, _ = load_images("own")
    assert train.origin is not None
    assert list(train.origin.doubts) == told


def sixteen_bits(values: np.ndarray[Any, Any]) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(values.astype(np.uint16)).save(buffer, "PNG")
    return buffer.getvalue()


def test_sixteen_bit_greys_keep_their_upper_bits(tmp_path: Path, parts: tuple[Part, Part]) -> None:
    root = write_folders(tmp_path / "f", parts)
    file = sorted((root / "train" / "ant").iterdir())[0]
    values = np.arange(64).reshape(8, 8) * 1000  # up to 63,000: white, were it cut off at 255
    file.write_bytes(sixteen_bits(values))
    store, _ = import_dataset(TINY, root, tmp_path / "data")
    wanted = (values // 256).astype(np.uint8)[..., None].repeat(3, 2)
    assert sum(bool((image == wanted).all()) for image in store.images("tiny").images) == 1


def test_messages_name_files_and_nothing_of_the_inside(tmp_path: Path, parts: tuple[Part, Part]) -> None:
    root = write_folders(tmp_path / "f", parts)
    file = sorted((root / "train" / "ant").iterdir())[0]
    file.write_bytes(b"no image at all")
    with pytest.raises(DataError) as caught:
        import_dataset(TINY, root, tmp_path / "data")
    assert str(file) in caught.value.message
    assert "PNG, JPEG, GIF, BMP" in caught.value.message


def test_an_image_of_a_kind_that_is_not_read_is_refused(tmp_path: Path, parts: tuple[Part, Part]) -> None:
    root = write_folders(tmp_path / "f", parts)
    (root / "train" / "ant" / "notes.txt").write_text("no image")
    (root / "train" / "ant" / "more.webp").write_bytes(encode(parts[0].images[0], "WEBP"))
    with pytest.raises(DataError, match=r"more.webp is a WEBP file") as caught:
        import_dataset(TINY, root, tmp_path / "data", partial=True)
    assert "PNG" in caught.value.remedy


def _without(root: Path, parts: tuple[Part, Part]) -> Path:
    folders = write_folders(root, parts)
    for file in (folders / "train" / "bat").iterdir():
        file.unlink()
    (folders / "train" / "bat").rmdir()
    return folders


def _without_rows(root: Path, parts: tuple[Part, Part]) -> Path:
    keep = parts[0].labels != 1
    return write_parquet(root, (Part(parts[0].images[keep], parts[0].labels[keep]), parts[1]))


@pytest.mark.parametrize("partial", [False, True])
@pytest.mark.parametrize("write", [_without, _without_rows])
def test_partial_never_goes_on_without_a_class(
    write: Callable[[Path, tuple[Part, Part]], Path], partial: bool, tmp_path: Path, parts: tuple[Part, Part]
) -> None:
    with pytest.raises(DataError, match=r"class 'bat' has no") as caught:
        import_dataset(TINY, write(tmp_path / "f", parts), tmp_path / "data", partial=partial)
    assert "not with none" in caught.value.remedy


def test_an_import_tells_what_it_does_before_it_is_done(tmp_path: Path, parts: tuple[Part, Part]) -> None:
    lines: list[str] = []
    import_dataset(TINY, write_folders(tmp_path / "f", parts), tmp_path / "data", told=lines.append)
    assert str(tmp_path / "f") in lines[0]
    assert "24 images read from folders" in lines[1]


# ----------------------------------------------------------------------------- CIFAR that is not what was published


def published(parts: tuple[Part, Part]) -> tuple[Any, dict[str, bytes]]:
    """A data set with five batches, and its entry with the publisher's checksums of them."""
    files = cifar10_batch_files(parts)
    md5 = {name: hashlib.md5(data).hexdigest() for name, data in files.items() if "meta" not in name}
    return replace(TINY, batch_md5=md5, lossless=True), files


@pytest.mark.parametrize("archive", [False, True])
def test_batches_are_in_the_original_order_only_if_they_are_the_publishers(
    archive: bool, tmp_path: Path, parts: tuple[Part, Part]
) -> None:
    entry, files = published(parts)

    def imported(name: str, content: dict[str, bytes]) -> Store:
        where = tmp_path / name
        if archive:
            path = write_archive(where / "cifar-10-python.tar.gz", content, "cifar-10-batches-py")
        else:
            path = write_batches(where, content)
        return import_dataset(entry, path, tmp_path / "data" / name)[0]

    store = imported("theirs", files)
    assert store.manifest["source"]["original_order"] is True
    assert not any("publisher" in line for line in doubts(entry, store))
    swapped = files | {"data_batch_2": files["data_batch_4"], "data_batch_4": files["data_batch_2"]}
    other = imported("swapped", swapped)
    assert other.digest == store.digest  # the same images: only their order differs
    assert other.manifest["source"]["original_order"] is False
    assert set(other.images("tiny").source_positions.tolist()) == {-1}
    assert any("data_batch_2, data_batch_4: not the publisher's file" in line for line in doubts(entry, other))


def test_the_catalog_holds_the_publishers_checksums() -> None:
    """Against torchvision, which has them from the publisher too."""
    from torchvision.datasets import CIFAR10, CIFAR100

    for name, theirs in (("cifar10", CIFAR10), ("cifar100", CIFAR100)):
        assert dict(info(name).batch_md5) == dict([*theirs.train_list, *theirs.test_list])
        assert info(name).md5 == theirs.tgz_md5


@pytest.mark.usefixtures("registries")
@pytest.mark.parametrize("layout", ["folders", "parquet"])
def test_jpeg_copies_of_cifar_are_told_by_import_show_verify_and_load(
    layout: str, tmp_path: Path, parts: tuple[Part, Part], monkeypatch: pytest.MonkeyPatch
) -> None:
    DATASETS.add("tiny", replace(TINY, lossless=True), "x")
    if layout == "folders":
        path = write_folders(tmp_path / "jpeg", parts, kind="JPEG")
    else:
        monkeypatch.setattr("data_layouts.encode", lambda image: encode(image, "JPEG"))
        path = write_parquet(tmp_path / "jpeg", parts)
    for command in (("data", "import", "tiny", str(path)), ("data", "verify", "tiny"), ("show", "dataset", "tiny")):
        code, output = here(*command)
        assert code == 0
        assert "24 of its 24 images are JPEG copies: tiny was published as raw pixels, never as JPEG" in output
        assert "whole" not in output
    origin = load("tiny", "train").origin
    assert origin is not None
    assert origin.facts() == {"kind": layout, "jpeg_copies": 24}
    assert info("cifar10").lossless
    assert not info("mini-imagenet").lossless


def test_no_published_number_stands_beside_a_run_on_jpeg_copies() -> None:
    known = [row for row in published_numbers() if row.accuracy is not None]
    facts = {"accuracies": {"single": [0.5, 0.6]}, "dataset": "fc100"}
    (theirs,), (copies,) = (
        rows([make_record(**facts, data_source=source)], None, published=known)
        for source in (None, {"kind": "parquet", "jpeg_copies": 60_000})
    )
    assert theirs.published is not None
    assert copies.published is None


# --------------------------------------------------------------------------------------------------- tiny-ImageNet


def test_tiny_imagenet_has_the_wnids_that_others_list() -> None:
    """The first ten of the publisher's wnids.txt, in its own order, and what is known of all 200."""
    wnids = info("tiny-imagenet").classes
    assert len(set(wnids)) == 200
    assert list(wnids) == sorted(wnids)
    first = "n02124075 n04067472 n04540053 n04099969 n07749582 n01641577 n02802426 n09246464 n07920052 n03970156"
    assert set(first.split()) <= set(wnids)


def test_other_wnids_are_another_data_set(tmp_path: Path) -> None:
    tiny_imagenet(tmp_path)
    with pytest.raises(
        DataError, match=r"is not tiny-imagenet: its classes do not match \(it has 'n03'; it lacks 'n07'\)"
    ):
        import_dataset(replace(small("tiny-imagenet"), classes=("n01", "n02", "n07")), tmp_path, tmp_path / "data")


def _sorted_into_classes(folder: Path, between: str = "images") -> None:
    for line in (folder / "val" / "val_annotations.txt").read_text().splitlines():
        name, wnid = line.split("\t")[:2]
        target = folder / "val" / wnid / between / name
        target.parent.mkdir(parents=True, exist_ok=True)
        (folder / "val" / "images" / name).rename(target)
    (folder / "val" / "images").rmdir()


@pytest.mark.parametrize("between", ["images", ""])
@pytest.mark.parametrize("listed", [True, False])
def test_validation_images_that_were_sorted_into_classes(listed: bool, between: str, tmp_path: Path) -> None:
    tiny_imagenet(tmp_path / "as-published")
    reference, _ = import_dataset(small("tiny-imagenet"), tmp_path / "as-published", tmp_path / "a")
    tiny_imagenet(tmp_path / "sorted")
    folder = tmp_path / "sorted" / "tiny-imagenet-200"
    _sorted_into_classes(folder, between)
    if not listed:
        (folder / "val" / "val_annotations.txt").unlink()
    store, _ = import_dataset(small("tiny-imagenet"), tmp_path / "sorted", tmp_path / "b")
    assert store.digest == reference.digest
    assert store.counts(1) == [TEST] * CLASSES
    file = next((folder / "val").rglob("*.JPEG"))
    assert any((image == expected(file, 64)).all() for image in store.images("t").select_part(1).images)


def test_a_byte_order_mark_is_no_part_of_a_name(tmp_path: Path) -> None:
    tiny_imagenet(tmp_path / "o")
    file = tmp_path / "o" / "tiny-imagenet-200" / "wnids.txt"
    file.write_bytes(b"\xef\xbb\xbf" + file.read_bytes())
    store, _ = import_dataset(small("tiny-imagenet"), tmp_path / "o", tmp_path / "data")
    assert json.loads((store.folder / "manifest.json").read_text())["classes"] == ["n01", "n02", "n03"]
    assert store.counts(0) == [TRAIN] * CLASSES


def test_an_extra_image_is_to_be_moved_away_and_nothing_is_cut_off(tmp_path: Path) -> None:
    tiny_imagenet(tmp_path / "o")
    folder = tmp_path / "o" / "tiny-imagenet-200" / "val" / "images"
    (folder / "mine.JPEG").write_bytes((folder / "val_0.JPEG").read_bytes())
    with pytest.raises(DataError, match=r"mine.JPEG has no line in") as caught:
        import_dataset(small("tiny-imagenet"), tmp_path / "o", tmp_path / "data")
    assert "move it away" in caught.value.remedy
    assert "cut-off" not in caught.value.remedy
