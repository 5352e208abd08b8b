"""The store: pairs of record and side file that are whole or reported, whoever writes them and whatever kills it."""

from __future__ import annotations

import hashlib
import io
import json
import multiprocessing
import os
from pathlib import Path

import numpy as np
import pytest
from result_records import make_record

from slabench.core.errors import DataError, IntegrityError, SlabenchError
from slabench.records.reading import read_record
from slabench.records.store import ResultStore, ResultsWarning, slug

ACCURACIES = {"single": [0.5, 0.75, 0.25], "aggregated": [0.6, 0.8, 0.4]}


@pytest.fixture
def store(tmp_path: Path) -> ResultStore:
    return ResultStore(tmp_path / "results")


def test_save_and_find(store: ResultStore) -> None:
    record = make_record(accuracies=ACCURACIES)
    assert store.find(record.key) is None
    assert not store.finished(record.key)
    assert not store.folder.exists()
    path = store.save(record, ACCURACIES)
    assert path.relative_to(store.root).parts[:4] == (
        "runs", "fewshot", "fewshot-fc100-5w5s15q", "fewshot-baseline"
    )  # fmt: skip
    assert path.name == f"seed0-{record.key[:12]}.json"
    found = store.find(record.key)
    assert found is not None
    assert found.model_copy(update={"side_file": None, "side_sha256": None}) == record
    assert found.side_sha256 == hashlib.sha256((path.parent / str(found.side_file)).read_bytes()).hexdigest()
    episodes = store.episodes(found)
    assert {name: array.tolist() for name, array in episodes.items()} == {
        name: np.float32(values).tolist() for name, values in ACCURACIES.items()
    }
    assert episodes["single"].dtype == np.float32
    assert store.finished(record.key)
    assert store.records() == [found]


def test_the_same_result_gives_the_same_bytes(store: ResultStore, tmp_path: Path) -> None:
    other = ResultStore(tmp_path / "other")
    record = make_record(accuracies=ACCURACIES)
    first, second = store.save(record, ACCURACIES), other.save(record, dict(reversed(ACCURACIES.items())))
    assert first.read_bytes() == second.read_bytes()
    assert len(list(first.parent.iterdir())) == 2


def test_a_later_result_replaces_the_earlier_one(store: ResultStore) -> None:
    record = make_record(accuracies=ACCURACIES)
    failed = record.model_copy(update={"status": "failed", "error": "out of memory", "scores": []})
    store.save(failed, {})
    assert not store.finished(record.key)
    store.save(record, ACCURACIES)
    path = store.save(record, {**ACCURACIES, "single": [0.0, 1.0, 0.0]})
    assert len(list(path.parent.iterdir())) == 2
    assert store.episodes(store.records()[0])["single"].tolist() == [0.0, 1.0, 0.0]


def test_a_changed_record_is_checked_as_it_is_written(store: ResultStore) -> None:
    record = make_record()
    record.recipe["lr"] = float("nan")
    with pytest.raises(ValueError, match="recipe"):
        store.save(record, {})
    assert not list(store.root.rglob("*.json"))


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        ({"distilled": [0.5]}, "'distilled', which has no score"),
        ({"single": [[0.5]]}, r"shape \(1, 1\)"),
        ({"single": []}, r"shape \(0,\)"),
        ({"single": [0.5, float("nan")]}, r"not all in \[0, 1\]"),
        ({"single": [50.0]}, r"not all in \[0, 1\]"),
    ],
)
def test_accuracies_that_are_none_are_refused(store: ResultStore, arrays: dict[str, list[float]], words: str) -> None:
    with pytest.raises(SlabenchError, match=words):
        store.save(make_record(), arrays)
    assert not list(store.root.rglob("*.*"))


@pytest.mark.parametrize("damage", ["truncated", "empty", "not utf-8", "other schema", "unknown key", "a list"])
def test_a_damaged_record_is_named_and_the_others_are_read(store: ResultStore, damage: str) -> None:
    record, whole = make_record(seed=0), make_record(seed=1)
    path = store.save(record, {})
    store.save(whole, {})
    text = path.read_text()
    path.write_bytes(
        {
            "truncated": text[: len(text) // 2].encode(),
            "empty": b"",
            "not utf-8": b"\xff\xfe" + text.encode(),
            "other schema": text.replace("slabench.run/1", "slabench.run/9").encode(),
            "unknown key": json.dumps({**json.loads(text), "accuracy": 1}).encode(),
            "a list": b"[]",
        }[damage]
    )
    with pytest.warns(ResultsWarning, match=path.name):
        assert [found.key for found in store.records()] == [whole.key]
    with pytest.warns(ResultsWarning, match=path.name):
        assert not store.finished(record.key)
    with pytest.raises(DataError, match=path.name):
        read_record(path)
    store.save(record, {})
    assert store.finished(record.key)


@pytest.mark.parametrize("damage", ["truncated", "missing", "flipped"])
def test_a_damaged_side_file_is_named_and_the_trial_unfinished(store: ResultStore, damage: str) -> None:
    record = make_record(accuracies=ACCURACIES)
    path = store.save(record, ACCURACIES)
    found = store.find(record.key)
    assert found is not None
    side = path.parent / str(found.side_file)
    data = side.read_bytes()
    if damage == "missing":
        side.unlink()
    else:
        side.write_bytes(data[:-20] if damage == "truncated" else data[:60] + bytes([data[60] ^ 1]) + data[61:])
    with pytest.raises(IntegrityError, match=side.name):
        store.episodes(found)
    with pytest.warns(ResultsWarning, match=side.name):
        assert not store.finished(record.key)
    assert store.records() == [found]
    store.save(record, ACCURACIES)
    assert side.read_bytes() == data


def test_a_pickle_in_the_side_file_is_not_loaded(store: ResultStore, tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return os.mkdir, (str(tmp_path / "owned"),)

    record = make_record(accuracies=ACCURACIES)
    path = store.save(record, ACCURACIES)
    buffer = io.BytesIO()
    np.savez(buffer, single=np.array([Evil()], dtype=object))
    value = json.loads(path.read_text())
    (path.parent / value["side_file"]).write_bytes(buffer.getvalue())
    value["side_sha256"] = hashlib.sha256(buffer.getvalue()).hexdigest()
    path.write_text(json.dumps(value))
    with pytest.raises(DataError, match="not a plain npz"):
        store.episodes(store.records()[0])
    assert not (tmp_path / "owned").exists()


def test_a_side_file_outside_its_folder_is_not_read(store: ResultStore, tmp_path: Path) -> None:
    record = make_record(accuracies=ACCURACIES)
    path = store.save(record, ACCURACIES)
    value = json.loads(path.read_text())
    outside = tmp_path / "outside.npz"
    (path.parent / value["side_file"]).rename(outside)
    path.write_text(json.dumps({**value, "side_file": str(outside)}))
    with pytest.raises(IntegrityError, match="missing"):
        store.episodes(store.records()[0])


def test_keys_that_begin_alike_are_told_apart(store: ResultStore) -> None:
    record = make_record()
    near = record.key[:12] + "0" * 52
    store.save(record, {})
    assert store.find(near) is None
    assert not store.finished(near)


def test_what_a_dead_writer_left_behind_is_no_record(store: ResultStore) -> None:
    path = store.save(make_record(), {})
    (path.parent / f".{path.name}.x1.tmp").write_text('{"half')
    (path.parent / f"{path.stem}.000000000000.npz").write_bytes(b"PK")
    assert len(store.records()) == 1


def _write_again(root: str, level: float, times: int) -> None:
    record = make_record(accuracies={"single": [level] * 50})
    for _ in range(times):
        ResultStore(Path(root)).save(record, {"single": [level] * 50})


def test_two_writers_at_once_leave_a_whole_pair(store: ResultStore) -> None:
    context = multiprocessing.get_context("spawn")
    writers = [context.Process(target=_write_again, args=(str(store.root), level, 40)) for level in (0.25, 0.75)]
    for writer in writers:
        writer.start()
    key = make_record(accuracies={"single": [0.25] * 50}).key
    seen = set()
    while any(writer.is_alive() for writer in writers):
        record = store.find(key)  # never half of a record: a warning would be an error here
        if record is not None:
            seen.add(record.scores[0].value)
    for writer in writers:
        writer.join()
        assert writer.exitcode == 0
    (record,) = store.records()
    assert store.episodes(record)["single"].tolist() == [record.scores[0].value] * 50
    assert seen <= {0.25, 0.75}


def test_slug() -> None:
    assert slug("fewshot/fc100/5w5s15q") == "fewshot-fc100-5w5s15q"
    assert slug("../../etc/Passwd x") == "etc-passwd-x"
    assert slug("///") == "unnamed"
