"""The commands that `killing.py` kills: run, import, episodes make, leaderboard, score."""

from __future__ import annotations

import hashlib
import os
import shutil
from pathlib import Path
from typing import Any

from data_layouts import TINY, tiny_parts, write_parquet
from killing import Scenario, forked, records_of
from narrow import narrow_conv4
from processes import here
from result_records import make_record

from slabench.data.sources.detect import import_dataset
from slabench.data.store import verify_store
from slabench.records.store import ResultStore

_SETTINGS = ("protocol.episodes=10", "train.queries=2", "train.steps=3", "select.points=1", "select.episodes=4")
_RUN = (
    *("run", "fewshot", "--dataset", "glyphs", "--shots", "2", "--queries", "3", "--precision", "float32"),
    *(part for setting in _SETTINGS for part in ("--set", setting)),
)


def scenarios(glyphs: Path, work: Path) -> dict[str, Scenario]:
    """All of them.

    Args:
        glyphs: a data folder with the embedded data set; linked, never written to.
        work: an empty folder, for what is made once: the trained run that `score` scores.
    """
    return {
        "run": Scenario(
            lambda folder: _data(glyphs, folder), lambda folder: _command(folder, *_RUN), records_of, _readable
        ),
        "import": Scenario(
            lambda folder: write_parquet(folder / "source", tiny_parts()), _import, _stored, _whole_store_or_none
        ),
        "episodes make": Scenario(
            lambda folder: _data(glyphs, folder),
            lambda folder: _command(
                folder,
                *("episodes", "make", "glyphs", "--ways", "4", "--shots", "1", "--queries", "2", "--episodes", "30"),
            ),
            lambda folder: _digests(folder / "data" / "episodes"),
        ),
        "leaderboard": Scenario(
            _records,
            lambda folder: _command(folder, "leaderboard", "--format", "csv", "-o", "board.csv"),
            _board,
            _board,
        ),
        "score": Scenario(lambda folder: _trained(glyphs, work, folder), _score, records_of, _readable),
    }


def _data(glyphs: Path, folder: Path) -> None:
    shutil.copytree(glyphs, folder / "data", copy_function=os.link)


def _command(folder: Path, *arguments: str) -> None:
    where = {"SLABENCH_DATA": str(folder / "data"), "SLABENCH_RESULTS": str(folder / "results")}
    with narrow_conv4():
        code, output = here(*arguments, folder=folder, SLABENCH_CHECKPOINT_SECONDS="0", **where)
    (folder.parent / f"{folder.name}.output").write_text(output)
    assert code == 0, output


def _readable(folder: Path) -> None:
    """Every record is whole, its accuracies too."""
    store = ResultStore(folder / "results")
    records, problems = store.scan()
    assert not problems, problems
    for record in records:
        store.episodes(record)


def _import(folder: Path) -> None:
    if not (
        folder / "data" / "tiny" / "manifest.json"
    ).is_file():  # as `slabench run` does, which imports only what is not there
        import_dataset(TINY, folder / "source", folder / "data")


def _stored(folder: Path) -> Any:
    assert verify_store(folder / "data" / "tiny") == []
    return _digests(folder / "data" / "tiny")


def _whole_store_or_none(folder: Path) -> None:
    if (folder / "data" / "tiny").exists():
        assert verify_store(folder / "data" / "tiny") == []


def _digests(folder: Path) -> dict[str, str]:
    files = [path for path in sorted(folder.rglob("*")) if path.is_file() and not path.name.startswith(".")]
    return {path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def _records(folder: Path) -> None:
    store = ResultStore(folder / "results")
    for objective, accuracies in (("baseline", [0.5, 0.7, 0.2, 0.4]), ("sla", [0.6, 0.7, 0.3, 0.5])):
        store.save(make_record(objective, accuracies={"single": accuracies}), {"single": accuracies})
    (folder / "board.csv").write_text("an older one\n")


def _board(folder: Path) -> str:
    """The old table or the new one, never half of it: a whole one ends in a line end and has a line for each run."""
    text = (folder / "board.csv").read_text()
    assert text == "an older one\n" or (text.endswith("\n") and text.count("\n") == 3), text
    return text


def _trained(glyphs: Path, work: Path, folder: Path) -> None:
    if not work.exists():
        work.mkdir()
        _data(glyphs, work)
        code, _ = forked(lambda: _command(work, *_RUN))
        assert code == 0, (work.parent / f"{work.name}.output").read_text()
    shutil.copytree(work / "data", folder / "data", copy_function=os.link)
    shutil.copytree(work / "results", folder / "results")


def _score(folder: Path) -> None:
    (record,) = (one for one in ResultStore(folder / "results").records() if one.derived is None)
    _command(
        folder,
        "score",
        record.key[:12],
        "--heads",
        "protonet,simpleshot",
        "--shots",
        "1",
        "--episodes",
        "10",
        "--queries",
        "3",
    )
