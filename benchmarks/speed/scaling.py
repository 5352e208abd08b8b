"""How time and memory grow: each case at a few sizes, and the exponent of the growth.

    python benchmarks/speed/scaling.py                      # every case, a quarter of an hour on two cores
    python benchmarks/speed/scaling.py --quick              # smaller sizes, a few minutes
    python benchmarks/speed/scaling.py --only records       # cases whose name has this in it

Every point is a process of its own. Time is the CPU time of what is measured, without imports and what is made for it; memory is
what its peak lies above what was there before. Commands (`leaderboard` and what follows it) are measured whole, with their
start. An exponent is the slope of the logarithm of one over that of the size, by least squares over the upper half of the
sizes: 1 is in proportion, 0 does not grow. Seconds are this machine's; no figure here is held against a bound.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import multiprocessing
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from slabench.core.paths import shipped_results

Body = Callable[[int], "dict[str, float]"]
_FORK: Any = multiprocessing.get_context("fork" if hasattr(os, "fork") else None)


@dataclass(frozen=True)
class Case:
    """What grows with what.

    Attributes:
        name: as `--only` finds it.
        sizes: ascending.
        body: measures one size, within the process of the point. None: `command` is measured as a process instead.
        command: words of a slabench command, `{results}` being a folder of so many records.
        settings: environment of the command.
        quick: how many of the sizes `--quick` measures, from the smallest.
    """

    name: str
    sizes: tuple[int, ...]
    body: Body | None = None
    command: tuple[str, ...] = ()
    settings: dict[str, str] = field(default_factory=dict)
    quick: int = 3


@contextmanager
def measured() -> Iterator[dict[str, float]]:
    """CPU seconds of the block, and MB that its peak lies above what this process had before."""
    found: dict[str, float] = {}
    before = _status("VmRSS")
    if before is not None:
        Path("/proc/self/clear_refs").write_text("5")  # the peak from here on
    start = time.process_time()
    yield found
    found["seconds"] = time.process_time() - start
    peak = _status("VmHWM")
    found["megabytes"] = math.nan if before is None or peak is None else max(0.0, peak - before)


def _status(name: str) -> float | None:
    """MB, of Linux's account of this process."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) / 1024 for line in lines if line.startswith(f"{name}:")), None)


def sampling(
    classes: int = 100, per_class: int = 600, ways: int = 5, shots: int = 5, queries: int = 15, episodes: int = 4096
) -> dict[str, float]:
    """Episodes drawn, of a sampler that is there."""
    import numpy as np

    from slabench.core.seeding import numpy_generator
    from slabench.episodes.sampler import EpisodeSampler

    rows = np.split(np.arange(classes * per_class), classes)
    sampler = EpisodeSampler(rows, ways, shots, queries, numpy_generator(0, "scaling"))
    with measured() as found:
        for _ in range(episodes // 64):
            sampler.sample(64)
    return found


def rows_of_classes(classes: int, images: int) -> dict[str, float]:
    """The rows of each class, as a classifier's balanced sampler needs them."""
    import numpy as np

    from slabench.data.imageset import class_rows

    labels = np.random.default_rng(0).integers(0, classes, images)
    with measured() as found:
        class_rows(labels, classes)
    return found


def files(episodes: int) -> dict[str, float]:
    """5-way 1-shot 15-query episodes drawn, frozen and read again."""
    import numpy as np

    from slabench.data.imageset import ImageSet
    from slabench.episodes.files import make, open_file

    labels = np.repeat(np.arange(20), 600)
    pixels = np.zeros((len(labels), 1, 1, 3), np.uint8)
    zeros = np.zeros(len(labels), np.uint8)
    names = tuple(f"class{label}" for label in range(20))
    images = ImageSet("scaling/test", pixels, labels, names, "d" * 64, "", zeros, zeros.astype(np.int32))
    with tempfile.TemporaryDirectory() as folder, measured() as found:
        open_file(make(images, "scaling", "test", 5, 1, 15, episodes, Path(folder)), images)
    return found


def scoring(
    episodes: int = 1000, ways: int = 5, shots: int = 5, views: int = 1, head: str = "protonet"
) -> dict[str, float]:
    """Episodes scored from features of 64 dimensions."""
    import numpy as np
    import torch

    from slabench.core.seeding import numpy_generator
    from slabench.data.catalog import info
    from slabench.episodes.sampler import balanced_episodes
    from slabench.evaluation.episodes import score_episodes
    from slabench.learners import build_learner
    from slabench.recipes.fewshot import Model

    classes, per_class = 100, 120
    rows = np.split(np.arange(classes * per_class), classes)
    drawn = balanced_episodes(rows, ways, shots, 15, episodes, numpy_generator(0, "scaling"))
    features = torch.randn(classes * per_class, views, 64, generator=torch.Generator().manual_seed(0))
    learner = build_learner(Model(backbone="conv4", head=head), info("fc100"), 0)
    with measured() as found:
        score_episodes(learner, features, drawn, "single" if views == 1 else "aggregated", classes)
    return found


def embedding(images: int = 256, views: int = 1, side: int = 32) -> dict[str, float]:
    """Images through Conv4."""
    import dataclasses

    import torch

    from slabench.data.catalog import info
    from slabench.evaluation.episodes import embed
    from slabench.learners import build_learner
    from slabench.recipes.fewshot import Model
    from slabench.sla.transforms import IDENTITY, transform_set

    sets = {
        1: IDENTITY,
        2: transform_set("rotation2"),
        4: transform_set("rotation"),
        24: transform_set("rot-color-perm24"),
    }
    entry = dataclasses.replace(info("fc100"), image_size=side)
    learner = build_learner(Model(backbone="conv4"), entry, 0)
    pixels = torch.zeros(images, side, side, 3, dtype=torch.uint8)
    with measured() as found:
        embed(learner, pixels, sets[views], entry)
    return found


def ranks(rows: int) -> dict[str, float]:
    """Rows of one protocol ranked: every pair is compared on 600 episodes."""
    import numpy as np

    from slabench.evaluation.intervals import clearly_above

    values = np.random.default_rng(0).normal(0.5, 0.1, (rows, 600))
    with measured() as found:
        clearly_above(values)
    return found


def mapped(images: int) -> dict[str, float]:
    """A split of a memory map: chosen, sampled, gathered and embedded by a process that may take 512 MB more than it has.

    1.3 million images of 32 x 32 have 4 GB. The limit is the proof; the MB are what of the process's own memory is left taken.
    """
    import resource

    import numpy as np
    import torch

    from slabench.core.seeding import numpy_generator
    from slabench.data.catalog import info
    from slabench.data.imageset import ImageSet
    from slabench.episodes.sampler import EpisodeSampler, gather
    from slabench.evaluation.episodes import embed
    from slabench.learners import build_learner
    from slabench.recipes.fewshot import Model
    from slabench.sla.transforms import IDENTITY
    from slabench.suites import on_device

    allowed = int(((_status("VmData") or 0) + 512) * 2**20)
    resource.setrlimit(resource.RLIMIT_DATA, (allowed, resource.getrlimit(resource.RLIMIT_DATA)[1]))
    learner = build_learner(Model(backbone="conv4"), info("fc100"), 0)
    with tempfile.TemporaryDirectory() as folder:
        stored = np.lib.format.open_memmap(
            f"{folder}/images.npy", "w+", np.uint8, (images, 32, 32, 3)
        )  # without blocks
        del stored
        labels, zeros = np.arange(images) * 100 // images, np.zeros(images, np.int32)
        names = tuple(f"class{label}" for label in range(100))
        parts = (np.arange(images) % 6 == 5).astype(np.uint8)
        pixels = np.lib.format.open_memmap(f"{folder}/images.npy", "r")
        whole = ImageSet("scaling", pixels, labels, names, "d" * 64, "", parts, zeros)
        before = _status("RssAnon") or 0.0
        with measured() as found:
            train = whole.select_part(0)
            held = on_device(train.images, torch.device("cpu"))
            sampler = EpisodeSampler(train.class_rows(), 5, 5, 15, numpy_generator(0, "scaling"))
            for _ in range(16):
                gather(held, sampler.sample(4).rows.reshape(-1))
            embed(learner, held[torch.arange(64)], IDENTITY, info("fc100"))
        # Pages of the file, which the system takes back when it wants them, are no copy of it.
        found["megabytes"] = (_status("RssAnon") or math.nan) - before
    return found


RECORDS = (500, 1500, 5000, 15_000, 50_000)
CASES = (
    Case("sampling by classes", (20, 200, 2000, 20_000), lambda n: sampling(classes=n, per_class=30)),
    Case("sampling by images", (10_000, 100_000, 1_300_000), lambda n: sampling(classes=100, per_class=n // 100)),
    Case("sampling by ways", (5, 10, 20, 40, 80), lambda n: sampling(ways=n)),
    Case("sampling by shots", (1, 4, 16, 64, 256), lambda n: sampling(shots=n)),
    Case("sampling by episodes", (1024, 8192, 65_536, 1 << 20), lambda n: sampling(episodes=n)),
    Case("rows of classes by classes", (20, 200, 2000, 20_000), lambda n: rows_of_classes(n, 1_300_000)),
    Case("rows of classes by images", (10_000, 100_000, 1_300_000), lambda n: rows_of_classes(1000, n)),
    Case("episode files by episodes", (1000, 10_000, 100_000, 1_000_000), files),
    Case("scoring by episodes", (1000, 10_000, 100_000, 1_000_000), lambda n: scoring(episodes=n)),
    Case("scoring by ways", (5, 10, 20, 40, 80), lambda n: scoring(ways=n)),
    Case("scoring by shots", (1, 4, 16, 64), lambda n: scoring(shots=n)),
    Case("scoring by M", (1, 2, 4, 8, 24), lambda n: scoring(views=n)),
    Case("scoring by M, SVM", (1, 2, 4, 8, 24), lambda n: scoring(100, views=n, head="svm")),
    Case("embedding by images", (256, 1024, 4096), lambda n: embedding(n)),
    Case("embedding by M", (1, 2, 4, 24), lambda n: embedding(views=n)),
    Case("embedding by side", (32, 64, 128, 224), lambda n: embedding(32, side=n)),
    Case("ranks by rows", (250, 500, 1000, 2000, 4000), ranks),
    Case("images in their file by images", (10_000, 100_000, 700_000, 1_300_000), mapped, quick=4),
    Case("leaderboard by records", RECORDS, command=("leaderboard", "--results", "{results}", "-o", "{file}.csv")),
    Case(
        "leaderboard by records, no index", RECORDS,
        command=("leaderboard", "--results", "{results}", "-o", "{file}.csv"), settings={"SLABENCH_INDEX": "0"},
    ),
    Case(
        "compare by records", RECORDS,
        command=("compare", "fewshot/sla", "fewshot/baseline", "--protocol", "fewshot/fc100/5w5s15q", "--results", "{results}"),
    ),
    Case("report by records", RECORDS, command=("report", "--results", "{results}", "-o", "{file}.html")),
    Case("status by records", RECORDS, command=("status", "--results", "{results}")),
)  # fmt: skip


def records(folder: Path, n: int) -> Path:
    """A folder of `n` valid records: the shipped ones, again and again under other seeds and keys."""
    shipped = shipped_results() / "runs"
    found = [(path, json.loads(path.read_text(encoding="utf-8"))) for path in sorted(shipped.rglob("seed*.json"))]

    def key_of(key: str, turn: int) -> str:
        return hashlib.sha256(f"{key}{turn}".encode()).hexdigest() if turn else key

    for place in range(n):
        turn, (path, record) = place // len(found), found[place % len(found)]
        changed = {**record, "seed": record["seed"] + 1000 * turn, "key": key_of(record["key"], turn)}
        if (record.get("derived") or {}).get("of"):
            changed["derived"] = {**record["derived"], "of": key_of(record["derived"]["of"], turn)}
        stem = f"seed{changed['seed']}-{changed['key'][:12]}"
        target = folder / "runs" / path.parent.relative_to(shipped)
        target.mkdir(parents=True, exist_ok=True)
        if record["side_file"]:
            changed["side_file"] = f"{stem}.{record['side_sha256'][:12]}.npz"
            (target / changed["side_file"]).write_bytes((path.parent / record["side_file"]).read_bytes())
        (target / f"{stem}.json").write_text(json.dumps(changed, indent=2), encoding="utf-8")
    return folder


def exponent(sizes: list[int], values: list[float]) -> float:
    """The slope of log value over log size in the upper half of the sizes; NaN where there is none."""
    half = len(sizes) // 2
    points = [(math.log(s), math.log(v)) for s, v in zip(sizes[half:], values[half:], strict=True) if v > 0]
    if len(points) < 2:
        points = [(math.log(s), math.log(v)) for s, v in zip(sizes[-2:], values[-2:], strict=True) if v > 0]
    if len(points) < 2:
        return math.nan
    x0, y0 = (sum(axis) / len(points) for axis in zip(*points, strict=True))
    return sum((x - x0) * (y - y0) for x, y in points) / sum((x - x0) ** 2 for x, _ in points)


def _in_process(case: Case, size: int) -> dict[str, float]:
    """In a process forked from this one, which has imported what is needed and computed nothing: memory begins anew."""
    here, there = _FORK.Pipe(duplex=False)
    process = _FORK.Process(target=_point, args=(case, size, there))
    process.start()
    there.close()
    try:
        found: dict[str, float] = here.recv()
    except EOFError:
        sys.exit(f"{case.name}: the process of the size {size} ended without a result")
    process.join()
    return found


def _point(case: Case, size: int, answer: Connection) -> None:
    assert case.body is not None
    case.body(min(case.sizes))  # what a first call loads and makes is none of its growth
    answer.send(case.body(size))


def _as_command(case: Case, results: Path, folder: Path) -> dict[str, float]:
    """CPU seconds and peak of a command, when it has run once before: what it keeps for the next is part of it."""
    places = {"results": results, "file": folder / "made"}
    words = [sys.executable, "-m", "slabench", *(word.format(**places) for word in case.command)]
    settings = {**os.environ, "SLABENCH_INDEX": str(folder / "index"), **case.settings}
    for _ in range(1 if case.settings else 2):
        process = subprocess.Popen(words, env=settings, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            sys.exit(f"{' '.join(words[2:])} ended with exit code {process.returncode}")
    return {"seconds": usage.ru_utime + usage.ru_stime, "megabytes": usage.ru_maxrss / 1024}


def run() -> None:
    """Print a line for each point, and the exponents of each case."""
    parser = argparse.ArgumentParser(description="How time and memory grow.")
    parser.add_argument("--only", default="", help="cases whose name has this in it")
    parser.add_argument("--quick", action="store_true", help="the smaller sizes alone")
    options = parser.parse_args()
    chosen = [case for case in CASES if options.only in case.name]
    if not chosen:
        parser.error(f"no case has '{options.only}' in its name; there are: {', '.join(case.name for case in CASES)}")
    if any(case.body for case in chosen):
        import torch

        import slabench.suites.fewshot  # noqa: F401 - with all that the bodies need

        torch.set_num_threads(1)
    made: dict[int, Path] = {}
    with tempfile.TemporaryDirectory() as root:
        for case in chosen:
            sizes, points = list(case.sizes[: case.quick] if options.quick else case.sizes), []
            for size in sizes:
                if case.command and size not in made:
                    made[size] = records(Path(root) / str(size), size)
                    time.sleep(4)  # files that were written just now are not kept by the index
                points.append(_as_command(case, made[size], Path(root)) if case.command else _in_process(case, size))
                print(
                    f"{case.name:34} {size:>10,} {points[-1]['seconds']:>10.3f} s {points[-1]['megabytes']:>9.0f} MB",
                    flush=True,
                )
            slopes: dict[str, Any] = {name: exponent(sizes, [point[name] for point in points]) for name in points[0]}
            print(
                f"{case.name:34} {'exponent':>10} {slopes['seconds']:>10.2f}   {slopes['megabytes']:>9.2f}", flush=True
            )


if __name__ == "__main__":
    run()
