"""Folders of photographs as users have them, generated: two-coloured pictures whose pixels are known without a decoder."""

from __future__ import annotations

import csv
import hashlib
from pathlib import Path

import numpy as np
from PIL import Image

from slabench.core import paths

LEFT, RIGHT = (200, 40, 90), (20, 160, 60)


def halves(
    left: tuple[int, ...] = LEFT, right: tuple[int, ...] = RIGHT, size: tuple[int, int] = (64, 48)
) -> Image.Image:
    """Left half of one colour, right half of the other, `size` wide and high."""
    image = Image.new("RGB", size, left)
    image.paste(right, (size[0] // 2, 0, *size))
    return image


def picture(name: str, size: tuple[int, int] = (40, 30)) -> Image.Image:
    """Noise that is another for every name, with a colour that the first part of the name decides."""
    seed = int.from_bytes(hashlib.sha256(name.encode()).digest()[:4], "big")
    colour = np.frombuffer(hashlib.sha256(name.partition("/")[0].encode()).digest()[:3], np.uint8)
    noise = np.random.default_rng(seed).normal(0, 25, (size[1], size[0], 3))
    return Image.fromarray(np.clip(colour + noise, 0, 255).astype(np.uint8))


def folders(root: Path, classes: dict[str, int] | list[str], images: int = 5, first: int = 0) -> Path:
    """PNG files `root/<class>/<number>.png`, by class so many or all `images`; numbers begin at `first`."""
    counts = classes if isinstance(classes, dict) else dict.fromkeys(classes, images)
    for name, count in counts.items():
        (root / name).mkdir(parents=True, exist_ok=True)
        for number in range(first, first + count):
            picture(f"{name}/{number}", (30 + number % 7, 30)).save(root / name / f"{number}.png")
    return root


def parts_of(name: str) -> dict[str, str]:
    """File to part, as `image-split.csv` says."""
    with open(paths.data() / name / "image-split.csv", encoding="utf-8", newline="") as file:
        return {row["file"]: row["part"] for row in csv.DictReader(file)}
