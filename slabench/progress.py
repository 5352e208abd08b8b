"""How a run shows its progress: a rich bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.text import Text

if TYPE_CHECKING:
    from slabench.records.record import Score
    from slabench.runner import Outcome, Trial

_LINE_SECONDS = 10.0


class ConsoleListener:
    """Prints trials, validations and outcomes; between them a bar, or a line every ten seconds.

    Args:
        console: where to.
    """

    def __init__(self, console: Console) -> None:
        self.console = console
        self._bar: Progress | None = None
        self._task: TaskID | None = None
        self._steps = 0
        self._last_line = 0.0
        self._begin: tuple[float, int] | None = None
        self._notes: list[str] = []
        self._unit = "episodes"

    def trial(self, trial: Trial, number: int, count: int) -> None:
        """One line for the trial, after the notes on its data where these are new."""
        self._unit = "episodes" if trial.recipe.suite == "fewshot" else "images"
        if trial.notes != self._notes:
            self._notes = trial.notes
            for line in trial.notes:
                self._say("    [dim]", line)
        self._say(f"[bold]{number}/{count}[/bold] {trial.label}  [dim]{trial.key[:12]}[/dim]")

    def start(self, done: int, steps: int) -> None:
        """Show the bar."""
        self._steps = steps
        self._begin = None
        if done:
            self._say(f"    continuing at step {done:,} of {steps:,}")
        if self.console.is_terminal:
            self._bar = Progress(
                TextColumn("   "),
                BarColumn(bar_width=24),
                MofNCompleteColumn(),
                TextColumn("{task.fields[state]}"),
                TimeRemainingColumn(),
                console=self.console,
                transient=True,
            )
            self._task = self._bar.add_task("", total=steps, completed=done, state="")
            self._bar.start()

    def step(self, done: int, loss: float, accuracy: float, images_per_second: float) -> None:
        """Loss and accuracy since the last validation, speed, time left."""
        now = time.monotonic()
        if self._begin is None:
            self._begin = now, done  # the first step of a process is slow: not counted
        state = f"loss {loss:.3f}  train {100 * accuracy:.1f} %  {images_per_second:,.0f} images/s"
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, completed=done, state=state)
        elif now - self._last_line >= _LINE_SECONDS:
            self._last_line = now
            begin, first = self._begin
            left = (now - begin) / (done - first) * (self._steps - done) if done > first else None
            self._say(
                f"    step {done:,}/{self._steps:,}  {state}" + (f"  {duration(left)} left" if left is not None else "")
            )

    def point(self, point: dict[str, Any]) -> None:
        """One line for a validation."""
        parts = [
            f"  {heading} (%): " + "  ".join(f"{name} {100 * value:.2f}" for name, value in point[key].items())
            for key, heading in (("val", "validation"), ("test", "test"))
            if point.get(key)
        ]
        self._say(
            f"    step {point['step']:,}  {point['images_seen']:,} images  loss {point['loss']:.3f}{''.join(parts)}"
        )

    def scoring(self) -> None:
        """Remove the bar."""
        self.close()
        self._say(f"    scoring the test {self._unit}")

    def outcome(self, outcome: Outcome) -> None:
        """The result of a trial in a line."""
        self.close()
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

    def close(self) -> None:
        """Take the bar away; safe to call at any time."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = self._task = None

    def _say(self, markup: str, plain: str = "") -> None:
        self.console.print(Text.from_markup(markup) + plain, soft_wrap=True, highlight=False)


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
