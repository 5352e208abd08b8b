"""Features of one's own: out of a run and back with the same scores, aligned by ids, alone with labels; what is refused."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file

from slabench import runner
from slabench.core import registry
from slabench.core.errors import DataError, DataMissingError, SlabenchError, UsageError
from slabench.data import load
from slabench.embedders import open_features
from slabench.embedders.files import read_features, write_features
from slabench.embedders.importing import import_features, named_or_imported
from slabench.ranking.boards import boards
from slabench.ranking.rows import rows
from slabench.recipes import load_recipe
from slabench.records.record import RunRecord
from slabench.records.store import ResultStore
from slabench.suites.fewshot import scoring
from slabench.suites.fewshot.export_features import export_features
from slabench.suites.fewshot.score_features import score_features
from slabench.suites.fewshot.score_heads import score_heads

pytestmark = pytest.mark.usefixtures("glyphs")
EPISODES = {"queries": 3, "episodes": 20}
HEADS = ["protonet", "simpleshot", "logistic"]


@pytest.fixture(autouse=True)
def _few_base_images(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scoring, "BASE_IMAGES", 3)


def run(folder: Path) -> RunRecord:
    settings = {
        "data.dataset": "glyphs",
        "protocol.shots": 2,
        "protocol.queries": 3,
        "protocol.episodes": 20,
        "train.queries": 2,
        "train.steps": 2,
        "train.precision": "float32",
        "select.points": 0,
        "sla.transforms": "rotation2",
    }
    (outcome,) = runner.run(load_recipe("fewshot/standard", settings)[0], results=folder, device="cpu")
    assert outcome.record is not None
    return outcome.record


def of_images(split: str = "test", views: int = 2) -> np.ndarray:
    """Features of glyphs that tell classes apart a little: their pixels, shrunk."""
    images = np.asarray(load("glyphs", split).images).astype(np.float32).mean(-1)
    plain = images.reshape(len(images), 8, 4, 8, 4).mean((2, 4)).reshape(len(images), 64)
    return np.stack([np.roll(plain, j, 1) for j in range(views)], 1)


def file_of(path: Path, split: str = "test", order: np.ndarray | None = None, **more: Any) -> Path:
    features = of_images(split)
    chosen = np.arange(len(features)) if order is None else order
    np.savez(path, features=features[chosen], ids=chosen, split=np.array(split), **more)
    return path


def values(name: str, dataset: str | None, folder: Path, heads: list[str] | None = None, **more: Any) -> dict[str, Any]:
    found = score_features(
        name, dataset, heads or ["protonet"], shots=[2], results=folder, save=True, **EPISODES, **more
    )
    store = ResultStore(folder)
    return {result.head: store.episodes(saved(store, result.record)) for result in found.results}


def saved(store: ResultStore, record: RunRecord) -> RunRecord:
    """As it lies in the folder, where it names the file of its episodes."""
    found = store.find(record.key)
    assert found is not None
    assert found.side_file is not None
    return found


def test_a_round_trip_gives_the_same_scores(tmp_path: Path) -> None:
    results = tmp_path / "results"
    record = run(results)
    for split, kind in (("test", "npz"), ("train", "safetensors")):
        file = tmp_path / f"{split}.{kind}"
        n, m, _ = export_features(record.key, file, split=split, results=results)
        assert (n, m) == (len(load("glyphs", split)), 2)
        made = import_features("mine", file, "glyphs", transforms="rotation2")
    assert made.embedder.embedder.endswith(record.key[:12])
    assert made.embedder.weights_sha256 == record.outputs_sha256
    back = values("mine", "glyphs", tmp_path / "back", HEADS)
    store = ResultStore(results)
    for result in score_heads(record.key, HEADS, shots=[2], results=results, save=True).results:
        for predictor, expected in store.episodes(saved(store, result.record)).items():
            np.testing.assert_array_equal(back[result.head][predictor], expected, err_msg=f"{result.head} {predictor}")
        assert result.record.protocol_digest == record.protocol_digest


def test_the_protocol_is_that_of_images(tmp_path: Path) -> None:
    import_features("mine", file_of(tmp_path / "a.npz"), "glyphs")
    (result,) = score_features("mine", "glyphs", ["protonet"], shots=[2], **EPISODES).results
    trained = run(tmp_path / "results")
    for field in ("protocol", "protocol_digest", "dataset_digest", "split_digest", "episodes_digest"):
        assert getattr(result.record, field) == getattr(trained, field)
    assert result.record.setting("model", "learner") == "frozen"


@pytest.mark.parametrize("suffix", [".npz", ".safetensors", ".parquet"])
def test_every_kind_of_file_holds_the_same(tmp_path: Path, suffix: str) -> None:
    images = load("glyphs", "test")
    features, ids = of_images().astype(np.float16), np.arange(len(images))
    path = tmp_path / f"features{suffix}"
    facts = {"embedder": "clip:x", "resolution": 224, "contaminated": "no"}
    write_features(
        path, features, ids=ids, labels=images.labels, class_names=images.class_names, split="test", facts=facts
    )
    found = read_features(path)
    np.testing.assert_array_equal(found.features, features)
    np.testing.assert_array_equal(found.ids, ids)
    assert [found.class_names[label] for label in found.labels] == [images.class_names[k] for k in images.labels]
    assert found.facts == facts
    assert set(found.splits) == {"test"}


def test_a_shuffled_file_gives_identical_scores(tmp_path: Path) -> None:
    order = np.random.default_rng(0).permutation(len(load("glyphs", "test")))
    import_features("plain", file_of(tmp_path / "a.npz"), "glyphs")
    import_features("shuffled", file_of(tmp_path / "b.npz", order=order), "glyphs")
    first, second = (values(name, "glyphs", tmp_path / "r") for name in ("plain", "shuffled"))
    for predictor in ("single", "aggregated"):
        np.testing.assert_array_equal(first["protonet"][predictor], second["protonet"][predictor])
    assert len({predictor: array.tobytes() for predictor, array in first["protonet"].items()}) == 2


def blobs(path: Path, seed: int = 0, shift: int = 0) -> Path:
    """Eighteen classes of twelve rows around centres of their own."""
    generator = np.random.default_rng(1)
    labels = np.repeat(np.arange(18), 12)
    features = generator.normal(size=(18, 8))[labels] * 2 + generator.normal(size=(len(labels), 8))
    order = np.random.default_rng(seed).permutation(len(labels))
    names = np.array([f"kind {(k + shift) % 18:02}" for k in range(18)])
    np.savez(path, features=features[order].astype(np.float32), labels=(labels[order] - shift) % 18, class_names=names)
    return path


def test_labels_alone_make_a_data_set_of_their_own(tmp_path: Path) -> None:
    made = import_features("blobs", blobs(tmp_path / "a.npz"))
    test = open_features("blobs", "blobs", "test")
    assert (made.M, made.transforms, len(test.class_names)) == (1, "identity", 5)
    np.testing.assert_array_equal(test.labels, np.repeat(np.arange(5), 12))
    found = values("blobs", None, tmp_path / "r")
    assert list(found["protonet"]) == ["single"]  # one view: nothing to aggregate
    assert found["protonet"]["single"].mean() > 0.8
    import_features("again", blobs(tmp_path / "b.npz", seed=3, shift=5))
    np.testing.assert_array_equal(open_features("again", "again", "test").features(), test.features())


def test_a_file_is_scored_under_its_digest(tmp_path: Path) -> None:
    file = file_of(tmp_path / "a.npz")
    told: list[str] = []
    name, dataset = named_or_imported(str(file), "glyphs", told.append)
    assert name.startswith("file-")
    assert named_or_imported(str(file), "glyphs", told.append) == (name, dataset)
    assert len(told) == 1
    assert open_features(name, "glyphs", "test").embedder.embedder == "file:a.npz"


def test_heads_without_training_features_are_not_centred_and_say_so(tmp_path: Path) -> None:
    import_features("mine", file_of(tmp_path / "a.npz"), "glyphs")
    (before,) = score_features("mine", "glyphs", ["simpleshot"], shots=[2], **EPISODES).results
    assert "not centred" in before.record.warnings[-1]
    import_features("mine", file_of(tmp_path / "b.npz", "train"), "glyphs")
    (after,) = score_features("mine", "glyphs", ["simpleshot"], shots=[2], **EPISODES).results
    assert not any("not centred" in line for line in after.record.warnings)
    assert after.record.key != before.record.key


def test_what_is_kept_is_not_computed_again(tmp_path: Path) -> None:
    import_features("mine", file_of(tmp_path / "a.npz"), "glyphs")
    values("mine", "glyphs", tmp_path / "r")
    store = ResultStore(tmp_path / "r")
    (record,) = store.records()
    lock = store.path(record).with_suffix(".lock")
    lock.touch()  # as of a scoring that was killed once this record was written
    found = score_features("mine", "glyphs", ["protonet"], shots=[2], results=tmp_path / "r", save=True, **EPISODES)
    assert [result.seconds for result in found.results] == [0]
    assert not lock.exists()


@pytest.mark.usefixtures("registries")
def test_a_head_that_declares_itself_transductive_is_recorded_so(tmp_path: Path) -> None:
    """Also where what it does happens not to look at other queries."""
    import_features("mine", file_of(tmp_path / "a.npz"), "glyphs")
    plain = registry.HEADS.get("protonet")
    registry.HEADS.add("says", replace(plain, name="says", transductive=True), "x")
    found = score_features("mine", "glyphs", ["says", "protonet"], shots=[2], results=tmp_path, **EPISODES)
    seen = {result.head: result.record.transductive for result in found.results}
    assert seen == {"says": True, "protonet": False}


def test_pre_trained_rows_stand_apart(tmp_path: Path) -> None:
    results = tmp_path / "results"
    trained = run(results)
    facts = {"embedder": "timm:x", "pretraining": "ImageNet-1k", "resolution": 128, "contaminated": "yes"}
    import_features("mine", file_of(tmp_path / "a.npz"), "glyphs", facts=facts)
    values("mine", "glyphs", results)
    store = ResultStore(results)
    found = rows(store.records(), store.episodes)
    assert {row.protocol_digest for row in found} == {trained.protocol_digest[:12]}
    tables = boards(found, "table")
    assert [{row.embedder for row in table.rows} for table in tables] in ([{None}, {"timm:x"}], [{"timm:x"}, {None}])
    own = next(table for table in tables if table.rows[0].embedder)
    assert any("timm:x on ImageNet-1k, 128 px, contaminated: yes" in fact for fact in own.facts)
    assert {row.rank for row in own.rows} <= {1, 2}


def test_records_without_an_embedder_do_not_name_one(tmp_path: Path) -> None:
    record = run(tmp_path)
    path = ResultStore(tmp_path).path(record)
    assert "embedder" not in json.loads(path.read_text())
    assert "embedder" not in record.model_dump(by_alias=True)


def broken(name: str) -> Callable[[Path], tuple[Path, str | None]]:
    n = 12

    def make(folder: Path) -> tuple[Path, str | None]:
        features = of_images()
        ids = np.arange(len(features))
        path = folder / "bad.npz"
        if name == "pickle":
            path = folder / "bad.pkl"
            path.write_bytes(pickle.dumps(features))
        elif name == "torch":
            path = folder / "bad.pt"
            torch.save(torch.from_numpy(features), path)
        elif name == "objects":
            np.savez(path, features=np.array([object()] * n), ids=np.arange(n))
        elif name == "nan":
            features[7, 1, 3] = np.nan
            np.savez(path, features=features, ids=ids)
        elif name == "shape":
            np.savez(path, features=features[0, 0], ids=ids)
        elif name == "lengths":
            np.savez(path, features=features, ids=ids[:-1])
        elif name == "unknown":
            ids[4] = 10**6
            np.savez(path, features=features, ids=ids)
        elif name == "twice":
            ids[4] = 9
            np.savez(path, features=features, ids=ids)
        elif name == "few":
            np.savez(path, features=features[:-1], ids=ids[:-1])
        elif name == "fractions":
            np.savez(path, features=features, ids=ids + 0.5)
        elif name == "labels":
            labels = load("glyphs", "test").labels.copy()
            labels[3] += 1
            np.savez(path, features=features, ids=ids, labels=labels)
        elif name == "neither":
            np.savez(path, features=features)
        elif name == "truncated":
            np.savez(path, features=features, ids=ids)
            path.write_bytes(path.read_bytes()[:-2000])
        elif name == "safetensors":
            path = folder / "bad.safetensors"
            save_file({"features": features, "ids": ids}, path)
            path.write_bytes(path.read_bytes()[:-2000])
        elif name == "parquet":
            path = folder / "bad.parquet"
            path.write_bytes(b"PAR1 no")
        return path, "glyphs"

    return make


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("pickle", "bad.pkl"),
        ("torch", "bad.pt"),
        ("objects", "not a plain npz"),
        ("nan", "row 7"),
        ("shape", r"\[64\]"),
        ("lengths", "ids is"),
        ("unknown", "row 4 has the id 1000000"),
        ("twice", "the id 9 .* occurs 2 times"),
        ("few", "of the"),
        ("fractions", "not whole numbers"),
        ("labels", "row 3 has the label"),
        ("neither", "neither ids nor labels"),
        ("truncated", "not a plain npz"),
        ("safetensors", "not a readable safetensors"),
        ("parquet", "not a readable parquet"),
    ],
)
def test_what_is_wrong_is_refused_by_name(tmp_path: Path, name: str, says: str) -> None:
    path, dataset = broken(name)(tmp_path)
    with pytest.raises((DataError, UsageError), match=says) as raised:
        import_features("bad", path, dataset)
    assert isinstance(raised.value, SlabenchError)
    assert raised.value.remedy
    with pytest.raises(DataMissingError):
        open_features("bad", "glyphs", "test")


def test_facts_are_checked(tmp_path: Path) -> None:
    file = file_of(tmp_path / "a.npz")
    with pytest.raises(UsageError, match="contaminated = 'maybe'"):
        import_features("mine", file, "glyphs", facts={"contaminated": "maybe"})
    with pytest.raises(UsageError, match="makes 4 views, and the file has 2"):
        import_features("mine", file, "glyphs", transforms="rotation")
    with pytest.raises(UsageError, match="not kebab-case"):
        import_features("My Features", file, "glyphs")
    with pytest.raises(UsageError, match="is a data set that slabench knows"):
        import_features("glyphs", blobs(tmp_path / "b.npz"))
