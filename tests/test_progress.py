"""Lines of progress where there is no terminal."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from slabench import progress


def test_the_time_left_is_counted_from_the_first_step_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """A first step of a minute, then one a second: nobody is told that a hundred of them take an hour and a half."""
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(progress, "_LINE_SECONDS", 10.0)
    output = io.StringIO()
    listener = progress.ConsoleListener(Console(file=output, width=100))
    listener.start(0, 101)
    for done in range(1, 42):
        now[0] += 60 if done == 1 else 1
        listener.step(done, 1.0, 0.5, 100)
    lines = output.getvalue().splitlines()
    assert lines[0].startswith("    step 1/101")
    assert "left" not in lines[0]
    assert [line.split()[1] for line in lines] == ["1/101", "11/101", "21/101", "31/101", "41/101"]
    assert lines[1].endswith("2 min left")  # 90 s
    assert lines[-1].endswith("60 s left")


def test_a_resumed_trial_counts_its_own_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [1000.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    output = io.StringIO()
    listener = progress.ConsoleListener(Console(file=output, width=100))
    listener.start(500, 1000)
    for done in (501, 511):
        now[0] += 20
        listener.step(done, 1.0, 0.5, 100)
    assert output.getvalue().splitlines()[0] == "    continuing at step 500 of 1,000"
    assert "16 min left" in output.getvalue().splitlines()[2]  # 489 steps of two seconds
