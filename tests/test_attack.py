"""A sample of the kills and damaged files; `python tests/attack.py` is all of them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ONLY = ("kill run", "kill import", "kill episodes", "kill leaderboard", "read")


def test_a_sample_of_kills_and_damaged_files(tmp_path: Path, glyphs: Path) -> None:
    """In a process of its own: the attacks fork, and a crash of a library is to be one fault of many."""
    command = [sys.executable, "-W", "ignore", str(Path(__file__).with_name("attack.py"))]
    sizes = ["--moments", "1", "--events", "2", "--inputs", "100", "--seed", "1", "--glyphs", str(glyphs)]
    only = [word for what in ONLY for word in ("--only", what)]
    done = subprocess.run([*command, *sizes, *only], cwd=tmp_path, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stdout + done.stderr
    lines = done.stdout.splitlines()
    assert sum(line.startswith("kill ") and "event: recovered" in line for line in lines) == 4
    assert sum(line.startswith("read ") for line in lines) > 20
