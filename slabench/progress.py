"""How a run shows its progress: a rich bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.text import Text

from slabench.core.files import SHORT

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from slabench.records.record import Score
    from slabench.runner.trials import Outcome, Trial

_LINE_SECONDS = 10.0


_ROOMY = 110
"""Columns from which on a bar has room for everything."""


class _Speed:
    """Seconds of an image over all trials of this process, with validations and scoring, which the next ones have as well."""

    def __init__(self) -> None:
        self._seconds = self._images = 0.0
        self._now: tuple[float, float] | None = None  # of the trial that is being trained: time and images at its begin
        self._latest = (0.0, 0.0)

    def begin(self, now: float, images: float) -> None:
        """A trial's training has begun."""
        self._now = self._latest = now, images

    def at(self, now: float, images: float) -> None:
        """It has seen so many images."""
        self._latest = now, images

    def end(self, now: float) -> None:
        """It has ended, and is scored."""
        if self._now is not None:
            self._seconds += now - self._now[0]
            self._images += self._latest[1] - self._now[1]
        self._now = None

    def seconds(self, images: float) -> float | None:
        """What so many images will take; None before anything is known."""
        seconds, seen = self._seconds, self._images
        if self._now is not None:
            seconds += self._latest[0] - self._now[0]
            seen += self._latest[1] - self._now[1]
        return seconds / seen * images if seen > 0 else None


class Tally:
    """How many of the trials have ended that several processes share, and the time left for all.

    Args:
        images: seen in the training of each trial, by its key.
        jobs: processes.

    Attributes:
        count: trials in all.
    """

    def __init__(self, images: Mapping[str, int], jobs: int) -> None:
        self._images, self._jobs = dict(images), jobs
        self.count, self._ended = len(images), 0
        self._begun: dict[str, float] = {}
        self._seconds = self._seen = 0.0
        self._lock = threading.Lock()

    def begin(self, key: str) -> None:
        """A process has taken the trial."""
        with self._lock:
            self._begun[key] = time.monotonic()

    def end(self, key: str, ran: bool = True) -> str:
        """The trial has ended: `3 of 8 trials have ended, about 12 min left for all`.

        One that failed, or that another process has, says nothing of the speed: it was not `ran`.
        """
        with self._lock:
            now = time.monotonic()
            self._ended += 1
            seconds, images = now - self._begun.pop(key), self._images.pop(key)
            if ran:
                self._seconds, self._seen = self._seconds + seconds, self._seen + images
            text = f"{self._ended} of {self.count} trials have ended"
            if not self._images or not self._seen:
                return text
            # Seconds of one process for all that is left, less what has been spent already on the trials at hand.
            work = sum(self._images.values()) * self._seconds / self._seen
            work -= sum(now - begun for begun in self._begun.values())
            left = max(work, 0.0) / min(self._jobs, len(self._images))
            return f"{text}, about {duration(left)} left for all"


class ConsoleListener:
    """Prints trials, validations and outcomes; between them a bar, or a line every ten seconds.

    Args:
        console: where to.
        place: number and count that stand before every trial, for a process that runs one of many; else they are the run's own.
    """

    def __init__(self, console: Console, place: tuple[int, int] | None = None) -> None:
        self.console = console
        self._place = place
        self._bar: Progress | None = None
        self._task: TaskID | None = None
        self._steps = 0
        self._images = 0
        self._waiting: dict[str, int] = {}
        self._which = ""
        self._speed = _Speed()
        self._last_line = 0.0
        self._begin: tuple[float, int] | None = None
        self._notes: list[str] = []
        self._unit = "episodes"

    def planned(self, trials: Sequence[Trial]) -> None:
        """Remember how many images each of them will see, for the time that is left for all."""
        self._waiting = {trial.key: trial.planned.images for trial in trials}

    def trial(self, trial: Trial, number: int, count: int) -> None:
        """One line for the trial, after the notes on its data where these are new."""
        number, count = self._place or (number, count)
        self._images = self._waiting.pop(trial.key, 0)
        self._which = f"{number}/{count}" if count > 1 else ""
        self._unit = "episodes" if trial.recipe.suite == "fewshot" else "images"
        if trial.notes != self._notes:
            self._notes = trial.notes
            for line in trial.notes:
                self._say("    [dim]", line)
        self._say(f"[bold]{number}/{count}[/bold] {trial.label}  [dim]{trial.key[:SHORT]}[/dim]")

    def start(self, done: int, steps: int) -> None:
        """Show the bar."""
        self._steps = steps
        self._begin = None
        if done:
            self._say(f"    continuing at step {done:,} of {steps:,}")
        if self.console.is_terminal:
            self._bar = Progress(
                TextColumn(f"{self._which:>3}"),
                BarColumn(bar_width=24 if self.console.width >= _ROOMY else 8),
                MofNCompleteColumn(),
                TextColumn("{task.fields[state]}"),
                TimeRemainingColumn(),
                TextColumn("{task.fields[all]}"),
                console=self.console,
                transient=True,
            )
            self._task = self._bar.add_task("", total=steps, completed=done, state="", all="")
            with _no_exit():
                self._bar.start()

    def step(self, done: int, loss: float, accuracy: float, images_per_second: float) -> None:
        """Loss and accuracy since the last validation, speed, time left."""
        now = time.monotonic()
        if self._begin is None:
            self._begin = now, done  # the first step of a process is slow: not counted
            self._speed.begin(now, self._seen(done))
        self._speed.at(now, self._seen(done))
        rest = self._rest(done)
        if self._bar is not None and self._task is not None:
            state = f"loss {loss:.3f}  train {100 * accuracy:.1f} %"
            if self.console.width >= _ROOMY:
                state += f"  {images_per_second:,.0f} images/s"
            left = f"all {duration(rest)}" if rest is not None else ""
            self._bar.update(self._task, completed=done, state=state, all=left)
        elif now - self._last_line >= _LINE_SECONDS:
            self._last_line = now
            state = f"loss {loss:.3f}  train {100 * accuracy:.1f} %  {images_per_second:,.0f} images/s"
            begin, first = self._begin
            left = f"  {duration((now - begin) / (done - first) * (self._steps - done))} left" if done > first else ""
            left += f", {duration(rest)} for all" if rest is not None and left else ""
            self._say(f"    step {done:,}/{self._steps:,}  {state}{left}")

    def _seen(self, done: int) -> float:
        """Images seen by update `done` of this trial."""
        return self._images * done / self._steps

    def _rest(self, done: int) -> float | None:
        """Seconds until every trial has ended, at the speed so far; None for the last one, and where nothing is known yet."""
        if not self._waiting:
            return None
        return self._speed.seconds(self._images - self._seen(done) + sum(self._waiting.values()))

    def point(self, point: dict[str, Any]) -> None:
        """One line for a validation."""
        parts = [
            f"  {heading} (%): " + "  ".join(f"{name} {100 * value:.2f}" for name, value in point[key].items())
            for key, heading in (("val", "validation"), ("test", "test"))
            if point.get(key)
        ]
        loss = "" if point["loss"] is None else f"  loss {point['loss']:.3f}"  # before the first step there is none
        self._say(f"    step {point['step']:,}  {point['images_seen']:,} images{loss}{''.join(parts)}")

    def scoring(self) -> None:
        """Remove the bar."""
        self.close()
        self._say(f"    scoring the test {self._unit}")

    def outcome(self, outcome: Outcome) -> None:
        """The result of a trial in a line."""
        self.close()
        self._speed.end(time.monotonic())
        if outcome.record is not None and outcome.state in ("ran", "skipped"):
            parts = [
                f"{s.predictor} {100 * s.value:.2f}" + (f" ± {100 * s.ci95:.2f}" if s.ci95 is not None else "")
                for s in outcome.record.scores
            ]
            note = "  [dim](finished before)[/dim]" if outcome.state == "skipped" else ""
            self._say(f"    test (%): [bold]{'  '.join(parts)}[/bold]{note}")
            for score in outcome.record.scores:
                if (
                    score.metrics is not None
                    and outcome.record.training_set
                    and "groups" in outcome.record.training_set
                ):
                    self._say("    ", group_line(score))
        else:
            self._say(f"    [red]{outcome.state}[/red]: ", outcome.error or "")

    def note(self, text: str) -> None:
        """A line for what is no progress."""
        self._say("    [dim]", text)

    def close(self) -> None:
        """Take the bar away; safe to call at any time."""
        if self._bar is not None:
            with _no_exit():
                self._bar.stop()
            self._bar = self._task = None

    def _say(self, markup: str, plain: str = "") -> None:
        with _no_exit():
            self.console.print(Text.from_markup(markup) + plain, soft_wrap=True, highlight=False)


@contextlib.contextmanager
def _no_exit() -> Iterator[None]:
    """rich ends the process when the reader of its output has gone; a training goes on."""
    with contextlib.suppress(SystemExit):
        yield


def group_line(score: Score) -> str:
    """`aggregated  many 60.1  medium 28.9  few n/a  balanced 38.3`: recalls in percent."""
    assert score.metrics is not None
    parts = [
        f"{name} " + ("n/a" if value is None else f"{100 * value:.2f}")
        for name in ("many", "medium", "few", "balanced")
        for value in (getattr(score.metrics, name),)
    ]
    return f"{score.predictor:<10}  {'  '.join(parts)}"


def duration(seconds: float) -> str:
    """`45 s`, `12 min`, `3.5 h`."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
