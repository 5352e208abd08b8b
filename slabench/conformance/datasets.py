"""What a data set promises; see `slabench.data.plugin_dataset`. A built-in one that is not here and cannot be made is skipped."""

from __future__ import annotations

import tempfile
from pathlib import Path

from slabench.conformance import (
    OWN_GENERATOR,
    Check,
    Finding,
    NotApplicable,
    Wrong,
    expect,
    no_global_random,
    run_checks,
)
from slabench.core import paths
from slabench.core.errors import DataError
from slabench.data.catalog import DatasetInfo
from slabench.data.checks import check_normalisation, check_raw
from slabench.data.loading import load
from slabench.data.sources.embedded import prepare
from slabench.data.splits import load_split
from slabench.data.store import Store, differences, is_prepared, open_store, store_folder, verify_store


class Subject:
    """A catalog entry, and a store of it: made in `folder`, or the one that is prepared here."""

    def __init__(self, entry: DatasetInfo, folder: Path) -> None:
        self.entry, self.folder = entry, folder
        self.here = store_folder(entry, paths.data())
        self.refused = ""

    def make(self, name: str) -> Store:
        """Make the store anew in a folder of this name."""
        return prepare(self.entry, store_folder(self.entry, self.folder / name))

    @property
    def data(self) -> Path:
        """The data folder to read from."""
        return self.folder / "first" if self.entry.embedded else paths.data()


def _store(s: Subject) -> None:
    if not s.entry.embedded:
        if not is_prepared(s.here):
            raise NotApplicable(f"its data is not on this machine: slabench data get {s.entry.store}")
        open_store(s.here)
        return
    try:
        s.make("first")
    except DataError as error:  # what it made is no data set: the next check says so
        s.refused = error.message


def _opened(s: Subject) -> Store:
    path = store_folder(s.entry, s.data)
    if not is_prepared(path):
        raise NotApplicable("its data is not on this machine")
    return open_store(path)


def _images(s: Subject) -> None:
    expect(not s.refused, s.refused)
    images = _opened(s).images(s.entry.name)
    try:
        check_raw(images, s.entry.name, s.entry.image_size)
    except DataError as error:
        raise Wrong(error.message) from error
    expect(
        images.n_classes == s.entry.n_classes,
        f"it has {images.n_classes} classes, and n_classes says {s.entry.n_classes}",
    )


def _twice(s: Subject) -> None:
    if not s.entry.embedded:
        raise NotApplicable("it is not made here")
    with no_global_random("making it"):  # the second time: imports of the first may draw
        second = s.make("second").digest
    first = _opened(s).digest
    expect(first == second, f"made twice it has two digests, {first[:12]} and {second[:12]}")


def _here(s: Subject) -> None:
    if not is_prepared(s.here):
        raise NotApplicable("it is not prepared here")
    problems = verify_store(s.here)
    expect(not problems, "; ".join(problems))
    if s.entry.embedded:
        here, made = open_store(s.here).digest, _opened(s).digest
        expect(here == made, f"the prepared store has digest {here[:12]}, made now it has {made[:12]}")


def _splits(s: Subject) -> None:
    store = _opened(s)
    total = 0
    for split in s.entry.splits:
        images = load(s.entry.name, split, s.data)
        expect(len(images) > 0 or split == "test", f"its split '{split}' has no images")
        expect(
            images.digest == store.digest, f"'{split}' has digest {images.digest[:12]}, its store {store.digest[:12]}"
        )
        if s.entry.fewshot:
            expect(images.split_digest == load_split(s.entry.name).digest, f"'{split}' carries another split's digest")
            expect(images.n_classes >= 2, f"its split '{split}' has {images.n_classes} class")
        total += len(images) if split != "all" else 0
    if not s.entry.fewshot:
        expect(
            total == store.manifest["n_images"], f"train and test have {total} of {store.manifest['n_images']} images"
        )


def _published(s: Subject) -> None:
    if s.entry.digest is None and not s.entry.n_published:
        raise NotApplicable("nobody has published what it should be")
    found = differences(s.entry, _opened(s))
    expect(not found, "; ".join(found))


def _statistics(s: Subject) -> None:
    try:
        check_normalisation(_opened(s).images(s.entry.name).images, s.entry.mean, s.entry.std)
    except DataError as error:
        raise Wrong(error.message) from error


CHECKS: tuple[Check[Subject], ...] = (
    Check(
        "makes a store", _store, "the maker gives images, labels and test flags, as slabench.dataset says", needed=True
    ),
    Check(
        "images",
        _images,
        "uint8 [n, size, size, 3], labels 0..C-1, every class with images; say so in the entry",
        needed=True,
    ),
    Check("same digest twice", _twice, f"the same images every time: {OWN_GENERATOR}, read files in sorted order"),
    Check("prepared copy", _here, "make it anew: slabench data get NAME --replace"),
    Check("splits", _splits, "name every class of class_split as in classes; give test images, or a class split"),
    Check("as published", _published, "import the whole of it: slabench data import NAME PATH --replace"),
    Check("normalisation", _statistics, "give mean and std by channel in units of 0..255"),
)


def check_dataset(entry: DatasetInfo) -> list[Finding]:
    """All checks of a data set; what is made is made in a folder that is removed again."""
    with tempfile.TemporaryDirectory() as folder:
        return run_checks(Subject(entry, Path(folder)), CHECKS)
