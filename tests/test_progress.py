"""Lines of progress where there is no terminal."""

from __future__ import annotations

import io
import re
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console

from slabench import progress
from slabench.runner.trials import Outcome


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


def trial(key: str, images: int) -> Any:
    recipe, planned = SimpleNamespace(suite="fewshot"), SimpleNamespace(images=images)
    return SimpleNamespace(key=key, notes=[], label=f"trial {key}", recipe=recipe, planned=planned)


def test_several_trials_tell_which_it_is_and_the_time_left_for_all(monkeypatch: pytest.MonkeyPatch) -> None:
    """An image takes a second, scoring fifty more: 100 images and their scoring are 150 s, 1.5 s an image for what follows."""
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(progress, "_LINE_SECONDS", 0.0)
    output = io.StringIO()
    listener = progress.ConsoleListener(Console(file=output, width=100))
    trials = [trial("a" * 64, 100), trial("b" * 64, 100), trial("c" * 64, 400)]
    listener.planned(trials)
    for number, one in enumerate(trials, 1):
        listener.trial(one, number, 3)
        listener.start(0, 100)
        for done in (0, 50, 100):
            now[0] += one.planned.images / 2 if done else 0
            listener.step(done, 1.0, 0.5, 100)
        listener.scoring()
        now[0] += 50
        listener.outcome(Outcome(one, "failed", None, "not asked here"))
    lines = output.getvalue().splitlines()
    assert [line.split()[0] for line in lines if line.startswith(("1/", "2/", "3/"))] == ["1/3", "2/3", "3/3"]
    left = [line.partition("images/s")[2].strip() for line in lines if " step " in line]
    assert left[1] == "50 s left, 9 min for all"  # 550 images at a second each
    # In the second trial 150 + 50 seconds have gone by for 150 images: 450 more of them.
    assert left[4] == "50 s left, 10 min for all"
    assert left[7] == "3 min left", "the last trial is all that is left"


@pytest.mark.parametrize("width", [80, 120])
def test_a_bar_fits_its_terminal(monkeypatch: pytest.MonkeyPatch, width: int) -> None:
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    output = io.StringIO()
    listener = progress.ConsoleListener(Console(file=output, width=width, force_terminal=True, color_system=None))
    trials = [trial("a" * 64, 4_000_000), trial("b" * 64, 4_000_000)]
    listener.planned(trials)
    listener.trial(trials[0], 1, 2)
    listener.start(0, 40_000)
    for done in (1, 12_345):
        now[0] += 600
        listener.step(done, 1.234, 0.5, 12_345)
    listener.close()
    drawn = re.split(r"[\r\n]|\x1b\[[0-9;?]*[A-Za-z]", output.getvalue())
    bar = [line.rstrip() for line in drawn if "12345/40000" in line][-1]
    assert bar.split()[0] == "1/2"
    assert bar.endswith("all 55 min")  # 600 s for 12,344 steps: 27,655 and 40,000 to go
    assert len(bar) <= width


def test_processes_that_share_the_work_tell_the_time_left_for_all(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two processes, an image a second each; the third trial takes three times as long as the others."""
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    tally = progress.Tally({"a": 100, "b": 100, "c": 300, "d": 100}, 2)
    tally.begin("a")
    tally.begin("b")
    now[0] = 100
    # 500 images are left, and b has taken the 100 seconds of its own: 400 s for two.
    assert tally.end("a") == "1 of 4 trials have ended, about 3 min left for all"
    tally.begin("c")
    assert tally.end("b") == "2 of 4 trials have ended, about 3 min left for all"
    tally.begin("d")
    now[0] = 200
    assert tally.end("d") == "3 of 4 trials have ended, about 3 min left for all"  # 200 s of c
    now[0] = 400
    assert tally.end("c") == "4 of 4 trials have ended"
    failing = progress.Tally({"a": 100, "b": 100}, 1)
    failing.begin("a")
    assert failing.end("a", ran=False) == "1 of 2 trials have ended", "at once: nothing is known of the speed"


def test_a_process_of_many_numbers_its_trial_among_all() -> None:
    output = io.StringIO()
    listener = progress.ConsoleListener(Console(file=output, width=100), (3, 8))
    listener.trial(trial("a" * 64, 100), 1, 1)
    assert output.getvalue().startswith("3/8 trial ")
