"""Frozen episodes: index files with a manifest and a digest, the same for every method and every machine.

`<dataset>/<split>-5w5s15q-2000.npy` is uint16 `[E, N, K+Q]`: rows of the split's images in canonical order, supports first.
Files with a profile (`...-2000-slinear9-qdirichlet2`) have as many columns as the largest class needs, and 65,535 for no image.
Open-set files (`...-2000-open5`) are `[E, N+U, K+Q]`: the ways of the closed file of that name, then U classes that are no way
of the episode, with queries and no supports. The `.json` beside it says what they were drawn from. Files that travel with
slabench lie in `episodes/`; those made with `slabench episodes make`, or by the first run that needs them, in the user's data
folder. Making is deterministic, so that two users who make the same file get the same bytes.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, NonNegativeInt, PositiveInt

from slabench.core import manifests, paths
from slabench.core.arrays import parse_npy
from slabench.core.errors import DataError, UsageError
from slabench.core.files import read_plain
from slabench.core.seeding import numpy_generator
from slabench.data.catalog import DATASETS
from slabench.data.imageset import ImageSet
from slabench.episodes import episodes_digest
from slabench.episodes.profiles import BALANCED, parse_profile
from slabench.episodes.sampler import TEST, VALIDATION, Episodes, balanced_episodes, with_unknown

VALIDATION_IMAGES = 100
"""Images of a class that validation episodes are drawn from, the first in canonical order (which is by pixel digest, so
arbitrary). Curves then cost 2,000 embedded images a point on FC100 instead of 12,000; tests use every image."""

_COMMAND = "slabench episodes make"
_NO_IMAGE = 2**16 - 1
_NAMED = ("dataset", "split", "ways", "shots", "queries", "episodes", "support_profile", "query_profile", "unknown")
_SEED = 20200713  # any constant: part of the file's identity through the manifest


class Manifest(BaseModel):
    """What an episode file holds and what it was drawn from."""

    model_config = ConfigDict(extra="forbid")

    schema_version: Literal["slabench.episodes/1"] = "slabench.episodes/1"
    # Added later: the defaults describe files that lack these fields.
    support_profile: str = BALANCED
    query_profile: str = BALANCED
    columns: tuple[PositiveInt, PositiveInt] | None = None
    unknown: NonNegativeInt = 0
    dataset: str
    split: str
    ways: PositiveInt
    shots: PositiveInt
    queries: PositiveInt
    episodes: PositiveInt
    images_per_class: PositiveInt | None
    seed: int
    method: Literal["balanced/1", "profile/1"] = "balanced/1"
    dataset_digest: str
    split_digest: str
    class_sizes: list[int]
    sha256: str


@dataclass(frozen=True)
class EpisodeFile:
    """A verified episode file, opened on the image set it is used with.

    Attributes:
        name: `fc100/test-5w5s15q-2000`.
        episodes: the indices.
        manifest: as in the file.
        digest: sha256 of the index file.
        path: of the index file.
    """

    name: str
    episodes: Episodes
    manifest: Manifest
    digest: str
    path: Path


def episode_name(
    dataset: str,
    split: str,
    ways: int,
    shots: int,
    queries: int,
    n: int,
    support_profile: str = BALANCED,
    query_profile: str = BALANCED,
    unknown: int = 0,
) -> str:
    """The name of a file: `fc100/test-5w5s15q-2000`, `fc100/test-5w5s15q-2000-slinear9-qdirichlet2` or `...-2000-open5`."""
    end = profile_suffix(support_profile, query_profile) + (f"-open{unknown}" if unknown else "")
    return f"{dataset}/{split}-{ways}w{shots}s{queries}q-{n}{end}"


def profile_suffix(support_profile: str, query_profile: str) -> str:
    """`-slinear9-qdirichlet2`: how names tell the profiles; nothing where both are balanced."""
    parts = {"s": parse_profile(support_profile), "q": parse_profile(query_profile, "--query-profile")}
    return "".join(f"-{letter}{profile.short}" for letter, profile in parts.items() if not profile.balanced)


def find(name: str) -> Path | None:
    """The index file called `name`, published or the user's, or None."""
    return manifests.find(name)


def list_files() -> list[Path]:
    """Every episode file, published ones first; other index files lie a folder deeper (`longtail/`, `all-classes/`)."""
    folders = (paths.episodes(), paths.user_episodes())
    found = [path for folder in folders if folder.is_dir() for path in sorted(folder.glob("*/*.npy"))]
    return [path for path in found if manifests.is_frozen(path)]


def make(
    images: ImageSet,
    dataset: str,
    split: str,
    ways: int,
    shots: int,
    queries: int,
    n: int,
    folder: Path | None = None,
    images_per_class: int | None = None,
    support_profile: str = BALANCED,
    query_profile: str = BALANCED,
    unknown: int = 0,
) -> Path:
    """Draw balanced episodes and freeze them; a file that is already there stays as it is if its bytes agree.

    Args:
        images: the split.
        dataset: for the name.
        split: for the name.
        ways: N.
        shots: K.
        queries: Q per class.
        n: how many episodes.
        folder: where the file goes; by default the user's episodes.
        images_per_class: use only the first so many images of each class; None for all.
        support_profile: how the N*K supports of an episode are shared out among its classes.
        query_profile: the same of its N*Q queries.
        unknown: U, classes with queries and no supports; the others are those of the file without them.

    Raises:
        UsageError: the classes cannot serve such episodes.
    """
    closed = episode_name(dataset, split, ways, shots, queries, n, support_profile, query_profile)
    name = episode_name(dataset, split, ways, shots, queries, n, support_profile, query_profile, unknown)
    if len(images) > _NO_IMAGE:
        raise UsageError(
            f"{images.name} has {len(images)} images, and episode files index at most 65,535",
            "split the data set, or take fewer classes",
        )
    class_rows = [rows[:images_per_class] for rows in images.class_rows()]
    profiles = parse_profile(support_profile), parse_profile(query_profile, "--query-profile")
    drawn = balanced_episodes(
        class_rows,
        ways,
        shots,
        queries,
        n,
        numpy_generator(_SEED, closed),
        images.class_names,
        *profiles,
        VALIDATION if split == "val" else TEST,
    )
    if unknown:
        drawn = with_unknown(drawn, class_rows, unknown, queries, numpy_generator(_SEED, name), images.class_names)
    buffer = io.BytesIO()
    np.save(buffer, drawn.rows.numpy().astype(np.uint16))  # -1 becomes _NO_IMAGE
    target = (folder or paths.user_episodes()) / f"{name}.npy"
    manifest = Manifest(
        dataset=dataset,
        split=split,
        ways=ways,
        shots=shots,
        queries=queries,
        episodes=n,
        images_per_class=images_per_class,
        seed=_SEED,
        dataset_digest=images.digest,
        split_digest=images.split_digest,
        class_sizes=[len(rows) for rows in images.class_rows()],
        unknown=unknown,
        sha256=hashlib.sha256(buffer.getvalue()).hexdigest(),
    )
    if not all(profile.balanced for profile in profiles):
        columns = drawn.shots, drawn.queries
        manifest = manifest.model_copy(
            update={
                "support_profile": str(profiles[0]),
                "query_profile": str(profiles[1]),
                "columns": columns,
                "method": "profile/1",
            }
        )
    # A balanced file has the very manifest that it always had.
    manifests.write_frozen(target, buffer.getvalue(), manifest.model_dump(mode="json", exclude=_unused(manifest)))
    return target


def read_manifest(path: Path) -> Manifest:
    """The manifest beside an index file."""
    return manifests.read_manifest(path, Manifest, "episode", _COMMAND)


def read_rows(path: Path) -> tuple[Manifest, NDArray[np.int64]]:
    """The manifest and the indices `[E, N, K+Q]` (-1: no image) of a file, without the images it was drawn from.

    Raises:
        IntegrityError: the bytes are not those of the manifest.
        DataError: there is no manifest, or the array is not of its shape.
    """
    manifest = read_manifest(path)
    manifests.check_digest(path, manifest.sha256, _COMMAND)
    rows = parse_npy(read_plain(path), str(path), f"make it again: {_COMMAND}")
    shape = (
        manifest.episodes,
        manifest.ways + manifest.unknown,
        sum(manifest.columns or (manifest.shots, manifest.queries)),
    )
    if rows.shape != shape or rows.dtype != np.uint16:
        raise DataError(
            f"{path} holds {rows.dtype} {list(rows.shape)}, its manifest says uint16 {list(shape)}",
            f"make it again: {_COMMAND}",
        )
    indices = rows.astype(np.int64)
    if manifest.columns is not None or manifest.unknown:
        indices[rows == _NO_IMAGE] = -1
    return manifest, indices


def open_file(path: Path, images: ImageSet) -> EpisodeFile:
    """Read, check and open an index file on the images it is used with.

    Raises:
        IntegrityError: the bytes are not those of the manifest.
        DataError: the indices do not fit the images (other class sizes), or do not form episodes.
    """
    manifest, indices = read_rows(path)
    sizes = [len(rows) for rows in images.class_rows()]
    if sizes != manifest.class_sizes:
        raise DataError(
            f"{path} was drawn from {len(manifest.class_sizes)} classes of {_span(manifest.class_sizes)} images, "
            f"and {images.name} has {len(sizes)} classes of {_span(sizes)}",
            "your copy of the data is incomplete, or of another version: `slabench data verify` says how it differs",
        )
    classes = _classes_of(indices, images, path, manifest)
    name = episode_name(*(getattr(manifest, key) for key in _NAMED))
    shots = manifest.columns[0] if manifest.columns else manifest.shots
    episodes = Episodes(torch.from_numpy(indices), torch.from_numpy(classes), shots)
    asked = manifest.queries * (manifest.ways + manifest.unknown)
    for query, expected in ((False, manifest.shots * manifest.ways), (True, asked)):
        count = episodes.flat(query)[0].shape[1]
        if count != expected:
            what = "queries" if query else "supports"
            raise DataError(
                f"{path} has {count} {what} per episode, and its manifest says {expected}",
                f"make it again: {_COMMAND}",
            )
    return EpisodeFile(name, episodes, manifest, manifest.sha256, path)


def load_episodes(
    images: ImageSet,
    dataset: str,
    split: str,
    ways: int,
    shots: int,
    queries: int,
    n: int,
    support_profile: str = BALANCED,
    query_profile: str = BALANCED,
    unknown: int = 0,
) -> EpisodeFile:
    """The frozen episodes of that name; made in the user's folder if nobody has frozen them yet.

    Those of a plug-in's or a user's own data set are made anew when its classes have come to have other sizes.

    Validation episodes use the first `VALIDATION_IMAGES` images of a class (as many as needed where a class needs more).
    """
    more = support_profile, query_profile, unknown
    path = find(episode_name(dataset, split, ways, shots, queries, n, *more))
    if path is None or _outgrown(path, images, dataset):
        cap = max(VALIDATION_IMAGES, shots + queries) if split == "val" else None
        path = make(images, dataset, split, ways, shots, queries, n, paths.new_episodes(), cap, *more)
    return open_file(path, images)


def _outgrown(path: Path, images: ImageSet, dataset: str) -> bool:
    """Whether a plug-in's data set, or an imported one, has changed so that the user's file cannot be its own any more."""
    if dataset not in DATASETS or not path.is_relative_to(paths.user_episodes()):
        return False
    if DATASETS[dataset].make is None and DATASETS[dataset].own is None:
        return False
    return read_manifest(path).class_sizes != [len(rows) for rows in images.class_rows()]


def usage(file: EpisodeFile, images: ImageSet) -> Mapping[str, Any]:
    """How evenly classes and images are used: least and most often."""
    classes = np.bincount(file.episodes.classes.numpy().ravel(), minlength=images.n_classes)
    every = file.episodes.rows.numpy().ravel()
    rows = np.bincount(every[every >= 0], minlength=len(images))
    used = rows[rows > 0]
    return {
        "class_uses": [int(classes.min()), int(classes.max())],
        "images_used": int((rows > 0).sum()),
        "image_uses": [int(used.min()), int(used.max())],
    }


def protocol_part(file: EpisodeFile | Manifest) -> str:
    """`slabench.episodes.episodes_digest` of a file."""
    m = file.manifest if isinstance(file, EpisodeFile) else file
    return episodes_digest(m.sha256, m.ways, m.shots, m.queries)


def _unused(manifest: Manifest) -> set[str]:
    profiles = {"support_profile", "query_profile", "columns"} if manifest.columns is None else set()
    return profiles | (set() if manifest.unknown else {"unknown"})


def _classes_of(rows: NDArray[np.int64], images: ImageSet, path: Path, manifest: Manifest) -> NDArray[np.int64]:
    """`[E, N+U]` classes of the ways and unknown ones, after checking that the indices (-1: no image) are episodes."""
    if int(rows.max()) >= len(images):
        raise DataError(
            f"{path} names row {int(rows.max())}, and {images.name} has {len(images)} images",
            f"make it again: {_COMMAND}",
        )
    if (rows[:, : manifest.ways, 0] < 0).any():
        raise DataError(f"{path}: a class of an episode has no support image", f"make it again: {_COMMAND}")
    if (rows[:, manifest.ways :, 0] >= 0).any() or (rows[..., -1] < 0)[:, manifest.ways :].any():
        raise DataError(f"{path}: an unknown class has supports, or no queries", f"make it again: {_COMMAND}")
    labels = np.where(rows >= 0, np.asarray(images.labels, dtype=np.int64)[rows], -1)
    own: NDArray[np.int64] = labels.max(2)
    mixed = (labels != own[..., None]) & (rows >= 0)
    if mixed.any():
        episode = int(mixed.any((1, 2)).argmax())
        raise DataError(
            f"{path}: episode {episode} mixes classes within a way", f"make it again from this data: {_COMMAND}"
        )
    for what, values in (("image", rows.reshape(len(rows), -1)), ("class", own)):
        ordered = np.sort(values, axis=1)
        twice = ((ordered[:, 1:] == ordered[:, :-1]) & (ordered[:, 1:] >= 0)).any(1)
        if twice.any():
            raise DataError(
                f"{path}: episode {int(twice.argmax())} contains the same {what} twice", f"make it again: {_COMMAND}"
            )
    return own


def _span(sizes: list[int]) -> str:
    return str(min(sizes)) if min(sizes) == max(sizes) else f"{min(sizes)} to {max(sizes)}"
