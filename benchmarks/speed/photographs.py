"""Importing 1,000 large photographs of one's own beside decoding alone, of the same files on all cores.

The photographs are made here: noise whose amplitude falls with its frequency as that of natural scenes does, 1600 x 1200 pixels,
JPEG of quality 90 with 4:2:0 colours. `--images N` takes fewer.
"""

from __future__ import annotations

import io
import os
import sys
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from _measure import Row, compare, report
from PIL import Image

WIDTH, HEIGHT, CLASSES, SIZE = 1600, 1200, 20, 84
_SCENES = 20


def scene(seed: int) -> Image.Image:
    """A picture with the spectrum of a photograph: octaves of noise, each weaker than the one before."""
    draw = np.random.Generator(np.random.PCG64(seed))
    sum_of_octaves = np.zeros((HEIGHT, WIDTH, 3), np.float32)
    cells, strength = 4, 45.0
    while cells <= WIDTH // 2:
        noise = draw.integers(0, 256, (cells * HEIGHT // WIDTH + 1, cells, 3), dtype=np.uint8)
        grown = Image.fromarray(noise).resize((WIDTH, HEIGHT), Image.Resampling.BILINEAR)
        sum_of_octaves += (np.asarray(grown, np.float32) - 127.5) * (strength / 127.5)
        cells, strength = cells * 2, strength * 0.75
    return Image.fromarray(np.clip(sum_of_octaves + 127.5, 0, 255).astype(np.uint8))


def photographs(folder: Path, count: int) -> list[Path]:
    """Write `count` JPEGs into class folders; no two are alike, for each is shifted and brightened by its own amount."""
    files = []
    for number in range(_SCENES):
        whole = np.asarray(scene(number))
        for turn in range(number, count, _SCENES):
            moved = np.roll(whole, (7 * turn, 13 * turn), (0, 1))
            data = io.BytesIO()
            Image.fromarray(moved).save(data, "JPEG", quality=90)
            file = folder / f"class-{turn % CLASSES:02d}" / f"{turn:05d}.jpg"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(data.getvalue())
            files.append(file)
    return files


def decoder(files: list[Path], fraction: bool) -> Callable[[], None]:
    """Decode all files on all cores and drop them, whole, or as an import does: at a fraction of the size, and scaled."""

    def one(file: Path) -> None:
        with Image.open(file) as image:
            if fraction:
                image.draft("RGB", (2 * SIZE, 2 * SIZE))
                image.convert("RGB").resize((SIZE, SIZE), Image.Resampling.BICUBIC)
            else:
                image.convert("RGB")

    def decode() -> None:
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            for _ in pool.map(one, files):
                pass

    return decode


def measure(count: int = 1000, repeats: int = 3) -> list[Row]:
    """Images a second."""
    from slabench.data.sources.own_import import import_folder

    with tempfile.TemporaryDirectory() as place:
        root = Path(place) / "photographs"
        files = photographs(root, count)
        megabytes = sum(file.stat().st_size for file in files) / 1e6
        os.environ["SLABENCH_DATA"] = str(Path(place) / "data")
        return compare(
            "import of photographs",
            ("slabench data import-folder", lambda: import_folder("photographs", root, size=SIZE, replace=True), count),
            [
                ("Pillow on all cores, whole images", decoder(files, fraction=False), count),
                ("Pillow on all cores, a fraction, scaled", decoder(files, fraction=True), count),
            ],
            "images/s",
            repeats,
            f"{count:,} JPEGs of {WIDTH} x {HEIGHT}, {megabytes:,.0f} MB, {os.cpu_count()} cores",
        )


if __name__ == "__main__":
    words = sys.argv[1:]
    asked = int(words.pop(words.index("--images") + 1)) if "--images" in words else 1000
    report(measure(asked), next((Path(word) for word in words if not word.startswith("--")), None))
