"""The pictures of README and docs: what `slabench plot summary` and `slabench plot map` draw, made for pages.

    python benchmarks/analysis/pictures.py --results results [-o docs/assets]

`summary.svg` has neither title, caption nor ground, since the page around it has; `-dark` is for dark themes, `-narrow`
for phones.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from slabench.core.files import write_bytes
from slabench.plots import picture, style
from slabench.plots.page import draw_page
from slabench.plots.source import Source
from slabench.plots.summary import tasks, wide_and_narrow
from slabench.records.store import ResultStore


def pictures(source: Source) -> dict[str, bytes]:
    """Each picture by its file name."""
    made = {"map.svg": picture(draw_page("map", source), "svg")}
    for name, drawing in zip(("summary", "summary-narrow"), wide_and_narrow(tasks(source)), strict=True):
        light = style.render(drawing.figure, "svg", ground=False)
        made |= {f"{name}.svg": light, f"{name}-dark.svg": style.darkened(light)}
    return made


def main(arguments: Sequence[str] | None = None) -> int:
    """Draw them; the exit code."""
    parser = argparse.ArgumentParser(description="Draw the pictures of README and docs.")
    parser.add_argument("--results", type=Path, default=Path("results"), help="the folder of records")
    parser.add_argument("-o", "--output", type=Path, default=Path("docs/assets"), help="where the pictures go")
    chosen = parser.parse_args(arguments)
    store = ResultStore(chosen.results)
    for name, made in pictures(Source.of(store.records(), store, columns=2)).items():
        write_bytes(chosen.output / name, made)
    return 0


if __name__ == "__main__":
    sys.exit(main())
