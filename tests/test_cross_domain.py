"""`slabench score RUN --on DATASET`: trained on glyphs, tested on a larger data set of another size."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from tiny_recipes import tiny_fewshot

from slabench import runner
from slabench.core.errors import UsageError
from slabench.core.registry import DATASETS
from slabench.data.catalog import info
from slabench.data.plugin_dataset import dataset
from slabench.ranking.entries import entries
from slabench.ranking.published import Method
from slabench.ranking.rows import rows
from slabench.ranking.standard import standard
from slabench.records.store import ResultStore
from slabench.suites.fewshot import scoring
from slabench.suites.fewshot.cross_domain import Crossing
from slabench.suites.fewshot.score_heads import score_heads

pytestmark = pytest.mark.usefixtures("glyphs")
CLASSES = {"train": ("a", "b"), "val": ("c", "d"), "test": ("e", "f", "g")}


def _stripes() -> tuple[NDArray[np.uint8], NDArray[np.int64], NDArray[np.bool_]]:
    """Seven classes of twelve images of 40 pixels: stripes of a width, noise on them."""
    noise = np.random.default_rng(0).integers(0, 60, (84, 40, 40, 3))
    labels = np.arange(84) % 7
    bright = (np.arange(40)[None, :] // (labels[:, None] + 1) % 2) * 180
    return (noise + bright[:, None, :, None]).astype(np.uint8), labels.astype(np.int64), np.zeros(84, bool)


@pytest.fixture(autouse=True)
def _stripes_are_known(registries: None, monkeypatch: pytest.MonkeyPatch) -> None:
    names = [name for part in CLASSES.values() for name in part]
    entry = dataset("stripes", _stripes, names, 40, "x", class_split=CLASSES, mean=(9.0, 9.0, 9.0))
    DATASETS.add("stripes", entry, "x")
    monkeypatch.setattr(scoring, "BASE_IMAGES", 3)


def test_a_run_is_scored_on_another_data_set_and_ranked_apart(tmp_path: Path) -> None:
    recipe = tiny_fewshot(protocol__ways=3, train__steps=2, select__points=0, protocol__episodes=6)
    ((record,), store) = [o.record for o in runner.run(recipe, [0], results=tmp_path)], ResultStore(tmp_path)
    assert record is not None
    said: list[str] = []
    asked = ["protonet", "simpleshot"]
    (found, centred) = score_heads(
        record.key[:9], asked, on="stripes", results=tmp_path, save=True, told=said.append
    ).results
    there = found.record
    assert there.protocol == "fewshot/stripes/3w1s3q-from-glyphs"
    assert (there.dataset, there.recipe["data"]["dataset"]) == ("stripes", "glyphs")
    assert there.derived is not None
    assert (there.derived["on"], there.derived["resized"]) == ("stripes", f"40->{info('glyphs').image_size}")
    assert there.episodes == "stripes/test-3w1s3q-6"
    assert there.test_classes == 3
    assert there.train_classes == record.train_classes
    assert set(there.scores[0].per_class or {}) == {"e", "f", "g"}
    assert centred.record.scores[0].n == 6
    (own,) = score_heads(record.key[:9], ["protonet"], results=tmp_path, save=True).results
    assert own.record.protocol_digest != there.protocol_digest
    assert own.record.key != there.key
    # The features of both are kept side by side.
    assert len(list((tmp_path / "checkpoints").glob("*.features"))) == 2
    list(score_heads(record.key[:9], ["protonet"], on="stripes", results=tmp_path, told=said.append).results)
    assert len([line for line in said if line.startswith("embedding") and "test" in line]) == 1
    table = entries(store.records(), store.episodes)
    assert len({entry.group for entry in table}) == 2
    crossed = [row for row in rows(store.records(), store.episodes) if row.dataset == "stripes"]
    assert len(crossed) == 4
    assert all(Method.of(row) is None for row in crossed)
    assert not standard(there)


def test_images_are_resized_as_pillow_does_it() -> None:
    # Of middling brightness: Pillow cuts at black and white after each of its two passes, torch after both.
    pixels = torch.from_numpy(_stripes()[0][:5] // 2 + 64)
    made = Crossing(info("glyphs"), info("stripes")).fit(pixels)
    size = info("glyphs").image_size
    assert made.shape == (5, size, size, 3)
    for image, found in zip(pixels.numpy(), made.numpy(), strict=True):
        expected = np.asarray(Image.fromarray(image).resize((size, size), Image.Resampling.BICUBIC))
        assert np.abs(expected.astype(int) - found.astype(int)).max() <= 1


def test_classes_that_were_trained_on_are_told() -> None:
    from slabench.data import load

    crossing = Crossing(info("stripes"), info("stripes"))
    (line,) = crossing.doubts(load("stripes", "train"), load("stripes", "train"))
    assert line.startswith("2 of 2 test classes of stripes")
    assert crossing.doubts(load("stripes", "train"), load("stripes", "test")) == []


def test_a_data_set_without_classes_to_hold_out_is_refused(tmp_path: Path) -> None:
    recipe = tiny_fewshot(train__steps=1, select__points=0, protocol__episodes=4)
    (outcome,) = runner.run(recipe, [0], results=tmp_path)
    assert outcome.record is not None
    with pytest.raises(UsageError, match="'digits' has no few-shot class split"):
        score_heads(outcome.record.key[:9], ["protonet"], on="digits", results=tmp_path)
    with pytest.raises(UsageError, match="glyphs"):
        score_heads(outcome.record.key[:9], ["protonet"], on="glyph", results=tmp_path)
