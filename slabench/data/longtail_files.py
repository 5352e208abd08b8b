"""Frozen long-tail subsets: which training images a long-tail run learns from, as index files with a manifest and a digest.

`longtail/<dataset>/exp-r100-label-s0-canonical.npy` is uint16 or uint32 `[n]`: rows of the training images in canonical order,
class after class as they were drawn. The `.json` beside it says what they were drawn from. Files that travel with slabench lie in
`episodes/longtail/`; others are made by `slabench longtail make`, or by the first run that needs them, in the user's data folder.
A subset that was drawn on the original order of the data holds the images of the published tables; its file serves a reader whose
copy has lost that order just as well, as rows count in canonical order. One that was drawn on the canonical order, where the
original one is lost, has as many images but other ones, and `-canonical` in its name.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from slabench.core import manifests, paths
from slabench.core.arrays import parse_npy
from slabench.core.errors import DataError, IntegrityError
from slabench.core.files import digest_json, read_plain
from slabench.data.imageset import ImageSet
from slabench.data.longtail import Subset, draw, groups, long_tail

FOLDER = "longtail"
_COMMAND = "slabench longtail make"
_REMEDY = f"restore it from its source, or make it again with `{_COMMAND}`"


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
    counts: Annotated[list[Annotated[int, Field(ge=1)]], Field(min_length=1)]
    images: int
    groups: dict[str, int]
    dataset_digest: str
    sha256: str

    @property
    def name(self) -> str:
        """What a file with this content is called."""
        counts = self.counts if self.profile == "counts" else None
        return subset_name(
            self.dataset,
            self.profile,
            self.ratio or 0,
            self.class_order,
            self.seed,
            counts,
            source_order=self.source_order,
        )


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
    """The name of a file, such as `cifar100/exp-r100-label-s0`; own counts are named by their digest.

    Two requests never share a name: a ratio is written with as many digits as it takes to tell it from its neighbours.
    """
    end = f"s{seed}" if source_order else f"s{seed}-canonical"
    if counts is not None:
        return f"{dataset}/counts-{digest_json([int(n) for n in counts])[:8]}-{end}"
    short = f"{ratio:g}"
    number = short if float(short) == ratio else repr(float(ratio))
    return f"{dataset}/{profile}-r{number}-{class_order.replace(':', '')}-{end}"


def list_files() -> list[Path]:
    """Every subset file, published ones first."""
    folders = (paths.episodes() / FOLDER, paths.user_episodes() / FOLDER)
    return [
        path
        for folder in folders
        if folder.is_dir()
        for path in sorted(folder.rglob("*.npy"))
        if manifests.is_frozen(path)
    ]


def find(name: str) -> Path | None:
    """The index file called `name`, published or the user's, or None."""
    return manifests.find(f"{FOLDER}/{name}")


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
        counts: own counts by label; profile, ratio and order then have no effect.
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
        groups=_group_sizes(subset.counts),
        dataset_digest=images.digest,
        sha256=hashlib.sha256(buffer.getvalue()).hexdigest(),
    )
    manifests.write_frozen(target, buffer.getvalue(), manifest.model_dump())
    return target


def read_manifest(path: Path) -> Manifest:
    """The manifest beside an index file."""
    return manifests.read_manifest(path, Manifest, "subset", _COMMAND)


def open_subset(path: Path, images: ImageSet) -> SubsetFile:
    """Read, check and open a subset file on the images it is used with.

    Raises:
        IntegrityError: the bytes are not those of the manifest, or it was drawn from other data.
        DataError: the rows are not what the manifest says.
    """
    manifest = read_manifest(path)
    digest = manifests.check_digest(path, manifest.sha256, _COMMAND)
    if manifest.dataset_digest != images.digest:
        raise IntegrityError(
            f"{path} was drawn from {manifest.dataset} with digest {manifest.dataset_digest[:12]}, and {images.name} has "
            f"{images.digest[:12]}",
            "your copy of the data is incomplete, or of another version (`slabench data verify` says how); draw from it: "
            "`slabench longtail make -o FOLDER`",
        )
    rows = _read_rows(path)
    total = sum(manifest.counts)
    if not total or len(rows) != total or len(np.unique(rows)) != total or rows.max() >= len(images):
        raise DataError(f"{path} holds {len(rows)} rows, and its manifest counts {total} different ones", _REMEDY)
    labels = np.repeat(np.arange(len(manifest.counts)), manifest.counts)
    if len(manifest.counts) != images.n_classes or not np.array_equal(images.labels[rows], labels):
        raise DataError(f"{path}: the classes of its rows are not those of the manifest's counts", _REMEDY)
    if (manifest.images, manifest.groups) != (total, _group_sizes(manifest.counts)):
        raise DataError(f"{path}: its manifest's images and groups are not those of its counts", _REMEDY)
    subset = Subset(rows, tuple(manifest.counts), manifest.source_order, manifest.seed)
    return SubsetFile(f"{manifest.dataset}/{path.stem}", subset, manifest, digest, path)


def _read_rows(path: Path) -> NDArray[np.int64]:
    """The rows `[n]` of an index file whose bytes are those of its manifest."""
    rows = parse_npy(read_plain(path), str(path), _REMEDY)
    if rows.ndim != 1 or rows.dtype not in (np.uint16, np.uint32):
        raise DataError(f"{path} holds {rows.dtype} {list(rows.shape)}, not one row of uint16 or uint32", _REMEDY)
    return rows.astype(np.int64)


def _group_sizes(counts: Sequence[int]) -> dict[str, int]:
    return {group: len(own) for group, own in groups(counts).items()}


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

    The images of the published tables come first: data that knows its original order is never served others, and data that
    has lost it is served them where a file of them is at hand. A file that was drawn from other data of that name is passed
    over.

    Args:
        images: the training images.
        dataset: for the name.
        profile: `exp`, `step` or `counts`.
        ratio: nominal.
        class_order: see `slabench.data.longtail.class_order`.
        seed: of the draw.
        counts: own counts by label.
        folder: the data folder; by default `SLABENCH_DATA` or the user's cache.

    Raises:
        UsageError: see `make_subset`.
        DataError: a file of that name is damaged, or holds another subset than its name says.
    """
    own = paths.data(folder) / "episodes" / FOLDER
    knows_order = bool((images.source_positions >= 0).all())
    names = [
        subset_name(dataset, profile, ratio, class_order, seed, counts, source_order=order)
        for order in ((True,) if knows_order else (True, False))
    ]
    for name in names:
        for place in (paths.episodes() / FOLDER, own):
            path = place / f"{name}.npy"
            if not manifests.is_frozen(path):
                continue
            manifest = read_manifest(path)
            if manifest.name != name:
                raise DataError(f"{path} is called {manifest.name} in its manifest", _REMEDY)
            if manifest.dataset_digest == images.digest:
                return open_subset(path, images)
    path = make_subset(
        images,
        dataset,
        profile=profile,
        ratio=ratio,
        class_order=class_order,
        seed=seed,
        counts=counts,
        folder=paths.new_episodes(folder) / FOLDER,
    )
    return open_subset(path, images)


_BARS = " ▁▂▃▄▅▆▇█"
_WIDTH = 60
_COLUMNS = 80


def describe(file: SubsetFile, class_names: Sequence[str]) -> list[str]:
    """What a subset is, in lines of at most 80 columns: ratios, groups, and the counts as a histogram."""
    m, counts = file.manifest, np.array(file.subset.counts)
    first, last = int(counts.argmax()), int(counts.argmin())
    nominal = "own counts" if m.ratio is None else f"{m.profile}, ratio {m.ratio:g}"
    order = "drawn on the source's order, as the published subsets are"
    if not m.source_order:
        order = "the order is lost: not the images of a published subset"
    parts = [f"{name} {n if n else 'n/a'}" for name, n in m.groups.items()]
    heights = [
        int(np.ceil(8 * block.mean() / counts.max())) for block in np.array_split(counts, min(_WIDTH, len(counts)))
    ]
    ends = (f" {counts[first]:,} ... ", f" {counts[last]:,}; classes: {', '.join(parts)}")
    room = (_COLUMNS - len("".join(ends))) // 2
    return [
        _clip(f"long tail {file.name}", _COLUMNS),
        f"{nominal} (realised {m.realised_ratio:g}), {m.images:,} images",
        f"{_clip(class_names[first], room)}{ends[0]}{_clip(class_names[last], room)}{ends[1]}",
        "".join(_BARS[height] for height in heights),
        f"{order}; sha256 {file.digest[:12]}",
    ]


def _clip(text: str, width: int) -> str:
    return text if len(text) <= width else f"{text[: width - 1]}…"
