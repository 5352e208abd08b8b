"""Outputs of a classifier on a frozen feature set: small, and the same model as if its features had been kept."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from feature_sets import VIEWS, pooled, write_features
from model_outputs import make_outputs
from processes import here
from safetensors import safe_open
from tiny_recipes import tiny_classifier

from slabench import runner
from slabench.core.errors import DataError, DataMissingError, SlabenchError
from slabench.data.loading import load_images
from slabench.embedders.store import set_folder
from slabench.posthoc import methods
from slabench.posthoc.scoring import apply
from slabench.posthoc.training import Stage2
from slabench.records.derived import DerivedSplit, Source, SourceFacts
from slabench.records.outputs import FeatureSplit, ModelOutputs, load_outputs, save_outputs
from slabench.records.record import RunRecord
from slabench.records.store import ResultStore


@pytest.fixture
def digits() -> None:
    write_features("pooled", "digits")


def left_by(results: Path, **changes: Any) -> tuple[RunRecord, Path, ModelOutputs]:
    recipe = tiny_classifier(
        model={"embedder": "pooled", **changes}, augment={"crop": False, "flip": False}, sla={"objective": "sla"}
    )
    (outcome,) = runner.run(recipe, results=results)
    record = outcome.record
    assert record is not None, outcome.error
    path = ResultStore(results).path(record).parent / str(record.outputs_file)
    return record, path, load_outputs(path, str(record.outputs_sha256))


@pytest.mark.parametrize("adapter", ["none", "linear", "mlp"])
def test_features_are_those_of_the_set_under_the_trained_adapter(digits: None, tmp_path: Path, adapter: str) -> None:
    """Held against the pixels themselves and, for an adapter, NumPy in float64."""
    record, path, outputs = left_by(tmp_path, adapter=adapter, hidden=5)
    _, train, test = load_images("digits", None)
    for name, images in (("test", test), ("train", train), ("val", train)):
        split = outputs.splits[name]
        assert isinstance(split, DerivedSplit)
        rows = split.rows.numpy()
        assert np.array_equal(split.labels.numpy(), images.labels[rows])
        x = pooled(images)[rows].astype(np.float64)
        with safe_open(path, framework="np") as file:
            w = {name.removeprefix("adapter."): file.get_tensor(name) for name in file.keys() if "adapter." in name}  # noqa: SIM118
        if adapter != "none":
            inner = np.maximum(x @ w["hidden.weight"].T + w["hidden.bias"], 0) if adapter == "mlp" else x
            x = x + inner @ w["out.weight"].T + w["out.bias"]
        assert split.features.shape == (len(rows), VIEWS, 64)
        np.testing.assert_allclose(split.features.numpy(), x, atol=0 if adapter == "none" else 2e-3)
    assert record.training_set is not None
    assert len(outputs.splits["train"].labels) == record.training_set["images"]
    made = methods.logits(outputs, "test")
    assert all(np.allclose(made[name], kept, atol=2e-3) for name, kept in outputs.test_logits.items())


def test_post_hoc_methods_find_what_they_found_in_kept_features(digits: None, tmp_path: Path) -> None:
    """The same outputs with the features in the file, as trials left them before, give the same scores."""
    _, path, outputs = left_by(tmp_path)
    splits = {name: FeatureSplit(split.features, split.labels) for name, split in outputs.splits.items()}
    kept = replace(outputs, splits=splits)
    old = tmp_path / "old.safetensors"
    sha256 = save_outputs(kept, old)
    chosen, stage = ["tau-norm", "crt", "temperature"], Stage2(epochs=1, least_steps=30)
    before = apply(load_outputs(old, sha256), chosen, stage=stage)[0]
    for one, other in zip(apply(outputs, chosen, stage=stage)[0], before, strict=True):
        assert (one.method, one.values) == (other.method, other.values)
        assert all(torch.equal(one.logits[name], other.logits[name]) for name in one.logits)
    # Rows and labels are 12 bytes an image, the 4 x 64 features in float16 were 512.
    images = sum(len(split.labels) for split in splits.values())
    assert old.stat().st_size - path.stat().st_size > 0.9 * images * VIEWS * 64 * 2
    with safe_open(path, framework="pt") as file:
        assert not [name for name in file.keys() if name.endswith(".features")]  # noqa: SIM118


def test_without_the_set_what_needs_no_features_goes_on(digits: None, tmp_path: Path) -> None:
    record, path, _ = left_by(tmp_path)
    words = ("posthoc", record.key[:12], "--results", str(tmp_path))
    shutil.rmtree(set_folder("pooled", "digits"))
    assert here(*words, "--methods", "logit-adjust")[0] == 0
    code, output = here(*words, "--methods", "tau-norm")
    assert code not in (0, 1)
    assert "features 'pooled' of digits, which are not here" in " ".join(output.split())
    write_features("pooled", "digits", scale=2.0)
    again = load_outputs(path, str(record.outputs_sha256))
    with pytest.raises(DataError, match="those that are here have"):
        methods.logits(again, "test")


def test_a_source_that_does_not_fit_is_refused(digits: None, tmp_path: Path) -> None:
    _, _, outputs = left_by(tmp_path, adapter="linear")
    source = outputs.source
    assert source is not None
    test = outputs.splits["test"]
    with pytest.raises(DataError, match="another adapter than 'mlp'"):
        replace(source, facts=source.facts.model_copy(update={"adapter": "mlp"})).features(
            "image-test", torch.arange(3)
        )
    with pytest.raises(DataError, match=r"rows that the .* images of digits/image-test lack"):
        source.features("image-test", torch.tensor([0, 10**6]))
    with pytest.raises(DataMissingError):
        Source(source.facts.model_copy(update={"features": "gone"})).features("image-test", torch.arange(3))
    with pytest.raises(ValueError, match="features"):
        SourceFacts.model_validate({**source.facts.plain(), "features": "../elsewhere"})
    with pytest.raises(SlabenchError, match="several sources"):
        replace(outputs, splits={**outputs.splits, "val": FeatureSplit(test.features, test.labels)})
    with pytest.raises(SlabenchError, match="rows of split 'test'"):
        replace(outputs, splits={"test": DerivedSplit(test.labels, torch.arange(3), "image-test", source)})


def test_outputs_of_images_are_written_as_they_were(tmp_path: Path) -> None:
    """What has no feature set behind it keeps its features, under the schema that earlier versions read."""
    save_outputs(make_outputs(), tmp_path / "a")
    with safe_open(tmp_path / "a", framework="pt") as file:
        assert '"schema": "slabench.outputs/1"' in file.metadata()["slabench"]
        assert "splits.test.features" in file.keys()  # noqa: SIM118
