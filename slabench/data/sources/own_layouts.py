"""What lies at a path that a user calls their own images: which files, of which class, in which part. Decodes nothing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from PIL import Image

from slabench.core.errors import DataError, UsageError
from slabench.data.sources import own_lists, own_parquet
from slabench.data.sources.own_lists import PART_NAMES, Found
from slabench.data.sources.photographs import CUB_FILES

LAYOUTS = (
    "class folders: PATH/<class>/*.jpg",
    "the same in parts: PATH/{train,val,test}/<class>/*.jpg",
    "a CSV or parquet file with the columns path, label and, if you like, split",
    "a parquet file with its images, as the Hugging Face hub keeps them: the columns image, label and, if you like, split",
    "CUB-200-2011, and the data sets of CoOp with their lists",
    "a .zip or .tar of these",
)
ENDS = (".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".gif", ".bmp", ".webp", ".tif", ".tiff")
_UNREAD = {".heic", ".heif", ".avif", ".svg", ".raw", ".dng", ".cr2", ".cr3", ".nef", ".arw", ".orf", ".jxl"}
_JUNK_FOLDERS = {"__MACOSX", "@eaDir", "$RECYCLE.BIN", "System Volume Information"}


@dataclass
class Listing:
    """The images at a path.

    Attributes:
        root: the folder that the files are told of relative to.
        images: in the order of the folders or the list.
        kind: of the layout, in words.
        left_out: files and folders that are no images of a class, by what they are.
        called: what an error calls the image in a file.
    """

    root: Path
    images: list[Found]
    kind: str
    left_out: Counter[str] = field(default_factory=Counter)
    called: Callable[[Path], str] = str


def look(path: Path, scratch: Path) -> Listing:
    """Find out what lies at `path`.

    Args:
        path: a folder, or a file of images or of their names.
        scratch: a folder for images that lie in a parquet file, for as long as they are read.

    Raises:
        UsageError: nothing is there.
        DataError: it is in no layout that slabench knows, or a file or folder in it is not as it should be; names it.
    """
    known = "; ".join(f"({number}) {layout}" for number, layout in enumerate(LAYOUTS, start=1))
    if not path.exists():
        raise UsageError(f"{path} does not exist", f"layouts: {known}")
    if path.is_file():
        if (column := own_parquet.image_column(path)) is not None:
            target = scratch / "images"
            held = own_parquet.unpack(path, column, target)
            kind = "a parquet file with its images"
            return Listing(target, held, kind, called=lambda file: f"{path}, row {own_parquet.row_of(file)}")
        return Listing(path.parent, own_lists.read_list(path), "a list of files")
    root = _inner(path)
    for kind, find in (("CUB-200-2011", own_lists.cub), ("a data set of CoOp", own_lists.coop)):
        if (images := find(root)) is not None:
            return Listing(root, images, kind)
    listing = Listing(root, [], "class folders")
    children = _folders(root, listing.left_out)
    parts = [(child, PART_NAMES[child.name.lower()]) for child in children if child.name.lower() in PART_NAMES]
    if "train" in {part for _, part in parts}:
        _refuse_two_names(parts)
        listing.kind = "class folders in " + ", ".join(child.name for child, _ in parts)
        for other in sorted(set(children) - {child for child, _ in parts}):
            listing.left_out[f"folder {other.name}/"] += 1
        for folder, part in parts:
            own = _folders(folder, listing.left_out)
            if _unlabelled(folder, own, part):
                listing.left_out[f"folder {folder.name}/, whose images have no class"] += 1
                continue
            _class_folders(own, part, listing)
    else:
        _class_folders(children, "", listing)
    if not listing.images:
        loose = sum(file.suffix.lower() in ENDS for file in root.iterdir())
        lists = [file.name for file in sorted(root.iterdir()) if file.suffix.lower() in (".csv", ".parquet")]
        hint = f"; a list is imported by its own path: {root / lists[0]}" if lists else ""
        what = f"{loose:,} images that are in no class folder" if loose else "no class folders with images"
        raise DataError(f"{root} has {what}", f"layouts: {known}{hint}")
    return listing


def _inner(path: Path) -> Path:
    """The folder that an archive's lone folders lead to: `flowers/flowers/<class>/` is as good as `<class>/`."""
    while True:
        children = _folders(path)
        if len(children) != 1 or children[0].name.lower() in PART_NAMES or any(_image_files(path)):
            return path
        # The lone folder of images of one class is a class; one that holds folders is what an archive was packed in.
        if not _folders(children[0]) or (path / CUB_FILES[0]).is_file() or own_lists.coop_lists(path):
            return path
        path = children[0]


def _folders(path: Path, left_out: Counter[str] | None = None) -> list[Path]:
    found = sorted(child for child in path.iterdir() if child.is_dir())
    kept = [child for child in found if not child.name.startswith(".") and child.name not in _JUNK_FOLDERS]
    if left_out is not None:
        left_out.update(f"folder {child.name}/" for child in found if child not in kept)
    return kept


def _image_files(folder: Path, left_out: Counter[str] | None = None) -> Iterator[Path]:
    """The images directly in a folder, by name.

    Raises:
        DataError: a file is an image by its name, of a kind that would be left out in silence.
    """
    others = Image.registered_extensions()
    for file in sorted(folder.iterdir()):
        end = file.suffix.lower()
        if file.is_dir():
            continue
        if not file.name.startswith(".") and end in ENDS:
            yield file
        elif not file.name.startswith(".") and (end in others or end in _UNREAD) and end not in (".pdf", ".ps"):
            raise DataError(
                f"{file} is an image that slabench does not read: it reads {', '.join(ENDS)}",
                "convert it to PNG, which loses nothing, or move it away",
            )
        elif left_out is not None:
            left_out["hidden file" if file.name.startswith(".") else f"{end or 'other'} file"] += 1


def _class_folders(folders: list[Path], part: str, listing: Listing) -> None:
    """Add the images of each class folder, also where they lie one folder deeper (`<class>/images/`)."""
    for folder in folders:
        own, deeper = list(_image_files(folder, listing.left_out)), folder
        while not own and len(inner := _folders(deeper, listing.left_out)) == 1:
            deeper = inner[0]
            own = list(_image_files(deeper, listing.left_out))
        below = [child for child in _folders(deeper) if any(child.rglob("*"))]
        if below and any(file.suffix.lower() in ENDS for child in below for file in child.rglob("*")):
            raise DataError(
                f"the class folder {folder} has folders with images in it: {', '.join(child.name for child in below[:3])}",
                "which of them are classes cannot be told: move images up, or give a CSV of path and label",
            )
        if not own:
            raise DataError(f"the class folder {folder} has no image", f"add {', '.join(ENDS[:5])}, or move it away")
        listing.images += [Found(file, folder.name, part) for file in own]


def _unlabelled(folder: Path, classes: list[Path], part: str) -> bool:
    """Whether these are test images as challenges hand them out: in no class folder, or all in `images/`."""
    return part != "train" and (not classes or [child.name.lower() for child in classes] == ["images"])


def _refuse_two_names(parts: list[tuple[Path, str]]) -> None:
    first: dict[str, Path] = {}
    for folder, part in parts:
        if part in first:
            raise DataError(f"{first[part]} and {folder} are both '{part}'", "move one of them away")
        first[part] = folder
