"""Frozen long-tail subsets: the published files without the data, names, which file is opened, and files that lie."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from longtail_protocol import RANKS, image_set

from slabench.cli.longtail import make as make_command
from slabench.core import paths
from slabench.core.errors import DataError, UsageError
from slabench.core.files import sha256_file
from slabench.data.imageset import ImageSet
from slabench.data.longtail_files import (
    SubsetFile,
    describe,
    load_subset,
    make_subset,
    open_subset,
    read_manifest,
    subset_name,
)

PUBLISHED = ("exp-r10", "exp-r20", "exp-r50", "exp-r100", "exp-r200", "step-r10", "step-r100")


def load(images: ImageSet, folder: Path | None = None, ratio: float = 10) -> SubsetFile:
    return load_subset(images, "small", profile="exp", ratio=ratio, class_order="label", seed=0, folder=folder)


def make(images: ImageSet, folder: Path, ratio: float = 10, counts: list[int] | None = None) -> Path:
    return make_subset(
        images, "small", profile="exp", ratio=ratio, class_order="label", seed=0, counts=counts, folder=folder
    )


def lost_order(images: ImageSet) -> ImageSet:
    return replace(images, source_positions=np.full(len(images), -1, np.int32))


def published(name: str) -> tuple[Path, np.ndarray]:
    path = paths.episodes() / "longtail" / "cifar100" / f"{name}-label-s0-canonical.npy"
    return path, np.load(path, allow_pickle=False)


@pytest.mark.parametrize("ratio", [10, 50, 100, 200])
def test_published_files_hold_the_golden_ranks(ratio: int) -> None:
    """The ranks depend on the class sizes alone. In canonical order a class of CIFAR-100 is 500 rows, label after label."""
    _, rows = published(f"exp-r{ratio}")
    text = ",".join(str(row % 500) for row in rows.tolist())
    assert hashlib.sha256(text.encode()).hexdigest()[:16] == RANKS[100, ratio]


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_files_are_those_of_their_manifests(name: str) -> None:
    path, rows = published(name)
    manifest = read_manifest(path)
    assert sha256_file(path) == manifest.sha256
    assert manifest.name == f"cifar100/{path.stem}"
    assert rows.dtype == np.uint16
    assert np.bincount(rows // 500, minlength=100).tolist() == manifest.counts
    assert len(set(rows.tolist())) == len(rows) == manifest.images
    assert (np.diff(rows // 500) >= 0).all()  # class after class
    # Each class is the beginning of the same shuffled pile, whatever the profile and the ratio.
    _, most = published("step-r10")
    for label in range(50):
        own = rows[rows // 500 == label]
        assert np.array_equal(own, most[label * 500 : label * 500 + len(own)])


def test_published_files_are_small() -> None:
    folder = paths.episodes() / "longtail" / "cifar100"
    assert sum(path.stat().st_size for path in folder.iterdir()) < 300_000


@pytest.mark.parametrize(
    ("ratio", "order", "source_order", "expected"),
    [
        (100.0, "label", True, "d/exp-r100-label-s0"),
        (100, "reversed", False, "d/exp-r100-reversed-s0-canonical"),
        (7.5, "random:3", True, "d/exp-r7.5-random3-s0"),
        (100 / 3, "label", True, "d/exp-r33.333333333333336-label-s0"),
        (1e6, "label", True, "d/exp-r1e+06-label-s0"),
        (1234567, "label", True, "d/exp-r1234567.0-label-s0"),
    ],
)
def test_names(ratio: float, order: str, source_order: bool, expected: str) -> None:
    name = subset_name("d", "exp", ratio, order, 0, source_order=source_order)
    assert name == expected
    assert not set(name.partition("/")[2]) & set('<>:"/\\|?*')  # what no file system of ours forbids


def test_own_counts_are_named_by_their_digest() -> None:
    digest = hashlib.sha256(b"[5,3,2]").hexdigest()[:8]
    assert subset_name("d", "counts", 1, "label", 2, [5, 3, 2], source_order=True) == f"d/counts-{digest}-s2"


def test_ratios_that_look_alike_are_not_served_each_others_file() -> None:
    images = image_set(4, 2_000_000 // 1000)
    near = [load(images, ratio=ratio) for ratio in (19.999999, 20.000001)]
    assert near[0].path != near[1].path
    assert [file.manifest.counts[-1] for file in near] == [100, 99]


def test_published_images_come_before_the_published_canonical_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """slabench brings a canonical file; a colleague's file of the published images, once in the data folder, is preferred."""
    (tmp_path / "home" / "episodes" / "splits").mkdir(parents=True)
    monkeypatch.setenv("SLABENCH_HOME", str(tmp_path / "home"))
    images = image_set(10, 100)
    make(lost_order(images), paths.episodes() / "longtail")
    before = load(lost_order(images))
    assert before.path.is_relative_to(paths.episodes())
    assert not before.subset.source_order
    drawn = load(images)  # the order is known: the canonical file is not taken
    assert drawn.subset.source_order
    after = load(lost_order(images))
    assert (after.path, after.digest) == (drawn.path, drawn.digest)
    assert np.array_equal(after.subset.rows, drawn.subset.rows)


def test_more_rows_than_sixteen_bits_count(tmp_path: Path) -> None:
    images = image_set(2, 40_000)
    path = make(images, tmp_path)
    rows = np.load(path, allow_pickle=False)
    assert rows.dtype == np.uint32
    assert rows.max() > 65_535
    assert open_subset(path, images).subset.counts == (40_000, 4_000)


def _rewrite(path: Path, rows: np.ndarray) -> None:
    """Other rows, with a manifest whose sha256 agrees."""
    np.save(path, rows)
    _restate(path, lambda m: m.update(sha256=sha256_file(path)))


def _restate(path: Path, change: Callable[[dict[str, object]], object]) -> None:
    beside = path.with_suffix(".json")
    manifest = json.loads(beside.read_text())
    change(manifest)
    beside.write_text(json.dumps(manifest))


@pytest.mark.parametrize(
    ("lie", "message"),
    [
        (lambda p, r: _rewrite(p, r.astype(np.int64) - len(r)), "holds int64"),
        (lambda p, r: _rewrite(p, r[None]), r"holds uint16 \[1, "),
        (lambda p, r: _rewrite(p, r.astype(np.float32)), "holds float32"),
        (lambda p, r: _rewrite(p, r[::-1].copy()), "the classes of its rows"),
        (lambda p, r: _rewrite(p, np.r_[r[:1], r[:-1]]), "different ones"),
        (lambda p, r: _rewrite(p, r + np.uint16(1000)), "different ones"),
        (lambda p, r: _restate(p, lambda m: m.update(counts=[])), "is not a valid subset manifest"),
        (lambda p, r: _restate(p, lambda m: m["counts"].__setitem__(0, 0)), "is not a valid subset manifest"),
        (lambda p, r: _restate(p, lambda m: m.update(images=1)), "images and groups"),
        (lambda p, r: _restate(p, lambda m: m["groups"].update(few=1)), "images and groups"),
    ],
)
def test_files_that_lie_are_refused(lie: Callable[[Path, np.ndarray], None], message: str, tmp_path: Path) -> None:
    images = image_set(10, 100)
    path = make(images, tmp_path)
    lie(path, np.load(path))
    with pytest.raises(DataError, match=message):
        open_subset(path, images)


def test_what_is_no_array_is_refused(tmp_path: Path) -> None:
    images = image_set(10, 100)
    path = make(images, tmp_path)
    for content in (b"", b"PK\x03\x04", b"\x93NUMPY", b"class,count\n"):
        path.write_bytes(content)
        _restate(path, lambda m: m.update(sha256=sha256_file(path)))
        with pytest.raises(DataError, match="is not a plain npy file"):
            open_subset(path, images)


def test_a_file_under_another_ones_name_is_refused(tmp_path: Path) -> None:
    images = image_set(10, 100)
    other = load(images, tmp_path, ratio=20).path
    asked = other.with_name(other.name.replace("r20", "r10"))
    for suffix in (".npy", ".json"):
        other.with_suffix(suffix).rename(asked.with_suffix(suffix))
    with pytest.raises(DataError, match="is called small/exp-r20-label-s0 in its manifest"):
        load(images, tmp_path, ratio=10)


@pytest.mark.parametrize("seed", [-1, 2**32])
def test_seeds_that_the_legacy_generator_does_not_take(seed: int, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=f"--data-seed {seed}"):
        make_subset(image_set(3, 9), "small", profile="exp", ratio=2, class_order="label", seed=seed, folder=tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("ordered", [True, False])
@pytest.mark.parametrize("longest", [3, 60])
def test_description_fits_eighty_columns(ordered: bool, longest: int, tmp_path: Path) -> None:
    images = image_set(1000, 120, ordered=ordered)
    images = replace(images, class_names=tuple(f"{c:0{longest}}" for c in range(1000)))
    for path in (make(images, tmp_path), make(images, tmp_path, counts=[120] * 500 + [1] * 500)):
        lines = describe(open_subset(path, images), images.class_names)
        assert max(map(len, lines)) <= 80, lines
        assert path.stem in lines[0]
        assert ("lost" in lines[-1]) is not ordered
        assert len(lines[3]) == 60
        assert lines[3][0] == "█"  # the largest class is the scale
        assert lines[3][-1] != " "  # and no class that has images looks empty
    assert "many 500, medium n/a, few 500" in lines[2]
    assert "own counts (realised 120), 60,500 images" in lines[1]


def test_histogram_of_a_step() -> None:
    images = image_set(10, 80)
    file = load_subset(images, "small", profile="step", ratio=8, class_order="reversed", seed=0)
    assert describe(file, images.class_names)[3] == "▁" * 5 + "█" * 5


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"counts": "many.csv"}, "class '1' should keep 1001 images, and digits/train has"),
        ({"counts": "many.csv", "ratio": 10.0}, "leave --ratio"),
        ({"counts": "many.csv", "class_order": "reversed"}, "leave --ratio"),
        ({"data_seed": 2**32}, "--data-seed 4294967296"),
    ],
)
def test_command_refuses(
    settings: dict[str, object], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "many.csv").write_text("class,count\n" + "".join(f"{c},{1001 if c == 1 else 5}\n" for c in range(10)))
    given = {key: Path("many.csv") if key == "counts" else value for key, value in settings.items()}
    with pytest.raises(UsageError, match=message):
        make_command("digits", **given)  # type: ignore[arg-type]
