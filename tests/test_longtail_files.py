"""Frozen long-tail subsets: golden counts and ranks through the file, damage, and readers who have lost the original order."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from longtail_protocol import CIFAR100, RANKS, image_set
from processes import here

from slabench.core import paths
from slabench.core.errors import DataError, IntegrityError, UsageError
from slabench.data.imageset import ImageSet
from slabench.data.loading import load_images
from slabench.data.longtail_files import describe, list_files, load_subset, make_subset, open_subset, read_manifest


def load(images: ImageSet, **changes: object) -> object:
    settings: dict[str, object] = {"profile": "exp", "ratio": 100, "class_order": "label", "seed": 0, **changes}
    return load_subset(images, "small", **settings)  # type: ignore[arg-type]


@pytest.mark.parametrize("ratio", [10, 50, 100, 200])
def test_golden_counts_and_ranks_through_the_file(ratio: int) -> None:
    images = image_set(100, 500)
    file = load_subset(images, "small", profile="exp", ratio=ratio, class_order="label", seed=0)
    first, last, total, groups = CIFAR100[ratio]
    assert (file.manifest.counts[:5], file.manifest.counts[-5:], file.manifest.images) == (first, last, total)
    assert tuple(file.manifest.groups.values()) == groups
    assert file.manifest.source_order
    assert file.manifest.realised_ratio == 500 / last[-1]
    order = [own[np.argsort(images.source_positions[own])] for own in images.class_rows()]
    rank = np.empty(len(images), dtype=np.int64)
    for own in order:
        rank[own] = np.arange(500)
    text = ",".join(str(r) for r in rank[file.subset.rows])
    assert hashlib.sha256(text.encode()).hexdigest()[:16] == RANKS[100, ratio]


def test_a_file_of_the_published_images_serves_those_who_lost_the_order(tmp_path: Path) -> None:
    images = image_set(10, 500)
    drawn = load_subset(images, "small", profile="exp", ratio=50, class_order="label", seed=0)
    lost = replace(images, source_positions=np.full(len(images), -1, np.int32))
    again = load_subset(lost, "small", profile="exp", ratio=50, class_order="label", seed=0)
    assert (again.path, again.digest, again.manifest.source_order) == (drawn.path, drawn.digest, True)
    elsewhere = load_subset(
        lost, "small", profile="exp", ratio=50, class_order="label", seed=0, folder=tmp_path / "elsewhere"
    )
    assert not elsewhere.manifest.source_order
    assert elsewhere.name.endswith("-canonical")
    assert elsewhere.manifest.counts == drawn.manifest.counts
    assert set(elsewhere.subset.rows) != set(drawn.subset.rows)
    # Who knows the order is not served the other images, though their file is there.
    own = load_subset(
        images, "small", profile="exp", ratio=50, class_order="label", seed=0, folder=tmp_path / "elsewhere"
    )
    assert own.digest == drawn.digest


def test_two_users_get_the_same_bytes(tmp_path: Path) -> None:
    images = image_set(10, 100)
    made = [
        make_subset(
            images, "small", profile="step", ratio=7.5, class_order="random:3", seed=4, folder=tmp_path / str(user)
        )
        for user in range(2)
    ]
    assert made[0].name == "step-r7.5-random3-s4.npy"
    assert made[0].read_bytes() == made[1].read_bytes()
    assert read_manifest(made[0]) == read_manifest(made[1])


def test_own_counts_have_names_of_their_own() -> None:
    images = image_set(3, 30)
    first = load(images, profile="counts", counts=[30, 2, 5])
    second = load(images, profile="counts", counts=[30, 2, 6])
    assert first.name != second.name  # type: ignore[attr-defined]
    assert first.manifest.ratio is None  # type: ignore[attr-defined]
    assert first.manifest.realised_ratio == 15  # type: ignore[attr-defined]
    with pytest.raises(UsageError, match="class 'class1' should keep 31 images"):
        load(images, profile="counts", counts=[30, 31, 6])


def _damaged(path: Path, how: str) -> None:
    data = bytearray(path.read_bytes())
    beside = path.with_suffix(".json")
    manifest = json.loads(beside.read_text())
    if how == "flipped":
        data[-1] ^= 1
        path.write_bytes(bytes(data))
    elif how == "truncated":
        path.write_bytes(bytes(data[:-10]))
    elif how == "no manifest":
        beside.unlink()
    else:
        manifest[how] = {"dataset_digest": "0" * 64, "counts": [1, 2], "schema_version": "x"}[how]
        beside.write_text(json.dumps(manifest))


@pytest.mark.parametrize(
    ("how", "message", "kind"),
    [
        ("flipped", "has sha256", IntegrityError),
        ("truncated", "has sha256", IntegrityError),
        ("no manifest", "no manifest", DataError),
        ("dataset_digest", "was drawn from small with digest 000000000000", IntegrityError),
        ("counts", "its manifest counts 3", DataError),
        ("schema_version", "is not a valid subset manifest", DataError),
    ],
)
def test_damage_is_named(how: str, message: str, kind: type[Exception], tmp_path: Path) -> None:
    images = image_set(10, 100)
    path = make_subset(images, "small", profile="exp", ratio=10, class_order="label", seed=0, folder=tmp_path)
    open_subset(path, images)
    _damaged(path, how)
    with pytest.raises(kind, match=message):
        open_subset(path, images)


def test_other_data_is_drawn_anew() -> None:
    images = image_set(10, 100)
    first = load(images)
    other = replace(images, digest="e")
    second = load(other)
    assert second.manifest.dataset_digest == "e"  # type: ignore[attr-defined]
    assert first.digest == second.digest  # type: ignore[attr-defined]


def test_groups_without_a_class_are_not_available() -> None:
    images = image_set(10, 5000)
    file = load_subset(images, "small", profile="exp", ratio=100, class_order="label", seed=0)
    lines = describe(file, images.class_names)
    assert "many 8, medium 2, few n/a" in lines[2]
    assert all(len(line) <= 80 for line in lines)


def test_published_files_have_the_golden_totals() -> None:
    found = {path.stem: read_manifest(path) for path in list_files() if path.is_relative_to(paths.episodes())}
    for ratio, (first, last, total, groups) in CIFAR100.items():
        m = found[f"exp-r{ratio}-label-s0-canonical"]
        assert (m.counts[:5], m.counts[-5:], m.images, tuple(m.groups.values())) == (first, last, total, groups)
        assert not m.source_order
    assert found["step-r10-label-s0-canonical"].images == 27_500
    assert found["step-r100-label-s0-canonical"].images == 25_250


def test_published_files_fit_the_real_images(cifar100: Path) -> None:
    _, train, _ = load_images("cifar100")
    seen: set[int] = set()
    for ratio in (200, 100, 50, 20, 10):  # of one seed: nested
        path = paths.episodes() / "longtail" / "cifar100" / f"exp-r{ratio}-label-s0-canonical.npy"
        rows = set(open_subset(path, train).subset.rows.tolist())
        assert seen <= rows
        seen = rows


@pytest.mark.parametrize(
    ("arguments", "code", "expected"),
    [
        (
            ["make", "--dataset", "digits", "--ratio", "10"],
            0,
            "long tail digits/exp-r10-label-s0\nexp, ratio 10 (realised 10), 568 images",
        ),
        (["make", "--dataset", "digits", "--ratio", "0.01"], 2, "give for example --ratio 100"),
        (["make", "--dataset", "digits", "--profile", "expo"], 2, "did you mean 'exp'"),
        (["make", "--dataset", "digits", "--ratio", "1e9"], 2, "without an image"),
        (["make", "--dataset", "digits", "--class-order", "up"], 2, "label, reversed, or random"),
        (["make", "--dataset", "digits", "--counts", "bad.csv"], 1, "no class 'ten'"),
        (["make", "--dataset", "digits", "--counts", "none.csv"], 1, "none.csv cannot be read"),
        (["make", "--dataset", "fc100"], 2, "few-shot split of cifar100"),
        (["show", "cifar100/exp-r100-label-s0-canonica"], 2, "did you mean 'cifar100/exp-r100-label-s0-canonical'"),
        (["show", "nothing.npy"], 2, "there is no long-tail file 'nothing.npy'"),
    ],
)
def test_command(
    arguments: list[str], code: int, expected: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "bad.csv").write_text("class,count\nten,3\n")
    monkeypatch.chdir(tmp_path)
    found, output = here("longtail", *arguments)
    assert (found, "Traceback" in output) == (code, False), output
    assert expected in output


def test_verify_finds_a_flipped_byte(tmp_path: Path) -> None:
    code, output = here("longtail", "make", "--dataset", "digits", "-o", str(tmp_path / "mine"))
    assert code == 0, output
    path = tmp_path / "mine" / "digits" / "exp-r100-label-s0.npy"
    assert here("longtail", "verify", str(path))[0] == 0
    _damaged(path, "flipped")
    code, output = here("longtail", "verify", str(path))
    assert code == 1
    assert "BAD" in output
