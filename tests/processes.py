"""The `slabench` command in a process of its own, for the tests that kill it or need two of it."""

from __future__ import annotations

import contextlib
import io
import os
import subprocess
import sys
from pathlib import Path

import pytest

COMMAND = [sys.executable, "-c", "from slabench.cli.app import main; main()"]

# A trial of some seconds on the embedded data.
QUICK = [
    *("run", "fewshot", "--dataset", "glyphs", "--shots", "1", "--queries", "5", "--episodes", "50", "--steps", "40"),
    *("--precision", "float32", "--threads", "1", "--set", "train.queries=2"),
    *("--set", "select.points=4", "--set", "select.episodes=20"),
]


def here(*arguments: str) -> tuple[int, str]:
    """`slabench ARGUMENTS` in this process and folder, where nothing is killed: seconds of imports less. As `finish`."""
    from slabench.cli import app

    text, code = io.StringIO(), 0
    with contextlib.redirect_stdout(text), contextlib.redirect_stderr(text), pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["slabench", *arguments])
        patch.setenv("COLUMNS", "200")
        try:
            app.main()
        except SystemExit as done:
            code = int(done.code or 0)
    return code, text.getvalue()


def start(arguments: list[str], folder: Path, **environment: str) -> subprocess.Popen[str]:
    """Start `slabench ARGUMENTS` in `folder`."""
    return subprocess.Popen(
        [*COMMAND, *arguments],
        cwd=folder,
        env=os.environ | environment,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )


def finish(process: subprocess.Popen[str], seconds: float = 300) -> tuple[int, str]:
    """Its exit code and all that it printed."""
    output, _ = process.communicate(timeout=seconds)
    return process.returncode, output
