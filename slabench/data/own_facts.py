"""What `own.json` says of a user's own data set, read and checked."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, PositiveInt, ValidationError

from slabench.core.errors import DataError, first_fault
from slabench.core.files import read_json, sha256_file
from slabench.data.catalog import DatasetInfo
from slabench.data.splits import OWN

_AGAIN = "import the images again: slabench data import-folder NAME PATH --replace"
_LARGE_DROPBLOCK_FROM = 64
_Level = Annotated[float, Field(ge=0, le=255)]


class OwnFacts(BaseModel):
    """What `own.json` holds.

    Attributes:
        format: of this file.
        name: of the data set, and of its folder.
        summary: one line for listings.
        source: what the images were imported from, without the path to it.
        image_size: height and width in pixels.
        n_classes: classes of all splits together.
        fewshot: whether there is a class split.
        mean: by channel over the training images, in units of 0..255.
        std: likewise.
        seed: of the splits that were drawn.
        classes_from: where the class split is from.
        images_from: where the image split is from.
        sha256: of each split file.
    """

    model_config = ConfigDict(extra="forbid")

    format: Literal[1] = 1
    name: str
    summary: str
    source: str
    image_size: PositiveInt
    n_classes: PositiveInt
    fewshot: bool
    mean: tuple[_Level, _Level, _Level]
    std: tuple[_Level, _Level, _Level]
    seed: int
    classes_from: str
    images_from: str
    sha256: dict[Annotated[str, Field(pattern=r"^[a-z-]{1,60}\.[a-z]{1,4}$")], str] = Field(default_factory=dict)

    def info(self, folder: Path) -> DatasetInfo:
        """As an entry of the catalog; `folder` holds the store."""
        return DatasetInfo(
            name=self.name,
            store=self.name,
            image_size=self.image_size,
            n_classes=self.n_classes,
            summary=self.summary,
            source=self.source,
            licence="that of its owner",
            mean=self.mean,
            std=self.std,
            # A border of an eighth at 32 pixels and of a tenth at 84, as the shipped data sets have; photographs at 256 pixels
            # are trained on in random parts, as those are.
            crop_padding=0 if self.image_size == 256 else max(4, self.image_size // 10),
            fewshot=self.fewshot,
            embedded=False,
            digest=None,
            dropblock_size=5 if self.image_size >= _LARGE_DROPBLOCK_FROM else 2,
            own=folder,
        )


def read_facts(folder: Path) -> OwnFacts:
    """What is said of the imported data set in `folder`.

    Raises:
        DataError: it is damaged, or of another data set.
    """
    file = folder / OWN
    stat = file.stat()
    return _read(file, stat.st_mtime_ns, stat.st_size, stat.st_ino)


@lru_cache(maxsize=256)
def _read(file: Path, *version: int) -> OwnFacts:
    """`own.json` in that version: names are looked up at every turn, and seldom does the file change."""
    try:
        facts = OwnFacts.model_validate(read_json(file))
    except ValidationError as error:
        raise DataError(f"{file}: {first_fault(error)}", _AGAIN) from error
    if facts.name != file.parent.name:
        raise DataError(f"{file} is of the data set '{facts.name}'", f"call its folder {facts.name}, or {_AGAIN}")
    return facts


def changed_splits(entry: DatasetInfo) -> list[str]:
    """The split files of an imported data set that are not as they were written, in words."""
    if entry.own is None:
        return []
    told = []
    for name, sha256 in read_facts(entry.own).sha256.items():
        file = entry.own / name
        if not file.is_file():
            told.append(f"{file} is missing")
        elif sha256_file(file) != sha256:
            told.append(f"{file}: the split has changed since the import")
    return told
