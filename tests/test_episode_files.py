"""Frozen episodes: the published files, and what becomes of a damaged one."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from slabench.cli.app import app
from slabench.core import paths
from slabench.core.errors import DataError, IntegrityError, UsageError
from slabench.core.files import sha256_file, write_json
from slabench.data import load
from slabench.data.imageset import ImageSet
from slabench.episodes.files import find, load_episodes, make, open_file, protocol_part, read_manifest, usage

PUBLISHED = [
    f"{dataset}/{split}-5w{shots}s15q-2000"
    for dataset in ("fc100", "cifar-fs", "glyphs")
    for split in ("val", "test")
    for shots in (1, 5)
]


@pytest.fixture
def characters(glyphs: Path) -> ImageSet:
    return load("glyphs", "test")


@pytest.fixture
def frozen(characters: ImageSet, tmp_path: Path) -> Path:
    return make(characters, "glyphs", "test", 5, 2, 3, 40, tmp_path / "frozen")


def _check_published(name: str, images: ImageSet) -> None:
    path = find(name)
    assert path is not None
    assert paths.episodes() in path.parents
    file = open_file(path, images)
    m = file.manifest
    assert (m.ways, m.queries, m.episodes) == (5, 15, 2000)
    assert f"{m.shots}s" in name
    assert (m.dataset_digest, m.split_digest) == (images.digest, images.split_digest)
    assert np.load(path).dtype == np.uint16
    # Balanced: 10,000 class places and every image of a class, shared out to within one.
    low, high = usage(file, images)["class_uses"]
    assert high - low <= 1
    assert low == 2000 * 5 // images.n_classes
    per_image = usage(file, images)["image_uses"]
    assert per_image[1] - per_image[0] <= 1 or m.class_sizes != [m.class_sizes[0]] * len(m.class_sizes)


@pytest.mark.usefixtures("glyphs")
@pytest.mark.parametrize("name", [name for name in PUBLISHED if name.startswith("glyphs")])
def test_published_episodes_of_the_embedded_data(name: str) -> None:
    _check_published(name, load("glyphs", name.split("/")[1].split("-")[0]))


@pytest.mark.usefixtures("cifar100")
def test_published_episodes_of_cifar100() -> None:
    for name in PUBLISHED:
        dataset, rest = name.split("/")
        if dataset != "glyphs":
            _check_published(name, load(dataset, rest.split("-")[0]))


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_bytes_are_those_of_their_manifests(name: str) -> None:
    path = find(name)
    assert path is not None
    manifest = read_manifest(path)
    assert sha256_file(path) == manifest.sha256
    rows = np.load(path)
    assert rows.shape == (2000, 5, manifest.shots + 15)
    assert path.stat().st_size < 2_000_000


def test_making_is_deterministic_and_the_name_decides(characters: ImageSet, tmp_path: Path) -> None:
    first, again = (make(characters, "glyphs", "test", 5, 1, 2, 30, tmp_path / folder) for folder in ("a", "b"))
    other = make(characters, "glyphs", "test", 5, 2, 1, 30, tmp_path / "a")
    assert first.read_bytes() == again.read_bytes()
    assert not np.array_equal(np.load(first), np.load(other))


def test_the_protocol_tells_supports_from_queries(characters: ImageSet, tmp_path: Path) -> None:
    path = make(characters, "glyphs", "test", 5, 1, 2, 30, tmp_path)
    before = protocol_part(open_file(path, characters))
    manifest = read_manifest(path).model_copy(update={"shots": 2, "queries": 1})
    write_json(path.with_suffix(".json"), manifest.model_dump())
    assert protocol_part(open_file(path, characters)) != before


def test_a_flipped_byte_is_found(frozen: Path, characters: ImageSet) -> None:
    data = bytearray(frozen.read_bytes())
    data[-7] ^= 1
    frozen.write_bytes(data)
    with pytest.raises(IntegrityError, match=r"test-5w2s3q-40\.npy has sha256 .* its manifest says"):
        open_file(frozen, characters)


def test_a_truncated_file_is_found(frozen: Path, characters: ImageSet) -> None:
    frozen.write_bytes(frozen.read_bytes()[:-10])
    with pytest.raises(IntegrityError):
        open_file(frozen, characters)


def test_a_missing_or_foreign_manifest_is_named(frozen: Path, characters: ImageSet) -> None:
    beside = frozen.with_suffix(".json")
    kept = beside.read_text(encoding="utf-8")
    beside.write_text("{}", encoding="utf-8")
    with pytest.raises(DataError, match="is not a valid episode manifest"):
        open_file(frozen, characters)
    beside.write_text(kept[: len(kept) // 2], encoding="utf-8")
    with pytest.raises(DataError, match="not readable JSON"):
        open_file(frozen, characters)
    beside.unlink()
    with pytest.raises(DataError, match="has no manifest"):
        open_file(frozen, characters)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda rows, n: rows.__setitem__((3, 0, 0), n), r"names row \d+, and glyphs"),
        (lambda rows, n: rows.__setitem__((3, 1, 4), rows[3, 0, 4]), "episode 3 mixes classes within a way"),
        (lambda rows, n: rows.__setitem__((3, 1, 4), rows[3, 1, 0]), "episode 3 contains the same image twice"),
        (lambda rows, n: rows.__setitem__((3, 1), np.roll(rows[3, 0], 1) + 50), "episode 3"),
    ],
)
def test_indices_that_form_no_episodes_are_found_behind_a_right_digest(
    frozen: Path, characters: ImageSet, spoil: object, message: str
) -> None:
    rows = np.load(frozen)
    spoil(rows, len(characters))  # type: ignore[operator]
    np.save(frozen, rows)
    manifest = read_manifest(frozen).model_copy(update={"sha256": sha256_file(frozen)})
    write_json(frozen.with_suffix(".json"), manifest.model_dump())
    with pytest.raises(DataError, match=message):
        open_file(frozen, characters)


def test_other_class_sizes_are_named(frozen: Path, characters: ImageSet) -> None:
    fewer = characters.select_classes(characters.class_names[:-1], "glyphs[fewer]", characters.split_digest)
    with pytest.raises(DataError, match=r"glyphs\[fewer\] has"):
        open_file(frozen, fewer)


def test_missing_episodes_are_made_once_in_the_users_folder(characters: ImageSet) -> None:
    file = load_episodes(characters, "glyphs", "test", 3, 2, 4, 25)
    assert paths.user_episodes() in file.path.parents
    stamp = file.path.stat().st_mtime_ns
    assert load_episodes(characters, "glyphs", "test", 3, 2, 4, 25).path.stat().st_mtime_ns == stamp


@pytest.mark.usefixtures("glyphs")
def test_validation_episodes_leave_most_images_alone() -> None:
    images = load("glyphs", "val")
    file = load_episodes(images, "glyphs", "val", 3, 2, 4, 25)
    assert file.manifest.images_per_class == 100


def test_sets_too_large_for_uint16_are_refused(characters: ImageSet, tmp_path: Path) -> None:
    from dataclasses import replace

    n = 2**16 + 1
    large = replace(
        characters,
        images=np.broadcast_to(characters.images[:1], (n, 32, 32, 3)),
        labels=np.resize(np.arange(characters.n_classes), n),
    )
    with pytest.raises(UsageError, match="at most 65,535"):
        make(large, "glyphs", "test", 5, 1, 1, 2, tmp_path)


@pytest.mark.usefixtures("glyphs")
def test_commands_make_show_verify(tmp_path: Path) -> None:
    runner = CliRunner()
    made = runner.invoke(
        app, ["episodes", "make", "glyphs", "--ways", "3", "--shots", "1", "--queries", "2", "--episodes", "12"]
    )
    assert made.exit_code == 0, made.output
    assert "12 of 3 ways, 1 shots, 2 queries" in made.output
    shown = runner.invoke(app, ["episodes", "show", "glyphs/test-3w1s2q-12", "--first", "1"])
    assert shown.exit_code == 0
    line = next(line for line in shown.output.splitlines() if "|" in line)
    support, query = line.split(":")[1].split("|")
    assert (len(support.split()), len(query.split())) == (1, 2)
    assert runner.invoke(app, ["episodes", "verify", "glyphs/test-3w1s2q-12"]).exit_code == 0

    path = paths.user_episodes() / "glyphs" / "test-3w1s2q-12.npy"
    path.write_bytes(path.read_bytes()[:-2])
    bad = runner.invoke(app, ["episodes", "verify", "glyphs/test-3w1s2q-12", "glyphs/test-5w1s15q-2000"])
    assert bad.exit_code == 1
    assert "BAD" in bad.output
    assert "ok      glyphs/test-5w1s15q-2000" in bad.output


def test_verify_says_what_it_could_not_read_for_want_of_data() -> None:
    result = CliRunner().invoke(app, ["episodes", "verify", "fc100/test-5w5s15q-2000"])
    assert result.exit_code == 0
    assert "unread" in result.output


def test_a_mistyped_name_suggests() -> None:
    result = CliRunner().invoke(app, ["episodes", "show", "glyphs/test-5w1s15q-200"])
    assert isinstance(result.exception, UsageError)
    assert "did you mean" in str(result.exception)


def test_manifests_hold_no_paths() -> None:
    for name in PUBLISHED:
        path = find(name)
        assert path is not None
        text = path.with_suffix(".json").read_text(encoding="utf-8")
        assert "/" not in json.dumps(
            {k: v for k, v in json.loads(text).items() if k not in ("schema_version", "method")}
        )
