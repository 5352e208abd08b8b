"""Importing CIFAR-100 from the hub's parquet files: the whole import beside decoding alone, one image after another.

Needs `SLABENCH_CIFAR100`, the folder of the parquet files.
"""

from __future__ import annotations

import io
import os
import sys
import tempfile
from pathlib import Path

import numpy as np
from _measure import Row, compare, main


def measure() -> list[Row]:
    """Images a second. The reference decodes and keeps the pixels: no digests, no order, no store."""
    folder = os.environ.get("SLABENCH_CIFAR100")
    if not folder:
        sys.stderr.write("left out: data_import needs SLABENCH_CIFAR100, the folder of CIFAR-100's parquet files\n")
        return []

    def ours() -> None:
        from slabench.data.catalog import info
        from slabench.data.sources.detect import import_dataset

        with tempfile.TemporaryDirectory() as target:
            import_dataset(info("cifar100"), Path(folder), Path(target))

    def decode() -> None:
        import pyarrow.parquet as pq
        from PIL import Image

        for path in sorted(Path(folder).rglob("*.parquet")):
            column = pq.read_table(path).column("img").to_pylist()
            np.stack([np.asarray(Image.open(io.BytesIO(cell["bytes"])).convert("RGB")) for cell in column])

    return compare(
        "data import",
        ("slabench import", ours, 60_000),
        [("Pillow loop, decoding alone", decode, 60_000)],
        "images/s",
        3,
    )


if __name__ == "__main__":
    main(measure)
