"""Nothing finished is lost to something that failed, and what a killed process leaves is neither data nor for ever."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from processes import QUICK, here
from result_records import make_record

from slabench.core.files import atomic_file, remove_abandoned, temporary_folder
from slabench.data import load
from slabench.data.store import is_prepared
from slabench.episodes import files as episode_files
from slabench.records import store as store_module
from slabench.records.store import ResultStore
from slabench.runner import one_trial

WORDS = [*QUICK, "--steps", "4"]
ACCURACIES = {"single": [0.5, 0.75, 0.25]}


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def full(*arguments: Any, **named: Any) -> Any:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@contextmanager
def killed_while_writing(path: Path) -> Iterator[Path]:
    """What a process that was killed with SIGKILL had written of `path`; before it is killed, the block runs."""
    code = (
        "import sys, time; from pathlib import Path; from slabench.core.files import atomic_file\n"
        "with atomic_file(Path(sys.argv[1])) as file:\n"
        "    file.write(b'half'); file.flush(); print(flush=True); time.sleep(600)\n"
    )
    process = subprocess.Popen([sys.executable, "-c", code, str(path)], stdout=subprocess.PIPE)
    try:
        assert process.stdout is not None
        process.stdout.readline()
        (temporary,) = path.parent.glob(f".{path.name}.*.tmp")
        yield temporary
    finally:
        process.kill()
        process.communicate()


class TestTemporaryFiles:
    def test_of_a_living_process_stay_and_of_a_killed_one_go(self, tmp_path: Path) -> None:
        path = tmp_path / "record.json"
        with killed_while_writing(path) as temporary:
            remove_abandoned(path)
            assert temporary.read_bytes() == b"half"
        assert temporary.exists()
        with atomic_file(path) as file:
            file.write(b"whole")
        assert contents(tmp_path) == {"record.json": b"whole"}

    def test_folders_likewise(self, tmp_path: Path) -> None:
        with temporary_folder(tmp_path / "store") as living:
            (living / "images.npy").touch()
            with temporary_folder(tmp_path / "store"):
                assert living.is_dir()
        left = tmp_path / ".store.abcd1234.tmp"
        left.mkdir()
        (left / "images.npy").touch()
        with temporary_folder(tmp_path / "store"):
            assert not left.exists()

    def test_a_folder_that_was_moved_aside_comes_back(self, tmp_path: Path) -> None:
        path = tmp_path / "store"
        path.mkdir()
        (path / "manifest.json").write_bytes(b"{}")
        aside = tmp_path / ".store.abcd1234.tmp"
        aside.mkdir()
        path.rename(aside / "old")  # here the process is killed
        assert is_prepared(path)
        assert contents(tmp_path) == {"store/manifest.json": b"{}"}

    def test_no_other_file_is_touched(self, tmp_path: Path) -> None:
        kept = [
            ".record.json.tmp",
            ".record.json.abcd1234.tmp~",
            ".other.json.abcd1234.tmp",
            "record.json.abcd1234.tmp",
        ]
        for name in kept:
            (tmp_path / name).touch()
        os.mkfifo(tmp_path / ".record.json.efgh5678.tmp")
        remove_abandoned(tmp_path / "record.json")
        assert sorted(path.name for path in tmp_path.iterdir()) == sorted([*kept, ".record.json.efgh5678.tmp"])

    def test_a_name_as_long_as_a_name_can_be(self, tmp_path: Path) -> None:
        path = tmp_path / ("ä" * 127)
        with atomic_file(path) as file:
            file.write(b"whole")
        assert path.read_bytes() == b"whole"


class TestRecords:
    def test_an_attempt_that_failed_does_not_replace_what_is_done(self, tmp_path: Path) -> None:
        store = ResultStore(tmp_path)
        record = make_record(accuracies=ACCURACIES)
        store.save(record, ACCURACIES)
        before = contents(tmp_path)
        store.save(record.model_copy(update={"status": "failed", "error": "out of memory", "scores": []}), {})
        assert contents(tmp_path) == before

    def test_a_result_that_cannot_be_written_leaves_the_old_one(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        store, record = ResultStore(tmp_path), make_record(accuracies=ACCURACIES)
        store.save(record, ACCURACIES)
        before = contents(tmp_path)
        monkeypatch.setattr(store_module, "write_json", full)
        with pytest.raises(OSError, match="No space left"):
            store.save(record, {"single": [0.0, 0.0, 0.0]})
        assert contents(tmp_path) == before

    def test_what_a_killed_process_left_beside_it_goes(self, tmp_path: Path) -> None:
        store, record = ResultStore(tmp_path), make_record(accuracies=ACCURACIES)
        path = store.save(record, ACCURACIES)
        before = contents(tmp_path)
        own = path.stem
        for name in (
            f"{own}.0123456789ab.npz",
            f"{own}.0123456789ab.outputs.safetensors",
            f"{own}.outputs.tmp",
            f"{own}.lock",
        ):
            (path.parent / name).write_bytes(b"left")
        (path.parent / f".{path.name}.abcd1234.tmp").touch()
        (path.parent / f".{own}.0123456789ab.npz.abcd1234.tmp").touch()
        (path.parent / "seed1-ffffffffffff.0123456789ab.npz").write_bytes(b"another's")
        store.tidy(store.records()[0])
        (path.parent / "seed1-ffffffffffff.0123456789ab.npz").unlink()
        assert contents(tmp_path) == before

    def test_side_files_of_a_damaged_record_stay(self, tmp_path: Path) -> None:
        store, record = ResultStore(tmp_path), make_record(accuracies=ACCURACIES)
        path = store.save(record, ACCURACIES)
        saved = store.records()[0]
        path.write_text("{", encoding="utf-8")
        store.tidy(saved.model_copy(update={"side_file": None, "side_sha256": None}))
        assert (path.parent / str(saved.side_file)).is_file()


@pytest.mark.usefixtures("glyphs")
class TestEpisodes:
    def make(self) -> Path:
        return episode_files.make(load("glyphs", "test"), "glyphs", "test", 5, 1, 2, 10)

    def test_an_index_file_without_a_manifest_is_made_again(self) -> None:
        path = self.make()
        before = contents(path.parent)
        path.with_suffix(".json").unlink()
        path.write_bytes(path.read_bytes()[:-2])
        assert episode_files.find("glyphs/test-5w1s2q-10") is None
        assert path not in episode_files.list_files()
        file = episode_files.load_episodes(load("glyphs", "test"), "glyphs", "test", 5, 1, 2, 10)
        assert file.episodes.rows.shape == (10, 5, 3)
        assert contents(path.parent) == before

    def test_a_kill_leaves_no_pair_of_two_files(self, monkeypatch: pytest.MonkeyPatch) -> None:
        path = self.make()
        np.save(path, np.zeros(3))  # of other data, say: what is drawn now has other bytes
        monkeypatch.setattr("slabench.core.manifests.write_json", full)
        with pytest.raises(OSError, match="No space left"):
            self.make()
        assert not path.with_suffix(".json").exists()

    def test_a_reader_beside_a_second_maker_finds_it_whole(self, monkeypatch: pytest.MonkeyPatch) -> None:
        path = self.make()
        monkeypatch.setattr("slabench.core.manifests.write_json", full)
        with pytest.raises(OSError, match="No space left"):
            self.make()
        assert episode_files.find("glyphs/test-5w1s2q-10") == path


@pytest.mark.usefixtures("glyphs")
def test_a_long_tail_without_a_manifest_is_drawn_again() -> None:
    from slabench.data.loading import load_images
    from slabench.data.longtail_files import list_files, load_subset

    _, train, _ = load_images("glyphs")
    asked: dict[str, Any] = {"profile": "exp", "ratio": 2.0, "class_order": "label", "seed": 0}
    path = load_subset(train, "glyphs", **asked).path
    before = contents(path.parent)
    path.with_suffix(".json").unlink()
    assert path not in list_files()
    assert load_subset(train, "glyphs", **asked).path == path
    assert contents(path.parent) == before


@pytest.mark.slow
@pytest.mark.usefixtures("glyphs", "narrow_conv4")
class TestARun:
    def test_a_forced_run_that_fails_keeps_the_result_and_what_a_kill_left_goes(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        code, output = here(*WORDS, folder=tmp_path)
        assert code == 0, output
        before = contents(tmp_path / "results")
        assert sorted(Path(name).suffix for name in before) == [".json", ".npz", ".safetensors"]

        def out_of_memory(*arguments: Any) -> Any:
            Path(arguments[4]).write_bytes(b"a checkpoint")
            raise MemoryError("of 3.2 TB")

        with monkeypatch.context() as patch:
            patch.setattr(one_trial, "fit", out_of_memory)
            code, output = here(*WORDS, "--resume", "force", folder=tmp_path)
        assert code == 1
        assert "failed: of 3.2 TB\nthe result of an earlier run stays as it was" in output
        key = next(name for name in before if name.endswith(".json"))[-len("0123456789ab.json") : -len(".json")]
        checkpoints = tmp_path / "results" / "checkpoints"
        assert [path.name for path in checkpoints.iterdir()] == [f"{key}.safetensors"]

        (checkpoints / f"{key}.lock").touch()
        (checkpoints / f".{key}.safetensors.abcd1234.tmp").touch()
        code, output = here(*WORDS, folder=tmp_path)
        assert code == 0
        assert "(finished before)" in output
        assert contents(tmp_path / "results") == before

    def test_saving_is_protected_as_training_is(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        whole, saved = ResultStore.save, []

        def once_full(self: ResultStore, record: Any, *rest: Any) -> Path:
            saved.append(record.status)
            return full() if record.seed == 0 else whole(self, record, *rest)

        monkeypatch.setattr(ResultStore, "save", once_full)
        code, output = here(*WORDS, "--seeds", "0,1", folder=tmp_path)
        assert code == 1
        assert saved == ["done", "failed", "done"]
        assert "failed: [Errno 28] No space left on device" in output
        assert "1 of 2 trials are done" in output

    def test_a_name_that_cannot_be_saved_is_refused_first(self, tmp_path: Path) -> None:
        code, output = here(*WORDS, "--set", f"name={'n' * 300}", folder=tmp_path)
        assert code == 2
        assert (
            "error: the name 'nnnnnnnnnnnn...' of 300 letters is too long for the file system of results/runs\n"
            in output
        )
        assert "shorten it (--set name=...)" in output
        assert "seed 0" not in output
        assert contents(tmp_path / "results") == {}
