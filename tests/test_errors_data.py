"""Damaged and mistaken data: every import is answered with the file that is wrong, the remedy and the exit code."""

from __future__ import annotations

import http.client
import io
import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from data_layouts import encode, write_batches
from PIL import Image
from processes import here
from told import AGAIN, names

from slabench.core import paths
from slabench.core.errors import DataError, DataMissingError, IntegrityError, UnsafePickleError
from slabench.core.files import sha256_file
from slabench.data import loading, splits
from slabench.data.catalog import info
from slabench.data.sources import download
from slabench.data.sources.fewshot import CIFARFS
from slabench.data.sources.photographs import MIT67
from slabench.data.sources.pybatches import KIND as BATCHES
from slabench.data.sources.unpickle import read_pickle
from slabench.data.store import open_store

COLUMNS = "the columns img and fine_label (or label)"
CIFAR10 = info("cifar10").classes


def refused(name: str, path: Path) -> tuple[str, str]:
    """What was wrong with PATH and the remedy, of `slabench data import NAME PATH`."""
    code, output = here("data", "import", name, str(path))
    assert code == 1, output
    assert "Traceback" not in output
    assert not (paths.data() / name).exists()
    message, *rest = output[output.index("error: ") :].splitlines()
    return message.removeprefix("error: "), "\n".join(rest).strip()


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "files").mkdir()
    return tmp_path / "files"


class TestBatches:
    """CIFAR-10 as published."""

    def batches(self, root: Path, **changes: Any) -> Path:
        whole = {"data": np.zeros((2, 3072), np.uint8), "labels": [0, 1]}
        files = {f"data_batch_{number}": whole for number in range(1, 6)}
        files |= {"test_batch": whole, "batches.meta": {"label_names": list(CIFAR10)}, **changes}
        return write_batches(root, {name: pickle.dumps(value, protocol=2) for name, value in files.items()})

    def test_no_test_batch(self, root: Path) -> None:
        (self.batches(root) / "test_batch").unlink()
        names(refused("cifar10", root), root, "test_batch", remedy="data_batch_1..5, test_batch, batches.meta")

    def test_no_dict(self, root: Path) -> None:
        names(
            refused("cifar10", self.batches(root, data_batch_2=[1, 2])),
            root,
            "data_batch_2",
            "list",
            remedy="python version of CIFAR",
        )

    def test_no_labels(self, root: Path) -> None:
        batch = {"data": np.zeros((2, 3072), np.uint8), "fine_labels": [0, 1]}
        names(
            refused("cifar10", self.batches(root, data_batch_1=batch)),
            root,
            "data_batch_1",
            "data, fine_labels",
            "'labels'",
            remedy="data set you named",
        )

    @pytest.mark.parametrize(
        ("data", "shown"),
        [(np.zeros((2, 3000), np.uint8), "(2, 3000)"), (np.zeros((2, 3072)), "(2, 3072)"), (7, "int")],
    )
    def test_no_images(self, root: Path, data: Any, shown: str) -> None:
        said = refused("cifar10", self.batches(root, test_batch={"data": data, "labels": [0, 1]}))
        names(said, root, "test_batch", "'data'", shown, "uint8", 3072, remedy=AGAIN)

    def test_more_images_than_labels(self, root: Path) -> None:
        batch = {"data": np.zeros((3, 3072), np.uint8), "labels": [0, 1]}
        names(
            refused("cifar10", self.batches(root, data_batch_3=batch)),
            root,
            "data_batch_3",
            "3 images",
            "2 labels",
            remedy=AGAIN,
        )


class TestParquet:
    """CIFAR-10 from the hub."""

    def write(self, root: Path, name: str = "train.parquet", **columns: Any) -> Path:
        image = {"bytes": encode(np.zeros((32, 32, 3), np.uint8)), "path": None}
        pq.write_table(pa.table({"img": [image, image], "label": [0, 1], **columns}), root / name)
        return root / name

    def test_neither_train_nor_test(self, root: Path) -> None:
        file = self.write(root, "validation.parquet")
        names(refused("cifar10", root), file, "train", "test", remedy="train-00000-of-00001.parquet")

    def test_no_column_of_labels(self, root: Path) -> None:
        table = pa.table({"img": [1], "coarse_label": [0]})
        pq.write_table(table, root / "train.parquet")
        said = refused("cifar10", root)
        names(said, root / "train.parquet", "img, coarse_label", "fine_label, label", remedy=COLUMNS)

    def test_images_that_are_no_struct(self, root: Path) -> None:
        file = self.write(root, img=[b"x", b"y"])
        names(refused("cifar10", root), file, "'img'", "'bytes'", "'path'", remedy=COLUMNS)

    def test_a_struct_without_bytes(self, root: Path) -> None:
        file = self.write(root, img=[{"path": "a.png"}, {"path": "b.png"}])
        names(refused("cifar10", root), file, "'img'", "'bytes'", "'path'", remedy=COLUMNS)

    def test_a_row_without_an_image(self, root: Path) -> None:
        whole = {"bytes": encode(np.zeros((32, 32, 3), np.uint8)), "path": None}
        file = self.write(root, img=[whole, {"bytes": None, "path": "a.png"}])
        names(refused("cifar10", root), file, "row 1", remedy=AGAIN)

    @pytest.mark.parametrize(
        ("labels", "found"),
        [(["cat", "dog"], "string"), ([0.5, 1.5], "double"), ([0, None], "1")],
    )
    def test_labels_that_are_no_numbers(self, root: Path, labels: list[Any], found: str) -> None:
        file = self.write(root, label=labels)
        names(refused("cifar10", root), file, "'label'", found, remedy=COLUMNS)


def test_class_folders_without_a_test_part(root: Path) -> None:
    for name in CIFAR10:
        (root / "train" / name).mkdir(parents=True)
        (root / "train" / name / "1.png").touch()
    names(refused("cifar10", root), root, "'test'", remedy=("train/<class>/*.png|jpg", "test/<class>/*.png|jpg"))


def test_an_image_of_too_many_pixels(root: Path) -> None:
    """64 million at most are decoded, whatever the file's own size (here some 100 kB)."""
    for part in ("train", "test"):
        for name in CIFAR10:
            (root / part / name).mkdir(parents=True)
            (root / part / name / "1.png").write_bytes(encode(np.zeros((32, 32, 3), np.uint8)))
    bomb = root / "train" / CIFAR10[0] / "1.png"
    Image.new("1", (10_000, 6_401)).save(bomb)
    names(refused("cifar10", root), bomb, "10000 x 6401", remedy="scale")


class TestLearn2learn:
    """CIFAR-FS as learn2learn unpacks it."""

    def test_no_image(self, root: Path) -> None:
        folder = root / "cifarfs" / "cifar100" / "data"
        (folder / "apple").mkdir(parents=True)
        names(refused("cifar100", root), folder, remedy="cifarfs/cifar100/data/<class>/*.png")

    def test_a_class_of_other_images(self, root: Path) -> None:
        folder = root / "cifarfs" / "cifar100" / "data" / "apple"
        folder.mkdir(parents=True)
        (folder / "1.png").write_bytes(encode(np.zeros((32, 32, 3), np.uint8)))
        names(refused("cifar100", root), root, "'apple'", "cifar100", remedy="slabench show dataset cifar100")


class TestPhotographs:
    """MIT Indoor 67."""

    def rooms(self, root: Path, n: int, listed: Callable[[int], tuple[bool, bool]]) -> None:
        lists: dict[str, list[str]] = {"TrainImages.txt": [], "TestImages.txt": []}
        for room in range(n):
            (root / "Images" / f"room{room:02}").mkdir(parents=True)
            for (_, lines), wanted in zip(lists.items(), listed(room), strict=True):
                lines += [f"room{room:02}/{len(lines)}.jpg"] * wanted
        for name, lines in lists.items():
            (root / name).write_text("\n".join(lines), encoding="utf-8")

    def test_too_few_classes(self, root: Path) -> None:
        self.rooms(root, 3, lambda room: (True, True))
        names(refused("mit67", root), root, "3 classes", "mit67 has 67", remedy="PATH")

    @pytest.mark.parametrize(("part", "gap"), [("training", (False, True)), ("test", (True, False))])
    def test_a_class_without_images(self, root: Path, part: str, gap: tuple[bool, bool]) -> None:
        self.rooms(root, 67, lambda room: gap if room == 41 else (True, True))
        names(refused("mit67", root), "'room41'", part, root, remedy=AGAIN)

    def test_no_folder_of_images(self, root: Path) -> None:
        (root / "TrainImages.txt").write_text("attic/1.jpg\n", encoding="utf-8")
        names(refused("mit67", root), root / "Images", remedy=AGAIN)


def test_readers_that_are_given_another_layout(root: Path) -> None:
    """`data import` asks `find` first; a caller of `read` alone is told as well."""
    for kind, name, missing in (
        (BATCHES, "cifar10", "python batches"),
        (MIT67, "mit67", "TrainImages.txt, TestImages.txt"),
    ):
        with pytest.raises(DataError) as caught:
            kind.read(root, info(name))
        names(caught.value, root, missing, remedy=kind.layout)
    assert not CIFARFS.find(root)


class TestPickles:
    """What `read_pickle` refuses beside code."""

    def read(self, data: bytes, tmp_path: Path) -> Any:
        (tmp_path / "x.pkl").write_bytes(data)
        with open(tmp_path / "x.pkl", "rb") as file:
            return read_pickle(file, "x.pkl")

    def test_an_array_of_objects(self, tmp_path: Path) -> None:
        """The element type is one of numbers; the content is a list all the same."""
        dtype = b"cnumpy\ndtype\n(U\x02u1K\x00K\x01tR"
        array = b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\nK\x00K\x00tR"
        with pytest.raises(UnsafePickleError) as caught:
            self.read(array + b"(K\x01(K\x02t" + dtype + b"I00\n]tb.", tmp_path)
        names(caught.value, "x.pkl", "array of objects", remedy="none of its code was run")

    def test_an_array_of_a_foreign_class(self, tmp_path: Path) -> None:
        data = pickle.dumps(np.zeros(2, np.uint8), protocol=2).replace(b"cnumpy\nndarray\n", b"cbuiltins\nlist\n")
        with pytest.raises(UnsafePickleError) as caught:
            self.read(data, tmp_path)
        names(caught.value, "x.pkl", "foreign class", remedy="none of its code was run")

    def test_an_array_without_content(self, tmp_path: Path) -> None:
        with pytest.raises(DataError) as caught:
            self.read(b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\nK\x00K\x00tR.", tmp_path)
        names(caught.value, "x.pkl", "without content", remedy=AGAIN)


class TestDownloads:
    """Connections that break; the server is a stand-in."""

    @pytest.mark.parametrize("failure", ["IncompleteRead", "reset"])
    def test_a_download_that_breaks_off(self, failure: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        error = (
            http.client.IncompleteRead(b"") if failure == "IncompleteRead" else ConnectionResetError("reset by peer")
        )

        class Response(io.BytesIO):
            headers: ClassVar = {"Content-Length": "5000"}

            def read(self, size: int | None = -1) -> bytes:
                data = super().read(size)
                if not data:
                    raise error
                return data

        opener = download.urllib.request.OpenerDirector
        monkeypatch.setattr(opener, "open", lambda *_, **__: Response(b"x" * 1234))
        code, output = here("data", "get", "cifar10")
        assert code == 1
        names((output, output), info("cifar10").url, "1,234 bytes", remedy="try again")
        assert not list(paths.data().iterdir())

    def test_learn2learn_without_a_network(self, monkeypatch: pytest.MonkeyPatch) -> None:
        class Module:
            pickle = pickle

            @staticmethod
            def MiniImagenet(**_: object) -> None:
                raise ConnectionError("no route to host")

        monkeypatch.setattr(download, "find_spec", lambda name: object())
        monkeypatch.setattr(download, "import_module", lambda name: Module)
        code, output = here("data", "get", "mini-imagenet")
        assert code == 2
        names((output, output), "'train'", "no route to host", remedy="slabench data import mini-imagenet PATH")
        assert Module.pickle is pickle


class TestStores:
    """A prepared store that was meddled with."""

    def digits(self) -> Path:
        return loading.ensure("digits")

    def test_nothing_there(self, tmp_path: Path) -> None:
        with pytest.raises(DataError) as caught:
            open_store(tmp_path / "cifar10")
        names(caught.value, tmp_path / "cifar10", remedy="slabench data get cifar10 --replace")

    def verify(self) -> str:
        code, output = here("data", "verify", "digits")
        assert code == 1
        assert "slabench data get digits --replace" in output
        return output

    def test_a_manifest_that_lacks_keys(self) -> None:
        file = self.digits() / "manifest.json"
        manifest = json.loads(file.read_text(encoding="utf-8"))
        del manifest["digest"], manifest["counts"]
        file.write_text(json.dumps(manifest), encoding="utf-8")
        names((self.verify(), ""), file, "counts, digest", remedy=())
        with pytest.raises(IntegrityError) as caught:
            loading.load("digits", "train")
        assert "slabench data get digits --replace" in caught.value.remedy

    def replace(self, name: str, data: bytes) -> Path:
        """Put `data` in the place of an array, and its digest into the manifest."""
        folder = self.digits()
        (folder / name).write_bytes(data)
        file = folder / "manifest.json"
        manifest = json.loads(file.read_text(encoding="utf-8"))
        manifest["files"][name] = {"bytes": len(data), "sha256": sha256_file(folder / name)}
        file.write_text(json.dumps(manifest), encoding="utf-8")
        return folder / name

    @pytest.mark.parametrize("data", [b"no array", b"", b"PK\x03\x04 no archive either", b"\x93NUMPY\x01\x00"])
    def test_an_array_that_is_none(self, data: bytes) -> None:
        file = self.replace("labels.npy", data)
        names((self.verify(), ""), file, remedy=())
        with pytest.raises(IntegrityError) as caught:
            loading.load("digits", "train")
        names(caught.value, file, remedy="--replace")

    def test_an_array_of_another_length(self, tmp_path: Path) -> None:
        np.save(tmp_path / "short.npy", np.zeros(7, np.int64))
        file = self.replace("labels.npy", (tmp_path / "short.npy").read_bytes())
        names((self.verify(), ""), file, "7 rows", "1,797", remedy=())
        with pytest.raises(IntegrityError) as caught:
            loading.load("digits", "train")
        names(caught.value, file, remedy="--replace")


class TestClassSplits:
    """The few-shot splits that travel with slabench."""

    def test_missing(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(splits.paths, "episodes", lambda: tmp_path)
        code, output = here("show", "dataset", "fc100")
        assert code == 1
        names((output, output), tmp_path / "splits" / "fc100.json", remedy="reinstall slabench")

    @pytest.mark.parametrize("content", [[], {}, {"classes": {}}, {"store": "cifar100", "classes": []}])
    def test_malformed(self, content: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(splits.paths, "episodes", lambda: tmp_path)
        file = tmp_path / "splits" / "fc100.json"
        file.parent.mkdir()
        file.write_text(json.dumps(content), encoding="utf-8")
        code, output = here("show", "dataset", "fc100")
        assert code == 1
        names((output, output), file, "'store'", "'classes'", remedy="restore the file")


def test_a_name_that_the_module_lacks() -> None:
    import slabench.data

    with pytest.raises(AttributeError, match=r"module 'slabench\.data' has no attribute 'nothing'"):
        slabench.data.nothing  # noqa: B018


def test_no_download_is_named_with_what_is_missing() -> None:
    """`fetch` alone, without the ways that the command lists."""
    with pytest.raises(DataMissingError, match="there is no download for cub200"):
        download.fetch(info("cub200"))
