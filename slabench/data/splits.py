"""Class splits of the few-shot data sets: small JSON files, published with their source and held to a digest."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from slabench.core import paths
from slabench.core.errors import DataError, UsageError
from slabench.core.files import digest_json, read_json
from slabench.data.catalog import DATASETS, info

SPLIT_NAMES = ("train", "val", "test")
OWN, CLASS_SPLIT, IMAGE_SPLIT = "own.json", "class-split.json", "image-split.csv"
"""Files of a user's own data set, in the folder of its store: see `slabench.data.own`."""


@dataclass(frozen=True)
class ClassSplit:
    """The classes of each split of one data set.

    Attributes:
        name: the data set.
        store: the prepared store whose classes these are.
        classes: `train`, `val` and `test`, each a tuple of class names in the order of their labels.
        digest: sha256 (hex) of the canonical JSON of `store` and `classes`; the wording of `source` is left out.
        source: where the lists come from.
    """

    name: str
    store: str
    classes: dict[str, tuple[str, ...]]
    digest: str
    source: str


def split_path(name: str) -> Path:
    """The file that holds the class split of the data set `name`: a shipped one's, or what an import wrote beside its images."""
    if name in DATASETS and (own := DATASETS[name].own) is not None:
        return own / CLASS_SPLIT
    return paths.episodes() / "splits" / f"{name}.json"


def load_split(name: str) -> ClassSplit:
    """Read the class split of the few-shot data set `name`.

    Raises:
        UsageError: the data set is unknown, or has no class split.
        DataError: the file is missing, malformed, or its splits share a class or name an unknown one.
    """
    entry = info(name)
    if not entry.fewshot:
        fewshot = ", ".join(sorted(other.name for other in DATASETS.values() if other.fewshot))
        raise UsageError(f"dataset '{name}' has no class split: its splits are images", f"few-shot datasets: {fewshot}")
    if entry.class_split is not None:
        value = {"store": entry.store, "classes": dict(entry.class_split), "source": entry.source}
        return parse_split(value, name, entry.classes, Path(f"class_split of {name}"))
    path = split_path(name)
    if not path.is_file():
        raise DataError(
            f"the class split {path} is missing",
            "reinstall slabench, or restore the file from its repository"
            if entry.own is None
            else f"import the images again: {entry.command} --replace",
        )
    return parse_split(read_json(path), name, entry.classes, path)


def parse_split(value: object, name: str, known: tuple[str, ...], path: Path) -> ClassSplit:
    """Check one split file's content against itself and against the `known` classes of its store (if not empty)."""
    remedy = "restore the file from slabench's repository"
    if not isinstance(value, dict) or not isinstance(value.get("classes"), dict) or "store" not in value:
        raise DataError(f"{path} is not a class split: it needs the keys 'store' and 'classes'", remedy)
    if set(value["classes"]) != set(SPLIT_NAMES):
        raise DataError(f"{path} has the splits {sorted(value['classes'])}, not train, val and test", remedy)
    for split in SPLIT_NAMES:
        if not isinstance(value["classes"][split], list | tuple):
            raise DataError(f"{path}: the classes of '{split}' are {value['classes'][split]!r:.40}, not a list", remedy)
    classes = {split: tuple(str(member) for member in value["classes"][split]) for split in SPLIT_NAMES}
    seen: dict[str, str] = {}
    for split, members in classes.items():
        if not members:
            raise DataError(f"{path}: the split '{split}' has no class", remedy)
        for member in members:
            if member in seen:
                raise DataError(f"{path}: class '{member}' is in '{seen[member]}' and again in '{split}'", remedy)
            if known and member not in known:
                raise DataError(f"{path}: class '{member}' of '{split}' is not a class of {value['store']}", remedy)
            seen[member] = split
    digest = digest_json({"store": value["store"], "classes": classes})
    return ClassSplit(name, str(value["store"]), classes, digest, str(value.get("source", "")))
