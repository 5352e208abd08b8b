"""`slabench list runs` and `slabench show run KEY`."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from slabench.core.errors import UsageError
from slabench.core.files import SHORT
from slabench.ranking.columns import percent
from slabench.records.record import ClassScores
from slabench.records.store import ResultStore

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from slabench.records.record import RunRecord


def list_runs(console: Console, results: Path, as_json: bool) -> None:
    """Print every record under `results`, the unfinished, failed and quick ones too, in order of their start."""
    records = sorted(_read(results), key=lambda record: (record.started, record.key))
    if as_json:
        console.out(json.dumps([_facts(record) for record in records], indent=2), highlight=False)
        return
    if not records:
        console.print(f"no records in {results}", soft_wrap=True, markup=False, highlight=False)
        return
    from rich.markup import escape
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("key", no_wrap=True)
    table.add_column("recipe and protocol", overflow="fold")
    table.add_column("seed", justify="right", no_wrap=True)
    table.add_column("state")
    table.add_column("accuracy (%)", no_wrap=True)
    table.add_column("minutes", justify="right", no_wrap=True)
    apart = _apart(records)
    for record in records:
        scores = "\n".join(f"{score.predictor} {100 * score.value:.2f}" for score in record.scores)
        table.add_row(
            record.key[:SHORT],
            f"{escape(record.name)}\n[dim]{escape(record.protocol)}[/dim]"
            + (f"\n[dim]{escape(apart[record.key])}[/dim]" if apart[record.key] else ""),
            str(record.seed),
            record.status + ("\n(quick)" if record.limited else ""),
            escape(scores) or "-",
            f"{record.cost.train_seconds / 60:.1f}" if record.cost else "-",
        )
    console.print(table, highlight=False)


def show_run(console: Console, results: Path, key_prefix: str, test_prior: str | None = None) -> None:
    """Print one record: scores, selection, cost, environment, warnings.

    Args:
        console: where to.
        results: the folder of records.
        key_prefix: the first characters of its key.
        test_prior: also the accuracy on a test set with other class shares; see `slabench.evaluation.metrics`.

    Raises:
        UsageError: no record's key, or more than one record's, begins with `key_prefix`, or the prior is unknown.
    """
    store = ResultStore(results)
    record = store.match(key_prefix)
    _print_record(console, record, store.path(record))
    if test_prior is not None:
        _print_under_prior(console, record, test_prior)


_APART = 3
"""So many settings are named to tell runs of one name apart."""


def _apart(records: Sequence[RunRecord]) -> dict[str, str]:
    """By key: the settings by which a record differs from others of its name and protocol; "" where it has no such others."""
    named: dict[tuple[str, str], list[RunRecord]] = {}
    for record in records:
        named.setdefault((record.name, record.protocol), []).append(record)
    found = {}
    for group in named.values():
        settings = {record.key: dict(_flat(record.recipe)) for record in group}
        keys = list(dict.fromkeys(key for own in settings.values() for key in own))
        odd = [key for key in keys if len({json.dumps(own.get(key)) for own in settings.values()}) > 1]
        more = f" and {len(odd) - _APART} more" if len(odd) > _APART else ""
        for key, own in settings.items():
            found[key] = ", ".join(f"{name} = {_plain(own.get(name))}" for name in odd[:_APART]) + more
    return found


def _flat(recipe: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted keys and values."""
    for key, value in recipe.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _plain(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _read(results: Path) -> list[RunRecord]:
    """The readable records; a damaged file is named on stderr, so that what is piped on stays whole."""
    from slabench.cli.common import notes_console, warn

    records, problems = ResultStore(results).scan()
    warn(notes_console(), problems)
    return records


def _print_record(console: Console, record: RunRecord, path: Path) -> None:
    from rich.table import Table

    facts = Table(box=None, show_header=False, pad_edge=False)
    facts.add_column(style="bold", no_wrap=True)
    facts.add_column(overflow="fold")
    for heading, text in _lines(record, path):
        facts.add_row(heading, text)
    console.print(facts, highlight=False, markup=False)
    if not record.scores:
        return
    scores = Table(box=None, pad_edge=False, header_style="bold")
    unit = "episodes" if record.episodes else "images"
    for heading in ("predictor", "accuracy (%)", f"± {unit}", "worst class", unit):
        scores.add_column(heading, justify="left" if heading == "predictor" else "right")
    for score in record.scores:
        accuracies = (percent(score.value), percent(score.ci95), percent(score.worst_class))
        scores.add_row(score.predictor, *accuracies, f"{score.n:,}")
    console.print()
    console.print(scores, highlight=False)
    if any(score.metrics for score in record.scores):
        console.print()
        console.print(_metrics(record), highlight=False)


def _metrics(record: RunRecord) -> Table:
    """A classifier's further scores, one column a predictor; fractions in percent, NLL in nats."""
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("score")
    for score in record.scores:
        table.add_column(score.predictor, justify="right")
    for name in ClassScores.model_fields:
        values = [getattr(score.metrics, name, None) for score in record.scores]
        texts = [
            f"{v:.3f}" if name == "nll" and v is not None else percent(v) if v is not None else "n/a" for v in values
        ]
        table.add_row(name.replace("_", " "), *texts)
    for name in ("best_val", "oracle"):
        chosen = [getattr(score, name) for score in record.scores]
        if any(chosen):
            texts = [f"{percent(c.value)} (step {c.step:,})" if c else "n/a" for c in chosen]
            table.add_row("selected on validation" if name == "best_val" else "selected on test (oracle)", *texts)
    return table


def _print_under_prior(console: Console, record: RunRecord, text: str) -> None:
    from slabench.evaluation.metrics import accuracy_under_prior, read_prior

    for score in record.scores:
        if not score.per_class or record.training_set is None:
            raise UsageError(f"--test-prior {text}: {record.name} is not a classifier's run", "leave it out")
        names = list(score.per_class)
        counts = record.images_per_class
        prior = read_prior(
            text, names, None if not isinstance(counts, dict) else [counts.get(name, 0) for name in names]
        )
        value = accuracy_under_prior(list(score.per_class.values()), prior)
        console.print(
            f"{score.predictor} under the test prior {text}: {100 * value:.2f} %", highlight=False, markup=False
        )


def _lines(record: RunRecord, path: Path) -> list[tuple[str, str]]:
    lines = [
        ("run", f"{record.name}, seed {record.seed}"),
        ("state", record.status + (" (reduced budget: never ranked)" if record.limited else "")),
        ("key", record.key),
        ("protocol", f"{record.protocol}, version {record.protocol_version}, digest {record.protocol_digest[:SHORT]}"),
        ("data", f"{record.dataset}, digest {record.dataset_digest[:SHORT]}"),
    ]
    if record.derived:
        derived = {**record.derived}
        if "weights" in derived:
            derived["weights"] = str(derived["weights"])[:SHORT]
        lines.append(("derived", ", ".join(f"{name} {value}" for name, value in derived.items())))
    if record.training_set:
        lines.append(("training set", ", ".join(f"{name} {value}" for name, value in record.training_set.items())))
    if record.episodes:
        lines.append(("episodes", f"{record.episodes}, digest {(record.episodes_digest or '-')[:SHORT]}"))
    if record.error:
        lines.append(("error", record.error))
    lines += [("warning", warning) for warning in record.warnings]
    if record.selection:
        chosen = record.selection
        at = "" if chosen.val_accuracy is None else f", {100 * chosen.val_accuracy:.2f} % on validation"
        lines.append(("selection", f"{chosen.rule}: step {chosen.step:,}, chosen from {chosen.candidates}{at}"))
    if record.cost:
        cost = record.cost
        memory = "" if cost.peak_memory_bytes is None else f", {cost.peak_memory_bytes / 2**20:,.0f} MiB at most"
        lines.append(
            ("cost", f"{cost.images_seen:,} images in {cost.steps:,} steps, {cost.train_seconds:,.0f} s{memory}")
        )
        lines.append(("parameters", f"{cost.parameters:,}"))
    known = {name: value for name, value in record.environment.items() if value is not None}
    lines.append(("made with", ", ".join(f"{name} {value}" for name, value in known.items()) or "unknown"))
    lines += [("time", f"{record.started} to {record.finished}"), ("recipe", json.dumps(record.recipe))]
    lines.append(("command", " ".join(record.argv) or "-"))
    lines.append(("file", str(path)))
    return lines


def _facts(record: RunRecord) -> dict[str, object]:
    return {
        "key": record.key,
        "name": record.name,
        "protocol": record.protocol,
        "seed": record.seed,
        "status": record.status,
        "limited": record.limited,
        "scores": {score.predictor: score.value for score in record.scores},
        "train_seconds": record.cost.train_seconds if record.cost else None,
        "started": record.started,
        "finished": record.finished,
    }
