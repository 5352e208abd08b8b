"""The speed benchmarks in one run: `python benchmarks/speed/run_all.py [OUTPUT.json] [--only heads,classifier]`.

Default output: results/speed.json. With `--only`, rows of other benchmarks stay as they are in it. Run it on a machine that
does nothing else. A peer that is not installed is left out with a line; see README.md here.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path

from _measure import Row, read

from slabench.core.files import write_json

NAMES = ("sampling", "evaluation", "training", "classifier", "heads", "allocation", "data_import", "photographs")


def run() -> None:
    """Each in a process of its own, so that none inherits the heap or the caches of another."""
    parser = argparse.ArgumentParser(description="Speed as ratios against named peers.")
    parser.add_argument("output", type=Path, nargs="?", default=Path("results/speed.json"))
    parser.add_argument("--only", default=",".join(NAMES), help=f"some of {', '.join(NAMES)}")
    options = parser.parse_args()
    names, output = options.only.split(","), options.output
    if unknown := sorted(set(names) - set(NAMES)):
        parser.error(f"unknown benchmark {unknown[0]}; known: {', '.join(NAMES)}")
    here = Path(__file__).parent
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as folder:
        for name in names:
            part = Path(folder) / f"{name}.json"
            done = subprocess.run([sys.executable, here / f"{name}.py", part], env=os.environ, check=False)
            if done.returncode:
                sys.exit(f"{name} failed")
            rows += read(part)
    if names != list(NAMES) and output.is_file():
        made = {row.benchmark for row in rows}
        rows = [row for row in read(output) if row.benchmark not in made] + rows
    write_json(output, [asdict(row) for row in rows])
    print(f"{len(rows)} rows in {output}")


if __name__ == "__main__":
    run()
