"""`slabench doctor`: what this machine has, and what it can run."""

from __future__ import annotations

import json
import os
import platform
import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Annotated, Literal

import typer

from slabench.cli.streams import Screen
from slabench.core import paths, registry
from slabench.core.errors import SlabenchError
from slabench.core.versions import __version__
from slabench.data.catalog import DATASETS, info

_SIGNS = {"ok": "[green]ok[/green]", "note": "[yellow]note[/yellow]", "problem": "[red]PROBLEM[/red]"}


def doctor(
    as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,
    results: Annotated[Path | None, typer.Option(help="Folder of records. Default: results/ here.")] = None,
) -> None:
    """Say what this machine has, what it can run and what to type. Exit code 1 when something is broken."""

    facts = diagnose(results)
    broken = sum(fact.state == "problem" for fact in facts)
    if as_json:
        typer.echo(json.dumps({"ok": not broken, "facts": [fact.__dict__ for fact in facts]}, indent=2))
    else:
        from rich.markup import escape
        from rich.table import Table

        table = Table(box=None, show_header=False, pad_edge=False)
        for _ in range(3):
            table.add_column(no_wrap=True)
        table.add_column(overflow="fold")
        section = ""
        for fact in facts:
            if fact.section != section and section:
                table.add_row()
            text = escape(fact.found) + (f"\n[bold]{escape(fact.remedy)}[/bold]" if fact.remedy else "")
            heading = f"[bold]{fact.section}[/bold]" if fact.section != section else ""
            table.add_row(heading, fact.name, _SIGNS[fact.state], text)
            section = fact.section
        console = Screen()
        console.print(table)
        console.print(f"\n[red]{broken} problems[/red]" if broken else "\n[green]no problems[/green]")
    if broken:
        raise typer.Exit(1)


State = Literal["ok", "note", "problem"]


_NEEDED_BYTES = 2 << 30


_EXTRAS = {
    "learn2learn": "scripts/install_learn2learn.sh (MAML, mini-ImageNet's download, parity tests)",
    "qpth": "pip install --no-deps qpth (the solver that MetaOptNet used, for comparisons of speed alone)",
}


@dataclass(frozen=True)
class Fact:
    """One line: a section, what it is about, what was found, and what to type about it."""

    section: str
    name: str
    state: State
    found: str
    remedy: str = ""


def diagnose(results: Path | None = None) -> list[Fact]:
    """Everything that is worth knowing before a first run; a part that fails is a problem of its own.

    Args:
        results: folder of records.
    """
    parts: tuple[tuple[str, Callable[[], Iterator[Fact]]], ...] = (
        ("machine", _machine),
        ("data", _data),
        ("folders", lambda: _folders(results)),
        ("extras", _extras),
        ("plug-ins", _plugins),
        ("results", lambda: _results(results)),
        ("can run", _can_run),
    )
    facts: list[Fact] = []
    for section, part in parts:
        try:
            facts += part()
        except Exception as error:
            remedy = error.remedy if isinstance(error, SlabenchError) else ""
            text = error.message if isinstance(error, SlabenchError) else f"{type(error).__name__}: {error}"
            facts.append(Fact(section, section, "problem", text, remedy))
    return facts


def _machine() -> Iterator[Fact]:
    yield Fact("machine", "slabench", "ok", __version__)
    yield Fact("machine", "python", "ok", f"{platform.python_version()}, {platform.system()} {platform.machine()}")
    try:
        import torch
    except Exception as error:  # a broken installation raises OSError, too
        yield Fact("machine", "torch", "problem", f"{type(error).__name__}: {error}", "pip install torch torchvision")
        return
    from slabench.records.environment import device_name
    from slabench.training.device import choose_device, choose_precision

    yield Fact("machine", "torch", "ok", f"{torch.__version__}, torchvision {_version('torchvision') or 'missing'}")
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    threads = torch.get_num_threads()
    yield Fact("machine", "processor", "ok", f"{cores} cores, torch uses {threads} threads (--threads N)")
    memory = _memory()
    if memory:
        small = memory < 4 << 30
        yield Fact(
            "machine", "memory", "note" if small else "ok", _size(memory) + (", little for CIFAR" if small else "")
        )
    if torch.cuda.is_available():
        for index in range(torch.cuda.device_count()):
            total = torch.cuda.get_device_properties(index).total_memory
            yield Fact("machine", f"cuda:{index}", "ok", f"{device_name(f'cuda:{index}')}, {_size(total)}")
    elif torch.version.cuda:
        yield Fact("machine", "cuda", "note", f"torch is built for CUDA {torch.version.cuda} but finds no GPU")
    else:
        yield Fact("machine", "cuda", "note", "none: this torch is for the CPU alone")
    device = choose_device()
    precision = choose_precision("auto", device)
    reason = "multiplied in hardware" if precision else "bfloat16 would be emulated, and slower"
    name = "bfloat16" if precision else "float32"
    yield Fact("machine", "precision", "ok", f"{name} on {device.type} ({reason}); tests are scored in float32")


def _data() -> Iterator[Fact]:
    from slabench.data.store import is_prepared, open_store, store_folder

    folder = paths.data()
    for entry in DATASETS.values():
        path = store_folder(entry, folder)
        if is_prepared(path):
            try:
                store = open_store(path)
            except SlabenchError as error:
                yield Fact("data", entry.name, "problem", error.message, error.remedy)
                continue
            view = "" if entry.store == entry.name else f", a view of {entry.store}"
            yield Fact("data", entry.name, "ok", f"prepared, {store.manifest['n_images']:,} images{view}")
        elif entry.embedded:
            yield Fact("data", entry.name, "ok", "made on first use, offline")
        else:
            yield Fact("data", entry.name, "note", "not here", entry.command)


def _folders(results: Path | None) -> Iterator[Fact]:
    from slabench.episodes.files import list_files

    yield Fact("folders", "episodes", "ok", f"{len(list_files())} frozen episode files")
    for name, folder, flag in (
        ("data", paths.data(), "set SLABENCH_DATA or use --data-dir"),
        ("results", paths.results(results), "set SLABENCH_RESULTS or use --results"),
    ):
        there = _existing(folder)
        if not _writable(there):
            yield Fact("folders", name, "problem", f"{folder} cannot be written", flag)
            continue
        free = shutil.disk_usage(there).free
        state: State = "ok" if free >= _NEEDED_BYTES else "note"
        yield Fact(
            "folders",
            name,
            state,
            f"{folder}, {_size(free)} free",
            "" if state == "ok" else f"CIFAR needs 1 GB; {flag}",
        )


def _extras() -> Iterator[Fact]:
    for package, how in _EXTRAS.items():
        found = _version(package)
        if found:
            yield Fact("extras", package, "ok", found)
        else:
            yield Fact("extras", package, "note", "not installed, and not needed", how)


def _plugins() -> Iterator[Fact]:
    from slabench import plugins

    for error in plugins.problems():
        yield Fact("plug-ins", "problem", "problem", error.message, error.remedy)
    found = False
    for kind in registry.REGISTRIES.values():
        for entry in kind:
            if entry.built_in:
                continue
            found = True
            try:
                kind.get(entry.name)
            except SlabenchError as error:
                if entry.name not in kind.problems:
                    yield Fact("plug-ins", entry.name, "problem", error.message, error.remedy)
            else:
                yield Fact(
                    "plug-ins", entry.name, "ok", f"{kind.kind} of {entry.origin}", f"slabench check {entry.name}"
                )
    if not found:
        yield Fact("plug-ins", "none", "ok", "none installed")


def _results(results: Path | None) -> Iterator[Fact]:
    from slabench.records.store import ResultStore

    store = ResultStore(paths.results(results))
    records, problems = store.scan()
    for problem in problems:
        yield Fact("results", "damaged", "problem", problem, "run the trial again, or remove the file")
    by_state = [(state, sum(r.status == state for r in records)) for state in ("done", "failed", "interrupted")]
    told = ", ".join(f"{count} {state}" for state, count in by_state if count)
    if told:
        yield Fact("results", "records", "ok", f"{told} in {store.folder}", "slabench leaderboard")
    else:
        yield Fact("results", "records", "note", f"none in {store.folder}", "slabench demo")


def _can_run() -> Iterator[Fact]:
    import torch

    from slabench.data.store import is_prepared, store_folder

    here = is_prepared(store_folder(info("cifar100"), paths.data()))
    gpu = torch.cuda.is_available()
    yield Fact("can run", "offline", "ok", "the demo, baseline against SLA", "slabench demo")
    for name, command in (
        ("few-shot", "slabench run fewshot --dataset fc100 --shots 5 --sla"),
        ("long tails", "slabench run imbalanced --ratio 100"),
        ("full", "slabench run supervised --dataset cifar100"),
    ):
        if here:
            yield Fact("can run", name, "ok", "CIFAR-100 is here; --dry-run measures the time", command)
        else:
            yield Fact("can run", name, "note", "needs CIFAR-100", "slabench data get cifar100")
    found = "ResNet-12, 60 epochs of 8,000 episodes" + ("" if gpu else ": needs a GPU, and none was found")
    yield Fact("can run", "paper", "ok" if gpu else "note", found, "slabench run fewshot --preset paper --dry-run")


def _memory() -> int:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return 0


def _existing(folder: Path) -> Path:
    """The folder, or the nearest one above it that exists."""
    folder = folder.absolute()
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    return folder


def _writable(folder: Path) -> bool:
    """Whether a file can be made there: permissions alone do not tell on a read-only or full disk."""
    try:
        with tempfile.TemporaryFile(dir=folder):
            return True
    except OSError:
        return False


def _size(count: int) -> str:
    return f"{count / 2**30:.1f} GB"


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""
