"""The index of records changes how long a look takes and nothing else, whatever happens to the files and to the index."""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from result_records import make_record

from slabench.core.errors import DataError
from slabench.core.files import read_json
from slabench.ranking.entries import entries
from slabench.ranking.formats.plain import to_csv
from slabench.ranking.rows import ranked
from slabench.records import folder, index
from slabench.records.record import RunRecord
from slabench.records.status import Survey
from slabench.records.store import ResultStore

SEEDS = range(6)


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six finished trials of one recipe."""
    root = tmp_path_factory.mktemp("saved")
    for seed in SEEDS:
        save(root, seed, [seed / 10, 0.25, 1.0])
    return root


@pytest.fixture
def root(tmp_path: Path, saved: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The six, in a folder that counts as large enough and old enough for an index."""
    monkeypatch.setenv("SLABENCH_INDEX", str(tmp_path / "index"))
    monkeypatch.setattr(folder, "SMALL", 1)
    monkeypatch.setattr(index, "_SETTLED", -60.0)
    shutil.copytree(saved, tmp_path / "results")
    return tmp_path / "results"


def save(root: Path, seed: int, values: list[float]) -> Path:
    values = [*values, *np.linspace(0, 1, 400).astype(np.float32).tolist()][: 403 if seed % 2 else 3]
    return ResultStore(root).save(make_record(seed=seed, accuracies={"single": values}), {"single": values})


def look(root: Path) -> tuple[list[RunRecord], list[str], list[dict[str, bytes] | str]]:
    """All that a store says of its records, errors as text, arrays as bytes. What it has learned is written down."""
    store = ResultStore(root)
    records, problems = store.scan()
    arrays: list[dict[str, bytes] | str] = []
    for record in records:
        try:
            arrays.append({name: array.tobytes() for name, array in store.episodes(record).items()})
        except DataError as error:
            arrays.append(str(error))
    if store._records._index is not None:
        store._records._index.write()
    return records, problems, arrays


def without(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> tuple[list[RunRecord], list[str], list[dict[str, bytes] | str]]:
    with monkeypatch.context() as context:
        context.setenv("SLABENCH_INDEX", "0")
        return look(root)


def database(root: Path) -> Path:
    (found,) = (root.parent / "index").glob("*.sqlite")
    return found


def rows(root: Path) -> dict[str, int]:
    with sqlite3.connect(database(root)) as opened:
        return {table: opened.execute(f"SELECT count(*) FROM {table}").fetchone()[0] for table in ("record", "side")}


def test_what_is_known_is_not_read_again_and_is_the_same(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected, files = without(root, monkeypatch), sorted(root.rglob("*"))
    assert not (root.parent / "index").exists()
    assert look(root) == expected
    assert rows(root) == {"record": 6, "side": 6}

    def read(*_: object) -> None:
        raise AssertionError("read again")

    monkeypatch.setattr(folder, "read_json", read)
    monkeypatch.setattr("slabench.records.store.read_plain", read)
    assert look(root) == expected
    assert sorted(root.rglob("*")) == files, "who only looks leaves nothing in the folder"
    assert [path.stat().st_mode & 0o077 for path in (database(root), database(root).parent)] == [0, 0]


def test_the_leaderboard_of_shipped_records_is_byte_for_byte_the_same(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for suite in ("openset", "supervised"):
        shutil.copytree(Path(__file__).parents[1] / "results" / "runs" / suite, root / "runs" / suite)

    def csv() -> str:
        store = ResultStore(root)
        text = to_csv(ranked(entries(store.records(), store.episodes)))
        if store._records._index is not None:
            store._records._index.write()
        return text

    with monkeypatch.context() as context:
        context.setenv("SLABENCH_INDEX", "0")
        expected = csv()
    assert expected.count("\n") > 20
    csv()
    assert csv() == expected
    assert sum(rows(root).values()) == sum(path.is_file() for path in root.rglob("*"))


def _in_place(path: Path) -> None:
    """Another accuracy, as many bytes, and the old time of change put back."""
    before, text = path.stat(), path.read_text()
    with open(path, "r+b") as file:
        file.write(text.replace('"ci95": 0.01', '"ci95": 0.02').encode())
    assert path.read_text() != text
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert (path.stat().st_size, path.stat().st_mtime_ns) == (before.st_size, before.st_mtime_ns)


def _replaced(path: Path) -> None:
    shutil.copy(path, path.with_suffix(".new"))
    _in_place(path.with_suffix(".new"))
    path.with_suffix(".new").replace(path)


CHANGES: dict[str, Callable[[Path], object]] = {
    "changed in place": _in_place,
    "replaced": _replaced,
    "removed": Path.unlink,
    "damaged": lambda path: path.write_text(path.read_text()[:-9]),
    "another run": lambda path: save(path.parents[4], 2, [1.0, 1.0, 1.0]),
    "one more": lambda path: save(path.parents[4], 9, [0.5, 0.5, 0.5]),
    "a folder": lambda path: (path.unlink(), path.mkdir()),
    "a link to nowhere": lambda path: (path.unlink(), path.symlink_to("nowhere")),
    "side file gone": lambda path: next(path.parent.glob("seed2-*.npz")).unlink(),
    "side file damaged": lambda path: next(path.parent.glob("seed2-*.npz")).write_bytes(b"PK"),
    "side file of another": lambda path: shutil.copy(
        next(path.parent.glob("seed4-*.npz")), next(path.parent.glob("seed2-*.npz"))
    ),
}


@pytest.mark.parametrize("change", CHANGES)
def test_every_change_is_seen(root: Path, monkeypatch: pytest.MonkeyPatch, change: str) -> None:
    before = look(root)
    CHANGES[change](next(root.rglob("seed2-*.json")))
    expected = without(root, monkeypatch)
    assert expected != before
    assert look(root) == expected
    assert look(root) == expected, "and learned"


def test_what_was_written_just_now_may_be_written_again_within_the_same_tick(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(index, "_SETTLED", 3.0)
    look(root)
    assert rows(root) == {"record": 0, "side": 0}


def test_a_watched_folder_is_read_once(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLABENCH_INDEX", "0")
    reads: list[Path] = []
    monkeypatch.setattr(folder, "read_json", lambda path: (reads.append(path), read_json(path))[1])
    survey = Survey(root)
    assert len(survey.look()) == 6
    _replaced(next(root.rglob("seed2-*.json")))
    assert len(survey.look()) == 6
    assert [path.name[:5] for path in reads] == [*(f"seed{seed}" for seed in SEEDS), "seed2"]


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:70000])


def _hit(path: Path) -> None:
    data = bytearray(path.read_bytes())
    for place in range(100, len(data), 97):
        data[place] ^= 0x55
    path.write_bytes(data)


def _version(path: Path) -> None:
    with sqlite3.connect(path) as opened:
        opened.execute("PRAGMA user_version = 1")


def _other_tables(path: Path) -> None:
    with sqlite3.connect(path) as opened:
        opened.execute("DROP TABLE side")
        opened.execute("CREATE VIEW side AS SELECT name, facts, 7 AS data, sum FROM record")


DAMAGES: dict[str, Callable[[Path], object]] = {
    "cut": _cut,
    "hit all over": _hit,
    "empty": lambda path: path.write_bytes(b""),
    "no database": lambda path: path.write_bytes(b"nothing of the kind" * 5000),
    "another version": _version,
    "other tables": _other_tables,
    "a folder": lambda path: (path.unlink(), path.mkdir()),
    "a link": lambda path: (path.rename(path.with_suffix(".old")), path.symlink_to(path.with_suffix(".old"))),
    "writable for all": lambda path: path.chmod(0o666),
    "in a folder for all": lambda path: path.parent.chmod(0o777),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_bad_index_is_made_anew_or_left_alone(root: Path, monkeypatch: pytest.MonkeyPatch, damage: str) -> None:
    expected = without(root, monkeypatch)
    look(root)
    DAMAGES[damage](database(root))
    assert look(root) == expected
    assert look(root) == expected
    if damage in ("cut", "empty", "no database", "another version"):
        look(root)
        assert rows(root) == {"record": 6, "side": 6}


def test_rows_that_were_forged_hide_nothing_and_break_nothing(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows that somebody with the rights of this user wrote, sums and all: none is of a file as it should be."""
    expected = without(root, monkeypatch)
    look(root)
    with sqlite3.connect(database(root)) as opened:
        for table in ("record", "side"):
            found = opened.execute(f"SELECT name, facts, data FROM {table} ORDER BY name").fetchall()
            for place, (name, facts, _) in enumerate(found):
                other = json.dumps({"schema": "slabench.run/1", "key": "0" * 12}).encode()
                bad = [b"", b"[]", b"\xff", b'["x", [["single", 4, 0]]]\n' + b"\x00" * 16, other, None][place]
                check = zlib.crc32(bad or b"", zlib.crc32(f"{table} {facts} ".encode() + name, index._version()))
                opened.execute(f"UPDATE {table} SET data = ?, sum = ? WHERE name = ?", (bad, check, name))
            absent = (b"fewshot/absent/seed7-000000000000.json", found[0][1], found[0][2], 0)
            opened.execute(f"INSERT INTO {table} VALUES (?, ?, ?, ?)", absent)
    assert look(root) == expected


def test_another_process_that_writes_is_not_waited_for(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = without(root, monkeypatch)
    monkeypatch.setattr(index, "_PATIENCE", 0.01)
    store = ResultStore(root)
    store.scan()
    writer = sqlite3.connect(database(root), isolation_level=None)
    writer.execute("BEGIN EXCLUSIVE")
    assert look(root) == expected
    writer.execute("ROLLBACK")
    assert look(root) == expected
    assert rows(root)["side"] == 6


@pytest.mark.parametrize("place", ["a file", "below a file"])
def test_a_place_that_takes_no_index_is_done_without(root: Path, monkeypatch: pytest.MonkeyPatch, place: str) -> None:
    expected = without(root, monkeypatch)
    taken = root.parent / "taken"
    taken.write_text("")
    monkeypatch.setenv("SLABENCH_INDEX", str(taken if place == "a file" else taken / "index"))
    assert look(root) == expected


def test_what_is_no_longer_there_is_forgotten_with_the_next_thing_learned(root: Path) -> None:
    look(root)
    gone = next(root.rglob("seed2-*.json"))
    next(gone.parent.glob("seed2-*.npz")).unlink()
    gone.unlink()
    save(root, 9, [0.5, 0.5, 0.5])
    look(root)
    assert rows(root) == {"record": 6, "side": 6}


def test_a_small_folder_has_none(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folder, "SMALL", 7)
    look(root)
    assert not (root.parent / "index").exists()
