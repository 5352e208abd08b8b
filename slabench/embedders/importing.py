"""Features that people bring become a feature set: in the rows of a data set's images, or as a data set of their own."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from pydantic import ValidationError

from slabench.core.errors import DataError, UsageError, did_you_mean, unknown_name
from slabench.core.files import SHORT, replace_folder, sha256_file, temporary_folder, write_json
from slabench.core.registry import DATASETS, TRANSFORMS
from slabench.core.versions import __version__
from slabench.data.catalog import info
from slabench.data.imageset import ImageSet
from slabench.data.loading import load_rows
from slabench.data.sources.own_splits import DRAWN, FEWEST_CLASSES, GIVEN, draw_classes
from slabench.data.splits import SPLIT_NAMES
from slabench.data.store import pixel_digests
from slabench.embedders.facts import EmbedderFacts, FeatureManifest
from slabench.embedders.files import SUFFIXES, FeatureFile, read_features
from slabench.embedders.own import LABELS, OWN_FEATURES, OwnFeatures, own_digest
from slabench.embedders.store import (
    ARRAY,
    MANIFEST,
    begin,
    feature_sets,
    features_folder,
    group_digest,
    groups_of,
    open_array,
    read_manifest,
    remove_set,
    set_folder,
    store_groups,
    write_manifest,
)
from slabench.sla.transforms import transform_set

_NAME = re.compile(r"[a-z0-9]+([-._][a-z0-9]+)*")


def import_features(
    name: str,
    file: Path,
    dataset: str | None = None,
    *,
    facts: Mapping[str, Any] | None = None,
    transforms: str | None = None,
    seed: int = 0,
    replace: bool = False,
    data_folder: Path | None = None,
) -> FeatureManifest:
    """Make the features in `file` the feature set `name`.

    Args:
        name: kebab-case.
        file: see `slabench.embedders.files`.
        dataset: whose images the ids are rows of; None makes a data set of its own of the labels, called `name`.
        facts: of the embedder (`EmbedderFacts`), laid over those that the file tells.
        transforms: the set that made the M views, where one did.
        seed: of the class split that is drawn where none is given.
        replace: write over the set of that name.
        data_folder: by default `SLABENCH_DATA` or the user's cache.

    Raises:
        UsageError: the name is none or taken, a fact is none, or the file does not say what its rows are.
        DataError: the file is damaged, names an image twice, unknown ones or too few.
    """
    if not _NAME.fullmatch(name) or len(name) > 80:
        raise UsageError(f"the name '{name}' is not kebab-case", "use lower-case words joined by '-', such as my-clip")
    found = read_features(file)
    embedder = _embedder(name, found, facts or {})
    views = _views(found.features.shape[1], transforms)
    if dataset is None:
        if found.labels is None:
            raise UsageError(
                f"{file.name} has ids and no labels: ids are rows of a data set that nobody has named",
                "name it: --dataset fc100",
            )
        return _import_own(name, found, embedder, views, seed, replace, data_folder)
    if found.ids is None:
        raise UsageError(
            f"{file.name} has no ids: which row is which image of {dataset}, nobody knows",
            "add ids, rows of slabench.data.load(DATASET, SPLIT); or leave --dataset out, and they are a data set of their own",
        )
    return _import_aligned(name, found, dataset, embedder, views, replace, file.name, data_folder)


def named_or_imported(
    features: str, dataset: str | None, told: Callable[[str], None], data_folder: Path | None = None
) -> tuple[str, str | None]:
    """The feature set that `--features` means, and whose rows: a name, or a file, which is imported under its digest."""
    path = Path(features)
    if path.suffix.lower() not in SUFFIXES and not path.is_file():
        return features, dataset
    if not path.is_file():
        raise UsageError(
            f"there is no file {features}",
            did_you_mean(features, {folder.parent.name for folder in feature_sets(data_folder)} or {"(none yet)"}),
        )
    name = f"file-{sha256_file(path)[:SHORT]}" if path.suffix.lower() in SUFFIXES else "file"
    target = set_folder(name, dataset or name, data_folder)
    if not (target / MANIFEST).is_file() or not read_manifest(target, data_folder).groups:  # or a killed import
        told(f"{path.name} is imported as '{name}'")
        import_features(name, path, dataset, facts={"embedder": f"file:{path.name}"}, data_folder=data_folder)
    return name, dataset


def _embedder(name: str, found: FeatureFile, facts: Mapping[str, Any]) -> EmbedderFacts:
    known = EmbedderFacts.model_fields
    told = {key: value for key, value in found.facts.items() if key in known}
    given = {key: value for key, value in facts.items() if value is not None}
    if "embedder" in told and str(given.get("embedder", "")).startswith("file:"):
        given.pop("embedder")  # the file knows better what it is called
    try:
        return EmbedderFacts.model_validate({"embedder": name, **told, **given})
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        raise UsageError(
            f"{where} = {str(first['input'])[:60]!r}: {first['msg'].lower()}", "see docs/features.md"
        ) from error


def _views(m: int, transforms: str | None) -> str:
    if transforms is None:
        return "identity" if m == 1 else "views"
    if transforms not in TRANSFORMS:
        raise unknown_name("transformation set", transforms, TRANSFORMS.names())
    if m != transform_set(transforms).M:
        raise UsageError(
            f"--transforms {transforms} makes {transform_set(transforms).M} views, and the file has {m}",
            "leave it out where another set made them",
        )
    return transforms


def _import_aligned(
    name: str,
    found: FeatureFile,
    dataset: str,
    embedder: EmbedderFacts,
    transforms: str,
    replace: bool,
    file: str,
    folder: Path | None,
) -> FeatureManifest:
    entry = info(dataset)
    assert found.ids is not None
    splits = np.array(found.splits or ["test"] * len(found.ids))
    target_rows = np.empty(len(splits), np.int64)
    images: ImageSet | None = None
    for split in dict.fromkeys(splits.tolist()):
        if split not in (*entry.splits, "image-train", "image-test"):
            raise unknown_name(f"split of {dataset}", split, entry.splits)
        own = splits == split
        images = load_rows(dataset, split, folder)
        target_rows[own] = images.source_positions[_checked_ids(found, own, images, file)]
    assert images is not None
    repeated, counts = np.unique(target_rows, return_counts=True)
    if (counts > 1).any():
        row = int(repeated[counts.argmax()])
        twice = np.flatnonzero(target_rows == row)[:2].tolist()
        raise DataError(f"{file}: rows {twice[0]} and {twice[1]} are of one image", "give each image once")
    path = set_folder(name, dataset, folder)
    if replace:
        remove_set(path)
    groups = store_groups(entry.store, folder)
    n = sum(len(rows) for rows in groups.values())
    place = np.full(n, -1, np.int64)
    place[target_rows] = np.arange(len(target_rows))
    filled = {}
    for group, rows in groups.items():
        there = place[rows] >= 0
        if there.any() and not there.all():
            label, part = group.split("/")
            raise DataError(
                f"{file} has {int(there.sum()):,} of the {len(rows):,} images of class {label}, part {part} of {entry.store}",
                "give features of all images of a split: every id from 0 on",
            )
        if there.all():
            filled[group] = rows
    manifest = begin(
        path,
        dataset=entry.store,
        dataset_digest=images.digest,
        n=n,
        transforms=transforms,
        M=found.features.shape[1],
        D=found.features.shape[2],
        dtype=str(found.features.dtype),
        embedder=embedder,
    )
    again = [group for group in filled if group in manifest.groups]
    array: Any = open_array(path, manifest, "r+")
    for group, rows in filled.items():
        values = found.features[place[rows]]
        if group in again:
            if not np.array_equal(array[rows], values):
                raise UsageError(
                    f"the features '{name}' have other values of these images", "use --replace, or another name"
                )
            continue
        array[rows] = values
    array.flush()
    made = {group: group_digest(array, rows) for group, rows in filled.items()}
    manifest = manifest.model_copy(update={"groups": {**manifest.groups, **made}})
    write_manifest(path, manifest)
    return manifest


def _checked_ids(found: FeatureFile, own: npt.NDArray[np.bool_], images: ImageSet, file: str) -> npt.NDArray[np.int64]:
    """The ids of the rows `own`, which are of the split `images`, held against it and against the labels, if there are any."""
    assert found.ids is not None
    ids = found.ids[own]
    if int(ids.max()) >= len(images):
        row = int(np.flatnonzero(own)[ids.argmax()])
        raise DataError(
            f"{file}: row {row} has the id {int(ids.max())}, and {images.name} has {len(images):,} images",
            f"ids are rows of slabench.data.load, 0 to {len(images) - 1}",
        )
    distinct, counts = np.unique(ids, return_counts=True)
    if len(distinct) < len(ids):
        twice = int(distinct[counts.argmax()])
        raise DataError(f"{file}: the id {twice} of {images.name} occurs {int(counts.max())} times", "give each once")
    if found.labels is None:
        return ids
    theirs, ours = found.labels[own], images.labels[ids]
    named = set(found.class_names) >= set(images.class_names)
    wrong = (
        np.array([found.class_names[a] != images.class_names[b] for a, b in zip(theirs, ours, strict=True)])
        if named
        else theirs != ours
    )
    if wrong.any():
        row = int(np.flatnonzero(own)[wrong.argmax()])
        raise DataError(
            f"{file}: row {row} has the label '{found.class_names[found.labels[row]]}', and the image with its id is of "
            f"'{images.class_names[ours[wrong.argmax()]]}' ({int(wrong.sum()):,} such rows)",
            "the ids are of other images, or in another order: they are rows of slabench.data.load",
        )
    return ids


def _import_own(
    name: str,
    found: FeatureFile,
    embedder: EmbedderFacts,
    transforms: str,
    seed: int,
    replace: bool,
    folder: Path | None,
) -> FeatureManifest:
    """A data set of its own: rows by label, then by the digest of the plain view; a class split as given, or drawn."""
    assert found.labels is not None
    if name in DATASETS:
        raise UsageError(
            f"'{name}' is a data set that slabench knows", "choose another name, or name it with --dataset and give ids"
        )
    path = features_folder(folder) / name / name
    if (path / MANIFEST).is_file() and not replace:
        raise UsageError(f"the features '{name}' are there already", "use --replace, or another name")
    used = np.unique(found.labels)
    class_names = [found.class_names[label] for label in used]
    labels = np.searchsorted(used, found.labels).astype(np.int64)
    by_name = np.argsort(np.argsort(class_names))  # labels in the order of names, whatever numbers the file gave them
    labels, class_names = by_name[labels].astype(np.int64), sorted(class_names)
    digests = pixel_digests(np.ascontiguousarray(found.features).view(np.uint8))
    words = digests.view(">u8").reshape(-1, 4)
    order = np.lexsort((words[:, 3], words[:, 2], words[:, 1], words[:, 0], labels))
    labels, digests, features = labels[order], digests[order], found.features[order]
    splits = [found.splits[row] for row in order] if found.splits else []
    classes, classes_from = _class_split(class_names, labels, splits, seed)
    manifest = FeatureManifest(
        name=name,
        dataset=name,
        dataset_digest=own_digest(class_names, labels, digests),
        n=len(labels),
        transforms=transforms,
        M=features.shape[1],
        D=features.shape[2],
        dtype=str(features.dtype),  # type: ignore[arg-type]
        embedder=embedder,
        slabench=__version__,
    )
    with temporary_folder(path) as beside:
        np.save(beside / ARRAY, features, allow_pickle=False)
        np.save(beside / LABELS, labels, allow_pickle=False)
        own = OwnFeatures(classes=class_names, class_split=classes, classes_from=classes_from, seed=seed)
        write_json(beside / OWN_FEATURES, own.model_dump(mode="json"))
        groups = groups_of(labels, np.zeros(len(labels), np.uint8))
        vouched = {group: group_digest(features, rows) for group, rows in groups.items()}
        manifest = manifest.model_copy(update={"groups": vouched})
        write_json(beside / MANIFEST, manifest.model_dump(mode="json"))
        replace_folder(beside, path)
    return manifest


def _class_split(
    class_names: list[str], labels: npt.NDArray[np.int64], splits: list[str], seed: int
) -> tuple[dict[str, list[str]], str]:
    if splits:
        of: dict[str, set[str]] = {split: set() for split in SPLIT_NAMES}
        for label, split in zip(labels.tolist(), splits, strict=True):
            if split not in of:
                raise unknown_name("split", split, SPLIT_NAMES)
            of[split].add(class_names[label])
        shared = [name for name in class_names if sum(name in own for own in of.values()) > 1]
        if not shared and all(of.values()):
            return {split: sorted(own) for split, own in of.items()}, GIVEN
    drawn = draw_classes(class_names, seed)
    if drawn is None:
        raise DataError(
            f"{len(class_names)} classes are too few to be parted into training, validation and test classes",
            f"it takes {FEWEST_CLASSES}; or name a data set and give ids",
        )
    return drawn, DRAWN.format(seed=seed)
