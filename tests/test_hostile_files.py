"""One bad entry never hides the others; what is wrong with a file is said by name, without a traceback."""

from __future__ import annotations

import io
import json
import os
import pickle
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from data_layouts import MINI, TINY, mini_images, write_mini_csvs
from processes import here
from result_records import make_record
from torch import nn

from slabench.core.arrays import parse_npy, parse_npz
from slabench.core.errors import DataError, IntegrityError, UnsafePickleError, UsageError
from slabench.core.files import read_json, read_plain
from slabench.core.tables import read_table
from slabench.data.sources import fewshot, parquet, photographs, pickle_budget, unpickle
from slabench.data.sources.unpickle import read_pickle
from slabench.data.splits import parse_split
from slabench.data.store import open_store
from slabench.recipes import load_recipe, parse_assignment
from slabench.records.reading import read_record
from slabench.records.store import ResultStore
from slabench.reproduction.definition import load_table
from slabench.training.checkpoint import Progress, load_checkpoint, save_checkpoint

ACCURACIES = {"single": [0.5, 0.7, 0.6, 0.2], "aggregated": [0.6, 0.7, 0.6, 0.3]}


def _changed(place: Path, whole: Path, change: Callable[[dict], object]) -> None:
    value = json.loads(whole.read_text()) | {"key": "ab" * 32}
    change(value)
    place.write_text(json.dumps(value))


BAD: dict[str, Callable[[Path, Path], object]] = {
    "folder": lambda place, _: place.mkdir(),
    "broken link": lambda place, _: place.symlink_to("nowhere"),
    "link to itself": lambda place, _: place.symlink_to(place.name),
    "named pipe": lambda place, _: os.mkfifo(place),
    "brackets": lambda place, _: place.write_text("[" * 200_000),
    "digits": lambda place, _: place.write_text('{"schema": ' + "9" * 5000 + "}"),
    "half a surrogate pair": lambda place, whole: _changed(place, whole, lambda v: v.update(dataset="x\ud800")),
    "long name": lambda place, whole: _changed(place, whole, lambda v: v.update(name="n" * 5000)),
    "control characters": lambda place, whole: _changed(place, whole, lambda v: v.update(name="n\x1b[2J")),
    "transforms": lambda place, whole: _changed(place, whole, lambda v: v["recipe"]["sla"].update(transforms=5)),
    "section": lambda place, whole: _changed(place, whole, lambda v: v["recipe"].update(protocol=[1])),
    "long number": lambda place, whole: _changed(place, whole, lambda v: v["cost"].update(images_seen=10**400)),
    "deep": lambda place, whole: _changed(
        place, whole, lambda v: v["environment"].update(a=json.loads("[" * 90 + "]" * 90))
    ),
}


@pytest.mark.parametrize("bad", BAD)
def test_one_bad_record_hides_no_other(tmp_path: Path, bad: str) -> None:
    store = ResultStore(tmp_path)
    paths = [store.save(make_record(objective, accuracies=ACCURACIES), ACCURACIES) for objective in ("baseline", "sla")]
    keys = [json.loads(path.read_text())["key"][:12] for path in paths]
    place = paths[0].with_name("seed1-abababababab.json")
    BAD[bad](place, paths[0])
    results = ("--results", str(tmp_path))
    for arguments in (
        ["leaderboard", "--format", "csv"],
        ["list", "runs"],
        ["show", "run", keys[0]],
        ["compare", *keys],
    ):
        code, output = here(*arguments, *results)
        assert code == 0, output
        # `show` needs one record alone, and finds it; the others name what they left out.
        assert place.name in output or arguments[0] == "show", output
    assert {record.key[:12] for record in store.scan()[0]} == set(keys)
    assert store.finished(read_record(paths[0]).key)


def test_one_bad_record_hides_no_other_from_pages_and_figures(tmp_path: Path) -> None:
    store = ResultStore(tmp_path)
    paths = [store.save(make_record(objective, accuracies=ACCURACIES), ACCURACIES) for objective in ("baseline", "sla")]
    for number, make in enumerate(BAD.values()):
        make(paths[0].with_name(f"seed{number}-abababababab.json"), paths[0])
    for arguments in (["report", "-o", "r.html"], ["plot", "bars", "-o", "p.svg"]):
        code, output = here(*arguments, "--results", str(tmp_path), folder=tmp_path)
        assert code == 0, output
        assert output.count("warning: ") >= len(BAD), output


def test_a_side_file_that_is_no_file_leaves_its_record(tmp_path: Path) -> None:
    store = ResultStore(tmp_path)
    path = store.save(make_record(accuracies=ACCURACIES), ACCURACIES)
    side = path.parent / str(read_record(path).side_file)
    side.unlink()
    os.mkfifo(side)
    code, output = here("leaderboard", "--format", "csv", "--results", str(tmp_path))
    assert code == 0
    assert "is a named pipe, not a file" in output
    assert "fc100" in output


RECIPES = {
    "suite = ['x']": r"suite = \['x'\] is not a name",
    "[suite]\na = 1": "suite = {'a': 1} is not a name",
    "extends = 5": "extends = 5 is not text",
    "extends = ['fewshot/standard']": "extends = .* is not text",
    "extends = 'fewshot/standard'\nmodel = [1]": r"model = \[1\]",
    "extends = 'fewshot/standard'\nname = 5\n[[variants]]\nname = 'a'": "name = 5 is not text",
    "x = " + "[" * 20_000 + "]" * 20_000: "is not TOML",
    "x = " + "{a = " * 3000 + "1" + "}" * 3000: "is not TOML",
    "x." * 3000 + "x = 1": "nested deeper than 64",
    "extends = 'fewshot/standard'\n" + "[[variants]]\nname = 'a'\n" * 20_000: "20,000 variants",
    "train.steps = " + "9" * 5000: "is not TOML",
    "name = '\udce9'": "is not UTF-8 text: line 1 has the byte 0xe9",
}


@pytest.mark.parametrize("text", RECIPES)
def test_a_hostile_recipe_is_a_usage_error(tmp_path: Path, text: str) -> None:
    path = tmp_path / "r.toml"
    path.write_bytes(text.encode("utf-8", "surrogateescape").replace(b"\xed\xb3\xa9", b"\xe9"))
    for overrides in ({}, {"model.head": "ridge"}):
        with pytest.raises(UsageError, match=RECIPES[text]):
            load_recipe(str(path), overrides)
    code, output = here("run", str(path), "--dry-run")
    assert code == 2, output
    assert "Traceback" not in output
    with pytest.raises(DataError):
        load_table(str(path))


def test_a_long_chain_of_recipes_is_named(tmp_path: Path) -> None:
    for number in range(1200):
        base = str(tmp_path / f"{number - 1}.toml") if number else "fewshot/standard"
        (tmp_path / f"{number}.toml").write_text(f"extends = '{base}'")
    with pytest.raises(UsageError, match="extends 16 others"):
        load_recipe(str(tmp_path / "1199.toml"))


def test_settings_without_end_are_text() -> None:
    for value in ("[" * 20_000, "9" * 5000):
        assert parse_assignment(f"train.lr={value}") == ("train.lr", value)


def test_reading_never_waits_and_never_follows_a_device(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(DataError, match="named pipe"):
        read_plain(tmp_path / "pipe")
    with pytest.raises(DataError, match="is a device"):
        read_plain(Path("/dev/zero"))
    (tmp_path / "long").write_bytes(b"x" * 11)
    with pytest.raises(DataError, match="has 11 bytes"):
        read_plain(tmp_path / "long", 10)
    with pytest.raises(DataError, match="cannot be read"):
        read_plain(tmp_path / "a\0b")
    (tmp_path / "deep.json").write_text("[" * 65 + "]" * 65)
    with pytest.raises(DataError, match="nested deeper"):
        read_json(tmp_path / "deep.json")


def _shared_tuples(levels: int, end: bytes) -> bytes:
    twice = (b"h%bh%b\x86q%b" % (bytes([i]), bytes([i]), bytes([i + 1])) for i in range(levels))
    return b"\x80\x02)q\x00" + b"".join(twice) + end


PICKLES = {
    "bytearray of a number": b"cbuiltins\nbytearray\n(I3000000000\ntR.",
    "shared tuples": _shared_tuples(45, b"."),
    "shared tuples as a key": _shared_tuples(45, b"q\xff0}h-K\x01s."),
    "a list in itself": b"\x80\x02]q\x00h\x00a.",
    "bytes that do not follow": b"\x80\x04\x8e" + (1 << 62).to_bytes(8, "little") + b".",
    "a bytearray that does not follow": b"\x80\x05\x96" + (3_000_000_000).to_bytes(8, "little") + b".",
    "a frame that does not follow": b"\x80\x04\x95" + (1 << 40).to_bytes(8, "little") + b"N.",
    "a table of two billion places": b"\x80\x02Nr\xff\xff\xff\x7f.",
    "deep tuples": b"\x80\x02)" + b"\x85" * 1000 + b".",
    "deep lists": b"\x80\x02" + b"]" * 1000 + b"a" * 999 + b".",
    "steps": b"\x80\x02N" + b"r\x01\x00\x00\x00" * 10_001 + b".",
    "keys that collide": pickle.dumps({(2**61 - 1) * i: 0 for i in range(1001)}, protocol=2),
    "writing to a class": b"\x80\x02cnumpy\ndtype\nN}X\x05\x00\x00\x00dtypeK\x01s\x86b.",
    "writing to a function": b"\x80\x02c_codecs\nencode\nN}X\x0c\x00\x00\x00__defaults__N\x85s\x86b.",
    "a long number": b"\x80\x02\x8b" + (1 << 20).to_bytes(4, "little") + b"\x7f" * (1 << 20) + b".",
    "one text encoded again and again": (
        b"\x80\x02X" + (1 << 20).to_bytes(4, "little") + b"a" * (1 << 20) + b"q\x000c_codecs\nencode\nq\x01"
        b"X\x06\x00\x00\x00latin1q\x02(" + b"h\x01h\x00h\x02\x86R" * 99 + b"t."
    ),
}


@pytest.mark.parametrize("kind", PICKLES)
def test_a_pickle_that_would_cost_too_much_is_refused(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pickle_budget, "STEPS", 10_000)  # fewer, so that these inputs may be small
    monkeypatch.setattr(pickle_budget, "KEYS", 1000)
    before = (unpickle._DType.__dict__.copy(), unpickle._encode.__defaults__)
    tracemalloc.start()
    try:
        with pytest.raises(DataError, match=r"^p[: ]"):
            read_pickle(io.BytesIO(PICKLES[kind]), "p")
        assert tracemalloc.get_traced_memory()[1] < 50 << 20
    finally:
        tracemalloc.stop()
    assert (unpickle._DType.__dict__.copy(), unpickle._encode.__defaults__) == before


def test_what_data_sets_hold_is_far_below_the_limits() -> None:
    """As many values as the largest batch: 50,000 names, and labels twice."""
    whole = {
        "filenames": [f"{i}.png" for i in range(50_000)],
        "fine_labels": list(range(50_000)),
        "coarse_labels": list(range(50_000)),
        "data": np.zeros((50_000, 3), np.uint8),
        "raw": bytearray(b"x"),
    }
    found = read_pickle(io.BytesIO(pickle.dumps(whole, protocol=0)), "p")  # the protocol with the most operations
    assert found["filenames"] == whole["filenames"]
    assert found["raw"] == b"x"


def _npy(header: bytes, data: bytes = b"\0" * 8) -> bytes:
    header = header.ljust(117) + b"\n"
    return b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + data


@pytest.mark.parametrize(
    "header",
    [
        b"{'descr': '<i8', 'fortran_order': False, 'shape': (1000000000000,), }",
        b"{'descr': '<i8', 'fortran_order': False, 'shape': (-1,), }",
        b"{'descr': '|O', 'fortran_order': False, 'shape': (1,), }",
        b"{'descr': [('a', '<i8')], 'fortran_order': False, 'shape': (1,), }",
        b"{'descr': '<i8', 'fortran_order': False, 'shape': (",
        b"(" * 100,
        b"\x00\xff",
    ],
)
def test_a_damaged_header_of_an_array_is_named(header: bytes) -> None:
    with pytest.raises(DataError, match="a is not a plain npy file"):
        parse_npy(_npy(header), "a", "")


def test_an_array_is_read_as_numpy_reads_it() -> None:
    for array in (
        np.arange(6.0).reshape(2, 3),
        np.asfortranarray(np.arange(6, dtype=">u2").reshape(3, 2)),
        np.zeros((0, 2)),
    ):
        file = io.BytesIO()
        np.save(file, array)
        np.testing.assert_array_equal(parse_npy(file.getvalue(), "a", ""), np.load(io.BytesIO(file.getvalue())))
    file = io.BytesIO()
    np.savez_compressed(file, a=np.zeros(20_000_000, bool))  # 20 kB that unpack to 20 MB: within the limit
    assert parse_npz(file.getvalue(), "a", "")["a"].shape == (20_000_000,)


def _checkpointed(path: Path, change: Callable[[dict], object]) -> tuple[nn.Module, torch.optim.Optimizer]:
    from safetensors.torch import load_file, save_file

    module = nn.Linear(3, 2)
    optimizer = torch.optim.SGD(module.parameters(), lr=0.1, momentum=0.9)
    save_checkpoint(path, "ab" * 32, module, optimizer, Progress(), None)
    from safetensors import safe_open

    with safe_open(path, framework="pt") as file:
        state = json.loads(file.metadata()["slabench"])
    state = change(state)
    save_file(load_file(path), path, metadata={"slabench": json.dumps(state)})
    return module, optimizer


@pytest.mark.parametrize(
    "change",
    [
        lambda state: {},
        lambda state: [1],
        lambda state: state | {"key": 5},
        lambda state: state | {"progress": [1]},
        lambda state: state | {"progress": {"step": "many"}},
        lambda state: state | {"progress": {"stp": 1}},
        lambda state: state | {"sha256": None},
    ],
)
def test_a_checkpoint_that_says_something_else_is_named(tmp_path: Path, change: Callable[[dict], object]) -> None:
    path = tmp_path / "c.safetensors"
    module, optimizer = _checkpointed(path, change)
    with pytest.raises(DataError, match=r"checkpoint .*c\.safetensors cannot be read"):
        load_checkpoint(path, "ab" * 32, module, optimizer)


def test_a_checkpoint_of_another_shape_is_named_and_changes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "c.safetensors"
    other = nn.Linear(4, 2)
    save_checkpoint(path, "ab" * 32, other, torch.optim.SGD(other.parameters(), lr=0.1), Progress(), None)
    module = nn.Linear(3, 2)
    before = {name: value.clone() for name, value in module.state_dict().items()}
    with pytest.raises(IntegrityError, match=r"'weight' is torch\.float32 \[2, 4\], and the model has"):
        load_checkpoint(path, "ab" * 32, module, torch.optim.SGD(module.parameters(), lr=0.1))
    assert all(torch.equal(before[name], value) for name, value in module.state_dict().items())


def test_numbers_in_place_of_images_in_parquet(tmp_path: Path) -> None:
    file = tmp_path / "train.parquet"
    pq.write_table(pa.table({"img": [{"bytes": 7, "path": "a"}], "label": [0]}), file)
    with pytest.raises(DataError, match="'bytes' of the column 'img' are of the type int64, not binary"):
        parquet._read_file(file, TINY)


def test_tables_that_are_no_tables(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    for content, message in (
        ("a,b\nMöwe,1\n".encode("latin-1"), "is not UTF-8 text: line 2 has the byte 0xf6"),
        (b"a,b\n" + b"x" * 200_000 + b",1\n", "line 2 is not valid CSV: field larger"),
        (b"a,c\n1,2\n", "has the columns a, c; it needs the columns a,b"),
    ):
        path.write_bytes(content)
        with pytest.raises(DataError, match=message):
            list(read_table(path, ("a", "b"), ""))
    path.write_bytes(b"\xef\xbb\xbfb,a,c\r\n 1 ,2\r\n")
    assert list(read_table(path, ("a", "b"), "")) == [(2, {"a": "2", "b": "1"})]
    root = write_mini_csvs(tmp_path / "c", mini_images())
    (root / "val.csv").write_bytes("filename,label\nMöwe.jpg,n0002\n".encode("latin-1"))
    with pytest.raises(DataError, match=r"val\.csv is not UTF-8"):
        fewshot.read_csvs(root, MINI)


@pytest.mark.parametrize("manifest", ["5", "[]", '{"format": 1}', "[" * 5000])
def test_a_manifest_of_a_store_that_says_something_else(tmp_path: Path, manifest: str) -> None:
    (tmp_path / "manifest.json").write_text(manifest)
    with pytest.raises(DataError, match=r"manifest\.json"):
        open_store(tmp_path)


def test_a_pickle_of_another_kind_of_labels_is_named(tmp_path: Path) -> None:
    file = tmp_path / "mini-imagenet-cache-test.pkl"
    for rows in (5, ["0"], [0.5], [2**70], {0: 1}, [[0]]):
        content = {"image_data": np.zeros((1, 8, 8, 3), np.uint8), "class_dict": {"n1": rows}}
        file.write_bytes(pickle.dumps(content))
        with pytest.raises(DataError, match="is not a list of whole numbers"):
            fewshot._read_cache(file, MINI)
    with pytest.raises(UnsafePickleError):
        read_pickle(io.BytesIO(pickle.dumps(Path("x"))), "p")


def test_a_list_that_crashes_its_parser_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """SciPy's parser ends its process on some damaged files; which ones depends on its version."""
    (tmp_path / "train_list.mat").write_bytes(b"x")
    with pytest.raises(DataError, match=r"train_list\.mat is not a list.*MatReadError"):
        photographs._mat(tmp_path / "train_list.mat")
    monkeypatch.setattr(photographs, "_READ_MAT", "import os; os.abort()")
    with pytest.raises(DataError, match=r"train_list\.mat is not a list.*SIGABRT"):
        photographs._mat(tmp_path / "train_list.mat")


def test_a_class_split_that_is_no_list_is_named(tmp_path: Path) -> None:
    for members in (5, 1.5, "ant", None, {"ant": 1}):
        value = {"store": "tiny", "classes": {"train": members, "val": ["bat"], "test": ["cow"]}}
        with pytest.raises(DataError, match=r"the classes of 'train' are .*, not a list"):
            parse_split(value, "tiny", (), tmp_path / "split.json")


def test_a_store_that_names_no_possible_file_is_named(tmp_path: Path) -> None:
    whole = {"format": 1, "digest": "d", "n_images": 0, "classes": ["a"], "source": {"kind": "folders"}}
    for name in ("x" * 300 + ".npy", "../labels.npy"):
        changes = {"counts": {"train": [0], "test": [0]}, "files": {name: {"bytes": 1, "sha256": "s"}}}
        (tmp_path / "manifest.json").write_text(json.dumps(whole | changes))
        with pytest.raises(IntegrityError, match=r"manifest\.json: files"):
            open_store(tmp_path)
