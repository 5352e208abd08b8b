"""Every speed benchmark in one run: `python benchmarks/speed/run_all.py [OUTPUT.json]` (default results/speed.json).

Run it on a machine that does nothing else. A peer that is not installed is left out with a line; see README.md here.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path

from _measure import Row, read

from slabench.fsio import write_json

NAMES = ("sampling", "evaluation", "training", "classifier", "heads", "allocation", "data_import")


def run() -> None:
    """Each in a process of its own, so that none inherits the heap or the caches of another."""
    here = Path(__file__).parent
    output = Path(sys.argv[1]) if len(sys.argv) > 1 else Path("results/speed.json")
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as folder:
        for name in NAMES:
            part = Path(folder) / f"{name}.json"
            done = subprocess.run([sys.executable, here / f"{name}.py", part], env=os.environ, check=False)
            if done.returncode:
                sys.exit(f"{name} failed")
            rows += read(part)
    write_json(output, [asdict(row) for row in rows])
    print(f"{len(rows)} rows in {output}")


if __name__ == "__main__":
    run()
