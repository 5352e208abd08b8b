"""What is printed to streams that cannot take it: a reader that has gone, an encoding without the signs, a full disk."""

from __future__ import annotations

import io
import json
import os
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from processes import COMMAND, QUICK
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from slabench.cli import app
from slabench.cli.streams import Screen, export, lasting
from slabench.progress import ConsoleListener
from slabench.training.loop import Interrupted, Undisturbed


def written(encoding: str, show: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> bytes:
    """The bytes that `show(console)` prints to a stdout of this encoding."""
    with open(tmp_path / "out", "wb") as file:
        monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(file, encoding=encoding))
        with lasting():
            show(Screen(width=60))
    return (tmp_path / "out").read_bytes()


@pytest.mark.parametrize(
    ("encoding", "sign"),
    [("ascii", b"+-"), ("cp1252", b"\xb1"), ("utf-8", "±".encode()), ("cp932", "±".encode("cp932"))],
)
def test_a_table_in_the_signs_of_the_stream(
    encoding: str, sign: bytes, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def show(console: Console) -> None:
        table = Table()
        for heading in ("recipe", "± test", "class"):
            table.add_column(heading)
        table.add_row("café", "50.00 ± 0.31", "猫")
        table.add_row("plain", "50.00", "cat")
        console.print(table)

    lines = written(encoding, show, monkeypatch, tmp_path).decode(encoding).splitlines()
    assert sign.decode(encoding) + " 0.31" in lines[3]
    # The bars between the columns stand one below the other: the signs were chosen before the columns were laid out.
    bar = "|" if encoding in ("ascii", "cp1252", "cp932") else "│"
    places = [[place for place, sign in enumerate(line) if sign == bar] for line in lines[3:5]]
    if encoding in ("ascii", "cp1252"):  # a wide sign takes two columns elsewhere
        assert places[0] == places[1]
        assert len(places[0]) == 4
    if encoding == "ascii":
        assert "cafe" in lines[3]
        assert "?" in lines[3]


def test_a_bar_in_ascii(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def show(console: Console) -> None:
        console._force_terminal = True
        with Progress(console=console) as progress:
            progress.update(progress.add_task("± …", total=2), advance=1)

    assert b"+- ..." in written("ascii", show, monkeypatch, tmp_path)


def test_an_export_is_the_same_bytes_everywhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for encoding in ("ascii", "cp1252", "utf-16"):
        assert written(encoding, lambda _: export("±,猫\n"), monkeypatch, tmp_path) == "±,猫\n".encode()


def test_a_reader_that_has_gone_is_not_missed(monkeypatch: pytest.MonkeyPatch) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    with open(writing, "w", encoding="utf-8") as file:
        monkeypatch.setattr(sys, "stdout", file)
        with lasting():
            console = Screen()
            for _ in range(3):
                console.print("x" * 10_000)


class TestUndisturbed:
    def test_a_listener_that_fails_is_not_told_any_more(self) -> None:
        class Failing:
            told = 0

            def scoring(self) -> None:
                self.told += 1
                raise ValueError("no display")

        failing = Failing()
        guarded: Any = Undisturbed(failing)  # type: ignore[arg-type]
        with pytest.warns(UserWarning, match=r"the run goes on: ValueError\('no display'\)"):
            guarded.scoring()
        guarded.scoring()
        assert failing.told == 1

    def test_a_listener_may_stop_a_run(self) -> None:
        class Stopping:
            def scoring(self) -> None:
                raise Interrupted("enough")

        guarded: Any = Undisturbed(Stopping())  # type: ignore[arg-type]
        with pytest.raises(Interrupted):
            guarded.scoring()

    def test_rich_does_not_end_the_process(self) -> None:
        class Ending(Console):
            def on_broken_pipe(self) -> None:
                raise SystemExit(1)

            def _write_buffer(self) -> None:
                raise BrokenPipeError

        ConsoleListener(Ending()).scoring()


WORDS = [*QUICK, "--steps", "4"]


def state(folder: Path) -> str:
    (path,) = (folder / "results" / "runs").rglob("*.json")
    return str(json.loads(path.read_text(encoding="utf-8"))["status"])


@pytest.mark.slow
@pytest.mark.usefixtures("glyphs")
@pytest.mark.parametrize("rest", ["2>&1 | head -n 1", ">&- 2>&-", "> /dev/full"])
def test_a_training_ends_with_a_record_whoever_reads(rest: str, tmp_path: Path) -> None:
    command = f"set -o pipefail; {shlex.join([*COMMAND, *WORDS])} {rest}"
    run = subprocess.run(["bash", "-c", command], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (run.returncode, run.stderr) == (0, "")
    assert state(tmp_path) == "done"


@pytest.mark.slow
@pytest.mark.usefixtures("glyphs")
def test_a_training_is_told_in_ascii(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["slabench", *WORDS])
    with open(tmp_path / "out", "wb") as file:
        monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(file, encoding="ascii"))
        with pytest.raises(SystemExit, match="0"):
            app.main()
    assert b"single" in (tmp_path / "out").read_bytes()
    assert b" +- " in (tmp_path / "out").read_bytes()
    assert state(tmp_path) == "done"
