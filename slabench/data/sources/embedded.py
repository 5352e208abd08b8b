"""The data sets that need no download: `glyphs`, drawn here, and scikit-learn's `digits`.

`glyphs` are characters drawn in the fonts that matplotlib ships, in a few seconds.
"""

from __future__ import annotations

import dataclasses
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from slabench.core.seeding import numpy_generator
from slabench.data.catalog import DatasetInfo
from slabench.data.imageset import RawImages
from slabench.data.plugin_dataset import maker
from slabench.data.store import Store, write_store

if TYPE_CHECKING:
    from matplotlib.ft2font import FT2Font
    from PIL.Image import Image
    from PIL.ImageFont import FreeTypeFont


IMAGES_PER_CLASS = 100


SIZE = 32


_SEED = 1


_CANVAS = 128  # a glyph is drawn this large, once for each face and stroke


_FONT_SIZE = 72


_FINE = 2 * SIZE  # placed at twice the size, then averaged down: no jagged edges


_FACES = (
    "DejaVuSans",
    "DejaVuSans-Bold",
    "DejaVuSans-Oblique",
    "DejaVuSansMono",
    "DejaVuSansMono-Bold",
    "DejaVuSerif",
    "DejaVuSerif-Bold",
    "DejaVuSerif-Italic",
    "STIXGeneral",
    "STIXGeneralBol",
)


# Family -> (split, {class name: character}). Members of a family are turns of one another where it has several.
# Characters that look alike at unknown size (o O 0, c C, s S) are in it once.
_FAMILIES: dict[str, tuple[str, dict[str, str]]] = {
    # train
    "bdpq": ("train", {"latin-b": "b", "latin-d": "d", "latin-p": "p", "latin-q": "q"}),
    "nu": ("train", {"latin-n": "n", "latin-u": "u"}),
    "arrow": ("train", {"arrow-left": "←", "arrow-up": "↑", "arrow-right": "→", "arrow-down": "↓"}),
    "zn": ("train", {"capital-z": "Z", "capital-n": "N"}),
    "cup": ("train", {"subset": "⊂", "superset": "⊃", "union": "∪", "intersection": "∩"}),
    "corner": ("train", {"floor-left": "⌊", "floor-right": "⌋", "ceiling-left": "⌈", "ceiling-right": "⌉"}),
    "a": ("train", {"latin-a": "a", "turned-a": "ɐ"}),
    "h": ("train", {"latin-h": "h", "turned-h": "ɥ"}),
    "r": ("train", {"latin-r": "r", "turned-r": "ɹ"}),
    "y": ("train", {"latin-y": "y", "turned-y": "ʎ"}),
    "query": ("train", {"question": "?", "question-turned": "¿"}),
    "paren": ("train", {"paren-left": "(", "paren-right": ")"}),
    "brace": ("train", {"brace-left": "{", "brace-right": "}"}),
    "ampersand": ("train", {"ampersand": "&", "ampersand-turned": "⅋"}),
    "forall": ("train", {"capital-a": "A", "for-all": "∀"}),
    "guillemet": ("train", {"guillemet-left": "«", "guillemet-right": "»"}),
    "element": ("train", {"element-of": "∈", "contains": "∋"}),
    "f": ("train", {"capital-f": "F", "turned-f": "Ⅎ"}),
    "train-digits": ("train", {"digit-2": "2", "digit-4": "4", "digit-7": "7"}),
    "train-capitals": (
        "train",
        {"capital-d": "D", "capital-k": "K", "capital-q": "Q", "capital-r": "R", "capital-x": "X"},
    ),
    "train-greek": ("train", {"beta": "β", "lambda": "λ", "pi": "π", "psi": "ψ", "xi": "Ξ", "omega": "Ω"}),
    "train-signs": ("train", {"number-sign": "#", "percent": "%", "section": "§", "infinity": "∞", "yen": "¥"}),
    "train-suits": ("train", {"spade": "♠", "diamond": "♦", "female": "♀"}),
    # val
    "triangle": ("val", {"triangle-up": "▲", "triangle-right": "▶", "triangle-down": "▼", "triangle-left": "◀"}),
    "tack": ("val", {"tack-right": "⊢", "tack-left": "⊣", "tack-down": "⊤", "tack-up": "⊥"}),
    "e": ("val", {"latin-e": "e", "turned-e": "ə"}),
    "t": ("val", {"latin-t": "t", "turned-t": "ʇ"}),
    "exclamation": ("val", {"exclamation": "!", "exclamation-turned": "¡"}),
    "g": ("val", {"capital-g": "G", "turned-g": "⅁"}),
    "val-letters": ("val", {"capital-b": "B", "capital-j": "J", "cyrillic-zhe": "Ж", "sharp-s": "ß", "eth": "ð"}),
    "val-signs": ("val", {"digit-3": "3", "phi": "Φ", "dollar": "$", "root": "√"}),
    # test
    "69": ("test", {"digit-6": "6", "digit-9": "9"}),
    "double-arrow": (
        "test",
        {"double-arrow-left": "⇐", "double-arrow-up": "⇑", "double-arrow-right": "⇒", "double-arrow-down": "⇓"},
    ),
    "mw": ("test", {"capital-m": "M", "capital-w": "W"}),
    "esh": ("test", {"capital-e": "E", "reversed-e": "Ǝ", "cyrillic-sha": "Ш"}),
    "wedge": ("test", {"capital-v": "V", "capital-lambda": "Λ", "less": "<", "greater": ">"}),
    "k": ("test", {"latin-k": "k", "turned-k": "ʞ"}),
    "bracket": ("test", {"bracket-left": "[", "bracket-right": "]"}),
    "capital-y": ("test", {"capital-y": "Y", "turned-capital-y": "⅄"}),
    "gamma": ("test", {"capital-l": "L", "gamma": "Γ"}),
    "nabla": ("test", {"nabla": "∇", "delta": "Δ"}),
    "test-signs": ("test", {"digit-5": "5", "at": "@", "euro": "€", "heart": "♥", "small-delta": "δ"}),
}


def families() -> dict[str, tuple[str, ...]]:
    """Class names of each family; a family of several holds turns of one character, or unrelated ones (`train-greek`)."""
    return {name: tuple(members) for name, (_, members) in _FAMILIES.items()}


def split_classes() -> dict[str, list[str]]:
    """Class names of train, val and test: whole families, so that no test class is a turn of a training class."""
    return {
        split: [name for where, members in _FAMILIES.values() if where == split for name in members]
        for split in ("train", "val", "test")
    }


def characters() -> dict[str, str]:
    """The character behind each class name."""
    return {name: char for _, members in _FAMILIES.values() for name, char in members.items()}


def generate() -> tuple[NDArray[np.uint8], NDArray[np.int64], list[str]]:
    """Draw the data set.

    Returns:
        images uint8 `[n, 32, 32, 3]`, labels int64 `[n]` in the order of the class names, class names, sorted.
    """
    chars = characters()
    names = sorted(chars)
    images = np.concatenate([_draw_class(name, chars[name]) for name in names])
    return images, np.repeat(np.arange(len(names)), IMAGES_PER_CLASS), names


def _draw_class(name: str, char: str) -> NDArray[np.uint8]:
    """`IMAGES_PER_CLASS` images of one character."""
    rng = numpy_generator(_SEED, "glyphs", name)
    masks = [(mask, extent) for face in _FACES if (drawn := _masks(face, char)) for mask, extent in drawn]
    chosen = rng.integers(len(masks), size=IMAGES_PER_CLASS)
    ink = np.stack([_place(masks[k][0], masks[k][1], rng) for k in chosen])
    ink = _blur(ink, rng.choice([0.0, 0.12, 0.22], size=IMAGES_PER_CLASS))
    back, fore = _colours(rng)
    # A slanting light over the background: a plain one would give the ink away by its colour alone.
    ramp = np.linspace(-1, 1, SIZE)
    light = (
        rng.uniform(-24, 24, (2, IMAGES_PER_CLASS, 1, 1)) * np.stack(np.broadcast_arrays(ramp[:, None], ramp))[:, None]
    )
    canvas = back[:, None, None] + light.sum(0)[..., None]
    picture = canvas + ink[..., None] * (fore[:, None, None] - canvas)
    picture += rng.normal(size=picture.shape) * rng.uniform(2, 22, (IMAGES_PER_CLASS, 1, 1, 1))
    pixels: NDArray[np.uint8] = np.rint(picture).clip(0, 255).astype(np.uint8)
    return pixels


def _masks(face: str, char: str) -> list[tuple[Image, float]]:
    """The character in one face, thin and thick, each a Pillow image in L centred on its ink, and its larger side."""
    from PIL import Image as images
    from PIL import ImageDraw

    table, font = _font(face)
    if not table.get_char_index(ord(char)):
        return []
    drawn: list[tuple[Image, float]] = []
    for stroke in (0, 2):
        left, top, right, bottom = font.getbbox(char, stroke_width=stroke)
        mask = images.new("L", (_CANVAS, _CANVAS))
        corner = (_CANVAS / 2 - (left + right) / 2, _CANVAS / 2 - (top + bottom) / 2)
        ImageDraw.Draw(mask).text(corner, char, fill=255, font=font, stroke_width=stroke)
        drawn.append((mask, float(max(right - left, bottom - top))))
    return drawn


@cache
def _font(face: str) -> tuple[FT2Font, FreeTypeFont]:
    """A face twice: matplotlib's reader knows which characters it has, Pillow's draws them."""
    from matplotlib import get_data_path
    from matplotlib.ft2font import FT2Font
    from PIL import ImageFont

    path = Path(get_data_path()) / "fonts" / "ttf" / f"{face}.ttf"
    # Basic layout: with libraqm the same font can give other positions.
    return FT2Font(str(path)), ImageFont.truetype(str(path), _FONT_SIZE, layout_engine=ImageFont.Layout.BASIC)


def _place(mask: Image, extent: float, rng: np.random.Generator) -> NDArray[np.float64]:
    """The mask at a random size, shift, slant and slight turn: `[32, 32]` in 0 .. 1."""
    from PIL.Image import Resampling, Transform

    ink = rng.uniform(18, 27) * _FINE / SIZE  # the larger side of the ink
    zoom = extent / ink * rng.uniform(0.92, 1.09, 2)  # source pixels a target pixel, across and down
    # Far below 45 degrees, so that a turn's meaning stays clear.
    turn, shear = rng.uniform(-0.2, 0.2), rng.uniform(-0.2, 0.2)
    shift = rng.uniform(-2.5, 2.5, 2) * _FINE / SIZE
    cos, sin = np.cos(turn), np.sin(turn)
    a, b = zoom[0] * cos, zoom[0] * (sin + shear)
    d, e = -zoom[1] * sin, zoom[1] * cos
    x, y = _FINE / 2 + shift[0], _FINE / 2 + shift[1]
    matrix = (a, b, _CANVAS / 2 - a * x - b * y, d, e, _CANVAS / 2 - d * x - e * y)
    placed = mask.transform((_FINE, _FINE), Transform.AFFINE, matrix, resample=Resampling.BILINEAR)
    fine = np.asarray(placed, dtype=np.float64) / 255
    averaged: NDArray[np.float64] = fine.reshape(SIZE, 2, SIZE, 2).mean((1, 3))
    return averaged


def _blur(ink: NDArray[np.float64], weight: NDArray[np.float64]) -> NDArray[np.float64]:
    """Each image of `[n, 32, 32]` with the kernel [w, 1 - 2w, w] along both axes."""
    w = weight[:, None, None]
    for axis in (1, 2):
        padded = np.pad(ink, [(0, 0), *((1, 1) if k == axis else (0, 0) for k in (1, 2))], mode="edge")
        before, after = (padded.take(range(s, s + SIZE), axis) for s in (0, 2))
        ink = (1 - 2 * w) * ink + w * (before + after)
    return ink


def _colours(rng: np.random.Generator) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Background and ink colours `[n, 3]`, at least 80 of 255 apart in luma, either one the lighter."""
    luma = np.array([0.299, 0.587, 0.114])
    back = rng.uniform(0, 255, (IMAGES_PER_CLASS, 3))
    fore = rng.uniform(0, 255, (IMAGES_PER_CLASS, 3))
    near = np.abs((fore - back) @ luma) < 80
    while near.any():
        back[near] = rng.uniform(0, 255, (int(near.sum()), 3))
        fore[near] = rng.uniform(0, 255, (int(near.sum()), 3))
        near = np.abs((fore - back) @ luma) < 80
    return back, fore


_DIGITS_TEST_EVERY = 5


def prepare(entry: DatasetInfo, path: Path, *, replace: bool = False) -> Store:
    """Make the embedded data set `entry` and write its store to `path`; that of a plug-in's names the code that made it.

    Raises:
        DataError: a plug-in made what nothing could learn from; see `slabench.data.checks`.
    """
    code = maker(entry)
    raw = (entry.make or {"glyphs": _glyphs, "digits": _digits}[entry.store])()
    if code is not None:
        raw = dataclasses.replace(raw, notes={**raw.notes, "code": code.sha256})
    return write_store(path, raw, entry=entry, replace=replace)


def _glyphs() -> RawImages:

    images, labels, class_names = generate()
    return RawImages(
        images=images,
        labels=labels.astype(np.int64),
        parts=np.zeros(len(labels), np.uint8),
        source_positions=np.arange(len(labels), dtype=np.int32),
        class_names=tuple(class_names),
        kind="generated",
        notes={"versions": {name: version(name) for name in ("matplotlib", "numpy", "pillow")}},
    )


def _digits() -> RawImages:
    """scikit-learn's digits: each pixel a block of 4 x 4, grey 0..16 to 0..255; every fifth of a class is test."""
    from sklearn.datasets import load_digits

    data = load_digits()
    labels = data.target.astype(np.int64)
    grey = np.rint(data.images * (255 / 16)).astype(np.uint8)
    images = grey.repeat(4, axis=1).repeat(4, axis=2)[..., None].repeat(3, axis=3)
    parts = np.zeros(len(labels), np.uint8)
    for label in range(10):
        # The source lists its writers one after the other: every fifth image keeps all of them in both parts.
        parts[np.flatnonzero(labels == label)[_DIGITS_TEST_EVERY - 1 :: _DIGITS_TEST_EVERY]] = 1
    positions = np.empty(len(labels), np.int32)
    for part in (0, 1):
        positions[parts == part] = np.arange(np.count_nonzero(parts == part))
    return RawImages(
        images=images,
        labels=labels,
        parts=parts,
        source_positions=positions,
        class_names=tuple(str(name) for name in data.target_names),
        kind="generated",
        notes={"versions": {"scikit-learn": version("scikit-learn")}},
    )
