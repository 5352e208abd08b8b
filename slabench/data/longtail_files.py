"""Frozen long-tail subsets: which training images a long-tail run learns from, as index files with a manifest and a digest.

`longtail/<dataset>/exp-r100-label-s0-canonical.npy` is uint16 or uint32 `[n]`: rows of the training images in canonical order,
class after class as they were drawn. The `.json` beside it says what they were drawn from. Files that travel with slabench lie in
`episodes/longtail/`; others are made by `slabench longtail make`, or by the first run that needs them, in the user's data folder.
A subset that was drawn on the original order of the data holds the images of the published tables; its file serves a reader whose
copy has lost that order just as well, as rows count in canonical order. One that was drawn on the canonical order, where the
original one is lost, has as many images but other ones, and `-canonical` in its name.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, ValidationError

from slabench import paths
from slabench.data.imageset import ImageSet
from slabench.data.longtail import Subset, draw, groups, long_tail
from slabench.errors import DataError, IntegrityError
from slabench.fsio import digest_json, read_json, sha256_file, write_bytes, write_json

FOLDER = "longtail"


class Manifest(BaseModel):
    """What a subset file holds and what it was drawn from."""

    model_config = ConfigDict(extra="forbid")

    schema_version: Literal["slabench.longtail/1"] = "slabench.longtail/1"
    dataset: str
    profile: Literal["exp", "step", "counts"]
    ratio: float | None
    realised_ratio: float
    class_order: str
    seed: int
    source_order: bool
    counts: list[int]
    images: int
    groups: dict[str, int]
    dataset_digest: str
    sha256: str


@dataclass(frozen=True)
class SubsetFile:
    """A verified subset file, opened on the images it is used with.

    Attributes:
        name: `cifar100/exp-r100-label-s0`.
        subset: rows and counts.
        manifest: as in the file.
        digest: sha256 of the index file.
        path: of the index file.
    """

    name: str
    subset: Subset
    manifest: Manifest
    digest: str
    path: Path


def subset_name(
    dataset: str,
    profile: str,
    ratio: float,
    class_order: str,
    seed: int,
    counts: Sequence[int] | None = None,
    *,
    source_order: bool,
) -> str:
    """The name of a file, such as `cifar100/exp-r100-label-s0`; own counts are named by their digest."""
    end = f"s{seed}" if source_order else f"s{seed}-canonical"
    if counts is not None:
        return f"{dataset}/counts-{digest_json([int(n) for n in counts])[:8]}-{end}"
    return f"{dataset}/{profile}-r{ratio:g}-{class_order.replace(':', '')}-{end}"


def list_files() -> list[Path]:
    """Every subset file, published ones first."""
    folders = (paths.episodes() / FOLDER, paths.user_episodes() / FOLDER)
    return [path for folder in folders if folder.is_dir() for path in sorted(folder.rglob("*.npy"))]


def find(name: str) -> Path | None:
    """The index file called `name`, published or the user's, or None."""
    for folder in (paths.episodes(), paths.user_episodes()):
        path = folder / FOLDER / f"{name}.npy"
        if path.is_file():
            return path
    return None


def make_subset(
    images: ImageSet,
    dataset: str,
    *,
    profile: str,
    ratio: float,
    class_order: str,
    seed: int,
    counts: Sequence[int] | None = None,
    folder: Path | None = None,
) -> Path:
    """Draw a subset and freeze it.

    Args:
        images: the training images.
        dataset: for the name.
        profile: `exp` or `step`; `counts` with `counts`.
        ratio: nominal, largest over smallest class.
        class_order: see `slabench.data.longtail.class_order`.
        seed: of the draw.
        counts: own counts by label; then profile, ratio and order say nothing.
        folder: where the file goes; by default the user's subsets.

    Raises:
        UsageError: the classes cannot serve such a subset; names the class.
    """
    if counts is None:
        subset = long_tail(images, ratio, profile, class_order, seed)
    else:
        subset = draw(images, counts, seed)
    name = subset_name(dataset, profile, ratio, class_order, seed, counts, source_order=subset.source_order)
    kind = np.uint16 if len(images) <= np.iinfo(np.uint16).max + 1 else np.uint32
    buffer = io.BytesIO()
    np.save(buffer, subset.rows.astype(kind))
    target = (folder or paths.user_episodes() / FOLDER) / f"{name}.npy"
    write_bytes(target, buffer.getvalue())
    manifest = Manifest(
        dataset=dataset,
        profile="counts" if counts is not None else profile,  # type: ignore[arg-type]
        ratio=None if counts is not None else ratio,
        realised_ratio=subset.realised_ratio,
        class_order="label" if counts is not None else class_order,
        seed=seed,
        source_order=subset.source_order,
        counts=list(subset.counts),
        images=len(subset.rows),
        groups={group: len(own) for group, own in groups(subset.counts).items()},
        dataset_digest=images.digest,
        sha256=sha256_file(target),
    )
    write_json(target.with_suffix(".json"), manifest.model_dump())
    return target


def read_manifest(path: Path) -> Manifest:
    """The manifest beside an index file."""
    beside = path.with_suffix(".json")
    if not beside.is_file():
        raise DataError(f"{path} has no manifest {beside.name}", "make it again with `slabench longtail make`")
    try:
        return Manifest.model_validate(read_json(beside))
    except ValidationError as error:
        raise DataError(
            f"{beside} is no subset manifest: {error.errors()[0]['msg']}", "make it again with `slabench longtail make`"
        ) from error


def open_subset(path: Path, images: ImageSet) -> SubsetFile:
    """Read, check and open a subset file on the images it is used with.

    Raises:
        IntegrityError: the bytes are not those of the manifest, or it was drawn from other data.
        DataError: the rows are not what the manifest says.
    """
    manifest = read_manifest(path)
    remedy = "restore it from its source, or make it again with `slabench longtail make`"
    digest = sha256_file(path)
    if digest != manifest.sha256:
        raise IntegrityError(f"{path} has sha256 {digest[:12]}, its manifest says {manifest.sha256[:12]}", remedy)
    if manifest.dataset_digest != images.digest:
        raise IntegrityError(
            f"{path} was drawn from {manifest.dataset} with digest {manifest.dataset_digest[:12]}, and {images.name} has "
            f"{images.digest[:12]}",
            "your copy of the data is incomplete or another one (`slabench data verify` says how); draw from it: "
            "`slabench longtail make -o FOLDER`",
        )
    rows = np.load(path, allow_pickle=False).astype(np.int64)
    labels = np.repeat(np.arange(len(manifest.counts)), manifest.counts)
    if rows.shape != labels.shape or len(np.unique(rows)) != len(rows) or rows.max() >= len(images):
        raise DataError(f"{path} holds {len(rows)} rows, its manifest counts {len(labels)} different ones", remedy)
    if not np.array_equal(images.labels[rows], labels):
        raise DataError(f"{path}: the classes of its rows are not those of the manifest's counts", remedy)
    subset = Subset(rows, tuple(manifest.counts), manifest.source_order, manifest.seed)
    return SubsetFile(f"{manifest.dataset}/{path.stem}", subset, manifest, digest, path)


def load_subset(
    images: ImageSet,
    dataset: str,
    *,
    profile: str,
    ratio: float,
    class_order: str,
    seed: int,
    counts: Sequence[int] | None = None,
    folder: Path | None = None,
) -> SubsetFile:
    """The frozen subset, published or the user's; drawn and kept in the user's folder if nobody has frozen it yet.

    The images of the published tables come first: where a file of them is at hand, and where the data knows its original
    order. A file that was drawn from other data of that name is passed over.

    Args:
        images: the training images.
        dataset: for the name.
        profile: `exp`, `step` or `counts`.
        ratio: nominal.
        class_order: see `slabench.data.longtail.class_order`.
        seed: of the draw.
        counts: own counts by label.
        folder: the data folder; by default `SLABENCH_DATA` or the user's cache.
    """
    own = paths.data(folder) / "episodes" / FOLDER
    knows_order = bool((images.source_positions >= 0).all())
    names = [
        subset_name(dataset, profile, ratio, class_order, seed, counts, source_order=order)
        for order in ((True,) if knows_order else (True, False))
    ]
    for place in (paths.episodes() / FOLDER, own):
        for name in names:
            path = place / f"{name}.npy"
            if path.is_file() and read_manifest(path).dataset_digest == images.digest:
                return open_subset(path, images)
    path = make_subset(
        images,
        dataset,
        profile=profile,
        ratio=ratio,
        class_order=class_order,
        seed=seed,
        counts=counts,
        folder=own,
    )
    return open_subset(path, images)


_BARS = " ▁▂▃▄▅▆▇█"
_WIDTH = 60


def describe(file: SubsetFile, class_names: Sequence[str]) -> list[str]:
    """What a subset is, in lines of at most 80 columns: ratios, groups, and the counts as a histogram."""
    m, counts = file.manifest, np.array(file.subset.counts)
    first, last = int(counts.argmax()), int(counts.argmin())
    nominal = "own counts" if m.ratio is None else f"{m.profile}, ratio {m.ratio:g}"
    order = "drawn on the order of the source, as the published subsets are"
    if not m.source_order:
        order = "the order of the source is lost: as many images as published, but other ones"
    parts = [f"{name} {n if n else 'n/a'}" for name, n in m.groups.items()]
    heights = [
        int(np.ceil(8 * block.mean() / counts.max())) for block in np.array_split(counts, min(_WIDTH, len(counts)))
    ]
    return [
        f"long tail {file.name}: {nominal} (realised {m.realised_ratio:g}), {m.images:,} images",
        f"{class_names[first]} {counts[first]:,} ... {class_names[last]} {counts[last]:,}; classes: {', '.join(parts)}",
        "".join(_BARS[height] for height in heights),
        f"{order}; sha256 {file.digest[:12]}",
    ]
