"""Feature sets on disk: `DATA/features/NAME/DATASET/`, one memory-mapped array a prepared store, and a manifest.

`features.npy` is `[n, M, D]`, rows in the canonical order of the store (`slabench.data.store`), so that `fc100` and `cifar-fs`
take theirs from the one set of `cifar100`. The manifest has a sha256 for every group of rows, the images of a class in an
official part: a group that is named is there, whole and checked when it is opened; what is not named was not embedded (yet).
That makes an interrupted embedding an incomplete feature set, which goes on where it stopped, and nothing else.

A set may have `maps.npy`, what goes into the last block of the network, and `block.safetensors`, that block
(`slabench.embedders.maps`). A group is there when its features and its maps are.

A set that came with labels alone has no images behind it; `slabench.embedders.own` keeps what the store would say.
"""

from __future__ import annotations

import hashlib
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from pydantic import ValidationError

from slabench.core import paths
from slabench.core.errors import DataError, DataMissingError, IntegrityError, UsageError, first_fault, unknown_name
from slabench.core.files import digest_json, read_json, write_bytes, write_json
from slabench.core.registry import DATASETS
from slabench.core.versions import __version__
from slabench.data.catalog import info
from slabench.data.imageset import ImageSet
from slabench.data.loading import ensure, load_rows
from slabench.data.splits import SPLIT_NAMES
from slabench.data.store import open_store
from slabench.embedders.facts import EmbedderFacts, FeatureManifest, MapsFacts
from slabench.embedders.own import OWN_FEATURES, own_rows, read_own

MANIFEST, ARRAY = "manifest.json", "features.npy"
MAPS, BLOCK = "maps.npy", "block.safetensors"

_AGAIN = "embed or import the features again with --replace"

Features = npt.NDArray[np.floating[Any]]


@dataclass(frozen=True, eq=False)
class FeatureSet:
    """Features of one split, row by row those of `slabench.data.load(dataset, split)`.

    Attributes:
        name: of the feature set.
        dataset: of the split.
        images: the split without pixels: labels, class names, `digest` and `split_digest` as `load` has them.
        manifest: of the whole set.
        rows: int64 `[n]`, rows of the array.
        digest: sha256 (hex) of the facts and bytes of this split's features.
        path: of the whole set.
        groups: rows of the array by group, of those that the split is in.
    """

    name: str
    dataset: str
    images: ImageSet
    manifest: FeatureManifest
    rows: npt.NDArray[np.int64]
    digest: str
    path: Path
    groups: dict[str, npt.NDArray[np.int64]]
    _array: Features

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def embedder(self) -> EmbedderFacts:
        """The network behind them."""
        return self.manifest.embedder

    @property
    def labels(self) -> npt.NDArray[np.int64]:
        """int64 `[n]`."""
        return self.images.labels

    @property
    def class_names(self) -> tuple[str, ...]:
        """The name of each label."""
        return self.images.class_names

    @property
    def M(self) -> int:
        """Views of an image; view 0 is the plain one."""
        return self.manifest.M

    @property
    def D(self) -> int:
        """Dimensions."""
        return self.manifest.D

    def features(self, rows: npt.ArrayLike | None = None, views: int | None = None) -> Features:
        """`[len(rows), M, D]` in memory, as stored (float16 or float32).

        Args:
            rows: of this split; None for all.
            views: only the first so many.
        """
        chosen = self.rows if rows is None else self.rows[np.asarray(rows, np.int64)]
        return np.asarray(self._array[chosen] if views is None else self._array[chosen, :views])


def features_folder(folder: Path | None = None) -> Path:
    """Where all feature sets of a data folder lie."""
    return paths.data(folder) / "features"


def set_folder(name: str, dataset: str, folder: Path | None = None) -> Path:
    """The folder of the feature set `name` for a data set, or for the store that it is a view of."""
    store = info(dataset).store if dataset in DATASETS else dataset
    return features_folder(folder) / name / store


def feature_sets(folder: Path | None = None) -> list[Path]:
    """Folders of all feature sets that have a manifest."""
    return sorted(path.parent for path in features_folder(folder).glob(f"*/*/{MANIFEST}"))


def open_features(name: str, dataset: str, split: str, data_folder: Path | None = None) -> FeatureSet:
    """The features `name` of one split of a data set.

    Args:
        name: of the feature set (`slabench features list`).
        dataset: any that its store serves, as `fc100` for features of `cifar100`; or the set's own where it came with labels.
        split: as of `slabench.data.load`; `image-train` and `image-test` are the split of `slabench.data.loading.load_images`.
        data_folder: by default `SLABENCH_DATA` or the user's cache.

    Raises:
        UsageError: no such split.
        DataMissingError: no such features, or none of this split (yet).
        IntegrityError: the bytes are not those of the manifest, or it is of other images.
    """
    path = set_folder(name, dataset, data_folder)
    manifest = read_manifest(path, data_folder)
    own = (path / OWN_FEATURES).is_file()
    if own and split not in SPLIT_NAMES:
        raise unknown_name(f"split of {dataset}", split, SPLIT_NAMES)
    if own:
        whole = read_own(path, manifest)
        images = own_rows(whole, split)
    else:
        images = load_rows(dataset, split, data_folder)
        whole = None
    if images.digest != manifest.dataset_digest:
        raise IntegrityError(
            f"{path} has features of other images of {dataset} (digest {manifest.dataset_digest[:12]}, here "
            f"{images.digest[:12]})",
            "embed or import them again from the images that are here",
        )
    groups = whole.groups() if whole is not None else store_groups(info(dataset).store, data_folder)
    rows = images.source_positions.astype(np.int64)
    wanted = _groups_of(rows, groups)
    missing = [group for group in wanted if group not in manifest.groups]
    if missing:
        raise DataMissingError(
            f"the features '{name}' lack {len(missing)} of the {len(wanted)} groups of images of {dataset}/{split}",
            "embed the others: the same `slabench embed` command with --splits, or without it, goes on where it stopped",
        )
    array = open_array(path, manifest)
    used = {group: groups[group] for group in wanted}
    check_groups(path / ARRAY, array, used, manifest.groups)
    facts = {"embedder": manifest.embedder.plain(), "M": manifest.M, "transforms": manifest.transforms}
    digest = digest_json({**facts, "groups": {group: manifest.groups[group] for group in wanted}})
    return FeatureSet(name, dataset, images, manifest, rows, digest, path, used, array)


def _groups_of(rows: npt.NDArray[np.int64], groups: dict[str, npt.NDArray[np.int64]]) -> list[str]:
    """The groups that some of `rows` are in, in the order of their names."""
    used = np.zeros(1 + max((int(own.max()) for own in groups.values() if len(own)), default=0), bool)
    used[rows] = True
    return [group for group, own in groups.items() if used[own].any()]


def read_manifest(path: Path, data_folder: Path | None = None) -> FeatureManifest:
    """The manifest of a feature set.

    Raises:
        DataMissingError: there is none; names what there is.
        DataError: it is damaged.
    """
    name, dataset = path.parent.name, path.name
    if not (path / MANIFEST).is_file():
        known = sorted({folder.parent.name for folder in feature_sets(data_folder)})
        there = sorted(folder.name for folder in feature_sets(data_folder) if folder.parent.name == name)
        if there:
            raise DataMissingError(
                f"the features '{name}' are of {', '.join(there)}, not of {dataset}", "embed or import them for it"
            )
        error = unknown_name("feature set", name, known) if known else None
        raise DataMissingError(
            f"there are no features '{name}'",
            error.remedy if error else "make some: slabench embed, or slabench features import",
        )
    try:
        manifest = FeatureManifest.model_validate(read_json(path / MANIFEST))
    except ValidationError as error:
        raise DataError(f"{path / MANIFEST}: {first_fault(error)}", _AGAIN) from error
    return manifest


def open_array(path: Path, manifest: FeatureManifest, mode: str = "r") -> Features:
    """The array `[n, M, D]` behind a manifest, memory-mapped.

    Raises:
        IntegrityError: it is missing, truncated or of another shape.
    """
    return _open_file(path / ARRAY, (manifest.n, manifest.M, manifest.D), manifest.dtype, mode)


def open_map_array(path: Path, manifest: FeatureManifest, mode: str = "r") -> Features:
    """The maps `[n, M, ...]` behind a manifest that has some; otherwise as `open_array`."""
    assert manifest.maps is not None
    return _open_file(path / MAPS, (manifest.n, manifest.M, *manifest.maps.shape), manifest.dtype, mode)


def _open_file(file: Path, shape: tuple[int, ...], dtype: str, mode: str) -> Features:
    try:
        array = np.load(file, mmap_mode=mode, allow_pickle=False)  # type: ignore[arg-type]
    except (OSError, ValueError) as error:
        raise IntegrityError(f"{file} is not a whole array: {str(error)[:200]}", _AGAIN) from error
    if array.shape != shape or array.dtype != dtype:
        raise IntegrityError(
            f"{file} holds {array.dtype} {list(array.shape)}, its manifest says {dtype} {list(shape)}", _AGAIN
        )
    return array  # type: ignore[no-any-return]


def store_groups(store: str, folder: Path | None = None) -> dict[str, npt.NDArray[np.int64]]:
    """Rows of each class and part of a prepared store, by `label/part`; groups without images are left out."""
    images = open_store(ensure(store, folder)).images(store)
    return groups_of(images.labels, images.parts)


def images_there(path: Path, manifest: FeatureManifest, folder: Path | None = None) -> int:
    """Images of the store that the set has features of; those of an interrupted embedding are fewer than `n`.

    Raises:
        DataError: the images that it is of are not here.
    """
    if (path / OWN_FEATURES).is_file():
        return manifest.n
    groups = store_groups(manifest.dataset, folder)
    return sum(len(rows) for group, rows in groups.items() if group in manifest.groups)


def groups_of(labels: npt.NDArray[np.int64], parts: npt.NDArray[np.uint8]) -> dict[str, npt.NDArray[np.int64]]:
    """Rows, ascending, of each class and part, in the order of labels, then parts."""
    numbers = labels * 2 + parts
    order = np.argsort(numbers, kind="stable").astype(np.int64)
    found, starts = np.unique(numbers[order], return_index=True)
    cut = np.split(order, starts[1:])
    return {f"{number // 2}/{number % 2}": rows for number, rows in zip(found.tolist(), cut, strict=True)}


def group_digest(array: Features, rows: npt.NDArray[np.int64]) -> str:
    """sha256 (hex) over the bytes of these rows, in order."""
    return hashlib.sha256(np.ascontiguousarray(array[rows]).data).hexdigest()


_CHECKED: dict[tuple[Path, int, str], str] = {}


def check_groups(
    file: Path, array: Features, groups: dict[str, npt.NDArray[np.int64]], vouched: dict[str, str]
) -> None:
    """Hold the rows of groups against what a manifest says of them.

    Raises:
        IntegrityError: names the first group that differs, or that nobody vouches for.
    """
    for group, rows in groups.items():
        said = vouched.get(group, "")
        found = _checked(file, array, rows, file.stat().st_ino, said)
        if found != said:
            raise IntegrityError(
                f"{file}: the rows of group {group} have sha256 {found[:12]}, the manifest says {said[:12] or 'nothing'}",
                _AGAIN,
            )


def _checked(file: Path, array: Features, rows: npt.NDArray[np.int64], inode: int, expected: str) -> str:
    """`group_digest`, once a process for each file and expected digest."""
    key = (file, inode, expected)
    if key not in _CHECKED:
        _CHECKED[key] = group_digest(array, rows)
    return _CHECKED[key]


def begin(
    path: Path,
    *,
    dataset: str,
    dataset_digest: str,
    n: int,
    transforms: str,
    M: int,
    D: int,
    dtype: str,
    embedder: EmbedderFacts,
    maps: MapsFacts | None = None,
    block: bytes = b"",
) -> FeatureManifest:
    """An empty feature set at `path`, or the one that is there, if it is of the same images, views and network.

    Args:
        path: of the set.
        dataset: see `FeatureManifest`, as the others.
        dataset_digest: likewise.
        n: likewise.
        transforms: likewise.
        M: likewise.
        D: likewise.
        dtype: likewise.
        embedder: likewise.
        maps: what is kept before the last block; None: no maps.
        block: the file of that block.

    Raises:
        UsageError: there is another one; names what differs.
    """
    made = FeatureManifest(
        name=path.parent.name,
        dataset=dataset,
        dataset_digest=dataset_digest,
        n=n,
        M=M,
        transforms=transforms,
        D=D,
        dtype=dtype,  # type: ignore[arg-type]
        embedder=embedder,
        slabench=__version__,
        maps=maps,
    )
    if (path / MANIFEST).is_file():
        there = read_manifest(path)
        for field in ("dataset_digest", "n", "M", "transforms", "D", "dtype", "embedder"):
            if getattr(there, field) != getattr(made, field):
                raise UsageError(
                    f"the features '{made.name}' of {dataset} are there, made with another {field}: "
                    f"{_short(getattr(there, field))}, not {_short(getattr(made, field))}",
                    "choose another --name, or make them anew with --replace",
                )
        _same_maps(there, made)
        return there
    path.mkdir(parents=True, exist_ok=True)
    shapes = {path / ARRAY: (n, M, D)} | ({path / MAPS: (n, M, *maps.shape)} if maps else {})
    for file, shape in shapes.items():
        np.lib.format.open_memmap(file, mode="w+", dtype=dtype, shape=shape).flush()
    if maps:
        write_bytes(path / BLOCK, block)
    write_manifest(path, made)
    return made


def _same_maps(there: FeatureManifest, asked: FeatureManifest) -> None:
    """Refuse to go on with a set that has maps where none are asked for, or the other way round."""
    own, wanted = (m.maps.identity() if m.maps else None for m in (there, asked))
    if own == wanted:
        return
    of, kept = f"the features '{asked.name}' of {asked.dataset}", there.maps
    if kept is None:
        raise UsageError(f"{of} are there without maps", "choose another --name, or make them anew with --replace")
    if wanted is None:
        raise UsageError(f"{of} are there with maps before {kept.block}", "add --maps, or choose another --name")
    raise UsageError(f"{of} are there with maps before another block", "choose another --name, or --replace")


def write_manifest(path: Path, manifest: FeatureManifest) -> None:
    """Write the manifest of a feature set, atomically."""
    write_json(path / MANIFEST, manifest.plain())


def _short(value: object) -> str:
    return (value.embedder if isinstance(value, EmbedderFacts) else str(value))[:60]


def remove_set(path: Path) -> None:
    """Remove the feature set at `path`, its manifest first; nothing where there is none."""
    (path / MANIFEST).unlink(missing_ok=True)
    shutil.rmtree(path, ignore_errors=True)
