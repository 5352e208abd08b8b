"""Every reader of files that others wrote, each with whole examples to damage.

A reader takes the bytes of one file and either returns or raises an error of slabench; anything else is a fault. Digests beside
the bytes are made right again, so that what lies behind the check of the digest is reached.
"""

from __future__ import annotations

import hashlib
import io
import json
import pickle
import tarfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from data_layouts import MINI, TINY, batch_files, encode, python2_pickle, tiny_parts, write_archive, write_parquet
from model_outputs import make_outputs
from own_images import picture
from PIL import Image
from result_records import classifier_record, make_record
from torch import nn

from slabench.core.files import read_json
from slabench.data import longtail, longtail_files
from slabench.data.imageset import ImageSet
from slabench.data.own_facts import OwnFacts, changed_splits, read_facts
from slabench.data.sources import fewshot, own_lists, parquet, photographs, pybatches
from slabench.data.sources.images import decode_image
from slabench.data.sources.unpickle import read_pickle
from slabench.data.splits import parse_split
from slabench.data.store import open_store, remarks, write_store
from slabench.episodes import files as episode_files
from slabench.evaluation.metrics import read_prior
from slabench.ranking import published
from slabench.recipes import load_recipe
from slabench.records.outputs import ModelWeights, load_outputs, load_weights, save_outputs, save_weights
from slabench.records.reading import read_record
from slabench.records.store import ResultStore
from slabench.reproduction.definition import load_table
from slabench.suites.fewshot.features import cached
from slabench.training.checkpoint import Progress, load_checkpoint, save_checkpoint

CLASSES = ("ant", "bat", "cow")


@dataclass(frozen=True)
class Reader:
    """Whole files, and what reads the bytes of a damaged one."""

    seeds: tuple[bytes, ...]
    read: Callable[[bytes], object]


def readers(folder: Path) -> dict[str, Reader]:
    """All of them; they write below `folder`, which is new.

    Stanford's lists (`.mat`) are not among them: each is read in a process of its own, which takes half a second.
    """
    folder.mkdir(parents=True)
    return {
        "record (JSON)": _record(folder / "record.json"),
        "side file (npz)": _side_file(folder / "results"),
        "outputs (safetensors)": _outputs(folder),
        "weights (safetensors)": _weights(folder),
        "checkpoint (safetensors)": _checkpoint(folder / "c.safetensors"),
        "kept features (safetensors)": _features(folder / "f.safetensors"),
        "recipe (TOML)": _text(folder / "r.toml", load_recipe, _recipes(), as_name=True),
        "table (TOML)": _text(folder / "t.toml", load_table, _tables(), as_name=True),
        "published numbers (CSV)": _text(
            folder / "p.csv", lambda path: published._read.__wrapped__(path, 0), _published()
        ),
        "counts (CSV)": _text(
            folder / "n.csv",
            partial(longtail.read_counts, class_names=CLASSES),
            [b"class,count\nant,5\nbat,3\ncow,1\n"],
        ),
        "prior (CSV)": _text(
            folder / "s.csv",
            lambda path: read_prior(str(path), CLASSES, None),
            [b"class,share\nant,.5\nbat,.3\ncow,.2\n"],
        ),
        "image list (CSV)": _text(
            folder / "train.csv", fewshot._read_list, [b"filename,label\nn0001.jpg,n0001\nn2.jpg,n0002\n"]
        ),
        "image list (text)": _text(folder / "images.txt", photographs._table, [b"1 001.A/a.jpg\n2 002.B/b.jpg\n"]),
        "episodes (npy)": _episodes(folder / "episodes"),
        "episodes' manifest (JSON)": _episode_manifest(folder / "manifests"),
        "subset (npy)": _subset(folder / "subset"),
        "class split (JSON)": _text(
            folder / "split.json",
            _split,
            [json.dumps({"store": "tiny", "classes": {"train": ["ant"], "val": ["bat"], "test": ["cow"]}}).encode()],
        ),
        "store's manifest (JSON)": _store(folder / "store", "manifest.json"),
        "store's arrays (npy)": _store(folder / "arrays", "labels.npy"),
        "pickle": Reader(_pickles(), lambda data: read_pickle(io.BytesIO(data), "p")),
        "python batches (pickle)": _batches(folder / "batches"),
        "python batches (tar.gz)": _archive(folder / "cifar-100-python.tar.gz"),
        "image caches (pickle)": _text(
            folder / "mini-imagenet-cache-test.pkl", lambda path: fewshot._read_cache(path, MINI), _caches()
        ),
        "images (parquet)": _parquet(folder / "parquet"),
        "own images' facts (JSON)": _own_facts(folder / "mine"),
        "own list (CSV)": _text(
            folder / "own.csv",
            own_lists.read_list,
            [b"path,label,split\nown.csv,ant,train\nr.toml,bat,test\n", b"file,class\nown.csv,ant\n"],
        ),
        "own list (parquet)": _own_parquet(folder / "own.parquet"),
        "own list (CoOp's JSON)": _coop(folder / "coop"),
        "own image": Reader(_own_images(), lambda data: decode_image(data, 8, "i", fit="centre", own=True)),
        "image": Reader(_images(), lambda data: decode_image(data, 8, "i", fit="scale")),
    }


def _text(path: Path, read: Callable[..., object], seeds: list[bytes], *, as_name: bool = False) -> Reader:
    def attempt(data: bytes) -> object:
        path.write_bytes(data)
        return read(str(path) if as_name else path)

    return Reader(tuple(seeds), attempt)


def _split(path: Path) -> object:
    return parse_split(read_json(path), "tiny", CLASSES, path)


def _record(path: Path) -> Reader:
    made = [
        make_record("sla"),
        classifier_record(per_class={"a": 0.5, "b": 0.25}, counts={"a": 9, "b": 3}),
        make_record(status="failed", error="no", scores=[], selection=None, cost=None),
    ]
    return _text(path, read_record, [json.dumps(one.model_dump(mode="json", by_alias=True)).encode() for one in made])


def _side_file(root: Path) -> Reader:
    store, arrays = ResultStore(root), {"single": [0.5, 0.25, 1.0], "aggregated": [0.5, 0.75, 0.0]}
    record = read_record(store.save(make_record(accuracies=arrays), arrays))
    path = store.path(record).parent / str(record.side_file)

    def attempt(data: bytes) -> object:
        path.write_bytes(data)
        return store.episodes(record.model_copy(update={"side_sha256": hashlib.sha256(data).hexdigest()}))

    plain = io.BytesIO()
    np.savez(plain, single=np.array([0.5, 0.25], np.float32))
    return Reader((path.read_bytes(), plain.getvalue()), attempt)


def _sealed(path: Path, seed: bytes, load: Callable[[Path, str], object]) -> Reader:
    def attempt(data: bytes) -> object:
        path.write_bytes(data)
        return load(path, hashlib.sha256(data).hexdigest())

    return Reader((seed,), attempt)


def _outputs(folder: Path) -> Reader:
    path = folder / "o.safetensors"
    save_outputs(make_outputs(), path)
    return _sealed(path, path.read_bytes(), load_outputs)


def _weights(folder: Path) -> Reader:
    path = folder / "w.safetensors"
    save_weights(ModelWeights(nn.Linear(3, 2).state_dict(), "ab" * 32), path)
    return _sealed(path, path.read_bytes(), load_weights)


def _checkpoint(path: Path) -> Reader:
    module = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    optimizer = torch.optim.Adam(module.parameters())
    module(torch.ones(3, 2)).sum().backward()
    optimizer.step()
    save_checkpoint(path, "ab" * 32, module, optimizer, Progress(step=3), module.state_dict())
    return _text(path, lambda file: load_checkpoint(file, "ab" * 32, module, optimizer), [path.read_bytes()])


def _features(path: Path) -> Reader:
    cached(path, "key", lambda: torch.ones(2, 3))
    return _text(path, lambda file: cached(file, "key", lambda: torch.ones(2, 3)), [path.read_bytes()])


def _recipes() -> list[bytes]:
    own = (
        b"extends = 'fewshot/standard'\nname = 'own'\nseeds = [0, 1]\n[data]\ndataset = 'glyphs'\n[train]\nlr = 1e-3\n"
    )
    variants = b"[[variants]]\nname = 'a'\nloss.name = 'ldam'\n[[variants]]\nname = 'b'\n"
    return [own, b"suite = 'imbalanced'\ndata.dataset = 'glyphs'\n" + variants]


def _tables() -> list[bytes]:
    from slabench.core import paths

    return [path.read_bytes() for path in sorted((paths.benchmarks() / "tables").rglob("*.toml"))]


def _published() -> list[bytes]:
    from slabench.core import paths

    files = sorted((paths.shipped_results() / "published").glob("*.csv"))
    return [b"\n".join(file.read_bytes().splitlines()[:4]) + b"\n" for file in files]


def _image_set() -> ImageSet:
    labels = np.repeat(np.arange(3), 8)
    return ImageSet(
        name="tiny/test",
        images=np.zeros((24, 4, 4, 3), np.uint8),
        labels=labels,
        class_names=CLASSES,
        digest="d" * 64,
        split_digest="c" * 64,
        parts=np.zeros(24, np.uint8),
        source_positions=np.arange(24, dtype=np.int32),
    )


def _vouched(path: Path, read: Callable[[Path], object]) -> Reader:
    """An index file whose manifest has the digest of whatever bytes it has."""
    manifest = json.loads(path.with_suffix(".json").read_text())

    def attempt(data: bytes) -> object:
        path.write_bytes(data)
        path.with_suffix(".json").write_text(json.dumps(manifest | {"sha256": hashlib.sha256(data).hexdigest()}))
        return read(path)

    return Reader((path.read_bytes(),), attempt)


def _episodes(folder: Path) -> Reader:
    images = _image_set()
    path = episode_files.make(images, "tiny", "test", 2, 1, 2, 5, folder)
    return _vouched(path, lambda file: episode_files.open_file(file, images))


def _episode_manifest(folder: Path) -> Reader:
    images = _image_set()
    path = episode_files.make(images, "tiny", "test", 2, 2, 2, 5, folder, support_profile="linear:2")
    seed = path.with_suffix(".json").read_bytes()

    def attempt(data: bytes) -> object:
        path.with_suffix(".json").write_bytes(data)
        return episode_files.open_file(path, images)

    return Reader((seed,), attempt)


def _subset(folder: Path) -> Reader:
    images = _image_set()
    path = longtail_files.make_subset(
        images, "tiny", profile="exp", ratio=4, class_order="label", seed=0, folder=folder
    )
    return _vouched(path, lambda file: longtail_files.open_subset(file, images))


def _store(folder: Path, name: str) -> Reader:
    raw = pybatches.read(_batch_folder(folder / "raw"), TINY)
    write_store(folder / "tiny", raw)
    path, seed = folder / "tiny" / name, (folder / "tiny" / name).read_bytes()
    seeds = [seed]
    if name == "manifest.json":
        manifest = json.loads(seed)
        manifest["source"] |= {"image_formats": {"JPEG": 3, "PNG": 21}, "unpublished": "train: not the publisher's"}
        seeds.append(json.dumps(manifest | {"repeats": {"test_in_train": 1, "other_class": 2}}).encode())

    def attempt(data: bytes) -> object:
        path.write_bytes(data[: len(seed)].ljust(len(seed), b"\0") if name != "manifest.json" else data)
        store, entry = open_store(path.parent), replace(TINY, lossless=True)
        return store.images("tiny", store.origin(entry)).class_rows(), remarks(entry, store)

    return Reader(tuple(seeds), attempt)


def _pickles() -> tuple[bytes, ...]:
    value = {"image_data": np.arange(12, dtype=np.uint8), "class_dict": {"a": [0, 1]}, "n": (1, 2.5, None, {3}, b"x")}
    return (
        python2_pickle({b"a": np.arange(5.0), b"b": [1, b"c"]}),
        *(pickle.dumps(value, protocol=p) for p in range(6)),
    )


def _caches() -> list[bytes]:
    content = {"image_data": np.zeros((3, 8, 8, 3), np.uint8), "class_dict": {"n0001": [0, 2], "n0002": [1]}}
    return [pickle.dumps(content, protocol=2), pickle.dumps(content, protocol=4)]


def _batch_folder(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, data in batch_files(tiny_parts()).items():
        (folder / name).write_bytes(data)
    return folder


def _batches(folder: Path) -> Reader:
    _batch_folder(folder)
    return _text(folder / "test", lambda path: pybatches.read(path.parent, TINY), [(folder / "test").read_bytes()])


def _archive(path: Path) -> Reader:
    seed = write_archive(path, batch_files(tiny_parts())).read_bytes()
    plain = io.BytesIO()
    with tarfile.open(fileobj=plain, mode="w") as tar:
        for name, data in batch_files(tiny_parts()).items():
            member = tarfile.TarInfo(f"cifar-100-python/{name}")
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return _text(path, lambda file: pybatches.read(file, TINY), [seed, plain.getvalue()])


def _parquet(folder: Path) -> Reader:
    write_parquet(folder, tiny_parts())
    path = folder / "test-00000-of-00001.parquet"
    return _text(path, lambda file: parquet._read_file(file, replace(TINY, classes=CLASSES)), [path.read_bytes()])


def _images() -> tuple[bytes, ...]:
    pixels = np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    return tuple(encode(pixels, kind) for kind in ("PNG", "JPEG", "GIF", "BMP"))


def _own_facts(folder: Path) -> Reader:
    facts = OwnFacts(
        name=folder.name,
        summary="own images",
        source="class folders: photos",
        image_size=16,
        n_classes=6,
        fewshot=True,
        mean=(100.5, 90, 80),
        std=(50.5, 40, 30),
        seed=0,
        classes_from="drawn with seed 0",
        images_from="as given",
        sha256={"class-split.json": "ab" * 32, "image-split.csv": "cd" * 32},
    )
    folder.mkdir()

    def read(path: Path) -> object:
        return changed_splits(read_facts(path.parent).info(path.parent))

    return _text(folder / "own.json", read, [json.dumps(facts.model_dump(mode="json")).encode()])


def _own_parquet(path: Path) -> Reader:
    rows = [{"path": path.name, "label": "ant", "split": "train"}, {"path": "r.toml", "label": "bat", "split": "test"}]
    seeds = []
    for more in ({}, {"compression": "none", "use_dictionary": False}):
        file = io.BytesIO()
        pq.write_table(pa.Table.from_pylist(rows), file, **more)
        seeds.append(file.getvalue())
    (path.parent / "r.toml").touch()
    return _text(path, own_lists.read_list, seeds)


def _coop(folder: Path) -> Reader:
    (folder / "images").mkdir(parents=True)
    rows = {part: [[f"{part}.png", label, f"class {label}"]] for label, part in enumerate(("train", "val", "test"))}
    for part in rows:
        (folder / "images" / f"{part}.png").touch()
    path = folder / "split_zhou_Own.json"
    return _text(path, lambda file: own_lists.coop(file.parent), [json.dumps(rows).encode()])


def _own_images() -> tuple[bytes, ...]:
    seeds = []
    image = picture("a", (12, 12))
    exif = image.getexif()
    exif[0x0112] = 6  # turned by a quarter
    grey = Image.fromarray(np.arange(144, dtype=np.int32).reshape(12, 12))
    for one, kind, more in (
        *((image, kind, {"exif": exif}) for kind in ("JPEG", "PNG", "WEBP")),
        *((image, "TIFF", {"compression": how}) for how in ("raw", "tiff_lzw")),
        *((other, "TIFF", {}) for other in (grey, image.convert("RGBA"))),
    ):
        file = io.BytesIO()
        one.save(file, kind, **more)
        seeds.append(file.getvalue())
    return tuple(seeds)
