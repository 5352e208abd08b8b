"""Encoded images to uint8 arrays, with errors that name the file; and the plainest layout of them, one folder a class.

`train/<class>/*.png|jpg` and `test/<class>/*.png|jpg`.
"""

from __future__ import annotations

import contextlib
import io
import os
import reprlib
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
import PIL
from PIL import Image, ImageOps, UnidentifiedImageError, features

from slabench.core.errors import DataError
from slabench.data.catalog import DatasetInfo
from slabench.data.imageset import TEST_PART, TRAIN_PART, RawImages
from slabench.data.sources import Kind

# At most 256 px of a photograph are stored; the limits stop a decompression bomb, not a large original or a panorama.
_MAX_PIXELS = 64_000_000


_MAX_ASPECT = 32


_FORMATS = ("PNG", "JPEG", "GIF", "BMP")  # by content: MIT Indoor 67 has GIFs that are called .jpg


_OWN_FORMATS = (*_FORMATS, "WEBP", "TIFF")


_CHUNK, _OWN_CHUNK = 512, 16


Fit = Literal["exact", "scale", "centre"]
"""What becomes of an image of another size: an error; the whole of it, scaled to the square; its `centre_square`."""


def decode_image(
    data: bytes, size: int, name: str, *, fit: Fit, own: bool = False
) -> tuple[npt.NDArray[np.uint8], str]:
    """Decode one encoded image.

    Args:
        data: the bytes of a PNG, JPEG, GIF (its first frame) or BMP file, in whatever colour mode.
        size: height and width that the data set has, in pixels.
        name: what to call the image in an error.
        fit: what becomes of an image of another size.
        own: a user's image, whose pixels nobody has published: WEBP and TIFF are read too, it is turned as its EXIF says, what is
            transparent becomes white, and a large JPEG is decoded at a fraction of its size, twice `size` at the least.

    Returns:
        uint8 `[size, size, 3]` RGB, and the file format (`PNG`, `JPEG`, ...).

    Raises:
        DataError: the bytes are no image, are cut off, or have another size.
    """
    try:
        formats = _OWN_FORMATS if own else _FORMATS
        with Image.open(io.BytesIO(data), formats=formats) as image:
            if image.width * image.height > _MAX_PIXELS:
                raise DataError(f"{name} has {image.width} x {image.height} pixels", "remove it, or scale it down")
            kind = image.format or "unknown"
            rgb: Image.Image = _own_to_rgb(image, size, name) if own else _to_rgb(image)
            if rgb.size != (size, size):
                if fit == "exact":
                    raise DataError(
                        f"{name} is {rgb.width} x {rgb.height} pixels; this data set has {size} x {size}",
                        "check that PATH is the data set you named, in its original size",
                    )
                if max(rgb.size) > _MAX_ASPECT * min(rgb.size):
                    raise DataError(
                        f"{name} is {rgb.width} x {rgb.height} pixels, too narrow for a photograph", "replace this file"
                    )
                whole = fit == "scale"
                rgb = rgb.resize((size, size), Image.Resampling.LANCZOS) if whole else centre_square(rgb, size)
            return np.asarray(rgb), kind
    except DataError:
        raise
    except Exception as error:  # a damaged file makes a decoder raise anything: struct.error, IndexError, EOFError, ...
        start = "an HTML page" if looks_like_html(data) else "not a readable image"
        # Pillow names the stream, which nobody has named: <_io.BytesIO object at 0x...>.
        why = f"none of {', '.join(formats)}" if isinstance(error, UnidentifiedImageError) else str(error)
        raise DataError(
            f"{name} is {start} ({why})", "replace this file with an intact copy, then import again"
        ) from error


def _to_rgb(image: Image.Image) -> Image.Image:
    """An image of any mode as 8-bit RGB; of 16-bit greys the upper 8 bits, as Pillow itself does for 16-bit colours."""
    if image.mode == "RGB":
        return image
    if image.mode.startswith("I"):  # convert() would cut all that is above 255 off: white
        image = Image.fromarray((np.asarray(image).astype(np.uint16) >> 8).astype(np.uint8))
    return image.convert("RGB")


def _own_to_rgb(image: Image.Image, size: int, name: str) -> Image.Image:
    """A user's image as 8-bit RGB, upright, on white where it is transparent.

    Raises:
        DataError: its numbers have no known range (floats, 32-bit integers above 65,535).
    """
    image.draft(None, (2 * size, 2 * size))  # has an effect on JPEG alone
    image.load()
    whole = "convert it to 8 or 16 bits (PNG), then import again"
    if image.mode == "F":
        raise DataError(f"{name} holds floating-point numbers, of no known range", whole)
    if image.mode == "I":
        low, high = image.getextrema()
        if not 0 <= low <= high <= 0xFFFF:  # type: ignore[operator]
            raise DataError(f"{name} holds 32-bit integers, here from {low} to {high}", whole)
    upright = image
    with contextlib.suppress(Exception):  # a damaged EXIF block, which may raise anything, says nothing of the pixels
        upright = ImageOps.exif_transpose(image)
    if "A" in upright.getbands() or "transparency" in upright.info:
        clear = upright.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", clear.size, "white"), clear).convert("RGB")
    return _to_rgb(upright)


def centre_square(image: Image.Image, size: int) -> Image.Image:
    """The middle `size` x `size` of an image whose shorter side is scaled to `size` (bilinear, antialiased).

    To the pixel what torchvision's `Resize(size)` and `CenterCrop(size)` give for a Pillow image.
    """
    width, height = image.size
    short = min(width, height)
    wide, high = (size * side // short for side in (width, height))
    scaled = image.resize((wide, high), Image.Resampling.BILINEAR)
    left, top = round((wide - size) / 2), round((high - size) / 2)
    return scaled.crop((left, top, left + size, top + size))


def decode_all(
    read: Callable[[int], bytes],
    names: Callable[[int], str],
    n: int,
    size: int,
    *,
    fit: Fit,
    into: npt.NDArray[np.uint8] | None = None,
    done: Callable[[int], None] | None = None,
) -> tuple[npt.NDArray[np.uint8], dict[str, int]]:
    """Decode `n` images.

    Threads pay for photographs that are decoded and scaled outside the interpreter's lock; for images of 32 pixels
    they only fight for that lock (measured: 1.6 times slower), so those are decoded one after the other.

    The pixels lie in memory once, 3 n size^2 bytes (2.3 GB for CUB-200-2011, 4.0 GB for Stanford Dogs), or in `into`.

    Args:
        read: the bytes of an image.
        names: what to call it in an error.
        n: how many there are.
        size: height and width that the data set has, in pixels.
        fit: what becomes of an image of another size.
        into: uint8 `[n, size, size, 3]`, on a user's disk: the images are theirs (see `decode_image`), and all cores decode.
        done: told how many more are decoded.

    Returns:
        uint8 `[n, size, size, 3]`, and how many images each file format has.
    """
    own = into is not None
    images = np.empty((n, size, size, 3), np.uint8) if into is None else into
    step = _OWN_CHUNK if own else _CHUNK
    cores = os.cpu_count() or 1
    workers = cores if own else min(8, cores) if fit != "exact" else 1

    def work(start: int) -> Counter[str]:
        kinds: Counter[str] = Counter()
        for row in range(start, min(start + step, n)):
            images[row], kind = decode_image(read(row), size, names(row), fit=fit, own=own)
            kinds[kind] += 1
        return kinds

    total: Counter[str] = Counter()
    with ThreadPoolExecutor(max_workers=workers) as pool:
        try:
            for kinds in pool.map(work, range(0, n, step)):
                total.update(kinds)
                if done is not None:
                    done(kinds.total())
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    return images, dict(sorted(total.items()))


def decoder_versions() -> dict[str, str]:
    """Pillow and its JPEG library: others may decode the same file to slightly other pixels, hence another digest."""
    return {"pillow": PIL.__version__, "jpeg": str(features.version("libjpeg_turbo") or features.version("jpg"))}


def looks_like_html(data: bytes) -> bool:
    """Whether a download is a web page (a login form, a quota notice) in place of the file."""
    head = data[:512].lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    return head.startswith((b"<!doctype html", b"<html", b"<head", b"<script", b"<?xml"))


def refuse_html(path: Path) -> None:
    """Raise when the file at `path` is a web page."""
    with open(path, "rb") as file:
        if looks_like_html(file.read(512)):
            raise DataError(
                f"{path} is an HTML page, not data: the download gave a web page in its place",
                "open the file's address in a browser, download it anew, then import again",
            )


def refuse_repeated(files: Sequence[Path], remedy: str, where: str = "") -> None:
    """Raise when an image is listed twice; `where` (" in ...") names the list."""
    seen: set[Path] = set()
    for file in files:
        if file in seen:
            raise DataError(f"{file} is listed twice{where}", remedy)
        seen.add(file)


def refuse_absent(files: Sequence[Path], remedy: str, where: str = "") -> None:
    """Raise when a listed image is no file; `where` (" in ...") names the list."""
    absent = [file for file in files if not os.path.isfile(file)]  # Path.is_file() raises for a name that is too long
    if absent:
        raise DataError(
            f"{absent[0]} is listed{where} but missing ({len(absent):,} of {len(files):,} images are)", remedy
        )


def whole_numbers(values: object, what: str, remedy: str) -> npt.NDArray[np.int64]:
    """A list, tuple or array of whole numbers as int64 `[n]`; anything else is an error that says what it is instead."""
    found = type(values).__name__
    if isinstance(values, np.ndarray):
        if values.ndim == 1 and values.dtype.kind in "iu":
            return values.astype(np.int64)
        found = f"{values.dtype} {list(values.shape)}"
    elif isinstance(values, list | tuple):
        odd = next((value for value in values if type(value) is not int or abs(value) >= 2**63), None)
        if odd is None:
            return np.array(values, dtype=np.int64)
        found = f"a {found} with {reprlib.repr(odd)}"
    raise DataError(f"{what}: {found} is not a list of whole numbers", remedy)


def check_labels(labels: npt.NDArray[np.int64], n_classes: int, path: Path) -> None:
    """Raise when a label lies outside 0..n_classes-1."""
    bad = labels[(labels < 0) | (labels >= n_classes)]
    if len(bad):
        raise DataError(
            f"{path} has the label {bad[0]}, outside 0..{n_classes - 1}", "check that PATH is the data set you named"
        )


def check_class_names(found: Sequence[str], expected: Sequence[str], path: Path, dataset: str) -> None:
    """Raise when the classes of a source are not those of the data set, naming the first that differ."""
    if not expected or tuple(found) == tuple(expected):
        return
    strange, lacking = sorted(set(found) - set(expected)), sorted(set(expected) - set(found))
    parts = []
    if strange:
        parts.append(f"it has {_some(strange)}")
    if lacking:
        parts.append(f"it lacks {_some(lacking)}")
    if not parts:
        parts.append("it has them in another order")
    raise DataError(
        f"{path} is not {dataset}: its classes do not match ({'; '.join(parts)})",
        f"check the path, or the name: `slabench show dataset {dataset}` lists the classes",
    )


def _some(names: Sequence[str]) -> str:
    shown = ", ".join(f"'{name}'" for name in names[:3])
    return shown if len(names) <= 3 else f"{shown} and {len(names) - 3} more"


COMPLETE = "complete it, then import; --partial goes on with fewer images of a class, not with none"
"""What to do about a class without images."""


_LAYOUT = "class folders train/<class>/*.png|jpg and test/<class>/*.png|jpg"


_PARTS = (("train", TRAIN_PART), ("test", TEST_PART))


_ENDS = (".png", ".jpg", ".jpeg")


def image_files(folder: Path, ends: Sequence[str]) -> list[Path]:
    """The images of a folder, by name; files that are no images, and hidden ones, are not among them.

    Args:
        folder: to look in.
        ends: the file name extensions that the layout has, in lower case.

    Raises:
        DataError: a file is an image by its name, of a kind that would be left out in silence.
    """
    files = sorted(file for file in folder.iterdir() if not file.name.startswith("."))
    others = Image.registered_extensions()
    for file in files:
        end = file.suffix.lower()
        if end in others and end not in ends and file.is_file():
            raise DataError(
                f"{file} is a {others[end]} file; slabench reads {', '.join(ends)} here",
                "convert it to PNG, which loses nothing, or move it away",
            )
    return [file for file in files if file.suffix.lower() in ends]


def find(path: Path) -> bool:
    """Whether `path` has a folder `train` with folders in it."""
    train = path / "train"
    return train.is_dir() and any(child.is_dir() for child in train.iterdir())


def read(path: Path, entry: DatasetInfo) -> RawImages:
    """Read every image below `path`. File names say nothing of the original order: positions are unknown."""
    files: list[Path] = []
    labels: list[int] = []
    parts: list[int] = []
    for name, part in _PARTS:
        if not (path / name).is_dir():
            raise DataError(f"{path} has no folder '{name}'", f"slabench reads {_LAYOUT}")
        classes = sorted(
            child.name for child in (path / name).iterdir() if child.is_dir() and not child.name.startswith(".")
        )
        if set(classes) < set(entry.classes):
            absent = sorted(set(entry.classes) - set(classes))
            raise DataError(
                f"class '{absent[0]}' has no folder in {path / name} ({len(absent)} such classes)", COMPLETE
            )
        check_class_names(classes, sorted(entry.classes), path / name, entry.store)
        for label, class_name in enumerate(entry.classes):
            found = image_files(path / name / class_name, _ENDS)
            if not found:
                raise DataError(f"class '{class_name}' has no image in {path / name / class_name}", COMPLETE)
            files += found
            labels += [label] * len(found)
            parts += [part] * len(found)
    images, formats = decode_all(
        lambda row: files[row].read_bytes(), lambda row: str(files[row]), len(files), entry.image_size, fit="exact"
    )
    return RawImages(
        images=images,
        labels=np.array(labels, np.int64),
        parts=np.array(parts, np.uint8),
        source_positions=np.full(len(files), -1, np.int32),
        class_names=entry.classes,
        kind="folders",
        notes={"image_formats": formats},
    )


KIND = Kind(_LAYOUT, find, read)
