"""The `slabench` command: in this process (`here`), and in one of its own (`start`).

A process of its own is for what only a process has: signals, a second one beside it, the exit code that a shell sees, an
output that is closed. One that is `fresh` imports torch anew, seconds each time; the others are copies (`copies`).
"""

from __future__ import annotations

import contextlib
import io
import os
import subprocess
import sys
from pathlib import Path

import pytest
from copies import Copy

COMMAND = [sys.executable, "-c", "from slabench.cli.app import main; main()"]

# A trial of some seconds on the embedded data.
QUICK = [
    *("run", "fewshot", "--dataset", "glyphs", "--shots", "1", "--queries", "5", "--episodes", "20", "--steps", "40"),
    *("--precision", "float32", "--threads", "1", "--set", "train.queries=2"),
    *("--set", "select.points=4", "--set", "select.episodes=5"),
]


def here(*arguments: str, folder: Path | None = None, **environment: str) -> tuple[int, str]:
    """Run `slabench ARGUMENTS` in this process, in `folder` or the current one. Return its exit code and all that it printed."""
    from slabench.cli import app

    text, code = io.StringIO(), 0
    with contextlib.redirect_stdout(text), contextlib.redirect_stderr(text), pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["slabench", *arguments])
        for name, value in ({"COLUMNS": "200"} | environment).items():
            patch.setenv(name, value)
        if folder is not None:
            patch.chdir(folder)
        try:
            app.main()
        except SystemExit as done:
            code = int(done.code or 0)
    return code, text.getvalue()


Process = subprocess.Popen[str] | Copy


def start(arguments: list[str], folder: Path, fresh: bool = False, **environment: str) -> Process:
    """Start `slabench ARGUMENTS` in a process of its own, in `folder`.

    `fresh` begins with the interpreter, as a user's: for tests of the start.
    """
    if not fresh:
        return Copy(arguments, folder, os.environ | environment)
    return subprocess.Popen(
        [*COMMAND, *arguments],
        cwd=folder,
        env=os.environ | environment,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )


def finish(process: Process, seconds: float = 300) -> tuple[int | None, str]:
    """Its exit code and all that it printed."""
    output, _ = process.communicate(timeout=seconds)
    return process.returncode, output
