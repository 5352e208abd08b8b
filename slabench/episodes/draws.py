"""Frozen draws of n training images of every class: what "n shots of all classes" learns from, the same for every method.

`all-classes/<dataset>/4s-10.npy` is uint16 or uint32 `[10, C, 4]`: ten draws, one a seed, of rows of the training images in
canonical order. A draw of fewer shots is the beginning of that of more, so that a curve over shots is not one over other
images. The `.json` beside it says what it was drawn from. Those of CIFAR-100 and glyphs travel with slabench; others are made by
the first scoring that needs them, in the user's data folder. Making is deterministic, so that two users get the same bytes.

The form is that of the literature of CLIP (CoOp: Zhou et al., IJCV 2022): 1, 2, 4, 8 and 16 images of every class, and the whole
test set.
"""

from __future__ import annotations

import hashlib
import io
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, PositiveInt

from slabench.core import manifests, paths
from slabench.core.arrays import parse_npy
from slabench.core.errors import DataError, IntegrityError, UsageError
from slabench.core.files import read_plain
from slabench.core.seeding import numpy_generator
from slabench.data.imageset import ImageSet

FOLDER = "all-classes"
SHOTS = (1, 2, 4, 8, 16)
"""What papers report."""

DRAWS = 10
"""Of a file: seeds 0 to 9."""

_COMMAND = "slabench episodes make DATASET --all-classes --shots N"
_SEED = 20220831  # any constant: part of the file's identity through the manifest


class Manifest(BaseModel):
    """What a file of draws holds and what it was drawn from."""

    model_config = ConfigDict(extra="forbid")

    schema_version: Literal["slabench.draws/1"] = "slabench.draws/1"
    dataset: str
    shots: PositiveInt
    draws: PositiveInt
    classes: PositiveInt
    seed: int
    dataset_digest: str
    sha256: str


@dataclass(frozen=True)
class DrawFile:
    """A verified file of draws, opened on the training images it is used with.

    Attributes:
        name: `all-classes/cifar100/4s-10`.
        rows: int64 `[draws, C, shots]`, rows of the training images; class c is label c.
        manifest: as in the file.
        digest: sha256 of the index file.
        path: of the index file.
    """

    name: str
    rows: NDArray[np.int64]
    manifest: Manifest
    digest: str
    path: Path


def draw_name(dataset: str, shots: int) -> str:
    """The name of a file, such as `all-classes/cifar100/4s-10`."""
    return f"{FOLDER}/{dataset}/{shots}s-{DRAWS}"


def list_files() -> list[Path]:
    """Every file of draws, published ones first."""
    folders = (paths.episodes() / FOLDER, paths.user_episodes() / FOLDER)
    return [path for folder in folders for path in sorted(folder.glob("*/*.npy")) if manifests.is_frozen(path)]


def make(train: ImageSet, dataset: str, shots: int, folder: Path | None = None) -> Path:
    """Draw and freeze; a file that is already there stays as it is if its bytes agree.

    Args:
        train: the training images, of all classes.
        dataset: for the name.
        shots: n, images of each class.
        folder: where the file goes; by default the user's draws.

    Raises:
        UsageError: a class has fewer images; names it.
    """
    sizes = [len(rows) for rows in train.class_rows()]
    if shots < 1:
        raise UsageError(f"--shots {shots} is not positive", "give --shots 1 or more")
    if min(sizes) < shots:
        least = sizes.index(min(sizes))
        raise UsageError(
            f"class '{train.class_names[least]}' of {train.name} has {sizes[least]} training images, and {shots} were asked for",
            f"give --shots {sizes[least]} or fewer" if sizes[least] else "leave classes without training images out",
        )
    # Each class of each draw has a stream of its own, whatever the number of shots.
    by_class = train.class_rows()
    rows = np.array(
        [
            [numpy_generator(_SEED, dataset, draw, c).permutation(own)[:shots] for c, own in enumerate(by_class)]
            for draw in range(DRAWS)
        ]
    )
    kind = np.uint16 if len(train) <= np.iinfo(np.uint16).max + 1 else np.uint32
    buffer = io.BytesIO()
    np.save(buffer, rows.astype(kind))
    target = (folder or paths.new_episodes()) / f"{draw_name(dataset, shots)}.npy"
    manifest = Manifest(
        dataset=dataset,
        shots=shots,
        draws=DRAWS,
        classes=train.n_classes,
        seed=_SEED,
        dataset_digest=train.digest,
        sha256=hashlib.sha256(buffer.getvalue()).hexdigest(),
    )
    manifests.write_frozen(target, buffer.getvalue(), manifest.model_dump())
    return target


def read_manifest(path: Path) -> Manifest:
    """The manifest beside an index file."""
    return manifests.read_manifest(path, Manifest, "draws", _COMMAND)


def open_file(path: Path, train: ImageSet) -> DrawFile:
    """Read, check and open a file of draws on the training images it is used with.

    Raises:
        IntegrityError: the bytes are not those of the manifest, or it was drawn from other images.
        DataError: the rows are not what the manifest says.
    """
    manifest = read_manifest(path)
    digest = manifests.check_digest(path, manifest.sha256, _COMMAND)
    if manifest.dataset_digest != train.digest:
        raise IntegrityError(
            f"{path} was drawn from {manifest.dataset} with digest {manifest.dataset_digest[:12]}, and {train.name} has "
            f"{train.digest[:12]}",
            "your copy of the data is incomplete, or of another version: `slabench data verify` says how",
        )
    remedy = f"make it again: {_COMMAND}"
    rows = parse_npy(read_plain(path), str(path), remedy)
    shape = (manifest.draws, manifest.classes, manifest.shots)
    if rows.shape != shape or rows.dtype not in (np.uint16, np.uint32):
        raise DataError(
            f"{path} holds {rows.dtype} {list(rows.shape)}, its manifest says uint16 or uint32 {list(shape)}", remedy
        )
    indices = rows.astype(np.int64)
    if indices.max() >= len(train) or manifest.classes != train.n_classes:
        raise DataError(f"{path} is not of the {len(train):,} images and {train.n_classes} classes here", remedy)
    ordered = np.sort(indices, axis=2)
    if (train.labels[indices] != np.arange(manifest.classes)[:, None]).any() or (
        ordered[..., 1:] == ordered[..., :-1]
    ).any():
        raise DataError(f"{path} names an image of another class, or one twice", remedy)
    return DrawFile(f"{FOLDER}/{manifest.dataset}/{path.stem}", indices, manifest, digest, path)


def load_draws(train: ImageSet, dataset: str, shots: int) -> DrawFile:
    """The frozen draws of `shots` images of every class; made in the user's folder if nobody has frozen them yet.

    Those of the user's folder that are of other images (an imported data set that has changed) are made anew.

    Raises:
        UsageError: a class has fewer images.
        DataError: the file is damaged, or of other images than those here.
    """
    path = manifests.find(draw_name(dataset, shots))
    own = path is not None and path.is_relative_to(paths.user_episodes())
    if path is None or (own and read_manifest(path).dataset_digest != train.digest):
        path = make(train, dataset, shots)
    return open_file(path, train)
